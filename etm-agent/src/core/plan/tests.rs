//! The solver against a general LP solver, against enumeration, and against what must hold of any plan.

use super::model::{Demand, Model, Node, Prices, Route, Rules, Tier};
use super::solve::{Budget, solve};
use super::{Plan, Verdict};
use crate::core::plan_check::{Stated, check, proved};
use microlp::{ComparisonOp, OptimizationDirection, Problem};
use std::cell::Cell;
use std::time::Duration;

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

/// The same problem with everything in another place, and where each prefix and exit went.
fn turned(case: &Case, dice: &mut Dice) -> (Case, Vec<usize>, Vec<usize>) {
    let mut order = |count: usize| {
        let mut order: Vec<usize> = (0..count).collect();
        (1..count).rev().for_each(|at| order.swap(at, dice.below(at + 1)));
        order
    };
    let (rows, exits, groups) =
        (order(case.prefixes.len()), order(case.exits.len()), order(case.groups.len()));
    let place = |order: &[usize], old: usize| order.iter().position(|at| *at == old).unwrap();
    let moved = |node: &Node| Node { group: node.group.map(|group| place(&groups, group)), ..node.clone() };
    let one = |one: &One| One {
        rate: one.rate,
        current: one.current.map(|exit| place(&exits, exit)),
        home: place(&exits, one.home),
        routes: one
            .routes
            .iter()
            .rev()
            .map(|route| Route { exit: place(&exits, route.exit), ..*route })
            .collect(),
    };
    let turned = Case {
        exits: exits.iter().map(|at| moved(&case.exits[*at])).collect(),
        groups: groups.iter().map(|at| moved(&case.groups[*at])).collect(),
        prefixes: rows.iter().map(|at| one(&case.prefixes[*at])).collect(),
        ..case.clone()
    };
    (turned, rows, exits)
}

#[test]
fn permuting_prefixes_exits_and_groups_changes_nothing_but_the_order() {
    let (mut same, mut all) = (0, 0);
    for seed in 0..20 {
        let case = case(Kind::Groups, 200, 4, 900 + seed);
        // The order of routes inside a prefix matters to nobody.
        let mut reversed = case.clone();
        reversed.prefixes.iter_mut().for_each(|one| one.routes.reverse());
        let plan = solve(&case.model(), None, None);
        assert_eq!(plan, solve(&reversed.model(), None, None));
        // Elsewhere sums are made in another order, and where rounding to whole prefixes ends may depend on it: the bound
        // is the same to rounding, the cost within the gap, and nearly every prefix goes the same way.
        let (other, rows, exits) = turned(&case, &mut Dice::new(seed + 1));
        let model = other.model();
        let moved = solve(&model, None, None);
        other.judged(&model, &moved, &format!("turned {seed}"));
        let (first, second) = (&plan.certificate, &moved.certificate);
        let scale = first.bound.abs();
        assert!((first.stay - second.stay).abs() <= 1e-9 * scale, "{} {}", first.stay, second.stay);
        assert!(
            (first.bound_by_prices - second.bound_by_prices).abs() <= 1e-5 * scale,
            "{} {}",
            first.bound_by_prices,
            second.bound_by_prices
        );
        let gap = first.gap().max(second.gap()) + 1e-9 * scale;
        assert!((first.costs.objective - second.costs.objective).abs() <= gap, "{first:?} {second:?}");
        for (at, row) in rows.iter().enumerate() {
            same += usize::from(usize::from(plan.exits[*row]) == exits[usize::from(moved.exits[at])]);
            all += 1;
        }
    }
    assert!(same * 100 >= all * 97, "{same} of {all} go the same way");
}

#[test]
fn without_ties_and_without_rounding_to_do_a_permutation_leaves_every_prefix_where_it_was() {
    for seed in 0..20 {
        let mut case = case(Kind::Groups, 300, 4, 940 + seed);
        // Room for all: each prefix has one cheapest exit, and none is shared out.
        for node in case.exits.iter_mut().chain(&mut case.groups) {
            node.limit_bps *= 20.0;
            node.tiers.truncate(1);
            node.tiers[0].up_to_bps = None;
        }
        let (other, rows, exits) = turned(&case, &mut Dice::new(seed + 1));
        let (plan, moved) = (solve(&case.model(), None, None), solve(&other.model(), None, None));
        for (at, row) in rows.iter().enumerate() {
            assert_eq!(usize::from(plan.exits[*row]), exits[usize::from(moved.exits[at])], "{seed} {row}");
        }
        let (first, second) = (plan.certificate.costs, moved.certificate.costs);
        assert!((first.objective - second.objective).abs() <= 1e-9 * first.objective.abs());
    }
}

