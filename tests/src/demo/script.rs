//! The script of the demo, chapter by chapter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::agent::AgentOptions;
use crate::clock::{boottime_ns, millis_between};
use crate::demo::timeline::{Format, Timeline};
use crate::demo::verdict::{Figures, Verdict};
use crate::demo::watch::CoreWatch;
use crate::error::LabError;
use crate::lab::{LabOptions, UPLINK_BPS};
use crate::poll::{pass_time, wait_until};
use crate::scene::{DRAIN, PATIENCE, Scene, before_transit, nanos};
use crate::state::binary;
use crate::table::Family;
use crate::topology::{Provider, Role};
use crate::traces;
use crate::traffic::Demand;
use crate::traffic::measure::all_moved_ns;
use crate::view::Event;

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
/// Destinations slower than this do not time a link loss: their next packet itself comes late.
const FAST: f64 = 50.0;
/// Overrides printed one by one.
const SHOWN: usize = 4;

/// Runs the demo in a lab of its own.
///
/// # Errors
/// The lab or the agent cannot be brought up.
pub fn run(format: Format) -> Result<Verdict, LabError> {
    let timeline = Timeline::start(format);
    timeline.chapter("Set-up");
    let mut demo = Demo::set_up(timeline)?;
    let start = Instant::now();
    // What cannot be measured has not held: the verdict says so, whatever went wrong.
    if let Err(error) = demo.tell() {
        demo.timeline.say(&error.to_string());
        demo.figures.error = Some(error.to_string());
    }
    demo.figures.duration_s = Some(start.elapsed().as_secs_f64());
    let verdict = Verdict::of(demo.figures.clone());
    demo.print(&verdict);
    Ok(verdict)
}

// Fields drop in this order: the watch ends before the routers that it asks.
struct Demo {
    timeline: Timeline,
    figures: Figures,
    watch: CoreWatch,
    scene: Scene,
    /// Last entry of ETM's decision log that was printed.
    seen: u64,
    /// Begin of the steady state.
    steady_ns: u64,
    /// Begin of the state after the relief.
    relieved_ns: u64,
}

impl Demo {
    fn set_up(timeline: Timeline) -> Result<Self, LabError> {
        let options = AgentOptions { limit_percent: LIMIT_PERCENT, ..AgentOptions::default() };
        let scene = Scene::start(LabOptions::default(), &options, &demand(BASE))?;
        let lab = &scene.lab;
        timeline.say(&format!(
            "lab {}: 7 namespaces, 5 BIRD routers, 3 uplinks of {} Mbit/s",
            lab.id(),
            UPLINK_BPS / 1_000_000
        ));
        let watch = CoreWatch::start(lab.bird(Role::Core))?;
        let routes: usize = Family::ALL.iter().map(|family| lab.table().counts(*family).1).sum();
        timeline.say(&format!("etm-agent runs in mode enforce and has learnt {routes} routes"));
        let (pins, directory) = (lab.pin_root(), lab.directory());
        for (about, command) in [
            ("its live counters", format!("bpftool map dump pinned {}/etm_live", pins.display())),
            ("what it does", format!("{} -s {} status", client(), scene.agent.socket().display())),
            (
                "what core hears",
                format!("birdc -s {}/core.ctl show route protocol etm_inject", directory.display()),
            ),
        ] {
            timeline.aside(&format!("{about}, from any shell while this runs:"));
            timeline.aside(&format!("  {command}"));
        }
        let figures = Figures::default();
        Ok(Self { timeline, figures, watch, scene, seen: 0, steady_ns: boottime_ns(), relieved_ns: 0 })
    }

    fn tell(&mut self) -> Result<(), LabError> {
        self.steady_state()?;
        self.demand_step()?;
        self.core_shows_it()?;
        self.link_loss()?;
        self.off()?;
        self.end()
    }

    fn steady_state(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("Steady state");
        let from_ns = self.steady_ns;
        pass_time(STEADY);
        self.figures.loss_ratio_steady = Some(self.scene.loss(from_ns, before_transit()));
        self.figures.overrides_before_step = Some(self.scene.agent.overrides()?.len() as u64);
        self.print_events()?;
        self.print_uplinks(from_ns, before_transit());
        Ok(())
    }

