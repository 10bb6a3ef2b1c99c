//! What operators order at run time: drains, modes on trial, and what a canary may move.

use super::*;
use crate::core::controls::Standing;
use crate::core::decision::OWN_METRIC;
use crate::core::policy::Canary;
use crate::types::ProviderId;

fn drained(provider: u16, until: Option<Timestamp>) -> Input {
    Input::Order(Order::Drain { provider: ProviderId(provider), until })
}

fn seconds(world: &mut World, count: usize, mbit: &[(&str, u64)]) {
    (0..count).for_each(|_| drop(world.second(mbit)));
}

/// Everything may move at once.
fn free() -> Policy {
    Policy { max_moved_share: Share::ONE, ..two_exits() }
}

const LIGHT: [(&str, u64); 4] =
    [("198.18.0.0/24", 10), ("198.18.1.0/24", 8), ("198.18.2.0/24", 6), ("2001:db8:1::/48", 4)];

#[test]
fn a_drained_provider_is_emptied_of_what_plain_routing_sends_there_and_used_again_afterwards() {
    let mut world = World::ready(free(), &FOUR);
    world.second(&LIGHT);
    assert!(world.overridden().is_empty());
    world.give(drained(0, None));
    world.second(&LIGHT);
    // 28 into the 42.5 of the other, but for the share of a cap that is kept free.
    seconds(&mut world, 2, &LIGHT);
    let uplinks = world.controller.uplinks();
    assert!(uplinks[0].offered_bps < BitRate(5_000_000), "{uplinks:?}");
    let status = world.controller.status(world.now);
    assert_eq!(status.orders.drains[0].provider, "transit-a");
    assert!(status.guards.iter().any(|guard| guard.guard == "drain"), "{:?}", status.guards);
    let why = world.controller.explain(p("198.18.0.0/24")).because;
    assert!(why[0].contains("is drained"), "{why:?}");
    world.give(Input::Order(Order::Undrain { provider: ProviderId(0) }));
    seconds(&mut world, 62, &LIGHT);
    assert!(world.overridden().is_empty(), "given back once the hold time is over");
}

#[test]
fn a_drain_never_overloads_the_others_and_says_what_is_left() {
    let mut world = World::ready(free(), &FOUR);
    world.give(drained(0, None));
    seconds(&mut world, 5, &STEP);
    let uplinks = world.controller.uplinks();
    assert!(uplinks[1].offered_bps <= BitRate(42_500_000), "{uplinks:?}");
    let drain = world.controller.orders().drains.remove(0);
    assert!(drain.left > 0 && drain.left_bps > BitRate::ZERO);
    let stays = FOUR.into_iter().find(|prefix| !world.overridden().contains(&(*prefix).to_owned())).unwrap();
    let why = world.controller.explain(p(stays)).because;
    assert!(why.iter().any(|line| line.contains("its provider is drained")), "{why:?}");
}

#[test]
fn a_drain_keeps_within_the_caps_on_change() {
    let mut policy = free();
    policy.guards.max_moves_per_minute = 2;
    let mut world = World::ready(policy, &FOUR);
    world.give(drained(0, None));
    seconds(&mut world, 30, &LIGHT);
    assert_eq!(world.overridden().len(), 2);
    let status = world.controller.status(world.now);
    assert!(status.guards.iter().any(|guard| guard.guard == "change-rate"), "{:?}", status.guards);
    seconds(&mut world, 40, &LIGHT);
    assert_eq!(world.overridden().len(), 4, "two more in the next minute");
}

#[test]
fn nothing_is_placed_at_a_drained_provider_not_even_to_relieve() {
    let mut world = World::ready(free(), &FOUR);
    world.give(drained(1, None));
    seconds(&mut world, 5, &STEP);
    assert!(world.overridden().is_empty());
    world.give(Input::Order(Order::Undrain { provider: ProviderId(1) }));
    world.second(&STEP);
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    // What ETM put there leaves first of all, however short its hold time has lasted.
    world.give(drained(1, None));
    world.second(&LIGHT);
    assert!(world.overridden().is_empty());
}

#[test]
fn a_drain_ends_at_its_time_and_is_said_to() {
    let mut world = World::ready(free(), &FOUR);
    let until = world.now + Duration::from_secs(10);
    world.give(drained(0, Some(until)));
    seconds(&mut world, 9, &LIGHT);
    assert_eq!(world.overridden().len(), 4);
    let outcome = world.second(&LIGHT);
    let said =
        outcome.events.iter().any(|event| matches!(event.kind, EventKind::Undrained { expired: true, .. }));
    assert!(said && world.controller.orders().drains.is_empty(), "{:?}", outcome.events);
}

#[test]
fn a_drain_of_an_earlier_run_holds_from_the_first_decision_on() {
    let mut world = World::new(free());
    let mut standing = Standing::default();
    standing.drains.insert(ProviderId(0), crate::core::controls::Drain { since: Timestamp(1), until: None });
    let controller = Controller::new(free(), 1_000, &Adopted::default(), false);
    world.controller = controller.standing_by(standing);
    world.learn(&FOUR);
    world.second(&[]);
    world.second(&LIGHT);
    assert_eq!(world.overridden().len(), 4);
}

