//! Every provider's route to every prefix: the Adj-RIBs-In of all learn sessions, and static routes.
//! Never holds ETM's own announcements as candidates: a route that carries its community is left out.

use super::input::{RouteBatch, RouteChange};
use super::preference::{Candidate, ranked};
use super::topology::Topology;
use crate::types::{Community, ExitId, Family, PathId, PeerId, Prefix, PrefixMap, RouteAttrs};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// One route as received.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    peer: PeerId,
    path_id: PathId,
    attrs: Arc<RouteAttrs>,
    /// Not said again since the peer restarted or began to send its table anew.
    stale: bool,
}

/// What a change did to the set of known prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The prefix had no route before.
    Appeared,
    /// The prefix has no route any more.
    Vanished,
    /// It had and has routes.
    Kept,
}

/// The routes of all sources.
#[derive(Clone, Debug)]
pub struct Rib {
    routes: PrefixMap<Vec<Route>>,
    own: Community,
    /// Announcements of ETM that came back and stand.
    returned: BTreeMap<(PeerId, PathId, Prefix), IpAddr>,
}

impl Rib {
    /// Empty; `own` marks ETM's announcements.
    pub fn new(own: Community) -> Rib {
        Rib { routes: PrefixMap::new(), own, returned: BTreeMap::new() }
    }

    /// Applies a batch and reports, per change, what it did to its prefix.
    pub fn apply(&mut self, batch: RouteBatch, mut seen: impl FnMut(Prefix, Presence)) {
        let peer = batch.peer;
        for change in batch.changes {
            match change {
                RouteChange::Announce { prefix, path_id, attrs } => {
                    let presence = if attrs.communities.contains(&self.own) {
                        // It replaces whatever this peer said of this path before.
                        let presence = self.withdraw(peer, prefix, path_id);
                        self.returned.insert((peer, path_id, prefix), attrs.next_hop);
                        presence
                    } else {
                        self.announce(Route { peer, path_id, attrs, stale: false }, prefix)
                    };
                    seen(prefix, presence);
                }
                RouteChange::Withdraw { prefix, path_id } => {
                    let presence = self.withdraw(peer, prefix, path_id);
                    seen(prefix, presence);
                }
            }
        }
    }

    fn announce(&mut self, route: Route, prefix: Prefix) -> Presence {
        self.returned.remove(&(route.peer, route.path_id, prefix));
        match self.routes.get_mut(prefix) {
            None => {
                self.routes.insert(prefix, vec![route]);
                Presence::Appeared
            }
            Some(routes) => {
                match routes
                    .iter_mut()
                    .find(|known| (known.peer, known.path_id) == (route.peer, route.path_id))
                {
                    Some(known) => *known = route,
                    None => routes.push(route),
                }
                Presence::Kept
            }
        }
    }

    fn withdraw(&mut self, peer: PeerId, prefix: Prefix, path_id: PathId) -> Presence {
        self.returned.remove(&(peer, path_id, prefix));
        let Some(routes) = self.routes.get_mut(prefix) else { return Presence::Kept };
        routes.retain(|route| (route.peer, route.path_id) != (peer, path_id));
        if routes.is_empty() {
            self.routes.remove(prefix);
            return Presence::Vanished;
        }
        Presence::Kept
    }

    /// Forgets all routes of a session that went down; returns each prefix that lost one.
    pub fn drop_peer(&mut self, peer: PeerId) -> Vec<(Prefix, Presence)> {
        self.returned.retain(|(from, _, _), _| *from != peer);
        self.drop_where(|_, route| route.peer == peer)
    }

    /// The routes of `peer` in `family` may be out of date: they count until `sweep`, unless they are said again.
    pub fn mark_stale(&mut self, peer: PeerId, family: Family) {
        let prefixes: Vec<Prefix> = self.iter().filter(|prefix| prefix.family() == family).collect();
        for prefix in prefixes {
            let routes = self.routes.get_mut(prefix).into_iter().flatten();
            routes.filter(|route| route.peer == peer).for_each(|route| route.stale = true);
        }
    }

    /// Forgets the routes of `peer` in `family` that are still stale; returns each prefix that lost one.
    pub fn sweep(&mut self, peer: PeerId, family: Family) -> Vec<(Prefix, Presence)> {
        self.drop_where(|prefix, route| prefix.family() == family && route.peer == peer && route.stale)
    }

    /// Forgets all routes of `peer` in `family`; returns each prefix that lost one.
    pub fn drop_family(&mut self, peer: PeerId, family: Family) -> Vec<(Prefix, Presence)> {
        self.returned.retain(|(from, _, prefix), _| (*from, prefix.family()) != (peer, family));
        self.drop_where(|prefix, route| prefix.family() == family && route.peer == peer)
    }

