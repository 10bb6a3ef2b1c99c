//! An overload ends by the right prefixes taking another uplink, and by nothing else. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use etm_tests::agent::AgentOptions;
use etm_tests::clock::{boottime_ns, millis_between};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{DRAIN, PATIENCE, Scene, before_transit, nanos, turn};
use etm_tests::table::{Announcement, Table};
use etm_tests::topology::{Provider, Role};
use etm_tests::traces;
use etm_tests::traffic::{Demand, FRAME, Flow};
use ipnet::IpNet;

/// 90 % of 50 Mbit/s.
const LIMIT_MBIT: f64 = 45.0;
/// Within every limit.
const QUIET: (f64, f64, f64) = (34.0, 7.0, 6.0);
/// More than transit-a carries.
const OVERLOAD: (f64, f64, f64) = (56.0, 7.0, 6.0);
/// Above transit-a's limit, below its capacity: nothing is dropped, and still ETM has to act.
const ABOVE_LIMIT: (f64, f64, f64) = (47.5, 7.0, 6.0);

fn demand((transit_a, transit_b, ix): (f64, f64, f64)) -> Demand {
    Demand::by_home(transit_a, transit_b, ix)
}

/// A scene that ETM has just relieved, and the moment since which it is.
fn relieved(options: &AgentOptions) -> (Scene, u64) {
    let scene = Scene::start(LabOptions::default(), options, &demand(OVERLOAD)).unwrap();
    let since_ns = boottime_ns();
    scene.wait_overrides().unwrap();
    let last_move_ns = scene.settle(since_ns, LIMIT_MBIT).unwrap();
    (scene, last_move_ns + nanos(DRAIN))
}

#[test]
fn an_overload_is_relieved_within_three_seconds_without_loss_afterwards_and_core_follows() {
    let Some(_turn) = turn() else { return };
    let scene = Scene::start(LabOptions::default(), &AgentOptions::default(), &demand(QUIET)).unwrap();
    pass_time(Duration::from_secs(3));
    assert_eq!(scene.agent.overrides().unwrap(), [], "nothing to do yet");
    let step_ns = boottime_ns();
    scene.demand(&demand(OVERLOAD));
    let overrides = scene.wait_overrides().unwrap();
    let settled_ns = scene.settle(step_ns, LIMIT_MBIT).unwrap();
    let first = scene.sink.moves_since(step_ns).into_iter().find(|m| m.from.is_some()).unwrap();
    let events = scene.agent.events(0).unwrap();
    let overload = events.iter().find(|e| e.kind == "overloaded" && e.at_ns >= step_ns).expect("seen");
    let shift_ms = millis_between(overload.at_ns, first.at_ns);
    assert!((0.0..=3000.0).contains(&shift_ms), "first packet moved {shift_ms} ms after the overload");
    // Often before the queue of the uplink is full: a loss until here proves nothing, and neither does none.

    let from_ns = settled_ns + nanos(DRAIN);
    pass_time(Duration::from_secs(5));
    let until_ns = before_transit();
    let (loss, worst) = (scene.loss(from_ns, until_ns), scene.worst_uplink(from_ns, until_ns));
    assert!(loss == 0.0 && worst <= LIMIT_MBIT, "loss {loss}, worst uplink {worst} Mbit/s");
    // Saturation is demand to be relieved, never a reason to stand still.
    let frozen: Vec<_> = events.iter().filter(|e| e.kind == "frozen" && e.at_ns >= step_ns).collect();
    assert!(frozen.is_empty(), "{frozen:?}");
    assert_eq!(scene.agent.state().unwrap(), "steering");

    assert!(overrides.iter().all(|o| o.enforced && o.refused.is_none() && o.from == "transit-a"));
    assert_core_prefers(&scene, &scene.wait_overrides().unwrap().iter().map(|o| o.prefix).collect());
}

