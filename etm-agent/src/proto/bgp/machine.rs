//! One attempt at a session: the state machine of RFC 4271 section 8 from a TCP connection to its end.
//!
//! Never connects, never waits: it is told what happened and says what to do. Idle hold, retries and
//! listening are the caller's, because they outlive a connection.
//! Deviations: the wait for the peer's OPEN is 20 s, not 4 minutes (section 8.2.2 calls that a suggestion),
//! so that a silent listener is reported while someone looks; enhanced route refresh is not offered, because
//! the receiver of the changes cannot sweep by it.

use super::fault::{RouterIdOwner, SessionFault, of_notification};
use super::frame::{Frame, Malformed, PLAIN_LIMIT};
use super::negotiated::Negotiated;
use super::update::Reset;
use crate::types::bgp::SessionState;
use crate::types::{Asn, Family, RouterId};
use bytes::Bytes;
use rustbgpd_fsm as fsm;
use rustbgpd_wire as wire;
use std::net::SocketAddr;
use std::time::Duration;
use wire::{AddPathMode, Afi, Capability, Safi};

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
}

/// Something happened to the connection.
#[derive(Debug)]
pub enum Event {
    /// A message was read. UPDATEs go through `Translator` first.
    Received(Frame),
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
    Stop(&'static str),
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
    /// Established.
    Up(Box<Negotiated>),
    /// The peer asks for our table of this family again (RFC 2918).
    Refresh(Family),
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
        // Invariant: no address family is ever offered for graceful restart, nor LLGR, nor the N bit.
        config.graceful_restart = false;
        config.llgr_stale_time = 0;
        let session = fsm::Session::new(config);
        let mut machine = Machine { session, speaker, remote, local, heard: false, blame: None };
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
                let text = wire::notification::encode_shutdown_communication(text);
                self.feed(fsm::Event::ManualStop { reason: Some(text) })
            }
        }
    }

    fn on_message(&mut self, message: wire::Message) -> Vec<Step> {
        self.heard = true;
        match message {
            wire::Message::Open(open) => {
                self.blame = self.objection(&open);
                self.feed(fsm::Event::OpenReceived(open))
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

    fn on_refresh(&mut self, refresh: &wire::RouteRefreshMessage) -> Vec<Step> {
        // RFC 2918 section 4: a family that was not negotiated is ignored.
        let (Some(afi), Some(safi)) = (refresh.afi(), refresh.safi()) else { return Vec::new() };
        let family = family_of(afi, safi).filter(|_| refresh.subtype_raw == 0);
        let known = self
            .session
            .negotiated()
            .is_some_and(|session| session.negotiated_families.contains(&(afi, safi)));
        let mut steps = self.feed(fsm::Event::RouteRefreshReceived { afi, safi });
        steps.extend(family.filter(|_| known).map(Step::Refresh));
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
        (!offered.is_empty() && !offered.contains(&true)).then_some(SessionFault::NoFamily)
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
                    steps.push(Step::Up(Box::new(negotiated(self.speaker.local_as, &session))));
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

    fn encode_open(&self, mut open: wire::OpenMessage) -> Option<Step> {
        open.capabilities.retain(|capability| {
            !matches!(
                capability,
                Capability::EnhancedRouteRefresh
                    | Capability::GracefulRestart { .. }
                    | Capability::LongLivedGracefulRestart(_)
            )
        });
        encode(&wire::Message::Open(open))
    }

    fn hold_step(&self, secs: u32) -> Step {
        let hold = Duration::from_secs(u64::from(secs));
        let negotiated = self.session.negotiated().is_some();
        Step::Hold(Some(if negotiated { hold } else { hold.min(OPEN_WAIT) }))
    }
}

/// None where the codec cannot encode what the machine itself built, which its types exclude.
fn encode(message: &wire::Message) -> Option<Step> {
    wire::encode_message(message).ok().map(|bytes| Step::Send(bytes.freeze()))
}

fn family_of(afi: Afi, safi: Safi) -> Option<Family> {
    match (afi, safi) {
        (Afi::Ipv4, Safi::Unicast) => Some(Family::V4),
        (Afi::Ipv6, Safi::Unicast) => Some(Family::V6),
        _ => None,
    }
}

fn negotiated(local_as: Asn, session: &fsm::NegotiatedSession) -> Negotiated {
    let mut add_path: Vec<Family> = session
        .add_path_families
        .iter()
        .filter(|(_, mode)| matches!(mode, AddPathMode::Receive | AddPathMode::Both))
        .filter_map(|((afi, safi), _)| family_of(*afi, *safi))
        .collect();
    add_path.sort_unstable();
    let families = session.negotiated_families.iter().filter_map(|(afi, safi)| family_of(*afi, *safi));
    Negotiated {
        local_as,
        peer_as: Asn(session.peer_asn),
        peer_router_id: RouterId(session.peer_router_id),
        hold: seconds(session.hold_time),
        families: families.collect(),
        add_path,
        four_octet_as: session.four_octet_as,
        route_refresh: session.peer_route_refresh,
        message_limit: if session.peer_extended_message { u16::MAX } else { PLAIN_LIMIT },
    }
}

fn seconds(secs: u16) -> Duration {
    Duration::from_secs(u64::from(secs))
}

#[cfg(test)]
mod tests;
