//! Why a session is not up, in words that say what to do. Never raised for a single bad route.

use crate::types::bgp::BgpRole;
use crate::types::{Asn, Family, RouterId};
use rustbgpd_wire as wire;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use wire::NotificationCode;

/// Who noticed that both ends have the same BGP identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterIdOwner {
    /// We did, reading the peer's OPEN.
    Us,
    /// The peer did, and sent NOTIFICATION 2/3.
    Peer,
}

/// Why a session, or an attempt to have one, ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionFault {
    /// The local address does not exist on this machine.
    #[error("binding {local}: {error}; give this machine that address or correct `local` of the session")]
    LocalAddress {
        /// Address configured.
        local: IpAddr,
        /// The kernel's words.
        error: String,
    },
    /// No listening socket.
    #[error(
        "listening on {local}: {error}; give this machine that address, and see that no routing daemon listens on every \
         address there (BIRD: `strict bind yes`), or choose another `listen_port`"
    )]
    Listen {
        /// Address configured.
        local: SocketAddr,
        /// The kernel's words.
        error: String,
    },
    /// TCP reset in answer to SYN.
    #[error(
        "connecting to {remote}: connection refused; start the routing daemon there, or let it listen on that \
         address and port"
    )]
    Refused {
        /// Peer.
        remote: SocketAddr,
    },
    /// No answer to SYN.
    #[error("connecting to {remote}: no answer within {} s; {}", waited.as_secs(), silence(*.protection, remote.port()))]
    Timeout {
        /// Peer.
        remote: SocketAddr,
        /// How long we tried.
        waited: Duration,
        /// How our segments are authenticated: a peer with another key drops them without a word.
        protection: Option<&'static str>,
    },
    /// The kernel refuses a socket option.
    #[error("setting {option} for {remote}: {error}; {advice}")]
    SocketOption {
        /// What was to be set.
        option: &'static str,
        /// Peer.
        remote: IpAddr,
        /// The kernel's words.
        error: String,
        /// What to do.
        advice: &'static str,
    },
    /// The interface of a link-local peer is not there.
    #[error("interface {interface} of peer {remote} does not exist; create it or correct the peer's address")]
    NoInterface {
        /// Name configured.
        interface: String,
        /// Peer.
        remote: IpAddr,
    },
    /// Roles of RFC 9234 that do not belong together, or none where one is required.
    #[error(
        "our BGP role is {ours}, and the peer's does not go with it (RFC 9234); correct `bgp_role` here or the role there"
    )]
    RoleMismatch {
        /// Ours.
        ours: BgpRole,
    },
    /// More routes than configured.
    #[error(
        "the peer announced {routes} routes, {limit} are allowed; find out why, then raise `max_routes` or let it \
         correct its policy{}", then(*.restart)
    )]
    TooManyRoutes {
        /// How many it had announced.
        routes: u64,
        /// How many it may.
        limit: u64,
        /// When the session is tried again; none where an operator must do it.
        restart: Option<Duration>,
    },
    /// Both ends connected at once and the other connection won (RFC 4271 section 6.8).
    #[error("the peer connected at the same time, and its connection is kept")]
    Collision,
    /// A restarted peer connected anew (RFC 4724 section 4.2).
    #[error("the peer restarted and connected again")]
    Replaced,
    /// No route, or another error of connect(2).
    #[error("connecting to {remote}: {error}; check the route to it and the local address of the session")]
    Unreachable {
        /// Peer.
        remote: SocketAddr,
        /// The kernel's words.
        error: String,
    },
    /// The peer's OPEN has another AS than configured.
    #[error(
        "the peer is in {found}, the configuration says {expected}; correct the peer's AS in the configuration"
    )]
    WrongAs {
        /// Configured.
        expected: Asn,
        /// In the peer's OPEN.
        found: Asn,
    },
    /// NOTIFICATION 2/2: the peer expects another AS from us.
    #[error(
        "the peer refuses our AS number, {local}; correct our AS in the configuration or the neighbor statement of the peer"
    )]
    LocalAsRefused {
        /// Ours.
        local: Asn,
    },
    /// Both ends have the same BGP identifier.
    #[error(
        "BGP identifier {id} is also the peer's; set `router_id` of the session, or bgp.router_id, to something else"
    )]
    SameRouterId {
        /// Ours.
        id: RouterId,
        /// Who noticed.
        noticed: RouterIdOwner,
    },
    /// The peer's OPEN has a hold time of 0.
    #[error(
        "the peer offers hold time 0, so that a dead session would never be noticed; set its hold time to 3 s or more"
    )]
    NoHoldTime,
    /// The peer offers none of our address families.
    #[error("the peer offers neither IPv4 nor IPv6 unicast; enable a channel of one of them on its side")]
    NoFamily,
    /// The peer wants a family we do not offer, or lacks one that is required.
    #[error("the peer refuses our capabilities (NOTIFICATION 2/7); enable {} unicast on its side", families(.wanted))]
    CapabilityRefused {
        /// What we offered.
        wanted: Vec<Family>,
    },
    /// Nothing heard for the hold time.
    #[error("nothing heard from the peer for {} s (hold timer expired); it hangs, or the way to it is broken", hold.as_secs())]
    HoldExpired {
        /// Negotiated.
        hold: Duration,
    },
    /// NOTIFICATION 4: the peer heard nothing from us.
    #[error(
        "the peer heard nothing from us for its hold time; this machine is overloaded, or the way to it is broken"
    )]
    PeerHoldExpired,
    /// The peer took no byte for the send hold time (RFC 9687).
    #[error("the peer read nothing for {} s though data waited for it (send hold timer expired); it hangs", waited.as_secs())]
    SendHoldExpired {
        /// How long.
        waited: Duration,
    },
    /// What answers does not speak BGP.
    #[error("{remote} answers, but not in BGP; check address and port of the peer")]
    NotBgp {
        /// Peer.
        remote: SocketAddr,
    },
    /// The byte stream is broken (RFC 4271 section 6.1 and 6.2).
    #[error(
        "the peer sent a message that cannot be read: {detail}; if it repeats, report it with a capture of the session"
    )]
    BadMessage {
        /// What is wrong.
        detail: String,
    },
    /// An UPDATE that cannot be isolated (RFC 7606 section 3 j).
    #[error(
        "the peer sent an UPDATE that cannot be read ({attribute}: {detail}); the session had to be reset (RFC 7606)"
    )]
    BadUpdate {
        /// Attribute, or `NLRI`.
        attribute: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The peer closed before its OPEN.
    #[error(
        "the peer closed the connection before saying anything; it has no matching session for our address {local}, or \
         waits after an earlier error (BIRD: `error wait time`), or its session is disabled"
    )]
    ClosedBeforeOpen {
        /// Our end.
        local: IpAddr,
    },
    /// The peer closed without NOTIFICATION.
    #[error("the peer closed the connection without saying why; it was stopped or restarted")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {error}")]
    Broken {
        /// The kernel's words.
        error: String,
    },
    /// Cease, administrative: the peer's operator did it (RFC 4486, 9003).
    #[error("the peer ended the session: {reason}{}", quoted(.text))]
    Ceased {
        /// The subcode in words.
        reason: &'static str,
        /// RFC 9003.
        text: Option<String>,
    },
    /// Any other NOTIFICATION.
    #[error("the peer ended the session with NOTIFICATION {code}/{subcode} ({words})")]
    Notified {
        /// Error code.
        code: u8,
        /// Error subcode.
        subcode: u8,
        /// The code in words.
        words: String,
    },
    /// An operator of ETM did it.
    #[error("{what} by an operator of ETM")]
    ByOperator {
        /// `reset` or `shut down`.
        what: &'static str,
    },
    /// We were asked to stop.
    #[error("stopped by ETM")]
    Stopped,
}

