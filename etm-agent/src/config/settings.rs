//! What the configuration means: complete, checked, every default filled in.

use crate::core::policy::{Policy, Role};
use crate::types::bgp::BgpRole;
use crate::types::{Asn, ExitId, PeerId, Prefix, ProviderId, RouterId};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the decision needs.
    pub policy: Policy,
    /// The process.
    pub agent: AgentSettings,
    /// Kernel routing.
    pub kernel: KernelSettings,
    /// Kernel counting.
    pub datapath: DatapathSettings,
    /// Recording.
    pub record: RecordSettings,
    /// BGP; none without sessions.
    pub bgp: Option<BgpSettings>,
    /// BMP station; none without routers that report.
    pub bmp: Option<BmpSettings>,
    /// The process that announces.
    pub guardian: GuardianSettings,
    /// Where metrics are served beside the control socket, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Who may ask and order.
    pub control: ControlSettings,
}

/// Who may use the control socket besides root and the agent's own user: users, and groups as `@NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlSettings {
    /// May ask.
    pub read: Vec<String>,
    /// May ask and order.
    pub write: Vec<String>,
}

/// The process that owns the sessions with role inject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardianSettings {
    /// Its unix socket.
    pub socket: PathBuf,
    /// The agent starts it where none answers; otherwise the system does, by its own unit.
    pub start: bool,
    /// It ends an agent whose lease ran out while the process lives.
    pub kill_hung: bool,
    /// How long a restarted agent may keep what it found before it has decided, beyond the lease that it found.
    pub adopt: Duration,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// Unix socket of the control API.
    pub control_socket: PathBuf,
    /// User that the agent becomes when it is started as root.
    pub user: Option<String>,
    /// What operators ordered and what outlives a restart: modes, drains.
    pub orders_file: PathBuf,
    /// The agent gives up when a learn session is not Established this long after the start.
    pub startup_timeout: Duration,
    /// BIRD's control socket, to ask whether it learns foreign kernel routes; none where BIRD is not used.
    pub bird_socket: Option<PathBuf>,
}

/// Where overrides stand in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelMode {
    /// In a table of their own, which only marked packets reach while the lease is fresh.
    #[default]
    Lease,
    /// In the main table beside the daemon's routes; the guardian removes them when the lease ends.
    Main,
}

/// Kernel routing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSettings {
    /// Where overrides stand.
    pub mode: KernelMode,
    /// Interfaces by which the traffic to steer comes in.
    pub inside: Vec<String>,
    /// ETM's routing table.
    pub table: u32,
    /// ETM's route protocol (rtm_protocol).
    pub protocol: u8,
    /// Mark of packets that may take an override.
    pub mark: u32,
    /// Bits of the mark that are ETM's.
    pub mask: u32,
    /// Priority of ETM's rules.
    pub rule_priority: u32,
    /// Sources whose packets take overrides also where this router itself makes them, in mode "lease".
    pub local_output: Vec<Prefix>,
    /// How long the kernel honours overrides without hearing from the agent.
    pub lease: Duration,
}

/// Kernel counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatapathSettings {
    /// Directory of the pins, below a bpffs.
    pub pin_root: PathBuf,
    /// IPv4 prefixes there is room for.
    pub prefixes_ipv4: u32,
    /// IPv6 prefixes there is room for.
    pub prefixes_ipv6: u32,
    /// Where to attach.
    pub hook: HookChoice,
    /// Inside interfaces where another program forwards in XDP and calls ETM for what it redirects.
    pub xdp: Vec<String>,
    /// Counting goes on, pinned, after an orderly stop.
    pub keep_on_exit: bool,
    /// Lookups by derived arrays, some 20 times cheaper than the kernel's tries and about 180 MB larger at full size.
    pub fast_path: bool,
    /// The kernel programs write a debug line for each malformed packet.
    pub kernel_log: bool,
}

/// Recording of the decision's inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSettings {
    /// Directory of the files.
    pub directory: PathBuf,
    /// Record from the start on, not only after `etm record start`.
    pub at_start: bool,
    /// Size after which a new file is begun, bytes.
    pub file_bytes: u64,
    /// Files kept.
    pub files: usize,
}

/// Where the counting program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookChoice {
    /// TCX where the kernel has it, clsact otherwise.
    Auto,
    /// TCX or nothing.
    Tcx,
    /// clsact, also where the kernel has TCX.
    Clsact,
}

/// BGP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpSettings {
    /// Our AS.
    pub asn: Asn,
    /// LOCAL_PREF of announced overrides.
    pub local_pref: u32,
    /// Offered hold time; at most the lease.
    pub hold_time: Duration,
    /// TCP port of listeners.
    pub listen_port: u16,
    /// Sessions in order of `PeerId`.
    pub sessions: Vec<SessionSettings>,
}

