//! Real tables of several providers, real demand over time: what plain BGP would load, and what the planner makes of it.
//! Every plan is judged by the checker before it is counted.

use std::path::{Path, PathBuf};

use etm_agent::core::plan::model::{Demand, Model, ModelError, Node, Route};
use etm_agent::core::plan::solve::solve;
use etm_agent::core::plan::{Plan, Warm};
use etm_agent::core::plan_check::{self, Stated};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::data::{self, View};
use super::market::{self, HOP_PRICE, TOTAL_BPS};
use crate::error::LabError;

/// What the report is made with.
#[derive(Clone, Debug, Default)]
pub struct ViewOptions {
    /// Directory with `ribs/` and `demand/`.
    pub data: Option<PathBuf>,
    /// One JSON object per line instead of tables.
    pub json: bool,
}

const VIEWS: [(&str, &str); 2] = [
    ("IPv4, 8 providers", "ribs/providers8-2014-v4.tsv.zst"),
    ("IPv6, 6 providers", "ribs/providers6-2015-v6.tsv.zst"),
];
const SERIES: [(&str, &str); 2] =
    [("cmu", "demand/cmu-od.csv.gz"), ("bell-labs", "demand/bell-labs-od.csv.gz")];
const PRESSURES: [f64; 4] = [0.5, 0.7, 0.85, 0.95];
const SERIES_PRESSURES: [f64; 2] = [0.7, 0.85];
/// Runs of a plan whose middle is its time.
const RUNS: usize = 5;

/// Prints the report; false where the data is absent, with a line that says so.
///
/// # Errors
/// The data is not what it should be, or the checker vetoes a plan.
pub fn run(options: &ViewOptions) -> Result<bool, LabError> {
    let Some(directory) =
        options.data.as_ref().filter(|data| VIEWS.iter().all(|(_, file)| data.join(file).is_file()))
    else {
        println!("SKIP no data: give --data DIR (or ETM_DATA) with {} and {}", VIEWS[0].1, VIEWS[1].1);
        return Ok(false);
    };
    let mut show = Show { json: options.json, heading: "" };
    let views: Vec<(&str, View)> = VIEWS
        .iter()
        .map(|(name, file)| Ok((*name, View::read(&directory.join(file))?)))
        .collect::<Result<_, LabError>>()?;
    for (name, view) in &views {
        for pressure in PRESSURES {
            show.row("popularity by Zipf", still(name, view, pressure)?);
        }
    }
    for (name, view) in &views {
        for pressure in PRESSURES {
            show.row("one port lost", without_one(name, view, pressure)?);
        }
    }
    for (name, view) in &views {
        for (series, file) in SERIES {
            let rates = demand(view, &directory.join(file))?;
            for pressure in SERIES_PRESSURES {
                show.row("demand over time", moving(name, view, series, &rates, pressure)?);
            }
        }
    }
    Ok(true)
}

