//! A plan from prices: whoever has one cheapest exit takes it; of those that share, the largest are settled first, and
//! each time the prices of the rest are found again. Works on the few rows near a choice; never claims a bound.

use super::dual::{Clock, Dual, Prices};
use super::fixed::Fixed;
use super::model::Model;
use super::primal::{self, Choices};
use super::rows::{Cut, Kept};
use super::tally::{self, Tally};
use std::cell::Cell;

/// Rows near a choice that take part: so many for each row that shares exits at the prices, within bounds.
const EACH: f64 = 8.0;
const LEAST: f64 = 1_500.0;
const MOST: f64 = 100_000.0;
/// Rounds of settling; the first settles so many rows, or one where they are bulky; each further one more of them.
const ROUNDS: usize = 12;
const BATCH: f64 = 16.0;
/// At once this part of the rows that share exits, if that is more.
const PART: f64 = 0.1;
const MORE: f64 = 4.0;
/// After settling, prices are looked for this many final widths around.
const AROUND: f64 = 25.0;
const NEARBY: f64 = 5.0;
const FAR: f64 = 1_000.0;
/// How closely loads must fit prices: on the way, and at the end.
const ROUGH: f64 = 1e-2;
const CLOSE: f64 = 1e-5;
const WAY: f64 = 0.25;
const ROOM: f64 = 4.0;
/// A row of more than this part of an exit is bulky.
const BULKY: f64 = 0.2;
/// Rows in the thinned problem on which the places of the largest are found, and how finely it is priced, as a part of
/// the spread of prices.
const THINNED: u32 = 1_024;
const COARSE: f64 = 3e-4;
/// A row above this part of all traffic may go to any exit that may pay.
const LARGE: f64 = 1e-4;
/// So near its bound a plan of more than a few rows is good enough.
const ENOUGH: f64 = 1e-4;
const FEW: usize = 64;
/// So many pairs are little work to look through in whole.
const LITTLE: f64 = 100_000.0;
/// A plan so far above its bound is looked through in whole, where that is little work; and wherever it is.
const POOR: f64 = 5e-4;
const BAD: f64 = 0.2;
/// A row below this part of all traffic is left to rounding.
const SMALL: f64 = 1e-5;

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

fn as_float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The rows near a choice, with those settled so far taken out.
struct Rest<'a> {
    model: &'a Model,
    cut: Cut,
    base: Vec<f64>,
    settled: Vec<(usize, u16)>,
    width: f64,
}

impl Rest<'_> {
    fn settle(&mut self, row: u32, column: u16) {
        let Ok(at) = self.cut.live.row.binary_search(&row) else { return };
        let rate = std::mem::take(&mut self.cut.live.weight[at]);
        if rate > 0.0 {
            for node in &self.model.paths[usize::from(column)] {
                self.base[usize::from(*node)] += rate;
            }
            self.settled.push((index(row), column));
        }
    }

    /// Prices of what is left, from those `now`, looked for `around` widths about them.
    fn again(&self, now: &Prices, around: f64, apart: f64, clock: &mut dyn Clock) -> Prices {
        let dual = Dual {
            model: self.model,
            base: &self.base,
            rows: self.cut.live.view(),
            work: Cell::default(),
            sharing: Cell::default(),
        };
        dual.polish(&self.cut, &now.node, (around * self.width, self.width), apart, clock)
    }

    /// The cheapest pair, at these prices, of each row that is not settled.
    fn choose(&self, now: &Prices, choice: &mut [u32]) {
        let model = self.model;
        let column = model.column_prices(&now.node);
        let view = self.cut.live.view();
        for (at, row) in self.cut.live.row.iter().enumerate() {
            if view.weight[at] > 0.0 {
                let best = view.column[view.best(at, &column).at];
                if model.column[index(choice[index(*row)])] == best {
                    continue;
                }
                let pair = model.pairs(index(*row)).find(|pair| model.column[*pair] == best);
                choice[index(*row)] =
                    pair.and_then(|pair| u32::try_from(pair).ok()).unwrap_or(choice[index(*row)]);
            }
        }
    }

    /// Settles the largest rows of more than `least` that share exits, more of them each time, and prices the rest anew.
    fn dive(
        &mut self,
        mut now: Prices,
        (least, first): (f64, f64),
        shift: &dyn Fn(f64) -> f64,
        clock: &mut dyn Clock,
    ) -> Prices {
        let model = self.model;
        let mut batch = first;
        for _ in 0..ROUNDS {
            let large = |parts: &&[(u32, u16, f64)]| parts.len() > 1 && model.rate[index(parts[0].0)] > least;
            let mut owed = vec![0.0; model.paths.len()];
            let mut left = batch;
            let mut largest = 0.0_f64;
            for parts in by_size(model, &now.shares).into_iter().filter(large) {
                if left < 1.0 {
                    break;
                }
                left -= 1.0;
                let column = primal::furthest_behind(parts, model.rate[index(parts[0].0)], &mut owed);
                self.settle(parts[0].0, column);
                largest = largest.max(model.rate[index(parts[0].0)]);
            }
            if left >= batch || clock.over() {
                break;
            }
            let done = left >= 1.0;
            now = self.again(&now, shift(largest), if done { CLOSE } else { ROUGH }, clock);
            if done {
                break;
            }
            batch *= MORE;
        }
        now
    }
}

