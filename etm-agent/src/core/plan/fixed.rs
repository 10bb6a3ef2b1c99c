//! Prefixes that are settled, so that the prices of the rest can be found again around them. Never chooses where.

use super::dual::{Dual, farthest};
use super::model::Model;
use super::primal;
use super::rows::Kept;
use super::tally::Tally;
use std::cell::Cell;

/// A row of less than this part of all traffic is not worth a hint.
const LARGE: f64 = 5e-4;

/// What was kept must reach so far of what is wanted.
const KEEP: f64 = 0.15;

/// Some rows on columns of their own, and what is left for the others.
#[derive(Clone)]
pub(super) struct Fixed {
    rows: Vec<(usize, u16)>,
    base: Vec<f64>,
    weight: Vec<f64>,
}

impl Fixed {
    pub(super) fn none(model: &Model) -> Fixed {
        Fixed { rows: Vec::new(), base: model.base.clone(), weight: model.rate.clone() }
    }

    /// What is settled.
    pub(super) fn rows(&self) -> &[(usize, u16)] {
        &self.rows
    }

    /// Loads of nodes that the rest cannot change.
    pub(super) fn base(&self) -> &[f64] {
        &self.base
    }

    /// The dual of the rest.
    pub(super) fn dual<'a>(&'a self, model: &'a Model) -> Dual<'a> {
        Dual {
            model,
            base: &self.base,
            rows: model.view(&self.weight),
            work: Cell::default(),
            sharing: Cell::default(),
        }
    }

    /// What the settled rows cost beside their loads, and the rows without traffic.
    pub(super) fn constant(&self, model: &Model) -> f64 {
        let cost = |(row, column): &(usize, u16)| {
            let at = model.pairs(*row).find(|at| model.column[*at] == *column);
            at.map_or(0.0, |at| model.unit[at] * model.rate[*row])
        };
        let idle = (0..model.len()).filter(|row| model.rate[*row] <= 0.0);
        let least =
            idle.map(|row| model.unit[model.pairs(row)].iter().copied().fold(f64::INFINITY, f64::min));
        self.rows.iter().map(cost).sum::<f64>() + least.sum::<f64>()
    }

    /// Settles `row` on `column`.
    pub(super) fn add(&mut self, model: &Model, row: usize, column: u16) {
        if self.weight[row] > 0.0 {
            self.weight[row] = 0.0;
            self.rows.push((row, column));
            for node in &model.paths[usize::from(column)] {
                self.base[usize::from(*node)] += model.rate[row];
            }
        }
    }

    /// Settles rows where an earlier search had them, if most of these are still rows that are large and have that exit.
    pub(super) fn add_hints(&mut self, model: &Model, hints: &[(usize, u16)]) -> bool {
        let least = LARGE * self.weight.iter().sum::<f64>();
        for (row, exit) in hints {
            if *row < model.len() && self.weight[*row] > least {
                let column = |at: &usize| model.exit_of(model.column[*at]) == usize::from(*exit);
                if let Some(at) = model.pairs(*row).find(column) {
                    self.add(model, *row, model.column[at]);
                }
            }
        }
        2 * self.rows.len() > hints.len()
    }

    /// The cheapest pair of each row at these prices, and the rows with another within about twice `margin`: from what
    /// was `kept` on the way to the prices, if that reaches far enough.
    pub(super) fn near(&self, model: &Model, prices: &[f64], margin: f64, kept: Option<Kept>) -> Kept {
        let column = model.column_prices(prices);
        let far = |kept: &Kept| kept.cut.radius - farthest(&column, &kept.cut.prices) >= KEEP * margin;
        let mut near = match kept.filter(far) {
            Some(mut kept) => {
                for (row, _) in &self.rows {
                    let row = u32::try_from(*row).unwrap_or(u32::MAX);
                    if let Ok(at) = kept.cut.live.row.binary_search(&row) {
                        kept.cut.live.weight[at] = 0.0;
                    }
                }
                kept
            }
            None => model.view(&self.weight).kept(column, margin, 0.0),
        };
        let idle = vec![0.0; model.paths.len()];
        let view = model.view(&self.weight);
        for row in (0..model.len()).filter(|row| model.rate[*row] <= 0.0) {
            near.choice[row] = u32::try_from(view.best(row, &idle).at).unwrap_or(u32::MAX);
        }
        near
    }

    /// Puts the settled rows where they are settled.
    pub(super) fn place(&self, tally: &mut Tally<'_>) {
        for (row, column) in &self.rows {
            primal::place(tally, *row, *column);
        }
    }
}
