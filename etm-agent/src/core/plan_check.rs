//! Judges a plan before anything acts on it: that it is lawful, and that its certificate is true. Shares no code with the
//! solver: from the problem as it was stated it computes loads, costs and the dual again, its own way. Never repairs.

pub mod parts;
mod proved;

pub use self::proved::{Proved, proved};

use super::plan::model::{Demand, Node, Prices, Rules};
use super::plan::{Plan, Verdict};
use crate::types::Prefix;

/// Why a plan may not be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Veto {
    /// Not one exit for each prefix.
    #[error("the plan has {found} prefixes, the problem {expected}; plan again for the problem as it is")]
    Length {
        /// In the plan.
        found: usize,
        /// In the problem.
        expected: usize,
    },
    /// A prefix on an exit that has no route for it, is excluded, or is not its pin.
    #[error(
        "prefix number {prefix} is sent to exit number {exit}, which it may not use; keep the last good plan"
    )]
    Forbidden {
        /// Position.
        prefix: usize,
        /// Position.
        exit: usize,
    },
    /// A prefix divided though that is not allowed, or into shares that are no shares.
    #[error("prefix number {prefix} is divided in a way that is not allowed; keep the last good plan")]
    Divided {
        /// Position.
        prefix: usize,
    },
    /// A part of a prefix that is too small, too large, or more than the prefix.
    #[error("{share} of 256 flows of {prefix} is no part; keep the last good plan")]
    PartShare {
        /// Destination.
        prefix: Prefix,
        /// In 256ths.
        share: u16,
    },
    /// A prefix divided between exits of which it may not use both.
    #[error(
        "{prefix} is divided between exits number {home} and {to}, which it may not; keep the last good plan"
    )]
    PartExit {
        /// Destination.
        prefix: Prefix,
        /// Position.
        home: usize,
        /// Position.
        to: usize,
    },
    /// A prefix that is placed twice.
    #[error("{prefix} is divided and placed as a whole as well; keep the last good plan")]
    PartAndWhole {
        /// Destination.
        prefix: Prefix,
    },
    /// A hard limit exceeded by the plan that staying does not exceed as much.
    #[error(
        "`{name}` would carry {load} bit/s, more than the {allowed} bit/s that are allowed; keep the last good plan"
    )]
    Ceiling {
        /// Exit or group.
        name: String,
        /// With the plan.
        load: f64,
        /// The larger of its ceiling and its load if all stays.
        allowed: f64,
    },
    /// A cap on moves.
    #[error("the plan moves {found} {what}, {cap} are allowed; keep the last good plan")]
    Cap {
        /// Prefixes or bit/s.
        what: &'static str,
        /// In the plan.
        found: f64,
        /// Allowed.
        cap: f64,
    },
    /// A number of the certificate that is not what it claims to be.
    #[error("the certificate claims {what} of {claimed}, found {found}; do not trust this plan")]
    Claim {
        /// What it is.
        what: &'static str,
        /// By the plan.
        claimed: f64,
        /// By this check.
        found: f64,
    },
    /// Moves for a saving that is too small to be worth them.
    #[error(
        "the plan moves prefixes for a saving of {saving} without relief, {least} is the least; let all stay"
    )]
    Saving {
        /// Currency per month.
        saving: f64,
        /// Required.
        least: f64,
    },
}

/// The problem as it was stated, and the price of overload that the plan reckons with.
#[derive(Clone, Copy)]
pub struct Stated<'a> {
    /// Exits.
    pub exits: &'a [Node],
    /// Groups.
    pub groups: &'a [Node],
    /// Prices.
    pub prices: &'a Prices,
    /// Rules.
    pub rules: &'a Rules,
    /// Currency per Mbit/s of overload and month.
    pub overload_per_mbps: f64,
    /// Prefixes.
    pub demands: &'a [Demand<'a>],
}

/// Relative error of sums that is no error.
const ROUNDING: f64 = 1e-7;

#[derive(Default)]
struct Account {
    /// Exits, then groups.
    loads: Vec<f64>,
    constants: f64,
    moved_bps: f64,
    moved: usize,
    /// Moves of prefixes that could have stayed.
    chosen: usize,
}

