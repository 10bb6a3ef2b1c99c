//! How a session reaches the rest of the agent: everything it may touch besides its own socket.

use crate::core::input::Input;
use crate::types::Timestamp;
use crate::types::bgp::PeerStatus;
use tokio::sync::{mpsc, watch};

/// How a session reaches the rest of the agent.
#[derive(Debug)]
pub struct Ports {
    /// Sessions, routes and told decisions go here; when it is full the peer waits.
    pub inputs: mpsc::Sender<Input>,
    /// The state shown to operators.
    pub status: watch::Sender<PeerStatus>,
    /// True, or without a sender: stop.
    pub stop: watch::Receiver<bool>,
    /// Boot-time clock.
    pub clock: fn() -> Timestamp,
}
