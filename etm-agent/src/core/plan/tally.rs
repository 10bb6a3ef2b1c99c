//! What an assignment costs, kept current while prefixes move. Judges, never searches.

use super::model::Model;

/// One exit per prefix, and the loads that follow.
#[derive(Clone)]
pub(super) struct Tally<'a> {
    pub(super) model: &'a Model,
    /// Pair of each row.
    pub(super) choice: Vec<u32>,
    /// Load of each node.
    pub(super) load: Vec<f64>,
}

/// Cost of an assignment, part by part, currency per month.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costs {
    /// Load above limits, bit/s, over exits and groups.
    pub overload_bps: f64,
    /// What contracts ask.
    pub money: f64,
    /// Less preferred routes.
    pub penalty: f64,
    /// Moving away from where prefixes are now.
    pub moving: f64,
    /// Holding prefixes away from where plain routing sends them.
    pub holding: f64,
    /// All of it, overload at its price.
    pub objective: f64,
    /// Traffic that moves, bit/s.
    pub moved_bps: f64,
    /// Prefixes that move.
    pub moved_prefixes: usize,
    /// Load above hard limits, bit/s.
    pub breach_bps: f64,
}

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

impl<'a> Tally<'a> {
    /// Counts up an assignment given as one pair per row.
    pub(super) fn new(model: &'a Model, choice: Vec<u32>) -> Tally<'a> {
        let mut column = vec![0.0; model.paths.len()];
        for (at, rate) in choice.iter().zip(&model.rate) {
            column[usize::from(model.column[index(*at)])] += rate;
        }
        let load = loads(model, &column);
        Tally { model, choice, load }
    }

    /// Everybody where he is; else at home, else at the first exit there is.
    pub(super) fn staying(model: &'a Model) -> Tally<'a> {
        // Rows begin with the exit now, then home.
        let choice = model.start[..model.len()].to_vec();
        Tally::new(model, choice)
    }

    /// The pair of `row`.
    pub(super) fn pair(&self, row: usize) -> usize {
        index(self.choice[row])
    }

    fn path(&self, pair: usize) -> &'a [u16] {
        &self.model.paths[usize::from(self.model.column[pair])]
    }

    /// What it would cost to move `row` to the pair `to`; negative where it saves.
    pub(super) fn change(&self, row: usize, to: usize) -> f64 {
        let from = self.pair(row);
        let rate = self.model.rate[row];
        if rate <= 0.0 {
            return self.model.unit[to] - self.model.unit[from];
        }
        let mut change = (self.model.unit[to] - self.model.unit[from]) * rate;
        let (before, after) = (self.path(from), self.path(to));
        for node in before.iter().filter(|node| !after.contains(node)) {
            change += self.shift(*node, -rate);
        }
        for node in after.iter().filter(|node| !before.contains(node)) {
            change += self.shift(*node, rate);
        }
        change
    }

    fn shift(&self, node: u16, by: f64) -> f64 {
        let node = usize::from(node);
        let (curve, load) = (&self.model.curves[node], self.load[node]);
        curve.cost(load + by) - curve.cost(load)
    }

    /// Moves `row` to the pair `to`.
    pub(super) fn place(&mut self, row: usize, to: usize) {
        let from = self.pair(row);
        let rate = self.model.rate[row];
        for node in self.path(from) {
            self.load[usize::from(*node)] -= rate;
        }
        for node in self.path(to) {
            self.load[usize::from(*node)] += rate;
        }
        self.choice[row] = u32::try_from(to).unwrap_or(u32::MAX);
    }

    /// Everything it costs.
    pub(super) fn costs(&self) -> Costs {
        let model = self.model;
        let mut costs = of_loads(model, &self.load);
        for (row, at) in self.choice.iter().enumerate() {
            add_pair(model, row, index(*at), 1.0, &mut costs);
        }
        total(model, costs)
    }
}

/// Node loads of column loads.
pub(super) fn loads(model: &Model, column: &[f64]) -> Vec<f64> {
    let mut load = model.base.clone();
    for (path, value) in model.paths.iter().zip(column) {
        for node in path {
            load[usize::from(*node)] += value;
        }
    }
    load
}

/// The part of the costs that depends on loads.
pub(super) fn of_loads(model: &Model, load: &[f64]) -> Costs {
    let mut costs = Costs::default();
    for (at, node) in model.nodes.iter().enumerate() {
        costs.overload_bps += (load[at] - node.limit_bps).max(0.0);
        costs.breach_bps += (load[at] - node.ceiling_bps).max(0.0);
        let mut from = 0.0;
        for tier in &node.tiers {
            let end = tier.up_to_bps.unwrap_or(f64::INFINITY);
            costs.money += (load[at].min(end) - from).max(0.0) * tier.price_per_mbps / 1e6;
            from = end;
        }
    }
    if let Some(cap) = model.rules.max_moved_bps {
        costs.breach_bps += (load[model.nodes.len()] - cap).max(0.0);
    }
    costs
}

/// Adds a share of a row on a pair.
pub(super) fn add_pair(model: &Model, row: usize, at: usize, share: f64, costs: &mut Costs) {
    let exit = model.exit_of(model.column[at]);
    let (moving, holding) = model.extras(row, exit);
    costs.moving += moving * share;
    costs.holding += holding * share;
    costs.penalty += model.penalty(row, at) * share;
    let current = model.current[row];
    if current != super::model::NONE && usize::from(current) != exit {
        costs.moved_bps += model.rate[row] * share;
        // Whoever splits a prefix counts it himself.
        costs.moved_prefixes += usize::from(share >= 1.0);
    }
}

/// Fills in the sum.
pub(super) fn total(model: &Model, mut costs: Costs) -> Costs {
    costs.objective = model.overload_price * costs.overload_bps
        + costs.money
        + costs.penalty
        + costs.moving
        + costs.holding;
    costs
}
