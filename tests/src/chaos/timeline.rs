//! What the harness did to the lab, and when: what the judge may hold against ETM, and what not. Pure.
//! Never asks ETM anything.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::topology::Provider;

/// A moment in boot time, nanoseconds.
pub type Moment = u64;

/// One millisecond.
pub const MS: u64 = 1_000_000;

/// Bounds that the invariants speak of.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// `kernel.lease`.
    pub lease: u64,
    /// BGP hold time of the inject sessions.
    pub hold: u64,
    /// How long beyond its lease an override may be seen in the kernel: a tick, and a loaded box.
    pub kernel_slack: u64,
    /// The same at a peer: the guardian's look, TCP, and a loaded box.
    pub peer_slack: u64,
    /// After this nothing of ETM is in effect once it was switched off, or its guardian is gone.
    pub at_once: u64,
    /// How long an override may stand whose candidate is gone, while the agent lives.
    pub removal: u64,
    /// How long an agent that came back may take until the same holds for it: sessions, adoption.
    pub settling: u64,
}

impl Terms {
    /// With a lease and a hold time in seconds.
    pub const fn of(lease_s: u64, hold_s: u64) -> Self {
        Self {
            lease: lease_s * 1000 * MS,
            hold: hold_s * 1000 * MS,
            kernel_slack: 500 * MS,
            peer_slack: 1500 * MS,
            at_once: 1000 * MS,
            removal: 1500 * MS,
            settling: 8000 * MS,
        }
    }
}

/// A span; open while it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// First moment.
    pub from: Moment,
    /// Last moment, `u64::MAX` while it lasts.
    pub until: Moment,
}

impl Span {
    fn opened(at: Moment) -> Self {
        Self { from: at, until: Moment::MAX }
    }

    /// Whether a moment is in it.
    pub fn holds(&self, at: Moment) -> bool {
        self.from <= at && at < self.until
    }

    /// Whether two spans share a moment.
    pub fn meets(&self, from: Moment, until: Moment) -> bool {
        self.from < until && from < self.until
    }
}

/// Candidates that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Whose.
    pub provider: Provider,
    /// Which; all without.
    pub prefixes: Option<BTreeSet<IpNet>>,
    /// When.
    pub span: Span,
}

/// Everything that was done.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// The agent is killed or stopped.
    pub absent: Vec<Span>,
    /// The guardian is stopped.
    pub stunned: Vec<Span>,
    /// The guardian was killed.
    pub killed: Vec<Moment>,
    /// The kernel takes no request of the agent about routing: what it cannot remove is bounded by the lease alone.
    pub starved: Vec<Span>,
    /// Switched off by an operator.
    pub off: Vec<Span>,
    /// A packet may be lost.
    pub excuses: Vec<Span>,
    /// Candidates that are gone.
    pub gone: Vec<Gone>,
    /// Everything, in words.
    pub diary: Vec<(Moment, String)>,
}

/// Opens a span, unless one is open already.
pub fn open(spans: &mut Vec<Span>, at: Moment) {
    if spans.last().is_none_or(|span| span.until != Moment::MAX) {
        spans.push(Span::opened(at));
    }
}

/// Closes the open span, if there is one.
pub fn close(spans: &mut [Span], at: Moment) {
    if let Some(span) = spans.last_mut().filter(|span| span.until == Moment::MAX) {
        span.until = at;
    }
}

impl Timeline {
    /// Candidates of a provider are gone from now on.
    pub fn lose(&mut self, provider: Provider, prefixes: Option<BTreeSet<IpNet>>, at: Moment) {
        self.gone.push(Gone { provider, prefixes, span: Span::opened(at) });
    }

    /// They come back.
    pub fn regain(&mut self, provider: Provider, whole: bool, at: Moment) {
        let lost = self.gone.iter_mut().filter(|gone| {
            gone.provider == provider && gone.prefixes.is_none() == whole && gone.span.until == Moment::MAX
        });
        lost.for_each(|gone| gone.span.until = at);
    }

    /// A fault explains loss for `span` nanoseconds, and just before it was noted.
    pub fn excuse(&mut self, at: Moment, span: u64) {
        self.excuses.push(Span { from: at.saturating_sub(50 * MS), until: at + span });
    }

    /// Spans in which no packet may take an override.
    pub fn kernel_plain(&self, terms: &Terms) -> Vec<Span> {
        let absent = self
            .absent
            .iter()
            .map(|span| Span { from: span.from + terms.lease + terms.kernel_slack, until: span.until });
        let off = self.off.iter().map(|span| Span { from: span.from + terms.at_once, until: span.until });
        absent.chain(off).filter(|span| span.from < span.until).collect()
    }

