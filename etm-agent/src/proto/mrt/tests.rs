//! MRT records from bytes, and back. bgpkit-parser, which shares no code with this, judges what is written.

use super::*;
use crate::proto::bgp::Unusable;
use crate::types::{
    AsPath, AsPathSegment, Asn, Community, Family, LargeCommunity, Origin, PathId, Prefix, RouteAttrs,
    RouterId,
};
use bgpkit_parser::models::{AttributeValue, MrtMessage, NetworkPrefix, TableDumpV2Message};
use bytes::Bytes;
use proptest::prelude::*;

const ATTRIBUTES: &[u8] = &[
    0x40, 1, 1, 0, // ORIGIN
    0x40, 2, 6, 2, 1, 0, 0, 0xFC, 0x59, // AS_PATH 64601
    0x40, 3, 4, 192, 0, 2, 1, // NEXT_HOP
];

fn read(kind: u16, subtype: u16, body: &[u8]) -> Result<Record, Malformed> {
    let len = u32::try_from(body.len()).unwrap();
    record(&Head { at: 0, kind, subtype, len }, Bytes::copy_from_slice(body))
}

/// The body of a RIB record with one route of peer 3 and path id 9 (with ADD-PATH).
fn rib_body(prefix: &[u8], add_path: bool, attributes: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 1];
    body.extend(prefix);
    body.extend([0, 1, 0, 3, 0, 0, 0, 5]);
    if add_path {
        body.extend([0, 0, 0, 9]);
    }
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    body
}

