//! What another configuration would have done, beside what was done. Figures only.

use crate::core::record::what_if::{Loads, Move, Side, WhatIf};
use crate::types::{BitRate, Prefix};
use serde::Serialize;
use std::collections::BTreeMap;

/// The comparison.
#[derive(Debug, Default, Serialize)]
pub(super) struct Comparison {
    pub(super) uplinks: Vec<Uplink>,
    pub(super) recorded: Acts,
    pub(super) other: Acts,
    /// Overrides made by one and not by the other.
    pub(super) only_recorded: Vec<Moved>,
    pub(super) only_other: Vec<Moved>,
}

/// What one of the two did.
#[derive(Debug, Default, Serialize)]
pub(super) struct Acts {
    /// Overrides made or changed.
    pub(super) moves: u64,
    /// Rounds in which an uplink was offered more than its limit, summed over uplinks.
    pub(super) overloaded: u64,
}

/// Loads of an uplink under both.
#[derive(Debug, Serialize)]
pub(super) struct Uplink {
    pub(super) name: String,
    pub(super) limit_bps: BitRate,
    pub(super) recorded: Load,
    pub(super) other: Load,
    #[serde(skip)]
    rounds: (Loads, Loads),
}

/// A load over time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Load {
    pub(super) median_bps: BitRate,
    pub(super) p95_bps: BitRate,
    pub(super) peak_bps: BitRate,
}

/// An override.
#[derive(Debug, Serialize)]
pub(super) struct Moved {
    pub(super) prefix: Prefix,
    pub(super) to: String,
}

impl Load {
    fn of(loads: &Loads) -> Load {
        Load {
            median_bps: loads.percentile(50),
            p95_bps: loads.percentile(95),
            peak_bps: loads.percentile(100),
        }
    }
}

impl Comparison {
    /// Takes in what a replay without a gap found.
    pub(super) fn add(&mut self, found: &WhatIf) {
        let (recorded, other) = found.sides();
        for (at, uplink) in found.controller().policy().uplinks.iter().enumerate() {
            if self.uplinks.len() == at {
                self.uplinks.push(Uplink {
                    name: uplink.name.clone(),
                    limit_bps: uplink.limit_rate(),
                    recorded: Load::default(),
                    other: Load::default(),
                    rounds: Default::default(),
                });
            }
            let Some(row) = self.uplinks.get_mut(at) else { continue };
            for (all, side) in [(&mut row.rounds.0, recorded), (&mut row.rounds.1, other)] {
                all.rounds
                    .extend(side.loads.get(at).into_iter().flat_map(|loads| loads.rounds.iter().copied()));
            }
            (row.recorded, row.other) = (Load::of(&row.rounds.0), Load::of(&row.rounds.1));
        }
        for (acts, side) in [(&mut self.recorded, recorded), (&mut self.other, other)] {
            acts.moves += side.made;
            acts.overloaded += side.overloaded;
        }
        self.only_recorded.extend(missing(recorded, other));
        self.only_other.extend(missing(other, recorded));
    }
}

fn missing(from: &Side, other: &Side) -> Vec<Moved> {
    let known: &BTreeMap<Move, _> = &other.moves;
    let absent = from.moves.keys().filter(|made| !known.contains_key(made));
    absent.map(|made| Moved { prefix: made.prefix, to: made.to.clone() }).collect()
}
