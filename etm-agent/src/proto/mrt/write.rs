//! TABLE_DUMP_V2 records from routes. Never reads a clock: the time of the dump is an argument.

use super::read::Peer;
use crate::proto::bgp::{Unusable, store_attributes};
use crate::types::{Family, PathId, Prefix, RouteAttrs, RouterId};
use std::net::IpAddr;

const TABLE_DUMP_V2: u16 = 13;

/// A route to be written.
#[derive(Clone, Copy, Debug)]
pub struct StoredRoute<'a> {
    /// Place of its peer in the peer table.
    pub peer: u16,
    /// RFC 7911; 0 without.
    pub path_id: PathId,
    /// The route.
    pub attrs: &'a RouteAttrs,
}

/// The peer table (RFC 6396 section 4.3.1), at `at` seconds since 1970. At most 65,535 peers are written.
pub fn peer_index(at: u32, collector: RouterId, peers: &[Peer]) -> Vec<u8> {
    let count = u16::try_from(peers.len()).unwrap_or(u16::MAX);
    let mut body = collector.0.octets().to_vec();
    // No view name.
    body.extend(0_u16.to_be_bytes());
    body.extend(count.to_be_bytes());
    for peer in peers.iter().take(usize::from(count)) {
        // AS numbers of four octets; bit 0 says IPv6.
        body.push(2 | u8::from(Family::of(peer.address) == Family::V6));
        body.extend(peer.router_id.0.octets());
        body.extend(octets(peer.address));
        body.extend(peer.asn.0.to_be_bytes());
    }
    record(at, 1, &body)
}

/// All routes of one prefix. Routes that cannot be written are left out and said.
pub fn rib(at: u32, sequence: u32, prefix: Prefix, routes: &[StoredRoute<'_>]) -> (Vec<u8>, Vec<Unusable>) {
    let add_path = routes.iter().any(|route| route.path_id != PathId(0));
    let (mut entries, mut count, mut left_out) = (Vec::new(), 0_u16, Vec::new());
    for route in routes {
        let written = store_attributes(route.attrs).and_then(|attrs| {
            let len = u16::try_from(attrs.len());
            len.map(|len| (len, attrs)).map_err(|_| too_long())
        });
        match (written, count.checked_add(1)) {
            (Ok((len, attrs)), Some(more)) => {
                count = more;
                entries.extend(route.peer.to_be_bytes());
                entries.extend(at.to_be_bytes());
                if add_path {
                    entries.extend(route.path_id.0.to_be_bytes());
                }
                entries.extend(len.to_be_bytes());
                entries.extend(attrs);
            }
            (Err(why), _) => left_out.push(why),
            (Ok(_), None) => left_out.push(too_long()),
        }
    }
    let mut body = sequence.to_be_bytes().to_vec();
    body.push(prefix.len());
    body.extend(octets(prefix.addr()).into_iter().take(usize::from(prefix.len().div_ceil(8))));
    body.extend(count.to_be_bytes());
    body.extend(entries);
    let subtype = match (prefix.family(), add_path) {
        (Family::V4, false) => 2,
        (Family::V6, false) => 4,
        (Family::V4, true) => 8,
        (Family::V6, true) => 10,
    };
    (record(at, subtype, &body), left_out)
}

fn too_long() -> Unusable {
    Unusable::Unwritable { detail: "there is more of it than a record can hold".to_owned() }
}

fn record(at: u32, subtype: u16, body: &[u8]) -> Vec<u8> {
    let mut record = at.to_be_bytes().to_vec();
    record.extend(TABLE_DUMP_V2.to_be_bytes());
    record.extend(subtype.to_be_bytes());
    record.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    record.extend(body);
    record
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