/// Checks `plan`; all that is wrong with it, nothing if it may be used.
pub fn check(stated: &Stated<'_>, plan: &Plan) -> Vec<Veto> {
    if plan.exits.len() != stated.demands.len() {
        return vec![Veto::Length { found: plan.exits.len(), expected: stated.demands.len() }];
    }
    let mut vetoes = unlawful(stated, plan);
    if !vetoes.is_empty() {
        return vetoes;
    }
    let planned = account(stated, |row| shares(plan, row));
    let staying = account(stated, |row| vec![(stays_at(&stated.demands[row]), 1.0)]);
    vetoes.extend(limits(stated, &planned, &staying));
    vetoes.extend(claims(stated, plan, &planned, &staying));
    vetoes.extend(saving(stated, plan, &planned, &staying));
    vetoes
}

fn allowed(demand: &Demand<'_>, exit: usize) -> bool {
    demand.routes.iter().any(|route| route.exit == exit)
        && !demand.excluded.contains(&exit)
        && demand.pin.is_none_or(|pin| pin == exit)
}

fn shares(plan: &Plan, row: usize) -> Vec<(usize, f64)> {
    match plan.splits.binary_search_by_key(&row, |split| split.prefix).ok().map(|at| &plan.splits[at]) {
        Some(split) => split.shares.iter().map(|(exit, share)| (usize::from(*exit), *share)).collect(),
        None => vec![(usize::from(plan.exits[row]), 1.0)],
    }
}

/// Where a prefix is if nothing is done: on its exit now, else at home, else on the first that it may use.
fn stays_at(demand: &Demand<'_>) -> usize {
    let wanted =
        [demand.current, Some(demand.home)].into_iter().flatten().find(|exit| allowed(demand, *exit));
    let any = demand.routes.iter().map(|route| route.exit).filter(|exit| allowed(demand, *exit)).min();
    wanted.or(any).unwrap_or(demand.home)
}

fn unlawful(stated: &Stated<'_>, plan: &Plan) -> Vec<Veto> {
    let mut vetoes = Vec::new();
    for (row, demand) in stated.demands.iter().enumerate() {
        let exit = usize::from(plan.exits[row]);
        if !allowed(demand, exit) {
            vetoes.push(Veto::Forbidden { prefix: row, exit });
        }
    }
    for split in &plan.splits {
        let sum: f64 = split.shares.iter().map(|(_, share)| share).sum();
        let sound = split.shares.iter().all(|(_, share)| *share >= 0.0) && (sum - 1.0).abs() <= ROUNDING;
        if !stated.rules.allow_split || !sound || split.prefix >= stated.demands.len() {
            vetoes.push(Veto::Divided { prefix: split.prefix });
            continue;
        }
        for (exit, _) in &split.shares {
            if !allowed(&stated.demands[split.prefix], usize::from(*exit)) {
                vetoes.push(Veto::Forbidden { prefix: split.prefix, exit: usize::from(*exit) });
            }
        }
    }
    vetoes
}

/// Prices of one prefix on one exit beside the contracts, currency per month.
fn constant(stated: &Stated<'_>, demand: &Demand<'_>, exit: usize) -> f64 {
    let mbps = demand.rate_bps / 1e6;
    let route = demand.routes.iter().find(|route| route.exit == exit);
    let mut cost = route.map_or(0.0, |route| route.penalty_per_mbps) * mbps;
    if demand.current.is_some_and(|current| current != exit) {
        cost += stated.prices.move_per_mbps * mbps + stated.prices.move_per_prefix;
    }
    if demand.home != exit {
        cost += stated.prices.hold_per_prefix;
    }
    cost
}

fn account(stated: &Stated<'_>, shares: impl Fn(usize) -> Vec<(usize, f64)>) -> Account {
    let nodes = stated.exits.len() + stated.groups.len();
    let mut account = Account { loads: vec![0.0; nodes], ..Account::default() };
    for (at, node) in stated.exits.iter().chain(stated.groups).enumerate() {
        climb(stated, at, |above| account.loads[above] += node.base_bps);
    }
    for (row, demand) in stated.demands.iter().enumerate() {
        let mut moves = false;
        for (exit, share) in shares(row) {
            let bps = demand.rate_bps * share;
            climb(stated, exit, |node| account.loads[node] += bps);
            account.constants += constant(stated, demand, exit) * share;
            if demand.current.is_some_and(|current| current != exit) {
                account.moved_bps += bps;
                moves = moves || share > 0.0;
            }
        }
        account.moved += usize::from(moves);
        let may_stay = demand.current.is_some_and(|current| allowed(demand, current));
        account.chosen += usize::from(moves && may_stay);
    }
    account
}

