//! How much forwarding a border loses by ETM: packets per second through a router in a namespace of its own, with the
//! programs on both of its interfaces and without them, in turns.
//!
//! One thread sends; a veth pair makes it do the router's work too, so that the rate is that of one core for making and
//! forwarding a packet. *Never*: leaves the three namespaces that it makes, which are gone afterwards.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etm_agent::core::decision::TableChange;
use etm_agent::datapath::{LinkHeader, Opened};
use etm_agent::fib::StatsReader;
use etm_agent::types::{IfIndex, Prefix, SlotId, Timestamp, UplinkId};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockType, SockaddrLike as _, bind, sendmmsg, socket,
};
use serde_json::json;

use super::BenchOptions;
use super::routes::{self, Dice};
use crate::command;
use crate::dataplane::{Root, Size, failed};
use crate::error::LabError;
use crate::netns::Namespace;
use crate::poll::wait_until;

/// Ethernet frame without FCS, in bytes.
const FRAME: usize = 1000;
/// Destinations, in random order.
const DESTINATIONS: usize = 8192;
/// Frames of one system call.
const BATCH: usize = 64;
/// Pairs of one measurement with and one without.
const PAIRS: usize = 15;
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
            // Nobody's: the far end drops what comes, at once.
            "neigh add 203.0.113.2 lladdr 02:00:00:00:00:09 dev up0 nud permanent",
            "route add 198.18.0.0/15 via 203.0.113.2",
        ];
        net.border.ip_batch("configure the bench", &lines.map(str::to_owned))?;
        net.source.ip_batch("configure the bench", &["link set dev out0 up".to_owned()])?;
        net.sink.ip_batch("configure the bench", &["link set dev from0 up".to_owned()])?;
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
    let socket = net.source.inside(|| inlet("out0"))?;
    let stop = AtomicBool::new(false);
    let measured = std::thread::scope(|scope| {
        scope.spawn(|| send(&socket, &stop));
        let measured = net.border.inside(|| in_turns(&mut opened));
        stop.store(true, Ordering::Relaxed);
        measured
    });
    let ([without, with], counted) = measured?;
    options.show(&json!({
        "bench": "forward",
        "frame": FRAME,
        "prefixes": prefixes,
        "destinations": DESTINATIONS,
        "pairs": PAIRS,
        "packets_per_s_without": without.round(),
        "packets_per_s_with": with.round(),
        "ratio": (with / without * 10_000.0).round() / 10_000.0,
        "ns_per_packet": ((1e9 / with - 1e9 / without) * 10.0).round() / 10.0,
        "packets_counted": counted,
    }));
    Ok(())
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

/// Median rates without and with ETM, and how many packets it counted. In the border's namespace.
fn in_turns(opened: &mut Opened) -> Result<([f64; 2], u64), LabError> {
    let index = |name| if_nametoindex(name).map(IfIndex).map_err(LabError::errno("find an interface"));
    let (inside, uplink) = (index("in0")?, index("up0")?);
    let mut stats = StatsReader::open().map_err(failed("open device statistics"))?;
    let mut rates = [Vec::new(), Vec::new()];
    for pair in 0..PAIRS {
        // Which comes first changes, so that a drift of the machine hits both alike.
        for with in if pair % 2 == 0 { [false, true] } else { [true, false] } {
            if with {
                attach(opened, inside, uplink)?;
            }
            rates[usize::from(with)].push(rate(&mut stats, uplink)?);
            if with {
                opened.datapath.detach_uplink(uplink).map_err(failed("detach"))?;
                opened.datapath.detach_inside(inside).map_err(failed("detach"))?;
            }
        }
    }
    let counted = opened.counters.total(UplinkId(0)).map_err(failed("read a total"))?;
    Ok((rates.map(median), counted.packets))
}

/// The kernel frees links in the background: until then the program is in the chain already.
fn attach(opened: &mut Opened, inside: IfIndex, uplink: IfIndex) -> Result<(), LabError> {
    wait_until("the programs to be attached", Duration::from_secs(5), || {
        let counting = opened.datapath.attach_uplink(UplinkId(0), uplink, LinkHeader::Ethernet);
        let marking = opened.datapath.attach_inside(inside);
        counting.and(marking).map(drop).map_err(|error| error.to_string())
    })
}

/// Packets per second that leave.
fn rate(stats: &mut StatsReader, uplink: IfIndex) -> Result<f64, LabError> {
    let mut read = || {
        let sent = stats.read(uplink).map_err(failed("read device statistics"))?.sent.packets;
        Ok::<_, LabError>((Instant::now(), sent))
    };
    std::thread::sleep(SETTLE);
    let (begun, before) = read()?;
    std::thread::sleep(LEG);
    let (ended, after) = read()?;
    let packets = u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX);
    Ok(f64::from(packets) / ended.duration_since(begun).as_secs_f64())
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
fn send(socket: &OwnedFd, stop: &AtomicBool) {
    let mut dice = Dice::new(5);
    let frames: Vec<Vec<u8>> =
        (0..DESTINATIONS).map(|_| frame(u32::try_from(dice.below(1 << 17)).unwrap_or_default())).collect();
    let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    while !stop.load(Ordering::Relaxed) {
        for batch in slices.chunks(BATCH) {
            // A full queue is what a flood is for.
            let _ = sendmmsg(socket.as_raw_fd(), &mut headers, batch, [None; BATCH], [], MsgFlags::empty())
                .map(Iterator::count);
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
