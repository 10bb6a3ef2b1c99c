//! BMP messages from a table of raw bytes: what they become, and what broken ones cost.

use super::header::{PeerHeader, PeerKey, RibView};
use super::message::{Malformed, Message, Reader, Stat};
use super::session::Reading;
use crate::proto::bgp::Change;
use crate::types::{Asn, Family, PathId};
use bytes::BytesMut;
use proptest::prelude::*;

/// Builders of messages, shared with the adapter's tests.
pub(crate) mod made {
    /// A BMP message.
    pub(crate) fn bmp(kind: u8, body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        let mut message = vec![3];
        message.extend(u32::try_from(6 + body.len()).unwrap().to_be_bytes());
        message.push(kind);
        message.extend(body);
        message
    }

    /// A per-peer header of an IPv4 peer in AS 64601, with these type and flags.
    pub(crate) fn header(kind: u8, flags: u8, last: u8) -> Vec<u8> {
        let mut header = vec![kind, flags];
        header.extend([0; 8]);
        header.extend([0; 12]);
        header.extend(if kind == 3 { [0; 4] } else { [192, 0, 2, last] });
        header.extend(64601_u32.to_be_bytes());
        header.extend([10, 0, 0, last]);
        header.extend([0; 8]);
        header
    }

    /// A BGP message.
    pub(crate) fn bgp(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0xFF; 16];
        message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
        message.push(kind);
        message.extend(body);
        message
    }

    /// An OPEN of `asn` for both families, with these ADD-PATH modes.
    pub(crate) fn open(asn: u32, add_path: u8) -> Vec<u8> {
        let mut capabilities = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4];
        capabilities.extend(asn.to_be_bytes());
        if add_path > 0 {
            capabilities.extend([69, 8, 0, 1, 1, add_path, 0, 2, 1, add_path]);
        }
        let len = u8::try_from(capabilities.len()).unwrap();
        let mut body = vec![4];
        body.extend(u16::try_from(asn).unwrap().to_be_bytes());
        body.extend([0, 90, 10, 0, 0, 1, len + 2, 2, len]);
        body.extend(capabilities);
        bgp(1, &body)
    }

    /// Peer Up of a peer in AS 64601 of a router in AS 64500.
    pub(crate) fn peer_up(header: &[u8], add_path: u8) -> Vec<u8> {
        bmp(3, &[header, &[0; 20], &open(64500, add_path), &open(64601, add_path)])
    }

    /// An UPDATE that announces `nlri` by 64601 3356, with `more` attributes.
    pub(crate) fn update(more: &[u8], nlri: &[u8]) -> Vec<u8> {
        let attributes = [
            &[0x40, 1, 1, 0][..],
            &[0x40, 2, 10, 2, 2, 0, 0, 0xFC, 0x59, 0, 0, 0x0D, 0x1C],
            &[0x40, 3, 4, 192, 0, 2, 1],
            more,
        ]
        .concat();
        let mut body = vec![0, 0];
        body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
        body.extend(attributes);
        body.extend(nlri);
        bgp(2, &body)
    }

    /// End-of-RIB of IPv4, and of IPv6.
    pub(crate) fn end_of_rib() -> [Vec<u8>; 2] {
        [bgp(2, &[0; 4]), bgp(2, &[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1])]
    }

    /// Initiation of a router.
    pub(crate) fn initiation() -> Vec<u8> {
        bmp(4, &[&[0, 1, 0, 3], b"lab", &[0, 2, 0, 5], b"edge2"])
    }
}

use made::{bgp, bmp, end_of_rib, header, initiation, open, peer_up, update};

fn read(bytes: &[u8]) -> Result<Option<Message>, Malformed> {
    Reader.next(&mut BytesMut::from(bytes))
}

fn whole(bytes: &[u8]) -> Message {
    read(bytes).unwrap().unwrap()
}

