//! Replay under another configuration. Recorded counters show the traffic where the recorded overrides sent it; here it
//! is put where the overrides of the other configuration would have sent it, so that the decision sees its own effect.
//!
//! What that leaves out: drops and how senders answer to them (demand stays as recorded), and how long kernel and peers
//! take to converge (a decision holds from the next reading on).

use super::entry::Entry;
use crate::core::audit::{Event, EventKind};
use crate::core::controller::Controller;
use crate::core::decision::KernelAction;
use crate::core::input::{Input, Sample, SlotCount, UplinkSample};
use crate::core::policy::Policy;
use crate::types::{BitRate, Count, FlowShare, Prefix, SlotId, Timestamp, UplinkId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Loads of one uplink over the rounds, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    /// One rate per round.
    pub rounds: Vec<BitRate>,
}

impl Loads {
    /// The rate that `percent` of the rounds do not exceed.
    pub fn percentile(&self, percent: usize) -> BitRate {
        let mut sorted = self.rounds.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get(last * percent.min(100) / 100).copied().unwrap_or_default()
    }
}

/// A prefix that one of the two sent another way than plain routing, and when first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Move {
    /// Destination.
    pub prefix: Prefix,
    /// Exit.
    pub to: String,
}

/// One side of the comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Per uplink.
    pub loads: Vec<Loads>,
    /// Overrides made, with the time of the first.
    pub moves: BTreeMap<Move, Timestamp>,
    /// Overrides made or moved, repetitions counted.
    pub made: u64,
    /// Rounds times uplinks above their limit.
    pub overloaded: u64,
}

/// A decision under another configuration, and the traffic that would have followed it.
#[derive(Clone, Debug)]
pub struct WhatIf {
    /// Under the recorded configuration, fed with what was recorded.
    then: Controller,
    /// Under the other one, fed with the traffic as it would have been.
    now: Controller,
    world: World,
    recorded: Side,
    other: Side,
    reading: [Option<Vec<UplinkSample>>; 2],
}

/// Traffic put where it would have been.
#[derive(Clone, Debug, Default)]
struct World {
    /// Rows as recorded, and as they would be.
    read: BTreeMap<(SlotId, UplinkId), Count>,
    made: BTreeMap<(SlotId, UplinkId), Count>,
    /// What each uplink has more (wrapping) than recorded.
    shifted: BTreeMap<UplinkId, Count>,
}

impl WhatIf {
    /// From a keyframe, once under its own configuration and once under another.
    pub fn new(then: Controller, now: Controller) -> WhatIf {
        let side = || Side { loads: vec![Loads::default(); then.policy().uplinks.len()], ..Side::default() };
        let (recorded, other) = (side(), side());
        WhatIf { then, now, world: World::default(), recorded, other, reading: [None, None] }
    }

    /// Hands an input to both.
    pub fn step(&mut self, entry: &Entry) {
        let input = match &entry.input {
            Input::Sample(sample) => {
                let made = self.world.sample(sample, &self.then, &self.now);
                self.recorded.read(&mut self.reading[0], sample, &self.then);
                self.other.read(&mut self.reading[1], &made, &self.now);
                Input::Sample(made)
            }
            Input::Released(released) => {
                self.world.release(&released.slots);
                entry.input.clone()
            }
            // What adapters said then, they said of other decisions; their refusals do not apply.
            Input::Installed(_) | Input::Told(_) => Input::Tick,
            other => other.clone(),
        };
        let then = self.then.handle(entry.now, entry.input.clone());
        let now = self.now.handle(entry.now, input);
        self.recorded.note(&then.events);
        self.other.note(&now.events);
    }

    /// What was recorded, and what would have been.
    pub fn sides(&self) -> (&Side, &Side) {
        (&self.recorded, &self.other)
    }

    /// The recorded configuration.
    pub fn recorded_policy(&self) -> &Policy {
        self.then.policy()
    }

    /// The decision under the other configuration.
    pub fn controller(&self) -> &Controller {
        &self.now
    }
}

/// Uplinks of an override in effect, each with its part of the flows in 256ths; empty without one.
fn overridden(controller: &Controller, prefix: Prefix) -> Vec<(UplinkId, u16)> {
    let behind = |gateway, ifindex, weight| Some((controller.uplink_behind(gateway, ifindex)?, weight));
    match controller.decision().kernel.get(&prefix) {
        Some(KernelAction::Via { gateway, ifindex }) => {
            behind(*gateway, *ifindex, FlowShare::ALL.get()).into_iter().collect()
        }
        Some(KernelAction::Split { hops }) => {
            hops.iter().filter_map(|hop| behind(hop.gateway, hop.ifindex, hop.weight)).collect()
        }
        Some(KernelAction::Throw) | None => Vec::new(),
    }
}

