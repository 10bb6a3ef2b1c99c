//! An exit is lost in every way there is: its overrides leave the forwarding path without a decision round, and for the
//! loss of a link without userspace. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etm_tests::agent::{self, Agent, AgentOptions, Site};
use etm_tests::clock::{boottime_ns, millis_between};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, TRANSIT, before_transit, nanos, turn};
use etm_tests::table::{Announcement, Table};
use etm_tests::topology::{Provider, Role};
use etm_tests::traces;
use etm_tests::traffic::{Demand, Flow, Generator, Sink};
use etm_tests::view::Override;
use nix::sys::signal::Signal;

/// Above transit-a's limit, below its capacity.
const ABOVE_LIMIT: (f64, f64, f64) = (47.5, 4.0, 3.0);
/// Prefixes that prefer transit-a, which may carry next to nothing: all but a few hundred are overridden.
const MANY: usize = 10_900;
/// Overrides at least.
const OVERRIDES: usize = 10_000;
/// Frames of their flows.
const SMALL: usize = 300;
/// What the loss of a link may cost, in time.
const MOST_LOST_MS: f64 = 20.0;
/// Longest time that a request to the kernel may take while a link goes.
const LONGEST_STALL: Duration = Duration::from_millis(200);

/// Ten thousand overrides towards transit-b, one packet per second each.
struct Crowd {
    generator: Generator,
    sink: Sink,
    agent: Agent,
    lab: Lab,
    destinations: Vec<IpAddr>,
}

impl Crowd {
    fn up() -> Crowd {
        let prefixes: Vec<ipnet::IpNet> =
            (0..MANY).map(|number| format!("2001:db8:{:x}::/48", 0x4000 + number).parse().unwrap()).collect();
        let providers = vec![Provider::TransitA, Provider::TransitB];
        let rows =
            prefixes.iter().map(|prefix| Announcement { prefix: *prefix, providers: providers.clone() });
        let mut table = Table::standard();
        table.announcements.extend(rows);
        let lab = Lab::up(LabOptions { table, ..LabOptions::default() }).unwrap();
        let text = agent::config(&Site::of(&lab), &AgentOptions::default());
        let squeezed = text
            .replacen("limit = \"90%\"", "limit = \"1%\"", 1)
            .replace("prefixes_ipv6 = 4096", "prefixes_ipv6 = 16384")
            .replace(
                "[policy]\n",
                "[policy]\nmax_overrides = 20000\nmax_moved = \"100%\"\nmax_moved_per_minute = \"100%\"\n",
            );
        let path = agent::write_text(&lab, &squeezed).unwrap();
        let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
        let agent = Agent::start_by(&lab, &path, "info").unwrap();
        wait_until("etm-agent to be ready", PATIENCE, || agent.ready(lab.table()))
            .map_err(|error| agent.with_log(error))
            .unwrap();
        let destinations: Vec<IpAddr> =
            prefixes.iter().map(|prefix| prefix.hosts().next().unwrap()).collect();
        let flows: Vec<Flow> =
            destinations.iter().map(|to| Flow { destination: *to, packets_per_s: 1.0 }).collect();
        let generator = Generator::start(&lab.namespace(Role::Content), &flows, SMALL).unwrap();
        let crowd = Crowd { generator, sink, agent, lab, destinations };
        wait_until("ten thousand overrides in the kernel", PATIENCE * 6, || match crowd.routes() {
            many if many >= OVERRIDES => Ok(()),
            few => Err(few.to_string()),
        })
        .map_err(|error| crowd.agent.with_log(error))
        .unwrap();
        // Until the last of them has sent a packet by its override.
        pass_time(Duration::from_secs(3));
        crowd
    }

    fn routes(&self) -> usize {
        let border = self.lab.namespace(Role::Border);
        border.ip(&["-6", "-o", "route", "show", "table", traces::TABLE]).unwrap_or_default().lines().count()
    }

