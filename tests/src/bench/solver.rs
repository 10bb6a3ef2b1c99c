//! How long a plan takes and how far from the optimum it can be. Never touches the network: numbers in, numbers out.
//!
//! Generator: volumes by Pareto with exponent `alpha`, clipped to `largest` of the total (regular 1.16 and 1 %, heavy
//! 0.9 and 20 %); each exit has a route for a prefix with chance 0.6; limits vary by three and sum to the traffic
//! divided by `load`; contracts of two tiers, half as dear again above half the limit; penalties up to 0.5 per Mbit/s
//! on every route; each prefix starts on one of its exits and moving costs 0.05 per Mbit/s. Groups hold neighbouring
//! exits, may carry 97 % of what these may, and charge a price of their own. Warm: 2 % of the rates change by up to
//! half. One thread; the middle and the best of several runs.

use super::BenchOptions;
use crate::error::LabError;
use etm_agent::core::plan::model::{Demand, Model, ModelError, Node, Prices, Route, Rules, Tier};
use etm_agent::core::plan::solve::solve;
use serde_json::json;
use std::time::Instant;

/// Every instance is made from this seed, the warm one from the next.
const SEED: u64 = 7;
const SIZES: [(usize, usize, usize); 5] =
    [(20_000, 4, 0), (50_000, 8, 0), (200_000, 8, 0), (1_000_000, 8, 0), (50_000, 64, 16)];
const LOADS: [f64; 2] = [0.85, 0.95];
const TOTAL_BPS: f64 = 1e12;

struct Tail {
    name: &'static str,
    alpha: f64,
    largest: f64,
}

const TAILS: [Tail; 2] =
    [Tail { name: "regular", alpha: 1.16, largest: 0.01 }, Tail { name: "heavy", alpha: 0.9, largest: 0.2 }];

/// Runs all sizes.
pub(super) fn run(options: &BenchOptions) -> Result<(), LabError> {
    for tail in &TAILS {
        for (prefixes, exits, groups) in SIZES {
            for load in LOADS {
                // The largest once is enough to wait for.
                if tail.name == "regular" || prefixes <= 200_000 {
                    options.show(&row(tail, (prefixes, exits, groups), load)?);
                }
            }
        }
    }
    Ok(())
}

fn row(tail: &Tail, size: (usize, usize, usize), load: f64) -> Result<serde_json::Value, LabError> {
    let failed = |source: ModelError| LabError::Instance { source };
    let first = instance(tail, size, load, None).map_err(failed)?;
    let second = instance(tail, size, load, Some(SEED + 1)).map_err(failed)?;
    let runs = if size.0 > 200_000 || size.1 > 8 || tail.name == "heavy" { 3 } else { 7 };
    let plan = solve(&first, None, None);
    let (ms_cold, ms_cold_best) = times(runs, || drop(solve(&first, None, None)));
    let (ms_warm, ms_warm_best) = times(runs, || drop(solve(&second, Some(&plan.warm), None)));
    let claim = &plan.certificate;
    let warm = solve(&second, Some(&plan.warm), None).certificate;
    Ok(json!({
        "bench": "solver",
        "prefixes": size.0,
        "exits": size.1,
        "groups": size.2,
        "load": load,
        "tail": tail.name,
        "seed": SEED,
        "ms_cold": ms_cold,
        "ms_warm": ms_warm,
        "ms_cold_best": ms_cold_best,
        "ms_warm_best": ms_warm_best,
        "warm_of_cold": ms_warm / ms_cold,
        "gap_ratio": claim.gap() / claim.bound,
        "gap_ratio_warm": warm.gap() / warm.bound,
        "overload_bps": claim.costs.overload_bps,
        "overload_bound_bps": claim.overload_bound_bps,
        "traffic_bps": TOTAL_BPS,
        "largest_bps": first.largest_bps(),
    }))
}

