//! Whether traffic took the way that it was given: each move is watched until the counters show it on its new exit.
//!
//! Driven by samples; time runs from the kernel's word that it has the routes, for a round, or a change of many routes, may
//! take longer than the traffic is given. Never moves anything: it says what failed, remembers where not to send it again for a while, and
//! says when so many moves failed that no more should be made.

use crate::types::{BitRate, ExitId, Generation, Prefix, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Samples in a row that must show the traffic elsewhere: one may hold the change itself.
const SAMPLES: u8 = 2;
/// A prefix that asks for less than this part of what it did when it was moved says nothing.
const SILENT_PART: u64 = 20;
/// Less than this says nothing either.
const SILENT: BitRate = BitRate(1_000);
/// Failures in a row, without a success between, after which moves are not tried any more for a while.
const PAUSE_AFTER: u32 = 3;
/// Without the kernel's word, so many times the time.
const WITHOUT_WORD: u32 = 4;
/// Longest time that an exit is closed to a prefix, or that moves pause.
const LONGEST: Duration = Duration::from_secs(3_600);

/// What the counters say of a prefix under watch, over the last interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// On the uplink of its new exit.
    pub there: BitRate,
    /// Everywhere.
    pub all: BitRate,
    /// True where only a part of its flows is sent there. Few flows do not divide evenly: any of them there will do.
    pub part: bool,
}

/// A move whose traffic did not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Destination.
    pub prefix: Prefix,
    /// Where it should have left.
    pub to: ExitId,
    /// Where it left before, if that was an override too.
    pub was: Option<ExitId>,
    /// What was seen last.
    pub seen: Seen,
    /// How often this has happened with this exit.
    pub failures: u32,
    /// Not tried again before.
    pub until: Timestamp,
}

/// A move under watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Watch {
    to: ExitId,
    was: Option<ExitId>,
    since: Timestamp,
    rate: BitRate,
    elsewhere: u8,
    /// The decision it is part of.
    #[serde(default)]
    generation: Generation,
    /// True once the kernel has that decision.
    #[serde(default)]
    made: bool,
}

/// An exit that is closed to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// How often traffic did not follow.
    pub failures: u32,
    /// Until when it is not tried again.
    pub until: Timestamp,
}

/// All watches, and what came of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Confirmations {
    watches: BTreeMap<Prefix, Watch>,
    closed: BTreeMap<(Prefix, ExitId), Closed>,
    /// Failures in a row.
    run: u32,
    /// Pauses in a row.
    pauses: u32,
    paused_until: Option<Timestamp>,
    confirmed: u64,
    missed: u64,
}

/// The configured times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Time in which traffic must follow.
    pub within: Duration,
    /// First time that an exit is closed.
    pub retry: Duration,
    /// Time between two samples.
    pub interval: Duration,
    /// True where most of the traffic must be seen there; false where only a part of the flows is sent there.
    pub most: bool,
}

impl Confirmations {
    /// Watches a move that was decided after the sample of `since`.
    pub fn watch(
        &mut self,
        (since, generation): (Timestamp, Generation),
        prefix: Prefix,
        (was, to): (Option<ExitId>, ExitId),
        rate: BitRate,
    ) {
        let watch = Watch { to, was, since, rate, elsewhere: 0, generation, made: false };
        self.watches.insert(prefix, watch);
    }

    /// The kernel has had the decision since `at`: what was seen before says nothing of its moves.
    pub fn made(&mut self, generation: Generation, at: Timestamp) {
        let made = |watch: &&mut Watch| !watch.made && watch.generation <= generation;
        for watch in self.watches.values_mut().filter(made) {
            (watch.made, watch.since, watch.elsewhere) = (true, watch.since.max(at), 0);
        }
    }

    /// The override is gone: nothing to see.
    pub fn forget(&mut self, prefix: Prefix) {
        self.watches.remove(&prefix);
    }

    /// Nothing is under watch any more, and nothing is closed.
    pub fn forget_all(&mut self) {
        self.watches.clear();
        self.closed.clear();
        (self.run, self.pauses, self.paused_until) = (0, 0, None);
    }

