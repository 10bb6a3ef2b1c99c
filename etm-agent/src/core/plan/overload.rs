//! The least overload that any plan has: a bound of its own, from cuts through exits and groups that the prices point to,
//! and from prefixes that are large as wholes. Never from a plan.

use super::curve::Curve;
use super::model::Model;
use super::whole::Point;

/// A lower bound of the load above limits (bit/s), summed over exits and groups; `enough` is attained.
pub(super) fn bound(model: &Model, prices: &[f64], enough: f64) -> f64 {
    let limit = |at: usize| model.nodes.get(at).map_or(f64::INFINITY, |node| node.limit_bps);
    let curves: Vec<Curve> =
        (0..model.curves.len()).map(|at| Curve::from_steps(vec![(limit(at), 1.0)])).collect();
    let mut best = 0.0_f64;
    let by_cuts = SHARES.iter().map(|share| weights(model, prices, *share));
    for mut weight in by_cuts.chain([scaled(model, prices), vec![0.0; model.nodes.len()]]) {
        if best >= enough - CLOSE * model.traffic() {
            break;
        }
        let bound = of_weights(model, &weight);
        weight.resize(curves.len(), 0.0);
        let point = Point { curves: &curves, price: &weight, bound, units: false };
        best = best.max(point.strengthened(model, enough));
    }
    best
}

/// True if some node has a price that only overload brings: below it, divisible traffic would fit.
pub(super) fn priced(model: &Model, prices: &[f64]) -> bool {
    (0..model.nodes.len()).any(|node| above(model, node, prices[node]) >= ONLY_OVERLOAD)
}

const ONLY_OVERLOAD: f64 = 0.9;
/// A bound that is so near what is attained, as a part of the traffic, is good enough.
const CLOSE: f64 = 1e-6;

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
