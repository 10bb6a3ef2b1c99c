//! The independent observer: looks at kernel, core and providers every few ten milliseconds, at packets all the time, and
//! hands what it saw to the judge. Never asks ETM, and never reads what ETM writes but its routes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::bird::Bird;
use crate::chaos::judge::{Case, Changed, Expected, Findings, Heard, Hearing, Look, Violation, Window};
use crate::chaos::kernel::{Follower, LockMeter, MAIN, OWN, Reader, Way};
use crate::chaos::timeline::{MS, Moment, Terms, Timeline};
use crate::clock::boottime_ns;
use crate::error::LabError;
use crate::netns::Namespace;
use crate::scene::Scene;
use crate::topology::{BORDER_AS, Provider, Role};
use crate::traces::CORE_SESSION;
use crate::traffic::{Generator, Sink};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(25);
/// One look in so many asks all routers for leaks.
const LEAKS_EVERY: u64 = 6;
/// Width of the windows in which packets are judged: whole bins of the ledgers.
const WINDOW: u64 = 50 * MS;
/// When a packet that was sent has arrived or is lost.
const TRANSIT: u64 = 300 * MS;

/// What is looked at: the seam for other labs. A border, the routers that hear of ETM, and those that must not.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Namespace of the border.
    pub border: Namespace,
    /// The router that ETM announces to.
    pub core: Bird,
    /// Routers that must never have a route with ETM's community, by name.
    pub others: Vec<(String, Bird)>,
    /// Namespaces that forward.
    pub routers: Vec<(String, Namespace)>,
    /// What plain routing may look like.
    pub expected: Expected,
    /// Bounds.
    pub terms: Terms,
}

impl Ground {
    /// Of the lab with one border, which must be converged and without ETM.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn of(lab: &crate::lab::Lab, terms: Terms) -> Result<Self, LabError> {
        let border = lab.namespace(Role::Border);
        let mut gateways = BTreeMap::new();
        for provider in Provider::ALL {
            for text in [provider.gateway_v4(), provider.gateway_v6()] {
                let address: IpAddr = text.parse().map_err(|_| LabError::Malformed {
                    what: "a gateway of the topology".into(),
                    detail: text.into(),
                })?;
                gateways.insert(address, provider);
            }
        }
        let expected = Expected {
            baseline: Reader::open(&border)?.table(MAIN)?,
            table: lab.table().clone(),
            gateways,
            community: format!("({BORDER_AS},179)"),
        };
        let others = [Role::Border, Role::TransitA, Role::TransitB, Role::Ix];
        Ok(Self {
            border,
            core: lab.bird(Role::Core),
            others: others.map(|role| (role.to_string(), lab.bird(role))).to_vec(),
            routers: Role::ROUTERS.map(|role| (role.to_string(), lab.namespace(role))).to_vec(),
            expected,
            terms,
        })
    }

    fn look((reader, follower): &Eyes, before: &[Way]) -> Result<Look, LabError> {
        let from = boottime_ns();
        let (main, own) = (reader.table(MAIN)?, reader.table(OWN)?);
        let mut between = Vec::new();
        let changed = follower.changes().map_or(Changed::Unknown, |changes| {
            let (ours, theirs): (Vec<_>, Vec<_>) =
                changes.into_iter().partition(|change| change.table == OWN);
            let mut state = before.to_vec();
            for change in ours {
                change.apply(&mut state);
                between.push(state.clone());
            }
            Changed::These(theirs.into_iter().map(|change| change.way.prefix).collect())
        });
        Ok(Look { from, until: boottime_ns(), main, own, between, changed })
    }

    fn hear(&self, leaks: bool) -> Hearing {
        let from = boottime_ns();
        let core = self.heard();
        let leaks = if leaks { self.leaks() } else { Vec::new() };
        Hearing { from, until: boottime_ns(), core, leaks }
    }

    /// Routes of ETM at core: by its session, and by its community whatever the session.
    fn heard(&self) -> Option<Vec<Heard>> {
        let mut heard = Vec::new();
        for table in ["master4", "master6"] {
            let selection = format!(
                "table {table} where proto = \"{CORE_SESSION}\" || {} ~ bgp_community",
                self.expected.community
            );
            for route in self.core.routes(&selection).ok()? {
                let communities = route.attributes.get("BGP.community").cloned().unwrap_or_default();
                heard.push(Heard { prefix: route.prefix, session: route.protocol, communities });
            }
        }
        Some(heard)
    }

    /// Routes with ETM's community where none may be. A router that does not answer has none that it could pass on.
    fn leaks(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, bird) in &self.others {
            for table in ["master4", "master6"] {
                let selection = format!("table {table} where {} ~ bgp_community", self.expected.community);
                let routes = bird.routes(&selection).unwrap_or_default();
                found.extend(routes.iter().filter_map(|r| Some(format!("{name} has {}", r.prefix?))));
            }
        }
        found
    }

    /// ICMP time exceeded that each router has sent.
    ///
    /// # Errors
    /// A namespace cannot be entered or its statistics cannot be read.
    pub fn time_exceeded(&self) -> Result<BTreeMap<String, u64>, LabError> {
        let mut counts = BTreeMap::new();
        for (name, namespace) in &self.routers {
            let texts = namespace.inside(|| {
                ["/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6"]
                    .iter()
                    .map(|path| std::fs::read_to_string(path).map_err(LabError::io(format!("read {path}"))))
                    .collect::<Result<Vec<_>, _>>()
            })?;
            let sum = texts.iter().filter_map(|text| exceeded(text)).sum();
            counts.insert(name.clone(), sum);
        }
        Ok(counts)
    }
}