    fn drop_where(&mut self, gone: impl Fn(Prefix, &Route) -> bool) -> Vec<(Prefix, Presence)> {
        let loses =
            |(prefix, routes): &(Prefix, &Vec<Route>)| routes.iter().any(|route| gone(*prefix, route));
        let touched: Vec<Prefix> = self.routes.iter().filter(loses).map(|(prefix, _)| prefix).collect();
        let mut result = Vec::with_capacity(touched.len());
        for prefix in touched {
            let Some(routes) = self.routes.get_mut(prefix) else { continue };
            routes.retain(|route| !gone(prefix, route));
            let presence = if routes.is_empty() {
                self.routes.remove(prefix);
                Presence::Vanished
            } else {
                Presence::Kept
            };
            result.push((prefix, presence));
        }
        result
    }

    /// The candidates of `prefix`, one per exit, the preferred one first. Exits whose link is down have none.
    pub fn candidates(&self, prefix: Prefix, topology: &Topology) -> Vec<Candidate> {
        let Some(routes) = self.routes.get(prefix) else { return Vec::new() };
        let usable = routes.iter().filter_map(|route| {
            let exit = topology.exit_of(route.attrs.next_hop)?;
            if !admissible(&route.attrs, exit, topology) {
                return None;
            }
            topology.link(topology.uplink_of(exit)?).up.then(|| Candidate {
                exit,
                peer: route.peer,
                path_id: route.path_id,
                attrs: Arc::clone(&route.attrs),
            })
        });
        ranked(usable.collect())
    }

    /// Every route of `prefix` as received, whether usable or not, for explanations.
    pub fn received(&self, prefix: Prefix) -> Vec<(PeerId, PathId, Arc<RouteAttrs>)> {
        self.routes
            .get(prefix)
            .into_iter()
            .flatten()
            .map(|route| (route.peer, route.path_id, Arc::clone(&route.attrs)))
            .collect()
    }

    /// True where some source announces exactly `prefix`.
    pub fn contains(&self, prefix: Prefix) -> bool {
        self.routes.get(prefix).is_some()
    }

    /// Known prefixes strictly inside `prefix`, in prefix order.
    pub fn inside(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> + '_ {
        self.routes.covered_by(prefix).map(|(inner, _)| inner).filter(move |inner| *inner != prefix)
    }

    /// The longest known prefix that covers `prefix`.
    pub fn longest_cover(&self, prefix: Prefix) -> Option<Prefix> {
        self.routes.covering(prefix).last().map(|(cover, _)| *cover)
    }

    /// Number of prefixes with at least one route.
    pub fn prefixes(&self) -> usize {
        self.routes.len()
    }

    /// Every prefix with at least one route, in prefix order.
    pub fn iter(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.routes.iter().map(|(prefix, _)| prefix)
    }

    /// Known prefixes after `prefix`, or all without one, in prefix order.
    pub fn iter_after(&self, prefix: Option<Prefix>) -> impl Iterator<Item = Prefix> + '_ {
        self.routes.iter_after(prefix).map(|(prefix, _)| prefix)
    }

    /// How many announcements of ETM's own stand on learn sessions. ETM announces next hops of this side; a route with
    /// its community and an exit for next hop is a provider's, who chose the community: no candidate either, and no alarm.
    pub fn returned(&self, topology: &Topology) -> usize {
        self.returned.values().filter(|next_hop| topology.exit_of(**next_hop).is_none()).count()
    }
}

/// What a provider may be used for: paths that begin with its AS where that is known, and no blackhole (RFC 7999).
fn admissible(attrs: &RouteAttrs, exit: ExitId, topology: &Topology) -> bool {
    let by_provider = match (topology.asn_of(exit), attrs.as_path.first()) {
        (Some(asn), Some(first)) => asn == first,
        // A static candidate has no path; without a configured AS nothing can be said.
        (_, None) | (None, _) => true,
    };
    by_provider && !attrs.communities.contains(&Community::BLACKHOLE)
}

#[cfg(test)]
mod tests {
    use super::super::input::LinkEvent;
    use super::super::policy::tests::two_exits;
    use super::*;
    use crate::types::{AsPath, Asn, IfIndex, UplinkId};

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn announce(peer: u16, prefix: &str, path_id: u32, next_hop: &str, own: bool) -> RouteBatch {
        let mut attrs = RouteAttrs::to_next_hop(next_hop.parse().unwrap());
        if own {
            attrs.communities.push(two_exits().community);
        }
        let change =
            RouteChange::Announce { prefix: p(prefix), path_id: PathId(path_id), attrs: Arc::new(attrs) };
        RouteBatch { peer: PeerId(peer), changes: vec![change] }
    }

    fn up() -> Topology {
        let mut topology = Topology::new(&two_exits());
        for uplink in 0..2 {
            let ifindex = Some(IfIndex(u32::from(uplink) + 10));
            topology.set_link(LinkEvent { uplink: UplinkId(uplink), ifindex, up: true });
        }
        topology
    }

