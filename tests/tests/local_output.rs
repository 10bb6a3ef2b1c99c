//! What the border itself sends takes overrides where the operator says so, and never for longer than the lease. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use etm_tests::agent::AgentOptions;
use etm_tests::clock::boottime_ns;
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, before_transit, nanos, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traffic::{FRAME, Flow, Generator, TcpLoad};
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(5);
/// The border's own addresses, which are of no provider's.
const OWN: [&str; 2] = ["10.0.8.1", "fd00:8::1"];
const ON: &str = "local_output = [\"10.0.8.0/24\", \"fd00:8::/64\"]";
/// Packets per second of each flow.
const RATE: f64 = 200.0;

/// What of the lab the tests use: prefixes that plain routing sends by transit-a, and ETM by transit-b.
struct Plan {
    /// Destinations of the content servers, IPv4 and IPv6.
    forwarded: [IpAddr; 2],
    /// Destinations of the border itself in the same prefixes.
    own: [IpAddr; 2],
    /// A destination of the border that no override is for, by transit-a.
    other: IpAddr,
}

/// The address after it, which is in the same prefix.
fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) + 1).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) + 1).into()),
    }
}

/// Prefixes of both families for [`Plan`], and what pins them to transit-b.
fn plan(lab: &Lab) -> (Plan, String) {
    let (table, live) = (lab.table(), BTreeSet::from(Provider::ALL));
    let mut pins = "max_moved = \"100%\"\nmax_moved_per_minute = \"100%\"\n".to_owned();
    let mut chosen = |v4: bool| {
        let found = table.announcements.iter().filter(|announced| {
            let by_b = announced.as_path(Provider::TransitB).is_some();
            by_b && announced.prefix.addr().is_ipv4() == v4 && announced.prefix.prefix_len() > 0
        });
        let mut found = found.filter_map(|announced| {
            let address = table.address_in(announced.prefix)?;
            let home = |address| table.best(address, &live) == Some((announced.prefix, Provider::TransitA));
            (home(address) && home(next(address))).then_some((announced.prefix, address))
        });
        let (prefix, address): (IpNet, IpAddr) = found.next().unwrap();
        pins += &format!("[[pin]]\nprefix = \"{prefix}\"\nexit = \"transit-b\"\n");
        // A pin is for all inside it.
        let apart = found.find(|(other, _)| !prefix.contains(other) && !other.contains(&prefix));
        (address, apart.map(|(_, other)| other))
    };
    let ((v4, other), (v6, _)) = (chosen(true), chosen(false));
    (Plan { forwarded: [v4, v6], own: [next(v4), next(v6)], other: next(other.unwrap()) }, pins)
}

/// A lab in which both families have an override, and the border sends, too.
struct Sending {
    plan: Plan,
    own: Generator,
    scene: Scene,
}

fn sending(kernel: &'static str, lease: &'static str) -> Sending {
    let lab = Lab::up(LabOptions { uplink_bps: 1_000_000_000, ..LabOptions::default() }).unwrap();
    let (plan, pins) = plan(&lab);
    let options = AgentOptions {
        policy: pins.leak(),
        kernel,
        lease,
        kill_hung: false,
        interval: "500ms",
        ..AgentOptions::default()
    };
    let flow = |destination| Flow { destination, packets_per_s: RATE };
    let scene = Scene::start_in(lab, &options, &plan.forwarded.map(flow)).unwrap();
    let flows: Vec<Flow> = plan.own.into_iter().chain([plan.other]).map(flow).collect();
    let own = Generator::start_from(&scene.lab.namespace(Role::Border), OWN, &flows, FRAME).unwrap();
    let sending = Sending { plan, own, scene };
    sending.wait_way("forwarded packets by transit-b", sending.plan.forwarded, Provider::TransitB);
    sending
}

impl Sending {
    /// By whom packets sent from now on arrive, during the next half second.
    fn ways(&self) -> BTreeMap<IpAddr, BTreeSet<Provider>> {
        let since_ns = boottime_ns();
        pass_time(SECOND / 2);
        let mut ways: BTreeMap<IpAddr, BTreeSet<Provider>> = BTreeMap::new();
        for ((provider, destination), tally) in self.scene.sink.sent_between(since_ns, before_transit()) {
            if tally.packets > 0 {
                ways.entry(destination).or_default().insert(provider);
            }
        }
        ways
    }

