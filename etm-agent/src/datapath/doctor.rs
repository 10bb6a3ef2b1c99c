//! What `etm doctor` finds: the machine, what of it the programs could use, and what ETM and others left on it.
//!
//! Features are probed by trying, in a network namespace made for that and gone afterwards. Never attaches or pins
//! anything where traffic is, and never fails: what cannot be found out is said to be unknown, and why.

use super::error::DatapathError;
use super::survey::{self, Interface};
use super::{clsact, object, place, sys};
use crate::types::IfIndex;
use aya::EbpfLoader;
use aya::maps::MapInfo;
use aya::programs::{Program, ProgramError};
use etm_common::names;
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The loopback interface of every network namespace.
const LOOPBACK: IfIndex = IfIndex(1);
// linux/bpf.h
const TCX_EGRESS: u32 = 47;

/// A capability that matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// Such as CAP_BPF.
    pub name: &'static str,
    /// Whether this process has it.
    pub held: bool,
    /// What it is for.
    pub purpose: &'static str,
}

/// Something that the machine may be able to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Which.
    pub name: String,
    /// Whether it does; none where it could not be tried.
    pub works: Option<bool>,
    /// How it was found out, or why not.
    pub detail: String,
}

/// A pin of ETM's, and its shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pin {
    /// Below the pin root.
    pub name: String,
    /// Type, sizes and entries of a map; "link or program" of another object.
    pub shape: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Release of the running kernel.
    pub kernel: String,
    /// What this process may do.
    pub capabilities: Vec<Capability>,
    /// What the machine can do.
    pub features: Vec<Feature>,
    /// What ETM uses of it: the hooks that its programs are on.
    pub used: Vec<String>,
    /// Interfaces with programs on their hooks, whosever they are.
    pub interfaces: Vec<Interface>,
    /// The pin root.
    pub pin_root: PathBuf,
    /// What is pinned there.
    pub pins: Vec<Pin>,
    /// What keeps ETM from running, and what to do about it.
    pub problems: Vec<String>,
}

/// Finds out everything.
pub fn examine(pin_root: &Path) -> Findings {
    let mut found = Findings {
        kernel: line_of("/proc/sys/kernel/osrelease"),
        capabilities: capabilities(),
        pin_root: pin_root.to_path_buf(),
        ..Findings::default()
    };
    found.features = vec![btf(), bpffs(pin_root), memlock()];
    found.features.extend(tried_apart());
    match survey::interfaces() {
        Ok(all) => {
            found.interfaces = all.into_iter().filter(|interface| !interface.programs.is_empty()).collect();
        }
        Err(error) => found.problems.push(format!("cannot list the interfaces: {error}")),
    }
    found.used = used(&found.interfaces);
    match pins(pin_root) {
        Ok(pins) => found.pins = pins,
        Err(error) => found.problems.push(format!(
            "cannot list the pins in {}: {error}; run as root, or as the agent's user",
            pin_root.display()
        )),
    }
    found.problems.extend(problems(&found));
    found
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|error| format!("unknown ({error})"), |text| text.trim().to_owned())
}

fn feature(name: impl Into<String>, works: Option<bool>, detail: impl Into<String>) -> Feature {
    Feature { name: name.into(), works, detail: detail.into() }
}

fn capabilities() -> Vec<Capability> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let word = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    let effective = u64::from_str_radix(word.trim(), 16).unwrap_or_default();
    // linux/capability.h
    [
        ("CAP_BPF", 39, "loads programs and makes maps"),
        ("CAP_NET_ADMIN", 12, "attaches programs, changes routes and rules"),
        ("CAP_PERFMON", 38, "keeps the kernel from rounding counters up to powers of two"),
        ("CAP_SYS_ADMIN", 21, "shows other programs by name (doctor alone)"),
    ]
    .map(|(name, bit, purpose)| Capability { name, held: effective >> bit & 1 == 1, purpose })
    .to_vec()
}

