//! The way to a session: attempts, arrivals, collisions, pauses. Ends with one connection that is Established.
//! Never carries a route; the stale ones of a peer that does not come back are swept from here.

use super::backoff::Backoff;
use super::config::SessionConfig;
use super::opening::{Opening, Progress, Winner, winner};
use super::ports::{Arrival, Doors, Order, Ports, next};
use super::stale::Stale;
use super::wire::at;
use super::{socket, status};
use crate::core::input::SessionChange;
use crate::proto::bgp::{Event, Negotiated, SessionFault};
use crate::types::bgp::{Initiator, SessionState};
use crate::types::{Asn, RouterId};
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What of a session's life lies between two of its sessions.
pub(super) struct Meeting {
    config: SessionConfig,
    learns: bool,
    backoff: Backoff,
    /// A connection that is being made.
    dial: Option<BoxFuture<'static, Result<TcpStream, SessionFault>>>,
    /// When the next attempt is due; none while one is under way, or where the peer is waited for.
    retry: Option<Instant>,
    /// Ours, and the peer's.
    ours: Option<Opening>,
    theirs: Option<Opening>,
    /// Connections that lost, closing.
    parting: Option<BoxFuture<'static, ()>>,
    /// Until then the peer is not let in either: its last session had to be ended.
    barred: Option<Instant>,
    /// An operator, or a maximum of routes, took the session down for good.
    down: bool,
    /// The fault reported last: the same again is no news.
    last: Option<SessionFault>,
}

enum Wake {
    Stop,
    Retry,
    Dialled(Result<TcpStream, SessionFault>),
    Arrived(Arrival),
    Ordered(Order),
    Progress(Initiator, Progress),
    StaleDue,
    Parted,
}

impl Meeting {
    pub(super) fn new(config: &SessionConfig, learns: bool) -> Meeting {
        Meeting {
            backoff: Backoff::new(config.retry_min, config.retry_max, config.seed),
            learns,
            dial: None,
            retry: config.connect.dials().then(Instant::now),
            ours: None,
            theirs: None,
            parting: None,
            barred: None,
            down: false,
            last: None,
            config: config.clone(),
        }
    }

    /// A session ended: what now.
    pub(super) fn ended(&mut self, fault: &SessionFault, steady: bool, successor: Option<Opening>) {
        if steady {
            self.backoff.reset();
        }
        self.theirs = successor;
        self.last = Some(fault.clone());
        match fault {
            SessionFault::ByOperator { what: "reset" } => self.retry = Some(Instant::now()),
            SessionFault::ByOperator { .. } | SessionFault::TooManyRoutes { restart: None, .. } => {
                self.down = true;
                self.retry = None;
            }
            SessionFault::TooManyRoutes { restart: Some(pause), .. } => {
                self.barred = Some(Instant::now() + *pause);
                self.retry = self.barred;
            }
            // RFC 4271 section 8.1: damping holds the peer off too, where it is what it says that ends sessions.
            SessionFault::BadUpdate { .. } | SessionFault::BadMessage { .. } => {
                self.wait();
                self.barred = self.retry;
            }
            _ => self.wait(),
        }
    }

