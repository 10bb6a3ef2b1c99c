//! Chaos in short: twenty rounds without an invariant broken, and worlds that are broken on purpose, which the observer must
//! find. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use etm_tests::agent::AgentOptions;
use etm_tests::chaos::judge::Violation;
use etm_tests::chaos::observer::{Ground, Watch};
use etm_tests::chaos::timeline::{Terms, open};
use etm_tests::chaos::{self, ChaosOptions};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traffic::{Demand, FRAME};
use nix::sys::signal::Signal;

const LEASE: Duration = Duration::from_secs(3);
const SECOND: Duration = Duration::from_secs(1);

/// Seed of the first of the twenty rounds. Another one is as good.
const SEED: u64 = 1;

#[test]
fn twenty_rounds_break_no_invariant() {
    let Some(_turn) = turn() else { return };
    let keep = std::env::temp_dir().join(format!("etm-chaos-{}", std::process::id()));
    let options = ChaosOptions {
        seed: SEED,
        rounds: 20,
        topology: chaos::Topology::Both,
        json: false,
        keep: keep.clone(),
    };
    assert!(chaos::run(&options).unwrap(), "an invariant was broken; logs are in {}", keep.display());
}

/// A scene in which ETM steers, and what its plain routing looked like before.
fn steered() -> (Scene, Ground) {
    let lab = Lab::up(LabOptions { uplink_bps: 60_000_000, ..LabOptions::default() }).unwrap();
    let ground = Ground::of(&lab, Terms::of(3, 3)).unwrap();
    let options = AgentOptions { lease: "3s", limit_percent: 40, ..AgentOptions::default() };
    let flows = Demand::by_home(28.0, 6.0, 5.0).flows(lab.table(), FRAME);
    let scene = Scene::start_in(lab, &options, &flows).unwrap();
    scene.wait_overrides().unwrap();
    (scene, ground)
}

fn kinds(violations: &[Violation]) -> Vec<&'static str> {
    let mut kinds: Vec<&str> = violations.iter().map(|violation| violation.kind).collect();
    kinds.dedup();
    kinds
}

#[test]
fn a_scene_that_is_left_alone_breaks_nothing() {
    let Some(_turn) = turn() else { return };
    let (scene, ground) = steered();
    let watch = Watch::start(ground).unwrap();
    pass_time(3 * SECOND);
    let seen = watch.end(&scene).unwrap();
    assert_eq!(seen.violations, [], "{seen:?}");
    assert!(seen.windows.0 > 30 && seen.looks > 20 && seen.packets.0 > 5_000, "{seen:?}");
}

#[test]
fn a_lease_that_somebody_else_keeps_fresh_is_found() {
    let Some(_turn) = turn() else { return };
    let (mut scene, ground) = steered();
    let watch = Watch::start(ground).unwrap();
    let guardian = scene.agent.guardian().unwrap();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    watch.note(|timeline, now| open(&mut timeline.absent, now));
    // A deadline far away, in the place of the dead agent's: what a guardian or an old agent must never do.
    let pin = scene.lab.pin_root().join("etm_lease").display().to_string();
    let dumped = bpftool(&["-j", "map", "dump", "pinned", &pin]);
    let value: Vec<String> = bytes(&dumped);
    assert!(value.len() >= 16, "{dumped}");
    let far = ["0xff", "0xff", "0xff", "0xff", "0xff", "0xff", "0xff", "0x00"].map(str::to_owned);
    let forged: Vec<String> = far.into_iter().chain(value.into_iter().skip(8)).collect();
    let mut words = vec!["map", "update", "pinned", &pin, "key", "0", "0", "0", "0", "value"];
    words.extend(forged.iter().map(String::as_str));
    bpftool(&words);
    pass_time(LEASE + 2 * SECOND);
    let seen = watch.end(&scene).unwrap();
    assert_eq!(kinds(&seen.violations), ["stale-override"], "{:?}", seen.violations);
    assert!(guardian > 0);
}

