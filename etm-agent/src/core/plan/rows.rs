//! Prefixes as the dual sees them: for each a price per bit/s on each column. Picks the few that decide anything:
//! a sample for the first rough prices, then only those whose choice can still change. Never assigns.

use super::model::Model;

/// Prefixes, as slices.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) start: &'a [u32],
    pub(super) column: &'a [u16],
    pub(super) unit: &'a [f64],
    /// Traffic; a row without any is passed over.
    pub(super) weight: &'a [f64],
}

/// Prefixes picked out of a [`View`].
#[derive(Clone, Default)]
pub(super) struct Rows {
    start: Vec<u32>,
    column: Vec<u16>,
    unit: Vec<f64>,
    pub(super) weight: Vec<f64>,
    /// Where each was picked.
    pub(super) row: Vec<u32>,
}

/// What does not change while the column prices stay within a distance of where the cut was made, and the rest.
pub(super) struct Cut {
    /// Rows that may change their choice.
    pub(super) live: Rows,
    /// Load of the others per column.
    pub(super) load: Vec<f64>,
    /// What the others cost beside the prices of their columns.
    pub(super) constant: f64,
    /// The prices of columns it was made at, and how far they may move.
    pub(super) prices: Vec<f64>,
    pub(super) radius: f64,
}

/// A cut, and the cheapest pair of each row where it was made.
pub(super) struct Kept {
    pub(super) cut: Cut,
    pub(super) choice: Vec<u32>,
}

/// The cheapest pair of a row: position, price, and the price of the second cheapest.
#[derive(Clone, Copy)]
pub(super) struct Best {
    pub(super) at: usize,
    pub(super) price: f64,
    pub(super) second: f64,
}

/// Rows of at most so many pairs are looked at in one go, and longer ones so many at a time.
const NARROW: usize = 4;
const WIDE: usize = 8;
/// Added to the prices of pairs of which only the first few count.
const BEYOND: [f64; 2 * WIDE] = {
    let mut beyond = [0.0; 2 * WIDE];
    let mut at = WIDE;
    while at < 2 * WIDE {
        beyond[at] = f64::INFINITY;
        at += 1;
    }
    beyond
};

// As the processor has them, without a care for what is no number.
#[inline(always)]
fn lower(a: f64, b: f64) -> f64 {
    if a < b { a } else { b }
}

