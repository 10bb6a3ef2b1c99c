//! The list of benches. Empty so far: each later part of ETM brings its own.
//!
//! A bench prints one JSON object per line on standard output when asked for `--json`, and nothing
//! else there.

use crate::error::LabError;

/// One bench.
pub struct Bench {
    /// Name on the command line.
    pub name: &'static str,
    /// What it measures, one line.
    pub about: &'static str,
    /// Runs it; the argument says whether to print JSON.
    pub run: fn(json: bool) -> Result<(), LabError>,
}

/// Every bench, in alphabetical order.
pub const BENCHES: [Bench; 0] = [];

/// Finds a bench by name.
///
/// # Errors
/// A message that lists the names there are.
pub fn find(name: &str) -> Result<&'static Bench, String> {
    BENCHES.iter().find(|bench| bench.name == name).ok_or_else(|| {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        let known = if names.is_empty() { "none exists yet".to_owned() } else { names.join(", ") };
        format!("there is no bench {name:?}; known: {known}")
    })
}
