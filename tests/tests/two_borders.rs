//! Two border routers: an exit of the other one is used through BGP alone, without a loop at any moment. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use etm_tests::agent::Agent;
use etm_tests::clock::{boottime_ns, millis_between};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traffic::{FRAME, Flow, Generator, Sink};
use etm_tests::two_borders::{EtmOptions, Fabric, HOME_A, HOME_B, ONLY_A, PROVIDERS, Side, TwoBorders};
use etm_tests::view::Override;
use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What ETM is told of each uplink's capacity. Little, so that a busy machine keeps the rates.
const OPTIONS: EtmOptions = EtmOptions {
    mode: "enforce",
    hold: "5m",
    lease: "10s",
    both: false,
    capacity_kbit: 12_500,
    elsewhere_kbit: 12_500,
};
/// Mbit/s: within the limit of one uplink, which is 11.25.
const QUIET: f64 = 7.0;
/// Mbit/s: above it. ETM has to act, and the links of the lab carry it all the same.
const ABOVE_LIMIT: f64 = 14.0;

/// Everything of one test. Fields drop in this order.
struct Two {
    generator: Generator,
    sink: Sink,
    agents: BTreeMap<Side, Agent>,
    lab: TwoBorders,
}

/// The first address inside a prefix.
fn inside(prefix: &str) -> IpAddr {
    prefix.parse::<IpNet>().unwrap().hosts().next().unwrap()
}

/// The same for all prefixes of a list, Mbit/s together; the last one of all is the prefix that only one border uses.
fn flows(home_a: f64, home_b: f64) -> Vec<Flow> {
    let share = |list: &[&str], mbit: f64| -> Vec<Flow> {
        let count = f64::from(u32::try_from(list.len()).unwrap());
        let frame = f64::from(u32::try_from(FRAME).unwrap());
        let packets_per_s = mbit * 1e6 / 8.0 / frame / count;
        list.iter().map(|prefix| Flow { destination: inside(prefix), packets_per_s }).collect()
    };
    let with_own: Vec<&str> = HOME_A.into_iter().chain([ONLY_A]).collect();
    [share(&with_own, home_a), share(&HOME_B, home_b)].concat()
}

impl Two {
    fn start(fabric: Fabric, sides: &[Side], options: &EtmOptions, load: (f64, f64)) -> Two {
        let lab = TwoBorders::up(fabric).unwrap();
        let sink = Sink::start_behind(&lab.namespace(Role::Sink), &PROVIDERS).unwrap();
        let mut agents = BTreeMap::new();
        for side in sides {
            agents.insert(*side, lab.start_etm(*side, options).unwrap());
        }
        for agent in agents.values() {
            wait_until("every session of ETM to be up", PATIENCE, || sessions_up(agent))
                .map_err(|error| agent.with_log(error))
                .unwrap();
        }
        let generator =
            Generator::start(&lab.namespace(Role::Content), &flows(load.0, load.1), FRAME).unwrap();
        Two { generator, sink, agents, lab }
    }

    fn agent(&self, side: Side) -> &Agent {
        &self.agents[&side]
    }

    fn load(&self, home_a: f64, home_b: f64) {
        self.generator.set_rates(&flows(home_a, home_b));
    }

    /// Waits until ETM on `side` has overrides, and core's kernel sends each of them to the other border.
    fn wait_moved(&self, side: Side) -> Vec<Override> {
        let agent = self.agent(side);
        let moved = wait_until("core to follow", PATIENCE, || {
            let overrides = agent.overrides().map_err(|error| error.to_string())?;
            let elsewhere = |entry: &Override| {
                let by = self.lab.leaves_by(Role::Core, entry.prefix.hosts().next().unwrap());
                by.is_ok_and(|by| by == side.other().from_core())
            };
            if !overrides.is_empty() && overrides.iter().all(elsewhere) {
                return Ok(overrides);
            }
            Err(format!("{overrides:?}"))
        });
        moved.map_err(|error| agent.with_log(error)).unwrap()
    }

