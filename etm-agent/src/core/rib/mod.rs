//! Every provider's route to every prefix: the Adj-RIBs-In of all learn sessions, and static routes.
//! Never holds ETM's own announcements as candidates: a route that carries its community is left out.
//!
//! Invariants: what a session that went down has said is void at once, whatever its size: an epoch ends, and the
//! entries are cleared away later, a slice at a time (`clear_away`). No answer ever shows a void route.
//! Structure and figures: docs/adr/0010.

mod admit;
mod attrs;
mod routes;
mod table;
#[cfg(test)]
mod tests;

use super::input::{RouteBatch, RouteChange};
use super::policy::{DecisionProcess, Policy};
use super::preference::{AttrsId, Candidate, Standing, ranked};
use super::route_rules::{RouteRule, RouteRules, Verdict};
use super::topology::Topology;
use crate::types::{Asn, Community, Family, PathId, PeerId, Prefix, PrefixMap, RouteAttrs};
pub use admit::Returned;
use admit::admissible;
use attrs::AttrStore;
use routes::{Eras, NIL, Route, Slab, SourceId, Sources};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a change did to the set of known prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The prefix had no route before.
    Appeared,
    /// The prefix has no route any more.
    Vanished,
    /// It had and has routes, or neither.
    Kept,
}

/// Memory held, in bytes, and what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Routes, void ones included while they are not cleared away.
    pub routes: usize,
    /// Prefixes, likewise.
    pub prefixes: usize,
    /// Different sets of attributes.
    pub attribute_sets: usize,
    /// Entries of routes, bytes.
    pub route_bytes: usize,
    /// Prefix index, bytes.
    pub prefix_bytes: usize,
    /// Attributes, bytes.
    pub attribute_bytes: usize,
}

/// A walk over all prefixes that clears away void routes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Clearing {
    /// The last prefix visited.
    after: Option<Prefix>,
    /// More became void since the walk began.
    again: bool,
}

/// The routes of all sources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rib {
    heads: PrefixMap<u32>,
    slab: Slab,
    sources: Sources,
    attrs: AttrStore,
    eras: Eras,
    clearing: Option<Clearing>,
    own: Community,
    own_as: Option<Asn>,
    process: DecisionProcess,
    rules: RouteRules,
    /// Own and internal prefixes: nothing inside them has a candidate.
    internal: PrefixMap<()>,
    /// Announcements of ETM that came back and stand.
    returned: BTreeMap<(PeerId, PathId, Prefix), Returned>,
    /// Announcements that found no number for their source.
    refused: u64,
}

/// Memory of the last change: UPDATEs bring many prefixes with one set of attributes.
#[derive(Default)]
struct Last {
    attrs: Option<(Arc<RouteAttrs>, AttrsId, bool)>,
    source: Option<(PathId, SourceId)>,
}

