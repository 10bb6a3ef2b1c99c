//! From prices to a plan: every prefix to its cheapest exit, those that share exits to one of them, then single moves
//! that make it cheaper. Never leaves the pairs that the model has.

use super::dual::Clock;
use super::model::Model;
use super::rows::Rows;
use super::tally::Tally;

/// Pairs that a better plan may use, row by row.
pub(super) struct Choices {
    /// The largest first, and where its pairs begin and end.
    rows: Vec<(u32, u32, u32)>,
    /// Pairs, and what each costs above the cheapest of its row.
    pairs: Vec<(u32, f64)>,
}

const SWEEPS: usize = 12;

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

fn narrow(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl Choices {
    /// A pair that by itself is dearer than `excess`, which is what the plan costs above the bound, is in no better plan.
    /// Rows larger than `large` are offered all their pairs, others those that `near` kept.
    pub(super) fn new(model: &Model, near: &Rows, column: &[f64], (excess, large): (f64, f64)) -> Choices {
        let mut choices = Choices { rows: Vec::new(), pairs: Vec::new() };
        let price = |at: usize| model.unit[at] + column[usize::from(model.column[at])];
        let view = near.view();
        for (at, row) in near.row.iter().enumerate() {
            let rate = model.rate[index(*row)];
            let mut pairs = model.pairs(index(*row));
            let cheapest = view.best(at, column).price;
            let begin = choices.pairs.len();
            let mut offer = |at: usize| {
                let loss = (price(at) - cheapest) * rate;
                if loss < excess {
                    choices.pairs.push((narrow(at), loss));
                }
            };
            if rate > large {
                pairs.for_each(offer);
            } else {
                // What was kept is in the order of the row.
                let (_, kept, _) = view.row(at);
                kept.iter()
                    .filter_map(|kept| pairs.find(|at| model.column[*at] == *kept))
                    .for_each(&mut offer);
            }
            if choices.pairs.len() > begin + 1 {
                choices.rows.push((*row, narrow(begin), narrow(choices.pairs.len())));
            }
        }
        choices.in_order(model)
    }

    /// All pairs of all rows with traffic, however dear.
    pub(super) fn every(model: &Model) -> Choices {
        let mut choices = Choices { rows: Vec::new(), pairs: Vec::new() };
        for row in (0..model.len()).filter(|row| model.rate[*row] > 0.0) {
            let begin = choices.pairs.len();
            choices.pairs.extend(model.pairs(row).map(|at| (narrow(at), 0.0)));
            choices.rows.push((narrow(row), narrow(begin), narrow(choices.pairs.len())));
        }
        choices.in_order(model)
    }

    fn in_order(mut self, model: &Model) -> Choices {
        let rate = |row: u32| model.rate[index(row)];
        self.rows.sort_unstable_by(|a, b| rate(b.0).total_cmp(&rate(a.0)).then(a.0.cmp(&b.0)));
        self
    }
}

/// Every row to its cheapest pair.
pub(super) fn cheapest<'a>(model: &'a Model, prices: &[f64]) -> Tally<'a> {
    let column = model.column_prices(prices);
    let idle = vec![0.0; column.len()];
    let view = model.view(&model.rate);
    // A row without traffic loads nothing: the cheapest of its constants.
    let prices = |row: usize| if model.rate[row] > 0.0 { &column } else { &idle };
    Tally::new(model, (0..model.len()).map(|row| narrow(view.best(row, prices(row)).at)).collect())
}

/// Of a row's exits the one that is furthest behind what shares promised it so far.
pub(super) fn furthest_behind(parts: &[(u32, u16, f64)], rate: f64, owed: &mut [f64]) -> u16 {
    let mut most = (f64::NEG_INFINITY, 0);
    for (_, column, share) in parts {
        let owed = &mut owed[usize::from(*column)];
        *owed += rate * share;
        if *owed > most.0 {
            most = (*owed, *column);
        }
    }
    owed[usize::from(most.1)] -= rate;
    most.1
}

