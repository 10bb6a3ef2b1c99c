//! What the data plane costs with the Internet's table: per packet, per load, per update, per sample, in memory.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use etm_agent::core::decision::TableChange;
use etm_agent::datapath::Opened;
use etm_agent::types::{Prefix, SlotId, UplinkId};
use etm_common::Count;
use serde_json::{Value, json};

use super::BenchOptions;
use super::kernel::{self, Program, Way};
use super::mixes::Mix;
use super::routes::{self, Dice};
use super::update;
use crate::dataplane::{Root, Size, failed};
use crate::error::LabError;

/// Room of the largest configuration.
const LARGE: Size = Size { prefixes4: 1_250_000, prefixes6: 400_000, uplinks: 4, fast_path: true };
/// Room of a small box, 100,000 prefixes in all.
const SMALL: Size = Size { prefixes4: 85_000, prefixes6: 15_000, uplinks: 2, fast_path: true };
/// The best of so many, in turns, so that a busy moment hits all alike.
const ROUNDS: usize = 5;
const PACKETS: u32 = 500_000;
/// Rows written before each sample; some twice, so that a little over 200,000 differ.
const CHANGED: u32 = 210_000;

/// Everything, in an order in which nothing disturbs the memory figures. Root is not needed, only the agent's capabilities
/// and a bpffs to write in: memory is charged to users differently.
pub(super) fn run(options: &BenchOptions) -> Result<(), LabError> {
    let table = match &options.table {
        Some(path) => routes::read(path)?,
        None => routes::generated(),
    };
    for fast_path in [false, true] {
        options.show(&small_memory(fast_path)?);
    }
    let before = kernel::memory()?;
    let root = Root::new("large");
    let mut opened = root.open(LARGE)?;
    options.show(&load(&mut opened, &table)?);
    options.show(&memory(before, table.len(), LARGE)?);
    lookups(options, &root, &table)?;
    let entries: Vec<(Prefix, SlotId)> = table.iter().copied().zip((0..).map(SlotId)).collect();
    let mut program = Program::load(&root, slots(LARGE), Way::Fast)?;
    options.show(&update::run(&mut opened, &entries, &mut program)?);
    options.show(&sample(&mut opened, &root)?);
    let prefixes = fill_up(&mut opened, &table)?;
    options.show(&memory(before, prefixes, LARGE)?);
    Ok(())
}

/// As many prefixes as there is room for; returns how many that are.
fn fill_up(opened: &mut Opened, table: &[Prefix]) -> Result<usize, LabError> {
    let known: BTreeSet<Prefix> = table.iter().copied().collect();
    let mut dice = Dice::new(11);
    let mut more = BTreeSet::new();
    for (v4, len, room) in [(true, 24, LARGE.prefixes4), (false, 48, LARGE.prefixes6)] {
        let of_family = |prefix: &&Prefix| prefix.addr().is_ipv4() == v4;
        let like: Vec<Prefix> = table.iter().filter(of_family).copied().collect();
        // One is left for the default route that `sample` entered.
        let room = usize::try_from(room).unwrap_or_default() - 1;
        let end = more.len() + room.saturating_sub(like.len());
        while more.len() < end {
            let beside = like[dice.below(like.len())];
            let prefix = routes::inside(beside, beside.len().min(len - 8), dice.address(), len);
            more.extend(prefix.filter(|prefix| !known.contains(prefix)));
        }
    }
    let first = u32::try_from(table.len()).unwrap_or(u32::MAX);
    let changes: Vec<TableChange> = more
        .into_iter()
        .zip(first..)
        .map(|(prefix, slot)| TableChange::Insert { prefix, slot: SlotId(slot) })
        .collect();
    opened.table.apply(&changes).map_err(failed("fill the table"))?;
    usize::try_from(opened.table.fill().entries).map_err(failed("count the entries"))
}

fn slots(size: Size) -> u32 {
    size.prefixes4 + size.prefixes6
}

/// A table of a tenth of the Internet's, as far as the room goes.
fn small_memory(fast_path: bool) -> Result<Value, LabError> {
    let size = Size { fast_path, ..SMALL };
    let all = routes::sized(11);
    let table: Vec<Prefix> = all.into_iter().take(usize::try_from(slots(size)).unwrap_or_default()).collect();
    let before = kernel::memory()?;
    let root = Root::new(if fast_path { "small-fast" } else { "small" });
    let mut opened = root.open(size)?;
    load(&mut opened, &table)?;
    memory(before, table.len(), size)
}

