//! Why a packet on an uplink is counted for no prefix: row numbers. Never renumbered within an ABI version.

/// Neither IPv4 nor IPv6, or behind more VLAN tags than are looked through.
pub const NON_IP: u32 = 0;
/// Too short for the header it announces, or a wrong version field.
pub const MALFORMED: u32 = 1;
/// IP, but no prefix of the table holds the destination.
pub const NO_PREFIX: u32 = 2;
/// The slot is outside the counters: kernel and agent disagree.
pub const BAD_SLOT: u32 = 3;
/// Number of reasons; rows per uplink.
pub const REASONS: u32 = 4;