/// Calls `each` with an exit or group and all groups above it.
fn climb(stated: &Stated<'_>, from: usize, mut each: impl FnMut(usize)) {
    let mut at = Some(from);
    while let Some(node) = at {
        each(node);
        let spec = if node < stated.exits.len() {
            &stated.exits[node]
        } else {
            &stated.groups[node - stated.exits.len()]
        };
        at = spec.group.map(|group| stated.exits.len() + group);
    }
}

fn overload(stated: &Stated<'_>, loads: &[f64]) -> f64 {
    let nodes = stated.exits.iter().chain(stated.groups);
    nodes.zip(loads).map(|(node, load)| (load - node.limit_bps).max(0.0)).sum()
}

fn money(stated: &Stated<'_>, loads: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (node, load) in stated.exits.iter().chain(stated.groups).zip(loads) {
        let mut left = *load;
        let mut begin = 0.0;
        for tier in &node.tiers {
            let size = tier.up_to_bps.map_or(left, |end| end - begin);
            let inside = left.min(size);
            sum += inside / 1e6 * tier.price_per_mbps;
            left -= inside;
            begin = tier.up_to_bps.unwrap_or(begin);
        }
    }
    sum
}

fn objective(stated: &Stated<'_>, account: &Account) -> f64 {
    stated.overload_per_mbps * overload(stated, &account.loads) / 1e6
        + money(stated, &account.loads)
        + account.constants
}

fn limits(stated: &Stated<'_>, planned: &Account, staying: &Account) -> Vec<Veto> {
    let mut vetoes = Vec::new();
    for (at, node) in stated.exits.iter().chain(stated.groups).enumerate() {
        let (load, most) = (planned.loads[at], node.ceiling_bps.max(staying.loads[at]));
        if load > most * (1.0 + ROUNDING) {
            vetoes.push(Veto::Ceiling { name: node.name.clone(), load, allowed: most });
        }
    }
    let whole = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    if let Some(cap) = stated.rules.max_moves.filter(|cap| planned.chosen > *cap) {
        vetoes.push(Veto::Cap { what: "prefixes", found: whole(planned.chosen), cap: whole(cap) });
    }
    if let Some(cap) = stated.rules.max_moved_bps {
        let forced = staying.moved_bps;
        if planned.moved_bps > (cap + forced) * (1.0 + ROUNDING) {
            vetoes.push(Veto::Cap { what: "bit/s", found: planned.moved_bps, cap });
        }
    }
    vetoes
}

fn claims(stated: &Stated<'_>, plan: &Plan, planned: &Account, staying: &Account) -> Vec<Veto> {
    let claim = &plan.certificate;
    let size = objective(stated, planned).abs().max(objective(stated, staying).abs());
    let traffic: f64 = stated.demands.iter().map(|demand| demand.rate_bps).sum();
    let equal = [
        ("an objective", claim.costs.objective, objective(stated, planned), size),
        ("an objective of staying", claim.stay, objective(stated, staying), size),
        ("money", claim.costs.money, money(stated, &planned.loads), size),
        ("an overload", claim.costs.overload_bps, overload(stated, &planned.loads), traffic),
        ("moved traffic", claim.costs.moved_bps, planned.moved_bps, traffic),
    ];
    let mut vetoes: Vec<Veto> = Vec::new();
    for (what, claimed, found, scale) in equal {
        if !claimed.is_finite() || (claimed - found).abs() > ROUNDING * (1.0 + scale) {
            vetoes.push(Veto::Claim { what, claimed, found });
        }
    }
    for (at, load) in plan.loads.iter().enumerate() {
        let found = planned.loads.get(at).copied().unwrap_or(f64::NAN);
        if (load - found).abs() > ROUNDING * (1.0 + traffic) || load.is_nan() {
            vetoes.push(Veto::Claim { what: "a load", claimed: *load, found });
        }
    }
    let dual = dual(stated, &plan.warm.prices);
    if claim.bound_by_prices > dual + ROUNDING * (1.0 + size) || claim.bound_by_prices.is_nan() {
        vetoes.push(Veto::Claim { what: "a bound by prices", claimed: claim.bound_by_prices, found: dual });
    }
    let found = objective(stated, planned);
    if claim.bound > found + ROUNDING * (1.0 + size) || claim.bound.is_nan() {
        vetoes.push(Veto::Claim { what: "a bound", claimed: claim.bound, found });
    }
    let over = overload(stated, &planned.loads);
    if claim.overload_bound_bps > over + ROUNDING * (1.0 + traffic) {
        vetoes.push(Veto::Claim {
            what: "a bound of overload",
            claimed: claim.overload_bound_bps,
            found: over,
        });
    }
    vetoes
}

