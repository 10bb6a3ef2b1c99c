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

mod backoff;
mod config;
mod connection;
mod driver;
mod inject;
mod learn;
mod limit;
mod listener;
mod meeting;
mod opening;
mod pace;
mod ports;
mod socket;
mod stale;
mod status;
mod transport;
mod wire;

#[cfg(test)]
mod tests;

pub use crate::proto::bgp::{DEFAULT_LOCAL_PREF, Import, OutPolicy, RouterIdOwner, SessionFault};
pub use config::{Beyond, ConfigError, Connect, InjectConfig, MaxRoutes, NextHops, SessionConfig};
pub use driver::{Parting, run_inject, run_inject_with, run_learn, run_learn_with};
pub use listener::Listener;
pub use ports::{Arrival, Doors, Order, Ports};
pub use status::status_channel;
pub use transport::{Auth, Reach, Secret, SecretError, Transport};
