//! Why a router is not monitored, in words that say what to do. Never raised for a single bad route.

use crate::proto::bmp::Malformed;
use std::io;
use std::net::SocketAddr;

/// Why the station cannot be run as configured.
#[derive(Debug, thiserror::Error)]
pub enum BmpError {
    /// The address is not of this machine, or in use.
    #[error("listening for BMP on {address}: {source}; correct bmp.listen, or free that port")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
}

/// Why a connection ended, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BmpFault {
    /// No connection.
    #[error("connecting to {remote}: {source}; check that the router listens for a BMP station there")]
    Unreachable {
        /// The router.
        remote: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// No answer to SYN.
    #[error("connecting to {remote}: no answer; check the route to it and filters on TCP port {}", remote.port())]
    Timeout {
        /// The router.
        remote: SocketAddr,
    },
    /// End of the stream.
    #[error("the router closed the connection")]
    Closed,
    /// Termination message.
    #[error("the router ended monitoring: {reason}")]
    Terminated {
        /// Its words.
        reason: String,
    },
    /// TCP gave up, or the system did.
    #[error("reading from the router: {source}")]
    Io {
        /// The system's answer.
        source: io::Error,
    },
    /// Not BMP, or wrong BMP.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// RFC 7854 section 4.3: nothing may come before it.
    #[error("the first message is not Initiation; is this the BMP port of a router?")]
    NoInitiation,
    /// Connected and silent.
    #[error("no Initiation message within {seconds} s; is this the BMP port of a router?")]
    Silent {
        /// The bound.
        seconds: u64,
    },
    /// Its own newer connection.
    #[error("the router connected anew")]
    Replaced,
    /// The agent ends.
    #[error("stopped")]
    Stopped,
}
