//! A session from Established to its last byte: reading, writing, timers and the state machine in one task.
//!
//! Invariants: reading stops while the decision has not taken what was read, writing and keepalives never do;
//! no buffer grows beyond one read, or one decision. Never reconnects.

mod news;

use self::news::News;
use super::config::SessionConfig;
use super::inject::{Inject, Lesson};
use super::learn::Learn;
use super::opening::{Opening, Progress};
use super::ports::{Arrival, Doors, Order, Ports, next};
use super::stale::Stale;
use super::wire::{FAREWELL, Filled, Wire, at};
use super::{socket, status};
use crate::core::input::{Input, SessionChange, SessionEvent, Told};
use crate::proto::bgp::{Event, Negotiated, SessionFault, Step, ask_again, end_of_rib};
use crate::types::Family;
use crate::types::bgp::Initiator;
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// No new decision is encoded while more than this waits to be written: the newest one replaces it meanwhile.
const OUTBOX_FULL: usize = 256 * 1024;
/// Pause between two looks at what the peer's TCP has acknowledged.
const ACKNOWLEDGE_POLL: Duration = Duration::from_millis(2);
/// Pause between Established and our End-of-RIB on learn sessions. BIRD 2.0.12 can leave its first UPDATEs lying
/// until something wakes it, at worst its own keepalive timer; a message that arrives a little later does.
const NUDGE: Duration = Duration::from_millis(50);
/// For the same reason keepalives go out at the rate RFC 4271 section 4.4 allows until the peer's table is
/// complete, or for this long where the peer never says so.
const IMPATIENT: Duration = Duration::from_secs(30);
const IMPATIENT_KEEPALIVE: Duration = Duration::from_secs(1);
/// What the peer's operator reads when ETM stops (RFC 9003).
const STOP_TEXT: &str = "ETM is stopping";

/// What a session is for.
#[derive(Debug)]
pub(super) enum Role {
    Learn(Learn),
    Inject(Inject),
}

/// How a session ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) fault: SessionFault,
    pub(super) session: Negotiated,
    /// How long it was established.
    pub(super) up: Duration,
    /// False where the peer was told something that it may still believe while the connection closes.
    pub(super) confirmed: bool,
    /// The connection that takes its place.
    pub(super) successor: Option<Opening>,
}

/// What outlives a connection, borrowed from the driver.
pub(super) struct Context<'a> {
    pub(super) config: &'a SessionConfig,
    pub(super) role: &'a mut Role,
    pub(super) ports: &'a mut Ports,
    pub(super) doors: &'a mut Doors,
    pub(super) stale: &'a mut Stale,
}

/// Runs one session to its end; says all that is to be said to the peer, and nothing about the end to others.
pub(super) async fn converse(opening: Opening, session: Negotiated, context: Context<'_>) -> Ended {
    let mut connection = Connection {
        wire: opening.wire,
        at: context,
        up: Instant::now(),
        pending: VecDeque::new(),
        nudge: None,
        awaited: 0,
        confirmed: true,
        news: News::default(),
        rival: None,
        parting: None,
        end: None,
        session,
    };
    connection.established();
    connection.parse();
    let fault = loop {
        connection.write();
        connection.acknowledge();
        connection.publish();
        if let Some(fault) = connection.end.take() {
            break fault;
        }
        let wake = connection.wake().await;
        connection.on_wake(wake).await;
    };
    connection.finish(fault).await
}

/// Why the task runs again.
enum Wake {
    Stop,
    KeepaliveDue,
    HoldExpired,
    SendHoldExpired,
    Writable,
    Readable,
    Delivered,
    Decided,
    Acknowledge,
    Nudge,
    StaleDue,
    Arrived(Arrival),
    Ordered(Order),
    Rival(Progress),
    Parted,
}

struct Connection<'a> {
    wire: Wire,
    at: Context<'a>,
    session: Negotiated,
    up: Instant,
    /// What the decision has not taken yet.
    pending: VecDeque<Input>,
    /// When our End-of-RIB is due.
    nudge: Option<Instant>,
    /// End-of-RIBs the peer has not sent yet.
    awaited: usize,
    /// The withdrawals of an orderly end were acknowledged.
    confirmed: bool,
    /// What UPDATEs brought that is not shown yet.
    news: News,
    /// The peer connected again.
    rival: Option<Opening>,
    /// The end of a rival.
    parting: Option<BoxFuture<'static, ()>>,
    end: Option<SessionFault>,
}

