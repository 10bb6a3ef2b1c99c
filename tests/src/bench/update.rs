//! Table changes while packets pass: what they cost, and whether each packet counts for the old or the new prefix.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use etm_agent::core::decision::TableChange;
use etm_agent::core::input::SlotCount;
use etm_agent::datapath::{Opened, PrefixTable};
use etm_agent::types::{Prefix, PrefixMap, SlotId};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::kernel::Program;
use super::mixes::full;
use super::routes::{Dice, inside};
use crate::dataplane::failed;
use crate::error::LabError;

const RATE: u32 = 10_000;
/// As many as gather while the grace period before them passes.
const BATCH: usize = 2000;
const BATCHES: u32 = 50;
/// Prefixes that come and go.
const RESTLESS: usize = 5000;
const PACKETS: u32 = 20_000;

/// Prefixes that come and go, each inside one that stays, and the rows where packets for them may be counted.
struct Restless {
    prefixes: Vec<(Prefix, SlotId)>,
    destinations: Vec<IpAddr>,
    allowed: BTreeSet<SlotId>,
}

fn choose(table: &[(Prefix, SlotId)]) -> Restless {
    let mut dice = Dice::new(7);
    let known: PrefixMap<SlotId> = {
        let mut map = PrefixMap::new();
        table.iter().for_each(|&(prefix, slot)| _ = map.insert(prefix, slot));
        map
    };
    let mut chosen = Restless { prefixes: Vec::new(), destinations: Vec::new(), allowed: BTreeSet::new() };
    let mut seen = BTreeSet::new();
    while chosen.prefixes.len() < RESTLESS {
        let (prefix, slot) = table[dice.below(table.len())];
        let covers = known.covering(prefix);
        let Some(host) = inside(prefix, prefix.len(), dice.address(), full(prefix)) else { continue };
        let longest = known.longest_match(host.addr()).is_some_and(|(found, _)| found == prefix);
        if prefix.addr().is_ipv6() || covers.len() < 2 || !longest || !seen.insert(prefix) {
            continue;
        }
        chosen.allowed.insert(slot);
        chosen.allowed.extend(covers.into_iter().map(|(_, &slot)| slot));
        chosen.prefixes.push((prefix, slot));
        chosen.destinations.push(host.addr());
    }
    chosen
}

/// Runs packets and updates side by side.
pub(super) fn run(
    opened: &mut Opened,
    table: &[(Prefix, SlotId)],
    program: &mut Program,
) -> Result<Value, LabError> {
    let mut restless = choose(table);
    program.feed(&restless.destinations)?;
    let mut rows: Vec<SlotCount> = Vec::new();
    opened.counters.changed(&mut rows);
    let before = opened.counters.total_of_rows(etm_agent::types::UplinkId(0)).packets;
    let allowed_before = allowed(&mut opened.counters, &restless, &mut rows);
    let stop = AtomicBool::new(false);
    let (packets, updating) = thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut packets = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                program.run(true, PACKETS)?;
                packets += u64::from(PACKETS);
            }
            Ok::<u64, LabError>(packets)
        });
        let updating = updates(&mut opened.table, &mut restless.prefixes);
        stop.store(true, Ordering::Relaxed);
        (traffic.join(), updating)
    });
    let packets = packets.map_err(|_| LabError::Malformed {
        what: "the thread of packets".into(),
        detail: "it panicked".into(),
    })??;
    let (updates, elapsed, cpu) = updating?;
    let right = allowed(&mut opened.counters, &restless, &mut rows) - allowed_before;
    let counted = opened.counters.total_of_rows(etm_agent::types::UplinkId(0)).packets - before;
    let miscounted = packets.abs_diff(right).max(packets.abs_diff(counted));
    let per_second = f64::from(updates) / elapsed.as_secs_f64();
    Ok(json!({
        "bench": "update",
        "updates_per_s": per_second.round(),
        "packets_miscounted": miscounted,
        "packets": packets,
        "core_percent": (cpu.as_secs_f64() / elapsed.as_secs_f64() * 1000.0).round() / 10.0,
    }))
}

/// Packets in the rows where they may be: every row that changed was read before, so the last reading counts.
fn allowed(
    counters: &mut etm_agent::datapath::Counters,
    restless: &Restless,
    rows: &mut Vec<SlotCount>,
) -> u64 {
    counters.changed(rows);
    // The last reading of a row is the newest.
    let newest: std::collections::BTreeMap<_, _> =
        rows.iter().map(|row| ((row.uplink, row.slot), row.count.packets)).collect();
    newest.iter().filter(|((_, slot), _)| restless.allowed.contains(slot)).map(|(_, packets)| packets).sum()
}

/// Changes at the rate: how many, in what time, and with how much CPU time.
fn updates(
    table: &mut PrefixTable,
    prefixes: &mut [(Prefix, SlotId)],
) -> Result<(u32, Duration, Duration), LabError> {
    let (begun, cpu) = (Instant::now(), cpu_time()?);
    let mut done = 0;
    let mut free: Vec<SlotId> = Vec::new();
    let mut turn = prefixes.chunks_mut(BATCH / 2).collect::<Vec<_>>();
    let turns = turn.len();
    // Out in one batch, in again in the next with other slots, while the next part goes out.
    for batch in 0..BATCHES {
        let at = usize::try_from(batch).unwrap_or_default() % turns;
        let mut changes: Vec<TableChange> = Vec::new();
        if batch > 0 {
            let back = &mut turn[(at + turns - 1) % turns];
            for (entry, slot) in back.iter_mut().zip(free.drain(..)) {
                entry.1 = slot;
                changes.push(TableChange::Insert { prefix: entry.0, slot });
            }
        }
        changes.extend(turn[at].iter().map(|&(prefix, slot)| TableChange::Remove { prefix, slot }));
        done += u32::try_from(changes.len()).unwrap_or_default();
        free = table.apply(&changes).map_err(failed("change the table"))?.slots;
        let due = begun + Duration::from_secs(1) * done / RATE;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok((done, begun.elapsed(), cpu_time()?.saturating_sub(cpu)))
}

/// CPU time of this thread.
fn cpu_time() -> Result<Duration, LabError> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_err(LabError::errno("read the clock"))?;
    Ok(time.into())
}
