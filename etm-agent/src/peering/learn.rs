//! Role learn: UPDATEs become batches of route changes. Never announces anything.

use crate::core::input::{Input, RouteBatch, RouteChange, SessionChange, SessionEvent};
use crate::proto::bgp::{Change, Frame, Negotiated, Notice, Reset, Translator};
use crate::types::bgp::Dispositions;
use crate::types::{Family, PeerId};
use std::collections::{BTreeSet, VecDeque};

/// Changes in one input: large enough that the queue is not the cost, small enough that a decision round in
/// between is not delayed.
const BATCH: usize = 512;

/// The receiving end of one session.
#[derive(Debug)]
pub(super) struct Learn {
    peer: PeerId,
    /// Only while established.
    translator: Option<Translator>,
    counts: Dispositions,
    batch: Vec<RouteChange>,
    /// Kinds of notices already logged in this session.
    noticed: BTreeSet<(&'static str, &'static str)>,
}

/// What one UPDATE did.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    pub(super) announced: u64,
    pub(super) withdrawn: u64,
    pub(super) end_of_rib: Option<Family>,
    /// Notices, each with whether it is the first of its kind in this session.
    pub(super) notices: Vec<(Notice, bool)>,
}

impl Learn {
    pub(super) fn new(peer: PeerId) -> Learn {
        Learn {
            peer,
            translator: None,
            counts: Dispositions::default(),
            batch: Vec::new(),
            noticed: BTreeSet::new(),
        }
    }

    pub(super) fn up(&mut self, session: &Negotiated) {
        self.translator = Some(Translator::new(session, self.counts));
        self.noticed.clear();
    }

    pub(super) fn down(&mut self) {
        self.counts = self.counts();
        self.translator = None;
        self.batch.clear();
    }

    pub(super) fn counts(&self) -> Dispositions {
        self.translator.as_ref().map_or(self.counts, Translator::counts)
    }

    /// Takes in one UPDATE; whole batches go to `pending`.
    pub(super) fn update(&mut self, frame: &Frame, pending: &mut VecDeque<Input>) -> Result<Learnt, Reset> {
        let Some(translator) = &mut self.translator else { return Ok(Learnt::default()) };
        let translated = translator.translate(frame)?;
        let mut learnt = Learnt { end_of_rib: translated.end_of_rib, ..Learnt::default() };
        for change in translated.changes {
            match &change {
                Change::Announce { .. } => learnt.announced += 1,
                Change::Withdraw { .. } => learnt.withdrawn += 1,
            }
            self.batch.push(route_change(change));
            if self.batch.len() >= BATCH {
                self.flush(pending);
            }
        }
        if let Some(family) = translated.end_of_rib {
            // Order matters: the decision must have the table before it hears that the table is complete.
            self.flush(pending);
            let change = SessionChange::EndOfRib(family);
            pending.push_back(Input::Session(SessionEvent { peer: self.peer, change }));
        }
        for notice in translated.notices {
            let first = self.noticed.insert((notice.kind, notice.attribute));
            learnt.notices.push((notice, first));
        }
        Ok(learnt)
    }

    /// Hands on what is left of a read.
    pub(super) fn flush(&mut self, pending: &mut VecDeque<Input>) {
        if !self.batch.is_empty() {
            let changes = std::mem::take(&mut self.batch);
            pending.push_back(Input::Routes(RouteBatch { peer: self.peer, changes }));
        }
    }
}

fn route_change(change: Change) -> RouteChange {
    match change {
        Change::Announce { prefix, path_id, attrs } => RouteChange::Announce { prefix, path_id, attrs },
        Change::Withdraw { prefix, path_id } => RouteChange::Withdraw { prefix, path_id },
    }
}