impl Rib {
    /// Empty, with the operator's word on what will come.
    pub fn new(policy: &Policy) -> Rib {
        let mut internal = PrefixMap::new();
        for prefix in &policy.internal {
            internal.insert(*prefix, ());
        }
        Rib {
            heads: PrefixMap::new(),
            slab: Slab::default(),
            sources: Sources::default(),
            attrs: AttrStore::default(),
            eras: Eras::default(),
            clearing: None,
            own: policy.community,
            own_as: policy.own_as,
            process: policy.process,
            rules: RouteRules::new(policy.route_rules.clone()),
            internal,
            returned: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Applies a batch and reports, per change, what it did to its prefix.
    pub fn apply(&mut self, batch: RouteBatch, mut seen: impl FnMut(Prefix, Presence)) {
        let peer = batch.peer;
        let mut last = Last::default();
        for change in batch.changes {
            let (prefix, presence) = match change {
                RouteChange::Announce { prefix, path_id, attrs } => {
                    (prefix, self.announce(peer, prefix, path_id, attrs, &mut last))
                }
                RouteChange::Withdraw { prefix, path_id } => {
                    // With its last route a source loses its number.
                    last.source = None;
                    (prefix, self.withdraw(peer, prefix, path_id))
                }
            };
            seen(prefix, presence);
        }
        self.forget(last.attrs.as_ref());
    }

    /// The number of `attrs`, looked up once for all prefixes of an UPDATE; it is held until the next one.
    fn number(&mut self, attrs: Arc<RouteAttrs>, last: &mut Last) -> (AttrsId, bool) {
        match &last.attrs {
            Some((known, id, own)) if Arc::ptr_eq(known, &attrs) => (*id, *own),
            _ => {
                let class = (!self.rules.is_empty()).then(|| self.rules.class(&attrs));
                let (id, own) = (self.attrs.intern(&attrs, class), attrs.communities.contains(&self.own));
                let before = last.attrs.replace((attrs, id, own));
                self.forget(before.as_ref());
                (id, own)
            }
        }
    }

    fn forget(&mut self, held: Option<&(Arc<RouteAttrs>, AttrsId, bool)>) {
        if let Some((_, id, _)) = held {
            self.attrs.release(*id);
        }
    }

    fn announce(
        &mut self,
        peer: PeerId,
        prefix: Prefix,
        path_id: PathId,
        attrs: Arc<RouteAttrs>,
        last: &mut Last,
    ) -> Presence {
        let (id, own) = self.number(attrs, last);
        if own {
            // It replaces whatever this peer said of this path before.
            last.source = None;
            let presence = self.withdraw(peer, prefix, path_id);
            let attrs = self.attrs.get(id);
            let by_us = self.own_as.is_some_and(|asn| attrs.names(asn));
            self.returned.insert((peer, path_id, prefix), Returned { next_hop: attrs.next_hop(), by_us });
            return presence;
        }
        if !self.returned.is_empty() {
            self.returned.remove(&(peer, path_id, prefix));
        }
        let source = match last.source {
            Some((known, source)) if known == path_id => source,
            _ => {
                let Some(source) = self.sources.intern(peer, path_id) else {
                    self.refused += 1;
                    return self.withdraw(peer, prefix, path_id);
                };
                last.source = Some((path_id, source));
                source
            }
        };
        if let Some(class) = self.attrs.get(id).class() {
            self.rules.count(prefix, peer, class);
        }
        let was = self.clearing.is_some().then(|| self.contains(prefix));
        let era = self.eras.get_mut(peer, prefix.family());
        let route = Route { attrs: id, source, epoch: era.current() };
        let head = self.heads.get_or_insert(prefix, NIL);
        let was = was.unwrap_or(*head != NIL);
        let replaced = self.slab.set(head, route);
        self.attrs.keep(id);
        match replaced {
            Some(before) => self.attrs.release(before),
            None => {
                era.routes += 1;
                self.sources.keep(source);
            }
        }
        if was { Presence::Kept } else { Presence::Appeared }
    }

    fn withdraw(&mut self, peer: PeerId, prefix: Prefix, path_id: PathId) -> Presence {
        if !self.returned.is_empty() {
            self.returned.remove(&(peer, path_id, prefix));
        }
        let Some(source) = self.sources.find(peer, path_id) else { return Presence::Kept };
        let was = self.clearing.is_none() || self.contains(prefix);
        let removed = self.remove_where(prefix, |route| route.source == source);
        if was && removed && !self.contains(prefix) { Presence::Vanished } else { Presence::Kept }
    }

    /// Takes routes out of the chain of `prefix`, and the prefix with the last one; true where there were any.
    fn remove_where(&mut self, prefix: Prefix, gone: impl Fn(Route) -> bool) -> bool {
        let Some(head) = self.heads.get_mut(prefix) else { return false };
        let before = self.slab.len();
        let (attrs, sources, eras) = (&mut self.attrs, &mut self.sources, &mut self.eras);
        self.slab.retain(head, gone, |route| {
            let (peer, _) = sources.get(route.source);
            eras.get_mut(peer, prefix.family()).routes -= 1;
            attrs.release(route.attrs);
            sources.release(route.source);
        });
        if *head == NIL {
            self.heads.remove(prefix);
        }
        self.slab.len() < before
    }

    /// All routes of a session that went down are void.
    pub fn drop_peer(&mut self, peer: PeerId) {
        Family::ALL.into_iter().for_each(|family| self.drop_family(peer, family));
    }

    /// All routes of `peer` in `family` are void.
    pub fn drop_family(&mut self, peer: PeerId, family: Family) {
        self.returned.retain(|(from, _, prefix), _| (*from, prefix.family()) != (peer, family));
        self.mark_stale(peer, family);
        self.sweep(peer, family);
    }

    /// The routes of `peer` in `family` may be out of date: they count until `sweep`, unless they are said again.
    pub fn mark_stale(&mut self, peer: PeerId, family: Family) {
        if self.eras.get(peer, family).is_exhausted() {
            self.restart_era(peer, family);
        }
        self.eras.get_mut(peer, family).mark();
    }

    /// The routes of `peer` in `family` that are stale by now are void.
    pub fn sweep(&mut self, peer: PeerId, family: Family) {
        if self.eras.get_mut(peer, family).sweep() {
            match &mut self.clearing {
                Some(clearing) => clearing.again = clearing.after.is_some(),
                None => self.clearing = Some(Clearing::default()),
            }
        }
    }

    /// Hundreds of restarts in a row without time to clear away: it is done here and now, and counting begins anew.
    fn restart_era(&mut self, peer: PeerId, family: Family) {
        let all: Vec<Prefix> = self.iter_all().filter(|prefix| prefix.family() == family).collect();
        let (era, sources) = (self.eras.get(peer, family), self.sources.clone());
        let ours = |route: Route| sources.get(route.source).0 == peer;
        for prefix in all {
            self.remove_where(prefix, |route| ours(route) && !era.is_live(route.epoch));
            let Some(head) = self.heads.get(prefix) else { continue };
            let epoch = |route: Route| u8::from(!era.is_stale(route.epoch));
            self.slab.renumber(*head, |route| if ours(route) { epoch(route) } else { route.epoch });
        }
        self.eras.get_mut(peer, family).restart();
    }

    /// True while void routes take memory.
    pub fn is_clearing(&self) -> bool {
        self.clearing.is_some()
    }

    /// Clears void routes away from the next `prefixes` prefixes; the walk ends by itself.
    pub fn clear_away(&mut self, prefixes: usize) {
        let Some(clearing) = self.clearing else { return };
        let mut empty = Vec::new();
        let mut visited = 0;
        let mut after = clearing.after;
        let Rib { heads, slab, sources, attrs, eras, .. } = self;
        let mut freed: Vec<(PeerId, Family)> = Vec::new();
        for (prefix, head) in heads.iter_mut_after(clearing.after).take(prefixes) {
            let family = prefix.family();
            let void = |route: Route| !eras.get(sources.get(route.source).0, family).is_live(route.epoch);
            if slab.chain(*head).any(void) {
                let mut out = Vec::new();
                slab.retain(head, void, |route| out.push(route));
                for route in out {
                    freed.push((sources.get(route.source).0, family));
                    attrs.release(route.attrs);
                    sources.release(route.source);
                }
                if *head == NIL {
                    empty.push(prefix);
                }
            }
            (visited, after) = (visited + 1, Some(prefix));
        }
        freed.into_iter().for_each(|(peer, family)| eras.get_mut(peer, family).routes -= 1);
        for prefix in empty {
            self.heads.remove(prefix);
        }
        self.clearing = if visited == prefixes {
            Some(Clearing { after, ..clearing })
        } else if clearing.again {
            Some(Clearing::default())
        } else {
            self.all_clear();
            None
        };
    }

    fn all_clear(&mut self) {
        let eras: Vec<_> = self.eras.iter().collect();
        for (peer, family, era) in eras {
            self.eras.get_mut(peer, family).cleared(era.oldest());
        }
    }

    /// Live routes of exactly `prefix`, in the order of arrival.
    fn live(&self, prefix: Prefix) -> impl Iterator<Item = Route> + '_ {
        let head = self.heads.get(prefix).copied().unwrap_or(NIL);
        self.live_chain(prefix.family(), head)
    }

    fn live_chain(&self, family: Family, head: u32) -> impl Iterator<Item = Route> + '_ {
        let live =
            move |route: &Route| self.eras.get(self.sources.get(route.source).0, family).is_live(route.epoch);
        self.slab.chain(head).filter(live)
    }

