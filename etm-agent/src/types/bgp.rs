//! What is shown of a BGP session: plain values, written by the session alone, read by whoever shows them.
//! Never drives a session: nothing here is an order.

use super::{Asn, Family, Generation, PeerId, RouterId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;

/// States of RFC 4271 section 8.2.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionState {
    /// Nothing is tried: between two attempts, or for good.
    #[default]
    Idle,
    /// A TCP connection is being made.
    Connect,
    /// Waiting for the peer to connect.
    Active,
    /// Connected; the peer's OPEN is awaited.
    OpenSent,
    /// OPENs exchanged; the peer's KEEPALIVE is awaited.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl SessionState {
    /// The word shown to operators.
    pub fn as_str(self) -> &'static str {
        match self {
            SessionState::Idle => "idle",
            SessionState::Connect => "connect",
            SessionState::Active => "active",
            SessionState::OpenSent => "open-sent",
            SessionState::OpenConfirm => "open-confirm",
            SessionState::Established => "established",
        }
    }

    /// True while routes are exchanged.
    pub fn is_established(self) -> bool {
        self == SessionState::Established
    }
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an operator wants of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionOrder {
    /// End it and begin anew at once (Cease 4); the text is shown to the peer's operator (RFC 9003).
    Reset(String),
    /// End it and stay down (Cease 2); the text is shown to the peer's operator (RFC 9003).
    Shutdown(String),
    /// Come up again after a shutdown; or try at once instead of after a pause.
    Start,
    /// Ask the peer for its table of this family again, or of all (RFC 2918, RFC 7313).
    Refresh(Option<Family>),
}

/// Octets of a text for the peer's operator that every implementation reads (RFC 8203; RFC 9003 allows 255).
pub const MESSAGE_LIMIT: usize = 128;

impl SessionOrder {
    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            SessionOrder::Reset(_) => "reset",
            SessionOrder::Shutdown(_) => "shutdown",
            SessionOrder::Start => "start",
            SessionOrder::Refresh(_) => "refresh",
        }
    }
}

impl fmt::Display for SessionOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            SessionOrder::Reset(text) | SessionOrder::Shutdown(text) if !text.is_empty() => {
                write!(f, ", saying {text:?}")
            }
            SessionOrder::Refresh(Some(family)) => write!(f, " of {family}"),
            _ => Ok(()),
        }
    }
}

/// Who opened the TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initiator {
    /// ETM.
    Us,
    /// The peer.
    Peer,
}

/// A session at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its number.
    pub peer: PeerId,
    /// Its name.
    pub name: String,
    /// Its peer.
    pub remote: SocketAddr,
    /// Our end, once connected.
    pub local: Option<SocketAddr>,
    /// Our AS.
    pub local_as: Asn,
    /// The peer's AS as configured.
    pub peer_as: Asn,
    /// Where it stands.
    pub state: SessionState,
    /// When it entered that state.
    pub since: Timestamp,
    /// When the next attempt to connect is due, while idle.
    pub retry_at: Option<Timestamp>,
    /// How often it was established.
    pub established: u64,
    /// Who opened the connection that is, or last was, established.
    pub initiator: Option<Initiator>,
    /// Protection of the transport: `none`, `tcp-md5`, `tcp-ao`; with `gtsm` where TTL is checked.
    pub protection: String,
    /// Hold time negotiated, in seconds.
    pub hold_time: u64,
    /// Interval of our keepalives, in seconds.
    pub keepalive: u64,
    /// The peer's BGP identifier.
    pub peer_router_id: Option<RouterId>,
    /// Families negotiated.
    pub families: Vec<Family>,
    /// Families received with ADD-PATH.
    pub add_path: Vec<Family>,
    /// Families whose End-of-RIB was received.
    pub end_of_rib: Vec<Family>,
    /// Capabilities we offered, in words.
    pub ours: Vec<String>,
    /// Capabilities the peer offered, in words.
    pub theirs: Vec<String>,
    /// Families whose routes are kept as stale: the peer restarts (RFC 4724), or sends its table again (RFC 7313).
    pub stale: Vec<Family>,
    /// When what is stale will be dropped.
    pub stale_until: Option<Timestamp>,
    /// Messages and routes, never reset.
    pub traffic: Traffic,
    /// Faulty UPDATEs and unusable routes, never reset.
    pub dispositions: Dispositions,
    /// Routes the peer has announced and not withdrawn, where a maximum is configured.
    pub held: Option<u64>,
    /// Routes announced to the peer at this moment (role inject).
    pub announced: usize,
    /// Routes of the newest decision that could not be announced: no next hop the receiver can resolve, family
    /// not negotiated, or attributes that do not fit (role inject).
    pub withheld: usize,
    /// The newest decision whose last byte was written to the socket (role inject).
    pub written: Option<Generation>,
    /// The newest decision acknowledged by the peer's TCP: *sent* (role inject). Whether it is *effective* is not
    /// for the session to say.
    pub told: Option<Generation>,
    /// Why it went down, or could not come up, last.
    pub last_fault: Option<LastFault>,
    /// The last thing worth a look about an UPDATE.
    pub last_notice: Option<String>,
}

