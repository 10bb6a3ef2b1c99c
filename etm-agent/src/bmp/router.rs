//! A configured router for the life of the agent: wait for it or connect, listen, report, wait again.
//! Never answers it, and never gives up.

use super::config::{Reach, RouterConfig};
use super::fault::BmpFault;
use super::loc_rib::LocRib;
use super::source::Source;
use super::station::Ports;
use crate::core::input::Input;
use crate::proto::bmp::{Message, PeerHeader, PeerKey, PeerUp, Reader, RibView, writes_path_ids};
use crate::types::bgp::LastFault;
use crate::types::bmp::{BmpMessages, MonitorState, RouterStatus};
use bytes::BytesMut;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// Bytes in one read.
const READ: usize = 64 * 1024;

/// Longest time for a connection and for the first message on it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pauses between attempts to connect, the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A dead router is found after about idle + count x interval seconds: BMP itself has no keepalive.
const KEEPALIVE: (u32, u32, u32) = (3, 2, 3);

/// Least time between two updates of the status while routes come in: a copy of it may be large.
const SHOW: Duration = Duration::from_millis(100);

/// Peers without a name in the configuration that are remembered.
const UNNAMED: usize = 64;

/// The part of a router.
pub(super) struct Router {
    config: RouterConfig,
    ports: Ports,
    incoming: mpsc::Receiver<TcpStream>,
    sources: Vec<Source>,
    place: BTreeMap<PeerKey, usize>,
    loc_rib: Option<LocRib>,
    bytes: u64,
    messages: BmpMessages,
    shown: Instant,
    unnamed: Vec<IpAddr>,
    pending: VecDeque<Input>,
}

impl Router {
    pub(super) fn new(config: RouterConfig, incoming: mpsc::Receiver<TcpStream>, ports: Ports) -> Router {
        let now = (ports.clock)();
        Router {
            place: config.sources.iter().enumerate().map(|(at, source)| (source.key, at)).collect(),
            sources: config.sources.iter().map(|source| Source::new(source.clone(), now)).collect(),
            loc_rib: config.watch.clone().map(LocRib::new),
            bytes: 0,
            messages: BmpMessages::default(),
            shown: Instant::now(),
            unnamed: Vec::new(),
            pending: VecDeque::new(),
            config,
            ports,
            incoming,
        }
    }

    /// Listens to the router until `ports.stop`.
    pub(super) async fn run(mut self) {
        self.show();
        let mut pause = RETRY.0;
        let mut next = None;
        while !*self.ports.stop.borrow() && !self.ports.inputs.is_closed() {
            let stream = match next.take() {
                Some(stream) => stream,
                None => match self.connection(&mut pause).await {
                    Some(stream) => stream,
                    None => continue,
                },
            };
            let fault = match self.listen(stream).await {
                Ok(newer) => {
                    next = Some(newer);
                    BmpFault::Replaced
                }
                Err(fault) => fault,
            };
            self.ended(&fault).await;
        }
    }

    /// The next connection; none where the attempt failed or the agent ends.
    async fn connection(&mut self, pause: &mut Duration) -> Option<TcpStream> {
        let mut stop = self.ports.stop.clone();
        let stopped = async { drop(stop.wait_for(|stop| *stop).await) };
        match self.config.reach {
            Reach::Listen => {
                self.enter(MonitorState::Waiting);
                tokio::select! {
                    stream = self.incoming.recv() => stream,
                    () = stopped => None,
                }
            }
            Reach::Connect(remote) => {
                self.enter(MonitorState::Connecting);
                let attempt = async {
                    match timeout(PATIENCE, TcpStream::connect(remote)).await {
                        Ok(Ok(stream)) => Ok(stream),
                        Ok(Err(source)) => Err(BmpFault::Unreachable { remote, source }),
                        Err(_) => Err(BmpFault::Timeout { remote }),
                    }
                };
                let connected = tokio::select! {
                    connected = attempt => connected,
                    () = stopped => return None,
                };
                match connected {
                    Ok(stream) => {
                        *pause = RETRY.0;
                        Some(stream)
                    }
                    Err(fault) => {
                        self.ended(&fault).await;
                        let mut stop = self.ports.stop.clone();
                        tokio::select! {
                            () = sleep(*pause) => {}
                            _ = stop.wait_for(|stop| *stop) => {}
                        }
                        *pause = pause.saturating_mul(2).min(RETRY.1);
                        None
                    }
                }
            }
        }
    }

