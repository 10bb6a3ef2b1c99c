//! The data plane in the real kernel, on pins of its own, and the bench's program over the same maps.
//! Never attached to an interface: packets come from BPF_PROG_TEST_RUN.

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use aya::{Ebpf, TestRun as _, TestRunOptions};
use etm_common::names;

use crate::dataplane::{self, LOOPBACK, Loading, Root, classifier, failed};
use crate::error::LabError;

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
        let object = fs::read(dataplane::object("etm-bench.bpf.o")?)
            .map_err(LabError::io("read the bench's object"))?;
        let measured = if way == Way::Base { names::BENCH_BASE } else { names::BENCH_COUNT };
        let loading = Loading {
            object: &object,
            program: names::BENCH_PROGRAM,
            slots,
            fast: way != Way::Trie,
            globals: &[(names::GLOBAL_BENCH, measured)],
            maps: &[names::BENCH_SEQUENCE],
        };
        loading.load(root.path()).map(Program)
    }

    /// From now on these destinations come by, over and over, for all programs on the same root.
    pub(super) fn feed(&mut self, destinations: &[IpAddr]) -> Result<(), LabError> {
        let map = self.0.map_mut(names::BENCH_SEQUENCE);
        let map = map.ok_or_else(|| failed("find the sequence")("the object lacks it"))?;
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
        let result = classifier(&mut self.0, names::BENCH_PROGRAM)?
            .test_run(options)
            .map_err(failed("run the bench's program"))?;
        Ok(result.duration)
    }
}

fn halves(bits: u128) -> [u64; 2] {
    [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or_default())
}

/// Opens a pinned array of counters for writing, which only a bench does.
pub(super) fn counters(root: &Root) -> Result<Array<MapData, etm_common::Count>, LabError> {
    let map = MapData::from_pin(root.path().join(names::COUNT)).map_err(failed("open the counters"))?;
    Map::Array(map).try_into().map_err(failed("open the counters"))
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
