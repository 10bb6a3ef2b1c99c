//! Recordings on disk: a directory of numbered files, written by one thread, read by whoever replays.
//! Never decides what is recorded, and never deletes a file that it could not have written.

mod reader;
mod writer;

pub use reader::{Reader, files};
pub use writer::{Limits, Moment, Writer, Written};

use crate::core::record::RecordError;
use std::io;
use std::path::PathBuf;

/// What files of a recording are called: `etm-NUMBER.rec`, the number of eight digits or more.
const PREFIX: &str = "etm-";
const SUFFIX: &str = ".rec";

/// Version of this build and a digest of the sources of its decision, which must be the same for bit-equal replay.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("ETM_CORE_DIGEST"));

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The content is not what it should be.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: RecordError,
    },
    /// A directory without a recording.
    #[error("{} holds no recording (etm-*.rec); give the directory of `etm record status`", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
}

/// The number in the name of a file of a recording.
fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    if digits.len() < 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests;
