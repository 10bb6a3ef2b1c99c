//! Single prefixes of a tenth of all traffic, and prices that differ by whole steps, as real tables have them: where the
//! largest go decides, and around a choice there is nobody for long stretches of price.

use super::*;

/// Per Mbit/s for each AS that a path is longer than the shortest.
const HOP: f64 = 0.02;
const FIRST: [f64; 8] = [0.60, 0.45, 0.50, 0.30, 0.20, 0.65, 0.70, 0.35];

/// Popularity by Zipf with exponent 1 over equal ports; paths of one AS more or less; at home where the path is shortest,
/// of equals at the first.
fn zipf(prefixes: u32, exits: usize, load: f64, seed: u64) -> Case {
    let mut dice = Dice::new(seed);
    let whole: f64 = (1..=prefixes).map(|rank| 1.0 / f64::from(rank)).sum();
    let limit = 100e9 / load / f64::from(u32::try_from(exits).unwrap());
    let node = |at: usize| Node {
        name: format!("exit {at}"),
        limit_bps: limit,
        ceiling_bps: f64::INFINITY,
        base_bps: 0.0,
        tiers: vec![
            Tier { up_to_bps: Some(limit / 2.0), price_per_mbps: FIRST[at] },
            Tier { up_to_bps: None, price_per_mbps: 1.5 * FIRST[at] },
        ],
        group: None,
    };
    let one = |rank: u32| {
        let hops: Vec<usize> = (0..exits).map(|_| dice.below(3)).collect();
        let least = *hops.iter().min().unwrap();
        let penalty = |hops: usize| HOP * f64::from(u32::try_from(hops - least).unwrap());
        let route = |(exit, hops): (usize, &usize)| Route { exit, penalty_per_mbps: penalty(*hops) };
        let home = hops.iter().position(|hops| *hops == least).unwrap();
        let rate = (100e9 / whole / f64::from(rank)).round();
        One { rate, current: Some(home), home, routes: hops.iter().enumerate().map(route).collect() }
    };
    Case {
        prefixes: (1..=prefixes).map(one).collect(),
        exits: (0..exits).map(node).collect(),
        groups: Vec::new(),
        prices: Prices { move_per_mbps: 0.01, ..Prices::default() },
        rules: Rules::default(),
    }
}

#[test]
fn what_fits_is_relieved_wherever_the_giants_go() {
    for (exits, load) in [(8, 0.5), (8, 0.7), (8, 0.85), (8, 0.95), (6, 0.5), (6, 0.7), (6, 0.85), (6, 0.95)]
    {
        for seed in 0..2 {
            let case = zipf(6_000, exits, load, seed);
            let model = case.model();
            let plan = solve(&model, None, None);
            case.judged(&model, &plan, &format!("{exits} exits, load {load}, seed {seed}"));
            let claim = &plan.certificate;
            // A hundred-thousandth of the traffic is the size of the prefixes that are left to rounding. That a giant is
            // whole costs something, and prices do not know.
            assert!(
                claim.costs.overload_bps <= 1e-5 * 100e9 && claim.gap() <= 1e-2 * claim.bound,
                "{exits} exits, load {load}, seed {seed}: {claim:?}"
            );
            assert!(claim.stay_overload_bps > 1e9, "nothing to relieve");
        }
    }
}

#[test]
fn an_exit_lost_is_made_up_for_from_where_the_giants_were() {
    let before = zipf(6_000, 8, 0.7, 40);
    let placed = solve(&before.model(), None, None);
    for lost in 0..8_u16 {
        let mut case = before.clone();
        for (one, exit) in case.prefixes.iter_mut().zip(&placed.exits) {
            one.routes.retain(|route| route.exit != usize::from(lost));
            one.current = Some(usize::from(*exit)).filter(|_| *exit != lost);
            one.home = if one.home == usize::from(lost) { one.routes[0].exit } else { one.home };
        }
        let model = case.model();
        let plan = solve(&model, Some(&placed.warm), None);
        case.judged(&model, &plan, &format!("{lost} lost"));
        let claim = &plan.certificate;
        assert!(claim.costs.overload_bps <= 1e-4 * 100e9, "{lost} lost: {claim:?}");
    }
}
