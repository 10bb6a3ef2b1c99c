//! The decision as a whole: prices, a plan from them, dives for the prefixes too large to be shared out, and the
//! certificate. Deterministic: one thread, a fixed order, and no clock but the one handed in.

use super::branch;
use super::caps;
use super::dive;
use super::dual::{Clock, Known, Prices};
use super::fixed::Fixed;
use super::model::{Model, NONE};
use super::overload;
use super::primal;
use super::rows::Kept;
use super::tally::{self, Beside, Costs, PairCosts, Tally};
use super::whole::Point;
use super::{Certificate, Plan, Split, Verdict, Warm};
use std::time::Duration;

/// Above this share of the bound a gap is worth trying where the largest prefixes go; above the next, a dive.
const TARGET: f64 = 6e-4;
const TURNS: usize = 2;
/// Earlier places are kept while they are as good as this many times what they were when they were found.
const AS_GOOD: f64 = 1.1;
/// And above this one the bound is strengthened for prefixes that cannot be divided; with few prefixes always.
const BRANCH: f64 = 1e-3;
const EXACT: f64 = 1e-9;
const FEW: usize = 64;
/// Overload above this part of the traffic is worth a bound of its own; above this one also where the prices say that
/// rounding to whole prefixes is all it comes from.
const SOME_OVERLOAD: f64 = 2e-6;
const ROUNDING: f64 = 5e-5;

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
    // Where places are known, other prices are found around them.
    let rough = |warm: &Warm| !warm.settled.is_empty() && !model.rules.allow_split;
    let known = start.map(|warm| Known {
        node: &warm.prices,
        width: warm.width,
        reach: warm.reach,
        rough: rough(warm),
    });
    let (mut prices, kept) = dual.solve_kept(known, &mut watch);
    prices.bound += none.constant(model);
    let (mut best, hints) = assign(model, &prices, (start, kept), &mut watch);
    let cost = best.cost();
    if let Some(cap) = model.rules.max_moves.filter(|cap| caps::moves(&best) > *cap) {
        let (plan, bound) = caps::within(model, cap, &prices, &best, &mut watch);
        return conclude(model, &prices, (bound, hints), plan, watch.expired);
    }
    let few = model.len() <= FEW;
    let mut bound = prices.bound;
    let target = if few { EXACT } else { BRANCH };
    if !model.rules.allow_split && cost - bound > target * bound.abs() {
        let point = Point { curves: &model.curves, price: &prices.node, bound, units: true };
        bound = bound.max(point.strengthened(model, cost));
        if cost - bound > target * bound.abs() {
            let mut found = best.clone();
            bound = bound.max(branch::strengthen(model, &prices, target, &mut found, &mut watch));
            // Branching knows no cap on the number of moves.
            if model.rules.max_moves.is_none_or(|cap| caps::moves(&found) <= cap) {
                best = found;
            }
        }
    }
    conclude(model, &prices, (bound, hints), best, watch.expired)
}

/// What the next search may begin with.
#[derive(Default)]
struct Hints {
    settled: Vec<(usize, u16)>,
    shift: Vec<f64>,
    gap: f64,
    reach: f64,
}

