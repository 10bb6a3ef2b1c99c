//! What ETM counts is what was sent, to the byte, and observing changes nothing. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::BTreeMap;
use std::time::Duration;

use aya::Pod;
use aya::maps::{Array, LpmTrie, Map, MapData};
use etm_common::{Count, names};
use etm_tests::agent::{Agent, AgentOptions, Site, config, write_text};
use etm_tests::clock::boottime_ns;
use etm_tests::command::run;
use etm_tests::lab::LabOptions;
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, before_transit, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traffic::Demand;
use etm_tests::view::{Counted, Sum};
use ipnet::IpNet;
use nix::sys::signal::Signal;

/// Within every limit: nothing is lost.
const QUIET: (f64, f64, f64) = (30.0, 10.0, 6.0);
/// More than transit-a carries.
const OVERLOAD: (f64, f64, f64) = (56.0, 7.0, 6.0);

fn demand((transit_a, transit_b, ix): (f64, f64, f64)) -> Demand {
    Demand::by_home(transit_a, transit_b, ix)
}

/// Stops the traffic and makes sure that nothing was lost and everything sent arrived; returns what, by prefix and uplink.
fn stop_and_gather(scene: &mut Scene) -> Counted {
    scene.generator.stop();
    assert_eq!(scene.sink.drain(&scene.generator, PATIENCE).unwrap(), 0, "packets lost in the lab");
    assert_eq!((scene.generator.refused(), scene.sink.foreign()), (0, 0));
    let arrived = scene.arrived_by_prefix();
    // What arrived is what was sent: the ledgers of source and sink agree before ETM is asked.
    let sent: u64 = scene.generator.sent().values().map(|ledger| ledger.total.wire_bytes).sum();
    assert_eq!(arrived.values().map(|(bytes, _)| bytes).sum::<u64>(), sent);
    arrived
}

