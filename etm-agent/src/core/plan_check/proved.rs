//! How much of a certificate's bounds this check can prove again by itself: the dual at the plan's prices, and what prefixes
//! cost beyond their prices because they are whole. Never takes the planner's word for anything beyond that.

use super::{Stated, allowed, climb, constant, money, overload};
use crate::core::plan::Plan;
use crate::core::plan::model::{Demand, Node};

/// What is proved twice. The rest of a bound rests on the planner's search over places of the largest prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Proved {
    /// No plan costs less, currency per month; at most what the certificate claims.
    pub bound: f64,
    /// No plan has less overload, bit/s; at most what the certificate claims.
    pub overload_bps: f64,
}

/// Above its prices by this part of a contract's step to overload, a node is in a cut.
const CUTS: [f64; 4] = [0.05, 0.3, 0.6, 0.95];
/// A difference that is none.
const ROUNDING: f64 = 1e-9;

/// What of the bounds of `plan`, which must have been checked, can be proved again.
pub fn proved(stated: &Stated<'_>, plan: &Plan) -> Proved {
    let claim = &plan.certificate;
    let strengthened = claim.bound > claim.bound_by_prices + ROUNDING * claim.bound.abs();
    let bound = if strengthened {
        let cost = Costing { stated, constants: true };
        let dual = super::dual(stated, &plan.warm.prices);
        (dual + cost.rises(&plan.warm.prices)).max(claim.bound_by_prices).min(claim.bound)
    } else {
        claim.bound
    };
    let overload_bps = if claim.overload_bound_bps > 0.0 {
        least_overload(stated, &plan.warm.prices, claim.overload_bound_bps)
    } else {
        0.0
    };
    Proved { bound, overload_bps }
}

/// The least overload by cuts through the nodes whose prices say that they are short of room.
fn least_overload(stated: &Stated<'_>, prices: &[f64], claimed: f64) -> f64 {
    let bare = |node: &Node| Node { tiers: Vec::new(), ceiling_bps: f64::INFINITY, ..node.clone() };
    let exits: Vec<Node> = stated.exits.iter().map(bare).collect();
    let groups: Vec<Node> = stated.groups.iter().map(bare).collect();
    // One a bit/s, and nothing else costs anything.
    let alone = Stated { exits: &exits, groups: &groups, overload_per_mbps: 1e6, ..*stated };
    let cost = Costing { stated: &alone, constants: false };
    let short = |(node, price): (&Node, &f64)| {
        let tier = node.tiers.last().map_or(0.0, |tier| tier.price_per_mbps);
        ((price * 1e6 - tier) / stated.overload_per_mbps.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    };
    let shares: Vec<f64> = stated.exits.iter().chain(stated.groups).zip(prices).map(short).collect();
    let cuts =
        CUTS.iter().map(|cut| shares.iter().map(|share| f64::from(*share >= *cut)).collect::<Vec<f64>>());
    let mut best = 0.0_f64;
    for weights in cuts.chain([shares.clone(), vec![0.0; shares.len()]]) {
        if best < claimed {
            best = best.max(cost.dual(&weights) + cost.rises(&weights));
        }
    }
    best.min(claimed)
}

/// Costs of nodes and of pairs.
struct Costing<'a> {
    stated: &'a Stated<'a>,
    /// Whether pairs have costs of their own.
    constants: bool,
}

impl Costing<'_> {
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.stated.exits.iter().chain(self.stated.groups)
    }

    /// The least of cost less price times load, at `load` or above, hard limits aside.
    fn least(&self, node: &Node, price: f64, load: f64) -> f64 {
        let one = Stated { exits: std::slice::from_ref(node), groups: &[], ..*self.stated };
        let above = |at: f64| {
            money(&one, &[at]) + self.stated.overload_per_mbps * overload(&one, &[at]) / 1e6 - price * at
        };
        let corners = node.tiers.iter().filter_map(|tier| tier.up_to_bps).chain([node.limit_bps]);
        let corners = corners.filter(|corner| corner.is_finite() && *corner > load);
        corners.map(above).fold(above(load), f64::min)
    }

    fn bases(&self) -> Vec<f64> {
        let mut base = vec![0.0; self.nodes().count()];
        for (at, node) in self.nodes().enumerate() {
            climb(self.stated, at, |above| base[above] += node.base_bps);
        }
        base
    }

    /// What each exit costs a prefix at `prices`.
    fn values(&self, demand: &Demand<'_>, prices: &[f64]) -> Vec<(usize, f64)> {
        let nodes = self.nodes().count();
        let may_stay = demand.current.is_some_and(|current| allowed(demand, current));
        let moving = prices.get(nodes).copied().unwrap_or(0.0).max(0.0);
        let exits = demand.routes.iter().map(|route| route.exit).filter(|exit| allowed(demand, *exit));
        let value = |exit: usize| {
            let mut price = if may_stay && demand.current != Some(exit) { moving } else { 0.0 };
            climb(self.stated, exit, |node| price += prices[node]);
            let constant = if self.constants { constant(self.stated, demand, exit) } else { 0.0 };
            (exit, constant + demand.rate_bps * price)
        };
        exits.map(value).collect()
    }

    /// What no assignment can go below at these prices.
    fn dual(&self, prices: &[f64]) -> f64 {
        let least =
            |values: Vec<(usize, f64)>| values.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
        let rows = self.stated.demands.iter().map(|demand| least(self.values(demand, prices)));
        let base = self.bases();
        let nodes = self
            .nodes()
            .enumerate()
            .map(|(at, node)| prices[at] * base[at] + self.least(node, prices[at], base[at]));
        rows.sum::<f64>() + nodes.sum::<f64>()
    }

    /// A prefix that goes somewhere raises what is on its way by its rate. What a node costs above its price is convex, so
    /// the least rises of all prefixes add up.
    fn rises(&self, prices: &[f64]) -> f64 {
        let nodes = self.nodes().count();
        if self.stated.rules.allow_split || prices.len() < nodes {
            return 0.0;
        }
        let base = self.bases();
        let nodes: Vec<&Node> = self.nodes().collect();
        let calm: Vec<f64> =
            nodes.iter().enumerate().map(|(at, node)| self.least(node, prices[at], base[at])).collect();
        let above =
            |at: usize, rate: f64| (self.least(nodes[at], prices[at], base[at] + rate) - calm[at]).max(0.0);
        let mut sum = 0.0;
        for demand in self.stated.demands {
            // Most prefixes fit anywhere at these prices.
            if (0..nodes.len()).all(|at| above(at, demand.rate_bps) <= 0.0) {
                continue;
            }
            let values = self.values(demand, prices);
            let cheapest = values.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
            let rise = |(exit, value): &(usize, f64)| {
                let mut rise = value - cheapest;
                climb(self.stated, *exit, |node| rise += above(node, demand.rate_bps));
                rise
            };
            sum += values.iter().map(rise).fold(f64::INFINITY, f64::min);
        }
        sum * (1.0 - ROUNDING)
    }
}
