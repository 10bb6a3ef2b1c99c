//! Carries faults out on a scene, and writes each into the diary that the judge reads. Never judges, and undoes all it did.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::{self, Agent, AgentOptions, Site};
use crate::chaos::kernel::{Kind, OWN, Reader};
use crate::chaos::observer::Watch;
use crate::chaos::schedule::{Act, Fault, Planned};
use crate::chaos::timeline::{MS, close, open};
use crate::error::LabError;
use crate::link;
use crate::scene::Scene;
use crate::state::binary;
use crate::table::{Announcement, Table};
use crate::topology::{LINKS, Provider, Role};
use crate::traces;
use crate::traffic::{Demand, FRAME};

/// Prefixes that the agent's tables hold in each family: the lab's 46 and 13, and few more.
pub const CAPACITY: u32 = 64;
/// Prefixes that come too many.
const SURPLUS: u8 = 40;
/// Bytes of the file system of the recordings.
const DISK: &str = "1m";
/// Routes of an overrun: what the agent's receive buffer does not hold while it is stopped.
const FLOOD: u32 = 40_000;
/// Table of the flood: nobody looks into it.
const FLOOD_TABLE: u32 = 777;
/// How long the loss of a link explains loss: until the daemon has other routes.
const REROUTE: u64 = 1500 * MS;
/// How long a daemon that starts anew explains loss: until its sessions are up again.
const RELEARN: u64 = 8000 * MS;
/// Pause of whoever restarts an agent that ended by itself, as a unit with `RestartSec` does.
const RESTART: Duration = Duration::from_millis(300);

/// Exit status of an agent that misses an interface of its configuration.
const MISSING: i32 = 4;
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
    dead: BTreeSet<Role>,
    withdrawn: BTreeSet<Provider>,
    surplus: bool,
    other: bool,
    off: bool,
    flooded: bool,
    percent: u32,
    starts: usize,
    plain: Table,
    /// How often a guardian ended an agent that hung.
    pub hung: usize,
    /// The agent ended by itself: with what status, and what it said last.
    pub deaths: Vec<String>,
    /// Faults that met something to break.
    pub met: BTreeMap<&'static str, u64>,
}

