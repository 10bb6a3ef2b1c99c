//! Path attributes between the codec's types and ETM's. Never decides whether a route is acceptable.

use crate::types::{AsPath, AsPathSegment, Asn, CarriedAttr, Community, LargeCommunity, Origin, RouteAttrs};
use rustbgpd_wire as wire;
use std::net::{IpAddr, Ipv4Addr};
use wire::PathAttribute;

const ATOMIC_AGGREGATE: u8 = 6;
const ONLY_TO_CUSTOMER: u8 = 35;
const EXTENDED_LENGTH: u8 = 0x10;
/// LOCAL_PREF of a route that came without one.
const LOCAL_PREF_ABSENT: u32 = 100;

/// Attributes common to all NLRI of an UPDATE, and the two places where a next hop can be.
pub(super) struct Received<'a> {
    /// Everything but the next hop, which is filled in per family.
    attrs: RouteAttrs,
    carried: Vec<CarriedAttr>,
    /// NEXT_HOP: of the NLRI in the body.
    pub(super) next_hop: Option<Ipv4Addr>,
    /// MP_REACH_NLRI (RFC 4760).
    pub(super) reach: Option<&'a wire::MpReachNlri>,
    /// MP_UNREACH_NLRI (RFC 4760).
    pub(super) unreach: Option<&'a wire::MpUnreachNlri>,
}

