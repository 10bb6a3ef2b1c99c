//! The script of the demo, chapter by chapter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::agent::{Agent, AgentOptions};
use crate::clock::{boottime_ns, millis_between};
use crate::demo::figures::{all_moved_ns, astray, loss_ratio, mbit_per_s};
use crate::demo::timeline::{Format, Timeline};
use crate::demo::verdict::{Figures, Verdict};
use crate::demo::view;
use crate::demo::watch::CoreWatch;
use crate::error::LabError;
use crate::lab::{Lab, LabOptions, UPLINK_BPS};
use crate::poll::{pass_time, wait_until};
use crate::table::Family;
use crate::topology::{Provider, Role};
use crate::traffic::{Demand, FRAME, Generator, Sink};

/// Mbit/s by home before the step; the capacity of an uplink is 50, its limit 45.
const BASE: [f64; 3] = [34.0, 7.0, 6.0];
/// Mbit/s by home from the step on: more than transit-a carries, and without transit-b still no more
/// than transit-a and ix may carry together.
const STEP: [f64; 3] = [56.0, 7.0, 6.0];
/// Share of the capacity that may be used, in percent.
const LIMIT_PERCENT: u32 = 90;
/// The steady state: long enough for a whole conservation window of 10 s.
const STEADY: Duration = Duration::from_secs(12);
/// How long the relieved state is watched.
const RELIEVED: Duration = Duration::from_secs(8);
/// How long packets are watched after `etm off`.
const OFF: Duration = Duration::from_secs(3);
/// Longest wait for ETM to act.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest stay of a packet in the lab: the queue of a bucket, and some.
const TRANSIT: Duration = Duration::from_millis(100);
/// Destinations slower than this do not time a link loss: their next packet itself comes late.
const FAST: f64 = 50.0;
/// ETM's routing table in the kernel.
const OVERRIDE_TABLE: &str = "179";

/// Runs the demo in a lab of its own.
///
/// # Errors
/// The lab or the agent cannot be brought up, or something that is not judged but needed does not come.
pub fn run(format: Format) -> Result<Verdict, LabError> {
    let timeline = Timeline::start(format);
    timeline.chapter("Set-up");
    let mut demo = Demo::set_up(timeline)?;
    let start = Instant::now();
    demo.steady_state()?;
    demo.demand_step()?;
    demo.core_shows_it()?;
    demo.link_loss()?;
    demo.off()?;
    demo.end()?;
    demo.figures.duration_s = Some(start.elapsed().as_secs_f64());
    let verdict = Verdict::of(demo.figures.clone());
    demo.print(&verdict);
    Ok(verdict)
}

// Fields drop in this order: traffic and ETM end before their namespaces go.
struct Demo {
    timeline: Timeline,
    figures: Figures,
    generator: Generator,
    sink: Sink,
    watch: CoreWatch,
    agent: Agent,
    lab: Lab,
    /// Last entry of ETM's decision log that was printed.
    seen: u64,
    /// Begin of the state after the relief.
    relieved_ns: u64,
}

impl Demo {
    fn set_up(timeline: Timeline) -> Result<Self, LabError> {
        let lab = Lab::up(LabOptions::default())?;
        timeline.say(&format!(
            "lab {}: 7 namespaces, 5 BIRD routers, 3 uplinks of {} Mbit/s",
            lab.id(),
            UPLINK_BPS / 1_000_000
        ));
        let sink = Sink::start(&lab.namespace(Role::Sink))?;
        let generator = Generator::start(&lab.namespace(Role::Content), &flows(&lab, BASE), FRAME)?;
        let watch = CoreWatch::start(lab.bird(Role::Core))?;
        let agent =
            Agent::start(&lab, &AgentOptions { limit_percent: LIMIT_PERCENT, ..AgentOptions::default() })?;
        let routes: usize = Family::ALL.iter().map(|family| lab.table().counts(*family).1).sum();
        wait_until("etm to learn every route", PATIENCE, || view::is_ready(&agent, routes as u64))?;
        timeline.say(&format!("etm-agent runs, has learnt {routes} routes, mode enforce"));
        timeline.aside("look at its live counters from any shell:");
        timeline.aside(&format!("  bpftool map dump pinned {}/etm_top", lab.pin_root().display()));
        let figures = Figures::default();
        Ok(Self { timeline, figures, generator, sink, watch, agent, lab, seen: 0, relieved_ns: 0 })
    }

    fn steady_state(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("Steady state");
        let from_ns = boottime_ns();
        pass_time(STEADY);
        self.figures.loss_ratio_steady = Some(self.loss(from_ns, before_transit()));
        self.figures.overrides_before_step = Some(view::overrides(&self.agent)?.len() as u64);
        self.print_uplinks(from_ns, before_transit());
        self.print_events()
    }

