//! Reading the counters. Never a system call and never an allocation per row: the rows are mapped memory.

use super::error::DatapathError;
use super::mapped::{Row, Rows};
use crate::core::input::{SlotCount, Uncounted};
use crate::types::{Count, SlotId, UplinkId};
use aya::maps::{MapData, PerCpuArray};
use etm_common::names;
use etm_common::reasons::REASONS;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

// Both sides number the reasons by hand.
const _: () = {
    assert!(Uncounted::ALL.len() == REASONS as usize);
    assert!(Uncounted::NonIp as u32 == etm_common::reasons::NON_IP);
    assert!(Uncounted::Malformed as u32 == etm_common::reasons::MALFORMED);
    assert!(Uncounted::NoPrefix as u32 == etm_common::reasons::NO_PREFIX);
    assert!(Uncounted::BadSlot as u32 == etm_common::reasons::BAD_SLOT);
};

/// The rows that tables and counters share: `uplinks` times `slots`.
pub(super) struct Grid {
    rows: Rows,
    slots: usize,
    /// Row of each uplink, by `UplinkId`.
    row_of: Vec<u16>,
    /// No slot from here on was ever used: readers need not look there. Only grows, so that totals never shrink.
    used: AtomicUsize,
}

impl Grid {
    /// Looks through all rows once for the highest that is not zero.
    pub(super) fn new(rows: Rows, slots: usize, row_of: Vec<u16>) -> Grid {
        let last = |rows: &[Row]| rows.iter().rposition(|row| row.get() != Count::default());
        let used = rows.chunks(slots.max(1)).filter_map(last).max().map_or(0, |last| last + 1);
        Grid { rows, slots, row_of, used: AtomicUsize::new(used) }
    }

    /// Slots per uplink.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// From now on `slot` is looked at. To be called before a packet can reach it. False if there is no such row.
    pub(super) fn open_slot(&self, slot: SlotId) -> bool {
        let slot = index(slot);
        if slot < self.slots {
            self.used.fetch_max(slot + 1, Ordering::Release);
        }
        slot < self.slots
    }

    /// The row of an uplink; one that does not exist has one beyond the end.
    fn row(&self, uplink: UplinkId) -> u16 {
        self.row_of.get(uplink.index()).copied().unwrap_or(u16::MAX)
    }

    /// The used rows of one uplink.
    fn of(&self, uplink: UplinkId) -> &[Row] {
        let start = usize::from(self.row(uplink)) * self.slots;
        self.rows.get(start..start + self.used.load(Ordering::Acquire)).unwrap_or_default()
    }

    fn uplinks(&self) -> impl Iterator<Item = UplinkId> + use<> {
        (0..u16::try_from(self.row_of.len()).unwrap_or(u16::MAX)).map(UplinkId)
    }

    /// Appends the rows of one uplink that differ from what was seen.
    fn news(&self, uplink: UplinkId, seen: &mut [u32], changed: &mut Vec<SlotCount>) {
        for ((slot, row), seen) in (0..).map(SlotId).zip(self.of(uplink)).zip(seen) {
            // One load and one comparison where nothing changed, which is nearly everywhere.
            if row.low_half() != *seen {
                let count = row.get();
                *seen = row_mark(count);
                changed.push(SlotCount { slot, uplink, count });
            }
        }
    }

    /// The rows of one slot that are not zero.
    pub(super) fn of_slot(&self, slot: SlotId) -> impl Iterator<Item = SlotCount> + '_ {
        self.uplinks().filter_map(move |uplink| {
            let count = self.of(uplink).get(index(slot))?.get();
            (count != Count::default()).then_some(SlotCount { slot, uplink, count })
        })
    }
}

fn index(slot: SlotId) -> usize {
    // A slot that does not fit is beyond every table.
    usize::try_from(slot.0).unwrap_or(usize::MAX)
}

/// Rows from which on two threads read them: 16 MB of counters, a millisecond or two of memory.
const TWO_THREADS: usize = 1 << 20;

/// The sampler's handle.
pub struct Counters {
    grid: Arc<Grid>,
    uncounted: Rows,
    totals: PerCpuArray<MapData, etm_common::Total>,
    redirected: PerCpuArray<MapData, etm_common::Count>,
    /// Low half of the bytes of each row at the last call of `changed`, in the order of the rows. A row that grew by
    /// an exact multiple of 4 GiB in between is seen when it grows again.
    seen: Vec<u32>,
    /// What the second thread finds, kept for its room.
    found: Vec<SlotCount>,
}

impl Counters {
    /// All rows count as not yet seen.
    pub(super) fn new(
        grid: Arc<Grid>,
        uncounted: Rows,
        totals: PerCpuArray<MapData, etm_common::Total>,
        redirected: PerCpuArray<MapData, etm_common::Count>,
    ) -> Counters {
        let seen = vec![0; grid.rows.len()];
        Counters { grid, uncounted, totals, redirected, seen, found: Vec::new() }
    }