/// Messages by kind (RFC 4271 section 4, RFC 2918).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// OPEN.
    pub open: u64,
    /// UPDATE.
    pub update: u64,
    /// NOTIFICATION.
    pub notification: u64,
    /// KEEPALIVE.
    pub keepalive: u64,
    /// ROUTE-REFRESH, with its beginning and end marks (RFC 7313).
    pub route_refresh: u64,
}

impl Messages {
    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.open + self.update + self.notification + self.keepalive + self.route_refresh
    }

    /// Counts one message by the number of its type; unknown types are none of ours.
    pub fn count(&mut self, kind: u8) {
        match kind {
            1 => self.open += 1,
            2 => self.update += 1,
            3 => self.notification += 1,
            4 => self.keepalive += 1,
            5 => self.route_refresh += 1,
            _ => {}
        }
    }

    /// Adds what `more` counted.
    pub fn add(&mut self, more: &Messages) {
        self.open += more.open;
        self.update += more.update;
        self.notification += more.notification;
        self.keepalive += more.keepalive;
        self.route_refresh += more.route_refresh;
    }
}

/// Messages and routes of a session, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Messages read.
    pub received: Messages,
    /// Messages written.
    pub sent: Messages,
    /// Routes learnt, replacements included.
    pub announced_in: u64,
    /// Routes withdrawn by the peer.
    pub withdrawn_in: u64,
    /// How often the decision was too slow and the peer had to wait.
    pub held_back: u64,
}

/// What had to be done about faulty UPDATEs and unusable routes, since the session's owner started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispositions {
    /// UPDATEs whose routes were withdrawn because an attribute was wrong (RFC 7606 section 2).
    pub treat_as_withdraw: u64,
    /// UPDATEs that lost an attribute of no effect on route selection (RFC 7606 section 2).
    pub attribute_discard: u64,
    /// UPDATEs that ended the session.
    pub session_reset: u64,
    /// Routes to destinations that are never routed.
    pub martian: u64,
    /// Routes with our own AS in the AS_PATH, on an eBGP session (RFC 4271 section 9.1.2).
    pub as_loop: u64,
    /// Routes whose AS_PATH does not begin with the peer's AS, on an eBGP session (RFC 4271 section 6.3).
    pub first_as: u64,
    /// Routes that leaked, by their Only-To-Customer attribute (RFC 9234 section 5).
    pub leak: u64,
    /// Routes with an AS_SET in the AS_PATH, accepted though RFC 9774 would not: the router forwards by them.
    pub as_set: u64,
    /// UPDATEs of address families that were not negotiated, ignored.
    pub foreign_family: u64,
    /// Routes refused because no import policy is configured for an eBGP session (RFC 8212).
    pub no_policy: u64,
    /// Routes beyond the configured maximum, dropped while the session is kept.
    pub over_limit: u64,
}

/// Why a session is not, or was not, up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFault {
    /// When.
    pub at: Timestamp,
    /// In words that say what to do.
    pub text: String,
    /// True where only a change of configuration helps.
    pub permanent: bool,
}

impl PeerStatus {
    /// A session that has not begun.
    pub fn new(
        peer: PeerId,
        name: &str,
        remote: SocketAddr,
        ases: (Asn, Asn),
        protection: &str,
        now: Timestamp,
    ) -> PeerStatus {
        PeerStatus {
            peer,
            name: name.to_owned(),
            remote,
            local: None,
            local_as: ases.0,
            peer_as: ases.1,
            state: SessionState::Idle,
            since: now,
            retry_at: None,
            established: 0,
            initiator: None,
            protection: protection.to_owned(),
            hold_time: 0,
            keepalive: 0,
            peer_router_id: None,
            families: Vec::new(),
            add_path: Vec::new(),
            end_of_rib: Vec::new(),
            ours: Vec::new(),
            theirs: Vec::new(),
            stale: Vec::new(),
            stale_until: None,
            traffic: Traffic::default(),
            dispositions: Dispositions::default(),
            held: None,
            announced: 0,
            withheld: 0,
            written: None,
            told: None,
            last_fault: None,
            last_notice: None,
        }
    }

    /// Enters `state` at `now`; staying where it is leaves `since` alone.
    pub fn enter(&mut self, state: SessionState, now: Timestamp) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
        if state != SessionState::Idle {
            self.retry_at = None;
        }
    }
}

/// Our role on an eBGP session (RFC 9234 section 4): what we are to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BgpRole {
    /// The peer pays us for transit.
    Provider,
    /// We run the route server (RFC 7947).
    RouteServer,
    /// The peer is a route server.
    RouteServerClient,
    /// We pay the peer for transit: the usual one towards providers.
    Customer,
    /// Neither pays.
    Peer,
}

impl fmt::Display for BgpRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            BgpRole::Provider => "provider",
            BgpRole::RouteServer => "route-server",
            BgpRole::RouteServerClient => "route-server-client",
            BgpRole::Customer => "customer",
            BgpRole::Peer => "peer",
        })
    }
}
