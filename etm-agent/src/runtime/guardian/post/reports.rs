//! What sessions do, kept and told to the agent. Never orders a session.

use super::{Guarded, Post};
use crate::core::input::{Input, SessionChange};
use crate::guardian::{FromGuardian, Report};
use std::time::Duration;
use tokio::time::Instant;

impl Post {
    /// What a session says.
    pub(super) fn note(&mut self, input: Input) {
        match input {
            Input::Session(event) => {
                let Some(session) = self.guarded.get_mut(&event.peer) else { return };
                if let SessionChange::Up { families } = event.change {
                    session.report.up = Some(families);
                    session.report.end_of_rib.clear();
                } else if let SessionChange::EndOfRib(family) = event.change {
                    session.report.end_of_rib.push(family);
                } else if let SessionChange::Down { .. } = event.change {
                    session.report.up = None;
                    session.acknowledged = None;
                }
            }
            Input::Told(told) => {
                let Some(session) = self.guarded.get_mut(&told.peer) else { return };
                session.acknowledged = Some(told.generation);
                if self.decided {
                    session.report.told = Some((told.generation, told.at));
                    session.report.changed += told.changed;
                }
                self.confirm();
            }
            // Sessions with role inject say nothing else.
            _ => return,
        }
        self.publish();
    }

    /// Whether those who were told of an agent's end have all heard it.
    pub(super) fn confirm(&mut self) {
        let Some(parting) = &self.parting else { return };
        let heard = |session: &Guarded| {
            session.report.up.is_none() || session.acknowledged == Some(parting.generation)
        };
        let confirmed = self.guarded.values().all(heard);
        if confirmed || Instant::now() >= parting.deadline {
            let visitor = parting.visitor;
            self.parting = None;
            self.answer(visitor, FromGuardian::Stopped { confirmed });
            self.visitors.remove(&visitor);
        }
    }

    pub(super) fn publish(&mut self) {
        let sessions = self.guarded.values_mut().map(|session| {
            session.report.status.clone_from(&session.status.borrow());
            session.report.clone()
        });
        let report = Report {
            held: self.custody.told().announce.len(),
            until: self.custody.until(),
            off: self.custody.is_off(),
            ordered_off: self.custody.is_ordered_off(),
            heard_on: self.heard_on,
            sessions: sessions.collect(),
        };
        // An agent knows a guardian that hangs by its silence.
        let due = self.reported.elapsed() >= Duration::from_secs(1);
        let sent = self.reports.send_if_modified(|last| {
            let differs = due || *last != report;
            if differs {
                *last = report;
            }
            differs
        });
        if sent {
            self.reported = Instant::now();
        }
    }
}
