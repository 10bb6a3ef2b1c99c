//! The file as typed: names and texts with their place in it. Never interpreted here.
//! Every table refuses unknown keys. Defaults and meaning are documented in deploy/etm.toml.example.

use crate::core::policy::{Mode, Role};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr};
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
    pub(super) provider: Vec<Provider>,
    #[serde(default)]
    pub(super) static_route: Vec<StaticRoute>,
    pub(super) bgp: Option<Bgp>,
    #[serde(default)]
    pub(super) guardian: Guardian,
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
    pub(super) control_socket: Option<String>,
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
    #[serde(default)]
    pub(super) decision: DecisionTable,
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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kernel {
    #[serde(default)]
    pub(super) inside: Vec<Text>,
    pub(super) table: Option<Spanned<u32>>,
    pub(super) protocol: Option<Spanned<u8>>,
    pub(super) mark: Option<Spanned<u32>>,
    pub(super) mask: Option<Spanned<u32>>,
    pub(super) rule_priority: Option<Spanned<u32>>,
    pub(super) lease: Option<Text>,
    pub(super) max_throws: Option<usize>,
    pub(super) daemon_protocols: Option<Vec<u8>>,
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
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    pub(super) name: Text,
    pub(super) asn: Option<u32>,
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
    pub(super) local_pref: Option<u32>,
    pub(super) hold_time: Option<Text>,
    #[serde(default)]
    pub(super) session: Vec<Session>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    pub(super) name: Text,
    pub(super) role: Role,
    pub(super) peer: Spanned<IpAddr>,
    pub(super) peer_as: Option<u32>,
    pub(super) port: Option<u16>,
    pub(super) local: Option<Spanned<IpAddr>>,
    pub(super) router_id: Option<Spanned<Ipv4Addr>>,
    #[serde(default)]
    pub(super) next_hops: Vec<IpAddr>,
    #[serde(default)]
    pub(super) exit_next_hops: Vec<ExitNextHops>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExitNextHops {
    pub(super) exit: Text,
    pub(super) next_hops: Vec<IpAddr>,
}
