//! How much forwarding a border loses by ETM: packets per second through a router in a namespace of its own, with the
//! programs on both of its interfaces and without them, in turns.
//!
//! Two kinds of traffic: single UDP packets, the worst case, and TCP, whose super-packets are counted at once as they are in
//! a router behind a card with GRO. A veth pair makes the sender do the router's work too, so that the rate of UDP is that of
//! one core for making and forwarding a packet; it is told per second of that thread's CPU time, so that other work on the machine
//! takes no part. *Never*: leaves the three namespaces that it makes, which are gone afterwards.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use etm_agent::core::decision::TableChange;
use etm_agent::datapath::{LinkHeader, Opened};
use etm_agent::fib::StatsReader;
use etm_agent::types::{IfIndex, Prefix, SlotId, Timestamp, UplinkId};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrLike as _, bind, sendmmsg, socket,
};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::BenchOptions;
use super::routes::{self, Dice};
use crate::clock::boottime_ns;
use crate::command;
use crate::dataplane::{Root, Size, failed};
use crate::error::LabError;
use crate::netns::Namespace;
use crate::poll::wait_until;
use crate::scene::nanos;
use crate::traffic::TcpLoad;

/// Ethernet frame without FCS, in bytes.
const FRAME: usize = 1000;
/// Destinations, in random order.
const DESTINATIONS: usize = 8192;
/// Frames of one system call.
const BATCH: usize = 64;
/// Rounds of one measurement in each way.
const ROUNDS: usize = 15;
/// Connections.
const CONNECTIONS: u8 = 2;
/// Length of a measurement.
const LEG: Duration = Duration::from_millis(400);
/// Left out at its start: attaching waits for the programs of all CPUs.
const SETTLE: Duration = Duration::from_millis(60);
/// Room of the largest configuration.
const SIZE: Size = Size { prefixes4: 1_250_000, prefixes6: 400_000, uplinks: 4, fast_path: true };

/// The namespaces; gone with it.
struct Net {
    source: Namespace,
    border: Namespace,
    sink: Namespace,
}

impl Net {
    fn up() -> Result<Net, LabError> {
        let name = |role: &str| Namespace::existing(&format!("etm-bench-{}-{role}", std::process::id()));
        let net = Net { source: name("source"), border: name("border"), sink: name("sink") };
        for namespace in [&net.source, &net.border, &net.sink] {
            Namespace::create(namespace.name())?;
            namespace.sysctls(&[("net/ipv6/conf/default/disable_ipv6", "1")])?;
        }
        let link = |near: &str, far: &str, to: &Namespace| {
            format!("link add name {near} type veth peer name {far} netns {}", to.name())
        };
        net.border.ip_batch(
            "wire the bench",
            &[link("in0", "out0", &net.source), link("up0", "from0", &net.sink)],
        )?;
        net.border.sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/in0/rp_filter", "0"),
        ])?;
        let lines = [
            "link set dev in0 address 02:00:00:00:00:01 up",
            "link set dev up0 up",
            "addr add 192.0.2.1/24 dev in0",
            "addr add 203.0.113.1/24 dev up0",
            "route add 198.19.0.0/16 via 203.0.113.3",
            // Nobody's: the far end drops what comes, at once.
            "neigh add 203.0.113.2 lladdr 02:00:00:00:00:09 dev up0 nud permanent",
            "route add 198.18.0.0/16 via 203.0.113.2",
        ];
        net.border.ip_batch("configure the bench", &lines.map(str::to_owned))?;
        let source =
            ["link set dev out0 up", "addr add 192.0.2.2/24 dev out0", "route add default via 192.0.2.1"];
        net.source.ip_batch("configure the bench", &source.map(str::to_owned))?;
        let sink = [
            "link set dev lo up",
            "link set dev from0 up",
            "addr add 203.0.113.3/24 dev from0",
            "route add default via 203.0.113.1",
            "route replace local 198.19.0.0/16 dev lo",
        ];
        net.sink.ip_batch("configure the bench", &sink.map(str::to_owned))?;
        Ok(net)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.source, &self.border, &self.sink] {
            let args = ["netns", "del", namespace.name()];
            if let Err(error) = command::run("remove a namespace of the bench", "ip", &args, None) {
                eprintln!("etm-lab: {error}");
            }
        }
    }
}

