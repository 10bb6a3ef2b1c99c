//! The kernel's main table as last reported: what plain routing does while ETM does nothing.
//! Never holds ETM's own routes; the adapter leaves them out.

use super::input::{FibChange, FibEvent, KernelRoute};
use super::policy::Policy;
use super::topology::Topology;
use crate::types::{ExitId, IfIndex, Prefix, PrefixMap};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// All routes of the main table.
///
/// While the table is read again the former reading stands: a half-read table would look as if routes were gone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FibView {
    routes: Table,
    /// The reading under way.
    incoming: Option<Table>,
    complete: bool,
}

/// A few hundred bytes for each way a prefix can be routed, and a number for each prefix: a full table has a million
/// prefixes and hardly more ways than next hops.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Table {
    prefixes: PrefixMap<u32>,
    ways: Vec<Way>,
    free: Vec<u32>,
    /// Numbers of ways in use, in the order of their routes.
    sorted: Vec<u32>,
}

/// The routes of one or more prefixes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Way {
    routes: Vec<Hop>,
    prefixes: u32,
}

/// A route without its destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Hop {
    metric: u32,
    protocol: u8,
    unicast: bool,
    next_hops: Vec<(Option<IpAddr>, IfIndex)>,
}

impl Table {
    fn routes(&self, prefix: Prefix) -> &[Hop] {
        self.prefixes.get(prefix).and_then(|way| self.ways.get(index(*way))).map_or(&[], |way| &way.routes)
    }

    /// Sets what `prefix` has; nothing takes it out.
    fn set(&mut self, prefix: Prefix, routes: Vec<Hop>) {
        let before = if routes.is_empty() {
            self.prefixes.remove(prefix)
        } else {
            let way = self.intern(routes);
            self.prefixes.insert(prefix, way)
        };
        if let Some(way) = before {
            self.release(way);
        }
    }

    fn intern(&mut self, routes: Vec<Hop>) -> u32 {
        let (ways, sorted) = (&mut self.ways, &self.sorted);
        match sorted.binary_search_by(|way| ways[index(*way)].routes.cmp(&routes)) {
            Ok(at) => {
                let way = sorted[at];
                ways[index(way)].prefixes += 1;
                way
            }
            Err(at) => {
                let new = Way { routes, prefixes: 1 };
                let way = match self.free.pop() {
                    Some(way) => {
                        ways[index(way)] = new;
                        way
                    }
                    None => {
                        ways.push(new);
                        u32::try_from(ways.len() - 1).unwrap_or(u32::MAX)
                    }
                };
                self.sorted.insert(at, way);
                way
            }
        }
    }

    fn release(&mut self, way: u32) {
        let Some(entry) = self.ways.get_mut(index(way)) else { return };
        entry.prefixes -= 1;
        if entry.prefixes > 0 {
            return;
        }
        let ways = &self.ways;
        let routes = &ways[index(way)].routes;
        if let Ok(at) = self.sorted.binary_search_by(|other| ways[index(*other)].routes.cmp(routes)) {
            self.sorted.remove(at);
        }
        self.ways[index(way)] = Way::default();
        self.free.push(way);
    }
}

fn index(way: u32) -> usize {
    usize::try_from(way).unwrap_or(usize::MAX)
}

/// Why the kernel's route for a prefix cannot be overridden (invariant 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotOurs {
    /// The main table has no route for exactly this prefix.
    NoKernelRoute,
    /// The best route is not one that the routing daemon installed: static, connected, another protocol.
    OtherProtocol {
        /// rtm_protocol.
        protocol: u8,
    },
    /// Blackhole, unreachable or prohibit.
    NotUnicast,
    /// Several next hops; a share of one prefix is not moved yet.
    Multipath,
    /// The next hop is none of the configured exits.
    UnknownExit,
    /// Its metric is not above that of ETM's routes, which stand beside it: one of them would not be used.
    Metric {
        /// Its metric.
        metric: u32,
    },
}