    /// Judges every watch by a sample.
    pub fn judge(
        &mut self,
        at: Timestamp,
        terms: Terms,
        see: impl Fn(Prefix, ExitId) -> Seen,
    ) -> Vec<Missed> {
        self.reopen(at);
        let mut missed = Vec::new();
        let mut settled = Vec::new();
        for (prefix, watch) in &mut self.watches {
            let seen = see(*prefix, watch.to);
            if seen.all < SILENT.max(BitRate(watch.rate.0 / SILENT_PART)) {
                // It fell silent: nothing is known, so nothing is concluded.
                watch.elsewhere = 0;
                continue;
            }
            let most = terms.most && !seen.part;
            let there = if most { seen.there.0 >= seen.all.0 / 2 } else { seen.there > BitRate::ZERO };
            if there {
                settled.push((*prefix, watch.to));
                continue;
            }
            if !terms.most {
                // With a part of the flows it may be that none of them was chosen.
                continue;
            }
            watch.elsewhere = watch.elsewhere.saturating_add(1);
            // The sample nearest to the deadline counts as at it.
            let within = if watch.made { terms.within } else { terms.within * WITHOUT_WORD };
            let late = at + terms.interval / 2 >= watch.since + within;
            if late && watch.elsewhere >= SAMPLES {
                missed.push((*prefix, *watch, seen));
            }
        }
        for (prefix, to) in settled {
            self.confirm(prefix, to);
        }
        missed
            .into_iter()
            .map(|(prefix, watch, seen)| self.miss(at, terms.retry, prefix, (watch, seen)))
            .collect()
    }

    fn confirm(&mut self, prefix: Prefix, to: ExitId) {
        self.watches.remove(&prefix);
        self.closed.remove(&(prefix, to));
        self.confirmed += 1;
        (self.run, self.pauses, self.paused_until) = (0, 0, None);
    }

    fn miss(
        &mut self,
        at: Timestamp,
        retry: Duration,
        prefix: Prefix,
        (watch, seen): (Watch, Seen),
    ) -> Missed {
        self.watches.remove(&prefix);
        let before = self.closed.get(&(prefix, watch.to)).map_or(0, |closed| closed.failures);
        let failures = before.saturating_add(1);
        let until = at + doubled(retry, before);
        self.closed.insert((prefix, watch.to), Closed { failures, until });
        self.missed += 1;
        self.run = self.run.saturating_add(1);
        if self.run >= PAUSE_AFTER && self.paused_until.is_none() {
            self.paused_until = Some(at + doubled(retry, self.pauses));
            self.pauses = self.pauses.saturating_add(1);
        }
        Missed { prefix, to: watch.to, was: watch.was, seen, failures, until }
    }

    /// Forgets failures that are old, and ends a pause: one more failure begins the next one.
    fn reopen(&mut self, at: Timestamp) {
        self.closed.retain(|_, closed| at < closed.until + LONGEST);
        if self.paused_until.is_some_and(|until| at >= until) {
            self.paused_until = None;
            self.run = PAUSE_AFTER - 1;
        }
    }

    /// True where `prefix` is not to be sent to `exit` now.
    pub fn is_closed(&self, now: Timestamp, prefix: Prefix, exit: ExitId) -> bool {
        self.closed.get(&(prefix, exit)).is_some_and(|closed| now < closed.until)
    }

    /// True where nothing is closed to anybody.
    pub fn is_open(&self) -> bool {
        self.closed.is_empty()
    }

    /// What is closed to `prefix`.
    pub fn closed_to(&self, prefix: Prefix) -> impl Iterator<Item = (ExitId, Closed)> + '_ {
        let all = (prefix, ExitId(0))..=(prefix, ExitId(u16::MAX));
        self.closed.range(all).map(|((_, exit), closed)| (*exit, *closed))
    }

    /// How many pairs of prefix and exit are closed at `now`.
    pub fn closed(&self, now: Timestamp) -> usize {
        self.closed.values().filter(|closed| now < closed.until).count()
    }

    /// True while the move of `prefix` is not confirmed yet.
    pub fn is_watched(&self, prefix: Prefix) -> bool {
        self.watches.contains_key(&prefix)
    }

    /// Moves that are not confirmed yet.
    pub fn watched(&self) -> usize {
        self.watches.len()
    }

    /// Moves that were confirmed, and those that were not, since the start.
    pub fn totals(&self) -> (u64, u64) {
        (self.confirmed, self.missed)
    }

    /// Failures in a row and the end of the pause that they led to.
    pub fn pause(&self) -> Option<(u32, Timestamp)> {
        Some((self.run, self.paused_until?))
    }
}

