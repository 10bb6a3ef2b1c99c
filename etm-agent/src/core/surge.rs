//! Demand that is not believed yet: a prefix that suddenly asks for many times its usual rate.
//!
//! What is beyond the usual is held out of decisions for money until it lasts; relief of overload sees all of it.
//! Never decides what is moved.

use crate::types::{BitRate, SlotId, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Time constant of the usual rate.
const USUAL: Duration = Duration::from_secs(60);
/// A rate that is known for less time than this is not usual yet: it is followed, and nothing surges.
const LEARNING: Duration = Duration::from_secs(10);
/// Below this a row is forgotten.
const FORGOTTEN: BitRate = BitRate(100);

/// What is known of a row of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Usual {
    slot: SlotId,
    rate: BitRate,
    since: Timestamp,
    /// Since when it surges.
    surging: Option<Timestamp>,
}

/// A prefix that surges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surge {
    /// Its row.
    pub slot: SlotId,
    /// Its usual rate, which counts for money.
    pub usual: BitRate,
    /// Since when.
    pub since: Timestamp,
}

/// What counts as a surge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// So many times the usual rate.
    pub factor: u32,
    /// After this time it is the usual rate.
    pub lasts: Duration,
}

/// Usual rates of rows, and which of them surge.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Surges {
    /// Ascending.
    rows: Vec<Usual>,
    last: Option<Timestamp>,
}

impl Surges {
    /// Takes the rates of a sample: rows with traffic, ascending.
    pub fn sample(&mut self, at: Timestamp, terms: Terms, rates: impl Iterator<Item = (SlotId, BitRate)>) {
        let span = self.last.map_or(Duration::ZERO, |last| at.since(last));
        self.last = Some(at);
        let known = std::mem::take(&mut self.rows);
        let mut rows = Vec::with_capacity(known.len());
        let mut known = known.into_iter().peekable();
        for (slot, rate) in rates {
            while let Some(silent) = known.next_if(|row| row.slot < slot) {
                rows.extend(step(silent, at, span, terms, BitRate::ZERO));
            }
            let row = known.next_if(|row| row.slot == slot);
            let row = row.unwrap_or(Usual { slot, rate, since: at, surging: None });
            rows.extend(step(row, at, span, terms, rate));
        }
        rows.extend(known.filter_map(|silent| step(silent, at, span, terms, BitRate::ZERO)));
        self.rows = rows;
    }

    /// The usual rate of a row that surges.
    pub fn usual(&self, slot: SlotId) -> Option<BitRate> {
        let at = self.rows.binary_search_by_key(&slot, |row| row.slot).ok()?;
        self.rows.get(at).filter(|row| row.surging.is_some()).map(|row| row.rate)
    }

    /// Rows that surge, ascending.
    pub fn surging(&self) -> impl Iterator<Item = Surge> + '_ {
        self.rows
            .iter()
            .filter_map(|row| Some(Surge { slot: row.slot, usual: row.rate, since: row.surging? }))
    }

    /// Forgets a row: it belongs to another prefix now.
    pub fn forget(&mut self, slot: SlotId) {
        if let Ok(at) = self.rows.binary_search_by_key(&slot, |row| row.slot) {
            self.rows.remove(at);
        }
    }
}

/// One step of a row; none where nothing is left of it.
fn step(row: Usual, at: Timestamp, span: Duration, terms: Terms, rate: BitRate) -> Option<Usual> {
    let known = at.since(row.since) >= LEARNING;
    let high = known && rate.0 >= row.rate.0.saturating_mul(u64::from(terms.factor));
    let row = match (high && rate > FORGOTTEN, row.surging) {
        (true, None) => Usual { surging: Some(at), ..row },
        // It lasts: this is what it asks for now.
        (true, Some(since)) if at.since(since) >= terms.lasts => {
            Usual { rate, since: at, surging: None, ..row }
        }
        // What is not believed teaches nothing.
        (true, Some(_)) => row,
        (false, _) if !known => Usual { rate: rate.max(row.rate), surging: None, ..row },
        (false, _) => Usual { rate: mixed(row.rate, rate, span), surging: None, ..row },
    };
    (row.rate > FORGOTTEN || rate > BitRate::ZERO || row.surging.is_some()).then_some(row)
}

