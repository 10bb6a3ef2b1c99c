//! The data plane by itself: pin roots, namespaces and programs for tests and benches that load it without an agent.
//!
//! *Never*: touches a pin, link or namespace that it did not make. Everything here ends with its owner.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, HashMap, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use etm_agent::datapath::{self, Datapath, DatapathConfig, Hook, KernelLogLevel, Opened};
use etm_agent::types::Share;
use etm_common::{Uplink, names, near};
use nix::sched::{CloneFlags, unshare};

use crate::command;
use crate::error::LabError;

/// The interface that test packets say they leave by: loopback, which nothing is attached to.
pub const LOOPBACK: u32 = 1;

/// One test of the data plane at a time: a child that another test forks holds the lock on a pin root until it executes
/// its program. `None` where nothing can be loaded; the line says why.
pub fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let reason = if !nix::unistd::geteuid().is_root() {
        "needs root for network namespaces and eBPF"
    } else if datapath::object().is_empty() {
        "built without the eBPF object: run `cargo xtask build-ebpf` first"
    } else {
        return Some(TURN.lock().unwrap_or_else(PoisonError::into_inner));
    };
    println!("SKIP {reason}");
    None
}

/// An eBPF object of the tests' own: it lies where `cargo xtask build-ebpf` puts it, beside the directory of this program.
///
/// # Errors
/// It is not built.
pub fn object(file: &str) -> Result<PathBuf, LabError> {
    let here = std::env::current_exe().map_err(LabError::io("find this program"))?;
    let found = here.ancestors().map(|dir| dir.join("ebpf").join(file)).find(|path| path.is_file());
    found.ok_or_else(|| LabError::NotBuilt { name: format!("ebpf/{file}"), package: "etm-ebpf" })
}

/// Runs `body` on a thread with a new network namespace, which ends with it. A panic there is one here.
///
/// # Errors
/// No namespace can be made.
pub fn in_namespace<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Result<T, LabError> {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(LabError::errno("make a network namespace"))?;
        Ok(body())
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a line of words, without a shell, in the calling thread's namespace; returns what it printed.
///
/// # Errors
/// It cannot be started, or fails.
pub fn run(line: &str) -> Result<String, LabError> {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    command::run(line, program, &words.collect::<Vec<_>>(), None)
}

/// What there is room for.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// IPv4 prefixes.
    pub prefixes4: u32,
    /// IPv6 prefixes.
    pub prefixes6: u32,
    /// Uplinks.
    pub uplinks: u16,
    /// Whether the arrays answer, or the tries alone.
    pub fast_path: bool,
}

/// A pin root that is gone afterwards, whatever happened.
#[derive(Debug)]
pub struct Root(PathBuf);

impl Root {
    /// Nothing is there yet; `name` tells roots of one process apart.
    pub fn new(name: &str) -> Root {
        Root(PathBuf::from(format!("/sys/fs/bpf/etm-test-{}-{name}", std::process::id())))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A configuration with a slot for each prefix there is room for, and uplinks named by their numbers.
    pub fn config(&self, size: Size) -> DatapathConfig {
        DatapathConfig {
            pin_root: self.0.clone(),
            slots: size.prefixes4 + size.prefixes6,
            uplink_rows: size.uplinks,
            prefixes4: size.prefixes4,
            prefixes6: size.prefixes6,
            fast_path: size.fast_path,
            uplinks: (0..size.uplinks).map(|uplink| uplink.to_string()).collect(),
            hook: Hook::Auto,
            canary: Share::ONE,
            local_output: None,
            kernel_log: KernelLogLevel::Off,
        }
    }

    /// Loads the data plane with room for that much.
    ///
    /// # Errors
    /// The kernel or the pins refuse.
    pub fn open(&self, size: Size) -> Result<Opened, LabError> {
        Datapath::open(&self.config(size)).map_err(failed("load the data plane"))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Of the bench's own program; mostly there is none.
        let _ = fs::remove_file(self.0.join(names::BENCH_SEQUENCE));
        if let Err(error) = datapath::detach(&self.0) {
            eprintln!("etm-tests: {error}");
        }
    }
}

/// Maps of the data plane that a counting program uses.
pub const COUNTING: [&str; 11] = [
    names::PREFIX4,
    names::PREFIX6,
    names::DIR24,
    names::DIR6,
    names::NODE,
    names::DEFAULT,
    names::UPLINKS,
    names::NEAR,
    names::COUNT,
    names::UNCOUNTED,
    names::TOTAL,
];

/// How a program over the maps of a root is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Loading<'a> {
    /// The object.
    pub object: &'a [u8],
    /// The program in it.
    pub program: &'static str,
    /// Slots per uplink.
    pub slots: u32,
    /// Whether the arrays answer.
    pub fast: bool,
    /// More globals, by name.
    pub globals: &'a [(&'static str, u32)],
    /// More maps that are pinned.
    pub maps: &'a [&'static str],
}

impl Loading<'_> {
    /// Loads the program over the maps pinned under `root`, with loopback as uplink 0.
    ///
    /// # Errors
    /// The object is not what it should be, or the kernel refuses it.
    pub fn load(&self, root: &Path) -> Result<Ebpf, LabError> {
        let fast = u32::from(self.fast);
        let mut loader = EbpfLoader::new();
        loader.btf(None).override_global(names::GLOBAL_SLOTS, &self.slots, true);
        loader.override_global(names::GLOBAL_FAST, &fast, true);
        for (name, value) in self.globals {
            loader.override_global(name, value, true);
        }
        for map in COUNTING.iter().chain(self.maps) {
            loader.map_pin_path(map, root.join(map));
        }
        let mut object = loader.load(self.object).map_err(failed("load a counting program"))?;
        let map = object.map_mut(names::UPLINKS).ok_or_else(|| incomplete(names::UPLINKS))?;
        let mut uplinks: HashMap<&mut MapData, u32, Uplink> =
            map.try_into().map_err(failed("open the map of uplinks"))?;
        uplinks.insert(LOOPBACK, Uplink::default(), 0).map_err(failed("enter an uplink"))?;
        let map = object.map_mut(names::NEAR).ok_or_else(|| incomplete(names::NEAR))?;
        let mut words: Array<&mut MapData, u64> = map.try_into().map_err(failed("open the near words"))?;
        let word = u64::from(LOOPBACK) << near::IFINDEX_SHIFT;
        words.set(LOOPBACK, word, 0).map_err(failed("enter an uplink"))?;
        classifier(&mut object, self.program)?.load().map_err(failed("load a counting program"))?;
        Ok(object)
    }
}

/// A classifier of an object.
///
/// # Errors
/// There is none of that name.
pub fn classifier<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, LabError> {
    object.program_mut(name).and_then(|program| program.try_into().ok()).ok_or_else(|| incomplete(name))
}

fn incomplete(name: &str) -> LabError {
    LabError::Malformed { what: "an eBPF object".into(), detail: format!("it lacks {name}") }
}

/// For `map_err`: the error as text, with what was being done.
pub fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> LabError {
    move |error| LabError::Malformed { what: what.into(), detail: error.to_string() }
}
