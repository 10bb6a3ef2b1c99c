//! The lab itself, without ETM: it converges, its traffic is exact, its links have the capacity they
//! claim, and it leaves nothing. Needs root; without it every test says SKIP and why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use etm_tests::lab::{Lab, LabOptions};
use etm_tests::link;
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::turn;
use etm_tests::state;
use etm_tests::table::Table;
use etm_tests::topology::{Provider, Role};
use etm_tests::traffic::{Demand, FRAME, Flow, Generator, Sink, Tally};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DRAIN: Duration = Duration::from_secs(10);

/// Everything of lab `id` that can be left somewhere.
fn leftovers(id: &str) -> Vec<String> {
    let mut left: Vec<String> = state::processes(id).iter().map(|pid| format!("process {pid}")).collect();
    for role in Role::ALL {
        left.push(format!("/run/netns/{}", state::namespace_name(id, role)));
    }
    left.push(state::directory(id).display().to_string());
    left.push(state::pin_root(id).display().to_string());
    left.retain(|item| item.starts_with("process") || Path::new(item).exists());
    left
}

fn wait_until_nothing_is_left(id: &str) {
    wait_until("the lab to be gone", Duration::from_secs(15), || {
        let left = leftovers(id);
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    })
    .unwrap();
}

fn etm_lab(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etm-lab"));
    command.args(args);
    command
}

/// Packets that arrived by each provider.
fn by_provider(sink: &Sink) -> BTreeMap<Provider, Tally> {
    let mut sums = BTreeMap::new();
    for ((provider, _), received) in sink.received() {
        *sums.entry(provider).or_insert_with(Tally::default) += received.ledger.total;
    }
    sums
}

#[test]
fn the_routers_converge_to_what_the_table_predicts() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let border = lab.namespace(Role::Border);
    for announcement in &lab.table().announcements {
        let address = lab.table().address_in(announcement.prefix).unwrap();
        let (_, provider) = lab.table().home(address).unwrap();
        let route = border.ip(&["route", "get", &address.to_string()]).unwrap();
        assert!(route.contains(&format!("dev {} ", provider.uplink())), "{address} by {provider}: {route}");
        let at_core = lab.bird(Role::Core).routes(&format!("for {address} primary")).unwrap();
        assert_eq!(at_core.len(), 1, "{at_core:?}");
        assert_eq!(at_core[0].prefix, Some(announcement.prefix));
        assert!(!at_core[0].unreachable, "{at_core:?}");
    }
    let id = lab.id().to_owned();
    drop(lab);
    assert_eq!(leftovers(&id), Vec::<String>::new());
}

#[test]
fn every_route_reaches_etms_place_with_its_original_next_hop() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let directory = lab.directory();
    // A second BIRD stands in for ETM; the border's owns port 179 of every address.
    let text = format!(
        "router id 10.255.0.2;\nlog \"{}/stand-in.log\" all;\nprotocol device {{}}\nprotocol bgp border {{\n\
         local 127.0.0.2 port 1179 as 64500; neighbor 127.0.0.1 port 179 as 64500; connect delay time 1;\n\
         ipv4 {{ add paths rx; import all; export none; }}; ipv6 {{ add paths rx; import all; export none; }};\n}}\n",
        directory.display()
    );
    std::fs::write(directory.join("stand-in.conf"), text).unwrap();
    let (stand_in, mut process) =
        etm_tests::bird::Bird::start("stand-in", &lab.namespace(Role::Border), &directory).unwrap();
    let expected: BTreeSet<(String, String)> = Provider::ALL
        .into_iter()
        .flat_map(|provider| {
            lab.table().of(provider).map(move |(prefix, _)| {
                let v4 = matches!(prefix, ipnet::IpNet::V4(_));
                (
                    prefix.to_string(),
                    if v4 { provider.gateway_v4() } else { provider.gateway_v6() }.to_owned(),
                )
            })
        })
        .collect();
    wait_until("every route to arrive", Duration::from_secs(10), || {
        let mut seen = BTreeSet::new();
        for table in ["master4", "master6"] {
            for route in stand_in.routes(&format!("table {table}")).map_err(|error| error.to_string())? {
                // A BGP next hop in IPv6 is the global address, then the link-local one.
                let next_hop = route.attributes["BGP.next_hop"].split(' ').next().unwrap().to_owned();
                seen.insert((route.prefix.unwrap().to_string(), next_hop));
            }
        }
        if seen == expected { Ok(()) } else { Err(format!("{} of {}", seen.len(), expected.len())) }
    })
    .unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
}

