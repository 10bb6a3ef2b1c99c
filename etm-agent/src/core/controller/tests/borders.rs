//! Exits of another border: reached by announcements, remembered when they are out of sight.

use super::*;
use crate::core::policy::{Border, Exit, Peer, Provider, Role};
use crate::types::ProviderId;

const EDGE: PeerId = PeerId(1);
const CORE: PeerId = PeerId(2);
const ETM: PeerId = PeerId(3);
const THERE: ExitId = ExitId(2);
const A: &str = "198.18.0.0/24";
const B: &str = "198.18.1.0/24";
const C: &str = "198.18.2.0/24";

/// Two uplinks here, the second of which is full, and one of another border.
fn policy() -> Policy {
    let mut policy = two_exits();
    let peer = |name: &str, role| Peer { name: name.to_owned(), role, ..policy.peers[0].clone() };
    policy.peers = vec![
        peer("border", Role::Learn),
        peer("edge-c", Role::Learn),
        peer("core", Role::Inject),
        peer("etm-c", Role::Learn),
    ];
    let mut uplink = policy.uplinks[0].clone();
    uplink.name = "up-c".to_owned();
    policy.uplinks[1].capacity = BitRate(1_000_000);
    policy.uplinks.push(uplink);
    policy.providers.push(Provider { name: "transit-c".to_owned(), ..policy.providers[0].clone() });
    policy.exits.push(Exit {
        name: "transit-c".to_owned(),
        provider: ProviderId(2),
        uplink: UplinkId(2),
        gateways: vec!["10.0.3.1".parse().unwrap()],
    });
    let uplinks = vec![UplinkId(2)];
    policy.borders = vec![Border {
        name: "edge-c".to_owned(),
        session: EDGE,
        etm_learn: Some(ETM),
        etm_inject: None,
        uplinks,
        families: vec![Family::V4],
    }];
    policy.max_moved_share = Share::ONE;
    policy.hold = Duration::from_secs(3);
    policy
}

fn heard(world: &mut World, up: bool) {
    let families = Family::ALL.to_vec();
    let change = if up {
        SessionChange::Up { families }
    } else {
        SessionChange::Down { reason: "the link is cut".to_owned() }
    };
    world.give(Input::Session(SessionEvent { peer: CORE, change }));
}

/// `peer` says that `prefix` can be reached by the other border's provider.
fn offered_by(world: &mut World, peer: PeerId, prefix: &str) {
    let mut attrs = RouteAttrs::to_next_hop("10.0.3.1".parse().unwrap());
    attrs.as_path = AsPath::sequence([64603, 65010]);
    let (prefix, path_id) = (p(prefix), PathId(0));
    let changes = vec![RouteChange::Announce { prefix, path_id, attrs: Arc::new(attrs) }];
    world.give(Input::Routes(RouteBatch { peer, changes }));
}

/// Three prefixes at home here; the first two are the other border's own, too.
fn ready() -> World {
    let mut world = World::ready(policy(), &[A, B, C]);
    let families = Family::ALL.to_vec();
    world.give(Input::Session(SessionEvent { peer: EDGE, change: SessionChange::Up { families } }));
    heard(&mut world, true);
    offered_by(&mut world, EDGE, A);
    offered_by(&mut world, EDGE, B);
    world
}

/// One second in which core follows what is announced: that traffic is not seen here.
fn second_behind_core(world: &mut World, mbit: &[(&str, u64)]) {
    let here: Vec<_> = mbit
        .iter()
        .copied()
        .filter(|(prefix, _)| !world.decision.announce.contains_key(&p(prefix)))
        .collect();
    world.second(&here);
}

fn announced(world: &World) -> Vec<(String, ExitId)> {
    world.decision.announce.iter().map(|(prefix, to)| (prefix.to_string(), to.exit)).collect()
}

const LOAD: [(&str, u64); 3] = [(A, 20), (B, 12), (C, 20)];

#[test]
fn what_another_border_takes_is_announced_and_in_no_kernel() {
    let mut world = ready();
    second_behind_core(&mut world, &LOAD);
    assert_eq!(announced(&world), [(B.to_owned(), THERE)]);
    assert!(world.decision.kernel.is_empty(), "{:?}", world.decision.kernel);
    let text = world.controller.explain(p(B)).because.join("; ");
    assert!(text.contains("transit-c is an exit of border edge-c: BGP alone leads there"), "{text}");
}

#[test]
fn demand_that_went_to_another_border_is_remembered_until_there_is_room_for_it() {
    let mut world = ready();
    for round in 0..20 {
        second_behind_core(&mut world, &LOAD);
        assert_eq!(announced(&world), [(B.to_owned(), THERE)], "round {round}");
    }
    let uplinks = world.controller.uplinks();
    assert_eq!(uplinks[0].offered_bps, BitRate(40_000_000));
    assert_eq!(uplinks[0].projected_bps, BitRate(52_000_000), "what left is part of it");
    assert_eq!((uplinks[2].offered_bps, uplinks[2].border.as_deref()), (BitRate(12_000_000), Some("edge-c")));
    assert_eq!(world.holds(), []);
    for _ in 0..20 {
        second_behind_core(&mut world, &[(A, 10), (C, 10)]);
    }
    assert_eq!(announced(&world), [], "20 and the 12 that are away fit");
}

