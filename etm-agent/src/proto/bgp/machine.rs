//! One attempt at a session: the state machine of RFC 4271 section 8 from a TCP connection to its end.
//!
//! Never connects, never waits: it is told what happened and says what to do. Idle hold, retries and
//! listening are the caller's, because they outlive a connection.
//! Deviations: the wait for the peer's OPEN is 20 s, not 4 minutes (section 8.2.2 calls that a suggestion),
//! so that a silent listener is reported while someone looks.

use super::capability::{afi, family_of, role_out};
use super::fault::{RouterIdOwner, SessionFault, of_notification};
use super::frame::{Frame, Malformed};
use super::negotiated::Negotiated;
use super::update::Reset;
use crate::types::bgp::{BgpRole, SessionState};
use crate::types::{Asn, Family, RouterId};
use bytes::Bytes;
use rustbgpd_fsm as fsm;
use rustbgpd_wire as wire;
use std::net::SocketAddr;
use std::time::Duration;
use wire::{Afi, Capability, RouteRefreshMessage, RouteRefreshSubtype, Safi};

/// How long a connected peer may take to send its OPEN.
const OPEN_WAIT: Duration = Duration::from_secs(20);

/// What we are, and what we expect of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// Our AS.
    pub local_as: Asn,
    /// The peer's AS; equal to ours on iBGP sessions.
    pub peer_as: Asn,
    /// Our BGP identifier; on iBGP sessions it must differ from the peer's (RFC 6286 section 2.2).
    pub router_id: RouterId,
    /// Hold time offered, in seconds: 3 or more (0, no keepalives, is never offered).
    pub hold_time: u16,
    /// Whether to accept several routes per prefix (RFC 7911).
    pub add_path_receive: bool,
    /// Whether to tell the peer that its routes outlive its restart here (RFC 4724, without any family of ours).
    pub helps_restart: bool,
    /// Our role towards an external peer (RFC 9234).
    pub role: Option<BgpRole>,
    /// Whether a peer without a role is refused.
    pub strict_role: bool,
}

/// Something happened to the connection.
#[derive(Debug)]
pub enum Event {
    /// A message was read. UPDATEs go through `Translator` first.
    Received(Frame),
    /// UPDATEs were read, of which `Translator` makes all there is to make.
    Updated,
    /// An UPDATE was read and could not be isolated.
    Unusable(Reset),
    /// Bytes that are no message were read.
    Malformed(Malformed),
    /// The hold timer ran out.
    HoldExpired,
    /// The keepalive timer ran out.
    KeepaliveDue,
    /// The peer closed, or the connection broke; the words are the kernel's.
    Lost(Option<String>),
    /// We want to end it; the text is shown to the peer's operator (RFC 9003, at most 128 bytes).
    Stop(String),
    /// An operator wants it to begin anew (Cease 4); the text is shown to the peer's operator (RFC 9003).
    Reset(String),
    /// We end it for a fault of its own: Cease with this subcode (RFC 4486) and data.
    Cease(u8, Vec<u8>, SessionFault),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write these bytes.
    Send(Bytes),
    /// Run the hold timer from now on; none stops it.
    Hold(Option<Duration>),
    /// Run the keepalive timer from now on; none stops it.
    Keepalive(Option<Duration>),
    /// The peer's OPEN was acceptable: this is who it is. Collisions are resolved now (RFC 4271 section 6.8).
    Opened(RouterId, Asn),
    /// Established.
    Up(Box<Negotiated>),
    /// The peer asks for our table of this family again (RFC 2918).
    Refresh(Family),
    /// The peer begins to send its table of this family again (RFC 7313).
    RefreshBegins(Family),
    /// The peer has sent its table of this family again (RFC 7313).
    RefreshEnds(Family),
    /// Write what is to be written and close.
    Close(SessionFault),
}

