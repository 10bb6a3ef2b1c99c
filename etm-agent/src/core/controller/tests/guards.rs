//! Guards reached one by one: traffic that does not follow, demand that is not believed, announcements that come back.

use super::*;
use crate::core::decision::OverrideReason;
use crate::core::input::Installed;
use crate::core::view::Guard;

/// A second in which overrides are without effect, though the kernel says that it has them.
fn astray(world: &mut World, mbit: &[(&str, u64)]) -> Outcome {
    let (generation, at) = (world.decision.generation, world.now);
    let failed = world.controller.refused.clone().into_iter().collect();
    world.give(Input::Installed(Installed { generation, at, changed: 0, failed }));
    world.second_via(mbit, |_, _| 0)
}

#[test]
fn a_move_whose_traffic_does_not_follow_is_taken_back_after_two_seconds_and_not_tried_again() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    assert!(!world.controller.overrides()[0].confirmed);
    astray(&mut world, &STEP);
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    let outcome = astray(&mut world, &STEP);
    let taken_back = outcome.events.iter().find_map(|event| match &event.kind {
        EventKind::MoveUnconfirmed { prefix, to, back_to, failures, retry_s, .. } => {
            Some((*prefix, to.clone(), back_to.clone(), *failures, *retry_s))
        }
        _ => None,
    });
    let expected = (p("198.18.2.0/24"), "transit-b".to_owned(), "transit-a".to_owned(), 1, 60);
    assert_eq!(taken_back, Some(expected), "{:?}", outcome.events);
    assert!(!world.overridden().contains(&"198.18.2.0/24".to_owned()));
    let why = world.controller.explain(p("198.18.2.0/24")).because;
    assert!(why.iter().any(|line| line.contains("did not follow")), "{why:?}");
    let status = world.controller.status(world.now);
    assert_eq!((status.moves.unconfirmed, status.moves.closed), (1, 1));
    assert!(status.guards.iter().any(|guard| guard.guard == "exit-closed"), "{:?}", status.guards);
}

#[test]
fn a_move_whose_traffic_follows_is_confirmed_by_the_next_sample() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    world.second(&STEP);
    let status = world.controller.status(world.now);
    assert_eq!((status.moves.awaited, status.moves.confirmed), (0, 1));
    assert!(world.controller.overrides()[0].confirmed);
}

#[test]
fn a_prefix_that_falls_silent_after_its_move_is_left_where_it_was_put() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    let silent: Vec<(&str, u64)> =
        STEP.into_iter().filter(|(prefix, _)| *prefix != "198.18.2.0/24").collect();
    for _ in 0..30 {
        world.second(&silent);
    }
    assert_eq!(
        (world.overridden(), world.controller.status(world.now).moves.awaited),
        (vec!["198.18.2.0/24".to_owned()], 1)
    );
}

#[test]
fn when_no_move_is_followed_they_pause_with_a_named_state_and_go_on_later() {
    let mut world = World::ready(two_exits(), &FOUR);
    for _ in 0..8 {
        astray(&mut world, &STEP);
    }
    assert!(
        world.holds().iter().any(|hold| matches!(hold, Hold::MovesUnconfirmed { .. })),
        "{:?} {:?}",
        world.holds(),
        world.controller.events(0)
    );
    assert_eq!(world.controller.state(), State::Frozen);
    let unconfirmed = world.controller.status(world.now).moves.unconfirmed;
    for _ in 0..30 {
        astray(&mut world, &STEP);
    }
    assert_eq!(world.controller.status(world.now).moves.unconfirmed, unconfirmed, "no more are tried");
    for _ in 0..120 {
        world.second(&STEP);
    }
    assert!(world.holds().is_empty() && world.overridden().len() == 1, "{:?}", world.overridden());
}

#[test]
fn a_refusal_by_the_kernel_is_told_with_the_move_that_is_taken_back() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    let failed = vec![(p("198.18.2.0/24"), "network is unreachable".to_owned())];
    let installed = Installed { generation: world.decision.generation, at: world.now, changed: 0, failed };
    world.give(Input::Installed(installed));
    assert!(world.controller.status(world.now).guards.iter().any(|guard| guard.guard == "kernel-refused"));
    world.second_via(&STEP, |_, _| 0);
    let outcome = world.second_via(&STEP, |_, _| 0);
    let text =
        outcome.events.iter().map(|event| event.kind.to_string()).find(|text| text.contains("goes back"));
    assert!(text.as_ref().is_some_and(|text| text.contains("network is unreachable")), "{text:?}");
}