/// One step of an exponential mean.
fn mixed(mean: BitRate, rate: BitRate, span: Duration) -> BitRate {
    let (part, whole) = (span.as_micros(), (USUAL + span).as_micros());
    let sum = u128::from(mean.0) * (whole - part) + u128::from(rate.0) * part;
    BitRate(u64::try_from(sum / whole).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms { factor: 10, lasts: Duration::from_secs(300) };

    fn second(n: u64) -> Timestamp {
        Timestamp(n * 1_000_000_000)
    }

    fn feed(surges: &mut Surges, at: u64, rates: &[(u32, u64)]) {
        let rates = rates.iter().map(|(slot, kbit)| (SlotId(*slot), BitRate(kbit * 1_000)));
        surges.sample(second(at), TERMS, rates);
    }

    fn surging(surges: &Surges) -> Vec<u32> {
        surges.surging().map(|surge| surge.slot.0).collect()
    }

    #[test]
    fn ten_times_the_usual_rate_surges_until_it_lasts() {
        let mut surges = Surges::default();
        (0..30).for_each(|at| feed(&mut surges, at, &[(1, 100), (2, 100)]));
        assert!(surging(&surges).is_empty());
        for at in 30..330 {
            feed(&mut surges, at, &[(1, 1_000), (2, 900)]);
            assert_eq!(surging(&surges), [1], "{at}");
            assert_eq!(surges.usual(SlotId(1)), Some(BitRate(100_000)));
        }
        feed(&mut surges, 330, &[(1, 1_000), (2, 900)]);
        assert!(surging(&surges).is_empty());
        assert_eq!(surges.usual(SlotId(1)), None);
    }

    #[test]
    fn a_surge_that_goes_leaves_the_usual_rate_as_it_was() {
        let mut surges = Surges::default();
        (0..30).for_each(|at| feed(&mut surges, at, &[(1, 100)]));
        (30..40).for_each(|at| feed(&mut surges, at, &[(1, 50_000)]));
        feed(&mut surges, 40, &[(1, 100)]);
        assert!(surging(&surges).is_empty());
        feed(&mut surges, 41, &[(1, 1_000)]);
        assert_eq!(surging(&surges), [1]);
    }

    #[test]
    fn what_begins_is_followed_and_not_a_surge() {
        let mut surges = Surges::default();
        for at in 0..9 {
            feed(&mut surges, at, &[(1, 1 << at)]);
            assert!(surging(&surges).is_empty());
        }
    }

    #[test]
    fn one_that_was_silent_and_comes_back_surges_while_its_silence_is_remembered() {
        let mut surges = Surges::default();
        (0..30).for_each(|at| feed(&mut surges, at, &[(1, 100)]));
        (30..300).for_each(|at| feed(&mut surges, at, &[]));
        feed(&mut surges, 300, &[(1, 100)]);
        assert_eq!(surging(&surges), [1]);
        let mut surges = Surges::default();
        (0..30).for_each(|at| feed(&mut surges, at, &[(1, 100)]));
        (30..900).for_each(|at| feed(&mut surges, at, &[]));
        assert!(surges.rows.is_empty());
    }

    proptest! {
        #[test]
        fn rows_stay_ascending_and_a_surge_is_always_far_above_the_usual(
            steps in prop::collection::vec(prop::collection::btree_map(0u32..6, 1u64..1_000_000, 0..6), 1..80)
        ) {
            let mut surges = Surges::default();
            for (at, step) in (0u64..).zip(&steps) {
                let rates: Vec<(u32, u64)> = step.iter().map(|(slot, rate)| (*slot, *rate)).collect();
                feed(&mut surges, at * 3, &rates);
                prop_assert!(surges.rows.windows(2).all(|pair| pair[0].slot < pair[1].slot));
                for surge in surges.surging() {
                    let now = step.get(&surge.slot.0).copied().unwrap_or(0) * 1_000;
                    prop_assert!(now >= surge.usual.0 * 10, "{surge:?} {now}");
                }
            }
        }
    }
}
