//! The list of benches, and what they are given.
//!
//! A bench prints one JSON object per line on standard output when asked for `--json`, and nothing
//! else there. Benches call into the agent's library, which nothing else of the lab does: they measure its parts.

use std::path::PathBuf;

use crate::error::LabError;

mod dataplane;
mod kernel;
mod mixes;
mod round;
mod routes;
mod solver;
mod update;

/// What a bench is run with.
#[derive(Clone, Debug, Default)]
pub struct BenchOptions {
    /// Print JSON, one object per line.
    pub json: bool,
    /// Routing table to use instead of a generated one: lines `prefix<TAB>anything`, also compressed by zstd.
    pub table: Option<PathBuf>,
}

impl BenchOptions {
    /// Shows one result.
    fn show(&self, result: &serde_json::Value) {
        if self.json {
            println!("{result}");
            return;
        }
        let fields: Vec<String> =
            result.as_object().into_iter().flatten().map(|(name, value)| format!("{name} {value}")).collect();
        println!("{}", fields.join("  "));
    }
}

/// One bench.
pub struct Bench {
    /// Name on the command line.
    pub name: &'static str,
    /// What it measures, one line.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(&BenchOptions) -> Result<(), LabError>,
}

/// Every bench, in alphabetical order.
pub const BENCHES: [Bench; 3] = [
    Bench {
        name: "dataplane",
        about: "nanoseconds per lookup, load, update, sample and kernel memory with the Internet's table",
        run: dataplane::run,
    },
    Bench {
        name: "round",
        about: "milliseconds from a sample of all counters to a decision, planning and checking included",
        run: round::run,
    },
    Bench {
        name: "solver",
        about: "milliseconds per plan, cold and warm, and how far from the optimum it can be",
        run: solver::run,
    },
];

/// Finds a bench by name.
///
/// # Errors
/// A message that lists the names there are.
pub fn find(name: &str) -> Result<&'static Bench, String> {
    BENCHES.iter().find(|bench| bench.name == name).ok_or_else(|| {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        format!("there is no bench {name:?}; known: {}", names.join(", "))
    })
}
