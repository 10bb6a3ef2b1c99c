//! What each map must look like, and the comparison of pinned maps with it before they are used.
//!
//! Loaders open an existing pin whatever it is: a wider value then overruns the reader's buffer, and a smaller
//! map silently stays small. Never changes a pin.

use super::DatapathConfig;
use super::error::DatapathError;
use aya::maps::MapInfo;
use etm_common::limits::{MAX_LIVE, MAX_UPLINKS};
use etm_common::{
    Count, Lease, LiveKey, LiveValue, Off, RowOwner, Total, Uplink, local, names, near, reasons, word,
};
use std::io;
use std::path::Path;

// linux/bpf.h; compared as numbers, because a pin may be of any type the kernel knows.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PROG_ARRAY: u32 = 3;
const PERCPU_ARRAY: u32 = 6;
const LPM_TRIE: u32 = 11;
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

/// Shape of one map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    kind: u32,
    key: u32,
    value: u32,
    pub(super) entries: u32,
    flags: u32,
    /// Holds nothing that cannot be made anew from the others.
    pub(super) derived: bool,
}

/// Shapes of all maps that are pinned, in the order in which they are made.
pub(super) fn shapes(config: &DatapathConfig) -> Result<[Shape; 19], DatapathError> {
    let rows = u64::from(config.slots) * u64::from(config.uplink_rows);
    let entries = u32::try_from(rows).map_err(|_| DatapathError::Size {
        what: "slots times uplinks",
        value: rows,
        most: u64::from(u32::MAX),
    })?;
    let uncounted = u32::from(config.uplink_rows) * reasons::REASONS;
    let shape = Shape { name: "", kind: ARRAY, key: 4, value: 4, entries: 1, flags: 0, derived: false };
    let array = |name, value, entries, flags| Shape { name, value, entries, flags, ..shape };
    let trie = |name, key, entries| Shape { name, kind: LPM_TRIE, key, entries, flags: NO_PREALLOC, ..shape };
    let hash = |name, key, value, entries| Shape { name, kind: HASH, key, value, entries, ..shape };
    let words = |name, words| {
        let entries = if config.fast_path { words / word::PAIR } else { 1 };
        Shape { derived: true, ..array(name, 4 * word::PAIR, entries, MMAPABLE) }
    };
    Ok([
        trie(names::PREFIX4, 4 + 4, config.prefixes4),
        trie(names::PREFIX6, 4 + 16, config.prefixes6),
        words(names::DIR24, word::DIR4_WORDS),
        words(names::DIR6, word::DIR6_WORDS),
        words(names::NODE, blocks(config) * word::BLOCK_WORDS),
        words(names::DEFAULT, word::PAIR),
        hash(names::UPLINKS, 4, size::<Uplink>(), MAX_UPLINKS),
        array(names::NEAR, 8, near::WORDS, 0),
        array(names::COUNT, size::<Count>(), entries, MMAPABLE),
        array(names::UNCOUNTED, size::<Count>(), uncounted, MMAPABLE),
        Shape { kind: PERCPU_ARRAY, ..array(names::TOTAL, size::<Total>(), MAX_UPLINKS, 0) },
        array(names::LEASE, size::<Lease>(), 1, 0),
        array(names::OFF, size::<Off>(), 1, 0),
        Shape { kind: PERCPU_ARRAY, ..array(names::MARKED, size::<Count>(), 2, 0) },
        Shape { kind: PROG_ARRAY, ..array(names::XDP_CALL, 4, 1, 0) },
        Shape {
            kind: PERCPU_ARRAY,
            ..array(names::XDP_SEEN, size::<Count>(), names::XDP_SEEN_UNKNOWN + 1, 0)
        },
        Shape { kind: PERCPU_ARRAY, ..array(names::LOCAL, size::<Count>(), local::ROWS, 0) },
        hash(names::ROWS, 4, size::<RowOwner>(), MAX_UPLINKS),
        hash(names::LIVE, size::<LiveKey>(), size::<LiveValue>(), MAX_LIVE),
    ])
}

/// Blocks of `etm_node`. The Internet's table of 2024 needs one for 4.3 of its IPv6 prefixes and one for 2,000 of its
/// IPv4 prefixes; where they end, the program asks the trie.
pub(super) fn blocks(config: &DatapathConfig) -> u32 {
    config.prefixes6.div_ceil(4) + config.prefixes4.div_ceil(1000) + 64
}

/// The shape of the operator's switch, which clients open alone.
pub(super) fn off_shape() -> Shape {
    Shape {
        name: names::OFF,
        kind: ARRAY,
        key: 4,
        value: size::<Off>(),
        entries: 1,
        flags: 0,
        derived: false,
    }
}

/// Sizes of the ABI are small; a larger one could not be written down as a key or value size anyway.
fn size<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// Whether the pin of `shape` exists under `root` and fits; an error where it exists and does not.
pub(super) fn fits(root: &Path, shape: &Shape) -> Result<bool, DatapathError> {
    let pin = root.join(shape.name);
    match pin.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(DatapathError::Path { doing: "look at", path: pin, cause }),
    }
    let info = MapInfo::from_pin(&pin).map_err(|cause| DatapathError::Map {
        doing: "open the pin of",
        map: shape.name,
        cause,
    })?;
    let found = [
        ("type", info.map_type().map_or(u32::MAX, |kind| kind as u32), shape.kind),
        ("key size", info.key_size(), shape.key),
        ("value size", info.value_size(), shape.value),
        ("max_entries", info.max_entries(), shape.entries),
        ("flags", info.map_flags(), shape.flags),
    ];
    match found.into_iter().find(|(_, found, wanted)| found != wanted) {
        None => Ok(true),
        Some((field, found, wanted)) => Err(DatapathError::PinShape {
            pin,
            root: root.to_path_buf(),
            field,
            found: found.to_string(),
            wanted: wanted.to_string(),
        }),
    }
}
