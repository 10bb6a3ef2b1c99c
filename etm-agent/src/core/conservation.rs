//! The conservation identity per uplink: what the hook counted is what the device sent, dropped and holds.
//!
//! Counters are read while packets flow, so each sample brackets the device's total between two readings of
//! ETM's own (`UplinkSample`). The difference of the two books is a constant; every sample bounds it by an
//! interval. As long as the intervals share a value no packet is missing. A packet that was counted but not
//! yet queued when the device was read makes one interval miss for one sample: only a miss that lasts counts.
//! Never reads zero traffic out of a failed check: the state says failed, and decisions freeze.

use super::input::{Basis, UplinkSample};
use crate::types::{Count, Timestamp, UplinkId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Length of a window.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Samples after which a miss is no packet in flight any more.
const PERSISTENT: u8 = 3;

/// Payload that a segment has at least, in bytes: senders segment at about 1,400, and never below the smallest MSS.
const SMALLEST_SEGMENT: u64 = 536;

/// Share of a window's traffic, in parts per million, above which a difference is a failure.
const TOLERANCE_PPM: u64 = 1_000;

/// State of one uplink's books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BookState {
    /// No whole window yet.
    #[default]
    Opening,
    /// Packets and bytes agree.
    Exact,
    /// Packets agree and some were dropped by the qdisc: overload, not failure.
    Lossy,
    /// The books differ.
    Failed,
    /// They differ on a device without queueing discipline, whether its account is read as super-packets or as their
    /// segments: some it sends whole and some not, and nothing can be concluded.
    Unchecked,
    /// The link is down: the kernel throws the queue away uncounted.
    Down,
}

/// A finished window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowReport {
    /// Result.
    pub state: BookState,
    /// What the hook counted in it.
    pub offered: Count,
    /// Packets that the qdisc dropped in it.
    pub dropped: u64,
    /// Packets by which the books differ.
    pub packet_error: u64,
    /// Bytes by which they differ; meaningful without drops only.
    pub byte_error: u64,
}

impl WindowReport {
    /// Byte difference as a share of the bytes offered, in parts per million, rounded up.
    pub fn byte_error_ppm(&self) -> u64 {
        (self.byte_error * 1_000_000).div_ceil(self.offered.bytes.max(1))
    }
}

/// Worst of all windows of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorstWindows {
    /// Largest byte difference in a window without drops, parts per million.
    pub byte_error_ppm: u64,
    /// Largest packet difference, drops and backlog included.
    pub packet_error: u64,
    /// Windows finished.
    pub windows: u64,
    /// Of these, with drops.
    pub lossy: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of these, on a device whose counters cannot be compared.
    pub unchecked: u64,
}

/// Where the constant between two books may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Interval {
    low: i128,
    high: i128,
}

impl Interval {
    /// The part common to both, or the distance between them.
    fn meet(self, other: Interval) -> Result<Interval, u64> {
        let (low, high) = (self.low.max(other.low), self.high.min(other.high));
        if low <= high {
            Ok(Interval { low, high })
        } else {
            Err(u64::try_from(low - high).unwrap_or(u64::MAX))
        }
    }
}

/// One of the two books: packets, or bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Ledger {
    constant: Option<Interval>,
    /// The largest difference of consecutive missing samples, and how many there were.
    missing: u64,
    misses: u8,
    /// Sum of all differences that lasted, since it was last taken.
    differing: u64,
}

impl Ledger {
    /// Takes one bound; `Some(distance)` once a miss has lasted.
    fn take(&mut self, bound: Interval) -> Option<u64> {
        let Some(constant) = self.constant else {
            self.constant = Some(bound);
            return None;
        };
        match constant.meet(bound) {
            Ok(common) => {
                self.constant = Some(common);
                self.misses = 0;
                None
            }
            Err(distance) => {
                self.misses += 1;
                self.missing = distance;
                if self.misses < PERSISTENT {
                    return None;
                }
                // From here on the new constant holds, so that one lost packet is reported once.
                self.constant = Some(bound);
                self.misses = 0;
                self.differing += self.missing;
                Some(self.missing)
            }
        }
    }
}

/// A device's account, read in one way.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Reading {
    packets: Ledger,
    bytes: Ledger,
}