#[test]
fn an_exit_elsewhere_ends_with_its_route_with_its_border_and_with_the_last_who_hears() {
    let route = |world: &mut World| {
        let change = RouteChange::Withdraw { prefix: p(B), path_id: PathId(0) };
        world.give(Input::Routes(RouteBatch { peer: EDGE, changes: vec![change] }));
    };
    let border = |world: &mut World| {
        let change = SessionChange::Down { reason: "gone".to_owned() };
        world.give(Input::Session(SessionEvent { peer: EDGE, change }));
    };
    let hearer = |world: &mut World| heard(world, false);
    type Happening<'a> = (&'a str, &'a dyn Fn(&mut World));
    let cases: [Happening<'_>; 3] =
        [("route withdrawn", &route), ("border gone", &border), ("nobody hears", &hearer)];
    for (title, happen) in cases {
        let mut world = ready();
        second_behind_core(&mut world, &LOAD);
        assert_eq!(announced(&world).len(), 1, "{title}");
        happen(&mut world);
        // At once, without a round; and its absence holds up nothing else.
        assert_eq!(announced(&world), [], "{title}");
        assert_eq!(world.holds(), [], "{title}");
    }
}

#[test]
fn nobody_but_a_border_speaks_for_its_exits() {
    let mut world = World::ready(policy(), &[A, B, C]);
    heard(&mut world, true);
    offered_by(&mut world, PeerId(0), A);
    offered_by(&mut world, PeerId(0), B);
    world.second(&LOAD);
    assert_eq!(announced(&world), [], "learnt from elsewhere, it may come back from there");
    let families = Family::ALL.to_vec();
    world.give(Input::Session(SessionEvent { peer: EDGE, change: SessionChange::Up { families } }));
    offered_by(&mut world, EDGE, "2001:db8:1::/48");
    let ranked = world.controller.rib.candidates(p("2001:db8:1::/48"), &world.controller.topology);
    assert!(ranked.is_empty(), "there is no next hop of that family to announce");
}

#[test]
fn an_announcement_that_comes_back_to_this_border_ends_and_is_not_tried_again_at_once() {
    let mut world = ready();
    second_behind_core(&mut world, &LOAD);
    let back = KernelRoute {
        prefix: p(B),
        metric: 32,
        protocol: BIRD,
        unicast: true,
        next_hops: vec![(Some("10.0.9.2".parse().unwrap()), IfIndex(99))],
    };
    world.give(Input::Fib(FibEvent::Changes(vec![FibChange::Set(back)])));
    assert_eq!(announced(&world), []);
    assert_eq!(world.holds(), [Hold::AnnouncementCameBack { prefix: p(B) }]);
    world.kernel(B, 0, BIRD);
    world.second(&LOAD);
    assert_eq!(announced(&world), [], "decisions stand still");
    for _ in 0..3 {
        second_behind_core(&mut world, &LOAD);
    }
    assert_eq!(announced(&world).len(), 1, "after policy.hold it is tried again");
}

#[test]
fn what_went_elsewhere_is_not_caught_by_an_override_around_it() {
    let around = "198.18.0.0/23";
    let mut policy = policy();
    policy.uplinks[1].capacity = BitRate(50_000_000);
    policy.pins = vec![
        crate::core::policy::Pin { prefix: p(around), exit: ExitId(1) },
        crate::core::policy::Pin { prefix: p(B), exit: THERE },
    ];
    let mut world = World::ready(policy, &[around, B, "198.19.0.0/24"]);
    let families = Family::ALL.to_vec();
    world.give(Input::Session(SessionEvent { peer: EDGE, change: SessionChange::Up { families } }));
    heard(&mut world, true);
    offered_by(&mut world, EDGE, B);
    second_behind_core(&mut world, &[(around, 5), (B, 5), ("198.19.0.0/24", 10)]);
    assert_eq!(announced(&world), [(B.to_owned(), THERE)], "what stays here is not told to core");
    assert_eq!(world.overridden(), [around]);
    assert_eq!(world.decision.kernel[&p(B)], KernelAction::Throw);
}

#[test]
fn what_another_border_sent_here_is_not_sent_back() {
    let mut world = ready();
    let families = Family::ALL.to_vec();
    world.give(Input::Session(SessionEvent { peer: ETM, change: SessionChange::Up { families } }));
    let mut attrs = RouteAttrs::to_next_hop("10.255.0.1".parse().unwrap());
    attrs.communities = vec![world.controller.policy.community];
    let (prefix, path_id) = (p(B), PathId(0));
    let sent = RouteChange::Announce { prefix, path_id, attrs: Arc::new(attrs) };
    world.give(Input::Routes(RouteBatch { peer: ETM, changes: vec![sent] }));
    second_behind_core(&mut world, &LOAD);
    assert_eq!(world.holds(), [], "it is no announcement of ours that came back");
    assert_eq!(announced(&world), [(A.to_owned(), THERE)], "another one goes");
    let text = world.controller.explain(p(B)).because.join("; ");
    assert!(text.contains("ETM on another border sent it here"), "{text}");
    let taken_back = RouteChange::Withdraw { prefix, path_id };
    world.give(Input::Routes(RouteBatch { peer: ETM, changes: vec![taken_back] }));
    assert!(!world.controller.explain(p(B)).because.join("; ").contains("sent it here"));
}
