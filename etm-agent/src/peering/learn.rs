//! Role learn: UPDATEs become batches of route changes. Never announces anything.

use super::config::{Beyond, MaxRoutes, SessionConfig};
use super::limit::{Room, RouteCount};
use crate::core::input::{Input, RouteBatch, RouteChange};
use crate::proto::bgp::{Change, Frame, Import, Negotiated, Notice, Reset, SessionFault, Translator};
use crate::types::bgp::Dispositions;
use crate::types::{Family, PeerId};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Changes in one input: large enough that the queue is not the cost, small enough that a decision round in
/// between is not delayed.
const BATCH: usize = 512;
/// Notices of one kind about one attribute are logged at most so often; the rest is counted.
const QUIET: Duration = Duration::from_secs(60);

/// The receiving end of one session.
#[derive(Debug)]
pub(super) struct Learn {
    peer: PeerId,
    import: Import,
    max_routes: Option<MaxRoutes>,
    /// Only while established.
    translator: Option<Translator>,
    counts: Dispositions,
    count: Option<RouteCount>,
    over_limit: u64,
    batch: Vec<RouteChange>,
    /// When notices of a kind were logged last.
    logged: BTreeMap<(&'static str, &'static str), Instant>,
}

/// What one UPDATE did.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    pub(super) announced: u64,
    pub(super) withdrawn: u64,
    pub(super) end_of_rib: Option<Family>,
    /// Notices, each with whether it is to be logged.
    pub(super) notices: Vec<(Notice, bool)>,
    /// The peer announced more than it may, and the session must end.
    pub(super) exceeded: Option<SessionFault>,
}

impl Learn {
    pub(super) fn new(config: &SessionConfig) -> Learn {
        Learn {
            peer: config.peer,
            import: config.import,
            max_routes: config.max_routes,
            translator: None,
            counts: Dispositions::default(),
            count: None,
            over_limit: 0,
            batch: Vec::new(),
            logged: BTreeMap::new(),
        }
    }

    pub(super) fn up(&mut self, session: &Negotiated) {
        self.translator = Some(Translator::new(session, self.import, self.counts));
        self.count = self.max_routes.map(RouteCount::new);
    }

    pub(super) fn down(&mut self) {
        self.counts = self.translator.as_ref().map_or(self.counts, Translator::counts);
        self.translator = None;
        self.count = None;
        self.batch.clear();
    }

    pub(super) fn counts(&self) -> Dispositions {
        let counts = self.translator.as_ref().map_or(self.counts, Translator::counts);
        Dispositions { over_limit: self.over_limit, ..counts }
    }

    /// Routes the peer has announced and not withdrawn, where a maximum is configured.
    pub(super) fn held(&self) -> Option<u64> {
        self.count.as_ref().map(RouteCount::held)
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
            if self.fits(&change, &mut learnt) {
                if self.batch.capacity() == 0 {
                    self.batch.reserve_exact(BATCH);
                }
                self.batch.push(route_change(change));
            }
            if self.batch.len() >= BATCH {
                self.flush(pending);
            }
        }
        // Order matters: the decision must have the table before it hears that the table is complete.
        if translated.end_of_rib.is_some() {
            self.flush(pending);
        }
        for notice in translated.notices {
            let log = self.is_news(notice.kind, notice.attribute);
            learnt.notices.push((notice, log));
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

    fn is_news(&mut self, kind: &'static str, attribute: &'static str) -> bool {
        let now = Instant::now();
        let news = self.logged.get(&(kind, attribute)).is_none_or(|at| now.duration_since(*at) >= QUIET);
        if news {
            self.logged.insert((kind, attribute), now);
        }
        news
    }

    /// False where the change is beyond the maximum.
    fn fits(&mut self, change: &Change, learnt: &mut Learnt) -> bool {
        let (Some(count), Some(maximum)) = (&mut self.count, self.max_routes) else { return true };
        let (prefix, room) = match change {
            Change::Announce { prefix, path_id, .. } => (*prefix, count.announce(*prefix, *path_id)),
            Change::Withdraw { prefix, path_id } => {
                count.withdraw(*prefix, *path_id);
                return true;
            }
        };
        let detail = match room {
            Room::Enough => return true,
            Room::Warn => format!("{} routes, of at most {}", count.held(), maximum.limit),
            Room::Dropped => {
                format!("more than {} routes; this one and further ones are dropped", maximum.limit)
            }
            Room::Exceeded => {
                let restart = match maximum.beyond {
                    Beyond::Restart(pause) => Some(pause),
                    Beyond::Down | Beyond::Drop => None,
                };
                let routes = count.held() + 1;
                learnt.exceeded = Some(SessionFault::TooManyRoutes { routes, limit: maximum.limit, restart });
                return false;
            }
        };
        self.over_limit += u64::from(room == Room::Dropped);
        let kind = if room == Room::Warn { "many-routes" } else { "over-limit" };
        let log = self.is_news(kind, "");
        learnt.notices.push((Notice { kind, attribute: "", prefix: Some(prefix), routes: 1, detail }, log));
        room == Room::Warn
    }
}

fn route_change(change: Change) -> RouteChange {
    match change {
        Change::Announce { prefix, path_id, attrs } => RouteChange::Announce { prefix, path_id, attrs },
        Change::Withdraw { prefix, path_id } => RouteChange::Withdraw { prefix, path_id },
    }
}
