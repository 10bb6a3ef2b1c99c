//! Path attributes as they are stored in MRT files (RFC 6396): no NLRI among them, MP_REACH_NLRI cut down to its next
//! hop. Never of a live session: there an UPDATE is translated, with all the dispositions of RFC 7606.

use super::attrs::{Received, attribute_name, came_partial, large_out, origin_out};
use crate::types::{AsPath, AsPathSegment, CarriedAttr, RouteAttrs};
use rustbgpd_wire as wire;
use std::net::IpAddr;
use wire::{DecodeError, ErrorDisposition, PathAttribute};

const AS_PATH: u8 = 2;
const COMMUNITIES: u8 = 8;
const MP_REACH_NLRI: u8 = 14;
const LARGE_COMMUNITY: u8 = 32;
const EXTENDED_LENGTH: u8 = 0x10;

/// Why stored attributes are no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// An attribute is wrong in a way that withdraws its route (RFC 7606).
    #[error("{attribute}: {detail}")]
    Attribute {
        /// Its name.
        attribute: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// Nothing says where to send packets.
    #[error("there is no next hop")]
    NoNextHop,
    /// The codec cannot write it.
    #[error("it cannot be written: {detail}")]
    Unwritable {
        /// Why.
        detail: String,
    },
}

/// Reads the attributes of one stored route; `four_octet_as` is how its AS_PATH is written. What LOCAL_PREF says counts,
/// as on an internal session. Where it is written with two octets, the codec merges AS4_PATH and AS4_AGGREGATOR into it
/// (RFC 6793 section 4.2.3).
pub fn stored_attributes(bytes: &[u8], four_octet_as: bool) -> Result<RouteAttrs, Unusable> {
    let (plain, reach) = without_reach(bytes)?;
    let wrong = |error: &DecodeError, code: u8| Unusable::Attribute {
        attribute: attribute_name(code),
        detail: error.to_string(),
    };
    let decoded = wire::attribute::decode_path_attributes_revised(&plain, four_octet_as, true, &[])
        .map_err(|error| wrong(&error, 0))?;
    let fatal = decoded.malformed.iter().find(|bad| {
        // As on sessions: the router forwards by such a route, whatever RFC 9774 says.
        bad.disposition != ErrorDisposition::AttributeDiscard
            && !matches!(bad.error, DecodeError::ProhibitedAsSet { .. })
    });
    if let Some(bad) = fatal {
        return Err(wrong(&bad.error, bad.type_code));
    }
    let received = Received::of(&decoded.attributes, true);
    let next_hop = match reach {
        Some(value) => {
            let decoded = wire::decode_table_dump_v2_mp_reach_next_hop(value);
            Some(decoded.or_else(|_| full_reach(value)).map_err(|error| wrong(&error, MP_REACH_NLRI))?.0)
        }
        None => received.next_hop.map(IpAddr::V4),
    };
    next_hop.map(|next_hop| received.with_next_hop(next_hop)).ok_or(Unusable::NoNextHop)
}

/// Some collectors keep the NLRI behind the next hop: AFI, SAFI, length and next hop are what is wanted of it.
fn full_reach(value: &[u8]) -> Result<(IpAddr, Option<std::net::Ipv6Addr>), DecodeError> {
    let end = value.get(3).map_or(0, |len| 4 + usize::from(*len));
    wire::decode_table_dump_v2_mp_reach_next_hop(value.get(..end).unwrap_or(value))
}

