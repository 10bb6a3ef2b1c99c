//! What another configuration would have done, beside what was done. Figures only.

use crate::core::policy::{Contract, Policy};
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
    /// What the contracts would ask in a month of such traffic, by the 95th percentile of each load.
    pub(super) money: f64,
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
        let (then, now): (Vec<Loads>, Vec<Loads>) =
            self.uplinks.iter().map(|uplink| uplink.rounds.clone()).unzip();
        self.recorded.money = money(found.recorded_policy(), &then);
        self.other.money = money(found.controller().policy(), &now);
        self.only_recorded.extend(missing(recorded, other));
        self.only_other.extend(missing(other, recorded));
    }
}

/// What all contracts ask for these loads of uplinks. An interface that several providers share is in none of theirs.
fn money(policy: &Policy, loads: &[Loads]) -> f64 {
    let of =
        |contract: &Contract, uplinks: &[usize]| asked(contract, together(loads, uplinks).percentile(95));
    let only = |provider: usize| -> Vec<usize> {
        (0..policy.uplinks.len())
            .filter(|uplink| {
                let mut exits = policy.exits.iter().filter(|exit| exit.uplink.index() == *uplink).peekable();
                exits.peek().is_some() && exits.all(|exit| exit.provider.index() == provider)
            })
            .collect()
    };
    let behind = |port: usize| -> Vec<usize> {
        let inside = |at: &usize| policy.uplinks.get(*at).is_some_and(|uplink| uplink.port == Some(port));
        (0..policy.uplinks.len()).filter(inside).collect()
    };
    let uplinks = policy.uplinks.iter().enumerate().map(|(at, uplink)| of(&uplink.contract, &[at]));
    let ports = policy.ports.iter().enumerate().map(|(at, port)| of(&port.contract, &behind(at)));
    let providers = policy.providers.iter().enumerate().map(|(at, who)| of(&who.contract, &only(at)));
    uplinks.chain(ports).chain(providers).sum()
}

/// Round by round.
fn together(loads: &[Loads], uplinks: &[usize]) -> Loads {
    let chosen: Vec<&Loads> = uplinks.iter().filter_map(|at| loads.get(*at)).collect();
    let rounds = chosen.iter().map(|loads| loads.rounds.len()).max().unwrap_or(0);
    let sum = |round: usize| chosen.iter().filter_map(|loads| loads.rounds.get(round)).copied().sum();
    Loads { rounds: (0..rounds).map(sum).collect() }
}

/// Currency per month; at least the commitment.
fn asked(contract: &Contract, load: BitRate) -> f64 {
    let load = load.max(contract.commit);
    let (mut from, mut sum) = (BitRate::ZERO, 0.0);
    for tier in &contract.tiers {
        let end = tier.up_to.unwrap_or(BitRate(u64::MAX));
        let inside = load.min(end).saturating_sub(from);
        // Bits times millionths of the currency, both far below 2^53 where money is.
        sum += inside.0 as f64 / 1e6 * (tier.price.0 as f64 / 1e6);
        from = end;
    }
    sum
}

fn missing(from: &Side, other: &Side) -> Vec<Moved> {
    let known: &BTreeMap<Move, _> = &other.moves;
    let absent = from.moves.keys().filter(|made| !known.contains_key(made));
    absent.map(|made| Moved { prefix: made.prefix, to: made.to.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::policy::Tier;
    use crate::core::policy::tests::two_exits;
    use crate::types::Price;

    #[test]
    fn contracts_ask_for_the_95th_percentile_and_at_least_for_what_was_committed() {
        let mut policy = two_exits();
        let tiers = vec![
            Tier { up_to: Some(BitRate(10_000_000)), price: Price(2_000_000) },
            Tier { up_to: None, price: Price(3_000_000) },
        ];
        policy.providers[0].contract = Contract { commit: BitRate::ZERO, tiers: tiers.clone() };
        policy.providers[1].contract = Contract { commit: BitRate(5_000_000), tiers };
        // One round of twenty is higher: nobody pays for it.
        let mut busy = Loads { rounds: vec![BitRate(14_000_000); 20] };
        busy.rounds[7] = BitRate(50_000_000);
        let idle = Loads { rounds: vec![BitRate(1_000_000); 20] };
        // 10 at 2 and 4 at 3; 5 at 2.
        assert_eq!(money(&policy, &[busy, idle]), 32.0 + 10.0);
    }
}
