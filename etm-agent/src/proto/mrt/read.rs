//! Records typed. Never keeps one: the caller knows which peer table is in force.

use crate::proto::bgp::{Unusable, stored_attributes};
use crate::types::{Asn, Family, PathId, Prefix, RouteAttrs, RouterId};
use bytes::{Buf, Bytes};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of the header of each record.
pub const HEADER: usize = 12;

/// A record that is not what it says. Where the next one begins is known all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends in the middle of something.
    #[error("the record ends inside {what}")]
    Short {
        /// What.
        what: &'static str,
    },
    /// No such prefix.
    #[error("a prefix of {len} bits in {family}")]
    Prefix {
        /// Bits.
        len: u8,
        /// Family.
        family: Family,
    },
}

/// The header of a record (RFC 6396 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Seconds since 1970.
    pub at: u32,
    /// Type.
    pub kind: u16,
    /// Subtype.
    pub subtype: u16,
    /// Bytes that follow.
    pub len: u32,
}

/// Reads the header of a record.
pub fn head(bytes: [u8; HEADER]) -> Head {
    let mut bytes = &bytes[..];
    Head { at: bytes.get_u32(), kind: bytes.get_u16(), subtype: bytes.get_u16(), len: bytes.get_u32() }
}

/// Who gave a route to whoever wrote the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Its AS.
    pub asn: Asn,
    /// Its BGP identifier; unspecified where the format has none.
    pub router_id: RouterId,
}

/// Stands for AS numbers of four octets where two are all there is (RFC 6793).
const AS_TRANS: Asn = Asn(23_456);

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The peers that the following entries name by their place.
    Peers(Vec<Peer>),
    /// All routes of one prefix.
    Rib {
        /// Destination.
        prefix: Prefix,
        /// Its routes.
        entries: Vec<Entry>,
    },
    /// Something else: UPDATEs, multicast, other families.
    Other,
}

/// A route of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose: the place in the peer table, or the peer itself (TABLE_DUMP).
    pub peer: Result<Peer, u16>,
    /// RFC 8050; 0 without ADD-PATH.
    pub path_id: PathId,
    /// The route, or why it is none.
    pub attrs: Result<RouteAttrs, Unusable>,
}

/// Reads the body of a record.
pub fn record(head: &Head, mut body: Bytes) -> Result<Record, Malformed> {
    let body = &mut body;
    match (head.kind, head.subtype) {
        (12, 1) => table_dump(Family::V4, body),
        (12, 2) => table_dump(Family::V6, body),
        (13, 1) => peers(body),
        (13, 2) => table_dump_v2(Family::V4, false, body),
        (13, 4) => table_dump_v2(Family::V6, false, body),
        (13, 8) => table_dump_v2(Family::V4, true, body),
        (13, 10) => table_dump_v2(Family::V6, true, body),
        _ => Ok(Record::Other),
    }
}

fn take(body: &mut Bytes, len: usize, what: &'static str) -> Result<Bytes, Malformed> {
    if body.len() < len {
        return Err(Malformed::Short { what });
    }
    Ok(body.split_to(len))
}

fn u16_of(body: &mut Bytes, what: &'static str) -> Result<u16, Malformed> {
    Ok(take(body, 2, what)?.get_u16())
}

fn u32_of(body: &mut Bytes, what: &'static str) -> Result<u32, Malformed> {
    Ok(take(body, 4, what)?.get_u32())
}

fn address(family: Family, body: &mut Bytes) -> Result<IpAddr, Malformed> {
    Ok(match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(take(body, 4, "an address")?.get_u32())),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(take(body, 16, "an address")?.get_u128())),
    })
}

fn prefix_of(address: IpAddr, len: u8) -> Result<Prefix, Malformed> {
    Prefix::new(address, len).map_err(|_| Malformed::Prefix { len, family: Family::of(address) })
}

/// RFC 6396 section 4.3.1.
fn peers(body: &mut Bytes) -> Result<Record, Malformed> {
    const WHAT: &str = "the peer table";
    take(body, 4, WHAT)?;
    let name = u16_of(body, WHAT)?;
    take(body, usize::from(name), WHAT)?;
    let count = u16_of(body, WHAT)?;
    let mut peers = Vec::new();
    for _ in 0..count {
        let kind = take(body, 1, WHAT)?.get_u8();
        let router_id = RouterId(Ipv4Addr::from(u32_of(body, WHAT)?));
        let address = address(if kind & 1 == 0 { Family::V4 } else { Family::V6 }, body)?;
        let asn = if kind & 2 == 0 { u32::from(u16_of(body, WHAT)?) } else { u32_of(body, WHAT)? };
        peers.push(Peer { address, asn: Asn(asn), router_id });
    }
    Ok(Record::Peers(peers))
}

/// RFC 6396 section 4.3.2, RFC 8050 section 4.
fn table_dump_v2(family: Family, add_path: bool, body: &mut Bytes) -> Result<Record, Malformed> {
    u32_of(body, "the sequence number")?;
    let len = take(body, 1, "the prefix")?.get_u8();
    let mut raw = [0_u8; 16];
    let bytes = take(body, usize::from(len.div_ceil(8)), "the prefix")?;
    let Some(room) = raw.get_mut(..bytes.len()) else { return Err(Malformed::Prefix { len, family }) };
    room.copy_from_slice(&bytes);
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(raw[0], raw[1], raw[2], raw[3])),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(raw)),
    };
    let prefix = prefix_of(address, len)?;
    let count = u16_of(body, "the number of routes")?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let peer = u16_of(body, "a route")?;
        u32_of(body, "a route")?;
        let path_id = PathId(if add_path { u32_of(body, "a route")? } else { 0 });
        let len = u16_of(body, "a route")?;
        let attrs = stored_attributes(&take(body, usize::from(len), "the attributes of a route")?, true);
        entries.push(Entry { peer: Err(peer), path_id, attrs });
    }
    Ok(Record::Rib { prefix, entries })
}

/// RFC 6396 section 4.2.
fn table_dump(family: Family, body: &mut Bytes) -> Result<Record, Malformed> {
    // View and sequence number.
    take(body, 4, "the head of a route")?;
    let network = address(family, body)?;
    let len = take(body, 1, "the prefix")?.get_u8();
    let prefix = prefix_of(network, len)?;
    // Status and time of origination.
    take(body, 5, "the head of a route")?;
    let address = address(family, body)?;
    let asn = Asn(u32::from(u16_of(body, "the peer")?));
    let len = u16_of(body, "the attributes")?;
    let attrs = stored_attributes(&take(body, usize::from(len), "the attributes of a route")?, false);
    // RFC 6793 section 9: a peer whose AS number does not fit is named by its path only.
    let first = attrs.as_ref().ok().and_then(|attrs| attrs.as_path.first());
    let asn = if asn == AS_TRANS { first.unwrap_or(asn) } else { asn };
    let peer = Peer { address, asn, router_id: RouterId(Ipv4Addr::UNSPECIFIED) };
    Ok(Record::Rib { prefix, entries: vec![Entry { peer: Ok(peer), path_id: PathId(0), attrs }] })
}