impl SessionFault {
    /// True where trying again cannot help before someone changes a configuration.
    pub fn is_permanent(&self) -> bool {
        match self {
            SessionFault::LocalAddress { .. }
            | SessionFault::WrongAs { .. }
            | SessionFault::LocalAsRefused { .. }
            | SessionFault::SameRouterId { .. }
            | SessionFault::NoHoldTime
            | SessionFault::NoFamily
            | SessionFault::NotBgp { .. }
            | SessionFault::SocketOption { .. }
            | SessionFault::RoleMismatch { .. }
            | SessionFault::CapabilityRefused { .. } => true,
            SessionFault::Refused { .. }
            | SessionFault::Timeout { .. }
            | SessionFault::Unreachable { .. }
            | SessionFault::NoInterface { .. }
            | SessionFault::Listen { .. }
            | SessionFault::TooManyRoutes { .. }
            | SessionFault::ByOperator { .. }
            | SessionFault::Collision
            | SessionFault::Replaced
            | SessionFault::HoldExpired { .. }
            | SessionFault::PeerHoldExpired
            | SessionFault::SendHoldExpired { .. }
            | SessionFault::BadMessage { .. }
            | SessionFault::BadUpdate { .. }
            | SessionFault::ClosedBeforeOpen { .. }
            | SessionFault::Closed
            | SessionFault::Broken { .. }
            | SessionFault::Ceased { .. }
            | SessionFault::Notified { .. }
            | SessionFault::Stopped => false,
        }
    }
}

