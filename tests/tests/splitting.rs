//! A prefix that fits whole on no uplink: a part of its flows takes another one, by weighted next hops in the kernel, and
//! nothing of it is lost when either exit is. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::net::IpAddr;
use std::time::Duration;

use etm_tests::agent::AgentOptions;
use etm_tests::clock::boottime_ns;
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{DRAIN, PATIENCE, Scene, before_transit, nanos, turn};
use etm_tests::topology::Provider;
use etm_tests::traces;
use etm_tests::traffic::{FRAME, Flow};
use nix::sys::signal::Signal;

/// 90 % of 50 Mbit/s.
const LIMIT_MBIT: f64 = 45.0;
/// Home is transit-a, the only other exit transit-b.
const GIANT_V4: &str = "198.18.100.0/24";
const GIANT_V6: &str = "2001:db8:1000::/48";
/// As many as a hash needs to divide them about as it should.
const FLOWS: u16 = 200;

fn splitting() -> AgentOptions {
    AgentOptions {
        policy: "split = true\nmax_moved = \"100%\"\nmax_moved_per_minute = \"100%\"\n",
        hold: "4s",
        ..AgentOptions::default()
    }
}

/// Flows of one prefix, each to an address of its own, this much in all.
fn giant(prefix: &str, mbit: f64) -> Vec<Flow> {
    let packets_per_s = mbit * 1e6 / 8.0 / FRAME as f64 / f64::from(FLOWS);
    let first: IpAddr = prefix.split_once('/').unwrap().0.parse().unwrap();
    let address = |number: u16| match first {
        IpAddr::V4(first) => IpAddr::from((u32::from(first) + u32::from(number)).to_be_bytes()),
        IpAddr::V6(first) => IpAddr::from((u128::from(first) + u128::from(number)).to_be_bytes()),
    };
    (1..=FLOWS).map(|number| Flow { destination: address(number), packets_per_s }).collect()
}

fn start(prefix: &str, mbit: f64) -> Scene {
    let lab = Lab::up(LabOptions::default()).unwrap();
    Scene::start_in(lab, &splitting(), &giant(prefix, mbit)).unwrap()
}

/// The kernel's route for a prefix in ETM's table.
fn route(scene: &Scene, prefix: &str) -> Option<String> {
    traces::routes(&scene.lab).unwrap().into_iter().find(|line| line.starts_with(prefix))
}