#[test]
fn overrides_that_lose_their_effect_later_freeze_and_stay() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    for _ in 0..4 {
        world.second(&STEP);
    }
    for _ in 0..3 {
        assert_eq!(world.holds(), []);
        astray(&mut world, &STEP);
    }
    assert!(matches!(world.holds()[..], [Hold::OverridesWithoutEffect { .. }]), "{:?}", world.holds());
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
}

#[test]
fn an_uplink_that_is_up_and_missing_from_three_samples_is_named() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&CALM);
    for missing in 1..=3 {
        assert_eq!(world.holds(), [], "{missing}");
        world.now = world.now + Duration::from_secs(1);
        let sample = Sample { at: world.now, ..Sample::default() };
        world.give(Input::Sample(sample));
    }
    assert!(matches!(world.holds()[..], [Hold::UplinkNotCounted { .. }, ..]), "{:?}", world.holds());
}

fn leak(world: &mut World, next_hop: &str) -> Outcome {
    let mut attrs = RouteAttrs::to_next_hop(next_hop.parse().unwrap());
    attrs.communities.push(two_exits().community);
    let change =
        RouteChange::Announce { prefix: p("198.18.2.0/24"), path_id: PathId(9), attrs: Arc::new(attrs) };
    world.give(Input::Routes(RouteBatch { peer: PeerId(0), changes: vec![change] }))
}

#[test]
fn an_announcement_that_comes_back_withdraws_everything_until_an_operator_says_on() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    let outcome = leak(&mut world, "10.0.9.1");
    assert!(outcome.events.iter().any(|event| matches!(event.kind, EventKind::Leaked { .. })));
    assert!(world.overridden().is_empty() && world.decision.announce.is_empty());
    assert!(!world.controller.wants_lease());
    assert_eq!(world.controller.state(), State::Leak);
    world.give(Input::Routes(RouteBatch {
        peer: PeerId(0),
        changes: vec![RouteChange::Withdraw { prefix: p("198.18.2.0/24"), path_id: PathId(9) }],
    }));
    for _ in 0..5 {
        world.second(&STEP);
    }
    assert!(world.planned().is_empty() && world.controller.orders().leak.is_some());
    world.give(Input::Order(Order::On));
    world.second(&STEP);
    assert_eq!(world.overridden(), ["198.18.2.0/24"]);
    leak(&mut world, "10.0.9.1");
    world.give(Input::Order(Order::On));
    assert_eq!(world.controller.state(), State::Leak, "it is still there");
}

/// A provider's announcement, with ETM's community: by us, or only as if it were of ETM.
fn of_a_provider(world: &mut World, prefix: &str, path: &[u32]) -> Outcome {
    let mut attrs = RouteAttrs::to_next_hop("10.0.1.1".parse().unwrap());
    attrs.communities.push(two_exits().community);
    attrs.as_path = AsPath::sequence(path.iter().copied());
    let change = RouteChange::Announce { prefix: p(prefix), path_id: PathId(9), attrs: Arc::new(attrs) };
    world.give(Input::Routes(RouteBatch { peer: PeerId(0), changes: vec![change] }))
}

#[test]
fn an_announcement_that_comes_back_through_another_as_is_a_leak_and_a_community_of_the_providers_choice_is_none()
 {
    let cases: [(&str, &[u32], State); 4] = [
        ("198.18.2.0/24", &[64501, 64500, 64502], State::Leak),
        ("198.18.2.0/24", &[64501, 64502], State::Steering),
        ("198.18.3.0/24", &[64501, 64500, 64502], State::Steering),
        ("198.18.9.0/24", &[64501, 64500, 64502], State::Steering),
    ];
    for (prefix, path, state) in cases {
        let mut world = World::ready(two_exits(), &FOUR);
        world.second(&STEP);
        assert_eq!(world.overridden(), ["198.18.2.0/24"]);
        of_a_provider(&mut world, prefix, path);
        assert_eq!(world.controller.state(), state, "{prefix} {path:?}");
        assert_eq!(world.overridden().is_empty(), state == State::Leak);
    }
}

#[test]
fn a_leak_that_nobody_answered_survives_a_restart() {
    let mut world = World::ready(two_exits(), &FOUR);
    leak(&mut world, "10.0.9.1");
    let standing = world.controller.standing().clone();
    let again = Controller::new(two_exits(), 1_000, &Adopted::default(), false).standing_by(standing);
    assert!(again.is_off() && again.state() == State::Leak && !again.enforcing());
}

#[test]
fn another_agents_announcement_freezes_and_is_no_leak() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    leak(&mut world, "10.0.9.7");
    assert_eq!(world.holds(), [Hold::OwnRouteReturned]);
    assert_eq!((world.controller.state(), world.overridden().len()), (State::Frozen, 1));
}

