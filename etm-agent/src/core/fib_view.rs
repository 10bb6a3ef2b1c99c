//! The kernel's main table as last reported: what plain routing does while ETM does nothing.
//! Never holds ETM's own routes; the adapter leaves them out.

use super::input::{FibChange, FibEvent, KernelRoute};
use super::policy::Policy;
use super::topology::Topology;
use crate::types::{ExitId, Prefix, PrefixMap};
use serde::{Deserialize, Serialize};

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

type Table = PrefixMap<Vec<KernelRoute>>;

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
}

impl FibView {
    /// Takes news; returns the prefixes whose routes may have changed.
    pub fn apply(&mut self, event: FibEvent) -> Vec<Prefix> {
        match event {
            FibEvent::Reset => {
                self.incoming = Some(Table::new());
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
        let best = self.routes.get(prefix).and_then(|routes| routes.first()).ok_or(NotOurs::NoKernelRoute)?;
        if !best.unicast {
            return Err(NotOurs::NotUnicast);
        }
        if !policy.daemon_protocols.contains(&best.protocol) {
            return Err(NotOurs::OtherProtocol { protocol: best.protocol });
        }
        match best.next_hops[..] {
            [(Some(gateway), ifindex)] => {
                topology.exit_of_kernel(gateway, ifindex).ok_or(NotOurs::UnknownExit)
            }
            [(None, _)] | [] => Err(NotOurs::UnknownExit),
            [_, _, ..] => Err(NotOurs::Multipath),
        }
    }

    /// Routed prefixes strictly inside `prefix`, of any origin, in prefix order.
    pub fn inside(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> + '_ {
        self.routes.covered_by(prefix).map(|(inner, _)| inner).filter(move |inner| *inner != prefix)
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// True without a route.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

fn apply(table: &mut Table, change: FibChange) -> Prefix {
    match change {
        FibChange::Set(route) => {
            let prefix = route.prefix;
            match table.get_mut(prefix) {
                None => {
                    table.insert(prefix, vec![route]);
                }
                Some(routes) => match routes.iter_mut().find(|known| known.metric == route.metric) {
                    Some(known) => *known = route,
                    None => {
                        routes.push(route);
                        routes.sort_by_key(|known| known.metric);
                    }
                },
            }
            prefix
        }
        FibChange::Unset { prefix, metric } => {
            if let Some(routes) = table.get_mut(prefix) {
                routes.retain(|known| known.metric != metric);
                if routes.is_empty() {
                    table.remove(prefix);
                }
            }
            prefix
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::LinkEvent;
    use super::super::policy::tests::two_exits;
    use super::*;
    use crate::types::{IfIndex, UplinkId};

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
        let left = fib.routes.get("198.18.0.0/24".parse().unwrap()).unwrap();
        assert_eq!(left.iter().map(|route| route.metric).collect::<Vec<_>>(), [40]);
    }
}
