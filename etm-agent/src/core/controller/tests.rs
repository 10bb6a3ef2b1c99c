//! The whole decision maker, driven by inputs only.

use super::*;
use crate::core::allocator::Urgency;
use crate::core::audit::DropReason;
use crate::core::choices::choice;
use crate::core::conservation::BookState;
use crate::core::decision::KernelAction;
use crate::core::input::{
    Basis, DeviceCount, FibChange, FibEvent, KernelRoute, LinkEvent, Sample, SessionChange, SessionEvent,
    SlotCount,
};
use crate::core::policy::tests::two_exits;
use crate::core::policy::{Contract, Guards, Tier};
use crate::types::{AsPath, Count, ExitId, IfIndex, PeerId, Share};
use proptest::prelude::*;
use std::net::IpAddr;
use std::time::Duration;

mod controls;
mod guards;
mod parts;
mod site;

const SECOND: u64 = 1_000_000_000;
const BIRD: u8 = 12;

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn gateway(uplink: u16, prefix: Prefix) -> IpAddr {
    two_exits().exits[usize::from(uplink)].gateways[usize::from(prefix.family() == Family::V6)]
}

/// A border with two uplinks whose world is advanced by hand.
struct World {
    controller: Controller,
    now: Timestamp,
    offered: [u64; 2],
    dropped: [u64; 2],
    unseen: u64,
    rows: BTreeMap<(Prefix, u16), u64>,
    decision: Arc<Decision>,
}

impl World {
    fn new(policy: Policy) -> World {
        let controller = Controller::new(policy, 1_000, &Adopted::default(), false);
        let decision = controller.decision();
        World {
            controller,
            now: Timestamp(SECOND),
            offered: [0; 2],
            dropped: [0; 2],
            unseen: 0,
            rows: BTreeMap::new(),
            decision,
        }
    }

    /// Links up, session complete, these prefixes through both exits with the first preferred.
    fn ready(policy: Policy, prefixes: &[&str]) -> World {
        let mut world = World::new(policy);
        world.learn(prefixes);
        world.second(&[]);
        world
    }

    fn learn(&mut self, prefixes: &[&str]) {
        let world = self;
        for uplink in 0..2 {
            world.link(uplink, true);
        }
        world.session(SessionChange::Up { families: Family::ALL.to_vec() });
        for prefix in prefixes {
            world.announce(prefix, 0, 200);
            world.announce(prefix, 1, 100);
            world.kernel(prefix, 0, BIRD);
        }
        for family in Family::ALL {
            world.session(SessionChange::EndOfRib(family));
        }
        world.give(Input::Fib(FibEvent::Synced));
    }

    fn give(&mut self, input: Input) -> Outcome {
        let outcome = self.controller.handle(self.now, input);
        if let Some(decision) = &outcome.decision {
            assert!(decision.generation > self.decision.generation);
            self.decision = Arc::clone(decision);
        }
        outcome
    }

    fn link(&mut self, uplink: u16, up: bool) {
        let ifindex = Some(IfIndex(10 + u32::from(uplink)));
        self.give(Input::Link(LinkEvent { uplink: UplinkId(uplink), ifindex, up }));
    }

    fn session(&mut self, change: SessionChange) {
        self.give(Input::Session(SessionEvent { peer: PeerId(0), change }));
    }

    fn announce(&mut self, prefix: &str, uplink: u16, local_pref: u32) {
        let mut attrs = RouteAttrs::to_next_hop(gateway(uplink, p(prefix)));
        attrs.local_pref = local_pref;
        attrs.as_path = AsPath::sequence([64601 + u32::from(uplink), 65010]);
        let change = RouteChange::Announce {
            prefix: p(prefix),
            path_id: PathId(u32::from(uplink)),
            attrs: Arc::new(attrs),
        };
        self.give(Input::Routes(RouteBatch { peer: PeerId(0), changes: vec![change] }));
    }

    fn withdraw(&mut self, prefix: &str, uplink: u16) {
        let change = RouteChange::Withdraw { prefix: p(prefix), path_id: PathId(u32::from(uplink)) };
        self.give(Input::Routes(RouteBatch { peer: PeerId(0), changes: vec![change] }));
    }

    fn kernel(&mut self, prefix: &str, uplink: u16, protocol: u8) {
        let route = KernelRoute {
            prefix: p(prefix),
            metric: 32,
            protocol,
            unicast: true,
            next_hops: vec![(Some(gateway(uplink, p(prefix))), IfIndex(10 + u32::from(uplink)))],
        };
        self.give(Input::Fib(FibEvent::Changes(vec![FibChange::Set(route)])));
    }

    /// One second passes with these rates in Mbit/s; each prefix leaves where the decision, or the kernel, says.
    fn second(&mut self, mbit: &[(&str, u64)]) -> Outcome {
        let kbit: Vec<(&str, u64)> = mbit.iter().map(|(prefix, rate)| (*prefix, rate * 1_000)).collect();
        self.second_kbit(&kbit)
    }

    /// The same in kbit/s.
    fn second_kbit(&mut self, kbit: &[(&str, u64)]) -> Outcome {
        self.second_kbit_by(kbit, World::ways)
    }

