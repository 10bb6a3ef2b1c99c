//! The whole receive path, from bytes to changes, on streams that were good before something bit them. Nothing may
//! panic, be announced that the bytes do not hold, or be kept.

use super::*;
use crate::types::bgp::{Dispositions, SessionState};
use crate::types::{Asn, RouterId};
use bytes::BytesMut;
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xFF; 16];
    bytes.extend_from_slice(&u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

/// An OPEN with every capability that is read, KEEPALIVE, UPDATEs of both families with every attribute that is read,
/// refreshes, End-of-RIBs, NOTIFICATION.
fn seeds() -> Vec<Vec<u8>> {
    let open: &[u8] = &[
        4, 0xFB, 0xF4, 0, 90, 10, 0, 0, 1, 59, 2, 57, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 6, 0, 70, 0,
        65, 4, 0, 0, 0xFB, 0xF4, 69, 8, 0, 1, 1, 3, 0, 2, 1, 3, 64, 10, 0x80, 120, 0, 1, 1, 0x80, 0, 2, 1,
        0x80, 5, 6, 0, 1, 0, 1, 0, 2, 9, 1, 3,
    ];
    let attributes: &[&[u8]] = &[
        &[0x40, 1, 1, 0],
        &[0x40, 2, 10, 2, 2, 0, 0, 0xFC, 0x59, 0, 0, 0x0D, 0x1C],
        &[0x40, 3, 4, 10, 9, 1, 2],
        &[0x80, 4, 4, 0, 0, 0, 7],
        &[0x40, 5, 4, 0, 0, 0, 200],
        &[0x40, 6, 0],
        &[0xC0, 7, 8, 0, 0, 0xFC, 0xBE, 192, 0, 2, 7],
        &[0xC0, 8, 8, 0xFC, 0x59, 0, 2, 0xFF, 0xFF, 0xFF, 1],
        &[0x80, 9, 4, 10, 0, 0, 5],
        &[0x80, 10, 4, 10, 0, 0, 6],
        &[0xC0, 16, 8, 0, 2, 0xFC, 0x59, 0, 0, 0, 1],
        &[0xC0, 32, 12, 0, 0, 0xFC, 0x59, 0, 0, 0, 1, 0, 0, 0, 2],
        &[0xC0, 35, 4, 0, 0, 0xFC, 0x59],
        &[0xD0, 229, 0, 3, 1, 2, 3],
    ];
    let reach: &[u8] = &[
        0x80, 14, 30, 0, 2, 1, 16, 0x20, 1, 0x0D, 0xB8, 0, 0xA, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1,
        32, 0x20, 1, 0x0D, 0xB8,
    ];
    let update = |withdrawn: &[u8], attributes: &[u8], nlri: &[u8]| {
        let mut body = u16::try_from(withdrawn.len()).unwrap().to_be_bytes().to_vec();
        body.extend_from_slice(withdrawn);
        body.extend_from_slice(&u16::try_from(attributes.len()).unwrap().to_be_bytes());
        body.extend_from_slice(attributes);
        body.extend_from_slice(nlri);
        message(2, &body)
    };
    let all = attributes.concat();
    vec![
        message(1, open),
        message(4, &[]),
        update(&[], &all, &[0, 0, 0, 1, 24, 198, 18, 7, 0, 0, 0, 2, 16, 198, 19]),
        update(&[], &[&all[..17], reach].concat(), &[]),
        update(&[0, 0, 0, 1, 24, 198, 18, 7], &[0x80, 15, 8, 0, 2, 1, 0, 0, 0, 1, 0], &[]),
        update(&[], &[], &[]),
        message(5, &[0, 1, 1, 1]),
        message(5, &[0, 1, 2, 1]),
        message(3, &[6, 2, 3, b'b', b'y', b'e']),
    ]
}

/// One bite: where, and what.
#[derive(Clone, Debug)]
enum Bite {
    Set(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
    /// The header says the true length again.
    Mend,
}

fn bites() -> impl Strategy<Value = Vec<Bite>> {
    let at = 0_usize..400;
    let bite = prop_oneof![
        4 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Bite::Set(at, byte)),
        1 => at.clone().prop_map(Bite::Cut),
        1 => (at.clone(), proptest::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, more)| Bite::Insert(at, more)),
        1 => (at, 1_usize..60).prop_map(|(at, count)| Bite::Repeat(at, count)),
        3 => Just(Bite::Mend),
    ];
    proptest::collection::vec(bite, 0..6)
}

