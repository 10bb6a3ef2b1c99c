//! Prefixes that are settled, so that the prices of the rest can be found again around them. Never chooses where.

use super::dual::Dual;
use super::model::Model;
use super::primal;
use super::tally::Tally;
use std::cell::Cell;

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
        Dual { model, base: &self.base, rows: model.view(&self.weight), sharing: Cell::default() }
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

    /// Settles the largest rows that share exits where `plan` has them; false if there was none.
    pub(super) fn add_largest(
        &mut self,
        model: &Model,
        plan: &Tally<'_>,
        shares: &[(u32, u16, f64)],
    ) -> bool {
        let mut rows: Vec<usize> =
            shares.iter().map(|share| usize::try_from(share.0).unwrap_or(usize::MAX)).collect();
        rows.dedup();
        rows.sort_by(|a, b| model.rate[*b].total_cmp(&model.rate[*a]).then(a.cmp(b)));
        let before = self.rows.len();
        for row in rows.into_iter().take(2 * self.base.len()) {
            self.add(model, row, model.column[plan.pair(row)]);
        }
        self.rows.len() > before
    }

    /// Puts the settled rows where they are settled.
    pub(super) fn place(&self, tally: &mut Tally<'_>) {
        for (row, column) in &self.rows {
            primal::place(tally, *row, *column);
        }
    }
}
