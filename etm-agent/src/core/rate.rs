//! Cumulative rows become rates: what left per (prefix row, uplink) over the last interval, as the uplink bills it.
//!
//! One smoothing, here: an exponential mean with a time constant of `SMOOTHING`, used only to decide
//! that load has really gone (giving a prefix back). Overload is judged on the exact last interval.

use super::billing::Billing;
use super::decision::Adopted;
use super::input::SlotCount;
use crate::types::{BitRate, Count, SlotId, Timestamp, UplinkId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// Time constant of the smoothed rate.
pub const SMOOTHING: Duration = Duration::from_secs(10);

/// Rates of all rows. Memory follows the rows that ever carried traffic, not the size of the table:
/// four bytes per row of the table, and a whole record only for those.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rates {
    uplinks: usize,
    /// Basis of each uplink.
    billings: Vec<Billing>,
    last_at: Option<Timestamp>,
    /// Length of the last interval.
    span: Duration,
    /// Place of a row's record plus one; zero where it has none.
    places: Vec<u32>,
    records: Vec<Record>,
    /// Records whose rate or smoothed rate is not zero, so that idle rows cost nothing.
    active: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Record {
    row: usize,
    last: Count,
    base: Count,
    /// Over the last interval, as the kernel counts.
    delta: Count,
    rate: BitRate,
    smoothed: BitRate,
    listed: bool,
}

impl Rates {
    /// No traffic yet. Rows of an earlier run whose prefix is still counted go on; the others begin anew from where they are.
    pub fn new(uplinks: usize, adopted: &Adopted) -> Rates {
        let mut rates = Rates {
            uplinks: uplinks.max(1),
            billings: Vec::new(),
            last_at: None,
            span: Duration::ZERO,
            places: Vec::new(),
            records: Vec::new(),
            active: Vec::new(),
        };
        rates.rebase(&adopted.rows);
        let kept: BTreeSet<SlotId> = adopted.entries.iter().map(|(_, slot)| *slot).collect();
        for row in adopted.rows.iter().filter(|row| kept.contains(&row.slot)) {
            let place = rates.place_of(rates.row(row.slot, row.uplink));
            rates.records[place].base = Count::default();
        }
        rates
    }

    /// The same with a basis for each uplink instead of the kernel's.
    #[must_use]
    pub fn billed(self, billings: Vec<Billing>) -> Rates {
        Rates { billings, ..self }
    }

    fn row(&self, slot: SlotId, uplink: UplinkId) -> usize {
        usize::try_from(slot.0).unwrap_or(usize::MAX).saturating_mul(self.uplinks) + uplink.index()
    }

    fn record(&self, slot: SlotId, uplink: UplinkId) -> Option<&Record> {
        self.record_of(self.row(slot, uplink))
    }

    fn record_of(&self, row: usize) -> Option<&Record> {
        let place = self.places.get(row).copied()?.checked_sub(1)?;
        self.records.get(usize::try_from(place).ok()?)
    }

    /// The place of a row's record, made where there is none.
    fn place_of(&mut self, row: usize) -> usize {
        if self.places.len() <= row {
            self.places.resize(row + 1, 0);
        }
        match self.places[row].checked_sub(1) {
            Some(place) => usize::try_from(place).unwrap_or(usize::MAX),
            None => {
                let (last, base, delta) = (Count::default(), Count::default(), Count::default());
                let (rate, smoothed) = (BitRate::ZERO, BitRate::ZERO);
                self.records.push(Record { row, last, base, delta, rate, smoothed, listed: false });
                self.places[row] = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
                self.records.len() - 1
            }
        }
    }

    /// From now on these rows count from the values given: they belong to a new prefix.
    pub fn rebase(&mut self, rows: &[SlotCount]) {
        for row in rows {
            let place = self.place_of(self.row(row.slot, row.uplink));
            let record = &mut self.records[place];
            (record.last, record.base) = (row.count, row.count);
            (record.rate, record.smoothed) = (BitRate::ZERO, BitRate::ZERO);
            record.delta = Count::default();
        }
    }

    /// Takes a sample; false for the first one, which is only the start of an interval.
    pub fn sample(&mut self, at: Timestamp, changed: &[SlotCount]) -> bool {
        let span = self.last_at.map(|last| at.since(last));
        self.last_at = Some(at);
        self.span = span.unwrap_or_default();
        for place in &self.active {
            (self.records[*place].rate, self.records[*place].delta) = (BitRate::ZERO, Count::default());
        }
        for row in changed {
            let billing = self.billing(row.uplink);
            let place = self.place_of(self.row(row.slot, row.uplink));
            let record = &mut self.records[place];
            // These counters never restart. A row that went back was read before its slot was released, and is old.
            if row.count.bytes < record.last.bytes {
                continue;
            }
            let delta = row.count.since(record.last);
            record.last = row.count;
            if let Some(span) = span {
                (record.rate, record.delta) = (billing.rate(delta, span), delta);
            }
            if !std::mem::replace(&mut record.listed, true) {
                self.active.push(place);
            }
        }
        let Some(span) = span else { return false };
        let records = &mut self.records;
        self.active.retain(|place| {
            let record = &mut records[*place];
            record.smoothed = smooth(record.smoothed, record.rate, span);
            record.listed = record.rate != BitRate::ZERO || record.smoothed.0 > 1_000;
            if !record.listed {
                record.smoothed = BitRate::ZERO;
            }
            record.listed
        });
        true
    }

    fn billing(&self, uplink: UplinkId) -> Billing {
        self.billings.get(uplink.index()).copied().unwrap_or_default()
    }

    /// Rate of a row over the last interval.
    pub fn rate(&self, slot: SlotId, uplink: UplinkId) -> BitRate {
        self.record(slot, uplink).map_or(BitRate::ZERO, |record| record.rate)
    }

    /// The same as the kernel counts it, whatever the uplink bills.
    pub fn counted_rate(&self, slot: SlotId, uplink: UplinkId) -> BitRate {
        let delta = self.record(slot, uplink).map_or(0, |record| record.delta.bytes);
        BitRate::from_bytes(delta, self.span)
    }

    /// What an uplink of this basis would be billed for a prefix row, wherever its packets left in the last interval.
    pub fn demand_as(&self, slot: SlotId, billing: Billing) -> BitRate {
        let counted = self.over_uplinks(slot).fold(Count::default(), |sum, record| sum + record.delta);
        billing.rate(counted, self.span)
    }

    /// Rate of a prefix row over all uplinks, last interval, each as it bills.
    pub fn demand(&self, slot: SlotId) -> BitRate {
        self.over_uplinks(slot).map(|record| record.rate).sum()
    }

    /// Smoothed rate of a prefix row over all uplinks.
    pub fn smoothed(&self, slot: SlotId) -> BitRate {
        self.over_uplinks(slot).map(|record| record.smoothed).sum()
    }

    /// A row as read last.
    pub fn last(&self, slot: SlotId, uplink: UplinkId) -> Count {
        self.record(slot, uplink).map_or(Count::default(), |record| record.last)
    }

    /// True where every index leads somewhere.
    pub fn is_whole(&self, uplinks: usize) -> bool {
        let inside = |place: &u32| usize::try_from(*place).is_ok_and(|place| place <= self.records.len());
        self.uplinks == uplinks.max(1)
            && self.places.iter().all(inside)
            && self.active.iter().all(|place| *place < self.records.len())
    }

    /// What was counted in a row since the prefix has it.
    pub fn count(&self, slot: SlotId, uplink: UplinkId) -> Count {
        self.record(slot, uplink).map_or(Count::default(), |record| record.last.since(record.base))
    }

    /// Rows that carry traffic, or did lately, by slot and uplink, ascending.
    pub fn active(&self) -> Vec<(SlotId, UplinkId)> {
        let mut rows: Vec<usize> = self.active.iter().map(|place| self.records[*place].row).collect();
        rows.sort_unstable();
        rows.into_iter()
            .map(|row| {
                let slot = u32::try_from(row / self.uplinks).unwrap_or(u32::MAX);
                let uplink = u16::try_from(row % self.uplinks).unwrap_or(u16::MAX);
                (SlotId(slot), UplinkId(uplink))
            })
            .collect()
    }

    fn over_uplinks(&self, slot: SlotId) -> impl Iterator<Item = &Record> + '_ {
        let first = self.row(slot, UplinkId(0));
        (first..first.saturating_add(self.uplinks)).filter_map(|row| self.record_of(row))
    }
}