#[test]
fn equal_problems_give_plans_equal_to_the_bit() {
    let case = case(Kind::Sticky, 3_000, 5, 77);
    let (first, second) = (solve(&case.model(), None, None), solve(&case.model(), None, None));
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
}

#[test]
fn scaling_rates_and_capacities_scales_the_plan() {
    for kind in [Kind::Plain, Kind::Groups, Kind::OneHuge] {
        let case = case(kind, 500, 4, 31);
        let plan = solve(&case.model(), None, None);
        for factor in [4.0, 3.0] {
            let mut larger = case.clone();
            larger.prefixes.iter_mut().for_each(|one| one.rate *= factor);
            for node in larger.exits.iter_mut().chain(&mut larger.groups) {
                node.limit_bps *= factor;
                for tier in &mut node.tiers {
                    tier.up_to_bps = tier.up_to_bps.map(|end| end * factor);
                }
            }
            let scaled = solve(&larger.model(), None, None);
            let ratio = scaled.certificate.bound / plan.certificate.bound;
            assert!((ratio / factor - 1.0).abs() < 1e-4, "{kind:?} {ratio}");
            if factor == 4.0 {
                // A power of two rounds nothing: every prefix goes the same way.
                assert_eq!(scaled.exits, plan.exits, "{kind:?}");
            }
        }
    }
}

#[test]
fn more_capacity_never_makes_the_bound_worse() {
    let mut better = 0;
    for seed in 0..30 {
        let mut case = case(Kind::Groups, 300, 4, 400 + seed);
        // Short of room, so that room is worth something.
        case.exits.iter_mut().for_each(|exit| exit.limit_bps *= 0.9);
        let price = case.model().overload_per_mbps();
        let mut more = case.clone();
        let at = usize::try_from(seed).unwrap() % 4;
        more.exits[at].limit_bps *= 1.3;
        // What is around it must not be what is short.
        more.groups.iter_mut().for_each(|group| group.limit_bps *= 1.3);
        for case in [&case, &more] {
            assert!((case.model().overload_per_mbps() - price).abs() < 1e-9);
        }
        let (before, after) = (solve(&case.model(), None, None), solve(&more.model(), None, None));
        let (before, after) = (before.certificate, after.certificate);
        // As far as bounds are exact: no further above the best there is than the plan that proves so.
        assert!(after.bound_by_prices <= before.bound_by_prices * (1.0 + 2e-6), "{before:?} {after:?}");
        assert!(
            after.bound <= before.costs.objective * (1.0 + 1e-9),
            "an old plan is a plan with more room too"
        );
        assert!(after.overload_bound_bps <= before.costs.overload_bps * (1.0 + 1e-9));
        better += usize::from(after.bound_by_prices < before.bound_by_prices * 0.99);
    }
    assert!(better >= 20, "room was worth something in {better} of 30");
}

#[test]
fn a_plan_that_saves_less_than_the_least_saving_is_not_applied() {
    let mut roomy = case(Kind::Plain, 300, 4, 12);
    roomy.exits.iter_mut().for_each(|exit| exit.limit_bps *= 10.0);
    roomy.prefixes.iter_mut().for_each(|one| one.current = one.current.or(Some(one.home)));
    roomy.prefixes.iter_mut().for_each(|one| {
        if !one.routes.iter().any(|route| Some(route.exit) == one.current) {
            one.current = Some(one.routes[0].exit);
        }
    });
    let free = solve(&roomy.model(), None, None);
    assert_eq!(free.verdict, Verdict::Apply);
    let saving = free.certificate.stay - free.certificate.costs.objective;
    assert!(saving > 0.0);
    for (share, verdict) in [(0.5, Verdict::Apply), (1.5, Verdict::TooLittle)] {
        roomy.rules.min_saving = saving * share;
        let plan = solve(&roomy.model(), None, None);
        assert_eq!(plan.verdict, verdict);
        assert_eq!(plan.certificate.costs.moved_prefixes > 0, verdict == Verdict::Apply);
        let model = roomy.model();
        roomy.judged(&model, &plan, "min saving");
    }
}