#[test]
fn routes_of_both_formats_and_families_are_read() {
    let v6_hop = [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let origin_and_path = &ATTRIBUTES[..13];
    let short = [origin_and_path, &[0x80, 14, 17, 16], &v6_hop].concat();
    let full =
        [origin_and_path, &[0x80, 14, 26, 0, 2, 1, 16], &v6_hop, &[0, 32, 0x20, 1, 0x0D, 0xB8]].concat();
    for (title, subtype, body, prefix, path, hop) in [
        ("IPv4", 2, rib_body(&[24, 198, 18, 5], false, ATTRIBUTES), "198.18.5.0/24", 0, "192.0.2.1"),
        ("IPv4, ADD-PATH", 8, rib_body(&[24, 198, 18, 5], true, ATTRIBUTES), "198.18.5.0/24", 9, "192.0.2.1"),
        ("the default route", 2, rib_body(&[0], false, ATTRIBUTES), "0.0.0.0/0", 0, "192.0.2.1"),
        ("IPv6", 4, rib_body(&[32, 0x20, 1, 0x0D, 0xB8], false, &short), "2001:db8::/32", 0, "2001:db8::1"),
        (
            "IPv6, ADD-PATH, NLRI kept",
            10,
            rib_body(&[32, 0x20, 1, 0x0D, 0xB8], true, &full),
            "2001:db8::/32",
            9,
            "2001:db8::1",
        ),
    ] {
        let Ok(Record::Rib { prefix: seen, entries }) = read(13, subtype, &body) else { panic!("{title}") };
        let attrs = entries[0].attrs.as_ref().unwrap_or_else(|error| panic!("{title}: {error}"));
        assert_eq!(
            (seen.to_string().as_str(), entries[0].path_id.0, entries[0].peer),
            (prefix, path, Err(3)),
            "{title}"
        );
        assert_eq!(
            (attrs.next_hop.to_string().as_str(), attrs.as_path.to_string().as_str()),
            (hop, "64601"),
            "{title}"
        );
    }
    // TABLE_DUMP has two-octet AS numbers, and the peer in each record.
    let attributes = [&ATTRIBUTES[..4], &[0x40, 2, 4, 2, 1, 0xFC, 0x59], &ATTRIBUTES[13..]].concat();
    let mut body = vec![0, 0, 0, 0, 198, 18, 5, 0, 24, 1, 0, 0, 0, 5, 192, 0, 2, 7, 0xFC, 0x59];
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    let Ok(Record::Rib { entries, .. }) = read(12, 1, &body) else { panic!() };
    assert_eq!(entries[0].peer.unwrap().address.to_string(), "192.0.2.7");
    assert_eq!(entries[0].attrs.as_ref().unwrap().as_path.to_string(), "64601");
}

/// A TABLE_DUMP record whose route has these attributes besides ORIGIN and NEXT_HOP, by a peer in AS_TRANS.
fn by_an_old_collector(attributes: &[u8]) -> (u32, String) {
    let attributes = [&ATTRIBUTES[..4], attributes, &ATTRIBUTES[13..]].concat();
    let mut body = vec![0, 0, 0, 0, 198, 18, 5, 0, 24, 1, 0, 0, 0, 5, 192, 0, 2, 7, 0x5B, 0xA0];
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    let Ok(Record::Rib { entries, .. }) = read(12, 1, &body) else { panic!() };
    let path = entries[0].attrs.as_ref().unwrap().as_path.to_string();
    (entries[0].peer.unwrap().asn.0, path)
}

#[test]
fn as_numbers_that_two_octets_cannot_hold_come_from_as4_path() {
    // 23456 23456 3356, and 196609 196610 3356.
    let two: &[u8] = &[0x40, 2, 8, 2, 3, 0x5B, 0xA0, 0x5B, 0xA0, 0x0D, 0x1C];
    let four: &[u8] = &[0xC0, 17, 14, 2, 3, 0, 3, 0, 1, 0, 3, 0, 2, 0, 0, 0x0D, 0x1C];
    // The same without the first: an old speaker put itself in front.
    let fewer: &[u8] = &[0xC0, 17, 10, 2, 2, 0, 3, 0, 2, 0, 0, 0x0D, 0x1C];
    // One more than AS_PATH has: RFC 6793 section 4.2.3 leaves it alone then.
    let more: &[u8] = &[0xC0, 17, 18, 2, 4, 0, 3, 0, 9, 0, 3, 0, 1, 0, 3, 0, 2, 0, 0, 0x0D, 0x1C];
    for (title, attributes, peer, path) in [
        ("all of it", [two, four], 196_609, "196609 196610 3356"),
        ("the rest behind what came later", [two, fewer], 23_456, "23456 196610 3356"),
        ("a longer one", [two, more], 23_456, "23456 23456 3356"),
        ("none", [two, &[]], 23_456, "23456 23456 3356"),
    ] {
        assert_eq!(by_an_old_collector(&attributes.concat()), (peer, path.to_owned()), "{title}");
    }
}

#[test]
fn communities_that_came_partial_are_written_once_and_partial() {
    use crate::proto::bgp::{store_attributes, stored_attributes};
    let large = [0xE0, 32, 12, 0, 0, 0xFC, 0x59, 0, 0, 0, 1, 0, 0, 0, 2];
    let stored = [ATTRIBUTES, &[0xE0, 8, 4, 0xFC, 0x59, 0, 2], &large].concat();
    let attrs = stored_attributes(&stored, true).unwrap();
    assert_eq!((attrs.communities.len(), attrs.large_communities.len()), (1, 1));
    let written = store_attributes(&attrs).unwrap();
    assert_eq!(stored_attributes(&written, true).unwrap(), attrs);
    assert_eq!(written.windows(2).filter(|two| **two == [0xE0, 8]).count(), 1, "{written:?}");
}

#[test]
fn a_bad_route_spoils_only_itself_and_a_bad_record_says_where_it_ends() {
    let no_hop = rib_body(&[24, 198, 18, 5], false, &ATTRIBUTES[..13]);
    let Ok(Record::Rib { entries, .. }) = read(13, 2, &no_hop) else { panic!() };
    assert_eq!(entries[0].attrs, Err(Unusable::NoNextHop));
    let bad_origin = [&[0x40, 1, 1, 9][..], &ATTRIBUTES[4..]].concat();
    let Ok(Record::Rib { entries, .. }) = read(13, 2, &rib_body(&[24, 198, 18, 5], false, &bad_origin))
    else {
        panic!()
    };
    assert!(entries[0].attrs.as_ref().unwrap_err().to_string().starts_with("ORIGIN"));
    let long = rib_body(&[33, 198, 18, 5, 0, 0], false, ATTRIBUTES);
    assert_eq!(read(13, 2, &long), Err(Malformed::Prefix { len: 33, family: Family::V4 }));
    let whole = rib_body(&[24, 198, 18, 5], false, ATTRIBUTES);
    for len in 0..whole.len() {
        assert!(matches!(read(13, 2, &whole[..len]), Err(Malformed::Short { .. })), "cut at {len}");
    }
    assert_eq!(read(16, 4, &[1, 2, 3]), Ok(Record::Other));
}

fn peers() -> Vec<Peer> {
    let peer = |address: &str, asn: u32| Peer {
        address: address.parse().unwrap(),
        asn: Asn(asn),
        router_id: RouterId([10, 0, 0, 7].into()),
    };
    vec![peer("192.0.2.1", 64601), peer("2001:db8::7", 4_200_000_001)]
}

fn attrs(next_hop: &str) -> RouteAttrs {
    RouteAttrs {
        as_path: AsPath(vec![
            AsPathSegment::Sequence(vec![Asn(64601), Asn(4_200_000_001)]),
            AsPathSegment::Set(vec![Asn(1), Asn(2)]),
        ]),
        origin: Origin::Incomplete,
        local_pref: 250,
        med: Some(7),
        communities: vec![Community(64500 << 16 | 1), Community::NO_EXPORT],
        large_communities: vec![LargeCommunity { global: 64500, local1: 1, local2: 2 }],
        originator: Some([10, 0, 0, 9].into()),
        ..RouteAttrs::to_next_hop(next_hop.parse().unwrap())
    }
}

#[test]
fn what_is_written_is_read_again() {
    let table = peer_index(99, RouterId([10, 0, 0, 1].into()), &peers());
    let head = head(table[..HEADER].try_into().unwrap());
    assert_eq!((head.at, head.kind, head.subtype), (99, 13, 1));
    assert_eq!(record(&head, Bytes::copy_from_slice(&table[HEADER..])), Ok(Record::Peers(peers())));
    for (prefix, hop, path_id, subtype) in [
        ("198.18.5.0/24", "192.0.2.1", 0, 2),
        ("198.18.5.0/24", "2001:db8::1", 4, 8),
        ("2001:db8::/32", "2001:db8::1", 0, 4),
        ("::/0", "2001:db8::1", 5, 10),
    ] {
        let attrs = attrs(hop);
        let stored = [StoredRoute { peer: 1, path_id: PathId(path_id), attrs: &attrs }];
        let (bytes, left_out) = rib(99, 3, prefix.parse().unwrap(), &stored);
        assert_eq!(left_out, []);
        let head = super::head(bytes[..HEADER].try_into().unwrap());
        assert_eq!(head.subtype, subtype, "{prefix} by {hop}");
        let entry = Entry { peer: Err(1), path_id: PathId(path_id), attrs: Ok(attrs) };
        let expected = Record::Rib { prefix: prefix.parse().unwrap(), entries: vec![entry] };
        assert_eq!(record(&head, Bytes::copy_from_slice(&bytes[HEADER..])), Ok(expected));
    }
}

#[test]
fn an_independent_reader_sees_the_same() {
    let (v4, v6) = (attrs("192.0.2.1"), attrs("2001:db8::1"));
    let mut file = peer_index(99, RouterId([10, 0, 0, 1].into()), &peers());
    let route = |peer, path_id, attrs| StoredRoute { peer, path_id: PathId(path_id), attrs };
    file.extend(rib(99, 0, "198.18.5.0/24".parse().unwrap(), &[route(0, 0, &v4), route(1, 0, &v4)]).0);
    file.extend(rib(99, 1, "198.18.6.0/23".parse().unwrap(), &[route(0, 3, &v4), route(0, 4, &v4)]).0);
    file.extend(rib(99, 2, "2001:db8::/32".parse().unwrap(), &[route(1, 0, &v6)]).0);
    let parser = bgpkit_parser::BgpkitParser::from_reader(&file[..]);
    let mut seen = Vec::new();
    for record in parser.into_record_iter() {
        let MrtMessage::TableDumpV2Message(message) = record.message else { panic!() };
        match message {
            TableDumpV2Message::PeerIndexTable(table) => {
                let (first, second) = (&table.id_peer_map[&0], &table.id_peer_map[&1]);
                assert_eq!(
                    (first.peer_ip.to_string(), first.peer_asn.to_u32()),
                    ("192.0.2.1".to_owned(), 64601)
                );
                assert_eq!(second.peer_asn.to_u32(), 4_200_000_001);
            }
            TableDumpV2Message::RibAfi(afi) => {
                for entry in &afi.rib_entries {
                    let NetworkPrefix { prefix, .. } = afi.prefix;
                    let path = entry.attributes.iter().find_map(|value| match value {
                        AttributeValue::AsPath(path) => Some(path.to_string()),
                        _ => None,
                    });
                    let reach = || entry.attributes.get_reachable_nlri()?.next_hop.map(|hop| hop.addr());
                    let hop = entry.attributes.next_hop().or_else(reach).map(|hop| hop.to_string());
                    seen.push((prefix.to_string(), entry.peer_index, entry.path_id, path, hop));
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let row = |prefix: &str, peer, path_id, hop: &str| {
        let path = "64601 4200000001 {1,2}".to_owned();
        (prefix.to_owned(), peer, path_id, Some(path), Some(hop.to_owned()))
    };
    assert_eq!(
        seen,
        [
            row("198.18.5.0/24", 0, None, "192.0.2.1"),
            row("198.18.5.0/24", 1, None, "192.0.2.1"),
            row("198.18.6.0/23", 0, Some(3), "192.0.2.1"),
            row("198.18.6.0/23", 0, Some(4), "192.0.2.1"),
            row("2001:db8::/32", 1, None, "2001:db8::1"),
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is damaged, a record is read or refused.
    #[test]
    fn damaged_records_are_no_reason_to_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        subtype in prop_oneof![Just(1_u16), Just(2), Just(4), Just(8), Just(10)],
        kind in 12_u16..14,
    ) {
        let mut body = rib_body(&[24, 198, 18, 5], subtype > 4, ATTRIBUTES);
        for (at, value) in damage {
            let at = at.index(body.len());
            body[at] = value;
        }
        body.truncate(cut.index(body.len() + 1));
        drop(read(kind, subtype, &body));
    }

    /// Any prefix and path id comes back as it was written.
    #[test]
    fn any_prefix_survives(addr in any::<u128>(), v6 in any::<bool>(), len in 0_u8..129, path_id in any::<u32>()) {
        let prefix = if v6 {
            Prefix::new(std::net::Ipv6Addr::from(addr).into(), len).unwrap()
        } else {
            let addr = std::net::Ipv4Addr::from(u32::try_from(addr >> 96).unwrap());
            Prefix::new(addr.into(), len % 33).unwrap()
        };
        let attrs = RouteAttrs::to_next_hop("192.0.2.1".parse().unwrap());
        let (bytes, _) = rib(0, 0, prefix, &[StoredRoute { peer: 0, path_id: PathId(path_id), attrs: &attrs }]);
        let head = head(bytes[..HEADER].try_into().unwrap());
        let Ok(Record::Rib { prefix: seen, entries }) = record(&head, Bytes::copy_from_slice(&bytes[HEADER..])) else {
            panic!()
        };
        prop_assert_eq!((seen, entries[0].path_id.0), (prefix, path_id));
    }
}
