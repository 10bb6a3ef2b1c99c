//! What is shown of a monitored router: plain values, written by its session alone, read by whoever shows them.
//! Never drives a session: nothing here is an order.

use super::bgp::{Dispositions, LastFault};
use super::{Asn, Family, PeerId, RouterId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Where the connection with a monitored router stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MonitorState {
    /// The router is expected to connect.
    #[default]
    Waiting,
    /// A connection is being made, or is due.
    Connecting,
    /// Connected; the Initiation message is awaited.
    Connected,
    /// The router reports.
    Monitoring,
}

impl MonitorState {
    /// The word shown to operators.
    pub fn as_str(self) -> &'static str {
        match self {
            MonitorState::Waiting => "waiting",
            MonitorState::Connecting => "connecting",
            MonitorState::Connected => "connected",
            MonitorState::Monitoring => "monitoring",
        }
    }
}

/// A monitored router at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The address it speaks from.
    pub address: IpAddr,
    /// Which of its tables gives candidates: `pre-policy` or `post-policy`.
    pub view: String,
    /// Where the connection stands.
    pub state: MonitorState,
    /// Since when.
    pub since: Timestamp,
    /// The other end, while connected.
    pub remote: Option<SocketAddr>,
    /// How often it connected.
    pub connections: u64,
    /// sysName of its Initiation message.
    pub sys_name: String,
    /// sysDescr of its Initiation message.
    pub sys_descr: String,
    /// Bytes read, never reset.
    pub bytes_in: u64,
    /// Messages read, never reset.
    pub messages: BmpMessages,
    /// Monitored peers that are a source of candidates, in order of configuration.
    pub sources: Vec<SourceStatus>,
    /// Peers the router reports that the configuration does not name; at most 64 are kept.
    pub unnamed: Vec<IpAddr>,
    /// Its Loc-RIB, where that is the proof of what is announced to it.
    pub loc_rib: Option<LocRibStatus>,
    /// Why it is, or was, not connected last.
    pub last_fault: Option<LastFault>,
}

/// Messages by kind (RFC 7854 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BmpMessages {
    /// Route Monitoring that was wanted.
    pub routes: u64,
    /// Route Monitoring of peers or tables that the configuration does not name, ignored.
    pub ignored: u64,
    /// Route Monitoring of a peer before its Peer Up, ignored.
    pub early: u64,
    /// Peer Up.
    pub peer_up: u64,
    /// Peer Down.
    pub peer_down: u64,
    /// Statistics.
    pub stats: u64,
    /// Initiation, Termination, Route Mirroring, and types of later RFCs.
    pub other: u64,
}

/// A monitored peer that gives candidates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its number.
    pub peer: PeerId,
    /// Its name: that of the router and its address.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Whose routes they are.
    pub provider: String,
    /// The router's session with it is up.
    pub up: bool,
    /// Since when it is up, or down.
    pub since: Timestamp,
    /// Its AS, once it was up.
    pub asn: Option<Asn>,
    /// Its BGP identifier, once it was up.
    pub router_id: Option<RouterId>,
    /// Families both ends offered.
    pub families: Vec<Family>,
    /// Families received with ADD-PATH.
    pub add_path: Vec<Family>,
    /// Families whose whole table was reported.
    pub end_of_rib: Vec<Family>,
    /// Routes reported, replacements included, never reset.
    pub announced_in: u64,
    /// Withdrawals reported, never reset.
    pub withdrawn_in: u64,
    /// Routes whose next hop is none of the provider's, treated as withdrawn, never reset.
    pub foreign_next_hop: u64,
    /// Faulty UPDATEs and unusable routes, never reset.
    pub dispositions: Dispositions,
    /// The router's own counters, by the names of the IANA registry where ETM knows them.
    pub stats: BTreeMap<String, u64>,
    /// Why it went down last.
    pub last_fault: Option<LastFault>,
    /// The last thing worth a look about an UPDATE.
    pub last_notice: Option<String>,
}

/// A Loc-RIB that is watched for ETM's announcements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocRibStatus {
    /// The inject session it proves.
    pub session: String,
    /// The router reports it now.
    pub up: bool,
    /// Families whose whole table was reported.
    pub end_of_rib: Vec<Family>,
    /// Prefixes whose best route is ETM's announcement.
    pub effective: usize,
    /// Routes reported, replacements included, never reset.
    pub routes: u64,
}
