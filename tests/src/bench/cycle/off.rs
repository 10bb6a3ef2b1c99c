//! `etm off` with ten thousand overrides, with the agent at work and with the agent stopped.

use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};

use super::{PATIENCE, full, quantiles, say};
use crate::agent::{Agent, AgentOptions};
use crate::clock::{boottime_ns, millis_between};
use crate::crowd;
use crate::error::LabError;
use crate::lab::Lab;
use crate::poll::{pass_time, wait_until};
use crate::topology::{Provider, Role};
use crate::traces;
use crate::traffic::{Flow, Generator, Sink};

/// Frames of the many small flows.
const SMALL: usize = 200;
/// Longer than a flow of one packet per second is silent.
const SETTLE: Duration = Duration::from_secs(3);

/// Times of `runs` switches in each way.
pub(super) fn run(lab: &Lab, table: &full::Full, runs: usize) -> Result<Map<String, Value>, LabError> {
    let options = AgentOptions { lease: "30s", ..AgentOptions::default() };
    let destinations: Vec<IpAddr> = table.of_sink.iter().filter_map(|prefix| prefix.hosts().next()).collect();
    let flows: Vec<Flow> =
        destinations.iter().map(|to| Flow { destination: *to, packets_per_s: 1.0 }).collect();
    let sink = Sink::start(&lab.namespace(Role::Sink))?;
    let (mut at_work, mut stopped, mut overrides) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        for stop in [false, true] {
            // A new agent each time: what may move within a minute is not what is measured.
            let agent = full::start(lab, table, &full::config(lab, &options, |text| crowd::squeeze(&text)))?;
            let generator = Generator::start(&lab.namespace(Role::Content), &flows, SMALL)?;
            let stage = Stage { lab, agent: &agent, sink: &sink };
            overrides.push(stage.wait_overrides(crowd::OVERRIDES)?);
            let ms = stage.off(stop)?;
            say(&format!("off after {ms:.0} ms, agent {}", if stop { "stopped" } else { "at work" }));
            if stop {
                stopped.push(ms);
            } else {
                at_work.push(ms);
            }
            drop(generator);
            agent.post("/v1/on")?;
        }
    }
    let result = json!({
        "runs": runs,
        "overrides": overrides.iter().min(),
        "off_ms": quantiles(&mut at_work),
        "off_stopped_ms": quantiles(&mut stopped),
    });
    Ok(result.as_object().cloned().unwrap_or_default())
}

struct Stage<'a> {
    lab: &'a Lab,
    agent: &'a Agent,
    sink: &'a Sink,
}

impl Stage<'_> {
    /// Waits until kernel and core have at least `least`, and no more come.
    fn wait_overrides(&self, least: usize) -> Result<usize, LabError> {
        let mut last = (0, boottime_ns());
        let found = wait_until("thousands of overrides in kernel and core", PATIENCE * 2, || {
            let kernel = crowd::routes(self.lab).map_err(|error| error.to_string())?;
            let core = self.at_core()?;
            if kernel != last.0 {
                last = (kernel, boottime_ns());
            }
            if kernel >= least && core >= least && millis_between(last.1, boottime_ns()) > 3000.0 {
                return Ok(kernel);
            }
            Err(format!("{kernel} in the kernel, {core} at core"))
        });
        found.map_err(|error| self.agent.with_log(error))
    }

    fn at_core(&self) -> Result<usize, String> {
        let lines = self.lab.bird(Role::Core).ask(&format!("show protocols all {}", traces::CORE_SESSION));
        Ok(full::count(&lines.map_err(|error| error.to_string())?, "imported"))
    }

    /// Milliseconds until no packet takes an override and core has none.
    fn off(&self, stop: bool) -> Result<f64, LabError> {
        if stop {
            self.agent.signal(Signal::SIGSTOP)?;
        }
        let off_ns = boottime_ns();
        let output = self.agent.off()?;
        if !output.status.success() {
            let detail = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(LabError::Malformed { what: "the answer of etm off".to_owned(), detail });
        }
        wait_until("core to have no override", PATIENCE, || match self.at_core()? {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        })?;
        let peers_ns = boottime_ns();
        pass_time(SETTLE);
        if stop {
            self.agent.signal(Signal::SIGCONT)?;
        }
        // Everything in this scene prefers transit-a.
        let last_sent = self.sink.last_sent();
        let elsewhere = last_sent.iter().filter(|((provider, _), _)| *provider != Provider::TransitA);
        let kernel_ns = elsewhere.map(|(_, at_ns)| *at_ns).max().unwrap_or(off_ns);
        Ok(millis_between(off_ns, peers_ns.max(kernel_ns)))
    }
}
