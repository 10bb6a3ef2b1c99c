//! Start-up checks of the kernel's routing. Reads only; what is wrong comes back as a value whose text says
//! what to do. Never changes a sysctl: they are the operator's.

use crate::fib::OwnTable;
use crate::fib::bird::{self, BirdReport};
use crate::fib::error::FibError;
use crate::fib::route_codec::{self as codec, RTM_GETROUTE, RTM_NEWROUTE, TABLE_MAIN};
use crate::fib::rules::rules_behind;
use crate::fib::socket::Endpoint;
use crate::types::{Family, Prefix};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteProtocol;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::socket::{setsockopt, sockopt};
use std::fmt;
use std::path::Path;

/// Something an operator should know before ETM acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Strict reverse path filtering on an uplink: answers to moved traffic may be dropped (RFC 3704).
    StrictReversePath {
        /// Which uplink.
        interface: String,
    },
    /// This system does not forward packets of the family.
    NotForwarding {
        /// Which family.
        family: Family,
    },
    /// After the loss of carrier the kernel keeps sending into the uplink until the routing daemon acts.
    UsesDeadLinks {
        /// Which uplink.
        interface: String,
        /// Which family.
        family: Family,
    },
    /// Policy routing of another program that overridden packets do not reach any more.
    RulePassedBy {
        /// Which family.
        family: Family,
        /// The rule as `ip rule` writes it.
        rule: String,
    },
    /// Routes of ETM's protocol number in the main table.
    OwnProtocolInMain {
        /// How many.
        count: usize,
        /// One of them.
        first: Prefix,
        /// ETM's protocol number.
        protocol: u8,
    },
    /// FRR runs here: its zebra takes its own route out of the kernel when it sees ETM's beside it.
    ZebraTakesOut {
        /// Routes of its protocols in the main table.
        count: usize,
    },
    /// A Kernel protocol of BIRD has `learn` on.
    DaemonLearns {
        /// Name of the protocol.
        name: String,
        /// BIRD's table.
        table: String,
        /// Routes it learnt.
        imported: u64,
    },
    /// BIRD took over routes that ETM made.
    DaemonLearntOwn {
        /// How many.
        count: u64,
    },
    /// BIRD's routes stand in the main table, and nobody can ask BIRD whether it learns ETM's beside them.
    DaemonUnasked {
        /// How many.
        count: usize,
    },
    /// Whether the routing daemon learns kernel routes is not known.
    DaemonUnknown {
        /// Path of the control socket that does not exist.
        path: String,
    },
}

