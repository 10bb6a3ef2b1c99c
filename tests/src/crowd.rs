//! Ten thousand overrides, traffic through each of them, and what it costs to lose the exit that they share.
//! *Never*: judges; it measures, and tests and benches judge.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::agent::Agent;
use crate::clock::{boottime_ns, millis_between};
use crate::error::LabError;
use crate::lab::Lab;
use crate::poll::{pass_time, wait_until};
use crate::scene::{TRANSIT, nanos};
use crate::topology::{Provider, Role};
use crate::traces;
use crate::traffic::{Flow, Generator, Sink};

/// Prefixes that prefer transit-a, which may carry next to nothing: all but a few hundred are overridden.
pub const MANY: u32 = 10_900;
/// Overrides at least.
pub const OVERRIDES: usize = 10_000;
/// Where they lead: everybody's second choice.
pub const RECEIVER: Provider = Provider::TransitB;
/// Frames of their flows.
const FRAME: usize = 200;
/// Packets of each flow in a second.
const RATE: f64 = 1.0;
/// Longer than a flow is silent.
const SILENCE: Duration = Duration::from_millis(1500);
/// How long what was lost is counted.
const AFTER: Duration = Duration::from_millis(1500);
/// Between two questions to the kernel.
const QUESTIONS: Duration = Duration::from_millis(1);

/// The prefixes, of the sink's space.
pub fn prefixes() -> Vec<IpNet> {
    (0..MANY).filter_map(|number| format!("2001:db8:{:x}::/48", 0x4000 + number).parse().ok()).collect()
}

/// A lab's configuration with room for them, transit-a closed to all but a hundredth, and no cap in the way: the default
/// of 10,000 moves in a minute is one, and so is all traffic in a minute where everything is moved twice.
pub fn squeeze(text: &str) -> String {
    text.replacen("limit = \"90%\"", "limit = \"1%\"", 1)
        .replace("prefixes_ipv6 = 4096", "prefixes_ipv6 = 16384")
        .replace(
            "[policy]\n",
            "[policy]\nmax_overrides = 20000\nmax_moves_per_minute = 1000000\n\
             max_moved = \"100%\"\nmax_moved_per_minute = \"10000%\"\n",
        )
}

/// What a loss cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Lost {
    /// Destinations that left by the exit before it was lost.
    pub destinations: usize,
    /// Packets to them that did not arrive.
    pub packets: u64,
    /// The time in which so many are sent, in milliseconds.
    pub ms: f64,
    /// Longest time until the kernel answered a question about an interface, in milliseconds.
    pub stall_ms: f64,
    /// Destinations, of the first hundred, whose packets still leave by the exit.
    pub still: usize,
}

/// The traffic.
pub struct Crowd {
    generator: Generator,
    sink: Sink,
    destinations: BTreeSet<IpAddr>,
}

