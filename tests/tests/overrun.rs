//! What the kernel has no memory for. Notifications that it could not deliver: while the agent is stopped, others flood the kernel with routes until its
//! sockets overrun, and only then change what it must know. Requests that it could not take. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::BTreeSet;
use std::time::Duration;

use etm_tests::agent::AgentOptions;
use etm_tests::clock::boottime_ns;
use etm_tests::lab::LabOptions;
use etm_tests::netns::Namespace;
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, turn};
use etm_tests::starved::Starved;
use etm_tests::topology::{Provider, Role};
use etm_tests::traces::lost_notifications;
use etm_tests::traffic::Demand;
use nix::sys::signal::Signal;

/// Routes of a table that is nobody's business.
const FLOOD: u32 = 120_000;
const FLOOD_TABLE: &str = "1000";

/// Lines of a table, without what a flag of the moment says.
fn table(border: &Namespace, table: &str) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for family in ["-4", "-6"] {
        let text = border.ip(&[family, "-o", "route", "show", "table", table]).unwrap_or_default();
        let told = text.lines().map(|line| line.replace(" linkdown", "").replace(" dead", ""));
        lines.extend(told.map(|line| format!("{family} {}", line.trim())));
    }
    lines
}

/// Adds or removes so many routes that whoever listens and does not read loses notifications.
fn flood(border: &Namespace, verb: &str) {
    let line = |i: u32| {
        let [_, b, c, d] = i.to_be_bytes();
        format!("route {verb} blackhole 100.{}.{c}.{d}/32 table {FLOOD_TABLE} proto 250", 64 + b)
    };
    let lines: Vec<String> = (0..FLOOD).map(line).collect();
    border.ip_batch("flood the listeners to routes", &lines).unwrap();
}

fn up(scene: &Scene, provider: Provider) -> bool {
    let status = scene.agent.get("/v1/status").unwrap();
    let uplinks = status["uplinks"].as_array().unwrap();
    let uplink = uplinks.iter().find(|uplink| uplink["name"] == provider.uplink()).unwrap();
    uplink["up"].as_bool().unwrap()
}

