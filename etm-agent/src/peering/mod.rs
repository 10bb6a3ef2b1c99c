//! BGP sessions over TCP: one task per session, which owns its socket, timers, state machine and Adj-RIB-Out.
//!
//! A session has a role. `learn` hands what it hears to the decision and announces nothing, ever: the router
//! it listens to is steered through its kernel. `inject` tells a router the overrides of the newest decision
//! and learns nothing.
//!
//! * A full queue towards the decision stops the reading of that session's socket, so the peer is held back by
//!   TCP; keepalives go out all the same, and the hold timer rests while we are the one who does not listen.
//! * An inject session converges to the newest decision, whatever it missed. A decision counts as told when
//!   TCP has acknowledged its last byte.
//! * A stop withdraws, waits until that is acknowledged, says Cease and closes. A death closes the socket, and
//!   the peer withdraws at once, for no graceful restart is ever offered.
//!
//! Never here: which route is best, what to announce, the kernel's routes. Never spawned: the caller owns the
//! futures and ends a session by the stop signal or by dropping it.

mod config;
mod connection;
mod driver;
mod inject;
mod learn;
mod ports;
mod socket;
mod status;

#[cfg(test)]
mod tests;

pub use crate::proto::bgp::{DEFAULT_LOCAL_PREF, OutPolicy, RouterIdOwner, SessionFault};
pub use config::{ConfigError, InjectConfig, NextHops, SessionConfig};
pub use driver::{Parting, run_inject, run_learn};
pub use ports::Ports;
pub use status::status_channel;
