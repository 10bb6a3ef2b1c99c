//! What is written is read back equal, what is replayed is equal, and nothing panics on what was damaged.

use super::block::{self, HEAD, Kind};
use super::entry::{Decoder, Encoder, Entry};
use super::replay::Replay;
use super::trace::Trace;
use super::what_if::WhatIf;
use super::{RecordError, state};
use crate::core::controller::Controller;
use crate::core::decision::{Adopted, KernelAction};
use crate::core::input::{
    DeviceCount, FibChange, FibEvent, Input, Installed, KernelRoute, LinkEvent, Order, Released, RouteBatch,
    RouteChange, Sample, SessionChange, SessionEvent, SlotCount, UplinkSample,
};
use crate::core::policy::Policy;
use crate::core::policy::tests::two_exits;
use crate::types::{
    AsPath, BitRate, Count, Family, Generation, IfIndex, PathId, PeerId, Prefix, RouteAttrs, Share,
    Timestamp, UplinkId,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

fn prefix(number: u8) -> Prefix {
    format!("198.18.{number}.0/24").parse().unwrap()
}

/// A border with two uplinks whose inputs are kept with what followed.
pub(crate) struct Stage {
    pub(crate) controller: Controller,
    pub(crate) now: Timestamp,
    encoder: Encoder,
    pub(crate) bytes: Vec<u8>,
    pub(crate) begun: Controller,
    pub(crate) begun_at: Timestamp,
    offered: [u64; 2],
    rows: BTreeMap<(u8, u16), u64>,
}

impl Stage {
    pub(crate) fn new(policy: Policy) -> Stage {
        let controller = Controller::new(policy, 64, &Adopted::default(), false);
        let now = Timestamp(7 * SECOND);
        let encoder = Encoder::new(now, &controller);
        let begun = controller.clone();
        let (bytes, offered, rows) = (Vec::new(), [0; 2], BTreeMap::new());
        Stage { controller, now, encoder, bytes, begun, begun_at: now, offered, rows }
    }

    /// Begins the recording anew, from the state as it is.
    pub(crate) fn keyframe(&mut self) {
        self.bytes.clear();
        self.begun = self.controller.clone();
        self.begun_at = self.now;
        self.encoder = Encoder::new(self.now, &self.controller);
    }

    pub(crate) fn give(&mut self, input: Input) {
        let copy = input.clone();
        let outcome = self.controller.handle(self.now, input);
        self.encoder.write(self.now, &copy, &outcome, &mut self.bytes).unwrap();
    }

    /// Ten prefixes by both exits, the first preferred.
    pub(crate) fn learn(&mut self) {
        for uplink in 0..2u16 {
            let ifindex = Some(IfIndex(10 + u32::from(uplink)));
            self.give(Input::Link(LinkEvent { uplink: UplinkId(uplink), ifindex, up: true }));
        }
        let change = SessionChange::Up { families: vec![Family::V4] };
        self.give(Input::Session(SessionEvent { peer: PeerId(0), change }));
        for uplink in 0..2u16 {
            let gateway = two_exits().exits[usize::from(uplink)].gateways[0];
            let mut attrs = RouteAttrs::to_next_hop(gateway);
            attrs.local_pref = 200 - u32::from(uplink);
            attrs.as_path = AsPath::sequence([64601 + u32::from(uplink), 65010]);
            let attrs = Arc::new(attrs);
            let announce = |number| RouteChange::Announce {
                prefix: prefix(number),
                path_id: PathId(u32::from(uplink)),
                attrs: Arc::clone(&attrs),
            };
            let changes = (0..10).map(announce).collect();
            self.give(Input::Routes(RouteBatch { peer: PeerId(0), changes }));
        }
        let kernel = |number| {
            FibChange::Set(KernelRoute {
                prefix: prefix(number),
                metric: 32,
                protocol: 12,
                unicast: true,
                next_hops: vec![(Some(two_exits().exits[0].gateways[0]), IfIndex(10))],
            })
        };
        self.give(Input::Fib(FibEvent::Changes((0..10).map(kernel).collect())));
        let change = SessionChange::EndOfRib(Family::V4);
        self.give(Input::Session(SessionEvent { peer: PeerId(0), change }));
        self.give(Input::Fib(FibEvent::Synced));
    }

    /// A second passes, each prefix with this rate; it leaves where the decision says.
    pub(crate) fn second(&mut self, mbit: &[u64]) {
        self.now = self.now + Duration::from_secs(1);
        for (number, rate) in (0u8..).zip(mbit) {
            let decision = self.controller.decision();
            let uplink = match decision.kernel.get(&prefix(number)) {
                Some(KernelAction::Via { ifindex, .. }) => u16::try_from(ifindex.0 - 10).unwrap(),
                _ => 0,
            };
            *self.rows.entry((number, uplink)).or_default() += rate * 125_000;
            self.offered[usize::from(uplink)] += rate * 125_000;
        }
        let count = |bytes: u64| Count { bytes, packets: bytes / 1_000 };
        let uplinks = (0..2u16).map(|uplink| {
            let total = count(self.offered[usize::from(uplink)]);
            let device = DeviceCount { sent: total, ..DeviceCount::default() };
            let (uplink, at) = (UplinkId(uplink), self.now);
            UplinkSample { uplink, at, before: total, after: total, uncounted: Default::default(), device }
        });
        let slots: BTreeMap<Prefix, _> = (0..64)
            .filter_map(|slot| {
                let slot = crate::types::SlotId(slot);
                Some((self.controller.prefix_in(slot)?, slot))
            })
            .collect();
        let rows = self.rows.iter().filter_map(|((number, uplink), bytes)| {
            let slot = *slots.get(&prefix(*number))?;
            Some(SlotCount { slot, uplink: UplinkId(*uplink), count: count(*bytes) })
        });
        let sample =
            Sample { at: self.now, uplinks: uplinks.collect(), rows: rows.collect(), ..Sample::default() };
        self.give(Input::Sample(sample));
    }

    /// Learnt, calm, then a minute of overload, with ticks, answers and an order.
    pub(crate) fn played(policy: Policy) -> Stage {
        let mut stage = Stage::new(policy);
        stage.learn();
        for _ in 0..4 {
            stage.second(&[4; 10]);
        }
        stage.rest();
        stage
    }

    pub(crate) fn rest(&mut self) {
        for round in 0..20 {
            self.second(&[6, 6, 6, 6, 6, 6, 6, 6, 2, round % 3]);
            self.give(Input::Tick);
            let generation = self.controller.decision().generation;
            let (at, failed) = (self.now, Vec::new());
            self.give(Input::Installed(Installed { generation, at, changed: 1, failed }));
        }
        self.give(Input::Order(Order::Off));
        self.give(Input::Order(Order::On));
        for _ in 0..3 {
            self.second(&[3; 10]);
        }
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        read(&self.bytes, self.begun_at).unwrap()
    }
}

fn read(mut bytes: &[u8], begun_at: Timestamp) -> Result<Vec<Entry>, RecordError> {
    let mut decoder = Decoder::new(begun_at);
    let mut entries = Vec::new();
    while let Some(entry) = decoder.read(&mut bytes)? {
        entries.push(entry);
    }
    Ok(entries)
}

fn written(state: &Controller) -> Vec<u8> {
    let mut bytes = Vec::new();
    let last = state::write(state, |part| bytes.extend_from_slice(part)).unwrap();
    bytes.extend_from_slice(&last);
    bytes
}

#[test]
fn a_replay_from_the_start_makes_every_decision_again() {
    let stage = Stage::played(two_exits());
    let mut replay = Replay::new(state::read(&written(&stage.begun), "test").unwrap());
    for entry in stage.entries() {
        assert_eq!(replay.step(&entry), None);
    }
    assert!(replay.counted().decisions > 1, "{:?}", replay.counted());
    assert!(state::is_written_as(replay.controller(), &written(&stage.controller)));
}

#[test]
fn a_recording_may_begin_in_the_middle() {
    let mut stage = Stage::played(two_exits());
    for _ in 0..5 {
        stage.second(&[6; 10]);
    }
    stage.keyframe();
    stage.rest();
    let mut replay = Replay::new(state::read(&written(&stage.begun), "test").unwrap());
    for entry in stage.entries() {
        assert_eq!(replay.step(&entry), None);
    }
}

#[test]
fn the_first_difference_names_round_prefix_and_both_sides() {
    let stage = Stage::played(two_exits());
    let mut other = two_exits();
    other.uplinks[0].limit = Share::percent(70);
    let mut replay = Replay::new(stage.begun.clone().under(other).unwrap());
    let found = stage.entries().iter().find_map(|entry| replay.step(entry)).unwrap();
    assert!(found.round > 0 && found.handed_in == "round", "{found:?}");
    assert_ne!(found.recorded, found.replayed);
}

#[test]
fn under_another_configuration_traffic_follows_its_overrides() {
    let mut recorded = two_exits();
    recorded.mode = crate::core::policy::Mode::Observe;
    let stage = Stage::played(recorded);
    let mut what_if = WhatIf::new(stage.begun.clone(), stage.begun.clone().under(two_exits()).unwrap());
    stage.entries().iter().for_each(|entry| what_if.step(entry));
    let (then, now) = what_if.sides();
    // 50 Mbit/s and more by an uplink whose limit is 45.
    assert!(then.loads[0].percentile(100) >= BitRate(50_000_000));
    assert!(then.overloaded > 15, "{then:?}");
    assert!(now.overloaded <= 3 && now.made > 0, "{now:?}");
    let sum = |loads: &[super::what_if::Loads]| -> Vec<u64> {
        loads[0].rounds.iter().zip(&loads[1].rounds).map(|(a, b)| a.0 + b.0).collect()
    };
    assert_eq!(sum(&then.loads), sum(&now.loads), "no traffic appears or is lost");
    assert!(what_if.controller().ready());
}

#[test]
fn a_configuration_of_another_shape_is_refused_by_name() {
    let stage = Stage::new(two_exits());
    let changed = |change: fn(&mut Policy)| {
        let mut policy = two_exits();
        change(&mut policy);
        stage.begun.clone().under(policy).map(drop).map_err(|error| error.to_string())
    };
    for (part, change) in [
        ("interfaces", (|policy| policy.uplinks[0].name.push('x')) as fn(&mut Policy)),
        ("exits", |policy| policy.exits[0].gateways.clear()),
        ("BGP sessions", |policy| policy.peers.clear()),
        ("communities", |policy| policy.community.0 += 1),
    ] {
        assert!(changed(change).unwrap_err().contains(part), "{part}");
    }
    assert_eq!(changed(|policy| policy.max_overrides = 1), Ok(()));
    assert_eq!(changed(|policy| policy.providers[0].contract.commit = BitRate(1_000_000)), Ok(()));
}

#[test]
fn inputs_are_read_back_equal() {
    let mut stage = Stage::new(two_exits());
    let inputs = [
        Input::Session(SessionEvent { peer: PeerId(0), change: SessionChange::Down { reason: "x".into() } }),
        Input::Routes(RouteBatch {
            peer: PeerId(0),
            changes: vec![RouteChange::Withdraw { prefix: prefix(1), path_id: PathId(9) }],
        }),
        Input::Fib(FibEvent::Reset),
        Input::Fib(FibEvent::Changes(vec![FibChange::Unset { prefix: prefix(2), metric: 32 }])),
        Input::Released(Released::default()),
        Input::Installed(Installed {
            generation: Generation(3),
            at: Timestamp(1),
            changed: 0,
            failed: vec![("2001:db8::/32".parse().unwrap(), "no route".into())],
        }),
        Input::Order(Order::Stop),
        Input::Tick,
    ];
    inputs.iter().for_each(|input| stage.give(input.clone()));
    let read: Vec<Input> = stage.entries().into_iter().map(|entry| entry.input).collect();
    assert_eq!(read, inputs);
}

#[test]
fn an_outcome_without_effect_costs_no_trace() {
    assert!(Trace::default().is_empty());
    let mut stage = Stage::played(two_exits());
    let before = stage.bytes.len();
    stage.give(Input::Tick);
    assert!(stage.bytes.len() - before <= 4, "{} bytes", stage.bytes.len() - before);
}

#[test]
fn what_is_no_recording_is_told_so() {
    let mut other = block::preamble();
    other[8] += 1;
    for (bytes, error) in [
        (&b"#!/bin/sh\n"[..], RecordError::NotARecording),
        (b"", RecordError::NotARecording),
        (b"ETM-R", RecordError::Truncated),
        (&other, RecordError::Version { found: 2, known: 1 }),
    ] {
        assert_eq!(block::check_preamble(bytes), Err(error));
    }
    assert_eq!(block::check_preamble(&block::preamble()), Ok(()));
    assert!(matches!(state::read(b"nonsense", "0.0"), Err(RecordError::OtherBuild { .. })));
}

fn open(block: &[u8]) -> Result<(Kind, Vec<u8>), RecordError> {
    let (head, stored) = block.split_first_chunk::<HEAD>().ok_or(RecordError::Truncated)?;
    let head = block::head(head)?;
    head.open(stored.get(..head.stored).ok_or(RecordError::Truncated)?)
}

proptest! {
    #[test]
    fn a_block_with_one_bit_changed_is_refused(content in proptest::collection::vec(any::<u8>(), 0..400), at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let mut block = block::seal(Kind::Entries, &content).unwrap();
        prop_assert_eq!(open(&block), Ok((Kind::Entries, content)));
        let at = at.index(block.len());
        block[at] ^= 1 << bit;
        prop_assert!(open(&block).is_err());
    }

    #[test]
    fn random_bytes_are_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = open(&bytes);
        let _ = block::check_preamble(&bytes);
        let _ = read(&bytes, Timestamp(0));
        let _ = state::read(&bytes, "test");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Behind the checksums: what decodes in spite of a change is replayed, differs, and never panics.
    #[test]
    fn changed_entries_and_states_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), of_state in any::<bool>()) {
        let stage = Stage::played(two_exits());
        let (mut bytes, mut begun) = (stage.bytes.clone(), written(&stage.begun));
        for (at, value) in changes {
            let target = if of_state { &mut begun } else { &mut bytes };
            let at = at.index(target.len());
            target[at] = value;
        }
        if let Ok(controller) = state::read(&begun, "test") {
            let mut replay = Replay::new(controller);
            let mut decoder = Decoder::new(stage.begun_at);
            let mut rest = bytes.as_slice();
            while let Ok(Some(entry)) = decoder.read(&mut rest) {
                replay.step(&entry);
            }
        }
    }
}