impl Reading {
    /// Takes a sample of which the device says to have sent `sent`. Bytes are compared only while nothing is dropped.
    fn take(&mut self, sample: &UplinkSample, sent: Count, dropping: bool) {
        let device = sample.device;
        let accounted = i128::from(sent.packets) + i128::from(device.dropped);
        // A super-packet counts as its segments when it is sent, and as one while it waits: what waits is bounded, not known.
        let waiting = i128::from(device.backlog.packets);
        let waiting_segments = i128::from(device.backlog.bytes / SMALLEST_SEGMENT).max(waiting);
        self.packets.take(Interval {
            low: accounted + waiting - i128::from(sample.after.packets),
            high: accounted + waiting_segments - i128::from(sample.before.packets),
        });
        if dropping {
            // Nobody counts the bytes of dropped packets: the byte book starts anew after them.
            self.bytes = Ledger::default();
            return;
        }
        let accounted = i128::from(sent.bytes) + i128::from(device.backlog.bytes);
        self.bytes.take(Interval {
            low: accounted - i128::from(sample.after.bytes),
            high: accounted - i128::from(sample.before.bytes),
        });
    }
}

/// The books of one uplink.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Book {
    /// As the device says, and as if each of its packets that was a super-packet counted as its segments. A qdisc counts
    /// segments; a device counts what it is given, which depends on what it can segment itself. One of the two must hold.
    readings: [Reading; 2],
    /// First sample of the window, and the drops at that moment.
    opened: Option<(Timestamp, Count, u64)>,
    last: Option<UplinkSample>,
    state: BookState,
    report: WindowReport,
    worst: WorstWindows,
}

impl Book {
    /// Forgets the constant: the device was re-created, lost its link, or its counters restarted.
    pub fn reopen(&mut self, state: BookState) {
        let worst = self.worst;
        *self = Book { worst, state, ..Book::default() };
    }

    /// Takes a sample; returns a report when it ends a window.
    pub fn sample(&mut self, sample: UplinkSample) -> Option<WindowReport> {
        if self.last.is_some_and(|last| restarted(&last, &sample)) {
            self.reopen(BookState::Opening);
        }
        self.last = Some(sample);
        let device = sample.device;
        let (opened_at, offered_then, dropped_then) =
            *self.opened.get_or_insert((sample.at, sample.before, device.dropped));
        let whole = if device.basis == Basis::Device { device.excess } else { Count::default() };
        for (reading, excess) in self.readings.iter_mut().zip([Count::default(), whole]) {
            reading.take(&sample, device.sent + excess, device.dropped != dropped_then);
        }
        if sample.at.since(opened_at) < WINDOW {
            return None;
        }
        Some(self.close(offered_then, dropped_then))
    }

    fn close(&mut self, offered_then: Count, dropped_then: u64) -> WindowReport {
        let Some(last) = self.last else { return self.report };
        let dropped = last.device.dropped.saturating_sub(dropped_then);
        let errors = self.readings.each_mut().map(|reading| {
            let bytes = if dropped == 0 { std::mem::take(&mut reading.bytes.differing) } else { 0 };
            (std::mem::take(&mut reading.packets.differing), bytes)
        });
        let (packet_error, byte_error) = errors.into_iter().min().unwrap_or_default();
        let mut report = WindowReport {
            offered: last.after.since(offered_then),
            dropped,
            packet_error,
            byte_error,
            state: BookState::Exact,
        };
        let packet_ppm = report.packet_error * 1_000_000 / report.offered.packets.max(1);
        let differ = packet_ppm > TOLERANCE_PPM || report.byte_error_ppm() > TOLERANCE_PPM;
        report.state = match (dropped > 0, differ, last.device.basis) {
            // The qdisc drops super-packets whole and counts them once: with drops a difference proves nothing.
            (true, _, _) => BookState::Lossy,
            (false, true, Basis::Device) => BookState::Unchecked,
            (false, true, Basis::Qdisc) => BookState::Failed,
            (false, false, _) => BookState::Exact,
        };
        self.worst.windows += 1;
        self.worst.lossy += u64::from(report.state == BookState::Lossy);
        self.worst.failed += u64::from(report.state == BookState::Failed);
        self.worst.unchecked += u64::from(report.state == BookState::Unchecked);
        if report.state != BookState::Unchecked {
            self.worst.packet_error = self.worst.packet_error.max(report.packet_error);
        }
        if dropped == 0 && report.state != BookState::Unchecked {
            self.worst.byte_error_ppm = self.worst.byte_error_ppm.max(report.byte_error_ppm());
        }
        self.opened = Some((last.at, last.before, last.device.dropped));
        self.state = report.state;
        self.report = report;
        report
    }