    /// The candidates of `prefix`, one per exit, the preferred one first. Exits whose link is down have none.
    pub fn candidates(&self, prefix: Prefix, topology: &Topology) -> Vec<Candidate> {
        if self.is_internal(prefix) {
            return Vec::new();
        }
        let usable = self.live(prefix).filter_map(|route| self.candidate(prefix, route, topology));
        let mut candidates = ranked(usable.collect(), self.process);
        if topology.has_covering() {
            self.add_covering(prefix, topology, &mut candidates);
        }
        candidates
    }

    /// Routes around `prefix` of providers that are used so, the longest first, behind all routes of its own.
    fn add_covering(&self, prefix: Prefix, topology: &Topology, candidates: &mut Vec<Candidate>) {
        let around = self.heads.covering(prefix).into_iter().rev();
        for (cover, head) in around.filter(|(cover, _)| *cover != prefix) {
            let usable = self.live_chain(cover.family(), *head).filter_map(|route| {
                let candidate = self.candidate(cover, route, topology)?;
                let here = topology.is_covering(candidate.exit) && !topology.is_elsewhere(candidate.exit);
                here.then_some(candidate)
            });
            let ranked = ranked(usable.collect(), self.process);
            let new = |candidate: &Candidate| candidates.iter().all(|known| known.exit != candidate.exit);
            let fresh: Vec<Candidate> = ranked.into_iter().filter(new).collect();
            candidates.extend(fresh);
        }
    }

