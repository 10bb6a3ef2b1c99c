//! Moves whose traffic does not follow, demand that is not believed, announcements that come back.
//! Never sends anything anywhere but back to where it was.

use super::super::audit::{EndReason, EventKind};
use super::super::choices::choice;
use super::super::confirm::{self, Missed, Seen};
use super::super::controls::Leak;
use super::super::overrides::{Placed, Placing};
use super::super::projection::active_slots;
use super::super::rib::Returned;
use super::super::surge;
use super::Controller;
use crate::types::{ExitId, FlowShare, Generation, PeerId, Prefix, Timestamp};

impl Controller {
    /// Watches a move until the counters show its traffic on the new exit.
    pub(super) fn watch_move(&mut self, now: Timestamp, placing: Placing, placed: Placed) {
        let (was, part) = match placed {
            Placed::Moved { was, share } => (Some(was), share.is_part()),
            // Flows are there already.
            Placed::Shared { .. } if placing.share.is_part() => return,
            Placed::Added | Placed::Shared { .. } | Placed::Kept => (None, false),
        };
        let before = was.unwrap_or(placing.from);
        // Where a part fitted all of it may not: what was divided, or should be, goes home if it does not follow.
        let was = was.filter(|_| !part && !placing.share.is_part());
        // Two exits of one interface look alike to its counters: there is nothing to see.
        let told_apart = self.topology.uplink_of(before) != self.topology.uplink_of(placing.to);
        if self.enforcing() && told_apart {
            // A round stands at the time of its sample.
            let since =
                self.last_sample.filter(|at| now.since(*at) < self.policy.interval / 2).unwrap_or(now);
            let generation = Generation(self.decision.generation.0 + 1);
            self.confirmations.watch((since, generation), placing.prefix, (was, placing.to), placing.rate);
        }
    }

    /// Takes back what did not follow.
    pub(super) fn confirm_moves(&mut self, now: Timestamp, at: Timestamp) {
        let guards = self.policy.guards;
        let terms = confirm::Terms {
            within: guards.confirm_within,
            retry: guards.confirm_retry,
            interval: self.policy.interval,
            most: !self.policy.canary.is_partial(),
        };
        let (slots, rates, topology, overrides) = (&self.slots, &self.rates, &self.topology, &self.overrides);
        let see = |prefix: Prefix, exit: ExitId| {
            let (Some(slot), Some(uplink)) = (slots.get(prefix), topology.uplink_of(exit)) else {
                return Seen::default();
            };
            let (there, all) = (rates.rate(slot, uplink), rates.demand(slot));
            let part = overrides.get(prefix).is_some_and(|entry| entry.share.is_part());
            match overrides.get(prefix).filter(|entry| entry.to == exit && topology.is_elsewhere(exit)) {
                // What is not seen here any more is there.
                Some(entry) => Seen { there: entry.rate.saturating_sub(all), all: entry.rate.max(all), part },
                None => Seen { there, all, part },
            }
        };
        for missed in self.confirmations.judge(at, terms, see) {
            self.take_back(now, &missed);
        }
    }

    fn take_back(&mut self, now: Timestamp, missed: &Missed) {
        let prefix = missed.prefix;
        let Some(entry) = self.overrides.get(prefix).filter(|entry| entry.to == missed.to).cloned() else {
            return;
        };
        self.changed = true;
        let usable = choice(prefix, self.grounds()).exits;
        let back = missed.was.filter(|was| usable.contains(was) && *was != entry.from);
        let back_to = self.exit_name(back.unwrap_or(entry.from));
        self.audit.push(
            now,
            EventKind::MoveUnconfirmed {
                prefix,
                to: self.exit_name(missed.to),
                back_to,
                there_bps: missed.seen.there,
                demand_bps: missed.seen.all,
                failures: missed.failures,
                retry_s: missed.until.since(now).as_secs(),
                refused: self.refused.get(&prefix).cloned(),
            },
        );
        self.unsettled.insert(prefix, now);
        match back {
            Some(to) => {
                let (from, rate, reason) = (entry.from, entry.rate, entry.reason);
                let share = FlowShare::ALL;
                self.overrides.place(now, &self.policy, Placing { prefix, from, to, share, rate, reason });
            }
            None => {
                self.overrides.end(prefix);
                self.ended(now, &entry, EndReason::Unconfirmed);
            }
        }
    }

    /// Learns what is usual, and sees what is not.
    pub(super) fn watch_surges(&mut self, at: Timestamp) {
        let guards = self.policy.guards;
        let terms = surge::Terms { factor: guards.surge_factor, lasts: guards.surge_lasts };
        let rates = &self.rates;
        let active = active_slots(rates, &self.slots, &self.overrides);
        self.surges.sample(at, terms, active.into_iter().map(|slot| (slot, rates.demand(slot))));
    }

    /// An announcement of ETM's own that is learnt back is a way around NO_EXPORT: everything is withdrawn at once.
    pub(super) fn watch_leaks(&mut self, now: Timestamp) {
        if self.stopping || self.controls.leak().is_some() {
            return;
        }
        let own = &self.policy.own_next_hops;
        let etms = self.topology.etms();
        // Whoever else gives his routes ETM's community and our AS, which anybody can, must not switch ETM off.
        // Its way back may have ended the override before it was seen here.
        let is_announced = |prefix: Prefix| {
            self.decision.announce.contains_key(&prefix) || self.unsettled.contains_key(&prefix)
        };
        let leak = |(peer, prefix, route): &(PeerId, Prefix, Returned)| {
            // What ETM on another border sent here is no leak.
            !etms.contains(peer) && (own.contains(&route.next_hop) || (route.by_us && is_announced(*prefix)))
        };
        let Some((peer, prefix, route)) = self.rib.came_back().find(leak) else {
            return;
        };
        let session = self.policy.peers.get(usize::from(peer.0)).map_or("static", |peer| peer.name.as_str());
        let by = if route.by_us { ", and our AS in its path" } else { "" };
        let what =
            format!("{session} announces {prefix} with ETM's community and next hop {}{by}", route.next_hop);
        self.controls.leaked(Leak { at: now, what: what.clone() });
        self.off = true;
        self.end_everything(now, EventKind::Leaked { what }, EndReason::Leak);
    }
}