impl World {
    fn sample(&mut self, sample: &Sample, then: &Controller, now: &Controller) -> Sample {
        let mut touched = BTreeSet::new();
        for row in &sample.rows {
            let key = (row.slot, row.uplink);
            let start = || then.last_count(row.slot, row.uplink);
            let read = self.read.entry(key).or_insert_with(start);
            let delta = difference(row.count, *read);
            *read = row.count;
            let mut left = delta;
            let targets = self.targets(row, then, now);
            for (at, (target, weight)) in targets.iter().enumerate() {
                let last = at + 1 == targets.len();
                let delta = if last { left } else { part(delta, *weight) };
                left = difference(left, delta);
                let made =
                    self.made.entry((row.slot, *target)).or_insert_with(|| now.last_count(row.slot, *target));
                *made += delta;
                touched.insert((row.slot, *target));
                if *target != row.uplink {
                    *self.shifted.entry(*target).or_default() += delta;
                    let less = self.shifted.entry(row.uplink).or_default();
                    *less = difference(*less, delta);
                }
            }
        }
        let count = |key: &(SlotId, UplinkId)| self.made.get(key).copied().unwrap_or_default();
        let rows = touched.iter().map(|key| SlotCount { slot: key.0, uplink: key.1, count: count(key) });
        let uplinks = sample.uplinks.iter().map(|uplink| self.shift(*uplink));
        Sample { at: sample.at, uplinks: uplinks.collect(), rows: rows.collect(), table: sample.table }
    }

    /// Where the traffic of a row would have left.
    fn targets(&self, row: &SlotCount, then: &Controller, now: &Controller) -> Vec<(UplinkId, u16)> {
        let here = |uplink| vec![(uplink, FlowShare::ALL.get())];
        let Some(prefix) = now.prefix_in(row.slot) else { return here(row.uplink) };
        let (was, is) = (overridden(then, prefix), overridden(now, prefix));
        if was == is {
            here(row.uplink)
        } else if !is.is_empty() {
            is
        } else if was.iter().any(|(uplink, _)| *uplink == row.uplink) {
            here(now.home_uplink(prefix).unwrap_or(row.uplink))
        } else {
            here(row.uplink)
        }
    }

    fn shift(&self, mut uplink: UplinkSample) -> UplinkSample {
        let more = self.shifted.get(&uplink.uplink).copied().unwrap_or_default();
        uplink.before += more;
        uplink.after += more;
        uplink.device.sent += more;
        uplink
    }

    fn release(&mut self, slots: &[SlotId]) {
        for slot in slots {
            self.read.retain(|(known, _), _| known != slot);
            self.made.retain(|(known, _), _| known != slot);
        }
    }
}

/// A part of what was counted, in 256ths.
fn part(of: Count, weight: u16) -> Count {
    let part = |count: u64| count / 256 * u64::from(weight) + count % 256 * u64::from(weight) / 256;
    Count { bytes: part(of.bytes), packets: part(of.packets) }
}

fn difference(a: Count, b: Count) -> Count {
    Count { bytes: a.bytes.wrapping_sub(b.bytes), packets: a.packets.wrapping_sub(b.packets) }
}

impl Side {
    fn read(&mut self, last: &mut Option<Vec<UplinkSample>>, sample: &Sample, controller: &Controller) {
        let before = last.replace(sample.uplinks.clone()).unwrap_or_default();
        for uplink in &sample.uplinks {
            let Some(from) = before.iter().find(|other| other.uplink == uplink.uplink) else { continue };
            let span = uplink.at.since(from.at);
            let rate = BitRate::from_bytes(difference(uplink.after, from.after).bytes, span);
            let limit =
                controller.policy().uplinks.get(uplink.uplink.index()).map(|uplink| uplink.limit_rate());
            self.overloaded += u64::from(limit.is_some_and(|limit| rate > limit));
            if let Some(loads) = self.loads.get_mut(uplink.uplink.index()) {
                loads.rounds.push(rate);
            }
        }
    }

    fn note(&mut self, events: &[Event]) {
        for event in events {
            let (EventKind::OverrideAdded { prefix, to, .. }
            | EventKind::OverrideMoved { prefix, to, .. }
            | EventKind::OverrideSplit { prefix, to, .. }) = &event.kind
            else {
                continue;
            };
            self.made += 1;
            self.moves.entry(Move { prefix: *prefix, to: to.clone() }).or_insert(event.at_ns);
        }
    }
}