    fn demand_step(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("Demand step: transit-a gets more than it can carry");
        let step_ns = boottime_ns();
        self.generator.set_rates(&flows(&self.lab, STEP));
        self.timeline.at(
            step_ns,
            &format!("demand for transit-a {} -> {} Mbit/s", BASE[0], STEP[0]),
            &json!({}),
        );
        let shift = wait_until("the first moved packet", PATIENCE, || {
            let moves = self.sink.moves_since(step_ns);
            moves.into_iter().find(|m| m.from.is_some()).ok_or_else(|| "nothing moved".to_owned())
        });
        self.print_events()?;
        let overload_ns = self.overload_since(step_ns)?;
        self.figures.step_to_overload_ms = overload_ns.map(|at| millis_between(step_ns, at));
        let shift = shift?;
        self.timeline.at(
            shift.at_ns,
            &format!("first packet for {} arrives by {}", shift.destination, shift.to),
            &json!({}),
        );
        self.figures.step_to_shift_ms = Some(millis_between(step_ns, shift.at_ns));
        self.figures.overload_to_shift_ms = overload_ns.map(|at| millis_between(at, shift.at_ns));
        let bgp = wait_until("core to route by ETM's announcement", PATIENCE, || {
            self.watch.first_ns().ok_or_else(|| format!("{:?}", self.watch.all()))
        });
        if let Ok(bgp_ns) = bgp {
            self.timeline.at(bgp_ns, "core's best route comes from ETM", &json!({}));
            self.figures.overload_to_bgp_ms = overload_ns.map(|at| millis_between(at, bgp_ns));
        }
        let relieved = self.settle(step_ns)?;
        self.figures.overload_to_relieved_ms = overload_ns.map(|at| millis_between(at, relieved));
        self.figures.loss_ratio_before_shift = Some(self.loss(step_ns, shift.sent_ns));
        self.relieved_ns = relieved + nanos(TRANSIT);
        Ok(())
    }

    fn core_shows_it(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("Relieved");
        let overrides: BTreeSet<IpNet> =
            view::overrides(&self.agent)?.into_iter().map(|(prefix, _)| prefix).collect();
        // The announcement of the last move may still be on its way; after that, what is missing is missing.
        let missing = wait_until("core to show every override", Duration::from_secs(3), || {
            let best = self.watch.best();
            let missing = overrides.difference(&best).count();
            if missing == 0 { Ok(()) } else { Err(missing.to_string()) }
        });
        let best = self.watch.best();
        self.figures.overrides_after_shift = Some(overrides.len() as u64);
        self.figures.overrides_not_at_core = Some(overrides.difference(&best).count() as u64);
        self.timeline.say(&format!(
            "{} overrides, core's BIRD shows {}",
            overrides.len(),
            best.intersection(&overrides).count()
        ));
        if let Err(error) = missing {
            self.timeline.say(&error.to_string());
        }
        for (prefix, interface) in view::overrides(&self.agent)?.iter().take(5) {
            self.timeline.aside(&format!("  {prefix} -> {interface}"));
        }
        pass_time(RELIEVED);
        let until_ns = before_transit();
        self.figures.loss_ratio_after_shift = Some(self.loss(self.relieved_ns, until_ns));
        self.figures.worst_uplink_after_shift = Some(self.worst_uplink(self.relieved_ns, until_ns));
        self.print_uplinks(self.relieved_ns, until_ns);
        self.print_events()
    }

    fn link_loss(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("Transit-b loses its link, from the provider's end");
        let affected: Vec<IpAddr> = self
            .sink
            .current()
            .into_iter()
            .filter(|(_, p)| *p == Provider::TransitB)
            .map(|(d, _)| d)
            .collect();
        let cut_ns = boottime_ns();
        self.lab.cut(Provider::TransitB)?;
        self.timeline.at(
            cut_ns,
            &format!("carrier lost with {} destinations on it", affected.len()),
            &json!({}),
        );
        let rates = self.generator.rates();
        let moved = wait_until("the traffic to leave the dead link", PATIENCE, || {
            all_moved_ns(&rates, &affected, &self.sink.moves_since(cut_ns), Provider::TransitB, FAST)
                .ok_or_else(|| "some destinations got nothing since".to_owned())
        });
        self.print_events()?;
        let moved_ns = moved?;
        self.timeline.at(moved_ns, "every affected destination arrives by another provider", &json!({}));
        self.figures.link_down_to_moved_ms = Some(millis_between(cut_ns, moved_ns));
        let relieved = self.settle(cut_ns)?;
        self.figures.link_down_to_relieved_ms = Some(millis_between(cut_ns, relieved));
        pass_time(RELIEVED / 2);
        let (from_ns, until_ns) = (relieved + nanos(TRANSIT), before_transit());
        self.figures.loss_ratio_after_link_down = Some(self.loss(from_ns, until_ns));
        self.figures.worst_uplink_after_link_down = Some(self.worst_uplink(from_ns, until_ns));
        self.print_uplinks(from_ns, until_ns);
        let (bytes, packets) = view::conservation(&self.agent)?;
        self.figures.conservation_error_ratio = bytes;
        self.figures.conservation_packet_error = packets;
        Ok(())
    }

