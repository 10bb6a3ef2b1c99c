//! The least overload that any plan has: a bound of its own, from cuts through exits and groups that the prices point to,
//! and from prefixes that are larger than any exit. Never from a plan.

use super::model::Model;

/// A lower bound of the load above limits (bit/s), summed over exits and groups.
pub(super) fn bound(model: &Model, prices: &[f64]) -> f64 {
    let by_cuts = SHARES.iter().map(|share| of_weights(model, &weights(model, prices, *share)));
    let scaled = of_weights(model, &scaled(model, prices));
    by_cuts.fold(largest_prefix(model).max(scaled), f64::max).max(0.0)
}

/// A node is in the cut if its price is above that of its contract by this share of the price of overload.
const SHARES: [f64; 4] = [0.05, 0.3, 0.6, 0.95];

fn above(model: &Model, node: usize, price: f64) -> f64 {
    let contract = model.nodes[node].tiers.last().map_or(0.0, |tier| tier.price_per_mbps / 1e6);
    if model.overload_price > 0.0 { (price - contract) / model.overload_price } else { 0.0 }
}

fn weights(model: &Model, prices: &[f64], share: f64) -> Vec<f64> {
    let weight = |(node, price)| if above(model, node, price) >= share { 1.0 } else { 0.0 };
    prices[..model.nodes.len()].iter().copied().enumerate().map(weight).collect()
}

fn scaled(model: &Model, prices: &[f64]) -> Vec<f64> {
    let weight = |(node, price)| above(model, node, price).clamp(0.0, 1.0);
    prices[..model.nodes.len()].iter().copied().enumerate().map(weight).collect()
}

/// Overload is at least the sum of `weight * (load - limit)` for weights of at most 1, and each prefix loads at least
/// its cheapest exit by these weights.
fn of_weights(model: &Model, weight: &[f64]) -> f64 {
    let path = |path: &Vec<u16>| path.iter().filter_map(|node| weight.get(usize::from(*node))).sum();
    let column: Vec<f64> = model.paths.iter().map(path).collect();
    let view = model.view(&model.rate);
    let mut least = 0.0;
    for (row, rate) in model.rate.iter().enumerate() {
        let (_, columns, _) = view.row(row);
        least += rate * columns.iter().map(|at| column[usize::from(*at)]).fold(f64::INFINITY, f64::min);
    }
    for (node, weight) in weight.iter().enumerate() {
        if *weight > 0.0 {
            least += weight * (model.base[node] - model.nodes[node].limit_bps);
        }
    }
    least
}

/// A prefix that is larger than the room of any of its exits overloads one of them, unless it may be divided.
fn largest_prefix(model: &Model) -> f64 {
    if model.rules.allow_split {
        return 0.0;
    }
    let room = |path: &Vec<u16>| {
        let room = |node: &u16| {
            let node = usize::from(*node);
            model.nodes.get(node).map_or(f64::INFINITY, |spec| spec.limit_bps - model.base[node])
        };
        path.iter().map(room).fold(f64::INFINITY, f64::min)
    };
    let rooms: Vec<f64> = model.paths.iter().map(room).collect();
    let view = model.view(&model.rate);
    let excess = |(row, rate): (usize, &f64)| {
        let (_, columns, _) = view.row(row);
        let room = columns.iter().map(|at| rooms[usize::from(*at)]).fold(f64::NEG_INFINITY, f64::max);
        rate - room
    };
    model.rate.iter().enumerate().filter(|(_, rate)| **rate > 0.0).map(excess).fold(0.0, f64::max)
}
