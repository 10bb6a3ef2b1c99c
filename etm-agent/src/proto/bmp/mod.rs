//! BMP (RFC 7854), with Adj-RIB-Out (RFC 8671) and Loc-RIB (RFC 9069), as a station hears it.
//!
//! BMP is an envelope around BGP messages. The envelope is read here; what is inside goes through the codec and
//! the translation of `proto::bgp`, so that a route means the same whichever way it came.
//!
//! Never here: sockets, timers, which router may speak, which of its peers matters. Never answers: a station is mute.

mod header;
mod message;
mod session;

pub use header::{PeerHeader, PeerKey, RibView};
pub use message::{Malformed, Message, PeerUp, Reader, Stat};
pub use session::{Reading, Unreadable, writes_path_ids};

#[cfg(test)]
pub(crate) mod tests;
