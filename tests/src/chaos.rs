//! Chaos: rounds of random faults on a lab that ETM steers, under an observer that knows what must hold.
//!
//! A round begins with an agent that steers and ends with one: its faults mended, it must steer again, and an orderly stop
//! must leave nothing. Seeds follow each other: round `i` of `--seed N` is round 0 of `--seed N+i`.
//! *Never*: touches the machine's clock, which has no namespace; processes of ETM are given a wall clock of their own.

pub mod disk;
pub mod judge;
pub mod kernel;
pub mod observer;
pub mod schedule;
pub mod tally;
pub mod timeline;
mod two;
pub mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::json;

use crate::chaos::judge::Violation;
use crate::chaos::kernel::{MAIN, OWN, Reader};
use crate::chaos::observer::{Ground, Seen, Watch, difference};
use crate::chaos::schedule::{Planned, Schedule};
use crate::chaos::tally::Tally;
use crate::chaos::timeline::{MS, Terms, Timeline};
use crate::chaos::world::{UPLINK_BPS, World, demand, options};
use crate::clock::boottime_ns;
use crate::error::LabError;
use crate::lab::{Lab, LabOptions};
use crate::poll::{pass_time, wait_until};
use crate::scene::Scene;
use crate::topology::Role;
use crate::traces;
use crate::traffic::{FRAME, Generator, Sink};

/// Longest time until an agent steers, from its start or from the end of the last fault: of a box that does other work too,
/// whose kernel may keep everybody waiting for its routing lock.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// Longest time of an orderly stop.
const STOP: Duration = Duration::from_secs(20);
/// Longest wait for the kernel's routing lock within which an agent can keep a lease of 3 s.
const LOCKED_OUT: Duration = Duration::from_secs(1);
/// Violations that say how long something took. What packets did is judged however busy the box is.
const OF_TIME: [&str; 6] = ["convergence", "stop", "left-over", "death", "lab", "no-candidate"];
/// How often a round is played that proved nothing.
const PLAYS: usize = 3;
/// Pause between two looks whether something is due.
const TICK: Duration = Duration::from_millis(5);

/// Which labs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Topology {
    /// The lab with one border.
    One,
    /// The lab with two borders, both of which steer.
    Two,
    /// Every fifth seed has two borders.
    #[default]
    Both,
}