fn peer_of(flags: u8, kind: u8) -> PeerHeader {
    match whole(&bmp(1, &[&header(kind, flags, 1), &[0; 4]])) {
        Message::Stats { peer, .. } => peer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flags_say_which_table_a_message_is_about() {
    for (kind, flags, view) in [
        (0, 0x00, RibView::AdjInPrePolicy),
        (0, 0x40, RibView::AdjInPostPolicy),
        (1, 0x10, RibView::AdjOutPrePolicy),
        (2, 0x50, RibView::AdjOutPostPolicy),
        // The same bits mean something else for a Loc-RIB.
        (3, 0xF0, RibView::LocRib),
    ] {
        assert_eq!(peer_of(flags, kind).view, view, "type {kind} flags {flags:#x}");
    }
    assert!(peer_of(0x20, 0).legacy_as_path && !peer_of(0x20, 3).legacy_as_path);
    let v4 = peer_of(0, 0);
    assert_eq!((v4.key.address.to_string().as_str(), v4.asn), ("192.0.2.1", Asn(64601)));
    assert_eq!(peer_of(0x80, 0).key.address.to_string(), "::c000:201");
    assert_eq!(peer_of(0, 3).key, PeerKey { address: [0, 0, 0, 0].into(), distinguisher: 0 });
}

#[test]
fn initiation_and_termination_are_read_as_text_without_control_characters() {
    let Message::Initiation { name, description } = whole(&initiation()) else { panic!() };
    assert_eq!((name.as_str(), description.as_str()), ("edge2", "lab"));
    let bytes = bmp(5, &[&[0, 0, 0, 4], b"a\x1bb\n", &[0, 1, 0, 2, 0, 2]]);
    let Message::Termination { reason } = whole(&bytes) else { panic!() };
    assert_eq!(reason, "a b : out of resources");
}

#[test]
fn the_reason_of_peer_down_is_said_in_words() {
    for (body, part) in [
        (&[&[1][..], &bgp(3, &[6, 2])].concat(), "the router closed the session with NOTIFICATION 6/2"),
        (&vec![2, 0, 24], "without a NOTIFICATION"),
        (&[&[3][..], &bgp(3, &[4, 0])].concat(), "the peer closed the session with NOTIFICATION 4/0"),
        (&vec![4], "the peer closed the session without"),
        (&vec![5], "no longer monitors"),
        (&vec![6], "closed the table"),
        (&vec![99], "for reason 99"),
    ] {
        let Message::PeerDown { reason, .. } = whole(&bmp(2, &[&header(0, 0, 1), body])) else { panic!() };
        assert!(reason.contains(part), "{reason}");
    }
    assert!(matches!(read(&bmp(2, &[&header(0, 0, 1)])), Err(Malformed::Short { .. })));
}

#[test]
fn statistics_of_known_lengths_are_kept() {
    let tlvs: &[&[u8]] = &[
        &header(0, 0, 1),
        &[0, 0, 0, 3],
        &[0, 0, 0, 4, 0, 0, 0, 9],
        &[0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0, 9, 0, 11, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 5],
        &[0, 9, 0, 11, 0, 25, 70, 0, 0, 0, 0, 0, 0, 0, 5],
    ];
    let Message::Stats { stats, .. } = whole(&bmp(1, tlvs)) else { panic!() };
    let stat = |kind, family, value| Stat { kind, family, value };
    assert_eq!(stats, [stat(0, None, 9), stat(7, None, 256), stat(9, Some(Family::V6), 5)]);
}

fn reading(kind: u8, flags: u8, sent: u8, received: u8) -> (PeerHeader, Reading) {
    let bytes = bmp(3, &[&header(kind, flags, 1), &[0; 20], &open(64500, sent), &open(64601, received)]);
    let Message::PeerUp { peer, up } = whole(&bytes) else { panic!() };
    (peer, Reading::new(&peer, &up, true, Default::default()).unwrap())
}

#[test]
fn both_opens_and_the_table_say_whether_there_are_path_identifiers() {
    for (title, kind, flags, sent, received, add_path) in [
        ("nobody offers them", 0, 0x00, 0, 0, false),
        ("the peer sends paths and the router takes them", 0, 0x00, 1, 2, true),
        ("the router sends paths and the peer takes them", 0, 0x00, 2, 1, false),
        ("the same, seen in Adj-RIB-Out", 0, 0x50, 2, 1, true),
        ("Loc-RIB, whoever sends", 3, 0x00, 2, 1, true),
    ] {
        let (_, reading) = reading(kind, flags, sent, received);
        assert_eq!(reading.add_path().len(), if add_path { 2 } else { 0 }, "{title}");
        assert_eq!(reading.families(), Family::ALL, "{title}");
    }
}

#[test]
fn routers_that_leave_path_identifiers_out_are_known_by_name() {
    use super::session::writes_path_ids;
    let (pre, post) = (RibView::AdjInPrePolicy, RibView::AdjInPostPolicy);
    for (name, description, view, writes) in [
        ("edge2", "FRRouting 8.4.4", pre, false),
        ("edge2", "FRRouting 10.2", pre, true),
        ("GoBGP", "3.10.0", pre, true),
        ("GoBGP", "3.10.0", post, false),
        ("edge2", "a router of 2031", post, true),
    ] {
        assert_eq!(writes_path_ids(name, description, view), writes, "{name} {description} {view}");
    }
    let bytes = peer_up(&header(0, 0, 1), 3);
    let Message::PeerUp { peer, up } = whole(&bytes) else { panic!() };
    assert!(Reading::new(&peer, &up, false, Default::default()).unwrap().add_path().is_empty());
}

#[test]
fn a_peer_up_whose_open_is_another_message_says_so() {
    let keepalive = bgp(4, &[]);
    let Message::PeerUp { peer, up } = whole(&bmp(3, &[&header(0, 0, 1), &[0; 20], &keepalive, &keepalive]))
    else {
        panic!()
    };
    let error = Reading::new(&peer, &up, true, Default::default()).unwrap_err();
    assert!(error.to_string().contains("192.0.2.1"));
}

/// The changes that one UPDATE of a peer in AS 64601 means to a router in AS 64500.
fn changes(flags: u8, add_path: u8, update: &[u8]) -> Vec<Change> {
    let (_, mut reading) = reading(0, flags, add_path, add_path);
    let Message::Routes { peer, update } = whole(&bmp(0, &[&header(0, flags, 1), update])) else { panic!() };
    reading.translate(&peer, &update).unwrap().changes
}

#[test]
fn routes_mean_what_they_mean_on_a_session_of_our_own() {
    let announced = changes(0, 3, &update(&[], &[0, 0, 0, 7, 24, 198, 18, 5]));
    let [Change::Announce { prefix, path_id, attrs }] = &announced[..] else { panic!("{announced:?}") };
    assert_eq!((prefix.to_string().as_str(), *path_id), ("198.18.5.0/24", PathId(7)));
    assert_eq!(attrs.as_path.to_string(), "64601 3356");
    let (_, mut reading) = reading(0, 0, 0, 0);
    for (end, family) in end_of_rib().iter().zip(Family::ALL) {
        let Message::Routes { peer, update } = whole(&bmp(0, &[&header(0, 0, 1), end])) else { panic!() };
        assert_eq!(reading.translate(&peer, &update).unwrap().end_of_rib, Some(family));
    }
}

/// An UPDATE with this AS_PATH of four-octet numbers in one sequence.
fn with_path(path: &[u32]) -> Vec<u8> {
    let asns: Vec<u8> = path.iter().flat_map(|asn| asn.to_be_bytes()).collect();
    let len = u8::try_from(path.len()).unwrap();
    let attributes = [
        &[0x40, 1, 1, 0][..],
        &[0x40, 2, len * 4 + 2, 2, len],
        &asns,
        &[0x40, 3, 4, 192, 0, 2, 1, 0x40, 5, 4, 0, 0, 0, 250],
    ]
    .concat();
    let mut body = vec![0, 0, 0, u8::try_from(attributes.len()).unwrap()];
    body.extend(attributes);
    body.extend([24, 198, 18, 5, 24, 198, 18, 6]);
    bgp(2, &body)
}

#[test]
fn routes_are_mended_where_a_router_writes_them_otherwise_than_it_received_them() {
    for (title, flags, path, expected) in [
        ("as received", 0x00, &[64601, 3356][..], Some(("64601 3356", 100))),
        ("the router's own AS in front", 0x00, &[64500, 64601, 3356], Some(("64601 3356", 100))),
        ("the same after policy, with its LOCAL_PREF", 0x40, &[64500, 64601], Some(("64601", 250))),
        ("a loop", 0x00, &[64601, 64500], None),
        ("a loop behind the router's own AS", 0x40, &[64500, 64601, 64500, 1], None),
    ] {
        let changes = changes(flags, 0, &with_path(path));
        assert_eq!(changes.len(), 2, "{title}");
        for change in changes {
            let seen = match &change {
                Change::Announce { attrs, .. } => Some((attrs.as_path.to_string(), attrs.local_pref)),
                Change::Withdraw { .. } => None,
            };
            assert_eq!(seen, expected.map(|(path, pref)| (path.to_owned(), pref)), "{title}");
        }
    }
}

#[test]
fn a_loop_that_carries_etms_community_is_told_where_it_is_asked_for() {
    let body = [
        &[0, 0, 0, 31, 0x40, 1, 1, 0, 0x40, 2, 10, 2, 2][..],
        &[64601u32.to_be_bytes(), 64500u32.to_be_bytes()].concat(),
        &[0x40, 3, 4, 192, 0, 2, 1, 0xC0, 8, 4, 0xFB, 0xF4, 0, 179, 24, 198, 18, 5],
    ]
    .concat();
    for (own, told) in [("64500:179", true), ("64500:180", false)] {
        let (_, reading) = reading(0, 0, 0, 0);
        let frame = bmp(0, &[&header(0, 0, 1), &bgp(2, &body)]);
        let Message::Routes { peer, update } = whole(&frame) else { panic!() };
        let changes = reading.telling(own.parse().unwrap()).translate(&peer, &update).unwrap().changes;
        assert_eq!(matches!(changes[..], [Change::Announce { .. }]), told, "{own}: {changes:?}");
    }
}

#[test]
fn the_form_of_as_paths_may_change_from_message_to_message() {
    let (_, mut reading) = reading(0, 0, 0, 0);
    let legacy =
        [&[0x40, 1, 1, 0][..], &[0x40, 2, 6, 2, 2, 0xFC, 0x59, 0x0D, 0x1C], &[0x40, 3, 4, 192, 0, 2, 1]];
    let attributes = legacy.concat();
    let mut body = vec![0, 0, 0, u8::try_from(attributes.len()).unwrap()];
    body.extend(attributes);
    body.extend([24, 198, 18, 5]);
    for (flags, update) in [(0x20, bgp(2, &body)), (0x00, update(&[], &[24, 198, 18, 5]))] {
        let Message::Routes { peer, update } = whole(&bmp(0, &[&header(0, flags, 1), &update])) else {
            panic!()
        };
        let changes = reading.translate(&peer, &update).unwrap().changes;
        let [Change::Announce { attrs, .. }] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(attrs.as_path.to_string(), "64601 3356", "flags {flags:#x}");
    }
}

#[test]
fn what_is_not_bmp_ends_the_stream_and_a_broken_update_does_not() {
    assert_eq!(read(b"SSH-2.0").unwrap_err(), Malformed::Version { version: b'S' });
    assert_eq!(read(&[2]).unwrap_err(), Malformed::Version { version: 2 });
    assert_eq!(read(&[3, 0, 0, 0, 5, 4]).unwrap_err(), Malformed::Length { len: 5 });
    assert_eq!(read(&[3, 1, 0, 0, 0]).unwrap_err(), Malformed::Length { len: 1 << 24 });
    assert!(matches!(read(&bmp(0, &[&[0; 41]])), Err(Malformed::Short { .. })));
    let broken = bmp(0, &[&header(0, 0, 1), &[0xFF; 18]]);
    let mut stream = BytesMut::from(&[broken, initiation()].concat()[..]);
    assert!(matches!(Reader.next(&mut stream).unwrap(), Some(Message::Faulty { .. })));
    assert!(matches!(Reader.next(&mut stream).unwrap(), Some(Message::Initiation { .. })));
    assert!(stream.is_empty());
    assert!(matches!(whole(&bmp(77, &[])), Message::Unknown { kind: 77 }));
}

#[test]
fn messages_are_cut_wherever_the_stream_was_split() {
    let stream =
        [initiation(), peer_up(&header(0, 0, 1), 0), bmp(0, &[&header(0, 0, 1), &update(&[], &[8, 11])])];
    let mut buffer = BytesMut::new();
    let mut seen = 0;
    for byte in stream.concat() {
        buffer.extend_from_slice(&[byte]);
        while Reader.next(&mut buffer).unwrap().is_some() {
            seen += 1;
        }
    }
    assert_eq!((seen, buffer.len()), (3, 0));
}

/// Messages of every kind, to be damaged.
fn seeds() -> Vec<Vec<u8>> {
    let header = header(0, 0, 1);
    vec![
        initiation(),
        peer_up(&header, 3),
        bmp(0, &[&header, &update(&[0x40, 5, 4, 0, 0, 0, 9], &[0, 0, 0, 1, 24, 198, 18, 5])]),
        bmp(1, &[&header, &[0, 0, 0, 1, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 1, 0]]),
        bmp(2, &[&header, &[3], &bgp(3, &[6, 2])]),
        bmp(5, &[&[0, 1, 0, 2, 0, 2]]),
        bmp(6, &[&header, &[0, 0, 0, 2, 1, 2]]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is damaged, reading goes on or ends with an error; every round makes the buffer shorter.
    #[test]
    fn damaged_messages_end_in_a_message_or_an_error(
        which in 0_usize..7,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        keep_length in any::<bool>(),
    ) {
        let mut bytes = seeds().swap_remove(which);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if keep_length {
            bytes.truncate(6 + cut.index(bytes.len()));
            let len = u32::try_from(bytes.len()).unwrap().to_be_bytes();
            if bytes.len() >= 6 {
                bytes[0] = 3;
                bytes[1..5].copy_from_slice(&len);
            }
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        loop {
            let before = buffer.len();
            match Reader.next(&mut buffer) {
                Ok(Some(Message::PeerUp { peer, up })) => drop(Reading::new(&peer, &up, true, Default::default())),
                Ok(Some(Message::Routes { peer, update })) => {
                    let (_, mut reading) = reading(0, 0, 3, 3);
                    drop(reading.translate(&peer, &update));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
            prop_assert!(buffer.len() < before);
        }
    }

    /// Bytes at random never make it panic.
    #[test]
    fn random_bytes_are_no_reason_to_panic(mut bytes in proptest::collection::vec(any::<u8>(), 6..400), kind in 0_u8..8) {
        let len = u32::try_from(bytes.len()).unwrap();
        bytes[0] = 3;
        bytes[1..5].copy_from_slice(&len.to_be_bytes());
        bytes[5] = kind;
        drop(read(&bytes));
    }
}
