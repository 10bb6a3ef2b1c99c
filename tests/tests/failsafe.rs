//! However ETM ends, plain routing comes back; and what comes back within the lease goes on. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::time::Duration;

use etm_tests::agent::{self, AgentOptions};
use etm_tests::clock::boottime_ns;
use etm_tests::lab::LabOptions;
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, before_transit, nanos, turn};
use etm_tests::topology::Provider;
use etm_tests::traces;
use etm_tests::traffic::Demand;
use nix::sys::signal::Signal;

/// Lease and hold time of these tests, shorter than the default to keep them short.
const LEASE: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

fn options() -> AgentOptions {
    AgentOptions { lease: "5s", ..AgentOptions::default() }
}

/// A scene in which ETM has relieved transit-a: above its limit, so that nothing is lost whatever happens
/// to the overrides, and the only thing that shows them is by which provider packets arrive.
fn steered() -> Scene {
    steered_with(&options())
}

fn steered_with(options: &AgentOptions) -> Scene {
    let scene = Scene::start(LabOptions::default(), options, &Demand::by_home(47.5, 7.0, 6.0)).unwrap();
    let since_ns = boottime_ns();
    scene.wait_overrides().unwrap();
    scene.settle(since_ns, 45.0).unwrap();
    assert!(takes_overrides(&scene), "nothing to lose");
    scene
}

/// Whether packets take an override during the next half second.
fn takes_overrides(scene: &Scene) -> bool {
    let since_ns = boottime_ns();
    pass_time(SECOND / 2);
    scene.overridden_since(since_ns, &Provider::ALL) > 0
}

/// No packet sent within `span` from now takes an override.
fn assert_plain(scene: &Scene, span: Duration) {
    let since_ns = boottime_ns();
    pass_time(span);
    assert_eq!(scene.overridden_since(since_ns, &Provider::ALL), 0, "{:?}", traces::routes(&scene.lab));
}