    /// Waits until ETM on `side` has no override and core's kernel sends all to where plain routing does.
    fn wait_plain(&self, side: Side) {
        let agent = self.agent(side);
        wait_until("plain routing", PATIENCE, || {
            let overrides = agent.overrides().map_err(|error| error.to_string())?;
            if overrides.is_empty() { self.plain() } else { Err(format!("{overrides:?}")) }
        })
        .map_err(|error| agent.with_log(error))
        .unwrap();
    }

    fn plain(&self) -> Result<(), String> {
        for prefix in HOME_A {
            let by = self.lab.leaves_by(Role::Core, inside(prefix)).map_err(|error| error.to_string())?;
            if by != Side::A.from_core() {
                return Err(format!("{prefix} leaves by {by}"));
            }
        }
        Ok(())
    }

    /// The provider by which the last packet to a prefix came.
    fn arrives_by(&self, prefix: IpNet) -> Option<Provider> {
        self.sink.current().get(&prefix.hosts().next()?).copied()
    }

    /// Stops the source; nothing may have been lost since its start, and nothing may ever have gone round.
    fn assert_nothing_lost(&mut self, title: &str) {
        self.generator.stop();
        let lost = self.sink.drain(&self.generator, PATIENCE).unwrap();
        let exceeded = self.lab.time_exceeded().unwrap();
        assert_eq!((lost, exceeded), (0, 0), "{title}: packets lost, packets that ran out of hops");
    }
}

fn sessions_up(agent: &Agent) -> Result<(), String> {
    let status = agent.get("/v1/status").map_err(|error| error.to_string())?;
    let sessions = status["sessions"].as_array().cloned().unwrap_or_default();
    let down = sessions.iter().find(|session| session["up"] != true || session["complete"] != true);
    match (down, status["state"].as_str()) {
        (None, Some("steering" | "observing")) if !sessions.is_empty() => Ok(()),
        (down, state) => Err(format!("{state:?}, {down:?}")),
    }
}

#[test]
fn core_goes_by_the_other_border_by_bgp_alone_and_comes_back_without_a_loss() {
    let Some(_turn) = turn() else { return };
    for fabric in [Fabric::Mesh, Fabric::Reflector] {
        let options = EtmOptions { hold: "12s", ..OPTIONS };
        let mut two = Two::start(fabric, &[Side::A], &options, (QUIET, 0.0));
        pass_time(Duration::from_secs(3));
        assert_eq!(two.agent(Side::A).overrides().unwrap(), [], "{fabric:?}: nothing to do yet");
        let step_ns = boottime_ns();
        two.load(ABOVE_LIMIT, 0.0);
        let overrides = two.wait_moved(Side::A);
        // Core's kernel is ahead of the packets: the next of a prefix comes up to one gap of its source later.
        let first = wait_until("a packet by the other border", PATIENCE, || {
            let moves = two.sink.moves_since(step_ns);
            moves.into_iter().find(|m| m.from.is_some()).ok_or_else(|| "none yet".to_owned())
        })
        .unwrap();
        println!(
            "{fabric:?}: {} overrides, the first packet by the other border {:.0} ms after the step",
            overrides.len(),
            millis_between(step_ns, first.at_ns)
        );
        pass_time(Duration::from_secs(2));
        for entry in &overrides {
            assert_eq!((entry.from.as_str(), entry.to.as_str()), ("transit-a", "transit-b"), "{fabric:?}");
            assert_ne!(entry.prefix.to_string(), ONLY_A, "{fabric:?}: that border itself goes back with it");
            assert_eq!(two.arrives_by(entry.prefix), Some(Provider::TransitB), "{fabric:?}: {entry:?}");
        }
        let own = two.lab.namespace(Role::Border).ip(&["route", "show", "table", "179"]).unwrap_or_default();
        assert_eq!(own, "", "{fabric:?}: nothing of it is in a kernel");
        let explained = two.agent(Side::A).etm(&["explain", &overrides[0].prefix.to_string()]).unwrap();
        let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(explained.contains("is an exit of border edge-b: BGP alone leads there"), "{explained}");
        assert!(explained.contains("told: core"), "{explained}");
        let only = two.agent(Side::A).etm(&["explain", ONLY_A]).unwrap();
        let only = String::from_utf8_lossy(&only.stdout).into_owned();
        assert!(only.contains("goes through transit-a"), "{only}");
        assert!(!only.contains("edge-b announces"), "{only}");
        two.load(QUIET, 0.0);
        two.wait_plain(Side::A);
        two.assert_nothing_lost(&format!("{fabric:?}"));
    }
}

