//! Guards reached in the lab: a move whose traffic does not follow is taken back, a canary takes its share. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::time::Duration;

use etm_tests::agent::AgentOptions;
use etm_tests::clock::boottime_ns;
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traffic::Demand;
use etm_tests::view::Event;
use ipnet::IpNet;

/// 90 % of 50 Mbit/s.
const LIMIT_MBIT: f64 = 45.0;
const ATTEMPTS: usize = 5;

/// Above transit-a's limit, below its capacity.
fn above_limit() -> Demand {
    Demand::by_home(47.5, 7.0, 6.0)
}

fn said(scene: &Scene, args: &[&str]) -> String {
    let output = scene.agent.etm(args).unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// The first event of a kind that `is` one.
fn wait_event(scene: &Scene, kind: &str, is: impl Fn(&Event) -> bool) -> Event {
    wait_until(kind, PATIENCE, || {
        let events = scene.agent.events(0).map_err(|error| error.to_string())?;
        let found = events.iter().find(|event| event.kind == kind && is(event)).cloned();
        found.ok_or_else(|| format!("{:?}", events.last()))
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap()
}

fn largest_planned(scene: &Scene) -> IpNet {
    let planned = scene.wait_planned().unwrap();
    let events = scene.agent.events(0).unwrap();
    let rate = |prefix: &IpNet| {
        let of =
            |event: &&Event| event.kind == "override-added" && event.body["prefix"] == prefix.to_string();
        events.iter().rev().find(of).and_then(|event| event.body["rate_bps"].as_u64())
    };
    planned.iter().map(|planned| planned.prefix).max_by_key(rate).unwrap()
}

/// Lets an observer enforce a plan of which one prefix cannot follow, for somebody else's rule comes first and knows nothing
/// of marks. Since when, and its override. Rates waver, so what is enforced may be another plan: then once more.
fn stuck_move(scene: &Scene) -> (u64, Event) {
    let border = scene.lab.namespace(Role::Border);
    let mut plans = Vec::new();
    for _ in 0..ATTEMPTS {
        // The largest is in most plans. One alone, or the moves that fail are too many in a row.
        let stuck = largest_planned(scene);
        let family = if stuck.addr().is_ipv4() { "-4" } else { "-6" };
        let stuck = stuck.to_string();
        let rule =
            |what| border.ip(&[family, "rule", what, "to", &stuck, "lookup", "main", "priority", "100"]);
        rule("add").unwrap();
        let since_ns = boottime_ns();
        assert!(scene.agent.etm(&["mode", "enforce"]).unwrap().status.success());
        wait_event(scene, "override-added", |event| event.at_ns >= since_ns);
        let added = |event: &&Event| event.kind == "override-added" && event.at_ns >= since_ns;
        let events = scene.agent.events(0).unwrap();
        if let Some(event) = events.iter().filter(added).find(|event| event.body["prefix"] == *stuck) {
            return (since_ns, event.clone());
        }
        plans.push((
            stuck.clone(),
            events.iter().filter(added).map(|event| event.text.clone()).collect::<Vec<_>>(),
        ));
        assert!(scene.agent.etm(&["mode", "observe"]).unwrap().status.success());
        rule("del").unwrap();
    }
    panic!("{ATTEMPTS} plans, and each time another was enforced: {plans:#?}");
}

#[test]
fn a_move_that_traffic_does_not_follow_is_taken_back_within_three_samples_and_another_is_made() {
    let Some(_turn) = turn() else { return };
    let observe = AgentOptions { mode: "observe", ..AgentOptions::default() };
    let scene = Scene::start(LabOptions::default(), &observe, &above_limit()).unwrap();
    let (since_ns, added) = stuck_move(&scene);
    let text = added.body["prefix"].as_str().unwrap();
    let taken_back = wait_event(&scene, "move-unconfirmed", |event| {
        event.at_ns >= since_ns && event.body["prefix"] == text
    });
    let took = Duration::from_nanos(taken_back.at_ns - added.at_ns);
    assert!(took <= Duration::from_millis(3100), "{took:?}: {}", taken_back.text);
    let explained = said(&scene, &["explain", text]);
    assert!(explained.contains("did not follow"), "{explained}\n{:#?}", scene.agent.events(0));
    assert!(said(&scene, &["status"]).contains("exit-closed"));
    // The overload is relieved all the same, by what can follow.
    scene.settle(since_ns, LIMIT_MBIT).unwrap();
    let overrides = scene.wait_overrides().unwrap();
    assert!(overrides.iter().all(|o| o.prefix.to_string() != *text), "{overrides:?}");
    let moves = &scene.agent.get("/v1/status").unwrap()["moves"];
    assert!(moves["confirmed"].as_u64() >= Some(1) && moves["unconfirmed"].as_u64() >= Some(1), "{moves}");
}

#[test]
fn a_canary_of_flows_sends_its_share_of_them_and_keeps_each_flow_on_one_way() {
    let Some(_turn) = turn() else { return };
    let policy = "max_moved = \"100%\"\n[policy.canary]\nshare = \"30%\"\n";
    let options = AgentOptions { policy, ..AgentOptions::default() };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let flows = Demand::by_home(30.0, 7.0, 6.0).flows(lab.table(), etm_tests::traffic::FRAME);
    let scene = Scene::start_in(lab, &options, &flows).unwrap();
    assert!(scene.agent.etm(&["provider", "drain", "transit-a"]).unwrap().status.success());
    wait_until("every prefix that can to be overridden", PATIENCE, || {
        let left = scene.agent.get("/v1/status").unwrap()["orders"]["drains"][0]["left"].clone();
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    pass_time(Duration::from_secs(2));
    let since_ns = boottime_ns();
    pass_time(Duration::from_secs(3));
    assert_eq!(scene.sink.moves_since(since_ns), [], "a flow changed its way");
    let overridden: Vec<_> = scene.agent.overrides().unwrap().into_iter().map(|o| o.prefix).collect();
    let current = scene.sink.current();
    let there: Vec<_> = current
        .iter()
        .filter(|(to, _)| {
            scene.lab.table().home(**to).is_some_and(|(prefix, _)| overridden.contains(&prefix))
        })
        .collect();
    let moved = there.iter().filter(|(_, provider)| **provider != Provider::TransitA).count();
    let share = moved as f64 / there.len() as f64;
    println!("{moved} of {} flows, {share:.2}", there.len());
    assert!(there.len() < 10 || (0.05..0.7).contains(&share), "{moved} of {}", there.len());
    assert!(moved < there.len(), "all flows moved");
    assert_eq!(etm_tests::traces::announced(&scene.lab).unwrap().len(), 0, "a part cannot be announced");
    assert_eq!(scene.agent.state().unwrap(), "steering");
}