    fn wait_way(&self, what: &str, destinations: [IpAddr; 2], by: Provider) {
        wait_until(what, PATIENCE, || {
            let ways = self.ways();
            let there = |d| ways.get(d) == Some(&BTreeSet::from([by]));
            if destinations.iter().all(there) { Ok(()) } else { Err(format!("{ways:?} {:?}", self.fates())) }
        })
        .map_err(|error| self.scene.agent.with_log(error))
        .unwrap();
    }

    /// Packets of the border by what became of them.
    fn fates(&self) -> BTreeMap<String, u64> {
        let status = self.scene.agent.get("/v1/status").unwrap();
        serde_json::from_value(status["agent"]["packets_local"].clone()).unwrap()
    }

    /// Packets of the border that did not arrive, and that there were some.
    fn assert_nothing_lost(&self, from_ns: u64) {
        pass_time(SECOND / 5);
        let until_ns = before_transit();
        let arrived = self.scene.sink.sent_between(from_ns, until_ns);
        for (destination, sent) in self.own.sent_between(from_ns, until_ns) {
            let here = |(key, _): &(&(Provider, IpAddr), _)| key.1 == destination;
            let got: u64 = arrived.iter().filter(here).map(|(_, tally)| tally.packets).sum();
            assert!(sent.packets > 0, "{destination}");
            assert_eq!(got, sent.packets, "to {destination}");
        }
        assert_eq!(self.own.refused(), 0);
    }

    /// The last packet of the border that took an override was sent no later.
    fn assert_plain_after(&self, limit_ns: u64) {
        let last = self.scene.sink.last_sent();
        for own in self.plan.own {
            let moved = last.get(&(Provider::TransitB, own)).copied().unwrap_or_default();
            assert!(moved > 0 && moved <= limit_ns, "{own}: {moved} and {limit_ns}");
        }
    }

    fn tcp(&self, bits_per_s: u64) -> TcpLoad {
        let (border, sink) = (self.scene.lab.namespace(Role::Border), self.scene.lab.namespace(Role::Sink));
        let from = OWN.map(|own| Some(own.parse().unwrap()));
        TcpLoad::start_from(&border, from, &sink, &self.plan.own, bits_per_s).unwrap()
    }

    /// Bytes that arrived at the sink by one provider.
    fn arrived(&self, provider: Provider) -> u64 {
        let sink = self.scene.lab.namespace(Role::Sink);
        let shown = sink.ip(&["-s", "-j", "link", "show", provider.sink_interface()]).unwrap();
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
    }

    fn signal_all(&self, signal: Signal) {
        let guardian = self.scene.agent.guardian().unwrap();
        self.scene.agent.signal(signal).unwrap();
        kill(Pid::from_raw(guardian), signal).unwrap();
    }
}

#[test]
fn udp_and_tcp_of_the_border_follow_overrides_and_the_books_stay_exact() {
    let Some(_turn) = turn() else { return };
    let sending = sending(ON, "10s");
    sending.wait_way("the border's packets by transit-b", sending.plan.own, Provider::TransitB);
    let since_ns = boottime_ns();
    let [by_a, by_b] = [Provider::TransitA, Provider::TransitB].map(|provider| sending.arrived(provider));
    let mut tcp = sending.tcp(30_000_000);
    // Two windows of the books, and some.
    pass_time(Duration::from_secs(23));
    let (sent, received) = tcp.stop();
    assert!(received > 50_000_000 && received <= sent, "{received} of {sent}");
    let [by_a, by_b] = [(Provider::TransitA, by_a), (Provider::TransitB, by_b)]
        .map(|(provider, before)| sending.arrived(provider) - before);
    assert!(by_b > received && by_a < by_b / 10, "{received} received, {by_a} by a, {by_b} by b");
    for uplink in sending.scene.agent.books().unwrap() {
        let worst = uplink.worst;
        assert_eq!((worst.packet_error, worst.byte_error_ppm, worst.failed), (0, 0, 0), "{uplink:?}");
        assert_eq!(&*uplink.book, "exact", "{uplink:?}");
    }
    let fates = sending.fates();
    assert!(fates["moved"] > 10_000 && fates["failed"] == 0 && fates["same"] == 0, "{fates:?}");
    assert_eq!(sending.ways()[&sending.plan.other], BTreeSet::from([Provider::TransitA]));
    sending.assert_nothing_lost(since_ns);
    sending.scene.lab.wait_converged().unwrap();
    assert_eq!(sending.scene.agent.state().unwrap(), "steering");
}

