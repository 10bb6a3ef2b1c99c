//! The guardian: an agent that comes back within its lease is not missed, one that does not leaves nothing, and neither
//! does a guardian. Core's BIRD and the sink are the judges. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use etm_tests::agent::AgentOptions;
use etm_tests::clock::boottime_ns;
use etm_tests::lab::LabOptions;
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, before_transit, nanos, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traces::{self, CORE_SESSION};
use etm_tests::traffic::Demand;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Shorter than the default, to keep the tests short.
const LEASE: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

fn options() -> AgentOptions {
    AgentOptions { lease: "5s", ..AgentOptions::default() }
}

/// A scene in which ETM has relieved transit-a, with room for all traffic wherever it goes.
fn steered() -> Scene {
    let scene = Scene::start(LabOptions::default(), &options(), &Demand::by_home(47.5, 7.0, 6.0)).unwrap();
    let since_ns = boottime_ns();
    scene.wait_overrides().unwrap();
    scene.settle(since_ns, 45.0).unwrap();
    scene
}

fn guardian(scene: &Scene) -> i32 {
    scene.agent.guardian().expect("a guardian listens")
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn alive(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The third word; a zombie is dead.
    state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// What core's BIRD has heard from ETM since its session came up: updates and withdrawals.
fn heard(scene: &Scene) -> (u64, u64) {
    let lines = scene.lab.bird(Role::Core).ask(&format!("show protocols all {CORE_SESSION}")).unwrap();
    let sum = |kind: &str| {
        let counted = lines.iter().filter_map(|line| line.trim().strip_prefix(kind));
        counted.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>()
    };
    (sum("Import updates:"), sum("Import withdraws:"))
}

fn announced(scene: &Scene) -> BTreeSet<String> {
    let routes = traces::announced(&scene.lab).unwrap();
    routes.iter().filter_map(|route| Some(route.prefix?.to_string())).collect()
}

/// Time from `since_ns` until core has no route from ETM.
fn withdrawn_after(scene: &Scene, since_ns: u64, limit: Duration) -> Duration {
    wait_until("core to have no route from ETM", limit, || {
        let left = announced(scene);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    Duration::from_nanos(boottime_ns() - since_ns)
}

fn wait_dead(pid: i32, limit: Duration) {
    let what = format!("process {pid} to be gone");
    wait_until(&what, limit, || if alive(pid) { Err("it lives".to_owned()) } else { Ok(()) }).unwrap();
}

fn wait_guarding(scene: &Scene) {
    wait_until("etm status to say that the guardian guards", PATIENCE, || {
        let status = scene.agent.get("/v1/status").map_err(|error| error.to_string())?;
        if status["guardian"]["state"] == "guarding" { Ok(()) } else { Err(status["guardian"].to_string()) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
}

/// No packet sent within `span` from now takes an override, and none of ETM is announced.
fn assert_plain(scene: &Scene, span: Duration) {
    let since_ns = boottime_ns();
    pass_time(span);
    assert_eq!(scene.overridden_since(since_ns, &Provider::ALL), 0, "{:?}", traces::routes(&scene.lab));
    assert_eq!(announced(scene), BTreeSet::new());
}

#[test]
fn an_agent_killed_and_restarted_within_its_lease_is_missed_by_nobody() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    let (guardian_pid, before, known) = (guardian(&scene), heard(&scene), announced(&scene));
    let kill_ns = boottime_ns();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    scene.restart(&options()).unwrap();
    let back = Duration::from_nanos(boottime_ns() - kill_ns);
    scene.wait_overrides().unwrap();
    wait_guarding(&scene);
    // Longer than the old lease: the new agent holds it now.
    pass_time(LEASE + SECOND);
    let until_ns = before_transit();
    assert_eq!(guardian(&scene), guardian_pid, "the same guardian all along");
    assert_eq!(heard(&scene), before, "core heard something: {}", scene.agent.log());
    assert_eq!(announced(&scene), known);
    assert_eq!(scene.sink.moves_since(kill_ns), [], "{}", scene.agent.log());
    assert_eq!(scene.loss(kill_ns, until_ns), 0.0);
    println!(
        "the restarted agent was ready after {} ms; core heard nothing, no packet lost",
        back.as_millis()
    );
}

#[test]
fn a_killed_guardian_takes_its_announcements_along_and_is_started_again() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let (first, known) = (guardian(&scene), announced(&scene));
    let kill_ns = boottime_ns();
    signal(first, Signal::SIGKILL);
    let took = withdrawn_after_flap(&scene, kill_ns, &known);
    assert!(took <= SECOND, "core let go after {took:?}");
    wait_guarding(&scene);
    scene.wait_overrides().unwrap();
    let again = Duration::from_nanos(boottime_ns() - kill_ns);
    assert_ne!(guardian(&scene), first);
    assert_eq!(announced(&scene), known);
    println!(
        "core let go {} ms after the kill and had all routes again after {} ms",
        took.as_millis(),
        again.as_millis()
    );
}

/// Time until core had lost at least one of the routes: the new guardian may be quick to tell them again.
fn withdrawn_after_flap(scene: &Scene, since_ns: u64, known: &BTreeSet<String>) -> Duration {
    wait_until("core to miss a route", PATIENCE, || {
        let left = announced(scene);
        if left.is_superset(known) { Err(format!("{left:?}")) } else { Ok(()) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    Duration::from_nanos(boottime_ns() - since_ns)
}

#[test]
fn when_both_are_killed_core_lets_go_at_once_and_the_kernel_when_the_lease_ends() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    let (guardian_pid, kill_ns) = (guardian(&scene), boottime_ns());
    scene.agent.signal(Signal::SIGKILL).unwrap();
    signal(guardian_pid, Signal::SIGKILL);
    scene.agent.wait_end(PATIENCE).unwrap();
    let took = withdrawn_after(&scene, kill_ns, SECOND);
    let limit_ns = kill_ns + nanos(LEASE + SECOND);
    pass_time(Duration::from_nanos(limit_ns.saturating_sub(boottime_ns())));
    assert_plain(&scene, 2 * SECOND);
    let last_ns = scene.last_overridden_ns(&Provider::ALL).unwrap();
    assert!(last_ns <= limit_ns, "a packet took an override {} ns after the kill", last_ns - kill_ns);
    println!(
        "core let go after {} ms, the kernel after {} ms",
        took.as_millis(),
        (last_ns - kill_ns) / 1_000_000
    );
}

#[test]
fn when_both_are_stopped_core_and_kernel_let_go_within_the_lease() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let (guardian_pid, stop_ns) = (guardian(&scene), boottime_ns());
    scene.agent.signal(Signal::SIGSTOP).unwrap();
    signal(guardian_pid, Signal::SIGSTOP);
    // The hold time is at most the lease; BIRD's timers have a second's grain.
    let took = withdrawn_after(&scene, stop_ns, LEASE + 2 * SECOND);
    pass_time(Duration::from_nanos((stop_ns + nanos(LEASE + 2 * SECOND)).saturating_sub(boottime_ns())));
    assert_plain(&scene, SECOND);
    signal(guardian_pid, Signal::SIGCONT);
    scene.agent.signal(Signal::SIGCONT).unwrap();
    // Both find their way back: neither was dead, and the guardian gives the agent time.
    scene.wait_overrides().unwrap();
    assert_eq!(guardian(&scene), guardian_pid, "{}", scene.agent.log());
    println!("core let go {} ms after both were stopped", took.as_millis());
}

#[test]
fn a_hung_agent_is_withdrawn_when_its_lease_ends_and_then_killed() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    let stop_ns = boottime_ns();
    scene.agent.signal(Signal::SIGSTOP).unwrap();
    let took = withdrawn_after(&scene, stop_ns, LEASE + SECOND);
    assert!(scene.agent.ended().is_none(), "killed before peers were told");
    let status = scene.agent.wait_end(LEASE).unwrap();
    let killed = Duration::from_nanos(boottime_ns() - stop_ns);
    assert!(killed > LEASE, "killed {killed:?} after it was stopped, within its lease");
    assert_eq!(status.code(), None, "by a signal");
    assert_plain(&scene, SECOND);
    // Whoever starts it anew finds a guardian that waits, and sessions that never went down.
    scene.restart(&options()).unwrap();
    scene.wait_overrides().unwrap();
    println!("withdrawn {} ms, killed {} ms after the stop", took.as_millis(), killed.as_millis());
}

#[test]
fn a_hung_guardian_is_replaced_by_its_agent() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let (first, stop_ns) = (guardian(&scene), boottime_ns());
    signal(first, Signal::SIGSTOP);
    wait_dead(first, PATIENCE);
    let replaced = Duration::from_nanos(boottime_ns() - stop_ns);
    wait_guarding(&scene);
    scene.wait_overrides().unwrap();
    assert_ne!(guardian(&scene), first);
    println!("the hung guardian was ended {} ms after it was stopped", replaced.as_millis());
}

#[test]
fn an_orderly_stop_takes_the_guardian_along() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    let (guardian_pid, stop_ns) = (guardian(&scene), boottime_ns());
    scene.agent.signal(Signal::SIGTERM).unwrap();
    let status = scene.agent.wait_end(PATIENCE).unwrap();
    let took = Duration::from_nanos(boottime_ns() - stop_ns);
    assert_eq!(status.code(), Some(0), "{}", scene.agent.log());
    wait_dead(guardian_pid, SECOND);
    assert_plain(&scene, SECOND);
    assert_eq!(scene.agent.guardian(), None);
    println!("agent and guardian ended within {} ms", took.as_millis());
}

#[test]
fn off_reaches_the_guardian_of_an_agent_that_hangs_or_is_gone() {
    let Some(_turn) = turn() else { return };
    for how in [Signal::SIGSTOP, Signal::SIGKILL] {
        let scene = steered();
        scene.agent.signal(how).unwrap();
        let off_ns = boottime_ns();
        let took = std::thread::scope(|scope| {
            let client = scope.spawn(|| scene.agent.off());
            let took = withdrawn_after(&scene, off_ns, SECOND);
            let output = client.join().unwrap().unwrap();
            assert!(output.status.success(), "{output:?}");
            took
        });
        assert!(took <= SECOND, "{how}: withdrawn {took:?} after off");
        pass_time(SECOND.saturating_sub(Duration::from_nanos(boottime_ns() - off_ns)));
        assert_plain(&scene, SECOND);
        println!("{how}: core let go {} ms after off", took.as_millis());
    }
}

/// It cannot withdraw, so the agent that started it ends it: peers lose the session, and with it the routes.
#[test]
fn off_while_the_guardian_hangs_ends_the_guardian() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let pid = guardian(&scene);
    signal(pid, Signal::SIGSTOP);
    let off_ns = boottime_ns();
    let took = std::thread::scope(|scope| {
        let client = scope.spawn(|| scene.agent.off());
        let took = withdrawn_after(&scene, off_ns, 2 * SECOND);
        let output = client.join().unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        took
    });
    wait_dead(pid, SECOND);
    assert_plain(&scene, SECOND);
    println!("core let go {} ms after off with a hung guardian", took.as_millis());
}

#[test]
fn the_switch_in_the_kernel_alone_is_enough_for_the_guardian() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    // As docs/operations.md has it for a night without ETM's tools.
    let pin = scene.lab.pin_root().join("etm_off").display().to_string();
    let words = ["map", "update", "pinned", &pin, "key", "0", "0", "0", "0", "value", "1", "0", "0", "0"];
    let off_ns = boottime_ns();
    let output = std::process::Command::new("bpftool").args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let took = withdrawn_after(&scene, off_ns, SECOND);
    println!("core let go {} ms after the switch was turned", took.as_millis());
}

#[test]
fn the_guardian_has_no_privilege_and_its_socket_one_owner() {
    use std::os::unix::fs::MetadataExt;
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let status = fs::read_to_string(format!("/proc/{}/status", guardian(&scene))).unwrap();
    // Its bounding set is no wider than that of the agent, which cannot narrow it any more; nothing can be gained from it.
    for line in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        let word = status.lines().find_map(|text| text.strip_prefix(line)).unwrap().trim();
        assert_eq!(word, "0000000000000000", "{line}");
    }
    let new_privileges = status.lines().find_map(|text| text.strip_prefix("NoNewPrivs:")).unwrap();
    assert_eq!(new_privileges.trim(), "1");
    let socket = fs::metadata(scene.agent.socket().with_file_name("guardian.sock")).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.uid()), (0o600, 0));
    assert!(!scene.agent.log().contains("switch cannot be read"), "{}", scene.agent.log());
}