    /// Where the decision, or the kernel, sends a prefix: uplinks, each with its part of the flows.
    fn ways(&self, prefix: Prefix) -> Vec<(u16, u16)> {
        let uplink = |ifindex: IfIndex| u16::try_from(ifindex.0 - 10).unwrap();
        match self.decision.kernel.get(&prefix) {
            Some(KernelAction::Via { ifindex, .. }) => vec![(uplink(*ifindex), 256)],
            Some(KernelAction::Split { hops }) => {
                hops.iter().map(|hop| (uplink(hop.ifindex), hop.weight)).collect()
            }
            Some(KernelAction::Throw) | None => {
                let home =
                    self.controller.fib.home(prefix, &self.controller.policy, &self.controller.topology);
                vec![(home.map_or(0, |exit| exit.0), 256)]
            }
        }
    }

    fn second_via(&mut self, mbit: &[(&str, u64)], via: impl Fn(&World, Prefix) -> u16) -> Outcome {
        let kbit: Vec<(&str, u64)> = mbit.iter().map(|(prefix, rate)| (*prefix, rate * 1_000)).collect();
        self.second_kbit_via(&kbit, via)
    }

    fn second_kbit_via(&mut self, kbit: &[(&str, u64)], via: impl Fn(&World, Prefix) -> u16) -> Outcome {
        self.second_kbit_by(kbit, |world, prefix| vec![(via(world, prefix), 256)])
    }

    fn second_kbit_by(
        &mut self,
        kbit: &[(&str, u64)],
        ways: impl Fn(&World, Prefix) -> Vec<(u16, u16)>,
    ) -> Outcome {
        self.now = self.now + Duration::from_secs(1);
        for (prefix, rate) in kbit {
            for (uplink, weight) in ways(self, p(prefix)) {
                let bytes = rate * 125 * u64::from(weight) / 256;
                *self.rows.entry((p(prefix), uplink)).or_default() += bytes;
                self.offered[usize::from(uplink)] += bytes;
            }
        }
        let count = |bytes: u64| Count { bytes, packets: bytes / 1_000 };
        let uplinks = (0..2u16).map(|uplink| {
            let (offered, dropped) = (self.offered[usize::from(uplink)], self.dropped[usize::from(uplink)]);
            UplinkSample {
                uplink: UplinkId(uplink),
                at: self.now,
                before: count(offered),
                after: count(offered),
                uncounted: [Count::default(); 4],
                device: DeviceCount {
                    sent: count(offered - dropped * 1_000 + self.unseen * 1_000),
                    dropped,
                    backlog: Count::default(),
                    basis: Basis::Qdisc,
                    excess: Count::default(),
                },
            }
        });
        let rows = self.rows.iter().filter_map(|((prefix, uplink), bytes)| {
            let slot = self.controller.slots.get(*prefix)?;
            Some(SlotCount { slot, uplink: UplinkId(*uplink), count: count(*bytes) })
        });
        let sample = Sample {
            at: self.now,
            uplinks: uplinks.collect(),
            rows: rows.collect(),
            table: TableFill::default(),
        };
        self.give(Input::Sample(sample))
    }

    fn overridden(&self) -> Vec<String> {
        self.decision
            .kernel
            .iter()
            .filter(|(_, action)| matches!(action, KernelAction::Via { .. }))
            .map(|(prefix, _)| prefix.to_string())
            .collect()
    }

    fn planned(&self) -> Vec<String> {
        self.controller.overrides().iter().map(|view| view.prefix.to_string()).collect()
    }

    fn holds(&self) -> Vec<Hold> {
        self.controller.holds.clone()
    }
}

const FOUR: [&str; 4] = ["198.18.0.0/24", "198.18.1.0/24", "198.18.2.0/24", "2001:db8:1::/48"];
const CALM: [(&str, u64); 4] =
    [("198.18.0.0/24", 14), ("198.18.1.0/24", 12), ("198.18.2.0/24", 8), ("2001:db8:1::/48", 4)];
const STEP: [(&str, u64); 4] =
    [("198.18.0.0/24", 20), ("198.18.1.0/24", 17), ("198.18.2.0/24", 13), ("2001:db8:1::/48", 6)];

#[test]
fn overload_moves_the_least_traffic_that_relieves_it() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&CALM);
    assert!(world.overridden().is_empty());
    let outcome = world.second(&STEP);
    // 56 offered, relieved to 43.75: 13 alone covers the 12.25 that must go with less than 6 + 13 or 17.
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    let announced = &world.decision.announce[&p("198.18.2.0/24")];
    assert_eq!((announced.exit, announced.attrs.local_pref), (ExitId(1), 100));
    let kinds: Vec<_> = outcome.events.iter().map(|event| event.kind.to_string()).collect();
    assert!(
        kinds.iter().any(|line| line.contains("up-a is offered 56.0 Mbit/s, above its limit")),
        "{kinds:?}"
    );
    world.second(&STEP);
    let uplinks = world.controller.uplinks();
    assert_eq!((uplinks[0].offered_bps, uplinks[1].offered_bps), (BitRate(43_000_000), BitRate(13_000_000)));
    assert_eq!(uplinks[0].projected_bps, BitRate(56_000_000), "the projection ignores the override");
}

