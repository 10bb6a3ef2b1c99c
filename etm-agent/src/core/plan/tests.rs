//! The solver against a general LP solver, against enumeration, and against what must hold of any plan.

use super::model::{Demand, Model, Node, Prices, Route, Rules, Tier};
use super::solve::{Budget, solve};
use super::{Plan, Verdict};
use crate::core::plan_check::{Stated, check, proved};
use microlp::{ComparisonOp, OptimizationDirection, Problem};
use std::cell::Cell;
use std::time::Duration;

mod claims;
mod giants;
mod rules;
mod symmetry;

/// A small generator: the same numbers everywhere.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below 1.
    fn unit(&mut self) -> f64 {
        f64::from(u32::try_from(self.bits() >> 32).unwrap()) / 4_294_967_296.0
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.bits() >> 20).unwrap() % count
    }
}

/// A problem as stated, from which models are made and plans are judged.
#[derive(Clone)]
pub(super) struct Case {
    exits: Vec<Node>,
    groups: Vec<Node>,
    prices: Prices,
    rules: Rules,
    prefixes: Vec<One>,
}

#[derive(Clone)]
struct One {
    rate: f64,
    current: Option<usize>,
    home: usize,
    routes: Vec<Route>,
}

impl Case {
    fn demands(&self) -> Vec<Demand<'_>> {
        let demand = |one: &'_ One| (one.rate, one.current, one.home);
        self.prefixes
            .iter()
            .map(|one| {
                let (rate_bps, current, home) = demand(one);
                Demand { rate_bps, current, home, pin: None, routes: &one.routes, excluded: &[] }
            })
            .collect()
    }

    fn model(&self) -> Model {
        let mut model = Model::new(self.exits.clone(), self.groups.clone(), self.prices, self.rules).unwrap();
        for demand in self.demands() {
            model.push(&demand).unwrap();
        }
        model.finish().unwrap()
    }

    fn judged(&self, model: &Model, plan: &Plan, what: &str) {
        let stated = Stated {
            exits: &self.exits,
            groups: &self.groups,
            prices: &self.prices,
            rules: &self.rules,
            overload_per_mbps: model.overload_per_mbps(),
            demands: &self.demands(),
        };
        assert_eq!(check(&stated, plan), [], "{what}");
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.exits.iter().chain(&self.groups)
    }

    fn path(&self, exit: usize) -> Vec<usize> {
        let mut path = vec![exit];
        let mut group = self.exits[exit].group;
        while let Some(at) = group {
            path.push(self.exits.len() + at);
            group = self.groups[at].group;
        }
        path
    }

    fn constant(&self, one: &One, route: &Route) -> f64 {
        let mbps = one.rate / 1e6;
        let mut cost = route.penalty_per_mbps * mbps;
        if one.current.is_some_and(|current| current != route.exit) {
            cost += self.prices.move_per_mbps * mbps + self.prices.move_per_prefix;
        }
        if one.home != route.exit {
            cost += self.prices.hold_per_prefix;
        }
        cost
    }

    /// The optimum where prefixes may be divided, by a general LP solver.
    fn lp(&self, overload_per_mbps: f64) -> f64 {
        let mut lp = Problem::new(OptimizationDirection::Minimize);
        let mut rows: Vec<Vec<(microlp::Variable, f64)>> = self.nodes().map(|_| Vec::new()).collect();
        for one in &self.prefixes {
            let mut whole = Vec::new();
            for route in &one.routes {
                let share = lp.add_var(self.constant(one, route), (0.0, 1.0));
                whole.push((share, 1.0));
                for node in self.path(route.exit) {
                    rows[node].push((share, one.rate / 1e6));
                }
            }
            lp.add_constraint(&whole, ComparisonOp::Eq, 1.0);
        }
        for (node, mut row) in self.nodes().zip(rows) {
            // Piecewise prices: pieces are filled in order because prices never fall.
            let mut corners: Vec<f64> = node.tiers.iter().filter_map(|tier| tier.up_to_bps).collect();
            corners.extend(Some(node.limit_bps).filter(|limit| limit.is_finite()));
            corners.sort_by(f64::total_cmp);
            let mut from = 0.0;
            for end in corners.into_iter().map(Some).chain([None]) {
                let tier = node.tiers.iter().find(|tier| tier.up_to_bps.is_none_or(|up_to| up_to > from));
                let over = if from >= node.limit_bps { overload_per_mbps } else { 0.0 };
                let price = tier.map_or(0.0, |tier| tier.price_per_mbps) + over;
                let size = end.map_or(f64::INFINITY, |end| (end - from) / 1e6);
                if size > 0.0 {
                    row.push((lp.add_var(price, (0.0, size)), -1.0));
                }
                from = end.unwrap_or(from);
            }
            lp.add_constraint(&row, ComparisonOp::Eq, 0.0);
        }
        lp.solve().unwrap().objective()
    }

    /// The best of all assignments.
    fn enumerated(&self, overload_per_mbps: f64) -> f64 {
        let mut best = f64::INFINITY;
        let mut choice = vec![0; self.prefixes.len()];
        loop {
            let mut loads = vec![0.0; self.exits.len() + self.groups.len()];
            let mut cost = 0.0;
            for (one, at) in self.prefixes.iter().zip(&choice) {
                let route = &one.routes[*at];
                cost += self.constant(one, route);
                self.path(route.exit).into_iter().for_each(|node| loads[node] += one.rate);
            }
            for (node, load) in self.nodes().zip(&loads) {
                cost += overload_per_mbps * (load - node.limit_bps).max(0.0) / 1e6;
                let mut from = 0.0;
                for tier in &node.tiers {
                    let end = tier.up_to_bps.unwrap_or(f64::INFINITY);
                    cost += (load.min(end) - from).max(0.0) / 1e6 * tier.price_per_mbps;
                    from = end;
                }
            }
            best = best.min(cost);
            let Some(at) = (0..choice.len()).find(|at| choice[*at] + 1 < self.prefixes[*at].routes.len())
            else {
                return best;
            };
            choice[..at].fill(0);
            choice[at] += 1;
        }
    }
}