fn bpftool(words: &[&str]) -> String {
    let output = Command::new("bpftool").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The octets of the first entry of `bpftool -j map dump`.
fn bytes(dumped: &str) -> Vec<String> {
    let all: serde_json::Value = serde_json::from_str(dumped).unwrap();
    let value = all[0]["value"].as_array().unwrap();
    value.iter().map(|byte| byte.as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_announcement_that_nobody_withdraws_is_found() {
    let Some(_turn) = turn() else { return };
    let (mut scene, ground) = steered();
    let watch = Watch::start(ground).unwrap();
    let guardian = scene.agent.guardian().unwrap();
    // Both are gone, and core holds on to what it heard: as with a graceful restart that ETM never offers.
    let conf = scene.lab.directory().join("core.conf");
    let text = fs::read_to_string(&conf).unwrap();
    let held = "protocol static held {\n  ipv4;\n  route 198.18.100.0/24 blackhole {\n    \
                bgp_community.add((64500,179)); bgp_community.add((65535,65281));\n  };\n}\n";
    fs::write(&conf, format!("{text}{held}")).unwrap();
    scene.lab.bird(Role::Core).configure().unwrap();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(guardian), Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    watch.note(|timeline, now| {
        open(&mut timeline.absent, now);
        timeline.killed.push(now);
    });
    pass_time(3 * SECOND);
    let seen = watch.end(&scene).unwrap();
    assert!(kinds(&seen.violations).contains(&"stale-announcement"), "{:?}", seen.violations);
    // It came by no session of ETM's, which is found besides.
    assert!(kinds(&seen.violations).contains(&"announcement"), "{:?}", seen.violations);
}

#[test]
fn a_leak_a_foreign_route_and_loss_are_found() {
    let Some(_turn) = turn() else { return };
    let (scene, ground) = steered();
    let watch = Watch::start(ground).unwrap();
    let provider = Provider::TransitB;
    let conf = scene.lab.directory().join(format!("{provider}.conf"));
    let text = fs::read_to_string(&conf).unwrap();
    let leaked = "protocol static leaked {\n  ipv4;\n  route 198.18.240.0/24 blackhole {\n    \
                  bgp_community.add((64500,179));\n  };\n}\n";
    fs::write(&conf, format!("{text}{leaked}")).unwrap();
    scene.lab.bird(provider.role()).configure().unwrap();
    let border = scene.lab.namespace(Role::Border);
    border.ip(&["route", "add", "198.18.250.0/24", "via", "10.1.0.1", "proto", "179"]).unwrap();
    // Less than what leaves there.
    scene.lab.limit(Provider::TransitA, 10_000_000).unwrap();
    wait_until("packets to be lost", PATIENCE, || {
        let lost = scene.loss(watch.began(), etm_tests::scene::before_transit());
        if lost > 0.05 { Ok(()) } else { Err(format!("{lost}")) }
    })
    .unwrap();
    let seen = watch.end(&scene).unwrap();
    assert_eq!(kinds(&seen.violations), ["leak", "loss", "main-touched"], "{:?}", seen.violations);
}

#[test]
fn an_override_towards_nobody_and_a_detour_are_found() {
    let Some(_turn) = turn() else { return };
    let (mut scene, ground) = steered();
    let watch = Watch::start(ground).unwrap();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    let border = scene.lab.namespace(Role::Border);
    // ix announces nothing of this; the rule of the dead agent leads there while its lease lasts.
    border
        .ip(&["route", "add", "198.18.17.0/24", "via", "10.3.0.1", "table", "179", "proto", "179"])
        .unwrap();
    // A rule of nobody's sends packets where neither table does.
    border.ip(&["route", "add", "198.18.107.0/24", "via", "10.3.0.1", "table", "180"]).unwrap();
    border.ip(&["rule", "add", "priority", "100", "to", "198.18.107.0/24", "lookup", "180"]).unwrap();
    pass_time(SECOND);
    let seen = watch.end(&scene).unwrap();
    assert_eq!(kinds(&seen.violations), ["detour", "no-candidate"], "{:?}", seen.violations);
}
