//! BMP station over TCP (RFC 7854): routers report what their BGP peers told them, and what they chose.
//!
//! One future per configured router, which owns its connection, and one that accepts connections. A monitored peer
//! that the configuration names is a source of candidates like a learn session: the decision hears the same events.
//! A Loc-RIB that the configuration ties to an inject session proves which announcements are effective there.
//!
//! * A full queue towards the decision stops the reading of that router's socket: it is held back by TCP.
//! * When a connection ends, however it ends, all its sources are down: their routes are void and decisions freeze.
//!   BMP has no keepalive, so TCP's own finds a router that died without a word, in about 9 s.
//! * The newest connection of a router wins: one that restarted does not wait for its former self to time out.
//!
//! Never here: which route is best. Never sent: a single byte. Never spawned: the caller owns the futures.

mod config;
mod fault;
mod loc_rib;
mod router;
mod source;
mod station;

#[cfg(test)]
mod tests;

pub use crate::proto::bmp::PeerKey;
pub use config::{Reach, RouterConfig, SourceConfig, View, Watch};
pub use fault::{BmpError, BmpFault};
pub use station::{Part, Ports, station, status_channel};