/// Rounds like a controller's, with demand that wavers: how often a prefix made a move that it had made before,
/// and how many moves there were, in the first half and in the second.
fn wavering(mut case: Case, headroom: f64, rounds: usize, seed: u64) -> (usize, [usize; 2]) {
    let spread = case.model().spread_per_mbps();
    let calm = Prices {
        overload_per_mbps: Some(100.0 * spread),
        move_per_mbps: 0.024,
        move_per_prefix: 0.0,
        hold_per_prefix: 0.001,
    };
    // Relief moves as little as it can; money does not matter then.
    let haste = 10.0 * (spread + calm.move_per_mbps);
    let relief = Prices { overload_per_mbps: Some(100.0 * haste), move_per_mbps: haste, ..calm };
    case.rules.min_saving_share = 0.005;
    for one in &mut case.prefixes {
        one.current = Some(one.home);
    }
    let rates: Vec<f64> = case.prefixes.iter().map(|one| one.rate).collect();
    let limits: Vec<f64> = case.exits.iter().map(|exit| exit.limit_bps).collect();
    let mut dice = Dice::new(seed);
    let mut made: Vec<Vec<(Option<usize>, usize)>> = rates.iter().map(|_| Vec::new()).collect();
    let (mut warm, mut again, mut moves) = (None, 0, [0; 2]);
    for round in 0..rounds {
        for (one, rate) in case.prefixes.iter_mut().zip(&rates) {
            one.rate = (rate * (0.97 + 0.06 * dice.unit())).round();
        }
        let mut stay = vec![0.0; limits.len()];
        for one in &case.prefixes {
            stay[one.current.unwrap()] += one.rate;
        }
        let over = stay.iter().zip(&limits).any(|(stay, limit)| stay > limit);
        case.prices = if over { relief } else { calm };
        // Receivers are filled to limit minus headroom only; who is above it already may stay there.
        for ((exit, limit), stay) in case.exits.iter_mut().zip(&limits).zip(&stay) {
            exit.ceiling_bps = (limit * (1.0 - headroom)).max(*stay);
        }
        let model = case.model();
        // So many looks at the clock: what a round may cost, and enough for all but the last of the gap.
        let looks = Cell::new(0_u64);
        let elapsed = || {
            looks.set(looks.get() + 1);
            Duration::from_millis(looks.get())
        };
        let budget = Budget { elapsed: &elapsed, limit: Duration::from_millis(1_000) };
        let plan = solve(&model, warm.as_ref(), Some(budget));
        case.judged(&model, &plan, "noise");
        warm = Some(plan.warm.clone());
        for ((one, exit), made) in case.prefixes.iter_mut().zip(&plan.exits).zip(&mut made) {
            let exit = usize::from(*exit);
            if one.current != Some(exit) {
                let step = (one.current, exit);
                again += usize::from(made.contains(&step));
                moves[2 * round / rounds] += 1;
                made.push(step);
                one.current = Some(exit);
            }
        }
    }
    (again, moves)
}

/// Each is a problem solved and judged.
const ROUNDS: usize = 1_000;

#[test]
fn noise_makes_no_prefix_go_back_and_forth() {
    let mut all = 0;
    // The last has no room to spare: all limits together, less headroom, are just above the traffic.
    for (prefixes, room, headroom, seed) in
        [(200, 1.1, 0.07, 4711), (60, 1.0, 0.03, 42), (60, 0.98, 0.07, 43)]
    {
        let mut case = case(Kind::Plain, prefixes, 3, seed);
        case.exits.iter_mut().for_each(|exit| exit.limit_bps *= room);
        let (again, moves) = wavering(case, headroom, ROUNDS, seed);
        assert_eq!(again, 0, "{prefixes} prefixes, room {room}, headroom {headroom}: {moves:?} moves");
        assert!(moves[1] <= 8, "in the end hardly anything moves: {moves:?}");
        all += moves[0];
    }
    assert!(all > 0, "something moves at first");
}