/// Stops the traffic and waits until ETM shows of each uplink exactly what arrived by it. Prefixes that had no route for
/// a while begin anew, and what was sent meanwhile is their covering prefix's.
fn assert_uplinks_counted_exactly(scene: &mut Scene) {
    let mut arrived: BTreeMap<String, Sum> = BTreeMap::new();
    for ((_, uplink), (bytes, packets)) in stop_and_gather(scene) {
        let sum = arrived.entry(uplink).or_default();
        (sum.bytes, sum.packets) = (sum.bytes + bytes, sum.packets + packets);
    }
    wait_until("the totals to stand still", Duration::from_secs(5), || {
        let books = scene.agent.books().map_err(|error| error.to_string())?;
        let counted: BTreeMap<String, Sum> =
            books.into_iter().map(|uplink| (uplink.name, uplink.counted)).collect();
        if counted == arrived { Ok(()) } else { Err(format!("counted {counted:?}, arrived {arrived:?}")) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
}

/// Stops the traffic and waits until ETM shows exactly what arrived.
fn assert_counted_exactly(scene: &mut Scene) {
    let arrived = stop_and_gather(scene);
    let counted = wait_until("the counters to stand still", Duration::from_secs(5), || {
        let counted = scene.agent.counted().map_err(|error| error.to_string())?;
        let difference = difference(&counted, &arrived);
        if difference.is_empty() { Ok(counted) } else { Err(format!("{difference:#?}")) }
    })
    .unwrap();
    assert!(counted.len() >= scene.lab.table().announcements.len(), "{} pairs", counted.len());
}

/// Rows of counters per uplink: room for IPv4 and IPv6 prefixes in the lab's configuration.
const SLOTS: u32 = 2 * 4096;

/// The kernel's own counters by the prefixes of its tries, without ETM.
fn kernel_counts(scene: &Scene) -> Counted {
    let open = |name: &str| MapData::from_pin(scene.lab.pin_root().join(name)).unwrap();
    let v4: LpmTrie<_, [u8; 4], u32> = Map::LpmTrie(open(names::PREFIX4)).try_into().unwrap();
    let v6: LpmTrie<_, [u8; 16], u32> = Map::LpmTrie(open(names::PREFIX6)).try_into().unwrap();
    let rows: Array<_, Count> = Map::Array(open(names::COUNT)).try_into().unwrap();
    let mut slots = slots(&v4);
    slots.extend(self::slots(&v6));
    let mut counted = Counted::new();
    for (prefix, slot) in slots {
        for (uplink, provider) in (0..).zip(Provider::ALL) {
            let count = rows.get(&(uplink * SLOTS + slot), 0).unwrap();
            if count.packets > 0 {
                counted.insert((prefix, provider.uplink().to_owned()), (count.bytes, count.packets));
            }
        }
    }
    counted
}

fn slots<A: Pod + Into<std::net::IpAddr>>(trie: &LpmTrie<MapData, A, u32>) -> Vec<(IpNet, u32)> {
    let entry = |entry: Result<(aya::maps::lpm_trie::Key<A>, u32), _>| {
        let (key, slot) = entry.ok()?;
        Some((IpNet::new(key.data().into(), u8::try_from(key.prefix_len()).ok()?).ok()?, slot))
    };
    trie.iter().filter_map(entry).collect()
}

/// Entries that differ: counted, arrived.
type Pair = (Option<(u64, u64)>, Option<(u64, u64)>);

fn difference(counted: &Counted, arrived: &Counted) -> BTreeMap<String, Pair> {
    counted
        .keys()
        .chain(arrived.keys())
        .map(|key| {
            (format!("{} by {}", key.0, key.1), (counted.get(key).copied(), arrived.get(key).copied()))
        })
        .filter(|(_, (counted, arrived))| counted != arrived)
        .collect()
}

#[test]
fn observing_counts_every_byte_per_uplink_and_prefix_and_touches_nothing() {
    let Some(_turn) = turn() else { return };
    let mut scene = Scene::start(LabOptions::default(), &AgentOptions::observe(), &demand(QUIET)).unwrap();
    // Longer than a window of the books.
    pass_time(Duration::from_secs(13));
    let traces = scene.traces().unwrap();
    assert_eq!((&traces.routes[..], &traces.rules[..], &traces.announced[..]), (&[][..], &[][..], &[][..]));
    assert_eq!(traces.marking(), Vec::<&String>::new(), "observing needs no program where traffic comes in");
    let counting: Vec<_> = traces.programs.iter().filter(|p| p.contains(" egress etm_egress")).collect();
    assert_eq!(counting.len(), 3, "{traces:?}");
    assert_counted_exactly(&mut scene);
    let books = scene.agent.conservation().unwrap();
    assert!(books.windows >= 3, "a window for each uplink: {books:?}");
    assert_eq!(
        (books.byte_error_ppm, books.packet_error, books.failed, books.lossy),
        (0, 0, 0, 0),
        "{books:?}"
    );
    assert_eq!(scene.agent.state().unwrap(), "observing");
}

#[test]
fn bpftool_shows_prefixes_and_bytes_by_field_name() {
    let Some(_turn) = turn() else { return };
    let mut scene = Scene::start(LabOptions::default(), &AgentOptions::observe(), &demand(QUIET)).unwrap();
    pass_time(Duration::from_secs(4));
    assert_counted_exactly(&mut scene);
    let arrived = scene.arrived_by_prefix();
    let path = scene.lab.pin_root().join("etm_live");
    let path = path.to_str().unwrap();
    wait_until("the live statistics to follow", Duration::from_secs(5), || {
        let text = run("dump the live statistics", "bpftool", &["-j", "map", "dump", "pinned", path], None)
            .map_err(|error| error.to_string())?;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let shown: Counted = rows
            .iter()
            .filter_map(|row| {
                let (key, value) = (&row["formatted"]["key"], &row["formatted"]["value"]);
                let prefix = key["prefix"].as_str()?.parse().ok()?;
                let count = (value["bytes"].as_u64()?, value["packets"].as_u64()?);
                Some(((prefix, key["uplink"].as_str()?.to_owned()), count))
            })
            .filter(|(_, (_, packets))| *packets > 0)
            .collect();
        let difference = difference(&shown, &arrived);
        if difference.is_empty() { Ok(()) } else { Err(format!("{difference:#?} in {text:.2000}")) }
    })
    .unwrap();
}

#[test]
fn observing_an_overload_shows_what_it_would_do_and_does_nothing() {
    let Some(_turn) = turn() else { return };
    let scene = Scene::start(LabOptions::default(), &AgentOptions::observe(), &demand(OVERLOAD)).unwrap();
    let from_ns = boottime_ns();
    let planned = wait_until("a plan", PATIENCE, || {
        let planned = scene.agent.overrides().map_err(|error| error.to_string())?;
        if planned.is_empty() { Err("none".to_owned()) } else { Ok(planned) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    pass_time(Duration::from_secs(4));
    assert!(planned.iter().all(|o| !o.enforced && o.from == "transit-a"), "{planned:?}");
    assert!(scene.loss(from_ns, before_transit()) > 0.0, "there was an overload");
    let moved: Vec<_> = scene.sink.moves_since(from_ns).into_iter().filter(|m| m.from.is_some()).collect();
    assert_eq!(moved, []);
    let traces = scene.traces().unwrap();
    assert_eq!((&traces.routes[..], &traces.rules[..], &traces.announced[..]), (&[][..], &[][..], &[][..]));
    assert_eq!(traces.marking(), Vec::<&String>::new());
    assert_eq!(scene.agent.state().unwrap(), "observing");
}

/// Ends the agent by `signal` and starts it anew while traffic flows: the kernel's counters know nothing of it.
fn assert_counted_across_a_restart(signal: Signal) {
    let options = AgentOptions::observe();
    let mut scene = Scene::start(LabOptions::default(), &options, &demand(QUIET)).unwrap();
    pass_time(Duration::from_secs(2));
    scene.agent.signal(signal).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    // Nobody is there, and the kernel goes on counting.
    pass_time(Duration::from_secs(1));
    scene.restart(&options).unwrap();
    pass_time(Duration::from_secs(1));
    scene.generator.stop();
    assert_eq!(scene.sink.drain(&scene.generator, PATIENCE).unwrap(), 0, "packets lost in the lab");
    let (counted, arrived) = (kernel_counts(&scene), scene.arrived_by_prefix());
    let difference = difference(&counted, &arrived);
    assert!(difference.is_empty() && !counted.is_empty(), "{difference:#?} {}", scene.agent.log());
}

#[test]
fn no_packet_is_missed_or_counted_twice_across_an_orderly_restart() {
    let Some(_turn) = turn() else { return };
    assert_counted_across_a_restart(Signal::SIGTERM);
}

#[test]
fn no_packet_is_missed_or_counted_twice_across_a_crash_and_a_restart() {
    let Some(_turn) = turn() else { return };
    assert_counted_across_a_restart(Signal::SIGKILL);
}

/// Traffic by all uplinks but transit-a, which is about to go or not yet back.
const OTHERS: (f64, f64, f64) = (0.0, 10.0, 6.0);

/// Waits until nothing is sent by transit-a any more and what was is counted.
fn leave_transit_a(scene: &Scene) {
    scene.demand(&demand(OTHERS));
    pass_time(Duration::from_secs(2));
}

#[test]
fn an_uplink_that_is_renamed_is_counted_on() {
    let Some(_turn) = turn() else { return };
    let mut scene = Scene::start(LabOptions::default(), &AgentOptions::observe(), &demand(QUIET)).unwrap();
    pass_time(Duration::from_secs(2));
    let border = scene.lab.namespace(Role::Border);
    border.ip(&["link", "set", "dev", "up-a", "name", "wan0"]).unwrap();
    // BIRD takes it for another interface and lets go of its sessions for a while.
    pass_time(Duration::from_secs(3));
    wait_until("the sessions to return", PATIENCE, || scene.agent.ready(scene.lab.table()))
        .map_err(|error| scene.agent.with_log(error))
        .unwrap();
    pass_time(Duration::from_secs(2));
    assert_eq!(scene.agent.state().unwrap(), "observing", "{}", scene.agent.log());
    assert_uplinks_counted_exactly(&mut scene);
}

#[test]
fn an_uplink_that_is_unplugged_and_returns_as_another_is_counted_on() {
    let Some(_turn) = turn() else { return };
    let mut scene = Scene::start(LabOptions::default(), &AgentOptions::observe(), &demand(QUIET)).unwrap();
    pass_time(Duration::from_secs(2));
    leave_transit_a(&scene);
    for _ in 0..2 {
        scene.lab.unplug(Provider::TransitA).unwrap();
        pass_time(Duration::from_secs(2));
        scene.lab.plug(Provider::TransitA).unwrap();
        scene.lab.wait_converged().unwrap();
        wait_until("the uplink to be ready", PATIENCE, || scene.agent.ready(scene.lab.table()))
            .map_err(|error| scene.agent.with_log(error))
            .unwrap();
        scene.demand(&demand(QUIET));
        pass_time(Duration::from_secs(3));
        leave_transit_a(&scene);
    }
    assert_uplinks_counted_exactly(&mut scene);
}

#[test]
fn an_uplink_without_carrier_is_counted_on_when_it_has_one_again() {
    let Some(_turn) = turn() else { return };
    let mut scene = Scene::start(LabOptions::default(), &AgentOptions::observe(), &demand(QUIET)).unwrap();
    pass_time(Duration::from_secs(2));
    leave_transit_a(&scene);
    scene.lab.cut(Provider::TransitA).unwrap();
    pass_time(Duration::from_secs(2));
    scene.lab.mend(Provider::TransitA).unwrap();
    scene.lab.wait_converged().unwrap();
    scene.demand(&demand(QUIET));
    pass_time(Duration::from_secs(3));
    assert_uplinks_counted_exactly(&mut scene);
}

#[test]
fn another_order_in_the_configuration_mixes_no_counts() {
    let Some(_turn) = turn() else { return };
    let options = AgentOptions::observe();
    let mut scene = Scene::start(LabOptions::default(), &options, &demand(QUIET)).unwrap();
    pass_time(Duration::from_secs(2));
    scene.agent.signal(Signal::SIGTERM).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();
    let text = config(&Site::of(&scene.lab), &options);
    // The tables of the interfaces, the first of them last.
    let (head, rest) = text.split_once("\n[[interface]]\n").unwrap();
    let (interfaces, tail) = rest.split_once("\n[[provider]]\n").unwrap();
    let (first, others) = interfaces.split_once("\n[[interface]]\n").unwrap();
    let turned = format!("{head}\n[[interface]]\n{others}\n[[interface]]\n{first}\n[[provider]]\n{tail}");
    assert_ne!(turned, text);
    let path = write_text(&scene.lab, &turned).unwrap();
    scene.agent = Agent::start_by(&scene.lab, &path, options.log).unwrap();
    wait_until("etm-agent to be ready again", PATIENCE, || scene.agent.ready(scene.lab.table()))
        .map_err(|error| scene.agent.with_log(error))
        .unwrap();
    let names: Vec<String> = scene.agent.books().unwrap().into_iter().map(|book| book.name).collect();
    assert_eq!(names, ["up-b", "up-ix", "up-a"]);
    pass_time(Duration::from_secs(2));
    assert_counted_exactly(&mut scene);
}

#[test]
fn clsact_counts_as_exactly_as_tcx() {
    let Some(_turn) = turn() else { return };
    let options = AgentOptions { hook: "clsact", ..AgentOptions::observe() };
    let mut scene = Scene::start(LabOptions::default(), &options, &demand(QUIET)).unwrap();
    pass_time(Duration::from_secs(3));
    let programs = scene.traces().unwrap().programs;
    assert!(programs.len() == 3 && programs.iter().all(|p| p.ends_with("(clsact)")), "{programs:?}");
    assert_counted_exactly(&mut scene);
}
