//! Cumulative rows become rates: what left per (prefix row, uplink) over the last interval.
//!
//! One smoothing, here: an exponential mean with a time constant of `SMOOTHING`, used only to decide
//! that load has really gone (giving a prefix back). Overload is judged on the exact last interval.

use super::input::SlotCount;
use crate::types::{BitRate, Count, SlotId, Timestamp, UplinkId};
use std::time::Duration;

/// Time constant of the smoothed rate.
pub const SMOOTHING: Duration = Duration::from_secs(10);

/// Rates of all rows.
#[derive(Clone, Debug)]
pub struct Rates {
    uplinks: usize,
    last_at: Option<Timestamp>,
    rows: Vec<Row>,
    /// Rows whose rate or smoothed rate is not zero, so that idle rows cost nothing.
    active: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    last: Count,
    base: Count,
    rate: BitRate,
    smoothed: BitRate,
    listed: bool,
}

impl Rates {
    /// No traffic yet; `baseline` are rows that counted before this run.
    pub fn new(uplinks: usize, baseline: &[SlotCount]) -> Rates {
        let mut rates =
            Rates { uplinks: uplinks.max(1), last_at: None, rows: Vec::new(), active: Vec::new() };
        rates.rebase(baseline);
        rates
    }

    fn index(&self, slot: SlotId, uplink: UplinkId) -> usize {
        usize::try_from(slot.0).unwrap_or(usize::MAX).saturating_mul(self.uplinks) + uplink.index()
    }

    fn row_mut(&mut self, slot: SlotId, uplink: UplinkId) -> &mut Row {
        let index = self.index(slot, uplink);
        if self.rows.len() <= index {
            self.rows.resize(index + 1, Row::default());
        }
        &mut self.rows[index]
    }

    /// From now on these rows count from the values given: they belong to a new prefix.
    pub fn rebase(&mut self, rows: &[SlotCount]) {
        for row in rows {
            let entry = self.row_mut(row.slot, row.uplink);
            entry.last = row.count;
            entry.base = row.count;
            entry.rate = BitRate::ZERO;
            entry.smoothed = BitRate::ZERO;
        }
    }

    /// Takes a sample; false for the first one, which is only the start of an interval.
    pub fn sample(&mut self, at: Timestamp, changed: &[SlotCount]) -> bool {
        let span = self.last_at.map(|last| at.since(last));
        self.last_at = Some(at);
        for index in &self.active {
            self.rows[*index].rate = BitRate::ZERO;
        }
        for row in changed {
            let index = self.index(row.slot, row.uplink);
            let entry = self.row_mut(row.slot, row.uplink);
            let delta = row.count.since(entry.last);
            entry.last = row.count;
            if let Some(span) = span {
                entry.rate = BitRate::from_bytes(delta.bytes, span);
            }
            if !entry.listed {
                entry.listed = true;
                self.active.push(index);
            }
        }
        let Some(span) = span else { return false };
        let rows = &mut self.rows;
        self.active.retain(|index| {
            let row = &mut rows[*index];
            row.smoothed = smooth(row.smoothed, row.rate, span);
            row.listed = row.rate != BitRate::ZERO || row.smoothed.0 > 1_000;
            if !row.listed {
                row.smoothed = BitRate::ZERO;
            }
            row.listed
        });
        true
    }

    /// Rate of a row over the last interval.
    pub fn rate(&self, slot: SlotId, uplink: UplinkId) -> BitRate {
        self.rows.get(self.index(slot, uplink)).map_or(BitRate::ZERO, |row| row.rate)
    }

    /// Rate of a prefix row over all uplinks, last interval.
    pub fn demand(&self, slot: SlotId) -> BitRate {
        self.over_uplinks(slot).map(|row| row.rate).sum()
    }

    /// Smoothed rate of a prefix row over all uplinks.
    pub fn smoothed(&self, slot: SlotId) -> BitRate {
        self.over_uplinks(slot).map(|row| row.smoothed).sum()
    }

    /// What was counted in a row since the prefix has it.
    pub fn count(&self, slot: SlotId, uplink: UplinkId) -> Count {
        self.rows.get(self.index(slot, uplink)).map_or(Count::default(), |row| row.last.since(row.base))
    }

    /// Rows that carry traffic, or did lately, by slot and uplink, ascending.
    pub fn active(&self) -> Vec<(SlotId, UplinkId)> {
        let mut rows: Vec<usize> = self.active.clone();
        rows.sort_unstable();
        rows.into_iter()
            .map(|index| {
                let slot = u32::try_from(index / self.uplinks).unwrap_or(u32::MAX);
                let uplink = u16::try_from(index % self.uplinks).unwrap_or(u16::MAX);
                (SlotId(slot), UplinkId(uplink))
            })
            .collect()
    }

    fn over_uplinks(&self, slot: SlotId) -> impl Iterator<Item = &Row> + '_ {
        let first = self.index(slot, UplinkId(0)).min(self.rows.len());
        let end = first.saturating_add(self.uplinks).min(self.rows.len());
        self.rows[first..end].iter()
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

    #[test]
    fn the_first_sample_only_opens_an_interval() {
        let mut rates = Rates::new(2, &[]);
        assert!(!rates.sample(Timestamp(SECOND), &[row(3, 1, 5_000)]));
        assert_eq!(rates.demand(SlotId(3)), BitRate::ZERO);
        assert!(rates.sample(Timestamp(3 * SECOND), &[row(3, 1, 7_000)]));
        assert_eq!(rates.rate(SlotId(3), UplinkId(1)), BitRate(8_000));
        assert_eq!(rates.rate(SlotId(3), UplinkId(0)), BitRate::ZERO);
    }

    #[test]
    fn a_row_that_falls_silent_has_rate_zero_and_fades_from_the_mean() {
        let mut rates = Rates::new(1, &[]);
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
        let mut rates = Rates::new(1, &[row(0, 0, 900)]);
        rates.sample(Timestamp(0), &[]);
        rates.sample(Timestamp(SECOND), &[row(0, 0, 1_900)]);
        assert_eq!(rates.demand(SlotId(0)), BitRate(8_000));
        rates.rebase(&[row(0, 0, 2_000)]);
        rates.sample(Timestamp(2 * SECOND), &[row(0, 0, 2_125)]);
        assert_eq!(rates.demand(SlotId(0)), BitRate(1_000));
        assert_eq!(rates.count(SlotId(0), UplinkId(0)).bytes, 125);
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_into_samples_the_total_is_the_same(cuts in prop::collection::vec(0u64..100_000, 1..40)) {
            let mut rates = Rates::new(1, &[]);
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
