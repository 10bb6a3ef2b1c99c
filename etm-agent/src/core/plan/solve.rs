//! The decision as a whole: prices, a plan from them, dives for the prefixes too large to be shared out, and the
//! certificate. Deterministic: one thread, a fixed order, and no clock but the one handed in.

use super::branch;
use super::caps;
use super::dive;
use super::dual::{Clock, Prices};
use super::fixed::Fixed;
use super::model::{Model, NONE};
use super::overload;
use super::primal;
use super::rows::Kept;
use super::tally::{self, Costs, Tally};
use super::whole::Point;
use super::{Certificate, Plan, Split, Verdict, Warm};
use std::time::Duration;

/// Above this share of the bound a gap is worth trying where the largest prefixes go; above the next, a dive.
const TARGET: f64 = 6e-4;
const TURNS: usize = 2;
/// And above this one the bound is strengthened for prefixes that cannot be divided; with few prefixes always.
const BRANCH: f64 = 1e-3;
const EXACT: f64 = 1e-9;
const FEW: usize = 64;
/// Overload above this part of the traffic is worth a bound of its own.
const SOME_OVERLOAD: f64 = 2e-6;

/// The time that may be spent, by a clock of the caller.
pub struct Budget<'a> {
    /// Time since the start.
    pub elapsed: &'a dyn Fn() -> Duration,
    /// When to stop and return the best plan so far.
    pub limit: Duration,
}

struct Watch<'a> {
    budget: Option<Budget<'a>>,
    expired: bool,
}

impl Clock for Watch<'_> {
    fn over(&mut self) -> bool {
        if let Some(budget) = &self.budget {
            self.expired = self.expired || (budget.elapsed)() >= budget.limit;
        }
        self.expired
    }
}

/// The best plan for `model`, from scratch or from the prices of an earlier one.
pub fn solve(model: &Model, warm: Option<&Warm>, budget: Option<Budget<'_>>) -> Plan {
    let mut watch = Watch { budget, expired: false };
    let none = Fixed::none(model);
    let dual = none.dual(model);
    let start = warm.filter(|warm| warm.prices.len() == none.base().len());
    let known = start.map(|warm| (warm.prices.as_slice(), warm.width));
    let (mut prices, kept) = dual.solve_kept(known, &mut watch);
    prices.bound += none.constant(model);
    let (mut best, hints) = assign(model, &prices, (start, kept), &mut watch);
    let cost = tally_cost(&best);
    if let Some(cap) = model.rules.max_moves.filter(|cap| caps::moves(&best) > *cap) {
        let (plan, bound) = caps::within(model, cap, &prices, &best, &mut watch);
        return conclude(model, &prices, (bound, hints), &plan, watch.expired);
    }
    let few = model.len() <= FEW;
    let mut bound = prices.bound;
    if !model.rules.allow_split && cost - bound > if few { EXACT } else { BRANCH } * bound.abs() {
        let point = Point { curves: &model.curves, price: &prices.node, bound, units: true };
        bound = bound.max(point.strengthened(model, cost));
        if cost - bound > if few { EXACT } else { BRANCH } * bound.abs() {
            let mut found = best.clone();
            bound = bound.max(branch::strengthen(model, &prices, &mut found, &mut watch));
            // Branching knows no cap on the number of moves.
            if model.rules.max_moves.is_none_or(|cap| caps::moves(&found) <= cap) {
                best = found;
            }
        }
    }
    conclude(model, &prices, (bound, hints), &best, watch.expired)
}

/// What the next search may begin with.
#[derive(Default)]
struct Hints {
    settled: Vec<(usize, u16)>,
    shift: Vec<f64>,
}

impl Hints {
    fn warm(self, prices: &Prices) -> Warm {
        let (settled, shift) = (self.settled, self.shift);
        Warm { prices: prices.node.clone(), width: 4.0 * prices.width, settled, shift }
    }
}