#[test]
fn observe_plans_the_same_and_touches_nothing() {
    let mut world = World::ready(Policy { mode: Mode::Observe, ..two_exits() }, &FOUR);
    world.second(&STEP);
    assert_eq!(world.planned(), ["198.18.2.0/24"]);
    world.second(&STEP);
    assert_eq!(world.planned(), ["198.18.2.0/24"]);
    assert!(world.decision.kernel.is_empty() && world.decision.announce.is_empty());
    assert!(!world.controller.wants_lease());
    assert_eq!(world.controller.state(), State::Observing);
}

#[test]
fn nothing_is_decided_before_everything_is_known() {
    type Step = fn(&mut World);
    let steps: [(&str, Step); 5] = [
        ("awaiting-link", |world| (0..2).for_each(|uplink| world.link(uplink, true))),
        ("session-down", |world| world.session(SessionChange::Up { families: Family::ALL.to_vec() })),
        ("awaiting-end-of-rib", |world| {
            Family::ALL.into_iter().for_each(|family| world.session(SessionChange::EndOfRib(family)));
        }),
        ("awaiting-kernel-table", |world| {
            world.give(Input::Fib(FibEvent::Synced));
        }),
        ("awaiting-samples", |world| {
            world.second(&STEP);
        }),
    ];
    for missing in 0..steps.len() {
        let mut world = World::new(two_exits());
        for (index, (_, step)) in steps.iter().enumerate() {
            if index == 1 && missing != 1 {
                step(&mut world);
                for prefix in FOUR {
                    world.announce(prefix, 0, 200);
                    world.announce(prefix, 1, 100);
                    world.kernel(prefix, 0, BIRD);
                }
            } else if index != missing {
                step(&mut world);
            }
        }
        world.second(&STEP);
        let what = steps[missing].0;
        assert!(world.planned().is_empty(), "decided without {what}");
        let names: Vec<&str> = world.holds().iter().map(Hold::name).collect();
        assert!(names.contains(&what), "{what} is not among {names:?}");
        assert_eq!(world.controller.state(), State::WarmUp, "{what}");
    }
}

#[test]
fn a_lost_link_ends_its_overrides_without_a_round() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    world.second(&STEP);
    world.link(1, false);
    assert!(world.overridden().is_empty());
    assert!(world.decision.announce.is_empty());
    let last = world.controller.events(0).into_iter().rev().find_map(|view| match view.event.kind {
        EventKind::OverrideEnded { why, .. } => Some(why),
        _ => None,
    });
    assert_eq!(last, Some(EndReason::ExitLost));
}

#[test]
fn a_withdrawal_a_lost_session_or_a_foreign_route_ends_an_override_at_once() {
    type Blow = fn(&mut World);
    let blows: [(&str, Blow); 5] = [
        ("withdrawal of the candidate", |world| world.withdraw("198.18.2.0/24", 1)),
        ("loss of the session", |world| {
            world.session(SessionChange::Down { reason: "hold timer".to_owned() });
        }),
        ("a static route", |world| world.kernel("198.18.2.0/24", 0, 4)),
        ("plain routing going the same way", |world| world.kernel("198.18.2.0/24", 1, BIRD)),
        ("the kernel's route going away", |world| {
            let gone = FibChange::Unset { prefix: p("198.18.2.0/24"), metric: 32 };
            world.give(Input::Fib(FibEvent::Changes(vec![gone])));
        }),
    ];
    for (title, blow) in blows {
        let mut world = World::ready(two_exits(), &FOUR);
        world.second(&STEP);
        assert_eq!(world.overridden(), ["198.18.2.0/24"]);
        blow(&mut world);
        assert!(world.overridden().is_empty() && world.decision.announce.is_empty(), "after {title}");
    }
}

#[test]
fn a_table_that_is_read_again_does_not_look_empty() {
    let prefixes = ["198.18.0.0/16", "198.18.7.0/24"];
    let mut world = World::ready(two_exits(), &prefixes);
    world.kernel("198.18.9.0/24", 0, 4);
    world.second(&[("198.18.0.0/16", 20), ("198.18.7.0/24", 40)]);
    let before = Arc::clone(&world.decision);
    assert_eq!((world.overridden(), before.kernel.len()), (vec!["198.18.0.0/16".to_owned()], 3));
    world.give(Input::Fib(FibEvent::Reset));
    world.announce("198.18.7.0/24", 1, 101);
    world.kernel("198.18.0.0/16", 0, BIRD);
    assert_eq!(world.decision.kernel, before.kernel, "a reading under way ends nothing, throws included");
    assert!(world.holds().contains(&Hold::AwaitingKernelTable));
    world.kernel("198.18.7.0/24", 0, BIRD);
    world.give(Input::Fib(FibEvent::Synced));
    // The static route was not read again: it is gone, and the override has one throw less.
    assert_eq!((world.overridden(), world.decision.kernel.len()), (vec!["198.18.0.0/16".to_owned()], 2));
}

