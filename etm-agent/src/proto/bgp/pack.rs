//! Announcements and withdrawals as UPDATEs, grouped by attributes and filled to the message limit.
//!
//! Every announcement carries NO_EXPORT and ETM's community; there is no way to ask for one without.
//! MULTI_EXIT_DISC is kept: the route stays inside the AS that received it (RFC 4271 section 5.1.4).
//! ORIGINATOR_ID and CLUSTER_LIST are not: ETM originates its announcement, it reflects nothing (RFC 4456 section 8).
//! Optional transitive attributes that ETM has no use for go on as they came, Partial bit and all (section 5).

use super::attrs::{as_path_out, came_partial, carried_out, large_out, origin_out};
use super::capability::afi;
use super::negotiated::Negotiated;
use super::out::{Diff, OutRoute};
use crate::types::{Community, Family, Prefix, RouteAttrs};
use bytes::{Bytes, BytesMut};
use rustbgpd_wire as wire;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use wire::{Afi, Ipv4NlriEntry, Ipv4UnicastMode, NlriEntry, PathAttribute, Safi, UpdateMessage};

/// LOCAL_PREF of overrides unless configured: above any value seen in use, and in the range that tools which
/// read it as a signed number show rightly.
pub const DEFAULT_LOCAL_PREF: u32 = 1_000_000;

/// What is added to every announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutPolicy {
    /// Above the receiver's own policy, or the override does not win.
    pub local_pref: u32,
    /// ETM's community.
    pub community: Community,
}

/// UPDATEs ready to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Whole messages one after the other: withdrawals first, since they undo an effect.
    pub bytes: BytesMut,
    /// Number of messages.
    pub messages: u64,
    /// Prefixes whose attributes cannot be put into a message; they are withdrawn instead.
    pub unsendable: Vec<Prefix>,
}

/// Packs `diff` for the peer of `session`, which must have negotiated the families of all its prefixes.
pub fn pack(diff: &Diff, policy: OutPolicy, session: &Negotiated) -> Packed {
    let mut groups: BTreeMap<(Family, IpAddr, &Arc<RouteAttrs>), Vec<Prefix>> = BTreeMap::new();
    for (prefix, OutRoute { next_hop, attrs }) in &diff.announce {
        groups.entry((prefix.family(), *next_hop, attrs)).or_default().push(*prefix);
    }
    let mut announcements = Packed::default();
    for ((family, next_hop, attrs), prefixes) in &groups {
        let attributes = attributes(attrs, policy);
        announce(*family, *next_hop, attributes, prefixes, session, &mut announcements);
    }
    let mut packed = Packed::default();
    let gone = || diff.withdraw.iter().chain(&announcements.unsendable).copied();
    for family in Family::ALL {
        let prefixes: Vec<Prefix> = gone().filter(|prefix| prefix.family() == family).collect();
        withdraw(family, &prefixes, session, &mut packed);
    }
    packed.bytes.extend_from_slice(&announcements.bytes);
    packed.messages += announcements.messages;
    packed.unsendable = announcements.unsendable;
    packed
}

/// End-of-RIB of one family (RFC 4724 section 2).
pub fn end_of_rib(family: Family) -> Bytes {
    let attributes = match family {
        Family::V4 => Vec::new(),
        Family::V6 => vec![unreach(&[])],
    };
    let mut packed = Packed::default();
    push(&[], &[], &attributes, true, wire::MAX_MESSAGE_LEN, &mut packed);
    packed.bytes.freeze()
}

fn attributes(attrs: &RouteAttrs, policy: OutPolicy) -> Vec<PathAttribute> {
    let mut communities: Vec<u32> = attrs.communities.iter().map(|community| community.0).collect();
    communities.extend([Community::NO_EXPORT.0, policy.community.0]);
    communities.sort_unstable();
    communities.dedup();
    let mut list = vec![
        PathAttribute::Origin(origin_out(attrs.origin)),
        PathAttribute::AsPath(as_path_out(&attrs.as_path)),
    ];
    list.extend(attrs.med.map(PathAttribute::Med));
    list.push(PathAttribute::LocalPref(policy.local_pref));
    list.push(match came_partial(&attrs.carried, 8) {
        true => PathAttribute::CommunitiesPartial(communities),
        false => PathAttribute::Communities(communities),
    });
    if !attrs.large_communities.is_empty() {
        let large = attrs.large_communities.iter().map(large_out).collect();
        list.push(match came_partial(&attrs.carried, 32) {
            true => PathAttribute::LargeCommunitiesPartial(large),
            false => PathAttribute::LargeCommunities(large),
        });
    }
    list.extend(carried_out(&attrs.carried));
    list
}

