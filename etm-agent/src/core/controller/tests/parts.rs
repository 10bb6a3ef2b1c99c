//! Prefixes that fit whole nowhere: a part of their flows goes elsewhere, and no more than is needed.

use super::*;
use crate::core::decision::WeightedHop;
use crate::types::FlowShare;

/// Fits whole on no uplink of 45 Mbit/s.
const GIANT: &str = "198.18.0.0/24";
const SMALL: &str = "198.18.1.0/24";
const BOTH: [&str; 2] = [GIANT, SMALL];

fn splitting() -> Policy {
    Policy { split: true, ..two_exits() }
}

/// The part of the giant that the decision sends to the second exit, in 256ths.
fn part(world: &World) -> Option<u16> {
    match world.decision.kernel.get(&p(GIANT))? {
        KernelAction::Split { hops } => {
            hops.iter().find(|hop| hop.ifindex == IfIndex(11)).map(|hop| hop.weight)
        }
        KernelAction::Via { .. } | KernelAction::Throw => None,
    }
}

fn offered(world: &World) -> [u64; 2] {
    let uplinks = world.controller.uplinks();
    [0, 1].map(|at| uplinks[at].offered_bps.0 / 1_000)
}

fn log(world: &World) -> String {
    let lines: Vec<String> = world.controller.events(0).into_iter().map(|event| event.text).collect();
    lines.join("\n")
}

/// A world in which 70 Mbit/s of the giant are divided, for some seconds.
fn divided(policy: Policy) -> World {
    let mut world = World::ready(policy, &BOTH);
    for _ in 0..5 {
        world.second(&[(GIANT, 70)]);
    }
    world
}

#[test]
fn without_the_key_a_giant_stays_where_it_is() {
    let world = divided(two_exits());
    assert!(world.decision.kernel.is_empty() && world.controller.overrides.is_empty());
    assert!(log(&world).contains("up-a stays 25.0 Mbit/s above its limit"), "{}", log(&world));
}

#[test]
fn the_smallest_part_that_relieves_goes_elsewhere_and_stays_as_it_is() {
    let mut world = divided(splitting());
    // 70 relieved to 43.75: 26.25 of 70 are 96 of 256.
    assert_eq!(part(&world), Some(96));
    let gateways = [gateway(0, p(GIANT)), gateway(1, p(GIANT))];
    let hop = |at: usize, weight| WeightedHop {
        ifindex: IfIndex(10 + u32::try_from(at).unwrap()),
        gateway: gateways[at],
        weight,
    };
    assert_eq!(world.decision.kernel[&p(GIANT)], KernelAction::split(hop(0, 160), hop(1, 96)));
    assert!(world.decision.announce.is_empty(), "no peer can be told of a part");
    assert_eq!(offered(&world), [43_750, 26_250]);
    let uplinks = world.controller.uplinks();
    assert_eq!(uplinks[0].projected_bps, BitRate(70_000_000), "the projection ignores the override");
    assert_eq!(world.controller.overrides.moved(), BitRate(26_250_000));
    let status = world.controller.status(world.now);
    assert_eq!((status.overrides, status.overrides_of_parts, status.moves.confirmed), (1, 1, 1));
    // A load that wavers changes nothing.
    let generation = world.decision.generation;
    for rate in [71, 69, 70, 72, 68] {
        world.second(&[(GIANT, rate)]);
    }
    assert_eq!((world.decision.generation, part(&world)), (generation, Some(96)), "{}", log(&world));
    assert!(world.holds().is_empty(), "{:?}", world.holds());
}

#[test]
fn it_grows_with_need_and_is_given_back_when_home_has_room() {
    let mut world = divided(splitting());
    world.second(&[(GIANT, 80)]);
    world.second(&[(GIANT, 80)]);
    // 80 relieved to 43.75: 36.25 of 80 are 116 of 256.
    assert_eq!((part(&world), offered(&world)), (Some(116), [43_750, 36_250]));
    world.second(&[(GIANT, 50)]);
    assert_eq!(part(&world), Some(116), "held");
    for _ in 0..70 {
        world.second(&[(GIANT, 50)]);
    }
    // 50 at home up to its fill mark, 42.5: 7.5 of 50 are 39 of 256, as counted.
    assert!(part(&world).is_some_and(|part| (38..=40).contains(&part)), "{:?}", part(&world));
    for _ in 0..70 {
        world.second(&[(GIANT, 30)]);
    }
    assert!(world.decision.kernel.is_empty() && world.controller.overrides.is_empty());
    assert!(log(&world).contains("198.18.0.0/24 is left to plain routing"), "{}", log(&world));
}