impl FibView {
    /// Takes news; returns the prefixes whose routes may have changed.
    pub fn apply(&mut self, event: FibEvent) -> Vec<Prefix> {
        match event {
            FibEvent::Reset => {
                self.incoming = Some(Table::default());
                Vec::new()
            }
            FibEvent::Synced => {
                if let Some(table) = self.incoming.take() {
                    self.routes = table;
                }
                self.complete = true;
                Vec::new()
            }
            FibEvent::Changes(changes) => {
                let table = self.incoming.as_mut().unwrap_or(&mut self.routes);
                changes.into_iter().map(|change| apply(table, change)).collect()
            }
        }
    }

    /// True once the table was read, and while it is not being read again.
    pub fn synced(&self) -> bool {
        self.complete && self.incoming.is_none()
    }

    /// The exit that plain routing uses for exactly `prefix`, where it is the daemon's own choice among the exits.
    pub fn home(&self, prefix: Prefix, policy: &Policy, topology: &Topology) -> Result<ExitId, NotOurs> {
        let best = self.routes.routes(prefix).first().ok_or(NotOurs::NoKernelRoute)?;
        if !best.unicast {
            return Err(NotOurs::NotUnicast);
        }
        if !policy.daemon_protocols.contains(&best.protocol) {
            return Err(NotOurs::OtherProtocol { protocol: best.protocol });
        }
        if policy.own_metric.is_some_and(|own| best.metric <= own) {
            return Err(NotOurs::Metric { metric: best.metric });
        }
        match best.next_hops[..] {
            [(Some(gateway), ifindex)] => {
                topology.exit_of_kernel(gateway, ifindex).ok_or(NotOurs::UnknownExit)
            }
            [(None, _)] | [] => Err(NotOurs::UnknownExit),
            [_, _, ..] => Err(NotOurs::Multipath),
        }
    }

    /// The next hop of plain routing for exactly `prefix`, where it is one.
    pub fn next_hop(&self, prefix: Prefix) -> Option<(IpAddr, IfIndex)> {
        match self.routes.routes(prefix).first()?.next_hops[..] {
            [(Some(gateway), ifindex)] => Some((gateway, ifindex)),
            _ => None,
        }
    }

    /// Routed prefixes strictly inside `prefix`, of any origin, in prefix order.
    pub fn inside(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> + '_ {
        self.routes.prefixes.covered_by(prefix).map(|(inner, _)| inner).filter(move |inner| *inner != prefix)
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.routes.prefixes.len()
    }

    /// True without a route.
    pub fn is_empty(&self) -> bool {
        self.routes.prefixes.is_empty()
    }
}