#[test]
fn what_is_sent_arrives_exactly_and_by_the_provider_the_routes_say() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let flows = Demand::by_home(36.0, 10.0, 6.0).flows(lab.table(), FRAME);
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let mut generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap();
    pass_time(Duration::from_secs(4));
    generator.stop();
    assert_eq!(sink.drain(&generator, DRAIN).unwrap(), 0, "packets lost");
    assert_eq!((generator.refused(), sink.foreign()), (0, 0));
    let sent = generator.sent();
    let received = sink.received();
    for ((provider, destination), arrived) in &received {
        let (_, home) = lab.table().home(*destination).unwrap();
        assert_eq!(*provider, home, "{destination} took the wrong uplink");
        assert_eq!(arrived.ledger.total, sent[destination].total, "{destination}");
    }
    assert_eq!(received.len(), flows.len(), "a destination got nothing");
    for (provider, arrived) in by_provider(&sink) {
        let counters = link::qdisc_counters(&lab.namespace(Role::Border), provider.uplink()).unwrap();
        assert!(counters.packets >= arrived.packets, "the bucket of {provider} saw less than the sink");
        assert_eq!(counters.drops, 0);
    }
}

#[test]
fn the_generator_keeps_its_rates_within_one_percent_also_at_20000_packets_a_second() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions { uplink_bps: 0, ..LabOptions::default() }).unwrap();
    let flows = Demand::by_home(60.0, 50.0, 50.0).flows(lab.table(), FRAME);
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let mut generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap();
    let from = etm_tests::clock::boottime_ns();
    pass_time(Duration::from_secs(4));
    let to = etm_tests::clock::boottime_ns();
    generator.stop();
    assert_eq!(sink.drain(&generator, DRAIN).unwrap(), 0, "packets lost");
    let wanted: f64 = flows.iter().map(|flow| flow.packets_per_s).sum();
    let sent: u64 = generator.sent().values().map(|ledger| ledger.sent_between(from, to).packets).sum();
    let rate = f64::from(u32::try_from(sent).unwrap()) / Duration::from_nanos(to - from).as_secs_f64();
    assert!((rate / wanted - 1.0).abs() < 0.01, "{rate} instead of {wanted} packets/s");
}

#[test]
fn an_uplink_carries_its_capacity_and_drops_the_rest() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions { uplink_bps: 20_000_000, ..LabOptions::default() }).unwrap();
    let flows = Demand::by_home(30.0, 5.0, 5.0).flows(lab.table(), FRAME);
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let mut generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap();
    pass_time(Duration::from_secs(4));
    let (mut first, mut last) = (u64::MAX, 0);
    for ((provider, _), received) in sink.received() {
        if provider == Provider::TransitA {
            (first, last) = (first.min(received.first_ns), last.max(received.last_ns));
        }
    }
    let bytes = by_provider(&sink)[&Provider::TransitA].wire_bytes;
    let mbit =
        f64::from(u32::try_from(bytes).unwrap()) * 8e-6 / Duration::from_nanos(last - first).as_secs_f64();
    assert!((19.4..20.6).contains(&mbit), "transit-a carried {mbit} Mbit/s of 20");
    generator.stop();
    let lost = sink.drain(&generator, DRAIN).unwrap();
    let dropped = |provider: Provider| {
        link::qdisc_counters(&lab.namespace(Role::Border), provider.uplink()).unwrap().drops
    };
    assert!(lost > 1000, "10 Mbit/s too many for 4 s, but only {lost} packets lost");
    assert_eq!(dropped(Provider::TransitB) + dropped(Provider::Ix), 0);
    // The bucket may also have dropped a packet of BGP.
    assert!((lost..lost + 20).contains(&dropped(Provider::TransitA)), "lost {lost} packets");
}

