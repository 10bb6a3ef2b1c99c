//! A session as the guardian's loop knows it. Never runs one.

use crate::guardian::SessionReport;
use crate::types::Generation;
use crate::types::bgp::{PeerStatus, SessionOrder};
use tokio::sync::{mpsc, watch};

/// A session and what is known of it.
pub(super) struct Guarded {
    pub(super) name: String,
    pub(super) status: watch::Receiver<PeerStatus>,
    pub(super) orders: mpsc::Sender<SessionOrder>,
    /// Newest generation that its peer acknowledged, whoever decided it.
    pub(super) acknowledged: Option<Generation>,
    pub(super) report: SessionReport,
}

impl Guarded {
    /// Hands it an operator's order; never waits.
    pub(super) fn obey(&self, order: SessionOrder) {
        tracing::info!(session = %self.name, %order, "an operator's order");
        if self.orders.try_send(order).is_err() {
            tracing::warn!(session = %self.name, "too many orders wait for it: this one is dropped");
        }
    }
}
