//! Sizes. Never a tunable of behaviour.

/// Interfaces that can be counted at once; entries of the uplinks map.
pub const MAX_UPLINKS: u32 = 64;
/// VLAN tags that are looked through in the packet itself (one more may be in the skb's metadata).
pub const MAX_VLAN_TAGS: usize = 2;
/// Entries of an MPLS label stack that are looked through.
pub const MAX_MPLS_LABELS: usize = 8;
/// Prefixes of sources whose packets may take overrides, where the router itself makes them.
pub const MAX_SOURCES: u32 = 256;
/// Rows of the live statistics map.
pub const MAX_LIVE: u32 = 1024;
/// Bytes of the text of a prefix in the live statistics map, closing zero included
/// (INET6_ADDRSTRLEN 46 and "/128", rounded up).
pub const PREFIX_TEXT: usize = 56;
/// Bytes of an interface name, closing zero included (IFNAMSIZ).
pub const INTERFACE_TEXT: usize = 16;
