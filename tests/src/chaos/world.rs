//! Carries faults out on a scene, and writes each into the diary that the judge reads. Never judges, and undoes all it did.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use ipnet::IpNet;

mod network;
mod processes;

pub(super) use network::{RELEARN, REROUTE};
use network::{with_surplus, withdrawn_of};

use crate::agent::{self, Agent, AgentOptions, Site};
use crate::chaos::kernel::{Kind, OWN, Reader};
use crate::chaos::observer::Watch;
use crate::chaos::schedule::{Act, Fault, Planned};
use crate::chaos::tally::Tally;
use crate::chaos::timeline::{close, open};
use crate::error::LabError;
use crate::scene::Scene;
use crate::starved::Starved;
use crate::state::binary;
use crate::table::Table;
use crate::topology::{Provider, Role};
use crate::traces;
use crate::traffic::Demand;

/// Prefixes that the agent's tables hold in each family: the lab's 46 and 13, and few more.
pub const CAPACITY: u32 = 64;
/// Bytes of the file system of the recordings.
const DISK: &str = "1m";
/// Table of the flood: nobody looks into it.
const FLOOD_TABLE: u32 = 777;
/// Pause of whoever restarts an agent that ended by itself, as a unit with `RestartSec` does.
const RESTART: Duration = Duration::from_millis(300);

/// Exit status of an agent that misses an interface of its configuration.
const MISSING: i32 = 4;
/// Exit status of one that finds no routing daemon.
const NO_DAEMON: i32 = 6;
/// Exit status of one from which an interface was taken while it started.
const FAILED: i32 = 1;
/// An agent that ended so shortly after an interface came back had not found it.
const LATELY: Duration = Duration::from_secs(2);
/// After so many deaths of its own an agent is not started again.
const DEATHS: usize = 3;

/// Demand, capacity and limit of the rounds: an uplink above its limit, and far from the capacity even with all traffic.
pub const UPLINK_BPS: u64 = 60_000_000;
const LIMIT_PERCENT: u32 = 40;

/// Demand with the traffic of the fullest home at so many percent.
pub fn demand(percent: u32) -> Demand {
    Demand::by_home(28.0 * f64::from(percent) / 100.0, 6.0, 5.0)
}

/// The settings that every round begins with.
pub fn options() -> AgentOptions {
    AgentOptions {
        limit_percent: LIMIT_PERCENT,
        interval: "200ms",
        hold: "1s",
        lease: "3s",
        record: true,
        log: "info",
        ..AgentOptions::default()
    }
}

/// The same agent with other settings.
fn other_options() -> AgentOptions {
    AgentOptions { limit_percent: LIMIT_PERCENT + 3, interval: "300ms", hold: "2s", ..options() }
}

/// Configuration for a round.
fn config(scene: &Scene, options: &AgentOptions) -> String {
    let text = agent::config(&Site::of(&scene.lab), options);
    let caps = "[policy]\nmax_moved = \"90%\"\nmax_moved_per_minute = \"100%\"\n";
    let tables = [4, 6]
        .map(|family| (format!("prefixes_ipv{family} = 4096"), format!("prefixes_ipv{family} = {CAPACITY}")));
    let text =
        text.replacen("[policy]\n", caps, 1).replacen("[guardian]\n", "[guardian]\nadopt = \"3s\"\n", 1);
    tables.iter().fold(text, |text, (from, to)| text.replacen(from, to, 1))
}

/// A process that is ours to hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Runs,
    Stopped,
    Gone,
}

/// The scene while faults happen to it.
pub struct World<'a> {
    scene: &'a mut Scene,
    watch: &'a mut Watch,
    agent: Process,
    guardian: Option<i32>,
    guardian_stopped: bool,
    down: BTreeSet<Provider>,
    mended: Option<Instant>,
    reborn: Option<Instant>,
    dead: BTreeSet<Role>,
    withdrawn: BTreeSet<Provider>,
    surplus: bool,
    other: bool,
    off: bool,
    flooded: bool,
    percent: u32,
    clock: bool,
    starts: usize,
    plain: Table,
    /// How often a guardian ended an agent that hung.
    pub hung: usize,
    /// The agent ended by itself: with what status, and what it said last.
    pub deaths: Vec<String>,
    /// Faults by kind.
    pub tally: Tally,
    starved: Option<Starved>,
}

