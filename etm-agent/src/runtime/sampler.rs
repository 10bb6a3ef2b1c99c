//! The sampler thread: reads counters and device statistics once per interval, and keeps the counting program
//! attached to uplinks, and the marking one to inside interfaces, that come, go and return. Never decides, never sleeps past its stop.

use super::alarm::Alarm;
use super::clock::boottime;
use super::decider::uplink_id;
use super::error::AgentError;
use crate::control::schema::Quantiles;
use crate::core::input::{Basis, LinkEvent, Sample, SlotCount, TableFill, UplinkSample};
use crate::datapath::{Counters, Datapath, DatapathError, KernelLog, LinkHeader};
use crate::fib::StatsReader;
use crate::types::{IfIndex, UplinkId};
use hdrhistogram::Histogram;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// What others tell the sampler.
#[derive(Debug)]
pub(super) enum Note {
    /// An uplink's link changed.
    Link(LinkEvent),
    /// An inside interface, by its place in the configuration, appeared, vanished or was made anew.
    Inside(usize, Option<IfIndex>),
    /// An operator ordered a mode that acts: mark what comes in here.
    Mark {
        /// Interfaces.
        inside: Vec<IfIndex>,
        /// How that went.
        done: oneshot::Sender<Result<(), DatapathError>>,
    },
    /// The start succeeded: attachments and maps outlive the process.
    Keep,
    /// End.
    Stop,
}

/// Where an uplink is counted, and where it should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attachment {
    pub(super) wanted: Option<IfIndex>,
    pub(super) attached: Option<IfIndex>,
    /// What its packets begin with.
    pub(super) header: LinkHeader,
    /// True while attaching fails: said once, tried again with each sample.
    pub(super) failing: bool,
}

/// Where what comes in is marked, and where it should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marking {
    pub(super) wanted: Option<IfIndex>,
    pub(super) attached: Option<IfIndex>,
    /// True while attaching fails: said once, tried again with each sample.
    pub(super) failing: bool,
}

/// The thread's state.
pub(super) struct Sampler {
    pub(super) datapath: Datapath,
    pub(super) counters: Counters,
    /// Debug lines of the kernel programs, where they are on.
    pub(super) log: Option<KernelLog>,
    pub(super) stats: StatsReader,
    pub(super) interval: Duration,
    /// Asks for a sample before its time.
    pub(super) alarm: Alarm,
    /// In order of `UplinkId`.
    pub(super) attached: Vec<Attachment>,
    /// Inside interfaces, in order of configuration.
    pub(super) inside: Vec<Marking>,
    /// True once anything is marked: an observer marks nothing.
    pub(super) marks: bool,
    pub(super) fill: watch::Receiver<TableFill>,
    pub(super) samples: mpsc::Sender<Sample>,
    pub(super) durations: watch::Sender<Quantiles>,
}

