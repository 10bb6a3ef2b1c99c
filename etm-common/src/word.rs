//! The words of the derived lookup arrays: what an address leads to. Never a way to read or write them.
//!
//! A word is, from the strongest case to the weakest:
//! * [`NODE`] set: the low bits are the number of a block in `etm_node`; the next octet of the address chooses there;
//! * [`TRIE`] set: only the trie knows (routes longer than the arrays go, or no block was free);
//! * else the low bits are slot + 1 of the longest match, or 0: no route but perhaps the default.
//!
//! Words of leaves also hold the length of the prefix they stand for, which only their writer looks at.

/// The address goes on in a block.
pub const NODE: u32 = 1 << 31;
/// The trie must be asked.
pub const TRIE: u32 = 1 << 30;
/// Slot + 1, or the number of a block.
pub const LOW: u32 = (1 << 24) - 1;
/// Where the length begins: of the prefix in a directory; in a block its bits beyond the block's start, 0 if none.
pub const LENGTH_SHIFT: u32 = 24;
/// Bits of the length.
pub const LENGTH: u32 = 0x1f << LENGTH_SHIFT;

/// Bits of an address that a directory resolves, of either family.
pub const DIR_BITS: u32 = 24;
/// Words of `etm_dir24`.
pub const DIR4_WORDS: u32 = 1 << DIR_BITS;
/// Words of `etm_dir6`: the three highest bits are those of [`GLOBAL_UNICAST`].
pub const DIR6_WORDS: u32 = 1 << (DIR_BITS - 3);
/// The three highest bits of 2000::/3, all that is routed globally (RFC 4291 section 2.4). Others: the trie.
pub const GLOBAL_UNICAST: u64 = 1;
/// Bits of an address that a block resolves.
pub const BLOCK_BITS: u32 = 8;
/// Words of a block.
pub const BLOCK_WORDS: u32 = 1 << BLOCK_BITS;
/// Bits of an IPv6 address that blocks resolve; for longer prefixes the trie is asked.
pub const V6_BITS: u32 = 64;
/// Words of an array element: the kernel rounds elements up to 8 bytes.
pub const PAIR: u32 = 2;

/// The word of `etm_default` for IPv4.
pub const DEFAULT4: usize = 0;
/// The word of `etm_default` for IPv6.
pub const DEFAULT6: usize = 1;

const _: () = assert!(NODE & TRIE == 0 && (NODE | TRIE) & (LOW | LENGTH) == 0 && LOW & LENGTH == 0);
const _: () = assert!((V6_BITS - DIR_BITS).is_multiple_of(BLOCK_BITS) && DIR_BITS + BLOCK_BITS == 32);