fn btf() -> Feature {
    let there = Path::new("/sys/kernel/btf/vmlinux").exists();
    feature("kernel BTF", Some(there), "/sys/kernel/btf/vmlinux; not needed, ETM's maps carry their own")
}

fn bpffs(pin_root: &Path) -> Feature {
    let nearest = pin_root.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    match sys::is_bpffs(nearest) {
        Ok(works) => feature("bpffs", Some(works), format!("{} decides for the pin root", nearest.display())),
        Err(error) => feature("bpffs", None, format!("cannot look at {}: {error}", nearest.display())),
    }
}

/// Kernels since 5.11 charge maps to the memory cgroup instead.
fn memlock() -> Feature {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let limit = line.and_then(|line| line.split_whitespace().next()).unwrap_or("unknown");
    feature(
        "memlock",
        None,
        format!("limit {limit}; matters before Linux 5.11 alone, later the memory cgroup is charged"),
    )
}

/// What is tried in a network namespace of its own, and the programs, which are loaded and dropped.
fn tried_apart() -> Vec<Feature> {
    let tried = std::thread::spawn(|| {
        // A question, which changes nothing wherever it is asked.
        let mut features = vec![try_tcx()];
        features.push(match sys::leave_network() {
            Ok(()) => try_clsact(),
            Err(error) => {
                feature("clsact", None, format!("not tried, no network namespace of its own: {error}"))
            }
        });
        features.extend(try_programs());
        features.push(try_local_output());
        features
    });
    tried.join().unwrap_or_default()
}

fn try_tcx() -> Feature {
    match sys::query_tcx(LOOPBACK, TCX_EGRESS) {
        Ok(_) => feature("tcx", Some(true), "the kernel answers for such a chain"),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            feature("tcx", Some(false), "the kernel does not know it (before 6.6)")
        }
        Err(error) => feature("tcx", None, format!("not answered: {error}")),
    }
}

fn try_clsact() -> Feature {
    match clsact::add_qdisc("lo") {
        Ok(_) => feature("clsact", Some(true), "the qdisc can be added"),
        Err(error) => feature("clsact", Some(false), format!("the qdisc cannot be added: {error}")),
    }
}

/// Loads each program with maps of the smallest size.
fn try_programs() -> Vec<Feature> {
    let all = [names::EGRESS_PROGRAM, names::MARK_PROGRAM, names::XDP_PROGRAM];
    if object().is_empty() {
        let detail = "this binary was built without the eBPF object";
        return all.map(|name| feature(format!("program {name}"), Some(false), detail)).to_vec();
    }
    let mut ebpf = match EbpfLoader::new().btf(None).load(object()) {
        Ok(ebpf) => ebpf,
        Err(error) => {
            let detail = format!("the maps cannot be made: {}", super::error::chain(&error));
            return all.map(|name| feature(format!("program {name}"), Some(false), &*detail)).to_vec();
        }
    };
    let mut load = |name: &str| -> Result<(), ProgramError> {
        match ebpf.program_mut(name) {
            Some(Program::SchedClassifier(program)) => program.load(),
            Some(Program::Xdp(program)) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    };
    let tried = |name: &'static str| match load(name) {
        Ok(()) => feature(format!("program {name}"), Some(true), "the verifier accepts it"),
        Err(error) => feature(format!("program {name}"), Some(false), super::error::chain(&error)),
    };
    all.map(tried).to_vec()
}

/// By a lookup that changes nothing, run once.
fn try_local_output() -> Feature {
    let name = "local output";
    match super::check_local_output() {
        Ok(()) => feature(
            name,
            Some(true),
            "the kernel looks up routes with a mark for programs (kernel.local_output)",
        ),
        Err(error @ DatapathError::LocalOutput { .. }) => feature(name, Some(false), error.to_string()),
        Err(error) => feature(name, None, format!("not tried: {error}")),
    }
}

