//! The rest of the Internet: receives everything, and knows by which provider it came.
//!
//! *Invariants*: a packet is attributed to the interface it arrived on (`IP_PKTINFO`), to the destination
//! it was sent to, and to the time the kernel received it. *Never*: answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, setsockopt, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};

use crate::clock::{boottime_ns, realtime_ns};
use crate::error::LabError;
use crate::netns::Namespace;
use crate::poll::wait_until;
use crate::topology::Provider;
use crate::traffic::{Generator, Ledger, PORT, Tally, decode_header, ip_overhead};

/// Receive buffer: a second of 16,000 packets, so that a busy box delays and does not lose.
const BUFFER: usize = 16 << 20;
/// Messages in one system call.
const BATCH: usize = 64;
/// Longest payload.
const PAYLOAD: usize = 2048;
/// How often the receiving threads look whether to stop.
const LOOK: i64 = 50;
/// Moves remembered; more are only counted.
const MOVES: usize = 100_000;

/// A destination's traffic began to arrive by another provider than its packet before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Move {
    /// The destination.
    pub destination: IpAddr,
    /// Provider before; `None` for its first packet ever.
    pub from: Option<Provider>,
    /// Provider now.
    pub to: Provider,
    /// Arrival of the first packet, boot time in nanoseconds.
    pub at_ns: u64,
    /// Sending of that packet, boot time in nanoseconds.
    pub sent_ns: u64,
}

/// What arrived for one destination by one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Counts, by time of sending.
    pub ledger: Ledger,
    /// First arrival, boot time in nanoseconds.
    pub first_ns: u64,
    /// Last arrival, boot time in nanoseconds.
    pub last_ns: u64,
    /// Latest sending among what arrived, boot time in nanoseconds.
    pub last_sent_ns: u64,
}

#[derive(Default)]
struct Book {
    received: BTreeMap<(Provider, IpAddr), Received>,
    current: BTreeMap<IpAddr, Provider>,
    moves: Vec<Move>,
    forgotten_moves: u64,
}

struct Shared {
    stop: AtomicBool,
    book: Mutex<Book>,
    /// Packets that are not the generator's, or came by no provider.
    foreign: AtomicU64,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running sink. Dropping it stops it.
pub struct Sink {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Sink {
    /// Starts receiving in `namespace`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the sockets refuse an option.
    pub fn start(namespace: &Namespace) -> Result<Self, LabError> {
        Self::start_behind(namespace, &Provider::ALL)
    }

