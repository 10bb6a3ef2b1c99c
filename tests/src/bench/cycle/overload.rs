//! Overload steps: the source sends more than an uplink may carry, and what follows is timed. Then a link is cut.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::watch::TableWatch;
use super::{PATIENCE, full, quantiles, say};
use crate::agent::{Agent, AgentOptions};
use crate::clock::{boottime_ns, millis_between};
use crate::error::LabError;
use crate::lab::Lab;
use crate::poll::{pass_time, wait_until};
use crate::scene::{TRANSIT, nanos};
use crate::topology::{Provider, Role};
use crate::traces;
use crate::traffic::{Demand, FRAME, Generator, Sink};

/// Within every limit of 45 Mbit/s.
const QUIET: (f64, f64, f64) = (34.0, 14.0, 13.0);
/// More than transit-a carries.
const OVERLOAD: (f64, f64, f64) = (56.0, 14.0, 13.0);
/// Above transit-a's limit, but it can take back everything: nothing is lost for want of room.
const ABOVE_LIMIT: (f64, f64, f64) = (46.5, 4.0, 1.0);
/// Between two steps: ETM forgets what it smoothed, a saturated uplink's queue drains.
const PAUSE: Duration = Duration::from_secs(4);
/// No cap on what moves within a minute is what is measured.
const CAPS: &str =
    "[policy]\nmax_moves_per_minute = 1000000\nmax_moved = \"100%\"\nmax_moved_per_minute = \"10000%\"\n";

struct Stage<'a> {
    lab: &'a Lab,
    agent: Agent,
    sink: Sink,
    generator: Generator,
    watch: TableWatch,
}

/// `runs` overloads one after the other, and a cut link.
pub(super) fn run(
    lab: &Lab,
    table: &full::Full,
    options: &AgentOptions,
    runs: usize,
) -> Result<Map<String, Value>, LabError> {
    let text = full::config(lab, options, |text| text.replace("[policy]\n", CAPS));
    let sink = Sink::start(&lab.namespace(Role::Sink))?;
    let agent = full::start(lab, table, &text)?;
    let watch = TableWatch::start(lab)?;
    let generator = Generator::start(&lab.namespace(Role::Content), &flows(lab, QUIET), FRAME)?;
    let stage = Stage { lab, agent, sink, generator, watch };
    let (mut kernel, mut peer, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        stage.rest(table)?;
        // A step falls anywhere between two samples.
        pass_time(Duration::from_millis(u64::try_from(run * 137 % 1000).unwrap_or_default()));
        let (to_seen, to_kernel, to_peer) = stage.step()?;
        if run % 10 == 9 {
            say(&format!("{} of {runs} overloads, the last in {to_kernel:.0} ms in the kernel", run + 1));
        }
        seen.push(to_seen);
        kernel.push(to_kernel);
        peer.push(to_peer);
    }
    stage.rest(table)?;
    let (lost, lost_ms) = stage.cut(table)?;
    let result = json!({
        "runs": runs,
        "overload_to_sample_ms": quantiles(&mut seen),
        "overload_to_kernel_ms": quantiles(&mut kernel),
        "overload_to_peer_ms": quantiles(&mut peer),
        "link_down_loss_packets": lost,
        "link_down_loss_ms": lost_ms,
    });
    Ok(result.as_object().cloned().unwrap_or_default())
}

fn flows(lab: &Lab, (a, b, ix): (f64, f64, f64)) -> Vec<crate::traffic::Flow> {
    Demand::by_home(a, b, ix).flows(lab.table(), FRAME)
}

impl Stage<'_> {
    /// Back to plain routing and a demand within the limits, as long as it takes until nothing remembers.
    fn rest(&self, table: &full::Full) -> Result<(), LabError> {
        self.generator.set_rates(&flows(self.lab, QUIET));
        self.agent.post("/v1/off")?;
        pass_time(PAUSE / 2);
        self.agent.post("/v1/on")?;
        full::wait_ready(&self.agent, table)?;
        pass_time(PAUSE / 2);
        Ok(())
    }

    /// Milliseconds from the first packet too many to ETM's notice of it, the kernel's first route, and core's best route.
    fn step(&self) -> Result<(f64, f64, f64), LabError> {
        let step_ns = boottime_ns();
        self.generator.set_rates(&flows(self.lab, OVERLOAD));
        let (prefix, kernel_ns) = self.first_override(step_ns)?;
        let peer_ns = self.best_at_core(prefix)?;
        let events = self.agent.events(0)?;
        let overload = events.iter().rev().find(|event| event.kind == "overloaded" && event.at_ns >= step_ns);
        let seen_ns = overload.map_or(kernel_ns, |event| event.at_ns);
        Ok((
            millis_between(step_ns, seen_ns),
            millis_between(step_ns, kernel_ns),
            millis_between(step_ns, peer_ns),
        ))
    }

    fn first_override(&self, since_ns: u64) -> Result<(IpNet, u64), LabError> {
        let found = wait_until("an override in the kernel", PATIENCE, || {
            let changes = self.watch.since(since_ns);
            let first = changes.iter().find(|change| change.made && !change.throw);
            first.map(|change| (change.prefix, change.at_ns)).ok_or_else(|| "none".to_owned())
        });
        found.map_err(|error| self.agent.with_log(error))
    }

    fn best_at_core(&self, prefix: IpNet) -> Result<u64, LabError> {
        let core = self.lab.bird(Role::Core);
        let found = wait_until("the override to be core's best route", PATIENCE, || {
            let routes = core.routes(&format!("{prefix} primary")).map_err(|error| error.to_string())?;
            let now_ns = boottime_ns();
            match routes.first() {
                Some(route) if route.protocol == traces::CORE_SESSION => Ok(now_ns),
                other => Err(format!("{other:?}")),
            }
        });
        found.map_err(|error| self.agent.with_log(error))
    }

    /// Cuts a link that overrides use; packets of theirs that were lost, and the time at their rate that this is.
    fn cut(&self, table: &full::Full) -> Result<(u64, f64), LabError> {
        let since_ns = boottime_ns();
        self.generator.set_rates(&flows(self.lab, ABOVE_LIMIT));
        self.first_override(since_ns)?;
        pass_time(Duration::from_secs(3));
        let overrides = self.agent.overrides()?;
        let to = overrides.iter().map(|entry| entry.to.clone()).next().unwrap_or_default();
        let Some(provider) = Provider::ALL.into_iter().find(|provider| provider.name() == to) else {
            return Err(LabError::Malformed {
                what: "an override".to_owned(),
                detail: format!("{overrides:?}"),
            });
        };
        let moved: BTreeSet<IpAddr> = overrides
            .iter()
            .filter(|entry| entry.to == to)
            .filter_map(|entry| self.lab.table().address_in(entry.prefix))
            .collect();
        let cut_ns = boottime_ns();
        self.lab.cut(provider)?;
        pass_time(Duration::from_secs(3));
        let (from_ns, until_ns) = (cut_ns - nanos(TRANSIT), boottime_ns() - nanos(TRANSIT));
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
        self.lab.mend(provider)?;
        full::wait_again(self.lab, table)?;
        let rates = self.generator.rates();
        let rate: f64 = moved.iter().filter_map(|to| rates.get(to)).sum();
        let lost = sent.saturating_sub(arrived);
        let lost_ms = f64::from(u32::try_from(lost).unwrap_or(u32::MAX)) / rate * 1e3;
        Ok((lost, (lost_ms * 10.0).round() / 10.0))
    }
}
