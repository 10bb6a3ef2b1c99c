//! Links: veth pairs, addresses, fixed neighbours, TBF, carrier, and what the kernel counted on them.
//!
//! *Invariant*: every neighbour entry is permanent. A saturated TBF drops ARP and neighbour
//! solicitations like any packet, and a lab that loses its next hop by that proves nothing.

use serde::Deserialize;

use crate::error::LabError;
use crate::netns::Namespace;
use crate::topology::{End, Link};

/// Settings of every namespace, before its interfaces exist so that they inherit them.
pub const BASE_SYSCTLS: [(&str, &str); 8] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/keep_addr_on_down", "1"),
    ("net/ipv6/conf/default/keep_addr_on_down", "1"),
];

/// Settings of a router.
pub const ROUTER_SYSCTLS: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
];

/// Settings of the border: a route over a link without carrier is not used.
pub const BORDER_SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/conf/all/ignore_routes_with_linkdown", "1"),
    ("net/ipv4/conf/default/ignore_routes_with_linkdown", "1"),
    ("net/ipv6/conf/all/ignore_routes_with_linkdown", "1"),
    ("net/ipv6/conf/default/ignore_routes_with_linkdown", "1"),
];

/// Makes the pair, both ends down and without addresses.
///
/// # Errors
/// `ip` refuses.
pub fn create(link: &Link, near: &Namespace, far: &Namespace) -> Result<(), LabError> {
    let what = format!("make the link {}-{}", link.near.role, link.far.role);
    let line = format!(
        "link add name {} address {} type veth peer name {} address {} netns {}",
        link.near.interface,
        link.near.mac,
        link.far.interface,
        link.far.mac,
        far.name()
    );
    near.ip_batch(&what, &[line])
}

/// The `ip -batch` lines that bring up one end, repeatable: after a link was down they restore all.
pub fn up_lines(own: &End, peer: &End) -> Vec<String> {
    let dev = own.interface;
    vec![
        format!("link set dev {dev} up"),
        format!("addr replace {}/24 dev {dev}", own.v4),
        format!("addr replace {}/64 dev {dev} nodad", own.v6),
        format!("neigh replace {} lladdr {} dev {dev} nud permanent", peer.v4, peer.mac),
        format!("neigh replace {} lladdr {} dev {dev} nud permanent", peer.v6, peer.mac),
    ]
}

/// A token bucket: what makes a veth a link with a capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tbf {
    /// Rate in bit/s, over Ethernet frames without FCS.
    pub rate_bps: u64,
    /// Bucket in bytes. Below 32 kB the timer of a busy box makes the rate fall short.
    pub burst_bytes: u32,
    /// Longest queue in milliseconds at `rate_bps`; beyond it packets are dropped.
    pub queue_ms: u32,
}

impl Tbf {
    /// A bucket of `rate_bps` with the burst and queue that serve the lab.
    pub const fn of_rate(rate_bps: u64) -> Self {
        Self { rate_bps, burst_bytes: 32 * 1024, queue_ms: 25 }
    }

    /// Puts the bucket on an interface, in place of an older one.
    ///
    /// # Errors
    /// `tc` refuses.
    pub fn apply(&self, namespace: &Namespace, interface: &str) -> Result<(), LabError> {
        let rate = format!("{}bit", self.rate_bps);
        let burst = self.burst_bytes.to_string();
        let limit =
            (u64::from(self.burst_bytes) + self.rate_bps / 8 * u64::from(self.queue_ms) / 1000).to_string();
        let args = [
            "qdisc", "replace", "dev", interface, "root", "tbf", "rate", &rate, "burst", &burst, "limit",
            &limit,
        ];
        namespace.tc(&args).map(drop)
    }
}

/// What a root qdisc counted since it was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct QdiscCounters {
    /// Bytes sent, wire basis.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets dropped.
    pub drops: u64,
    /// Packets waiting.
    #[serde(default)]
    pub qlen: u64,
    /// Bytes waiting.
    #[serde(default)]
    pub backlog: u64,
}

/// Reads the root qdisc's counters of an interface.
///
/// # Errors
/// `tc` refuses, or prints something unknown.
pub fn qdisc_counters(namespace: &Namespace, interface: &str) -> Result<QdiscCounters, LabError> {
    let text = namespace.tc(&["-s", "-j", "qdisc", "show", "dev", interface])?;
    let all: Vec<serde_json::Value> = parse("tc's qdisc statistics", &text)?;
    let root = all.into_iter().find(|q| q.get("root").is_some()).ok_or_else(|| LabError::Malformed {
        what: "tc's qdisc statistics".to_owned(),
        detail: format!("no root qdisc on {interface}"),
    })?;
    parse("tc's qdisc statistics", &root.to_string())
}

/// Whether an interface has carrier.
///
/// # Errors
/// `ip` refuses, or prints something unknown.
pub fn has_carrier(namespace: &Namespace, interface: &str) -> Result<bool, LabError> {
    let text = namespace.ip(&["-j", "link", "show", "dev", interface])?;
    let all: Vec<serde_json::Value> = parse("ip's link list", &text)?;
    let flags = all.first().and_then(|link| link.get("flags")).and_then(|f| f.as_array());
    Ok(flags.is_some_and(|flags| flags.iter().any(|flag| flag == "LOWER_UP")))
}

fn parse<T: for<'de> Deserialize<'de>>(what: &str, text: &str) -> Result<T, LabError> {
    serde_json::from_str(text)
        .map_err(|error| LabError::Malformed { what: what.to_owned(), detail: error.to_string() })
}
