//! Frames with titles, made by hand: the edges of what is looked through.

use crate::bench::{Begins, Bench, Grown};
use crate::{in_namespace, skip};
use etm_agent::core::input::Uncounted;
use std::net::IpAddr;

const V4: [u8; 4] = [198, 18, 7, 7];
const V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DOT1Q: [u8; 4] = [0x81, 0, 0, 100];

type Case = (&'static str, Vec<u8>, Result<IpAddr, Uncounted>);

/// An Ethernet frame: what comes after the addresses.
fn frame(parts: &[&[u8]]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &parts.concat()].concat()
}

fn v4() -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 8, 0, 0, 1];
    header.extend(V4);
    header.resize(40, 0);
    header
}

fn v6() -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 20, 17, 64];
    header.extend([0xfe; 16]);
    header.extend(V6);
    header.resize(60, 0);
    header
}

/// A label stack of that many entries.
fn labels(entries: usize) -> Vec<u8> {
    let entry = |at: usize| [0, 1, if at == entries { 0x01 } else { 0x00 }, 64];
    (1..=entries).flat_map(entry).collect()
}

fn pppoe(version_type: u8, code: u8, protocol: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 2).unwrap().to_be_bytes();
    let header = [version_type, code, 0, 7, length[0], length[1]];
    [&header[..], &protocol.to_be_bytes(), payload].concat()
}

/// An IEEE 802.3 length, LLC and SNAP.
fn snap(llc: [u8; 3], organisation: [u8; 3], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
    [&length[..], &llc, &organisation, &ethertype.to_be_bytes(), payload].concat()
}

fn mpls_cases() -> Vec<Case> {
    let (v4, v6, mpls) = (v4(), v6(), [0x88, 0x47]);
    let (ok4, ok6) = (Ok(V4.into()), Ok(V6.into()));
    let (non_ip, malformed) = (Err(Uncounted::NonIp), Err(Uncounted::Malformed));
    vec![
        ("IPv4 behind one label is found", frame(&[&mpls, &labels(1), &v4]), ok4),
        ("IPv6 behind one label is found", frame(&[&mpls, &labels(1), &v6]), ok6),
        (
            "a label that the upstream router assigned is one too",
            frame(&[&[0x88, 0x48], &labels(1), &v4]),
            ok4,
        ),
        ("IPv4 behind eight labels is found", frame(&[&mpls, &labels(8), &v4]), ok4),
        (
            "IPv6 behind two tags and eight labels is found",
            { frame(&[&DOT1Q, &DOT1Q, &mpls, &labels(8), &v6]) },
            ok6,
        ),
        ("nine labels are too many", frame(&[&mpls, &labels(9), &v4]), non_ip),
        ("a control word is no IP header", frame(&[&mpls, &labels(1), &[0; 4], &v4]), non_ip),
        ("an associated channel is no IP header", frame(&[&mpls, &labels(1), &[0x10, 0, 0, 0], &v4]), non_ip),
        ("a label cut short is malformed", frame(&[&mpls, &labels(2)[..7]]), malformed),
        ("a label stack with nothing behind it is malformed", frame(&[&mpls, &labels(2)]), malformed),
        (
            "an IPv4 header cut short behind a label is malformed",
            frame(&[&mpls, &labels(1), &v4[..19]]),
            malformed,
        ),
        (
            "an IPv6 header cut short behind a label is malformed",
            frame(&[&mpls, &labels(1), &v6[..39]]),
            malformed,
        ),
        (
            "IPv4 of four words behind a label is malformed",
            frame(&[&mpls, &labels(1), &[0x44], &v4[1..]]),
            malformed,
        ),
    ]
}

