//! Routes as netlink messages: reading any route, writing ETM's own. Pure.
//! Never writes a route without table, protocol and metric.

use crate::core::decision::{KernelAction, OWN_METRIC, WeightedHop};
use crate::fib::OwnTable;
use crate::fib::wire::{self, Attributes};
use crate::types::{IfIndex, Prefix};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteScope,
    RouteType,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_GETROUTE: u16 = 26;

/// The table of plain routing.
pub(super) const TABLE_MAIN: u32 = 254;

const ROUTE_HEADER: usize = 12;
const RTM_F_CLONED: u32 = 0x200;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;

const RTN_UNICAST: u8 = 1;
const RTN_THROW: u8 = 9;

/// A gateway (none on a connected route) and an interface.
pub(super) type NextHop = (Option<IpAddr>, IfIndex);

/// A route of the kernel, in any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteRow {
    pub(super) prefix: Prefix,
    pub(super) table: u32,
    pub(super) metric: u32,
    pub(super) protocol: u8,
    pub(super) kind: u8,
    pub(super) next_hops: Vec<NextHop>,
    /// The next-hop object it uses; 0 is none.
    pub(super) object: u32,
    /// True where RTA_MULTIPATH was given.
    pub(super) multipath: bool,
    /// Of RTA_MULTIPATH, in the order of `next_hops`.
    pub(super) weights: Vec<u16>,
}

impl RouteRow {
    /// True for a route that forwards.
    pub(super) fn is_unicast(&self) -> bool {
        self.kind == RTN_UNICAST
    }

    /// What ETM would have meant by this route; nothing where ETM never makes such a route.
    pub(super) fn as_action(&self) -> Option<KernelAction> {
        match (self.kind, self.next_hops.as_slice()) {
            (RTN_THROW, _) => Some(KernelAction::Throw),
            (RTN_UNICAST, [(Some(gateway), ifindex)]) if self.object == 0 => {
                Some(KernelAction::Via { gateway: *gateway, ifindex: *ifindex })
            }
            (RTN_UNICAST, [(Some(one), on), (Some(other), at)]) if self.object == 0 => {
                let [first, second] = *self.weights.as_slice() else { return None };
                Some(KernelAction::split(
                    WeightedHop { ifindex: *on, gateway: *one, weight: first },
                    WeightedHop { ifindex: *at, gateway: *other, weight: second },
                ))
            }
            _ => None,
        }
    }
}

/// The protocol of a route message, read without looking at the rest.
pub(super) fn protocol_of(payload: &[u8]) -> Option<u8> {
    payload.get(5).copied()
}

/// The table of a route message, read without looking at the rest: most notifications are of other tables.
pub(super) fn table_of(payload: &[u8]) -> Option<u32> {
    const RT_TABLE_COMPAT: u8 = 252;
    match *payload.get(4)? {
        RT_TABLE_COMPAT => Attributes::after(payload, ROUTE_HEADER)
            .find(|(kind, _)| *kind == RTA_TABLE)
            .and_then(|(_, value)| wire::u32_at(value, 0)),
        table => Some(u32::from(table)),
    }
}

/// Reads a route message. Nothing for what is not an ordinary unicast destination: routing caches, routes
/// that depend on source address or TOS, other families.
pub(super) fn read(payload: &[u8]) -> Option<RouteRow> {
    let [family, length, source_length, tos, _, protocol, _, kind] = *payload.first_chunk::<8>()?;
    let cached = wire::u32_at(payload, 8)? & RTM_F_CLONED != 0;
    if cached || source_length != 0 || tos != 0 {
        return None;
    }
    let mut addr = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut row = RouteRow {
        prefix: Prefix::host(addr),
        table: table_of(payload)?,
        metric: 0,
        protocol,
        kind,
        next_hops: Vec::new(),
        object: 0,
        multipath: false,
        weights: Vec::new(),
    };
    let mut single = SingleHop::default();
    for (kind, value) in Attributes::after(payload, ROUTE_HEADER) {
        match kind {
            RTA_DST => addr = wire::address(value)?,
            RTA_PRIORITY => row.metric = wire::u32_at(value, 0)?,
            RTA_NH_ID => row.object = wire::u32_at(value, 0)?,
            RTA_MULTIPATH => {
                row.multipath = true;
                (row.next_hops, row.weights) = multipath(value).into_iter().unzip();
            }
            _ => single.read(kind, value),
        }
    }
    row.prefix = Prefix::new(addr, length).ok()?;
    if let (false, Some(ifindex)) = (row.multipath, single.ifindex) {
        row.next_hops.push((single.gateway, ifindex));
    }
    Some(row)
}