    /// Spans in which no peer may have a route of ETM.
    pub fn peers_plain(&self, terms: &Terms) -> Vec<Span> {
        let mut spans = Vec::new();
        for span in &self.absent {
            let mut from = self.let_go(span.from + terms.lease + terms.peer_slack, terms);
            // A guardian that died while no agent was there to start another one took everything along.
            if let Some(killed) = self.killed.iter().find(|killed| span.holds(**killed)) {
                from = from.min(killed + terms.at_once);
            }
            spans.push(Span { from, until: span.until });
        }
        for span in &self.off {
            spans.push(Span { from: self.let_go(span.from + terms.at_once, terms), until: span.until });
        }
        spans.retain(|span| span.from < span.until);
        spans
    }

    /// When peers have let go that should at `at`: later where the guardian cannot tell them, at the end of the hold time.
    fn let_go(&self, at: Moment, terms: &Terms) -> Moment {
        let stunned = self.stunned.iter().find(|span| span.meets(at.saturating_sub(terms.peer_slack), at));
        let Some(stunned) = stunned else { return at };
        let by_timer = stunned.from + terms.hold + terms.peer_slack + 500 * MS;
        let by_itself = stunned.until.saturating_add(terms.at_once);
        at.max(by_timer.min(by_itself))
    }

    /// Since when `prefix` has had no candidate from `provider` at `at`, where the agent has had time to act on it.
    pub fn gone_since(&self, provider: Provider, prefix: IpNet, at: Moment, terms: &Terms) -> Option<Moment> {
        let of_it = |gone: &&Gone| {
            let these = gone.prefixes.as_ref().is_none_or(|prefixes| prefixes.contains(&prefix));
            gone.provider == provider && these && gone.span.holds(at)
        };
        let since = self.gone.iter().filter(of_it).map(|gone| gone.span.from).min()?;
        let mut deadline = since + terms.removal;
        for absent in self.absent.iter().chain(&self.starved).filter(|absent| absent.meets(since, at)) {
            if absent.until > at {
                return None;
            }
            deadline = deadline.max(absent.until + terms.settling);
        }
        (at >= deadline).then_some(since)
    }

    /// Whether a fault explains loss at some moment of a span.
    pub fn excused(&self, from: Moment, until: Moment) -> bool {
        self.excuses.iter().any(|span| span.meets(from, until))
    }

    /// Whether the agent may be working at a moment.
    pub fn present(&self, at: Moment) -> bool {
        !self.absent.iter().any(|span| span.holds(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms::of(3, 3);
    const SECOND: u64 = 1000 * MS;

    fn absent(from: u64, until: u64) -> Timeline {
        Timeline { absent: vec![Span { from, until }], ..Timeline::default() }
    }

    #[test]
    fn an_absence_within_the_lease_forbids_nothing() {
        let timeline = absent(10 * SECOND, 13 * SECOND);
        assert_eq!((timeline.kernel_plain(&TERMS), timeline.peers_plain(&TERMS)), (vec![], vec![]));
    }

    #[test]
    fn beyond_the_lease_kernel_and_peers_are_plain() {
        let timeline = absent(10 * SECOND, 20 * SECOND);
        assert_eq!(timeline.kernel_plain(&TERMS)[0].from, 13 * SECOND + TERMS.kernel_slack);
        assert_eq!(timeline.peers_plain(&TERMS)[0].from, 13 * SECOND + TERMS.peer_slack);
    }

    #[test]
    fn a_stopped_guardian_lets_go_by_the_peers_hold_timer_and_a_killed_one_at_once() {
        let mut timeline = absent(10 * SECOND, 30 * SECOND);
        timeline.stunned = vec![Span { from: 14 * SECOND, until: u64::MAX }];
        assert_eq!(timeline.peers_plain(&TERMS)[0].from, 19 * SECOND);
        timeline.stunned.clear();
        timeline.killed = vec![11 * SECOND];
        assert_eq!(timeline.peers_plain(&TERMS)[0].from, 12 * SECOND);
    }

    #[test]
    fn a_candidate_that_is_gone_counts_once_the_agent_had_time_to_act() {
        let prefix = "198.18.1.0/24".parse().unwrap();
        let mut timeline = Timeline::default();
        timeline.lose(Provider::Ix, None, 10 * SECOND);
        let gone = |timeline: &Timeline, at| timeline.gone_since(Provider::Ix, prefix, at, &TERMS).is_some();
        assert!(!gone(&timeline, 11 * SECOND));
        assert!(gone(&timeline, 12 * SECOND));
        assert!(timeline.gone_since(Provider::TransitA, prefix, 12 * SECOND, &TERMS).is_none());
        timeline.absent = vec![Span { from: 10 * SECOND, until: 12 * SECOND }];
        assert!(!gone(&timeline, 11 * SECOND + 900 * MS));
        assert!(!gone(&timeline, 19 * SECOND));
        assert!(gone(&timeline, 21 * SECOND));
        timeline.regain(Provider::Ix, true, 15 * SECOND);
        assert!(!gone(&timeline, 21 * SECOND));
    }
}
