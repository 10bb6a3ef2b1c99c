//! Chaos on the lab with two borders, where both steer: what one of them, its guardian, its uplink or a daemon does to the
//! other. The same diary as with one border, one per side; judged are packets, hops, and what core heard.
//! *Never*: asks ETM what it did.

mod acts;
mod faults;
mod packets;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::signal::Signal;

use faults::{Fault, schedule};
use packets::{Case, Eyes, Look};

use super::judge::Findings;
use super::observer::windows;
use super::tally::Tally;
use super::timeline::{self, MS, Moment, Terms, Timeline};
use super::{Round, complaint, millis};
use crate::agent::Agent;
use crate::bird::Bird;
use crate::clock::boottime_ns;
use crate::error::LabError;
use crate::poll::{pass_time, wait_until};
use crate::topology::{BORDER_AS, Role};
use crate::traffic::{FRAME, Flow, Generator, Sink};
use crate::two_borders::{EtmOptions, Fabric, HOME_A, HOME_B, PROVIDERS, Side, TwoBorders};

/// Longest time until both steer, from their start or from the end of the last fault.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// When a packet that was sent has arrived or is lost.
const TRANSIT: Duration = Duration::from_millis(300);
/// Bounds: lease and hold time of BGP are 3 s.
const TERMS: Terms = Terms::of(3, 3);
/// Mbit/s of the first border's prefixes: above its limit.
const LOAD: (f64, f64) = (14.0, 3.0);

/// What core heard at a moment: the announcements it has, and what is wrong with any.
struct Heard {
    from: Moment,
    until: Moment,
    routes: Vec<Announced>,
    wrong: Vec<String>,
}

/// A route of ETM as core has it: whose, and to which border it leads.
#[derive(Clone)]
struct Announced {
    prefix: IpNet,
    by: Side,
    exit: Side,
}

impl Heard {
    fn sides(&self) -> BTreeSet<Side> {
        self.routes.iter().map(|route| route.by).collect()
    }
}

#[derive(Default)]
struct Board {
    stop: AtomicBool,
    heard: Mutex<Vec<Heard>>,
    looks: Mutex<Vec<Look>>,
    trouble: Mutex<Option<LabError>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lab with both agents, between rounds without them.
pub(super) struct Stage {
    generator: Generator,
    sink: Sink,
    agents: BTreeMap<Side, Agent>,
    diaries: BTreeMap<Side, Timeline>,
    /// Guardians of agents that were killed, and those that are stopped.
    guardians: BTreeMap<Side, i32>,
    stunned: BTreeSet<Side>,
    /// Agents that are stopped, uplinks that are down, providers that withdrew, sides with other settings.
    stopped: BTreeSet<Side>,
    down: BTreeSet<Side>,
    withdrawn: BTreeSet<Side>,
    other: BTreeSet<Side>,
    /// What must not be, of what ended.
    ends: Vec<super::Violation>,
    lab: TwoBorders,
}

fn flows((home_a, home_b): (f64, f64)) -> Vec<Flow> {
    let share = |list: &[&str], mbit: f64| -> Vec<Flow> {
        let frame = f64::from(u32::try_from(FRAME).unwrap_or(1));
        let count = f64::from(u32::try_from(list.len()).unwrap_or(1));
        let inside = |prefix: &&str| prefix.parse::<IpNet>().ok()?.hosts().next();
        let destinations: Vec<IpAddr> = list.iter().filter_map(inside).collect();
        let packets_per_s = mbit * 1e6 / 8.0 / frame / count;
        destinations.into_iter().map(|destination| Flow { destination, packets_per_s }).collect()
    };
    [share(&HOME_A, home_a), share(&HOME_B, home_b)].concat()
}

fn options() -> EtmOptions {
    EtmOptions {
        both: true,
        hold: "1s",
        lease: "3s",
        capacity_kbit: 12_500,
        elsewhere_kbit: 12_500,
        ..EtmOptions::default()
    }
}

impl Stage {
    pub(super) fn up() -> Result<Self, LabError> {
        let lab = TwoBorders::up(Fabric::Mesh)?;
        let sink = Sink::start_behind(&lab.namespace(Role::Sink), &PROVIDERS)?;
        let generator = Generator::start(&lab.namespace(Role::Content), &flows(LOAD), FRAME)?;
        Ok(Self {
            generator,
            sink,
            agents: BTreeMap::new(),
            diaries: BTreeMap::new(),
            guardians: BTreeMap::new(),
            stunned: BTreeSet::new(),
            stopped: BTreeSet::new(),
            down: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            other: BTreeSet::new(),
            ends: Vec::new(),
            lab,
        })
    }

