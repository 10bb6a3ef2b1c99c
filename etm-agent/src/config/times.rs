//! Times that depend on each other: intervals, and what must outlive them.
//! Never reads a clock.

use super::raw::{self, Raw, Text};
use super::validate::Check;
use std::time::Duration;

impl Check {
    /// Time between samples, and the age from which the last one is stale.
    pub(super) fn times(&mut self, agent: &raw::Agent) -> (Duration, Duration) {
        let interval = self.duration(agent.interval.as_ref(), Duration::from_secs(1));
        let bounds = Duration::from_millis(100)..=Duration::from_secs(60);
        if let Some(text) = agent.interval.as_ref().filter(|_| !bounds.contains(&interval)) {
            self.fault(text.span(), "the interval must be between 100ms and 60s");
        }
        let stale_after =
            self.duration(agent.stale_after.as_ref(), (interval * 3).max(Duration::from_secs(5)));
        if let Some(text) = agent.stale_after.as_ref().filter(|_| stale_after < interval * 2) {
            self.fault(text.span(), "a sample cannot be stale before two intervals have passed");
        }
        (interval, stale_after)
    }

    /// The lease is renewed once per interval; it must outlive a late one.
    pub(super) fn lease_outlives(&mut self, raw: &Raw, interval: Duration, lease: Duration) {
        if lease >= interval * 3 {
            return;
        }
        let span = raw.agent.interval.as_ref().or(raw.kernel.lease.as_ref()).map(Text::span);
        let message =
            "kernel.lease must be at least three times agent.interval: it is renewed once per interval";
        self.fault_at(span, message.to_owned());
    }
}