#[test]
fn a_whole_move_that_becomes_possible_replaces_it() {
    let mut world = World::ready(Policy { max_moved_share: Share::ONE, ..splitting() }, &BOTH);
    // Home is full with what cannot be moved.
    world.kernel(SMALL, 0, 4);
    for _ in 0..3 {
        world.second_kbit(&[(GIANT, 60_000), (SMALL, 20_000)]);
    }
    assert!(part(&world).is_some(), "{}", log(&world));
    for _ in 0..70 {
        world.second_kbit(&[(GIANT, 36_000), (SMALL, 20_000)]);
    }
    assert_eq!(world.overridden(), [GIANT], "{}", log(&world));
    assert!(world.decision.announce.contains_key(&p(GIANT)));
    assert_eq!(offered(&world), [20_000, 36_000]);
}

#[test]
fn it_ends_when_either_exit_is_lost_or_plain_routing_changes() {
    type Loss = fn(&mut World);
    let losses: [(&str, Loss, &str); 6] = [
        ("the link of the exit of the part", |world| world.link(1, false), "that exit lost its link"),
        ("its route there", |world| world.withdraw(GIANT, 1), "that exit lost its link"),
        ("the link of home", |world| world.link(0, false), "the exit of the other part"),
        ("its route at home", |world| world.withdraw(GIANT, 0), "the exit of the other part"),
        ("plain routing goes there now", |world| world.kernel(GIANT, 1, BIRD), "plain routing goes there"),
        (
            "the route is not the daemon's any more",
            |world| world.kernel(GIANT, 0, 4),
            "not the daemon's BGP route",
        ),
    ];
    for (title, loss, why) in losses {
        let mut world = divided(splitting());
        loss(&mut world);
        assert!(world.decision.kernel.is_empty(), "{title}: {:?}", world.decision.kernel);
        assert!(log(&world).contains(why), "{title}: {}", log(&world));
    }
}

#[test]
fn no_flow_on_the_new_exit_is_a_failure_and_a_few_are_none() {
    let one_way = |share: u16| {
        let mut world = World::ready(splitting(), &BOTH);
        world.second(&[(GIANT, 70)]);
        for _ in 0..10 {
            world.second_kbit_by(&[(GIANT, 70_000)], |_, _| vec![(0, 256 - share), (1, share)]);
        }
        world
    };
    let world = one_way(0);
    assert!(
        world.decision.kernel.is_empty() && log(&world).contains("goes back to transit-a"),
        "{}",
        log(&world)
    );
    let world = one_way(60);
    assert!(part(&world).is_some() && !log(&world).contains("goes back"), "{}", log(&world));
}

#[test]
fn a_division_that_is_not_even_is_mended_by_what_is_counted() {
    let mut world = World::ready(splitting(), &BOTH);
    world.second(&[(GIANT, 70)]);
    // Of each part that is asked for half goes there.
    for _ in 0..20 {
        world.second_kbit_by(&[(GIANT, 70_000)], |world, prefix| {
            let weight = part(world).map_or(0, |part| part / 2);
            assert_eq!(prefix, p(GIANT));
            vec![(0, 256 - weight), (1, weight)]
        });
    }
    assert!(offered(&world)[0] <= 45_000, "{:?} {}", offered(&world), log(&world));
}

