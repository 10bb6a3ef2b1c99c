//! The file format: a preamble, then blocks, each compressed and with a checksum of its own. Never trusts a length it
//! reads: every allocation has a bound.
//!
//! ```text
//! file     = "ETM-REC\n"  version:u16le  block*
//! block    = kind:u8  plain:u32le  stored:u32le  crc32:u32le  stored bytes (lz4 of plain bytes)
//! kinds    = 1 header, 2 part of the state, 3 last part of the state, 4 entries, 5 end
//! ```
//!
//! The checksum is over kind, both lengths and the stored bytes. Contents are postcard.

use super::RecordError;
use crate::types::Timestamp;
use serde::{Deserialize, Serialize};

/// First bytes of every file.
const MAGIC: &[u8; 8] = b"ETM-REC\n";

/// Grows with every change of the format.
pub const VERSION: u16 = 1;

/// Bytes of the preamble.
pub const PREAMBLE: usize = MAGIC.len() + 2;

/// Bytes before the stored bytes of a block.
pub const HEAD: usize = 13;

/// Most plain bytes of a block: a sample of every row of the largest table fits.
pub const MOST_PLAIN: usize = 64 << 20;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Header`].
    Header,
    /// A part of the decision's state.
    State,
    /// The last part.
    StateEnd,
    /// Entries, one after the other.
    Entries,
    /// [`End`].
    End,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Header, Kind::State, Kind::StateEnd, Kind::Entries, Kind::End];

    fn byte(self) -> u8 {
        match self {
            Kind::Header => 1,
            Kind::State => 2,
            Kind::StateEnd => 3,
            Kind::Entries => 4,
            Kind::End => 5,
        }
    }
}

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the build and digest of its decision code.
    pub build: String,
    /// Digest of the decision's configuration.
    pub policy: u64,
    /// The same for all files of one recording without a gap: the time of its first keyframe since boot and in
    /// calendar time, mixed.
    pub recording: u64,
    /// Number of the file in its directory.
    pub sequence: u64,
    /// Inputs that were not recorded right before this file; with any, the file before does not lead here.
    pub lost: u64,
    /// Calendar time of the keyframe, nanoseconds since 1970 (UTC).
    pub wall_ns: u64,
    /// The same moment on the clock of the entries.
    pub boot: Timestamp,
}

/// How a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The next file goes on.
    Rotated,
    /// Recording was stopped, or the agent ended in order.
    Stopped,
    /// What follows was not recorded.
    Gap {
        /// Inputs not recorded, as far as known when the file was closed.
        lost: u64,
    },
}

/// The first bytes of a file.
pub fn preamble() -> [u8; PREAMBLE] {
    let mut bytes = [0; PREAMBLE];
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes[MAGIC.len()..].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Refuses what is not a recording of this version.
pub fn check_preamble(bytes: &[u8]) -> Result<(), RecordError> {
    match bytes.split_first_chunk::<8>() {
        Some((magic, rest)) if magic == MAGIC => match rest {
            [low, high, ..] => match u16::from_le_bytes([*low, *high]) {
                VERSION => Ok(()),
                found => Err(RecordError::Version { found, known: VERSION }),
            },
            _ => Err(RecordError::Truncated),
        },
        _ if MAGIC.starts_with(bytes) && !bytes.is_empty() => Err(RecordError::Truncated),
        _ => Err(RecordError::NotARecording),
    }
}

/// A whole block.
pub fn seal(kind: Kind, plain: &[u8]) -> Result<Vec<u8>, RecordError> {
    let too_large = RecordError::Encode { what: "a block of more than 64 MB" };
    if plain.len() > MOST_PLAIN {
        return Err(too_large);
    }
    let stored = lz4_flex::block::compress(plain);
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| too_large.clone());
    let mut block = Vec::with_capacity(HEAD + stored.len());
    block.push(kind.byte());
    block.extend_from_slice(&length(plain)?.to_le_bytes());
    block.extend_from_slice(&length(&stored)?.to_le_bytes());
    let sum = checksum(&block, &stored);
    block.extend_from_slice(&sum.to_le_bytes());
    block.extend_from_slice(&stored);
    Ok(block)
}

fn checksum(head: &[u8], stored: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(head);
    sum.update(stored);
    sum.finalize()
}

/// The head of a block: what to read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    kind: Kind,
    plain: usize,
    /// Bytes that follow the head.
    pub stored: usize,
    bytes: [u8; 9],
    sum: u32,
}

/// Reads a head.
pub fn head(bytes: &[u8; HEAD]) -> Result<Head, RecordError> {
    let [kind, a, b, c, d, e, f, g, h, sum @ ..] = *bytes;
    let damaged = |what| RecordError::Damaged { what };
    let kind = Kind::ALL.into_iter().find(|known| known.byte() == kind);
    let kind = kind.ok_or(damaged("a block of no known kind"))?;
    let length = |bytes| usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
    let (plain, stored) = (length([a, b, c, d]), length([e, f, g, h]));
    if plain > MOST_PLAIN || stored > lz4_flex::block::get_maximum_output_size(plain) {
        return Err(damaged("the length of a block"));
    }
    let mut head = [0; 9];
    head.copy_from_slice(&bytes[..9]);
    Ok(Head { kind, plain, stored, bytes: head, sum: u32::from_le_bytes(sum) })
}

impl Head {
    /// The plain bytes of the block, from the stored ones.
    pub fn open(&self, stored: &[u8]) -> Result<(Kind, Vec<u8>), RecordError> {
        let damaged = |what| RecordError::Damaged { what };
        if checksum(&self.bytes, stored) != self.sum {
            return Err(damaged("the checksum of a block"));
        }
        let plain = lz4_flex::block::decompress(stored, self.plain)
            .map_err(|_| damaged("the compression of a block"))?;
        if plain.len() != self.plain {
            return Err(damaged("the length of a block"));
        }
        Ok((self.kind, plain))
    }
}

/// A value as the content of a block.
pub fn encode(value: &impl Serialize, what: &'static str) -> Result<Vec<u8>, RecordError> {
    postcard::to_stdvec(value).map_err(|_| RecordError::Encode { what })
}

/// The value that `bytes` hold, all of them.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &'static str) -> Result<T, RecordError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(RecordError::Damaged { what }),
    }
}
