//! UPDATEs from a table of raw bytes: what they become, and what a fault in them costs.

use super::*;
use crate::proto::bgp::frame::FrameReader;
use crate::types::{AsPath, AsPathSegment, Asn, Community, LargeCommunity, Origin, RouterId};
use bytes::BytesMut;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::time::Duration;

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 10, 2, 2, 0, 0, 0xFC, 0x59, 0, 0, 0x0D, 0x1C]; // 64601 3356
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 10, 9, 1, 2];
const LOCAL_PREF: &[u8] = &[0x40, 5, 4, 0, 0, 0, 200];
const NLRI: &[u8] = &[24, 198, 18, 7];

fn session(peer_as: u32, add_path: bool) -> Negotiated {
    Negotiated {
        local_as: Asn(64500),
        peer_as: Asn(peer_as),
        peer_router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
        hold: Duration::from_secs(9),
        families: Family::ALL.to_vec(),
        add_path: if add_path { Family::ALL.to_vec() } else { Vec::new() },
        four_octet_as: true,
        route_refresh: true,
        enhanced_refresh: false,
        extended_next_hop: false,
        message_limit: 4096,
        restart: None,
        role: None,
        ours: Vec::new(),
        theirs: Vec::new(),
    }
}

fn frame(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Frame {
    let attributes = attributes.concat();
    let mut message = BytesMut::from(&[0xFF_u8; 16][..]);
    let len = 19 + 2 + withdrawn.len() + 2 + attributes.len() + nlri.len();
    message.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    message.extend_from_slice(&[2]);
    message.extend_from_slice(&u16::try_from(withdrawn.len()).unwrap().to_be_bytes());
    message.extend_from_slice(withdrawn);
    message.extend_from_slice(&u16::try_from(attributes.len()).unwrap().to_be_bytes());
    message.extend_from_slice(&attributes);
    message.extend_from_slice(nlri);
    FrameReader::default().next(&mut message).unwrap().unwrap()
}

fn translate(peer_as: u32, add_path: bool, frame: &Frame) -> (Result<Translated, Reset>, Dispositions) {
    let mut translator =
        Translator::new(&session(peer_as, add_path), Import::default(), Dispositions::default());
    let result = translator.translate(frame);
    (result, translator.counts())
}

/// On iBGP, without ADD-PATH.
fn internal(frame: &Frame) -> (Result<Translated, Reset>, Dispositions) {
    translate(64500, false, frame)
}

fn withdraw(prefix: &str) -> Change {
    Change::Withdraw { prefix: prefix.parse().unwrap(), path_id: PathId(0) }
}

fn mp_reach(next_hop: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut value = vec![0, 2, 1, u8::try_from(next_hop.len()).unwrap()];
    value.extend_from_slice(next_hop);
    value.push(0);
    value.extend_from_slice(nlri);
    let mut attribute = vec![0x80, 14, u8::try_from(value.len()).unwrap()];
    attribute.extend(value);
    attribute
}

const V6_HOP: [u8; 16] = [0x20, 1, 0x0D, 0xB8, 0, 0xA, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

#[test]
fn all_attributes_arrive_and_are_shared_by_the_prefixes() {
    let communities: &[u8] = &[0xC0, 8, 8, 0xFC, 0x59, 0, 2, 0xFC, 0x59, 0, 1];
    let large: &[u8] = &[0xC0, 32, 12, 0, 0, 0xFC, 0x59, 0, 0, 0, 1, 0, 0, 0, 2];
    let med: &[u8] = &[0x80, 4, 4, 0, 0, 0, 7];
    let originator: &[u8] = &[0x80, 9, 4, 10, 0, 0, 5];
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP, med, LOCAL_PREF, communities, originator, large];
    let (result, counts) = internal(&frame(&[], &attributes, &[24, 198, 18, 7, 16, 198, 19]));
    let changes = result.unwrap().changes;
    let [Change::Announce { attrs, prefix, .. }, Change::Announce { attrs: second, .. }] = &changes[..]
    else {
        panic!("{changes:?}");
    };
    assert_eq!(prefix.to_string(), "198.18.7.0/24");
    assert!(Arc::ptr_eq(attrs, second));
    assert_eq!(
        **attrs,
        RouteAttrs {
            next_hop: "10.9.1.2".parse().unwrap(),
            as_path: AsPath::sequence([64601, 3356]),
            origin: Origin::Igp,
            local_pref: 200,
            med: Some(7),
            communities: vec![Community(64601 << 16 | 1), Community(64601 << 16 | 2)],
            large_communities: vec![LargeCommunity { global: 64601, local1: 1, local2: 2 }],
            originator: Some(Ipv4Addr::new(10, 0, 0, 5)),
            cluster_hops: 0,
            carried: Box::default(),
        }
    );
    assert_eq!(counts, Dispositions::default());
}

#[test]
fn local_pref_of_an_external_peer_is_ignored() {
    let (result, _) = translate(64601, false, &frame(&[], &[ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF], NLRI));
    let changes = result.unwrap().changes;
    assert!(matches!(&changes[..], [Change::Announce { attrs, .. }] if attrs.local_pref == 100));
}

#[test]
fn path_identifiers_are_kept_in_both_families() {
    let reach = mp_reach(&V6_HOP, &[0, 0, 0, 9, 32, 0x20, 1, 0x0D, 0xB8]);
    let withdrawn = [0, 0, 0, 4, 24, 198, 18, 9];
    let nlri = [0, 0, 0, 8, 24, 198, 18, 7];
    let update = frame(&withdrawn, &[ORIGIN, AS_PATH, NEXT_HOP, &reach], &nlri);
    let changes = translate(64500, true, &update).0.unwrap().changes;
    let seen: Vec<(String, u32, String)> = changes
        .iter()
        .map(|change| match change {
            Change::Announce { prefix, path_id, attrs } => {
                (prefix.to_string(), path_id.0, attrs.next_hop.to_string())
            }
            Change::Withdraw { prefix, path_id } => (prefix.to_string(), path_id.0, String::new()),
        })
        .collect();
    let expected =
        [("198.18.9.0/24", 4, ""), ("198.18.7.0/24", 8, "10.9.1.2"), ("2001:db8::/32", 9, "2001:db8:a::2")];
    assert_eq!(seen, expected.map(|(prefix, id, hop)| (prefix.to_owned(), id, hop.to_owned())));
}

#[test]
fn end_of_rib_is_told_from_an_update_in_both_families() {
    let unreach_v6: &[u8] = &[0x80, 15, 3, 0, 2, 1];
    let unreach_v4: &[u8] = &[0x80, 15, 3, 0, 1, 1];
    for (update, family) in [
        (frame(&[], &[], &[]), Some(Family::V4)),
        (frame(&[], &[unreach_v6], &[]), Some(Family::V6)),
        (frame(&[], &[unreach_v4], &[]), Some(Family::V4)),
        (frame(&[24, 198, 18, 7], &[], &[]), None),
        (frame(&[], &[&[0x80, 15, 8, 0, 2, 1, 32, 0x20, 1, 0x0D, 0xB8]], &[]), None),
    ] {
        assert_eq!(internal(&update).0.unwrap().end_of_rib, family, "{update:?}");
    }
}

/// What an UPDATE with one fault costs: the changes left, the counter that grew, the attribute named.
#[test]
fn faults_cost_no_more_than_rfc_7606_says() {
    struct Case {
        title: &'static str,
        attributes: Vec<Vec<u8>>,
        kind: &'static str,
        attribute: &'static str,
    }
    let base = [ORIGIN, AS_PATH, NEXT_HOP];
    let with = |extra: &[u8]| base.iter().copied().chain([extra]).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let without = |code: u8| base.iter().filter(|a| a[1] != code).map(|a| a.to_vec()).collect::<Vec<_>>();
    let case = |title, attributes, kind, attribute| Case { title, attributes, kind, attribute };
    let withdraw_kind = "treat-as-withdraw";
    let discard_kind = "attribute-discard";
    for Case { title, attributes, kind, attribute } in [
        case(
            "an ORIGIN of value 9",
            {
                let mut list = without(1);
                list.push(vec![0x40, 1, 1, 9]);
                list
            },
            withdraw_kind,
            "ORIGIN",
        ),
        case("no ORIGIN", without(1), withdraw_kind, "ORIGIN"),
        case("no AS_PATH", without(2), withdraw_kind, "AS_PATH"),
        case("no NEXT_HOP on an iBGP session", without(3), withdraw_kind, "NEXT_HOP"),
        case(
            "a NEXT_HOP of 0.0.0.0",
            {
                let mut list = without(3);
                list.push(vec![0x40, 3, 4, 0, 0, 0, 0]);
                list
            },
            withdraw_kind,
            "NEXT_HOP",
        ),
        case("a MED of three bytes", with(&[0x80, 4, 3, 0, 0, 7]), withdraw_kind, "MULTI_EXIT_DISC"),
        case("a COMMUNITIES of five bytes", with(&[0xC0, 8, 5, 1, 2, 3, 4, 5]), withdraw_kind, "COMMUNITIES"),
        case(
            "a LARGE_COMMUNITY of eleven bytes",
            with(&[0xC0, 32, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
            withdraw_kind,
            "LARGE_COMMUNITY",
        ),
        case("a LOCAL_PREF of three bytes, iBGP", with(&[0x40, 5, 3, 0, 0, 7]), withdraw_kind, "LOCAL_PREF"),
        case("an AGGREGATOR of three bytes", with(&[0xC0, 7, 3, 1, 2, 3]), discard_kind, "AGGREGATOR"),
        case("an ATOMIC_AGGREGATE of one byte", with(&[0x40, 6, 1, 0]), discard_kind, "ATOMIC_AGGREGATE"),
        case("a second ORIGIN", with(ORIGIN), discard_kind, "ORIGIN"),
        case(
            "an attribute that overruns the section",
            with(&[0xC0, 8, 200, 1]),
            withdraw_kind,
            "COMMUNITIES",
        ),
    ] {
        let attributes: Vec<&[u8]> = attributes.iter().map(Vec::as_slice).collect();
        let (result, counts) = internal(&frame(&[], &attributes, NLRI));
        let translated = result.unwrap();
        let notice = translated.notices.first().unwrap_or_else(|| panic!("{title}: nothing noted"));
        assert_eq!((notice.kind, notice.attribute), (kind, attribute), "{title}");
        assert_eq!(notice.prefix, Some("198.18.7.0/24".parse().unwrap()), "{title}");
        if kind == withdraw_kind {
            assert_eq!(translated.changes, [withdraw("198.18.7.0/24")], "{title}");
            assert_eq!((counts.treat_as_withdraw, counts.attribute_discard), (1, 0), "{title}");
        } else {
            assert!(matches!(translated.changes[..], [Change::Announce { .. }]), "{title}");
            assert_eq!((counts.treat_as_withdraw, counts.attribute_discard), (0, 1), "{title}");
        }
    }
}

/// IPv4 and IPv6 NLRI with next hops in IPv6, in every form that peers write them.
#[test]
fn a_next_hop_in_ipv6_is_the_global_one_or_the_link_local_one_where_it_means_something() {
    let local = |last: u8| [0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let pair = |first: [u8; 16], second: [u8; 16]| [first, second].concat();
    let (external, near, border) = ((64601, false), (64601, true), (64500, false));
    for (title, next_hop, (peer_as, link_local), expected) in [
        ("a global one", V6_HOP.to_vec(), external, Some("2001:db8:a::2")),
        ("a global and a link-local one", pair(V6_HOP, local(1)), external, Some("2001:db8:a::2")),
        ("the same on a link-local session", pair(V6_HOP, local(1)), near, Some("2001:db8:a::2")),
        ("a link-local one alone", local(1).to_vec(), near, Some("fe80::1")),
        ("twice the link-local one, as FRR writes it", pair(local(1), local(1)), near, Some("fe80::1")),
        ("none and a link-local one, as BIRD writes it", pair([0; 16], local(1)), near, Some("fe80::1")),
        ("the border passes its neighbour's on", pair([0; 16], local(1)), border, Some("fe80::1")),
        ("link-local, from a peer at a global address", local(1).to_vec(), external, None),
        ("none and a link-local one, from such a peer", pair([0; 16], local(1)), external, None),
        ("none at all", [0; 16].to_vec(), near, None),
        ("a pair whose second is global", pair(V6_HOP, V6_HOP), near, None),
    ] {
        for (afi, nlri, prefix) in
            [(1, &[24, 198, 18, 7][..], "198.18.7.0/24"), (2, &[16, 0x20, 1], "2001::/16")]
        {
            let mut reach = mp_reach(&next_hop, nlri);
            reach[4] = afi;
            let import = Import { link_local, ..Import::default() };
            let session = Negotiated { extended_next_hop: true, ..session(peer_as, false) };
            let mut translator = Translator::new(&session, import, Dispositions::default());
            let translated = translator.translate(&frame(&[], &[ORIGIN, AS_PATH, &reach], &[])).unwrap();
            let got = match &translated.changes[..] {
                [Change::Announce { prefix: to, attrs, .. }] => {
                    assert_eq!(to.to_string(), prefix, "{title}");
                    Some(attrs.next_hop.to_string())
                }
                [Change::Withdraw { .. }] => None,
                other => panic!("{title}: {other:?}"),
            };
            assert_eq!(got.as_deref(), expected, "{title}, {prefix}");
            assert_eq!(translator.counts().treat_as_withdraw, u64::from(expected.is_none()), "{title}");
        }
    }
}

#[test]
fn nlri_that_cannot_be_located_resets_the_session() {
    for (title, update, attribute) in [
        ("a prefix of 33 bits", frame(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[33, 1, 2, 3, 4, 5]), "NLRI"),
        ("a truncated prefix", frame(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[24, 1]), "NLRI"),
        ("a truncated withdrawal", frame(&[24, 1], &[], &[]), "NLRI"),
        (
            "an MP_REACH_NLRI of three bytes",
            frame(&[], &[ORIGIN, AS_PATH, &[0x80, 14, 3, 0, 2, 1]], &[]),
            "MP_REACH_NLRI",
        ),
    ] {
        let (result, counts) = internal(&update);
        let reset = result.expect_err(title);
        assert_eq!(reset.attribute, attribute, "{title}");
        assert_eq!(reset.notification.code.as_u8(), 3, "{title}");
        assert_eq!(counts.session_reset, 1, "{title}");
    }
}

#[test]
fn treat_as_withdraw_covers_the_nlri_of_both_families() {
    let reach = mp_reach(&V6_HOP, &[32, 0x20, 1, 0x0D, 0xB8]);
    let update = frame(&[], &[ORIGIN, NEXT_HOP, &reach], NLRI);
    let changes = internal(&update).0.unwrap().changes;
    assert_eq!(changes, [withdraw("198.18.7.0/24"), withdraw("2001:db8::/32")]);
}

#[test]
fn martians_are_withdrawn_and_the_rest_of_the_update_stays() {
    let (result, counts) = internal(&frame(&[], &[ORIGIN, AS_PATH, NEXT_HOP], &[8, 127, 24, 198, 18, 7]));
    let translated = result.unwrap();
    assert_eq!(translated.changes[0], withdraw("127.0.0.0/8"));
    assert!(matches!(translated.changes[1], Change::Announce { .. }));
    assert_eq!(counts.martian, 1);
    assert_eq!(
        translated.notices[0].to_string(),
        "martian of 127.0.0.0/8: a destination that is never routed, refused"
    );
}

#[test]
fn our_own_as_is_a_loop_on_external_sessions_only() {
    let path: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xFB, 0xF4]; // 64500
    let update = frame(&[], &[ORIGIN, path, NEXT_HOP], NLRI);
    let (result, counts) = translate(64601, false, &update);
    assert_eq!(result.unwrap().changes, [withdraw("198.18.7.0/24")]);
    assert_eq!(counts.as_loop, 1);
    assert!(matches!(internal(&update).0.unwrap().changes[..], [Change::Announce { .. }]));
}

#[test]
fn a_path_with_an_as_set_is_learnt_and_counted() {
    let path: &[u8] = &[0x40, 2, 6, 1, 1, 0, 0, 0xFC, 0x59];
    let (result, counts) = internal(&frame(&[], &[ORIGIN, path, NEXT_HOP], NLRI));
    let changes = result.unwrap().changes;
    let set = AsPath(vec![AsPathSegment::Set(vec![Asn(64601)])]);
    assert!(matches!(&changes[..], [Change::Announce { attrs, .. }] if attrs.as_path == set), "{changes:?}");
    assert_eq!((counts.as_set, counts.treat_as_withdraw), (1, 0));
}

proptest! {
    /// Whatever the bytes, translating them ends in changes or a reset, and counters that add up.
    #[test]
    fn no_bytes_make_the_translation_fail(
        withdrawn in proptest::collection::vec(any::<u8>(), 0..24),
        attributes in proptest::collection::vec(any::<u8>(), 0..80),
        nlri in proptest::collection::vec(any::<u8>(), 0..24),
        add_path in any::<bool>(),
        peer_as in prop_oneof![Just(64500_u32), Just(64601)],
    ) {
        let (result, counts) = translate(peer_as, add_path, &frame(&withdrawn, &[&attributes], &nlri));
        prop_assert_eq!(counts.session_reset, u64::from(result.is_err()));
    }

    /// One flipped byte in a good UPDATE never announces more than was there.
    #[test]
    fn a_damaged_update_announces_no_other_prefix_than_its_nlri_holds(at in 0_usize..28, value in any::<u8>()) {
        let mut attributes = [ORIGIN, AS_PATH, NEXT_HOP].concat();
        if at < attributes.len() {
            attributes[at] = value;
        }
        if let Ok(translated) = internal(&frame(&[], &[&attributes], NLRI)).0 {
            for change in &translated.changes {
                let (Change::Announce { prefix, .. } | Change::Withdraw { prefix, .. }) = change;
                prop_assert_eq!(prefix.to_string(), "198.18.7.0/24");
            }
        }
    }
}
