//! Overrides as routes of the main table: they move packets, the daemon's routes stay as they are, and the guardian takes
//! them away when nobody stands for them. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use etm_tests::agent::{self, Agent, AgentOptions, Site};
use etm_tests::clock::{boottime_ns, millis_between};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, before_transit, nanos, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traces;
use etm_tests::traffic::{Demand, FRAME, Generator, Sink};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LEASE: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);
/// The lease, and whether the guardian ends an agent that hangs.
const USUAL: (&str, bool) = ("5s", true);

fn write_config(lab: &Lab, (lease, kill_hung): (&'static str, bool)) -> PathBuf {
    let options = AgentOptions { lease, kill_hung, ..AgentOptions::default() };
    let text = agent::config(&Site::of(lab), &options);
    agent::write_text(lab, &text.replace("inside = [\"in0\"]", "mode = \"main\"")).unwrap()
}

/// Exit status where acting would not be safe.
const REFUSED: i32 = 5;

/// A scene in which ETM has relieved transit-a by routes in the main table, with room for all traffic wherever it goes.
fn steered(how: (&'static str, bool)) -> Scene {
    let scene = started(Lab::up(LabOptions::default()).unwrap(), how);
    let since_ns = boottime_ns();
    scene.wait_overrides().unwrap();
    scene.settle(since_ns, 45.0).unwrap();
    assert!(takes_overrides(&scene), "nothing to lose");
    scene
}

/// A scene in which ETM is about to.
fn started(lab: Lab, how: (&'static str, bool)) -> Scene {
    let path = write_config(&lab, how);
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let agent = Agent::start_by(&lab, &path, "info").unwrap();
    wait_until("etm-agent to be ready", PATIENCE, || agent.ready(lab.table()))
        .map_err(|error| agent.with_log(error))
        .unwrap();
    let flows = Demand::by_home(47.5, 7.0, 6.0).flows(lab.table(), FRAME);
    let generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap();
    Scene { generator, sink, agent, lab }
}

fn takes_overrides(scene: &Scene) -> bool {
    let since_ns = boottime_ns();
    pass_time(SECOND / 2);
    scene.overridden_since(since_ns, &Provider::ALL) > 0
}

fn assert_plain(scene: &Scene, span: Duration) {
    let since_ns = boottime_ns();
    pass_time(span);
    assert_eq!(scene.overridden_since(since_ns, &Provider::ALL), 0, "{:?}", traces::routes(&scene.lab));
}

/// The daemon's routes in the border's kernel.
fn of_bird(scene: &Scene) -> String {
    let border = scene.lab.namespace(Role::Border);
    let show = |family| border.ip(&[family, "route", "show", "proto", "bird"]).unwrap();
    show("-4") + &show("-6")
}

fn wait_no_routes(scene: &Scene, limit: Duration) {
    wait_until("ETM's routes to be gone", limit, || {
        let routes = traces::routes(&scene.lab).map_err(|error| error.to_string())?;
        if routes.is_empty() { Ok(()) } else { Err(format!("{routes:?}")) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
}

fn kill_both(scene: &mut Scene) {
    let guardian = scene.agent.guardian().unwrap();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    kill(Pid::from_raw(guardian), Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
}

#[test]
fn overrides_stand_beside_the_daemons_routes_and_off_takes_them_away() {
    let Some(_turn) = turn() else { return };
    let scene = steered(USUAL);
    let traces = scene.traces().unwrap();
    assert_eq!((traces.rules.len(), traces.marking().len()), (0, 0), "{traces:#?}");
    assert!(traces.routes.iter().all(|route| route.contains("metric 10")), "{:?}", traces.routes);
    // What the border itself sends takes them too.
    let moved = scene.agent.overrides().unwrap().remove(0);
    let destination = scene.lab.table().address_in(moved.prefix).unwrap().to_string();
    let got = scene.lab.namespace(Role::Border).ip(&["route", "get", &destination]).unwrap();
    assert!(got.contains(&format!("dev {}", moved.interface)), "{got}");
    let bird = of_bird(&scene);
    let learnt = scene.lab.bird(Role::Border).routes("where source = RTS_INHERIT").unwrap();
    assert_eq!(learnt, [], "the daemon takes none of them up");
    let off_ns = boottime_ns();
    assert!(scene.agent.off().unwrap().status.success());
    wait_no_routes(&scene, SECOND.saturating_sub(Duration::from_nanos(boottime_ns() - off_ns)));
    assert_plain(&scene, 2 * SECOND);
    assert_eq!(of_bird(&scene), bird);
    assert!(scene.agent.etm(&["on"]).unwrap().status.success());
    scene.wait_overrides().unwrap();
}

#[test]
fn a_daemon_that_learns_etms_first_routes_ends_the_agent_within_seconds() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let file = lab.directory().join("border.conf");
    let conf = fs::read_to_string(&file).unwrap();
    let learning =
        conf.replacen("scan time 5; ipv4 { import none;", "scan time 5; learn; ipv4 { import all;", 1);
    assert_ne!(learning, conf);
    fs::write(&file, learning).unwrap();
    lab.bird(Role::Border).configure().unwrap();
    // There is nothing to learn yet, so nobody can see that it would.
    let mut scene = started(lab, USUAL);
    let status = scene.agent.wait_end(PATIENCE).unwrap();
    let log = scene.agent.log();
    assert_eq!(status.code(), Some(REFUSED), "{log}");
    assert!(log.contains("remove `learn`"), "{log}");
    wait_no_routes(&scene, SECOND);
    let moves = scene.sink.moves_since(0);
    let first = moves.iter().find(|m| m.from.is_some()).expect("its routes had moved something");
    let until = scene.last_overridden_ns(&Provider::ALL).unwrap();
    let held = millis_between(first.at_ns, until);
    println!("a daemon that learns: first route to last packet {held:.0} ms");
    assert!(held < 10_000.0, "long before the daemon would be asked anyway: {held} ms");
    let daemon = scene.lab.bird(Role::Border);
    wait_until("BIRD to forget them", PATIENCE, || {
        let learnt = daemon.routes("where source = RTS_INHERIT").map_err(|error| error.to_string())?;
        if learnt.is_empty() { Ok(()) } else { Err(format!("{learnt:?}")) }
    })
    .unwrap();
}

#[test]
fn beside_a_daemon_that_cannot_be_asked_acting_is_refused() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let text = fs::read_to_string(write_config(&lab, USUAL)).unwrap();
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("bird_socket")).collect();
    assert_eq!(without.len() + 1, text.lines().count());
    let path = agent::write_text(&lab, &without.join("\n")).unwrap();
    let arguments = ["run", "--config", path.to_str().unwrap()];
    let ended = agent::run_to_end(&lab, &[], &arguments, PATIENCE).unwrap();
    assert_eq!(ended.status, Some(REFUSED), "{}", ended.said);
    assert!(ended.said.contains("set agent.bird_socket"), "{}", ended.said);
    assert!(traces::routes(&lab).unwrap().is_empty());
}

#[test]
fn an_agent_killed_leaves_its_routes_to_the_guardian_which_removes_them_when_the_lease_ends() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered(USUAL);
    let bird = of_bird(&scene);
    let status = fs::read_to_string(format!("/proc/{}/status", scene.agent.guardian().unwrap())).unwrap();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    // CAP_NET_ADMIN is number 12.
    assert_eq!(held, "0000000000001000", "the guardian can change routes and do nothing else");
    let kill_ns = boottime_ns();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    assert!(takes_overrides(&scene), "the lease bridges a short absence");
    wait_no_routes(&scene, LEASE + SECOND);
    println!("agent killed: routes gone after {:.0} ms", millis_between(kill_ns, boottime_ns()));
    assert_plain(&scene, 2 * SECOND);
    let last_ns = scene.last_overridden_ns(&Provider::ALL).unwrap();
    assert!(last_ns < kill_ns + nanos(LEASE + SECOND), "{} ns after the kill", last_ns - kill_ns);
    assert_eq!(of_bird(&scene), bird);
}

#[test]
fn an_agent_restarted_within_the_lease_adopts_its_routes_and_no_packet_moves() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered(("20s", true));
    let path = scene.lab.directory().join("etm.toml");
    let held: Vec<_> = scene.agent.overrides().unwrap().into_iter().map(|held| held.prefix).collect();
    let kill_ns = boottime_ns();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    scene.agent = Agent::start_by(&scene.lab, &path, "info").unwrap();
    wait_until("etm-agent to be ready again", PATIENCE, || scene.agent.ready(scene.lab.table())).unwrap();
    // Longer than what was left of the old lease: the new agent holds it now.
    pass_time(Duration::from_secs(20));
    // The new agent may relieve more, should the load rise; what it found stays where it is.
    let table = scene.lab.table();
    let of_held = |to| table.home(to).is_some_and(|(prefix, _)| held.contains(&prefix));
    let moves = scene.sink.moves_since(kill_ns).into_iter().filter(|change| of_held(change.destination));
    assert_eq!(moves.collect::<Vec<_>>(), [], "{}", scene.agent.log());
    assert_eq!(scene.loss(kill_ns, before_transit()), 0.0);
    assert!(takes_overrides(&scene), "{}", scene.agent.log());
}

#[test]
fn a_hung_agent_loses_its_routes_when_the_lease_ends_and_finds_its_way_back() {
    let Some(_turn) = turn() else { return };
    let scene = steered(("5s", false));
    let stop_ns = boottime_ns();
    scene.agent.signal(Signal::SIGSTOP).unwrap();
    wait_no_routes(&scene, LEASE + SECOND);
    println!("agent stopped: routes gone after {:.0} ms", millis_between(stop_ns, boottime_ns()));
    assert_plain(&scene, SECOND);
    scene.agent.signal(Signal::SIGCONT).unwrap();
    scene.wait_overrides().unwrap();
    assert!(takes_overrides(&scene), "{}", scene.agent.log());
}

#[test]
fn off_reaches_the_routes_of_a_hung_agent_within_a_second() {
    let Some(_turn) = turn() else { return };
    let scene = steered(USUAL);
    scene.agent.signal(Signal::SIGSTOP).unwrap();
    let off_ns = boottime_ns();
    assert!(scene.agent.off().unwrap().status.success());
    wait_no_routes(&scene, SECOND.saturating_sub(Duration::from_nanos(boottime_ns() - off_ns)));
    assert_plain(&scene, SECOND);
    scene.agent.signal(Signal::SIGCONT).unwrap();
    assert_plain(&scene, 2 * SECOND);
    assert_eq!(traces::routes(&scene.lab).unwrap(), Vec::<String>::new());
}

/// Nobody is left who could remove them: what this mode cannot do, and how it is mended.
#[test]
fn when_both_are_killed_the_routes_stay_until_the_next_start_of_either_or_detach() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered(USUAL);
    kill_both(&mut scene);
    pass_time(LEASE + SECOND);
    assert!(takes_overrides(&scene), "nobody removes them");
    let path = scene.lab.directory().join("etm.toml");
    scene.agent = Agent::start_by(&scene.lab, &path, "info").unwrap();
    assert!(scene.agent.log().contains("their lease has ended"), "{}", scene.agent.log());
    wait_until("etm-agent to be ready again", PATIENCE, || scene.agent.ready(scene.lab.table())).unwrap();
    scene.wait_overrides().unwrap();
    kill_both(&mut scene);
    // A guardian that the system starts again; the signal comes later than what is waited for.
    let alone = ["guardian", "--config", path.to_str().unwrap()];
    std::thread::scope(|threads| {
        let guardian = threads.spawn(|| agent::run_to_end(&scene.lab, &["timeout", "12"], &alone, PATIENCE));
        assert!(takes_overrides(&scene), "an agent that lives has its lease to say so");
        wait_no_routes(&scene, LEASE + SECOND);
        assert!(!guardian.is_finished(), "not by its end: {:?}", guardian.join());
    });
    scene.agent = Agent::start_by(&scene.lab, &path, "info").unwrap();
    wait_until("etm-agent to be ready again", PATIENCE, || scene.agent.ready(scene.lab.table())).unwrap();
    scene.wait_overrides().unwrap();
    kill_both(&mut scene);
    let ended = agent::run_to_end(&scene.lab, &[], &["detach", "--config", path.to_str().unwrap()], PATIENCE)
        .unwrap();
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    assert_plain(&scene, SECOND);
    assert!(scene.traces().unwrap().is_empty(), "{:#?} {}", scene.traces().unwrap(), ended.said);
}

#[test]
fn when_both_are_killed_off_takes_the_routes_away_and_detach_needs_no_configuration() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered(USUAL);
    kill_both(&mut scene);
    let output = scene.agent.off().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(traces::routes(&scene.lab).unwrap(), Vec::<String>::new(), "{output:?}");
    assert_plain(&scene, SECOND);
    let path = scene.lab.directory().join("etm.toml");
    scene.agent = Agent::start_by(&scene.lab, &path, "info").unwrap();
    wait_until("etm-agent to be off", PATIENCE, || match scene.agent.state() {
        Ok(state) if state == "off" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert!(scene.agent.etm(&["on"]).unwrap().status.success());
    wait_until("etm-agent to be ready again", PATIENCE, || scene.agent.ready(scene.lab.table())).unwrap();
    scene.wait_overrides().unwrap();
    kill_both(&mut scene);
    let pins = scene.lab.pin_root().display().to_string();
    let ended = agent::run_to_end(&scene.lab, &[], &["detach", "--pin-root", &pins], PATIENCE).unwrap();
    assert_eq!(ended.status, Some(0), "{}", ended.said);
    assert_plain(&scene, SECOND);
    assert!(scene.traces().unwrap().is_empty(), "{:#?} {}", scene.traces().unwrap(), ended.said);
}

#[test]
fn an_orderly_stop_leaves_nothing_in_the_main_table() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered(USUAL);
    scene.agent.signal(Signal::SIGTERM).unwrap();
    let status = scene.agent.wait_end(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", scene.agent.log());
    let traces = scene.traces().unwrap();
    assert_eq!((&traces.routes[..], &traces.announced[..]), (&[][..], &[][..]));
    assert_plain(&scene, SECOND);
}

/// The order makes ready what a start in this mode would have: nothing that only marks need.
#[test]
fn an_observer_told_to_enforce_puts_routes_there_and_neither_rules_nor_marks() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let options = AgentOptions { mode: "observe", ..AgentOptions::default() };
    let text = agent::config(&Site::of(&lab), &options).replace("inside = [\"in0\"]", "mode = \"main\"");
    let path = agent::write_text(&lab, &text).unwrap();
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let agent = Agent::start_by(&lab, &path, "info").unwrap();
    wait_until("etm-agent to be ready", PATIENCE, || agent.ready(lab.table())).unwrap();
    let flows = Demand::by_home(47.5, 7.0, 6.0).flows(lab.table(), FRAME);
    let generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap();
    let scene = Scene { generator, sink, agent, lab };
    scene.wait_planned().unwrap();
    assert_eq!(traces::routes(&scene.lab).unwrap(), Vec::<String>::new(), "an observer");
    let told = scene.agent.etm(&["mode", "enforce"]).unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    wait_until("routes in the main table", PATIENCE, || {
        let traces = scene.traces().map_err(|error| error.to_string())?;
        if traces.routes.is_empty() { Err("none".to_owned()) } else { Ok(traces) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .map(|traces| assert_eq!((traces.rules.len(), traces.marking().len()), (0, 0), "{traces:#?}"))
    .unwrap();
    assert!(takes_overrides(&scene), "{}", scene.agent.log());
}
