//! What operators see of a session, written by the session alone; readers get copies and never delay it.
//! The values themselves are `types::bgp`'s.

use super::config::SessionConfig;
use crate::proto::bgp::{Negotiated, SessionFault};
use crate::types::Timestamp;
use crate::types::bgp::{LastFault, PeerStatus, SessionState};
use tokio::sync::watch;

/// The status of a session that has not begun.
pub fn status_channel(
    config: &SessionConfig,
    now: Timestamp,
) -> (watch::Sender<PeerStatus>, watch::Receiver<PeerStatus>) {
    let ases = (config.local_as, config.peer_as);
    watch::channel(PeerStatus::new(
        config.peer,
        &config.name,
        config.remote_socket(),
        ases,
        &config.transport.words(),
        now,
    ))
}

pub(super) fn up(status: &mut PeerStatus, session: &Negotiated, now: Timestamp) {
    status.enter(SessionState::Established, now);
    status.established += 1;
    status.hold_time = session.hold.as_secs();
    status.keepalive = session.hold.as_secs() / 3;
    status.peer_router_id = Some(session.peer_router_id);
    status.families.clone_from(&session.families);
    status.add_path.clone_from(&session.add_path);
    status.end_of_rib.clear();
    status.ours.clone_from(&session.ours);
    status.theirs.clone_from(&session.theirs);
}

pub(super) fn down(status: &mut PeerStatus, fault: &SessionFault, now: Timestamp) {
    status.enter(SessionState::Idle, now);
    status.end_of_rib.clear();
    status.announced = 0;
    status.withheld = 0;
    status.written = None;
    status.told = None;
    status.last_fault = Some(LastFault { at: now, text: fault.to_string(), permanent: fault.is_permanent() });
}
