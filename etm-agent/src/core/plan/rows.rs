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

/// The two lowest prices met so far.
#[derive(Clone, Copy)]
struct Lead {
    at: usize,
    price: f64,
    second: f64,
}

impl Lead {
    const NONE: Lead = Lead { at: usize::MAX, price: f64::INFINITY, second: f64::INFINITY };

    #[inline]
    fn meet(&mut self, at: usize, price: f64) {
        let cheaper = price < self.price;
        let loser = if cheaper { self.price } else { price };
        self.second = if loser < self.second { loser } else { self.second };
        self.at = if cheaper { at } else { self.at };
        self.price = if cheaper { price } else { self.price };
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
        let (begin, columns, units) = self.row(row);
        // Two chains that do not wait for each other, and no branches: which exit is cheapest cannot be predicted.
        let (mut even, mut odd) = (Lead::NONE, Lead::NONE);
        let mut pairs = columns.chunks_exact(2).zip(units.chunks_exact(2));
        let mut at = begin;
        for (columns, units) in &mut pairs {
            even.meet(at, units[0] + prices[usize::from(columns[0])]);
            odd.meet(at + 1, units[1] + prices[usize::from(columns[1])]);
            at += 2;
        }
        if columns.len() % 2 == 1 {
            even.meet(at, units[columns.len() - 1] + prices[usize::from(columns[columns.len() - 1])]);
        }
        let first = even.price < odd.price || (even.price == odd.price && even.at < odd.at);
        let (lead, other) = if first { (even, odd) } else { (odd, even) };
        let second = if lead.second < other.price { lead.second } else { other.price };
        Best { at: if lead.at == usize::MAX { begin } else { lead.at }, price: lead.price, second }
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
        for (column, unit) in columns.iter().zip(units) {
            if unit + prices[usize::from(*column)] <= most {
                self.column.push(*column);
                self.unit.push(*unit);
            }
        }
        self.weight.push(weight);
        self.start.push(u32::try_from(self.column.len()).unwrap_or(u32::MAX));
        self.row.push(u32::try_from(row).unwrap_or(u32::MAX));
    }

    pub(super) fn view(&self) -> View<'_> {
        View { start: &self.start, column: &self.column, unit: &self.unit, weight: &self.weight }
    }
}
