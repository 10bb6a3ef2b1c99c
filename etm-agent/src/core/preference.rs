//! Which of several routes to one prefix plain BGP prefers (RFC 4271 section 9.1.2), and what decided.
//! Never looks at load: preference is routing's, not ETM's.
//!
//! Of interior cost (section 9.1.2.2 e) only that an exit of this router is nearer than one of another.

use super::policy::DecisionProcess;
use crate::types::{Asn, ExitId, Origin, PathId, PeerId, Prefix};
use serde::{Deserialize, Serialize};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};

/// Where the RIB keeps a set of attributes; good until the RIB changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct AttrsId(pub(super) u32);

/// What the Decision Process compares, of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Degree of preference.
    pub local_pref: u32,
    /// Length of AS_PATH.
    pub hops: u32,
    /// ORIGIN.
    pub origin: Origin,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// The AS it came from.
    pub neighbour: Option<Asn>,
    /// Learnt from a peer of another AS.
    pub external: bool,
    /// The exit is another border's.
    pub elsewhere: bool,
    /// ORIGINATOR_ID, where the route was reflected; who was not comes first.
    pub router_id: Option<Ipv4Addr>,
    /// Length of CLUSTER_LIST.
    pub cluster_hops: u8,
    /// Address of the peer.
    pub address: Option<IpAddr>,
}

/// A feasible route through a known exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it leaves.
    pub exit: ExitId,
    /// Session it was learnt on.
    pub peer: PeerId,
    /// RFC 7911.
    pub path_id: PathId,
    /// The prefix it was announced for; shorter than the one asked about where a covering route serves.
    pub prefix: Prefix,
    /// NEXT_HOP.
    pub next_hop: IpAddr,
    /// The rest of it.
    pub attrs: AttrsId,
    /// What it is compared by.
    pub standing: Standing,
}

/// The step of the Decision Process that told two routes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecidedBy {
    /// The longer prefix: a covering route serves where no route of the prefix itself does.
    PrefixLength,
    /// Degree of preference (section 9.1.1).
    LocalPref,
    /// Section 9.1.2.2 a.
    AsPathLength,
    /// Section 9.1.2.2 b.
    Origin,
    /// Section 9.1.2.2 c, between routes of the same neighbouring AS.
    Med,
    /// Section 9.1.2.2 d: from another AS before from our own.
    External,
    /// Section 9.1.2.2 e: an exit of this router before one of another border.
    InteriorCost,
    /// Section 9.1.2.2 f, ORIGINATOR_ID in its place (RFC 4456 section 9).
    RouterId,
    /// RFC 4456 section 9.
    ClusterList,
    /// Section 9.1.2.2 g.
    PeerAddress,
    /// Nothing of the above: lowest next hop, session and path id, so that the order is always the same.
    Tie,
}

impl DecidedBy {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            DecidedBy::PrefixLength => "length of the prefix",
            DecidedBy::LocalPref => "LOCAL_PREF",
            DecidedBy::AsPathLength => "AS_PATH length",
            DecidedBy::Origin => "ORIGIN",
            DecidedBy::Med => "MED",
            DecidedBy::External => "eBGP before iBGP",
            DecidedBy::InteriorCost => "interior cost (this router's own exits first)",
            DecidedBy::RouterId => "BGP identifier",
            DecidedBy::ClusterList => "CLUSTER_LIST length",
            DecidedBy::PeerAddress => "address of the peer",
            DecidedBy::Tie => "the tie-break (lowest next hop)",
        }
    }
}

/// Order of two candidates, the preferred one first, with the step that decided.
pub fn compare(a: &Candidate, b: &Candidate, process: DecisionProcess) -> (Ordering, DecidedBy) {
    let with_med = process.always_compare_med || a.standing.neighbour == b.standing.neighbour;
    steps(a, b, process, with_med)
}