impl<'a> World<'a> {
    /// A scene whose agent is not running.
    pub fn of(scene: &'a mut Scene, watch: &'a mut Watch) -> Self {
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
            dead: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            surplus: false,
            other: false,
            off: false,
            flooded: false,
            percent: 100,
            starts: 0,
            plain,
            hung: 0,
            deaths: Vec::new(),
            met: BTreeMap::new(),
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
        let wrapper = [lab, "small-disk".into(), disk.display().to_string(), DISK.into(), "--".into()];
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
        let waiting = matches!(status.code(), Some(MISSING | FAILED)) && (lately || !self.down.is_empty());
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
            Act::Begin(planned) => {
                let met = self.begin(planned)?;
                self.say(format!("{}{}", planned.fault, if met { "" } else { ": nothing to break" }));
                *self.met.entry(planned.fault.name()).or_default() += u64::from(met);
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

    // === processes ===

    fn kill_agent(&mut self) -> bool {
        if self.agent == Process::Gone || self.scene.agent.ended().is_some() {
            return false;
        }
        self.guardian = self.scene.agent.guardian();
        self.watch.note(|timeline, now| open(&mut timeline.absent, now));
        let killed = self.scene.agent.signal(Signal::SIGKILL).is_ok();
        let _ = self.scene.agent.wait_end(Duration::from_secs(5));
        self.agent = Process::Gone;
        killed
    }

    fn bring_back(&mut self) -> Result<(), LabError> {
        if self.agent == Process::Gone { self.start_agent() } else { Ok(()) }
    }

    fn stop_agent(&mut self) -> bool {
        if self.agent != Process::Runs || self.scene.agent.ended().is_some() {
            return false;
        }
        self.watch.note(|timeline, now| open(&mut timeline.absent, now));
        self.agent = Process::Stopped;
        self.scene.agent.signal(Signal::SIGSTOP).is_ok()
    }

    fn resume_agent(&mut self) {
        if self.agent != Process::Stopped || self.scene.agent.ended().is_some() {
            return;
        }
        self.watch.note(|timeline, now| close(&mut timeline.absent, now));
        // Gone in between: supervision finds out.
        let _ = self.scene.agent.signal(Signal::SIGCONT);
        self.agent = Process::Runs;
    }

    fn kill_guardian(&mut self) -> bool {
        let pid = self.scene.agent.guardian().or(self.guardian);
        let Some(pid) = pid else { return false };
        self.guardian_stopped = false;
        let killed = kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok();
        self.watch.note(|timeline, now| {
            timeline.killed.push(now);
            close(&mut timeline.stunned, now);
        });
        self.guardian = None;
        killed
    }

    fn stop_guardian(&mut self) -> bool {
        let Some(pid) = self.scene.agent.guardian().filter(|_| !self.guardian_stopped) else { return false };
        self.guardian = Some(pid);
        self.guardian_stopped = true;
        self.watch.note(|timeline, now| open(&mut timeline.stunned, now));
        kill(Pid::from_raw(pid), Signal::SIGSTOP).is_ok()
    }

    fn resume_guardian(&mut self) {
        if !std::mem::replace(&mut self.guardian_stopped, false) {
            return;
        }
        if let Some(pid) = self.guardian {
            // An agent may have ended it, and started another one.
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
        self.watch.note(|timeline, now| close(&mut timeline.stunned, now));
    }

    fn reconfigure(&mut self) -> Result<bool, LabError> {
        if self.agent != Process::Runs || self.scene.agent.ended().is_some() {
            return Ok(false);
        }
        self.other = !self.other;
        self.agent = Process::Gone;
        self.scene.agent.signal(Signal::SIGTERM)?;
        let ended = self.scene.agent.wait_end(Duration::from_secs(12));
        self.watch.note(|timeline, now| open(&mut timeline.absent, now));
        match ended {
            // 3: ended, but a session that another fault took away could not confirm. By the signal itself: it had not begun.
            Ok(status) if matches!(status.code(), Some(0 | 3)) || status.signal() == Some(15) => {}
            Ok(status) => self.deaths.push(format!("ended on SIGTERM with {status}")),
            Err(error) => {
                self.deaths.push(format!("did not end on SIGTERM: {error}"));
                self.agent = Process::Runs;
                self.kill_agent();
            }
        }
        self.start_agent().map(|()| true)
    }

    fn off(&mut self) -> Result<bool, LabError> {
        if self.off {
            return Ok(false);
        }
        let output = self.scene.agent.off()?;
        if output.status.success() {
            self.off = true;
            self.watch.note(|timeline, now| open(&mut timeline.off, now));
        } else {
            self.say(format!("off: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(self.off)
    }

    // === links, sessions, routers ===

    fn lose_link(
        &mut self,
        provider: Provider,
        cut: impl FnOnce(&crate::lab::Lab) -> Result<(), LabError>,
    ) -> Result<bool, LabError> {
        if !self.down.insert(provider) {
            return Ok(false);
        }
        self.watch.note(|timeline, now| {
            timeline.excuse(now, REROUTE);
            timeline.lose(provider, None, now);
        });
        cut(&self.scene.lab).map(|()| true)
    }

    fn mend_link(&mut self, provider: Provider) -> Result<(), LabError> {
        if !self.down.remove(&provider) {
            return Ok(());
        }
        self.mended = Some(Instant::now());
        self.watch.note(|timeline, now| timeline.regain(provider, true, now));
        let border = self.scene.lab.namespace(Role::Border);
        let mended = if border.ip(&["link", "show", "dev", provider.uplink()]).is_ok() {
            // Whichever end was down: addresses and neighbours of both return.
            LINKS.iter().filter(|made| made.near.interface == provider.uplink()).try_for_each(|made| {
                let far = self.scene.lab.namespace(made.far.role);
                far.ip_batch("mend a link", &link::up_lines(&made.far, &made.near))?;
                border.ip_batch("mend a link", &link::up_lines(&made.near, &made.far))
            })
        } else {
            self.scene.lab.plug(provider)
        };
        self.watch.note(|timeline, now| timeline.excuse(now, REROUTE));
        mended
    }

    /// False where no session could be restarted.
    fn reset(&mut self, role: Role, sessions: &[&str]) -> bool {
        let bird = self.scene.lab.bird(role);
        sessions.iter().filter(|name| bird.ask(&format!("restart {name}")).is_ok()).count() > 0
    }

    fn reset_provider(&mut self, provider: Provider) -> bool {
        let names = ["4", "6"].map(|family| crate::bird_config::session_name(provider, family));
        self.reset(Role::Border, &names.each_ref().map(String::as_str))
    }

    fn kill_bird(&mut self, role: Role) -> Result<bool, LabError> {
        if !self.dead.insert(role) {
            return Ok(false);
        }
        let provider = Provider::ALL.into_iter().find(|provider| provider.role() == role);
        self.scene.lab.kill_router(role)?;
        if let Some(provider) = provider.filter(|provider| !self.down.contains(provider)) {
            self.watch.note(|timeline, now| timeline.lose(provider, None, now));
        }
        Ok(true)
    }

    fn start_bird(&mut self, role: Role) -> Result<(), LabError> {
        if !self.dead.remove(&role) {
            return Ok(());
        }
        if role == Role::Border {
            // A daemon that begins anew removes the routes that it does not know yet.
            self.watch.note(|timeline, now| timeline.excuse(now, RELEARN));
        }
        let provider = Provider::ALL.into_iter().find(|provider| provider.role() == role);
        if let Some(provider) = provider.filter(|provider| !self.down.contains(provider)) {
            self.watch.note(|timeline, now| timeline.regain(provider, true, now));
        }
        self.scene.lab.start_router(role)
    }

    // === routes, tables, disks, traffic ===

    /// Changes what is announced; false where nothing changed.
    fn change(&mut self, change: impl FnOnce(&mut Self) -> bool) -> Result<bool, LabError> {
        if !change(self) {
            return Ok(false);
        }
        let mut table = if self.surplus { with_surplus(&self.plain) } else { self.plain.clone() };
        for provider in &self.withdrawn {
            let gone = withdrawn_of(&self.plain, *provider);
            for announcement in table.announcements.iter_mut().filter(|a| gone.contains(&a.prefix)) {
                announcement.providers.retain(|p| p != provider);
            }
        }
        table.announcements.retain(|announcement| !announcement.providers.is_empty());
        self.scene.lab.set_table(table)?;
        for provider in Provider::ALL.into_iter().filter(|provider| !self.dead.contains(&provider.role())) {
            self.scene.lab.bird(provider.role()).configure()?;
        }
        Ok(true)
    }

    fn overrun(&mut self) -> Result<bool, LabError> {
        let stopped = self.stop_agent();
        let border = self.scene.lab.namespace(Role::Border);
        let table = FLOOD_TABLE.to_string();
        let lines: Vec<String> = (0..FLOOD)
            .map(|i| {
                let [_, b, c, d] = i.to_be_bytes();
                format!("route replace blackhole 100.{}.{c}.{d}/32 table {table} proto 250", 64 + b)
            })
            .collect();
        let flooded = border.ip_batch("flood the listeners to routes", &lines);
        self.flooded = true;
        if stopped {
            self.resume_agent();
        }
        flooded.map(|()| true)
    }

    /// A file that leaves no room on the disk of the recordings, which only the agent's mount namespace has.
    fn filler(&self) -> Option<PathBuf> {
        let directory = Site::of(&self.scene.lab).recordings();
        let root = PathBuf::from(format!("/proc/{}/root", self.scene.agent.pid()));
        (self.agent != Process::Gone)
            .then(|| root.join(directory.strip_prefix("/").unwrap_or(&directory)).join("filler"))
    }

    fn fill_disk(&mut self) -> bool {
        let Some(path) = self.filler() else { return false };
        let Ok(mut file) = fs::File::create(&path) else { return false };
        let block = vec![0_u8; 64 * 1024];
        // Until it is full, and never more than the disk could be.
        (0..1024).any(|_| std::io::Write::write_all(&mut file, &block).is_err())
    }

    fn traffic(&mut self, percent: u32) {
        if std::mem::replace(&mut self.percent, percent) != percent {
            self.scene.generator.set_rates(&demand(percent).flows(&self.plain, FRAME));
        }
    }
}

/// Every second prefix of a provider.
fn withdrawn_of(table: &Table, provider: Provider) -> BTreeSet<IpNet> {
    let of_it = table.announcements.iter().filter(|a| a.providers.contains(&provider));
    of_it.enumerate().filter(|(i, _)| i % 2 == 1).map(|(_, a)| a.prefix).collect()
}

fn with_surplus(table: &Table) -> Table {
    let mut table = table.clone();
    for i in 0..SURPLUS {
        if let Ok(prefix) = format!("198.18.{}.0/24", 200 + i).parse() {
            let providers = vec![Provider::TransitA, Provider::TransitB];
            table.announcements.push(Announcement { prefix, providers });
        }
    }
    table
}

/// Runs a program on a small disk of its own: a mount namespace with `directory` on a file system of `size`. Replaces this
/// process; returns only with an error.
///
/// # Errors
/// The system refuses.
pub fn small_disk(directory: &str, size: &str, command: &[String]) -> LabError {
    use std::os::unix::process::CommandExt as _;

    use nix::mount::{MsFlags, mount};
    let none: Option<&str> = None;
    let prepared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .and_then(|()| {
            let size = format!("size={size}");
            mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
        });
    if let Err(errno) = prepared {
        return LabError::errno(format!("give {directory} a small disk"))(errno);
    }
    let Some((program, arguments)) = command.split_first() else {
        return LabError::Malformed {
            what: "the program for a small disk".into(),
            detail: "none given".into(),
        };
    };
    let source = Command::new(program).args(arguments).exec();
    LabError::Io { what: format!("run {program}"), source }
}
