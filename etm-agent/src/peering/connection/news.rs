//! What the peer says once a session is up: routes, tables that are complete, tables that come again; and what operators
//! are shown of it. Never writes to the socket except to answer a refresh.

use super::{Connection, Role};
use crate::core::input::SessionChange;
use crate::proto::bgp::{Event, Frame, SessionFault, end_of_rib, refresh_marks};
use crate::types::Family;
use crate::types::bgp::Messages;
use tokio::time::Instant;

/// Cease, Maximum Number of Prefixes Reached (RFC 4486).
const TOO_MANY: u8 = 1;

/// What UPDATEs brought since it was shown last: readers are woken once for all of a read.
#[derive(Debug, Default)]
pub(super) struct News {
    announced: u64,
    withdrawn: u64,
    notice: Option<String>,
}

impl Connection<'_> {
    pub(super) fn update(&mut self, frame: &Frame) {
        let Role::Learn(learn) = &mut *self.at.role else { return };
        let learnt = match learn.update(frame, &mut self.pending) {
            Ok(learnt) => learnt,
            Err(reset) => return self.feed(Event::Unusable(reset)),
        };
        for (notice, log) in &learnt.notices {
            if *log {
                tracing::warn!(
                    peer = %self.at.config.name, "{notice}; further ones of this kind are counted for a minute"
                );
            } else {
                tracing::debug!(peer = %self.at.config.name, "{notice}");
            }
        }
        self.news.announced += learnt.announced;
        self.news.withdrawn += learnt.withdrawn;
        if let Some((notice, _)) = learnt.notices.last() {
            self.news.notice = Some(notice.to_string());
        }
        if let Some(family) = learnt.end_of_rib {
            self.table_complete(family);
        }
        if let Some(fault) = learnt.exceeded {
            self.too_many(fault);
        }
    }

    /// What is stale goes before the decision hears that the table is complete.
    fn table_complete(&mut self, family: Family) {
        self.awaited = self.awaited.saturating_sub(1);
        if self.at.stale.complete(family) {
            self.push(SessionChange::Sweep(family));
        }
        self.push(SessionChange::EndOfRib(family));
        self.at.ports.show(|shown, _| {
            if !shown.end_of_rib.contains(&family) {
                shown.end_of_rib.push(family);
            }
        });
    }

    fn too_many(&mut self, fault: SessionFault) {
        let SessionFault::TooManyRoutes { limit, .. } = fault else { return };
        // RFC 4486 section 4: AFI, SAFI and the limit; the limit is one for both families, so the first stands for both.
        let mut data = vec![0, 1, 1];
        data.extend_from_slice(&u32::try_from(limit).unwrap_or(u32::MAX).to_be_bytes());
        self.feed(Event::Cease(TOO_MANY, data, fault));
    }

    pub(super) fn refresh(&mut self, family: Family) {
        let marks = self.session.enhanced_refresh.then(|| refresh_marks(family));
        if let Some((begin, _)) = &marks {
            self.wire.say(begin);
        }
        match &mut *self.at.role {
            Role::Learn(_) if marks.is_none() => self.wire.say(&end_of_rib(family)),
            Role::Learn(_) => {}
            Role::Inject(inject) => {
                let lesson = inject.refresh(family);
                self.teach(&lesson);
            }
        }
        if let Some((_, end)) = &marks {
            self.wire.say(end);
        }
    }

    pub(super) fn refresh_begins(&mut self, family: Family) {
        let Role::Learn(learn) = &mut *self.at.role else { return };
        // RFC 7313 section 4.2: one that was going on is ended by this one.
        learn.flush(&mut self.pending);
        self.at.stale.refreshing(family, Instant::now() + self.at.config.stale);
        self.push(SessionChange::Refreshing(family));
    }

    pub(super) fn refresh_ends(&mut self, family: Family) {
        let Role::Learn(learn) = &mut *self.at.role else { return };
        learn.flush(&mut self.pending);
        if self.at.stale.complete(family) {
            self.push(SessionChange::Sweep(family));
        }
    }

    /// The rest of a read goes to the decision.
    pub(super) fn hand_on(&mut self) {
        if let Role::Learn(learn) = &mut *self.at.role {
            learn.flush(&mut self.pending);
        }
    }

    /// Counters since the last time.
    pub(super) fn publish(&mut self) {
        let held_back = !self.pending.is_empty() && self.at.ports.inputs.capacity() == 0;
        let wire = &mut self.wire;
        let (received, sent) = (std::mem::take(&mut wire.received), std::mem::take(&mut wire.sent));
        let (bytes_in, news) = (std::mem::take(&mut wire.bytes_in), std::mem::take(&mut self.news));
        let none = Messages::default();
        if received == none && sent == none && bytes_in == 0 && !held_back {
            return;
        }
        let learnt = match &*self.at.role {
            Role::Learn(learn) => Some((learn.counts(), learn.held())),
            Role::Inject(_) => None,
        };
        let (stale, until) = (self.at.stale.families(), self.at.stale.deadline());
        self.at.ports.show(|shown, now| {
            shown.traffic.received.add(&received);
            shown.traffic.sent.add(&sent);
            shown.traffic.bytes_in += bytes_in;
            shown.traffic.announced_in += news.announced;
            shown.traffic.withdrawn_in += news.withdrawn;
            if news.notice.is_some() {
                shown.last_notice = news.notice;
            }
            shown.traffic.held_back += u64::from(held_back);
            if let Some((counts, held)) = learnt {
                shown.dispositions = counts;
                shown.held = held;
            }
            shown.stale = stale;
            shown.stale_until = until.map(|at| now + at.saturating_duration_since(Instant::now()));
        });
    }
}