    /// State of the last finished window.
    pub fn state(&self) -> BookState {
        self.state
    }

    /// The last finished window.
    pub fn report(&self) -> WindowReport {
        self.report
    }

    /// Worst of all windows.
    pub fn worst(&self) -> WorstWindows {
        self.worst
    }

    /// In what basis the device counts.
    pub fn basis(&self) -> Basis {
        self.last.map_or(Basis::default(), |last| last.device.basis)
    }
}

/// A device counter that went backwards is a new qdisc or a new device.
fn restarted(before: &UplinkSample, now: &UplinkSample) -> bool {
    now.device.sent.packets < before.device.sent.packets
        || now.device.dropped < before.device.dropped
        || now.device.basis != before.device.basis
        || now.before.packets < before.before.packets
}

/// The books of all uplinks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Conservation {
    books: Vec<Book>,
}

impl Conservation {
    /// One book per uplink.
    pub fn new(uplinks: usize) -> Conservation {
        Conservation { books: vec![Book::default(); uplinks] }
    }

    /// The book of `uplink`.
    pub fn book(&self, uplink: UplinkId) -> Option<&Book> {
        self.books.get(uplink.index())
    }

    /// The book of `uplink`, to write in.
    pub fn book_mut(&mut self, uplink: UplinkId) -> Option<&mut Book> {
        self.books.get_mut(uplink.index())
    }

