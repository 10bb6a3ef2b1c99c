//! Adj-RIB-Out and packing together: what the peer's decoder makes of the bytes is what was wanted.

use super::*;
use crate::proto::bgp::frame::FrameReader;
use crate::proto::bgp::import::Import;
use crate::proto::bgp::out::AdjRibOut;
use crate::proto::bgp::update::{Change, Translator};
use crate::types::bgp::Dispositions;
use crate::types::{AsPath, AsPathSegment, Asn, LargeCommunity, Origin, RouterId};
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const POLICY: OutPolicy =
    OutPolicy { local_pref: DEFAULT_LOCAL_PREF, community: Community(64500 << 16 | 179) };

fn session(four_octet_as: bool, message_limit: u16) -> Negotiated {
    Negotiated {
        local_as: Asn(64500),
        peer_as: Asn(64500),
        peer_router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
        hold: Duration::from_secs(9),
        families: Family::ALL.to_vec(),
        add_path: Vec::new(),
        four_octet_as,
        route_refresh: true,
        enhanced_refresh: false,
        extended_next_hop: false,
        message_limit,
        restart: None,
        role: None,
        ours: Vec::new(),
        theirs: Vec::new(),
    }
}

/// The peer: its table after these bytes, and the lengths of the messages.
fn receive(bytes: &[u8], session: &Negotiated, table: &mut BTreeMap<Prefix, Arc<RouteAttrs>>) -> Vec<usize> {
    let mut buffer = BytesMut::from(bytes);
    let mut frames = FrameReader::default();
    frames.set_limit(session.message_limit);
    let mut translator = Translator::new(session, Import::default(), Dispositions::default());
    let mut lengths = Vec::new();
    loop {
        let before = buffer.len();
        let Some(frame) = frames.next(&mut buffer).unwrap() else { break };
        lengths.push(before - buffer.len());
        let translated = translator.translate(&frame).unwrap();
        assert_eq!(translated.notices, []);
        for change in translated.changes {
            match change {
                Change::Announce { prefix, attrs, .. } => drop(table.insert(prefix, attrs)),
                Change::Withdraw { prefix, .. } => drop(table.remove(&prefix)),
            }
        }
    }
    assert!(buffer.is_empty());
    assert_eq!(translator.counts(), Dispositions::default());
    lengths
}

fn route(next_hop: &str, asns: &[u32]) -> OutRoute {
    let attrs = RouteAttrs {
        as_path: AsPath::sequence(asns.iter().copied()),
        ..RouteAttrs::to_next_hop("203.0.113.1".parse().unwrap())
    };
    OutRoute { next_hop: next_hop.parse().unwrap(), attrs: Arc::new(attrs) }
}

/// What the peer must see of `route`.
fn seen(route: &OutRoute) -> RouteAttrs {
    let mut attrs = (*route.attrs).clone();
    attrs.next_hop = route.next_hop;
    attrs.local_pref = POLICY.local_pref;
    attrs.originator = None;
    attrs.communities.extend([Community::NO_EXPORT, POLICY.community]);
    attrs.communities.sort_unstable();
    attrs.communities.dedup();
    attrs.large_communities.sort_unstable();
    attrs.large_communities.dedup();
    attrs
}

#[test]
fn ten_thousand_prefixes_of_one_set_fill_few_messages() {
    let shared = route("192.0.2.1", &[64601, 3356]);
    let desired: BTreeMap<Prefix, OutRoute> = (0..10_000_u32)
        .map(|i| {
            let addr = Ipv4Addr::from(0xC612_0000 + (i << 4));
            (Prefix::new(addr.into(), 28).unwrap(), shared.clone())
        })
        .collect();
    let session = session(true, 4096);
    let packed = pack(&AdjRibOut::default().converge(desired), POLICY, &session);
    let mut table = BTreeMap::new();
    let lengths = receive(&packed.bytes, &session, &mut table);
    assert_eq!(table.len(), 10_000);
    assert!(lengths.iter().all(|len| *len <= 4096), "{lengths:?}");
    assert_eq!(u64::try_from(lengths.len()).unwrap(), packed.messages);
    assert!(lengths.len() <= 13, "{} messages", lengths.len());
}

#[test]
fn attributes_that_fit_into_no_message_are_withdrawn_and_named() {
    let long = route("192.0.2.1", &[64601; 1100]);
    let set = OutRoute {
        attrs: Arc::new(RouteAttrs {
            as_path: AsPath(vec![AsPathSegment::Set(vec![Asn(64601)])]),
            ..RouteAttrs::to_next_hop("203.0.113.1".parse().unwrap())
        }),
        next_hop: "192.0.2.1".parse().unwrap(),
    };
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    let session = session(true, 4096);
    let mut told = AdjRibOut::default();
    let mut table = BTreeMap::new();
    let first = BTreeMap::from([
        (prefix("198.18.0.0/24"), route("192.0.2.1", &[64601])),
        (prefix("198.18.1.0/24"), route("192.0.2.1", &[64601])),
    ]);
    receive(&pack(&told.converge(first), POLICY, &session).bytes, &session, &mut table);
    assert_eq!(table.len(), 2);
    let second = BTreeMap::from([(prefix("198.18.0.0/24"), long), (prefix("198.18.1.0/24"), set)]);
    let packed = pack(&told.converge(second), POLICY, &session);
    receive(&packed.bytes, &session, &mut table);
    assert_eq!(table, BTreeMap::new());
    let mut unsendable = packed.unsendable;
    unsendable.sort_unstable();
    assert_eq!(unsendable, [prefix("198.18.0.0/24"), prefix("198.18.1.0/24")]);
}

