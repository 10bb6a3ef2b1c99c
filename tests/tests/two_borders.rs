//! Two border routers: an exit of the other one is used through BGP alone, without a loop at any moment. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use etm_tests::agent::Agent;
use etm_tests::clock::{boottime_ns, millis_between};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, nanos, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traffic::{FRAME, Flow, Generator, Sink};
use etm_tests::two_borders::{
    EtmOptions, Fabric, HOME_A, HOME_B, ONLY_A, PROVIDERS, Side, TwoBorders, TwoBordersOptions,
};
use etm_tests::view::Override;
use ipnet::IpNet;

/// Capacity of each uplink; its limit is 90 % of it.
const UPLINK_BPS: u64 = 50_000_000;
/// Mbit/s: within the limit of one uplink.
const QUIET: f64 = 30.0;
/// Mbit/s: above the limit of one uplink, below its capacity. Nothing is dropped, and still ETM has to act.
const ABOVE_LIMIT: f64 = 47.5;

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
        let lab = TwoBorders::up(TwoBordersOptions { fabric, uplink_bps: UPLINK_BPS }).unwrap();
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
        let options = EtmOptions { hold: "3s", ..EtmOptions::default() };
        let mut two = Two::start(fabric, &[Side::A], &options, (QUIET, 0.0));
        pass_time(Duration::from_secs(3));
        assert_eq!(two.agent(Side::A).overrides().unwrap(), [], "{fabric:?}: nothing to do yet");
        let step_ns = boottime_ns();
        two.load(ABOVE_LIMIT, 0.0);
        let overrides = two.wait_moved(Side::A);
        let first = two.sink.moves_since(step_ns).into_iter().find(|m| m.from.is_some()).expect("a move");
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
        let mut two = Two::start(Fabric::Mesh, &[Side::A], &EtmOptions::default(), (ABOVE_LIMIT, 0.0));
        two.wait_moved(Side::A);
        pass_time(Duration::from_secs(2));
        let before_ns = boottime_ns();
        if off {
            two.agent(Side::A).off().unwrap();
        } else {
            two.agent(Side::A).signal(nix::sys::signal::Signal::SIGTERM).unwrap();
        }
        wait_until("plain routing", PATIENCE, || two.plain()).unwrap();
        println!("off {off}: plain after {:.0} ms", millis_between(before_ns, boottime_ns()));
        pass_time(Duration::from_secs(1));
        two.assert_nothing_lost(if off { "etm off" } else { "an orderly stop" });
        let _ = nanos(Duration::ZERO);
    }
}
