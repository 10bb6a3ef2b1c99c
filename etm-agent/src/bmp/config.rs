//! What the station needs to know. Never read from a file here: the configuration's owner fills it in.

use crate::proto::bmp::{PeerKey, RibView};
use crate::types::{Community, PeerId};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A router that may report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// Its name in logs and status.
    pub name: String,
    /// The address it speaks from.
    pub address: IpAddr,
    /// Who connects to whom.
    pub reach: Reach,
    /// Which table gives candidates.
    pub view: View,
    /// Whether path identifiers are in its reports where its sessions have them; none: by what it calls itself.
    pub path_ids: Option<bool>,
    /// A router that sends no End-of-RIB is taken to have sent its whole table after this long without a route.
    pub quiet: Option<Duration>,
    /// Peers of it that are sources of candidates.
    pub sources: Vec<SourceConfig>,
    /// What its Loc-RIB is watched for.
    pub watch: Option<Watch>,
}

/// Who connects to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The router connects to an address the station listens on.
    Listen,
    /// The station connects to the router.
    Connect(SocketAddr),
}

/// Adj-RIB-In of the monitored peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As received.
    PrePolicy,
    /// After the router's import policy.
    PostPolicy,
}

impl View {
    pub(super) fn rib(self) -> RibView {
        match self {
            View::PrePolicy => RibView::AdjInPrePolicy,
            View::PostPolicy => RibView::AdjInPostPolicy,
        }
    }
}

/// A monitored peer that is a source of candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// Its number in inputs.
    pub peer: PeerId,
    /// Its name in logs and status.
    pub name: String,
    /// Which peer of the router.
    pub key: PeerKey,
    /// Whose routes they are, for status.
    pub provider: String,
    /// Next hops its routes may have: those of the provider's exits. Empty: any.
    pub next_hops: Vec<IpAddr>,
    /// Marks ETM's announcements: one that came back is told whatever its next hop, and is no candidate.
    pub own: Community,
}

/// A Loc-RIB that shows what became of announcements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The inject session with the router.
    pub peer: PeerId,
    /// Its name.
    pub session: String,
    /// Marks ETM's announcements.
    pub community: Community,
}