/// Gives each row that shares exits to one of them: the one that is furthest behind what the shares promised it so far.
/// The largest first, so that what is left over at the end is small.
pub(super) fn round(tally: &mut Tally<'_>, shares: &[(u32, u16, f64)]) {
    let model = tally.model;
    let mut rows: Vec<&[(u32, u16, f64)]> = shares.chunk_by(|a, b| a.0 == b.0).collect();
    let rate = |row: &&[(u32, u16, f64)]| model.rate[index(row[0].0)];
    rows.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then(a[0].0.cmp(&b[0].0)));
    let mut owed = vec![0.0; model.paths.len()];
    for parts in rows {
        let rate = rate(&parts);
        let column = furthest_behind(parts, rate, &mut owed);
        place(tally, index(parts[0].0), column);
    }
}

/// Moves `row` to `column`.
pub(super) fn place(tally: &mut Tally<'_>, row: usize, column: u16) {
    let model = tally.model;
    if let Some(at) = model.pairs(row).find(|at| model.column[*at] == column) {
        tally.place(row, at);
    }
}

/// Single moves, the largest rows first, until none saves more than `least`. `excess` is what the plan costs above the
/// bound: a pair that by itself is dearer than that can be in no better plan, and no more than `enough` is good enough.
pub(super) fn improve(
    tally: &mut Tally<'_>,
    choices: &Choices,
    (excess, enough): (f64, f64),
    least: f64,
    clock: &mut dyn Clock,
) {
    let mut excess = excess;
    let mut edges = Edges::of(tally);
    for _ in 0..SWEEPS {
        let mut saved = 0.0;
        for (row, begin, end) in &choices.rows {
            let row = index(*row);
            let from = tally.pair(row);
            let mut best = (-least, usize::MAX);
            for (at, loss) in &choices.pairs[index(*begin)..index(*end)] {
                let at = index(*at);
                if at != from && *loss < excess && edges.promise(tally, from, at) {
                    let change = tally.change(row, at);
                    if change < best.0 {
                        best = (change, at);
                    }
                }
            }
            if best.1 != usize::MAX {
                tally.place(row, best.1);
                edges.follow(tally, from, best.1);
                saved -= best.0;
                excess += best.0;
            }
        }
        if saved <= least || excess <= enough || clock.over() {
            break;
        }
    }
}

/// What the first bit/s more costs on each node, and what the last one less saves: costs are convex, so no move is
/// better than its first bit/s.
struct Edges {
    more: Vec<f64>,
    less: Vec<f64>,
    /// The same of columns.
    column_more: Vec<f64>,
    column_less: Vec<f64>,
}

impl Edges {
    fn of(tally: &Tally<'_>) -> Edges {
        let curves = tally.model.curves.iter().zip(&tally.load);
        let (more, less): (Vec<f64>, Vec<f64>) =
            curves.map(|(curve, load)| (curve.price(*load), curve.price_below(*load))).unzip();
        let (column_more, column_less) = (tally.model.column_prices(&more), tally.model.column_prices(&less));
        Edges { more, less, column_more, column_less }
    }

    /// A row went from one pair to another.
    fn follow(&mut self, tally: &Tally<'_>, from: usize, to: usize) {
        let model = tally.model;
        let mut changed = false;
        for pair in [from, to] {
            for node in &model.paths[usize::from(model.column[pair])] {
                let node = usize::from(*node);
                let (curve, load) = (&model.curves[node], tally.load[node]);
                let (more, less) = (curve.price(load), curve.price_below(load));
                changed |= more != self.more[node] || less != self.less[node];
                (self.more[node], self.less[node]) = (more, less);
            }
        }
        // Most moves stay within a step of every curve they touch.
        if changed {
            self.column_more = model.column_prices(&self.more);
            self.column_less = model.column_prices(&self.less);
        }
    }

    /// True if moving from one pair to another may save.
    fn promise(&self, tally: &Tally<'_>, from: usize, to: usize) -> bool {
        let model = tally.model;
        let (a, b) = (usize::from(model.column[from]), usize::from(model.column[to]));
        // What both load does not change.
        let apart = model.paths[a].last() != model.paths[b].last();
        !apart || model.unit[to] + self.column_more[b] < model.unit[from] + self.column_less[a]
    }
}
