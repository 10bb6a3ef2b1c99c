//! A bound that knows that prefixes are whole: the largest prefix that the prices would divide is tried on each of its
//! exits, and so on below; the least of all branches is a bound again. Never needed where prefixes are small.

use super::dive;
use super::dual::{Clock, Prices};
use super::fixed::Fixed;
use super::model::Model;
use super::tally::Tally;

struct Leaf {
    fixed: Fixed,
    prices: Prices,
    bound: f64,
}

/// Rows solved in all branches together.
const WORK: usize = 60_000;
const MOST: usize = 400;
/// Branches of a small problem, however much that is.
const LEAST: usize = 32;
/// In small problems each branch also gives a plan.
const SMALL: usize = 20_000;

/// A bound at least as high as that of `prices`; improves `best` where a branch leads to a cheaper plan.
/// Ends where no more than `target` of the bound is open.
pub(super) fn strengthen(
    model: &Model,
    prices: &Prices,
    target: f64,
    best: &mut Tally<'_>,
    clock: &mut dyn Clock,
) -> f64 {
    let least = if model.len() <= SMALL { LEAST } else { 0 };
    let mut left = (WORK / model.len().max(1)).clamp(least, MOST);
    let mut cost = best.cost();
    let root = Leaf { fixed: Fixed::none(model), prices: prices.clone(), bound: prices.bound };
    let mut open = vec![root];
    let mut closed = f64::INFINITY;
    loop {
        let enough = |bound: f64| bound >= cost - target * cost.abs();
        let least = (0..open.len()).min_by(|a, b| open[*a].bound.total_cmp(&open[*b].bound));
        let Some(least) = least.filter(|at| !enough(open[*at].bound)) else { break };
        let pairs = largest(model, &open[least].prices).map_or(0..0, |row| model.pairs(row));
        if pairs.is_empty() {
            // Nothing is divided: what is left is not for branching to find.
            closed = closed.min(open.swap_remove(least).bound);
            continue;
        }
        if pairs.len() > left || clock.over() {
            break;
        }
        left -= pairs.len();
        let parent = open.swap_remove(least);
        let Some(row) = largest(model, &parent.prices) else { break };
        for at in pairs {
            let leaf = child(model, &parent, row, model.column[at], clock);
            if model.len() <= SMALL {
                let plan = dive::plan(model, &leaf.prices, &leaf.fixed, (prices.bound, None), clock).0;
                let tried = plan.cost();
                if tried < cost {
                    cost = tried;
                    best.become_like(plan);
                }
            }
            open.push(leaf);
        }
    }
    open.iter().map(|leaf| leaf.bound).fold(closed, f64::min).min(cost)
}

fn child(model: &Model, parent: &Leaf, row: usize, column: u16, clock: &mut dyn Clock) -> Leaf {
    let mut fixed = parent.fixed.clone();
    fixed.add(model, row, column);
    let start = (parent.prices.node.as_slice(), 16.0 * parent.prices.width);
    let mut prices = fixed.dual(model).solve(Some(start), clock);
    prices.bound += fixed.constant(model);
    let bound = prices.bound.max(parent.bound);
    Leaf { fixed, prices, bound }
}

/// The largest row that shares exits.
fn largest(model: &Model, prices: &Prices) -> Option<usize> {
    let shared = prices.shares.chunk_by(|a, b| a.0 == b.0).filter(|parts| parts.len() > 1);
    let rows = shared.map(|parts| usize::try_from(parts[0].0).unwrap_or(usize::MAX));
    rows.min_by(|a, b| model.rate[*b].total_cmp(&model.rate[*a]).then(a.cmp(b)))
}