#[inline(always)]
fn higher(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

impl Best {
    const NONE: Best = Best { at: 0, price: f64::INFINITY, second: f64::INFINITY };

    /// The cheapest of two lots of pairs, the first where they are equal. No branches: which it is cannot be predicted.
    #[inline(always)]
    fn join(self, other: Best) -> Best {
        let second = lower(higher(self.price, other.price), lower(self.second, other.second));
        let at = if other.price < self.price { other.at } else { self.at };
        Best { at, price: lower(self.price, other.price), second }
    }

    /// The cheapest of some prices, the first of equals. As in a tournament: few have to wait for each other.
    #[inline(always)]
    fn of<const COUNT: usize>(begin: usize, prices: &[f64; COUNT]) -> Best {
        let (mut low, mut next) = (*prices, [f64::INFINITY; COUNT]);
        let mut count = COUNT;
        while count > 1 {
            count /= 2;
            for at in 0..count {
                let (a, b) = (low[at], low[at + count]);
                next[at] = lower(higher(a, b), lower(next[at], next[at + count]));
                low[at] = lower(a, b);
            }
        }
        let mut first = COUNT - 1;
        for at in (0..COUNT - 1).rev() {
            first = if prices[at] <= low[0] { at } else { first };
        }
        Best { at: begin + first, price: low[0], second: next[0] }
    }
}

fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

impl Model {
    /// All prefixes, with `weight` as their traffic.
    pub(super) fn view<'a>(&'a self, weight: &'a [f64]) -> View<'a> {
        View { start: &self.start, column: &self.column, unit: &self.unit, weight }
    }

    /// Prices of the columns when the nodes have these.
    pub(super) fn column_prices(&self, node_prices: &[f64]) -> Vec<f64> {
        let price = |path: &Vec<u16>| path.iter().map(|node| node_prices[usize::from(*node)]).sum();
        self.paths.iter().map(price).collect()
    }
}

impl<'a> View<'a> {
    pub(super) fn len(&self) -> usize {
        self.weight.len()
    }

    /// Columns and prices of a row.
    pub(super) fn row(&self, row: usize) -> (usize, &'a [u16], &'a [f64]) {
        let (begin, end) = (index(self.start[row]), index(self.start[row + 1]));
        (begin, &self.column[begin..end], &self.unit[begin..end])
    }

    /// The cheapest pair of a row at these column prices, the first of equals.
    #[inline]
    pub(super) fn best(&self, row: usize, prices: &[f64]) -> Best {
        let (mut begin, end) = (index(self.start[row]), index(self.start[row + 1]));
        let mut best = Best { at: begin, ..Best::NONE };
        while end - begin > WIDE {
            best = best.join(self.window::<WIDE>(begin, end, prices));
            begin += WIDE;
        }
        let last = if end - begin <= NARROW {
            self.window::<NARROW>(begin, end, prices)
        } else {
            self.window::<WIDE>(begin, end, prices)
        };
        best.join(last)
    }

    /// The cheapest pair from `begin` on, of so many. It reads on into the next row, whose pairs do not count: how long
    /// rows are cannot be predicted either.
    #[inline(always)]
    fn window<const COUNT: usize>(&self, begin: usize, end: usize, prices: &[f64]) -> Best {
        let count = (end - begin).min(COUNT);
        let mut all = [f64::INFINITY; COUNT];
        let (columns, units) = (self.column.get(begin..begin + COUNT), self.unit.get(begin..begin + COUNT));
        if let (Some(columns), Some(units)) = (columns, units) {
            let beyond = &BEYOND[WIDE - count..WIDE - count + COUNT];
            for at in 0..COUNT {
                all[at] = units[at] + prices[usize::from(columns[at])] + beyond[at];
            }
        } else {
            for at in 0..count {
                all[at] = self.unit[begin + at] + prices[usize::from(self.column[begin + at])];
            }
        }
        Best::of(begin, &all)
    }

    /// A sample of about `count` rows, chosen with a chance in proportion to their traffic and weighted so that
    /// loads are right on average. Large rows are always in it. No dice: every `total / count` of traffic.
    pub(super) fn sample(&self, count: usize) -> Rows {
        let total: f64 = self.weight.iter().sum();
        let step = total / f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let mut rows = Rows { start: vec![0], ..Rows::default() };
        let (mut sum, mut next) = (0.0, step * 0.5);
        for (row, weight) in self.weight.iter().enumerate() {
            sum += weight;
            if sum > next {
                rows.push(self, row, weight.max(step));
                while next < sum {
                    next += step;
                }
            }
        }
        rows
    }

    /// Sets apart the rows that may change their choice, or share it, while no column price moves more than `radius`
    /// from `prices` and the smoothing is at most `width`.
    pub(super) fn cut(&self, prices: Vec<f64>, radius: f64, width: f64) -> Cut {
        self.cut_seen(prices, radius, width, |_, _| ())
    }

    /// The same, with the cheapest pair of each row. A row without traffic keeps its first.
    pub(super) fn kept(&self, prices: Vec<f64>, radius: f64, width: f64) -> Kept {
        let mut choice = self.start[..self.len()].to_vec();
        let seen = |row: usize, at: usize| choice[row] = u32::try_from(at).unwrap_or(u32::MAX);
        let cut = self.cut_seen(prices, radius, width, seen);
        Kept { cut, choice }
    }

    /// The same; `seen` is told the cheapest pair of each row.
    fn cut_seen(&self, prices: Vec<f64>, radius: f64, width: f64, mut seen: impl FnMut(usize, usize)) -> Cut {
        let mut cut = Cut {
            live: Rows { start: vec![0], ..Rows::default() },
            load: vec![0.0; prices.len()],
            constant: 0.0,
            prices,
            radius,
        };
        let margin = 2.0 * radius + width;
        for (row, weight) in self.weight.iter().enumerate() {
            if *weight <= 0.0 {
                continue;
            }
            let best = self.best(row, &cut.prices);
            seen(row, best.at);
            if best.second - best.price > margin {
                cut.load[usize::from(self.column[best.at])] += weight;
                cut.constant += weight * self.unit[best.at];
            } else {
                cut.live.push_near(self, row, *weight, (&cut.prices, best.price + margin));
            }
        }
        cut
    }
}

impl Cut {
    /// Gives a row that was taken out its weight again.
    pub(super) fn give_back(&mut self, row: usize, weight: f64) {
        let row = u32::try_from(row).unwrap_or(u32::MAX);
        if let Ok(at) = self.live.row.binary_search(&row) {
            self.live.weight[at] = weight;
        }
    }

    /// The same for a smaller surrounding, which must lie within this one.
    pub(super) fn deeper(&self, prices: Vec<f64>, radius: f64, width: f64) -> Cut {
        let mut cut = self.live.view().cut(prices, radius, width);
        for (sum, load) in cut.load.iter_mut().zip(&self.load) {
            *sum += load;
        }
        cut.constant += self.constant;
        for row in &mut cut.live.row {
            *row = self.live.row[index(*row)];
        }
        cut
    }
}

impl Rows {
    fn push(&mut self, from: &View<'_>, row: usize, weight: f64) {
        let (_, columns, units) = from.row(row);
        self.column.extend_from_slice(columns);
        self.unit.extend_from_slice(units);
        self.weight.push(weight);
        self.start.push(u32::try_from(self.column.len()).unwrap_or(u32::MAX));
        self.row.push(u32::try_from(row).unwrap_or(u32::MAX));
    }

    /// Adds a row without the pairs that are dearer than `most`.
    fn push_near(&mut self, from: &View<'_>, row: usize, weight: f64, (prices, most): (&[f64], f64)) {
        let (_, columns, units) = from.row(row);
        // Writes them all and keeps what it must: which are near cannot be predicted.
        let mut end = self.column.len();
        self.column.resize(end + columns.len(), 0);
        self.unit.resize(end + columns.len(), 0.0);
        for (column, unit) in columns.iter().zip(units) {
            self.column[end] = *column;
            self.unit[end] = *unit;
            end += usize::from(unit + prices[usize::from(*column)] <= most);
        }
        self.column.truncate(end);
        self.unit.truncate(end);
        self.weight.push(weight);
        self.start.push(u32::try_from(self.column.len()).unwrap_or(u32::MAX));
        self.row.push(u32::try_from(row).unwrap_or(u32::MAX));
    }

    pub(super) fn view(&self) -> View<'_> {
        View { start: &self.start, column: &self.column, unit: &self.unit, weight: &self.weight }
    }
}
