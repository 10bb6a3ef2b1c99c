//! What ETM leaves on the border and at core, read from kernel, bpffs and BIRD. Never asks ETM.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::{SchedClassifier, TcAttachType};

use crate::bird::Route;
use crate::error::LabError;
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::topology::{LINKS, Role};

/// ETM's routing table and route protocol in the kernel.
pub const TABLE: &str = "179";
/// Names of ETM's programs begin with this.
const PROGRAM_PREFIX: &str = "etm_";
/// Core's session with ETM.
pub const CORE_SESSION: &str = "etm_inject";

/// Everything of ETM that a lab holds outside of ETM's process, as text for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Routes of its table, and of its protocol in any table.
    pub routes: Vec<String>,
    /// Rules that lead to its table.
    pub rules: Vec<String>,
    /// Programs attached to interfaces of the border, `INTERFACE DIRECTION NAME`.
    pub programs: Vec<String>,
    /// Files and directories below its pin root, the root included.
    pub pins: Vec<String>,
    /// Prefixes that core has from it.
    pub announced: Vec<String>,
}

impl Traces {
    /// Reads all of them.
    ///
    /// # Errors
    /// A tool or BIRD does not answer.
    pub fn of(lab: &Lab) -> Result<Self, LabError> {
        let mut pins = Vec::new();
        walk(&lab.pin_root(), &mut pins);
        Ok(Self {
            routes: routes(lab)?,
            rules: rules(lab)?,
            programs: programs(lab)?,
            pins,
            announced: announced(lab)?.iter().filter_map(|r| Some(r.prefix?.to_string())).collect(),
        })
    }

    /// Whether nothing is left at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is left of the programs on interfaces where traffic comes in.
    pub fn marking(&self) -> Vec<&String> {
        self.programs.iter().filter(|program| program.contains(" ingress ")).collect()
    }
}

/// Routes of ETM's table and protocol, both families.
///
/// # Errors
/// `ip` does not answer.
pub fn routes(lab: &Lab) -> Result<Vec<String>, LabError> {
    let border = lab.namespace(Role::Border);
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        // A table that never existed is an error to ip, and nothing to us.
        let own = border.ip(&[family, "-o", "route", "show", "table", TABLE]).unwrap_or_default();
        let elsewhere = border.ip(&[family, "-o", "route", "show", "table", "all", "proto", TABLE])?;
        lines.extend(own.lines().chain(elsewhere.lines()).map(|line| line.trim().to_owned()));
    }
    lines.sort();
    lines.dedup();
    Ok(lines)
}

/// Rules that look into ETM's table, both families.
///
/// # Errors
/// `ip` does not answer.
pub fn rules(lab: &Lab) -> Result<Vec<String>, LabError> {
    let border = lab.namespace(Role::Border);
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let text = border.ip(&[family, "rule", "show"])?;
        lines.extend(text.lines().filter(|line| line.contains("fwmark")).map(|l| format!("{family} {l}")));
    }
    Ok(lines)
}

/// Routes that core has from ETM, best or not.
///
/// # Errors
/// BIRD does not answer.
pub fn announced(lab: &Lab) -> Result<Vec<Route>, LabError> {
    let core = lab.bird(Role::Core);
    let mut routes = Vec::new();
    for table in ["master4", "master6"] {
        routes.extend(core.routes(&format!("table {table} protocol {CORE_SESSION}"))?);
    }
    Ok(routes)
}

/// ETM's programs on the border's interfaces: TCX by asking the kernel, clsact by `tc`.
fn programs(lab: &Lab) -> Result<Vec<String>, LabError> {
    let border = lab.namespace(Role::Border);
    let mut found = Vec::new();
    for interface in LINKS.iter().flat_map(|l| [&l.near, &l.far]).filter(|e| e.role == Role::Border) {
        let name = interface.interface;
        for (direction, attach) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
            let names = border.inside(|| tcx_names(name, attach))?;
            found.extend(
                names
                    .into_iter()
                    .filter(|n| n.starts_with(PROGRAM_PREFIX))
                    .map(|n| format!("{name} {direction} {n} (tcx)")),
            );
            let filters = border.tc(&["filter", "show", "dev", name, direction])?;
            let classic = filters.split_whitespace().find(|word| word.starts_with(PROGRAM_PREFIX));
            found.extend(classic.map(|n| format!("{name} {direction} {n} (clsact)")));
        }
    }
    Ok(found)
}

fn tcx_names(interface: &str, attach: TcAttachType) -> Result<Vec<String>, LabError> {
    let (_, programs) = SchedClassifier::query_tcx(interface, attach).map_err(|error| {
        LabError::Malformed { what: format!("the programs of {interface}"), detail: error.to_string() }
    })?;
    Ok(programs.iter().filter_map(|program| program.name_as_str().map(str::to_owned)).collect())
}

/// Notifications that the kernel could not give to the netlink sockets of a process (column `Drops`), of those sockets that
/// lost any.
///
/// # Errors
/// The process is gone, or its namespace cannot be entered.
pub fn lost_notifications(namespace: &Namespace, pid: i32) -> Result<Vec<u64>, LabError> {
    let drops = route_sockets(namespace, pid)?.into_iter().map(|(_, drops)| drops);
    Ok(drops.filter(|drops| *drops > 0).collect())
}

/// The rtnetlink sockets of a process: inode, and notifications that were lost.
///
/// # Errors
/// The process is gone, or its namespace cannot be entered.
pub fn route_sockets(namespace: &Namespace, pid: i32) -> Result<Vec<(String, u64)>, LabError> {
    let what = || format!("read the sockets of process {pid}");
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).map_err(LabError::io(what()))?.flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |link: PathBuf| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    let sockets: BTreeSet<String> = links.filter_map(inode).collect();
    let text = namespace
        .inside(|| fs::read_to_string("/proc/thread-self/net/netlink").map_err(LabError::io(what())))?;
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode; Eth is the protocol, and 0 is NETLINK_ROUTE
    let rows = text.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let inode = words.last().filter(|inode| sockets.contains(**inode))?;
        if words.get(1) != Some(&"0") {
            return None;
        }
        Some(((*inode).to_owned(), words.get(8)?.parse().ok()?))
    });
    Ok(rows.collect())
}

fn walk(path: &Path, found: &mut Vec<String>) {
    if !path.exists() {
        return;
    }
    found.push(path.display().to_string());
    let mut below: Vec<_> =
        fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    below.sort();
    for entry in below {
        if entry.is_dir() {
            walk(&entry, found);
        } else {
            found.push(entry.display().to_string());
        }
    }
}