impl Connection<'_> {
    /// Waits for the first thing to do, in this order where several are due: order is what keeps a flood of
    /// UPDATEs from starving keepalives.
    async fn wake(&mut self) -> Wake {
        let listening = self.pending.is_empty();
        let room = self.wire.outbox.len() < OUTBOX_FULL;
        let marks = matches!(&*self.at.role, Role::Inject(inject) if inject.oldest_mark().is_some());
        tokio::select! {
            biased;
            _ = self.at.ports.stop.wait_for(|stop| *stop) => Wake::Stop,
            () = at(self.wire.keepalive) => Wake::KeepaliveDue,
            _ = self.wire.stream.writable(), if !self.wire.outbox.is_empty() => Wake::Writable,
            () = at(self.wire.stuck) => Wake::SendHoldExpired,
            () = at(self.nudge) => Wake::Nudge,
            order = next(&mut self.at.doors.orders) => Wake::Ordered(order),
            progress = step(&mut self.rival) => Wake::Rival(progress),
            arrival = next(&mut self.at.doors.arrivals) => Wake::Arrived(arrival),
            () = part(&mut self.parting) => Wake::Parted,
            permit = self.at.ports.inputs.reserve(), if !listening => match permit {
                Ok(permit) => {
                    if let Some(input) = self.pending.pop_front() {
                        permit.send(input);
                    }
                    Wake::Delivered
                }
                // Nobody decides any more.
                Err(_) => Wake::Stop,
            },
            () = decided(self.at.role), if room => Wake::Decided,
            _ = self.wire.stream.readable(), if listening => Wake::Readable,
            () = at(self.at.stale.deadline()), if listening => Wake::StaleDue,
            () = sleep(ACKNOWLEDGE_POLL), if marks => Wake::Acknowledge,
            // While we do not listen, silence is ours.
            () = at(self.wire.hold), if listening => Wake::HoldExpired,
        }
    }

    async fn on_wake(&mut self, wake: Wake) {
        match wake {
            Wake::Stop => self.bow_out(STOP_TEXT.to_owned(), SessionFault::Stopped).await,
            Wake::KeepaliveDue => self.feed(Event::KeepaliveDue),
            Wake::HoldExpired => self.feed(Event::HoldExpired),
            Wake::SendHoldExpired => {
                self.end = Some(SessionFault::SendHoldExpired { waited: self.at.config.send_hold() });
            }
            Wake::Readable => self.read(),
            Wake::Nudge => self.announce_nothing(),
            Wake::StaleDue => {
                let gone = self.at.stale.expired(Instant::now());
                gone.into_iter().for_each(|family| self.push(SessionChange::Sweep(family)));
            }
            Wake::Decided => {
                if let Role::Inject(inject) = &mut *self.at.role {
                    let lesson = inject.next();
                    self.teach(&lesson);
                }
            }
            Wake::Arrived(arrival) => self.arrived(arrival),
            Wake::Rival(progress) => self.rivalry(&progress),
            Wake::Ordered(order) => self.obey(order).await,
            Wake::Parted => self.parting = None,
            Wake::Writable | Wake::Delivered | Wake::Acknowledge => {}
        }
    }

    fn feed(&mut self, event: Event) {
        let steps = self.wire.machine.on(event);
        for step in steps {
            match step {
                Step::Send(bytes) => self.wire.say(&bytes),
                Step::Hold(after) => self.wire.hold = after.map(|after| Instant::now() + after),
                Step::Keepalive(after) => self.wire.keepalive = after.map(|after| self.next_keepalive(after)),
                Step::Refresh(family) => self.refresh(family),
                Step::RefreshBegins(family) => self.refresh_begins(family),
                Step::RefreshEnds(family) => self.refresh_ends(family),
                Step::Close(fault) => drop(self.end.get_or_insert(fault)),
                // Both lie behind us.
                Step::Opened(..) | Step::Up(_) => {}
            }
        }
    }

    fn next_keepalive(&self, after: Duration) -> Instant {
        let waiting = self.awaited > 0 && self.up.elapsed() < IMPATIENT;
        Instant::now() + if waiting { after.min(IMPATIENT_KEEPALIVE) } else { after }
    }

    /// The whole of what a learn session ever announces: that it announces nothing.
    fn announce_nothing(&mut self) {
        self.nudge = None;
        for family in Family::ALL {
            if self.session.families.contains(&family) {
                self.wire.say(&end_of_rib(family));
            }
        }
    }

    fn established(&mut self) {
        self.wire.set_limit(self.session.message_limit);
        let (local, initiator) = (self.wire.local, self.wire.initiator);
        let session = &self.session;
        self.at.ports.show(|shown, now| {
            status::up(shown, session, now);
            shown.local = Some(local);
            shown.initiator = Some(initiator);
        });
        tracing::info!(
            peer = %self.at.config.name, hold_s = session.hold.as_secs(), families = ?session.families,
            add_path = ?session.add_path, router_id = %session.peer_router_id, ?initiator, "session established"
        );
        let families = session.families.clone();
        self.push(SessionChange::Up { families });
        match &mut *self.at.role {
            Role::Learn(learn) => {
                learn.up(&self.session);
                self.awaited = self.session.families.len();
                let now = Instant::now();
                self.nudge = Some(now + NUDGE);
                self.wire.keepalive = self.wire.keepalive.map(|due| due.min(now + IMPATIENT_KEEPALIVE));
                let lost = self.at.stale.returned(&self.session, now + self.at.config.stale);
                lost.into_iter().for_each(|family| self.push(SessionChange::Sweep(family)));
            }
            Role::Inject(inject) => {
                let lesson = inject.up(&self.session);
                self.teach(&lesson);
            }
        }
    }

    fn push(&mut self, change: SessionChange) {
        self.pending.push_back(Input::Session(SessionEvent { peer: self.at.config.peer, change }));
    }

    fn teach(&mut self, lesson: &Lesson) {
        self.wire.queue(&lesson.packed.bytes);
        self.wire.sent.update += lesson.packed.messages;
        let queued = self.wire.queued;
        let Role::Inject(inject) = &mut *self.at.role else { return };
        inject.mark(lesson, queued);
        let (announced, withheld) = (inject.announced(), inject.withheld());
        self.at.ports.show(|shown, _| {
            shown.announced = announced;
            shown.withheld = withheld;
            if lesson.whole {
                shown.written = Some(lesson.generation);
            }
        });
        if lesson.changed > 0 || withheld > 0 {
            tracing::debug!(
                peer = %self.at.config.name, generation = %lesson.generation, changed = lesson.changed, announced,
                withheld, "telling the peer"
            );
        }
    }

    fn arrived(&mut self, arrival: Arrival) {
        let Arrival::Stream(stream) = arrival else { return };
        if self.rival.is_none() {
            let learns = matches!(&*self.at.role, Role::Learn(_));
            self.rival = Opening::start(stream, self.at.config, learns, Initiator::Peer).ok();
        }
    }

    /// RFC 4271 section 6.8: an Established session is kept; RFC 4724 section 4.2: not that of a peer that restarts.
    fn rivalry(&mut self, progress: &Progress) {
        let Some(rival) = self.rival.take() else { return };
        match progress {
            Progress::Opened if self.session.restart.is_some() => {
                self.rival = Some(rival);
                self.end.get_or_insert(SessionFault::Replaced);
            }
            Progress::Opened | Progress::Up(_) => {
                let wire = rival.end(Event::Cease(7, Vec::new(), SessionFault::Collision));
                self.parting = Some(Box::pin(wire.close()));
            }
            Progress::Ended(_) => {}
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Reset(text) => {
                self.withdraw_all().await;
                self.feed(Event::Reset(text));
            }
            Order::Shutdown(text) => {
                self.bow_out(text, SessionFault::ByOperator { what: "shut down" }).await;
            }
            Order::Refresh(wanted) if self.session.route_refresh => {
                let wanted = |family: &Family| wanted.is_none_or(|wanted| wanted == *family);
                for family in self.session.families.iter().copied().filter(wanted).collect::<Vec<_>>() {
                    self.wire.say(&ask_again(family));
                }
            }
            Order::Refresh(_) => {
                tracing::warn!(peer = %self.at.config.name, "the peer does not know route refresh; reset it instead");
            }
            Order::Start => {}
        }
    }

    fn read(&mut self) {
        match self.wire.fill() {
            Ok(Filled::Closed) => self.feed(Event::Lost(None)),
            Ok(Filled::Some) => self.parse(),
            Ok(Filled::Nothing) => {}
            Err(error) => self.feed(Event::Lost(Some(error.to_string()))),
        }
    }

    /// All whole messages that were read.
    fn parse(&mut self) {
        let mut updates = false;
        while self.end.is_none() {
            match self.wire.frame() {
                Ok(Some(frame)) if frame.is_update() => {
                    self.update(&frame);
                    updates = true;
                }
                Ok(Some(frame)) => self.feed(Event::Received(frame)),
                Ok(None) => break,
                Err(malformed) => self.feed(Event::Malformed(malformed)),
            }
        }
        // The machine makes nothing of them but that the peer is alive: once for all of a read.
        if updates && self.end.is_none() {
            self.feed(Event::Updated);
        }
        self.hand_on();
    }

    fn write(&mut self) {
        match self.wire.flush() {
            Ok(0) => {}
            Ok(count) => self.at.ports.show(|shown, _| shown.traffic.bytes_out += count),
            // The read side knows more: a NOTIFICATION may wait there, or the reason of the reset. What was to be
            // written is void: it would wake this task again and again, before the read side is known to be ready.
            Err(_) if self.end.is_none() && self.pending.is_empty() => {
                self.wire.outbox.clear();
                self.read();
            }
            Err(error) => {
                self.wire.outbox.clear();
                self.end.get_or_insert(SessionFault::Broken { error: error.to_string() });
            }
        }
    }

    /// Reports decisions whose last byte the peer's TCP has acknowledged.
    fn acknowledge(&mut self) {
        let Role::Inject(inject) = &mut *self.at.role else { return };
        let Some(oldest) = inject.oldest_mark() else { return };
        let Ok(open) = socket::unacknowledged(&self.wire.stream) else { return };
        let at = (self.at.ports.clock)();
        while let Some(mark) = inject.acknowledged(self.wire.written.saturating_sub(open)) {
            let (generation, changed) = (mark.generation, mark.changed);
            let told = Told { peer: self.at.config.peer, generation, at, changed };
            self.pending.push_back(Input::Told(told));
            self.at.ports.show(|shown, _| shown.told = Some(mark.generation));
        }
        let waited = self.at.config.send_hold();
        if inject.oldest_mark() == Some(oldest) && oldest.since.elapsed() > waited {
            self.end.get_or_insert(SessionFault::SendHoldExpired { waited });
        }
    }

    /// An orderly end: withdraw, wait until that has arrived, then say Cease.
    async fn bow_out(&mut self, text: String, fault: SessionFault) {
        self.withdraw_all().await;
        self.feed(Event::Stop(text));
        self.end = Some(fault);
    }

    async fn withdraw_all(&mut self) {
        let Role::Inject(inject) = &mut *self.at.role else { return };
        let lesson = inject.withdraw_all();
        self.teach(&lesson);
        self.confirmed = timeout(FAREWELL, self.wire.drain(ACKNOWLEDGE_POLL)).await.unwrap_or(false);
        if !self.confirmed {
            tracing::warn!(
                peer = %self.at.config.name,
                "the peer does not take the withdrawals; closing, which withdraws everything too"
            );
        }
    }

    async fn finish(self, fault: SessionFault) -> Ended {
        let Connection { wire, at, session, up, confirmed, rival, .. } = self;
        // RFC 4724 section 4.2: the old connection of a restarted peer is closed without a word.
        if fault != SessionFault::Replaced {
            wire.close().await;
        }
        match at.role {
            Role::Learn(learn) => learn.down(),
            Role::Inject(inject) => inject.down(),
        }
        Ended { fault, session, up: up.elapsed(), confirmed, successor: rival }
    }
}

async fn step(rival: &mut Option<Opening>) -> Progress {
    match rival {
        Some(opening) => opening.step().await,
        None => std::future::pending().await,
    }
}

async fn part(parting: &mut Option<BoxFuture<'static, ()>>) {
    match parting {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn decided(role: &mut Role) {
    match role {
        Role::Learn(_) => std::future::pending().await,
        Role::Inject(inject) => inject.decided().await,
    }
}