#[test]
fn a_budget_that_is_spent_gives_the_best_plan_so_far_with_an_honest_gap() {
    let case = case(Kind::Groups, 6_000, 5, 21);
    let model = case.model();
    let free = solve(&model, None, None);
    assert!(!free.certificate.expired);
    let mut last = 0;
    for most in [0, 1, 5, 20, 80] {
        let asked = Cell::new(0_u64);
        let elapsed = || {
            asked.set(asked.get() + 1);
            Duration::from_millis(asked.get())
        };
        let budget = Budget { elapsed: &elapsed, limit: Duration::from_millis(most) };
        let plan = solve(&model, None, Some(budget));
        case.judged(&model, &plan, &format!("{most} looks at the clock"));
        assert!(plan.certificate.expired);
        assert!(plan.certificate.bound <= free.certificate.costs.objective * (1.0 + 1e-9));
        assert!(asked.get() >= last, "more time is used where there is more");
        assert!(asked.get() <= most + 40, "{} looks for {most}", asked.get());
        last = asked.get();
    }
}

#[test]
fn an_overload_price_that_would_not_come_first_is_refused_by_name() {
    let mut case = case(Kind::Plain, 50, 3, 8);
    let all = case.exits.iter().flat_map(|exit| &exit.tiers).map(|tier| tier.price_per_mbps);
    let (low, high) =
        all.fold((f64::INFINITY, 0.0_f64), |(low, high), price| (low.min(price), high.max(price)));
    for (price, good) in
        [(0.5 * (high - low), false), (5.0 * (high - low), false), (11.0 * (high - low), true)]
    {
        case.prices.overload_per_mbps = Some(price);
        let mut model = Model::new(case.exits.clone(), Vec::new(), case.prices, case.rules).unwrap();
        let routes: Vec<Route> = (0..3).map(|exit| Route { exit, penalty_per_mbps: 0.0 }).collect();
        let demand =
            Demand { rate_bps: 1e6, current: None, home: 0, pin: None, routes: &routes, excluded: &[] };
        model.push(&demand).unwrap();
        let made = model.finish();
        assert_eq!(made.is_ok(), good, "{price} for a spread of {}", high - low);
        if let Err(error) = made {
            assert!(error.to_string().contains("relief would not come first"), "{error}");
        }
    }
}

#[test]
fn caps_on_moves_and_moved_traffic_hold_and_the_most_useful_moves_come_first() {
    for seed in 0..10 {
        let mut capped = case(Kind::Plain, 200, 4, 60 + seed);
        let free = solve(&capped.model(), None, None);
        assert!(free.certificate.costs.moved_prefixes > 40);
        let mut last = f64::INFINITY;
        for cap in [0, 10, 40] {
            capped.rules.max_moves = Some(cap);
            let model = capped.model();
            let plan = solve(&model, None, None);
            capped.judged(&model, &plan, &format!("seed {seed} cap {cap}"));
            assert!(plan.certificate.costs.objective <= last);
            last = plan.certificate.costs.objective;
        }
        capped.rules.max_moves = None;
        capped.rules.max_moved_bps = Some(0.1 * capped.prefixes.iter().map(|one| one.rate).sum::<f64>());
        let model = capped.model();
        let plan = solve(&model, None, None);
        capped.judged(&model, &plan, &format!("seed {seed} cap on traffic"));
    }
}

#[test]
fn splitting_where_it_is_allowed_reaches_the_bound() {
    for seed in 0..10 {
        let mut case = case(Kind::OneHuge, 50, 4, 200 + seed);
        case.rules.allow_split = true;
        let model = case.model();
        let plan = solve(&model, None, None);
        case.judged(&model, &plan, "split");
        let claim = &plan.certificate;
        assert!(
            claim.gap() <= 5e-3 * claim.bound.abs(),
            "seed {seed}: gap {} of {}",
            claim.gap(),
            claim.bound
        );
    }
}