fn wait_withdrawn(scene: &Scene, limit: Duration) {
    wait_until("core to have no route from ETM", limit, || {
        let routes = traces::announced(&scene.lab).map_err(|error| error.to_string())?;
        if routes.is_empty() { Ok(()) } else { Err(format!("{} routes", routes.len())) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
}

fn wait_no_routes(scene: &Scene, limit: Duration) {
    wait_until("ETM's routes to be gone", limit, || {
        let routes = traces::routes(&scene.lab).map_err(|error| error.to_string())?;
        if routes.is_empty() { Ok(()) } else { Err(format!("{routes:?}")) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
}

#[test]
fn off_brings_plain_routing_back_within_a_second_and_on_steers_again() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let off_ns = boottime_ns();
    let output = scene.agent.off().unwrap();
    assert!(output.status.success(), "{output:?}");
    wait_withdrawn(&scene, SECOND.saturating_sub(Duration::from_nanos(boottime_ns() - off_ns)));
    assert_plain(&scene, 3 * SECOND);
    let last_ns = scene.last_overridden_ns(&Provider::ALL).unwrap();
    assert!(last_ns < off_ns + nanos(SECOND), "a packet took an override {} ns after off", last_ns - off_ns);
    assert_eq!(traces::routes(&scene.lab).unwrap(), Vec::<String>::new());
    assert_eq!(scene.agent.state().unwrap(), "off");
    assert!(scene.agent.etm(&["on"]).unwrap().status.success());
    scene.wait_overrides().unwrap();
    wait_until("packets to take overrides again", PATIENCE, || {
        if takes_overrides(&scene) { Ok(()) } else { Err("none does".to_owned()) }
    })
    .unwrap();
}

#[test]
fn an_orderly_stop_leaves_no_route_no_rule_and_no_announcement() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    scene.agent.signal(Signal::SIGTERM).unwrap();
    let status = scene.agent.wait_end(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", scene.agent.log());
    assert_plain(&scene, 2 * SECOND);
    let traces = scene.traces().unwrap();
    assert_eq!((&traces.routes[..], &traces.rules[..], &traces.announced[..]), (&[][..], &[][..], &[][..]));
    assert_eq!(scene.loss(boottime_ns() - nanos(2 * SECOND), before_transit()), 0.0);
}

#[test]
fn after_sigkill_core_and_kernel_let_go_when_the_lease_ends() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    let kill_ns = boottime_ns();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    assert!(takes_overrides(&scene), "the lease bridges a short absence");
    assert!(!traces::announced(&scene.lab).unwrap().is_empty(), "at core too");
    let limit_ns = kill_ns + nanos(LEASE + SECOND);
    wait_withdrawn(&scene, Duration::from_nanos(limit_ns.saturating_sub(boottime_ns())));
    pass_time(Duration::from_nanos(limit_ns.saturating_sub(boottime_ns())));
    assert_plain(&scene, 2 * SECOND);
    let last_ns = scene.last_overridden_ns(&Provider::ALL).unwrap();
    assert!(last_ns <= limit_ns, "a packet took an override {} ns after the kill", last_ns - kill_ns);
}

#[test]
fn a_hung_agent_loses_its_effect_within_the_lease_in_the_kernel_and_at_core() {
    let Some(_turn) = turn() else { return };
    let patient = AgentOptions { kill_hung: false, ..options() };
    let scene = steered_with(&patient);
    let stop_ns = boottime_ns();
    scene.agent.signal(Signal::SIGSTOP).unwrap();
    wait_withdrawn(&scene, LEASE + SECOND);
    let limit_ns = stop_ns + nanos(LEASE + SECOND);
    pass_time(Duration::from_nanos(limit_ns.saturating_sub(boottime_ns())));
    assert_plain(&scene, 2 * SECOND);
    let last_ns = scene.last_overridden_ns(&Provider::ALL).unwrap();
    assert!(last_ns <= limit_ns, "a packet took an override {} ns after the stop", last_ns - stop_ns);
    // It was only paused: it finds its way back without help.
    scene.agent.signal(Signal::SIGCONT).unwrap();
    scene.wait_overrides().unwrap();
    wait_until("packets to take overrides again", PATIENCE, || {
        if takes_overrides(&scene) { Ok(()) } else { Err("none does".to_owned()) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
}

#[test]
fn off_works_while_the_agent_hangs_and_the_agent_respects_it_when_it_comes_back() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    scene.agent.signal(Signal::SIGSTOP).unwrap();
    let off_ns = boottime_ns();
    let output = scene.agent.off().unwrap();
    assert!(output.status.success(), "{output:?}");
    wait_withdrawn(&scene, SECOND.saturating_sub(Duration::from_nanos(boottime_ns() - off_ns)));
    pass_time(SECOND.saturating_sub(Duration::from_nanos(boottime_ns() - off_ns)));
    assert_plain(&scene, 2 * SECOND);
    scene.agent.signal(Signal::SIGCONT).unwrap();
    wait_no_routes(&scene, 3 * SECOND);
    assert_plain(&scene, 4 * SECOND);
    assert_eq!(scene.agent.state().unwrap(), "off");
}

#[test]
fn off_works_when_the_agent_is_gone_and_the_next_one_respects_it() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    let output = scene.agent.off().unwrap();
    assert!(output.status.success(), "{output:?}");
    wait_withdrawn(&scene, SECOND);
    assert_plain(&scene, SECOND);
    scene.agent = agent::Agent::start(&scene.lab, &options()).unwrap();
    assert_plain(&scene, 5 * SECOND);
    assert_eq!(scene.agent.state().unwrap(), "off");
    assert_eq!(scene.traces().unwrap().announced, Vec::<String>::new());
}

/// An operator's `off` that looks for the pins in the wrong place must not end well, and reaches the agent all the same.
#[test]
fn off_that_finds_no_pins_says_so_and_the_agent_follows_its_guardian() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let elsewhere = scene.lab.pin_root().with_file_name("nowhere").display().to_string();
    let output = scene.agent.etm(&["off", "--force", "--pin-root", &elsewhere]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    for word in ["not everything", &elsewhere, "--pin-root", "withdrawn by the guardian", "--force"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    wait_withdrawn(&scene, SECOND);
    wait_no_routes(&scene, 2 * SECOND);
    assert_plain(&scene, 2 * SECOND);
    assert_eq!(scene.agent.state().unwrap(), "off");
    assert!(scene.agent.etm(&["on"]).unwrap().status.success());
    scene.wait_overrides().unwrap();
}

/// Nothing in the kernel remembers it then, as after a reboot.
#[test]
fn off_outlives_an_orderly_stop_until_somebody_says_on() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    assert!(scene.agent.off().unwrap().status.success());
    scene.agent.signal(Signal::SIGTERM).unwrap();
    assert_eq!(scene.agent.wait_end(PATIENCE).unwrap().code(), Some(0), "{}", scene.agent.log());
    scene.agent = agent::Agent::start(&scene.lab, &options()).unwrap();
    assert_plain(&scene, 5 * SECOND);
    assert_eq!(scene.agent.state().unwrap(), "off");
    assert_eq!(scene.traces().unwrap().announced, Vec::<String>::new());
    assert!(scene.agent.etm(&["on"]).unwrap().status.success());
    scene.wait_overrides().unwrap();
}

#[test]
fn an_agent_restarted_within_the_lease_goes_on_without_moving_a_packet() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    let before = scene.agent.overrides().unwrap();
    let kill_ns = boottime_ns();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    scene.restart(&options()).unwrap();
    scene.wait_overrides().unwrap();
    // Longer than the old lease: the new agent holds it now.
    pass_time(LEASE + SECOND);
    let until_ns = before_transit();
    assert_eq!(scene.sink.moves_since(kill_ns), [], "{}", scene.agent.log());
    assert_eq!(scene.loss(kill_ns, until_ns), 0.0);
    let after = scene.agent.overrides().unwrap();
    let ends = |overrides: &[etm_tests::view::Override]| -> Vec<_> {
        overrides.iter().map(|o| (o.prefix, o.to.clone())).collect()
    };
    assert_eq!(ends(&after), ends(&before));
}

#[test]
fn an_observer_started_after_a_crash_removes_what_the_crash_left() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    assert!(
        !scene.traces().unwrap().rules.is_empty(),
        "a crash leaves the rule, which the lease makes harmless"
    );
    scene.restart(&AgentOptions::observe()).unwrap();
    assert_plain(&scene, SECOND);
    let traces = scene.traces().unwrap();
    assert_eq!((&traces.routes[..], &traces.rules[..], &traces.announced[..]), (&[][..], &[][..], &[][..]));
    assert_eq!(traces.marking(), Vec::<&String>::new());
}

#[test]
fn detach_removes_everything_that_a_dead_agent_left() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered();
    let config = scene.lab.directory().join("etm.toml");
    let arguments = ["detach", "--config", config.to_str().unwrap()];
    let before = scene.traces().unwrap();
    let refused = agent::run_to_end(&scene.lab, &[], &arguments, PATIENCE).unwrap();
    assert_eq!(refused.status, Some(5), "beside a living agent: {}", refused.said);
    assert_eq!(scene.traces().unwrap().rules, before.rules, "nothing was touched");
    assert!(takes_overrides(&scene), "it goes on");
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    for time in ["first", "second"] {
        let ended = agent::run_to_end(&scene.lab, &[], &arguments, PATIENCE).unwrap();
        assert_eq!(ended.status, Some(0), "{time}: {}", ended.said);
        wait_withdrawn(&scene, SECOND);
        let traces = scene.traces().unwrap();
        assert!(traces.is_empty(), "{time}: {traces:#?} {}", ended.said);
    }
    assert_plain(&scene, SECOND);
}