#[test]
fn off_and_an_orderly_stop_give_everything_back_without_a_loss() {
    let Some(_turn) = turn() else { return };
    for off in [true, false] {
        let mut two = Two::start(Fabric::Mesh, &[Side::A], &OPTIONS, (ABOVE_LIMIT, 0.0));
        two.wait_moved(Side::A);
        pass_time(Duration::from_secs(2));
        let before_ns = boottime_ns();
        if off {
            two.agent(Side::A).off().unwrap();
        } else {
            two.agent(Side::A).signal(Signal::SIGTERM).unwrap();
        }
        wait_until("plain routing", PATIENCE, || two.plain()).unwrap();
        println!("off {off}: plain after {:.0} ms", millis_between(before_ns, boottime_ns()));
        pass_time(Duration::from_secs(1));
        two.assert_nothing_lost(if off { "etm off" } else { "an orderly stop" });
    }
}

/// How a border dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    /// Its links go down.
    Links,
    /// Its BIRD is killed and it forwards no more; its links and its kernel stay up.
    Killed,
    /// It stands still with its links up: nobody says anything.
    Silent,
}

/// Longest span between the sending of two packets that arrived one after the other, of all prefixes sent to `by`.
fn longest_gap_ms(two: &Two, prefixes: &[IpNet], from_ns: u64) -> f64 {
    let received = two.sink.received();
    let mut longest: f64 = 0.0;
    for prefix in prefixes {
        let destination = prefix.hosts().next().unwrap();
        let last = received[&(Provider::TransitB, destination)].last_sent_ns;
        let after = two
            .sink
            .moves_since(from_ns)
            .into_iter()
            .find(|m| m.destination == destination && m.to == Provider::TransitA)
            .expect("it came back");
        longest = longest.max(millis_between(last, after.sent_ns));
    }
    longest
}