#[test]
fn more_specifics_of_any_origin_are_thrown_back_and_followed() {
    let mut world = World::ready(two_exits(), &["198.18.0.0/16", "198.18.7.0/24"]);
    world.kernel("198.18.9.0/24", 0, 4);
    world.second(&[("198.18.0.0/16", 50), ("198.18.7.0/24", 1)]);
    // 50 does not fit into the 42.5 of the other uplink: only what fits is moved.
    assert_eq!(world.overridden(), ["198.18.7.0/24"]);
    let mut world = World::ready(two_exits(), &["198.18.0.0/16", "198.18.7.0/24"]);
    world.kernel("198.18.9.0/24", 0, 4);
    world.second(&[("198.18.0.0/16", 30), ("198.18.7.0/24", 20)]);
    assert_eq!(world.overridden(), ["198.18.7.0/24"]);
    let mut world = World::ready(two_exits(), &["198.18.0.0/16", "198.18.7.0/24"]);
    world.kernel("198.18.9.0/24", 0, 4);
    world.second(&[("198.18.0.0/16", 20), ("198.18.7.0/24", 40)]);
    assert_eq!(world.overridden(), ["198.18.0.0/16"]);
    let throws = |world: &World| -> Vec<String> {
        let thrown = world.decision.kernel.iter().filter(|(_, action)| **action == KernelAction::Throw);
        thrown.map(|(prefix, _)| prefix.to_string()).collect()
    };
    assert_eq!(throws(&world), ["198.18.7.0/24", "198.18.9.0/24"]);
    world.kernel("198.18.200.0/24", 1, 4);
    assert_eq!(throws(&world), ["198.18.7.0/24", "198.18.9.0/24", "198.18.200.0/24"]);
}

#[test]
fn a_prefix_with_too_many_more_specifics_is_never_overridden() {
    let mut world = World::ready(
        Policy { max_throws: 1, max_moved_share: Share::ONE, ..two_exits() },
        &["198.18.0.0/16", "198.18.7.0/24"],
    );
    world.kernel("198.18.9.0/24", 0, 4);
    world.second(&[("198.18.0.0/16", 20), ("198.18.7.0/24", 40)]);
    assert_eq!(world.overridden(), ["198.18.7.0/24"], "the next best is taken instead");
    assert!(
        world.controller.explain(p("198.18.0.0/16")).because.iter().any(|line| line.contains("max_throws"))
    );
}

#[test]
fn off_ends_everything_and_stays() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    world.give(Input::Order(Order::Off));
    assert!(world.overridden().is_empty() && !world.controller.wants_lease());
    for _ in 0..5 {
        world.second(&STEP);
    }
    assert!(world.planned().is_empty());
    assert_eq!(world.controller.state(), State::Off);
    world.give(Input::Order(Order::On));
    world.second(&STEP);
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
}

#[test]
fn an_override_is_held_then_given_back_when_the_load_is_gone() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    for _ in 0..58 {
        world.second(&CALM);
        assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    }
    for _ in 0..3 {
        world.second(&CALM);
    }
    assert!(world.overridden().is_empty());
}

#[test]
fn a_round_repeated_changes_nothing() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    let generation = world.decision.generation;
    for _ in 0..200 {
        world.second(&STEP);
    }
    assert_eq!(world.decision.generation, generation);
}

#[test]
fn drops_do_not_freeze_and_missed_packets_do() {
    let mut world = World::ready(two_exits(), &FOUR);
    for _ in 0..25 {
        world.dropped[0] += 500;
        world.second(&CALM);
    }
    assert!(world.holds().is_empty(), "{:?}", world.holds());
    assert_eq!(world.controller.uplinks()[0].book, BookState::Lossy);
    // From now on the devices send packets that the hook does not see.
    for _ in 0..25 {
        world.unseen += 40;
        world.second(&CALM);
    }
    assert!(matches!(world.holds()[..], [Hold::ConservationFailed { .. }, ..]), "{:?}", world.holds());
}

#[test]
fn traffic_that_leaves_elsewhere_than_predicted_freezes_new_overrides() {
    let mut world = World::ready(two_exits(), &FOUR);
    for _ in 0..2 {
        world.second_via(&CALM, |_, _| 0);
    }
    for _ in 0..4 {
        world.second_via(&CALM, |_, prefix| u16::from(prefix == p("198.18.1.0/24")));
    }
    assert!(matches!(world.holds()[..], [Hold::ProjectionMismatch { .. }]), "{:?}", world.holds());
    world.second_via(&STEP, |_, prefix| u16::from(prefix == p("198.18.1.0/24")));
    assert!(world.planned().is_empty());
}

#[test]
fn old_counters_are_not_read_as_silence() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    world.now = world.now + Duration::from_secs(7);
    world.link(1, true);
    world.announce("198.18.77.0/24", 0, 100);
    assert!(matches!(world.holds()[..], [Hold::StaleSample { .. }]));
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
}