/// The middle and the best of several runs.
fn times(runs: usize, mut run: impl FnMut()) -> (f64, f64) {
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let begin = Instant::now();
            run();
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

/// Xorshift: the same numbers everywhere, without a dependency.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..10 {
            dice.unit();
        }
        dice
    }

    /// Below 1.
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap_or(0)) / 4_294_967_296.0
    }

    fn below(&mut self, count: usize) -> usize {
        let bits = usize::try_from(self.0 >> 24).unwrap_or(0);
        self.unit();
        bits % count
    }
}

fn volumes(dice: &mut Dice, tail: &Tail, count: usize) -> Vec<f64> {
    let mut volumes: Vec<f64> = (0..count).map(|_| (1.0 - dice.unit()).powf(-1.0 / tail.alpha)).collect();
    loop {
        let most = tail.largest * volumes.iter().sum::<f64>();
        let clipped = volumes.iter_mut().filter(|volume| **volume > most * 1.0001);
        if clipped.map(|volume| *volume = most).count() == 0 {
            break;
        }
    }
    let sum: f64 = volumes.iter().sum();
    volumes.iter().map(|volume| (volume / sum * TOTAL_BPS).round()).collect()
}

fn nodes(dice: &mut Dice, exits: usize, groups: usize, load: f64) -> (Vec<Node>, Vec<Node>) {
    let node = |name: String, limit_bps: f64, tiers: Vec<Tier>, group: Option<usize>| Node {
        name,
        limit_bps,
        ceiling_bps: f64::INFINITY,
        base_bps: 0.0,
        tiers,
        group,
    };
    let weights: Vec<f64> = (0..exits).map(|_| 0.5 + dice.unit()).collect();
    let sum: f64 = weights.iter().sum();
    let mut inside = vec![0.0; groups];
    let mut exit = |(at, weight): (usize, &f64)| {
        let limit = weight / sum * TOTAL_BPS / load;
        let price = 0.2 + 1.8 * dice.unit();
        let group = (groups > 0).then(|| at * groups / exits);
        if let Some(group) = group {
            inside[group] += limit;
        }
        let tiers = vec![
            Tier { up_to_bps: Some(limit * 0.5), price_per_mbps: price },
            Tier { up_to_bps: None, price_per_mbps: price * 1.5 },
        ];
        node(format!("exit {at}"), limit, tiers, group)
    };
    let exit_nodes = weights.iter().enumerate().map(&mut exit).collect();
    let group = |(at, limit): (usize, &f64)| {
        let tiers = vec![Tier { up_to_bps: None, price_per_mbps: 0.3 * dice.unit() }];
        node(format!("group {at}"), limit * 0.97, tiers, None)
    };
    (exit_nodes, inside.iter().enumerate().map(group).collect())
}

fn instance(
    tail: &Tail,
    size: (usize, usize, usize),
    load: f64,
    changed: Option<u64>,
) -> Result<Model, ModelError> {
    let (prefixes, exits, groups) = size;
    let mut dice = Dice::new(SEED);
    let volumes = volumes(&mut dice, tail, prefixes);
    let (exit_nodes, group_nodes) = nodes(&mut dice, exits, groups, load);
    let prices = Prices { move_per_mbps: 0.05, ..Prices::default() };
    let mut model = Model::new(exit_nodes, group_nodes, prices, Rules::default())?;
    let mut changes = changed.map(Dice::new);
    let mut routes: Vec<Route> = Vec::with_capacity(exits);
    for mut rate_bps in volumes {
        routes.clear();
        for exit in 0..exits {
            if dice.unit() < 0.6 {
                routes.push(Route { exit, penalty_per_mbps: 0.5 * dice.unit() });
            }
        }
        if routes.is_empty() {
            routes.push(Route { exit: dice.below(exits), penalty_per_mbps: 0.0 });
        }
        let home = routes[dice.below(routes.len())].exit;
        if let Some(changes) = &mut changes
            && changes.unit() < 0.02
        {
            rate_bps = (rate_bps * (0.5 + changes.unit())).round();
        }
        let demand =
            Demand { rate_bps, current: Some(home), home, pin: None, routes: &routes, excluded: &[] };
        model.push(&demand)?;
    }
    model.finish()
}