impl Crowd {
    /// Starts sending, one packet per second to each.
    ///
    /// # Errors
    /// Sockets cannot be made.
    pub fn start(lab: &Lab, prefixes: &[IpNet]) -> Result<Crowd, LabError> {
        let destinations: BTreeSet<IpAddr> =
            prefixes.iter().filter_map(|prefix| prefix.hosts().next()).collect();
        let flow = |to: &IpAddr| Flow { destination: *to, packets_per_s: RATE };
        let flows: Vec<Flow> = destinations.iter().map(flow).collect();
        let sink = Sink::start(&lab.namespace(Role::Sink))?;
        let generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME)?;
        Ok(Crowd { generator, sink, destinations })
    }

    /// Waits until the kernel holds at least [`OVERRIDES`] and each of them was seen to be used; how many there are.
    ///
    /// # Errors
    /// They do not come up within `limit`.
    pub fn wait_overrides(&self, lab: &Lab, agent: &Agent, limit: Duration) -> Result<usize, LabError> {
        let begun = Instant::now();
        let found = wait_until("ten thousand overrides in the kernel", limit, || match routes(lab) {
            Ok(many) if many >= OVERRIDES => Ok(many),
            Ok(few) => Err(few.to_string()),
            Err(error) => Err(error.to_string()),
        });
        let found = found.map_err(|error| agent.with_log(error))?;
        eprintln!("etm-lab: {found} overrides after {:.1} s", begun.elapsed().as_secs_f64());
        wait_until("ten thousand overrides to be in use", limit, || match self.moved().len() {
            many if many >= OVERRIDES => Ok(found),
            few => Err(few.to_string()),
        })
        .map_err(|error| agent.with_log(error))
    }

    fn moved(&self) -> BTreeSet<IpAddr> {
        let ours = |(to, by): &(IpAddr, Provider)| *by == RECEIVER && self.destinations.contains(to);
        self.sink.current().into_iter().filter(ours).map(|(to, _)| to).collect()
    }

    /// Does it, and says what it cost.
    ///
    /// # Errors
    /// `lose` fails, or the kernel cannot be asked.
    pub fn lose(&self, lab: &Lab, lose: impl FnOnce(&Lab) -> Result<(), LabError>) -> Result<Lost, LabError> {
        // Until the last of them has sent a packet by its override.
        pass_time(SILENCE);
        let moved = self.moved();
        let questions = Questions::open(lab)?;
        let stop = AtomicBool::new(false);
        let (lost_ns, done, stall) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| questions.longest(&stop));
            let lost_ns = boottime_ns();
            let done = lose(lab);
            pass_time(AFTER);
            stop.store(true, Ordering::Relaxed);
            // A panic there would be this one's.
            let stall = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (lost_ns, done, stall)
        });
        done?;
        let (from_ns, until_ns) = (lost_ns - nanos(TRANSIT), boottime_ns() - nanos(TRANSIT));
        let sent = self.generator.sent_between(from_ns, until_ns);
        let sent: u64 =
            sent.iter().filter(|(to, _)| moved.contains(to)).map(|(_, tally)| tally.packets).sum();
        let arrived = self.sink.sent_between(from_ns, until_ns);
        let arrived: u64 =
            arrived.iter().filter(|((_, to), _)| moved.contains(to)).map(|(_, tally)| tally.packets).sum();
        let packets = sent.saturating_sub(arrived);
        let per_ms = f64::from(u32::try_from(moved.len()).unwrap_or(u32::MAX)) * RATE / 1e3;
        let current = self.sink.current();
        Ok(Lost {
            destinations: moved.len(),
            packets,
            ms: f64::from(u32::try_from(packets).unwrap_or(u32::MAX)) / per_ms,
            stall_ms: stall?,
            still: moved.iter().take(100).filter(|to| current.get(to) == Some(&RECEIVER)).count(),
        })
    }
}

/// Overrides in ETM's table.
///
/// # Errors
/// The kernel cannot be asked.
pub fn routes(lab: &Lab) -> Result<usize, LabError> {
    let border = lab.namespace(Role::Border);
    let text = border.ip(&["-6", "-o", "route", "show", "table", traces::TABLE])?;
    Ok(text.lines().filter(|line| !line.starts_with("throw")).count())
}

/// Questions about an interface, which the kernel answers under the lock that changes of routes and links need too.
struct Questions(OwnedFd);

impl Questions {
    fn open(lab: &Lab) -> Result<Questions, LabError> {
        let failed = LabError::errno("open a netlink socket");
        lab.namespace(Role::Border).inside(|| {
            let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
            socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .map(Questions)
                .map_err(failed)
        })
    }

    /// Asks until it is to stop; the longest answer took this many milliseconds.
    fn longest(&self, stop: &AtomicBool) -> Result<f64, LabError> {
        const RTM_GETLINK: u16 = 18;
        const NLM_F_REQUEST: u16 = 1;
        let mut question = [0_u8; 32];
        question[0..4].copy_from_slice(&32_u32.to_ne_bytes());
        question[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
        question[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        // Of struct ifinfomsg only the index: loopback is always the first.
        question[20..24].copy_from_slice(&1_i32.to_ne_bytes());
        let mut answer = [0_u8; 8192];
        let mut longest = 0_f64;
        while !stop.load(Ordering::Relaxed) {
            let asked_ns = boottime_ns();
            let fd = self.0.as_raw_fd();
            sendto(fd, &question, &NetlinkAddr::new(0, 0), MsgFlags::empty())
                .map_err(LabError::errno("ask the kernel about an interface"))?;
            recv(fd, &mut answer, MsgFlags::empty()).map_err(LabError::errno("hear the kernel's answer"))?;
            longest = longest.max(millis_between(asked_ns, boottime_ns()));
            pass_time(QUESTIONS);
        }
        Ok(longest)
    }
}