/// The Lagrangian dual at `prices` (of nodes, per bit/s): what no assignment can go below.
fn dual(stated: &Stated<'_>, prices: &[f64]) -> f64 {
    let nodes = stated.exits.len() + stated.groups.len();
    if prices.len() < nodes {
        return f64::NEG_INFINITY;
    }
    // Where moved traffic is capped there is one more price, on every bit/s that moves by choice.
    let move_price = prices.get(nodes).copied().unwrap_or(0.0).max(0.0);
    let mut value = -move_price * stated.rules.max_moved_bps.unwrap_or(0.0);
    for demand in stated.demands {
        let mut least = f64::INFINITY;
        let may_stay = demand.current.is_some_and(|current| allowed(demand, current));
        for exit in demand.routes.iter().map(|route| route.exit).filter(|exit| allowed(demand, *exit)) {
            let mut price = 0.0;
            climb(stated, exit, |node| price += prices[node]);
            if may_stay && demand.current != Some(exit) {
                price += move_price;
            }
            least = least.min(constant(stated, demand, exit) + demand.rate_bps * price);
        }
        value += least;
    }
    let total: f64 = stated.demands.iter().map(|demand| demand.rate_bps).sum();
    let mut base = vec![0.0; nodes];
    for (at, node) in stated.exits.iter().chain(stated.groups).enumerate() {
        climb(stated, at, |above| base[above] += node.base_bps);
    }
    for (at, node) in stated.exits.iter().chain(stated.groups).enumerate() {
        // The least of cost(load) - price * load is at a corner, or where no more load is possible.
        let corners =
            node.tiers.iter().filter_map(|tier| tier.up_to_bps).chain([node.limit_bps, node.ceiling_bps]);
        let most = base[at] + total;
        let ends = corners.filter(|corner| *corner > base[at] && *corner < most).chain([base[at], most]);
        let one = Stated { exits: std::slice::from_ref(node), groups: &[], ..*stated };
        let cost =
            |load: f64| money(&one, &[load]) + stated.overload_per_mbps * overload(&one, &[load]) / 1e6;
        let least = ends
            .filter(|load| *load <= node.ceiling_bps.max(base[at]))
            .map(|load| cost(load) - prices[at] * load);
        value += prices[at] * base[at] + least.fold(f64::INFINITY, f64::min);
    }
    value
}

fn saving(stated: &Stated<'_>, plan: &Plan, planned: &Account, staying: &Account) -> Option<Veto> {
    let (before, after) = (objective(stated, staying), objective(stated, planned));
    let least = stated.rules.min_saving.max(stated.rules.min_saving_share * before);
    let relief = overload(stated, &staying.loads) > overload(stated, &planned.loads)
        || staying
            .loads
            .iter()
            .zip(stated.exits.iter().chain(stated.groups))
            .any(|(load, node)| *load > node.ceiling_bps)
        || stated.rules.max_moved_bps.is_some_and(|cap| staying.moved_bps > cap);
    let saving = before - after;
    let applied = matches!(plan.verdict, Verdict::Apply | Verdict::Relief) && planned.chosen > 0;
    (applied && !relief && saving < least * (1.0 - ROUNDING)).then_some(Veto::Saving { saving, least })
}