    fn candidate(&self, prefix: Prefix, route: Route, topology: &Topology) -> Option<Candidate> {
        let attrs = self.attrs.get(route.attrs);
        let next_hop = attrs.next_hop();
        let (peer, path_id) = self.sources.get(route.source);
        let exit = topology.exit_of(peer, next_hop).filter(|exit| !topology.is_silent(next_hop, *exit))?;
        let guest = topology.is_elsewhere(exit) && self.is_guest(prefix, topology);
        if guest || !admissible(attrs, (prefix, peer, exit), topology) {
            return None;
        }
        let local_pref = match self.rule(prefix, route).map(|rule| rule.verdict) {
            Some(Verdict::Deny) => return None,
            Some(Verdict::Accept { preference }) => preference.unwrap_or_else(|| attrs.local_pref()),
            None => attrs.local_pref(),
        };
        let standing = Standing {
            local_pref,
            hops: attrs.hops(),
            origin: attrs.origin(),
            med: attrs.med(),
            neighbour: attrs.first_as(),
            external: topology.is_external(peer),
            elsewhere: topology.is_elsewhere(exit),
            router_id: attrs.originator(),
            cluster_hops: attrs.cluster_hops(),
            address: topology.address_of(peer),
        };
        Some(Candidate { exit, peer, path_id, prefix, next_hop, attrs: route.attrs, standing })
    }

    fn rule(&self, prefix: Prefix, route: Route) -> Option<&RouteRule> {
        let class = self.attrs.get(route.attrs).class()?;
        self.rules.find(prefix, self.sources.get(route.source).0, class)
    }

    /// The operator's rule that decides about a route, if any.
    pub fn rule_of(&self, prefix: Prefix, peer: PeerId, path_id: PathId) -> Option<&RouteRule> {
        let source = self.sources.find(peer, path_id)?;
        let route = self.live(prefix).find(|route| route.source == source)?;
        self.rule(prefix, route)
    }

    /// The operator's rules, with what they matched.
    pub fn rules(&self) -> &RouteRules {
        &self.rules
    }

    /// True where `prefix` is inside an own or internal one.
    pub fn is_internal(&self, prefix: Prefix) -> bool {
        !self.internal.is_empty() && !self.internal.covering(prefix).is_empty()
    }

    /// The attributes of a candidate just obtained.
    pub fn attrs(&self, candidate: &Candidate) -> Arc<RouteAttrs> {
        self.attrs.decode(candidate.attrs)
    }

    /// Every route of `prefix` as received, whether usable or not, for explanations.
    pub fn received(&self, prefix: Prefix) -> Vec<(PeerId, PathId, Arc<RouteAttrs>)> {
        let shown = |route: Route| {
            let (peer, path_id) = self.sources.get(route.source);
            (peer, path_id, self.attrs.decode(route.attrs))
        };
        self.live(prefix).map(shown).collect()
    }

    /// True where some source announces exactly `prefix`.
    pub fn contains(&self, prefix: Prefix) -> bool {
        self.live(prefix).next().is_some()
    }

    /// Known prefixes strictly inside `prefix`, in prefix order.
    pub fn inside(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> + '_ {
        let inside = self.heads.covered_by(prefix).filter(move |(inner, _)| *inner != prefix);
        inside.filter(|(inner, head)| self.is_live(*inner, **head)).map(|(inner, _)| inner)
    }

    fn is_live(&self, prefix: Prefix, head: u32) -> bool {
        self.clearing.is_none() || self.live_chain(prefix.family(), head).next().is_some()
    }

    /// The longest known prefix that covers `prefix`.
    pub fn longest_cover(&self, prefix: Prefix) -> Option<Prefix> {
        let around = self.heads.covering(prefix);
        around.into_iter().rev().find(|(cover, head)| self.is_live(*cover, **head)).map(|(cover, _)| cover)
    }

    /// Number of prefixes with at least one route; those that lost their last one stay in it until cleared away.
    pub fn prefixes(&self) -> usize {
        self.heads.len()
    }

    /// Number of routes of `peer`, likewise.
    pub fn routes_of(&self, peer: PeerId) -> u64 {
        Family::ALL.into_iter().map(|family| u64::from(self.eras.get(peer, family).routes)).sum()
    }

    /// Announcements refused because there were too many different path ids.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn iter_all(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.heads.iter().map(|(prefix, _)| prefix)
    }

    /// Every prefix with at least one route after `prefix`, or all without one, in prefix order.
    pub fn iter_after(&self, prefix: Option<Prefix>) -> impl Iterator<Item = Prefix> + '_ {
        let after = self.heads.iter_after(prefix);
        after.filter(|(prefix, head)| self.is_live(*prefix, **head)).map(|(prefix, _)| prefix)
    }

    /// What it holds and what that takes.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            routes: self.slab.len(),
            prefixes: self.heads.len(),
            attribute_sets: self.attrs.len(),
            route_bytes: self.slab.memory() + self.sources.memory(),
            prefix_bytes: self.heads.memory(),
            attribute_bytes: self.attrs.memory(),
        }
    }
}