/// `OutTimeExcds` of `snmp`, `Icmp6OutTimeExcds` of `snmp6`.
fn exceeded(text: &str) -> Option<u64> {
    if let Some(line) = text.lines().find_map(|line| line.strip_prefix("Icmp6OutTimeExcds")) {
        return line.trim().parse().ok();
    }
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
    let column = lines.next()?.split_whitespace().position(|word| word == "OutTimeExcds")?;
    lines.next()?.split_whitespace().nth(column)?.parse().ok()
}

type Eyes = (Reader, Follower);

struct Shared {
    stop: AtomicBool,
    looks: Mutex<Vec<Look>>,
    hearings: Mutex<Vec<Hearing>>,
    timeline: Mutex<Timeline>,
    trouble: Mutex<Option<String>>,
    /// Longest wait for the kernel's routing lock.
    locked_out: Mutex<Duration>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A watch over a scene. What is done to it is noted in [`Self::note`]; [`Self::end`] says what must not have been.
pub struct Watch {
    ground: Ground,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    start: Moment,
    exceeded: BTreeMap<String, u64>,
}

/// What a watch found out.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What must not be.
    pub violations: Vec<Violation>,
    /// Looks taken.
    pub looks: usize,
    /// Windows judged, and windows of which nothing is known.
    pub windows: (u64, u64),
    /// Packets sent and lost, whatever explains it.
    pub packets: (u64, u64),
    /// Longest time between two looks.
    pub longest_gap_ms: u64,
    /// Longest wait for the kernel's routing lock, which all network namespaces of a box share.
    pub locked_out: Duration,
}

impl Watch {
    /// Begins to look.
    ///
    /// # Errors
    /// The kernel refuses, or a thread cannot be started.
    pub fn start(ground: Ground) -> Result<Self, LabError> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            looks: Mutex::default(),
            hearings: Mutex::default(),
            timeline: Mutex::default(),
            trouble: Mutex::default(),
            locked_out: Mutex::default(),
        });
        let eyes = (Reader::open(&ground.border)?, Follower::open(&ground.border)?);
        let exceeded = ground.time_exceeded()?;
        // Two, because a router on a busy box may take its time to answer, and the kernel does not wait for it.
        let board = Arc::clone(&shared);
        let looking = spawn("chaos-eyes", move || look_on(&eyes, &board))?;
        let (board, place) = (Arc::clone(&shared), ground.clone());
        let hearing = spawn("chaos-ears", move || hear_on(&place, &board))?;
        let (board, meter) = (Arc::clone(&shared), LockMeter::open(&ground.border)?);
        let metering = spawn("chaos-lock", move || meter_on(&meter, &board))?;
        Ok(Self { ground, shared, threads: vec![looking, hearing, metering], start: boottime_ns(), exceeded })
    }

    /// Changes the diary.
    pub fn note(&self, change: impl FnOnce(&mut Timeline, Moment)) {
        change(&mut locked(&self.shared.timeline), boottime_ns());
    }

    /// The diary as it is.
    pub fn timeline(&self) -> Timeline {
        locked(&self.shared.timeline).clone()
    }

    /// First moment.
    pub fn began(&self) -> Moment {
        self.start
    }

    /// Providers may announce these, too, from now on.
    pub fn expect(&mut self, table: &crate::table::Table) {
        for announcement in &table.announcements {
            let known = &mut self.ground.expected.table.announcements;
            if !known.iter().any(|a| a.prefix == announcement.prefix) {
                known.push(announcement.clone());
            }
        }
    }

    /// Ends the watch and judges all that was seen.
    ///
    /// # Errors
    /// The observer could not look.
    pub fn end(mut self, scene: &Scene) -> Result<Seen, LabError> {
        // What was sent until now must have had the time to arrive.
        let until = boottime_ns();
        crate::poll::pass_time(Duration::from_nanos(TRANSIT));
        self.halt();
        if let Some(trouble) = locked(&self.shared.trouble).take() {
            return Err(LabError::Malformed { what: "what the observer looks at".into(), detail: trouble });
        }
        let looks = std::mem::take(&mut *locked(&self.shared.looks));
        let hearings = std::mem::take(&mut *locked(&self.shared.hearings));
        let timeline = self.timeline();
        let windows = windows((&scene.generator, &scene.sink), self.start, until);
        let mut findings = Findings::new(self.start);
        let case = Case {
            looks: &looks,
            hearings: &hearings,
            windows: &windows,
            timeline: &timeline,
            terms: &self.ground.terms,
            expected: &self.ground.expected,
        };
        case.judge(&mut findings);
        for (name, count) in self.ground.time_exceeded()? {
            let before = self.exceeded.get(&name).copied().unwrap_or_default();
            if count > before {
                findings.add("loop", format!("TTL exceeded at {name}"), self.start, count - before);
            }
        }
        let sent: u64 = windows.iter().flat_map(|w| w.sent.values()).sum();
        let arrived: u64 = windows.iter().flat_map(|w| w.arrived.values()).sum();
        let gaps = looks.windows(2).map(|pair| pair[1].from.saturating_sub(pair[0].until));
        Ok(Seen {
            looks: looks.len(),
            windows: (windows.len() as u64 - findings.blind, findings.blind),
            packets: (sent, sent.saturating_sub(arrived)),
            longest_gap_ms: gaps.max().unwrap_or_default() / MS,
            locked_out: *locked(&self.shared.locked_out),
            violations: findings.into_list(),
        })
    }

    fn halt(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread shows in its own message, and as looks that are missing.
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.halt();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LabError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map_err(LabError::io("start the observer"))
}