fn apply(table: &mut Table, change: FibChange) -> Prefix {
    match change {
        FibChange::Set(KernelRoute { prefix, metric, protocol, unicast, next_hops }) => {
            let mut routes = table.routes(prefix).to_vec();
            let route = Hop { metric, protocol, unicast, next_hops };
            match routes.binary_search_by_key(&metric, |known| known.metric) {
                Ok(at) => routes[at] = route,
                Err(at) => routes.insert(at, route),
            }
            table.set(prefix, routes);
            prefix
        }
        FibChange::Unset { prefix, metric } => {
            let mut routes = table.routes(prefix).to_vec();
            routes.retain(|known| known.metric != metric);
            table.set(prefix, routes);
            prefix
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::LinkEvent;
    use super::super::policy::tests::two_exits;
    use super::*;
    use crate::types::UplinkId;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn route(metric: u32, protocol: u8, gateway: &str, ifindex: u32) -> KernelRoute {
        KernelRoute {
            prefix: "198.18.0.0/24".parse().unwrap(),
            metric,
            protocol,
            unicast: true,
            next_hops: vec![(Some(gateway.parse().unwrap()), IfIndex(ifindex))],
        }
    }

    fn home(routes: Vec<KernelRoute>) -> Result<ExitId, NotOurs> {
        let (policy, mut fib) = (two_exits(), FibView::default());
        let mut topology = Topology::new(&policy);
        for uplink in 0..2u16 {
            let ifindex = Some(IfIndex(10 + u32::from(uplink)));
            topology.set_link(LinkEvent { uplink: UplinkId(uplink), ifindex, up: true });
        }
        fib.apply(FibEvent::Changes(routes.into_iter().map(FibChange::Set).collect()));
        fib.home("198.18.0.0/24".parse().unwrap(), &policy, &topology)
    }

    #[test]
    fn only_the_daemons_best_route_through_an_exit_is_ours_to_override() {
        let bird = route(32, 12, "10.0.1.1", 10);
        let cases: [(&str, Vec<KernelRoute>, Result<ExitId, NotOurs>); 7] = [
            ("the daemon's route", vec![bird.clone()], Ok(ExitId(0))),
            ("no route", vec![], Err(NotOurs::NoKernelRoute)),
            (
                "a static route with a better metric",
                vec![bird.clone(), route(0, 4, "10.0.2.1", 11)],
                Err(NotOurs::OtherProtocol { protocol: 4 }),
            ),
            (
                "a static route with a worse metric",
                vec![bird.clone(), route(900, 4, "10.0.2.1", 11)],
                Ok(ExitId(0)),
            ),
            ("a blackhole", vec![KernelRoute { unicast: false, ..bird.clone() }], Err(NotOurs::NotUnicast)),
            (
                "the right gateway on the wrong interface",
                vec![route(32, 12, "10.0.1.1", 11)],
                Err(NotOurs::UnknownExit),
            ),
            (
                "two next hops",
                vec![KernelRoute {
                    next_hops: [bird.next_hops.clone(), bird.next_hops.clone()].concat(),
                    ..bird
                }],
                Err(NotOurs::Multipath),
            ),
        ];
        for (title, routes, expected) in cases {
            assert_eq!(home(routes), expected, "{title}");
        }
    }

    #[test]
    fn a_removed_route_uncovers_the_next_metric() {
        let mut fib = FibView::default();
        fib.apply(FibEvent::Changes(vec![
            FibChange::Set(route(32, 12, "10.0.1.1", 10)),
            FibChange::Set(route(40, 12, "10.0.2.1", 11)),
            FibChange::Unset { prefix: "198.18.0.0/24".parse().unwrap(), metric: 32 },
        ]));
        let left = fib.routes.routes("198.18.0.0/24".parse().unwrap());
        assert_eq!(left.iter().map(|route| route.metric).collect::<Vec<_>>(), [40]);
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_of_routes_would_hold(
            steps in prop::collection::vec((0u8..4, 0u32..3, 1u8..3, any::<bool>()), 1..80)
        ) {
            let (mut fib, mut oracle) = (FibView::default(), BTreeMap::new());
            for (prefix, metric, hop, set) in steps {
                let prefix: Prefix = format!("198.18.{prefix}.0/24").parse().unwrap();
                let change = if set {
                    let route = KernelRoute { prefix, ..route(metric, 12, &format!("10.0.{hop}.1"), 10) };
                    oracle.insert((prefix, metric), route.next_hops.clone());
                    FibChange::Set(route)
                } else {
                    oracle.remove(&(prefix, metric));
                    FibChange::Unset { prefix, metric }
                };
                fib.apply(FibEvent::Changes(vec![change]));
            }
            let held: BTreeMap<_, _> = fib
                .routes
                .prefixes
                .iter()
                .flat_map(|(prefix, _)| {
                    fib.routes.routes(prefix).iter().map(move |hop| ((prefix, hop.metric), hop.next_hops.clone()))
                })
                .collect();
            prop_assert_eq!(held, oracle);
            let used: u32 = fib.routes.sorted.iter().map(|way| fib.routes.ways[index(*way)].prefixes).sum();
            prop_assert_eq!(usize::try_from(used).unwrap(), fib.len());
        }
    }
}
