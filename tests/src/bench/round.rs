//! How long a round takes: a sample of all counters in, a decision out, with the plan and its check in between.
//! Never touches the network: the controller is driven by inputs, as by the agent.
//!
//! 50,000 active prefixes, 8 exits of one interface each with two tiers, a route at each exit with chance 0.6, volumes by
//! Pareto (1.16) clipped to 1 % of the total, load 0.85; mode observe, so that a plan stays planned. Each round 2 % of the
//! rates change by up to half. Four kinds: with and without prices, with and without a step of demand: what leaves by the
//! first two exits grows by a third. Without either nothing is planned (`calm`, the cost of a round by itself). The first
//! round that plans does so from nothing; with a step that is the round that sees it.

use super::BenchOptions;
use super::routes::Dice;
use crate::error::LabError;
use etm_agent::config;
use etm_agent::core::controller::Controller;
use etm_agent::core::decision::{Adopted, TableChange};
use etm_agent::core::input::{
    Basis, DeviceCount, FibChange, FibEvent, Input, KernelRoute, LinkEvent, RouteBatch, RouteChange, Sample,
    SessionChange, SessionEvent, SlotCount, TableFill, UplinkSample,
};
use etm_agent::core::money_view::{NodeView, PlanView};
use etm_agent::types::{
    Count, Family, IfIndex, PathId, PeerId, Prefix, RouteAttrs, SlotId, Timestamp, UplinkId,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

const PREFIXES: u32 = 50_000;
const EXITS: u16 = 8;
const ROUNDS: u64 = 15;
const SEED: u64 = 7;
const TOTAL_BPS: f64 = 1e12;

/// The demand of the first so many exits grows by so much.
const STEP_EXITS: u16 = 2;
const STEP: f64 = 1.33;

/// What a world is like.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    priced: bool,
    step: bool,
}

const KINDS: [Kind; 4] = [
    Kind { name: "calm", priced: false, step: false },
    Kind { name: "relief", priced: false, step: true },
    Kind { name: "money", priced: true, step: false },
    Kind { name: "relief with prices", priced: true, step: true },
];

/// Runs all kinds.
pub(super) fn run(options: &BenchOptions) -> Result<(), LabError> {
    for kind in KINDS {
        options.show(&row(kind)?);
    }
    Ok(())
}

fn gateway(exit: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + (u32::from(exit) << 8)))
}

fn text(priced: bool) -> String {
    let mut text = "[agent]\nmode = \"observe\"\n[bgp]\nasn = 64500\nrouter_id = \"10.255.0.2\"\n\
                    [[bgp.session]]\nname = \"border\"\nrole = \"learn\"\npeer = \"127.0.0.1\"\n"
        .to_owned();
    let capacity = TOTAL_BPS / 0.85 / 0.95 / f64::from(EXITS) / 1e6;
    for exit in 0..EXITS {
        let tiers = if priced {
            let price = f64::from(20 + 15 * ((exit * 5) % EXITS)) / 100.0;
            format!(
                "tiers = [{{ up_to = \"{:.0}Mbit\", price = \"{price}\" }}, {{ price = \"{:.3}\" }}]\n",
                capacity / 2.0,
                price * 1.5
            )
        } else {
            String::new()
        };
        let (name, gateway) = (format!("up{exit}"), gateway(exit));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "[[interface]]\nname = \"{name}\"\ncapacity = \"{capacity:.0}Mbit\"\n{tiers}\
             [[provider]]\nname = \"p{exit}\"\nexits = [{{ interface = \"{name}\", gateways = [\"{gateway}\"] }}]\n"
        );
    }
    text
}

/// The controller with all it is told, and what it is told next.
struct World {
    controller: Controller,
    slots: BTreeMap<Prefix, SlotId>,
    homes: Vec<(Prefix, u16)>,
    rates: Vec<f64>,
    rows: Vec<u64>,
    offered: Vec<u64>,
    seconds: u64,
}