fn look_on(eyes: &Eyes, shared: &Shared) {
    let mut before = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match Ground::look(eyes, &before) {
            Ok(look) => {
                before.clone_from(&look.own);
                locked(&shared.looks).push(look);
            }
            Err(error) => {
                *locked(&shared.trouble) = Some(error.to_string());
                return;
            }
        }
        std::thread::sleep(PAUSE);
    }
}

fn hear_on(ground: &Ground, shared: &Shared) {
    let mut count = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let hearing = ground.hear(count % LEAKS_EVERY == 0);
        locked(&shared.hearings).push(hearing);
        count += 1;
        std::thread::sleep(PAUSE);
    }
}

fn meter_on(meter: &LockMeter, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        match meter.measure() {
            Ok(span) => {
                let mut longest = locked(&shared.locked_out);
                *longest = span.max(*longest);
            }
            Err(error) => {
                *locked(&shared.trouble) = Some(error.to_string());
                return;
            }
        }
        std::thread::sleep(PAUSE * 4);
    }
}

/// Sent and arrived in windows of whole bins: bounds within a bin would count its packets twice.
pub(super) fn windows((generator, sink): (&Generator, &Sink), start: Moment, until: Moment) -> Vec<Window> {
    let first = start.next_multiple_of(WINDOW);
    let count = until.saturating_sub(first) / WINDOW;
    (0..count)
        .map(|i| {
            let (from, until) = (first + i * WINDOW, first + (i + 1) * WINDOW);
            let packets = |tally: crate::traffic::Tally| tally.packets;
            Window {
                from,
                until,
                sent: generator.sent_between(from, until).into_iter().map(|(d, t)| (d, packets(t))).collect(),
                arrived: sink.sent_between(from, until).into_iter().map(|(k, t)| (k, packets(t))).collect(),
            }
        })
        .collect()
}

/// Routes that differ between two tables, for messages: `-` is missing, `+` is too much.
pub fn difference(before: &[Way], after: &[Way]) -> Vec<String> {
    let told =
        |sign: char, way: &Way| format!("{sign}{} via {:?} metric {}", way.prefix, way.gateway, way.metric);
    let missing = before.iter().filter(|way| !after.contains(way)).map(|way| told('-', way));
    let surplus = after.iter().filter(|way| !before.contains(way)).map(|way| told('+', way));
    missing.chain(surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_exceeded_is_found_in_both_files() {
        let v4 = "Icmp: InMsgs OutTimeExcds OutEchos\nIcmp: 1 7 3\nUdp: x\nUdp: 1\n";
        assert_eq!(exceeded(v4), Some(7));
        assert_eq!(exceeded("Ip6InReceives \t3\nIcmp6OutTimeExcds               \t5\n"), Some(5));
    }
}