/// A BGP session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The peer.
    pub peer: IpAddr,
    /// The interface of a link-local peer.
    pub interface: Option<String>,
    /// TCP port there.
    pub port: u16,
    /// The peer's AS.
    pub peer_as: Asn,
    /// Address we connect from.
    pub local: Option<IpAddr>,
    /// Our BGP Identifier towards it.
    pub router_id: RouterId,
    /// NEXT_HOP of announcements, at most one per family, for exits that have none of their own.
    pub next_hops: Vec<IpAddr>,
    /// NEXT_HOP of announcements through particular exits.
    pub exit_next_hops: Vec<(ExitId, Vec<IpAddr>)>,
    /// Exits of other borders: `next_hops` is not for them.
    pub elsewhere: Vec<ExitId>,
    /// What protects the session and who opens it.
    pub transport: TransportSettings,
    /// What is taken from the peer.
    pub import: ImportSettings,
    /// Routes announced per second.
    pub announce_rate: u32,
}

/// What protects a session and who opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportSettings {
    /// We connect.
    pub dials: bool,
    /// We listen.
    pub listens: bool,
    /// How far away the peer may be.
    pub reach: ReachSettings,
    /// Keys; files, which the one who opens the session reads.
    pub key: KeySettings,
}

/// How far away a peer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachSettings {
    /// One link for external peers, any distance for internal ones.
    Usual,
    /// So many hops, by the TTL of what is sent.
    Multihop(u8),
    /// So many hops, by the TTL of what is received (RFC 5082).
    Gtsm(u8),
}

/// How the connection is authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySettings {
    /// Not at all.
    None,
    /// TCP-MD5 with the key in this file.
    Md5(PathBuf),
    /// TCP-AO.
    Ao {
        /// File of the master key.
        file: PathBuf,
        /// SendID and RecvID.
        id: u8,
        /// The kernel's name of the algorithm.
        algorithm: String,
    },
}

/// What is taken from a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportSettings {
    /// Whether several routes per prefix are asked for (RFC 7911).
    pub add_path: bool,
    /// Whether anything is taken: always from internal peers, from external ones only where the operator says so (RFC 8212).
    pub accept: bool,
    /// Whether an external peer's paths must begin with its AS.
    pub first_as: bool,
    /// Our role towards an external peer (RFC 9234).
    pub role: Option<BgpRole>,
    /// Whether an external peer without a role is refused.
    pub strict_role: bool,
    /// Maximum of routes.
    pub max_routes: Option<MaxRoutesSettings>,
    /// Longest time to keep the routes of a peer that restarts; zero to keep none.
    pub retain: Duration,
}

/// A maximum of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxRoutesSettings {
    /// How many there may be.
    pub limit: u64,
    /// From so many on there is a warning.
    pub warn_at: u64,
    /// What happens beyond.
    pub beyond: BeyondSettings,
}

/// What happens beyond a maximum of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeyondSettings {
    /// The session ends and comes back after this pause.
    Restart(Duration),
    /// The session ends and stays down until an operator resets it.
    Down,
    /// The session stays; what is too much is dropped.
    Drop,
}

/// BMP station.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BmpSettings {
    /// Where routers connect.
    pub listen: Vec<SocketAddr>,
    /// Routers that may report.
    pub routers: Vec<BmpRouterSettings>,
}

/// A router that reports by BMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BmpRouterSettings {
    /// Its name.
    pub name: String,
    /// The address it speaks from.
    pub address: IpAddr,
    /// Its port, where ETM connects to it; none where it connects to ETM.
    pub connect: Option<u16>,
    /// Candidates are its peers' routes after its import policy, instead of as received.
    pub post_policy: bool,
    /// Whether path identifiers are in its reports; none: by what it calls itself.
    pub path_ids: Option<bool>,
    /// Silence after which its tables count as complete, for a router that sends no End-of-RIB.
    pub complete_after: Option<Duration>,
    /// The inject session with it, whose effect its Loc-RIB proves, with its name.
    pub session: Option<(PeerId, String)>,
    /// Its peers that are sources of candidates; their `PeerId`s follow those of the sessions.
    pub peers: Vec<BmpPeerSettings>,
}

/// A monitored peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BmpPeerSettings {
    /// Its number as a source.
    pub peer: PeerId,
    /// Its name: that of the router and its address.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Tells peers of the same address in several instances of the router apart; 0 for the global one.
    pub distinguisher: u64,
    /// Whose routes they are.
    pub provider: ProviderId,
}