/// The state machine of one connection.
#[derive(Debug)]
pub struct Machine {
    session: fsm::Session,
    speaker: Speaker,
    remote: SocketAddr,
    local: SocketAddr,
    heard: bool,
    /// As sent in our OPEN.
    offered: Vec<Capability>,
    /// What the next close is to be blamed on, set before the event that causes it.
    blame: Option<SessionFault>,
}

impl Machine {
    /// A machine for a connection that exists, and what to do first.
    pub fn start(speaker: Speaker, local: SocketAddr, remote: SocketAddr) -> (Machine, Vec<Step>) {
        let mut config = fsm::PeerConfig::new(speaker.local_as.0, speaker.peer_as.0, speaker.router_id.0);
        config.hold_time = speaker.hold_time;
        config.families = vec![(Afi::Ipv4, Safi::Unicast), (Afi::Ipv6, Safi::Unicast)];
        // Hold time 0 would let an override outlive a hung agent.
        config.min_hold_time = Some(3);
        config.add_path_receive = speaker.add_path_receive;
        if speaker.local_as != speaker.peer_as {
            config.local_role = speaker.role.map(role_out);
            config.strict_role = speaker.strict_role;
        }
        // Invariant: no address family is ever offered for graceful restart, nor LLGR, nor the N bit.
        config.graceful_restart = false;
        config.llgr_stale_time = 0;
        let session = fsm::Session::new(config);
        let mut machine =
            Machine { session, speaker, remote, local, heard: false, offered: Vec::new(), blame: None };
        // The connection exists already: what the machine says about making one is void.
        machine.session.handle_event(fsm::Event::ManualStart);
        let steps = machine.feed(fsm::Event::TcpConnectionConfirmed);
        (machine, steps)
    }

    /// The state, in the words of RFC 4271.
    pub fn state(&self) -> SessionState {
        match self.session.state() {
            fsm::SessionState::Idle => SessionState::Idle,
            fsm::SessionState::Connect => SessionState::Connect,
            fsm::SessionState::Active => SessionState::Active,
            fsm::SessionState::OpenSent => SessionState::OpenSent,
            fsm::SessionState::OpenConfirm => SessionState::OpenConfirm,
            fsm::SessionState::Established => SessionState::Established,
        }
    }

    /// What to do now that `event` happened.
    pub fn on(&mut self, event: Event) -> Vec<Step> {
        match event {
            Event::Received(frame) => self.on_message(frame.0),
            Event::Updated => self.feed(fsm::Event::UpdateReceived),
            Event::Unusable(reset) => {
                self.blame =
                    Some(SessionFault::BadUpdate { attribute: reset.attribute, detail: reset.detail });
                self.feed(fsm::Event::UpdateValidationError(reset.notification))
            }
            Event::Malformed(malformed) => {
                self.blame = Some(if malformed.is_not_bgp() && !self.heard {
                    SessionFault::NotBgp { remote: self.remote }
                } else {
                    SessionFault::BadMessage { detail: malformed.0.to_string() }
                });
                self.feed(fsm::Event::DecodeError(malformed.0))
            }
            Event::HoldExpired => {
                let hold = self.session.negotiated().map_or(OPEN_WAIT, |session| seconds(session.hold_time));
                self.blame = Some(SessionFault::HoldExpired { hold });
                self.feed(fsm::Event::HoldTimerExpires)
            }
            Event::KeepaliveDue => self.feed(fsm::Event::KeepaliveTimerExpires),
            Event::Lost(error) => {
                self.blame = Some(match error {
                    Some(error) => SessionFault::Broken { error },
                    None if self.heard => SessionFault::Closed,
                    None => SessionFault::ClosedBeforeOpen { local: self.local.ip() },
                });
                self.feed(fsm::Event::TcpConnectionFails)
            }
            Event::Stop(text) => {
                self.blame = Some(SessionFault::Stopped);
                let text = wire::notification::encode_shutdown_communication(&text);
                self.feed(fsm::Event::ManualStop { reason: Some(text) })
            }
            Event::Reset(text) => {
                self.blame = Some(SessionFault::ByOperator { what: "reset" });
                let text = wire::notification::encode_shutdown_communication(&text);
                self.feed(fsm::Event::AdministrativeReset { reason: Some(text) })
            }
            Event::Cease(subcode, data, fault) => {
                let code = wire::NotificationCode::Cease;
                let notification = wire::NotificationMessage::new(code, subcode, data.into());
                let mut steps: Vec<Step> =
                    encode(&wire::Message::Notification(notification)).into_iter().collect();
                steps.push(Step::Close(fault));
                steps
            }
        }
    }

