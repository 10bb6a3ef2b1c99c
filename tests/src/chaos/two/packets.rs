//! Where each packet left the lab with two borders, against what the kernels of core and both borders had at that time, and
//! what core had heard of ETM. Looks and judges; never asks ETM anything, and never excuses what it cannot name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Heard;
use crate::chaos::judge::{Findings, Window};
use crate::chaos::kernel::{Follower, MAIN, OWN, Reader, Way, lookup};
use crate::chaos::timeline::{MS, Moment, Span, Terms, Timeline};
use crate::clock::boottime_ns;
use crate::error::LabError;
use crate::topology::{Provider, Role};
use crate::two_borders::{HOME_B, LINKS, PROVIDERS, Side, TwoBorders};

/// Looks this far from a packet's sending speak for it: two looks apart, and the 10 ms bins of the ledgers.
const NEAR: u64 = 120 * MS;
/// The same of what core's BIRD had, which answers later, and tells its kernel after it has decided.
const NEAR_HEARD: u64 = 300 * MS;
/// So long after a fault of links, daemons or candidates nothing is said of where core sends a prefix without ETM.
const UNSETTLED: u64 = 3000 * MS;

/// The tables of one router, each as it was after every change since the look before.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) main: Vec<Vec<Way>>,
    pub(super) own: Vec<Vec<Way>>,
}

/// What the three kernels had at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) from: Moment,
    pub(super) until: Moment,
    pub(super) core: Tables,
    pub(super) borders: BTreeMap<Side, Tables>,
    /// Notifications were lost: what was in between is unknown.
    pub(super) lost: bool,
}

/// One router's kernel.
struct Eye {
    reader: Reader,
    follower: Follower,
    main: Vec<Way>,
    own: Vec<Way>,
}

impl Eye {
    fn open(lab: &TwoBorders, role: Role) -> Result<Self, LabError> {
        let namespace = lab.namespace(role);
        let (reader, follower) = (Reader::open(&namespace)?, Follower::open(&namespace)?);
        Ok(Self { main: reader.table(MAIN)?, own: reader.table(OWN)?, reader, follower })
    }

    /// The tables, and whether all changes until then are known.
    fn look(&mut self) -> Result<(Tables, bool), LabError> {
        let mut tables = Tables { main: vec![self.main.clone()], own: vec![self.own.clone()] };
        let changes = self.follower.changes();
        let known = changes.is_some();
        for change in changes.unwrap_or_default() {
            let (state, past) = match change.table {
                OWN => (&mut self.own, &mut tables.own),
                _ => (&mut self.main, &mut tables.main),
            };
            change.apply(state);
            past.push(state.clone());
        }
        // What the kernel takes along with an interface it does not tell: only the table itself shows it.
        (self.main, self.own) = (self.reader.table(MAIN)?, self.reader.table(OWN)?);
        tables.main.push(self.main.clone());
        tables.own.push(self.own.clone());
        Ok((tables, known))
    }
}

/// The kernels of core and both borders.
pub(super) struct Eyes {
    core: Eye,
    borders: BTreeMap<Side, Eye>,
}

impl Eyes {
    pub(super) fn open(lab: &TwoBorders) -> Result<Self, LabError> {
        let borders = Side::BOTH.map(|side| Eye::open(lab, side.role()).map(|eye| (side, eye)));
        Ok(Self {
            core: Eye::open(lab, Role::Core)?,
            borders: borders.into_iter().collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn look(&mut self) -> Result<Look, LabError> {
        let from = boottime_ns();
        let (core, mut known) = self.core.look()?;
        let mut borders = BTreeMap::new();
        for (side, eye) in &mut self.borders {
            let (tables, all) = eye.look()?;
            known &= all;
            borders.insert(*side, tables);
        }
        Ok(Look { from, until: boottime_ns(), core, borders, lost: !known })
    }
}

/// Where a router sends a packet on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hop {
    Border(Side),
    Out(Provider),
}

/// Everything there is to judge packets by.
pub(super) struct Case<'a> {
    /// In order of time.
    pub(super) looks: &'a [Look],
    /// In order of time.
    pub(super) heard: &'a [Heard],
    pub(super) diaries: &'a BTreeMap<Side, Timeline>,
    pub(super) terms: &'a Terms,
    /// Next hops and whose they are.
    pub(super) hops: &'a BTreeMap<IpAddr, Hop>,
}

impl Case<'_> {
    /// Invariants 1, 7 and 9 as packets see them: each left where the tables sent it, and by plain routing where nobody may
    /// override it.
    pub(super) fn judge(&self, window: &Window, findings: &mut Findings) {
        let near = near(self.looks, |look| (look.from, look.until), window, NEAR);
        // Without a look on each side nothing is known of this window.
        let seen = near.first().is_some_and(|look| look.from <= window.from)
            && near.last().is_some_and(|look| look.until >= window.until);
        if !seen || near.iter().any(|look| look.lost) {
            findings.blind += 1;
            return;
        }
        let overriding = Side::BOTH.map(|side| (side, !self.within(side, window, Timeline::kernel_plain)));
        for ((provider, destination), packets) in &window.arrived {
            let by_core = self.hops_of(near.iter().flat_map(|look| &look.core.main), *destination);
            let any = self.exits(near, *destination, &by_core, &Side::BOTH.map(|side| (side, true)));
            let what = format!("{destination} by {provider}");
            if !any.contains(provider) {
                let what = format!("{what}, where no table sends it; core sends it to {by_core:?}");
                findings.add("detour", what, window.from, *packets);
                continue;
            }
            // An announcement that lives shorter than core is asked leaves nothing but a change of its table.
            let steady = by_core.len() == 1;
            let meant: BTreeSet<Hop> = match self.meant(window, *destination).filter(|_| steady) {
                Some(meant) => by_core.intersection(&meant).copied().collect(),
                None => by_core,
            };
            if !self.exits(near, *destination, &meant, &overriding).contains(provider) {
                findings.add("stale-override", what, window.from, *packets);
            }
        }
    }

