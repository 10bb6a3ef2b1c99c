//! Prefixes that are settled, so that the prices of the rest can be found again around them. Never chooses where.

use super::dual::Dual;
use super::model::Model;
use super::primal;
use super::rows::Cut;
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
        Dual { model, base: &self.base, rows: model.view(&self.weight), work: Cell::default(), sharing: Cell::default() }
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

    /// The cheapest pair of each row at these prices, and the rows with another within twice `margin`.
    pub(super) fn near(&self, model: &Model, prices: &[f64], margin: f64) -> (Vec<u32>, Cut) {
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let view = model.view(&self.weight);
        let mut choice: Vec<u32> = model.start[..model.len()].to_vec();
        let column = model.column_prices(prices);
        let idle = vec![0.0; column.len()];
        for row in (0..model.len()).filter(|row| model.rate[*row] <= 0.0) {
            choice[row] = narrow(view.best(row, &idle).at);
        }
        let cut = view.cut_seen(column, margin, 0.0, |row, at| choice[row] = narrow(at));
        (choice, cut)
    }

    /// Puts the settled rows where they are settled.
    pub(super) fn place(&self, tally: &mut Tally<'_>) {
        for (row, column) in &self.rows {
            primal::place(tally, *row, *column);
        }
    }
}