    fn demand_step(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("Demand step: transit-a gets more than it can carry");
        let step_ns = boottime_ns();
        self.scene.demand(&demand(STEP));
        self.timeline.at(
            step_ns,
            &format!("demand for transit-a {} -> {} Mbit/s", BASE[0], STEP[0]),
            &json!({}),
        );
        let shift = wait_until("the first moved packet", PATIENCE, || {
            let moves = self.scene.sink.moves_since(step_ns);
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
        self.figures.loss_ratio_before_shift = Some(self.scene.loss(step_ns, shift.sent_ns));
        self.relieved_ns = relieved + nanos(DRAIN);
        self.figures.loss_ratio_during_shift = Some(self.scene.loss(shift.sent_ns, self.relieved_ns));
        Ok(())
    }

    fn core_shows_it(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("Relieved");
        let overrides: BTreeSet<IpNet> =
            self.scene.agent.overrides()?.into_iter().map(|o| o.prefix).collect();
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
        for o in self.scene.agent.overrides()?.iter().take(SHOWN) {
            self.timeline.aside(&format!("  {} -> {}", o.prefix, o.to));
        }
        let more = overrides.len().saturating_sub(SHOWN);
        if more > 0 {
            self.timeline.aside(&format!("  and {more} more"));
        }
        // A look of its own: how many packets the kernel really sent to ETM's table.
        let marked = self.scene.agent.packets_marked()?;
        pass_time(RELIEVED);
        let until_ns = before_transit();
        self.figures.loss_ratio_after_shift = Some(self.scene.loss(self.relieved_ns, until_ns));
        self.figures.worst_uplink_after_shift = Some(self.worst_uplink(self.relieved_ns, until_ns));
        self.figures.packets_marked = Some(self.scene.agent.packets_marked()?.saturating_sub(marked));
        self.print_events()?;
        self.print_uplinks(self.relieved_ns, until_ns);
        Ok(())
    }

    fn link_loss(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("Transit-b loses its link, from the provider's end");
        let affected: Vec<IpAddr> = self
            .scene
            .sink
            .current()
            .into_iter()
            .filter(|(_, p)| *p == Provider::TransitB)
            .map(|(d, _)| d)
            .collect();
        let cut_ns = boottime_ns();
        self.scene.lab.cut(Provider::TransitB)?;
        self.timeline.at(
            cut_ns,
            &format!("carrier lost with {} destinations on it", affected.len()),
            &json!({}),
        );
        let rates = self.scene.generator.rates();
        let moved = wait_until("the traffic to leave the dead link", PATIENCE, || {
            all_moved_ns(&rates, &affected, &self.scene.sink.moves_since(cut_ns), Provider::TransitB, FAST)
                .ok_or_else(|| "some destinations got nothing since".to_owned())
        });
        self.print_events()?;
        let moved_ns = moved?;
        self.timeline.at(moved_ns, "every affected destination arrives by another provider", &json!({}));
        self.figures.link_down_to_moved_ms = Some(millis_between(cut_ns, moved_ns));
        let relieved = self.settle(cut_ns)?;
        self.figures.link_down_to_relieved_ms = Some(millis_between(cut_ns, relieved));
        pass_time(RELIEVED / 2);
        let (from_ns, until_ns) = (relieved + nanos(DRAIN), before_transit());
        self.figures.loss_ratio_after_link_down = Some(self.scene.loss(from_ns, until_ns));
        self.figures.worst_uplink_after_link_down = Some(self.worst_uplink(from_ns, until_ns));
        self.print_events()?;
        self.print_uplinks(from_ns, until_ns);
        self.close_books()
    }

    fn close_books(&mut self) -> Result<(), LabError> {
        let books = self.scene.agent.conservation()?;
        self.timeline.say(&format!(
            "books: {} windows of 10 s, {} with drops; worst difference {} ppm of the bytes, {} packets",
            books.windows, books.lossy, books.byte_error_ppm, books.packet_error
        ));
        let ratio = f64::from(u32::try_from(books.byte_error_ppm).unwrap_or(u32::MAX)) / 1e6;
        // Without a window that had no drops the worst of them says nothing.
        self.figures.conservation_error_ratio = (books.windows > books.lossy).then_some(ratio);
        self.figures.conservation_packet_error = (books.windows > 0).then_some(books.packet_error);
        self.figures.conservation_windows = Some(books.windows);
        let from_ns = self.steady_ns;
        let frozen = |event: &&Event| event.kind == "frozen" && event.at_ns >= from_ns;
        let froze = self.scene.agent.events(0)?.iter().filter(frozen).count();
        self.figures.times_frozen = Some(froze as u64);
        Ok(())
    }

    fn off(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("etm off");
        let off_ns = boottime_ns();
        let output = self.scene.agent.off()?;
        let done_ns = boottime_ns();
        self.figures.off_command_ms = Some(millis_between(off_ns, done_ns));
        self.timeline.at(done_ns, &format!("`etm off` ended with {}", output.status), &json!({}));
        let marked = self.scene.agent.packets_marked()?;
        pass_time(OFF);
        let live = [Provider::TransitA, Provider::Ix];
        let left = self.scene.overridden_since(done_ns, &live);
        self.figures.kernel_effect_left = Some(left);
        self.figures.packets_marked_after_off =
            Some(self.scene.agent.packets_marked()?.saturating_sub(marked));
        self.figures.bgp_routes_left = Some(self.watch.all().len() as u64);
        // The last packet that took an override, if that was after the command began.
        let kernel_ns = self.scene.last_overridden_ns(&live).unwrap_or(0).max(off_ns);
        self.figures.off_ms =
            self.watch.empty_since_ns().map(|bgp_ns| millis_between(off_ns, bgp_ns.max(kernel_ns)));
        self.print_events()?;
        self.timeline.say(&format!(
            "{left} packets still took an override, {} routes left at core",
            self.watch.all().len()
        ));
        let until_ns = before_transit();
        self.figures.loss_ratio_after_off = Some(self.scene.loss(done_ns, until_ns));
        self.print_uplinks(done_ns, until_ns);
        Ok(())
    }

    fn end(&mut self) -> Result<(), LabError> {
        self.timeline.chapter("End");
        self.scene.generator.stop();
        self.scene.agent.signal(Signal::SIGTERM)?;
        let status = self.scene.agent.wait_end(Duration::from_secs(10))?;
        self.figures.agent_exit_status = status.code();
        let left = (traces::routes(&self.scene.lab)?.len() + traces::rules(&self.scene.lab)?.len()) as u64;
        self.figures.kernel_objects_left = Some(left);
        self.timeline
            .say(&format!("etm-agent ended with {status} after SIGTERM; {left} routes and rules of it left"));
        Ok(())
    }

    fn settle(&mut self, since_ns: u64) -> Result<u64, LabError> {
        let settled = self.scene.settle(since_ns, limit_mbit());
        self.print_events()?;
        settled
    }

    fn overload_since(&self, since_ns: u64) -> Result<Option<u64>, LabError> {
        let events = self.scene.agent.events(0)?;
        Ok(events.iter().find(|e| e.at_ns >= since_ns && e.kind == "overloaded").map(|e| e.at_ns))
    }

    fn worst_uplink(&self, from_ns: u64, until_ns: u64) -> f64 {
        self.scene.worst_uplink(from_ns, until_ns) / limit_mbit()
    }

    fn print_uplinks(&self, from_ns: u64, until_ns: u64) {
        let loads = self.scene.loads(from_ns, until_ns);
        let figures: Vec<String> = loads.iter().map(|(p, mbit)| format!("{p} {mbit:.1}")).collect();
        let loss = self.scene.loss(from_ns, until_ns);
        self.timeline.at(
            until_ns,
            &format!("Mbit/s: {} (limit {:.0}); lost {:.3} %", figures.join(", "), limit_mbit(), loss * 100.0),
            &json!({ "mbit_per_s": loads.iter().map(|(p, m)| (p.name(), *m)).collect::<BTreeMap<_, _>>(), "loss_ratio": loss }),
        );
    }

    fn print_events(&mut self) -> Result<(), LabError> {
        let events = self.scene.agent.events(self.seen)?;
        self.seen = events.last().map_or(self.seen, |event| event.seq);
        // Many overrides made or ended in one moment are one thing that happened.
        for group in events.chunk_by(|a, b| a.kind == b.kind) {
            let shown = if self.timeline.format() == Format::Json { group.len() } else { SHOWN };
            for event in group.iter().take(shown) {
                let kind = json!({ "kind": event.kind });
                self.timeline.at(event.at_ns, &format!("etm: {}", event.text), &kind);
            }
            let more = group.len().saturating_sub(shown);
            if more > 0 {
                self.timeline.aside(&format!("  and {more} more"));
            }
        }
        Ok(())
    }

    fn print(&self, verdict: &Verdict) {
        self.timeline.chapter("Verdict");
        if self.timeline.format() == Format::Text {
            for (name, held) in &verdict.conditions {
                println!("  {} {name}", if *held { "held  " } else { "FAILED" });
            }
            for (name, value) in verdict.figures.headlines() {
                println!("  {name:<52} {value}");
            }
            println!("\n{}", if verdict.held() { "Everything held." } else { "Not everything held." });
        }
        self.timeline.result(&verdict.to_json());
    }
}

fn demand([transit_a, transit_b, ix]: [f64; 3]) -> Demand {
    Demand::by_home(transit_a, transit_b, ix)
}

/// The client as a command that works from any shell.
fn client() -> String {
    binary("etm").map_or_else(|_| "etm".to_owned(), |path| path.display().to_string())
}

fn limit_mbit() -> f64 {
    Duration::from_micros(UPLINK_BPS).as_secs_f64() * f64::from(LIMIT_PERCENT) / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;
    use crate::traffic::FRAME;

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