    /// Providers that packets reach by way of the borders to which core sends them.
    fn exits(
        &self,
        near: &[Look],
        destination: IpAddr,
        by_core: &BTreeSet<Hop>,
        overriding: &[(Side, bool)],
    ) -> BTreeSet<Provider> {
        let tables = |side: Side| near.iter().filter_map(move |look| look.borders.get(&side));
        let plain = |side: Side| self.hops_of(tables(side).flat_map(|tables| &tables.main), destination);
        let mut found = BTreeSet::new();
        for hop in by_core {
            let Hop::Border(side) = *hop else { continue };
            let mut onward = plain(side);
            if overriding.contains(&(side, true)) {
                onward.extend(self.hops_of(tables(side).flat_map(|tables| &tables.own), destination));
            }
            for hop in onward {
                match hop {
                    Hop::Out(provider) => found.extend([provider]),
                    // What comes from the other border is not from inside: plain routing.
                    Hop::Border(other) => {
                        found.extend(plain(other).into_iter().filter_map(|hop| match hop {
                            Hop::Out(provider) => Some(provider),
                            Hop::Border(_) => None,
                        }));
                    }
                }
            }
        }
        found
    }

    fn hops_of<'t>(&self, states: impl Iterator<Item = &'t Vec<Way>>, destination: IpAddr) -> BTreeSet<Hop> {
        let gateways = states.filter_map(|ways| lookup(ways, destination)?.gateway);
        gateways.filter_map(|gateway| self.hops.get(&gateway).copied()).collect()
    }

    /// The borders to which core may send a destination: its home, and what living agents announced just then. None where the
    /// network has not settled, or core was not heard: its own table must do.
    fn meant(&self, window: &Window, destination: IpAddr) -> Option<BTreeSet<Hop>> {
        let since = window.from.saturating_sub(UNSETTLED);
        let settled = self.diaries.values().all(|diary| {
            let gone = diary.gone.iter().any(|gone| gone.span.meets(since, window.until));
            !gone && !diary.excused(since, window.until)
        });
        let heard = near(self.heard, |heard| (heard.from, heard.until), window, NEAR_HEARD);
        let all = heard.first().is_some_and(|heard| heard.until <= window.from)
            && heard.last().is_some_and(|heard| heard.from >= window.until);
        if !settled || !all {
            return None;
        }
        let living = |by: Side| !self.within(by, window, Timeline::peers_plain);
        let routes = heard.iter().flat_map(|heard| &heard.routes);
        let announced = routes.filter(|route| route.prefix.contains(&destination) && living(route.by));
        Some(announced.map(|route| Hop::Border(route.exit)).chain([Hop::Border(home(destination))]).collect())
    }

    fn within(&self, side: Side, window: &Window, spans: impl Fn(&Timeline, &Terms) -> Vec<Span>) -> bool {
        let spans = self.diaries.get(&side).map_or_else(Vec::new, |diary| spans(diary, self.terms));
        spans.iter().any(|span| span.holds(window.from) && span.holds(window.until))
    }
}

/// Next hops of the lab: borders as core and the other border reach them, and providers.
pub(super) fn hops() -> BTreeMap<IpAddr, Hop> {
    let inside = LINKS.iter().flat_map(|link| [(&link.near, &link.far), (&link.far, &link.near)]);
    let borders = inside.filter_map(|(end, beyond)| {
        let side = Side::BOTH.into_iter().find(|side| side.role() == end.role)?;
        let within = [Role::Core, Role::Border, Role::BorderB].contains(&beyond.role);
        within.then_some([(end.v4, Hop::Border(side)), (end.v6, Hop::Border(side))])
    });
    let providers = PROVIDERS.map(|provider| {
        [provider.gateway_v4(), provider.gateway_v6()].map(|text| (text, Hop::Out(provider)))
    });
    let all = borders.chain(providers).flatten();
    all.filter_map(|(text, hop)| Some((text.split('/').next()?.parse().ok()?, hop))).collect()
}

/// The border by which core sends a destination while both providers announce it.
fn home(destination: IpAddr) -> Side {
    let of_b =
        HOME_B.iter().any(|prefix| prefix.parse::<IpNet>().is_ok_and(|prefix| prefix.contains(&destination)));
    if of_b { Side::B } else { Side::A }
}

fn near<'s, T>(all: &'s [T], span: impl Fn(&T) -> (Moment, Moment), window: &Window, within: u64) -> &'s [T] {
    let first = all.partition_point(|one| span(one).1 < window.from.saturating_sub(within));
    let after = all.partition_point(|one| span(one).0 <= window.until + within);
    &all[first..after.max(first)]
}

#[cfg(test)]
mod tests;