/// Core routes these prefixes, and only these, by announcements that can do no harm elsewhere.
fn assert_core_prefers(scene: &Scene, prefixes: &BTreeSet<IpNet>) {
    let routes = traces::announced(&scene.lab).unwrap();
    let announced: BTreeSet<IpNet> = routes.iter().filter_map(|route| route.prefix).collect();
    assert_eq!(announced, *prefixes);
    for route in routes {
        assert!(route.best && !route.unreachable, "{route:?}");
        let community = &route.attributes["BGP.community"];
        assert!(community.contains("(65535,65281)"), "NO_EXPORT is missing: {route:?}");
        assert!(community.contains("(64500,179)"), "ETM's own community is missing: {route:?}");
        assert_eq!(route.attributes["BGP.local_pref"], "1000000");
        let next_hop = if matches!(route.prefix, Some(IpNet::V4(_))) { "10.0.9.1" } else { "fd00:9::1" };
        assert!(route.attributes["BGP.next_hop"].starts_with(next_hop), "{route:?}");
    }
}

#[test]
fn counters_stay_exact_per_uplink_and_prefix_while_prefixes_move() {
    let Some(_turn) = turn() else { return };
    let mut scene = Scene::start(LabOptions::default(), &AgentOptions::default(), &demand(QUIET)).unwrap();
    pass_time(Duration::from_secs(2));
    scene.demand(&demand(ABOVE_LIMIT));
    scene.wait_overrides().unwrap();
    pass_time(Duration::from_secs(4));
    scene.generator.stop();
    assert_eq!(
        scene.sink.drain(&scene.generator, PATIENCE).unwrap(),
        0,
        "above the limit, below the capacity"
    );
    let arrived = scene.arrived_by_prefix();
    let by_prefix = arrived.keys().map(|(prefix, _)| prefix).fold(BTreeMap::new(), |mut n, p| {
        *n.entry(*p).or_insert(0) += 1;
        n
    });
    assert!(by_prefix.values().any(|uplinks| *uplinks > 1), "no prefix used two uplinks: {arrived:?}");
    wait_until("the counters to show exactly what arrived", Duration::from_secs(5), || {
        let counted = scene.agent.counted().map_err(|error| error.to_string())?;
        if counted == arrived { Ok(()) } else { Err(format!("{counted:?} instead of {arrived:?}")) }
    })
    .unwrap();
}

/// Rates by prefix, in Mbit/s, towards an address whose longest match is that prefix.
fn flows(table: &Table, rates: &[(&str, f64)]) -> Vec<Flow> {
    rates
        .iter()
        .map(|(prefix, mbit)| Flow {
            destination: table.address_in(prefix.parse().unwrap()).unwrap(),
            packets_per_s: mbit * 1e6 / 8.0 / FRAME as f64,
        })
        .collect()
}

