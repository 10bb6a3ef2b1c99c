//! What became of packets that the router itself makes, where they may take overrides: row numbers. Never renumbered within
//! an ABI version.

/// Sent by the override's exit.
pub const MOVED: u32 = 0;
/// Plain routing has chosen the override's exit already.
pub const SAME: u32 = 1;
/// An override would have carried it, but its source is none of those that may leave by any uplink.
pub const SOURCE: u32 = 2;
/// Likewise, but its socket is bound to an interface.
pub const BOUND: u32 = 3;
/// Likewise, but another rule comes before ETM's, or leads past the uplinks.
pub const RULED: u32 = 4;
/// Likewise, but it is too long for that exit.
pub const TOO_LONG: u32 = 5;
/// The kernel could not be asked, or could not make room for a header.
pub const FAILED: u32 = 6;
/// Number of rows.
pub const ROWS: u32 = 7;