#[test]
fn caps_pins_forbidden_exits_and_drains_hold_for_parts() {
    let none = |title: &str, policy: Policy| {
        let world = divided(policy);
        assert!(world.decision.kernel.is_empty(), "{title}: {:?}", world.decision.kernel);
    };
    none("no override at all", Policy { max_overrides: 0, ..splitting() });
    let to = |exit| vec![crate::core::policy::Pin { prefix: p(GIANT), exit: ExitId(exit) }];
    none("pinned home", Policy { pins: to(0), ..splitting() });
    none("forbidden there", Policy { forbidden: to(1), ..splitting() });
    let capped = divided(Policy { max_moved_share: Share::percent(20), ..splitting() });
    // 95 % of 14 of 70.
    assert_eq!(part(&capped), Some(48));
    let slow = divided(Policy { max_moved_per_minute: Share::percent(10), ..splitting() });
    assert_eq!(part(&slow), Some(25));
    let mut world = divided(splitting());
    world.give(Input::Order(Order::Drain { provider: crate::types::ProviderId(1), until: None }));
    world.second(&[(GIANT, 70)]);
    assert!(world.decision.kernel.is_empty());
}

#[test]
fn observing_plans_a_part_and_approving_asks_for_it() {
    let mut world = divided(Policy { mode: Mode::Observe, ..splitting() });
    assert!(world.decision.kernel.is_empty());
    let view = world.controller.overrides();
    assert_eq!((view[0].share_ppm, view[0].enforced), (FlowShare::part(96).unwrap().ppm(), false));
    assert!(
        world
            .controller
            .explain(p(GIANT))
            .verdict
            .starts_with("37.5 % of the flows of 198.18.0.0/24 would go")
    );

    world = World::ready(Policy { mode: Mode::Approve, ..splitting() }, &BOTH);
    world.second(&[(GIANT, 70)]);
    world.second(&[(GIANT, 70)]);
    let plan = world.controller.plan(world.now);
    assert!(plan.moves.is_empty(), "what waits is taken for made: {:?}", plan.moves);
    world.second(&[(GIANT, 70)]);
    let changes = world.controller.changes();
    assert_eq!((changes.len(), changes[0].share_ppm), (1, FlowShare::part(96).unwrap().ppm()));
    assert!(world.decision.kernel.is_empty());
    world.give(Input::Order(Order::Approve { id: None }));
    assert_eq!(part(&world), Some(96), "{}", log(&world));
    world.second(&[(GIANT, 70)]);
    assert_eq!((part(&world), world.controller.changes().len()), (Some(96), 0));
}

#[test]
fn a_restart_goes_on_with_a_part_and_changes_nothing() {
    let before = divided(splitting());
    let adopted = Adopted { routes: before.decision.kernel.clone(), ..Adopted::default() };
    for (split, expected) in [(true, Some(96)), (false, None)] {
        let policy = Policy { split, ..splitting() };
        let mut world = World::new(policy.clone());
        world.controller = Controller::new(policy, 1_000, &adopted, false);
        world.learn(&BOTH);
        world.second_kbit_by(&[], |_, _| Vec::new());
        world.second_kbit_by(&[(GIANT, 70_000)], |_, _| vec![(0, 160), (1, 96)]);
        world.second_kbit_by(&[(GIANT, 70_000)], |_, _| vec![(0, 160), (1, 96)]);
        assert_eq!(part(&world), expected, "{}", log(&world));
        if split {
            assert_eq!(world.decision.kernel, before.decision.kernel);
            assert!(!log(&world).contains("of the flows"), "nothing new: {}", log(&world));
        }
    }
}

#[test]
fn a_large_whole_override_on_an_exit_that_it_overloads_gives_back_a_part() {
    let mut policy = splitting();
    policy.max_moved_share = Share::ONE;
    let mut world = World::ready(policy, &BOTH);
    world.kernel(SMALL, 0, 4);
    // Home is full: the giant, not one yet, goes as a whole.
    world.second_kbit(&[(GIANT, 40_000), (SMALL, 30_000)]);
    assert_eq!(world.overridden(), [GIANT]);
    for _ in 0..3 {
        world.second_kbit(&[(GIANT, 52_000), (SMALL, 30_000)]);
    }
    assert!(part(&world).is_some(), "{}", log(&world));
    world.second_kbit(&[(GIANT, 52_000), (SMALL, 30_000)]);
    let [home, there] = offered(&world);
    assert!(home <= 42_500 && there <= 45_000, "{home} {there}");
}