/// Measures and shows.
pub(super) fn run(options: &BenchOptions) -> Result<(), LabError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let net = Net::up()?;
    let root = Root::new("forward");
    let table = match &options.table {
        Some(path) => routes::read(path)?,
        None => routes::generated(),
    };
    let mut opened = root.open(SIZE)?;
    let prefixes = load(&mut opened, &table)?;
    opened.lease.arm(0x1_0000, 0x1_0000).map_err(failed("arm the lease"))?;
    opened.lease.renew(Timestamp(u64::MAX)).map_err(failed("renew the lease"))?;
    let destinations: Vec<IpAddr> =
        (0..CONNECTIONS).map(|host| Ipv4Addr::new(198, 19, host, 1).into()).collect();
    let mut tcp = TcpLoad::start(&net.source, &net.sink, &destinations, 0)?;
    // Not of one thread: as much as passes.
    let by_tcp = net.border.inside(|| in_turns(&mut opened, &boottime_ns))?;
    tcp.stop();
    show(options, "tcp", prefixes, by_tcp.map(|rate| rate.bytes * 8.0 / 1e6), "mbit_per_s");
    let socket = net.source.inside(|| inlet("out0"))?;
    let (stop, spent) = (AtomicBool::new(false), AtomicU64::new(0));
    let by_udp = std::thread::scope(|scope| {
        scope.spawn(|| send(&socket, &stop, &spent));
        let clock = || spent.load(Ordering::Relaxed);
        let measured = net.border.inside(|| in_turns(&mut opened, &clock));
        stop.store(true, Ordering::Relaxed);
        measured
    })?;
    show(options, "udp", prefixes, by_udp.map(|rate| rate.packets), "packets_per_cpu_s");
    Ok(())
}

fn show(options: &BenchOptions, traffic: &str, prefixes: usize, rates: [f64; 4], unit: &str) {
    let [without, others @ ..] = rates;
    for (way, with) in WAYS.iter().skip(1).zip(others) {
        options.show(&json!({
            "bench": "forward",
            "traffic": traffic,
            "frame": FRAME,
            "prefixes": prefixes,
            "rounds": ROUNDS,
            "attached": way.name,
            "unit": unit,
            "without": without.round(),
            "with": with.round(),
            "ratio": (with / without * 10_000.0).round() / 10_000.0,
        }));
    }
}

/// What is attached.
struct Way {
    name: &'static str,
    counting: bool,
    marking: bool,
}

/// The first is what the others are compared with.
const WAYS: [Way; 4] = [
    Way { name: "nothing", counting: false, marking: false },
    Way { name: "counting", counting: true, marking: false },
    Way { name: "marking", counting: false, marking: true },
    Way { name: "both", counting: true, marking: true },
];

/// Per second.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    bytes: f64,
    packets: f64,
}

/// The table, and prefixes for all destinations in it.
fn load(opened: &mut Opened, table: &[Prefix]) -> Result<usize, LabError> {
    let ours = (0..512_u32).filter_map(|third| Prefix::new(address(third << 8), 24).ok());
    let mut all: Vec<Prefix> = table.iter().copied().chain(ours).collect();
    all.sort_unstable();
    all.dedup();
    let changes: Vec<TableChange> = all
        .into_iter()
        .zip((0..).map(SlotId))
        .map(|(prefix, slot)| TableChange::Insert { prefix, slot })
        .collect();
    opened.table.apply(&changes).map_err(failed("load the table"))?;
    Ok(changes.len())
}

/// The address with these low 17 bits in 198.18.0.0/15.
fn address(low: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 | low))
}

/// What time is taken for, in nanoseconds.
type Clock<'a> = &'a (dyn Fn() -> u64 + Sync);

