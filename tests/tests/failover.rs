//! An exit is lost in every way there is: its overrides leave the forwarding path without a decision round, and for the
//! loss of a link without userspace. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::time::Duration;

use etm_tests::agent::{self, Agent, AgentOptions, Site};
use etm_tests::clock::{boottime_ns, millis_between};
use etm_tests::crowd::{self, Crowd};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::link;
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, before_transit, turn};
use etm_tests::table::{Announcement, Table};
use etm_tests::topology::{LINKS, Provider, Role};
use etm_tests::traces;
use etm_tests::traffic::{Demand, FRAME, Flow};
use etm_tests::view::Override;
use nix::sys::signal::Signal;

/// Above transit-a's limit, below its capacity.
const ABOVE_LIMIT: (f64, f64, f64) = (47.5, 4.0, 3.0);
/// What of that goes to IPv6 destinations of transit-a: too little to relieve it, so that IPv4 prefixes are moved
/// however the measured rates waver.
const IPV6_OF_A: f64 = 1.0;
/// What the loss of a link with ten thousand overrides may cost, in time of their traffic.
const MOST_LOST_MS: f64 = 20.0;
/// Longest time that a request to the kernel may take meanwhile.
const LONGEST_STALL_MS: f64 = 200.0;

/// A scene in which transit-a is relieved, with rounds so rare that what happens at once is not their doing.
fn relieved() -> (Scene, Provider) {
    let options = AgentOptions { interval: "3s", ..AgentOptions::default() };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let flows = mostly_v4(lab.table());
    let scene = Scene::start_in(lab, &options, &flows).unwrap();
    let overrides = scene.wait_overrides().unwrap();
    let v4 = overrides.iter().find(|o| o.prefix.addr().is_ipv4()).expect("an IPv4 override");
    let receiver = Provider::ALL.into_iter().find(|p| p.name() == v4.to).unwrap();
    (scene, receiver)
}

/// The demand above the limit, of which what prefers transit-a is IPv4 but for [`IPV6_OF_A`].
fn mostly_v4(table: &Table) -> Vec<Flow> {
    let (a, b, ix) = ABOVE_LIMIT;
    let of_a = |flow: &Flow| table.home(flow.destination).is_some_and(|(_, home)| home == Provider::TransitA);
    let by = |demand: Demand, v4: bool| {
        let flows = demand.flows(table, FRAME).into_iter().filter(|flow| of_a(flow));
        let flows: Vec<Flow> = flows.filter(|flow| flow.destination.is_ipv4() == v4).collect();
        let wanted = demand.mbit_per_s.values().sum::<f64>() * 1e6 / 8.0 / FRAME as f64;
        let factor = wanted / flows.iter().map(|flow| flow.packets_per_s).sum::<f64>();
        flows.into_iter().map(move |flow| Flow { packets_per_s: flow.packets_per_s * factor, ..flow })
    };
    let elsewhere = Demand::by_home(0.0, b, ix).flows(table, FRAME).into_iter().filter(|flow| !of_a(flow));
    let v4 = by(Demand::by_home(a - IPV6_OF_A, 0.0, 0.0), true);
    elsewhere.chain(v4).chain(by(Demand::by_home(IPV6_OF_A, 0.0, 0.0), false)).collect()
}

fn towards(scene: &Scene, provider: Provider) -> Vec<Override> {
    let all = scene.agent.overrides().unwrap();
    all.into_iter().filter(|o| o.to == provider.name() && o.prefix.addr().is_ipv4()).collect()
}

/// Waits until no IPv4 override towards `provider` is in ETM's table; how long that took.
fn wait_gone(scene: &Scene, provider: Provider, since_ns: u64) -> f64 {
    let border = scene.lab.namespace(Role::Border);
    let gone = wait_until("its overrides to be gone from the kernel", PATIENCE, || {
        let routes = border.ip(&["-4", "route", "show", "table", traces::TABLE]).unwrap_or_default();
        if routes.contains(provider.uplink()) { Err(routes) } else { Ok(()) }
    });
    gone.map_err(|error| scene.agent.with_log(error)).unwrap();
    millis_between(since_ns, boottime_ns())
}

fn heard(scene: &Scene, kind: &str, since_ns: u64) -> Option<u64> {
    let events = scene.agent.events(0).unwrap();
    events.iter().find(|event| event.kind == kind && event.at_ns >= since_ns).map(|event| event.at_ns)
}