/// `first`, doubled `times` times, up to `LONGEST`.
fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(2u32.saturating_pow(times.min(20))).min(LONGEST.max(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms {
        within: Duration::from_secs(2),
        retry: Duration::from_secs(60),
        interval: Duration::from_secs(1),
        most: true,
    };
    const MBIT: u64 = 1_000_000;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn second(n: u64) -> Timestamp {
        Timestamp(n * 1_000_000_000)
    }

    fn seen(there: u64, all: u64) -> impl Fn(Prefix, ExitId) -> Seen {
        move |_, _| Seen { there: BitRate(there), all: BitRate(all), part: false }
    }

    fn watch(all: &mut Confirmations, at: u64, prefix: Prefix, to: ExitId, rate: BitRate) {
        all.watch((second(at), Generation(at)), prefix, (None, to), rate);
        all.made(Generation(at), second(at));
    }

    fn moved() -> Confirmations {
        let mut all = Confirmations::default();
        watch(&mut all, 1, p("198.18.0.0/24"), ExitId(1), BitRate(10 * MBIT));
        all
    }

    #[test]
    fn what_is_seen_there_in_time_is_confirmed() {
        let mut all = moved();
        assert_eq!(all.judge(second(2), TERMS, seen(0, 10 * MBIT)), []);
        assert!(all.is_watched(p("198.18.0.0/24")));
        assert_eq!(all.judge(second(3), TERMS, seen(9 * MBIT, 10 * MBIT)), []);
        assert_eq!((all.watched(), all.totals()), (0, (1, 0)));
    }

    #[test]
    fn what_is_not_seen_there_after_two_seconds_and_two_samples_failed() {
        let mut all = moved();
        assert_eq!(all.judge(second(2), TERMS, seen(0, 10 * MBIT)), []);
        let missed = all.judge(second(3), TERMS, seen(MBIT, 10 * MBIT));
        assert_eq!((missed.len(), missed[0].failures, missed[0].until), (1, 1, second(63)));
        assert!(all.is_closed(second(62), p("198.18.0.0/24"), ExitId(1)));
        assert!(!all.is_closed(second(62), p("198.18.0.0/24"), ExitId(0)));
        assert!(!all.is_closed(second(63), p("198.18.0.0/24"), ExitId(1)));
    }

    #[test]
    fn a_kernel_that_takes_its_time_does_not_make_a_move_fail() {
        let mut all = Confirmations::default();
        all.watch((second(1), Generation(5)), p("198.18.0.0/24"), (None, ExitId(1)), BitRate(10 * MBIT));
        all.made(Generation(4), second(2));
        for at in 2..=5 {
            assert_eq!(
                all.judge(second(at), TERMS, seen(0, 10 * MBIT)),
                [],
                "{at}: it has not got the route"
            );
        }
        all.made(Generation(6), second(5));
        assert_eq!(all.judge(second(6), TERMS, seen(0, 10 * MBIT)), [], "one second after it has");
        assert_eq!(all.judge(second(7), TERMS, seen(0, 10 * MBIT)).len(), 1);
    }

    #[test]
    fn a_kernel_that_never_answers_is_not_waited_for_for_ever() {
        let mut all = Confirmations::default();
        all.watch((second(1), Generation(1)), p("198.18.0.0/24"), (None, ExitId(1)), BitRate(MBIT));
        let missed: Vec<u64> =
            (2..12).filter(|at| !all.judge(second(*at), TERMS, seen(0, MBIT)).is_empty()).collect();
        assert_eq!(missed, [9]);
    }

    #[test]
    fn many_samples_in_the_time_wait_for_the_time() {
        let fast = Terms { interval: Duration::from_millis(100), ..TERMS };
        let mut all = moved();
        for tenth in 1..=19u64 {
            let at = Timestamp(1_000_000_000 + tenth * 100_000_000);
            assert_eq!(all.judge(at, fast, seen(0, 10 * MBIT)), [], "{tenth}");
        }
        assert_eq!(all.judge(second(3), fast, seen(0, 10 * MBIT)).len(), 1);
    }

    #[test]
    fn silence_proves_nothing_until_the_prefix_speaks_again() {
        let mut all = moved();
        for at in 2..100 {
            assert_eq!(all.judge(second(at), TERMS, seen(0, at % 2 * 400_000)), []);
        }
        assert_eq!(all.judge(second(100), TERMS, seen(0, 10 * MBIT)), [], "one sample is not enough");
        assert_eq!(all.judge(second(101), TERMS, seen(0, 10 * MBIT)).len(), 1);
    }

    #[test]
    fn each_failure_doubles_the_time_and_a_success_forgets_them() {
        let mut all = Confirmations::default();
        let prefix = p("198.18.0.0/24");
        let mut at = 1;
        for (failures, wait) in [(1, 60), (2, 120), (3, 240), (4, 480)] {
            watch(&mut all, at, prefix, ExitId(1), BitRate(MBIT));
            all.judge(second(at + 1), TERMS, seen(0, MBIT));
            let missed = all.judge(second(at + 2), TERMS, seen(0, MBIT));
            assert_eq!((missed[0].failures, missed[0].until), (failures, second(at + 2 + wait)));
            at += 2 + wait;
        }
        watch(&mut all, at, prefix, ExitId(1), BitRate(MBIT));
        all.judge(second(at + 1), TERMS, seen(MBIT, MBIT));
        assert_eq!(all.closed_to(prefix).count(), 0);
        assert_eq!(doubled(Duration::from_secs(60), u32::MAX), LONGEST);
    }

    #[test]
    fn three_failures_in_a_row_pause_all_moves_and_one_more_afterwards_pauses_longer() {
        let mut all = Confirmations::default();
        let fail = |all: &mut Confirmations, at: u64, number: u32| {
            let prefix = p(&format!("198.18.{number}.0/24"));
            watch(all, at, prefix, ExitId(1), BitRate(MBIT));
            all.judge(second(at + 1), TERMS, seen(0, MBIT));
            all.judge(second(at + 2), TERMS, seen(0, MBIT));
        };
        (0..2).for_each(|number| fail(&mut all, 1, number));
        assert_eq!(all.pause(), None);
        fail(&mut all, 1, 2);
        assert_eq!(all.pause(), Some((3, second(63))));
        all.judge(second(63), TERMS, seen(0, 0));
        assert_eq!(all.pause(), None);
        fail(&mut all, 70, 3);
        assert_eq!(all.pause(), Some((3, second(192))));
        watch(&mut all, 80, p("10.0.0.0/8"), ExitId(0), BitRate(MBIT));
        all.judge(second(81), TERMS, seen(MBIT, MBIT));
        assert_eq!(all.pause(), None);
    }

    #[test]
    fn with_a_part_of_the_flows_any_traffic_confirms_and_none_proves_nothing() {
        let part = Terms { most: false, ..TERMS };
        let mut all = moved();
        for at in 2..50 {
            assert_eq!(all.judge(second(at), part, seen(0, 10 * MBIT)), []);
        }
        all.judge(second(50), part, seen(1, 10 * MBIT));
        assert_eq!(all.totals(), (1, 0));
    }

    proptest! {
        #[test]
        fn every_watch_ends_once_and_nothing_that_followed_is_rolled_back(
            samples in prop::collection::vec((0u64..3, 0u64..3), 1..60)
        ) {
            let mut all = moved();
            let mut missed = 0;
            for (at, (there, elsewhere)) in (2..).zip(&samples) {
                let (there, all_of_it) = (there * MBIT, (there + elsewhere) * MBIT);
                let found = all.judge(second(at), TERMS, seen(there, all_of_it));
                prop_assert!(found.iter().all(|miss| miss.seen.there.0 * 2 < miss.seen.all.0));
                missed += found.len();
            }
            let (confirmed, failed) = all.totals();
            prop_assert_eq!(failed, u64::try_from(missed).unwrap());
            prop_assert_eq!(confirmed + failed + u64::try_from(all.watched()).unwrap(), 1);
        }
    }
}