/// What a NOTIFICATION received means for us.
pub(super) fn of_notification(
    notification: &wire::NotificationMessage,
    local_as: Asn,
    router_id: RouterId,
) -> SessionFault {
    match (notification.code, notification.subcode) {
        (NotificationCode::OpenMessage, 2) => SessionFault::LocalAsRefused { local: local_as },
        (NotificationCode::OpenMessage, 3) => {
            SessionFault::SameRouterId { id: router_id, noticed: RouterIdOwner::Peer }
        }
        (NotificationCode::OpenMessage, 7) => {
            SessionFault::CapabilityRefused { wanted: Family::ALL.to_vec() }
        }
        (NotificationCode::HoldTimerExpired, _) => SessionFault::PeerHoldExpired,
        (NotificationCode::Cease, subcode) => SessionFault::Ceased {
            reason: cease_words(subcode),
            text: wire::notification::extract_shutdown_communication(notification)
                .ok()
                .flatten()
                .filter(|text| !text.is_empty())
                // The peer's words go to logs and terminals: nothing that could move a cursor.
                .map(|text| text.chars().filter(|c| !c.is_control()).collect()),
        },
        (code, subcode) => {
            let words = open_words(code, subcode).map_or_else(|| code.to_string(), str::to_owned);
            SessionFault::Notified { code: code.as_u8(), subcode, words }
        }
    }
}

/// RFC 4271 section 6.2, RFC 9234 section 4.2: where the bare code would not say what to change.
fn open_words(code: NotificationCode, subcode: u8) -> Option<&'static str> {
    match (code, subcode) {
        (NotificationCode::OpenMessage, 1) => Some("it does not speak BGP-4"),
        (NotificationCode::OpenMessage, 4) => Some("it does not know capabilities (RFC 5492)"),
        (NotificationCode::OpenMessage, 6) => Some("it does not accept our hold time; raise bgp.hold_time"),
        (NotificationCode::OpenMessage, 11) => Some("our BGP role does not go with its own; see bgp_role"),
        _ => None,
    }
}

/// RFC 4486 section 3, RFC 8538, RFC 9384.
fn cease_words(subcode: u8) -> &'static str {
    match subcode {
        1 => "maximum number of prefixes reached",
        2 => "administrative shutdown",
        3 => "peer de-configured",
        4 => "administrative reset",
        5 => "connection rejected; it may wait after an earlier error",
        6 => "other configuration change",
        7 => "connection collision resolution",
        8 => "out of resources",
        9 => "hard reset",
        10 => "BFD down",
        _ => "cease",
    }
}

/// What an unanswered SYN may mean.
fn silence(protection: Option<&'static str>, port: u16) -> String {
    match protection {
        Some(kind) => format!(
            "with {kind} on, a wrong or missing key at either end looks like this; compare the keys first, then check \
             the route to it and filters on TCP port {port}"
        ),
        None => format!(
            "check the route to it, filters on TCP port {port}, the TTL, and that it does not expect a TCP-MD5 password"
        ),
    }
}

fn then(restart: Option<Duration>) -> String {
    match restart {
        Some(pause) => format!("; tried again in {} s", pause.as_secs()),
        None => "; it stays down until it is reset".to_owned(),
    }
}

fn quoted(text: &Option<String>) -> String {
    text.as_ref().map_or_else(String::new, |text| format!(", saying \"{text}\""))
}

fn families(list: &[Family]) -> String {
    let words: Vec<String> = list.iter().map(Family::to_string).collect();
    words.join(" and ")
}
