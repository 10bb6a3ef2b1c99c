//! What is decided and by whom: a person in mode approve, money in observe and in enforce. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::time::Duration;

use etm_tests::agent::AgentOptions;
use etm_tests::clock::boottime_ns;
use etm_tests::lab::LabOptions;
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, before_transit, turn};
use etm_tests::topology::Provider;
use etm_tests::traffic::Demand;
use serde_json::Value;

/// 90 % of 50 Mbit/s.
const LIMIT_MBIT: f64 = 45.0;

fn demand((transit_a, transit_b, ix): (f64, f64, f64)) -> Demand {
    Demand::by_home(transit_a, transit_b, ix)
}

/// Above transit-a's limit, below its capacity.
fn above_limit() -> Demand {
    demand((47.5, 7.0, 6.0))
}

fn changes(scene: &Scene) -> Vec<Value> {
    scene.agent.get("/v1/changes").unwrap()["changes"].as_array().cloned().unwrap_or_default()
}

fn wait_changes(scene: &Scene) -> Vec<Value> {
    wait_until("changes that wait for approval", PATIENCE, || {
        let changes = changes(scene);
        if changes.is_empty() { Err("none".to_owned()) } else { Ok(changes) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap()
}

fn said(scene: &Scene, args: &[&str]) -> (Option<i32>, String) {
    let output = scene.agent.etm(args).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn in_mode_approve_nothing_moves_until_a_person_says_so_and_then_it_does() {
    let Some(_turn) = turn() else { return };
    let options = AgentOptions { mode: "approve", ..AgentOptions::default() };
    let scene = Scene::start(LabOptions::default(), &options, &above_limit()).unwrap();
    let since_ns = boottime_ns();
    let waiting = wait_changes(&scene);
    pass_time(Duration::from_secs(3));
    assert_eq!(scene.overridden_since(since_ns, &Provider::ALL), 0, "it moved without approval");
    assert_eq!(scene.agent.overrides().unwrap(), []);
    assert_eq!(scene.agent.state().unwrap(), "approving");
    let (status, text) = said(&scene, &["approve", "list"]);
    let prefix = waiting[0]["prefix"].as_str().unwrap();
    assert!(status == Some(0) && text.contains(prefix), "{text}");

    let (status, text) = said(&scene, &["approve", "999999"]);
    assert!(status == Some(1) && text.contains("no change with number 999999"), "{status:?} {text}");
    let (status, text) = said(&scene, &["approve", "all"]);
    assert_eq!(status, Some(0), "{text}");
    scene.wait_overrides().unwrap();
    scene.settle(since_ns, LIMIT_MBIT).unwrap();
    assert!(scene.agent.overrides().unwrap().iter().all(|o| o.enforced && o.from == "transit-a"));
}

#[test]
fn a_change_whose_exit_is_lost_is_refused_and_a_rejected_one_is_not_asked_for_again() {
    let Some(_turn) = turn() else { return };
    let options = AgentOptions { mode: "approve", ..AgentOptions::default() };
    let scene = Scene::start(LabOptions::default(), &options, &above_limit()).unwrap();
    let waiting = wait_changes(&scene);
    let id = waiting[0]["id"].to_string();
    let (prefix, to) = (waiting[0]["prefix"].clone(), waiting[0]["to"].clone());
    let receiver = Provider::ALL.into_iter().find(|p| p.name() == to.as_str().unwrap()).unwrap();
    assert_eq!(said(&scene, &["reject", &id]).0, Some(0));
    let waiting = wait_changes(&scene);
    let again = waiting.iter().any(|change| change["prefix"] == prefix && change["to"] == to);
    assert!(!again, "{waiting:?}");

    let lost: Vec<Value> =
        wait_changes(&scene).into_iter().filter(|change| change["to"] == receiver.name()).collect();
    scene.lab.cut(receiver).unwrap();
    wait_until("changes to the dead link to be dropped", PATIENCE, || {
        let left = changes(&scene).iter().any(|change| change["to"] == receiver.name());
        if left { Err("still there".to_owned()) } else { Ok(()) }
    })
    .unwrap();
    for change in lost {
        let (status, text) = said(&scene, &["approve", &change["id"].to_string()]);
        assert!(status == Some(1) && text.contains("no change with number"), "{status:?} {text}");
    }
}

#[test]
fn money_is_shown_in_observe_and_moves_traffic_in_enforce_once_and_within_limits() {
    let Some(_turn) = turn() else { return };
    let prices = Some(["1.0", "0.4", "0.5"]);
    let observe = AgentOptions { prices, hold: "3s", ..AgentOptions::observe() };
    let demand = demand((34.0, 7.0, 6.0));
    let mut scene = Scene::start(LabOptions::default(), &observe, &demand).unwrap();
    let since_ns = boottime_ns();
    let planned = wait_until("a plan that saves", PATIENCE, || {
        let overrides = scene.agent.overrides().map_err(|error| error.to_string())?;
        if overrides.is_empty() { Err("no override is planned".to_owned()) } else { Ok(overrides) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    assert!(planned.iter().all(|o| !o.enforced && o.from == "transit-a"), "{planned:?}");
    pass_time(Duration::from_secs(3));
    assert_eq!(scene.overridden_since(since_ns, &Provider::ALL), 0, "observe changes nothing");
    let plan = scene.agent.get("/v1/plan").unwrap();
    assert_eq!((plan["vetoes"].to_string().as_str(), plan["state"].as_str()), ("[]", Some("observing")));
    assert!(plan["gap"].as_f64().unwrap() >= -1e-6 && plan["money"].as_f64().unwrap() > 0.0, "{plan}");
    let (status, text) = said(&scene, &["explain", "transit-b"]);
    assert!(status == Some(0) && text.contains("transit-b carries"), "{text}");
    let (status, text) = said(&scene, &["explain", "--n-1"]);
    assert!(status == Some(0) && text.matches("without ").count() == 3, "{text}");

    let enforce = AgentOptions { mode: "enforce", ..observe };
    scene.agent.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    scene.restart(&enforce).unwrap();
    scene.wait_overrides().unwrap();
    let settled_ns = scene.settle(boottime_ns(), LIMIT_MBIT).unwrap();
    let (from_ns, moved) = (before_transit(), scene.sink.moves_since(settled_ns).len());
    // Longer than the hold time: what pays stays where it is.
    pass_time(Duration::from_secs(10));
    assert_eq!(scene.sink.moves_since(settled_ns).len(), moved, "{}", scene.agent.log());
    let until_ns = before_transit();
    let loads = scene.loads(from_ns, until_ns);
    assert!(loads[&Provider::TransitA] < 25.0, "{loads:?}");
    assert!(scene.loss(from_ns, until_ns) == 0.0 && scene.worst_uplink(from_ns, until_ns) <= LIMIT_MBIT);
    assert_eq!(scene.agent.get("/v1/status").unwrap()["plan_vetoes"], 0);
}