    fn off(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("etm off");
        let off_ns = boottime_ns();
        let output = self.agent.etm(&["--json", "off"])?;
        let done_ns = boottime_ns();
        self.figures.off_command_ms = Some(millis_between(off_ns, done_ns));
        self.timeline.at(done_ns, &format!("`etm off` ended with {}", output.status), &json!({}));
        pass_time(OFF);
        let live: BTreeSet<Provider> = [Provider::TransitA, Provider::Ix].into_iter().collect();
        let plain = |destination| self.lab.table().best(destination, &live).map(|(_, provider)| provider);
        let last_sent = self.sink.last_sent();
        let since = self.sink.sent_between(done_ns, boottime_ns());
        let left = astray(&since, &last_sent, done_ns, plain);
        self.figures.kernel_effect_left = Some(left);
        self.figures.bgp_routes_left = Some(self.watch.all().len() as u64);
        // The last packet that took an override, if that was after the command began.
        let kernel_ns = last_sent
            .iter()
            .filter(|((provider, destination), at)| **at > off_ns && plain(*destination) != Some(*provider))
            .map(|(_, at)| *at)
            .max()
            .unwrap_or(off_ns);
        self.figures.off_ms = self
            .watch
            .empty_since_ns()
            .map(|bgp_ns| millis_between(off_ns, bgp_ns.max(kernel_ns).max(done_ns)));
        self.timeline.say(&format!(
            "{left} packets still took an override, {} routes left at core",
            self.watch.all().len()
        ));
        self.print_uplinks(done_ns, before_transit());
        self.print_events()
    }

    fn end(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("End");
        self.generator.stop();
        self.agent.signal(Signal::SIGTERM)?;
        let status = self.agent.wait_end(Duration::from_secs(10))?;
        self.figures.agent_exit_status = status.code();
        let left = kernel_objects(&self.lab)?;
        self.figures.kernel_objects_left = Some(left);
        self.timeline
            .say(&format!("etm-agent ended with {status} after SIGTERM; {left} routes and rules of it left"));
        Ok(())
    }

    /// Waits until no uplink is above its limit, nothing is lost and nothing moves; returns the time of the
    /// last move since `since_ns`.
    fn settle(&mut self, since_ns: u64) -> Result<u64, LabError> {
        /// Longer than a round of ETM, so that a relief in steps counts as one.
        const CALM: Duration = Duration::from_millis(2500);
        let settled = wait_until("the load to settle", PATIENCE, || {
            let until_ns = before_transit();
            let from_ns = until_ns.saturating_sub(nanos(Duration::from_secs(1)));
            let last_ns = self.sink.moves_since(since_ns).last().map_or(since_ns, |m| m.at_ns);
            let (loss, worst) = (self.loss(from_ns, until_ns), self.worst_uplink(from_ns, until_ns));
            let calm = boottime_ns() > last_ns + nanos(CALM);
            if calm && loss == 0.0 && worst <= 1.0 {
                return Ok(last_ns);
            }
            Err(format!("loss {loss:.4}, worst uplink at {:.1} % of its limit", worst * 100.0))
        });
        self.print_events()?;
        settled
    }

    fn overload_since(&self, since_ns: u64) -> Result<Option<u64>, LabError> {
        let events = view::events(&self.agent, 0)?;
        Ok(events.iter().find(|e| e.at_ns >= since_ns && e.kind == "overloaded").map(|e| e.at_ns))
    }

    fn loss(&self, from_ns: u64, until_ns: u64) -> f64 {
        loss_ratio(
            &self.generator.sent_between(from_ns, until_ns),
            &self.sink.sent_between(from_ns, until_ns),
        )
    }

    fn loads(&self, from_ns: u64, until_ns: u64) -> BTreeMap<Provider, f64> {
        let span = Duration::from_nanos(until_ns.saturating_sub(from_ns)).max(Duration::from_millis(1));
        mbit_per_s(&self.sink.sent_between(from_ns, until_ns), span)
    }

    /// Highest load of an uplink as a share of its limit, over the whole seconds of the span.
    fn worst_uplink(&self, from_ns: u64, until_ns: u64) -> f64 {
        const SECOND: u64 = 1_000_000_000;
        let seconds = (until_ns.saturating_sub(from_ns) / SECOND).max(1);
        (0..seconds)
            .map(|i| self.loads(from_ns + i * SECOND, from_ns + (i + 1) * SECOND))
            .flat_map(BTreeMap::into_values)
            .fold(0.0, f64::max)
            / limit_mbit()
    }