    #[test]
    fn routes_of_one_peer_are_told_apart_by_path_id() {
        let mut rib = Rib::new(two_exits().community);
        let mut seen = Vec::new();
        rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", false), |_, what| seen.push(what));
        rib.apply(announce(0, "198.18.0.0/24", 2, "10.0.2.1", false), |_, what| seen.push(what));
        rib.apply(announce(0, "198.18.0.0/24", 2, "10.0.2.1", false), |_, what| seen.push(what));
        assert_eq!(seen, [Presence::Appeared, Presence::Kept, Presence::Kept]);
        let exits: Vec<_> = rib.candidates(p("198.18.0.0/24"), &up()).iter().map(|c| c.exit).collect();
        assert_eq!(exits, [ExitId(0), ExitId(1)]);
    }

    #[test]
    fn own_announcements_and_unknown_next_hops_are_no_candidates() {
        let mut rib = Rib::new(two_exits().community);
        rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", true), |_, _| ());
        rib.apply(announce(0, "198.18.1.0/24", 1, "192.0.2.9", false), |_, _| ());
        assert!(rib.candidates(p("198.18.0.0/24"), &up()).is_empty());
        assert!(rib.candidates(p("198.18.1.0/24"), &up()).is_empty());
        assert_eq!(rib.returned(&up()), 0, "a provider's route with our community");
        rib.apply(announce(0, "198.18.0.0/24", 2, "10.0.9.1", true), |_, _| ());
        assert_eq!(rib.returned(&up()), 1);
        rib.drop_peer(PeerId(0));
        assert_eq!(rib.returned(&up()), 0);
    }

    #[test]
    fn blackholes_and_paths_of_another_as_are_no_candidates() {
        let mut policy = two_exits();
        policy.providers[0].asn = Some(Asn(64601));
        let mut topology = Topology::new(&policy);
        topology.set_link(LinkEvent { uplink: UplinkId(0), ifindex: Some(IfIndex(10)), up: true });
        let usable = |change: fn(&mut RouteAttrs)| {
            let mut attrs = RouteAttrs::to_next_hop("10.0.1.1".parse().unwrap());
            attrs.as_path = AsPath::sequence([64601, 65010]);
            change(&mut attrs);
            let mut rib = Rib::new(policy.community);
            let change = RouteChange::Announce {
                prefix: p("198.18.0.0/24"),
                path_id: PathId(1),
                attrs: Arc::new(attrs),
            };
            rib.apply(RouteBatch { peer: PeerId(0), changes: vec![change] }, |_, _| ());
            !rib.candidates(p("198.18.0.0/24"), &topology).is_empty()
        };
        assert!(usable(|_| ()));
        assert!(usable(|attrs| attrs.as_path = AsPath::default()), "a static candidate");
        assert!(!usable(|attrs| attrs.as_path = AsPath::sequence([64602, 65010])), "another AS");
        assert!(!usable(|attrs| attrs.communities.push(Community::BLACKHOLE)), "RFC 7999");
    }

    #[test]
    fn a_link_that_is_down_offers_nothing() {
        let mut rib = Rib::new(two_exits().community);
        rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", false), |_, _| ());
        let mut topology = up();
        topology.set_link(LinkEvent { uplink: UplinkId(0), ifindex: Some(IfIndex(10)), up: false });
        assert!(rib.candidates(p("198.18.0.0/24"), &topology).is_empty());
    }

    #[test]
    fn a_peer_that_goes_down_takes_all_its_routes_along() {
        let mut rib = Rib::new(two_exits().community);
        rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", false), |_, _| ());
        rib.apply(announce(1, "198.18.0.0/24", 1, "10.0.2.1", false), |_, _| ());
        rib.apply(announce(0, "198.18.1.0/24", 1, "10.0.1.1", false), |_, _| ());
        let lost = rib.drop_peer(PeerId(0));
        assert_eq!(lost, [(p("198.18.0.0/24"), Presence::Kept), (p("198.18.1.0/24"), Presence::Vanished)]);
        assert_eq!(rib.prefixes(), 1);
    }

    #[test]
    fn what_a_restarted_peer_does_not_say_again_is_swept() {
        let mut rib = Rib::new(two_exits().community);
        rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", false), |_, _| ());
        rib.apply(announce(0, "198.18.1.0/24", 1, "10.0.1.1", false), |_, _| ());
        rib.apply(announce(1, "198.18.1.0/24", 1, "10.0.2.1", false), |_, _| ());
        rib.apply(announce(0, "2001:db8::/32", 1, "10.0.1.1", false), |_, _| ());
        rib.mark_stale(PeerId(0), Family::V4);
        assert_eq!(rib.candidates(p("198.18.0.0/24"), &up()).len(), 1, "a stale route is a route");
        rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", false), |_, _| ());
        assert_eq!(rib.sweep(PeerId(0), Family::V4), [(p("198.18.1.0/24"), Presence::Kept)]);
        assert_eq!(rib.sweep(PeerId(0), Family::V6), []);
        assert_eq!(rib.drop_family(PeerId(0), Family::V6), [(p("2001:db8::/32"), Presence::Vanished)]);
        assert_eq!(rib.prefixes(), 2);
    }
}