#[test]
fn end_of_rib_is_what_our_own_reader_takes_for_one() {
    for family in Family::ALL {
        let mut buffer = BytesMut::from(&end_of_rib(family)[..]);
        let frame = FrameReader::default().next(&mut buffer).unwrap().unwrap();
        let mut translator =
            Translator::new(&session(true, 4096), Import::default(), Dispositions::default());
        assert_eq!(translator.translate(&frame).unwrap().end_of_rib, Some(family));
    }
}

#[test]
fn a_refresh_tells_one_family_again() {
    let session = session(true, 4096);
    let desired = BTreeMap::from([
        ("198.18.0.0/24".parse().unwrap(), route("192.0.2.1", &[64601])),
        ("2001:db8::/32".parse().unwrap(), route("2001:db8:c::1", &[64601])),
    ]);
    let mut told = AdjRibOut::default();
    assert_eq!(told.converge(desired.clone()).len(), 2);
    assert!(told.converge(desired.clone()).is_empty());
    told.forget_family(Family::V6);
    let mut table = BTreeMap::new();
    receive(&pack(&told.converge(desired), POLICY, &session).bytes, &session, &mut table);
    assert_eq!(table.len(), 1);
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    let v4 = (any::<u32>(), 9_u8..=32).prop_map(|(bits, len)| {
        Prefix::new(Ipv4Addr::from(0x6400_0000 | bits & 0x00FF_FFFF).into(), len).unwrap()
    });
    let v6 = (any::<u32>(), 17_u8..=128).prop_map(|(bits, len)| {
        Prefix::new(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(bits) << 64 | 5).into(), len).unwrap()
    });
    prop_oneof![v4, v6]
}

fn attribute_sets() -> impl Strategy<Value = RouteAttrs> {
    // A segment holds at most 255 (RFC 4271 section 4.3); longer ones come out as two, equal but not the same.
    let asns = proptest::collection::vec(prop_oneof![1_u32..1000, 65_530_u32..66_000], 0..255);
    let communities = proptest::collection::vec(0_u32..0xFFFF_0000, 0..200);
    (asns, communities, proptest::option::of(any::<u32>()), 0_usize..3, any::<bool>()).prop_map(
        |(asns, mut communities, med, origin, large)| {
            communities.sort_unstable();
            RouteAttrs {
                as_path: AsPath::sequence(asns),
                origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][origin],
                med,
                communities: communities.into_iter().map(Community).collect(),
                large_communities: if large {
                    vec![LargeCommunity { global: 64601, local1: 1, local2: 2 }]
                } else {
                    Vec::new()
                },
                originator: Some(Ipv4Addr::new(10, 0, 0, 9)),
                ..RouteAttrs::to_next_hop("203.0.113.1".parse().unwrap())
            }
        },
    )
}

/// A table of routes whose attributes come from a few sets, as those of real ones do.
fn tables() -> impl Strategy<Value = BTreeMap<Prefix, OutRoute>> {
    let sets = proptest::collection::vec(attribute_sets(), 1..4);
    let routes =
        proptest::collection::btree_map(prefixes(), (any::<proptest::sample::Index>(), 1_u8..3), 0..60);
    (sets, routes).prop_map(|(sets, routes)| {
        let sets: Vec<Arc<RouteAttrs>> = sets.into_iter().map(Arc::new).collect();
        let one = |(prefix, (set, hop)): (Prefix, (proptest::sample::Index, u8))| {
            let next_hop = match prefix.family() {
                Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, hop)),
                Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, u16::from(hop))),
            };
            (prefix, OutRoute { next_hop, attrs: Arc::clone(set.get(&sets)) })
        };
        routes.into_iter().map(one).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A peer that hears the differences one after the other ends with the last table, whatever its abilities,
    /// and each route carries NO_EXPORT and our community.
    #[test]
    fn the_peer_ends_with_the_desired_table(
        first in tables(),
        second in tables(),
        four_octet_as in any::<bool>(),
        extended in any::<bool>(),
    ) {
        let session = session(four_octet_as, if extended { u16::MAX } else { 4096 });
        let mut told = AdjRibOut::default();
        let mut table = BTreeMap::new();
        for desired in [&first, &second] {
            let packed = pack(&told.converge(desired.clone()), POLICY, &session);
            prop_assert_eq!(&packed.unsendable, &Vec::new());
            let lengths = receive(&packed.bytes, &session, &mut table);
            prop_assert!(lengths.iter().all(|len| *len <= usize::from(session.message_limit)));
            prop_assert_eq!(told.routes(), desired);
            let expected: BTreeMap<Prefix, RouteAttrs> =
                desired.iter().map(|(prefix, route)| (*prefix, seen(route))).collect();
            let received: BTreeMap<Prefix, RouteAttrs> =
                table.iter().map(|(prefix, attrs)| (*prefix, (**attrs).clone())).collect();
            prop_assert_eq!(received, expected);
        }
    }

    /// Applying the difference to the old table gives the new one, without a word too many.
    #[test]
    fn a_difference_is_exact(first in tables(), second in tables()) {
        let mut told = AdjRibOut::default();
        told.converge(first.clone());
        let diff = told.converge(second.clone());
        let mut table = first.clone();
        for prefix in &diff.withdraw {
            prop_assert!(table.remove(prefix).is_some());
        }
        for (prefix, route) in &diff.announce {
            prop_assert_ne!(first.get(prefix), Some(route));
            table.insert(*prefix, route.clone());
        }
        prop_assert_eq!(table, second);
    }
}
