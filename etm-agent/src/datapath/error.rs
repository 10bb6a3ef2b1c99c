//! Why the datapath could not do something, and what the operator can do about it.
//! Never logs: whoever handles the error does.

use crate::types::{IfIndex, Prefix};
use aya::maps::MapError;
use aya::programs::ProgramError;
use std::io;
use std::path::PathBuf;

/// An error of the adapter to the kernel programs.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The binary was built before the object was.
    #[error("this binary was built without the eBPF object: run `cargo xtask build-ebpf` and build again")]
    NoObject,
    /// The pin root is not on a BPF file system.
    #[error(
        "pin root {path} is not on a BPF file system: run `mount -t bpf bpf /sys/fs/bpf`, or set a pin root below one"
    )]
    NotBpffs {
        /// The configured root.
        path: PathBuf,
    },
    /// The process may not load programs.
    #[error(
        "the process lacks {missing}: run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (systemd: AmbientCapabilities=)"
    )]
    Capabilities {
        /// Names, joined by commas.
        missing: String,
    },
    /// Another process holds the pin root.
    #[error(
        "pin root {path} is in use by another etm-agent: stop that one, or configure another pin root for this one"
    )]
    InUse {
        /// The configured root.
        path: PathBuf,
    },
    /// The configured sizes make no sense.
    #[error("{what} is {value}, which is outside 1 to {most}: change the configuration")]
    Size {
        /// Which size.
        what: &'static str,
        /// As configured.
        value: u64,
        /// Largest possible value.
        most: u64,
    },
    /// A pin of an earlier run, or of somebody else, does not fit.
    #[error(
        "pin {pin} has {field} {found}, this agent needs {wanted}: restore the former sizes, or run `etm-agent detach --pin-root {root}` and start again (counters then restart at zero)"
    )]
    PinShape {
        /// The pin.
        pin: PathBuf,
        /// Root to clear.
        root: PathBuf,
        /// Which property differs.
        field: &'static str,
        /// As found.
        found: String,
        /// As needed.
        wanted: String,
    },
    /// A file operation on bpffs or /proc failed.
    #[error("cannot {doing} {path}: {source}; check that the user owns the pin root and may reach it")]
    Path {
        /// Verb.
        doing: &'static str,
        /// What on.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The object was refused.
    #[error(
        "cannot load the eBPF object; run `etm doctor`, and report the verifier's words if it says nothing"
    )]
    Load {
        /// What aya or the kernel said.
        #[source]
        source: aya::EbpfError,
    },
    /// The verifier refused a program.
    #[error("cannot load program {program}; the kernel is older than 5.15 or refuses it: {source}")]
    Program {
        /// Name.
        program: &'static str,
        /// The verifier's words.
        #[source]
        source: ProgramError,
    },
    /// The object does not hold what it must: agent and object are of different builds.
    #[error("the eBPF object has no usable {name}: run `cargo xtask build-ebpf` and build the agent again")]
    Missing {
        /// Map or program.
        name: &'static str,
    },
    /// A map operation failed.
    #[error("cannot {doing} map {map}: {source}")]
    Map {
        /// Verb.
        doing: &'static str,
        /// Name of the map.
        map: &'static str,
        /// The kernel's answer.
        #[source]
        source: MapError,
    },
    /// A prefix could not be entered or taken out, for another reason than want of room.
    #[error("cannot {doing} {prefix} in the kernel's table: {source}")]
    Table {
        /// Verb.
        doing: &'static str,
        /// Destination.
        prefix: Prefix,
        /// The kernel's answer.
        #[source]
        source: MapError,
    },
    /// A bare system call failed.
    #[error("cannot {doing}: {source}")]
    Kernel {
        /// Verb and object.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no interface of that index in this network namespace.
    #[error(
        "interface index {ifindex} does not exist here: {source}; check the interface names of the configuration"
    )]
    Interface {
        /// Which.
        ifindex: IfIndex,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program could not be attached to an interface, or taken off.
    #[error("cannot {doing} {direction} of interface {ifindex} by {hook}: {source}")]
    Attach {
        /// Verb.
        doing: &'static str,
        /// "egress" or "ingress".
        direction: &'static str,
        /// Which.
        ifindex: IfIndex,
        /// "tcx" or "clsact".
        hook: &'static str,
        /// The kernel's answer.
        #[source]
        source: ProgramError,
    },
    /// An uplink number that there is no row for.
    #[error("uplink {uplink} has no row in the counters, which hold {rows}")]
    UplinkRow {
        /// As asked for.
        uplink: u16,
        /// Rows there are.
        rows: u16,
    },
    /// A mark with bits that are not its own.
    #[error("mark {mark:#x} has bits outside its mask {mask:#x}: change the configuration")]
    MarkOutsideMask {
        /// Value.
        mark: u32,
        /// Bits owned.
        mask: u32,
    },
}