    /// Plays one round. What fails in the lab is a violation too.
    pub(super) fn play(&mut self, seed: u64, tally: &mut Tally) -> Round {
        let begun = Instant::now();
        let faults = schedule(seed);
        let say = |(at, span, fault): &(u64, u64, Fault)| format!("{at:>5} ms {fault:?} for {span} ms");
        let mut round =
            Round { seed, two_borders: true, faults: faults.iter().map(say).collect(), ..Round::default() };
        if let Err(error) = self.rounds_of(&faults, &mut round, tally) {
            round.violations.push(complaint("lab", error.to_string()));
        }
        round.took_ms = millis(begun.elapsed());
        round
    }

    fn rounds_of(
        &mut self,
        faults: &[(u64, u64, Fault)],
        round: &mut Round,
        tally: &mut Tally,
    ) -> Result<(), LabError> {
        let exceeded = self.lab.time_exceeded()?;
        self.diaries = Side::BOTH.map(|side| (side, Timeline::default())).into();
        let board = Arc::new(Board::default());
        let (start, core, others) = (boottime_ns(), self.lab.bird(Role::Core), self.others());
        let listener = Arc::clone(&board);
        let (viewer, mut eyes) = (Arc::clone(&board), Eyes::open(&self.lab)?);
        let ear = std::thread::spawn(move || hear_on(&core, &others, &listener));
        let eye = std::thread::spawn(move || look_on(&mut eyes, &viewer));
        let played = self.played(faults, round, tally);
        // What was sent until now must have had the time to arrive.
        let until = boottime_ns();
        pass_time(TRANSIT);
        board.stop.store(true, Ordering::Relaxed);
        let _ = (ear.join(), eye.join());
        played?;
        if let Some(trouble) = locked(&board.trouble).take() {
            return Err(trouble);
        }
        let mut findings = Findings::new(start);
        self.judge_packets((start, until), &board, round, &mut findings);
        round.looks = locked(&board.heard).len() + locked(&board.looks).len();
        judge_core(&locked(&board.heard), &self.diaries, &mut findings);
        let hops = self.lab.time_exceeded()?.saturating_sub(exceeded);
        if hops > 0 {
            findings.add("loop", "TTL exceeded".to_owned(), start, hops);
        }
        round.violations.extend(findings.into_list());
        let line = |side: &Side, (at, text): &(Moment, String)| {
            (*at, format!("{:>7} ms {side}: {text}", at.saturating_sub(start) / MS))
        };
        let mut lines: Vec<_> = self
            .diaries
            .iter()
            .flat_map(|(side, diary)| diary.diary.iter().map(move |entry| line(side, entry)))
            .collect();
        lines.sort();
        round.diary = lines.into_iter().map(|(_, text)| text).collect();
        Ok(())
    }

    fn others(&self) -> Vec<(Role, Bird)> {
        [Role::TransitA, Role::TransitB].map(|role| (role, self.lab.bird(role))).to_vec()
    }

    fn played(
        &mut self,
        faults: &[(u64, u64, Fault)],
        round: &mut Round,
        tally: &mut Tally,
    ) -> Result<(), LabError> {
        let begun = Instant::now();
        for side in Side::BOTH {
            self.start(side)?;
        }
        self.steers("at first")?;
        round.ready_ms = millis(begun.elapsed());
        let mut acts: Vec<(u64, bool, Fault)> = faults
            .iter()
            .flat_map(|(at, span, fault)| [(*at, true, *fault), (at + span, false, *fault)])
            .collect();
        acts.sort_by_key(|(at, ..)| *at);
        let start = Instant::now();
        for (at_ms, begins, fault) in acts {
            pass_time(Duration::from_millis(at_ms).saturating_sub(start.elapsed()));
            let word = if begins { "begins" } else { "ends" };
            if begins {
                let hit = self.begin(fault)?;
                let word = if hit { word } else { "finds nothing to break" };
                self.diary(Side::A).diary.push((boottime_ns(), format!("{fault:?} {word}")));
                tally.count(fault.name(), hit);
            } else {
                self.diary(Side::A).diary.push((boottime_ns(), format!("{fault:?} {word}")));
                self.end(fault)?;
            }
        }
        let mended = Instant::now();
        self.steers("after the faults")?;
        round.converged_ms = millis(mended.elapsed());
        let left = self.leave()?;
        round.violations.extend(left);
        round.violations.append(&mut self.ends);
        round.violations.extend(Side::BOTH.into_iter().filter_map(|side| self.panic_of(side)));
        Ok(())
    }

