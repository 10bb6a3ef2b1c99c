//! Other programs change what ETM keeps in the kernel: it is mended where that is ETM's to mend, said in any case, and where
//! the effect is lost for good a reason to stand still. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::time::Duration;

use etm_tests::agent::AgentOptions;
use etm_tests::lab::LabOptions;
use etm_tests::netns::Namespace;
use etm_tests::poll::wait_until;
use etm_tests::scene::{PATIENCE, Scene, turn};
use etm_tests::topology::Role;
use etm_tests::traces;
use etm_tests::traffic::Demand;

const SECOND: Duration = Duration::from_secs(1);

fn steered() -> Scene {
    let demand = Demand::by_home(47.5, 7.0, 6.0);
    let scene = Scene::start(LabOptions::default(), &AgentOptions::default(), &demand).unwrap();
    scene.wait_overrides().unwrap();
    scene
}

fn wait(scene: &Scene, what: &str, limit: Duration, is: impl Fn() -> bool) {
    wait_until(what, limit, || if is() { Ok(()) } else { Err("not yet".to_owned()) })
        .map_err(|error| scene.agent.with_log(error))
        .unwrap();
}

fn holds(scene: &Scene) -> Vec<String> {
    let status = scene.agent.get("/v1/status").unwrap();
    let holds = status["holds"].as_array().unwrap().iter();
    holds.map(|hold| hold["hold"].as_str().unwrap().to_owned()).collect()
}

fn events(scene: &Scene, kind: &str) -> usize {
    scene.agent.events(0).unwrap().iter().filter(|event| event.kind == kind).count()
}

fn remove_rule(border: &Namespace) {
    border.ip(&["-4", "rule", "del", "priority", "1790"]).unwrap();
}

#[test]
fn a_rule_that_is_removed_is_put_back_three_times_a_minute_and_by_off_and_on() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let border = scene.lab.namespace(Role::Border);
    let rules = || traces::rules(&scene.lab).unwrap().len();
    let both = rules();
    assert_eq!(both, 2);
    for times in 1..=3 {
        remove_rule(&border);
        wait(&scene, "the rule to be back", SECOND, || rules() == both);
        wait(&scene, "that to be said", PATIENCE, || events(&scene, "rules-put-back") == times);
    }
    assert_eq!(scene.agent.get("/v1/status").unwrap()["site"]["rules_put_back"], 3);
    remove_rule(&border);
    wait(&scene, "a named state", PATIENCE, || holds(&scene).contains(&"rule-missing".to_owned()));
    assert_eq!((rules(), scene.agent.state().unwrap().as_str()), (both - 1, "frozen"));
    assert!(scene.agent.off().unwrap().status.success());
    assert!(scene.agent.etm(&["on"]).unwrap().status.success());
    wait(&scene, "the rule to be back", SECOND, || rules() == both);
    wait(&scene, "the agent to steer", PATIENCE, || scene.agent.state().unwrap() == "steering");
    scene.wait_overrides().unwrap();
}

#[test]
fn a_route_of_etms_that_is_removed_is_mended_and_said_and_one_of_others_beside_it_has_a_name_and_stays() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let border = scene.lab.namespace(Role::Border);
    let overrides = scene.agent.overrides().unwrap();
    let moved = overrides.first().unwrap().prefix;
    let family = if moved.addr().is_ipv4() { "-4" } else { "-6" };
    let moved = moved.to_string();
    let rows = || border.ip(&[family, "route", "show", "table", "179", "root", &moved]).unwrap();
    border.ip(&[family, "route", "del", &moved, "table", "179"]).unwrap();
    wait(&scene, "the route to be back", SECOND, || !rows().is_empty());
    wait(&scene, "that to be said", PATIENCE, || events(&scene, "routes-touched") > 0);
    assert!(scene.agent.log().contains("another program changed 1 of ETM's own routes"));
    assert_eq!(scene.agent.get("/v1/status").unwrap()["site"]["routes_touched"], 1);
    assert_eq!(holds(&scene), Vec::<String>::new());
    // A smaller metric overrules the override.
    let foreign = |what| {
        border.ip(&[
            family,
            "route",
            what,
            "blackhole",
            &moved,
            "metric",
            "1",
            "table",
            "179",
            "proto",
            "250",
        ])
    };
    foreign("add").unwrap();
    wait(&scene, "a named state", PATIENCE, || holds(&scene).contains(&"foreign-routes".to_owned()));
    assert_eq!((events(&scene, "foreign-routes"), scene.agent.state().unwrap().as_str()), (1, "frozen"));
    let said = scene.agent.etm(&["status"]).unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("protocol 250"), "{said:?}");
    assert!(rows().contains("proto 250"), "it is not ETM's to remove: {}", rows());
    foreign("del").unwrap();
    wait(&scene, "the agent to steer", PATIENCE, || scene.agent.state().unwrap() == "steering");
}
