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
    /// What the pairs cost beside their loads.
    pairs: f64,
}

/// An assignment beside that of staying: costs and node loads of both, counted up in one pass.
pub(super) struct Beside {
    pub(super) costs: Costs,
    pub(super) stay: Costs,
    pub(super) load: Vec<f64>,
    pub(super) stay_load: Vec<f64>,
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
        let mut pairs = 0.0;
        for (at, rate) in choice.iter().zip(&model.rate) {
            let at = index(*at);
            column[usize::from(model.column[at])] += rate;
            pairs += model.unit[at] * amount(*rate);
        }
        let load = loads(model, &column);
        Tally { model, choice, load, pairs }
    }

    /// What it costs, hard limits broken included.
    pub(super) fn cost(&self) -> f64 {
        let loads = self.model.curves.iter().zip(&self.load).map(|(curve, load)| curve.cost(*load));
        loads.sum::<f64>() + self.pairs
    }

    /// Everybody where he is; else at home, else at the first exit there is.
    pub(super) fn staying(model: &'a Model) -> Tally<'a> {
        Tally::new(model, Tally::staying_choice(model))
    }

    /// The pairs of that.
    pub(super) fn staying_choice(model: &Model) -> Vec<u32> {
        // Rows begin with the exit now, then home.
        model.start[..model.len()].to_vec()
    }

    /// Takes over another assignment of the same rows.
    pub(super) fn become_like(&mut self, other: Tally<'_>) {
        (self.choice, self.load, self.pairs) = (other.choice, other.load, other.pairs);
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
        self.pairs += (self.model.unit[to] - self.model.unit[from]) * amount(rate);
        self.choice[row] = u32::try_from(to).unwrap_or(u32::MAX);
    }

    /// Everything it costs, and everything that staying costs.
    pub(super) fn beside_staying(&self) -> Beside {
        let model = self.model;
        let (mut costs, mut stay) = (Costs::default(), Costs::default());
        let mut column = vec![0.0; model.paths.len()];
        let mut stay_column = column.clone();
        for ((row, at), rate) in self.choice.iter().enumerate().zip(&model.rate) {
            // Rows begin with where they stay.
            let (at, first) = (index(*at), index(model.start[row]));
            column[usize::from(model.column[at])] += rate;
            stay_column[usize::from(model.column[first])] += rate;
            PairCosts::of(model, row, at).add(1.0, &mut costs);
            PairCosts::of(model, row, first).add(1.0, &mut stay);
        }
        let (load, stay_load) = (loads(model, &column), loads(model, &stay_column));
        (costs.overload_bps, costs.money, costs.breach_bps) = of_loads(model, &load);
        (stay.overload_bps, stay.money, stay.breach_bps) = of_loads(model, &stay_load);
        Beside { costs: total(model, costs), stay: total(model, stay), load, stay_load }
    }
}

/// A pair's constant is per bit/s; of a row without traffic it is all there is.
fn amount(rate: f64) -> f64 {
    if rate > 0.0 { rate } else { 1.0 }
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

/// The part of the costs that depends on loads: overload and load above hard limits, bit/s, and money between them.
pub(super) fn of_loads(model: &Model, load: &[f64]) -> (f64, f64, f64) {
    let (mut overload, mut money, mut breach) = (0.0, 0.0, 0.0);
    for (at, node) in model.nodes.iter().enumerate() {
        overload += (load[at] - node.limit_bps).max(0.0);
        breach += (load[at] - node.ceiling_bps).max(0.0);
        let mut from = 0.0;
        for tier in &node.tiers {
            let end = tier.up_to_bps.unwrap_or(f64::INFINITY);
            money += (load[at].min(end) - from).max(0.0) * tier.price_per_mbps / 1e6;
            from = end;
        }
    }
    if let Some(cap) = model.rules.max_moved_bps {
        breach += (load[model.nodes.len()] - cap).max(0.0);
    }
    (overload, money, breach)
}

/// What a row costs on one of its pairs beside the load.
#[derive(Clone, Copy)]
pub(super) struct PairCosts {
    moving: f64,
    holding: f64,
    penalty: f64,
    moved_bps: f64,
    /// 1 if so.
    moved: u8,
}

impl PairCosts {
    // Always: through memory the sums would wait for each row.
    #[inline(always)]
    pub(super) fn of(model: &Model, row: usize, at: usize) -> PairCosts {
        let exit = model.exit_of(model.column[at]);
        let moved = model.moves(row, exit);
        let (moving, holding) = model.extras(row, exit);
        let penalty = model.penalty(row, at, moving + holding);
        PairCosts { moving, holding, penalty, moved_bps: f64::from(moved) * model.rate[row], moved }
    }

    /// Adds a share of it.
    #[inline(always)]
    pub(super) fn add(&self, share: f64, costs: &mut Costs) {
        costs.moving += self.moving * share;
        costs.holding += self.holding * share;
        costs.penalty += self.penalty * share;
        costs.moved_bps += self.moved_bps * share;
        // Whoever splits a prefix counts it himself.
        costs.moved_prefixes += usize::from(self.moved) * usize::from(share >= 1.0);
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
