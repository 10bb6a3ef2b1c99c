//! The RIB against single cases, and against a naive one.

use super::attrs::tests::any_attrs;
use super::*;
use crate::core::input::LinkEvent;
use crate::core::policy::Exit;
use crate::core::policy::tests::two_exits;
use crate::types::ExitId;
use crate::types::{AsPath, Asn, IfIndex, UplinkId};
use proptest::prelude::*;
use std::net::IpAddr;

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn announce(peer: u16, prefix: &str, path_id: u32, next_hop: &str, own: bool) -> RouteBatch {
    let mut attrs = RouteAttrs::to_next_hop(next_hop.parse().unwrap());
    if own {
        attrs.communities.push(two_exits().community);
    }
    let change =
        RouteChange::Announce { prefix: p(prefix), path_id: PathId(path_id), attrs: Arc::new(attrs) };
    RouteBatch { peer: PeerId(peer), changes: vec![change] }
}

fn up() -> Topology {
    let mut topology = Topology::new(&two_exits());
    for uplink in 0..2 {
        let ifindex = Some(IfIndex(u32::from(uplink) + 10));
        topology.set_link(LinkEvent { uplink: UplinkId(uplink), ifindex, up: true });
    }
    topology
}

#[test]
fn routes_of_one_peer_are_told_apart_by_path_id() {
    let mut rib = Rib::new(&two_exits());
    let mut seen = Vec::new();
    rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", false), |_, what| seen.push(what));
    rib.apply(announce(0, "198.18.0.0/24", 2, "10.0.2.1", false), |_, what| seen.push(what));
    rib.apply(announce(0, "198.18.0.0/24", 2, "10.0.2.1", false), |_, what| seen.push(what));
    assert_eq!(seen, [Presence::Appeared, Presence::Kept, Presence::Kept]);
    let exits: Vec<_> = rib.candidates(p("198.18.0.0/24"), &up()).iter().map(|c| c.exit).collect();
    assert_eq!(exits, [ExitId(0), ExitId(1)]);
}

#[test]
fn own_announcements_and_unknown_next_hops_are_no_candidates() {
    let mut rib = Rib::new(&two_exits());
    rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", true), |_, _| ());
    rib.apply(announce(0, "198.18.1.0/24", 1, "192.0.2.9", false), |_, _| ());
    assert!(rib.candidates(p("198.18.0.0/24"), &up()).is_empty());
    assert!(rib.candidates(p("198.18.1.0/24"), &up()).is_empty());
    assert_eq!(rib.returned(&up()), 0, "a provider's route with our community");
    rib.apply(announce(0, "198.18.0.0/24", 2, "10.0.9.1", true), |_, _| ());
    assert_eq!(rib.returned(&up()), 1);
    rib.drop_peer(PeerId(0));
    assert_eq!(rib.returned(&up()), 0);
}

#[test]
fn blackholes_and_paths_of_another_as_are_no_candidates() {
    let mut policy = two_exits();
    policy.providers[0].asn = Some(Asn(64601));
    let mut topology = Topology::new(&policy);
    topology.set_link(LinkEvent { uplink: UplinkId(0), ifindex: Some(IfIndex(10)), up: true });
    let usable = |change: fn(&mut RouteAttrs)| {
        let mut attrs = RouteAttrs::to_next_hop("10.0.1.1".parse().unwrap());
        attrs.as_path = AsPath::sequence([64601, 65010]);
        change(&mut attrs);
        let mut rib = Rib::new(&policy);
        let change =
            RouteChange::Announce { prefix: p("198.18.0.0/24"), path_id: PathId(1), attrs: Arc::new(attrs) };
        rib.apply(RouteBatch { peer: PeerId(0), changes: vec![change] }, |_, _| ());
        !rib.candidates(p("198.18.0.0/24"), &topology).is_empty()
    };
    assert!(usable(|_| ()));
    assert!(usable(|attrs| attrs.as_path = AsPath::default()), "a static candidate");
    assert!(!usable(|attrs| attrs.as_path = AsPath::sequence([64602, 65010])), "another AS");
    assert!(!usable(|attrs| attrs.communities.push(Community::BLACKHOLE)), "RFC 7999");
}