/// An override of the first prefix must leave the others, nested in it, where they were; `appearing` is
/// announced by transit-a alone while the override is in effect.
fn nested(rates: &[(&str, f64)], appearing: &str) {
    let table = Table::standard();
    let covering: IpNet = rates[0].0.parse().unwrap();
    let appearing: IpNet = appearing.parse().unwrap();
    assert!(covering.contains(&appearing));
    let mut flows = flows(&table, rates);
    let mut extended = table.clone();
    extended.announcements.push(Announcement { prefix: appearing, providers: vec![Provider::TransitA] });
    let late = extended.address_in(appearing).unwrap();
    flows.push(Flow { destination: late, packets_per_s: 200.0 });
    let options = AgentOptions::default();
    let lab = Lab::up(LabOptions::default()).unwrap();
    let mut scene = Scene::start_in(lab, &options, &flows).unwrap();
    let since_ns = boottime_ns();
    let overrides = scene.wait_overrides().unwrap();
    assert_eq!(overrides.iter().map(|o| o.prefix).collect::<Vec<_>>(), [covering]);
    let moved = |scene: &Scene| -> BTreeSet<IpAddr> {
        scene
            .sink
            .moves_since(since_ns)
            .into_iter()
            .filter(|m| m.from.is_some())
            .map(|m| m.destination)
            .collect()
    };
    wait_until("the covering prefix to move", PATIENCE, || {
        // The late prefix is not announced yet: its traffic belongs to the covering one.
        let expected: BTreeSet<IpAddr> = [flows[0].destination, late].into_iter().collect();
        let moved = moved(&scene);
        if moved == expected { Ok(()) } else { Err(format!("moved {moved:?} instead of {expected:?}")) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    pass_time(Duration::from_secs(2));
    assert_eq!(moved(&scene).len(), 2, "a more-specific was captured");
    let current = scene.sink.current();
    for flow in &flows[1..flows.len() - 1] {
        let (_, home) = table.home(flow.destination).unwrap();
        assert_eq!(current.get(&flow.destination), Some(&home), "{} was captured", flow.destination);
    }

    scene.lab.announce(extended).unwrap();
    wait_until("the late more-specific to leave the override", Duration::from_secs(10), || {
        match scene.sink.current().get(&late) {
            Some(Provider::TransitA) => Ok(()),
            other => Err(format!("{late} by {other:?}")),
        }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    let still = scene.agent.overrides().unwrap();
    assert_eq!(still.iter().map(|o| o.prefix).collect::<Vec<_>>(), [covering]);
    assert_ne!(scene.sink.current().get(&flows[0].destination), Some(&Provider::TransitA));
}

#[test]
fn an_override_of_a_covering_ipv4_prefix_never_captures_a_more_specific() {
    let Some(_turn) = turn() else { return };
    // 46.6 Mbit/s on transit-a, 21.6 of them in the one prefix that another exit can take.
    nested(&[("198.18.32.0/20", 20.0), ("198.18.33.0/24", 25.0), ("198.18.36.0/22", 2.0)], "198.18.40.0/24");
}

#[test]
fn an_override_of_a_covering_ipv6_prefix_never_captures_a_more_specific() {
    let Some(_turn) = turn() else { return };
    nested(
        &[("2001:db8:200::/40", 20.0), ("2001:db8:202::/48", 25.0), ("2001:db8:203::/48", 2.0)],
        "2001:db8:210::/48",
    );
}

#[test]
fn overrides_towards_a_link_that_goes_down_are_removed_and_their_traffic_goes_on_elsewhere() {
    let Some(_turn) = turn() else { return };
    let (scene, _) = relieved(&AgentOptions::default());
    let overrides = scene.agent.overrides().unwrap();
    let receiver = Provider::ALL.into_iter().find(|p| p.name() == overrides[0].to).unwrap();
    let affected: Vec<IpAddr> = scene
        .sink
        .current()
        .into_iter()
        .filter(|(d, p)| *p == receiver && scene.generator.rates()[d] > 50.0)
        .map(|(d, _)| d)
        .collect();
    assert!(!affected.is_empty());
    let cut_ns = boottime_ns();
    scene.lab.cut(receiver).unwrap();
    let left = |limit| {
        wait_until("the traffic to leave the dead link", limit, || {
            let current = scene.sink.current();
            let on_it: Vec<_> = affected.iter().filter(|d| current.get(*d) == Some(&receiver)).collect();
            if on_it.is_empty() { Ok(()) } else { Err(format!("{on_it:?} by {receiver}")) }
        })
    };
    left(Duration::from_secs(2)).map_err(|error| scene.agent.with_log(error)).unwrap();
    wait_until("its overrides to be gone everywhere", Duration::from_secs(2), || {
        let overrides = scene.agent.overrides().map_err(|error| error.to_string())?;
        let routes = traces::routes(&scene.lab).map_err(|error| error.to_string())?;
        let bad = overrides.iter().any(|o| o.to == receiver.name())
            || routes.iter().any(|line| line.contains(receiver.uplink()));
        if bad { Err(format!("{overrides:?} {routes:?}")) } else { Ok(()) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    let events = scene.agent.events(0).unwrap();
    assert!(events.iter().any(|e| e.kind == "link-down" && e.at_ns >= cut_ns), "{events:?}");
}

#[test]
fn a_provider_that_withdraws_an_overridden_prefix_ends_that_override_at_once() {
    let Some(_turn) = turn() else { return };
    let (mut scene, _) = relieved(&AgentOptions::default());
    let victim = scene.agent.overrides().unwrap()[0].clone();
    let receiver = Provider::ALL.into_iter().find(|p| p.name() == victim.to).unwrap();
    let mut table = scene.lab.table().clone();
    for row in table.announcements.iter_mut().filter(|row| row.prefix == victim.prefix) {
        row.providers.retain(|p| *p != receiver);
    }
    let destination = table.address_in(victim.prefix).unwrap();
    let at_ns = boottime_ns();
    scene.lab.announce(table).unwrap();
    wait_until("the override to end", Duration::from_secs(2), || {
        let there = scene.agent.overrides().map_err(|error| error.to_string())?;
        let again = there.iter().any(|o| o.prefix == victim.prefix && o.to == victim.to);
        if again { Err(format!("{there:?}")) } else { Ok(()) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    // Once the withdrawal has reached the border no packet may go where nobody offers the prefix.
    wait_until("its packets to leave that exit", Duration::from_secs(2), || {
        match scene.sink.current().get(&destination) {
            Some(current) if *current != receiver => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    let ended = scene.agent.events(0).unwrap();
    let ended = ended.iter().find(|e| {
        e.at_ns >= at_ns
            && (e.kind == "override-ended" || e.kind == "override-moved")
            && e.body["prefix"] == victim.prefix.to_string().as_str()
    });
    assert!(ended.is_some(), "the decision log says nothing of it");
}

#[test]
fn prefixes_return_when_their_preferred_uplink_has_room_again_and_no_trace_of_them_stays() {
    let Some(_turn) = turn() else { return };
    let options = AgentOptions { hold: "3s", ..AgentOptions::default() };
    let (scene, _) = relieved(&options);
    scene.demand(&demand(QUIET));
    wait_until("every override to be given back", PATIENCE, || {
        let overrides = scene.agent.overrides().map_err(|error| error.to_string())?;
        let traces = scene.traces().map_err(|error| error.to_string())?;
        if overrides.is_empty() && traces.routes.is_empty() && traces.announced.is_empty() {
            return Ok(());
        }
        Err(format!("{overrides:?} {:?} {:?}", traces.routes, traces.announced))
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    let since_ns = boottime_ns();
    pass_time(Duration::from_secs(3));
    assert_eq!(scene.overridden_since(since_ns, &Provider::ALL), 0);
    assert!(scene.loss(since_ns, before_transit()) == 0.0);
}

#[test]
fn an_overload_is_relieved_through_clsact_as_well() {
    let Some(_turn) = turn() else { return };
    let (scene, from_ns) = relieved(&AgentOptions { hook: "clsact", ..AgentOptions::default() });
    pass_time(Duration::from_secs(2));
    assert!(scene.loss(from_ns, before_transit()) == 0.0);
    let traces = scene.traces().unwrap();
    assert!(traces.programs.iter().all(|program| program.ends_with("(clsact)")), "{traces:?}");
    assert!(traces.marking().iter().any(|program| program.starts_with("in0 ")), "{traces:?}");
    assert!(scene.agent.log().to_lowercase().contains("clsact"), "the log says which hook is used");
}

#[test]
fn the_log_says_which_hook_auto_has_chosen() {
    let Some(_turn) = turn() else { return };
    let scene = Scene::start(LabOptions::default(), &AgentOptions::default(), &demand(QUIET)).unwrap();
    let programs = scene.traces().unwrap().programs;
    let chosen = if programs.iter().all(|p| p.ends_with("(tcx)")) { "tcx" } else { "clsact" };
    let log = scene.agent.log().to_lowercase();
    assert!(log.contains(chosen), "the log does not say {chosen}: {log}");
    assert_eq!(scene.lab.namespace(Role::Border).ip(&["rule", "show"]).unwrap().matches("fwmark").count(), 1);
}