impl<'a> Received<'a> {
    /// Reads the attributes of one UPDATE. `internal` is true on iBGP sessions: elsewhere LOCAL_PREF and
    /// ORIGINATOR_ID must be ignored (RFC 4271 section 5.1.5, RFC 4456 section 8).
    pub(super) fn of(attributes: &'a [PathAttribute], internal: bool) -> Received<'a> {
        let mut received = Received {
            attrs: RouteAttrs {
                local_pref: LOCAL_PREF_ABSENT,
                ..RouteAttrs::to_next_hop(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
            },
            carried: Vec::new(),
            next_hop: None,
            reach: None,
            unreach: None,
        };
        for attribute in attributes {
            received.take(attribute, internal);
        }
        received
    }

    /// The attributes with the next hop of one family.
    pub(super) fn with_next_hop(&self, next_hop: IpAddr) -> RouteAttrs {
        let mut carried = self.carried.clone();
        carried.sort_unstable();
        RouteAttrs { next_hop, carried: carried.into(), ..self.attrs.clone() }
    }

    /// The same for the last family, which needs no copy.
    pub(super) fn take_with_next_hop(&mut self, next_hop: IpAddr) -> RouteAttrs {
        let mut carried = std::mem::take(&mut self.carried);
        carried.sort_unstable();
        let left = std::mem::replace(&mut self.attrs, RouteAttrs::to_next_hop(next_hop));
        RouteAttrs { next_hop, carried: carried.into(), ..left }
    }

    /// COMMUNITIES.
    pub(super) fn communities(&self) -> &[Community] {
        &self.attrs.communities
    }

    /// AS_PATH.
    pub(super) fn as_path(&self) -> &AsPath {
        &self.attrs.as_path
    }

    fn take(&mut self, attribute: &'a PathAttribute, internal: bool) {
        match attribute {
            PathAttribute::Origin(origin) => self.attrs.origin = origin_in(*origin),
            PathAttribute::AsPath(path) => self.attrs.as_path = as_path_in(path),
            PathAttribute::NextHop(addr) => self.next_hop = Some(*addr),
            PathAttribute::Med(med) => self.attrs.med = Some(*med),
            PathAttribute::LocalPref(pref) if internal => self.attrs.local_pref = *pref,
            PathAttribute::OriginatorId(id) if internal => self.attrs.originator = Some(*id),
            PathAttribute::ClusterList(ids) if internal => {
                self.attrs.cluster_hops = u8::try_from(ids.len()).unwrap_or(u8::MAX);
            }
            PathAttribute::MpReachNlri(reach) => self.reach = Some(reach),
            PathAttribute::MpUnreachNlri(unreach) => self.unreach = Some(unreach),
            other => {
                self.take_communities(other);
                self.carried.extend(carried_in(other));
            }
        }
    }

    /// What ETM adds itself on the way in (RFC 9234 section 5).
    pub(super) fn only_to_customer(&mut self, asn: Asn) {
        let value = asn.0.to_be_bytes().into();
        self.carried.push(CarriedAttr { flags: 0xC0, code: ONLY_TO_CUSTOMER, value });
    }

    /// ONLY_TO_CUSTOMER, where the route has it.
    pub(super) fn customers_of(&self) -> Option<Asn> {
        let found = self.carried.iter().find(|attr| attr.code == ONLY_TO_CUSTOMER)?;
        found.value.as_ref().try_into().ok().map(|octets| Asn(u32::from_be_bytes(octets)))
    }

    fn take_communities(&mut self, attribute: &PathAttribute) {
        if let Some(values) = attribute.communities() {
            self.attrs.communities = values.iter().copied().map(Community).collect();
            self.attrs.communities.sort_unstable();
        }
        if let Some(values) = attribute.large_communities() {
            let large = |value: &wire::LargeCommunity| LargeCommunity {
                global: value.global_admin,
                local1: value.local_data1,
                local2: value.local_data2,
            };
            self.attrs.large_communities = values.iter().map(large).collect();
            self.attrs.large_communities.sort_unstable();
        }
    }
}

/// An attribute that goes on unread, in wire form; none where it is read, or ends here.
fn carried_in(attribute: &PathAttribute) -> Option<CarriedAttr> {
    let marker = |code| Some(CarriedAttr { flags: 0xE0, code, value: Box::default() });
    match attribute {
        // Their values are kept apart, as ETM reads them; that they came Partial is kept here.
        PathAttribute::CommunitiesPartial(_) | PathAttribute::LargeCommunitiesPartial(_) => {
            marker(attribute.type_code())
        }
        PathAttribute::AtomicAggregate
        | PathAttribute::Aggregator(_)
        | PathAttribute::ExtendedCommunities(_)
        | PathAttribute::ExtendedCommunitiesPartial(_)
        | PathAttribute::Ipv6ExtendedCommunities(_)
        | PathAttribute::Ipv6ExtendedCommunitiesPartial(_)
        | PathAttribute::OnlyToCustomer(_)
        | PathAttribute::OnlyToCustomerPartial(_)
        | PathAttribute::Unknown(_) => encoded(attribute),
        _ => None,
    }
}

/// The codec sets Partial on what neither of us knows, and leaves out what must not go on.
fn encoded(attribute: &PathAttribute) -> Option<CarriedAttr> {
    let mut bytes = Vec::new();
    wire::attribute::encode_path_attributes(std::slice::from_ref(attribute), &mut bytes, true, false).ok()?;
    let [flags, code, rest @ ..] = &bytes[..] else { return None };
    let value = if flags & EXTENDED_LENGTH == 0 { rest.get(1..)? } else { rest.get(2..)? };
    Some(CarriedAttr { flags: flags & !EXTENDED_LENGTH, code: *code, value: value.into() })
}

/// What goes on unread, for the codec; an AS number in it gets the width the receiver understands.
pub(super) fn carried_out(carried: &[CarriedAttr]) -> Vec<PathAttribute> {
    let mut bytes = Vec::new();
    for attr in carried.iter().filter(|attr| !attr.value.is_empty() || attr.code == ATOMIC_AGGREGATE) {
        let Ok(len) = u16::try_from(attr.value.len()) else { continue };
        bytes.extend_from_slice(&[attr.flags | EXTENDED_LENGTH, attr.code]);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(&attr.value);
    }
    wire::attribute::decode_path_attributes(&bytes, true, &[]).unwrap_or_default()
}

/// Whether the attribute came with the Partial bit, for those whose values are kept apart.
pub(super) fn came_partial(carried: &[CarriedAttr], code: u8) -> bool {
    carried.iter().any(|attr| attr.code == code && attr.value.is_empty())
}

fn origin_in(origin: wire::Origin) -> Origin {
    match origin {
        wire::Origin::Igp => Origin::Igp,
        wire::Origin::Egp => Origin::Egp,
        wire::Origin::Incomplete => Origin::Incomplete,
    }
}

fn as_path_in(path: &wire::AsPath) -> AsPath {
    let asns = |asns: &[u32]| asns.iter().copied().map(Asn).collect();
    AsPath(
        path.segments
            .iter()
            .map(|segment| match segment {
                wire::AsPathSegment::AsSequence(list) => AsPathSegment::Sequence(asns(list)),
                wire::AsPathSegment::AsSet(list) => AsPathSegment::Set(asns(list)),
            })
            .collect(),
    )
}

/// ORIGIN for the codec.
pub(super) fn origin_out(origin: Origin) -> wire::Origin {
    match origin {
        Origin::Igp => wire::Origin::Igp,
        Origin::Egp => wire::Origin::Egp,
        Origin::Incomplete => wire::Origin::Incomplete,
    }
}

/// AS_PATH for the codec.
pub(super) fn as_path_out(path: &AsPath) -> wire::AsPath {
    let asns = |asns: &[Asn]| asns.iter().map(|asn| asn.0).collect();
    wire::AsPath {
        segments: path
            .0
            .iter()
            .map(|segment| match segment {
                AsPathSegment::Sequence(list) => wire::AsPathSegment::AsSequence(asns(list)),
                AsPathSegment::Set(list) => wire::AsPathSegment::AsSet(asns(list)),
            })
            .collect(),
    }
}

/// LARGE_COMMUNITY for the codec.
pub(super) fn large_out(value: &LargeCommunity) -> wire::LargeCommunity {
    wire::LargeCommunity::new(value.global, value.local1, value.local2)
}

/// The name RFCs give to an attribute type, for messages.
pub(super) fn attribute_name(type_code: u8) -> &'static str {
    match type_code {
        1 => "ORIGIN",
        2 => "AS_PATH",
        3 => "NEXT_HOP",
        4 => "MULTI_EXIT_DISC",
        5 => "LOCAL_PREF",
        6 => "ATOMIC_AGGREGATE",
        7 => "AGGREGATOR",
        8 => "COMMUNITIES",
        9 => "ORIGINATOR_ID",
        10 => "CLUSTER_LIST",
        14 => "MP_REACH_NLRI",
        15 => "MP_UNREACH_NLRI",
        16 => "EXTENDED COMMUNITIES",
        17 => "AS4_PATH",
        18 => "AS4_AGGREGATOR",
        32 => "LARGE_COMMUNITY",
        35 => "ONLY_TO_CUSTOMER",
        0 => "",
        _ => "an attribute ETM does not know",
    }
}
