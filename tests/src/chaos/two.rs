//! Chaos on the lab with two borders, where both steer: what one of them, its guardian, its uplink or a daemon does to the
//! other. The same diary as with one border, one per side; judged are packets, hops, and what core heard.
//! *Never*: asks ETM what it did.

mod faults;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use faults::{Fault, schedule};

use super::judge::Findings;
use super::timeline::{self, MS, Moment, Terms, Timeline, close};
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
/// How long a lost link explains loss: until BFD's stand-in, the carrier, and BGP have done their work.
const REROUTE: u64 = 1500 * MS;
/// How long a daemon that starts anew explains loss.
const RELEARN: u64 = 8000 * MS;
/// Width of the windows in which packets are judged.
const WINDOW: u64 = 50 * MS;
/// When a packet that was sent has arrived or is lost.
const TRANSIT: Duration = Duration::from_millis(300);
/// Mbit/s of the first border's prefixes: above its limit.
const LOAD: (f64, f64) = (14.0, 3.0);

/// What core heard at a moment: the sides whose announcements it has, and what is wrong with any.
struct Heard {
    from: Moment,
    until: Moment,
    sides: Vec<Side>,
    wrong: Vec<String>,
}

#[derive(Default)]
struct Board {
    stop: AtomicBool,
    heard: Mutex<Vec<Heard>>,
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
        Ok(Self { generator, sink, agents: BTreeMap::new(), diaries: BTreeMap::new(), lab })
    }

    /// Plays one round. What fails in the lab is a violation too.
    pub(super) fn play(&mut self, seed: u64, met: &mut BTreeMap<&'static str, u64>) -> Round {
        let begun = Instant::now();
        let faults = schedule(seed);
        let say = |(at, span, fault): &(u64, u64, Fault)| format!("{at:>5} ms {fault:?} for {span} ms");
        let mut round =
            Round { seed, two_borders: true, faults: faults.iter().map(say).collect(), ..Round::default() };
        if let Err(error) = self.rounds_of(&faults, &mut round, met) {
            round.violations.push(complaint("lab", error.to_string()));
        }
        round.took_ms = millis(begun.elapsed());
        round
    }

    fn rounds_of(
        &mut self,
        faults: &[(u64, u64, Fault)],
        round: &mut Round,
        met: &mut BTreeMap<&'static str, u64>,
    ) -> Result<(), LabError> {
        let exceeded = self.lab.time_exceeded()?;
        self.diaries = Side::BOTH.map(|side| (side, Timeline::default())).into();
        let board = Arc::new(Board::default());
        let (start, core, others) = (boottime_ns(), self.lab.bird(Role::Core), self.others());
        let listener = Arc::clone(&board);
        let ear = std::thread::spawn(move || hear_on(&core, &others, &listener));
        let played = self.played(faults, round, met);
        // What was sent until now must have had the time to arrive.
        let until = boottime_ns();
        pass_time(TRANSIT);
        board.stop.store(true, Ordering::Relaxed);
        let _ = ear.join();
        played?;
        let mut findings = Findings::new(start);
        self.judge_packets(start, until, round, &mut findings);
        round.looks = locked(&board.heard).len();
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
        met: &mut BTreeMap<&'static str, u64>,
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
            self.diary(Side::A).diary.push((boottime_ns(), format!("{fault:?} {word}")));
            if begins {
                let hit = self.begin(fault)?;
                *met.entry(fault.name()).or_default() += u64::from(hit);
            } else {
                self.end(fault)?;
            }
        }
        let mended = Instant::now();
        self.steers("after the faults")?;
        round.converged_ms = millis(mended.elapsed());
        round.violations.extend(self.leave()?);
        Ok(())
    }

    fn diary(&mut self, side: Side) -> &mut Timeline {
        self.diaries.entry(side).or_default()
    }

    fn note(&mut self, side: Side, change: impl FnOnce(&mut Timeline, Moment)) {
        change(self.diary(side), boottime_ns());
    }

    /// Starts an agent; one that finds its daemon or uplink missing ends, and is started again as a unit would.
    fn start(&mut self, side: Side) -> Result<(), LabError> {
        self.note(side, |diary, now| close(&mut diary.absent, now));
        let agent = wait_until("the agent to start", CONVERGENCE, || {
            self.lab.start_etm(side, &options()).map_err(|error| error.to_string())
        })?;
        self.agents.insert(side, agent);
        Ok(())
    }

    fn begin(&mut self, fault: Fault) -> Result<bool, LabError> {
        let gone = |side: Side, stage: &Self| !stage.agents.contains_key(&side);
        match fault {
            Fault::KillAgent(side) => {
                let Some(mut agent) = self.agents.remove(&side) else { return Ok(false) };
                self.note(side, |diary, now| timeline::open(&mut diary.absent, now));
                agent.signal(Signal::SIGKILL)?;
                agent.wait_end(Duration::from_secs(5))?;
            }
            Fault::StopAgent(side) => {
                if gone(side, self) {
                    return Ok(false);
                }
                self.note(side, |diary, now| timeline::open(&mut diary.absent, now));
                self.agents[&side].signal(Signal::SIGSTOP)?;
            }
            Fault::KillGuardian(side) => {
                let Some(pid) = self.agents.get(&side).and_then(Agent::guardian) else { return Ok(false) };
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                self.note(side, |diary, now| diary.killed.push(now));
            }
            Fault::Off(side) => {
                let Some(agent) = self.agents.get(&side) else { return Ok(false) };
                // Also where it could not reach everything it may have reached the agent: its end says `on`.
                if agent.off()?.status.success() {
                    self.note(side, |diary, now| timeline::open(&mut diary.off, now));
                }
            }
            Fault::Carrier(side) => {
                self.note(side, |diary, now| diary.excuse(now, REROUTE));
                self.link(side, "down")?;
            }
            Fault::ResetInject(side) => {
                return Ok(self.lab.bird(Role::Core).ask(&format!("restart etm_{side}")).is_ok());
            }
            Fault::ResetLearn(side) => {
                return Ok(self.lab.bird(side.role()).ask("restart etm_learn").is_ok());
            }
            Fault::KillBird(role) => {
                if self.lab.router_pid(role).is_none() {
                    return Ok(false);
                }
                self.note(Side::A, |diary, now| diary.excuse(now, RELEARN));
                self.lab.kill_router(role)?;
            }
            Fault::Traffic => self.generator.set_rates(&flows((LOAD.0 / 3.0, LOAD.1))),
        }
        Ok(true)
    }

    fn end(&mut self, fault: Fault) -> Result<(), LabError> {
        match fault {
            Fault::KillAgent(side) if !self.agents.contains_key(&side) => self.start(side),
            Fault::StopAgent(side) => {
                self.note(side, |diary, now| close(&mut diary.absent, now));
                // Killed meanwhile: then another one runs already, or will.
                let _ = self.agents.get(&side).map(|agent| agent.signal(Signal::SIGCONT));
                Ok(())
            }
            Fault::Off(side) => {
                self.note(side, |diary, now| close(&mut diary.off, now));
                let told = |stage: &Self| stage.agents.get(&side).is_none_or(|a| a.etm(&["on"]).is_ok());
                told(self).then_some(()).ok_or_else(|| LabError::Malformed {
                    what: "etm on".into(),
                    detail: "the client cannot be run".into(),
                })
            }
            Fault::Carrier(side) => {
                self.link(side, "up")?;
                self.note(side, |diary, now| diary.excuse(now, REROUTE));
                Ok(())
            }
            Fault::KillBird(role) if self.lab.router_pid(role).is_none() => {
                self.note(Side::A, |diary, now| diary.excuse(now, RELEARN));
                self.lab.start_router(role)
            }
            Fault::Traffic => {
                self.generator.set_rates(&flows(LOAD));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The provider's end of an uplink.
    fn link(&self, side: Side, word: &str) -> Result<(), LabError> {
        let role = side.provider().role();
        self.lab.namespace(role).ip(&["link", "set", "dev", "border0", word])?;
        if word == "up" { self.lab.mend(side.provider()) } else { Ok(()) }
    }

    /// Both know everything, and what the first one moves is at core.
    fn steers(&mut self, when: &str) -> Result<(), LabError> {
        wait_until(&format!("both to steer {when}"), CONVERGENCE, || {
            self.lab.missing()?;
            for side in Side::BOTH {
                let ended = self.agents.get_mut(&side).is_none_or(|agent| agent.ended().is_some());
                if ended {
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
            if moved.is_empty() || !heard.sides.contains(&Side::A) {
                return Err(format!("{} overrides, core has those of {:?}", moved.len(), heard.sides));
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
            rest.extend(heard.sides.iter().map(|side| format!("core has routes of {side}")));
            if rest.is_empty() { Ok(()) } else { Err(format!("{rest:?}")) }
        });
        found.extend(left.err().map(|error| complaint("left-over", error.to_string())));
        Ok(found)
    }

    fn judge_packets(&self, start: Moment, until: Moment, round: &mut Round, findings: &mut Findings) {
        let first = start.next_multiple_of(WINDOW);
        for i in 0..until.saturating_sub(first) / WINDOW {
            let (from, until) = (first + i * WINDOW, first + (i + 1) * WINDOW);
            let arrived = self.sink.sent_between(from, until);
            let excused = self.diaries.values().any(|diary| diary.excused(from, until));
            for (destination, sent) in self.generator.sent_between(from, until) {
                let came: u64 = arrived
                    .iter()
                    .filter(|((_, to), _)| *to == destination)
                    .map(|(_, tally)| tally.packets)
                    .sum();
                let lost = sent.packets.saturating_sub(came);
                round.packets = (round.packets.0 + sent.packets, round.packets.1 + lost);
                if lost > 0 && !excused {
                    findings.add("loss", format!("{destination}"), from, lost);
                }
            }
            round.windows.0 += 1;
        }
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
    let terms = Terms::of(3, 3);
    for look in heard {
        for wrong in &look.wrong {
            findings.add("announcement", wrong.clone(), look.from, 1);
        }
        for side in &look.sides {
            let spans = diaries.get(side).map_or_else(Vec::new, |diary| diary.peers_plain(&terms));
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

/// None where core's BIRD does not answer.
fn hear(core: &Bird, others: &[(Role, Bird)]) -> Option<Heard> {
    let community = format!("({BORDER_AS},179)");
    let (from, mut sides, mut wrong) = (boottime_ns(), Vec::new(), Vec::new());
    for table in ["master4", "master6"] {
        let selection = format!("table {table} where {community} ~ bgp_community");
        for route in core.routes(&selection).ok()? {
            let side = Side::BOTH.into_iter().find(|side| route.protocol == format!("etm_{side}"));
            let communities = route.attributes.get("BGP.community").cloned().unwrap_or_default();
            let known = |list: &[&str]| list.iter().any(|p| p.parse::<IpNet>().ok() == route.prefix);
            if !communities.contains("(65535,65281)") || !(known(&HOME_A) || known(&HOME_B)) {
                wrong.push(format!("{:?} with {communities}", route.prefix));
            }
            match side {
                Some(side) => sides.push(side),
                None => wrong.push(format!("{:?} by {}", route.prefix, route.protocol)),
            }
        }
        for (role, bird) in others {
            let leaks = bird.routes(&selection).unwrap_or_default();
            wrong.extend(leaks.iter().map(|route| format!("{role} has {:?}", route.prefix)));
        }
    }
    sides.sort();
    sides.dedup();
    Some(Heard { from, until: boottime_ns(), sides, wrong })
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
            sides: vec![side],
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