#[test]
fn a_cut_uplink_is_left_within_two_seconds_and_used_again_when_mended() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let destination: IpAddr = "198.18.17.1".parse().unwrap();
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let flow = Flow { destination, packets_per_s: 500.0 };
    let generator = Generator::start(&lab.namespace(Role::Content), &[flow], FRAME).unwrap();
    let arrives_by = |provider| {
        wait_until("the traffic to move", Duration::from_secs(5), || match sink.current().get(&destination) {
            Some(current) if *current == provider => Ok(()),
            other => Err(format!("{other:?}")),
        })
    };
    arrives_by(Provider::TransitB).unwrap();
    let at_ns = etm_tests::clock::boottime_ns();
    lab.cut(Provider::TransitB).unwrap();
    wait_until("the border to lose carrier", Duration::from_secs(2), || {
        match link::has_carrier(&lab.namespace(Role::Border), Provider::TransitB.uplink()) {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    arrives_by(Provider::TransitA).unwrap();
    let moved = sink.moves_since(at_ns);
    assert_eq!((moved[0].from, moved[0].to), (Some(Provider::TransitB), Provider::TransitA));
    lab.mend(Provider::TransitB).unwrap();
    lab.wait_converged().unwrap();
    arrives_by(Provider::TransitB).unwrap();
    assert_eq!(generator.refused(), 0);
}

#[test]
fn providers_can_withdraw_and_announce_while_the_lab_runs() {
    let Some(_turn) = turn() else { return };
    let mut lab = Lab::up(LabOptions::default()).unwrap();
    let mut table = Table::standard();
    let prefix = "198.18.100.0/24".parse().unwrap();
    let row = table.announcements.iter_mut().find(|a| a.prefix == prefix).unwrap();
    row.providers = vec![Provider::Ix];
    lab.announce(table).unwrap();
    lab.wait_converged().unwrap();
    let route = lab.namespace(Role::Border).ip(&["route", "get", "198.18.100.1"]).unwrap();
    assert!(route.contains("dev up-ix"), "{route}");
}

#[test]
fn two_labs_run_side_by_side() {
    let Some(_turn) = turn() else { return };
    let labs = [Lab::up(LabOptions::default()).unwrap(), Lab::up(LabOptions::default()).unwrap()];
    assert_ne!(labs[0].id(), labs[1].id());
    let flows = Demand::by_home(5.0, 3.0, 2.0).flows(labs[0].table(), FRAME);
    let sinks = labs.each_ref().map(|lab| Sink::start(&lab.namespace(Role::Sink)).unwrap());
    let mut generators =
        labs.each_ref().map(|lab| Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap());
    pass_time(Duration::from_secs(2));
    for (generator, sink) in generators.iter_mut().zip(&sinks) {
        generator.stop();
        assert_eq!(sink.drain(generator, DRAIN).unwrap(), 0);
        // A packet of the other lab would be one too many here.
        let arrived: u64 = by_provider(sink).values().map(|tally| tally.packets).sum();
        assert_eq!(arrived, generator.sent().values().map(|ledger| ledger.total.packets).sum::<u64>());
    }
}

#[test]
fn a_panic_leaves_nothing() {
    let Some(_turn) = turn() else { return };
    let mut id = String::new();
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::up(LabOptions::default()).unwrap();
        lab.id().clone_into(&mut id);
        assert!(leftovers(&id).len() > 7, "the lab is up");
        panic!("on purpose: this is the panic of the test");
    }));
    assert!(panicked.is_err());
    assert_eq!(leftovers(&id), Vec::<String>::new());
}

#[test]
fn a_signal_leaves_nothing_not_even_sigkill() {
    let Some(_turn) = turn() else { return };
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        let mut child = etm_lab(&["lab", "hold"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let id = line.split_whitespace().nth(1).unwrap().to_owned();
        assert!(leftovers(&id).len() > 7, "{signal}: the lab is up");
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        assert!(!child.wait().unwrap().success());
        wait_until_nothing_is_left(&id);
    }
}

#[test]
fn a_lab_to_play_in_stays_until_it_is_taken_down_however_often() {
    let Some(_turn) = turn() else { return };
    let id = format!("t{:x}", std::process::id());
    let up = etm_lab(&["lab", "up", "--name", &id]).output().unwrap();
    assert!(up.status.success(), "{up:?}");
    assert_eq!(state::processes(&id).len(), Role::ROUTERS.len());
    let twice = etm_lab(&["lab", "up", "--name", &id]).output().unwrap();
    assert!(!twice.status.success());
    assert!(String::from_utf8_lossy(&twice.stderr).contains("exists already"), "{twice:?}");
    let shell = etm_lab(&["lab", "shell", "sink", "--name", &id, "--", "ip", "link"]).output().unwrap();
    assert!(String::from_utf8_lossy(&shell.stdout).contains("from-ix"), "{shell:?}");
    for _ in 0..2 {
        assert!(etm_lab(&["lab", "down", "--name", &id]).status().unwrap().success());
        assert_eq!(leftovers(&id), Vec::<String>::new());
    }
}
