//! Convex piecewise-linear cost of a load, and its conjugate: what the dual is made of. Never sees a prefix.

/// A convex piecewise-linear function of load (bit/s) in currency per month, zero at zero load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// Load at which each piece begins, ascending, the first 0.
    from: Vec<f64>,
    /// Price of one more bit/s on each piece, ascending.
    slope: Vec<f64>,
    /// Cost at the beginning of each piece.
    value: Vec<f64>,
}

impl Curve {
    /// Sums steps: each pair raises the price by its second part from the load of its first part on.
    pub fn from_steps(mut steps: Vec<(f64, f64)>) -> Curve {
        steps.retain(|(from, rise)| from.is_finite() && *rise != 0.0);
        steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut curve = Curve { from: vec![0.0], slope: vec![0.0], value: vec![0.0] };
        for (from, rise) in steps {
            let last = curve.from.len() - 1;
            if from <= curve.from[last] {
                curve.slope[last] += rise;
            } else {
                let value = curve.value[last] + curve.slope[last] * (from - curve.from[last]);
                curve.from.push(from);
                curve.slope.push(curve.slope[last] + rise);
                curve.value.push(value);
            }
        }
        curve
    }

    /// Index of the piece that holds `load`, the later one at a corner.
    fn piece(&self, load: f64) -> usize {
        let mut at = 0;
        while at + 1 < self.from.len() && self.from[at + 1] <= load {
            at += 1;
        }
        at
    }

    /// Cost of `load`.
    pub fn cost(&self, load: f64) -> f64 {
        let at = self.piece(load);
        self.value[at] + self.slope[at] * (load - self.from[at])
    }

    /// Price of one more bit/s at `load`.
    pub fn price(&self, load: f64) -> f64 {
        self.slope[self.piece(load)]
    }

    /// Price of the last bit/s at `load`.
    pub fn price_below(&self, load: f64) -> f64 {
        let at = self.piece(load);
        self.slope[if at > 0 && self.from[at] >= load { at - 1 } else { at }]
    }

    /// The lowest and the highest price that a load of at least `least` can have.
    pub fn prices(&self, least: f64) -> (f64, f64) {
        (self.price(least), self.slope[self.slope.len() - 1])
    }

    /// `max(price * load - cost(load))` over loads of at least `least`, and the smallest load that attains it.
    /// Beyond the highest price there is no maximum: callers stay within [`Curve::prices`].
    pub fn conjugate(&self, price: f64, least: f64) -> (f64, f64) {
        let first = self.piece(least);
        let mut load = least;
        for at in first..self.from.len() {
            if self.slope[at] >= price || at + 1 == self.from.len() {
                break;
            }
            load = self.from[at + 1];
        }
        (price * load - self.cost(load), load)
    }

    /// The largest load of at least `least` that attains [`Curve::conjugate`].
    pub fn conjugate_most(&self, price: f64, least: f64) -> f64 {
        let end = (self.piece(least)..self.from.len()).find(|at| self.slope[*at] > price);
        end.map_or(f64::INFINITY, |at| self.from[at].max(least))
    }

    /// The price `p` at which a demand of `demand - fall * (p - now)` meets a load that this curve prices at `p`.
    pub fn meet(&self, now: f64, demand: f64, fall: f64, least: f64) -> f64 {
        for at in self.piece(least)..self.from.len() {
            let corner = self.slope[at];
            let wanted = demand - fall * (corner - now);
            let Some(next) = self.from.get(at + 1) else { return corner };
            if wanted <= *next {
                return corner;
            }
            if fall > 0.0 {
                let price = now + (demand - next) / fall;
                if price <= self.slope[at + 1] {
                    return price;
                }
            }
        }
        self.slope[self.slope.len() - 1]
    }

    /// Where the price jumps past `price`: the load, and the prices just below and above that corner.
    pub fn corner(&self, price: f64, least: f64) -> Option<(f64, f64, f64)> {
        (self.piece(least)..self.from.len() - 1)
            .find(|at| self.slope[*at] < price && price < self.slope[at + 1])
            .map(|at| (self.from[at + 1], self.slope[at], self.slope[at + 1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve() -> Curve {
        // 1 up to 10, 3 up to 20, 5 above; and 100 more above 30.
        Curve::from_steps(vec![(30.0, 100.0), (0.0, 1.0), (10.0, 2.0), (20.0, 2.0)])
    }

    #[test]
    fn cost_is_the_area_under_the_prices() {
        for (load, cost) in [(0.0, 0.0), (10.0, 10.0), (15.0, 25.0), (30.0, 90.0), (31.0, 195.0)] {
            assert_eq!(curve().cost(load), cost, "{load}");
        }
    }

    #[test]
    fn conjugate_and_cost_never_promise_more_than_they_hold() {
        let curve = curve();
        for least in [0.0, 12.0, 40.0] {
            let (low, high) = curve.prices(least);
            for step in 0..=50 {
                let price = low + (high - low) * f64::from(step) / 50.0;
                let (gain, load) = curve.conjugate(price, least);
                assert!((price * load - curve.cost(load) - gain).abs() < 1e-9);
                for other in 0..60 {
                    let other = least + f64::from(other);
                    assert!(price * other - curve.cost(other) <= gain + 1e-9, "{price} {other}");
                }
            }
        }
    }

    #[test]
    fn demand_meets_price_on_a_piece_or_at_a_corner() {
        let curve = curve();
        assert_eq!(curve.meet(0.0, 5.0, 0.0, 0.0), 1.0);
        assert_eq!(curve.meet(0.0, 12.0, 1.0, 0.0), 2.0, "12 - 2 = 10");
        assert_eq!(curve.meet(0.0, 18.0, 1.0, 0.0), 3.0);
        assert_eq!(curve.meet(0.0, 1e9, 1.0, 0.0), 105.0);
        assert_eq!(curve.corner(2.0, 0.0), Some((10.0, 1.0, 3.0)));
        assert_eq!(curve.corner(3.0, 0.0), None);
    }
}
