//! What the feeder sends: whole UPDATE messages, made before anything is measured. Never a socket.
//!
//! Prefixes come in groups of one origin, five on average, as they do in the Internet's table; every peer has one set
//! of attributes per group: AS_PATH of three to five hops, up to six communities, NEXT_HOP its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etm_agent::types::Prefix;

use super::super::routes::Dice;

/// Peers that feed.
pub(super) const PEERS: usize = 4;
/// Four octets of length and marker precede what is counted here.
const HEADER: usize = 19;

/// Prefixes that share their attributes.
pub(super) struct Group {
    pub(super) prefixes: Vec<Prefix>,
    seed: u64,
}

/// All groups of a table, each of one family.
pub(super) fn groups(table: &[Prefix]) -> Vec<Group> {
    let mut dice = Dice::new(4);
    let mut groups: Vec<Group> = Vec::new();
    let mut left = 0;
    for prefix in table {
        let family = groups.last().and_then(|group| group.prefixes.first()).map(|first| first.family());
        if left == 0 || family != Some(prefix.family()) {
            // Most origins have one or two prefixes, some have many: 5 on average.
            left = if dice.below(10) < 6 { 1 + dice.below(3) } else { 1 + dice.below(18) };
            groups.push(Group { prefixes: Vec::new(), seed: dice.next() });
        }
        left -= 1;
        if let Some(group) = groups.last_mut() {
            group.prefixes.push(*prefix);
        }
    }
    groups
}

/// AS of a peer.
pub(super) fn asn(peer: usize) -> u32 {
    64_601 + u32::try_from(peer).unwrap_or_default()
}

/// Address of a peer, and of its next hops.
pub(super) fn address(peer: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 1 + u8::try_from(peer).unwrap_or_default())
}

/// The same for IPv6.
pub(super) fn address_v6(peer: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1 + u16::try_from(peer).unwrap_or_default())
}

/// MED of a route: what churn changes, and how a stale one is recognised.
pub(super) fn table_of(groups: &[Group], peer: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for group in groups {
        announce(group, peer, 0, &mut bytes);
    }
    end_of_rib(&mut bytes);
    bytes
}

/// The group as `peer` announces it; `version` is its MED.
pub(super) fn announce(group: &Group, peer: usize, version: u32, bytes: &mut Vec<u8>) {
    let mut attributes = Vec::with_capacity(96);
    attributes.extend_from_slice(&[0x40, 1, 1, 0]);
    let mut dice = Dice::new(group.seed ^ u64::from(asn(peer)) << 40);
    let transits = 1 + dice.below(3);
    let path: Vec<u32> = std::iter::once(asn(peer))
        .chain((0..transits).map(|_| 1000 + number(dice.below(9000))))
        .chain([100_000 + number(usize::try_from(group.seed % 80_000).unwrap_or_default())])
        .collect();
    attributes.extend_from_slice(&[0x40, 2, byte(2 + path.len() * 4), 2, byte(path.len())]);
    path.iter().for_each(|asn| attributes.extend_from_slice(&asn.to_be_bytes()));
    let v6 = group.prefixes.first().is_some_and(|prefix| prefix.addr().is_ipv6());
    if !v6 {
        attributes.extend_from_slice(&[0x40, 3, 4]);
        attributes.extend_from_slice(&address(peer).octets());
    }
    attributes.extend_from_slice(&[0x80, 4, 4]);
    attributes.extend_from_slice(&version.to_be_bytes());
    let communities = dice.below(7);
    if communities > 0 {
        attributes.extend_from_slice(&[0xC0, 8, byte(communities * 4)]);
        for _ in 0..communities {
            let value = path[0] << 16 | number(dice.below(4000));
            attributes.extend_from_slice(&value.to_be_bytes());
        }
    }
    let mut nlri = Vec::with_capacity(64);
    group.prefixes.iter().for_each(|prefix| put_prefix(*prefix, &mut nlri));
    if v6 {
        let mut reach = vec![0, 2, 1, 16];
        reach.extend_from_slice(&address_v6(peer).octets());
        reach.push(0);
        reach.extend_from_slice(&nlri);
        attributes.extend_from_slice(&[0x90, 14]);
        attributes.extend_from_slice(&short(reach.len()));
        attributes.extend_from_slice(&reach);
        nlri.clear();
    }
    message(2, &[&[0, 0], &short(attributes.len())[..], &attributes, &nlri], bytes);
}

/// The group withdrawn.
pub(super) fn withdraw(group: &Group, bytes: &mut Vec<u8>) {
    let mut nlri = Vec::with_capacity(64);
    group.prefixes.iter().for_each(|prefix| put_prefix(*prefix, &mut nlri));
    if group.prefixes.first().is_some_and(|prefix| prefix.addr().is_ipv6()) {
        let mut attributes = vec![0x90, 15];
        attributes.extend_from_slice(&short(nlri.len() + 3));
        attributes.extend_from_slice(&[0, 2, 1]);
        attributes.extend_from_slice(&nlri);
        message(2, &[&[0, 0], &short(attributes.len())[..], &attributes], bytes);
    } else {
        message(2, &[&short(nlri.len())[..], &nlri, &[0, 0]], bytes);
    }
}

/// Both families are complete (RFC 4724 section 2).
pub(super) fn end_of_rib(bytes: &mut Vec<u8>) {
    message(2, &[&[0, 0, 0, 0]], bytes);
    message(2, &[&[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]], bytes);
}

/// OPEN of a peer with both families and AS numbers of four octets.
pub(super) fn open(peer: usize, hold_s: u16) -> Vec<u8> {
    let asn4 = asn(peer).to_be_bytes();
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4];
    capabilities.extend_from_slice(&asn4);
    let mut bytes = Vec::new();
    let parameters =
        [&[byte(capabilities.len() + 2), 2, byte(capabilities.len())][..], &capabilities].concat();
    let id = address(peer).octets();
    message(1, &[&[4], &asn4[2..], &hold_s.to_be_bytes(), &id, &parameters], &mut bytes);
    bytes
}

/// KEEPALIVE.
pub(super) fn keepalive() -> Vec<u8> {
    let mut bytes = Vec::new();
    message(4, &[], &mut bytes);
    bytes
}

fn message(kind: u8, parts: &[&[u8]], bytes: &mut Vec<u8>) {
    let len = HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
    bytes.extend_from_slice(&[0xFF; 16]);
    bytes.extend_from_slice(&short(len));
    bytes.push(kind);
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
}

fn put_prefix(prefix: Prefix, bytes: &mut Vec<u8>) {
    bytes.push(prefix.len());
    let octets = usize::from(prefix.len().div_ceil(8));
    match prefix.addr() {
        IpAddr::V4(addr) => bytes.extend_from_slice(&addr.octets()[..octets]),
        IpAddr::V6(addr) => bytes.extend_from_slice(&addr.octets()[..octets]),
    }
}

fn byte(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

fn short(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes()
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or_default()
}