    fn on_message(&mut self, message: wire::Message) -> Vec<Step> {
        self.heard = true;
        match message {
            wire::Message::Open(open) => {
                self.blame = self.objection(&open);
                let (id, asn) = (RouterId(open.bgp_identifier), Asn(open.four_byte_as()));
                let mut steps = self.feed(fsm::Event::OpenReceived(open));
                if self.state() == SessionState::OpenConfirm {
                    steps.push(Step::Opened(id, asn));
                }
                steps
            }
            wire::Message::Update(_) => self.feed(fsm::Event::UpdateReceived),
            wire::Message::Keepalive => self.feed(fsm::Event::KeepaliveReceived),
            wire::Message::Notification(notification) => {
                self.blame =
                    Some(of_notification(&notification, self.speaker.local_as, self.speaker.router_id));
                self.feed(fsm::Event::NotificationReceived(notification))
            }
            wire::Message::RouteRefresh(refresh) => self.on_refresh(&refresh),
            // Message types the codec may learn of later.
            _ => Vec::new(),
        }
    }

    fn on_refresh(&mut self, refresh: &RouteRefreshMessage) -> Vec<Step> {
        // RFC 2918 section 4: a family that was not negotiated is ignored.
        let (Some(afi), Some(safi)) = (refresh.afi(), refresh.safi()) else { return Vec::new() };
        let known = self
            .session
            .negotiated()
            .is_some_and(|session| session.negotiated_families.contains(&(afi, safi)));
        let mut steps = self.feed(fsm::Event::RouteRefreshReceived { afi, safi });
        let step: fn(Family) -> Step = match refresh.subtype() {
            RouteRefreshSubtype::Normal => Step::Refresh,
            RouteRefreshSubtype::BoRR => Step::RefreshBegins,
            RouteRefreshSubtype::EoRR => Step::RefreshEnds,
            // RFC 7313 section 5: an unknown subtype is ignored.
            _ => return steps,
        };
        steps.extend(family_of(afi, safi).filter(|_| known).map(step));
        steps
    }

    /// What we are about to hold against the peer's OPEN: the machine only says which NOTIFICATION to send.
    fn objection(&self, open: &wire::OpenMessage) -> Option<SessionFault> {
        let found = Asn(open.four_byte_as());
        if found != self.speaker.peer_as {
            return Some(SessionFault::WrongAs { expected: self.speaker.peer_as, found });
        }
        if found == self.speaker.local_as && open.bgp_identifier == self.speaker.router_id.0 {
            return Some(SessionFault::SameRouterId {
                id: self.speaker.router_id,
                noticed: RouterIdOwner::Us,
            });
        }
        if open.hold_time == 0 {
            return Some(SessionFault::NoHoldTime);
        }
        let offers = |capability: &Capability| match capability {
            Capability::MultiProtocol { afi, safi } => Some(family_of(*afi, *safi).is_some()),
            _ => None,
        };
        let offered: Vec<bool> = open.capabilities.iter().filter_map(offers).collect();
        // RFC 4760 section 8: a peer that names no family at all means IPv4.
        if !offered.is_empty() && !offered.contains(&true) {
            return Some(SessionFault::NoFamily);
        }
        // The machine knows whether roles match; this is what it means if it closes.
        let ours = self.speaker.role.filter(|_| found != self.speaker.local_as)?;
        Some(SessionFault::RoleMismatch { ours })
    }