#[test]
fn a_link_that_is_down_offers_nothing() {
    let mut rib = Rib::new(&two_exits());
    rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", false), |_, _| ());
    let mut topology = up();
    topology.set_link(LinkEvent { uplink: UplinkId(0), ifindex: Some(IfIndex(10)), up: false });
    assert!(rib.candidates(p("198.18.0.0/24"), &topology).is_empty());
}

#[test]
fn a_peer_that_goes_down_takes_all_its_routes_along() {
    let mut rib = Rib::new(&two_exits());
    rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", false), |_, _| ());
    rib.apply(announce(1, "198.18.0.0/24", 1, "10.0.2.1", false), |_, _| ());
    rib.apply(announce(0, "198.18.1.0/24", 1, "10.0.1.1", false), |_, _| ());
    rib.drop_peer(PeerId(0));
    assert!(!rib.contains(p("198.18.1.0/24")) && rib.is_clearing(), "void at once, cleared away later");
    assert_eq!(rib.candidates(p("198.18.0.0/24"), &up()).len(), 1);
    rib.clear_away(10);
    assert_eq!(rib.prefixes(), 1);
}

#[test]
fn an_exchange_with_thousands_of_next_hops_is_normal() {
    const MEMBERS: u16 = 3771;
    let mut policy = two_exits();
    let hop = |member: u16| IpAddr::from([10, 9, member.to_be_bytes()[0], member.to_be_bytes()[1]]);
    for member in 0..MEMBERS {
        let name = format!("member-{member}");
        policy.exits.push(Exit { name, gateways: vec![hop(member)], ..policy.exits[1].clone() });
    }
    let mut topology = Topology::new(&policy);
    topology.set_link(LinkEvent { uplink: UplinkId(1), ifindex: Some(IfIndex(11)), up: true });
    let mut rib = Rib::new(&policy);
    let route = |member: u16| {
        let mut attrs = RouteAttrs::to_next_hop(hop(member));
        // Longer paths for lower addresses, so that the order is not that of arrival.
        let hops = usize::from((MEMBERS - member) / 1000);
        attrs.as_path = AsPath::sequence(std::iter::repeat_n(64_600 + u32::from(member), 1 + hops));
        RouteChange::Announce {
            prefix: p("198.18.0.0/24"),
            path_id: PathId(u32::from(member)),
            attrs: Arc::new(attrs),
        }
    };
    rib.apply(RouteBatch { peer: PeerId(0), changes: (0..MEMBERS).map(route).collect() }, |_, _| ());
    let candidates = rib.candidates(p("198.18.0.0/24"), &topology);
    assert_eq!(candidates.len(), usize::from(MEMBERS));
    let order: Vec<(u32, IpAddr)> = candidates.iter().map(|c| (c.standing.hops, c.next_hop)).collect();
    assert!(order.is_sorted(), "by AS_PATH, then by next hop");
    topology.set_link(LinkEvent { uplink: UplinkId(1), ifindex: Some(IfIndex(11)), up: false });
    assert!(rib.candidates(p("198.18.0.0/24"), &topology).is_empty());
}

#[test]
fn covering_routes_serve_where_the_provider_is_used_so_and_come_last() {
    let mut policy = two_exits();
    policy.providers[1].covering = true;
    let mut topology = Topology::new(&policy);
    for uplink in 0..2u16 {
        let ifindex = Some(IfIndex(u32::from(uplink) + 10));
        topology.set_link(LinkEvent { uplink: UplinkId(uplink), ifindex, up: true });
    }
    let mut rib = Rib::new(&policy);
    rib.apply(announce(0, "198.18.0.0/24", 1, "10.0.1.1", false), |_, _| ());
    rib.apply(announce(0, "0.0.0.0/0", 1, "10.0.1.1", false), |_, _| ());
    rib.apply(announce(0, "0.0.0.0/0", 2, "10.0.2.1", false), |_, _| ());
    let seen = |rib: &Rib, prefix: &str| -> Vec<(u16, String)> {
        let shown = |c: Candidate| (c.exit.0, c.prefix.to_string());
        rib.candidates(p(prefix), &topology).into_iter().map(shown).collect()
    };
    let both = [(0, "198.18.0.0/24".to_owned()), (1, "0.0.0.0/0".to_owned())];
    assert_eq!(seen(&rib, "198.18.0.0/24"), both);
    rib.apply(announce(0, "198.18.0.0/16", 2, "10.0.2.1", false), |_, _| ());
    assert_eq!(seen(&rib, "198.18.0.0/24")[1], (1, "198.18.0.0/16".to_owned()), "the longest cover");
    assert_eq!(seen(&rib, "0.0.0.0/0").len(), 2, "each for itself");
}

