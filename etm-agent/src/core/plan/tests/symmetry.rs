//! What must not matter to a plan: the order of its inputs, their scale, and room that is worth nothing.

use super::*;

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
