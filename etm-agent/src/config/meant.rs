//! What can be written and cannot be meant: numbers and addresses that belong to somebody else. Never about what is on the
//! machine.

use super::raw::{self, Text};
use super::validate::Check;
use crate::types::Community;
use std::net::IpAddr;
use std::ops::Range;

/// Longest path of a unix socket (unix(7), sun_path without its end), less what a name beside it needs meanwhile.
const SOCKET_PATH: usize = 107 - ".new".len();

/// rtm_protocol of what is installed by the kernel, by hand, by hosts' configuration, and by other routing protocols: static,
/// router advertisements, DHCP; FRR's Babel, IS-IS, OSPF, RIP, RIPng, NHRP, EIGRP, static and OpenFabric.
const NOT_BGP: [u8; 16] = [0, 1, 2, 3, 4, 9, 16, 42, 187, 188, 189, 190, 191, 192, 196, 197];

/// True of rtm_protocol numbers that others use: rtnetlink.h up to keepalived, Babel, OVN, Open/R, and FRR's.
fn taken(protocol: u8) -> bool {
    matches!(protocol, 0..=18 | 42 | 84 | 99 | 186..=198)
}

impl Check {
    /// ETM's number must be nobody else's, and that of no daemon whose routes it overrides.
    pub(super) fn protocols(&mut self, raw: &raw::Kernel, own: u8) {
        if let Some(protocol) = raw.protocol.as_ref().filter(|protocol| taken(*protocol.get_ref())) {
            self.fault_with_help(
                protocol.span(),
                format!("route protocol {own} belongs to the kernel or to another daemon"),
                "leave it out for 179, or choose one that /etc/iproute2/rt_protos does not name",
            );
        }
        let Some(listed) = &raw.daemon_protocols else { return };
        if listed.get_ref().contains(&own) {
            self.fault_with_help(
                listed.span(),
                format!("{own} is ETM's own protocol: its routes would be taken for the daemon's"),
                "name the daemon's protocol here, or give ETM another kernel.protocol",
            );
        }
        if let Some(other) = listed.get_ref().iter().find(|protocol| NOT_BGP.contains(protocol)) {
            self.fault_with_help(
                listed.span(),
                format!("routes of protocol {other} are not learnt by BGP, and never overridden"),
                "name protocols of BGP daemons: zebra 11, bird 12, bgp 186",
            );
        }
    }

    /// An address of one host that others can be sent to.
    pub(super) fn unicast(&mut self, span: Range<usize>, what: &str, addr: IpAddr) {
        let odd = match addr {
            IpAddr::V4(v4) => matches!(v4.octets()[0], 0 | 127 | 224..=255),
            IpAddr::V6(v6) => {
                v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.to_ipv4_mapped().is_some()
            }
        };
        if odd {
            self.fault_with_help(
                span,
                format!("{what} {addr} is not the address of a router"),
                "give the unicast address by which it is reached",
            );
        }
    }

    /// ETM's own mark on what it announces: what everybody understands already cannot be it.
    pub(super) fn own_community(&mut self, text: &Text, community: Community) {
        let high = community.0 >> 16;
        if high == 0 || high == 0xFFFF {
            self.fault_with_help(
                text.span(),
                format!("community {community} is reserved or well-known (RFC 1997): learnt routes with it would be taken for ETM's"),
                "use one of your own AS, like 64500:179",
            );
        }
    }

    /// The path of a unix socket.
    pub(super) fn socket_path(&mut self, text: &Text, whose: &str) {
        let path = text.get_ref();
        if !path.starts_with('/') || path.ends_with('/') {
            self.fault(
                text.span(),
                format!("{whose} socket must be an absolute path, like /run/etm/NAME.sock"),
            );
        } else if path.len() > SOCKET_PATH {
            self.fault(text.span(), format!("{whose} socket must be a path of at most {SOCKET_PATH} octets"));
        }
    }
}