/// Prices, and room for everything where it is cheaper.
fn cheap() -> Policy {
    Policy { max_moved_share: Share::ONE, ..priced(Mode::Enforce) }
}

fn money_moves(outcome: &Outcome) -> Vec<String> {
    let of_money = |kind: &EventKind| match kind {
        EventKind::OverrideAdded { prefix, .. } | EventKind::OverrideMoved { prefix, .. } => {
            Some(prefix.to_string())
        }
        EventKind::OverrideEnded { prefix, why: EndReason::GivenBack, .. } => Some(prefix.to_string()),
        _ => None,
    };
    outcome.events.iter().filter_map(|event| of_money(&event.kind)).collect()
}

#[test]
fn a_spike_is_named_and_counts_for_relief() {
    let mut world = World::ready(cheap(), &FOUR);
    let calm = [("198.18.0.0/24", 14), ("198.18.1.0/24", 12), ("198.18.2.0/24", 1), ("2001:db8:1::/48", 4)];
    for _ in 0..30 {
        world.second(&calm);
    }
    let mut spiked = calm;
    spiked[2].1 = 12;
    world.second(&spiked);
    let status = world.controller.status(world.now);
    assert_eq!((status.surging, status.surges[0].prefix), (1, p("198.18.2.0/24")));
    assert!(status.guards.iter().any(|guard| guard.guard == "demand-spike"), "{:?}", status.guards);
    let why = world.controller.explain(p("198.18.2.0/24"));
    assert!(why.because.iter().any(|line| line.contains("many times its usual")), "{why:?}");
    // All of it is load: far more than where it is can carry, so it is relieved at once.
    spiked[2].1 = 30;
    let outcome = world.second(&spiked);
    let relief = world
        .controller
        .overrides
        .iter()
        .any(|entry| matches!(entry.reason, OverrideReason::RelieveOverload { .. }));
    assert!(relief || !money_moves(&outcome).is_empty(), "{:?}", world.controller.uplinks());
}

#[test]
fn every_guard_that_is_shown_has_a_known_name() {
    let worlds: [fn() -> World; 2] = [
        || {
            let mut world = World::ready(two_exits(), &FOUR);
            (0..4).for_each(|_| drop(astray(&mut world, &STEP)));
            world
        },
        || World::ready(cheap(), &FOUR),
    ];
    for make in worlds {
        let world = make();
        let status = world.controller.status(world.now);
        assert!(
            status.guards.iter().all(|guard| Guard::ALL.map(Guard::as_str).contains(&guard.guard.as_str()))
        );
        assert!(status.holds.iter().all(|hold| Hold::NAMES.contains(&hold.name())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn with_a_spike_on_one_prefix_no_other_prefix_moves_for_money(
        rates in [1u64..8, 1u64..8, 1u64..8, 1u64..8],
        which in 0usize..4,
        factor in 10u64..14,
        lasts in 1usize..20
    ) {
        let mut world = World::ready(cheap(), &FOUR);
        // In units that leave room for ten times one of them: nothing is ever overloaded.
        let kbit = |index: usize| rates[index] * 40;
        let calm: Vec<(&str, u64)> = FOUR.iter().copied().enumerate().map(|(at, prefix)| (prefix, kbit(at))).collect();
        for _ in 0..70 {
            world.second_kbit(&calm);
        }
        let mut spiked = calm.clone();
        spiked[which].1 *= factor;
        for _ in 0..lasts {
            let outcome = world.second_kbit(&spiked);
            let moved = money_moves(&outcome);
            prop_assert!(moved.iter().all(|prefix| *prefix == FOUR[which]), "{:?}", moved);
            prop_assert_eq!(world.controller.status(world.now).surging, 1);
        }
        for _ in 0..5 {
            let moved = money_moves(&world.second_kbit(&calm));
            prop_assert!(moved.iter().all(|prefix| *prefix == FOUR[which]), "{:?}", moved);
        }
    }
}

#[test]
fn an_uplink_that_nothing_can_relieve_is_a_guard_by_name_until_it_is_below_its_limit() {
    let mut world = World::ready(two_exits(), &FOUR);
    let unrelieved = |world: &World| {
        world.controller.status(world.now).guards.iter().any(|guard| guard.guard == "unrelieved")
    };
    world.second(&CALM);
    assert!(!unrelieved(&world));
    for _ in 0..3 {
        world.second(&FOUR.map(|prefix| (prefix, 60)));
    }
    assert!(unrelieved(&world));
    for _ in 0..30 {
        world.second(&CALM);
    }
    assert!(!unrelieved(&world), "{:?}", world.controller.status(world.now).guards);
}
