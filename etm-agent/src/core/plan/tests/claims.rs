//! What plans claim: splits that reach the bound, what the checker proves by itself, and what it vetoes.

use super::*;

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