/// Median rates by [`WAYS`]. In the border's namespace.
fn in_turns(opened: &mut Opened, clock: Clock<'_>) -> Result<[Rate; 4], LabError> {
    let index = |name| if_nametoindex(name).map(IfIndex).map_err(LabError::errno("find an interface"));
    let (inside, uplink) = (index("in0")?, index("up0")?);
    let mut stats = StatsReader::open().map_err(failed("open device statistics"))?;
    let mut rates: [Vec<Rate>; 4] = Default::default();
    for round in 0..ROUNDS {
        // Which comes first changes, so that a drift of the machine hits all alike.
        for turn in 0..WAYS.len() {
            let at = (round + turn) % WAYS.len();
            attach(opened, &WAYS[at], inside, uplink)?;
            rates[at].push(rate(&mut stats, uplink, clock)?);
            opened.datapath.detach_uplink(uplink).map_err(failed("detach"))?;
            opened.datapath.detach_inside(inside).map_err(failed("detach"))?;
        }
    }
    Ok(rates.map(|rates| {
        let median = |of: fn(&Rate) -> f64| median(rates.iter().map(of).collect());
        Rate { bytes: median(|rate| rate.bytes), packets: median(|rate| rate.packets) }
    }))
}

/// The kernel frees links in the background: until then the program is in the chain already.
fn attach(opened: &mut Opened, way: &Way, inside: IfIndex, uplink: IfIndex) -> Result<(), LabError> {
    wait_until("the programs to be attached", Duration::from_secs(5), || {
        if way.counting {
            let attached = opened.datapath.attach_uplink(UplinkId(0), uplink, LinkHeader::Ethernet);
            attached.map_err(|error| error.to_string())?;
        }
        if way.marking {
            opened.datapath.attach_inside(inside).map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

/// What leaves.
fn rate(stats: &mut StatsReader, uplink: IfIndex, clock: Clock<'_>) -> Result<Rate, LabError> {
    let mut read = || {
        let sent = stats.read(uplink).map_err(failed("read device statistics"))?.sent;
        Ok::<_, LabError>((clock(), sent))
    };
    std::thread::sleep(SETTLE);
    let (begun, before) = read()?;
    std::thread::sleep(LEG);
    let (ended, after) = read()?;
    let (sent, span) = (after.since(before), Duration::from_nanos(ended - begun).as_secs_f64());
    // In thousands, so that no counter is too large.
    let thousands = |count: u64| f64::from(u32::try_from(count / 1000).unwrap_or(u32::MAX)) * 1000.0;
    Ok(Rate { bytes: thousands(sent.bytes) / span, packets: thousands(sent.packets) / span })
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

/// A socket that sends frames as they are.
fn inlet(name: &str) -> Result<OwnedFd, LabError> {
    let what = "open a packet socket";
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .map_err(LabError::errno(what))?;
    let address = nix::ifaddrs::getifaddrs()
        .map_err(LabError::errno(what))?
        .filter(|found| found.interface_name == name)
        .filter_map(|found| found.address)
        .find(|address| address.family() == Some(AddressFamily::Packet))
        .ok_or_else(|| failed(what)("the interface is gone"))?;
    bind(socket.as_raw_fd(), &address).map_err(LabError::errno(what))?;
    Ok(socket)
}

/// Sends frames to all destinations, over and over.
fn send(socket: &OwnedFd, stop: &AtomicBool, spent_ns: &AtomicU64) {
    let mut dice = Dice::new(5);
    let frames: Vec<Vec<u8>> =
        (0..DESTINATIONS).map(|_| frame(u32::try_from(dice.below(1 << 16)).unwrap_or_default())).collect();
    let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    while !stop.load(Ordering::Relaxed) {
        for batch in slices.chunks(BATCH) {
            // A full queue is what a flood is for.
            let _ = sendmmsg(socket.as_raw_fd(), &mut headers, batch, [None; BATCH], [], MsgFlags::empty())
                .map(Iterator::count);
            if let Ok(cpu) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) {
                spent_ns.store(nanos(cpu.into()), Ordering::Relaxed);
            }
        }
    }
}

/// UDP from 192.0.2.2, with a valid IPv4 header.
fn frame(low: u32) -> Vec<u8> {
    let length = u16::try_from(FRAME - 14).unwrap_or_default();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 2]);
    if let IpAddr::V4(addr) = address(low) {
        frame.extend(addr.octets());
    }
    let words = frame[14..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend([0, 9, 0, 9]);
    frame.extend((length - 20).to_be_bytes());
    frame.resize(FRAME, 0);
    frame
}
