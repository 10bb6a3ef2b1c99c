//! One connection from its first byte to its last: reading, writing, timers and the state machine in one task.
//!
//! Invariants: reading stops while the decision has not taken what was read, writing and keepalives never do;
//! no buffer grows beyond one read, or one decision. Never reconnects.

mod farewell;

use super::config::SessionConfig;
use super::inject::{Inject, Lesson};
use super::learn::Learn;
use super::ports::Ports;
use super::socket;
use crate::core::input::{Input, SessionChange, SessionEvent, Told};
use crate::proto::bgp::{Event, Frame, FrameReader, Machine, Negotiated, SessionFault, Step, end_of_rib};
use crate::types::Family;
use bytes::{Buf, BytesMut};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes taken from the socket at once: some thousand routes, half a millisecond of work.
const READ: usize = 64 * 1024;
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

/// What a session is for.
#[derive(Debug)]
pub(super) enum Role {
    Learn(Learn),
    Inject(Inject),
}

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) fault: SessionFault,
    /// How long it was established.
    pub(super) up: Option<Duration>,
    /// False where the peer was told something that it may still believe while the connection closes.
    pub(super) confirmed: bool,
}

/// Runs one connection to its end; says all that is to be said to the peer, and nothing about the end to others.
pub(super) async fn converse(
    stream: TcpStream,
    config: &SessionConfig,
    role: &mut Role,
    ports: &mut Ports,
) -> Ended {
    let broken = |error: io::Error| SessionFault::Broken { error: error.to_string() };
    let ends = stream.local_addr().and_then(|local| stream.peer_addr().map(|remote| (local, remote)));
    let (local, remote) = match ends {
        Ok(ends) => ends,
        Err(error) => return Ended { fault: broken(error), up: None, confirmed: true },
    };
    let speaker = config.speaker(matches!(role, Role::Learn(_)));
    let (machine, steps) = Machine::start(speaker, local, remote);
    let mut connection = Connection {
        stream,
        machine,
        role,
        ports,
        config,
        frames: FrameReader::default(),
        inbox: BytesMut::new(),
        outbox: BytesMut::new(),
        queued: 0,
        written: 0,
        pending: VecDeque::new(),
        hold: None,
        keepalive: None,
        stuck: None,
        up: None,
        nudge: None,
        families: Vec::new(),
        awaited: 0,
        state: "",
        confirmed: true,
        end: None,
    };
    connection.apply(steps);
    let fault = loop {
        if let Some(fault) = connection.end.take() {
            break fault;
        }
        let wake = connection.wake().await;
        connection.on_wake(wake).await;
    };
    connection.close().await;
    let (up, confirmed) = (connection.up.map(|since| since.elapsed()), connection.confirmed);
    match connection.role {
        Role::Learn(learn) => learn.down(),
        Role::Inject(inject) => inject.down(),
    }
    Ended { fault, up, confirmed }
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
}

struct Connection<'a> {
    stream: TcpStream,
    machine: Machine,
    role: &'a mut Role,
    ports: &'a mut Ports,
    config: &'a SessionConfig,
    frames: FrameReader,
    inbox: BytesMut,
    outbox: BytesMut,
    /// Bytes ever put into `outbox`, and ever taken from it by the kernel.
    queued: u64,
    written: u64,
    /// What the decision has not taken yet.
    pending: VecDeque<Input>,
    hold: Option<Instant>,
    keepalive: Option<Instant>,
    /// When unwritten bytes mean that the peer hangs (RFC 9687).
    stuck: Option<Instant>,
    up: Option<Instant>,
    /// When our End-of-RIB is due, and for which families.
    nudge: Option<Instant>,
    families: Vec<Family>,
    /// End-of-RIBs the peer has not sent yet.
    awaited: usize,
    /// As last shown.
    state: &'static str,
    /// The withdrawals of an orderly end were acknowledged.
    confirmed: bool,
    end: Option<SessionFault>,
}

