//! The offline format of a planning problem (docs/plan-format.md): JSON to a model and back to names. Never solves,
//! never reads a file.

use crate::core::plan::Plan;
use crate::core::plan::model::{Demand, Model, ModelError, Node, Prices, Route, Rules, Tier};
use crate::core::plan_check::{self, Proved, Stated, Veto};
use crate::types::Prefix;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Why a text is no problem that can be planned.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Not JSON, or an entry of another form.
    #[error("{entry}: {source}; see docs/plan-format.md")]
    Form {
        /// Which entry.
        entry: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A name that nothing has.
    #[error("{entry}: there is no {what} `{name}`; name one that is listed")]
    Unknown {
        /// Which entry.
        entry: String,
        /// Exit or group.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The same name twice.
    #[error("{entry}: `{name}` is there twice; name it once")]
    Twice {
        /// Which entry.
        entry: String,
        /// The name.
        name: String,
    },
    /// A value that cannot be.
    #[error("{entry}: {what}")]
    Value {
        /// Which entry.
        entry: String,
        /// What is wrong and what would be right.
        what: String,
    },
}

#[derive(Deserialize)]
struct Raw {
    exits: Vec<RawExit>,
    #[serde(default)]
    groups: Vec<RawExit>,
    prefixes: Vec<RawPrefix>,
    #[serde(default)]
    options: RawOptions,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExit {
    name: String,
    capacity_bps: f64,
    limit: f64,
    group: Option<String>,
    #[serde(default)]
    tiers: Vec<RawTier>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTier {
    up_to_bps: Option<f64>,
    price_per_mbps: f64,
}

#[derive(Deserialize)]
struct RawPrefix {
    prefix: Prefix,
    rate_bps: f64,
    current: Option<String>,
    routes: Vec<RawRoute>,
}

#[derive(Deserialize)]
struct RawRoute {
    exit: String,
    #[serde(default)]
    preference: f64,
    #[serde(default)]
    penalty_per_mbps: f64,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawOptions {
    overload_price_per_mbps: Option<f64>,
    move_price_per_mbps: f64,
    move_price_per_prefix: f64,
    hold_price: f64,
    min_saving: f64,
    allow_split: bool,
    max_moves: Option<usize>,
    time_budget_ms: Option<f64>,
}

/// A problem as read: the model in an order of its own, so that the order of the text changes nothing.
pub struct Offline {
    raw: Raw,
    /// Positions in `raw` of the model's exits, groups and prefixes.
    exits: Vec<usize>,
    groups: Vec<usize>,
    prefixes: Vec<usize>,
    model: Model,
    /// When to stop.
    pub time_budget: Option<Duration>,
}

/// What goes out, in the order of the input.
#[derive(Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Where each prefix leaves.
    pub assignment: Vec<Assigned>,
    /// Load of each exit.
    pub loads: Vec<Load>,
    /// Load above limits, over exits and groups.
    pub overload_bps: f64,
    /// No plan has less.
    pub overload_bound_bps: f64,
    /// What of that the checker proves by itself.
    pub overload_bound_checked_bps: f64,
    /// What contracts ask, currency per month.
    pub money: f64,
    /// Price of less preferred routes, currency per month.
    pub penalty: f64,
    /// Everything.
    pub objective: f64,
    /// No plan costs less.
    pub objective_bound: f64,
    /// What of that the checker proves by itself.
    pub objective_bound_checked: f64,
    /// Cost of staying.
    pub objective_stay: f64,
    /// `objective - objective_bound`.
    pub gap: f64,
    /// Traffic that changes its exit.
    pub moved_bps: f64,
    /// Prefixes that change their exit.
    pub moved_prefixes: usize,
    /// Milliseconds of solving.
    pub ms: f64,
}

/// One prefix of an [`Outcome`].
#[derive(Debug, PartialEq, Serialize)]
pub struct Assigned {
    prefix: Prefix,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<Vec<Part>>,
}

/// A part of a divided prefix.
#[derive(Debug, PartialEq, Serialize)]
struct Part {
    exit: String,
    share: f64,
}

/// Load of an exit.
#[derive(Debug, PartialEq, Serialize)]
pub struct Load {
    exit: String,
    bps: f64,
}

/// Reads a problem.
pub fn parse(text: &str) -> Result<Offline, OfflineError> {
    let raw: Raw = serde_json::from_str(text).map_err(|error| locate(text, error))?;
    let exits = sorted(&raw.exits, "exits")?;
    let groups = sorted(&raw.groups, "groups")?;
    let group_at = positions(&raw.groups, &groups);
    let mut prefixes: Vec<usize> = (0..raw.prefixes.len()).collect();
    prefixes.sort_by_key(|at| raw.prefixes[*at].prefix);
    for pair in prefixes.windows(2) {
        if raw.prefixes[pair[0]].prefix == raw.prefixes[pair[1]].prefix {
            return Err(OfflineError::Twice {
                entry: format!("prefixes[{}]", pair[0].max(pair[1])),
                name: raw.prefixes[pair[0]].prefix.to_string(),
            });
        }
    }
    let exit_nodes = nodes(&raw.exits, &exits, "exits", &group_at)?;
    let group_nodes = nodes(&raw.groups, &groups, "groups", &group_at)?;
    let (prices, rules) = options(&raw.options);
    let model = Model::new(exit_nodes, group_nodes, prices, rules).map_err(|error| of_model(&error))?;
    let model = filled(model, &raw, &exits, &prefixes)?;
    let time_budget = match raw.options.time_budget_ms {
        None => None,
        Some(ms) => Some(Duration::try_from_secs_f64(ms / 1e3).map_err(|error| OfflineError::Value {
            entry: "options.time_budget_ms".to_owned(),
            what: error.to_string(),
        })?),
    };
    Ok(Offline { raw, exits, groups, prefixes, model, time_budget })
}

/// Adds the prefixes in their own order.
fn filled(mut model: Model, raw: &Raw, exits: &[usize], prefixes: &[usize]) -> Result<Model, OfflineError> {
    let exit_at = positions(&raw.exits, exits);
    model.reserve(prefixes.len(), raw.prefixes.iter().map(|prefix| prefix.routes.len()).sum());
    for at in prefixes {
        let prefix = &raw.prefixes[*at];
        let entry = || format!("prefixes[{at}] ({})", prefix.prefix);
        let (routes, home) = routes(prefix, &exit_at, &entry)?;
        let current = match &prefix.current {
            None => None,
            Some(name) => Some(find(&exit_at, name, "exit", &entry)?),
        };
        let demand =
            Demand { rate_bps: prefix.rate_bps, current, home, pin: None, routes: &routes, excluded: &[] };
        model.push(&demand).map_err(|error| of_prefix(error, entry(), raw, exits))?;
    }
    model.finish().map_err(|error| of_model(&error))
}

impl Offline {
    /// What the solver takes.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The result in names, after the checker has agreed.
    pub fn outcome(&self, plan: &Plan, proved: Proved, ms: f64) -> Outcome {
        let name = |exit: u16| self.raw.exits[self.exits[usize::from(exit)]].name.clone();
        let mut assignment: Vec<Option<Assigned>> = (0..self.raw.prefixes.len()).map(|_| None).collect();
        for (row, at) in self.prefixes.iter().enumerate() {
            let prefix = self.raw.prefixes[*at].prefix;
            assignment[*at] = Some(Assigned { prefix, exit: Some(name(plan.exits[row])), split: None });
        }
        for split in &plan.splits {
            let at = self.prefixes[split.prefix];
            let part = |(exit, share): &(u16, f64)| Part { exit: name(*exit), share: *share };
            let parts = Some(split.shares.iter().map(part).collect());
            assignment[at] =
                Some(Assigned { prefix: self.raw.prefixes[at].prefix, exit: None, split: parts });
        }
        let mut loads: Vec<(usize, Load)> = Vec::new();
        for (exit, at) in self.exits.iter().enumerate() {
            loads.push((*at, Load { exit: self.raw.exits[*at].name.clone(), bps: plan.loads[exit] }));
        }
        loads.sort_by_key(|(at, _)| *at);
        let claim = &plan.certificate;
        Outcome {
            assignment: assignment.into_iter().flatten().collect(),
            loads: loads.into_iter().map(|(_, load)| load).collect(),
            overload_bps: claim.costs.overload_bps,
            overload_bound_bps: claim.overload_bound_bps,
            overload_bound_checked_bps: proved.overload_bps,
            money: claim.costs.money,
            penalty: claim.costs.penalty,
            objective: claim.costs.objective,
            objective_bound: claim.bound,
            objective_bound_checked: proved.bound,
            objective_stay: claim.stay,
            gap: claim.gap(),
            moved_bps: claim.costs.moved_bps,
            moved_prefixes: claim.costs.moved_prefixes,
            ms,
        }
    }

    /// Has the plan judged by the checker, and what of its bounds can be proved again; that starts from the text as it was read.
    pub fn check(&self, plan: &Plan) -> Result<(Vec<Veto>, Proved), OfflineError> {
        let (exit_at, group_at) =
            (positions(&self.raw.exits, &self.exits), positions(&self.raw.groups, &self.groups));
        let exits = nodes(&self.raw.exits, &self.exits, "exits", &group_at)?;
        let groups = nodes(&self.raw.groups, &self.groups, "groups", &group_at)?;
        let mut lists = Vec::with_capacity(self.prefixes.len());
        for at in &self.prefixes {
            lists.push(routes(&self.raw.prefixes[*at], &exit_at, &|| format!("prefixes[{at}]"))?);
        }
        let demands: Vec<Demand<'_>> = self
            .prefixes
            .iter()
            .zip(&lists)
            .map(|(at, (routes, home))| {
                let prefix = &self.raw.prefixes[*at];
                let current = prefix.current.as_ref().and_then(|name| exit_at.get(name.as_str()).copied());
                Demand { rate_bps: prefix.rate_bps, current, home: *home, pin: None, routes, excluded: &[] }
            })
            .collect();
        let (prices, rules) = options(&self.raw.options);
        let overload_per_mbps =
            self.raw.options.overload_price_per_mbps.unwrap_or(self.model.overload_per_mbps());
        let stated = Stated {
            exits: &exits,
            groups: &groups,
            prices: &prices,
            rules: &rules,
            overload_per_mbps,
            demands: &demands,
        };
        let vetoes = plan_check::check(&stated, plan);
        let proved = if vetoes.is_empty() { plan_check::proved(&stated, plan) } else { Proved::default() };
        Ok((vetoes, proved))
    }
}

fn options(raw: &RawOptions) -> (Prices, Rules) {
    let prices = Prices {
        overload_per_mbps: raw.overload_price_per_mbps,
        move_per_mbps: raw.move_price_per_mbps,
        move_per_prefix: raw.move_price_per_prefix,
        hold_per_prefix: raw.hold_price,
    };
    let rules = Rules {
        min_saving: raw.min_saving,
        min_saving_share: 0.0,
        allow_split: raw.allow_split,
        max_moves: raw.max_moves,
        max_moved_bps: None,
    };
    (prices, rules)
}

/// The order by name, which is the model's.
fn sorted(list: &[RawExit], kind: &str) -> Result<Vec<usize>, OfflineError> {
    let mut order: Vec<usize> = (0..list.len()).collect();
    order.sort_by(|a, b| list[*a].name.cmp(&list[*b].name));
    match order.windows(2).find(|pair| list[pair[0]].name == list[pair[1]].name) {
        Some(pair) => Err(OfflineError::Twice {
            entry: format!("{kind}[{}]", pair[0].max(pair[1])),
            name: list[pair[0]].name.clone(),
        }),
        None => Ok(order),
    }
}

fn positions<'a>(list: &'a [RawExit], order: &[usize]) -> BTreeMap<&'a str, usize> {
    order.iter().enumerate().map(|(position, at)| (list[*at].name.as_str(), position)).collect()
}

fn find(
    places: &BTreeMap<&str, usize>,
    name: &str,
    what: &'static str,
    entry: &dyn Fn() -> String,
) -> Result<usize, OfflineError> {
    places.get(name).copied().ok_or_else(|| OfflineError::Unknown {
        entry: entry(),
        what,
        name: name.to_owned(),
    })
}

fn nodes(
    list: &[RawExit],
    order: &[usize],
    kind: &'static str,
    groups: &BTreeMap<&str, usize>,
) -> Result<Vec<Node>, OfflineError> {
    order.iter().map(|at| node(&list[*at], kind, *at, groups)).collect()
}

fn node(
    raw: &RawExit,
    kind: &'static str,
    at: usize,
    groups: &BTreeMap<&str, usize>,
) -> Result<Node, OfflineError> {
    let entry = || format!("{kind}[{at}] ({})", raw.name);
    let value = |what: String| OfflineError::Value { entry: entry(), what };
    if !(raw.capacity_bps >= 0.0 && raw.capacity_bps.is_finite()) {
        return Err(value(format!(
            "`capacity_bps` is {}; give bits per second, not below 0",
            raw.capacity_bps
        )));
    }
    if !(0.0..=1.0).contains(&raw.limit) {
        return Err(value(format!("`limit` is {}; give a share of the capacity between 0 and 1", raw.limit)));
    }
    if kind == "exits" && raw.tiers.is_empty() {
        return Err(value("`tiers` is empty; give at least one, the last without `up_to_bps`".to_owned()));
    }
    let group = match &raw.group {
        None => None,
        Some(name) => Some(find(groups, name, "group", &entry)?),
    };
    let tier = |tier: &RawTier| Tier { up_to_bps: tier.up_to_bps, price_per_mbps: tier.price_per_mbps };
    Ok(Node {
        name: entry(),
        limit_bps: raw.capacity_bps * raw.limit,
        ceiling_bps: f64::INFINITY,
        base_bps: 0.0,
        tiers: raw.tiers.iter().map(tier).collect(),
        group,
    })
}

/// Routes of a prefix, and the exit of the most preferred: the highest preference, of equals the first.
fn routes(
    prefix: &RawPrefix,
    exits: &BTreeMap<&str, usize>,
    entry: &dyn Fn() -> String,
) -> Result<(Vec<Route>, usize), OfflineError> {
    let mut routes = Vec::with_capacity(prefix.routes.len());
    let mut home = (f64::NEG_INFINITY, 0);
    for route in &prefix.routes {
        let exit = find(exits, &route.exit, "exit", entry)?;
        if route.preference > home.0 {
            home = (route.preference, exit);
        }
        routes.push(Route { exit, penalty_per_mbps: route.penalty_per_mbps });
    }
    Ok((routes, home.1))
}

/// The model's errors name exits and groups already.
fn of_model(error: &ModelError) -> OfflineError {
    OfflineError::Value { entry: "problem".to_owned(), what: error.to_string() }
}

fn of_prefix(error: ModelError, entry: String, raw: &Raw, exits: &[usize]) -> OfflineError {
    let what = match error {
        ModelError::NoRoute { .. } => "no route; leave the prefix out or give it one".to_owned(),
        ModelError::Exit { exit, .. } => {
            let name = exits.get(exit).map_or("?", |at| raw.exits[*at].name.as_str());
            return OfflineError::Twice { entry, name: name.to_owned() };
        }
        ModelError::Number { what, value, .. } => {
            format!("{what} is {value}; give a number that is not negative")
        }
        other => other.to_string(),
    };
    OfflineError::Value { entry, what }
}

/// Which entry has another form than it should: serde says only the line and column.
fn locate(text: &str, error: serde_json::Error) -> OfflineError {
    let whole = |source| OfflineError::Form { entry: "problem".to_owned(), source };
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else { return whole(error) };
    let found = [first_bad::<RawExit>(&value, "exits"), first_bad::<RawExit>(&value, "groups")]
        .into_iter()
        .chain([first_bad::<RawPrefix>(&value, "prefixes")])
        .flatten()
        .next();
    if let Some((entry, source)) = found {
        return OfflineError::Form { entry, source };
    }
    match value.get("options").map(|options| serde_json::from_value::<RawOptions>(options.clone())) {
        Some(Err(source)) => OfflineError::Form { entry: "options".to_owned(), source },
        _ => whole(error),
    }
}

fn first_bad<T: DeserializeOwned>(
    value: &serde_json::Value,
    list: &str,
) -> Option<(String, serde_json::Error)> {
    value.get(list)?.as_array()?.iter().enumerate().find_map(|(at, entry)| {
        let name =
            ["name", "prefix"].iter().find_map(|key| entry.get(key)?.as_str()).unwrap_or("without a name");
        let error = serde_json::from_value::<T>(entry.clone()).err()?;
        Some((format!("{list}[{at}] ({name})"), error))
    })
}

#[cfg(test)]
mod tests;