    /// The same behind these providers only.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub fn start_behind(namespace: &Namespace, providers: &[Provider]) -> Result<Self, LabError> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            book: Mutex::default(),
            foreign: AtomicU64::new(0),
        });
        let (interfaces, sockets) = namespace.inside(|| {
            let mut interfaces = BTreeMap::new();
            for provider in providers.iter().copied() {
                let name = provider.sink_interface();
                let index =
                    if_nametoindex(name).map_err(LabError::errno(format!("find interface {name}")))?;
                interfaces.insert(index, provider);
            }
            Ok((interfaces, [open("::")?, open("0.0.0.0")?]))
        })?;
        let mut threads = Vec::new();
        for socket in sockets {
            let receiver = Receiver { socket, interfaces: interfaces.clone(), shared: Arc::clone(&shared) };
            let thread = std::thread::Builder::new()
                .name("lab-sink".into())
                .spawn(move || receiver.run())
                .map_err(LabError::io("start the sink"))?;
            threads.push(thread);
        }
        Ok(Self { shared, threads })
    }

    /// What arrived of what was sent within `from_ns..to_ns`, without empty entries; bounds as in
    /// [`Ledger::sent_between`].
    pub fn sent_between(&self, from_ns: u64, to_ns: u64) -> BTreeMap<(Provider, IpAddr), Tally> {
        let book = self.shared.book();
        let tallies = book.received.iter().map(|(key, r)| (*key, r.ledger.sent_between(from_ns, to_ns)));
        tallies.filter(|(_, tally)| tally.packets > 0).collect()
    }

    /// Latest sending among what arrived, per provider and destination, boot time in nanoseconds.
    pub fn last_sent(&self) -> BTreeMap<(Provider, IpAddr), u64> {
        self.shared.book().received.iter().map(|(key, r)| (*key, r.last_sent_ns)).collect()
    }

    /// What arrived so far, with its history: a large copy, for the end of a test.
    pub fn received(&self) -> BTreeMap<(Provider, IpAddr), Received> {
        self.shared.book().received.clone()
    }

    /// Packets that were not the generator's.
    pub fn foreign(&self) -> u64 {
        self.shared.foreign.load(Ordering::Relaxed)
    }

    /// Changes of provider at or after `from_ns` (arrival).
    pub fn moves_since(&self, from_ns: u64) -> Vec<Move> {
        let book = self.shared.book();
        let start = book.moves.partition_point(|m| m.at_ns < from_ns);
        book.moves[start..].to_vec()
    }

    /// Changes of provider that were not remembered, because there were too many.
    pub fn forgotten_moves(&self) -> u64 {
        self.shared.book().forgotten_moves
    }

    /// The provider by which the last packet of each destination came.
    pub fn current(&self) -> BTreeMap<IpAddr, Provider> {
        self.shared.book().current.clone()
    }

    /// Waits until everything that was sent has arrived or nothing more arrives, at most `limit`, and
    /// returns the number of packets lost. The generator must be stopped.
    ///
    /// # Errors
    /// Packets still arrive after `limit`.
    pub fn drain(&self, generator: &Generator, limit: Duration) -> Result<u64, LabError> {
        /// Longer than any queue of the lab holds a packet.
        const QUIET: u64 = 500_000_000;
        let sent: u64 = generator.sent().values().map(|ledger| ledger.total.packets).sum();
        let mut last = (0, boottime_ns());
        wait_until("the last packets to arrive", limit, || {
            let arrived: u64 = self.shared.book().received.values().map(|r| r.ledger.total.packets).sum();
            if arrived != last.0 {
                last = (arrived, boottime_ns());
            }
            if arrived >= sent || boottime_ns() - last.1 > QUIET {
                return Ok(sent.saturating_sub(arrived));
            }
            Err(format!("{arrived} of {sent} packets"))
        })
    }

    /// Stops receiving; what arrived stays readable.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread shows in its own message.
            let _ = thread.join();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop();
    }
}

fn open(address: &str) -> Result<UdpSocket, LabError> {
    let what = || format!("open the sink's socket on [{address}]:{PORT}");
    let socket = if address == "::" {
        bind_v6_only()?
    } else {
        UdpSocket::bind((address, PORT)).map_err(LabError::io(what()))?
    };
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).map_err(LabError::errno(what()))?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).map_err(LabError::errno(what()))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK))
        .map_err(LabError::errno(what()))?;
    if address == "::" {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).map_err(LabError::errno(what()))?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).map_err(LabError::errno(what()))?;
    }
    Ok(socket)
}

/// std binds IPv6 sockets to both families; two sockets on one port need the option before the bind.
fn bind_v6_only() -> Result<UdpSocket, LabError> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, bind, socket};
    let what = || LabError::errno(format!("open the sink's socket on [::]:{PORT}"));
    let fd = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(what())?;
    setsockopt(&fd, sockopt::Ipv6V6Only, &true).map_err(what())?;
    let any = std::net::SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, PORT, 0, 0);
    bind(fd.as_raw_fd(), &SockaddrIn6::from(any)).map_err(what())?;
    Ok(UdpSocket::from(fd))
}

struct Receiver {
    socket: UdpSocket,
    interfaces: BTreeMap<u32, Provider>,
    shared: Arc<Shared>,
}

/// One packet as read.
struct Arrival {
    interface: u32,
    destination: IpAddr,
    at_ns: u64,
    sent_ns: u64,
    ip_bytes: usize,
}

