//! Destinations that no route may have, whoever announces it.
//! Never a policy: private, shared, documentation and benchmarking space is the operator's own affair.

use crate::types::Prefix;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `prefix` lies in space that is never routed: "this network", loopback, link-local, multicast and
/// class E (RFC 6890), and for IPv6 also IPv4-mapped addresses. The default route is not a martian.
pub fn is_martian(prefix: Prefix) -> bool {
    if prefix.is_default() {
        return false;
    }
    match prefix.addr() {
        IpAddr::V4(addr) => is_martian_v4(addr, prefix.len()),
        IpAddr::V6(addr) => is_martian_v6(addr, prefix.len()),
    }
}

fn is_martian_v4(addr: Ipv4Addr, len: u8) -> bool {
    let [first, second, ..] = addr.octets();
    match first {
        0 | 127 => len >= 8,
        169 => second == 254 && len >= 16,
        // Multicast and class E, and whatever is wide enough to begin there.
        224..=255 => true,
        _ => false,
    }
}

fn is_martian_v6(addr: Ipv6Addr, len: u8) -> bool {
    let segments = addr.segments();
    match segments[0] {
        // ::/16 holds the unspecified, loopback, IPv4-compatible and IPv4-mapped addresses. The rest of ::/8
        // holds 64:ff9b::/96 (RFC 6052), which may be routed.
        0x0000 => len >= 16,
        0xfe80..=0xfebf => len >= 10,
        0xff00..=0xffff => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_space_that_is_never_routed_is_refused() {
        for (prefix, martian) in [
            ("0.0.0.0/0", false),
            ("0.0.0.0/1", false),
            ("0.0.0.0/8", true),
            ("0.1.0.0/16", true),
            ("10.0.0.0/8", false),
            ("100.64.0.0/10", false),
            ("127.0.0.0/8", true),
            ("127.0.0.1/32", true),
            ("169.254.0.0/16", true),
            ("169.253.0.0/16", false),
            ("198.18.0.0/15", false),
            ("203.0.113.0/24", false),
            ("223.255.255.0/24", false),
            ("224.0.0.0/4", true),
            ("239.1.2.3/32", true),
            ("240.0.0.0/4", true),
            ("255.255.255.255/32", true),
            ("::/0", false),
            ("::1/128", true),
            ("::ffff:192.0.2.0/120", true),
            ("64:ff9b::/96", false),
            ("2000::/3", false),
            ("2001:db8::/32", false),
            ("fc00::/7", false),
            ("fe80::/10", true),
            ("fe80::1/128", true),
            ("ff02::/16", true),
        ] {
            assert_eq!(is_martian(prefix.parse().unwrap()), martian, "{prefix}");
        }
    }
}
