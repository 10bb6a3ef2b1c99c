//! One step of the dual: the node prices that are best for a quadratic model of what the prefixes answer, within
//! bounds. Small and dense: as many unknowns as there are exits and groups. Never sees a prefix.

use super::curve::Curve;

/// The model around the prices `now`.
pub(super) struct Master<'a> {
    pub(super) curves: &'a [Curve],
    /// Load of each node that prefixes cannot change.
    pub(super) least: &'a [f64],
    /// Prices.
    pub(super) now: &'a [f64],
    /// Load of each node at `now`.
    pub(super) load: &'a [f64],
    /// How loads fall when prices rise, row by row.
    pub(super) fall: &'a [f64],
    /// Bounds of the new prices.
    pub(super) low: &'a [f64],
    pub(super) high: &'a [f64],
}

const ROUNDS: usize = 80;
/// Prices that move less than this part of their room stand still.
const STILL: f64 = 1e-7;

impl Master<'_> {
    /// The new prices, and by how much the model says that the dual grows.
    pub(super) fn solve(&self) -> (Vec<f64>, f64) {
        let count = self.now.len();
        let mut price = self.now.to_vec();
        let mut drop = vec![0.0; count];
        for round in 0..ROUNDS {
            let mut moved = if round == 0 { self.newton(&mut price, &mut drop) } else { 0.0 };
            moved = moved.max(self.sweep(&mut price, &mut drop));
            // Not each time: it costs the cube of what a sweep does.
            if round > 0 && (round % 3 == 2 || moved <= STILL) {
                moved = moved.max(self.newton(&mut price, &mut drop));
            }
            if moved <= STILL {
                break;
            }
        }
        let gain = self.gain(&price, &drop);
        (price, gain)
    }

    /// Each price in turn to where it is best while the others stand; the largest change relative to its bounds.
    fn sweep(&self, price: &mut [f64], drop: &mut [f64]) -> f64 {
        let count = price.len();
        let mut largest = 0.0_f64;
        for node in 0..count {
            let own = self.fall[node * count + node];
            let demand = self.load[node] - drop[node];
            let met = self.curves[node].meet(price[node], demand, own, self.least[node]);
            let new = met.clamp(self.low[node], self.high[node]);
            let change = new - price[node];
            if change != 0.0 {
                price[node] = new;
                self.respond(drop, node, change);
                let room = self.high[node] - self.low[node];
                largest = largest.max(change.abs() / room);
            }
        }
        largest
    }

    fn respond(&self, drop: &mut [f64], node: usize, change: f64) {
        let count = drop.len();
        let row = &self.fall[node * count..(node + 1) * count];
        for (drop, fall) in drop.iter_mut().zip(row) {
            *drop += fall * change;
        }
    }

    /// All prices that stand between two pieces of their curves at once: their loads shall be at the corner.
    /// One by one they would crawl where exits are close substitutes.
    fn newton(&self, price: &mut [f64], drop: &mut [f64]) -> f64 {
        let count = price.len();
        let mut free: Vec<(usize, f64, f64)> = Vec::new();
        let mut wanted: Vec<f64> = Vec::new();
        for node in 0..count {
            if let Some((corner, low, high)) = self.curves[node].corner(price[node], self.least[node])
                && price[node] > self.low[node]
                && price[node] < self.high[node]
            {
                free.push((node, low.max(self.low[node]), high.min(self.high[node])));
                wanted.push(self.load[node] - drop[node] - corner);
            }
        }
        let size = free.len();
        if size < 2 {
            return 0.0;
        }
        let mut matrix = vec![0.0; size * size];
        for (row, (a, _, _)) in free.iter().enumerate() {
            for (column, (b, _, _)) in free.iter().enumerate() {
                matrix[row * size + column] = self.fall[a * count + b];
            }
        }
        if !cholesky_solve(&mut matrix, &mut wanted) {
            return 0.0;
        }
        // As far as the first price that leaves its piece or its bounds.
        let mut share = 1.0_f64;
        for ((node, low, high), step) in free.iter().zip(&wanted) {
            let room = if *step > 0.0 { high - price[*node] } else { low - price[*node] };
            if *step != 0.0 {
                share = share.min(room / step);
            }
        }
        let mut largest = 0.0_f64;
        for ((node, low, high), step) in free.iter().zip(&wanted) {
            let new = (price[*node] + step * share).clamp(*low, *high);
            let change = new - price[*node];
            price[*node] = new;
            self.respond(drop, *node, change);
            largest = largest.max(change.abs() / (self.high[*node] - self.low[*node]));
        }
        largest
    }

    fn gain(&self, price: &[f64], drop: &[f64]) -> f64 {
        let mut gain = 0.0;
        for node in 0..price.len() {
            let step = price[node] - self.now[node];
            let conjugate = |price| self.curves[node].conjugate(price, self.least[node]).0;
            gain += self.load[node] * step - 0.5 * step * drop[node];
            gain -= conjugate(price[node]) - conjugate(self.now[node]);
        }
        gain
    }
}

