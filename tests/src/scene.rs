//! A lab with ETM and traffic in it, and eyes on all three: what the end-to-end tests and the demo stand on.
//! *Never*: judges; it measures, and tests and demo judge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;

use crate::agent::{Agent, AgentOptions};
use crate::clock::boottime_ns;
use crate::error::LabError;
use crate::lab::{Lab, LabOptions};
use crate::poll::wait_until;
use crate::topology::{Provider, Role};
use crate::traces::{self, Traces};
use crate::traffic::measure::{astray, loss_ratio, mbit_per_s};
use crate::traffic::{Demand, FRAME, Flow, Generator, Sink};
use crate::view::{Counted, Override};

/// Longest wait for ETM to learn, to act, or to let go.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Longest stay of a packet in the lab: the queue of a bucket, and some.
pub const TRANSIT: Duration = Duration::from_millis(100);
/// What a saturated uplink needs after the last move until its queue has room for a burst again: the 189 kB of a
/// bucket of 50 Mbit/s drain at the 5 Mbit/s that a limit of 90 % leaves, and some.
pub const DRAIN: Duration = Duration::from_millis(500);
/// Without a move for this long, longer than a round of ETM, a relief in steps is over.
const CALM: Duration = Duration::from_millis(2500);

/// One lab at a time: two cores are a small Internet. `None` where labs cannot be made; the line says why.
pub fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP needs root for network namespaces");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The whole scene. Fields drop in this order: traffic and ETM end before their namespaces go.
pub struct Scene {
    /// The source.
    pub generator: Generator,
    /// Where everything arrives.
    pub sink: Sink,
    /// ETM.
    pub agent: Agent,
    /// Everything around it.
    pub lab: Lab,
}

impl Scene {
    /// Brings up lab, sink and ETM, waits until ETM may act, then starts the traffic: ETM's counters and
    /// the source's begin at the same packet.
    ///
    /// # Errors
    /// Something does not come up.
    pub fn start(lab: LabOptions, options: &AgentOptions, demand: &Demand) -> Result<Self, LabError> {
        let lab = Lab::up(lab)?;
        let flows = demand.flows(lab.table(), FRAME);
        Self::start_in(lab, options, &flows)
    }