fn steps(a: &Candidate, b: &Candidate, process: DecisionProcess, with_med: bool) -> (Ordering, DecidedBy) {
    let (x, y) = (&a.standing, &b.standing);
    let med = |med: Option<u32>| med.unwrap_or(if process.med_missing_worst { u32::MAX } else { 0 });
    let when = |on: bool, order: Ordering| if on { order } else { Ordering::Equal };
    let order = [
        (b.prefix.len().cmp(&a.prefix.len()), DecidedBy::PrefixLength),
        (y.local_pref.cmp(&x.local_pref), DecidedBy::LocalPref),
        (x.hops.cmp(&y.hops), DecidedBy::AsPathLength),
        (x.origin.cmp(&y.origin), DecidedBy::Origin),
        (when(with_med, med(x.med).cmp(&med(y.med))), DecidedBy::Med),
        (y.external.cmp(&x.external), DecidedBy::External),
        (x.elsewhere.cmp(&y.elsewhere), DecidedBy::InteriorCost),
        (when(process.router_id, x.router_id.cmp(&y.router_id)), DecidedBy::RouterId),
        (when(process.cluster_list, x.cluster_hops.cmp(&y.cluster_hops)), DecidedBy::ClusterList),
        (when(process.peer_address, x.address.cmp(&y.address)), DecidedBy::PeerAddress),
    ];
    let decided = order.into_iter().find(|(order, _)| *order != Ordering::Equal);
    let tie = || (a.next_hop, a.peer, a.path_id).cmp(&(b.next_hop, b.peer, b.path_id));
    decided.unwrap_or_else(|| (tie(), DecidedBy::Tie))
}

/// The best candidate of each exit, the most preferred exit first.
pub fn ranked(mut candidates: Vec<Candidate>, process: DecisionProcess) -> Vec<Candidate> {
    if candidates.len() > 1 {
        candidates = if process.always_compare_med {
            candidates.sort_by(|a, b| steps(a, b, process, true).0);
            candidates
        } else if process.deterministic_med {
            merged(candidates, process)
        } else {
            as_they_came(candidates, process)
        };
    }
    let mut seen = BTreeSet::new();
    if candidates.len() > 1 {
        candidates.retain(|candidate| seen.insert(candidate.exit));
    }
    candidates
}

/// A route in the merge below: ordered as routes of different neighbours are.
struct Head {
    candidate: Candidate,
    group: usize,
    process: DecisionProcess,
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> Ordering {
        steps(&self.candidate, &other.candidate, self.process, false).0
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// MED counts among routes of one neighbouring AS only and is not transitive beyond (RFC 4451 section 2): routes of one
/// neighbour are put in order first, and the next place is given to the best of the neighbours' first remaining ones.
fn merged(mut candidates: Vec<Candidate>, process: DecisionProcess) -> Vec<Candidate> {
    candidates.sort_by(|a, b| {
        a.standing.neighbour.cmp(&b.standing.neighbour).then_with(|| steps(a, b, process, true).0)
    });
    let mut groups: Vec<std::iter::Copied<std::slice::Iter<'_, Candidate>>> = candidates
        .chunk_by(|a, b| a.standing.neighbour == b.standing.neighbour)
        .map(|group| group.iter().copied())
        .collect();
    let first = groups.iter_mut().enumerate();
    let mut heads: BinaryHeap<Reverse<Head>> = first
        .filter_map(|(group, rest)| Some(Reverse(Head { candidate: rest.next()?, group, process })))
        .collect();
    let mut order = Vec::with_capacity(candidates.len());
    while let Some(Reverse(Head { candidate, group, .. })) = heads.pop() {
        order.push(candidate);
        if let Some(candidate) = groups[group].next() {
            heads.push(Reverse(Head { candidate, group, process }));
        }
    }
    order
}

/// Each place goes to the winner of one pass over what remains, in the order of arrival.
fn as_they_came(mut left: Vec<Candidate>, process: DecisionProcess) -> Vec<Candidate> {
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let mut winner = 0;
        for index in 1..left.len() {
            if compare(&left[index], &left[winner], process).0 == Ordering::Less {
                winner = index;
            }
        }
        order.push(left.remove(winner));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(exit: u16, change: impl FnOnce(&mut Standing)) -> Candidate {
        let mut standing = Standing {
            local_pref: 100,
            hops: 2,
            origin: Origin::Igp,
            med: None,
            neighbour: Some(Asn(64600 + u32::from(exit))),
            external: false,
            router_id: None,
            elsewhere: false,
            cluster_hops: 0,
            address: None,
        };
        change(&mut standing);
        Candidate {
            exit: ExitId(exit),
            peer: PeerId(0),
            path_id: PathId(u32::from(exit)),
            prefix: "198.18.0.0/24".parse().unwrap(),
            next_hop: format!("10.{}.{}.1", exit >> 8, exit & 0xFF).parse().unwrap(),
            attrs: AttrsId(0),
            standing,
        }
    }

    fn id(last: u8) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::new(192, 0, 2, last))
    }