/// Solves `matrix * x = right` in place for a positive semi-definite matrix, lifted a little where it is singular.
fn cholesky_solve(matrix: &mut [f64], right: &mut [f64]) -> bool {
    let size = right.len();
    let largest = (0..size).map(|at| matrix[at * size + at]).fold(0.0, f64::max);
    if largest <= 0.0 {
        return false;
    }
    for at in 0..size {
        matrix[at * size + at] += largest * 1e-10;
    }
    // Column after column, each taken off all that is right of it: whole rows at a time, none waits for a sum.
    let mut pivots = vec![0.0; size];
    for at in 0..size {
        let pivot = matrix[at * size + at];
        if pivot <= largest * 1e-14 {
            return false;
        }
        let root = pivot.sqrt();
        for row in at..size {
            matrix[row * size + at] /= root;
            pivots[row] = matrix[row * size + at];
        }
        for row in at + 1..size {
            let factor = pivots[row];
            let rest = &mut matrix[row * size + at + 1..=row * size + row];
            for (value, pivot) in rest.iter_mut().zip(&pivots[at + 1..=row]) {
                *value -= factor * pivot;
            }
        }
    }
    for row in 0..size {
        let mut sum = right[row];
        for at in 0..row {
            sum -= matrix[row * size + at] * right[at];
        }
        right[row] = sum / matrix[row * size + row];
    }
    for row in (0..size).rev() {
        let mut sum = right[row];
        for at in row + 1..size {
            sum -= matrix[at * size + row] * right[at];
        }
        right[row] = sum / matrix[row * size + row];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_system_is_solved_also_when_it_is_singular() {
        let mut matrix = vec![4.0, 2.0, 2.0, 3.0];
        let mut right = vec![8.0, 7.0];
        assert!(cholesky_solve(&mut matrix, &mut right));
        assert!((right[0] - 1.25).abs() < 1e-6 && (right[1] - 1.5).abs() < 1e-6, "{right:?}");
        let mut laplacian = vec![1.0, -1.0, -1.0, 1.0];
        let mut right = vec![1.0, -1.0];
        assert!(cholesky_solve(&mut laplacian, &mut right));
        assert!((right[0] - right[1] - 1.0).abs() < 1e-3, "{right:?}");
    }

    #[test]
    fn a_full_exit_gets_the_price_that_sends_its_excess_elsewhere() {
        // Two exits, 10 too much on the first; a price of 1 moves 5 of it.
        let curve = |limit| Curve::from_steps(vec![(0.0, 1.0), (limit, 100.0)]);
        let curves = [curve(90.0), curve(200.0)];
        let master = Master {
            curves: &curves,
            least: &[0.0, 0.0],
            now: &[1.0, 1.0],
            load: &[100.0, 50.0],
            fall: &[5.0, -5.0, -5.0, 5.0],
            low: &[1.0, 1.0],
            high: &[50.0, 50.0],
        };
        let (price, gain) = master.solve();
        assert!((price[0] - 3.0).abs() < 1e-9 && price[1] == 1.0, "{price:?}");
        assert!((gain - 10.0).abs() < 1e-9, "10 * 2 - 5 * 2 * 2 / 2: {gain}");
    }
}