/// Next hop attributes that stand in the message itself or in one part of RTA_MULTIPATH.
#[derive(Default)]
struct SingleHop {
    gateway: Option<IpAddr>,
    ifindex: Option<IfIndex>,
}

impl SingleHop {
    fn read(&mut self, kind: u16, value: &[u8]) {
        match kind {
            RTA_OIF => self.ifindex = wire::u32_at(value, 0).map(IfIndex),
            RTA_GATEWAY => self.gateway = wire::address(value),
            // struct rtvia: family in two bytes, then the address.
            RTA_VIA => self.gateway = value.get(2..).and_then(wire::address),
            _ => {}
        }
    }
}

/// Next hops with their weights.
fn multipath(mut value: &[u8]) -> Vec<(NextHop, u16)> {
    // struct rtnexthop: length in two bytes, flags, weight less one, ifindex; then attributes.
    const RTNEXTHOP: usize = 8;
    let mut next_hops = Vec::new();
    while let (Some(length), Some(ifindex)) = (wire::u16_at(value, 0), wire::u32_at(value, 4)) {
        let length = usize::from(length);
        if length < RTNEXTHOP || length > value.len() {
            break;
        }
        let mut hop = SingleHop::default();
        for (kind, value) in Attributes(&value[RTNEXTHOP..length]) {
            hop.read(kind, value);
        }
        let weight = value.get(3).map_or(1, |less_one| u16::from(*less_one) + 1);
        next_hops.push(((hop.gateway, IfIndex(ifindex)), weight));
        value = value.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    next_hops
}

/// Writes one of ETM's own routes, for adding, replacing or deleting it.
pub(super) fn own_route(own: OwnTable, prefix: Prefix, action: KernelAction) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family_of(prefix);
    header.destination_prefix_length = prefix.len();
    // The attribute says it for every table; the kernel's own messages also say it here where it fits.
    header.table = u8::try_from(own.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    header.protocol = RouteProtocol::from(own.protocol);
    header.scope = RouteScope::Universe;
    header.kind = match action {
        KernelAction::Via { .. } | KernelAction::Split { .. } => RouteType::Unicast,
        KernelAction::Throw => RouteType::Throw,
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(own.table));
    attributes.push(RouteAttribute::Destination(route_address(prefix.addr())));
    attributes.push(RouteAttribute::Priority(OWN_METRIC));
    match action {
        KernelAction::Via { gateway, ifindex } => {
            // An IPv4 prefix behind an IPv6 next hop (RFC 8950) is RTA_VIA; `next_hop` knows.
            attributes.push(next_hop(prefix, gateway));
            attributes.push(RouteAttribute::Oif(ifindex.get()));
        }
        KernelAction::Split { hops } => {
            attributes.push(RouteAttribute::MultiPath(hops.map(|hop| weighted(prefix, hop)).to_vec()));
        }
        KernelAction::Throw => {}
    }
    message
}

/// Names one of ETM's own routes, for deleting it. One with two next hops is named without them: IPv6 would take out one
/// after the other, and all flows would go by the second for a moment.
pub(super) fn own_removal(own: OwnTable, prefix: Prefix, action: KernelAction) -> RouteMessage {
    let mut message = own_route(own, prefix, action);
    message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::MultiPath(_)));
    message
}

fn weighted(prefix: Prefix, hop: WeightedHop) -> RouteNextHop {
    let mut part = RouteNextHop::default();
    part.hops = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
    part.interface_index = hop.ifindex.get();
    part.attributes = vec![next_hop(prefix, hop.gateway)];
    part
}

/// Deletes any route of ETM's table and protocol, also one ETM would not make today.
pub(super) fn own_row(own: OwnTable, row: &RouteRow) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(row.prefix);
    message.header.destination_prefix_length = row.prefix.len();
    message.header.protocol = RouteProtocol::from(own.protocol);
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = RouteType::from(row.kind);
    message.attributes.push(RouteAttribute::Table(own.table));
    message.attributes.push(RouteAttribute::Destination(route_address(row.prefix.addr())));
    message.attributes.push(RouteAttribute::Priority(row.metric));
    // With several next hops the prefix, metric and protocol name the route.
    if let (true, [(Some(gateway), ifindex)]) = (row.is_unicast(), row.next_hops.as_slice()) {
        message.attributes.push(next_hop(row.prefix, *gateway));
        message.attributes.push(RouteAttribute::Oif(ifindex.get()));
    }
    message
}

