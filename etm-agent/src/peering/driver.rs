//! A session for the life of the agent: connect or be connected to, converse, report, wait, again. Never gives up: that
//! is the caller's decision, by the fault.

use super::config::{InjectConfig, SessionConfig};
use super::connection::{Context, Ended, Role, converse};
use super::inject::Inject;
use super::learn::Learn;
use super::meeting::Meeting;
use super::opening::Opening;
use super::ports::{Doors, Ports};
use super::stale::{Stale, retainable};
use super::status;
use crate::core::decision::Decision;
use crate::core::input::SessionChange;
use crate::proto::bgp::{Negotiated, SessionFault};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A session that lived this long is not flapping: its end is followed by the shortest pause.
const STEADY: Duration = Duration::from_secs(30);

/// How a session ended that was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The peer's TCP acknowledged the withdrawals, or there was nothing to withdraw.
    Clean,
    /// It did not within a second; the connection is closed, so the peer withdraws when it notices.
    Unconfirmed,
}

/// Learns from one peer until `ports.stop`.
pub async fn run_learn(config: SessionConfig, ports: Ports) {
    run_learn_with(config, ports, Doors::default()).await;
}

/// The same, reached by others through `doors`.
pub async fn run_learn_with(config: SessionConfig, ports: Ports, doors: Doors) {
    let role = Role::Learn(Learn::new(&config));
    Driver::new(config, role, ports, doors).run().await;
}

/// Brings one peer to the newest of `decisions` until `ports.stop`, then withdraws everything.
pub async fn run_inject(
    config: SessionConfig,
    inject: InjectConfig,
    decisions: watch::Receiver<Arc<Decision>>,
    ports: Ports,
) -> Parting {
    run_inject_with(config, inject, decisions, ports, Doors::default()).await
}

/// The same, reached by others through `doors`.
pub async fn run_inject_with(
    config: SessionConfig,
    inject: InjectConfig,
    decisions: watch::Receiver<Arc<Decision>>,
    ports: Ports,
    doors: Doors,
) -> Parting {
    let role = Role::Inject(Inject::new(inject, decisions));
    Driver::new(config, role, ports, doors).run().await
}

struct Driver {
    config: SessionConfig,
    role: Role,
    ports: Ports,
    doors: Doors,
    stale: Stale,
    meeting: Meeting,
}

impl Driver {
    fn new(config: SessionConfig, role: Role, ports: Ports, doors: Doors) -> Driver {
        let meeting = Meeting::new(&config, matches!(role, Role::Learn(_)));
        Driver { config, role, ports, doors, stale: Stale::default(), meeting }
    }

    async fn run(mut self) -> Parting {
        loop {
            let met = self.meeting.next(&self.config, &mut self.ports, &mut self.doors, &mut self.stale);
            let Some((opening, session)) = met.await else { return Parting::Clean };
            let ended = self.converse(opening, session).await;
            if let Some(parting) = self.after(ended).await {
                return parting;
            }
        }
    }

    async fn converse(&mut self, opening: Opening, session: Negotiated) -> Ended {
        let Driver { config, role, ports, doors, stale, .. } = self;
        converse(opening, session, Context { config, role, ports, doors, stale }).await
    }

    async fn after(&mut self, ended: Ended) -> Option<Parting> {
        let Ended { fault, session, up, confirmed, successor } = ended;
        self.ports.show(|shown, now| status::down(shown, &fault, now));
        let up_s = up.as_secs();
        if fault == SessionFault::Stopped {
            tracing::info!(peer = %self.config.name, up_s, "session stopped");
        } else {
            let permanent = fault.is_permanent();
            tracing::warn!(peer = %self.config.name, up_s, permanent, "session down: {fault}");
        }
        let keeps = matches!(self.role, Role::Learn(_)).then_some(&session);
        self.report(&fault, retainable(keeps, &fault, self.config.retain)).await;
        if *self.ports.stop.borrow() || self.ports.inputs.is_closed() {
            return Some(if confirmed { Parting::Clean } else { Parting::Unconfirmed });
        }
        self.meeting.ended(&fault, up >= STEADY, successor);
        None
    }

    /// Tells the decision that the session is down, and what of it stays.
    async fn report(
        &mut self,
        fault: &SessionFault,
        retained: Option<(Vec<crate::types::Family>, Duration)>,
    ) {
        let (peer, reason) = (self.config.peer, fault.to_string());
        // What was stale before did not come again: a second restart does not prolong the first.
        for family in self.stale.forget() {
            if retained.is_some() {
                self.ports.tell(peer, SessionChange::Sweep(family)).await;
            }
        }
        let change = match retained {
            None => SessionChange::Down { reason },
            Some((families, time)) => {
                tracing::info!(
                    peer = %self.config.name, ?families, seconds = time.as_secs(),
                    "keeping the routes of a peer that restarts"
                );
                self.stale.keep(&families, Instant::now() + time);
                let shown_families = families.clone();
                self.ports.show(|shown, now| {
                    shown.stale = shown_families;
                    shown.stale_until = Some(now + time);
                });
                SessionChange::Retained { families, reason }
            }
        };
        self.ports.tell(peer, change).await;
    }
}
