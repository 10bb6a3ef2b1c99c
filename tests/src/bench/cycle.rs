//! The whole loop with the Internet's table loaded: from the first packet of an overload to the kernel's route and to the
//! best route of a peer, what a lost link costs, and how long `etm off` takes with thousands of overrides.
//! In a lab of its own; what ETM did is read from kernel, sink and core, never asked of ETM.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::BenchOptions;
use crate::agent::AgentOptions;
use crate::crowd;
use crate::error::LabError;
use crate::lab::{Lab, LabOptions};

mod full;
mod lost;
mod off;
mod overload;
mod watch;

/// Overloads per interval.
const RUNS: usize = 30;
/// And in the quick run.
const QUICK_RUNS: usize = 3;
/// How often ten thousand overrides are switched off, and how often with the agent stopped.
const OFF_RUNS: usize = 3;
/// Longest wait for anything that follows from a step.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs all parts, or the one asked for: an interval (`default`, `100ms`), `off`, or `lost`.
pub(super) fn run(options: &BenchOptions) -> Result<(), LabError> {
    let mut lab = Lab::up(LabOptions::default())?;
    say("loading the table into three providers, border and core");
    let table = full::load(&mut lab, options, crowd::prefixes())?;
    say(&format!("{} prefixes are everywhere", table.prefixes));
    let runs = if options.quick { QUICK_RUNS } else { RUNS };
    for (part, interval, millis) in [("default", "1s", 1000), ("100ms", "100ms", 100)] {
        if !options.wants(part) {
            continue;
        }
        let agent = AgentOptions { interval, ..AgentOptions::default() };
        say(&format!("{runs} overloads with an interval of {interval}"));
        let mut result = line(&table, millis);
        result.extend(overload::run(&lab, &table, &agent, runs)?);
        options.show(&Value::Object(result));
    }
    if options.wants("off") {
        let mut result = line(&table, 1000);
        result.extend(off::run(&lab, &table, if options.quick { 1 } else { OFF_RUNS })?);
        options.show(&Value::Object(result));
    }
    if options.wants("lost") {
        let mut result = line(&table, 1000);
        result.extend(lost::run(&lab, &table)?);
        options.show(&Value::Object(result));
    }
    Ok(())
}

/// Progress, on standard error.
fn say(text: &str) {
    eprintln!("etm-lab: {text}");
}

fn line(table: &full::Full, interval_ms: u32) -> Map<String, Value> {
    let head = json!({ "bench": "loop", "interval_ms": interval_ms, "prefixes": table.prefixes });
    head.as_object().cloned().unwrap_or_default()
}

/// Median and 99th percentile (nearest rank) of milliseconds, to a tenth.
fn quantiles(times: &mut [f64]) -> Value {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).max(1) - 1;
        times.get(rank).map(|ms| (ms * 10.0).round() / 10.0)
    };
    json!({ "p50": at(50), "p99": at(99) })
}