#[test]
fn an_own_announcement_that_comes_back_freezes() {
    let mut world = World::ready(two_exits(), &FOUR);
    let mut attrs = RouteAttrs::to_next_hop("10.0.9.1".parse().unwrap());
    attrs.communities.push(two_exits().community);
    let change =
        RouteChange::Announce { prefix: p("198.18.0.0/24"), path_id: PathId(9), attrs: Arc::new(attrs) };
    world.give(Input::Routes(RouteBatch { peer: PeerId(0), changes: vec![change] }));
    world.second(&STEP);
    assert!(world.holds().contains(&Hold::OwnRouteReturned));
    assert!(world.planned().is_empty());
}

#[test]
fn excluded_prefixes_stay_where_they_are() {
    let policy = Policy { exclude: vec![p("198.18.2.0/23")], ..two_exits() };
    let mut world = World::ready(policy, &FOUR);
    world.second(&STEP);
    assert_eq!(world.overridden(), ["198.18.1.0/24"]);
}

#[test]
fn overrides_of_an_earlier_run_are_kept_if_they_may_stand_and_decided_about_at_once() {
    let via = |uplink: u16| KernelAction::Via {
        gateway: gateway(uplink, p("198.18.1.0/24")),
        ifindex: IfIndex(10 + u32::from(uplink)),
    };
    let routes = BTreeMap::from([
        (p("198.18.1.0/24"), via(1)),
        (p("203.0.113.0/24"), via(1)),
        (p("198.18.1.128/25"), KernelAction::Throw),
    ]);
    let adopted = Adopted { routes, ..Adopted::default() };
    let mut world = World::new(two_exits());
    world.controller = Controller::new(two_exits(), 1_000, &adopted, false);
    assert!(!world.controller.wants_lease(), "the earlier run's lease is all it has");
    world.learn(&FOUR);
    world.second(&[]);
    assert_eq!(world.decision.generation, Generation(0), "nothing is decided on one sample");
    // Going by 198.18.1.0/24 alone the 18 that are away relieve it as well as any other choice.
    world.second_via(&STEP, |_, prefix| u16::from(prefix == p("198.18.1.0/24")));
    assert_eq!(world.overridden(), ["198.18.1.0/24"]);
    assert!(world.controller.wants_lease());
}

#[test]
fn what_was_adopted_counts_as_moved_now_so_that_restarts_allow_no_further_moves() {
    let policy = || Policy {
        guards: Guards { max_moves_per_minute: 1, ..Guards::default() },
        max_moved_share: Share::ONE,
        max_moved_per_minute: Share::ONE,
        ..two_exits()
    };
    let next_hop = (gateway(1, p("2001:db8:1::/48")), IfIndex(11));
    let via = KernelAction::Via { gateway: next_hop.0, ifindex: next_hop.1 };
    let adopted = Adopted { routes: BTreeMap::from([(p("2001:db8:1::/48"), via)]), ..Adopted::default() };
    let mut world = World::new(policy());
    world.controller = Controller::new(policy(), 1_000, &adopted, false);
    world.learn(&FOUR);
    world.second(&[]);
    let step =
        |world: &mut World| world.second_via(&STEP, |_, prefix| u16::from(prefix == p("2001:db8:1::/48")));
    for second in 0..58 {
        step(&mut world);
        assert_eq!(world.overridden(), ["2001:db8:1::/48"], "after {second} s");
    }
    let second = (0..5).any(|_| {
        step(&mut world);
        world.overridden() != ["2001:db8:1::/48"]
    });
    assert!(second, "the minute is over, and up-a still has 50 where 42.5 may be");
}

#[test]
fn nothing_left_of_an_earlier_run_still_makes_a_first_decision() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&CALM);
    assert_eq!((world.decision.generation, world.decision.kernel.len()), (Generation(1), 0));
}

#[test]
fn stopping_ends_everything_without_the_switch() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    world.give(Input::Order(Order::Stop));
    assert!(world.overridden().is_empty() && !world.controller.wants_lease() && !world.controller.is_off());
    world.second(&STEP);
    assert!(world.planned().is_empty());
}

#[test]
fn prefixes_stay_counted_while_the_sessions_of_a_stopping_agent_close() {
    let mut world = World::ready(two_exits(), &["198.18.0.0/24"]);
    world.give(Input::Order(Order::Stop));
    let down = SessionChange::Down { reason: "stopped by ETM".to_owned() };
    let outcome = world.give(Input::Session(SessionEvent { peer: PeerId(0), change: down }));
    assert_eq!(outcome.table, []);
    assert!(world.controller.slots.get(p("198.18.0.0/24")).is_some());
}

#[test]
fn explanations_name_the_reason_for_moved_and_unmoved_prefixes() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    let moved = world.controller.explain(p("198.18.2.9/32"));
    assert_eq!(moved.verdict, "198.18.2.0/24 goes through transit-b instead of transit-a");
    assert!(moved.because[0].contains("up-a would carry 56.0 Mbit/s"), "{:?}", moved.because);
    let stays = world.controller.explain(p("198.18.0.0/24"));
    assert!(stays.because.iter().any(|line| line.contains("other prefixes were moved off it")), "{stays:?}");
    assert_eq!(stays.candidates.len(), 2);
    assert!(stays.candidates[1].note.contains("after transit-a by LOCAL_PREF"), "{stays:?}");
    assert_eq!(world.controller.explain(p("192.0.2.0/24")).prefix, None);
}

