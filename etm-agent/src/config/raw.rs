//! The file as typed: names and texts with their place in it. Never interpreted here.
//! Every table refuses unknown keys. Defaults and meaning are documented in deploy/etm.toml.example.

use crate::core::policy::{Mode, Role};
use crate::types::bgp::BgpRole;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use toml::Spanned;

/// A text with its place in the file.
pub(super) type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    #[serde(default)]
    pub(super) agent: Agent,
    #[serde(default)]
    pub(super) policy: PolicyTable,
    #[serde(default)]
    pub(super) kernel: Kernel,
    #[serde(default)]
    pub(super) datapath: Datapath,
    #[serde(default)]
    pub(super) record: Record,
    #[serde(default)]
    pub(super) interface: Vec<Interface>,
    #[serde(default)]
    pub(super) port: Vec<Port>,
    #[serde(default)]
    pub(super) border: Vec<Border>,
    #[serde(default)]
    pub(super) pin: Vec<Pin>,
    #[serde(default)]
    pub(super) forbid: Vec<Pin>,
    #[serde(default)]
    pub(super) prices: Prices,
    #[serde(default)]
    pub(super) provider: Vec<Provider>,
    #[serde(default)]
    pub(super) static_route: Vec<StaticRoute>,
    pub(super) bgp: Option<Bgp>,
    pub(super) bmp: Option<Bmp>,
    #[serde(default)]
    pub(super) guardian: Guardian,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) control: Control,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub(super) listen: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    #[serde(default)]
    pub(super) read: Vec<Text>,
    #[serde(default)]
    pub(super) write: Vec<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guardian {
    pub(super) socket: Option<Text>,
    pub(super) start: Option<bool>,
    pub(super) kill_hung: Option<bool>,
    pub(super) adopt: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Agent {
    #[serde(default)]
    pub(super) mode: Mode,
    pub(super) interval: Option<Text>,
    pub(super) stale_after: Option<Text>,
    pub(super) startup_timeout: Option<Text>,
    pub(super) control_socket: Option<Text>,
    pub(super) user: Option<Text>,
    pub(super) orders_file: Option<Text>,
    pub(super) bird_socket: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyTable {
    #[serde(default)]
    pub(super) exclude: Vec<Text>,
    pub(super) hold: Option<Text>,
    pub(super) max_overrides: Option<usize>,
    pub(super) max_moved: Option<Text>,
    pub(super) max_moved_per_minute: Option<Text>,
    pub(super) max_moves_per_minute: Option<Spanned<usize>>,
    pub(super) fill_rate: Option<Text>,
    pub(super) split: Option<Spanned<bool>>,
    pub(super) approval: Option<Text>,
    /// Own and internal prefixes.
    #[serde(default)]
    pub(super) internal: Vec<Text>,
    #[serde(default)]
    pub(super) confirm: Confirm,
    #[serde(default)]
    pub(super) surge: Surge,
    #[serde(default)]
    pub(super) canary: Canary,
    #[serde(default)]
    pub(super) decision: DecisionTable,
    #[serde(default)]
    pub(super) prefix_list: Vec<PrefixList>,
    #[serde(default)]
    pub(super) route: Vec<RouteRuleTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Confirm {
    pub(super) within: Option<Text>,
    pub(super) retry: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Surge {
    pub(super) factor: Option<Spanned<u32>>,
    pub(super) lasts: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Canary {
    pub(super) share: Option<Text>,
    #[serde(default)]
    pub(super) prefixes: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrefixList {
    pub(super) name: Text,
    pub(super) prefixes: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteRuleTable {
    pub(super) name: Text,
    pub(super) action: RuleAction,
    pub(super) preference: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) prefixes: Vec<Text>,
    #[serde(default)]
    pub(super) prefix_lists: Vec<Text>,
    #[serde(default)]
    pub(super) as_paths: Vec<Text>,
    #[serde(default)]
    pub(super) communities: Vec<Text>,
    #[serde(default)]
    pub(super) large_communities: Vec<Text>,
    #[serde(default)]
    pub(super) origin_as: Vec<u32>,
    #[serde(default)]
    pub(super) sessions: Vec<Text>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RuleAction {
    Accept,
    Deny,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionTable {
    pub(super) always_compare_med: Option<bool>,
    pub(super) deterministic_med: Option<bool>,
    pub(super) med_missing_worst: Option<bool>,
    pub(super) router_id: Option<bool>,
    pub(super) cluster_list: Option<bool>,
    pub(super) peer_address: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum KernelMode {
    #[default]
    Lease,
    Main,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kernel {
    #[serde(default)]
    pub(super) inside: Vec<Text>,
    #[serde(default)]
    pub(super) mode: KernelMode,
    pub(super) table: Option<Spanned<u32>>,
    pub(super) protocol: Option<Spanned<u8>>,
    pub(super) mark: Option<Spanned<u32>>,
    pub(super) mask: Option<Spanned<u32>>,
    pub(super) rule_priority: Option<Spanned<u32>>,
    pub(super) lease: Option<Text>,
    #[serde(default)]
    pub(super) local_output: Vec<Text>,
    pub(super) max_throws: Option<usize>,
    pub(super) daemon_protocols: Option<Spanned<Vec<u8>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Datapath {
    pub(super) pin_root: Option<Text>,
    pub(super) prefixes_ipv4: Option<Spanned<u32>>,
    pub(super) prefixes_ipv6: Option<Spanned<u32>>,
    pub(super) hook: Option<HookText>,
    #[serde(default)]
    pub(super) xdp: Vec<Text>,
    pub(super) keep_on_exit: Option<bool>,
    pub(super) fast_path: Option<bool>,
    pub(super) kernel_log: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) directory: Option<Text>,
    pub(super) at_start: Option<bool>,
    pub(super) file_megabytes: Option<Spanned<u64>>,
    pub(super) files: Option<Spanned<usize>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum HookText {
    Auto,
    Tcx,
    Clsact,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Interface {
    pub(super) name: Text,
    pub(super) capacity: Text,
    pub(super) limit: Option<Text>,
    pub(super) headroom: Option<Text>,
    pub(super) port: Option<Text>,
    pub(super) border: Option<Text>,
    pub(super) commit: Option<Text>,
    #[serde(default)]
    pub(super) tiers: Vec<Tier>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Border {
    pub(super) name: Text,
    pub(super) session: Text,
    pub(super) etm_learn: Option<Text>,
    pub(super) etm_inject: Option<Text>,
    pub(super) next_hops: Spanned<Vec<IpAddr>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    pub(super) name: Text,
    pub(super) capacity: Text,
    pub(super) limit: Option<Text>,
    pub(super) headroom: Option<Text>,
    pub(super) inside: Option<Text>,
    pub(super) commit: Option<Text>,
    #[serde(default)]
    pub(super) tiers: Vec<Tier>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tier {
    pub(super) up_to: Option<Text>,
    pub(super) price: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pin {
    pub(super) prefix: Text,
    pub(super) exit: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prices {
    pub(super) preference: Option<Text>,
    #[serde(rename = "move")]
    pub(super) moving: Option<Text>,
    pub(super) move_prefix: Option<Text>,
    pub(super) hold: Option<Text>,
    pub(super) overload: Option<Text>,
    pub(super) min_saving: Option<Text>,
    pub(super) min_saving_share: Option<Text>,
    pub(super) payback: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    pub(super) name: Text,
    pub(super) asn: Option<u32>,
    pub(super) commit: Option<Text>,
    #[serde(default)]
    pub(super) tiers: Vec<Tier>,
    pub(super) billing: Option<Text>,
    pub(super) billed_tags: Option<Spanned<i8>>,
    #[serde(default)]
    pub(super) covering: bool,
    pub(super) exits: Spanned<Vec<Exit>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exit {
    pub(super) name: Option<Text>,
    pub(super) interface: Text,
    pub(super) gateways: Spanned<Vec<Spanned<IpAddr>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StaticRoute {
    pub(super) prefix: Text,
    pub(super) exit: Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bgp {
    pub(super) asn: Spanned<u32>,
    pub(super) router_id: Spanned<Ipv4Addr>,
    pub(super) community: Option<Text>,
    pub(super) local_pref: Option<Spanned<u32>>,
    pub(super) hold_time: Option<Text>,
    pub(super) listen_port: Option<u16>,
    #[serde(default)]
    pub(super) session: Vec<Session>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    pub(super) name: Text,
    pub(super) role: Role,
    pub(super) peer: Text,
    pub(super) peer_as: Option<u32>,
    pub(super) port: Option<u16>,
    pub(super) local: Option<Spanned<IpAddr>>,
    pub(super) router_id: Option<Spanned<Ipv4Addr>>,
    pub(super) connect: Option<ConnectText>,
    pub(super) multihop: Option<Spanned<u8>>,
    pub(super) gtsm: Option<Spanned<u8>>,
    pub(super) md5_key_file: Option<Text>,
    pub(super) ao: Option<Spanned<Ao>>,
    pub(super) accept: Option<AcceptText>,
    pub(super) enforce_first_as: Option<bool>,
    pub(super) bgp_role: Option<Spanned<BgpRole>>,
    pub(super) strict_role: Option<bool>,
    pub(super) max_routes: Option<Spanned<MaxRoutes>>,
    pub(super) retain: Option<Text>,
    pub(super) announce_rate: Option<Spanned<u32>>,
    pub(super) into_border: Option<bool>,
    #[serde(default)]
    pub(super) next_hops: Vec<IpAddr>,
    #[serde(default)]
    pub(super) exit_next_hops: Vec<ExitNextHops>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ConnectText {
    Active,
    Passive,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AcceptText {
    All,
    None,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ao {
    pub(super) key_file: Text,
    pub(super) id: Option<u8>,
    pub(super) algorithm: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MaxRoutes {
    pub(super) limit: u64,
    pub(super) warn_at: Option<u64>,
    pub(super) beyond: Option<BeyondText>,
    pub(super) restart_after: Option<Text>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BeyondText {
    Restart,
    Down,
    Drop,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExitNextHops {
    pub(super) exit: Text,
    pub(super) next_hops: Vec<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bmp {
    #[serde(default)]
    pub(super) listen: Vec<SocketAddr>,
    #[serde(default)]
    pub(super) router: Vec<BmpRouter>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BmpRouter {
    pub(super) name: Text,
    pub(super) address: Spanned<IpAddr>,
    pub(super) connect: Option<Spanned<u16>>,
    pub(super) view: Option<ViewText>,
    pub(super) path_ids: Option<bool>,
    pub(super) complete_after: Option<Text>,
    pub(super) session: Option<Text>,
    #[serde(default)]
    pub(super) peers: Vec<BmpPeer>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ViewText {
    PrePolicy,
    PostPolicy,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BmpPeer {
    pub(super) address: Spanned<IpAddr>,
    pub(super) provider: Text,
    #[serde(default)]
    pub(super) distinguisher: u64,
}