fn bitten(mut bytes: Vec<u8>, bites: &[Bite]) -> Vec<u8> {
    for bite in bites {
        let len = bytes.len().max(1);
        match bite {
            Bite::Set(at, byte) => drop(bytes.get_mut(at % len).map(|old| *old = *byte)),
            Bite::Cut(at) => bytes.truncate(at % len),
            Bite::Insert(at, more) => drop(bytes.splice(at % len..at % len, more.iter().copied())),
            Bite::Repeat(at, count) => {
                let from = at % len;
                let again: Vec<u8> = bytes.iter().skip(from).take(*count).copied().collect();
                bytes.splice(from..from, again);
            }
            Bite::Mend => {
                if let Ok(length) = u16::try_from(bytes.len())
                    && let Some(place) = bytes.get_mut(16..18)
                {
                    place.copy_from_slice(&length.to_be_bytes());
                }
            }
        }
    }
    bytes
}

/// What the driver does with a stream: until the session ends or the bytes do.
fn receive(stream: &[u8], peer_as: u32) -> (usize, SessionState) {
    let speaker = Speaker {
        local_as: Asn(64500),
        peer_as: Asn(peer_as),
        router_id: RouterId(Ipv4Addr::new(10, 0, 0, 179)),
        hold_time: 9,
        add_path_receive: true,
        helps_restart: true,
        role: None,
        strict_role: false,
    };
    let ends = ("127.0.0.2:40000".parse().unwrap(), "127.0.0.1:179".parse().unwrap());
    let (mut machine, _) = Machine::start(speaker, ends.0, ends.1);
    let mut frames = FrameReader::default();
    let mut buffer = BytesMut::from(stream);
    let mut translator: Option<Translator> = None;
    let mut changes = 0;
    loop {
        let before = buffer.len();
        let event = match frames.next(&mut buffer) {
            Ok(None) => return (changes, machine.state()),
            Ok(Some(frame)) => {
                assert!(buffer.len() + 19 <= before, "a frame that took no bytes");
                match translator.as_mut().map(|translator| translator.translate(&frame)) {
                    Some(Ok(translated)) => {
                        changes += translated.changes.len();
                        Event::Received(frame)
                    }
                    Some(Err(reset)) => Event::Unusable(reset),
                    None => Event::Received(frame),
                }
            }
            Err(malformed) => Event::Malformed(malformed),
        };
        for step in machine.on(event) {
            match step {
                Step::Up(session) => {
                    frames.set_limit(session.message_limit);
                    translator = Some(Translator::new(&session, Import::default(), Dispositions::default()));
                }
                Step::Close(_) => return (changes, machine.state()),
                _ => {}
            }
        }
    }
}

#[test]
fn the_unbitten_stream_is_heard_to_its_end() {
    let stream = seeds().concat();
    assert_eq!(receive(&stream, 64500), (5, SessionState::Idle), "NOTIFICATION is its last word");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_bitten_stream_hurts(
        order in proptest::collection::vec((0_usize..9, bites()), 1..8),
        external in any::<bool>(),
    ) {
        let seeds = seeds();
        let mut stream = if external { Vec::new() } else { [seeds[0].clone(), seeds[1].clone()].concat() };
        for (seed, bites) in &order {
            stream.extend(bitten(seeds[*seed].clone(), bites));
        }
        let (changes, _) = receive(&stream, if external { 64601 } else { 64500 });
        // The shortest NLRI with a path identifier takes five bytes, and none counts twice.
        prop_assert!(changes <= stream.len() / 5, "{changes} changes of {} bytes", stream.len());
    }
}
