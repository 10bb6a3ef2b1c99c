//! How a session reaches the rest of the agent: everything it may touch besides its own socket.

use crate::core::input::{Input, SessionChange, SessionEvent};
use crate::proto::bgp::SessionFault;
use crate::types::bgp::PeerStatus;
pub use crate::types::bgp::SessionOrder as Order;
use crate::types::{PeerId, Timestamp};
use tokio::net::TcpStream;
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

impl Ports {
    pub(super) fn show(&self, change: impl FnOnce(&mut PeerStatus, Timestamp)) {
        let now = (self.clock)();
        self.status.send_modify(|status| change(status, now));
    }

    /// Tells the decision, unless it is gone, or too busy to hear us out while everything stops.
    pub(super) async fn tell(&mut self, peer: PeerId, change: SessionChange) {
        let event = Input::Session(SessionEvent { peer, change });
        tokio::select! {
            biased;
            sent = self.inputs.send(event) => drop(sent),
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// By what others reach a session: peers that connect, operators that order.
#[derive(Debug, Default)]
pub struct Doors {
    /// Connections of this peer that the listener accepted.
    pub arrivals: Option<mpsc::Receiver<Arrival>>,
    /// What operators want of this session.
    pub orders: Option<mpsc::Receiver<Order>>,
}

/// What the listener has for a session.
#[derive(Debug)]
pub enum Arrival {
    /// The peer connected.
    Stream(TcpStream),
    /// Nobody can connect.
    Fault(SessionFault),
}

/// The next of `door`; for ever where nothing can come.
pub(super) async fn next<T>(door: &mut Option<mpsc::Receiver<T>>) -> T {
    let came = match door {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    };
    match came {
        Some(value) => value,
        None => std::future::pending().await,
    }
}
