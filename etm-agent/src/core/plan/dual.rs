//! Prices for exits and groups at which prefixes, each choosing its cheapest exit, fill them just right: the maximum of
//! the Lagrangian dual. Newton steps on a dual that is smoothed less and less (docs/adr/0007). Any prices give a true
//! bound; this looks for the highest. Never assigns a prefix.

use super::master::Master;
use super::model::Model;
use super::rows::{Cut, Kept, View};
use super::share::{Part, add_fall, gather, share_out};
use std::cell::Cell;

/// What is left to spend.
pub(super) trait Clock {
    /// True once the time is over.
    fn over(&mut self) -> bool;
}

/// Prices and what they prove.
#[derive(Clone, Debug)]
pub(super) struct Prices {
    /// Of each node, currency per bit/s and month.
    pub(super) node: Vec<f64>,
    /// No assignment costs less than this.
    pub(super) bound: f64,
    /// Rows that share exits at these prices: row, column, share.
    pub(super) shares: Vec<(u32, u16, f64)>,
    /// Price difference within which choices are still open.
    pub(super) width: f64,
}

/// What prefixes answer to prices.
struct Answer {
    /// The smoothed dual.
    smooth: f64,
    /// The dual itself: a bound.
    exact: f64,
    /// Cost of letting every row share as it chose, with the loads that follow.
    cost: f64,
    /// Load of each node.
    load: Vec<f64>,
    /// Nodes by nodes: fall of load per rise of price.
    fall: Vec<f64>,
    /// Traffic of rows that share exits, by how much they do.
    shared: f64,
}

/// The dual of a model over given rows.
pub(super) struct Dual<'a> {
    pub(super) model: &'a Model,
    /// Load of each node that is none of the rows'.
    pub(super) base: &'a [f64],
    pub(super) rows: View<'a>,
    /// Pairs of pairs that shared a row when last asked.
    pub(super) work: Cell<usize>,
    /// Rows that shared exits when last asked.
    pub(super) sharing: Cell<usize>,
}

enum End {
    /// Smoothed as little as is useful.
    Fine,
    /// The prices want to leave the surroundings for which the rows were cut.
    Outside,
    /// Time for a deeper cut.
    Deeper,
    /// Out of time.
    Over,
}

/// Prices from earlier.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) node: &'a [f64],
    /// How far they may be off.
    pub(super) width: f64,
    /// How far around them a plan will be looked for.
    pub(super) reach: f64,
    /// True if the bound is all that is asked for: loads need not fit the prices, for others will be found.
    pub(super) rough: bool,
}

/// How far to go.
#[derive(Clone, Copy)]
struct Goal {
    /// Stop when smoothing hides less than this part of the dual.
    hidden: f64,
    /// Or smooth no less than this.
    finest: f64,
    /// Loads fit the prices when shares cost no more than this part above what the prices prove.
    apart: f64,
}

/// How far a price may go, and whether the cut ends there.
#[derive(Clone, Copy)]
struct Bound {
    low: f64,
    high: f64,
}

impl Answer {
    /// What smoothing by `width` hides.
    fn hidden(&self, width: f64) -> f64 {
        2.0 / 3.0 * width * self.shared
    }

    /// Between what the shares cost and what the prices prove.
    fn apart(&self) -> f64 {
        self.cost - self.exact
    }
}