impl Hints {
    fn warm(self, prices: &Prices) -> Warm {
        let Hints { settled, shift, gap, reach } = self;
        Warm { prices: prices.node.clone(), width: 4.0 * prices.width, settled, shift, gap, reach }
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
    let mut target = TARGET;
    let mut gap = 0.0;
    if let Some(warm) = warm.filter(|_| bulky)
        && fixed.add_hints(model, &warm.settled)
    {
        turn.node.iter_mut().zip(&warm.shift).for_each(|(price, shift)| *price += shift);
        bulky = false;
        // Where the best places left that much, looking for them again is not worth its while.
        target = target.max(AS_GOOD * warm.gap);
        gap = warm.gap;
    }
    let mut best: Option<(Tally<'a>, Hints)> = None;
    let mut cost = f64::INFINITY;
    for _ in 0..TURNS {
        if bulky {
            fixed = Fixed::none(model);
            turn = prices.clone();
            dive::places(model, &mut turn, &mut fixed, watch);
        }
        let (tried, reach) = dive::plan(model, &turn, &fixed, (prices.bound, kept.take()), watch);
        let tried_cost = tried.cost();
        if bulky {
            gap = (tried_cost - prices.bound) / prices.bound.abs().max(f64::MIN_POSITIVE);
        }
        if tried_cost < cost || best.is_none() {
            cost = tried_cost;
            let exit = |column: u16| u16::try_from(model.exit_of(column)).unwrap_or(NONE);
            let settled = fixed.rows().iter().map(|(row, column)| (*row, exit(*column))).collect();
            let shift = turn.node.iter().zip(&prices.node).map(|(turn, price)| turn - price).collect();
            best = Some((tried, Hints { settled, shift, gap, reach }));
        }
        if bulky || cost - prices.bound <= target * prices.bound.abs() || model.len() <= FEW || watch.over() {
            break;
        }
        bulky = true;
    }
    best.unwrap_or_else(|| (Tally::staying(model), Hints::default()))
}

/// An assignment with what it costs and loads.
struct Chosen {
    choice: Vec<u32>,
    splits: Vec<Split>,
    costs: Costs,
    load: Vec<f64>,
}

/// Weighs the plan against staying and states what is proved.
fn conclude(
    model: &Model,
    prices: &Prices,
    (proved, hints): (f64, Hints),
    best: Tally<'_>,
    expired: bool,
) -> Plan {
    let Beside { costs, stay, load, stay_load } = best.beside_staying();
    let stays_lawful = stay.breach_bps <= costs.breach_bps;
    let mut chosen = Chosen { choice: best.choice, splits: Vec::new(), costs, load };
    if model.rules.allow_split
        && let Some(divided) = split(model, prices, &chosen.costs)
    {
        chosen = divided;
    }
    let mut verdict = verdict(model, &stay, &chosen.costs);
    if stays_lawful && verdict != Verdict::Apply && verdict != Verdict::Relief {
        let choice = Tally::staying_choice(model);
        chosen = Chosen { choice, splits: Vec::new(), costs: stay, load: stay_load };
    } else if !matches!(verdict, Verdict::Apply | Verdict::Relief) {
        verdict = Verdict::Relief;
    }
    let costs = chosen.costs;
    // Both are sums of many numbers: a plan below its bound by less than they are exact to is at its bound.
    let above = proved - costs.objective;
    // And one that breaks a hard limit for want of a lawful one may cost less than any lawful one.
    let rounding = above <= 1e-9 * costs.objective.abs() || costs.breach_bps > 0.0;
    let bound = if above > 0.0 && rounding { costs.objective } else { proved };
    let gain = stay.objective - bound;
    let realised = (gain > 1e-9 * stay.objective.abs()).then(|| (stay.objective - costs.objective) / gain);
    let mut exits: Vec<u16> = chosen.choice.iter().map(|at| exit(model, *at)).collect();
    for split in &chosen.splits {
        let most = split.shares.iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        exits[split.prefix] = most.map_or(exits[split.prefix], |share| share.0);
    }
    chosen.load.truncate(model.nodes.len());
    Plan {
        exits,
        splits: chosen.splits,
        certificate: Certificate {
            costs,
            bound,
            bound_by_prices: prices.bound,
            overload_bound_bps: overload_bound(model, prices, costs.overload_bps),
            stay: stay.objective,
            stay_overload_bps: stay.overload_bps,
            realised,
            expired,
        },
        verdict,
        loads: chosen.load,
        warm: hints.warm(prices),
    }
}

fn overload_bound(model: &Model, prices: &Prices, overload_bps: f64) -> f64 {
    // Less is what rounding to whole prefixes leaves: zero is bound enough.
    let least = if overload::priced(model, &prices.node) { SOME_OVERLOAD } else { ROUNDING };
    if overload_bps <= least * model.traffic() {
        return 0.0;
    }
    overload::bound(model, &prices.node, overload_bps).min(overload_bps)
}

fn exit(model: &Model, at: u32) -> u16 {
    let column = model.column[usize::try_from(at).unwrap_or(usize::MAX)];
    u16::try_from(model.exit_of(column)).unwrap_or(NONE)
}

fn verdict(model: &Model, stay: &Costs, plan: &Costs) -> Verdict {
    if plan.moved_prefixes == 0 && plan.objective >= stay.objective {
        return Verdict::NothingToGain;
    }
    let traffic = model.traffic();
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
fn split(model: &Model, prices: &Prices, whole: &Costs) -> Option<Chosen> {
    let tally = primal::cheapest(model, &prices.node);
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
    let load = tally::loads(model, &column);
    let mut costs = Costs::default();
    (costs.overload_bps, costs.money, costs.breach_bps) = tally::of_loads(model, &load);
    for row in (0..model.len()).filter(|row| !shared[*row]) {
        PairCosts::of(model, row, tally.pair(row)).add(1.0, &mut costs);
    }
    for split in &splits {
        let before = costs.moved_bps;
        for (exit, share) in &split.shares {
            let at =
                model.pairs(split.prefix).find(|at| model.exit_of(model.column[*at]) == usize::from(*exit));
            if let Some(at) = at {
                PairCosts::of(model, split.prefix, at).add(*share, &mut costs);
            }
        }
        costs.moved_prefixes += usize::from(costs.moved_bps > before);
    }
    let costs = tally::total(model, costs);
    let cheaper = costs.breach_bps <= whole.breach_bps && costs.objective < whole.objective;
    cheaper.then_some(Chosen { choice: tally.choice, splits, costs, load })
}