impl Connection<'_> {
    /// Waits for the first thing to do, in this order where several are due: order is what keeps a flood of
    /// UPDATEs from starving keepalives.
    async fn wake(&mut self) -> Wake {
        let listening = self.pending.is_empty();
        let room = self.outbox.len() < OUTBOX_FULL;
        let marks = matches!(&*self.role, Role::Inject(inject) if inject.oldest_mark().is_some());
        tokio::select! {
            biased;
            _ = self.ports.stop.wait_for(|stop| *stop) => Wake::Stop,
            () = at(self.keepalive) => Wake::KeepaliveDue,
            _ = self.stream.writable(), if !self.outbox.is_empty() => Wake::Writable,
            () = at(self.stuck) => Wake::SendHoldExpired,
            () = at(self.nudge) => Wake::Nudge,
            permit = self.ports.inputs.reserve(), if !listening => match permit {
                Ok(permit) => {
                    if let Some(input) = self.pending.pop_front() {
                        permit.send(input);
                    }
                    Wake::Delivered
                }
                // Nobody decides any more.
                Err(_) => Wake::Stop,
            },
            () = decided(self.role), if room => Wake::Decided,
            _ = self.stream.readable(), if listening => Wake::Readable,
            () = sleep(ACKNOWLEDGE_POLL), if marks => Wake::Acknowledge,
            // While we do not listen, silence is ours.
            () = at(self.hold), if listening => Wake::HoldExpired,
        }
    }

    async fn on_wake(&mut self, wake: Wake) {
        match wake {
            Wake::Stop => return self.finish().await,
            Wake::KeepaliveDue => self.feed(Event::KeepaliveDue),
            Wake::HoldExpired => self.feed(Event::HoldExpired),
            Wake::SendHoldExpired => {
                self.end = Some(SessionFault::SendHoldExpired { waited: self.config.send_hold() });
            }
            Wake::Readable => self.read(),
            Wake::Nudge => self.nudge(),
            Wake::Decided => {
                if let Role::Inject(inject) = &mut *self.role {
                    let lesson = inject.converge();
                    self.teach(&lesson);
                }
            }
            Wake::Writable | Wake::Delivered | Wake::Acknowledge => {}
        }
        self.write();
        self.acknowledge();
    }

    fn feed(&mut self, event: Event) {
        let steps = self.machine.on(event);
        self.apply(steps);
    }

    fn apply(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Send(bytes) => self.queue(&bytes),
                Step::Hold(after) => self.hold = after.map(|after| Instant::now() + after),
                Step::Keepalive(after) => self.keepalive = after.map(|after| self.next_keepalive(after)),
                Step::Up(session) => self.established(&session),
                Step::Refresh(family) => match &mut *self.role {
                    Role::Learn(_) => self.queue(&end_of_rib(family)),
                    Role::Inject(inject) => {
                        let lesson = inject.refresh(family);
                        self.teach(&lesson);
                    }
                },
                Step::Close(fault) => self.end = Some(fault),
            }
        }
        let state = self.machine.state();
        if state != self.state {
            self.state = state;
            let now = (self.ports.clock)();
            self.ports.status.send_modify(|status| status.enter(state, now));
        }
    }

    fn next_keepalive(&self, after: Duration) -> Instant {
        let waiting = self.awaited > 0 && self.up.is_some_and(|up| up.elapsed() < IMPATIENT);
        Instant::now() + if waiting { after.min(IMPATIENT_KEEPALIVE) } else { after }
    }

    /// The whole of what a learn session ever announces: that it announces nothing.
    fn nudge(&mut self) {
        self.nudge = None;
        for family in Family::ALL {
            if self.families.contains(&family) {
                self.queue(&end_of_rib(family));
            }
        }
    }

    fn established(&mut self, session: &Negotiated) {
        self.up = Some(Instant::now());
        self.frames.set_limit(session.message_limit);
        let now = (self.ports.clock)();
        self.ports.status.send_modify(|status| status.up(session, now));
        self.push(SessionChange::Up { families: session.families.clone() });
        tracing::info!(
            peer = %self.config.name, hold_s = session.hold.as_secs(), families = ?session.families,
            add_path = ?session.add_path, router_id = %session.peer_router_id, "session established"
        );
        match &mut *self.role {
            Role::Learn(learn) => {
                learn.up(session);
                self.families.clone_from(&session.families);
                self.awaited = session.families.len();
                let now = Instant::now();
                self.nudge = Some(now + NUDGE);
                self.keepalive = self.keepalive.map(|due| due.min(now + IMPATIENT_KEEPALIVE));
            }
            Role::Inject(inject) => {
                let lesson = inject.up(session);
                self.teach(&lesson);
            }
        }
    }

    fn push(&mut self, change: SessionChange) {
        self.pending.push_back(Input::Session(SessionEvent { peer: self.config.peer, change }));
    }

    fn queue(&mut self, bytes: &[u8]) {
        if self.outbox.is_empty() && !bytes.is_empty() {
            self.stuck = Some(Instant::now() + self.config.send_hold());
        }
        self.outbox.extend_from_slice(bytes);
        self.queued += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }

    fn teach(&mut self, lesson: &Lesson) {
        self.queue(&lesson.packed.bytes);
        let queued = self.queued;
        let Role::Inject(inject) = &mut *self.role else { return };
        inject.mark(lesson, queued);
        let (announced, withheld) = (inject.announced(), inject.withheld());
        self.ports.status.send_modify(|status| {
            status.traffic.updates_out += lesson.packed.messages;
            status.announced = announced;
            status.withheld = withheld;
        });
        if lesson.changed > 0 || withheld > 0 {
            tracing::debug!(
                peer = %self.config.name, generation = %lesson.generation, changed = lesson.changed, announced, withheld,
                "telling the peer"
            );
        }
    }

    /// One read, and all whole messages in it.
    fn read(&mut self) {
        self.inbox.reserve(READ);
        let read = match self.stream.try_read_buf(&mut self.inbox) {
            Ok(0) => return self.feed(Event::Lost(None)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return self.feed(Event::Lost(Some(error.to_string()))),
        };
        let mut tally = Tally::default();
        while self.end.is_none() {
            match self.frames.next(&mut self.inbox) {
                Ok(Some(frame)) => {
                    tally.messages += 1;
                    if frame.is_update() {
                        tally.updates += 1;
                        self.update(&frame, &mut tally);
                    }
                    if self.end.is_none() {
                        self.feed(Event::Received(frame));
                    }
                }
                Ok(None) => break,
                Err(malformed) => self.feed(Event::Malformed(malformed)),
            }
        }
        if let Role::Learn(learn) = &mut *self.role {
            learn.flush(&mut self.pending);
        }
        self.tally(read, &tally);
    }

    fn update(&mut self, frame: &Frame, tally: &mut Tally) {
        let Role::Learn(learn) = &mut *self.role else { return };
        match learn.update(frame, &mut self.pending) {
            Ok(learnt) => {
                tally.announced += learnt.announced;
                tally.withdrawn += learnt.withdrawn;
                self.awaited = self.awaited.saturating_sub(usize::from(learnt.end_of_rib.is_some()));
                tally.end_of_rib.extend(learnt.end_of_rib);
                for (notice, first) in learnt.notices {
                    if first {
                        tracing::warn!(peer = %self.config.name, "{notice}; further ones of this kind are counted");
                    } else {
                        tracing::debug!(peer = %self.config.name, "{notice}");
                    }
                    tally.notice = Some(notice.to_string());
                }
            }
            Err(reset) => self.feed(Event::Unusable(reset)),
        }
    }

    fn tally(&mut self, read: usize, tally: &Tally) {
        let held_back = !self.pending.is_empty() && self.ports.inputs.capacity() == 0;
        let counts = match &*self.role {
            Role::Learn(learn) => Some(learn.counts()),
            Role::Inject(_) => None,
        };
        self.ports.status.send_modify(|status| {
            let traffic = &mut status.traffic;
            traffic.bytes_in += u64::try_from(read).unwrap_or(u64::MAX);
            traffic.messages_in += tally.messages;
            traffic.updates_in += tally.updates;
            traffic.announced_in += tally.announced;
            traffic.withdrawn_in += tally.withdrawn;
            traffic.held_back += u64::from(held_back);
            status.dispositions = counts.unwrap_or_default();
            for family in &tally.end_of_rib {
                if !status.end_of_rib.contains(family) {
                    status.end_of_rib.push(*family);
                }
            }
            if let Some(notice) = &tally.notice {
                status.last_notice = Some(notice.clone());
            }
        });
    }

    fn write(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        match self.stream.try_write(&self.outbox) {
            Ok(count) => {
                self.outbox.advance(count);
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                self.written += count;
                self.stuck = (!self.outbox.is_empty()).then(|| Instant::now() + self.config.send_hold());
                self.ports.status.send_modify(|status| status.traffic.bytes_out += count);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The read side knows more: a NOTIFICATION may wait there, or the reason of the reset. What was to be
            // written is void: it would wake this task again and again, before the read side is known to be ready.
            Err(_) if self.end.is_none() && self.pending.is_empty() => {
                self.outbox.clear();
                self.read();
            }
            Err(error) => {
                self.outbox.clear();
                self.end.get_or_insert(SessionFault::Broken { error: error.to_string() });
            }
        }
    }

    /// Reports decisions whose last byte the peer's TCP has acknowledged.
    fn acknowledge(&mut self) {
        let Role::Inject(inject) = &mut *self.role else { return };
        let Some(oldest) = inject.oldest_mark() else { return };
        let Ok(open) = socket::unacknowledged(&self.stream) else { return };
        let at = (self.ports.clock)();
        while let Some(mark) = inject.acknowledged(self.written.saturating_sub(open)) {
            let told =
                Told { peer: self.config.peer, generation: mark.generation, at, changed: mark.changed };
            self.pending.push_back(Input::Told(told));
            self.ports.status.send_modify(|status| status.told = Some(mark.generation));
        }
        let waited = self.config.send_hold();
        if inject.oldest_mark() == Some(oldest) && oldest.since.elapsed() > waited {
            self.end.get_or_insert(SessionFault::SendHoldExpired { waited });
        }
    }
}

/// What one read held.
#[derive(Debug, Default)]
struct Tally {
    messages: u64,
    updates: u64,
    announced: u64,
    withdrawn: u64,
    end_of_rib: Vec<Family>,
    notice: Option<String>,
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn decided(role: &mut Role) {
    match role {
        Role::Learn(_) => std::future::pending().await,
        Role::Inject(inject) => inject.decided().await,
    }
}