#[test]
fn without_the_option_the_borders_own_packets_stay_where_plain_routing_sends_them() {
    let Some(_turn) = turn() else { return };
    let sending = sending("", "10s");
    pass_time(2 * SECOND);
    sending.wait_way("the border's packets by transit-a", sending.plan.own, Provider::TransitA);
    assert!(sending.fates().values().all(|packets| *packets == 0));
}

#[test]
fn off_returns_the_borders_own_packets_to_plain_routing_at_once_and_none_is_lost() {
    let Some(_turn) = turn() else { return };
    let sending = sending(ON, "10s");
    sending.wait_way("the border's packets by transit-b", sending.plan.own, Provider::TransitB);
    let off_ns = boottime_ns();
    assert!(sending.scene.agent.off().unwrap().status.success());
    sending.wait_way("the border's packets by transit-a", sending.plan.own, Provider::TransitA);
    sending.assert_plain_after(off_ns + nanos(SECOND));
    sending.assert_nothing_lost(off_ns - nanos(SECOND));
}

/// Sends `number` datagrams of `payload` octets from the border.
fn send(sending: &Sending, (from, device): (&str, Option<&str>), payload: usize, number: usize) {
    let to = sending.plan.own[0];
    let socket = sending.scene.lab.namespace(Role::Border).inside(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        if let Some(device) = device {
            setsockopt(&socket, sockopt::BindToDevice, &device.into()).unwrap();
        }
        Ok(socket)
    });
    let socket = socket.unwrap();
    for _ in 0..number {
        // Nobody listens there; what the kernel of the sink says to it is none of this test's business.
        let _ = socket.send_to(&vec![0; payload], (to, 9));
    }
}

/// By how much the fates of the border's packets grew, but for those that are sent all the time.
fn growth(sending: &Sending, act: impl FnOnce()) -> BTreeMap<String, u64> {
    let before = sending.fates();
    act();
    let mut after = sending.fates();
    after.retain(|fate, _| fate != "moved");
    after.iter_mut().for_each(|(fate, packets)| *packets -= before[fate]);
    after.retain(|_, packets| *packets > 0);
    after
}

#[test]
fn what_may_not_leave_elsewhere_stays_and_is_counted_by_its_reason() {
    let Some(_turn) = turn() else { return };
    let sending = sending(ON, "10s");
    sending.wait_way("the border's packets by transit-b", sending.plan.own, Provider::TransitB);
    let border = sending.scene.lab.namespace(Role::Border);
    let only = |fate: &str, packets| BTreeMap::from([(fate.to_owned(), packets)]);

    let uplinks_own = Provider::TransitA.border_v4();
    assert_eq!(growth(&sending, || send(&sending, (uplinks_own, None), 100, 7)), only("source", 7));
    let device = Some(Provider::TransitA.uplink());
    assert_eq!(growth(&sending, || send(&sending, (OWN[0], device), 100, 8)), only("bound", 8));
    let since_ns = boottime_ns();
    border.ip(&["link", "set", Provider::TransitB.uplink(), "mtu", "1400"]).unwrap();
    assert_eq!(growth(&sending, || send(&sending, (OWN[0], None), 1472, 9)), only("too-long", 9));
    // Of super-packets their segments count: these fit into the plain exit alone, and arrive.
    let mut transfer = (0, 0);
    let grown = growth(&sending, || {
        let mut tcp = sending.tcp(20_000_000);
        pass_time(2 * SECOND);
        transfer = tcp.stop();
    });
    let (sent, received) = transfer;
    assert!(grown["too-long"] > 5_000 && grown.len() == 1, "{grown:?}");
    assert!(sent == received && received > 5_000_000, "{received} of {sent}");
    border.ip(&["link", "set", Provider::TransitB.uplink(), "mtu", "1500"]).unwrap();
    sending.assert_nothing_lost(since_ns);

    // An operator's rule before ETM's.
    for (family, own) in [("-4", OWN[0]), ("-6", OWN[1])] {
        border.ip(&[family, "rule", "add", "from", own, "lookup", "main", "priority", "100"]).unwrap();
    }
    sending.wait_way("the border's packets by transit-a", sending.plan.own, Provider::TransitA);
    let ruled = growth(&sending, || pass_time(SECOND));
    assert!(ruled["ruled"] > 100 && ruled.len() == 1, "{ruled:?}");
    for family in ["-4", "-6"] {
        border.ip(&[family, "rule", "del", "priority", "100"]).unwrap();
    }
    sending.wait_way("the border's packets by transit-b again", sending.plan.own, Provider::TransitB);
}

