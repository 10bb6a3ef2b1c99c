//! From prices to a plan: every prefix to its cheapest exit, those that share exits to one of them, then single moves
//! that make it cheaper. Never leaves the pairs that the model has.

use super::dual::Clock;
use super::model::Model;
use super::rows::Best;
use super::tally::Tally;

/// Rows for which the prices leave a choice.
pub(super) struct Choices {
    /// The largest first, with the price of their cheapest pair.
    rows: Vec<(u32, f64)>,
    /// Prices of columns.
    column: Vec<f64>,
}

/// Most rows that are looked at again.
const MOST: usize = 8_000;
/// Fewer are too few to fill exits exactly.
const FEWEST: usize = 2_000;
const SWEEPS: usize = 12;
/// Rows that share exits are within the width of the smoothing; these are not much further.
const NEAR: f64 = 8.0;

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

fn narrow(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Every row to its cheapest pair, and the rows that lose little by another.
pub(super) fn cheapest<'a>(model: &'a Model, prices: &[f64], width: f64) -> (Tally<'a>, Choices) {
    let column = model.column_prices(prices);
    let view = model.view(&model.rate);
    let idle = vec![0.0; column.len()];
    let mut choice = Vec::with_capacity(model.len());
    let mut near: Vec<(f64, u32, f64)> = Vec::new();
    let mut margin = NEAR * width;
    let close = |best: &Best, margin: f64| best.second - best.price <= margin;
    for row in 0..model.len() {
        let busy = model.rate[row] > 0.0;
        // A row without traffic loads nothing: the cheapest of its constants.
        let best = view.best(row, if busy { &column } else { &idle });
        choice.push(narrow(best.at));
        if busy && close(&best, margin) {
            near.push((best.second - best.price, narrow(row), best.price));
        }
    }
    while near.len() < FEWEST.min(model.len()) && margin < 1e3 * model.overload_price {
        margin *= 16.0;
        near.clear();
        for row in (0..model.len()).filter(|row| model.rate[*row] > 0.0) {
            let best = view.best(row, &column);
            if close(&best, margin) {
                near.push((best.second - best.price, narrow(row), best.price));
            }
        }
    }
    if near.len() > MOST {
        near.select_nth_unstable_by(MOST, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        near.truncate(MOST);
    }
    let mut rows: Vec<(u32, f64)> = near.into_iter().map(|(_, row, price)| (row, price)).collect();
    rows.sort_unstable_by(|a, b| {
        model.rate[index(b.0)].total_cmp(&model.rate[index(a.0)]).then(a.0.cmp(&b.0))
    });
    (Tally::new(model, choice), Choices { rows, column })
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
        let mut most = (f64::NEG_INFINITY, 0);
        for (_, column, share) in parts {
            let owed = &mut owed[usize::from(*column)];
            *owed += rate * share;
            if *owed > most.0 {
                most = (*owed, *column);
            }
        }
        owed[usize::from(most.1)] -= rate;
        place(tally, index(parts[0].0), most.1);
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
/// bound: a pair that by itself is dearer than that can be in no better plan.
pub(super) fn improve(
    tally: &mut Tally<'_>,
    choices: &Choices,
    excess: f64,
    least: f64,
    clock: &mut dyn Clock,
) {
    let mut excess = excess;
    let mut edges = Edges::of(tally);
    for _ in 0..SWEEPS {
        let mut saved = 0.0;
        for (row, cheapest) in &choices.rows {
            let row = index(*row);
            let rate = tally.model.rate[row];
            let from = tally.pair(row);
            let mut best = (-least, usize::MAX);
            for at in tally.model.pairs(row) {
                let price = tally.model.unit[at] + choices.column[usize::from(tally.model.column[at])];
                let open = at != from && (price - cheapest) * rate < excess;
                if open && edges.promise(tally, from, at) {
                    let change = tally.change(row, at);
                    if change < best.0 {
                        best = (change, at);
                    }
                }
            }
            if best.1 != usize::MAX {
                tally.place(row, best.1);
                edges = Edges::of(tally);
                saved -= best.0;
                excess += best.0;
            }
        }
        if saved <= least || clock.over() {
            break;
        }
    }
}

/// What the first bit/s more costs on each column, and what the last one less saves: costs are convex, so no move is
/// better than its first bit/s.
struct Edges {
    more: Vec<f64>,
    less: Vec<f64>,
}

impl Edges {
    fn of(tally: &Tally<'_>) -> Edges {
        let curves = &tally.model.curves;
        let more: Vec<f64> = curves.iter().zip(&tally.load).map(|(curve, load)| curve.price(*load)).collect();
        let less: Vec<f64> =
            curves.iter().zip(&tally.load).map(|(curve, load)| curve.price_below(*load)).collect();
        Edges { more: tally.model.column_prices(&more), less: tally.model.column_prices(&less) }
    }

    /// True if moving from one pair to another may save.
    fn promise(&self, tally: &Tally<'_>, from: usize, to: usize) -> bool {
        let model = tally.model;
        let (a, b) = (usize::from(model.column[from]), usize::from(model.column[to]));
        // What both load does not change.
        let apart = model.paths[a].last() != model.paths[b].last();
        !apart || model.unit[to] + self.more[b] < model.unit[from] + self.less[a]
    }
}