fn announce(
    family: Family,
    next_hop: IpAddr,
    mut attributes: Vec<PathAttribute>,
    prefixes: &[Prefix],
    session: &Negotiated,
    packed: &mut Packed,
) {
    // The place of the next hop depends on the family; its length does not depend on the NLRI.
    attributes.push(match (family, next_hop) {
        (Family::V4, IpAddr::V4(addr)) => PathAttribute::NextHop(addr),
        _ => reach(family, next_hop, &[]),
    });
    let in_body = matches!((family, next_hop), (Family::V4, IpAddr::V4(_)));
    let Some(room) = room(&attributes, session) else {
        packed.unsendable.extend_from_slice(prefixes);
        return;
    };
    for chunk in chunks(prefixes, room) {
        let sent = if in_body {
            push(&v4_entries(chunk), &[], &attributes, session.four_octet_as, session.message_limit, packed)
        } else {
            attributes.pop();
            attributes.push(reach(family, next_hop, chunk));
            push(&[], &[], &attributes, session.four_octet_as, session.message_limit, packed)
        };
        if !sent {
            packed.unsendable.extend_from_slice(chunk);
        }
    }
}

fn withdraw(family: Family, prefixes: &[Prefix], session: &Negotiated, packed: &mut Packed) {
    let Some(room) = room(&[unreach(&[])], session) else { return };
    for chunk in chunks(prefixes, room) {
        match family {
            Family::V4 => push(&[], &v4_entries(chunk), &[], true, session.message_limit, packed),
            Family::V6 => push(&[], &[], &[unreach(chunk)], true, session.message_limit, packed),
        };
    }
}

/// Bytes left for NLRI beside `attributes`; none where not even the longest prefix fits.
fn room(attributes: &[PathAttribute], session: &Negotiated) -> Option<usize> {
    /// A /128 and its length octet, and the second length octet an attribute needs above 255 bytes.
    const LEAST: usize = 17;
    const EXTENDED_LENGTH: usize = 1;
    let empty =
        UpdateMessage::try_build(&[], &[], attributes, session.four_octet_as, false, Ipv4UnicastMode::Body);
    let used = empty.ok()?.encoded_len() + EXTENDED_LENGTH;
    usize::from(session.message_limit).checked_sub(used).filter(|room| *room >= LEAST)
}

/// `prefixes` in runs whose NLRI takes at most `room` bytes.
fn chunks(prefixes: &[Prefix], room: usize) -> impl Iterator<Item = &[Prefix]> {
    let mut rest = prefixes;
    std::iter::from_fn(move || {
        let mut used = 0;
        let fits = |prefix: &&Prefix| {
            used += 1 + usize::from(prefix.len().div_ceil(8));
            used <= room
        };
        let count = rest.iter().take_while(fits).count();
        let (chunk, tail) = rest.split_at(count);
        rest = tail;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Appends one UPDATE; false where the codec refuses its attributes (AS_SET, RFC 9774) or its size.
fn push(
    announced: &[Ipv4NlriEntry],
    withdrawn: &[Ipv4NlriEntry],
    attributes: &[PathAttribute],
    four_octet_as: bool,
    limit: u16,
    packed: &mut Packed,
) -> bool {
    let built = UpdateMessage::try_build(
        announced,
        withdrawn,
        attributes,
        four_octet_as,
        false,
        Ipv4UnicastMode::Body,
    );
    let done = built.is_ok_and(|update| update.encode_with_limit(&mut packed.bytes, limit).is_ok());
    packed.messages += u64::from(done);
    done
}

fn v4_entries(prefixes: &[Prefix]) -> Vec<Ipv4NlriEntry> {
    let entry = |prefix: &Prefix| match prefix.addr() {
        IpAddr::V4(addr) => {
            Some(Ipv4NlriEntry { path_id: 0, prefix: wire::Ipv4Prefix::new(addr, prefix.len()) })
        }
        IpAddr::V6(_) => None,
    };
    prefixes.iter().filter_map(entry).collect()
}

fn entries(prefixes: &[Prefix]) -> Vec<NlriEntry> {
    let entry = |prefix: &Prefix| NlriEntry {
        path_id: 0,
        prefix: match prefix.addr() {
            IpAddr::V4(addr) => wire::Prefix::V4(wire::Ipv4Prefix::new(addr, prefix.len())),
            IpAddr::V6(addr) => wire::Prefix::V6(wire::Ipv6Prefix::new(addr, prefix.len())),
        },
    };
    prefixes.iter().map(entry).collect()
}

fn reach(family: Family, next_hop: IpAddr, prefixes: &[Prefix]) -> PathAttribute {
    PathAttribute::MpReachNlri(Box::new(wire::MpReachNlri {
        afi: afi(family),
        safi: Safi::Unicast,
        next_hop,
        link_local_next_hop: None,
        announced: entries(prefixes),
        flowspec_announced: Vec::new(),
        evpn_announced: Vec::new(),
        bgpls_announced: Vec::new(),
        vpn_announced: Vec::new(),
        labeled_announced: Vec::new(),
        rtc_announced: Vec::new(),
    }))
}

fn unreach(prefixes: &[Prefix]) -> PathAttribute {
    PathAttribute::MpUnreachNlri(Box::new(wire::MpUnreachNlri {
        afi: Afi::Ipv6,
        safi: Safi::Unicast,
        withdrawn: entries(prefixes),
        flowspec_withdrawn: Vec::new(),
        evpn_withdrawn: Vec::new(),
        bgpls_withdrawn: Vec::new(),
        vpn_withdrawn: Vec::new(),
        labeled_withdrawn: Vec::new(),
        rtc_withdrawn: Vec::new(),
    }))
}

#[cfg(test)]
mod tests;
