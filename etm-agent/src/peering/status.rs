//! What operators see of a session. Written by the session alone; readers get copies and never delay it.

use super::config::SessionConfig;
use crate::proto::bgp::{Dispositions, Negotiated, SessionFault};
use crate::types::{Asn, Family, Generation, PeerId, RouterId, Timestamp};
use serde::Serialize;
use std::net::SocketAddr;
use tokio::sync::watch;

/// A session at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// Its number.
    pub peer: PeerId,
    /// Its name.
    pub name: String,
    /// Its peer.
    pub remote: SocketAddr,
    /// The peer's AS as configured.
    pub peer_as: Asn,
    /// State of RFC 4271 section 8.2.2: `idle`, `connect`, `open-sent`, `open-confirm`, `established`.
    pub state: &'static str,
    /// When it entered that state.
    pub since: Timestamp,
    /// How often it was established.
    pub established: u64,
    /// Hold time negotiated, in seconds.
    pub hold_time: u64,
    /// The peer's BGP identifier.
    pub peer_router_id: Option<RouterId>,
    /// Families negotiated.
    pub families: Vec<Family>,
    /// Families received with ADD-PATH.
    pub add_path: Vec<Family>,
    /// Families whose End-of-RIB was received.
    pub end_of_rib: Vec<Family>,
    /// Counters, never reset.
    pub traffic: Traffic,
    /// Faulty UPDATEs and unusable routes, never reset.
    pub dispositions: Dispositions,
    /// Routes announced to the peer at this moment (role inject).
    pub announced: usize,
    /// Routes of the newest decision that could not be announced: no next hop the receiver can resolve, family
    /// not negotiated, or attributes that do not fit (role inject).
    pub withheld: usize,
    /// The newest decision acknowledged by the peer's TCP (role inject).
    pub told: Option<Generation>,
    /// Why it went down, or could not come up, last.
    pub last_fault: Option<LastFault>,
    /// The last thing worth a look about an UPDATE.
    pub last_notice: Option<String>,
}

/// Messages and routes of a session, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Messages read.
    pub messages_in: u64,
    /// UPDATEs read.
    pub updates_in: u64,
    /// UPDATEs written.
    pub updates_out: u64,
    /// Routes learnt, replacements included.
    pub announced_in: u64,
    /// Routes withdrawn by the peer.
    pub withdrawn_in: u64,
    /// How often the decision was too slow and the peer had to wait.
    pub held_back: u64,
}

/// Why a session is not, or was not, up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastFault {
    /// When.
    pub at: Timestamp,
    /// In words that say what to do.
    pub text: String,
    /// True where only a change of configuration helps.
    pub permanent: bool,
    /// The same, typed.
    #[serde(skip)]
    pub fault: SessionFault,
}

/// The status of a session that has not begun.
pub fn status_channel(
    config: &SessionConfig,
    now: Timestamp,
) -> (watch::Sender<PeerStatus>, watch::Receiver<PeerStatus>) {
    watch::channel(PeerStatus {
        peer: config.peer,
        name: config.name.clone(),
        remote: config.remote_socket(),
        peer_as: config.peer_as,
        state: "idle",
        since: now,
        established: 0,
        hold_time: 0,
        peer_router_id: None,
        families: Vec::new(),
        add_path: Vec::new(),
        end_of_rib: Vec::new(),
        traffic: Traffic::default(),
        dispositions: Dispositions::default(),
        announced: 0,
        withheld: 0,
        told: None,
        last_fault: None,
        last_notice: None,
    })
}

impl PeerStatus {
    pub(super) fn enter(&mut self, state: &'static str, now: Timestamp) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }

    pub(super) fn up(&mut self, session: &Negotiated, now: Timestamp) {
        self.enter("established", now);
        self.established += 1;
        self.hold_time = session.hold.as_secs();
        self.peer_router_id = Some(session.peer_router_id);
        self.families.clone_from(&session.families);
        self.add_path.clone_from(&session.add_path);
        self.end_of_rib.clear();
    }

    pub(super) fn down(&mut self, fault: &SessionFault, now: Timestamp) {
        self.enter("idle", now);
        self.end_of_rib.clear();
        self.announced = 0;
        self.withheld = 0;
        self.told = None;
        self.last_fault = Some(LastFault {
            at: now,
            text: fault.to_string(),
            permanent: fault.is_permanent(),
            fault: fault.clone(),
        });
    }
}