    fn feed(&mut self, event: fsm::Event) -> Vec<Step> {
        let actions = self.session.handle_event(event);
        let mut steps = Vec::with_capacity(actions.len());
        let mut closed = false;
        for action in actions {
            match action {
                fsm::Action::SendOpen(open) => steps.extend(self.encode_open(open)),
                fsm::Action::SendKeepalive => steps.extend(encode(&wire::Message::Keepalive)),
                fsm::Action::SendNotification(notification) => {
                    steps.extend(encode(&wire::Message::Notification(notification)));
                }
                fsm::Action::StartTimer(fsm::TimerType::Hold, secs) => steps.push(self.hold_step(secs)),
                fsm::Action::StartTimer(fsm::TimerType::Keepalive, secs) => {
                    steps.push(Step::Keepalive(Some(Duration::from_secs(u64::from(secs)))));
                }
                fsm::Action::StopTimer(fsm::TimerType::Hold) => steps.push(Step::Hold(None)),
                fsm::Action::StopTimer(fsm::TimerType::Keepalive) => steps.push(Step::Keepalive(None)),
                fsm::Action::SessionEstablished(session) => {
                    let role = self.speaker.role.filter(|_| session.local_role.is_some());
                    let ours = &self.offered;
                    let session = Negotiated::of(self.speaker.local_as, &session, role, ours);
                    steps.push(Step::Up(Box::new(session)));
                }
                fsm::Action::CloseTcpConnection => closed = true,
                // Connecting and retrying are the caller's; the rest is telemetry of what we track ourselves.
                _ => {}
            }
        }
        if closed {
            let fault = self.blame.take().unwrap_or(SessionFault::BadMessage {
                detail: "a message that is not allowed in this state".to_owned(),
            });
            steps.push(Step::Close(fault));
        }
        self.blame = None;
        steps
    }

    fn encode_open(&mut self, mut open: wire::OpenMessage) -> Option<Step> {
        open.capabilities.retain(|capability| {
            !matches!(
                capability,
                Capability::GracefulRestart { .. } | Capability::LongLivedGracefulRestart(_)
            )
        });
        if self.speaker.helps_restart {
            // Invariant: no family, so that nothing of ours outlives us; a restarted peer learns that we send End-of-RIB.
            open.capabilities.push(Capability::GracefulRestart {
                restart_state: false,
                notification: false,
                restart_time: 0,
                families: Vec::new(),
            });
        }
        self.offered.clone_from(&open.capabilities);
        encode(&wire::Message::Open(open))
    }

    fn hold_step(&self, secs: u32) -> Step {
        let hold = Duration::from_secs(u64::from(secs));
        let negotiated = self.session.negotiated().is_some();
        Step::Hold(Some(if negotiated { hold } else { hold.min(OPEN_WAIT) }))
    }
}

/// Asks the peer for its table of `family` again (RFC 2918).
pub fn ask_again(family: Family) -> Bytes {
    refresh_message(family, RouteRefreshSubtype::Normal)
}

/// Before and after a table is sent again (RFC 7313 section 4.1).
pub fn refresh_marks(family: Family) -> (Bytes, Bytes) {
    (refresh_message(family, RouteRefreshSubtype::BoRR), refresh_message(family, RouteRefreshSubtype::EoRR))
}

fn refresh_message(family: Family, subtype: RouteRefreshSubtype) -> Bytes {
    let refresh = RouteRefreshMessage::new_with_subtype(afi(family), Safi::Unicast, subtype);
    wire::encode_message(&wire::Message::RouteRefresh(refresh)).map(Into::into).unwrap_or_default()
}

/// None where the codec cannot encode what the machine itself built, which its types exclude.
fn encode(message: &wire::Message) -> Option<Step> {
    wire::encode_message(message).ok().map(|bytes| Step::Send(bytes.freeze()))
}

fn seconds(secs: u16) -> Duration {
    Duration::from_secs(u64::from(secs))
}

#[cfg(test)]
mod tests;