fn memory(before: u64, prefixes: usize, size: Size) -> Result<Value, LabError> {
    let grown = kernel::memory()?.saturating_sub(before);
    Ok(json!({
        "bench": "memory",
        "prefixes": prefixes,
        "room": slots(size),
        "uplinks": size.uplinks,
        "fast_path": size.fast_path,
        "mb": grown / 1_000_000,
    }))
}

/// From nothing to the whole table, as at the end of a full BGP table.
fn load(opened: &mut Opened, table: &[Prefix]) -> Result<Value, LabError> {
    let changes: Vec<TableChange> = table
        .iter()
        .zip(0..)
        .map(|(&prefix, slot)| TableChange::Insert { prefix, slot: SlotId(slot) })
        .collect();
    let begun = Instant::now();
    opened.table.apply(&changes).map_err(failed("load the table"))?;
    let seconds = begun.elapsed().as_secs_f64();
    let refused = opened.table.fill().refused;
    Ok(json!({
        "bench": "load",
        "prefixes": table.len(),
        "seconds": (seconds * 1000.0).round() / 1000.0,
        "refused": refused,
        "in_trie_only": opened.table.slow(),
    }))
}

fn lookups(options: &BenchOptions, root: &Root, table: &[Prefix]) -> Result<(), LabError> {
    let mut programs = Vec::new();
    for way in [Way::Base, Way::Trie, Way::Fast] {
        programs.push(Program::load(root, slots(LARGE), way)?);
    }
    for v4 in [true, false] {
        let part: Vec<Prefix> =
            table.iter().copied().filter(|prefix| prefix.addr().is_ipv4() == v4).collect();
        for mix in Mix::ALL {
            let count = usize::try_from(etm_common::names::BENCH_DESTINATIONS).unwrap_or_default();
            let destinations = mix.sequence(&part, count);
            let [base, trie, fast] = measure(&mut programs, v4, &destinations)?;
            let over = |way: Duration| way.as_secs_f64() - base.as_secs_f64();
            let speedup = over(trie) / over(fast).max(1e-9);
            options.show(&json!({
                "bench": "dataplane",
                "family": if v4 { "v4" } else { "v6" },
                "mix": mix.name(),
                "prefixes": part.len(),
                "base_ns": base.as_nanos(),
                "trie_ns": trie.as_nanos(),
                "fast_ns": fast.as_nanos(),
                "speedup": (speedup * 10.0).round() / 10.0,
            }));
        }
    }
    Ok(())
}

/// The best mean of each program.
fn measure(programs: &mut [Program], v4: bool, destinations: &[IpAddr]) -> Result<[Duration; 3], LabError> {
    if let Some(first) = programs.first_mut() {
        first.feed(destinations)?;
    }
    let mut best = [Duration::MAX; 3];
    for _ in 0..ROUNDS {
        for (best, program) in best.iter_mut().zip(programs.iter_mut()) {
            *best = (*best).min(program.run(v4, PACKETS)?);
        }
    }
    Ok(best)
}

/// One reading of all rows of which many changed.
fn sample(opened: &mut Opened, root: &Root) -> Result<Value, LabError> {
    // The highest slot of all is used: the whole grid is looked at.
    let last = TableChange::Insert {
        prefix: "0.0.0.0/0".parse().map_err(failed("name the default route"))?,
        slot: SlotId(slots(LARGE) - 1),
    };
    opened.table.apply(&[last]).map_err(failed("use the last slot"))?;
    let mut writer = kernel::counters(root)?;
    let mut dice = Dice::new(3);
    let rows = usize::try_from(slots(LARGE)).unwrap_or_default() * usize::from(LARGE.uplinks);
    let mut changed = Vec::with_capacity(rows / 4);
    let mut best = Duration::MAX;
    let mut seen = 0;
    for round in 1..=ROUNDS {
        for _ in 0..CHANGED {
            let row = u32::try_from(dice.below(rows)).unwrap_or_default();
            let bytes = u64::try_from(round).unwrap_or_default() << 20 | u64::from(row);
            writer.set(row, Count { bytes, packets: 1 }, 0).map_err(failed("write a counter"))?;
        }
        changed.clear();
        let begun = Instant::now();
        opened.counters.changed(&mut changed);
        let spent = begun.elapsed();
        // The first sees what the other benches left too.
        if round > 1 && spent < best {
            (best, seen) = (spent, changed.len());
        }
    }
    let begun = Instant::now();
    opened.counters.total(UplinkId(0)).map_err(failed("read a total"))?;
    Ok(json!({
        "bench": "sample",
        "slots": slots(LARGE),
        "uplinks": LARGE.uplinks,
        "changed": seen,
        "ms": (best.as_secs_f64() * 1e5).round() / 100.0,
        "total_us": begun.elapsed().as_micros(),
    }))
}
