//! The words of `etm_near`: an interface index and what `etm_uplinks` says of it, in one word, which is written and read
//! whole. Never the truth: an interface whose place another has is found in `etm_uplinks` alone.
//!
//! From the highest bit: 32 of interface index, 16 of flags, 16 of row. 0, which is no interface's: empty.

/// Words; a power of two. Interfaces with the same low bits share one, which the first has.
pub const WORDS: u32 = 256;
/// Where the interface index begins.
pub const IFINDEX_SHIFT: u32 = 32;
/// Where the flags begin.
pub const FLAGS_SHIFT: u32 = 16;
/// Bits of a row, and of flags.
pub const LOW: u64 = 0xffff;
