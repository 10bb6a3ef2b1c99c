//! Recordings: every input of the decision with its time and a trace of what followed, so that it can be made again.
//!
//! A recording is a row of files; each begins with the decision's whole state (a keyframe), so each can be replayed
//! without those before it. Bytes in and out are slices: never opens a file, never reads a clock.
//!
//! | part | what |
//! |---|---|
//! | `digest` | 64-bit fingerprints of values |
//! | `block` | the file format: preamble, blocks, header, end |
//! | `wire` | inputs in a compact form |
//! | `trace` | what followed from an input, as far as a replay must repeat it |
//! | `entry` | one input with its trace, and the state between entries that makes them small |
//! | `state` | the whole state as bytes |
//! | `replay` | handing recorded inputs to a decision, and comparing |
//! | `what_if` | the same under another configuration: traffic follows the overrides that it would have had |

pub mod block;
pub mod digest;
pub mod entry;
pub mod replay;
pub mod state;
pub mod trace;
pub mod what_if;
mod wire;

/// Why bytes are not a recording that can be read here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another kind of file.
    #[error(
        "this is not a recording: it does not begin with `ETM-REC`; give a file or directory that etm-agent wrote"
    )]
    NotARecording,
    /// Made by a later or earlier version.
    #[error(
        "the recording has format version {found}, this build reads {known}; replay it with the etm that recorded it"
    )]
    Version {
        /// As the file says.
        found: u16,
        /// What is understood here.
        known: u16,
    },
    /// Cut off inside a block: what comes before it can be used.
    #[error(
        "the file ends inside a block, as after a crash or a full disk; what comes before can be replayed"
    )]
    Truncated,
    /// Bytes were changed.
    #[error("damaged: {what}; copy the file again from where it was recorded")]
    Damaged {
        /// What does not fit.
        what: &'static str,
    },
    /// The state was written by code whose state looks otherwise.
    #[error(
        "the recorded state cannot be read by this build; it was recorded by {build}: replay it with that"
    )]
    OtherBuild {
        /// Build that recorded.
        build: String,
    },
    /// A value has no compact form.
    #[error("cannot encode {what}; please report this")]
    Encode {
        /// What was to be encoded.
        what: &'static str,
    },
}

#[cfg(test)]
pub(crate) mod tests;