/// Names and values, in the order shown.
type Row = Vec<(&'static str, Value)>;

/// Lines of JSON, or tables.
struct Show {
    json: bool,
    heading: &'static str,
}

impl Show {
    fn row(&mut self, heading: &'static str, row: Row) {
        if self.json {
            let fields = row.into_iter().map(|(name, value)| (name.to_owned(), value));
            println!(
                "{}",
                Value::Object([("report".to_owned(), json!(heading))].into_iter().chain(fields).collect())
            );
            return;
        }
        let line = |cells: Vec<String>| println!("| {} |", cells.join(" | "));
        if self.heading != heading {
            self.heading = heading;
            println!("\n{heading}:\n");
            line(row.iter().map(|(name, _)| (*name).to_owned()).collect());
            println!("|{}", "---|".repeat(row.len()));
        }
        line(row.iter().map(|(_, value)| cell(value)).collect());
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A planning problem over a view: the rows that some provider still announces.
struct Problem<'a> {
    view: &'a View,
    ports: Vec<Node>,
    lost: Option<usize>,
    rows: Vec<usize>,
    homes: Vec<usize>,
}

impl<'a> Problem<'a> {
    fn new(view: &'a View, pressure: f64, lost: Option<usize>) -> Problem<'a> {
        let ports = market::ports(&view.providers, pressure);
        let rows: Vec<usize> = (0..view.rows.len()).filter(|row| view.home(*row, lost).is_some()).collect();
        let homes = rows.iter().filter_map(|row| view.home(*row, lost)).collect();
        Problem { view, ports, lost, rows, homes }
    }

    fn routes(&self, row: usize) -> Vec<Route> {
        let hops = &self.view.rows[row].hops;
        let live = || hops.iter().enumerate().filter(|(exit, _)| Some(*exit) != self.lost);
        let shortest = live().filter_map(|(_, hops)| *hops).min().unwrap_or(0);
        let route = |(exit, hops): (usize, &Option<u32>)| {
            Some(Route { exit, penalty_per_mbps: HOP_PRICE * f64::from((*hops)? - shortest) })
        };
        live().filter_map(route).collect()
    }

    /// Plans from `current` exits (by row of the view), has the plan checked, and says how long it took.
    fn plan(
        &self,
        rates: &[f64],
        current: &[usize],
        warm: Option<&Warm>,
        runs: usize,
    ) -> Result<(Plan, f64), LabError> {
        let routes: Vec<Vec<Route>> = self.rows.iter().map(|row| self.routes(*row)).collect();
        let demand = |at: usize| Demand {
            rate_bps: rates[self.rows[at]],
            current: Some(current[self.rows[at]]).filter(|exit| Some(*exit) != self.lost),
            home: self.homes[at],
            pin: None,
            routes: &routes[at],
            excluded: &[],
        };
        let demands: Vec<Demand<'_>> = (0..self.rows.len()).map(demand).collect();
        let (prices, rules) = (market::prices(), market::rules());
        let model = model(&self.ports, &demands).map_err(|source| LabError::Instance { source })?;
        let mut times = Vec::new();
        let mut plan = None;
        for _ in 0..runs {
            let begin = cpu_ms();
            plan = Some(solve(&model, warm, None));
            times.push(cpu_ms() - begin);
        }
        times.sort_by(f64::total_cmp);
        let stated = Stated {
            exits: &self.ports,
            groups: &[],
            prices: &prices,
            rules: &rules,
            overload_per_mbps: model.overload_per_mbps(),
            demands: &demands,
        };
        let plan =
            plan.ok_or_else(|| LabError::Malformed { what: "a plan".into(), detail: "no runs".into() })?;
        match plan_check::check(&stated, &plan).into_iter().next() {
            Some(veto) => Err(LabError::Malformed { what: "a plan".into(), detail: veto.to_string() }),
            None => Ok((plan, times[times.len() / 2])),
        }
    }

    /// Loads of the ports with each prefix of the view at `exits`.
    fn loads(&self, rates: &[f64], exits: impl Fn(usize) -> usize) -> Vec<f64> {
        let mut loads = vec![0.0; self.ports.len()];
        for row in &self.rows {
            loads[exits(*row)] += rates[*row];
        }
        loads
    }

    /// The exit of each row of the view after a plan; rows without a route keep what they had.
    fn exits(&self, plan: &Plan, before: &[usize]) -> Vec<usize> {
        let mut exits = before.to_vec();
        for (at, row) in self.rows.iter().enumerate() {
            exits[*row] = usize::from(plan.exits[at]);
        }
        exits
    }
}

/// Milliseconds of this thread on a processor: what else the machine does is no part of it.
fn cpu_ms() -> f64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0.0, |now| {
        f64::from(u32::try_from(now.tv_sec()).unwrap_or(0)) * 1e3
            + f64::from(u32::try_from(now.tv_nsec()).unwrap_or(0)) / 1e6
    })
}

fn model(ports: &[Node], demands: &[Demand<'_>]) -> Result<Model, ModelError> {
    let mut model = Model::new(ports.to_vec(), Vec::new(), market::prices(), market::rules())?;
    for demand in demands {
        model.push(demand)?;
    }
    model.finish()
}

fn homes(view: &View) -> Vec<usize> {
    (0..view.rows.len()).map(|row| view.home(row, None).unwrap_or(0)).collect()
}

fn zipf(view: &View) -> Vec<f64> {
    let names: Vec<String> = view.rows.iter().map(|row| row.prefix.to_string()).collect();
    market::popularity(&names).iter().map(|share| share * TOTAL_BPS).collect()
}

fn percent(share: f64) -> f64 {
    (share * 1000.0).round() / 10.0
}

fn gbit(bps: f64) -> f64 {
    (bps / 1e7).round() / 100.0
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// Gap in millionths of the bound.
fn gap_ppm(plan: &Plan) -> f64 {
    rounded(plan.certificate.gap() / plan.certificate.bound * 1e6, 1)
}

fn still(name: &str, view: &View, pressure: f64) -> Result<Row, LabError> {
    let (rates, homes) = (zipf(view), homes(view));
    let problem = Problem::new(view, pressure, None);
    let (plan, ms) = problem.plan(&rates, &homes, None, RUNS)?;
    let before = problem.loads(&rates, |row| homes[row]);
    let exits = problem.exits(&plan, &homes);
    let after = problem.loads(&rates, |row| exits[row]);
    let ports = &problem.ports;
    let costs = &plan.certificate.costs;
    Ok(vec![
        ("view", json!(name)),
        ("prefixes", json!(problem.rows.len())),
        ("load %", json!(percent(pressure))),
        ("peak % BGP", json!(percent(market::peak(ports, &before)))),
        ("peak % ETM", json!(percent(market::peak(ports, &after)))),
        ("over limit Gbit/s BGP", json!(gbit(market::overload(ports, &before)))),
        ("over limit Gbit/s ETM", json!(gbit(market::overload(ports, &after)))),
        ("proved at least", json!(gbit(plan.certificate.overload_bound_bps))),
        ("money a month BGP", json!(market::money(ports, &before).round())),
        ("money a month ETM", json!(market::money(ports, &after).round())),
        ("saved %", json!(percent(1.0 - market::money(ports, &after) / market::money(ports, &before)))),
        ("moved prefixes", json!(costs.moved_prefixes)),
        ("moved % of traffic", json!(percent(costs.moved_bps / TOTAL_BPS))),
        ("gap ppm", json!(gap_ppm(&plan))),
        ("ms", json!(rounded(ms, 1))),
    ])
}

/// Each port lost in turn, from the plan: what plain BGP would then overload, and what a new plan leaves.
fn without_one(name: &str, view: &View, pressure: f64) -> Result<Row, LabError> {
    let (rates, homes) = (zipf(view), homes(view));
    let whole = Problem::new(view, pressure, None);
    let (plan, _) = whole.plan(&rates, &homes, None, 1)?;
    let exits = whole.exits(&plan, &homes);
    let (mut worst_bgp, mut worst_etm) = ((0.0, 0), (0.0, 0));
    let (mut worst_gap, mut worst_ms, mut fits, mut bound) = (0.0_f64, 0.0_f64, 0, 0.0_f64);
    for lost in 0..view.providers.len() {
        let problem = Problem::new(view, pressure, Some(lost));
        let plain = problem.loads(&rates, |row| view.home(row, Some(lost)).unwrap_or(0));
        let (plan, ms) = problem.plan(&rates, &exits, Some(&plan.warm), 1)?;
        let after = problem.exits(&plan, &exits);
        let planned = problem.loads(&rates, |row| after[row]);
        let (bgp, etm) =
            (market::overload(&problem.ports, &plain), market::overload(&problem.ports, &planned));
        if bgp > worst_bgp.0 {
            worst_bgp = (bgp, lost);
        }
        if etm >= worst_etm.0 {
            worst_etm = (etm, lost);
            bound = plan.certificate.overload_bound_bps;
        }
        // What is left of differences of large sums is no overload.
        fits += usize::from(etm < 1e-6 * TOTAL_BPS);
        worst_gap = worst_gap.max(gap_ppm(&plan));
        worst_ms = worst_ms.max(ms);
    }
    Ok(vec![
        ("view", json!(name)),
        ("load %", json!(percent(pressure))),
        ("worst loss BGP", json!(view.providers[worst_bgp.1])),
        ("over limit Gbit/s BGP", json!(gbit(worst_bgp.0))),
        ("worst loss ETM", json!(view.providers[worst_etm.1])),
        ("over limit Gbit/s ETM", json!(gbit(worst_etm.0))),
        ("proved at least", json!(gbit(bound))),
        ("losses that fit", json!(format!("{fits} of {}", view.providers.len()))),
        ("gap ppm, worst", json!(worst_gap)),
        ("ms warm, worst", json!(rounded(worst_ms, 1))),
    ])
}

/// Rates by row of the view over time: a column of the series is the traffic of one origin, over whose prefixes it is
/// spread by popularity; the busiest column goes to the origin with the most prefixes. Scaled to the peak.
fn demand(view: &View, file: &Path) -> Result<Vec<Vec<f64>>, LabError> {
    let series = data::series(file)?;
    let origins = view.origins();
    let spread: Vec<Vec<(usize, f64)>> = origins
        .iter()
        .map(|rows| {
            let names: Vec<String> = rows.iter().map(|row| view.rows[*row].prefix.to_string()).collect();
            rows.iter().copied().zip(market::popularity(&names)).collect()
        })
        .collect();
    let peak = series.iter().map(|rates| rates.iter().sum::<f64>()).fold(0.0, f64::max);
    let volume = |column: &usize| series.iter().filter_map(|rates| rates.get(*column)).sum::<f64>();
    let mut columns: Vec<usize> = (0..series.first().map_or(0, Vec::len)).collect();
    columns.sort_by(|a, b| volume(b).total_cmp(&volume(a)));
    let at = |moment: &Vec<f64>| {
        let mut rates = vec![0.0; view.rows.len()];
        for (column, rows) in columns.iter().zip(&spread) {
            for (row, share) in rows {
                rates[*row] += moment[*column] * share / peak * TOTAL_BPS;
            }
        }
        rates
    };
    Ok(series.iter().map(at).collect())
}

/// What adds up over the intervals of a series.
#[derive(Default)]
struct Sum {
    loads_bgp: Vec<Vec<f64>>,
    loads_etm: Vec<Vec<f64>>,
    moves: usize,
    cannot: usize,
    largest: f64,
    gaps: Vec<f64>,
    times: Vec<f64>,
}

fn moving(name: &str, view: &View, series: &str, rates: &[Vec<f64>], pressure: f64) -> Result<Row, LabError> {
    let homes = homes(view);
    let problem = Problem::new(view, pressure, None);
    let (mut exits, mut warm, mut sum) = (homes.clone(), None, Sum::default());
    for rates in rates {
        let (plan, ms) = problem.plan(rates, &exits, warm.as_ref(), 1)?;
        exits = problem.exits(&plan, &exits);
        sum.loads_bgp.push(problem.loads(rates, |row| homes[row]));
        sum.loads_etm.push(problem.loads(rates, |row| exits[row]));
        sum.moves += plan.certificate.costs.moved_prefixes;
        sum.cannot += usize::from(plan.certificate.overload_bound_bps > 1e-6 * TOTAL_BPS);
        sum.largest = rates.iter().copied().fold(sum.largest, f64::max);
        sum.gaps.push(gap_ppm(&plan));
        sum.times.push(ms);
        warm = Some(plan.warm);
    }
    let ports = &problem.ports;
    let over = |all: &[Vec<f64>]| {
        all.iter().filter(|loads| market::overload(ports, loads) > 1e-6 * TOTAL_BPS).count()
    };
    let peak = |all: &[Vec<f64>]| all.iter().map(|loads| market::peak(ports, loads)).fold(0.0, f64::max);
    let p95 = |all: &[Vec<f64>]| -> Vec<f64> {
        (0..ports.len()).map(|port| quantile(all.iter().map(|loads| loads[port]).collect(), 0.95)).collect()
    };
    let (bgp, etm) = (market::money(ports, &p95(&sum.loads_bgp)), market::money(ports, &p95(&sum.loads_etm)));
    Ok(vec![
        ("view", json!(name)),
        ("series", json!(series)),
        ("intervals", json!(rates.len())),
        ("load % at peak", json!(percent(pressure))),
        ("peak % BGP", json!(percent(peak(&sum.loads_bgp)))),
        ("peak % ETM", json!(percent(peak(&sum.loads_etm)))),
        ("intervals over limit BGP", json!(over(&sum.loads_bgp))),
        ("intervals over limit ETM", json!(over(&sum.loads_etm))),
        ("proved not to fit", json!(sum.cannot)),
        ("largest prefix Gbit/s", json!(gbit(sum.largest))),
        ("money at p95 BGP", json!(bgp.round())),
        ("money at p95 ETM", json!(etm.round())),
        ("saved %", json!(percent(1.0 - etm / bgp))),
        ("moves per interval", json!(rounded(mean(sum.moves, rates.len()), 1))),
        ("gap ppm p95", json!(quantile(sum.gaps, 0.95))),
        ("ms warm p50", json!(rounded(quantile(sum.times.clone(), 0.5), 1))),
        ("ms warm max", json!(rounded(quantile(sum.times, 1.0), 1))),
    ])
}

fn mean(sum: usize, count: usize) -> f64 {
    let float = |value: usize| f64::from(u32::try_from(value).unwrap_or(u32::MAX));
    float(sum) / float(count.max(1))
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = f64::from(u32::try_from(values.len().saturating_sub(1)).unwrap_or(u32::MAX));
    let rank = (0_u32..).zip(&values).find(|(rank, _)| f64::from(*rank) >= (last * share).floor());
    rank.map_or(0.0, |(_, value)| *value)
}