    /// The next session; none where it is to stop.
    pub(super) async fn next(
        &mut self,
        config: &SessionConfig,
        ports: &mut Ports,
        doors: &mut Doors,
        stale: &mut Stale,
    ) -> Option<(Opening, Negotiated)> {
        loop {
            self.show(ports);
            match self.wake(ports, doors, stale).await {
                Wake::Stop => return None,
                Wake::Retry => self.dial(),
                Wake::Dialled(dialled) => self.dialled(dialled, ports).await,
                Wake::Arrived(arrival) => self.arrived(arrival, ports).await,
                Wake::Ordered(order) => self.obey(order),
                Wake::Parted => self.parting = None,
                Wake::StaleDue => {
                    for family in stale.expired(Instant::now()) {
                        tracing::warn!(peer = %config.name, %family, "the peer did not come back in time; its routes go");
                        ports.tell(config.peer, SessionChange::Sweep(family)).await;
                    }
                    let families = stale.families();
                    ports.show(|shown, _| shown.stale = families);
                }
                Wake::Progress(initiator, Progress::Opened) => self.collide(initiator),
                Wake::Progress(initiator, Progress::Up(session)) => {
                    let opening = self.place(initiator).take()?;
                    self.part_with_all();
                    self.dial = None;
                    self.retry = None;
                    self.last = None;
                    return Some((opening, *session));
                }
                Wake::Progress(initiator, Progress::Ended(fault)) => {
                    let wire = self.place(initiator).take().map(|opening| opening.wire);
                    self.parting = wire.map(|wire| Box::pin(wire.close()) as BoxFuture<'static, ()>);
                    if self.ours.is_none() && self.theirs.is_none() {
                        self.failed(fault, ports).await;
                    }
                }
            }
        }
    }

    async fn wake(&mut self, ports: &mut Ports, doors: &mut Doors, stale: &Stale) -> Wake {
        let idle = self.ours.is_none() && self.theirs.is_none();
        tokio::select! {
            biased;
            _ = ports.stop.wait_for(|stop| *stop) => Wake::Stop,
            () = ports.inputs.closed() => Wake::Stop,
            order = next(&mut doors.orders) => Wake::Ordered(order),
            progress = step(&mut self.ours) => Wake::Progress(Initiator::Us, progress),
            progress = step(&mut self.theirs) => Wake::Progress(Initiator::Peer, progress),
            dialled = dialling(&mut self.dial) => Wake::Dialled(dialled),
            arrival = next(&mut doors.arrivals) => Wake::Arrived(arrival),
            () = part(&mut self.parting) => Wake::Parted,
            () = at(stale.deadline()) => Wake::StaleDue,
            () = at(self.retry), if idle => Wake::Retry,
        }
    }

    fn dial(&mut self) {
        self.retry = None;
        self.barred = None;
        let config = self.config.clone();
        self.dial = Some(Box::pin(async move { socket::connect(&config).await }));
    }

    async fn dialled(&mut self, dialled: Result<TcpStream, SessionFault>, ports: &mut Ports) {
        self.dial = None;
        let opening =
            dialled.and_then(|stream| Opening::start(stream, &self.config, self.learns, Initiator::Us));
        match opening {
            Ok(opening) => self.ours = Some(opening),
            // The peer may be on its way in: then ours was not needed.
            Err(_) if self.theirs.is_some() => {}
            Err(fault) => self.failed(fault, ports).await,
        }
    }

    async fn arrived(&mut self, arrival: Arrival, ports: &mut Ports) {
        match arrival {
            Arrival::Fault(fault) => self.failed(fault, ports).await,
            Arrival::Stream(stream) => {
                // The newest connection is the one that the peer believes in, unless one is almost there.
                let kept = self.theirs.as_ref().is_some_and(|opening| opening.peer().is_some());
                if self.down || kept || self.barred.is_some_and(|until| Instant::now() < until) {
                    return;
                }
                match Opening::start(stream, &self.config, self.learns, Initiator::Peer) {
                    Ok(opening) => self.theirs = Some(opening),
                    Err(fault) => self.failed(fault, ports).await,
                }
            }
        }
    }

    /// Both connections have seen the peer's OPEN: one is too many (RFC 4271 section 6.8).
    fn collide(&mut self, initiator: Initiator) {
        let known = |opening: &Option<Opening>| opening.as_ref().and_then(Opening::peer);
        let (Some(ours), Some(theirs)) = (known(&self.ours), known(&self.theirs)) else { return };
        let peer: (RouterId, Asn) = if initiator == Initiator::Us { ours } else { theirs };
        let kept = winner((self.config.router_id, self.config.local_as), peer);
        let loser = match kept {
            Winner::Ours => self.theirs.take(),
            Winner::Theirs => self.ours.take(),
        };
        tracing::info!(peer = %self.config.name, ?kept, "both ends connected at once; one connection is kept");
        self.part_with(loser);
    }

    fn part_with(&mut self, loser: Option<Opening>) {
        if let Some(opening) = loser {
            let wire = opening.end(Event::Cease(7, Vec::new(), SessionFault::Collision));
            self.parting = Some(Box::pin(wire.close()));
        }
    }

    fn part_with_all(&mut self) {
        let (ours, theirs) = (self.ours.take(), self.theirs.take());
        self.part_with(ours);
        self.part_with(theirs);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Shutdown(text) => {
                for opening in [self.ours.take(), self.theirs.take()].into_iter().flatten() {
                    self.parting = Some(Box::pin(opening.end(Event::Stop(text.clone())).close()));
                }
                self.dial = None;
                self.retry = None;
                self.down = true;
            }
            Order::Start | Order::Reset(_) => {
                self.down = false;
                self.barred = None;
                self.backoff.reset();
                if self.config.connect.dials() && self.dial.is_none() {
                    self.retry = Some(Instant::now());
                }
            }
            Order::Refresh(_) => {}
        }
    }

    /// An attempt came to nothing.
    async fn failed(&mut self, fault: SessionFault, ports: &mut Ports) {
        ports.show(|shown, now| status::down(shown, &fault, now));
        // An attempt that fails like the one before is no news.
        if self.last.as_ref() != Some(&fault) {
            tracing::warn!(
                peer = %self.config.name, permanent = fault.is_permanent(), "no session: {fault}"
            );
            let reason = fault.to_string();
            self.last = Some(fault);
            ports.tell(self.config.peer, SessionChange::Down { reason }).await;
        }
        self.wait();
    }

    fn wait(&mut self) {
        if self.config.connect.dials() && !self.down && self.dial.is_none() {
            self.retry = Some(Instant::now() + self.backoff.pause());
        }
    }

    fn place(&mut self, initiator: Initiator) -> &mut Option<Opening> {
        match initiator {
            Initiator::Us => &mut self.ours,
            Initiator::Peer => &mut self.theirs,
        }
    }

    fn show(&self, ports: &Ports) {
        let openings = [&self.ours, &self.theirs].into_iter().flatten().map(Opening::state);
        let waiting = if self.dial.is_some() {
            SessionState::Connect
        } else if self.config.connect.dials() || self.down {
            SessionState::Idle
        } else {
            SessionState::Active
        };
        let state = openings.max().unwrap_or(waiting);
        let retry = self.retry.filter(|_| state == SessionState::Idle);
        ports.show(|shown, now| {
            shown.enter(state, now);
            shown.retry_at = retry.map(|at| now + at.saturating_duration_since(Instant::now()));
        });
    }
}

async fn step(opening: &mut Option<Opening>) -> Progress {
    match opening {
        Some(opening) => opening.step().await,
        None => std::future::pending().await,
    }
}

async fn dialling(
    dial: &mut Option<BoxFuture<'static, Result<TcpStream, SessionFault>>>,
) -> Result<TcpStream, SessionFault> {
    match dial {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn part(parting: &mut Option<BoxFuture<'static, ()>>) {
    match parting {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