/// All attributes but MP_REACH_NLRI, and the value of that.
fn without_reach(bytes: &[u8]) -> Result<(Vec<u8>, Option<&[u8]>), Unusable> {
    let (mut plain, mut reach) = (Vec::with_capacity(bytes.len()), None);
    let mut rest = bytes;
    while let [flags, code, tail @ ..] = rest {
        let (head, len): (usize, usize) = match (flags & EXTENDED_LENGTH != 0, tail) {
            (false, [len, ..]) => (3, usize::from(*len)),
            (true, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
            _ => (2, usize::MAX),
        };
        let Some((attribute, after)) = head.checked_add(len).and_then(|end| rest.split_at_checked(end))
        else {
            let detail = "it is longer than what is stored of it".to_owned();
            return Err(Unusable::Attribute { attribute: attribute_name(*code), detail });
        };
        match *code {
            MP_REACH_NLRI => reach = attribute.get(head..),
            _ => plain.extend_from_slice(attribute),
        }
        rest = after;
    }
    Ok((plain, reach))
}

/// Writes the attributes of one route as they are stored, with four-octet AS numbers.
pub fn store_attributes(attrs: &RouteAttrs) -> Result<Vec<u8>, Unusable> {
    let mut list = vec![PathAttribute::Origin(origin_out(attrs.origin))];
    if let IpAddr::V4(next_hop) = attrs.next_hop {
        list.push(PathAttribute::NextHop(next_hop));
    }
    list.extend(attrs.med.map(PathAttribute::Med));
    list.push(PathAttribute::LocalPref(attrs.local_pref));
    if !attrs.communities.is_empty() {
        let values = attrs.communities.iter().map(|value| value.0).collect();
        list.push(match came_partial(&attrs.carried, COMMUNITIES) {
            true => PathAttribute::CommunitiesPartial(values),
            false => PathAttribute::Communities(values),
        });
    }
    list.extend(attrs.originator.map(PathAttribute::OriginatorId));
    if !attrs.large_communities.is_empty() {
        let values = attrs.large_communities.iter().map(large_out).collect();
        list.push(match came_partial(&attrs.carried, LARGE_COMMUNITY) {
            true => PathAttribute::LargeCommunitiesPartial(values),
            false => PathAttribute::LargeCommunities(values),
        });
    }
    let mut bytes = Vec::new();
    wire::attribute::encode_path_attributes(&list, &mut bytes, true, false)
        .map_err(|error| Unusable::Unwritable { detail: error.to_string() })?;
    push(0x40, AS_PATH, &as_path(&attrs.as_path)?, &mut bytes)?;
    // That these two came with the Partial bit is kept beside their values, not as attributes of their own.
    let mark = |carried: &&CarriedAttr| {
        carried.value.is_empty() && [COMMUNITIES, LARGE_COMMUNITY].contains(&carried.code)
    };
    for carried in attrs.carried.iter().filter(|carried| !mark(carried)) {
        push(carried.flags, carried.code, &carried.value, &mut bytes)?;
    }
    if let IpAddr::V6(next_hop) = attrs.next_hop {
        bytes.extend([0x80, MP_REACH_NLRI, 17, 16]);
        bytes.extend(next_hop.octets());
    }
    Ok(bytes)
}

fn push(flags: u8, code: u8, value: &[u8], bytes: &mut Vec<u8>) -> Result<(), Unusable> {
    let len = u16::try_from(value.len()).map_err(|_| too_long(code))?;
    bytes.extend([flags | EXTENDED_LENGTH, code]);
    bytes.extend(len.to_be_bytes());
    bytes.extend(value);
    Ok(())
}

/// By hand: the codec writes no AS_SET (RFC 9774), and a table must show what was received.
fn as_path(path: &AsPath) -> Result<Vec<u8>, Unusable> {
    let mut value = Vec::new();
    for segment in &path.0 {
        let (kind, list) = match segment {
            AsPathSegment::Set(list) => (1, list),
            AsPathSegment::Sequence(list) => (2, list),
        };
        for part in list.chunks(usize::from(u8::MAX)) {
            value.extend([kind, u8::try_from(part.len()).map_err(|_| too_long(AS_PATH))?]);
            value.extend(part.iter().flat_map(|asn| asn.0.to_be_bytes()));
        }
    }
    Ok(value)
}

fn too_long(code: u8) -> Unusable {
    Unusable::Unwritable { detail: format!("{} is longer than an attribute can be", attribute_name(code)) }
}
