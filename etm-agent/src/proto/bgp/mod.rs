//! BGP-4 (RFC 4271) as ETM speaks it: IPv4 and IPv6 unicast, ADD-PATH received, never sent.
//!
//! The codec is `rustbgpd-wire`, the state machine `rustbgpd-fsm`; their types end here. What this
//! module adds is the translation to `RouteChange`-like values, the martian filter, the error
//! dispositions of RFC 7606 as counters and notices, and the Adj-RIB-Out.
//!
//! Never here: sockets, timers, the choice of a best route. Never advertised: an address family for graceful
//! restart, LLGR or the N bit, because a route of ETM must not outlive the process that watches over it.

mod attrs;
mod capability;
mod fault;
mod frame;
mod import;
mod machine;
mod martian;
mod negotiated;
mod offered;
mod out;
mod pack;
mod stored;
mod update;

#[cfg(test)]
mod tests;

pub use fault::{RouterIdOwner, SessionFault};
pub use frame::{Frame, FrameReader, Malformed};
pub use import::Import;
pub use machine::{Event, Machine, Speaker, Step, ask_again, refresh_marks};
pub use martian::is_martian;
pub use negotiated::{Negotiated, PeerRestart};
pub use offered::Offered;
pub use out::{AdjRibOut, Diff, OutRoute};
pub use pack::{DEFAULT_LOCAL_PREF, OutPolicy, Packed, end_of_rib, pack};
pub use stored::{Unusable, store_attributes, stored_attributes};
pub use update::{Change, Notice, Reset, Translated, Translator};