#[test]
fn a_full_table_is_a_named_state() {
    let mut controller = Controller::new(two_exits(), 1, &Adopted::default(), false);
    let announce = |text: &str| RouteChange::Announce {
        prefix: p(text),
        path_id: PathId(0),
        attrs: Arc::new(RouteAttrs::to_next_hop(gateway(0, p(text)))),
    };
    let changes = vec![announce("198.18.0.0/24"), announce("198.18.1.0/24")];
    controller.handle(Timestamp(1), Input::Routes(RouteBatch { peer: PeerId(0), changes }));
    assert!(controller.holds.contains(&Hold::TableFull { refused: 1 }));
}

fn approving() -> World {
    let mut world = World::ready(Policy { mode: Mode::Approve, ..two_exits() }, &FOUR);
    world.second(&STEP);
    world
}

#[test]
fn a_change_waits_for_a_person_and_is_made_when_approved() {
    let mut world = approving();
    assert!(world.overridden().is_empty() && world.planned().is_empty());
    assert_eq!(world.controller.state(), State::Approving);
    let changes = world.controller.changes();
    assert_eq!((changes.len(), changes[0].prefix, changes[0].id), (1, p("198.18.2.0/24"), 1));
    // The queue does not grow while nothing else is needed.
    for _ in 0..20 {
        world.second(&STEP);
    }
    assert_eq!(world.controller.changes(), changes);
    let outcome = world.give(Input::Order(Order::Approve { id: Some(1) }));
    assert!(outcome.judged[0].done, "{:?}", outcome.judged);
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    assert!(world.controller.changes().is_empty() && world.controller.wants_lease());
    let again = world.give(Input::Order(Order::Approve { id: Some(1) }));
    assert!(
        !again.judged[0].done && again.judged[0].why.as_ref().unwrap().contains("no change with number 1")
    );
}

#[test]
fn an_approved_change_that_is_not_good_any_more_is_refused_with_the_reason() {
    type Blow = fn(&mut World);
    let blows: [(&str, Blow, &str); 3] = [
        (
            "it grows",
            |world| drop(world.second_via(&[("198.18.2.0/24", 44)], |_, _| 0)),
            "no change with number 1",
        ),
        (
            "the session is lost and comes back",
            |world| {
                world.session(SessionChange::Down { reason: "test".to_owned() });
            },
            "no change with number 1",
        ),
        (
            "counters are old",
            |world| world.now = world.now + Duration::from_secs(30),
            "decisions stand still",
        ),
    ];
    for (title, blow, why) in blows {
        let mut world = approving();
        blow(&mut world);
        world.give(Input::Tick);
        let outcome = world.give(Input::Order(Order::Approve { id: Some(1) }));
        let said = outcome.judged[0].why.clone().unwrap_or_default();
        assert!(!outcome.judged[0].done && said.contains(why), "{title}: {said}");
        assert!(world.overridden().is_empty(), "{title}");
    }
}

#[test]
fn a_rejected_change_leads_to_another_plan_and_an_old_one_expires() {
    let mut world = approving();
    world.give(Input::Order(Order::Reject { id: 1 }));
    world.second(&STEP);
    let changes = world.controller.changes();
    assert!(
        !changes.is_empty() && changes.iter().all(|change| change.prefix != p("198.18.2.0/24")),
        "{changes:?}"
    );
    for _ in 0..900 {
        world.second(&STEP);
    }
    let dropped =
        world.controller.events(0).into_iter().filter(|view| {
            matches!(view.event.kind, EventKind::ChangeDropped { why: DropReason::Expired, .. })
        });
    assert!(dropped.count() > 0);
    world.give(Input::Order(Order::Off));
    assert!(world.controller.changes().is_empty());
}

#[test]
fn all_that_waits_is_approved_as_far_as_it_is_good_together() {
    let mut world = approving();
    let outcome = world.give(Input::Order(Order::Approve { id: None }));
    assert!(outcome.judged.iter().all(|judged| judged.done) && !outcome.judged.is_empty());
    for _ in 0..62 {
        world.second(&CALM);
    }
    // Giving back waits for a person as well.
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    assert_eq!(world.controller.changes()[0].to, "transit-a");
    world.give(Input::Order(Order::Approve { id: None }));
    assert!(world.overridden().is_empty());
}

fn priced(mode: Mode) -> Policy {
    let mut policy = Policy { mode, ..two_exits() };
    for (uplink, price) in policy.uplinks.iter_mut().zip(["1", "0.5"]) {
        let tiers = vec![Tier { up_to: None, price: price.parse().unwrap() }];
        uplink.contract = Contract { tiers, ..Contract::default() };
    }
    policy
}