fn used(interfaces: &[Interface]) -> Vec<String> {
    let ours = interfaces.iter().flat_map(|interface| {
        interface.programs.iter().filter(|program| program.ours).map(move |program| {
            format!("{} of {}: {}", program.hook, interface.name, program.name.as_deref().unwrap_or("?"))
        })
    });
    ours.collect()
}

fn pins(root: &Path) -> io::Result<Vec<Pin>> {
    let mut pins = Vec::new();
    for (dir, prefix) in [(root.to_path_buf(), ""), (root.join(names::LINKS), "links/")] {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                continue;
            }
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let shape = if prefix.is_empty() { shape(&entry.path()) } else { attached(&name) };
            pins.push(Pin { name, shape });
        }
    }
    pins.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pins)
}

fn shape(pin: &Path) -> String {
    let info = match MapInfo::from_pin(pin) {
        Ok(info) => info,
        Err(error) => return format!("not a map that can be opened: {}", super::error::chain(&error)),
    };
    let kind = info.map_type().map_or_else(|_| "unknown type".to_owned(), |kind| format!("{kind:?}"));
    let (key, value, entries) = (info.key_size(), info.value_size(), info.max_entries());
    format!("{kind}, key {key}, value {value}, entries {entries}, flags {:#x}", info.map_flags())
}

fn attached(name: &str) -> String {
    let of = |ending| name.ends_with(ending);
    if of(place::QDISC) {
        "the qdisc there is ETM's".to_owned()
    } else if of(place::CLSACT) {
        "program of a clsact filter".to_owned()
    } else {
        "tcx link".to_owned()
    }
}

fn problems(found: &Findings) -> Vec<String> {
    let mut problems = Vec::new();
    for capability in &found.capabilities {
        let needed = capability.name == "CAP_BPF" || capability.name == "CAP_NET_ADMIN";
        if needed && !capability.held {
            let name = capability.name;
            problems
                .push(format!("{name} is missing: run as root, or grant it (AmbientCapabilities={name})"));
        }
    }
    let fails = |name: &str| found.features.iter().any(|f| f.name == name && f.works == Some(false));
    if fails("bpffs") {
        problems.push(format!(
            "{} is not on a BPF file system: run `mount -t bpf bpf /sys/fs/bpf`, or choose another pin root",
            found.pin_root.display()
        ));
    }
    if fails("tcx") && fails("clsact") {
        problems.push(
            "neither tcx nor clsact can be used: the kernel needs CONFIG_NET_XGRESS or sch_ingress".into(),
        );
    }
    let held =
        found.capabilities.iter().all(|c| c.held || c.name == "CAP_PERFMON" || c.name == "CAP_SYS_ADMIN");
    for failed in found.features.iter().filter(|f| f.name.starts_with("program ") && f.works == Some(false)) {
        // Without the capabilities nothing loads, which is said already.
        if held {
            problems.push(format!("{} cannot be used: {}", failed.name, failed.detail));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_examined_without_failing_and_says_what_it_runs() {
        let found = examine(Path::new("/sys/fs/bpf/etm-test-doctor-nothing"));
        assert_eq!(found.kernel, line_of("/proc/sys/kernel/osrelease"));
        assert_eq!(found.pins, [], "nothing is pinned there");
        assert!(found.features.iter().any(|feature| feature.name == "program etm_egress"));
    }

    #[test]
    fn what_keeps_etm_from_running_is_named_with_a_remedy() {
        let mut found = Findings { pin_root: "/tmp/etm".into(), ..Findings::default() };
        found.capabilities = vec![Capability { name: "CAP_BPF", held: false, purpose: "" }];
        found.features = vec![
            feature("bpffs", Some(false), ""),
            feature("tcx", Some(false), ""),
            feature("clsact", None, ""),
            feature("program etm_egress", Some(false), "permission denied"),
        ];
        let problems = problems(&found);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("AmbientCapabilities=CAP_BPF"));
        assert!(problems[1].contains("mount -t bpf"));
    }
}