impl Sampler {
    /// Samples until `Note::Stop`; gives the attachments back so that they can be undone.
    pub(super) fn run(mut self, notes: &Receiver<Note>) -> Datapath {
        let mut spent = histogram();
        let pause = Alarm::pause(self.interval);
        let (mut due, mut look, mut early) = (Instant::now(), Instant::now(), false);
        loop {
            // After an early sample the next one is near, and judges.
            let wake = pause.filter(|_| !early).map_or(due, |pause| due.min(look + pause));
            match notes.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(Note::Link(event)) => self.follow(event),
                Ok(Note::Inside(index, ifindex)) => self.follow_inside(index, ifindex),
                // Whoever ordered it may be gone.
                Ok(Note::Mark { inside, done }) => drop(done.send(self.mark(&inside))),
                Ok(Note::Keep) => self.datapath.keep(),
                Ok(Note::Stop) | Err(RecvTimeoutError::Disconnected) => return self.datapath,
                Err(RecvTimeoutError::Timeout) => {
                    look = Instant::now();
                    let is_due = look >= due;
                    if !is_due && !self.is_alarmed() {
                        continue;
                    }
                    if !self.sample_and_send(&mut spent) {
                        return self.datapath;
                    }
                    early = !is_due;
                    due = if is_due { next_due(due, self.interval) } else { look + self.interval / 2 };
                }
            }
        }
    }

    /// False where nobody takes samples any more.
    fn sample_and_send(&mut self, spent: &mut Histogram<u64>) -> bool {
        let begun = Instant::now();
        let sample = self.sample();
        for uplink in &sample.uplinks {
            self.alarm.read(uplink.uplink.index(), uplink.at, uplink.after.bytes);
        }
        if let Some(log) = &mut self.log {
            log.flush();
        }
        record(spent, begun.elapsed());
        self.durations.send_replace(quantiles(spent));
        // One slot: a decision that is slower than the interval makes the sampler wait, and the counters, being
        // cumulative, lose nothing.
        self.samples.blocking_send(sample).is_ok()
    }

    /// True where an uplink has just left its limit.
    fn is_alarmed(&mut self) -> bool {
        let mut alarmed = false;
        for (index, _) in self.attached.iter().enumerate().filter(|(_, place)| place.attached.is_some()) {
            // What cannot be read now is read, or missed, by the next sample, which says so.
            if let Ok(total) = self.counters.total(uplink_id(index)) {
                alarmed |= self.alarm.look(index, boottime(), total.bytes);
            }
        }
        alarmed
    }

    /// Takes note of an uplink that appeared, vanished or was made anew.
    fn follow(&mut self, event: LinkEvent) {
        let Some(place) = self.attached.get_mut(event.uplink.index()) else { return };
        place.wanted = event.ifindex;
        if place.attached == place.wanted {
            return;
        }
        if let Some(old) = place.attached.take()
            && let Err(error) = self.datapath.detach_uplink(old)
        {
            tracing::warn!(%error, ifindex = old.0, "cannot clear up after an uplink");
        }
        self.attach_missing();
    }

    /// Marks what comes in by these interfaces, all of the configuration's, from now on.
    fn mark(&mut self, inside: &[IfIndex]) -> Result<(), DatapathError> {
        self.marks = true;
        for (place, ifindex) in self.inside.iter_mut().zip(inside) {
            self.datapath.attach_inside(*ifindex)?;
            (place.wanted, place.attached, place.failing) = (Some(*ifindex), Some(*ifindex), false);
        }
        Ok(())
    }

    /// Takes note of an inside interface that appeared, vanished or was made anew.
    fn follow_inside(&mut self, index: usize, ifindex: Option<IfIndex>) {
        let Some(place) = self.inside.get_mut(index) else { return };
        place.wanted = ifindex;
        if let Some(old) = place.attached.take_if(|old| Some(*old) != ifindex)
            && let Err(error) = self.datapath.detach_inside(old)
        {
            tracing::warn!(%error, ifindex = old.0, "cannot clear up after an inside interface");
        }
        self.mark_missing();
    }

    /// Attaches wherever marking is wanted and is not.
    fn mark_missing(&mut self) {
        for place in self.inside.iter_mut().filter(|_| self.marks) {
            let (Some(ifindex), None) = (place.wanted, place.attached) else { continue };
            match self.datapath.attach_inside(ifindex) {
                Ok(how) => {
                    tracing::info!(ifindex = ifindex.0, ?how, "marking on an inside interface that returned");
                    (place.attached, place.failing) = (Some(ifindex), false);
                }
                Err(error) if !place.failing => {
                    tracing::error!(%error, ifindex = ifindex.0, "cannot mark on an inside interface; trying again with each sample");
                    place.failing = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Attaches wherever counting is wanted and is not.
    fn attach_missing(&mut self) {
        for (index, place) in self.attached.iter_mut().enumerate() {
            let (Some(ifindex), None) = (place.wanted, place.attached) else { continue };
            match self.datapath.attach_uplink(uplink_id(index), ifindex, place.header) {
                Ok(how) => {
                    tracing::info!(
                        uplink = index,
                        ifindex = ifindex.0,
                        ?how,
                        "counting on an uplink that returned"
                    );
                    (place.attached, place.failing) = (Some(ifindex), false);
                }
                Err(error) if !place.failing => {
                    tracing::error!(%error, uplink = index, "cannot count on an uplink; trying again with each sample");
                    place.failing = true;
                }
                Err(_) => {}
            }
        }
    }

    fn sample(&mut self) -> Sample {
        self.attach_missing();
        self.mark_missing();
        let at = boottime();
        let mut rows: Vec<SlotCount> = Vec::new();
        self.counters.changed(&mut rows);
        let mut uplinks = Vec::with_capacity(self.attached.len());
        for index in 0..self.attached.len() {
            let Some(ifindex) = self.attached.get(index).and_then(|place| place.attached) else { continue };
            match self.books(uplink_id(index), ifindex) {
                Ok(books) => uplinks.push(books),
                // The interface may be gone this instant; the link monitor will say so.
                Err(error) => tracing::debug!(%error, uplink = index, "no device statistics"),
            }
        }
        Sample { at, uplinks, rows, table: *self.fill.borrow() }
    }

    /// The device's account between two readings of our own.
    fn books(&mut self, uplink: UplinkId, ifindex: IfIndex) -> Result<UplinkSample, AgentError> {
        let before = self.counters.total(uplink)?;
        let mut device = self.stats.read(ifindex)?;
        if device.basis == Basis::Qdisc {
            // No queue saw these: the interface was given them in XDP. Between the brackets, like the device's own.
            let redirected = self.counters.redirected(uplink)?;
            device.sent.bytes = device.sent.bytes.wrapping_add(redirected.bytes);
            device.sent.packets = device.sent.packets.wrapping_add(redirected.packets);
        }
        let at = boottime();
        let (after, excess) = self.counters.total_and_excess(uplink)?;
        device.excess = excess;
        let uncounted = self.counters.uncounted(uplink);
        Ok(UplinkSample { uplink, at, before, after, uncounted, device })
    }
}

/// The next multiple of the interval that is still to come: a late sample does not cause a burst of them.
fn next_due(due: Instant, interval: Duration) -> Instant {
    let next = due + interval;
    if next > Instant::now() { next } else { Instant::now() + interval }
}

/// Microseconds up to a minute, three digits.
pub(super) fn histogram() -> Histogram<u64> {
    // The bounds are constants that the library accepts; the fallback records with its own.
    Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|_| histogram_of_any_range())
}

fn histogram_of_any_range() -> Histogram<u64> {
    match Histogram::new(1) {
        Ok(histogram) => histogram,
        Err(_) => unreachable!("one significant digit is always accepted"),
    }
}

pub(super) fn record(histogram: &mut Histogram<u64>, span: Duration) {
    histogram.saturating_record(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
}

pub(super) fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    Quantiles {
        p50: histogram.value_at_quantile(0.5),
        p99: histogram.value_at_quantile(0.99),
        max: histogram.max(),
    }
}