/// What smoothing may hide at the end: with few rows; else; and where many rows still share exits, so many for each node.
const HIDDEN_SMALL: f64 = 1e-6;
const HIDDEN: f64 = 2e-6;
const HIDDEN_MANY: f64 = 3e-7;
const MANY: usize = 16;
/// And after the first sample, a tenth of it after each further one.
const HIDDEN_BY_SAMPLE: f64 = 1e-3;
/// Rows of the first sample; each further one has eight times as many.
const SAMPLE: usize = 512;
/// How far prices will go with the next sample, as a part of how far they went with this one.
const NEXT: f64 = 0.5;
/// How far earlier prices may be off, in their widths.
const FIRST: f64 = 12.0;
/// Rows are cut wide enough at once for so much of what the plan will ask for.
const AGAIN: f64 = 0.5;
/// How closely loads fit the prices where these are only for the bound.
const ROUGH: f64 = 0.1;
/// How far prices may go in one step, in widths of the smoothing; and while looking for where a gain begins.
const TRUST: f64 = 4.0;
const FAR: f64 = 1e12;
/// Smoothing shrinks by this factor at each level.
const SHRINK: f64 = 0.2;
/// Rows are cut for price movements of so many widths of the smoothing.
const REACH: f64 = 2.0;
/// How far prices may leave the surroundings of a cut: its answers are wrong there, but show the direction.
const SOFT: f64 = 3.0;
/// Pairs of pairs that are looked at to learn how loads fall with prices.
const LOOKED_AT: usize = 20_000;
/// Shrunk by this factor, the smoothing leaves many rows and pairs of a cut idle.
const DEEPER: f64 = 4.0;
/// How often rows are cut anew before the prices are taken as they are, and steps in one cut.
const MOST_CUTS: usize = 10;
const STEPS: usize = 1_000;
/// So few rows are solved to the end; so few are not worth a cut; so few are not worth a deeper one.
const SMALL: usize = 1_000;
const WHOLE: usize = 4_096;
const FEWEST: usize = 100;