    fn diary(&mut self, side: Side) -> &mut Timeline {
        self.diaries.entry(side).or_default()
    }

    fn note(&mut self, side: Side, change: impl FnOnce(&mut Timeline, Moment)) {
        change(self.diary(side), boottime_ns());
    }

    /// Both know everything, and what the first one moves is at core.
    fn steers(&mut self, when: &str) -> Result<(), LabError> {
        wait_until(&format!("both to steer {when}"), CONVERGENCE, || {
            self.lab.missing()?;
            for side in Side::BOTH {
                if self.is_gone(side) {
                    self.start(side).map_err(|error| error.to_string())?;
                }
                let agent = &self.agents[&side];
                agent.etm(&["on"]).map_err(|error| error.to_string())?;
                let state = agent.state().map_err(|error| error.to_string())?;
                if state != "steering" {
                    return Err(format!("{side} is {state}"));
                }
            }
            let moved = self.agents[&Side::A].overrides().map_err(|error| error.to_string())?;
            let heard = hear(&self.lab.bird(Role::Core), &[]).ok_or("core does not answer")?;
            if moved.is_empty() || !heard.sides().contains(&Side::A) {
                return Err(format!("{} overrides, core has those of {:?}", moved.len(), heard.sides()));
            }
            Ok(())
        })
    }

    /// Stops both in order, and says what they left.
    fn leave(&mut self) -> Result<Vec<super::Violation>, LabError> {
        let mut found = Vec::new();
        for side in Side::BOTH {
            let Some(mut agent) = self.agents.remove(&side) else { continue };
            agent.signal(Signal::SIGTERM)?;
            match agent.wait_end(Duration::from_secs(20)).map(|status| status.code()) {
                Ok(Some(0)) => {}
                other => found.push(complaint("stop", format!("{side}: {other:?}"))),
            }
            self.note(side, |diary, now| timeline::open(&mut diary.absent, now));
        }
        let left = wait_until("nothing of ETM to be left", Duration::from_secs(2), || {
            let text = |error: LabError| error.to_string();
            let mut rest = Vec::new();
            for side in Side::BOTH {
                let border = self.lab.namespace(side.role());
                for family in ["-4", "-6"] {
                    let own = border.ip(&[family, "route", "show", "table", "179"]).unwrap_or_default();
                    let rules = border.ip(&[family, "rule", "show"]).map_err(text)?;
                    rest.extend(own.lines().map(str::to_owned));
                    rest.extend(rules.lines().filter(|line| line.contains("fwmark")).map(str::to_owned));
                }
            }
            let heard = hear(&self.lab.bird(Role::Core), &[]).ok_or("core does not answer")?;
            rest.extend(heard.sides().iter().map(|side| format!("core has routes of {side}")));
            if rest.is_empty() { Ok(()) } else { Err(format!("{rest:?}")) }
        });
        found.extend(left.err().map(|error| complaint("left-over", error.to_string())));
        Ok(found)
    }

    fn judge_packets(
        &self,
        (start, until): (Moment, Moment),
        board: &Board,
        round: &mut Round,
        findings: &mut Findings,
    ) {
        let (looks, heard, hops) = (locked(&board.looks), locked(&board.heard), packets::hops());
        let case = Case { looks: &looks, heard: &heard, diaries: &self.diaries, terms: &TERMS, hops: &hops };
        let windows = windows((&self.generator, &self.sink), start, until);
        for window in &windows {
            case.judge(window, findings);
            let excused = self.diaries.values().any(|diary| diary.excused(window.from, window.until));
            for (destination, sent) in &window.sent {
                let of_it = window.arrived.iter().filter(|((_, to), _)| to == destination);
                let lost = sent.saturating_sub(of_it.map(|(_, packets)| packets).sum());
                round.packets = (round.packets.0 + sent, round.packets.1 + lost);
                if lost > 0 && !excused {
                    findings.add("loss", format!("{destination}"), window.from, lost);
                }
            }
        }
        round.windows = (windows.len() as u64 - findings.blind, findings.blind);
    }

    /// A panic is a fault whatever it led to.
    fn panic_of(&self, side: Side) -> Option<super::Violation> {
        let text = fs::read_to_string(self.lab.place(side).log).unwrap_or_default();
        let line = text.lines().find(|line| line.contains("panicked"))?;
        Some(complaint("panic", format!("{side}: {line}")))
    }

    /// Where logs are.
    pub(super) fn directory(&self) -> std::path::PathBuf {
        self.lab.directory()
    }

