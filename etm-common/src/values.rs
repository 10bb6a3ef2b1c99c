//! Values of the maps. Never a type without a fixed layout: no bool, enum, Option or implicit padding.

use crate::limits::{INTERFACE_TEXT, PREFIX_TEXT};

/// A cumulative counter pair. Never reset while the map lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Count {
    /// Bytes, wire length: of a segmented super-packet the headers of all its segments.
    pub bytes: u64,
    /// Packets, counted as the qdisc does: the segments of a super-packet.
    pub packets: u64,
}

/// Everything that was offered to an uplink, whatever it was counted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Total {
    /// As [`Count`] says: super-packets by their segments.
    pub offered: Count,
    /// By how much `offered` exceeds what a device says that sends super-packets whole: the packets but one of each, and
    /// the headers of these.
    pub excess: Count,
}

/// What the egress program knows of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Uplink {
    /// Row of the uplink in the counters.
    pub index: u32,
    /// A sum of `UPLINK_*`.
    pub flags: u32,
}

/// The interface's packets begin with the IP header (tun, wireguard, ipip: no link-layer header).
pub const UPLINK_WITHOUT_ETHERNET: u32 = 1;

/// Until when packets are marked, and how. Written by the agent only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Lease {
    /// CLOCK_BOOTTIME in nanoseconds; from then on nothing is marked. 0: never.
    pub deadline_ns: u64,
    /// The mark and the bits it owns.
    pub setting: MarkSetting,
}

/// A mark and the bits of `skb->mark` that it owns; all others are preserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MarkSetting {
    /// Value; no bit outside `mask`.
    pub mark: u32,
    /// Bits owned.
    pub mask: u32,
}

/// The operator's switch. Written by `etm off` and `etm on` only, so that an agent which was hung and
/// comes back to life cannot undo an `off`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Off {
    /// Any other value than 0: nothing is marked, whatever the lease says.
    pub off: u32,
}

/// Whose a row of the counters is. Read and written by the agent only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RowOwner {
    /// Interface name of the uplink: a text, closed and filled with zeros.
    pub uplink: [u8; INTERFACE_TEXT],
}

/// Key of the live statistics map: texts, closed and filled with zeros, so that any tool shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LiveKey {
    /// Destination prefix.
    pub prefix: [u8; PREFIX_TEXT],
    /// Interface name of the uplink.
    pub uplink: [u8; INTERFACE_TEXT],
}

/// Value of the live statistics map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LiveValue {
    /// Cumulative since the prefix is counted.
    pub bytes: u64,
    /// Cumulative since the prefix is counted.
    pub packets: u64,
    /// Over the last interval.
    pub bits_per_second: u64,
}
