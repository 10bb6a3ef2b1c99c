//! `etm plan --input FILE`: plans a problem given as a file. Asks no agent, changes nothing.

use super::render_plan::checked;
use crate::config::offline::{self, OfflineError, Outcome};
use crate::core::plan::solve::{Budget, solve};
use crate::core::plan_check::Veto;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; give a file, or `-` for standard input", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no problem that can be planned.
    #[error("{}: {source}", path.display())]
    Input {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: OfflineError,
    },
    /// The checker does not agree with the solver.
    #[error("the plan was vetoed: {veto}; please report this with the input")]
    Vetoed {
        /// The first reason.
        veto: Veto,
    },
    /// The result has no JSON form.
    #[error("cannot print the plan as JSON: {source}; leave `--json` out")]
    Form {
        /// Why.
        source: serde_json::Error,
    },
}

impl PlanError {
    /// Exit status.
    pub(super) fn status(&self) -> u8 {
        match self {
            PlanError::Input { .. } => 2,
            PlanError::Read { .. } | PlanError::Vetoed { .. } | PlanError::Form { .. } => 1,
        }
    }
}

/// Reads, plans, checks, prints.
pub(super) fn run(path: &Path, json: bool) -> Result<String, PlanError> {
    let text = read(path).map_err(|source| PlanError::Read { path: path.to_owned(), source })?;
    let input = |source| PlanError::Input { path: path.to_owned(), source };
    let problem = offline::parse(&text).map_err(input)?;
    let begin = Instant::now();
    let elapsed = || begin.elapsed();
    let budget = problem.time_budget.map(|limit| Budget { elapsed: &elapsed, limit });
    let plan = solve(problem.model(), None, budget);
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    let (vetoes, proved) = problem.check(&plan).map_err(input)?;
    if let Some(veto) = vetoes.into_iter().next() {
        return Err(PlanError::Vetoed { veto });
    }
    let outcome = problem.outcome(&plan, proved, ms);
    if json {
        let text = serde_json::to_string(&outcome).map_err(|source| PlanError::Form { source })?;
        return Ok(text + "\n");
    }
    Ok(shown(&outcome))
}

fn read(path: &Path) -> std::io::Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}

fn shown(outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:<18}{value}");
    };
    line("prefixes", outcome.assignment.len().to_string());
    line("moved", format!("{} prefixes, {:.3} Mbit/s", outcome.moved_prefixes, outcome.moved_bps / 1e6));
    let mbps = |bps: f64| format!("{:.3} Mbit/s", bps / 1e6);
    line(
        "overload",
        format!(
            "{}, at least {}{}",
            mbps(outcome.overload_bps),
            mbps(outcome.overload_bound_bps),
            checked(outcome.overload_bound_bps, outcome.overload_bound_checked_bps, mbps)
        ),
    );
    line("money", format!("{:.2} a month", outcome.money));
    line("objective", format!("{:.2}, staying {:.2}", outcome.objective, outcome.objective_stay));
    let proved =
        checked(outcome.objective_bound, outcome.objective_bound_checked, |value| format!("{value:.2}"));
    line("bound", format!("{:.2}{proved}, gap {:.4}", outcome.objective_bound, outcome.gap));
    line("solved in", format!("{:.1} ms", outcome.ms));
    text
}