    #[test]
    fn each_step_decides_when_all_before_it_are_equal() {
        let mut shorter = route(1, |s| s.local_pref = 900);
        shorter.prefix = "198.18.0.0/16".parse().unwrap();
        let worse = |s: &mut Standing| (s.cluster_hops, s.address) = (9, Some("192.0.2.9".parse().unwrap()));
        let cases: [(&str, Candidate, Candidate, DecidedBy); 10] = [
            ("longer prefix", route(2, |_| ()), shorter, DecidedBy::PrefixLength),
            (
                "higher LOCAL_PREF",
                route(2, |s| s.local_pref = 200),
                route(1, |s| s.hops = 0),
                DecidedBy::LocalPref,
            ),
            (
                "shorter AS_PATH",
                route(2, |s| s.origin = Origin::Egp),
                route(1, |s| s.hops = 3),
                DecidedBy::AsPathLength,
            ),
            (
                "better ORIGIN",
                route(2, |_| ()),
                route(1, |s| s.origin = Origin::Incomplete),
                DecidedBy::Origin,
            ),
            (
                "lower MED of one neighbouring AS",
                route(2, |s| s.med = Some(5)),
                route(1, |s| (s.med, s.neighbour, s.external) = (Some(9), Some(Asn(64602)), true)),
                DecidedBy::Med,
            ),
            (
                "eBGP",
                route(2, |s| (s.external, s.router_id) = (true, id(2))),
                route(1, |s| s.router_id = id(1)),
                DecidedBy::External,
            ),
            (
                "lower identifier",
                route(2, |s| {
                    worse(s);
                    s.router_id = id(1);
                }),
                route(1, |s| s.router_id = id(2)),
                DecidedBy::RouterId,
            ),
            (
                "shorter CLUSTER_LIST",
                route(2, |s| s.address = Some("192.0.2.9".parse().unwrap())),
                route(1, |s| s.cluster_hops = 1),
                DecidedBy::ClusterList,
            ),
            (
                "lower address",
                route(2, |s| s.address = Some("192.0.2.1".parse().unwrap())),
                route(1, |s| s.address = Some("192.0.2.2".parse().unwrap())),
                DecidedBy::PeerAddress,
            ),
            ("lower next hop", route(1, |s| s.med = Some(9)), route(2, |_| ()), DecidedBy::Tie),
        ];
        for (title, winner, loser, step) in cases {
            let process = DecisionProcess::default();
            assert_eq!(compare(&winner, &loser, process), (Ordering::Less, step), "{title}");
            assert_eq!(compare(&loser, &winner, process), (Ordering::Greater, step), "{title}, turned round");
        }
    }

    #[test]
    fn options_change_what_the_steps_see() {
        let none = route(1, |s| (s.med, s.neighbour) = (None, Some(Asn(1))));
        let some = route(2, |s| (s.med, s.neighbour) = (Some(5), Some(Asn(1))));
        let process = DecisionProcess::default();
        assert_eq!(compare(&none, &some, process), (Ordering::Less, DecidedBy::Med));
        let worst = DecisionProcess { med_missing_worst: true, ..process };
        assert_eq!(compare(&none, &some, worst), (Ordering::Greater, DecidedBy::Med));
        let stranger = route(1, |s| s.med = Some(9));
        assert_eq!(compare(&stranger, &some, process), (Ordering::Less, DecidedBy::Tie));
        let always = DecisionProcess { always_compare_med: true, ..process };
        assert_eq!(compare(&stranger, &some, always), (Ordering::Greater, DecidedBy::Med));
    }