#[test]
fn rules_and_internal_prefixes_decide_who_is_a_candidate() {
    let mut policy = two_exits();
    policy.internal = vec![p("198.19.0.0/16")];
    let rule = |name: &str, prefix: &str, verdict| RouteRule {
        name: name.to_owned(),
        prefixes: [format!("{prefix} le 32").parse().unwrap()].into_iter().collect(),
        lists: Vec::new(),
        as_paths: Vec::new(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        origins: Vec::new(),
        peers: vec![PeerId(1)],
        verdict,
    };
    policy.route_rules = vec![
        rule("not-these", "198.18.0.0/24", Verdict::Deny),
        rule("these-first", "198.18.0.0/16", Verdict::Accept { preference: Some(200) }),
    ];
    let mut rib = Rib::new(&policy);
    for (prefix, peer, next_hop) in [
        ("198.18.0.0/24", 0, "10.0.1.1"),
        ("198.18.0.0/24", 1, "10.0.2.1"),
        ("198.18.1.0/24", 0, "10.0.1.1"),
        ("198.18.1.0/24", 1, "10.0.2.1"),
        ("198.19.1.0/24", 0, "10.0.1.1"),
    ] {
        rib.apply(announce(peer, prefix, 1, next_hop, false), |_, _| ());
    }
    let exits = |prefix: &str| -> Vec<u16> {
        rib.candidates(p(prefix), &up()).into_iter().map(|candidate| candidate.exit.0).collect()
    };
    assert_eq!(exits("198.18.0.0/24"), [0]);
    assert_eq!(exits("198.18.1.0/24"), [1, 0], "preference above LOCAL_PREF");
    assert!(exits("198.19.1.0/24").is_empty() && rib.contains(p("198.19.1.0/24")));
    let decided = rib.rule_of(p("198.18.0.0/24"), PeerId(1), PathId(1)).map(|rule| rule.name.as_str());
    assert_eq!(decided, Some("not-these"));
    assert_eq!(rib.rules().hits().map(|(_, hits)| hits.decided).collect::<Vec<_>>(), [1, 1]);
}

/// The same in the plainest way.
#[derive(Default)]
struct Naive {
    /// With whether it is stale.
    routes: BTreeMap<(Prefix, PeerId, PathId), (RouteAttrs, bool)>,
    returned: BTreeMap<(Prefix, PeerId, PathId), IpAddr>,
}

#[derive(Clone, Debug)]
enum Step {
    Announce {
        peer: u16,
        prefix: usize,
        path_id: u32,
        attrs: usize,
    },
    Withdraw {
        peer: u16,
        prefix: usize,
        path_id: u32,
    },
    DropPeer(u16),
    DropFamily(u16, bool),
    MarkStale(u16, bool),
    Sweep(u16, bool),
    ClearAway(usize),
    /// Many refreshes without a sweep, so that epochs run out.
    Exhaust(u16, bool),
}

const PREFIXES: [&str; 8] = [
    "0.0.0.0/0",
    "198.18.0.0/15",
    "198.18.0.0/24",
    "198.18.1.0/24",
    "198.19.0.0/16",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "::/0",
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let announce = (0u16..3, 0usize..8, 0u32..3, 0usize..6)
        .prop_map(|(peer, prefix, path_id, attrs)| Step::Announce { peer, prefix, path_id, attrs });
    let step = prop_oneof![
        12 => announce,
        4 => (0u16..3, 0usize..8, 0u32..3).prop_map(|(peer, prefix, path_id)| Step::Withdraw { peer, prefix, path_id }),
        1 => (0u16..3).prop_map(Step::DropPeer),
        1 => (0u16..3, any::<bool>()).prop_map(|(peer, v6)| Step::DropFamily(peer, v6)),
        1 => (0u16..3, any::<bool>()).prop_map(|(peer, v6)| Step::MarkStale(peer, v6)),
        1 => (0u16..3, any::<bool>()).prop_map(|(peer, v6)| Step::Sweep(peer, v6)),
        2 => (1usize..6).prop_map(Step::ClearAway),
        1 => (0u16..3, any::<bool>()).prop_map(|(peer, v6)| Step::Exhaust(peer, v6)),
    ];
    prop::collection::vec(step, 1..80)
}

fn family(v6: bool) -> Family {
    if v6 { Family::V6 } else { Family::V4 }
}

impl Naive {
    fn drop_where(&mut self, peer: u16, family: Family, only_stale: bool) {
        self.routes.retain(|(prefix, from, _), (_, stale)| {
            (*from, prefix.family()) != (PeerId(peer), family) || (only_stale && !*stale)
        });
        if !only_stale {
            self.returned.retain(|(prefix, from, _), _| (*from, prefix.family()) != (PeerId(peer), family));
        }
    }

    fn mark(&mut self, peer: u16, family: Family) {
        let ours = self
            .routes
            .iter_mut()
            .filter(|((prefix, from, _), _)| (*from, prefix.family()) == (PeerId(peer), family));
        ours.for_each(|(_, (_, stale))| *stale = true);
    }

    fn has(&self, prefix: Prefix) -> bool {
        self.routes.keys().any(|(known, ..)| *known == prefix)
    }
}

fn change(rib: &mut Rib, naive: &mut Naive, peer: u16, change: RouteChange) -> Result<(), TestCaseError> {
    let (prefix, path_id) = match &change {
        RouteChange::Announce { prefix, path_id, .. } | RouteChange::Withdraw { prefix, path_id } => {
            (*prefix, *path_id)
        }
    };
    let (key, before) = ((prefix, PeerId(peer), path_id), naive.has(prefix));
    naive.routes.remove(&key);
    naive.returned.remove(&key);
    if let RouteChange::Announce { attrs, .. } = &change {
        if attrs.communities.contains(&two_exits().community) {
            naive.returned.insert(key, attrs.next_hop);
        } else {
            naive.routes.insert(key, ((**attrs).clone(), false));
        }
    }
    let expected = match (before, naive.has(prefix)) {
        (false, true) => Presence::Appeared,
        (true, false) => Presence::Vanished,
        _ => Presence::Kept,
    };
    let mut seen = Vec::new();
    rib.apply(RouteBatch { peer: PeerId(peer), changes: vec![change] }, |_, what| seen.push(what));
    prop_assert_eq!(seen, [expected]);
    Ok(())
}

fn compare_with(rib: &Rib, naive: &Naive, topology: &Topology) -> Result<(), TestCaseError> {
    for text in PREFIXES {
        let prefix = p(text);
        let mut got = rib.received(prefix);
        got.sort_by_key(|(peer, path_id, _)| (*peer, *path_id));
        let ours = naive.routes.iter().filter(|((known, ..), _)| *known == prefix);
        let expected: Vec<_> =
            ours.map(|((_, peer, path_id), (attrs, _))| (*peer, *path_id, Arc::new(attrs.clone()))).collect();
        prop_assert_eq!(rib.contains(prefix), !expected.is_empty());
        prop_assert_eq!(&got, &expected, "{}", prefix);
        let mut exits: Vec<ExitId> = rib.candidates(prefix, topology).iter().map(|c| c.exit).collect();
        exits.sort_unstable();
        let mut usable: Vec<ExitId> = expected
            .iter()
            .filter(|(_, _, attrs)| !attrs.communities.contains(&Community::BLACKHOLE))
            .filter_map(|(peer, _, attrs)| topology.exit_of(*peer, attrs.next_hop))
            .collect();
        usable.sort_unstable();
        usable.dedup();
        prop_assert_eq!(exits, usable);
        let inside: Vec<Prefix> = rib.inside(prefix).collect();
        let known: std::collections::BTreeSet<Prefix> =
            naive.routes.keys().map(|(known, ..)| *known).collect();
        let expected: Vec<Prefix> =
            known.iter().copied().filter(|k| *k != prefix && prefix.covers(*k)).collect();
        prop_assert_eq!(inside, expected);
        prop_assert_eq!(rib.longest_cover(prefix), known.iter().copied().rfind(|known| known.covers(prefix)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn it_answers_as_a_naive_rib_does_whatever_comes_in_whatever_order(
        steps in steps(), mut sets in prop::collection::vec(any_attrs(), 6)
    ) {
        sets[0].communities.push(two_exits().community);
        sets[1].next_hop = "10.0.1.1".parse().unwrap();
        sets[2].next_hop = "10.0.2.1".parse().unwrap();
        let sets: Vec<Arc<RouteAttrs>> = sets.into_iter().map(Arc::new).collect();
        let (mut rib, mut naive) = (Rib::new(&two_exits()), Naive::default());
        let topology = up();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Announce { peer, prefix, path_id, attrs } => change(&mut rib, &mut naive, peer, RouteChange::Announce {
                    prefix: p(PREFIXES[prefix]), path_id: PathId(path_id), attrs: Arc::clone(&sets[attrs]),
                })?,
                Step::Withdraw { peer, prefix, path_id } => change(&mut rib, &mut naive, peer, RouteChange::Withdraw {
                    prefix: p(PREFIXES[prefix]), path_id: PathId(path_id),
                })?,
                Step::DropPeer(peer) => {
                    rib.drop_peer(PeerId(peer));
                    Family::ALL.into_iter().for_each(|family| naive.drop_where(peer, family, false));
                }
                Step::DropFamily(peer, v6) => {
                    rib.drop_family(PeerId(peer), family(v6));
                    naive.drop_where(peer, family(v6), false);
                }
                Step::MarkStale(peer, v6) => {
                    rib.mark_stale(PeerId(peer), family(v6));
                    naive.mark(peer, family(v6));
                }
                Step::Sweep(peer, v6) => {
                    rib.sweep(PeerId(peer), family(v6));
                    naive.drop_where(peer, family(v6), true);
                }
                Step::ClearAway(prefixes) => rib.clear_away(prefixes),
                Step::Exhaust(peer, v6) => {
                    (0..300).for_each(|_| rib.mark_stale(PeerId(peer), family(v6)));
                    naive.mark(peer, family(v6));
                }
            }
            if number % 8 == 0 {
                compare_with(&rib, &naive, &topology)?;
            }
        }
        prop_assert_eq!(rib.returned.len(), naive.returned.len());
        while rib.is_clearing() {
            rib.clear_away(3);
        }
        compare_with(&rib, &naive, &topology)?;
        let sets: std::collections::BTreeSet<&RouteAttrs> = naive.routes.values().map(|(attrs, _)| attrs).collect();
        let footprint = rib.footprint();
        prop_assert_eq!((footprint.routes, footprint.attribute_sets), (naive.routes.len(), sets.len()));
        let prefixes: std::collections::BTreeSet<Prefix> = naive.routes.keys().map(|(prefix, ..)| *prefix).collect();
        prop_assert_eq!(rib.prefixes(), prefixes.len());
        for peer in 0..3 {
            let count = naive.routes.keys().filter(|(_, from, _)| *from == PeerId(peer)).count();
            prop_assert_eq!(rib.routes_of(PeerId(peer)), u64::try_from(count).unwrap());
        }
        (0..3).for_each(|peer| rib.drop_peer(PeerId(peer)));
        while rib.is_clearing() {
            rib.clear_away(100);
        }
        let empty = rib.footprint();
        prop_assert_eq!((empty.routes, empty.attribute_sets, rib.prefixes(), rib.is_clearing()), (0, 0, 0, false));
    }
}