fn wait_divided(scene: &Scene, prefix: &str) -> String {
    wait_until("a route with two next hops", PATIENCE, || {
        let route = route(scene, prefix).unwrap_or_default();
        if route.matches("weight").count() == 2 && !route.contains("dead") { Ok(route) } else { Err(route) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap()
}

fn wait_plain(scene: &Scene, prefix: &str) {
    wait_until("no route for it", PATIENCE, || route(scene, prefix).map_or(Ok(()), Err))
        .map_err(|error| scene.agent.with_log(error))
        .unwrap();
}

/// What arrived by each provider within the next two seconds, and the share that was lost.
fn look(scene: &Scene) -> ([f64; 2], f64) {
    let from_ns = boottime_ns();
    pass_time(Duration::from_secs(2));
    let until_ns = before_transit();
    let loads = scene.loads(from_ns, until_ns);
    ([loads[&Provider::TransitA], loads[&Provider::TransitB]], scene.loss(from_ns, until_ns))
}

fn etm(scene: &Scene, args: &[&str]) -> String {
    let output = scene.agent.etm(args).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_giant_is_divided_until_every_uplink_is_below_its_limit_and_off_leaves_nothing() {
    let Some(_turn) = turn() else { return };
    let mut scene = start(GIANT_V4, 70.0);
    let since_ns = boottime_ns();
    wait_divided(&scene, GIANT_V4);
    let settled_ns = scene.settle(since_ns, LIMIT_MBIT).unwrap();
    let from_ns = settled_ns + nanos(DRAIN);
    pass_time(Duration::from_secs(5));
    let until_ns = before_transit();
    let (loss, worst) = (scene.loss(from_ns, until_ns), scene.worst_uplink(from_ns, until_ns));
    let loads = scene.loads(from_ns, until_ns);
    let route = wait_divided(&scene, GIANT_V4);
    println!("a giant of 70 Mbit/s: {loads:?}, loss {loss}, {route}");
    assert!(loss == 0.0 && worst <= LIMIT_MBIT, "loss {loss}, worst uplink {worst} Mbit/s");
    assert!(loads[&Provider::TransitA] > 25.0 && loads[&Provider::TransitB] > 15.0, "{loads:?}");
    assert!(route.contains("via 10.1.0.1 dev up-a") && route.contains("via 10.2.0.1 dev up-b"), "{route}");
    assert_eq!(traces::announced(&scene.lab).unwrap().len(), 0, "no peer can be told of a part");
    let counted: Vec<String> = scene.agent.counted().unwrap().into_keys().map(|(_, uplink)| uplink).collect();
    assert!(counted.iter().any(|on| on == "up-a") && counted.iter().any(|on| on == "up-b"), "{counted:?}");
    let why = etm(&scene, &["explain", GIANT_V4]);
    assert!(why.contains("of the flows of 198.18.100.0/24 goes through transit-b"), "{why}");
    assert!(why.contains("not announced to any peer"), "{why}");

    // Restarted within the lease, the agent goes on with it, and no flow changes its way.
    let kill_ns = boottime_ns();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    scene.restart(&splitting()).unwrap();
    wait_until("the agent to decide", PATIENCE, || {
        let overrides = scene.agent.overrides().map_err(|error| error.to_string())?;
        if overrides.len() == 1 { Ok(()) } else { Err(format!("{overrides:?}")) }
    })
    .unwrap();
    pass_time(Duration::from_secs(2));
    assert_eq!(scene.sink.moves_since(kill_ns), [], "{}", scene.agent.log());
    assert_eq!(scene.loss(kill_ns, before_transit()), 0.0);
    assert_eq!(wait_divided(&scene, GIANT_V4), route);

    assert!(scene.agent.off().unwrap().status.success());
    wait_plain(&scene, GIANT_V4);
    pass_time(Duration::from_secs(1));
    let ([_, by_b], _) = look(&scene);
    assert_eq!((by_b, traces::routes(&scene.lab).unwrap()), (0.0, Vec::new()));
}

/// Loses each of the two exits in turn. 48 Mbit/s fit an uplink, though not its limit: what is lost is lost by the way.
fn lose_each(prefix: &str) {
    let scene = start(prefix, 48.0);
    wait_divided(&scene, prefix);
    for lost in [Provider::TransitB, Provider::TransitA] {
        let other = if lost == Provider::TransitA { 1 } else { 0 };
        let cut_ns = boottime_ns();
        scene.lab.cut(lost).unwrap();
        wait_plain(&scene, prefix);
        pass_time(Duration::from_secs(1));
        let (loads, loss) = look(&scene);
        let missing = scene.loss(cut_ns, before_transit());
        println!("{prefix}, {lost} lost: {loads:?}, {:.1} ms of its traffic lost", missing * 4_000.0);
        assert!(
            loss == 0.0 && loads[other] > 46.0 && loads[1 - other] == 0.0,
            "{lost}: {loads:?}, loss {loss}"
        );
        scene.lab.mend(lost).unwrap();
        scene.lab.wait_converged().unwrap();
        wait_divided(&scene, prefix);
        assert!(wait_loads(&scene), "{}", scene.agent.log());
    }
}

fn wait_loads(scene: &Scene) -> bool {
    wait_until("both uplinks below their limits", PATIENCE, || {
        let (loads, loss) = look(scene);
        let fine = loss == 0.0 && loads.iter().all(|load| *load > 1.0 && *load <= LIMIT_MBIT);
        if fine { Ok(()) } else { Err(format!("{loads:?}, loss {loss}")) }
    })
    .is_ok()
}

#[test]
fn the_loss_of_either_exit_of_an_ipv4_giant_leaves_it_to_plain_routing() {
    let Some(_turn) = turn() else { return };
    lose_each(GIANT_V4);
}

#[test]
fn the_loss_of_either_exit_of_an_ipv6_giant_leaves_it_to_plain_routing() {
    let Some(_turn) = turn() else { return };
    lose_each(GIANT_V6);
}