/// One step of an exponential mean: moves by `span / (SMOOTHING + span)` of the difference.
fn smooth(mean: BitRate, rate: BitRate, span: Duration) -> BitRate {
    let (step, whole) = (span.as_micros(), (SMOOTHING + span).as_micros());
    let mixed = (u128::from(mean.0) * (whole - step) + u128::from(rate.0) * step) / whole;
    BitRate(u64::try_from(mixed).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn row(slot: u32, uplink: u16, bytes: u64) -> SlotCount {
        SlotCount {
            slot: SlotId(slot),
            uplink: UplinkId(uplink),
            count: Count { bytes, packets: bytes / 1000 },
        }
    }

    fn adopted(prefixes: &[&str], row: SlotCount) -> Adopted {
        let entries = prefixes.iter().map(|text| (text.parse().unwrap(), row.slot)).collect();
        Adopted { entries, rows: vec![row], ..Adopted::default() }
    }

    #[test]
    fn counts_of_an_earlier_run_go_on_for_prefixes_that_are_still_counted() {
        let mut rates = Rates::new(1, &adopted(&["198.18.0.0/24"], row(0, 0, 900)));
        rates.sample(Timestamp(0), &[]);
        rates.sample(Timestamp(SECOND), &[row(0, 0, 1_900)]);
        assert_eq!(
            (rates.demand(SlotId(0)), rates.count(SlotId(0), UplinkId(0)).bytes),
            (BitRate(8_000), 1_900)
        );
    }

    #[test]
    fn the_first_sample_only_opens_an_interval() {
        let mut rates = Rates::new(2, &Adopted::default());
        assert!(!rates.sample(Timestamp(SECOND), &[row(3, 1, 5_000)]));
        assert_eq!(rates.demand(SlotId(3)), BitRate::ZERO);
        assert!(rates.sample(Timestamp(3 * SECOND), &[row(3, 1, 7_000)]));
        assert_eq!(rates.rate(SlotId(3), UplinkId(1)), BitRate(8_000));
        assert_eq!(rates.rate(SlotId(3), UplinkId(0)), BitRate::ZERO);
    }

    #[test]
    fn a_row_that_falls_silent_has_rate_zero_and_fades_from_the_mean() {
        let mut rates = Rates::new(1, &Adopted::default());
        rates.sample(Timestamp(0), &[row(0, 0, 0)]);
        rates.sample(Timestamp(SECOND), &[row(0, 0, 1_000_000)]);
        let risen = rates.smoothed(SlotId(0));
        rates.sample(Timestamp(2 * SECOND), &[]);
        assert_eq!(rates.demand(SlotId(0)), BitRate::ZERO);
        assert!(rates.smoothed(SlotId(0)) < risen && rates.smoothed(SlotId(0)) > BitRate::ZERO);
        for second in 3..200 {
            rates.sample(Timestamp(second * SECOND), &[]);
        }
        assert!(rates.active().is_empty());
    }

    #[test]
    fn a_reused_row_starts_from_its_final_value() {
        let mut rates = Rates::new(1, &adopted(&[], row(0, 0, 900)));
        rates.sample(Timestamp(0), &[]);
        rates.sample(Timestamp(SECOND), &[row(0, 0, 1_900)]);
        assert_eq!(rates.demand(SlotId(0)), BitRate(8_000));
        rates.rebase(&[row(0, 0, 2_000)]);
        rates.sample(Timestamp(2 * SECOND), &[row(0, 0, 2_125)]);
        assert_eq!(rates.demand(SlotId(0)), BitRate(1_000));
        assert_eq!(rates.count(SlotId(0), UplinkId(0)).bytes, 125);
    }

    #[test]
    fn a_sample_read_before_its_slot_was_released_is_not_a_burst() {
        let mut rates = Rates::new(1, &adopted(&[], row(0, 0, 1_000_000)));
        rates.sample(Timestamp(0), &[]);
        rates.rebase(&[row(0, 0, 1_500_000)]);
        rates.sample(Timestamp(SECOND), &[row(0, 0, 1_400_000)]);
        assert_eq!(rates.demand(SlotId(0)), BitRate::ZERO);
        rates.sample(Timestamp(2 * SECOND), &[row(0, 0, 1_500_125)]);
        assert_eq!(rates.demand(SlotId(0)), BitRate(1_000));
    }

    #[test]
    fn each_uplink_has_its_own_basis_and_demand_is_told_in_any() {
        use super::super::billing::Layer;
        let wire = Billing::new(Layer::Wire, 0);
        let mut rates = Rates::new(2, &Adopted::default()).billed(vec![Billing::default(), wire]);
        rates.sample(Timestamp(0), &[]);
        // 1,000 packets of 1,000 bytes by each.
        rates.sample(Timestamp(SECOND), &[row(0, 0, 1_000_000), row(0, 1, 1_000_000)]);
        let (slot, [l2, l1]) = (SlotId(0), [0, 1].map(UplinkId));
        assert_eq!((rates.rate(slot, l2), rates.rate(slot, l1)), (BitRate(8_000_000), BitRate(8_192_000)));
        assert_eq!(rates.counted_rate(slot, l1), BitRate(8_000_000));
        assert_eq!(rates.demand(slot), BitRate(16_192_000));
        assert_eq!(rates.demand_as(slot, wire), BitRate(16_384_000));
        rates.sample(Timestamp(2 * SECOND), &[]);
        assert_eq!(
            (rates.demand_as(slot, wire), rates.counted_rate(slot, l1)),
            (BitRate::ZERO, BitRate::ZERO)
        );
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_into_samples_the_total_is_the_same(cuts in prop::collection::vec(0u64..100_000, 1..40)) {
            let mut rates = Rates::new(1, &Adopted::default());
            rates.sample(Timestamp(0), &[row(0, 0, 0)]);
            let (mut sum, mut total_bits) = (0u64, 0u64);
            for (index, bytes) in cuts.iter().enumerate() {
                sum += bytes;
                let at = Timestamp((u64::try_from(index).unwrap() + 1) * SECOND);
                rates.sample(at, &[row(0, 0, sum)]);
                total_bits += rates.demand(SlotId(0)).0;
            }
            prop_assert_eq!(total_bits, sum * 8);
            prop_assert_eq!(rates.count(SlotId(0), UplinkId(0)).bytes, sum);
        }
    }
}