/// Shares of rows, the largest rows first.
fn by_size<'a>(model: &Model, shares: &'a [(u32, u16, f64)]) -> Vec<&'a [(u32, u16, f64)]> {
    let mut rows: Vec<&[(u32, u16, f64)]> = shares.chunk_by(|a, b| a.0 == b.0).collect();
    let rate = |row: &[(u32, u16, f64)]| model.rate[index(row[0].0)];
    rows.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then(a[0].0.cmp(&b[0].0)));
    rows
}

/// True if a row that shares exits takes much of one of them: then rounding it is no small matter.
pub(super) fn bulky(model: &Model, prices: &Prices) -> bool {
    let room = |column: u16| {
        let nodes =
            model.paths[usize::from(column)].iter().filter_map(|node| model.nodes.get(usize::from(*node)));
        nodes.map(|node| node.limit_bps).fold(f64::INFINITY, f64::min)
    };
    prices.shares.iter().any(|(row, column, _)| model.rate[index(*row)] > BULKY * room(*column))
}

/// Where the largest rows that share exits had best go, found on a sample in which the small ones stand for their like.
pub(super) fn places(model: &Model, prices: &mut Prices, fixed: &mut Fixed, clock: &mut dyn Clock) {
    let (small, rows) = model.thinned(usize::try_from(THINNED).unwrap_or(usize::MAX));
    let traffic = small.traffic();
    let none = Fixed::none(&small);
    let dual = none.dual(&small);
    let cut = dual.rows.cut(small.column_prices(&prices.node), f64::INFINITY, prices.width);
    let width = COARSE * small.spread / 1e6;
    let mut rest = Rest { model: &small, cut, base: small.base.clone(), settled: Vec::new(), width };
    let before = rest.again(prices, AROUND, ROUGH, clock);
    // One that stands for others has no place.
    let whole = 1.01 * traffic / f64::from(THINNED);
    let after = rest.dive(before.clone(), (whole, 1.0), &|_| AROUND, clock);
    for (price, (before, after)) in prices.node.iter_mut().zip(before.node.iter().zip(&after.node)) {
        *price += after - before;
    }
    for (row, column) in &rest.settled {
        fixed.add(model, rows[*row], *column);
    }
}