impl Dual<'_> {
    /// The prices, from scratch or from earlier ones.
    pub(super) fn solve(&self, warm: Option<(&[f64], f64)>, clock: &mut dyn Clock) -> Prices {
        self.solve_kept(warm.map(|(node, width)| Known { node, width, reach: 0.0, rough: false }), clock).0
    }

    /// The same, with the last cut that was made through all rows and the choices of those outside it.
    pub(super) fn solve_kept(&self, warm: Option<Known<'_>>, clock: &mut dyn Clock) -> (Prices, Kept) {
        let scale = self.model.overload_price + self.model.spread / 1e6;
        let mut prices = match warm {
            Some(known) => self.start(known.node, known.width),
            None => self.start(&[], 0.25 * self.model.spread.max(1e-3 * scale * 1e6) / 1e6),
        };
        let mut shift = warm.map_or(0.0, |known| (FIRST * known.width).max(AGAIN * known.reach));
        let mut hidden = HIDDEN_BY_SAMPLE;
        let mut count = SAMPLE;
        while warm.is_none() && count * 3 / 2 < self.rows.len() {
            let sample = self.rows.sample(count);
            let part = Dual { rows: sample.view(), work: Cell::default(), sharing: Cell::default(), ..*self };
            let before = self.model.column_prices(&prices.node);
            part.descend(&mut prices, Goal { hidden, finest: 0.0, apart: 4.0 * hidden }, shift, clock);
            // What the next sample corrects is smaller by the root of how much larger it is, and this one was once sure.
            shift = if count > SAMPLE {
                NEXT * farthest(&before, &self.model.column_prices(&prices.node))
            } else {
                0.0
            };
            count *= 8;
            hidden *= 0.1;
        }
        let hidden = if self.rows.len() <= SMALL { HIDDEN_SMALL } else { HIDDEN };
        let rough = warm.is_some_and(|known| known.rough);
        let apart = if rough { ROUGH } else { 4.0 * hidden };
        let kept = self.descend(&mut prices, Goal { hidden, finest: 0.0, apart }, shift, clock);
        (prices, kept)
    }

    /// Prices for the rows of `cut` alone, from `node`, smoothed by the first width, then down to the second. What the
    /// cut left out is taken as it stands: the bound is one of the cut, not of the problem.
    pub(super) fn polish(
        &self,
        cut: &Cut,
        node: &[f64],
        (from, to): (f64, f64),
        apart: f64,
        clock: &mut dyn Clock,
    ) -> Prices {
        let mut prices = self.start(node, from);
        let goal = Goal { hidden: 0.0, finest: to, apart };
        let near = cut.deeper(self.model.column_prices(node), REACH * from, from);
        if !matches!(self.within(&near, &mut prices, goal, clock), End::Fine | End::Over) {
            self.within(cut, &mut prices, goal, clock);
        }
        prices
    }

    fn start(&self, node: &[f64], width: f64) -> Prices {
        let price = |(at, curve): (usize, &super::curve::Curve)| {
            let (low, high) = curve.prices(self.base[at]);
            node.get(at).map_or(low, |price| price.clamp(low, high))
        };
        let node = self.model.curves.iter().enumerate().map(price).collect();
        Prices { node, bound: f64::NEG_INFINITY, shares: Vec::new(), width }
    }

    /// Shrinks the smoothing and follows the maximum, cutting the rows anew whenever prices leave where they were cut.
    fn descend(&self, prices: &mut Prices, goal: Goal, shift: f64, clock: &mut dyn Clock) -> Kept {
        let mut gone: f64 = shift;
        for _ in 0..MOST_CUTS {
            let column = self.model.column_prices(&prices.node);
            // Prices that leave their surroundings have far to go.
            let reach = if self.rows.len() <= WHOLE { f64::INFINITY } else { gone.max(REACH * prices.width) };
            let kept = self.rows.kept(column, reach, prices.width);
            let end = self.within(&kept.cut, prices, goal, clock);
            match end {
                End::Fine => return kept,
                End::Over => break,
                End::Outside | End::Deeper => {}
            }
            gone = 2.0 * farthest(&self.model.column_prices(&prices.node), &kept.cut.prices);
        }
        let kept = self.rows.kept(self.model.column_prices(&prices.node), 0.0, prices.width);
        // Prices outside what was cut prove what they prove, not what was said there.
        prices.bound = self.answer(&kept.cut, &prices.node, prices.width).exact;
        prices.shares = self.shares(&kept.cut, &prices.node, prices.width);
        kept
    }

    /// Within one cut: when the smoothing has shrunk well below what it was made for, a deeper cut is worth its while.
    fn within(&self, cut: &Cut, prices: &mut Prices, goal: Goal, clock: &mut dyn Clock) -> End {
        let mut end = self.follow(cut, prices, goal, clock);
        let mut radius = 0.0_f64;
        for _ in 0..MOST_CUTS {
            if !matches!(end, End::Deeper) {
                return end;
            }
            let column = self.model.column_prices(&prices.node);
            let room = cut.radius - farthest(&column, &cut.prices);
            radius = radius.max(REACH * prices.width);
            if room < radius {
                return End::Outside;
            }
            let deeper = cut.deeper(column, radius, prices.width);
            end = self.within(&deeper, prices, goal, clock);
            if matches!(end, End::Outside) {
                radius = 1.5 * farthest(&self.model.column_prices(&prices.node), &deeper.prices);
                end = End::Deeper;
            }
        }
        End::Outside
    }

    /// Newton steps while the smoothing shrinks, inside one cut.
    fn follow(&self, cut: &Cut, prices: &mut Prices, goal: Goal, clock: &mut dyn Clock) -> End {
        let bounds = self.bounds(&prices.node, cut);
        let mut answer = self.answer(cut, &prices.node, prices.width);
        let mut trust = TRUST * prices.width;
        let (mut tries, mut refused) = (0, false);
        let few = self.rows.len() <= SMALL;
        let most = if few { 400 } else { (2 * self.rows.len() / cut.live.view().len().max(1)).clamp(8, 60) };
        prices.bound = answer.exact;
        let mut steps = 0;
        loop {
            steps += 1;
            if steps > STEPS || clock.over() {
                prices.shares = self.shares(cut, &prices.node, prices.width);
                return End::Over;
            }
            let enough = (0.1 * prices.width * answer.shared).max(1e-11 * answer.smooth.abs());
            let (node, gain) = self.look(&answer, prices, &mut trust, (enough, refused), &bounds);
            let many = self.sharing.get() > MANY * self.base.len();
            let last = prices.width <= goal.finest
                || answer.hidden(prices.width)
                    <= if many { goal.hidden.min(HIDDEN_MANY) } else { goal.hidden } * answer.exact.abs();
            // At the last level loads must be right too, for the plan is rounded from them.
            let close = !last || tries > most || answer.apart() <= goal.apart * answer.exact.abs();
            tries += usize::from(last);
            let mut settled = gain <= if close { enough } else { 1e-13 * answer.smooth.abs() };
            if !settled {
                let trial = self.answer(cut, &node, prices.width);
                let step = farthest(&node, &prices.node);
                let rise = trial.smooth - answer.smooth;
                trust = if rise > 0.75 * gain { trust.max(2.5 * step) } else { trust };
                trust = if rise < 0.25 * gain { 0.3 * step } else { trust };
                refused = refused || rise < 0.25 * gain;
                if rise > 0.0 {
                    prices.node = node;
                    answer = trial;
                }
                settled = trust < if few { 1e-7 } else { 1e-3 } * prices.width;
            }
            prices.bound = answer.exact;
            if settled {
                let gone = farthest(&self.model.column_prices(&prices.node), &cut.prices);
                if gone > cut.radius {
                    return End::Outside;
                }
                if last || prices.width <= 1e-12 * self.model.overload_price {
                    prices.shares = self.shares(cut, &prices.node, prices.width);
                    return End::Fine;
                }
                prices.width = (prices.width * SHRINK).max(goal.finest);
                if prices.width * DEEPER < cut.radius / REACH && cut.live.view().len() > FEWEST {
                    return End::Deeper;
                }
                trust = TRUST * prices.width;
                refused = false;
                answer = self.answer(cut, &prices.node, prices.width);
            }
        }
    }

    fn widest(&self, at: usize) -> Bound {
        let (low, high) = self.model.curves[at].prices(self.base[at]);
        Bound { low, high }
    }

    /// How far each price may go: to where the cut ends, and never outside the prices of its curve.
    fn bounds(&self, node: &[f64], cut: &Cut) -> Vec<Bound> {
        let depth = self.model.paths.iter().map(Vec::len).max().unwrap_or(1).max(1);
        let column = self.model.column_prices(node);
        let gone = farthest(&column, &cut.prices);
        let reach = SOFT * (cut.radius - gone).max(0.0) / f64::from(u32::try_from(depth).unwrap_or(1));
        let bound = |(at, price): (usize, &f64)| {
            let Bound { low, high, .. } = self.widest(at);
            let (near_low, near_high) = (price - reach, price + reach);
            Bound { low: near_low.max(low), high: near_high.min(high) }
        };
        node.iter().enumerate().map(bound).collect()
    }

    /// The next prices, and what they promise. A short step that gains little may be one of a long way: looks further
    /// before being content, unless a step was refused.
    fn look(
        &self,
        answer: &Answer,
        prices: &Prices,
        trust: &mut f64,
        (enough, refused): (f64, bool),
        bounds: &[Bound],
    ) -> (Vec<f64>, f64) {
        let (mut node, mut gain) = self.step(answer, &prices.node, *trust, bounds);
        let room = |trust: f64| trust > 0.0 && trust < FAR * prices.width;
        while gain <= enough && !refused && room(*trust) && farthest(&node, &prices.node) >= 0.99 * *trust {
            *trust *= 8.0;
            (node, gain) = self.step(answer, &prices.node, *trust, bounds);
        }
        (node, gain)
    }

    fn step(&self, answer: &Answer, now: &[f64], trust: f64, bounds: &[Bound]) -> (Vec<f64>, f64) {
        let low: Vec<f64> =
            now.iter().zip(bounds).map(|(price, bound)| bound.low.max(price - trust)).collect();
        let high: Vec<f64> =
            now.iter().zip(bounds).map(|(price, bound)| bound.high.min(price + trust)).collect();
        let master = Master {
            curves: &self.model.curves,
            least: self.base,
            now,
            load: &answer.load,
            fall: &answer.fall,
            low: &low,
            high: &high,
        };
        master.solve()
    }

    /// Lets every row choose. A row whose prices differ by less than `width` shares its exits: the minimum over shares
    /// of the sum of `price * share + 2/3 * width * share^1.5`, less `2/3 * width`. The power 1.5 makes shares go to zero
    /// exactly, is smooth enough for Newton, and needs no more than a square root.
    fn answer(&self, cut: &Cut, node: &[f64], width: f64) -> Answer {
        let prices = self.model.column_prices(node);
        let columns = prices.len();
        let mut load = cut.load.clone();
        let mut fall = vec![0.0; columns * columns];
        let fixed: f64 = cut.load.iter().zip(&prices).map(|(load, price)| load * price).sum();
        let mut exact = cut.constant + fixed;
        let stride = u32::try_from(self.work.get() / LOOKED_AT + 1).unwrap_or(1);
        let (mut work, mut sharing) = (0, 0);
        let mut seen = 0_u32;
        let (mut lost, mut excess, mut shared) = (0.0, 0.0, 0.0);
        let view = cut.live.view();
        let mut support: Vec<Part> = Vec::new();
        for row in 0..view.len() {
            let weight = view.weight[row];
            if weight <= 0.0 {
                continue;
            }
            let best = view.best(row, &prices);
            exact += weight * best.price;
            if best.second - best.price >= width {
                load[usize::from(view.column[best.at])] += weight;
                continue;
            }
            gather(&view, row, &prices, best.price, width, &mut support);
            share_out(&mut support, width);
            let roots: f64 = support.iter().map(|part| part.root).sum();
            let (mut cubes, mut cost) = (0.0, 0.0);
            for part in &support {
                let share = part.root * part.root;
                cubes += share * part.root;
                cost += share * part.above;
                load[usize::from(part.column)] += weight * share;
            }
            seen += 1;
            work += support.len() * support.len();
            sharing += 1;
            if seen.is_multiple_of(stride) {
                let slope = 2.0 * weight / width * f64::from(stride);
                add_fall(&support, slope, roots, columns, &mut fall);
            }
            lost += weight * (2.0 / 3.0 * width * (1.0 - cubes) - cost);
            excess += weight * cost;
            shared += weight * (1.0 - cubes);
        }
        let worth: f64 = load.iter().zip(&prices).map(|(load, price)| load * price).sum();
        let mut cost = exact - worth + excess;
        let (load, fall) = self.to_nodes(&load, &fall);
        for (at, curve) in self.model.curves.iter().enumerate() {
            cost += curve.cost(load[at]);
            exact += node[at] * self.base[at] - curve.conjugate(node[at], self.base[at]).0;
        }
        self.work.set(work);
        self.sharing.set(sharing);
        Answer { smooth: exact - lost, exact, cost, load, fall, shared }
    }

    /// From columns to the nodes that they load.
    fn to_nodes(&self, column_load: &[f64], column_fall: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (columns, nodes) = (column_load.len(), self.base.len());
        let mut load = self.base.to_vec();
        let mut fall = vec![0.0; nodes * nodes];
        for (a, path) in self.model.paths.iter().enumerate() {
            for node in path {
                load[usize::from(*node)] += column_load[a];
            }
            for (b, other) in self.model.paths.iter().enumerate() {
                let value = column_fall[a * columns + b];
                if value != 0.0 {
                    for node in path {
                        for beside in other {
                            fall[usize::from(*node) * nodes + usize::from(*beside)] += value;
                        }
                    }
                }
            }
        }
        (load, fall)
    }

    fn shares(&self, cut: &Cut, node: &[f64], width: f64) -> Vec<(u32, u16, f64)> {
        let prices = self.model.column_prices(node);
        let view = cut.live.view();
        let mut shares = Vec::new();
        let mut support: Vec<Part> = Vec::new();
        for row in 0..view.len() {
            let best = view.best(row, &prices);
            if view.weight[row] > 0.0 && best.second - best.price < width {
                gather(&view, row, &prices, best.price, width, &mut support);
                share_out(&mut support, width);
                let share = |part: &Part| (cut.live.row[row], part.column, part.root * part.root);
                shares.extend(support.iter().map(share));
            }
        }
        shares
    }
}

/// The largest difference between two lists of prices.
pub(super) fn farthest(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}