/// What is unusual about a case.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    ZeroRates,
    OneExit,
    Overfull,
    EqualCosts,
    OneHuge,
    Groups,
    Sticky,
}

const KINDS: [Kind; 8] = [
    Kind::Plain,
    Kind::ZeroRates,
    Kind::OneExit,
    Kind::Overfull,
    Kind::EqualCosts,
    Kind::OneHuge,
    Kind::Groups,
    Kind::Sticky,
];

fn case(kind: Kind, prefixes: usize, exits: usize, seed: u64) -> Case {
    let mut dice = Dice::new(seed);
    let exits = if kind == Kind::OneExit { 1 } else { exits };
    let mut rates: Vec<f64> = (0..prefixes).map(|_| (1e6 / (1.0 - dice.unit()).powf(0.86)).round()).collect();
    match kind {
        Kind::ZeroRates => rates.iter_mut().step_by(3).for_each(|rate| *rate = 0.0),
        Kind::OneHuge => rates[0] = rates.iter().sum::<f64>().max(1e6),
        _ => {}
    }
    let total: f64 = rates.iter().sum::<f64>().max(1e6);
    let load = if kind == Kind::Overfull { 3.0 } else { 0.9 };
    let share = total / load / f64::from(u32::try_from(exits).unwrap());
    let same = kind == Kind::EqualCosts;
    let node = |dice: &mut Dice, at: usize| {
        let limit = (share * (0.6 + 0.8 * dice.unit())).round();
        let price = if same { 1.0 } else { 0.2 + 2.0 * dice.unit() };
        let first = Tier { up_to_bps: Some((limit * 0.5).round()), price_per_mbps: price };
        let last = Tier { up_to_bps: None, price_per_mbps: price * if same { 1.0 } else { 1.5 } };
        let group = (kind == Kind::Groups).then_some(at % 2);
        let tiers = vec![first, last];
        Node {
            name: format!("exit {at}"),
            limit_bps: limit,
            ceiling_bps: f64::INFINITY,
            base_bps: 0.0,
            tiers,
            group,
        }
    };
    let exit_nodes: Vec<Node> = (0..exits).map(|at| node(&mut dice, at)).collect();
    let groups = if kind == Kind::Groups {
        // Two ports, the second inside the provider that is the third group.
        (0..3)
            .map(|at| {
                let inside = exit_nodes.iter().filter(|exit| at == 2 || exit.group == Some(at));
                let limit = inside.map(|exit| exit.limit_bps).sum::<f64>() * 0.9;
                let tiers = vec![Tier { up_to_bps: None, price_per_mbps: dice.unit() }];
                let group = (at == 1).then_some(2);
                Node {
                    name: format!("group {at}"),
                    limit_bps: limit,
                    ceiling_bps: f64::INFINITY,
                    base_bps: 0.0,
                    tiers,
                    group,
                }
            })
            .collect()
    } else {
        Vec::new()
    };
    let sticky = kind == Kind::Sticky;
    let prices = Prices {
        overload_per_mbps: None,
        move_per_mbps: if sticky { 0.2 } else { 0.0 },
        move_per_prefix: if sticky { 0.1 } else { 0.0 },
        hold_per_prefix: if sticky { 0.05 } else { 0.0 },
    };
    let one = |(_, rate): (usize, f64)| {
        let mut routes: Vec<Route> = (0..exits)
            .filter(|_| dice.unit() < 0.6)
            .map(|exit| Route { exit, penalty_per_mbps: 0.0 })
            .collect();
        if routes.is_empty() {
            routes.push(Route { exit: dice.below(exits), penalty_per_mbps: 0.0 });
        }
        for route in &mut routes {
            route.penalty_per_mbps = if same || dice.unit() < 0.4 { 0.0 } else { 0.4 * dice.unit() };
        }
        let home = routes[dice.below(routes.len())].exit;
        let current = Some(routes[dice.below(routes.len())].exit).filter(|_| dice.unit() < 0.9);
        One { rate, current, home, routes }
    };
    let prefixes = rates.into_iter().enumerate().map(one).collect();
    Case { exits: exit_nodes, groups, prices, rules: Rules::default(), prefixes }
}

