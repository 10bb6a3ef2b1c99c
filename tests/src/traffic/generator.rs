//! The paced source: many destinations, a rate for each, changed while it runs.
//!
//! *Invariants*: credit is never thrown away, so the long-run rate is exact; what a late wake-up left
//! behind is caught up at no more than [`CATCH_UP`] times the rate. A packet is counted only when the
//! kernel took it. *Never*: blocks on the receiver.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, sendmmsg};

use crate::clock::boottime_ns;
use crate::error::LabError;
use crate::netns::Namespace;
use crate::traffic::{ETHERNET_HEADER, HEADER, Ledger, PORT, Tally, encode_header, ip_overhead};

/// Pause between two rounds of sending.
const TICK: Duration = Duration::from_millis(1);
/// How much faster than its rate the source may send to make up for a late wake-up: less than the room that an
/// uplink at its limit has left, or the lab would lose packets by its own doing.
const CATCH_UP: f64 = 1.1;
/// Longest time that is made up for at once: the queue of an uplink takes the burst.
const AT_ONCE: f64 = 0.015;
/// Messages in one system call.
const BATCH: usize = 64;

/// One destination and its rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// Where to.
    pub destination: IpAddr,
    /// Packets per second at the start.
    pub packets_per_s: f64,
}

struct Shared {
    stop: AtomicBool,
    /// Bits of the f64 rate of each flow.
    rates: Vec<AtomicU64>,
    ledgers: Mutex<Vec<Ledger>>,
    refused: AtomicU64,
}

impl Shared {
    fn ledgers(&self) -> MutexGuard<'_, Vec<Ledger>> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running source. Dropping it stops it.
pub struct Generator {
    shared: Arc<Shared>,
    destinations: Vec<IpAddr>,
    frame: usize,
    thread: Option<JoinHandle<()>>,
}

impl Generator {
    /// Starts sending from `namespace`, one UDP packet of `frame` bytes (Ethernet, without FCS) at a time.
    ///
    /// # Errors
    /// The namespace cannot be entered, or sockets cannot be made there.
    pub fn start(namespace: &Namespace, flows: &[Flow], frame: usize) -> Result<Self, LabError> {
        Self::start_from(namespace, ["0.0.0.0", "::"], flows, frame)
    }

    /// The same, from these addresses of the namespace, IPv4 and IPv6.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub fn start_from(
        namespace: &Namespace,
        from: [&str; 2],
        flows: &[Flow],
        frame: usize,
    ) -> Result<Self, LabError> {
        let [v4, v6] = namespace.inside(|| {
            let bind = |address: &str| {
                UdpSocket::bind((address, 0)).map_err(LabError::io("open the source's socket"))
            };
            Ok([bind(from[0])?, bind(from[1])?])
        })?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            rates: flows.iter().map(|flow| AtomicU64::new(flow.packets_per_s.to_bits())).collect(),
            ledgers: Mutex::new(vec![Ledger::default(); flows.len()]),
            refused: AtomicU64::new(0),
        });
        let destinations: Vec<IpAddr> = flows.iter().map(|flow| flow.destination).collect();
        let mut source = Source {
            shared: Arc::clone(&shared),
            lanes: [
                Lane::new(v4, frame, &destinations, IpAddr::is_ipv4),
                Lane::new(v6, frame, &destinations, IpAddr::is_ipv6),
            ],
        };
        let thread = std::thread::Builder::new()
            .name("lab-source".into())
            .spawn(move || source.run())
            .map_err(LabError::io("start the source"))?;
        Ok(Self { shared, destinations, frame, thread: Some(thread) })
    }

    /// Changes the rate of one destination, in packets per second; unknown destinations are ignored.
    pub fn set_rate(&self, destination: IpAddr, packets_per_s: f64) {
        for (rate, _) in self.shared.rates.iter().zip(&self.destinations).filter(|(_, d)| **d == destination)
        {
            rate.store(packets_per_s.to_bits(), Ordering::Relaxed);
        }
    }

    /// Changes the rates of many destinations.
    pub fn set_rates(&self, flows: &[Flow]) {
        for flow in flows {
            self.set_rate(flow.destination, flow.packets_per_s);
        }
    }

    /// Multiplies every rate.
    pub fn scale(&self, factor: f64) {
        for rate in &self.shared.rates {
            rate.store((f64::from_bits(rate.load(Ordering::Relaxed)) * factor).to_bits(), Ordering::Relaxed);
        }
    }

    /// What was sent so far, per destination.
    pub fn sent(&self) -> BTreeMap<IpAddr, Ledger> {
        self.destinations.iter().copied().zip(self.shared.ledgers().iter().cloned()).collect()
    }

    /// What was sent within `from_ns..to_ns`, per destination; bounds as in [`Ledger::sent_between`].
    pub fn sent_between(&self, from_ns: u64, to_ns: u64) -> BTreeMap<IpAddr, Tally> {
        let ledgers = self.shared.ledgers();
        let tallies = ledgers.iter().map(|ledger| ledger.sent_between(from_ns, to_ns));
        self.destinations.iter().copied().zip(tallies).collect()
    }

    /// Rates now, in packets per second.
    pub fn rates(&self) -> BTreeMap<IpAddr, f64> {
        let rates = self.shared.rates.iter().map(|rate| f64::from_bits(rate.load(Ordering::Relaxed)));
        self.destinations.iter().copied().zip(rates).collect()
    }

    /// Packets that the kernel refused to take (no route, no buffer); they are not counted as sent.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Length of every frame in bytes.
    pub fn frame(&self) -> usize {
        self.frame
    }

    /// Stops sending; the counts stay readable.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread shows in its own message; the counts up to it are still true.
            let _ = thread.join();
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The flows of one family and their socket.
struct Lane {
    socket: UdpSocket,
    frame: usize,
    flows: Vec<LaneFlow>,
}

