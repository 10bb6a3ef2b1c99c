//! How one row shares itself out over exits that cost nearly the same, smoothed. Arithmetic of one row; never looks at
//! another.

use super::rows::View;

/// A pair that shares a row.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Its price above the cheapest.
    pub(super) above: f64,
    pub(super) column: u16,
    /// Square root of its share.
    pub(super) root: f64,
}

/// The pairs of a row that are within `width` of the cheapest.
pub(super) fn gather(
    view: &View<'_>,
    row: usize,
    prices: &[f64],
    cheapest: f64,
    width: f64,
    support: &mut Vec<Part>,
) {
    support.clear();
    let (_, columns, units) = view.row(row);
    for (column, unit) in columns.iter().zip(units) {
        let above = unit + prices[usize::from(*column)] - cheapest;
        if above < width {
            support.push(Part { above, column: *column, root: 0.0 });
        }
    }
}

/// Keeps the pairs with a positive share: the root of a share is `(level - above) / width`, and shares sum to 1.
pub(super) fn share_out(support: &mut Vec<Part>, width: f64) {
    if support.len() > 2 {
        support.sort_unstable_by(|a, b| a.above.total_cmp(&b.above).then(a.column.cmp(&b.column)));
    } else if support.len() == 2 && support[0].above > support[1].above {
        support.swap(0, 1);
    }
    let (mut sum, mut squares, mut count, mut kept) = (0.0, 0.0, 0.0, 0);
    let mut level = f64::INFINITY;
    for part in support.iter() {
        if part.above >= level {
            break;
        }
        sum += part.above;
        squares += part.above * part.above;
        count += 1.0;
        kept += 1;
        let mean = sum / count;
        level = mean + ((width * width - squares) / count + mean * mean).max(0.0).sqrt();
    }
    support.truncate(kept);
    for part in support {
        part.root = ((level - part.above) / width).max(0.0);
    }
}

/// Adds how the loads of the sharing pairs fall when their prices rise.
pub(super) fn add_fall(support: &[Part], slope: f64, roots: f64, columns: usize, fall: &mut [f64]) {
    for (at, part) in support.iter().enumerate() {
        let own = usize::from(part.column);
        let slope = slope * part.root;
        fall[own * columns + own] += slope * (1.0 - part.root / roots);
        let slope = slope / roots;
        for other in &support[at + 1..] {
            let beside = usize::from(other.column);
            let value = slope * other.root;
            fall[own * columns + beside] -= value;
            fall[beside * columns + own] -= value;
        }
    }
}