    /// Logs of rounds that broke nothing are of no use to the next one.
    pub(super) fn forget(&self) {
        for side in Side::BOTH {
            let _ = fs::remove_file(Path::new(&self.lab.place(side).log));
        }
    }
}

/// Invariants 1, 3 and 7, at core.
fn judge_core(heard: &[Heard], diaries: &BTreeMap<Side, Timeline>, findings: &mut Findings) {
    for look in heard {
        for wrong in &look.wrong {
            findings.add("announcement", wrong.clone(), look.from, 1);
        }
        for side in &look.sides() {
            let spans = diaries.get(side).map_or_else(Vec::new, |diary| diary.peers_plain(&TERMS));
            if spans.iter().any(|span| span.holds(look.from) && span.holds(look.until)) {
                findings.add("stale-announcement", format!("of {side} at core"), look.from, 1);
            }
        }
    }
}

fn hear_on(core: &Bird, others: &[(Role, Bird)], board: &Board) {
    let mut count = 0_u64;
    while !board.stop.load(Ordering::Relaxed) {
        let others = if count.is_multiple_of(6) { others } else { &[] };
        if let Some(heard) = hear(core, others) {
            locked(&board.heard).push(heard);
        }
        count += 1;
        std::thread::sleep(Duration::from_millis(40));
    }
}

fn look_on(eyes: &mut Eyes, board: &Board) {
    while !board.stop.load(Ordering::Relaxed) {
        match eyes.look() {
            Ok(look) => locked(&board.looks).push(look),
            Err(error) => {
                *locked(&board.trouble) = Some(error);
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// None where core's BIRD does not answer.
fn hear(core: &Bird, others: &[(Role, Bird)]) -> Option<Heard> {
    let community = format!("({BORDER_AS},179)");
    let (from, mut found, mut wrong) = (boottime_ns(), Vec::new(), Vec::new());
    for table in ["master4", "master6"] {
        let selection = format!("table {table} where {community} ~ bgp_community");
        for route in core.routes(&selection).ok()? {
            let side = Side::BOTH.into_iter().find(|side| route.protocol == format!("etm_{side}"));
            let communities = route.attributes.get("BGP.community").cloned().unwrap_or_default();
            let known = |list: &[&str]| list.iter().any(|p| p.parse::<IpNet>().ok() == route.prefix);
            if !communities.contains("(65535,65281)") || !(known(&HOME_A) || known(&HOME_B)) {
                wrong.push(format!("{:?} with {communities}", route.prefix));
            }
            let next_hop = route.attributes.get("BGP.next_hop").cloned().unwrap_or_default();
            let exit = Side::BOTH.into_iter().find(|side| {
                next_hop.split_whitespace().any(|a| a == side.loopback_v4() || a == side.loopback_v6())
            });
            match (route.prefix, side, exit) {
                (Some(prefix), Some(by), Some(exit)) => found.push(Announced { prefix, by, exit }),
                (_, Some(_), _) => wrong.push(format!("{:?} to {next_hop}", route.prefix)),
                _ => wrong.push(format!("{:?} by {}", route.prefix, route.protocol)),
            }
        }
        for (role, bird) in others {
            let leaks = bird.routes(&selection).unwrap_or_default();
            wrong.extend(leaks.iter().map(|route| format!("{role} has {:?}", route.prefix)));
        }
    }
    Some(Heard { from, until: boottime_ns(), routes: found, wrong })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::timeline::Span;

    #[test]
    fn announcements_of_a_border_whose_agent_is_gone_and_announcements_that_are_wrong_are_found() {
        let gone = Timeline { absent: vec![Span { from: 0, until: u64::MAX }], ..Timeline::default() };
        let diaries = BTreeMap::from([(Side::A, gone), (Side::B, Timeline::default())]);
        let look = |at: u64, side: Side, wrong: &[&str]| Heard {
            from: at * MS,
            until: at * MS + MS,
            routes: vec![Announced {
                prefix: "198.18.1.0/24".parse().unwrap(),
                by: side,
                exit: side.other(),
            }],
            wrong: wrong.iter().map(|text| (*text).to_owned()).collect(),
        };
        for (heard, expected) in [
            (look(4_000, Side::A, &[]), None),
            (look(5_000, Side::A, &[]), Some("stale-announcement")),
            (look(5_000, Side::B, &[]), None),
            (look(1_000, Side::B, &["by nobody"]), Some("announcement")),
        ] {
            let mut findings = Findings::new(0);
            judge_core(&[heard], &diaries, &mut findings);
            let found = findings.into_list();
            assert_eq!(found.first().map(|violation| violation.kind), expected, "{found:?}");
        }
    }
}