impl World {
    fn new(priced: bool, dice: &mut Dice) -> Result<World, LabError> {
        let settings = config::parse("bench", &text(priced)).map_err(|error| LabError::Malformed {
            what: "the configuration of the bench".to_owned(),
            detail: error.to_string(),
        })?;
        let mut world = World {
            controller: Controller::new(settings.policy, PREFIXES, &Adopted::default(), false),
            slots: BTreeMap::new(),
            homes: Vec::new(),
            rates: volumes(dice),
            rows: vec![0; usize::try_from(PREFIXES).unwrap_or(0)],
            offered: vec![0; usize::from(EXITS)],
            seconds: 1,
        };
        for exit in 0..EXITS {
            let ifindex = Some(IfIndex(10 + u32::from(exit)));
            world.give(Input::Link(LinkEvent { uplink: UplinkId(exit), ifindex, up: true }));
        }
        world.session(SessionChange::Up { families: vec![Family::V4] });
        world.learn(dice);
        world.session(SessionChange::EndOfRib(Family::V4));
        world.give(Input::Fib(FibEvent::Synced));
        Ok(world)
    }

    fn give(&mut self, input: Input) {
        let outcome = self.controller.handle(Timestamp(self.seconds * 1_000_000_000), input);
        for change in outcome.table {
            if let TableChange::Insert { prefix, slot } = change {
                self.slots.insert(prefix, slot);
            }
        }
    }

    fn session(&mut self, change: SessionChange) {
        self.give(Input::Session(SessionEvent { peer: PeerId(0), change }));
    }

    fn learn(&mut self, dice: &mut Dice) {
        let attrs: Vec<Arc<RouteAttrs>> =
            (0..EXITS).map(|exit| Arc::new(RouteAttrs::to_next_hop(gateway(exit)))).collect();
        for number in 0..PREFIXES {
            let address = Ipv4Addr::from(0x0b00_0000 + (number << 8));
            let Ok(prefix) = format!("{address}/24").parse::<Prefix>() else { continue };
            let mut exits: Vec<u16> = (0..EXITS).filter(|_| unit(dice) < 0.6).collect();
            if exits.is_empty() {
                exits.push(u16::try_from(number % u32::from(EXITS)).unwrap_or(0));
            }
            let home = exits[usize::try_from(number).unwrap_or(0) % exits.len()];
            let announce = |exit: &u16| RouteChange::Announce {
                prefix,
                path_id: PathId(u32::from(*exit)),
                attrs: Arc::clone(&attrs[usize::from(*exit)]),
            };
            let changes = exits.iter().map(announce).collect();
            self.give(Input::Routes(RouteBatch { peer: PeerId(0), changes }));
            let next_hops = vec![(Some(gateway(home)), IfIndex(10 + u32::from(home)))];
            let route = KernelRoute { prefix, metric: 32, protocol: 12, unicast: true, next_hops };
            self.give(Input::Fib(FibEvent::Changes(vec![FibChange::Set(route)])));
            self.homes.push((prefix, home));
        }
    }

    /// Demand of some exits grows at once.
    fn step(&mut self) {
        let leaving = self.homes.iter().map(|(_, home)| *home < STEP_EXITS);
        self.rates.iter_mut().zip(leaving).filter(|(_, grows)| *grows).for_each(|(rate, _)| *rate *= STEP);
    }