    /// The same with a lab that is up, and flows of the caller's.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub fn start_in(lab: Lab, options: &AgentOptions, flows: &[Flow]) -> Result<Self, LabError> {
        let sink = Sink::start(&lab.namespace(Role::Sink))?;
        let agent = Agent::start(&lab, options)?;
        wait_until("etm-agent to be ready", PATIENCE, || agent.ready(lab.table()))
            .map_err(|error| agent.with_log(error))?;
        let generator = Generator::start(&lab.namespace(Role::Content), flows, FRAME)?;
        Ok(Self { generator, sink, agent, lab })
    }

    /// Starts ETM anew, after its process ended.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn restart(&mut self, options: &AgentOptions) -> Result<(), LabError> {
        self.agent = Agent::start(&self.lab, options)?;
        wait_until("etm-agent to be ready again", PATIENCE, || self.agent.ready(self.lab.table()))
            .map_err(|error| self.agent.with_log(error))
    }

    /// Changes the demand.
    pub fn demand(&self, demand: &Demand) {
        self.generator.set_rates(&demand.flows(self.lab.table(), FRAME));
    }

    /// Share of the packets sent within the span that did not arrive.
    pub fn loss(&self, from_ns: u64, until_ns: u64) -> f64 {
        loss_ratio(
            &self.generator.sent_between(from_ns, until_ns),
            &self.sink.sent_between(from_ns, until_ns),
        )
    }

    /// Mbit/s that arrived by each provider.
    pub fn loads(&self, from_ns: u64, until_ns: u64) -> BTreeMap<Provider, f64> {
        let span = Duration::from_nanos(until_ns.saturating_sub(from_ns)).max(Duration::from_millis(1));
        mbit_per_s(&self.sink.sent_between(from_ns, until_ns), span)
    }

    /// Highest load of an uplink in Mbit/s, over the whole seconds of the span.
    pub fn worst_uplink(&self, from_ns: u64, until_ns: u64) -> f64 {
        const SECOND: u64 = 1_000_000_000;
        let seconds = (until_ns.saturating_sub(from_ns) / SECOND).max(1);
        (0..seconds)
            .map(|i| self.loads(from_ns + i * SECOND, from_ns + (i + 1) * SECOND))
            .flat_map(BTreeMap::into_values)
            .fold(0.0, f64::max)
    }

    /// Waits until no uplink is above `limit_mbit`, nothing is lost and nothing moves; returns the time of
    /// the last move since `since_ns`.
    ///
    /// # Errors
    /// It does not settle.
    pub fn settle(&self, since_ns: u64, limit_mbit: f64) -> Result<u64, LabError> {
        let settled = wait_until("the load to settle", PATIENCE, || {
            let until_ns = before_transit();
            let from_ns = until_ns.saturating_sub(nanos(Duration::from_secs(1)));
            let last_ns = self.sink.moves_since(since_ns).last().map_or(since_ns, |m| m.at_ns);
            let (loss, worst) = (self.loss(from_ns, until_ns), self.worst_uplink(from_ns, until_ns));
            if boottime_ns() > last_ns + nanos(CALM) && loss == 0.0 && worst <= limit_mbit {
                return Ok(last_ns);
            }
            Err(format!("loss {loss:.4}, worst uplink {worst:.2} of {limit_mbit} Mbit/s"))
        });
        settled.map_err(|error| self.agent.with_log(error))
    }

    /// Waits until ETM has decided on overrides, whether or not it may act.
    ///
    /// # Errors
    /// That does not happen.
    pub fn wait_planned(&self) -> Result<Vec<Override>, LabError> {
        let found = wait_until("a plan", PATIENCE, || {
            let planned = self.agent.overrides().map_err(|error| error.to_string())?;
            if planned.is_empty() { Err("no override".to_owned()) } else { Ok(planned) }
        });
        found.map_err(|error| self.agent.with_log(error))
    }

    /// Waits until ETM has overrides, the kernel has a route for each, and core has heard of each.
    ///
    /// # Errors
    /// That does not happen.
    pub fn wait_overrides(&self) -> Result<Vec<Override>, LabError> {
        let found = wait_until("overrides in ETM, kernel and core", PATIENCE, || {
            let overrides = self.agent.overrides().map_err(|error| error.to_string())?;
            let routes = traces::routes(&self.lab).map_err(|error| error.to_string())?;
            let announced: BTreeSet<IpNet> = traces::announced(&self.lab)
                .map_err(|error| error.to_string())?
                .iter()
                .filter_map(|route| route.prefix)
                .collect();
            let missing: Vec<IpNet> = overrides
                .iter()
                .map(|o| o.prefix)
                .filter(|p| !announced.contains(p) || !routes.iter().any(|r| leads(r, *p)))
                .collect();
            if !overrides.is_empty() && missing.is_empty() {
                return Ok(overrides);
            }
            Err(format!("overrides {overrides:?}, not yet everywhere: {missing:?}"))
        });
        found.map_err(|error| self.agent.with_log(error))
    }

    /// The provider that plain routing takes with `live` providers.
    pub fn plain(&self, destination: IpAddr, live: &[Provider]) -> Option<Provider> {
        let live: BTreeSet<Provider> = live.iter().copied().collect();
        self.lab.table().best(destination, &live).map(|(_, provider)| provider)
    }

    /// Packets sent after `since_ns` that arrived elsewhere than by plain routing with `live` providers.
    pub fn overridden_since(&self, since_ns: u64, live: &[Provider]) -> u64 {
        let arrived = self.sink.sent_between(since_ns, boottime_ns());
        astray(&arrived, &self.sink.last_sent(), since_ns, |destination| self.plain(destination, live))
    }

    /// Sending of the last packet that arrived elsewhere than by plain routing, boot time in nanoseconds.
    pub fn last_overridden_ns(&self, live: &[Provider]) -> Option<u64> {
        let last_sent = self.sink.last_sent();
        let elsewhere = last_sent.iter().filter(|((p, d), _)| self.plain(*d, live) != Some(*p));
        elsewhere.map(|(_, at)| *at).max()
    }

    /// What arrived, as ETM should have counted it: bytes and packets by (longest prefix, uplink).
    pub fn arrived_by_prefix(&self) -> Counted {
        let mut sums = Counted::new();
        for ((provider, destination), received) in self.sink.received() {
            let Some((prefix, _)) = self.lab.table().home(destination) else { continue };
            let sum = sums.entry((prefix, provider.uplink().to_owned())).or_default();
            sum.0 += received.ledger.total.wire_bytes;
            sum.1 += received.ledger.total.packets;
        }
        sums
    }

    /// What ETM left outside of its process.
    ///
    /// # Errors
    /// A tool or BIRD does not answer.
    pub fn traces(&self) -> Result<Traces, LabError> {
        Traces::of(&self.lab)
    }
}

/// Whether a line of `ip route` is a route (not a throw) for `prefix`.
fn leads(line: &str, prefix: IpNet) -> bool {
    let mut words = line.split_whitespace();
    let host = prefix.prefix_len() == prefix.max_prefix_len();
    words.next().is_some_and(|word| word == prefix.to_string() || (host && word == prefix.addr().to_string()))
}

/// The moment before which everything sent has arrived or is lost.
pub fn before_transit() -> u64 {
    boottime_ns().saturating_sub(nanos(TRANSIT))
}

/// A span in nanoseconds.
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