#[test]
fn what_is_cheaper_elsewhere_moves_within_caps_and_stays_there() {
    let mut world = World::ready(priced(Mode::Enforce), &FOUR);
    world.second(&CALM);
    // Half of 38 at most, less 5 %: 14 and 4.
    assert_eq!(world.overridden(), ["198.18.0.0/24", "2001:db8:1::/48"]);
    let generation = world.decision.generation;
    for _ in 0..200 {
        world.second(&CALM);
    }
    assert_eq!(world.decision.generation, generation);
    let view = world.controller.explain(p("198.18.0.0/24"));
    assert!(view.because[0].contains("saves 7 a month"), "{:?}", view.because);
    assert!(view.candidates.iter().all(|candidate| candidate.price.is_some()), "{view:?}");
    assert!(view.effect.unwrap().contains("without it"));
}

#[test]
fn money_is_planned_and_not_moved_in_observe() {
    let mut world = World::ready(priced(Mode::Observe), &FOUR);
    world.second(&CALM);
    assert_eq!(world.planned(), ["198.18.0.0/24", "2001:db8:1::/48"]);
    assert!(world.decision.kernel.is_empty());
}

#[test]
fn overrides_that_outgrow_a_cap_are_ended() {
    let policy = Policy { max_moved_share: Share::percent(30), ..two_exits() };
    let mut world = World::ready(policy, &FOUR);
    world.second(&STEP);
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    let grown = [("198.18.0.0/24", 10), ("198.18.1.0/24", 8), ("198.18.2.0/24", 12), ("2001:db8:1::/48", 6)];
    world.second(&grown);
    assert!(world.overridden().is_empty());
    let why = world.controller.events(0).into_iter().rev().find_map(|view| match view.event.kind {
        EventKind::OverrideEnded { why, .. } => Some(why),
        _ => None,
    });
    assert_eq!(why, Some(EndReason::OverCap));
}

#[test]
fn the_plan_can_be_looked_at_and_says_what_it_proves() {
    let mut world = World::ready(Policy { mode: Mode::Observe, max_overrides: 0, ..two_exits() }, &FOUR);
    world.second(&STEP);
    let view = world.controller.plan(world.now);
    assert_eq!((view.urgency, view.moves.len(), view.vetoes.len()), (Urgency::Relief, 0, 0));
    assert!((view.overload_stay_bps - 12_250_000.0).abs() < 1.0, "{}", view.overload_stay_bps);
    let mut world = World::ready(priced(Mode::Observe), &FOUR);
    world.second(&[]);
    world.controller.projection.items.clear();
    let empty = world.controller.plan(world.now);
    assert_eq!(empty.moved_prefixes, 0);
}

#[test]
fn the_loss_of_an_exit_is_looked_at_beforehand() {
    let mut world = World::ready(Policy { mode: Mode::Observe, ..two_exits() }, &FOUR);
    world.second(&STEP);
    let losses = world.controller.losses(world.now).losses;
    assert_eq!(losses.len(), 2);
    for loss in &losses {
        // 56 in all, 45 on the one that is left.
        assert!(!loss.fits && (loss.overload_bps - 11e6).abs() < 1.0, "{loss:?}");
        assert!((loss.overload_bps - loss.overload_bound_bps).abs() < 1.0);
    }
    assert!(
        world.controller.without(world.now, "up-a").is_some_and(|loss| loss.overflow[0].name == "transit-b")
    );
    assert!(world.controller.without(world.now, "nowhere").is_none());
    world.second(&[("198.18.0.0/24", 10)]);
    assert!(world.controller.losses(world.now).losses.iter().all(|loss| loss.fits));
}

#[test]
fn an_exit_says_what_drives_its_price() {
    let mut world = World::ready(priced(Mode::Observe), &FOUR);
    world.second(&CALM);
    let exit = world.controller.explain_exit(world.now, "transit-b").unwrap();
    assert_eq!((exit.moved_here, exit.moved_away, exit.uplink.as_str()), (2, 0, "up-b"));
    assert!(exit.because[0].contains("up-b") || exit.because[0].contains("transit-b"), "{:?}", exit.because);
    assert!(exit.price_per_mbps >= 0.5 - 1e-6, "{}", exit.price_per_mbps);
    assert!(world.controller.explain_exit(world.now, "nowhere").is_none());
}

#[test]
fn a_configuration_that_is_no_tree_stands_still_with_a_name() {
    let mut policy = priced(Mode::Enforce);
    policy.prices.overload = Some("0.1".parse().unwrap());
    let mut world = World::ready(policy, &FOUR);
    world.second(&STEP);
    assert!(matches!(world.holds()[..], [Hold::PlanVetoed { .. }]), "{:?}", world.holds());
    assert_eq!(world.controller.state(), State::Frozen);
}

