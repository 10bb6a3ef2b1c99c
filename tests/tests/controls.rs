//! What operators order at run time: drains, modes on trial. Packets and core's BIRD are the judges. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::time::Duration;

use etm_tests::agent::AgentOptions;
use etm_tests::clock::boottime_ns;
use etm_tests::lab::LabOptions;
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, before_transit, nanos, turn};
use etm_tests::topology::Provider;
use etm_tests::traces;
use etm_tests::traffic::{Demand, FRAME};
use nix::sys::signal::Signal;
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);
/// Within every limit, and small enough for two providers.
const QUIET: (f64, f64, f64) = (30.0, 7.0, 6.0);

fn demand((transit_a, transit_b, ix): (f64, f64, f64)) -> Demand {
    Demand::by_home(transit_a, transit_b, ix)
}

/// Nothing but room limits how much moves.
fn options() -> AgentOptions {
    let policy = "max_moved = \"100%\"\nmax_moved_per_minute = \"100%\"\n";
    AgentOptions { policy, hold: "3s", lease: "5s", ..AgentOptions::default() }
}

fn status(scene: &Scene) -> Value {
    scene.agent.get("/v1/status").unwrap()
}

fn said(scene: &Scene, args: &[&str]) -> (Option<i32>, String) {
    let output = scene.agent.etm(args).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Mbit/s by `provider` during the last second.
fn load(scene: &Scene, provider: Provider) -> f64 {
    let until_ns = before_transit();
    scene.loads(until_ns - nanos(SECOND), until_ns).get(&provider).copied().unwrap_or(0.0)
}

/// Mbit/s that a drain of transit-a leaves there: what no other provider announces, and a little for late packets.
fn left_by_drain(scene: &Scene) -> f64 {
    let table = scene.lab.table();
    let alone = |to| {
        table
            .announcements
            .iter()
            .any(|a| a.providers == [Provider::TransitA] && table.address_in(a.prefix) == Some(to))
    };
    let flows = demand(QUIET).flows(table, FRAME);
    let rates = flows.iter().filter(|flow| alone(flow.destination)).map(|flow| flow.packets_per_s);
    let frame = f64::from(u32::try_from(FRAME).unwrap());
    rates.sum::<f64>() * frame * 8.0 / 1e6 + 1.0
}

fn wait_load(scene: &Scene, provider: Provider, good: impl Fn(f64) -> bool) {
    wait_until(&format!("the load of {provider}"), PATIENCE, || {
        let load = load(scene, provider);
        if good(load) { Ok(()) } else { Err(format!("{load:.1} Mbit/s, {}", status(scene)["orders"])) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
}

fn kill_and_restart(scene: &mut Scene, options: &AgentOptions) {
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    scene.restart(options).unwrap();
}

#[test]
fn a_drained_provider_is_emptied_without_loss_stays_so_across_a_restart_and_is_used_again() {
    let Some(_turn) = turn() else { return };
    let mut scene = Scene::start(LabOptions::default(), &options(), &demand(QUIET)).unwrap();
    wait_load(&scene, Provider::TransitA, |mbit| mbit > 25.0);
    let (code, text) = said(&scene, &["provider", "drain", "nobody"]);
    assert!(code == Some(1) && text.contains("no provider named `nobody`"), "{text}");
    let from_ns = boottime_ns();
    let (code, text) = said(&scene, &["provider", "drain", "transit-a", "--until", "1h"]);
    assert!(code == Some(0) && text.contains("transit-a is drained for"), "{text}");
    let left = left_by_drain(&scene);
    assert!(left < 15.0, "{left}: a drain would show little");
    wait_load(&scene, Provider::TransitA, |mbit| mbit < left);
    pass_time(2 * SECOND);
    let until_ns = before_transit();
    assert_eq!(scene.loss(from_ns, until_ns), 0.0);
    assert!(scene.worst_uplink(from_ns, until_ns) <= 45.0);
    assert_eq!(status(&scene)["orders"]["drains"][0]["left"], 0, "{}", status(&scene)["orders"]);
    assert!(said(&scene, &["status"]).1.contains("transit-a is drained"));

    kill_and_restart(&mut scene, &options());
    assert_eq!(status(&scene)["orders"]["drains"][0]["provider"], "transit-a");
    pass_time(3 * SECOND);
    wait_load(&scene, Provider::TransitA, |mbit| mbit < left);
    let (code, text) = said(&scene, &["provider", "undrain", "transit-a"]);
    assert_eq!(code, Some(0), "{text}");
    wait_load(&scene, Provider::TransitA, |mbit| mbit > 25.0);
    assert!(scene.agent.overrides().unwrap().is_empty());
}

#[test]
fn a_drain_ends_by_itself() {
    let Some(_turn) = turn() else { return };
    let scene = Scene::start(LabOptions::default(), &options(), &demand(QUIET)).unwrap();
    wait_load(&scene, Provider::TransitA, |mbit| mbit > 25.0);
    let left = left_by_drain(&scene);
    assert_eq!(said(&scene, &["provider", "drain", "transit-a", "--until", "8s"]).0, Some(0));
    wait_load(&scene, Provider::TransitA, |mbit| mbit < left);
    wait_load(&scene, Provider::TransitA, |mbit| mbit > 25.0);
    let events = scene.agent.events(0).unwrap();
    assert!(
        events.iter().any(|event| event.kind == "undrained" && event.body["expired"] == true),
        "{events:?}"
    );
}

/// Whether packets take an override during the next half second.
fn takes_overrides(scene: &Scene) -> bool {
    let since_ns = boottime_ns();
    pass_time(SECOND / 2);
    scene.overridden_since(since_ns, &Provider::ALL) > 0
}

fn wait_overridden(scene: &Scene, wanted: bool, limit: Duration) {
    wait_until("packets to follow the mode", limit, || {
        if takes_overrides(scene) == wanted { Ok(()) } else { Err(status(scene)["mode"].to_string()) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
}

#[test]
fn enforce_on_trial_falls_back_unless_confirmed_and_a_restart_falls_back_too() {
    let Some(_turn) = turn() else { return };
    let observe = AgentOptions { mode: "observe", ..options() };
    // Above transit-a's limit, below its capacity.
    let mut scene = Scene::start(LabOptions::default(), &observe, &demand((47.5, 7.0, 6.0))).unwrap();
    let (code, text) = said(&scene, &["mode", "confirm"]);
    assert!(code == Some(1) && text.contains("no mode is on trial"), "{text}");
    let ordered_ns = boottime_ns();
    let (code, text) = said(&scene, &["mode", "enforce", "--confirm", "6s"]);
    assert!(code == Some(0) && text.contains("mode observe again in"), "{text}");
    scene.wait_overrides().unwrap();
    wait_overridden(&scene, true, PATIENCE);
    // Two ticks of a second after the six.
    let left = nanos(8 * SECOND).saturating_sub(boottime_ns() - ordered_ns);
    pass_time(Duration::from_nanos(left));
    wait_overridden(&scene, false, SECOND);
    assert_eq!(status(&scene)["mode"], "observe");
    assert_eq!(traces::routes(&scene.lab).unwrap(), Vec::<String>::new());
    assert!(traces::announced(&scene.lab).unwrap().is_empty());

    assert_eq!(said(&scene, &["mode", "enforce", "--confirm", "5m"]).0, Some(0));
    wait_overridden(&scene, true, PATIENCE);
    kill_and_restart(&mut scene, &observe);
    assert_eq!(status(&scene)["mode"], "observe", "a restart in the window falls back");
    wait_overridden(&scene, false, PATIENCE);

    assert_eq!(said(&scene, &["mode", "enforce", "--confirm", "5m"]).0, Some(0));
    assert_eq!(said(&scene, &["mode", "confirm"]).0, Some(0));
    wait_overridden(&scene, true, PATIENCE);
    kill_and_restart(&mut scene, &observe);
    assert_eq!(status(&scene)["mode"], "enforce", "confirmed is for good");
    wait_overridden(&scene, true, PATIENCE);
    assert_eq!(said(&scene, &["mode", "observe"]).0, Some(0));
    wait_overridden(&scene, false, PATIENCE);
}

/// Until `etm status` says, or no longer says, that an order to act would be refused.
fn wait_refused(scene: &Scene, refused: bool) {
    wait_until("the guard would-refuse to say what is so", PATIENCE, || {
        let guards = status(scene)["guards"].clone();
        let said = guards.as_array().is_some_and(|all| all.iter().any(|one| one["guard"] == "would-refuse"));
        if said == refused { Ok(()) } else { Err(guards.to_string()) }
    })
    .unwrap();
}

#[test]
fn a_mode_that_acts_is_refused_where_a_start_in_it_would_be() {
    let Some(_turn) = turn() else { return };
    let observe = AgentOptions { mode: "observe", ..options() };
    let scene = Scene::start(LabOptions::default(), &observe, &demand(QUIET)).unwrap();
    let border = scene.lab.namespace(etm_tests::topology::Role::Border);
    let sysctl = format!("net.ipv4.conf.{}.rp_filter=1", Provider::TransitA.uplink());
    let set = border.command("sysctl").args(["-w", &sysctl]).output().unwrap();
    assert!(set.status.success(), "{set:?}");
    let (code, text) = said(&scene, &["mode", "enforce"]);
    assert!(code == Some(1) && text.contains("rp_filter"), "{text}");
    assert_eq!(status(&scene)["mode"], "observe");
    wait_refused(&scene, true);
    let loose = sysctl.replace("=1", "=2");
    let set = border.command("sysctl").args(["-w", &loose]).output().unwrap();
    assert!(set.status.success(), "{set:?}");
    wait_refused(&scene, false);
    let answer = scene.agent.post("/v1/mode?mode=nonsense").unwrap_err().to_string();
    assert!(answer.contains("400") || answer.contains("unknown variant"), "{answer}");
    for bad in
        ["/v1/mode?mode=enforce&confirm_s=0", "/v1/drain?provider=transit-a&for_s=99999999999", "/v1/drain"]
    {
        assert!(scene.agent.post(bad).is_err(), "{bad}");
    }
    assert_eq!(status(&scene)["orders"]["drains"], Value::Array(Vec::new()));
}