    fn enter(&self, state: MonitorState) {
        let now = (self.ports.clock)();
        self.ports.status.send_modify(|status| {
            if status.state != state {
                status.state = state;
                status.since = now;
            }
        });
    }

    /// Reads one connection to its end, or until the router opens another, which is the result.
    async fn listen(&mut self, mut stream: TcpStream) -> Result<TcpStream, BmpFault> {
        keepalive(&stream)?;
        let remote = stream.peer_addr().ok();
        self.enter(MonitorState::Connected);
        self.ports.status.send_modify(|status| {
            status.remote = remote;
            status.connections += 1;
        });
        tracing::info!(router = %self.config.name, "BMP connection");
        let mut stop = self.ports.stop.clone();
        let mut buffer = BytesMut::with_capacity(READ);
        let mut begun = false;
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                read = stream.read_buf(&mut buffer) => {
                    let len = read.map_err(|source| BmpFault::Io { source })?;
                    if len == 0 {
                        return Err(BmpFault::Closed);
                    }
                    self.take_all(&mut buffer, &mut begun, len)?;
                }
                _ = tick.tick() => {
                    if !begun && Instant::now() >= deadline {
                        return Err(BmpFault::Silent { seconds: PATIENCE.as_secs() });
                    }
                    self.settle();
                    self.show();
                }
                newer = self.incoming.recv(), if self.config.reach == Reach::Listen => {
                    return newer.ok_or(BmpFault::Stopped);
                }
                _ = stop.wait_for(|stop| *stop) => return Err(BmpFault::Stopped),
            }
            self.hand_on().await?;
            buffer.reserve(READ);
        }
    }

    fn take_all(&mut self, buffer: &mut BytesMut, begun: &mut bool, len: usize) -> Result<(), BmpFault> {
        let mut end = None;
        while let Some(message) = Reader.next(buffer)? {
            if !std::mem::replace(begun, true) && !matches!(message, Message::Initiation { .. }) {
                return Err(BmpFault::NoInitiation);
            }
            if let Message::Termination { reason } = message {
                end = Some(BmpFault::Terminated { reason });
                break;
            }
            self.take(message);
        }
        for source in &mut self.sources {
            source.flush(&mut self.pending);
        }
        if let Some(loc_rib) = &mut self.loc_rib {
            loc_rib.flush(&mut self.pending);
        }
        self.bytes += u64::try_from(len).unwrap_or(u64::MAX);
        if self.shown.elapsed() >= SHOW {
            self.show();
        }
        end.map_or(Ok(()), Err)
    }

    fn take(&mut self, message: Message) {
        let now = (self.ports.clock)();
        match message {
            Message::Routes { peer, update } => self.routes(&peer, &update),
            Message::PeerUp { peer, up } => {
                self.messages.peer_up += 1;
                self.peer_up(peer, &up);
            }
            Message::PeerDown { peer, reason } | Message::Faulty { peer, reason } => {
                self.messages.peer_down += 1;
                if peer.view == RibView::LocRib {
                    if let Some(loc_rib) = self.loc_rib.as_mut().filter(|_| peer.key.distinguisher == 0) {
                        loc_rib.down(&mut self.pending);
                    }
                } else if let Some(source) = source(&self.place, &mut self.sources, &peer) {
                    source.down(&reason, now, &mut self.pending);
                }
            }
            Message::Stats { peer, stats } => {
                self.messages.stats += 1;
                if let Some(source) =
                    source(&self.place, &mut self.sources, &peer).filter(|_| peer.view != RibView::LocRib)
                {
                    source.stats(&stats);
                }
            }
            Message::Initiation { name, description } => {
                self.messages.other += 1;
                tracing::info!(router = %self.config.name, sys_name = %name, sys_descr = %description, "monitoring");
                self.ports
                    .status
                    .send_modify(|status| (status.sys_name, status.sys_descr) = (name, description));
                self.enter(MonitorState::Monitoring);
            }
            Message::Mirroring | Message::Termination { .. } | Message::Unknown { .. } => {
                self.messages.other += 1;
            }
        }
    }

    fn routes(&mut self, peer: &PeerHeader, update: &crate::proto::bgp::Frame) {
        let now = (self.ports.clock)();
        let wanted = if peer.view == RibView::LocRib {
            let loc_rib = self.loc_rib.as_mut().filter(|_| peer.key.distinguisher == 0);
            loc_rib.map(|loc_rib| {
                loc_rib.update(peer, update, &mut self.pending);
                true
            })
        } else if peer.view == self.config.view.rib() {
            source(&self.place, &mut self.sources, peer)
                .map(|source| source.update(peer, update, now, &mut self.pending))
        } else {
            None
        };
        match wanted {
            Some(true) => self.messages.routes += 1,
            Some(false) => self.messages.early += 1,
            None => self.messages.ignored += 1,
        }
    }

    fn peer_up(&mut self, peer: PeerHeader, up: &PeerUp) {
        let now = (self.ports.clock)();
        let view = if peer.view == RibView::LocRib { peer.view } else { self.config.view.rib() };
        let path_ids = self.config.path_ids.unwrap_or_else(|| {
            let status = self.ports.status.borrow();
            writes_path_ids(&status.sys_name, &status.sys_descr, view)
        });
        if peer.view == RibView::LocRib {
            if let Some(loc_rib) = self.loc_rib.as_mut().filter(|_| peer.key.distinguisher == 0) {
                loc_rib.up(&peer, up, path_ids, &mut self.pending);
            }
        } else if let Some(source) = source(&self.place, &mut self.sources, &peer) {
            source.up(peer, up, (view, path_ids), now, &mut self.pending);
        } else if self.unnamed.len() < UNNAMED && !self.unnamed.contains(&peer.key.address) {
            self.unnamed.push(peer.key.address);
        }
    }

    fn settle(&mut self) {
        let Some(quiet) = self.config.quiet else { return };
        for source in &mut self.sources {
            source.settle(quiet, &mut self.pending);
        }
    }

    /// To the decision, which may let us wait: the router then waits too.
    async fn hand_on(&mut self) -> Result<(), BmpFault> {
        while let Some(input) = self.pending.pop_front() {
            let mut stop = self.ports.stop.clone();
            tokio::select! {
                biased;
                sent = self.ports.inputs.send(input) => sent.map_err(|_| BmpFault::Stopped)?,
                _ = stop.wait_for(|stop| *stop) => return Err(BmpFault::Stopped),
            }
        }
        Ok(())
    }

    /// Nothing that was known of the router is true any more.
    async fn ended(&mut self, fault: &BmpFault) {
        self.pending.clear();
        let (now, text) = ((self.ports.clock)(), fault.to_string());
        for source in &mut self.sources {
            source.down(&format!("{}: {text}", self.config.name), now, &mut self.pending);
        }
        if let Some(loc_rib) = &mut self.loc_rib {
            loc_rib.down(&mut self.pending);
        }
        let known = self.ports.status.borrow().last_fault.as_ref().is_some_and(|last| last.text == text);
        if !known {
            tracing::warn!(router = %self.config.name, "not monitored: {text}");
        }
        self.unnamed.clear();
        self.show();
        self.ports.status.send_modify(|status| {
            status.remote = None;
            status.last_fault = Some(LastFault { at: now, text, permanent: false });
        });
        if let Err(fault) = self.hand_on().await {
            tracing::debug!(router = %self.config.name, %fault, "the decision is not told");
        }
    }

    fn show(&mut self) {
        self.shown = Instant::now();
        self.ports.status.send_modify(|status: &mut RouterStatus| {
            status.bytes_in = self.bytes;
            status.messages = self.messages;
            status.sources = self.sources.iter().map(|source| source.status.clone()).collect();
            status.unnamed.clone_from(&self.unnamed);
            status.loc_rib = self.loc_rib.as_ref().map(|loc_rib| loc_rib.status.clone());
        });
    }
}

fn source<'a>(
    place: &BTreeMap<PeerKey, usize>,
    sources: &'a mut [Source],
    peer: &PeerHeader,
) -> Option<&'a mut Source> {
    sources.get_mut(*place.get(&peer.key)?)
}

fn keepalive(stream: &TcpStream) -> Result<(), BmpFault> {
    let (idle, between, count) = KEEPALIVE;
    setsockopt(stream, sockopt::KeepAlive, &true)
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepIdle, &idle))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepInterval, &between))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepCount, &count))
        .map_err(|errno| BmpFault::Io { source: errno.into() })
}