    /// Uplinks whose last window failed.
    pub fn failed(&self) -> impl Iterator<Item = UplinkId> + '_ {
        self.books
            .iter()
            .enumerate()
            .filter(|(_, book)| book.state == BookState::Failed)
            .map(|(index, _)| UplinkId(u16::try_from(index).unwrap_or(u16::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::DeviceCount;
    use super::*;

    /// A device that truly received `offered` packets of 1,000 bytes, read while up to `slack` more passed.
    fn sample(second: u64, offered: u64, slack: u64, dropped: u64, backlog: u64) -> UplinkSample {
        let count = |packets: u64| Count { bytes: packets * 1_000, packets };
        UplinkSample {
            uplink: UplinkId(0),
            at: Timestamp(second * 1_000_000_000),
            before: count(5_000 + offered),
            after: count(5_000 + offered + slack),
            uncounted: [Count::default(); 4],
            device: DeviceCount {
                sent: count(90_000 + offered + slack / 2 - dropped - backlog),
                dropped,
                backlog: count(backlog),
                basis: Basis::Qdisc,
                excess: Count::default(),
            },
        }
    }

    fn run(samples: impl IntoIterator<Item = UplinkSample>) -> (Book, Vec<WindowReport>) {
        let mut book = Book::default();
        let reports = samples.into_iter().filter_map(|sample| book.sample(sample)).collect();
        (book, reports)
    }

    #[test]
    fn books_that_agree_are_exact_whatever_passed_during_the_reading() {
        let (book, reports) = run((0..=30).map(|s| sample(s, s * 20_000, s % 7 * 10, 0, s % 3)));
        assert_eq!(reports.len(), 3);
        assert!(reports.iter().all(|report| report.state == BookState::Exact));
        assert_eq!(book.worst(), WorstWindows { windows: 3, ..WorstWindows::default() });
    }

    #[test]
    fn drops_make_a_window_lossy_and_never_failed() {
        let (_, reports) = run((0..=20).map(|s| sample(s, s * 20_000, 40, s.saturating_sub(12) * 3_000, 50)));
        let states: Vec<_> = reports.iter().map(|report| (report.state, report.dropped)).collect();
        assert_eq!(states, [(BookState::Exact, 0), (BookState::Lossy, 24_000)]);
    }

    #[test]
    fn a_packet_in_flight_at_one_reading_is_no_error() {
        let mut samples: Vec<_> = (0..=10).map(|s| sample(s, s * 1_000, 0, 0, 0)).collect();
        samples[5].device.sent.packets -= 1;
        samples[5].device.sent.bytes -= 1_000;
        let (_, reports) = run(samples);
        assert_eq!((reports[0].state, reports[0].packet_error), (BookState::Exact, 0));
    }

    #[test]
    fn packets_that_the_hook_never_saw_are_found_to_the_packet_and_fail_the_window() {
        let mut samples: Vec<_> = (0..=10).map(|s| sample(s, s * 1_000, 0, 0, 0)).collect();
        for sample in &mut samples[4..] {
            sample.device.sent.packets += 37;
            sample.device.sent.bytes += 37_000;
        }
        let (book, reports) = run(samples);
        assert_eq!(
            (reports[0].state, reports[0].packet_error, reports[0].byte_error),
            (BookState::Failed, 37, 37_000)
        );
        assert_eq!(book.worst().failed, 1);
    }

    #[test]
    fn super_packets_in_the_queue_or_dropped_are_no_failure() {
        // 20 segments each: the hook and `sent` count them all, backlog and drops count one.
        let waiting = (0..=12).map(|s| {
            let mut sample = sample(s, s * 10_000, 0, 0, 0);
            sample.device.sent.packets -= 400;
            sample.device.sent.bytes -= 400_000;
            sample.device.backlog = Count { packets: 20, bytes: 400_000 };
            sample
        });
        let (_, reports) = run(waiting);
        assert_eq!((reports[0].state, reports[0].packet_error), (BookState::Exact, 0));
        let dropping = (0..=12).map(|s| {
            let mut sample = sample(s, s * 10_000, 0, 0, 0);
            sample.device.sent.packets -= s * 200;
            sample.device.dropped = s * 10;
            sample
        });
        let (_, reports) = run(dropping);
        assert_eq!(reports[0].state, BookState::Lossy);
    }

    #[test]
    fn a_device_without_a_queueing_discipline_is_exact_or_unchecked_and_never_failed() {
        let device = |sample: UplinkSample, missing: u64| {
            let mut sample = sample;
            sample.device.basis = Basis::Device;
            sample.device.sent.packets -= missing;
            sample
        };
        let (_, exact) = run((0..=10).map(|s| device(sample(s, s * 1_000, 10, 0, 0), 0)));
        assert_eq!(exact[0].state, BookState::Exact);
        let (book, unlike) = run((0..=10).map(|s| device(sample(s, s * 1_000, 10, 0, 0), s * 500)));
        assert_eq!((unlike[0].state, book.worst().packet_error), (BookState::Unchecked, 0));
    }

    #[test]
    fn a_device_that_sends_super_packets_whole_is_exact_by_what_they_stand_for() {
        // Half of the packets are segments of super-packets: 20 each, with headers of 66 bytes.
        let whole = |s: u64, unseen: u64| {
            let mut sample = sample(s, s * 10_000, 100, 0, 0);
            let excess = Count { packets: s * 4_750, bytes: s * 4_750 * 66 };
            (sample.device.basis, sample.device.excess) = (Basis::Device, excess);
            sample.device.sent.packets -= excess.packets;
            sample.device.sent.packets += unseen;
            sample.device.sent.bytes -= excess.bytes;
            sample
        };
        let (book, reports) = run((0..=10).map(|s| whole(s, 0)));
        assert_eq!(
            (reports[0].state, reports[0].packet_error, reports[0].byte_error),
            (BookState::Exact, 0, 0)
        );
        assert_eq!(book.worst().unchecked, 0);
        let (_, reports) = run((0..=10).map(|s| whole(s, s * 300)));
        assert_eq!(reports[0].state, BookState::Unchecked);
    }

    #[test]
    fn a_steady_leak_adds_up_over_the_window() {
        let leaking = (0..=10).map(|s| {
            let mut sample = sample(s, s * 1_000, 0, 0, 0);
            sample.device.sent.packets += s * 2;
            sample
        });
        let (_, reports) = run(leaking);
        assert!(reports[0].packet_error >= 12, "{reports:?}");
        assert_eq!(reports[0].state, BookState::Failed);
    }

    #[test]
    fn a_new_qdisc_reopens_the_books() {
        let mut samples: Vec<_> = (0..=30).map(|s| sample(s, s * 1_000, 0, 0, 0)).collect();
        for sample in &mut samples[15..] {
            sample.device.sent.packets -= 14_000;
            sample.device.sent.bytes -= 14_000_000;
        }
        let (_, reports) = run(samples);
        assert!(reports.iter().all(|report| report.state == BookState::Exact), "{reports:?}");
    }
}
