//! Role inject: one peer is brought to the newest decision. Never learns, and never announces a route without
//! NO_EXPORT and ETM's community (`proto::bgp::pack` has no way to).

use super::config::InjectConfig;
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
}

impl Inject {
    pub(super) fn new(config: InjectConfig, decisions: watch::Receiver<Arc<Decision>>) -> Inject {
        Inject {
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
        let mut lesson = self.converge();
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
    }

    /// Waits until there is a decision this peer was not told; for ever while it is not established.
    pub(super) async fn decided(&mut self) {
        if self.session.is_none() || self.decisions.changed().await.is_err() {
            // No session, or nobody decides any more: the stop signal ends this.
            std::future::pending::<()>().await;
        }
    }

    /// The newest decision as bytes; what it skips does not exist any more.
    pub(super) fn converge(&mut self) -> Lesson {
        let decision = Arc::clone(&self.decisions.borrow_and_update());
        let desired = self.desired(&decision);
        self.teach(desired, decision.generation)
    }

    /// The peer asks for a family again (RFC 2918).
    pub(super) fn refresh(&mut self, family: Family) -> Lesson {
        self.told.forget_family(family);
        self.converge()
    }

    /// Back to plain routing.
    pub(super) fn withdraw_all(&mut self) -> Lesson {
        let generation = self.decisions.borrow().generation;
        self.teach(BTreeMap::new(), generation)
    }

    /// `offset`: the place of the byte stream where the lesson of this mark ends.
    pub(super) fn mark(&mut self, lesson: &Lesson, offset: u64) {
        let (generation, changed) = (lesson.generation, lesson.changed);
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
        let mut desired = BTreeMap::new();
        for (prefix, announcement) in &decision.announce {
            let family = prefix.family();
            let next_hop = self.config.next_hops.of(announcement.exit, family);
            if let Some(next_hop) = next_hop.filter(|_| families.contains(&family)) {
                desired.insert(*prefix, OutRoute { next_hop, attrs: Arc::clone(&announcement.attrs) });
            }
        }
        self.withheld = decision.announce.len() - desired.len();
        desired
    }

    fn teach(&mut self, desired: BTreeMap<Prefix, OutRoute>, generation: Generation) -> Lesson {
        let diff = self.told.converge(desired);
        let packed = match &self.session {
            Some(session) => pack(&diff, self.config.out, session),
            None => Packed::default(),
        };
        self.withheld += packed.unsendable.len();
        Lesson { changed: diff.len(), packed, generation }
    }
}
