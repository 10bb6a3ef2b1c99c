//! Role inject: one peer is brought to the newest decision. Never learns, and never announces a route without
//! NO_EXPORT and ETM's community (`proto::bgp::pack` has no way to).

use super::config::InjectConfig;
use super::pace::Pace;
use crate::core::decision::Decision;
use crate::proto::bgp::{AdjRibOut, Negotiated, OutRoute, Packed, end_of_rib, pack};
use crate::types::{Family, Generation, Prefix};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// The announcing end of one session.
#[derive(Debug)]
pub(super) struct Inject {
    config: InjectConfig,
    decisions: watch::Receiver<Arc<Decision>>,
    told: AdjRibOut,
    /// Only while established.
    session: Option<Negotiated>,
    /// Decisions written but not acknowledged, oldest first.
    marks: VecDeque<Mark>,
    withheld: usize,
    pace: Pace,
    /// Announcements of the newest decision that wait for their turn, and prefixes changed on the way to it so far.
    left: usize,
    changed: usize,
}

/// A decision ends at this place of the byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) generation: Generation,
    pub(super) changed: usize,
    pub(super) since: Instant,
    offset: u64,
}

/// What has to be written for the peer to know the newest decision.
#[derive(Debug)]
pub(super) struct Lesson {
    pub(super) packed: Packed,
    pub(super) generation: Generation,
    pub(super) changed: usize,
    /// False where more of the same decision is to follow.
    pub(super) whole: bool,
}

impl Inject {
    pub(super) fn new(config: InjectConfig, decisions: watch::Receiver<Arc<Decision>>) -> Inject {
        let pace = Pace::new(config.rate, Instant::now());
        Inject {
            pace,
            left: 0,
            changed: 0,
            config,
            decisions,
            told: AdjRibOut::default(),
            session: None,
            marks: VecDeque::new(),
            withheld: 0,
        }
    }

    /// The peer knows nothing: everything desired, then End-of-RIB of each family.
    pub(super) fn up(&mut self, session: &Negotiated) -> Lesson {
        self.session = Some(session.clone());
        let mut lesson = self.converge(usize::MAX);
        for family in &session.families {
            lesson.packed.bytes.extend_from_slice(&end_of_rib(*family));
            lesson.packed.messages += 1;
        }
        lesson
    }

    pub(super) fn down(&mut self) {
        self.session = None;
        self.told.forget();
        self.marks.clear();
        self.left = 0;
        self.changed = 0;
    }

    /// Waits until there is a decision this peer was not told; for ever while it is not established.
    pub(super) async fn decided(&mut self) {
        if self.session.is_none() {
            std::future::pending::<()>().await;
        }
        let turn = async {
            match self.left {
                0 => std::future::pending().await,
                _ => self.pace.turn().await,
            }
        };
        tokio::select! {
            changed = self.decisions.changed() => if changed.is_err() {
                // Nobody decides any more: the stop signal ends this.
                std::future::pending::<()>().await;
            },
            () = turn => {}
        }
    }

    /// As much of the newest decision as may be said now.
    pub(super) fn next(&mut self) -> Lesson {
        let room = self.pace.room(Instant::now());
        self.converge(room)
    }

    /// The newest decision as bytes; what it skips does not exist any more.
    fn converge(&mut self, room: usize) -> Lesson {
        let decision = Arc::clone(&self.decisions.borrow_and_update());
        let desired = self.desired(&decision);
        self.teach(&desired, decision.generation, room)
    }

    /// The peer asks for a family again (RFC 2918).
    pub(super) fn refresh(&mut self, family: Family) -> Lesson {
        self.told.forget_family(family);
        self.converge(usize::MAX)
    }

    /// Back to plain routing.
    pub(super) fn withdraw_all(&mut self) -> Lesson {
        let generation = self.decisions.borrow().generation;
        self.teach(&BTreeMap::new(), generation, usize::MAX)
    }

    /// `offset`: the place of the byte stream where the lesson of this mark ends.
    pub(super) fn mark(&mut self, lesson: &Lesson, offset: u64) {
        if !lesson.whole {
            return;
        }
        let (generation, changed) = (lesson.generation, std::mem::take(&mut self.changed));
        self.marks.push_back(Mark { generation, changed, since: Instant::now(), offset });
    }

    /// The oldest decision that is not acknowledged.
    pub(super) fn oldest_mark(&self) -> Option<Mark> {
        self.marks.front().copied()
    }

    /// Decisions whose last byte lies before `offset`.
    pub(super) fn acknowledged(&mut self, offset: u64) -> Option<Mark> {
        self.marks.pop_front_if(|mark| mark.offset <= offset)
    }

    /// Routes announced at this moment.
    pub(super) fn announced(&self) -> usize {
        self.told.len()
    }

    /// Routes of the newest decision that were not announced.
    pub(super) fn withheld(&self) -> usize {
        self.withheld
    }

    fn desired(&mut self, decision: &Decision) -> BTreeMap<Prefix, OutRoute> {
        let families = self.session.as_ref().map_or(&[][..], |session| &session.families);
        let extended = self.session.as_ref().is_some_and(|session| session.extended_next_hop);
        let mut desired = BTreeMap::new();
        for (prefix, announcement) in &decision.announce {
            let family = prefix.family();
            let next_hop = self.config.next_hops.of(announcement.exit, family, extended);
            if let Some(next_hop) = next_hop.filter(|_| families.contains(&family)) {
                desired.insert(*prefix, OutRoute { next_hop, attrs: Arc::clone(&announcement.attrs) });
            }
        }
        self.withheld = decision.announce.len() - desired.len();
        desired
    }

    fn teach(&mut self, desired: &BTreeMap<Prefix, OutRoute>, generation: Generation, room: usize) -> Lesson {
        let (diff, left) = self.told.converge_some(desired, room);
        self.pace.take(diff.announce.len());
        self.left = left;
        self.changed += diff.len();
        let packed = match &self.session {
            Some(session) => pack(&diff, self.config.out, session),
            None => Packed::default(),
        };
        self.withheld += packed.unsendable.len();
        Lesson { changed: diff.len(), packed, generation, whole: left == 0 }
    }
}