    #[test]
    fn ranking_keeps_the_best_route_of_each_exit() {
        let mut second = route(1, |s| s.local_pref = 50);
        second.path_id = PathId(9);
        let order = ranked(
            vec![second, route(2, |s| s.local_pref = 90), route(1, |_| ())],
            DecisionProcess::default(),
        );
        assert_eq!(
            order.iter().map(|c| (c.exit.0, c.standing.local_pref)).collect::<Vec<_>>(),
            [(1, 100), (2, 90)]
        );
    }

    /// RFC 4271 section 9.1.2.2 taken literally: rule after rule removes what is worse.
    fn naive_best(mut left: Vec<Candidate>, process: DecisionProcess) -> Candidate {
        let med =
            |c: &Candidate| c.standing.med.unwrap_or(if process.med_missing_worst { u32::MAX } else { 0 });
        let best = left.iter().map(|c| c.standing.local_pref).max().unwrap();
        left.retain(|c| c.standing.local_pref == best);
        let best = left.iter().map(|c| c.standing.hops).min().unwrap();
        left.retain(|c| c.standing.hops == best);
        let best = left.iter().map(|c| c.standing.origin).min().unwrap();
        left.retain(|c| c.standing.origin == best);
        let all = left.clone();
        left.retain(|m| {
            !all.iter().any(|n| {
                (process.always_compare_med || n.standing.neighbour == m.standing.neighbour)
                    && med(n) < med(m)
            })
        });
        if left.iter().any(|c| c.standing.external) {
            left.retain(|c| c.standing.external);
        }
        left.sort_by_key(|c| (c.standing.cluster_hops, c.standing.address, c.next_hop, c.peer, c.path_id));
        left[0]
    }

    prop_compose! {
        fn any_candidate()(
            exit in 0u16..5, path_id in 0u32..3, local_pref in 99u32..101, hops in 1u32..3, incomplete in any::<bool>(),
            med in prop::option::of(0u32..3), neighbour in 0u32..3, external in any::<bool>(), cluster_hops in 0u8..2,
        ) -> Candidate {
            let mut candidate = route(exit, |s| {
                (s.local_pref, s.hops, s.med, s.external) = (local_pref, hops, med, external);
                s.origin = if incomplete { Origin::Incomplete } else { Origin::Igp };
                (s.neighbour, s.cluster_hops) = (Some(Asn(neighbour)), cluster_hops);
            });
            candidate.path_id = PathId(path_id);
            candidate
        }
    }

    proptest! {
        #[test]
        fn the_first_place_is_what_the_rfc_says_and_so_is_each_next_one_without_those_before(
            mut routes in prop::collection::vec(any_candidate(), 1..12), always: bool, worst: bool
        ) {
            let process = DecisionProcess { always_compare_med: always, med_missing_worst: worst, ..DecisionProcess::default() };
            routes.sort_by_key(|c| (c.exit, c.path_id));
            routes.dedup_by_key(|c| (c.exit, c.path_id));
            // One exit per route, so that none is left out of the ranking.
            for (index, route) in routes.iter_mut().enumerate() {
                route.exit = ExitId(u16::try_from(index).unwrap());
            }
            let order = ranked(routes.clone(), process);
            prop_assert_eq!(order.len(), routes.len());
            for (place, candidate) in order.iter().enumerate() {
                prop_assert_eq!(*candidate, naive_best(order[place..].to_vec(), process));
            }
            let mut turned = routes.clone();
            turned.reverse();
            prop_assert_eq!(ranked(turned, process), order);
        }
    }
}