#[test]
fn answers_of_the_borders_kernel_follow_and_a_neighbour_that_must_be_found_first_loses_none() {
    let Some(_turn) = turn() else { return };
    let sending = sending(ON, "10s");
    sending.wait_way("the border's packets by transit-b", sending.plan.own, Provider::TransitB);
    let (border, sink) = (sending.scene.lab.namespace(Role::Border), sending.scene.lab.namespace(Role::Sink));
    let since_ns = boottime_ns();
    for _ in 0..5 {
        border.ip(&["neigh", "flush", "dev", Provider::TransitB.uplink()]).unwrap();
        pass_time(SECOND / 2);
    }
    sending.assert_nothing_lost(since_ns);
    // Quiet, so that only the answers are counted.
    let flows = sending.plan.own.into_iter().chain([sending.plan.other]);
    let still: Vec<Flow> = flows.map(|destination| Flow { destination, packets_per_s: 0.0 }).collect();
    sending.own.set_rates(&still);
    pass_time(SECOND / 2);
    // Its addresses are routes only.
    sink.sysctls(&[("net/ipv6/ip_nonlocal_bind", "1")]).unwrap();
    let before = sending.fates();
    for (own, to) in OWN.iter().zip(sending.plan.own) {
        // Nothing listens there: the border's kernel says so, by ICMP.
        sink.inside(|| {
            let socket = UdpSocket::bind((to, 0)).unwrap();
            socket.connect((*own, 9)).unwrap();
            socket.set_read_timeout(Some(2 * SECOND)).unwrap();
            for _ in 0..3 {
                socket.send(b"?").unwrap();
                let answer = socket.recv(&mut [0; 8]).unwrap_err();
                assert_eq!(answer.kind(), ErrorKind::ConnectionRefused, "{to}");
            }
            Ok(())
        })
        .unwrap();
    }
    let after = sending.fates();
    assert_eq!(after["moved"] - before["moved"], 6, "{before:?} {after:?}");
}

/// After agent and guardian got `signal` the border's packets are plain when the lease ends, and none is lost.
fn assert_let_go(signal: Signal) {
    let sending = sending(ON, "5s");
    sending.wait_way("the border's packets by transit-b", sending.plan.own, Provider::TransitB);
    let end_ns = boottime_ns();
    sending.signal_all(signal);
    assert_eq!(
        sending.ways()[&sending.plan.own[0]],
        BTreeSet::from([Provider::TransitB]),
        "within the lease"
    );
    pass_time(LEASE + SECOND);
    let ways = sending.ways();
    for own in sending.plan.own {
        assert_eq!(ways[&own], BTreeSet::from([Provider::TransitA]));
    }
    sending.assert_plain_after(end_ns + nanos(LEASE + SECOND));
    sending.assert_nothing_lost(end_ns - nanos(SECOND));
    sending.scene.lab.wait_converged().unwrap();
}

#[test]
fn with_agent_and_guardian_killed_the_borders_own_packets_are_plain_when_the_lease_ends() {
    let Some(_turn) = turn() else { return };
    assert_let_go(Signal::SIGKILL);
}

#[test]
fn with_agent_and_guardian_stopped_the_borders_own_packets_are_plain_when_the_lease_ends() {
    let Some(_turn) = turn() else { return };
    assert_let_go(Signal::SIGSTOP);
}