    /// Does it, and says what was lost in milliseconds of all traffic, and the longest a request to the kernel took.
    fn lose(&self, title: &str, lose: impl FnOnce(&Lab)) {
        let moved: BTreeSet<IpAddr> = self
            .sink
            .current()
            .into_iter()
            .filter(|(to, by)| *by == Provider::TransitB && self.destinations.contains(to))
            .map(|(to, _)| to)
            .collect();
        assert!(moved.len() >= OVERRIDES - 100, "{} destinations by transit-b", moved.len());
        let (stop, border) = (AtomicBool::new(false), self.lab.namespace(Role::Border));
        let (lost_ns, stall) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    border.ip(&["link", "show", "dev", "lo"]).unwrap();
                    longest = longest.max(begun.elapsed());
                }
                longest
            });
            pass_time(Duration::from_millis(300));
            let lost_ns = boottime_ns();
            lose(&self.lab);
            pass_time(Duration::from_secs(3));
            stop.store(true, Ordering::Relaxed);
            (lost_ns, asking.join().unwrap())
        });
        let (from_ns, until_ns) = (lost_ns - nanos(TRANSIT), boottime_ns() - nanos(TRANSIT));
        let sent: u64 = self
            .generator
            .sent_between(from_ns, until_ns)
            .iter()
            .filter(|(to, _)| moved.contains(to))
            .map(|(_, tally)| tally.packets)
            .sum();
        let arrived: u64 = self
            .sink
            .sent_between(from_ns, until_ns)
            .iter()
            .filter(|((_, to), _)| moved.contains(to))
            .map(|(_, tally)| tally.packets)
            .sum();
        let lost = u32::try_from(sent.saturating_sub(arrived)).unwrap();
        let rate = f64::from(u32::try_from(moved.len()).unwrap());
        let lost_ms = f64::from(lost) / rate * 1e3;
        println!("{title}: {lost} of {sent} packets lost, {lost_ms:.1} ms; longest request {stall:?}");
        assert!(lost_ms <= MOST_LOST_MS, "{title}: {lost} packets lost, {lost_ms:.1} ms");
        assert!(stall <= LONGEST_STALL, "{title}: a request to the kernel took {stall:?}");
        let by_b = |to: &IpAddr| self.sink.current().get(to) == Some(&Provider::TransitB);
        assert!(!moved.iter().take(100).any(by_b), "{title}: still by transit-b");
    }
}

#[test]
fn ten_thousand_overrides_outlive_the_loss_of_carrier_with_less_than_20_ms_of_loss() {
    let Some(_turn) = turn() else { return };
    let crowd = Crowd::up();
    crowd.lose("carrier lost", |lab| lab.cut(Provider::TransitB).unwrap());
}

#[test]
fn ten_thousand_overrides_outlive_an_interface_set_down_with_less_than_20_ms_of_loss() {
    let Some(_turn) = turn() else { return };
    let crowd = Crowd::up();
    crowd.lose("set down", |lab| {
        lab.namespace(Role::Border).ip(&["link", "set", "dev", "up-b", "down"]).unwrap();
    });
}

#[test]
fn ten_thousand_overrides_outlive_an_interface_deleted_with_less_than_20_ms_of_loss() {
    let Some(_turn) = turn() else { return };
    let crowd = Crowd::up();
    crowd.lose("deleted", |lab| lab.unplug(Provider::TransitB).unwrap());
}

#[test]
fn the_loss_of_carrier_needs_no_agent_and_no_daemon_to_be_survived() {
    let Some(_turn) = turn() else { return };
    let crowd = Crowd::up();
    // The lease lasts ten seconds; what follows takes four.
    crowd.agent.signal(Signal::SIGSTOP).unwrap();
    crowd.lose("carrier lost, agent stopped", |lab| lab.cut(Provider::TransitB).unwrap());
    crowd.agent.signal(Signal::SIGCONT).unwrap();
}

/// A scene in which transit-a is relieved, with rounds so rare that what happens at once is not their doing.
fn relieved() -> (Scene, Provider) {
    let options = AgentOptions { interval: "3s", ..AgentOptions::default() };
    let (a, b, ix) = ABOVE_LIMIT;
    let scene = Scene::start(LabOptions::default(), &options, &Demand::by_home(a, b, ix)).unwrap();
    scene.wait_overrides().unwrap();
    let overrides = scene.agent.overrides().unwrap();
    let v4 = overrides.iter().find(|o| o.prefix.addr().is_ipv4()).expect("an IPv4 override");
    let receiver = Provider::ALL.into_iter().find(|p| p.name() == v4.to).unwrap();
    (scene, receiver)
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
