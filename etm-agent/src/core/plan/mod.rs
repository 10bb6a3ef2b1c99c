//! The best split of prefixes over exits, with a certificate of how far from the optimum it can be.
//!
//! Numbers in, a plan out: no routing, no clock, no state but the prices that a caller may hand back to start warm.
//! Reading order: [`model`] (the problem), [`curve`] (costs), `dual` (prices, by `master` and `rows`), `dive` and `primal`
//! (a plan from prices, judged by [`tally`]), `whole`, `branch` and `overload` (stronger bounds), [`solve`] (all of it).

mod branch;
mod caps;
pub mod curve;
mod dive;
mod dual;
mod fixed;
mod master;
pub mod model;
mod overload;
mod primal;
mod rows;
mod share;
pub mod solve;
mod spec;
pub mod tally;
mod whole;

#[cfg(test)]
mod tests;

use self::tally::Costs;

/// Prices to start from next time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Warm {
    /// Of exits, groups and, where moved traffic is capped, of moving; currency per bit/s and month.
    pub prices: Vec<f64>,
    /// How far they may be off.
    pub width: f64,
    /// Position and exit of the prefixes that were too large to be left to rounding: where they are tried first. Only a
    /// hint; if positions have changed since, leave it empty.
    pub settled: Vec<(usize, u16)>,
    /// How much higher prices were, exit by exit, with these settled.
    pub shift: Vec<f64>,
    /// What the plan cost above its bound, as a part of it, when their places were last looked for.
    pub gap: f64,
    /// How far around the prices the plan was looked for.
    pub reach: f64,
}

/// A prefix over several exits.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Position of the prefix.
    pub prefix: usize,
    /// Exits and their shares, which sum to 1.
    pub shares: Vec<(u16, f64)>,
}

/// Why the plan is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It relieves overload, or undoes what a hard limit forbids.
    Relief,
    /// It saves enough.
    Apply,
    /// Something could be saved, but less than the least saving: everything stays.
    TooLittle,
    /// Staying is as good as anything.
    NothingToGain,
}

/// What is proved about a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Certificate {
    /// Cost of the plan.
    pub costs: Costs,
    /// No plan costs less, currency per month.
    pub bound: f64,
    /// What the prices alone prove: the dual at the prices that come with the plan. `bound` may be higher where it was
    /// strengthened for prefixes that cannot be divided.
    pub bound_by_prices: f64,
    /// No plan has less overload, bit/s.
    pub overload_bound_bps: f64,
    /// Cost of staying.
    pub stay: f64,
    /// Overload of staying, bit/s.
    pub stay_overload_bps: f64,
    /// Part of the achievable saving that the plan realises; none where nothing is to gain.
    pub realised: Option<f64>,
    /// True if the time was over before the search.
    pub expired: bool,
}

impl Certificate {
    /// How much cheaper another plan could at most be, currency per month.
    pub fn gap(&self) -> f64 {
        self.costs.objective - self.bound
    }
}

/// Where each prefix should leave.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Exit of each prefix, in the order of the model.
    pub exits: Vec<u16>,
    /// Prefixes that are divided; their entry in `exits` is the largest part.
    pub splits: Vec<Split>,
    /// Load of each exit, then of each group, bit/s.
    pub loads: Vec<f64>,
    /// What is proved.
    pub certificate: Certificate,
    /// Why.
    pub verdict: Verdict,
    /// Prices of exits and groups: what one more bit/s costs there. To start warm.
    pub warm: Warm,
}