#[test]
fn a_provider_whose_session_is_lost_gets_nothing_more_before_the_next_round() {
    let Some(_turn) = turn() else { return };
    let (mut scene, receiver) = relieved();
    assert!(!towards(&scene, receiver).is_empty());
    let killed_ns = boottime_ns();
    scene.lab.kill_router(receiver.role()).unwrap();
    let ms = wait_gone(&scene, receiver, killed_ns);
    println!("provider session lost: gone from the kernel after {ms:.0} ms");
    assert!(ms < 1000.0, "{ms} ms");
    scene.lab.start_router(receiver.role()).unwrap();
}

#[test]
fn a_next_hop_that_does_not_answer_any_more_gets_nothing_and_is_tried_again() {
    let Some(_turn) = turn() else { return };
    let (scene, receiver) = relieved();
    let (border, far) = (scene.lab.namespace(Role::Border), scene.lab.namespace(receiver.role()));
    let (dev, gateway) = (receiver.uplink(), receiver.gateway_v4());
    border
        .sysctls(&[
            (&format!("net/ipv4/neigh/{dev}/delay_first_probe_time"), "1"),
            (&format!("net/ipv4/neigh/{dev}/retrans_time_ms"), "100"),
        ])
        .unwrap();
    let mac = |which: &str| -> String {
        let text = far.ip(&["-o", "link", "show", "dev", "border0"]).unwrap();
        text.split_whitespace().skip_while(|word| *word != which).nth(1).unwrap().to_owned()
    };
    let known = mac("link/ether");
    let lost_ns = boottime_ns();
    // The router behind the link hangs: the link stays, nobody answers.
    far.sysctls(&[("net/ipv4/conf/border0/arp_ignore", "8")]).unwrap();
    far.ip(&["link", "set", "dev", "border0", "address", "02:00:00:00:99:99"]).unwrap();
    border.ip(&["neigh", "replace", gateway, "lladdr", &known, "dev", dev, "nud", "delay"]).unwrap();
    let silent_ns = wait_until("the kernel to give the next hop up", PATIENCE, || {
        heard(&scene, "gateway-silent", lost_ns).ok_or_else(|| "not yet".to_owned())
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    let ms = wait_gone(&scene, receiver, silent_ns);
    println!(
        "next hop silent: given up by the kernel after {:.0} ms, gone from its table {ms:.0} ms later",
        millis_between(lost_ns, silent_ns)
    );
    assert!(ms < 1000.0, "{ms} ms");
    assert_eq!(towards(&scene, receiver), []);
    // It answers again, and nobody sends there: ETM has the kernel ask.
    far.ip(&["link", "set", "dev", "border0", "address", &known]).unwrap();
    far.sysctls(&[("net/ipv4/conf/border0/arp_ignore", "0")]).unwrap();
    wait_until("the next hop to be known to answer", PATIENCE, || {
        heard(&scene, "gateway-answers", silent_ns).ok_or_else(|| "not yet".to_owned())
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
}

#[test]
fn an_uplink_that_is_deleted_and_made_anew_is_counted_and_used_again() {
    let Some(_turn) = turn() else { return };
    let (scene, receiver) = relieved();
    let deleted_ns = boottime_ns();
    scene.lab.unplug(receiver).unwrap();
    let ms = wait_gone(&scene, receiver, deleted_ns);
    println!("uplink deleted: gone from the kernel after {ms:.0} ms");
    assert!(ms < 1000.0, "{ms} ms");
    scene.lab.plug(receiver).unwrap();
    scene.lab.wait_converged().unwrap();
    wait_until("what leaves there to be counted", PATIENCE, || {
        let books = scene.agent.books().map_err(|error| error.to_string())?;
        match books.iter().find(|books| books.name == receiver.uplink()) {
            Some(books) if books.offered_bps > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    assert!(scene.agent.state().unwrap() == "steering", "{}", scene.agent.log());
}

#[test]
fn an_uplink_that_is_renamed_is_the_same_uplink_and_loses_nothing() {
    let Some(_turn) = turn() else { return };
    let (scene, receiver) = relieved();
    let border = scene.lab.namespace(Role::Border);
    let renamed_ns = boottime_ns();
    border.ip(&["link", "set", "dev", receiver.uplink(), "name", "renamed0"]).unwrap();
    pass_time(Duration::from_secs(4));
    // BIRD takes a new name for another interface and drops what it learnt there; ETM does not.
    assert_eq!(heard(&scene, "link-down", renamed_ns), None, "{}", scene.agent.log());
    assert_eq!(scene.loss(renamed_ns, before_transit()), 0.0);
    border.ip(&["link", "set", "dev", "renamed0", "name", receiver.uplink()]).unwrap();
    scene.lab.wait_converged().unwrap();
    wait_until("what leaves there to be counted", PATIENCE, || {
        let books = scene.agent.books().map_err(|error| error.to_string())?;
        match books.iter().find(|books| books.name == receiver.uplink()) {
            Some(books) if books.offered_bps > 0 && books.worst.failed == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    assert_eq!(heard(&scene, "link-down", renamed_ns), None, "{}", scene.agent.log());
}

/// A lab with ten thousand prefixes more, which prefer transit-a and may use transit-b.
fn crowded() -> Lab {
    let mut table = Table::standard();
    let providers = vec![Provider::TransitA, crowd::RECEIVER];
    let row = |prefix| Announcement { prefix, providers: providers.clone() };
    table.announcements.extend(crowd::prefixes().into_iter().map(row));
    Lab::up(LabOptions { table, ..LabOptions::default() }).unwrap()
}

#[test]
fn ten_thousand_overrides_outlive_the_loss_of_their_exit_in_every_way_there_is() {
    let Some(_turn) = turn() else { return };
    let lab = crowded();
    // A debug build on a busy machine takes seconds for a round of ten thousand.
    let options = AgentOptions { lease: "60s", kill_hung: false, ..AgentOptions::default() };
    let text = crowd::squeeze(&agent::config(&Site::of(&lab), &options));
    let agent = Agent::start_by(&lab, &agent::write_text(&lab, &text).unwrap(), "info").unwrap();
    wait_until("etm-agent to be ready", PATIENCE, || agent.ready(lab.table()))
        .map_err(|error| agent.with_log(error))
        .unwrap();
    let crowd = Crowd::start(&lab, &crowd::prefixes()).unwrap();
    let down = |lab: &Lab| {
        let border = lab.namespace(Role::Border);
        border.ip(&["link", "set", "dev", crowd::RECEIVER.uplink(), "down"]).map(drop)
    };
    type Lose<'a> = &'a dyn Fn(&Lab) -> Result<(), etm_tests::error::LabError>;
    let ways: [(&str, Lose<'_>); 3] = [
        ("carrier lost", &|lab| lab.cut(crowd::RECEIVER)),
        ("set down", &down),
        ("deleted", &|lab| lab.unplug(crowd::RECEIVER)),
    ];
    for (title, lose) in ways {
        crowd.wait_overrides(&lab, &agent, PATIENCE * 2).unwrap();
        let lost = crowd.lose(&lab, lose).unwrap();
        println!("{title}: {lost:?}");
        assert!(lost.destinations >= crowd::OVERRIDES, "{title}: {lost:?}");
        assert!(lost.ms <= MOST_LOST_MS, "{title}: {lost:?}");
        assert!(lost.stall_ms <= LONGEST_STALL_MS, "{title}: {lost:?}");
        assert_eq!(lost.still, 0, "{title}: {lost:?}");
        if title != "deleted" {
            lab.mend(crowd::RECEIVER).unwrap();
        }
    }
}

#[test]
fn an_inside_interface_that_is_deleted_and_made_anew_is_marked_again() {
    let Some(_turn) = turn() else { return };
    let (scene, _) = relieved();
    let made = LINKS.iter().find(|link| link.far.interface == "in0").unwrap();
    let (content, border) = (scene.lab.namespace(Role::Content), scene.lab.namespace(Role::Border));
    assert_eq!(traces::Traces::of(&scene.lab).unwrap().marking().len(), 1);
    border.ip(&["link", "delete", "dev", "in0"]).unwrap();
    link::create(made, &content, &border).unwrap();
    border.ip_batch("bring it up", &link::up_lines(&made.far, &made.near)).unwrap();
    wait_until("the interface to be marked again", PATIENCE, || {
        let traces = traces::Traces::of(&scene.lab).map_err(|error| error.to_string())?;
        if traces.marking().len() == 1 { Ok(()) } else { Err(format!("{traces:?}")) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    // An orderly stop takes it off the interface as it is now.
    let mut scene = scene;
    scene.agent.signal(Signal::SIGTERM).unwrap();
    assert!(scene.agent.wait_end(PATIENCE).unwrap().success());
    let traces = scene.traces().unwrap();
    assert!(traces.marking().is_empty(), "{traces:?}");
}