impl Topology {
    fn has_two(self, seed: u64) -> bool {
        self == Self::Two || (self == Self::Both && seed.is_multiple_of(5))
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct ChaosOptions {
    /// Seed of the first round.
    pub seed: u64,
    /// How many rounds.
    pub rounds: u64,
    /// Which labs.
    pub topology: Topology,
    /// One JSON object per line.
    pub json: bool,
    /// Where logs of rounds with violations are kept.
    pub keep: PathBuf,
}

/// A round.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Round {
    /// Its seed.
    pub seed: u64,
    /// On the lab with two borders.
    pub two_borders: bool,
    /// Its faults, those that met nothing to break included.
    pub faults: Vec<String>,
    /// What must not have been.
    pub violations: Vec<Violation>,
    /// How long it took, in milliseconds: until the agent steered, and in all.
    pub ready_ms: u64,
    /// From the last mending to an agent that steers.
    pub converged_ms: u64,
    /// How often a guardian ended an agent that hung: stopped by a fault, or by a busy box.
    pub hung: usize,
    /// In all.
    pub took_ms: u64,
    /// Longest wait for the kernel's routing lock in milliseconds: others of the box hold it, too.
    pub locked_out_ms: u64,
    /// The lock was held for so long that agents could not do their work in time: the round proves nothing about times.
    pub void: bool,
    /// Looks of the observer.
    pub looks: usize,
    /// Longest time between two of them.
    pub longest_gap_ms: u64,
    /// Windows of 50 ms in which packets were judged, and in which the observer was late.
    pub windows: (u64, u64),
    /// Packets sent and lost, whatever explains it.
    pub packets: (u64, u64),
    #[serde(skip)]
    diary: Vec<String>,
}

/// Runs the rounds and prints what they found; true where no invariant was broken.
///
/// # Errors
/// The lab cannot be made.
pub fn run(options: &ChaosOptions) -> Result<bool, LabError> {
    let (mut faults, mut violations, mut voids) = (0, 0, 0);
    let mut tally = Tally::default();
    let (mut scene, mut two) = (None, None);
    for seed in options.seed..options.seed + options.rounds {
        if options.topology.has_two(seed) {
            let mut stage = two.take().map_or_else(two::Stage::up, Ok)?;
            let round = stage.play(seed, &mut tally);
            show(&round, options.json);
            (faults, violations) = (faults + round.faults.len(), violations + round.violations.len());
            if round.violations.is_empty() {
                stage.forget();
                two = Some(stage);
            } else {
                keep(&options.keep, &stage.directory(), &round)?;
            }
            continue;
        }
        for _ in 0..PLAYS {
            let mut ready = scene.take().map_or_else(prepare, Ok)?;
            let round = play(&mut ready, &Schedule::of(seed), &mut tally);
            // What a round broke must not be held against the next.
            if round.violations.is_empty() && !round.void {
                for path in logs(&ready.0) {
                    let _ = fs::remove_file(path);
                }
                scene = Some(ready);
            } else {
                keep(&options.keep, &ready.0.lab.directory(), &round)?;
            }
            show(&round, options.json);
            faults += round.faults.len();
            violations += round.violations.len();
            if !round.void {
                break;
            }
            voids += 1;
        }
    }
    let last = json!({
        "bench": "chaos", "seed": options.seed, "rounds": options.rounds, "faults": faults, "violations": violations,
        "void": voids, "met": tally.met(), "drawn": tally.drawn(), "dead": tally.dead(),
    });
    for kind in tally.dead() {
        eprintln!(
            "chaos: {kind}: drawn {} times and met nothing to break; is what it needs installed?",
            tally.drawn()[kind]
        );
    }
    if options.json {
        println!("{last}");
    } else {
        println!("{} rounds, {faults} faults, {violations} violations", options.rounds);
    }
    Ok(violations == 0 && tally.dead().is_empty())
}

/// A scene without an agent, and what its plain routing looks like.
type Stage = (Scene, Ground);

fn prepare() -> Result<Stage, LabError> {
    let lab = Lab::up(LabOptions { uplink_bps: UPLINK_BPS, ..LabOptions::default() })?;
    let ground = Ground::of(&lab, Terms::of(3, 3))?;
    let sink = Sink::start(&lab.namespace(Role::Sink))?;
    let path = crate::agent::write_config(&lab, &options())?;
    // A scene holds an agent: this one is gone before the first round, and only its configuration was checked.
    let agent = crate::agent::Agent::start_with(&lab, &path, "error")?;
    let mut scene = Scene {
        generator: Generator::start(
            &lab.namespace(Role::Content),
            &demand(100).flows(lab.table(), FRAME),
            FRAME,
        )?,
        sink,
        agent,
        lab,
    };
    scene.agent.signal(Signal::SIGTERM)?;
    scene.agent.wait_end(CONVERGENCE)?;
    Ok((scene, ground))
}

/// Plays one round. What fails in the lab is a violation too: whoever reads it must look.
fn play(stage: &mut Stage, schedule: &Schedule, tally: &mut Tally) -> Round {
    let (scene, ground) = stage;
    let begun = Instant::now();
    let faults = schedule.faults.iter().map(ToString::to_string).collect();
    let mut round = Round { seed: schedule.seed, faults, ..Round::default() };
    if let Err(error) = rounds_of(scene, ground, schedule, &mut round, tally) {
        round.violations.push(complaint("lab", error.to_string()));
    }
    round.took_ms = millis(begun.elapsed());
    round
}

fn complaint(kind: &'static str, what: String) -> Violation {
    Violation { kind, what, at_ms: 0, times: 1 }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn rounds_of(
    scene: &mut Scene,
    ground: &Ground,
    schedule: &Schedule,
    round: &mut Round,
    tally: &mut Tally,
) -> Result<(), LabError> {
    let mut watch = Watch::start(ground.clone())?;
    let mut world = World::of(scene, &mut watch, schedule.steps_the_clock());
    world.start_agent()?;
    let begun = Instant::now();
    let mut bad = steers(&mut world, "at first").err().map(|text| complaint("convergence", text));
    round.ready_ms = millis(begun.elapsed());
    if bad.is_none() {
        perform(&mut world, schedule)?;
        world.mend_all()?;
        let mended = Instant::now();
        bad = steers(&mut world, "after the faults").err().map(|text| complaint("convergence", text));
        round.converged_ms = millis(mended.elapsed());
    }
    round.violations.extend(bad);
    round.violations.extend(world.deaths.iter().map(|text| complaint("death", text.clone())));
    round.hung = world.hung;
    tally.add(&world.tally);
    round.violations.extend(leave(scene, &watch, ground)?);
    panics(scene, round);
    let timeline = watch.timeline();
    let seen = watch.end(scene)?;
    record(round, seen, &timeline);
    Ok(())
}

/// Waits until an agent steers: routers agree, it is ready, its overrides are everywhere.
fn steers(world: &mut World<'_>, when: &str) -> Result<(), String> {
    let deadline = Instant::now() + CONVERGENCE;
    let mut last = String::new();
    while Instant::now() < deadline {
        world.supervise().map_err(|error| error.to_string())?;
        world.on();
        match world.steering() {
            Ok(()) => return Ok(()),
            Err(missing) => last = missing,
        }
        pass_time(Duration::from_millis(30));
    }
    Err(format!("does not steer {when}: {last}"))
}

fn perform(world: &mut World<'_>, schedule: &Schedule) -> Result<(), LabError> {
    let start = Instant::now();
    for (at_ms, act) in schedule.acts() {
        let due = Duration::from_millis(at_ms);
        while start.elapsed() < due {
            world.supervise()?;
            pass_time(TICK.min(due.saturating_sub(start.elapsed())));
        }
        world.act(act)?;
    }
    Ok(())
}

/// Stops the agent in order, and says what it left.
fn leave(scene: &mut Scene, watch: &Watch, ground: &Ground) -> Result<Vec<Violation>, LabError> {
    let mut found = Vec::new();
    let guardian = scene.agent.guardian();
    if scene.agent.signal(Signal::SIGTERM).is_ok() {
        match scene.agent.wait_end(STOP).map(|status| status.code()) {
            Ok(Some(0)) => {}
            Ok(code) => found.push(complaint("stop", format!("exit status {code:?}"))),
            Err(error) => found.push(complaint("stop", error.to_string())),
        }
    }
    watch.note(|timeline, now| timeline::open(&mut timeline.absent, now));
    let left = wait_until("nothing of ETM to be left", Duration::from_secs(2), || {
        let text = |error: LabError| error.to_string();
        let traces = traces::Traces::of(&scene.lab).map_err(text)?;
        let reader = Reader::open(&ground.border).map_err(text)?;
        let own = reader.table(OWN).map_err(text)?;
        let changed = difference(&ground.expected.baseline, &reader.table(MAIN).map_err(text)?);
        let alive = guardian.filter(|pid| Path::new(&format!("/proc/{pid}/stat")).exists());
        let plain = own.is_empty() && changed.is_empty() && alive.is_none();
        if plain && traces.rules.is_empty() && traces.announced.is_empty() && traces.marking().is_empty() {
            return Ok(());
        }
        Err(format!(
            "own table {}, main {changed:?}, rules {:?}, announced {:?}, marking {:?}, guardian {alive:?}",
            own.len(),
            traces.rules,
            traces.announced,
            traces.marking()
        ))
    });
    found.extend(left.err().map(|error| complaint("left-over", error.to_string())));
    Ok(found)
}

fn record(round: &mut Round, seen: Seen, timeline: &Timeline) {
    round.violations.extend(seen.violations);
    (round.looks, round.longest_gap_ms) = (seen.looks, seen.longest_gap_ms);
    round.locked_out_ms = millis(seen.locked_out);
    if seen.locked_out > LOCKED_OUT {
        let of_time = |violation: &Violation| OF_TIME.contains(&violation.kind);
        round.void = round.violations.iter().any(of_time);
        round.violations.retain(|violation| !of_time(violation));
    }
    (round.windows, round.packets) = (seen.windows, seen.packets);
    let start = timeline.diary.first().map_or_else(boottime_ns, |(at, _)| *at);
    let line = |(at, text): &(u64, String)| format!("{:>7} ms {text}", at.saturating_sub(start) / MS);
    round.diary = timeline.diary.iter().map(line).collect();
}

/// A panic is a fault whatever it led to.
fn panics(scene: &Scene, round: &mut Round) {
    for path in logs(scene) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        if let Some(line) = text.lines().find(|line| line.contains("panicked")) {
            round.violations.push(complaint("panic", line.to_owned()));
        }
    }
}

fn logs(scene: &Scene) -> Vec<PathBuf> {
    let entries = fs::read_dir(scene.lab.directory()).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    paths
        .retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("etm-agent.")));
    paths.sort();
    paths
}

