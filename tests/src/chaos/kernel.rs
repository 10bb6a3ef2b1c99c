//! The border's routes as the kernel tells them: plain routing's table and ETM's. Reads only, and shares no code with the
//! agent, whose work it judges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::error::LabError;
use crate::netns::Namespace;

/// Plain routing's table.
pub const MAIN: u32 = 254;
/// ETM's table, and its protocol number.
pub const OWN: u32 = 179;

const RTM_GETROUTE: u16 = 26;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
/// RTNLGRP_IPV4_ROUTE and RTNLGRP_IPV6_ROUTE.
const ROUTE_GROUPS: [u32; 2] = [7, 11];
/// Room for a flood of notifications.
const FOLLOW_BUFFER: usize = 128 << 20;
const RTM_SETLINK: u16 = 19;
const REQUEST_ACK: u16 = 5;
const LINK_HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const RTN_UNICAST: u8 = 1;
const RTN_THROW: u8 = 9;
/// RTNH_F_DEAD, RTNH_F_LINKDOWN: the next hop is not used, or not where `ignore_routes_with_linkdown` is set, as it is here.
const UNUSABLE: u32 = 1 | 16;
/// RTM_F_CLONED: an entry of the cache, not of the table.
const CLONED: u32 = 0x200;

/// What a route says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Forward.
    Unicast,
    /// Look elsewhere.
    Throw,
    /// Anything else.
    Other(u8),
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Destination.
    pub prefix: IpNet,
    /// What it says.
    pub kind: Kind,
    /// Who made it (`/etc/iproute2/rt_protos`).
    pub protocol: u8,
    /// Lower is better.
    pub metric: u32,
    /// Next hop; none where it is connected.
    pub gateway: Option<IpAddr>,
    /// False where its interface has lost its link.
    pub usable: bool,
}

/// Reads tables of one namespace, as often as wanted.
pub struct Reader {
    socket: Socket,
}

impl Reader {
    /// Opens the socket inside `namespace`, where it stays.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel refuses the socket.
    pub fn open(namespace: &Namespace) -> Result<Self, LabError> {
        let socket = namespace.inside(|| {
            let failed = || LabError::io("open the observer's netlink socket");
            let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed())?;
            socket.bind_auto().map_err(failed())?;
            socket.connect(&SocketAddr::new(0, 0)).map_err(failed())?;
            // Strict: the kernel then dumps the table asked for, and no other.
            socket.set_netlink_get_strict_chk(true).map_err(failed())?;
            Ok(socket)
        })?;
        Ok(Self { socket })
    }

    /// All routes of a table, both families.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn table(&self, table: u32) -> Result<Vec<Way>, LabError> {
        let mut ways = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(u8::try_from(family).unwrap_or_default(), table, &mut ways)
                .map_err(LabError::io(format!("read table {table}")))?;
        }
        ways.sort();
        Ok(ways)
    }

    fn dump(&self, family: u8, table: u32, ways: &mut Vec<Way>) -> std::io::Result<()> {
        self.socket.send(&request(family, table), 0)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while let Some((kind, body, after)) = message(rest) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return refusal(body),
                    RTM_NEWROUTE => ways.extend(way(body, table)),
                    _ => {}
                }
                rest = after;
            }
        }
    }
}

/// Follows the changes of all tables of one namespace: what came and went between two looks.
pub struct Follower {
    socket: Socket,
}

/// A change of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its table.
    pub table: u32,
    /// The route.
    pub way: Way,
    /// It was removed.
    pub gone: bool,
}

impl Change {
    /// Does the same to `ways`.
    pub fn apply(&self, ways: &mut Vec<Way>) {
        ways.retain(|way| (way.prefix, way.metric) != (self.way.prefix, self.way.metric));
        if !self.gone {
            ways.push(self.way.clone());
        }
    }
}

impl Follower {
    /// Opens the socket inside `namespace`, where it stays.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel refuses the socket.
    pub fn open(namespace: &Namespace) -> Result<Self, LabError> {
        let socket = namespace.inside(|| {
            let failed = || LabError::io("open the observer's netlink socket");
            let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed())?;
            socket.bind_auto().map_err(failed())?;
            setsockopt(&socket, sockopt::RcvBufForce, &FOLLOW_BUFFER)
                .map_err(LabError::errno("enlarge the observer's netlink socket"))?;
            for group in ROUTE_GROUPS {
                socket.add_membership(group).map_err(failed())?;
            }
            socket.set_non_blocking(true).map_err(failed())?;
            Ok(socket)
        })?;
        Ok(Self { socket })
    }

    /// Changes of main and of ETM's table since the last call; `None` where some were lost.
    pub fn changes(&self) -> Option<Vec<Change>> {
        let mut changes = Vec::new();
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => {
                    let mut rest = datagram.as_slice();
                    while let Some((kind, body, after)) = message(rest) {
                        if matches!(kind, RTM_NEWROUTE | RTM_DELROUTE) {
                            let of = |table| {
                                way(body, table).map(|way| Change { table, way, gone: kind == RTM_DELROUTE })
                            };
                            changes.extend(of(MAIN).or_else(|| of(OWN)));
                        }
                        rest = after;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Some(changes),
                // ENOBUFS, or worse.
                Err(_) => return None,
            }
        }
    }
}