    fn print_uplinks(&self, from_ns: u64, until_ns: u64) {
        let loads = self.loads(from_ns, until_ns);
        let figures: Vec<String> = loads.iter().map(|(p, mbit)| format!("{p} {mbit:.1}")).collect();
        let loss = self.loss(from_ns, until_ns);
        self.timeline.at(
            until_ns,
            &format!("Mbit/s: {} (limit {:.0}); lost {:.3} %", figures.join(", "), limit_mbit(), loss * 100.0),
            &json!({ "mbit_per_s": loads.iter().map(|(p, m)| (p.name(), *m)).collect::<BTreeMap<_, _>>(), "loss_ratio": loss }),
        );
    }

    fn print_events(&mut self) -> Result<(), LabError> {
        for event in view::events(&self.agent, self.seen)? {
            self.seen = event.seq;
            self.timeline.at(
                event.at_ns,
                &format!("etm: {} {}", event.kind, event.text),
                &json!({ "kind": event.kind }),
            );
        }
        Ok(())
    }

    fn print(&self, verdict: &Verdict) {
        self.timeline.chapter("Verdict");
        if self.timeline.format() == Format::Text {
            for (name, held) in &verdict.conditions {
                println!("  {} {name}", if *held { "held  " } else { "FAILED" });
            }
            println!("\n{}", if verdict.held() { "Everything held." } else { "Not everything held." });
        }
        self.timeline.result(&verdict.to_json());
    }
}

fn flows(lab: &Lab, [transit_a, transit_b, ix]: [f64; 3]) -> Vec<crate::traffic::Flow> {
    Demand::by_home(transit_a, transit_b, ix).flows(lab.table(), FRAME)
}

fn limit_mbit() -> f64 {
    Duration::from_micros(UPLINK_BPS).as_secs_f64() * f64::from(LIMIT_PERCENT) / 100.0
}

/// The moment before which everything sent has arrived or is lost.
fn before_transit() -> u64 {
    boottime_ns().saturating_sub(nanos(TRANSIT))
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Routes of ETM's table and rules that lead to it, in the border's kernel.
fn kernel_objects(lab: &Lab) -> Result<u64, LabError> {
    let border = lab.namespace(Role::Border);
    let mut count = 0;
    for family in ["-4", "-6"] {
        // An empty table that never existed is an error to ip, and nothing to us.
        let routes = border.ip(&[family, "route", "show", "table", OVERRIDE_TABLE]).unwrap_or_default();
        let rules = border.ip(&[family, "rule", "show"])?;
        count += routes.lines().count() + rules.lines().filter(|line| line.contains("fwmark")).count();
    }
    Ok(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;

    /// Mbit/s by provider of what the border would choose with `live` providers, and of that on
    /// transit-a the part that ix carries as well.
    fn plain(demand: [f64; 3], live: &[Provider]) -> (BTreeMap<Provider, f64>, f64) {
        let table = Table::standard();
        let live: BTreeSet<Provider> = live.iter().copied().collect();
        let [transit_a, transit_b, ix] = demand;
        let (mut loads, mut movable) = (BTreeMap::new(), 0.0);
        for flow in Demand::by_home(transit_a, transit_b, ix).flows(&table, FRAME) {
            let mbit = flow.packets_per_s * 8000.0 * 1e-6;
            let (prefix, provider) = table.best(flow.destination, &live).unwrap();
            *loads.entry(provider).or_insert(0.0) += mbit;
            let row = table.announcements.iter().find(|a| a.prefix == prefix).unwrap();
            if provider == Provider::TransitA && row.providers.contains(&Provider::Ix) {
                movable += mbit;
            }
        }
        (loads, movable)
    }

    #[test]
    fn the_demand_can_be_carried_within_the_limits_in_every_chapter() {
        let room = limit_mbit() * 0.9;
        let (base, _) = plain(BASE, &Provider::ALL);
        assert!(base.values().all(|mbit| *mbit < room), "{base:?}");
        let (step, _) = plain(STEP, &Provider::ALL);
        assert!(step[&Provider::TransitA] > 50.0, "{step:?}");
        let (cut, movable) = plain(STEP, &[Provider::TransitA, Provider::Ix]);
        let excess = cut[&Provider::TransitA] - room;
        assert!(excess > 0.0, "{cut:?}");
        assert!(movable > excess + 5.0, "{movable} movable, {excess} too much: {cut:?}");
        assert!(cut.values().sum::<f64>() < 2.0 * room, "{cut:?}");
    }
}