#[test]
fn short_of_memory_the_kernel_ends_the_agent_before_its_guardian() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let score = |pid: i32| -> i32 {
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    let (agent, guardian) = (score(scene.agent.pid()), score(guardian(&scene)));
    assert_eq!(agent, score(std::process::id().cast_signed()) + 200);
    assert!(guardian <= agent - 200, "agent {agent}, guardian {guardian}");
}

#[test]
fn a_terminal_that_closes_ends_agent_and_guardian_in_order() {
    let Some(_turn) = turn() else { return };
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    if u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 == 1 {
        println!("not shown: this test runs below nohup(1), and what it starts is to stay");
        return;
    }
    let mut scene = steered();
    let first = guardian(&scene);
    signal(first, Signal::SIGHUP);
    wait_dead(first, PATIENCE);
    assert!(scene.agent.log().contains("guardian ends; everything is withdrawn"), "{}", scene.agent.log());
    wait_guarding(&scene);
    let second = guardian(&scene);
    scene.agent.signal(Signal::SIGHUP).unwrap();
    let status = scene.agent.wait_end(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", scene.agent.log());
    wait_dead(second, SECOND);
    let traces = scene.traces().unwrap();
    assert_eq!((&traces.routes[..], &traces.rules[..], &traces.announced[..]), (&[][..], &[][..], &[][..]));
}

#[test]
fn a_log_that_cannot_be_written_stops_nobody() {
    let Some(_turn) = turn() else { return };
    let full = AgentOptions { log_to: Some("/dev/full"), ..options() };
    let lab = LabOptions::default();
    let scene = Scene::start(lab, &full, &Demand::by_home(47.5, 7.0, 6.0)).unwrap();
    scene.wait_overrides().unwrap();
    signal(guardian(&scene), Signal::SIGKILL);
    wait_guarding(&scene);
    scene.wait_overrides().unwrap();
}