struct LaneFlow {
    /// Position in the generator's list.
    index: usize,
    destination: IpAddr,
    credit: f64,
    sequence: u64,
}

struct Source {
    shared: Arc<Shared>,
    lanes: [Lane; 2],
}

impl Source {
    fn run(&mut self) {
        let mut last = Instant::now();
        let mut owed = 0.0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            let now = Instant::now();
            let elapsed = now.duration_since(last).as_secs_f64();
            last = now;
            owed += elapsed;
            let step = f64::min(owed, elapsed.min(AT_ONCE) * CATCH_UP);
            owed -= step;
            for lane in &mut self.lanes {
                let due = lane.due(&self.shared, step);
                for batch in due.chunks(BATCH) {
                    lane.send(&self.shared, batch);
                }
            }
        }
    }
}

impl Lane {
    fn new(socket: UdpSocket, frame: usize, all: &[IpAddr], mine: impl Fn(&IpAddr) -> bool) -> Self {
        let flows = all
            .iter()
            .enumerate()
            .filter(|(_, destination)| mine(destination))
            // Start at different phases: equal rates would otherwise fire in the same tick.
            .map(|(index, destination)| LaneFlow {
                index,
                destination: *destination,
                credit: (f64::from(u32::try_from(index).unwrap_or(0)) * 0.618_034).fract(),
                sequence: 0,
            })
            .collect();
        Self { socket, frame, flows }
    }

    /// Positions of the flows that are due, once per packet.
    fn due(&mut self, shared: &Shared, elapsed: f64) -> Vec<usize> {
        let mut due = Vec::new();
        for (position, flow) in self.flows.iter_mut().enumerate() {
            let rate = f64::from_bits(shared.rates[flow.index].load(Ordering::Relaxed));
            flow.credit += rate * elapsed;
            while flow.credit >= 1.0 {
                flow.credit -= 1.0;
                due.push(position);
            }
        }
        due
    }

    fn send(&mut self, shared: &Shared, batch: &[usize]) {
        let sent_ns = boottime_ns();
        let mut headers = Vec::with_capacity(batch.len());
        for position in batch {
            let flow = &mut self.flows[*position];
            headers.push(encode_header(flow.sequence, sent_ns));
            flow.sequence += 1;
        }
        let padding = vec![0_u8; self.frame];
        let mut start = 0;
        while start < batch.len() {
            let taken = self.send_some(&batch[start..], &headers[start..], &padding);
            let mut ledgers = shared.ledgers();
            for position in &batch[start..start + taken] {
                ledgers[self.flows[*position].index].count(sent_ns, self.frame - ETHERNET_HEADER);
            }
            drop(ledgers);
            start += taken;
            if start < batch.len() && taken == 0 {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                start += 1;
            }
        }
    }

    /// One system call; the number of messages the kernel took.
    fn send_some(&self, batch: &[usize], headers: &[[u8; HEADER]], padding: &[u8]) -> usize {
        let slices: Vec<[IoSlice<'_>; 2]> = batch
            .iter()
            .zip(headers)
            .map(|(position, header)| {
                let overhead = ETHERNET_HEADER + ip_overhead(self.flows[*position].destination) + HEADER;
                [IoSlice::new(header), IoSlice::new(&padding[..self.frame.saturating_sub(overhead)])]
            })
            .collect();
        let addresses = || batch.iter().map(|p| SocketAddr::new(self.flows[*p].destination, PORT));
        match addresses().next() {
            Some(SocketAddr::V4(_)) => transmit(
                &self.socket,
                &slices,
                &addresses()
                    .map(|a| if let SocketAddr::V4(v4) = a { Some(SockaddrIn::from(v4)) } else { None })
                    .collect::<Vec<_>>(),
            ),
            Some(SocketAddr::V6(_)) => transmit(
                &self.socket,
                &slices,
                &addresses()
                    .map(|a| if let SocketAddr::V6(v6) = a { Some(SockaddrIn6::from(v6)) } else { None })
                    .collect::<Vec<_>>(),
            ),
            None => 0,
        }
    }
}

fn transmit<S: SockaddrLike + Copy>(
    socket: &UdpSocket,
    slices: &[[IoSlice<'_>; 2]],
    addresses: &[Option<S>],
) -> usize {
    let mut headers = MultiHeaders::<S>::preallocate(slices.len(), None);
    let sent = sendmmsg(socket.as_raw_fd(), &mut headers, slices, addresses, [], MsgFlags::empty());
    sent.map_or(0, Iterator::count)
}
