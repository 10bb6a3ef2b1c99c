//! The data plane in the real kernel, on pins of its own, and the bench's program over the same maps.
//! Never attached to an interface: packets come from BPF_PROG_TEST_RUN.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use etm_agent::datapath::{self, Datapath, DatapathConfig, Hook, KernelLogLevel, Opened};
use etm_common::{Uplink, names};

use crate::error::LabError;

/// The interface that test packets say they leave by: loopback, which nothing is attached to.
const LOOPBACK: u32 = 1;

/// A pin root that is gone afterwards.
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(name: &str) -> Root {
        Root(PathBuf::from(format!("/sys/fs/bpf/etm-bench-{}-{name}", std::process::id())))
    }

    /// Loads the data plane with room for that much.
    pub(super) fn open(&self, size: Size) -> Result<Opened, LabError> {
        let config = DatapathConfig {
            pin_root: self.0.clone(),
            slots: size.prefixes4 + size.prefixes6,
            uplink_rows: size.uplinks,
            prefixes4: size.prefixes4,
            prefixes6: size.prefixes6,
            fast_path: size.fast_path,
            uplinks: (0..size.uplinks).map(|uplink| uplink.to_string()).collect(),
            hook: Hook::Auto,
            kernel_log: KernelLogLevel::Off,
        };
        Datapath::open(&config).map_err(failed("load the data plane"))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.join(names::BENCH_SEQUENCE));
        if let Err(error) = datapath::detach(&self.0) {
            eprintln!("etm-lab: {error}");
        }
    }
}

/// What there is room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) prefixes4: u32,
    pub(super) prefixes6: u32,
    pub(super) uplinks: u16,
    pub(super) fast_path: bool,
}

/// What a program does with each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Neither lookup nor count.
    Base,
    /// Lookup in the kernel's trie.
    Trie,
    /// Lookup in the arrays.
    Fast,
}

/// The bench's program in one of its ways.
pub(super) struct Program(Ebpf);

impl Program {
    /// Over the maps that are pinned under `root`.
    pub(super) fn load(root: &Root, slots: u32, way: Way) -> Result<Program, LabError> {
        let object = object()?;
        let measured = if way == Way::Base { names::BENCH_BASE } else { names::BENCH_COUNT };
        let fast = u32::from(way != Way::Trie);
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global(names::GLOBAL_SLOTS, &slots, true)
            .override_global(names::GLOBAL_FAST, &fast, true)
            .override_global(names::GLOBAL_BENCH, &measured, true);
        for map in SHARED {
            loader.map_pin_path(map, root.0.join(map));
        }
        let mut object = loader.load(&object).map_err(failed("load the bench's program"))?;
        if let Some(map) = object.map_mut(names::UPLINKS) {
            let mut uplinks: HashMap<&mut MapData, u32, Uplink> =
                map.try_into().map_err(failed("open the map of uplinks"))?;
            uplinks.insert(LOOPBACK, Uplink::default(), 0).map_err(failed("enter an uplink"))?;
        }
        classifier(&mut object)?.load().map_err(failed("load the bench's program"))?;
        Ok(Program(object))
    }

    /// From now on these destinations come by, over and over, for all programs on the same root.
    pub(super) fn feed(&mut self, destinations: &[IpAddr]) -> Result<(), LabError> {
        let map = self.0.map_mut(names::BENCH_SEQUENCE).ok_or_else(incomplete)?;
        let mut sequence: Array<&mut MapData, [u64; 2]> =
            map.try_into().map_err(failed("open the sequence"))?;
        for (at, destination) in (0..names::BENCH_DESTINATIONS).zip(destinations.iter().cycle()) {
            let [high, low] = match destination {
                IpAddr::V4(addr) => [u64::from(u32::from_ne_bytes(addr.octets())), 0],
                IpAddr::V6(addr) => {
                    let [high, low] = halves(u128::from_be_bytes(addr.octets()));
                    [high.to_be(), low.to_be()]
                }
            };
            sequence.set(at, [high, low], 0).map_err(failed("write the sequence"))?;
        }
        Ok(())
    }

    /// Runs on `packets` packets; the mean time of one.
    pub(super) fn run(&mut self, v4: bool, packets: u32) -> Result<Duration, LabError> {
        let packet = packet(v4);
        let mut context = [0_u8; 192];
        // `ifindex` of struct __sk_buff.
        context[40..44].copy_from_slice(&LOOPBACK.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet);
        options.ctx_in = Some(&context);
        options.repeat = packets;
        let result = classifier(&mut self.0)?.test_run(options).map_err(failed("run the bench's program"))?;
        Ok(result.duration)
    }
}

fn halves(bits: u128) -> [u64; 2] {
    [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or_default())
}

/// Maps that the bench's program shares with the data plane, and its sequence.
const SHARED: [&str; 11] = [
    names::PREFIX4,
    names::PREFIX6,
    names::DIR24,
    names::DIR6,
    names::NODE,
    names::DEFAULT,
    names::UPLINKS,
    names::COUNT,
    names::UNCOUNTED,
    names::TOTAL,
    names::BENCH_SEQUENCE,
];

/// Opens a pinned array of counters for writing, which only a bench does.
pub(super) fn counters(root: &Root) -> Result<Array<MapData, etm_common::Count>, LabError> {
    let map = MapData::from_pin(root.0.join(names::COUNT)).map_err(failed("open the counters"))?;
    Map::Array(map).try_into().map_err(failed("open the counters"))
}

fn classifier(object: &mut Ebpf) -> Result<&mut SchedClassifier, LabError> {
    object
        .program_mut(names::BENCH_PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(incomplete)
}

fn incomplete() -> LabError {
    LabError::Malformed { what: "the bench's eBPF object".into(), detail: "it lacks a map or program".into() }
}

/// The object lies where `cargo xtask build-ebpf` puts it: beside the directory of this program.
fn object() -> Result<Vec<u8>, LabError> {
    let here = std::env::current_exe().map_err(LabError::io("find this program"))?;
    let found = here.ancestors().map(|dir| dir.join("ebpf/etm-bench.bpf.o")).find(|path| path.is_file());
    let path = found
        .ok_or_else(|| LabError::NotBuilt { name: "ebpf/etm-bench.bpf.o".into(), package: "etm-ebpf" })?;
    fs::read(&path).map_err(LabError::io(format!("read {}", path.display())))
}

/// The smallest frame that the parser takes; its destination is not looked at.
fn packet(v4: bool) -> Vec<u8> {
    let mut packet = vec![0; 64];
    packet[12..15].copy_from_slice(if v4 { &[0x08, 0x00, 0x45] } else { &[0x86, 0xdd, 0x60] });
    packet
}

/// Slab and vmalloc of the whole machine in bytes, once they no longer change by much: maps are freed in the background.
pub(super) fn memory() -> Result<u64, LabError> {
    let mut last = 0;
    for _ in 0..50 {
        let text = fs::read_to_string("/proc/meminfo").map_err(LabError::io("read /proc/meminfo"))?;
        let kilobytes: u64 = text
            .lines()
            .filter(|line| line.starts_with("Slab:") || line.starts_with("VmallocUsed:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum();
        if kilobytes.abs_diff(last) < 200 {
            return Ok(kilobytes * 1024);
        }
        last = kilobytes;
        // Not a condition that anybody signals.
        thread::sleep(Duration::from_millis(200));
    }
    Ok(last * 1024)
}

/// For `map_err`: the error as text, with what was being done.
pub(super) fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> LabError {
    move |error| LabError::Malformed { what: what.into(), detail: error.to_string() }
}
