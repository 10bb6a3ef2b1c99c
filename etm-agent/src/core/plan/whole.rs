//! Prefixes so large that it matters where they go as wholes: what each costs above the prices at its best exit, and the
//! largest of them together. Raises a bound that prices prove; one pass at most, never a plan.

use super::curve::Curve;
use super::model::Model;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// So many of the largest are looked at together, and so often.
const TOGETHER: usize = 12;
const LOOKS: usize = 400;
/// A rise of less than this part of the largest is not worth a look.
const WORTH: f64 = 1e-3;

/// Prices and what they prove, for the costs of `curves`.
pub(super) struct Point<'a> {
    pub(super) curves: &'a [Curve],
    /// Of nodes.
    pub(super) price: &'a [f64],
    /// What the prices prove.
    pub(super) bound: f64,
    /// Whether pairs have costs of their own.
    pub(super) units: bool,
}

/// A row that costs more than its price wherever it goes.
struct Large {
    /// The least it costs more.
    rise: f64,
    rate: f64,
    /// Columns, and what each is dearer than the cheapest by its price.
    pairs: Vec<(u16, f64)>,
}

struct State {
    /// Large rows placed, in their order.
    placed: usize,
    /// By price above the cheapest.
    dearer: f64,
    /// Load of each node by them.
    load: Vec<f64>,
}

impl Point<'_> {
    /// What nodes cost above their price if they carry at least `load`. Convex and zero at zero: rises of several rows add
    /// up to no more than their rise together.
    fn above(&self, model: &Model, load: &[f64]) -> f64 {
        let one =
            |(node, load): (usize, &f64)| if *load > 0.0 { self.above_one(model, node, *load) } else { 0.0 };
        load.iter().enumerate().map(one).sum()
    }

    fn above_one(&self, model: &Model, node: usize, load: f64) -> f64 {
        let (curve, base, price) = (&self.curves[node], model.base[node], self.price[node]);
        (curve.conjugate(price, base).0 - curve.conjugate(price, base + load).0).max(0.0)
    }

    /// Rows that rise the bound, the highest first.
    fn large(&self, model: &Model) -> Vec<Large> {
        let price = |path: &Vec<u16>| path.iter().map(|node| self.price[usize::from(*node)]).sum();
        let column: Vec<f64> = model.paths.iter().map(price).collect();
        // A row smaller than the room that every node has at its price raises nothing.
        let room = |node: usize| {
            let (curve, base) = (&self.curves[node], model.base[node]);
            curve.conjugate_most(self.price[node], base) - base
        };
        let rooms: Vec<f64> = (0..self.curves.len()).map(room).collect();
        let least =
            |path: &Vec<u16>| path.iter().map(|node| rooms[usize::from(*node)]).fold(f64::INFINITY, f64::min);
        let smallest = model.paths.iter().map(least).fold(f64::INFINITY, f64::min);
        let mut large: Vec<Large> = Vec::new();
        for row in (0..model.len()).filter(|row| model.rate[*row] > smallest) {
            let rate = model.rate[row];
            let unit = |at: usize| if self.units { model.unit[at] } else { 0.0 };
            let total = |at: usize| rate * (unit(at) + column[usize::from(model.column[at])]);
            let cheapest = model.pairs(row).map(total).fold(f64::INFINITY, f64::min);
            let pairs: Vec<(u16, f64)> =
                model.pairs(row).map(|at| (model.column[at], total(at) - cheapest)).collect();
            let rise = |(column, dearer): &(u16, f64)| {
                let path = &model.paths[usize::from(*column)];
                dearer + path.iter().map(|node| self.above_one(model, usize::from(*node), rate)).sum::<f64>()
            };
            let rise = pairs.iter().map(rise).fold(f64::INFINITY, f64::min);
            if rise > 0.0 {
                large.push(Large { rise, rate, pairs });
            }
        }
        large.sort_by(|a, b| b.rise.total_cmp(&a.rise));
        large
    }

    /// The bound with rows as wholes. `enough` is known to be attained: no need to look further.
    pub(super) fn strengthened(&self, model: &Model, enough: f64) -> f64 {
        if model.rules.allow_split {
            return self.bound;
        }
        let large = self.large(model);
        let all: f64 = large.iter().map(|row| row.rise).sum();
        let worth = large.first().map_or(0.0, |row| WORTH * row.rise);
        let together = large.iter().take(TOGETHER).take_while(|row| row.rise > worth).count();
        // What is still to come, after so many were placed.
        let mut rest = vec![all; together + 1];
        for at in 0..together {
            rest[at + 1] = rest[at] - large[at].rise;
        }
        let mut open = BinaryHeap::new();
        let mut states = vec![State { placed: 0, dearer: 0.0, load: vec![0.0; self.curves.len()] }];
        // Costs are not negative, so their bits have their order.
        open.push(Reverse((all.to_bits(), 0_usize)));
        let mut proved = all;
        for _ in 0..LOOKS {
            let Some(Reverse((bits, at))) = open.pop() else { break };
            proved = f64::from_bits(bits);
            if states[at].placed == together || self.bound + proved >= enough {
                break;
            }
            let row = &large[states[at].placed];
            for (column, dearer) in &row.pairs {
                let mut load = states[at].load.clone();
                for node in &model.paths[usize::from(*column)] {
                    load[usize::from(*node)] += row.rate;
                }
                let placed = states[at].placed + 1;
                let dearer = states[at].dearer + dearer;
                let rise = dearer + self.above(model, &load) + rest[placed].max(0.0);
                open.push(Reverse((rise.max(proved).to_bits(), states.len())));
                states.push(State { placed, dearer, load });
            }
        }
        // Rounding of so many sums must not lift a bound above what is true.
        self.bound + proved * (1.0 - 1e-9)
    }
}