/// Keeps what a round with violations left to read.
fn keep(directory: &Path, lab: &Path, round: &Round) -> Result<(), LabError> {
    let place = directory.join(format!("seed-{}", round.seed));
    let failed = || LabError::io(format!("keep the logs in {}", place.display()));
    fs::create_dir_all(&place).map_err(failed())?;
    let text = serde_json::to_string_pretty(round).unwrap_or_default();
    fs::write(place.join("round.json"), text).map_err(failed())?;
    fs::write(place.join("diary.txt"), round.diary.join("\n")).map_err(failed())?;
    let entries = fs::read_dir(lab).map_err(failed())?.flatten();
    for entry in entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "log" || e == "toml")) {
        fs::copy(entry.path(), place.join(entry.file_name())).map_err(failed())?;
    }
    Ok(())
}

fn show(round: &Round, json: bool) {
    if json {
        println!("{}", json!({ "round": round }));
    } else {
        let lost = round.packets.1;
        println!(
            "seed {:<6} {:>6} ms, ready {:>5}, again {:>5}, {} packets lost: {}",
            round.seed,
            round.took_ms,
            round.ready_ms,
            round.converged_ms,
            lost,
            round.faults.join("; ").split_whitespace().collect::<Vec<_>>().join(" ")
        );
    }
    for violation in &round.violations {
        eprintln!(
            "seed {}: {} at {} ms, {} times: {}",
            round.seed, violation.kind, violation.at_ms, violation.times, violation.what
        );
    }
    if !round.violations.is_empty() {
        for line in &round.diary {
            eprintln!("    {line}");
        }
        let topology = if round.two_borders { "two" } else { "one" };
        eprintln!("    again: cargo xtask chaos --topology {topology} --seed {} --rounds 1", round.seed);
    }
}

/// The schedule of a seed, for those who want to read it before they play it.
pub fn schedule(seed: u64) -> Vec<Planned> {
    Schedule::of(seed).faults
}