impl<'a> World<'a> {
    /// A scene whose agent is not running; `clock` where its wall clock will be stepped.
    pub fn of(scene: &'a mut Scene, watch: &'a mut Watch, clock: bool) -> Self {
        let plain = scene.lab.table().clone();
        watch.expect(&with_surplus(&plain));
        // Before the first agent there is none.
        watch.note(|timeline, now| open(&mut timeline.absent, now));
        Self {
            scene,
            watch,
            agent: Process::Gone,
            guardian: None,
            guardian_stopped: false,
            down: BTreeSet::new(),
            mended: None,
            reborn: None,
            dead: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            surplus: false,
            other: false,
            off: false,
            flooded: false,
            percent: 100,
            clock,
            starts: 0,
            plain,
            hung: 0,
            deaths: Vec::new(),
            tally: Tally::default(),
            starved: None,
        }
    }

    /// The scene as it is.
    pub fn scene(&mut self) -> &mut Scene {
        self.scene
    }

    fn say(&self, text: String) {
        self.watch.note(|timeline, now| timeline.diary.push((now, text)));
    }

    /// Starts an agent; does not wait for it.
    ///
    /// # Errors
    /// A binary is missing, or a file cannot be written.
    pub fn start_agent(&mut self) -> Result<(), LabError> {
        self.starts += 1;
        let options = if self.other { other_options() } else { options() };
        let path = agent::write_text(&self.scene.lab, &config(self.scene, &options))?;
        let log = self.scene.lab.directory().join(format!("etm-agent.{:02}.log", self.starts));
        let disk = Site::of(&self.scene.lab).recordings();
        fs::create_dir_all(&disk).map_err(LabError::io(format!("make {}", disk.display())))?;
        let lab = binary("etm-lab")?.display().to_string();
        let mut wrapper = self.clock_wrapper()?;
        wrapper.extend([lab, "small-disk".into(), disk.display().to_string(), DISK.into(), "--".into()]);
        self.watch.note(|timeline, now| close(&mut timeline.absent, now));
        self.scene.agent = Agent::launch(&self.scene.lab, &wrapper, &path, options.log, log)?;
        self.agent = Process::Runs;
        self.say(format!("agent started as {}", self.scene.agent.pid()));
        Ok(())
    }