impl Receiver {
    fn run(&self) {
        let mut buffers = vec![[0_u8; PAYLOAD]; BATCH];
        while !self.shared.stop.load(Ordering::Relaxed) {
            let arrivals = match self.receive(&mut buffers) {
                Ok(arrivals) => arrivals,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => {
                    eprintln!("lab: the sink cannot receive: {error}");
                    return;
                }
            };
            let mut book = self.shared.book();
            for arrival in &arrivals {
                match self.interfaces.get(&arrival.interface) {
                    Some(provider) => book.enter(*provider, arrival),
                    None => drop(self.shared.foreign.fetch_add(1, Ordering::Relaxed)),
                }
            }
        }
    }

    fn receive(&self, buffers: &mut [[u8; PAYLOAD]]) -> Result<Vec<Arrival>, Errno> {
        let space = cmsg_space!(libc::in6_pktinfo, TimeSpec);
        // Made anew for each call: the kernel shortens the lengths in it to what it used.
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(buffers.len(), Some(space));
        let mut slices: Vec<[std::io::IoSliceMut<'_>; 1]> =
            buffers.iter_mut().map(|buffer| [std::io::IoSliceMut::new(buffer)]).collect();
        let messages =
            recvmmsg(self.socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None)?;
        let to_boottime = boottime_ns().wrapping_sub(realtime_ns());
        let mut arrivals = Vec::with_capacity(BATCH);
        for message in messages {
            let payload = message.iovs().next().unwrap_or_default();
            let Some((interface, destination, stamp_ns)) = envelope(message.cmsgs()?) else {
                self.shared.foreign.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let Some((_, sent_ns)) = decode_header(payload) else {
                self.shared.foreign.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let at_ns = stamp_ns.wrapping_add(to_boottime);
            let ip_bytes = message.bytes + ip_overhead(destination);
            arrivals.push(Arrival { interface, destination, at_ns, sent_ns, ip_bytes });
        }
        Ok(arrivals)
    }
}

/// Interface, destination and kernel time stamp (real time, nanoseconds) of a packet.
fn envelope(messages: impl Iterator<Item = ControlMessageOwned>) -> Option<(u32, IpAddr, u64)> {
    let mut place = None;
    let mut stamp = None;
    for message in messages {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let address = IpAddr::V4(u32::from_be(info.ipi_addr.s_addr).into());
                place = Some((u32::try_from(info.ipi_ifindex).ok()?, address));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                place = Some((info.ipi6_ifindex, IpAddr::V6(info.ipi6_addr.s6_addr.into())));
            }
            ControlMessageOwned::ScmTimestampns(at) => {
                stamp = u64::try_from(Duration::from(at).as_nanos()).ok();
            }
            _ => {}
        }
    }
    let (interface, destination) = place?;
    Some((interface, destination, stamp?))
}

impl Book {
    fn enter(&mut self, provider: Provider, arrival: &Arrival) {
        let received = self.received.entry((provider, arrival.destination)).or_default();
        if received.first_ns == 0 {
            received.first_ns = arrival.at_ns;
        }
        received.last_ns = received.last_ns.max(arrival.at_ns);
        received.last_sent_ns = received.last_sent_ns.max(arrival.sent_ns);
        received.ledger.count(arrival.sent_ns, arrival.ip_bytes);
        let from = self.current.insert(arrival.destination, provider);
        if from == Some(provider) {
            return;
        }
        if self.moves.len() >= MOVES {
            self.forgotten_moves += 1;
            return;
        }
        let entry = Move {
            destination: arrival.destination,
            from,
            to: provider,
            at_ns: arrival.at_ns,
            sent_ns: arrival.sent_ns,
        };
        // Two threads feed the book; the list stays sorted by arrival.
        let place = self.moves.partition_point(|m| m.at_ns <= entry.at_ns);
        self.moves.insert(place, entry);
    }
}
