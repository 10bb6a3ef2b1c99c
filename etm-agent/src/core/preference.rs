//! Which of several routes to one prefix plain BGP prefers (RFC 4271 section 9.1.2), and what decided.
//! Never looks at load: preference is routing's, not ETM's.

use crate::types::{ExitId, PathId, PeerId, RouteAttrs};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::sync::Arc;

/// A feasible route through a known exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it leaves.
    pub exit: ExitId,
    /// Session it was learnt on.
    pub peer: PeerId,
    /// RFC 7911.
    pub path_id: PathId,
    /// Its attributes.
    pub attrs: Arc<RouteAttrs>,
}

/// The step of the Decision Process that told two routes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecidedBy {
    /// Degree of preference (section 9.1.1).
    LocalPref,
    /// Section 9.1.2.2 a.
    AsPathLength,
    /// Section 9.1.2.2 b.
    Origin,
    /// Section 9.1.2.2 c, between routes of the same neighbouring AS.
    Med,
    /// Nothing of the above: lowest next hop, session and path id, so that the order is always the same.
    Tie,
}

impl DecidedBy {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            DecidedBy::LocalPref => "LOCAL_PREF",
            DecidedBy::AsPathLength => "AS_PATH length",
            DecidedBy::Origin => "ORIGIN",
            DecidedBy::Med => "MED",
            DecidedBy::Tie => "the tie-break (lowest next hop)",
        }
    }
}

/// Order of two candidates, the preferred one first, with the step that decided.
pub fn compare(a: &Candidate, b: &Candidate) -> (Ordering, DecidedBy) {
    let (x, y) = (&a.attrs, &b.attrs);
    let same_neighbour = x.as_path.first() == y.as_path.first();
    let steps = [
        (y.local_pref.cmp(&x.local_pref), DecidedBy::LocalPref),
        (x.as_path.hops().cmp(&y.as_path.hops()), DecidedBy::AsPathLength),
        (x.origin.cmp(&y.origin), DecidedBy::Origin),
        (
            if same_neighbour { x.med.unwrap_or(0).cmp(&y.med.unwrap_or(0)) } else { Ordering::Equal },
            DecidedBy::Med,
        ),
    ];
    for (order, step) in steps {
        if order != Ordering::Equal {
            return (order, step);
        }
    }
    ((x.next_hop, a.peer, a.path_id).cmp(&(y.next_hop, b.peer, b.path_id)), DecidedBy::Tie)
}

/// The best candidate of each exit, the most preferred exit first.
pub fn ranked(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut best: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        match best.iter_mut().find(|known| known.exit == candidate.exit) {
            Some(known) if compare(&candidate, known).0 == Ordering::Less => *known = candidate,
            Some(_) => {}
            None => best.push(candidate),
        }
    }
    // MED is not transitive between different neighbours (RFC 4451): a sort could depend on the order of
    // arrival, so each place is given to the winner of a comparison with all that remain.
    let mut order = Vec::with_capacity(best.len());
    best.sort_by_key(|candidate| (candidate.exit, candidate.peer, candidate.path_id));
    while !best.is_empty() {
        let mut winner = 0;
        for index in 1..best.len() {
            if compare(&best[index], &best[winner]).0 == Ordering::Less {
                winner = index;
            }
        }
        order.push(best.remove(winner));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{AsPath, Origin};

    fn route(exit: u16, change: impl FnOnce(&mut RouteAttrs)) -> Candidate {
        let mut attrs = RouteAttrs::to_next_hop(format!("10.0.{exit}.1").parse().unwrap());
        attrs.as_path = AsPath::sequence([64600 + u32::from(exit), 65000]);
        change(&mut attrs);
        Candidate {
            exit: ExitId(exit),
            peer: PeerId(0),
            path_id: PathId(u32::from(exit)),
            attrs: Arc::new(attrs),
        }
    }

    #[test]
    fn each_step_decides_when_all_before_it_are_equal() {
        let cases: [(&str, Candidate, Candidate, DecidedBy); 5] = [
            ("higher LOCAL_PREF", route(2, |a| a.local_pref = 200), route(1, |_| ()), DecidedBy::LocalPref),
            (
                "shorter AS_PATH",
                route(2, |_| ()),
                route(1, |a| a.as_path = AsPath::sequence([64601, 1, 65000])),
                DecidedBy::AsPathLength,
            ),
            (
                "better ORIGIN",
                route(2, |_| ()),
                route(1, |a| a.origin = Origin::Incomplete),
                DecidedBy::Origin,
            ),
            (
                "lower MED of one neighbouring AS",
                route(2, |a| a.med = Some(5)),
                route(1, |a| (a.med, a.as_path) = (Some(9), AsPath::sequence([64602, 65000]))),
                DecidedBy::Med,
            ),
            ("lower next hop", route(1, |a| a.med = Some(9)), route(2, |_| ()), DecidedBy::Tie),
        ];
        for (title, winner, loser, step) in cases {
            assert_eq!(compare(&winner, &loser), (Ordering::Less, step), "{title}");
            assert_eq!(compare(&loser, &winner), (Ordering::Greater, step), "{title}, turned round");
        }
    }

    #[test]
    fn ranking_keeps_the_best_route_of_each_exit() {
        let mut second = route(1, |a| a.local_pref = 50);
        second.path_id = PathId(9);
        let order = ranked(vec![second, route(2, |a| a.local_pref = 90), route(1, |_| ())]);
        assert_eq!(
            order.iter().map(|c| (c.exit.0, c.attrs.local_pref)).collect::<Vec<_>>(),
            [(1, 100), (2, 90)]
        );
    }
}