    /// Restarts an agent that ended by itself, as the system would.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn supervise(&mut self) -> Result<(), LabError> {
        if self.agent == Process::Gone {
            return Ok(());
        }
        let Some(status) = self.scene.agent.ended() else { return Ok(()) };
        self.watch.note(|timeline, now| open(&mut timeline.absent, now));
        // A guardian ends an agent that hangs, on a box that is too busy too; that is no death of its own.
        let hung = status.signal() == Some(9) && self.told_hung();
        self.hung += usize::from(hung);
        let hung = hung || self.agent == Process::Stopped && status.code().is_none();
        self.say(format!("agent ended by itself: {status}"));
        // An interface of the configuration that is not there is refused; the system tries again.
        let lately = self.mended.is_some_and(|at| at.elapsed() < LATELY);
        let waiting = matches!(status.code(), Some(MISSING | FAILED)) && (lately || !self.down.is_empty())
            || status.code() == Some(NO_DAEMON) && (self.reborn() || self.dead.contains(&Role::Border));
        if !hung && !waiting {
            let log = self.scene.agent.log();
            let last: Vec<&str> = log.lines().rev().take(3).collect();
            self.deaths.push(format!("{status}: {}", last.join(" / ")));
        }
        self.agent = Process::Gone;
        if self.deaths.len() > DEATHS {
            let last = self.deaths.last().cloned().unwrap_or_default();
            return Err(LabError::Malformed {
                what: "an agent that dies again and again".into(),
                detail: last,
            });
        }
        crate::poll::pass_time(RESTART);
        self.start_agent()
    }

    /// Whether the border's daemon came back a moment ago.
    fn reborn(&self) -> bool {
        self.reborn.is_some_and(|at| at.elapsed() < LATELY)
    }

    /// Whether a guardian says that it ended this agent. Its log goes where that of the agent goes which started it.
    fn told_hung(&self) -> bool {
        let pid = format!("pid={}", self.scene.agent.pid());
        let entries = fs::read_dir(self.scene.lab.directory()).into_iter().flatten().flatten();
        let logs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("etm-agent."));
        logs.filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .any(|text| text.lines().any(|line| line.contains("the agent hung") && line.contains(&pid)))
    }

    /// Carries out one act.
    ///
    /// # Errors
    /// A tool of the box refuses.
    pub fn act(&mut self, act: Act) -> Result<(), LabError> {
        match act {
            Act::Begin(planned) if !self.playable(planned.fault) => {
                self.say(format!("{}: not played, what it needs is not installed", planned.fault));
                Ok(())
            }
            Act::Begin(planned) => {
                let met = self.begin(planned)?;
                self.say(format!("{}{}", planned.fault, if met { "" } else { ": nothing to break" }));
                // Whether requests were refused shows in the end.
                self.tally.count(planned.fault.name(), met && planned.fault != Fault::Starve);
                Ok(())
            }
            Act::End(planned) => {
                self.say(format!("mended: {}", planned.fault));
                self.end(planned.fault)
            }
        }
    }

    /// False where there was nothing to break.
    fn begin(&mut self, planned: Planned) -> Result<bool, LabError> {
        match planned.fault {
            Fault::KillAgent => Ok(self.kill_agent()),
            Fault::StopAgent => Ok(self.stop_agent()),
            Fault::KillGuardian => Ok(self.kill_guardian()),
            Fault::StopGuardian => Ok(self.stop_guardian()),
            // Agent first: it would start another guardian.
            Fault::KillBoth => Ok(self.kill_agent() | self.kill_guardian()),
            Fault::StopBoth => Ok(self.stop_agent() | self.stop_guardian()),
            Fault::Carrier(provider) => self.lose_link(provider, |lab| lab.cut(provider)),
            Fault::AdminDown(provider) => self.lose_link(provider, |lab| {
                lab.namespace(Role::Border).ip(&["link", "set", "dev", provider.uplink(), "down"]).map(drop)
            }),
            Fault::Unplug(provider) => self.lose_link(provider, |lab| lab.unplug(provider)),
            Fault::ResetLearn => Ok(self.reset(Role::Border, &["etm_learn"])),
            Fault::ResetInject => Ok(self.reset(Role::Core, &["etm_inject"])),
            Fault::ResetProvider(provider) => Ok(self.reset_provider(provider)),
            Fault::KillBird(role) => self.kill_bird(role),
            Fault::Overrun => self.overrun(),
            Fault::Starve => self.starve(),
            Fault::MapFull => self.change(|world| !std::mem::replace(&mut world.surplus, true)),
            Fault::DiskFull => Ok(self.fill_disk()),
            Fault::Withdraw(provider) => {
                let met = self.change(|world| world.withdrawn.insert(provider))?;
                if met {
                    let prefixes = Some(withdrawn_of(&self.plain, provider));
                    self.watch.note(|timeline, now| timeline.lose(provider, prefixes, now));
                }
                Ok(met)
            }
            Fault::Traffic(percent) => {
                self.traffic(percent);
                Ok(true)
            }
            Fault::Off => self.off(),
            Fault::Reconfigure => self.reconfigure(),
            Fault::WallClock(hours) => self.step_clock(hours),
        }
    }

    fn end(&mut self, fault: Fault) -> Result<(), LabError> {
        match fault {
            Fault::KillAgent | Fault::KillBoth => self.bring_back(),
            Fault::StopAgent => {
                self.resume_agent();
                Ok(())
            }
            Fault::StopGuardian => {
                self.resume_guardian();
                Ok(())
            }
            Fault::StopBoth => {
                self.resume_guardian();
                self.resume_agent();
                Ok(())
            }
            Fault::Carrier(provider) | Fault::AdminDown(provider) | Fault::Unplug(provider) => {
                self.mend_link(provider)
            }
            Fault::KillBird(role) => self.start_bird(role),
            Fault::Starve => {
                self.feed();
                Ok(())
            }
            Fault::MapFull => self.change(|world| std::mem::replace(&mut world.surplus, false)).map(drop),
            Fault::DiskFull => {
                let _ = self.filler().map(fs::remove_file);
                Ok(())
            }
            Fault::Withdraw(provider) => {
                if self.change(|world| world.withdrawn.remove(&provider))? {
                    self.watch.note(|timeline, now| timeline.regain(provider, false, now));
                }
                Ok(())
            }
            Fault::Traffic(_) => {
                self.traffic(100);
                Ok(())
            }
            Fault::WallClock(_) => self.step_clock(0).map(drop),
            Fault::Off => {
                self.on();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Undoes what is still broken, in whatever state the faults left the lab.
    ///
    /// # Errors
    /// A tool of the box refuses.
    pub fn mend_all(&mut self) -> Result<(), LabError> {
        for provider in self.down.clone() {
            self.mend_link(provider)?;
        }
        for role in self.dead.clone() {
            self.start_bird(role)?;
        }
        if self.flooded {
            self.flooded = false;
            let table = FLOOD_TABLE.to_string();
            let _ = self.scene.lab.namespace(Role::Border).ip(&["route", "flush", "table", &table]);
        }
        let _ = self.filler().map(fs::remove_file);
        self.feed();
        self.traffic(100);
        for provider in self.withdrawn.clone() {
            self.end(Fault::Withdraw(provider))?;
        }
        self.change(|world| std::mem::replace(&mut world.surplus, false))?;
        self.resume_guardian();
        self.resume_agent();
        self.bring_back()
    }

    /// The operator's order, once an agent answers.
    pub fn on(&mut self) {
        if !self.off {
            return;
        }
        // Taken back before it is given: an agent may act on it before the client returns.
        self.watch.note(|timeline, now| close(&mut timeline.off, now));
        match self.scene.agent.etm(&["on"]) {
            Ok(output) if output.status.success() => self.off = false,
            _ => self.watch.note(|timeline, now| open(&mut timeline.off, now)),
        }
    }

    /// What is missing until an agent steers with its overrides in kernel and core.
    ///
    /// # Errors
    /// That, in words.
    pub fn steering(&self) -> Result<(), String> {
        let text = |error: LabError| error.to_string();
        if let Some(missing) = self.scene.lab.missing().map_err(text)? {
            return Err(missing);
        }
        self.scene.agent.ready(&self.plain)?;
        let overrides = self.scene.agent.overrides().map_err(text)?;
        let announced: BTreeSet<IpNet> = traces::announced(&self.scene.lab)
            .map_err(text)?
            .iter()
            .filter_map(|route| route.prefix)
            .collect();
        let own =
            Reader::open(&self.scene.lab.namespace(Role::Border)).and_then(|r| r.table(OWN)).map_err(text)?;
        let there = |prefix: &IpNet| own.iter().any(|way| way.prefix == *prefix && way.kind == Kind::Unicast);
        let missing: Vec<IpNet> =
            overrides.iter().map(|o| o.prefix).filter(|p| !there(p) || !announced.contains(p)).collect();
        if overrides.is_empty() || !missing.is_empty() {
            return Err(format!("{} overrides, not everywhere: {missing:?}", overrides.len()));
        }
        Ok(())
    }
}