impl Finding {
    /// True where acting could break traffic or leak routes: `enforce` must be refused.
    pub fn refuses_enforce(&self) -> bool {
        match self {
            Finding::StrictReversePath { .. }
            | Finding::OwnProtocolInMain { .. }
            | Finding::ZebraTakesOut { .. }
            | Finding::DaemonLearns { .. }
            | Finding::DaemonLearntOwn { .. }
            | Finding::DaemonUnasked { .. } => true,
            Finding::NotForwarding { .. }
            | Finding::UsesDeadLinks { .. }
            | Finding::RulePassedBy { .. }
            | Finding::DaemonUnknown { .. } => false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::StrictReversePath { interface } => write!(
                f,
                "reverse path filtering is strict on {interface}, so the kernel drops what comes back on another \
                 uplink than it left by; set net.ipv4.conf.{interface}.rp_filter=2 (or 0, and conf.all not 1)"
            ),
            Finding::NotForwarding { family: Family::V4 } => {
                f.write_str("this system does not forward IPv4; set net.ipv4.ip_forward=1")
            }
            Finding::NotForwarding { family: Family::V6 } => {
                f.write_str("this system does not forward IPv6; set net.ipv6.conf.all.forwarding=1")
            }
            Finding::UsesDeadLinks { interface, family } => write!(
                f,
                "the kernel goes on using {family} routes over {interface} after it lost carrier; \
                 set net.{family}.conf.{interface}.ignore_routes_with_linkdown=1"
            ),
            Finding::RulePassedBy { family, rule } => write!(
                f,
                "{family} rule `{rule}` comes after ETM's: packets under override do not reach it any more; \
                 give ETM a later `rule_priority` if that rule must decide"
            ),
            Finding::OwnProtocolInMain { count, first, protocol } => write!(
                f,
                "the main table holds {count} routes of ETM's protocol {protocol} (the first is {first}); \
                 if an ETM with kernel.mode = \"main\" left them, they go by `etm-agent detach` with its configuration, or \
                 by `ip route flush proto {protocol}`; if they are somebody else's, give ETM another `protocol`"
            ),
            Finding::ZebraTakesOut { count } => write!(
                f,
                "FRR has {count} routes in the main table and takes its own out where ETM puts one beside it; \
                 set kernel.mode = \"lease\""
            ),
            Finding::DaemonLearns { name, table, imported } => write!(
                f,
                "BIRD has `learn` on: its kernel protocol {name} took {imported} routes of others into {table} and \
                 would do the same with ETM's; remove `learn` from protocol kernel {name} and reconfigure BIRD"
            ),
            Finding::DaemonLearntOwn { count } => write!(
                f,
                "BIRD learnt {count} of ETM's own routes from the kernel and may announce them; \
                 remove `learn` from its kernel protocols and reconfigure BIRD"
            ),
            Finding::DaemonUnasked { count } => write!(
                f,
                "BIRD has {count} routes in the main table, where it would learn ETM's with `learn` on, and ETM cannot \
                 ask it; set agent.bird_socket to BIRD's control socket (or kernel.mode = \"lease\")"
            ),
            Finding::DaemonUnknown { path } => write!(
                f,
                "there is no BIRD control socket at {path}, so ETM cannot see whether BIRD has `learn` on; \
                 set its path, or make sure that no kernel protocol learns"
            ),
        }
    }
}

/// Fails without CAP_NET_ADMIN over this network namespace, found by trying what needs it.
pub fn check_privileges() -> Result<(), FibError> {
    let open = |source| FibError::Open { source };
    let socket = Socket::new(NETLINK_ROUTE).map_err(open)?;
    // SO_RCVBUFFORCE is refused without CAP_NET_ADMIN and touches nothing but this socket.
    setsockopt(&socket, sockopt::RcvBufForce, &4096).map_err(|_| FibError::Privilege)
}

/// Looks at sysctls, at other programs' rules and at the main table.
pub async fn probe_kernel(
    own: OwnTable,
    rule_priority: u32,
    uplinks: &[String],
) -> Result<Vec<Finding>, FibError> {
    let mut findings = Vec::new();
    // In the main table overrides are behind every rule.
    let behind = if own.is_shared() { Vec::new() } else { rules_behind(own, rule_priority).await? };
    for (family, rule) in behind {
        findings.push(Finding::RulePassedBy { family, rule });
    }
    findings.extend(probe_sysctls(uplinks));
    // Where ETM shares the main table they are its own, of an earlier run.
    let in_main = if own.is_shared() { Vec::new() } else { of_protocol_in_main(own.protocol).await? };
    if let Some(first) = in_main.first() {
        let (count, first) = (in_main.len(), *first);
        findings.push(Finding::OwnProtocolInMain { count, first, protocol: own.protocol });
    }
    Ok(findings)
}

/// The part of it that costs nothing: the kernel's settings for forwarding and for `uplinks`.
pub fn probe_sysctls(uplinks: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let everywhere = sysctl("ipv4/conf/all/rp_filter");
    for interface in uplinks {
        // The kernel takes the larger of the two; 1 is strict, 2 is loose.
        if everywhere.max(sysctl(&format!("ipv4/conf/{interface}/rp_filter"))) == Some(1) {
            findings.push(Finding::StrictReversePath { interface: interface.clone() });
        }
        for family in Family::ALL {
            if sysctl(&format!("{family}/conf/{interface}/ignore_routes_with_linkdown")) == Some(0) {
                findings.push(Finding::UsesDeadLinks { interface: interface.clone(), family });
            }
        }
    }
    for (family, name) in [(Family::V4, "ipv4/ip_forward"), (Family::V6, "ipv6/conf/all/forwarding")] {
        if sysctl(name) == Some(0) {
            findings.push(Finding::NotForwarding { family });
        }
    }
    findings
}