#[test]
fn when_the_other_border_dies_loss_ends_with_its_detection() {
    let Some(_turn) = turn() else { return };
    // BGP hold times are 9 s here, and nobody uses BFD: what says nothing is noticed by them.
    for (death, most_ms) in [(Death::Links, 1_500.0), (Death::Killed, 1_500.0), (Death::Silent, 12_000.0)] {
        let mut two = Two::start(Fabric::Mesh, &[Side::A], &OPTIONS, (ABOVE_LIMIT, 0.0));
        let moved: Vec<IpNet> = two.wait_moved(Side::A).iter().map(|entry| entry.prefix).collect();
        pass_time(Duration::from_secs(2));
        let died_ns = boottime_ns();
        let border = two.lab.namespace(Role::BorderB);
        let deaf = [("net/ipv4/ip_forward", "0"), ("net/ipv6/conf/all/forwarding", "0")];
        match death {
            Death::Links => {
                let down = ["core0", "a0", "up-b"].map(|name| format!("link set dev {name} down"));
                border.ip_batch("take the links of a border down", &down).unwrap();
            }
            Death::Killed => {
                border.sysctls(&deaf).unwrap();
                two.lab.kill_router(Role::BorderB).unwrap();
            }
            Death::Silent => {
                border.sysctls(&deaf).unwrap();
                let pid = two.lab.router_pid(Role::BorderB).unwrap();
                kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
            }
        }
        wait_until("plain routing", PATIENCE, || two.plain()).unwrap();
        pass_time(Duration::from_secs(2));
        let gap_ms = longest_gap_ms(&two, &moved, died_ns);
        two.generator.stop();
        let lost = two.sink.drain(&two.generator, PATIENCE).unwrap();
        println!("{death:?}: {gap_ms:.0} ms without a packet, {lost} lost");
        assert!(gap_ms <= most_ms, "{death:?}: {gap_ms} ms");
        assert_eq!(two.lab.time_exceeded().unwrap(), 0, "{death:?}");
        // Its own exits go on being steered: another border's absence holds up nothing.
        let agent = two.agent(Side::A);
        wait_until("ETM to go on", PATIENCE, || match agent.state() {
            Ok(state) if state == "steering" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .map_err(|error| agent.with_log(error))
        .unwrap();
    }
}

#[test]
fn a_provider_that_withdraws_elsewhere_takes_its_prefixes_back_without_a_loop() {
    let Some(_turn) = turn() else { return };
    let mut two = Two::start(Fabric::Mesh, &[Side::A], &OPTIONS, (ABOVE_LIMIT, 0.0));
    let moved = two.wait_moved(Side::A);
    pass_time(Duration::from_secs(2));
    // What arrives at that border meanwhile goes by the first one, over the link between them.
    two.lab.bird(Role::TransitB).ask("disable border4").unwrap();
    two.lab.bird(Role::TransitB).ask("disable border6").unwrap();
    wait_until("plain routing", PATIENCE, || two.plain()).unwrap();
    pass_time(Duration::from_secs(1));
    assert!(moved.iter().all(|entry| two.arrives_by(entry.prefix) == Some(Provider::TransitA)));
    two.assert_nothing_lost("withdrawn by the provider");
}

#[test]
fn a_reflector_that_passes_announcements_on_to_borders_is_noticed_and_named() {
    let Some(_turn) = turn() else { return };
    let mut two = Two::start(Fabric::CarelessReflector, &[Side::A], &OPTIONS, (QUIET, 0.0));
    two.load(ABOVE_LIMIT, 0.0);
    let agent = two.agent(Side::A);
    wait_until("ETM to notice", PATIENCE, || {
        let status = agent.get("/v1/status").map_err(|error| error.to_string())?;
        let named = status["holds"].to_string().contains("announcement-came-back");
        if named { Ok(()) } else { Err(status["holds"].to_string()) }
    })
    .map_err(|error| agent.with_log(error))
    .unwrap();
    two.wait_plain(Side::A);
    pass_time(Duration::from_secs(3));
    assert_eq!(two.agent(Side::A).overrides().unwrap(), [], "it is not tried again");
    two.assert_nothing_lost("a careless reflector");
}

#[test]
fn two_that_steer_come_to_rest_and_never_send_anything_round() {
    let Some(_turn) = turn() else { return };
    let options = EtmOptions { both: true, ..OPTIONS };
    let mut two = Two::start(Fabric::Mesh, &Side::BOTH, &options, (QUIET, 4.0));
    // First one is above its limit, then the other: each sends to the other what that one has room for.
    two.load(ABOVE_LIMIT, 4.0);
    let from_a: Vec<IpNet> = two.wait_moved(Side::A).iter().map(|entry| entry.prefix).collect();
    pass_time(Duration::from_secs(3));
    two.load(QUIET / 2.0, 13.0);
    let from_b: Vec<IpNet> = two.wait_moved(Side::B).iter().map(|entry| entry.prefix).collect();
    assert!(from_a.iter().all(|prefix| !from_b.contains(prefix)), "{from_a:?} {from_b:?}");
    pass_time(Duration::from_secs(3));
    let calm_ns = boottime_ns();
    pass_time(Duration::from_secs(15));
    let moves = two.sink.moves_since(calm_ns);
    assert!(moves.is_empty(), "in 15 rounds nothing moves: {moves:?}");
    two.assert_nothing_lost("two that steer");
}