/// Solves, has the plan judged, and holds it against the LP optimum.
fn against_lp(case: &Case, what: &str) {
    let model = case.model();
    let plan = solve(&model, None, None);
    case.judged(&model, &plan, what);
    let lp = case.lp(model.overload_per_mbps());
    let claim = &plan.certificate;
    let size = 1e-7 * (1.0 + lp.abs());
    assert!(claim.bound_by_prices <= lp + size, "{what}: {} above {lp}", claim.bound_by_prices);
    assert!(claim.costs.objective >= lp - size, "{what}: {} below {lp}", claim.costs.objective);
    // Not only true but useful: what prices prove is close to what an LP solver proves.
    assert!(
        claim.bound_by_prices >= lp - 1e-3 * lp.abs() - size,
        "{what}: {} far below {lp}",
        claim.bound_by_prices
    );
}

#[test]
fn the_bound_is_never_above_the_optimum_of_an_lp_solver_and_close_to_it() {
    let mut seed = 0;
    for kind in KINDS {
        for round in 0..40 {
            seed += 1;
            let prefixes = 1 + (round * 7) % 60;
            against_lp(
                &case(kind, prefixes, 2 + round % 4, seed),
                &format!("{kind:?} {prefixes} seed {seed}"),
            );
        }
    }
}

#[test]
fn the_bound_holds_for_two_thousand_prefixes_over_four_exits() {
    for (kind, seed) in [(Kind::Plain, 1001), (Kind::Overfull, 1002), (Kind::Groups, 1003)] {
        against_lp(&case(kind, 2_000, 4, seed), &format!("{kind:?} 2000 seed {seed}"));
    }
    for (round, kind) in KINDS.into_iter().enumerate() {
        let prefixes = 150 + 30 * round;
        against_lp(&case(kind, prefixes, 4, 1_100), &format!("{kind:?} {prefixes} seed 1100"));
    }
}

#[test]
fn in_small_problems_the_strengthened_bound_is_never_above_the_best_assignment_there_is() {
    let (mut exact, mut all) = (0, 0);
    for kind in KINDS {
        for round in 0..25 {
            let seed = 5_000 + round * 8 + u64::try_from(all).unwrap();
            let case = case(kind, 2 + all % 7, 3, seed);
            let model = case.model();
            let plan = solve(&model, None, None);
            case.judged(&model, &plan, &format!("{kind:?} seed {seed}"));
            let best = case.enumerated(model.overload_per_mbps());
            let claim = &plan.certificate;
            let size = 1e-7 * (1.0 + best.abs());
            assert!(claim.bound <= best + size, "{kind:?} seed {seed}: {} above {best}", claim.bound);
            assert!(claim.costs.objective >= best - size, "{kind:?} seed {seed}");
            exact += usize::from(claim.costs.objective <= best + 1e-6 * (1.0 + best.abs()));
            all += 1;
        }
    }
    assert!(exact * 100 >= all * 97, "{exact} of {all} plans are optimal");
}