/// What speaks against routes of ETM in the main table beside those of others.
pub async fn probe_main() -> Result<Vec<Finding>, FibError> {
    /// RTPROT_ZEBRA, and what FRR uses per protocol: BGP, IS-IS, OSPF, RIP, EIGRP (rtnetlink.h).
    const ZEBRA: [u8; 6] = [11, 186, 187, 188, 189, 192];
    let mut count = 0;
    for protocol in ZEBRA {
        count += of_protocol_in_main(protocol).await?.len();
    }
    Ok(if count > 0 { vec![Finding::ZebraTakesOut { count }] } else { Vec::new() })
}

/// What speaks against routes of ETM in the main table where no control socket of BIRD is known.
pub async fn probe_unasked() -> Result<Vec<Finding>, FibError> {
    /// RTPROT_BIRD (rtnetlink.h).
    const BIRD: u8 = 12;
    let count = of_protocol_in_main(BIRD).await?.len();
    Ok(if count > 0 { vec![Finding::DaemonUnasked { count }] } else { Vec::new() })
}

/// Asks the BIRD behind `path` whether it learns kernel routes.
pub async fn probe_bird(own: OwnTable, path: &Path) -> Result<Vec<Finding>, FibError> {
    Ok(match bird::ask_bird(path, own).await? {
        None => vec![Finding::DaemonUnknown { path: path.display().to_string() }],
        Some(report) => learning(&report),
    })
}

fn learning(report: &BirdReport) -> Vec<Finding> {
    let mut findings: Vec<Finding> = report
        .kernel
        .iter()
        .filter(|protocol| protocol.imported > 0)
        .map(|protocol| Finding::DaemonLearns {
            name: protocol.name.clone(),
            table: protocol.table.clone(),
            imported: protocol.imported,
        })
        .collect();
    if report.own_learnt > 0 {
        findings.push(Finding::DaemonLearntOwn { count: report.own_learnt });
    }
    findings
}

async fn of_protocol_in_main(protocol: u8) -> Result<Vec<Prefix>, FibError> {
    let mut requests = Endpoint::open()?;
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut body = codec::dump_request(family, TABLE_MAIN);
        // Strict checking makes the kernel filter.
        body.header.protocol = RouteProtocol::from(protocol);
        requests
            .dump("looking for routes of one protocol in the main table", RTM_GETROUTE, &body, |message| {
                let row = (message.kind == RTM_NEWROUTE).then(|| codec::read(message.payload)).flatten();
                found.extend(row.filter(|row| row.protocol == protocol).map(|row| row.prefix));
            })
            .await?;
    }
    Ok(found)
}

/// A number under /proc/sys/net, which shows the network namespace of the reader; nothing where the kernel has no
/// such setting.
fn sysctl(name: &str) -> Option<u32> {
    std::fs::read_to_string(Path::new("/proc/sys/net").join(name)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_says_what_to_do() {
        let interface = || "up1".to_owned();
        for finding in [
            Finding::StrictReversePath { interface: interface() },
            Finding::NotForwarding { family: Family::V4 },
            Finding::NotForwarding { family: Family::V6 },
            Finding::UsesDeadLinks { interface: interface(), family: Family::V6 },
        ] {
            assert!(finding.to_string().contains("set net."), "{finding}");
        }
        let learns =
            Finding::DaemonLearns { name: "k4".to_owned(), table: "master4".to_owned(), imported: 1 };
        let unasked = Finding::DaemonUnasked { count: 3 };
        assert!(unasked.refuses_enforce() && unasked.to_string().contains("set agent.bird_socket"));
        assert!(
            learns.refuses_enforce() && learns.to_string().contains("remove `learn` from protocol kernel k4")
        );
    }
}