#[test]
fn what_is_remembered_of_choices_is_what_would_be_found_anew() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    type Blow = fn(&mut World);
    let blows: [Blow; 5] = [
        |world| world.withdraw("198.18.0.0/24", 1),
        |world| world.announce("198.18.0.0/24", 1, 300),
        |world| world.kernel("198.18.0.0/24", 1, BIRD),
        |world| world.link(1, false),
        |world| world.link(1, true),
    ];
    for blow in blows {
        blow(&mut world);
        world.second(&STEP);
        for prefix in FOUR {
            let slot = world.controller.slots.get(p(prefix)).unwrap();
            let kept = world.controller.choices.get(slot).unwrap();
            assert_eq!(*kept, choice(p(prefix), world.controller.grounds()));
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Link(u16, bool),
    Announce(usize, u16),
    Withdraw(usize, u16),
    Kernel(usize, u16, bool),
    Session(bool),
    Off(bool),
    Approve(u64),
    Second([u64; 4]),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (0u16..2, any::<bool>()).prop_map(|(uplink, up)| Act::Link(uplink, up)),
        (0usize..4, 0u16..2).prop_map(|(prefix, uplink)| Act::Announce(prefix, uplink)),
        (0usize..4, 0u16..2).prop_map(|(prefix, uplink)| Act::Withdraw(prefix, uplink)),
        (0usize..4, 0u16..2, any::<bool>())
            .prop_map(|(prefix, uplink, bird)| Act::Kernel(prefix, uplink, bird)),
        any::<bool>().prop_map(Act::Session),
        any::<bool>().prop_map(Act::Off),
        (0u64..20).prop_map(Act::Approve),
        [0u64..30, 0u64..30, 0u64..30, 0u64..30].prop_map(Act::Second),
        [0u64..30, 0u64..30, 0u64..30, 0u64..30].prop_map(Act::Second),
    ];
    prop::collection::vec(act, 1..60)
}

/// Three kinds of border: without prices, with them, and one where a person approves.
fn border(kind: u8) -> Policy {
    let policy = match kind {
        0 => two_exits(),
        1 => priced(Mode::Enforce),
        _ => priced(Mode::Approve),
    };
    Policy { hold: Duration::from_secs(3), ..policy }
}

fn play(kind: u8, acts: &[Act], mut check: impl FnMut(&World)) -> Vec<Arc<Decision>> {
    let mut world = World::ready(border(kind), &FOUR);
    let mut decisions = Vec::new();
    for act in acts {
        match act {
            Act::Link(uplink, up) => world.link(*uplink, *up),
            Act::Announce(prefix, uplink) => world.announce(FOUR[*prefix], *uplink, 100 + u32::from(*uplink)),
            Act::Withdraw(prefix, uplink) => world.withdraw(FOUR[*prefix], *uplink),
            Act::Kernel(prefix, uplink, bird) => {
                world.kernel(FOUR[*prefix], *uplink, if *bird { BIRD } else { 4 });
            }
            Act::Session(true) => {
                world.session(SessionChange::Up { families: Family::ALL.to_vec() });
                Family::ALL.into_iter().for_each(|family| world.session(SessionChange::EndOfRib(family)));
            }
            Act::Session(false) => world.session(SessionChange::Down { reason: "test".to_owned() }),
            Act::Approve(0) => drop(world.give(Input::Order(Order::Approve { id: None }))),
            Act::Approve(id) => drop(world.give(Input::Order(Order::Approve { id: Some(*id) }))),
            Act::Off(true) => drop(world.give(Input::Order(Order::Off))),
            Act::Off(false) => drop(world.give(Input::Order(Order::On))),
            Act::Second(mbit) => {
                let rates: Vec<(&str, u64)> = FOUR.iter().copied().zip(mbit.iter().copied()).collect();
                world.second(&rates);
            }
        }
        check(&world);
        decisions.push(Arc::clone(&world.decision));
    }
    decisions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_happens_every_override_has_a_live_candidate_and_the_daemons_route_under_it(kind in 0u8..3, acts in acts()) {
        play(kind, &acts, |world| {
            let controller = &world.controller;
            for (prefix, action) in &world.decision.kernel {
                let KernelAction::Via { ifindex, .. } = action else { continue };
                let uplink = UplinkId(u16::try_from(ifindex.0 - 10).unwrap());
                assert!(controller.topology.link(uplink).up, "{prefix} through a dead link");
                let candidates = controller.rib.candidates(*prefix, &controller.topology);
                assert!(candidates.iter().any(|candidate| candidate.exit.0 == uplink.0), "{prefix} without a candidate");
                let home = controller.fib.home(*prefix, &controller.policy, &controller.topology);
                assert!(home.is_ok_and(|home| home.0 != uplink.0), "{prefix}: {home:?}");
            }
            assert!(!controller.off || world.decision.kernel.is_empty());
            assert_eq!(
                world.decision.announce.len(),
                world.decision.kernel.values().filter(|action| matches!(action, KernelAction::Via { .. })).count()
            );
        });
    }

    #[test]
    fn equal_inputs_give_equal_decisions(kind in 0u8..3, acts in acts()) {
        prop_assert_eq!(play(kind, &acts, |_| ()), play(kind, &acts, |_| ()));
    }

    #[test]
    fn nothing_new_is_decided_while_something_is_stale_or_missing(kind in 0u8..3, acts in acts()) {
        let mut before: Option<(bool, Vec<String>)> = None;
        play(kind, &acts, |world| {
            let still = !world.controller.may_decide();
            let now = world.planned();
            if let Some((true, planned)) = &before {
                assert!(!still || now.iter().all(|prefix| planned.contains(prefix)), "{planned:?} {now:?}");
            }
            before = Some((still, now));
        });
    }
}

mod borders;
