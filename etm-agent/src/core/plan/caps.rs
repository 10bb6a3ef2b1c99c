//! A cap on the number of prefixes that may move: a price on each move is raised until the most useful ones are left.
//! Never exceeds the cap, and keeps a true bound: the price is paid back for as many moves as are allowed.

use super::dive;
use super::dual::Clock;
use super::dual::Prices;
use super::fixed::Fixed;
use super::model::{Model, NONE};
use super::tally::Tally;

const STEPS: usize = 14;

/// Rows that moved although they could have stayed.
pub(super) fn moves(tally: &Tally<'_>) -> usize {
    (0..tally.choice.len()).filter(|row| moved(tally, *row)).count()
}

fn stay_pair(model: &Model, row: usize) -> Option<usize> {
    let current = model.current[row];
    if current == NONE {
        return None;
    }
    model.pairs(row).find(|at| model.exit_of(model.column[*at]) == usize::from(current))
}

fn moved(tally: &Tally<'_>, row: usize) -> bool {
    stay_pair(tally.model, row).is_some_and(|stay| stay != tally.pair(row))
}

/// The best plan found with at most `cap` moves, and a bound for all such plans.
pub(super) fn within<'a>(
    model: &'a Model,
    cap: usize,
    free: &Prices,
    plan: &Tally<'a>,
    clock: &mut dyn Clock,
) -> (Tally<'a>, f64) {
    let mut best = trimmed(plan, cap);
    let mut cost = best.cost();
    let mut bound = free.bound;
    let cap_price = f64::from(u32::try_from(cap).unwrap_or(u32::MAX));
    let (mut low, mut high) = (0.0, f64::INFINITY);
    let mut price = (Tally::staying(model).cost() - bound).max(0.0) / (cap_price + 1.0);
    let mut start = free.clone();
    for _ in 0..STEPS {
        if clock.over() || price <= 0.0 {
            break;
        }
        let priced = with_price(model, price);
        let none = Fixed::none(&priced);
        start = none.dual(&priced).solve(Some((&start.node, 64.0 * start.width)), clock);
        let proved = start.bound + none.constant(&priced) - price * cap_price;
        bound = bound.max(proved);
        let choice = dive::plan(&priced, &start, &none, (proved + price * cap_price, None), clock).0.choice;
        let tried = Tally::new(model, choice);
        let over = moves(&tried) > cap;
        let tried = trimmed(&tried, cap);
        let tried_cost = tried.cost();
        if tried_cost < cost {
            (best, cost) = (tried, tried_cost);
        }
        if over {
            low = price;
        } else {
            high = price;
        }
        price = if high.is_finite() { 0.5 * (low + high) } else { 4.0 * price };
    }
    (best, bound)
}

/// The same problem with `price` on each move that could be left out.
fn with_price(model: &Model, price: f64) -> Model {
    let mut priced = model.clone();
    for row in 0..model.len() {
        if let Some(stay) = stay_pair(model, row) {
            let rate = if model.rate[row] > 0.0 { model.rate[row] } else { 1.0 };
            for at in model.pairs(row).filter(|at| *at != stay) {
                priced.unit[at] += price / rate;
            }
        }
    }
    priced
}

/// Takes back the least useful moves until `cap` are left.
fn trimmed<'a>(plan: &Tally<'a>, cap: usize) -> Tally<'a> {
    let mut plan = plan.clone();
    let mut left: Vec<usize> = (0..plan.choice.len()).filter(|row| moved(&plan, *row)).collect();
    while left.len() > cap {
        let loss = |row: usize| stay_pair(plan.model, row).map_or(0.0, |stay| plan.change(row, stay));
        let mut ranked: Vec<(f64, usize)> = left.iter().map(|row| (loss(*row), *row)).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        // Each one taken back changes what the others are worth: half at a time, then ranked anew.
        let back = ((left.len() - cap) / 2).max(1);
        for (_, row) in &ranked[..back] {
            if let Some(stay) = stay_pair(plan.model, *row) {
                plan.place(*row, stay);
            }
        }
        left = ranked[back..].iter().map(|(_, row)| *row).collect();
        left.sort_unstable();
    }
    // Those that are left may have a better exit now that others are back.
    for row in left {
        let model = plan.model;
        let changes = model.pairs(row).map(|at| (plan.change(row, at), at));
        if let Some((change, at)) = changes.min_by(|a, b| a.0.total_cmp(&b.0))
            && change < 0.0
        {
            plan.place(row, at);
        }
    }
    plan
}
