//! When the counters should be read before their time: an uplink that was within its limit has just left it.
//!
//! Looks at the uplinks' totals only, a few loads from memory. Never decides that there is an overload: it asks for a
//! reading now, so that the next one, half an interval later, holds nothing of the calm before.

use crate::types::{BitRate, Timestamp};
use std::time::Duration;

/// Looks per interval.
const LOOKS: u32 = 10;
/// Shorter intervals need no looks: the next reading is as near.
const SHORTEST: Duration = Duration::from_millis(500);

/// The watch on the totals.
#[derive(Clone, Debug)]
pub(super) struct Alarm {
    /// By uplink, as the operator set it.
    limits: Vec<BitRate>,
    /// By uplink: bytes when looked at last, and when the counters were all read last.
    looked: Vec<Option<(Timestamp, u64)>>,
    read: Vec<Option<(Timestamp, u64)>>,
    /// Above its limit over the whole of the last interval, or never read for one: no news.
    known: Vec<bool>,
}

impl Alarm {
    /// Knows nothing yet.
    pub(super) fn new(limits: Vec<BitRate>) -> Alarm {
        let uplinks = limits.len();
        Alarm { limits, looked: vec![None; uplinks], read: vec![None; uplinks], known: vec![true; uplinks] }
    }

    /// Pause between two looks; none where they would not pay.
    pub(super) fn pause(interval: Duration) -> Option<Duration> {
        (interval >= SHORTEST).then(|| interval / LOOKS)
    }

    /// Takes a look at one uplink's total; true where the counters should be read now.
    pub(super) fn look(&mut self, uplink: usize, at: Timestamp, bytes: u64) -> bool {
        let above = self.above(uplink, self.looked.get(uplink).copied().flatten(), at, bytes);
        if let Some(looked) = self.looked.get_mut(uplink) {
            *looked = Some((at, bytes));
        }
        above && !self.known.get(uplink).copied().unwrap_or(true)
    }

    /// Takes note of a reading of all counters.
    pub(super) fn read(&mut self, uplink: usize, at: Timestamp, bytes: u64) {
        let last = self.read.get(uplink).copied().flatten();
        // Before a whole interval was read nothing is news: a tenth of one wavers, and there is nothing to hold it against.
        let above = last.is_none() || self.above(uplink, last, at, bytes);
        if let (Some(looked), Some(read), Some(known)) =
            (self.looked.get_mut(uplink), self.read.get_mut(uplink), self.known.get_mut(uplink))
        {
            (*looked, *read, *known) = (Some((at, bytes)), Some((at, bytes)), above);
        }
    }

    fn above(&self, uplink: usize, last: Option<(Timestamp, u64)>, at: Timestamp, bytes: u64) -> bool {
        let (Some(limit), Some((then, before))) = (self.limits.get(uplink), last) else { return false };
        BitRate::from_bytes(bytes.saturating_sub(before), at.since(then)) > *limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Looks every 100 ms at an uplink of 1 Mbit/s that carries so many kbit/s; when it asked for a reading.
    fn asked(kbit_per_s: &[u64], read_at: &[usize]) -> Vec<usize> {
        let mut alarm = Alarm::new(vec![BitRate(1_000_000)]);
        let (mut bytes, mut asked) = (0, Vec::new());
        alarm.read(0, Timestamp(0), 0);
        alarm.read(0, Timestamp(1), 0);
        for (step, kbit) in kbit_per_s.iter().enumerate() {
            bytes += kbit * 1000 / 8 / 10;
            let at = Timestamp((u64::try_from(step).unwrap() + 1) * 100 * MS);
            if alarm.look(0, at, bytes) {
                asked.push(step);
            }
            if read_at.contains(&step) {
                alarm.read(0, at, bytes);
            }
        }
        asked
    }

    #[test]
    fn only_what_has_just_left_its_limit_asks_for_a_reading() {
        for (title, rates, read_at, expected) in [
            ("within", vec![900, 950, 990], vec![], vec![]),
            ("a step", vec![900, 900, 1500], vec![], vec![2]),
            ("known to be above", vec![1500, 1500, 1500, 1500], vec![1], vec![0, 1]),
            ("above, relieved, above again", vec![1500, 500, 500, 500, 1500], vec![0, 3], vec![0, 4]),
        ] {
            assert_eq!(asked(&rates, &read_at), expected, "{title}");
        }
    }

    #[test]
    fn nothing_is_news_before_the_first_whole_interval() {
        let mut alarm = Alarm::new(vec![BitRate(1_000_000)]);
        for at in 1..10 {
            assert!(!alarm.look(0, Timestamp(at * 100 * MS), at * 1_000_000), "never read");
        }
        alarm.read(0, Timestamp(1_000 * MS), 9_000_000);
        assert!(!alarm.look(0, Timestamp(1_100 * MS), 10_000_000), "read once");
        alarm.read(0, Timestamp(2_000 * MS), 9_000_000);
        assert!(alarm.look(0, Timestamp(2_100 * MS), 10_000_000));
    }

    #[test]
    fn short_intervals_need_no_looks() {
        assert_eq!(Alarm::pause(Duration::from_millis(100)), None);
        assert_eq!(Alarm::pause(Duration::from_secs(1)), Some(Duration::from_millis(100)));
    }
}