    /// A second passes; the time that its round takes, milliseconds.
    fn second(&mut self, dice: &mut Dice) -> f64 {
        self.seconds += 1;
        let at = Timestamp(self.seconds * 1_000_000_000);
        let mut rows = Vec::with_capacity(self.homes.len());
        for (index, (prefix, home)) in self.homes.iter().enumerate() {
            let factor = if unit(dice) < 0.02 { 0.5 + unit(dice) } else { 1.0 };
            self.rates[index] *= factor;
            let bytes = whole(self.rates[index] / 8.0);
            self.rows[index] += bytes;
            self.offered[usize::from(*home)] += bytes;
            if let Some(slot) = self.slots.get(prefix) {
                let count = Count { bytes: self.rows[index], packets: self.rows[index] / 1_000 };
                rows.push(SlotCount { slot: *slot, uplink: UplinkId(*home), count });
            }
        }
        let uplinks = (0..EXITS).map(|exit| {
            let bytes = self.offered[usize::from(exit)];
            let count = Count { bytes, packets: bytes / 1_000 };
            let device = DeviceCount {
                sent: count,
                dropped: 0,
                backlog: Count::default(),
                excess: Default::default(),
                basis: Basis::Qdisc,
            };
            let uncounted = [Count::default(); 4];
            UplinkSample { uplink: UplinkId(exit), at, before: count, after: count, uncounted, device }
        });
        let sample = Sample { at, uplinks: uplinks.collect(), rows, table: TableFill::default() };
        let begin = Instant::now();
        self.give(Input::Sample(sample));
        begin.elapsed().as_secs_f64() * 1e3
    }
}

/// Below 1.
fn unit(dice: &mut Dice) -> f64 {
    f64::from(u32::try_from(dice.next() >> 32).unwrap_or(0)) / 4_294_967_296.0
}

/// A rate as a whole number of bytes.
fn whole(value: f64) -> u64 {
    format!("{value:.0}").parse().unwrap_or(0)
}

fn volumes(dice: &mut Dice) -> Vec<f64> {
    let mut volumes: Vec<f64> = (0..PREFIXES).map(|_| (1.0 - unit(dice)).powf(-1.0 / 1.16)).collect();
    let most = 0.01 * volumes.iter().sum::<f64>();
    volumes.iter_mut().for_each(|volume| *volume = volume.min(most));
    let sum: f64 = volumes.iter().sum();
    volumes.iter().map(|volume| volume / sum * TOTAL_BPS).collect()
}

fn row(kind: Kind) -> Result<serde_json::Value, LabError> {
    let mut dice = Dice::new(SEED);
    let mut world = World::new(kind.priced, &mut dice)?;
    world.second(&mut dice);
    if kind.step {
        world.second(&mut dice);
        world.step();
    }
    let first = world.second(&mut dice);
    let seen = world.controller.plan(Timestamp(world.seconds * 1_000_000_000));
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| world.second(&mut dice)).collect();
    times.sort_by(f64::total_cmp);
    let now = Timestamp(world.seconds * 1_000_000_000);
    let (status, plan) = (world.controller.status(now), world.controller.plan(now));
    let worst = |plan: &PlanView, planned: bool| {
        let load = |node: &NodeView| if planned { node.planned_bps } else { node.stay_bps };
        let share = |node: &NodeView| node.limit_bps.map_or(0.0, |limit| load(node) / limit);
        plan.nodes.iter().map(share).fold(0.0, f64::max)
    };
    Ok(json!({
        "bench": "round",
        "prefixes": PREFIXES,
        "exits": EXITS,
        "kind": kind.name,
        "ms_first": first,
        "ms_round": times[times.len() / 2],
        "ms_worst": times[times.len() - 1],
        "state": status.state.as_str(),
        "overrides": status.overrides,
        "plans": status.plans,
        "vetoes": status.plan_vetoes,
        "offered_bps": status.offered_bps.0,
        "overload_stay_bps": plan.overload_stay_bps,
        "overload_bps": plan.overload_bps,
        "overload_bound_bps": plan.overload_bound_bps,
        "worst_of_limit_first": worst(&seen, false),
        "worst_of_limit": worst(&plan, true),
        "money_stay": plan.money_stay,
        "money": plan.money,
        "gap_ratio": if plan.objective_bound > 0.0 { plan.gap / plan.objective_bound } else { 0.0 },
    }))
}
