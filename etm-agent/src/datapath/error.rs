//! Why the datapath could not do something, and what the operator can do about it.
//! Never logs: whoever handles the error does. Each message is whole: aya and the kernel spread theirs over a chain
//! of sources, which is put into one line here and is therefore not offered as `source()` again.

use crate::types::{IfIndex, Prefix};
use aya::maps::MapError;
use aya::programs::ProgramError;
use std::error::Error;
use std::fmt::Write as _;
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
    /// Our boot time is not the kernel's.
    #[error(
        "this process's boot time is {seconds} s off the kernel's (time namespace, /proc/self/timens_offsets): a lease would \
         end too late or too soon; run ETM outside of that time namespace"
    )]
    Clock {
        /// How far ahead.
        seconds: i64,
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
    #[error("cannot {doing} {path}: {cause}; check that the user owns the pin root and may reach it")]
    Path {
        /// Verb.
        doing: &'static str,
        /// What on.
        path: PathBuf,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The object was refused.
    #[error(
        "cannot load the eBPF object: {}; check that the kernel is 5.15 or newer with CONFIG_BPF_SYSCALL",
        chain(&**cause)
    )]
    Load {
        /// What aya or the kernel said.
        cause: Box<aya::EbpfError>,
    },
    /// The verifier refused a program.
    #[error("the kernel refuses program {program}: {}; check that it is 5.15 or newer", chain(&**cause))]
    Program {
        /// Name.
        program: &'static str,
        /// The verifier's words.
        cause: Box<ProgramError>,
    },
    /// The object does not hold what it must: agent and object are of different builds.
    #[error("the eBPF object has no usable {name}: run `cargo xtask build-ebpf` and build the agent again")]
    Missing {
        /// Map or program.
        name: &'static str,
    },
    /// A map operation failed.
    #[error("cannot {doing} map {map}: {}", chain(cause))]
    Map {
        /// Verb.
        doing: &'static str,
        /// Name of the map.
        map: &'static str,
        /// The kernel's answer.
        cause: MapError,
    },
    /// A prefix could not be entered or taken out, for another reason than want of room.
    #[error("cannot {doing} {prefix} in the kernel's table: {}", chain(cause))]
    Table {
        /// Verb.
        doing: &'static str,
        /// Destination.
        prefix: Prefix,
        /// The kernel's answer.
        cause: MapError,
    },
    /// A bare system call failed.
    #[error("cannot {doing}: {cause}")]
    Kernel {
        /// Verb and object.
        doing: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// There is no interface of that index in this network namespace.
    #[error(
        "interface index {ifindex} does not exist here: {cause}; check the interface names of the configuration"
    )]
    Interface {
        /// Which.
        ifindex: IfIndex,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// A program could not be attached to an interface, or taken off.
    #[error("cannot {doing} {direction} of interface {ifindex} by {hook}: {}{}", chain(&**cause), attach_advice(hook))]
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
        cause: Box<ProgramError>,
    },
    /// Nothing runs in XDP where something should forward.
    #[error(
        "no XDP program is on interface {name}: start the forwarder first, or take {name} out of datapath.xdp (what the kernel forwards is counted at TC)"
    )]
    XdpNothing {
        /// Interface.
        name: String,
    },
    /// Another program holds the interface and does not call ETM.
    #[error(
        "interface {name} is held by XDP program {program} (id {id}), which does not call ETM: let it call slot 0 of {call} when it redirects (docs/xdp.md), or take {name} out of datapath.xdp"
    )]
    XdpHeld {
        /// Interface.
        name: String,
        /// The program's name.
        program: String,
        /// The program's id.
        id: u32,
        /// Pin of the map to call by.
        call: PathBuf,
    },
    /// The program cannot be put where forwarders call it.
    #[error(
        "cannot offer {program} to forwarders by {map}: {}; a forwarder of another kind (multi-buffer, offloaded) may have opened the map first: load it without, or run `etm-agent detach`",
        chain(cause)
    )]
    XdpOffer {
        /// Name of the program.
        program: &'static str,
        /// Name of the map.
        map: &'static str,
        /// The kernel's answer.
        cause: MapError,
    },
    /// The kernel cannot send on what the router itself makes.
    #[error(
        "this kernel cannot let packets of this router itself take overrides: {detail}; remove kernel.local_output (forwarded \
         traffic is steered without it), or run Linux 6.10 or later"
    )]
    LocalOutput {
        /// What is missing.
        detail: String,
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

/// The verifier writes thousands of lines; what it could not prove is in the last ones.
const LONGEST: usize = 600;

/// An error and its sources in one line.
pub(super) fn chain(error: &impl Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {error}");
        next = error.source();
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().rev().nth(LONGEST) {
        Some((at, _)) => format!("... {}", &line[at..]),
        None => line,
    }
}

/// What to do where a hook cannot be used.
fn attach_advice(hook: &str) -> &'static str {
    match hook {
        "tcx" => "; kernels before 6.6 have no TCX: set datapath.hook = \"auto\" or \"clsact\"",
        _ => "; the kernel needs the clsact qdisc (sch_ingress) and cls_bpf",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_holds_the_kernels_answer() {
        let cause =
            MapError::CreateError { name: "etm_count".into(), io_error: io::ErrorKind::OutOfMemory.into() };
        let error = DatapathError::Map { doing: "make", map: "etm_count", cause };
        assert_eq!(
            error.to_string(),
            "cannot make map etm_count: failed to create map `etm_count`: out of memory"
        );
        assert!(error.source().is_none(), "it would be printed twice");
    }

    #[test]
    fn of_a_long_text_the_end_is_kept() {
        let cause = io::Error::other(format!("{} the reason", "x ".repeat(1000)));
        let text = chain(&cause);
        assert!(text.starts_with("...") && text.ends_with("the reason") && text.len() < 700);
    }
}