fn pppoe_cases() -> Vec<Case> {
    let (v4, v6, session) = (v4(), v6(), [0x88, 0x64]);
    let (non_ip, malformed) = (Err(Uncounted::NonIp), Err(Uncounted::Malformed));
    vec![
        ("IPv4 in a PPPoE session is found", frame(&[&session, &pppoe(0x11, 0, 0x21, &v4)]), Ok(V4.into())),
        ("IPv6 in a PPPoE session is found", frame(&[&session, &pppoe(0x11, 0, 0x57, &v6)]), Ok(V6.into())),
        (
            "so is IPv4 behind two tags",
            { frame(&[&DOT1Q, &DOT1Q, &session, &pppoe(0x11, 0, 0x21, &v4)]) },
            Ok(V4.into()),
        ),
        ("link control is no IP", frame(&[&session, &pppoe(0x11, 0, 0xc021, &v4)]), non_ip),
        ("discovery is no IP", frame(&[&[0x88, 0x63], &pppoe(0x11, 9, 0x21, &v4)]), non_ip),
        ("another version of PPPoE is malformed", frame(&[&session, &pppoe(0x21, 0, 0x21, &v4)]), malformed),
        (
            "a session's code other than 0 is malformed",
            frame(&[&session, &pppoe(0x11, 9, 0x21, &v4)]),
            malformed,
        ),
        (
            "a PPPoE header cut short is malformed",
            frame(&[&session, &pppoe(0x11, 0, 0x21, &v4)[..7]]),
            malformed,
        ),
        (
            "IPv4 cut short in a session is malformed",
            frame(&[&session, &pppoe(0x11, 0, 0x21, &v4[..19])]),
            malformed,
        ),
        ("IPv6 under IPv4's number is malformed", frame(&[&session, &pppoe(0x11, 0, 0x21, &v6)]), malformed),
    ]
}

fn llc_cases() -> Vec<Case> {
    let (v4, v6) = (v4(), v6());
    let (plain, organisation) = ([0xaa, 0xaa, 3], [0; 3]);
    let non_ip = Err(Uncounted::NonIp);
    vec![
        ("IPv4 in SNAP is found", frame(&[&snap(plain, organisation, 0x800, &v4)]), Ok(V4.into())),
        ("IPv6 in SNAP is found", frame(&[&snap(plain, organisation, 0x86dd, &v6)]), Ok(V6.into())),
        (
            "IPv4 in SNAP behind a tag is found",
            { frame(&[&DOT1Q, &snap(plain, organisation, 0x800, &v4)]) },
            Ok(V4.into()),
        ),
        ("ARP in SNAP is no IP", frame(&[&snap(plain, organisation, 0x806, &v4)]), non_ip),
        (
            "another organisation's numbers are not Ethernet's",
            frame(&[&snap(plain, [0, 0, 0xc], 0x800, &v4)]),
            non_ip,
        ),
        (
            "other access points are no SNAP",
            frame(&[&snap([0x42, 0x42, 3], organisation, 0x800, &v4)]),
            non_ip,
        ),
        (
            "SNAP with acknowledgement is not what IP uses",
            { frame(&[&snap([0xaa, 0xaa, 0x7f], organisation, 0x800, &v4)]) },
            non_ip,
        ),
        (
            "a length without room for SNAP says that there is none",
            { frame(&[&[0, 7], &snap(plain, organisation, 0x800, &v4)[2..]]) },
            non_ip,
        ),
        (
            "a value between lengths and types is neither",
            { frame(&[&[5, 0xdd], &snap(plain, organisation, 0x800, &v4)[2..]]) },
            non_ip,
        ),
        (
            "SNAP cut short is malformed",
            { frame(&[&DOT1Q, &snap(plain, organisation, 0x800, &v4)[..9]]) },
            Err(Uncounted::Malformed),
        ),
    ]
}

#[test]
fn what_lies_between_ethernet_and_ip_is_looked_through_up_to_its_limits() {
    if skip() {
        return;
    }
    in_namespace(|| {
        let mut bench = Bench::new("made", [IpAddr::from(V4), IpAddr::from(V6)].into_iter());
        for (title, packet, expected) in [mpls_cases(), pppoe_cases(), llc_cases()].concat() {
            assert!(bench.offer(Begins::Ethernet, &packet).is_some(), "{title}");
            let right = match expected {
                Ok(destination) => Grown { destinations: vec![destination], reasons: Vec::new() },
                Err(reason) => Grown { destinations: Vec::new(), reasons: vec![(reason, 1)] },
            };
            assert_eq!(bench.grown(), right, "{title}");
        }
    });
}
