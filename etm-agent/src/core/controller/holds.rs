//! Why decisions stand still at this moment, and the entries of the log about that. Never undoes anything.

use super::super::audit::EventKind;
use super::super::guard::Hold;
use super::round::MISMATCH_SAMPLES;
use super::{Controller, uplink_id};
use crate::types::Timestamp;

impl Controller {
    pub(super) fn refresh_holds(&mut self, now: Timestamp) {
        let holds = self.find_holds(now);
        // The age of a sample changes all the time; the fact that it is stale does not.
        let same = |a: &Hold, b: &Hold| {
            a == b
                || matches!((a, b), (Hold::StaleSample { .. }, Hold::StaleSample { .. }))
                || matches!((a, b), (Hold::ProjectionMismatch { .. }, Hold::ProjectionMismatch { .. }))
                || matches!(
                    (a, b),
                    (Hold::OverridesWithoutEffect { .. }, Hold::OverridesWithoutEffect { .. })
                )
                || matches!((a, b), (Hold::TableFull { .. }, Hold::TableFull { .. }))
                || matches!((a, b), (Hold::MovesUnconfirmed { .. }, Hold::MovesUnconfirmed { .. }))
                || matches!((a, b), (Hold::ForeignRoutes { .. }, Hold::ForeignRoutes { .. }))
                || matches!((a, b), (Hold::PlanVetoed { .. }, Hold::PlanVetoed { .. }))
        };
        let known = |list: &[Hold], hold: &Hold| list.iter().any(|other| same(other, hold));
        let fresh = holds.iter().any(|hold| !known(&self.holds, hold));
        if self.stopping {
            self.holds = holds;
            return;
        }
        if fresh && !holds.is_empty() {
            let holds = holds.clone();
            // Before the first decision waiting is no trouble.
            let kind = if self.decided { EventKind::Frozen { holds } } else { EventKind::Waiting { holds } };
            self.audit.push(now, kind);
        } else if holds.is_empty() && !self.holds.is_empty() {
            self.audit.push(now, EventKind::Thawed);
        }
        self.decided |= holds.is_empty();
        self.holds = holds;
    }

    pub(super) fn find_holds(&self, now: Timestamp) -> Vec<Hold> {
        let mut holds = Vec::new();
        for (at, peer) in self.policy.own_sources() {
            let Some(session) = self.sessions.get(at) else { continue };
            if !session.up {
                let reason = session.reason.clone().unwrap_or_else(|| "connecting".to_owned());
                holds.push(Hold::SessionDown { session: peer.name.clone(), reason });
            }
            for family in &session.awaited {
                holds.push(Hold::AwaitingEndOfRib { session: peer.name.clone(), family: *family });
            }
        }
        if !self.fib.synced() {
            holds.push(Hold::AwaitingKernelTable);
        }
        for (index, uplink) in self.policy.uplinks.iter().enumerate() {
            if !self.topology.link(uplink_id(index)).known {
                holds.push(Hold::AwaitingLink { uplink: uplink.name.clone() });
            }
        }
        match self.last_sample {
            None => holds.push(Hold::AwaitingSamples),
            Some(_) if self.samples < 2 => holds.push(Hold::AwaitingSamples),
            Some(at) if now.since(at) > self.policy.stale_after => {
                let age_ms = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
                holds.push(Hold::StaleSample { age_ms });
            }
            Some(_) => {}
        }
        for uplink in self.conservation.failed() {
            holds.push(Hold::ConservationFailed { uplink: self.uplink_name(uplink) });
        }
        if self.mismatch_run >= MISMATCH_SAMPLES {
            holds.push(Hold::ProjectionMismatch { ppm: self.mismatch_ppm });
        }
        if self.ineffective_run >= MISMATCH_SAMPLES {
            holds.push(Hold::OverridesWithoutEffect { ppm: self.ineffective_ppm });
        }
        holds.extend(self.uncounted_uplinks());
        let refused = self.slots.refused() + self.table.refused;
        if refused > 0 {
            holds.push(Hold::TableFull { refused });
        }
        if self.rib.returned(&self.topology) > 0 {
            holds.push(Hold::OwnRouteReturned);
        }
        let lately = self.came_back.filter(|(at, _)| now.since(*at) < self.policy.hold);
        holds.extend(lately.map(|(_, prefix)| Hold::AnnouncementCameBack { prefix }));
        if let Some((failures, _)) = self.confirmations.pause() {
            holds.push(Hold::MovesUnconfirmed { failures });
        }
        holds.extend(self.site.holds());
        holds.extend(self.fault.iter().chain(&self.veto).map(|why| Hold::PlanVetoed { why: why.clone() }));
        holds
    }

    /// Uplinks that are up and were missing from the last samples. One miss may be an interface that just came or goes.
    fn uncounted_uplinks(&self) -> impl Iterator<Item = Hold> + '_ {
        let own = self.meters.iter().enumerate().take(self.policy.own_uplinks());
        let missing = own.filter(|(index, meter)| {
            meter.missed >= MISMATCH_SAMPLES && self.topology.link(uplink_id(*index)).up
        });
        missing.map(|(index, _)| Hold::UplinkNotCounted { uplink: self.uplink_name(uplink_id(index)) })
    }
}
