//! The list of benches, and what they are given.
//!
//! A bench prints one JSON object per line on standard output when asked for `--json`, and nothing
//! else there. Benches call into the agent's library, which nothing else of the lab does: they measure its parts.

use std::path::PathBuf;

use crate::error::LabError;

mod bgp;
mod cycle;
mod dataplane;
mod fib;
mod forward;
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
    /// Smaller sizes, to see that it runs; the figures mean nothing.
    pub quick: bool,
    /// One part of the bench; all without.
    pub part: Option<String>,
}

impl BenchOptions {
    /// True where this part is to be run.
    fn wants(&self, part: &str) -> bool {
        self.part.as_deref().is_none_or(|only| only == part)
    }

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
pub const BENCHES: [Bench; 7] = [
    Bench {
        name: "bgp",
        about: "seconds and memory for a million prefixes of four peers beside BIRD and GoBGP; churn, overrides, loss of a peer",
        run: bgp::run,
    },
    Bench {
        name: "dataplane",
        about: "nanoseconds per lookup, load, update, sample and kernel memory with the Internet's table",
        run: dataplane::run,
    },
    Bench {
        name: "fib",
        about: "milliseconds to add, replace and delete 200,000 routes, beside `ip -batch`",
        run: fib::run,
    },
    Bench {
        name: "forward",
        about: "packets per second through a router with ETM attached and without, in turns",
        run: forward::run,
    },
    Bench {
        name: "loop",
        about: "milliseconds from an overload to the kernel's and a peer's route, `etm off`, a lost link; Internet's table loaded",
        run: cycle::run,
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