/// A plan from the prices; where rows are bulky they are settled first, where they were last time or where a sample says.
fn assign<'a>(
    model: &'a Model,
    prices: &Prices,
    (warm, kept): (Option<&Warm>, Kept),
    watch: &mut Watch<'_>,
) -> (Tally<'a>, Hints) {
    let mut kept = Some(kept);
    let mut fixed = Fixed::none(model);
    let mut turn = prices.clone();
    let mut bulky = dive::bulky(model, prices);
    if let Some(warm) = warm.filter(|_| bulky)
        && fixed.add_hints(model, &warm.settled)
    {
        turn.node.iter_mut().zip(&warm.shift).for_each(|(price, shift)| *price += shift);
        bulky = false;
    }
    let mut best: Option<(Tally<'a>, Hints)> = None;
    let mut cost = f64::INFINITY;
    for _ in 0..TURNS {
        if bulky {
            fixed = Fixed::none(model);
            turn = prices.clone();
            dive::places(model, &mut turn, &mut fixed, watch);
        }
        let tried = dive::plan(model, &turn, &fixed, (prices.bound, kept.take()), watch);
        let tried_cost = tally_cost(&tried);
        if tried_cost < cost || best.is_none() {
            cost = tried_cost;
            let exit = |column: u16| u16::try_from(model.exit_of(column)).unwrap_or(NONE);
            let settled = fixed.rows().iter().map(|(row, column)| (*row, exit(*column))).collect();
            let shift = turn.node.iter().zip(&prices.node).map(|(turn, price)| turn - price).collect();
            best = Some((tried, Hints { settled, shift }));
        }
        if bulky || cost - prices.bound <= TARGET * prices.bound.abs() || model.len() <= FEW || watch.over() {
            break;
        }
        bulky = true;
    }
    best.unwrap_or_else(|| (Tally::staying(model), Hints::default()))
}

/// What an assignment costs, hard limits broken included.
pub(super) fn tally_cost(tally: &Tally<'_>) -> f64 {
    let loads: f64 = tally.model.curves.iter().zip(&tally.load).map(|(curve, load)| curve.cost(*load)).sum();
    let pairs = tally.choice.iter().enumerate().map(|(row, _)| {
        let (at, rate) = (tally.pair(row), tally.model.rate[row]);
        tally.model.unit[at] * if rate > 0.0 { rate } else { 1.0 }
    });
    loads + pairs.sum::<f64>()
}

/// Weighs the plan against staying and states what is proved.
fn conclude(
    model: &Model,
    prices: &Prices,
    (proved, hints): (f64, Hints),
    best: &Tally<'_>,
    expired: bool,
) -> Plan {
    let stay = Tally::staying(model);
    let (stay_costs, mut costs) = (stay.costs(), best.costs());
    let stays_lawful = stay_costs.breach_bps <= costs.breach_bps;
    let mut choice = best.choice.clone();
    let mut splits = Vec::new();
    if model.rules.allow_split
        && let Some((whole, shared, shared_costs)) = split(model, prices, &costs)
    {
        (choice, splits, costs) = (whole, shared, shared_costs);
    }
    let mut verdict = verdict(model, &stay_costs, &costs);
    if stays_lawful && verdict != Verdict::Apply && verdict != Verdict::Relief {
        (choice, splits, costs) = (stay.choice, Vec::new(), stay_costs);
    } else if !matches!(verdict, Verdict::Apply | Verdict::Relief) {
        verdict = Verdict::Relief;
    }
    // Both are sums of many numbers: a plan below its bound by less than they are exact to is at its bound.
    let above = proved - costs.objective;
    // And one that breaks a hard limit for want of a lawful one may cost less than any lawful one.
    let rounding = above <= 1e-9 * costs.objective.abs() || costs.breach_bps > 0.0;
    let bound = if above > 0.0 && rounding { costs.objective } else { proved };
    // Less is what rounding to whole prefixes leaves: zero is bound enough.
    let traffic: f64 = model.rate.iter().sum();
    let some = costs.overload_bps > SOME_OVERLOAD * traffic;
    let overload_bound = if some {
        overload::bound(model, &prices.node, costs.overload_bps).min(costs.overload_bps)
    } else {
        0.0
    };
    let gain = stay_costs.objective - bound;
    let realised =
        (gain > 1e-9 * stay_costs.objective.abs()).then(|| (stay_costs.objective - costs.objective) / gain);
    let exits = choice.iter().map(|at| exit(model, *at)).collect();
    Plan {
        exits,
        splits,
        certificate: Certificate {
            costs,
            bound,
            bound_by_prices: prices.bound,
            overload_bound_bps: overload_bound,
            stay: stay_costs.objective,
            stay_overload_bps: stay_costs.overload_bps,
            realised,
            expired,
        },
        verdict,
        loads: Vec::new(),
        warm: hints.warm(prices),
    }
    .with_loads(model)
}

fn exit(model: &Model, at: u32) -> u16 {
    let column = model.column[usize::try_from(at).unwrap_or(usize::MAX)];
    u16::try_from(model.exit_of(column)).unwrap_or(NONE)
}

fn verdict(model: &Model, stay: &Costs, plan: &Costs) -> Verdict {
    if plan.moved_prefixes == 0 && plan.objective >= stay.objective {
        return Verdict::NothingToGain;
    }
    let traffic: f64 = model.rate.iter().sum();
    // Out of time, or where nothing lawful was found: what breaks a hard limit that staying does not is no plan.
    if plan.breach_bps > stay.breach_bps + 1e-9 * traffic {
        return Verdict::NothingToGain;
    }
    if stay.overload_bps - plan.overload_bps > 1e-9 * traffic || stay.breach_bps > plan.breach_bps {
        return Verdict::Relief;
    }
    let saving = stay.objective - plan.objective;
    let least = model.rules.min_saving.max(model.rules.min_saving_share * stay.objective);
    if saving > 0.0 && saving >= least { Verdict::Apply } else { Verdict::TooLittle }
}

/// The plan with the shares that the prices ask for, where that is cheaper.
fn split(model: &Model, prices: &Prices, whole: &Costs) -> Option<(Vec<u32>, Vec<Split>, Costs)> {
    let mut tally = primal::cheapest(model, &prices.node);
    let mut column = vec![0.0; model.paths.len()];
    let mut splits = Vec::new();
    let mut shared = vec![false; model.len()];
    for parts in prices.shares.chunk_by(|a, b| a.0 == b.0) {
        let row = usize::try_from(parts[0].0).unwrap_or(usize::MAX);
        if parts.len() > 1 {
            shared[row] = true;
            let share = |(_, column, share): &(u32, u16, f64)| {
                (u16::try_from(model.exit_of(*column)).unwrap_or(NONE), *share)
            };
            splits.push(Split { prefix: row, shares: parts.iter().map(share).collect() });
            for (_, at, share) in parts {
                column[usize::from(*at)] += model.rate[row] * share;
            }
        }
    }
    for row in (0..model.len()).filter(|row| !shared[*row]) {
        column[usize::from(model.column[tally.pair(row)])] += model.rate[row];
    }
    tally.load = tally::loads(model, &column);
    let mut costs = tally::of_loads(model, &tally.load);
    for row in (0..model.len()).filter(|row| !shared[*row]) {
        tally::add_pair(model, row, tally.pair(row), 1.0, &mut costs);
    }
    for split in &splits {
        let before = costs.moved_bps;
        for (exit, share) in &split.shares {
            let at =
                model.pairs(split.prefix).find(|at| model.exit_of(model.column[*at]) == usize::from(*exit));
            if let Some(at) = at {
                tally::add_pair(model, split.prefix, at, *share, &mut costs);
            }
        }
        costs.moved_prefixes += usize::from(costs.moved_bps > before);
    }
    let costs = tally::total(model, costs);
    (costs.breach_bps <= whole.breach_bps && costs.objective < whole.objective).then_some((
        tally.choice,
        splits,
        costs,
    ))
}