/// Asks for all routes of one table and family; with strict checking the kernel filters.
///
/// Of a table that is shared, those of ETM's protocol.
pub(super) fn own_dump_request(family: AddressFamily, own: OwnTable) -> RouteMessage {
    let mut message = dump_request(family, own.table);
    if own.is_shared() {
        message.header.protocol = RouteProtocol::from(own.protocol);
    }
    message
}

/// Asks for all routes of one table and family; with strict checking the kernel filters.
pub(super) fn dump_request(family: AddressFamily, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.attributes.push(RouteAttribute::Table(table));
    message
}

fn family_of(prefix: Prefix) -> AddressFamily {
    match prefix.addr() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn next_hop(prefix: Prefix, gateway: IpAddr) -> RouteAttribute {
    match (prefix.addr(), gateway) {
        (IpAddr::V4(_), IpAddr::V6(gateway)) => {
            RouteAttribute::Via(netlink_packet_route::route::RouteVia::Inet6(gateway))
        }
        (_, gateway) => RouteAttribute::Gateway(route_address(gateway)),
    }
}

fn route_address(addr: IpAddr) -> RouteAddress {
    match addr {
        IpAddr::V4(addr) => RouteAddress::Inet(addr),
        IpAddr::V6(addr) => RouteAddress::Inet6(addr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    const OWN: OwnTable = OwnTable { table: 179, protocol: 179 };

    fn round_trip(message: &RouteMessage) -> RouteRow {
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        read(&payload).unwrap()
    }

    #[test]
    fn own_routes_carry_table_protocol_metric_and_next_hop() {
        for (prefix, gateway) in [
            ("198.18.4.0/22", "192.0.2.1"),
            ("0.0.0.0/0", "192.0.2.1"),
            ("2001:db8:4::/48", "2001:db8::1"),
            ("198.18.4.0/22", "2001:db8::1"),
        ] {
            let action = KernelAction::Via { gateway: gateway.parse().unwrap(), ifindex: IfIndex(7) };
            let row = round_trip(&own_route(OWN, prefix.parse().unwrap(), action));
            assert_eq!((row.table, row.protocol, row.metric), (179, 179, OWN_METRIC), "{prefix}");
            assert_eq!(row.as_action(), Some(action), "{prefix}");
            assert_eq!(row.prefix, prefix.parse().unwrap());
        }
    }

    #[test]
    fn two_next_hops_keep_their_weights_whatever_their_order() {
        let hop = |gateway: &str, ifindex, weight| WeightedHop {
            ifindex: IfIndex(ifindex),
            gateway: gateway.parse().unwrap(),
            weight,
        };
        for (prefix, gateways) in [
            ("198.18.4.0/24", ["192.0.2.9", "192.0.2.1"]),
            ("198.18.4.0/24", ["192.0.2.9", "2001:db8::1"]),
            ("2001:db8:4::/48", ["2001:db8::9", "2001:db8::1"]),
        ] {
            let (one, other) = (hop(gateways[0], 9, 240), hop(gateways[1], 7, 16));
            let action = KernelAction::split(one, other);
            assert_eq!(action, KernelAction::split(other, one));
            let row = round_trip(&own_route(OWN, prefix.parse().unwrap(), action));
            assert_eq!(row.as_action(), Some(action), "{prefix} {gateways:?}");
            let removal = round_trip(&own_removal(OWN, prefix.parse().unwrap(), action));
            assert_eq!((removal.next_hops.len(), removal.metric), (0, OWN_METRIC));
        }
    }

    #[test]
    fn a_throw_has_no_next_hop() {
        let row = round_trip(&own_route(OWN, "198.18.4.0/22".parse().unwrap(), KernelAction::Throw));
        assert_eq!(row.as_action(), Some(KernelAction::Throw));
        assert!(row.next_hops.is_empty());
    }

    #[test]
    fn a_table_above_255_is_read_from_its_attribute() {
        let own = OwnTable { table: 17_900, protocol: 179 };
        let mut message = own_route(own, "198.18.0.0/15".parse().unwrap(), KernelAction::Throw);
        message.header.table = 252;
        assert_eq!(round_trip(&message).table, 17_900);
    }

    proptest! {
        #[test]
        fn no_payload_makes_the_reader_panic(data in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = read(&data);
            let _ = multipath(&data);
        }
    }
}