    /// Appends the rows that differ from the last call to `changed`, with their cumulative counts.
    ///
    /// A large table is read by two threads, because one alone waits for memory most of the time.
    pub fn changed(&mut self, changed: &mut Vec<SlotCount>) {
        let (grid, slots) = (&*self.grid, self.grid.slots.max(1));
        let uplinks: Vec<UplinkId> = grid.uplinks().collect();
        let rows = self.seen.len();
        let half = if rows < TWO_THREADS { uplinks.len() } else { uplinks.len().div_ceil(2) };
        let (mine, others) = uplinks.split_at(half);
        let (seen, rest) = self.seen.split_at_mut((half * slots).min(rows));
        let read = |uplinks: &[UplinkId], seen: &mut [u32], changed: &mut Vec<SlotCount>| {
            uplinks
                .iter()
                .zip(seen.chunks_mut(slots))
                .for_each(|(&uplink, seen)| grid.news(uplink, seen, changed));
        };
        if others.is_empty() {
            read(mine, seen, changed);
            return;
        }
        let found = &mut self.found;
        std::thread::scope(|scope| {
            scope.spawn(|| read(others, rest, found));
            read(mine, seen, changed);
        });
        changed.append(found);
    }

    /// Everything that was offered to an uplink since the maps were made, whatever it was counted for: the sum that the
    /// program keeps per CPU, read by one system call, so that a reading takes microseconds at any size of the table.
    pub fn total(&self, uplink: UplinkId) -> Result<Count, DatapathError> {
        Ok(self.total_and_excess(uplink)?.0)
    }

    /// The same, and by how much it exceeds what a device says that sends super-packets whole.
    pub fn total_and_excess(&self, uplink: UplinkId) -> Result<(Count, Count), DatapathError> {
        let read = |cause| DatapathError::Map { doing: "read", map: names::TOTAL, cause };
        let (mut offered, mut excess) = (Sum::default(), Sum::default());
        for cpu in self.totals.get(&u32::from(self.grid.row(uplink)), 0).map_err(read)?.iter() {
            offered += count(cpu.offered);
            excess += count(cpu.excess);
        }
        Ok((offered.0, excess.0))
    }

    /// The part of `total` that forwarders redirected in XDP: no qdisc of the uplink saw it.
    pub fn redirected(&self, uplink: UplinkId) -> Result<Count, DatapathError> {
        sum_of_cpus(&self.redirected, names::XDP_SEEN, u32::from(self.grid.row(uplink)))
    }

    /// What forwarders redirected in XDP to interfaces that are no uplinks, and what to nobody knows where.
    pub fn redirected_elsewhere(&self) -> Result<[Count; 2], DatapathError> {
        let row = |row| sum_of_cpus(&self.redirected, names::XDP_SEEN, row);
        Ok([row(names::XDP_SEEN_ELSEWHERE)?, row(names::XDP_SEEN_UNKNOWN)?])
    }

    /// The same by adding up all rows: what `total` must agree with when no packet is on its way.
    pub fn total_of_rows(&self, uplink: UplinkId) -> Count {
        let mut sum = Sum::default();
        self.grid.of(uplink).iter().for_each(|row| sum += row.get());
        self.uncounted(uplink).into_iter().for_each(|count| sum += count);
        sum.0
    }

    /// What was counted for no prefix, by reason in the order of `Uncounted::ALL`.
    pub fn uncounted(&self, uplink: UplinkId) -> [Count; 4] {
        let start = usize::from(self.grid.row(uplink)) * Uncounted::ALL.len();
        std::array::from_fn(|reason| self.uncounted.get(start + reason).map_or(Count::default(), Row::get))
    }
}

fn sum_of_cpus(
    map: &PerCpuArray<MapData, etm_common::Count>,
    name: &'static str,
    row: u32,
) -> Result<Count, DatapathError> {
    let read = |cause| DatapathError::Map { doing: "read", map: name, cause };
    let mut sum = Sum::default();
    for cpu in map.get(&row, 0).map_err(read)?.iter() {
        sum += count(*cpu);
    }
    Ok(sum.0)
}

fn count(kernel: etm_common::Count) -> Count {
    Count { bytes: kernel.bytes, packets: kernel.packets }
}

/// Cumulative counters wrap; they never saturate.
#[derive(Default)]
struct Sum(Count);

impl AddAssign<Count> for Sum {
    fn add_assign(&mut self, count: Count) {
        self.0.bytes = self.0.bytes.wrapping_add(count.bytes);
        self.0.packets = self.0.packets.wrapping_add(count.packets);
    }
}

/// What `Row::low_half` says of such a row.
fn row_mark(count: Count) -> u32 {
    u32::try_from(count.bytes & u64::from(u32::MAX)).unwrap_or_default()
}