/// Measures how long the kernel's routing lock keeps one waiting, which every network namespace of a box shares.
pub struct LockMeter {
    socket: Socket,
}

impl LockMeter {
    /// Opens the socket inside `namespace`, where it stays.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel refuses the socket.
    pub fn open(namespace: &Namespace) -> Result<Self, LabError> {
        let socket = namespace.inside(|| {
            let failed = || LabError::io("open the observer's netlink socket");
            let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed())?;
            socket.bind_auto().map_err(failed())?;
            socket.connect(&SocketAddr::new(0, 0)).map_err(failed())?;
            Ok(socket)
        })?;
        Ok(Self { socket })
    }

    /// Asks for a change of `lo` that changes nothing, and waits for the answer, which takes the lock.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn measure(&self) -> Result<Duration, LabError> {
        let begun = Instant::now();
        let mut bytes = Vec::with_capacity(HEADER + LINK_HEADER);
        bytes.extend(32_u32.to_ne_bytes());
        bytes.extend(RTM_SETLINK.to_ne_bytes());
        bytes.extend(REQUEST_ACK.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend([0; 8]);
        let asked = self.socket.send(&bytes, 0).and_then(|_| self.socket.recv_from_full());
        asked.map_err(LabError::io("measure the kernel's routing lock"))?;
        Ok(begun.elapsed())
    }
}

fn request(family: u8, table: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + ROUTE_HEADER + 8);
    bytes.extend(36_u32.to_ne_bytes());
    bytes.extend(RTM_GETROUTE.to_ne_bytes());
    bytes.extend(REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(8_u16.to_ne_bytes());
    bytes.extend(RTA_TABLE.to_ne_bytes());
    bytes.extend(table.to_ne_bytes());
    bytes
}

/// A table that never held a route does not exist, which is an empty answer.
fn refusal(body: &[u8]) -> std::io::Result<()> {
    let code = body.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 || -code == libc::ENOENT { Ok(()) } else { Err(std::io::Error::from_raw_os_error(-code)) }
}

/// Type and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    Some((u16_at(bytes, 4)?, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn way(body: &[u8], table: u32) -> Option<Way> {
    let [family, length, _, _, _, protocol, _, kind] = *body.first_chunk::<8>()?;
    let flags = u32_at(body, 8)?;
    let mut address = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut gateway, mut metric, mut found) = (None, 0, u32::from(*body.get(4)?));
    let mut rest = body.get(ROUTE_HEADER..)?;
    while let (Some(size), Some(attribute)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let value = rest.get(4..usize::from(size))?;
        match attribute & 0x3fff {
            RTA_DST => address = ip(value)?,
            RTA_GATEWAY => gateway = ip(value),
            RTA_PRIORITY => metric = u32_at(value, 0)?,
            RTA_TABLE => found = u32_at(value, 0)?,
            _ => {}
        }
        rest = rest.get(usize::from(size).next_multiple_of(4)..).unwrap_or_default();
    }
    if found != table || flags & CLONED != 0 {
        return None;
    }
    let kind = match kind {
        RTN_UNICAST => Kind::Unicast,
        RTN_THROW => Kind::Throw,
        other => Kind::Other(other),
    };
    let prefix = IpNet::new(address, length).ok()?;
    Some(Way { prefix, kind, protocol, metric, gateway, usable: flags & UNUSABLE == 0 })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The route by which a table sends `destination`: the longest match that is usable, then the lowest metric. `None` where
/// the table has none, or says to look elsewhere.
pub fn lookup(ways: &[Way], destination: IpAddr) -> Option<&Way> {
    ways.iter()
        .filter(|way| way.usable && way.prefix.contains(&destination))
        .max_by_key(|way| (way.prefix.prefix_len(), std::cmp::Reverse(way.metric)))
        .filter(|way| way.kind == Kind::Unicast)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(prefix: &str, gateway: &str, usable: bool) -> Way {
        Way {
            prefix: prefix.parse().unwrap(),
            kind: Kind::Unicast,
            protocol: 12,
            metric: 32,
            gateway: Some(gateway.parse().unwrap()),
            usable,
        }
    }

    #[test]
    fn the_longest_usable_match_decides_and_a_throw_ends_the_search() {
        let throw = Way { kind: Kind::Throw, ..to("198.18.2.0/24", "10.1.0.1", true) };
        let ways = [
            to("198.18.0.0/16", "10.1.0.1", true),
            to("198.18.1.0/24", "10.2.0.1", false),
            to("198.18.3.0/24", "10.3.0.1", true),
            throw,
        ];
        let check = |destination: &str, expected: Option<&str>| {
            let found = lookup(&ways, destination.parse().unwrap()).and_then(|way| way.gateway);
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{destination}");
        };
        check("198.18.1.1", Some("10.1.0.1"));
        check("198.18.2.1", None);
        check("198.18.3.1", Some("10.3.0.1"));
        check("198.19.0.1", None);
    }
}