#[test]
fn after_an_overrun_the_agents_routes_are_the_wanted_ones_and_nobody_elses_were_touched() {
    let Some(_turn) = turn() else { return };
    let options = AgentOptions { lease: "30s", ..AgentOptions::default() };
    let demand = Demand::by_home(47.5, 7.0, 6.0);
    let scene = Scene::start(LabOptions::default(), &options, &demand).unwrap();
    scene.wait_overrides().unwrap();
    let border = scene.lab.namespace(Role::Border);
    let (own, main) = (table(&border, "179"), table(&border, "main"));
    let steered: Vec<&String> = own.iter().filter(|line| line.contains(" via ")).collect();
    assert!(!steered.is_empty(), "{own:?}");
    scene.agent.signal(Signal::SIGSTOP).unwrap();
    flood(&border, "add");
    let overran = lost_notifications(&border, scene.agent.pid()).unwrap();
    println!("notifications lost per socket: {overran:?}");
    // Links, the main table, ETM's own table and neighbours are followed each by a socket; those of routes are full.
    assert!(overran.len() >= 2, "the flood was too small: {overran:?}");
    // Of all that follows nobody tells the agent: one of its routes is gone, and others put some of theirs beside it.
    for line in &steered {
        let mut words = line.split_whitespace();
        let (family, prefix) = (words.next().unwrap(), words.next().unwrap());
        border.ip(&[family, "route", "del", prefix, "table", "179"]).unwrap();
    }
    border.ip(&["route", "add", "blackhole", "203.0.113.0/24", "table", "179", "proto", "250"]).unwrap();
    border
        .ip(&["route", "add", "198.18.250.0/24", "via", "10.2.0.1", "table", "179", "proto", "179"])
        .unwrap();
    border.ip(&["route", "add", "blackhole", "203.0.113.0/25", "proto", "250"]).unwrap();
    scene.lab.cut(Provider::Ix).unwrap();
    assert!(
        lost_notifications(&border, scene.agent.pid()).unwrap().iter().sum::<u64>()
            > overran.iter().sum::<u64>()
    );
    scene.agent.signal(Signal::SIGCONT).unwrap();
    wait_until("the agent to see the lost link", PATIENCE, || {
        if up(&scene, Provider::Ix) { Err("up".to_owned()) } else { Ok(()) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    // What others put into ETM's table stays, has a name, and nothing new is decided while it is there.
    let holds = || scene.agent.get("/v1/status").unwrap()["holds"].to_string();
    wait_until("the foreign route to be named", PATIENCE, || {
        if holds().contains("foreign-routes") { Ok(()) } else { Err(holds()) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    let rows = table(&border, "179");
    assert!(rows.iter().any(|row| row.contains("blackhole 203.0.113.0/24 proto 250")), "{rows:?}");
    border.ip(&["route", "del", "blackhole", "203.0.113.0/24", "table", "179"]).unwrap();
    scene.lab.mend(Provider::Ix).unwrap();
    scene.lab.wait_converged().unwrap();
    scene.wait_overrides().unwrap();
    // What it wants now may be other than before; that is in the kernel, and beside it only what is not ETM's.
    wait_until("the kernel to hold exactly what is wanted", PATIENCE, || {
        let wanted: BTreeSet<String> = scene
            .agent
            .overrides()
            .map_err(|error| error.to_string())?
            .iter()
            .map(|o| o.prefix.to_string())
            .collect();
        let rows = table(&border, "179");
        let ours = rows.iter().filter(|row| row.contains(" via "));
        let have: BTreeSet<String> =
            ours.filter_map(|row| Some(row.split_whitespace().nth(1)?.to_owned())).collect();
        if have == wanted { Ok(()) } else { Err(format!("{have:?}, wanted {wanted:?}")) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    let text = border.ip(&["-4", "-o", "route", "show", "table", FLOOD_TABLE, "proto", "250"]).unwrap();
    assert_eq!(text.lines().count(), usize::try_from(FLOOD).unwrap());
    let mut expected = main;
    expected.insert("-4 blackhole 203.0.113.0/25 proto 250".to_owned());
    assert_eq!(table(&border, "main"), expected);
    assert_eq!(scene.agent.state().unwrap(), "steering");
}

/// Prefixes of the overrides in ETM's table.
fn steered(border: &Namespace) -> BTreeSet<String> {
    let rows = table(border, "179");
    let ours = rows.iter().filter(|row| row.contains(" via "));
    ours.filter_map(|row| Some(row.split_whitespace().nth(1)?.to_owned())).collect()
}

fn wait_kernel_is_as_told(scene: &Scene) {
    wait_until("the kernel to hold exactly what is wanted", PATIENCE, || {
        let overrides = scene.agent.overrides().map_err(|error| error.to_string())?;
        let wanted: BTreeSet<String> = overrides.iter().map(|o| o.prefix.to_string()).collect();
        let have = steered(&scene.lab.namespace(Role::Border));
        if have == wanted { Ok(()) } else { Err(format!("{have:?}, wanted {wanted:?}")) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
}

#[test]
fn requests_that_the_kernel_has_no_memory_for_are_said_again_when_it_has() {
    let Some(_turn) = turn() else { return };
    let (calm, heavy) = (Demand::by_home(20.0, 7.0, 6.0), Demand::by_home(47.5, 7.0, 6.0));
    let mut scene = Scene::start(LabOptions::default(), &AgentOptions::default(), &calm).unwrap();
    let border = scene.lab.namespace(Role::Border);
    let directory = scene.lab.directory();
    assert_eq!(steered(&border), BTreeSet::new());
    // It wants routes, and none can be had.
    let starved = Starved::begin(&border, scene.agent.pid(), &directory).unwrap();
    scene.demand(&heavy);
    wait_until("requests to be refused", PATIENCE, || {
        if starved.refused() > 0 { Ok(()) } else { Err("none yet".to_owned()) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    pass_time(Duration::from_secs(2));
    assert_eq!(steered(&border), BTreeSet::new(), "none could be had");
    let refused = starved.end();
    assert!(scene.agent.ended().is_none(), "{}", scene.agent.log());
    println!("{refused} requests refused while it wanted to steer");
    scene.wait_overrides().map_err(|error| scene.agent.with_log(error)).unwrap();
    wait_kernel_is_as_told(&scene);
    // Switched off, it wants them away, and none can be removed: packets go plain all the same.
    let starved = Starved::begin(&border, scene.agent.pid(), &directory).unwrap();
    scene.agent.off().unwrap();
    pass_time(Duration::from_secs(1));
    let off_ns = boottime_ns();
    pass_time(Duration::from_secs(1));
    assert_eq!(scene.overridden_since(off_ns, &Provider::ALL), 0, "{}", scene.agent.log());
    let refused = starved.end();
    println!("{refused} requests refused while it was off");
    wait_until("its routes to be gone", PATIENCE, || {
        let left = steered(&border);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    assert!(scene.agent.ended().is_none(), "{}", scene.agent.log());
    let on = scene.agent.etm(&["on"]).unwrap();
    assert!(on.status.success(), "{}\n{}", String::from_utf8_lossy(&on.stderr), scene.agent.log());
    scene.wait_overrides().map_err(|error| scene.agent.with_log(error)).unwrap();
    wait_kernel_is_as_told(&scene);
}