/// An assignment from `prices`, around what is `fixed`, and how far around the prices it was looked for; `bound` is what
/// no plan can cost less than.
pub(super) fn plan<'a>(
    model: &'a Model,
    prices: &Prices,
    fixed: &Fixed,
    (bound, kept): (f64, Option<Kept>),
    clock: &mut dyn Clock,
) -> (Tally<'a>, f64) {
    let count = |rows: usize| as_float(rows.max(1));
    let sharing = count(prices.shares.chunk_by(|a, b| a.0 == b.0).count());
    let traffic = model.traffic();
    // The traffic that shares exits is how much moves when prices change by a width: a row of `rate` shifts them by more
    // of these the larger it is.
    let moves = (sharing * traffic / count(model.len())).max(1.0);
    let columns = count(model.paths.len());
    let shift = |rate: f64| (WAY * columns * rate / moves).clamp(NEARBY, FAR);
    let sizes = prices.shares.iter().map(|share| index(share.0)).chain(fixed.rows().iter().map(|row| row.0));
    let largest = sizes.map(|row| model.rate[row]).fold(0.0, f64::max);
    let least = (EACH * sharing).max(LEAST);
    let most = if count(model.len()) <= MOST { f64::INFINITY } else { MOST / sharing };
    let ratio = (ROOM * shift(largest)).clamp(least / sharing, most.max(least / sharing));
    let coarse = if fixed.rows().is_empty() { 0.0 } else { ROOM * COARSE * model.spread / 1e6 };
    let reach = (ratio * prices.width).max(coarse);
    let Kept { mut cut, mut choice } = fixed.near(model, &prices.node, reach, kept);
    // What lies further out is taken to stay as it is, however far prices go.
    cut.radius = f64::INFINITY;
    let mut rest = Rest { model, cut, base: fixed.base().to_vec(), settled: Vec::new(), width: prices.width };
    let start =
        if fixed.rows().is_empty() { prices.clone() } else { rest.again(prices, NEARBY, ROUGH, clock) };
    let alone = fixed.rows().is_empty() && bulky(model, prices);
    let market = model.column_prices(&start.node);
    let first = if alone { 1.0 } else { (PART * sharing).max(BATCH) };
    let now = rest.dive(start, (SMALL * traffic, first), &shift, clock);
    rest.choose(&now, &mut choice);
    let mut tally = Tally::new(model, choice);
    primal::round(&mut tally, &now.shares);
    for (row, column) in &rest.settled {
        primal::place(&mut tally, *row, *column);
    }
    fixed.place(&mut tally);
    let cost = tally.cost();
    let enough = if model.len() > FEW { ENOUGH * bound.abs() } else { 0.0 };
    if cost - bound <= enough {
        return (tally, reach);
    }
    // Those settled take part again: a row without weight is in no cut.
    for (row, _) in rest.settled.iter().chain(fixed.rows()) {
        rest.cut.give_back(*row, model.rate[*row]);
    }
    let near = rest.cut.deeper(market.clone(), (least / sharing * prices.width).max(coarse), 0.0);
    let choices = Choices::new(model, &near.live, &market, (cost - bound, LARGE * traffic));
    primal::improve(&mut tally, &choices, (cost - bound, enough), 1e-10 * cost.abs(), clock);
    mend(&mut tally, bound, clock);
    (tally, reach)
}

/// What breaks a hard limit is hardly a plan, and one far above its bound or above a limit a bad one: rounding may do that
/// where all that is near was settled before, so single moves are offered to everyone.
fn mend(tally: &mut Tally<'_>, bound: f64, clock: &mut dyn Clock) {
    let model = tally.model;
    let small = as_float(model.column.len()) <= LITTLE;
    let gap = if small { POOR } else { BAD };
    let (over, _, breach) = tally::of_loads(model, &tally.load);
    let breaks = breach > 0.0 || small && over > 0.0;
    if !breaks && tally.cost() - bound <= gap * bound.abs() {
        return;
    }
    let every = Choices::every(model);
    // The second time small savings count too: beside a breach they are lost in rounding.
    for _ in 0..=usize::from(breaks) {
        let cost = tally.cost();
        primal::improve(tally, &every, (f64::INFINITY, 0.0), 1e-10 * cost.abs(), clock);
    }
}