#[test]
fn what_the_checker_proves_by_itself_is_true_and_most_of_what_is_claimed() {
    let (mut claimed, mut found, mut strengthened) = (0.0, 0.0, 0);
    for kind in KINDS {
        for round in 0..25 {
            let case = case(kind, 2 + round % 7, 3, 8_000 + u64::try_from(round).unwrap());
            let model = case.model();
            let plan = solve(&model, None, None);
            let best = case.enumerated(model.overload_per_mbps());
            let demands = case.demands();
            let stated = Stated {
                exits: &case.exits,
                groups: &case.groups,
                prices: &case.prices,
                rules: &case.rules,
                overload_per_mbps: model.overload_per_mbps(),
                demands: &demands,
            };
            let (proof, claim) = (proved(&stated, &plan), &plan.certificate);
            let size = 1e-7 * (1.0 + best.abs());
            assert!(proof.bound <= claim.bound && proof.bound <= best + size, "{kind:?} {round}: {proof:?}");
            assert!(proof.bound >= claim.bound_by_prices - size, "{kind:?} {round}: {proof:?} {claim:?}");
            assert!(proof.overload_bps <= claim.overload_bound_bps, "{kind:?} {round}: {proof:?} {claim:?}");
            assert!(proof.overload_bps >= 0.0);
            if claim.bound > claim.bound_by_prices + size {
                strengthened += 1;
                claimed += (claim.bound - claim.bound_by_prices) / claim.bound;
                found += (proof.bound - claim.bound_by_prices) / claim.bound;
            }
        }
    }
    assert!(strengthened > 50, "{strengthened}");
    assert!(found > 0.2 * claimed, "{found} of {claimed}");
}

type Bend = fn(&mut Plan);

#[test]
fn the_checker_vetoes_whatever_is_bent() {
    let case = case(Kind::Groups, 100, 4, 9);
    let model = case.model();
    let plan = solve(&model, None, None);
    let demands = case.demands();
    let stated = Stated {
        exits: &case.exits,
        groups: &case.groups,
        prices: &case.prices,
        rules: &case.rules,
        overload_per_mbps: model.overload_per_mbps(),
        demands: &demands,
    };
    let bends: [(&str, Bend); 9] = [
        ("a prefix on another exit", |plan| plan.exits[0] = (plan.exits[0] + 1) % 4),
        ("a prefix less", |plan| plan.exits.truncate(1)),
        ("an objective", |plan| plan.certificate.costs.objective *= 0.99),
        ("a cost of staying", |plan| plan.certificate.stay *= 1.01),
        ("a bound above the objective", |plan| {
            plan.certificate.bound = plan.certificate.costs.objective * 1.01;
        }),
        ("a bound that prices do not prove", |plan| plan.certificate.bound_by_prices *= 1.01),
        ("a load", |plan| plan.loads[0] += 1e6),
        ("a bound of overload", |plan| plan.certificate.overload_bound_bps += 1e9),
        ("no number at all", |plan| plan.certificate.bound = f64::NAN),
    ];
    for (what, bend) in bends {
        let mut bent = plan.clone();
        bend(&mut bent);
        assert_ne!(check(&stated, &bent), [], "{what}");
    }
}

#[test]
fn equal_prefixes_go_where_they_fit_whole_and_no_further() {
    let node = |base_bps: f64, limit_bps: f64, ceiling_bps: f64| Node {
        name: String::new(),
        limit_bps,
        ceiling_bps,
        base_bps,
        tiers: Vec::new(),
        group: None,
    };
    let route = |exit: usize| Route { exit, penalty_per_mbps: 0.01 * f64::from(u8::try_from(exit).unwrap()) };
    let one = One { rate: 6e6, current: Some(0), home: 0, routes: (0..3).map(route).collect() };
    let case = Case {
        exits: vec![node(0.0, 44e6, 72e6), node(0.0, 45e6, 21.25e6), node(42e6, 45e6, 42.25e6)],
        groups: Vec::new(),
        prices: Prices { overload_per_mbps: Some(100.0), move_per_mbps: 1.0, ..Prices::default() },
        rules: Rules::default(),
        prefixes: vec![one; 12],
    };
    let model = case.model();
    let plan = solve(&model, None, None);
    case.judged(&model, &plan, "twelve of six");
    assert_eq!(plan.exits.iter().filter(|exit| **exit == 1).count(), 3, "{:?}", plan.exits);
    assert_eq!(plan.exits.iter().filter(|exit| **exit == 2).count(), 0);
}