#[test]
fn in_mode_approve_a_drain_asks_for_each_change() {
    let mut world = World::ready(Policy { mode: Mode::Approve, ..free() }, &FOUR);
    world.give(drained(0, None));
    seconds(&mut world, 3, &LIGHT);
    assert!(world.overridden().is_empty() && world.controller.changes().len() == 4);
    world.give(Input::Order(Order::Approve { id: None }));
    assert_eq!(world.overridden().len(), 4);
}

fn mode(mode: Mode, confirm: Option<u64>) -> Input {
    Input::Order(Order::Mode { mode, confirm: confirm.map(Duration::from_secs) })
}

#[test]
fn a_mode_on_trial_falls_back_by_itself_and_takes_its_overrides_along() {
    let mut world = World::ready(Policy { mode: Mode::Observe, ..two_exits() }, &FOUR);
    world.second(&STEP);
    assert_eq!((world.planned().len(), world.overridden().len()), (1, 0));
    world.give(mode(Mode::Enforce, Some(5)));
    assert!(world.overridden().is_empty(), "what was planned under no cap is decided anew");
    seconds(&mut world, 4, &STEP);
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    assert!(world.controller.status(world.now).guards.iter().any(|guard| guard.guard == "mode-on-trial"));
    assert_eq!(world.controller.standing().mode, None, "a restart now would fall back");
    world.now = world.now + Duration::from_secs(1);
    let outcome = world.give(Input::Tick);
    assert!(outcome.events.iter().any(|event| matches!(event.kind, EventKind::ModeFellBack { .. })));
    assert!(world.overridden().is_empty() && !world.controller.wants_lease());
    assert_eq!((world.controller.mode(), world.controller.state()), (Mode::Observe, State::Observing));
}

#[test]
fn a_confirmed_mode_stays_and_survives() {
    let mut world = World::ready(Policy { mode: Mode::Observe, ..two_exits() }, &FOUR);
    world.give(mode(Mode::Enforce, Some(5)));
    world.give(Input::Order(Order::Confirm));
    seconds(&mut world, 10, &STEP);
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    assert_eq!(world.controller.standing().mode, Some(Mode::Enforce));
    world.give(mode(Mode::Observe, None));
    assert!(world.overridden().is_empty() && world.decision.announce.is_empty());
    let ended =
        world.controller.events(0).into_iter().any(|view| {
            matches!(view.event.kind, EventKind::OverrideEnded { why: EndReason::ModeChanged, .. })
        });
    assert!(ended);
}

#[test]
fn from_approve_to_enforce_what_is_in_effect_stays_and_what_waits_is_decided_again() {
    let mut world = approving();
    world.give(Input::Order(Order::Approve { id: None }));
    let before = world.decision.generation;
    world.give(mode(Mode::Enforce, None));
    assert_eq!((world.overridden().len(), world.decision.generation), (1, before));
    assert!(world.controller.changes().is_empty());
}

#[test]
fn a_canary_of_prefixes_moves_no_other() {
    let canary = Canary { prefixes: vec![p("198.18.1.0/24"), p("2001:db8::/32")], ..Canary::default() };
    let mut world = World::ready(Policy { canary, ..free() }, &FOUR);
    seconds(&mut world, 5, &STEP);
    assert!(
        world
            .overridden()
            .iter()
            .all(|prefix| ["198.18.1.0/24", "2001:db8:1::/48"].contains(&prefix.as_str()))
    );
    assert!(!world.overridden().is_empty());
    world.give(drained(0, None));
    seconds(&mut world, 5, &LIGHT);
    assert_eq!(world.overridden(), ["198.18.1.0/24", "2001:db8:1::/48"]);
    let why = world.controller.explain(p("198.18.0.0/24")).because;
    assert!(why.iter().any(|line| line.contains("policy.canary.prefixes")), "{why:?}");
}

#[test]
fn a_canary_of_flows_reckons_with_its_share_and_announces_nothing() {
    let canary = Canary { share: Share::percent(50), ..Canary::default() };
    let mut world = World::ready(Policy { canary, ..free() }, &FOUR);
    // The flows of an override are halved by the kernel: here none of them is chosen, which proves nothing.
    for _ in 0..6 {
        world.second_via(&STEP, |_, _| 0);
    }
    // 11.8 of 56 must go, and only half of each prefix can: more than the one of 12 that all flows would need.
    assert!(world.overridden().len() >= 2, "{:?}", world.overridden());
    assert!(world.decision.announce.is_empty());
    assert_eq!(world.holds(), []);
    assert!(world.controller.status(world.now).guards.iter().any(|guard| guard.guard == "canary"));
}

#[test]
fn a_canary_of_flows_puts_nothing_into_the_main_table_where_no_mark_chooses_the_flows() {
    let canary = Canary { share: Share::percent(50), ..Canary::default() };
    let policy = Policy { canary, own_metric: Some(OWN_METRIC), ..free() };
    let mut world = World::ready(policy, &FOUR);
    for _ in 0..6 {
        world.second_via(&STEP, |_, _| 0);
    }
    assert!(!world.controller.overrides.is_empty(), "there was something to move");
    assert_eq!((world.decision.kernel.len(), world.decision.announce.len()), (0, 0));
}
