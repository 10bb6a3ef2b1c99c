//! Changes that wait for a person: queued instead of made, judged again when they are approved.
//! Never makes a change that could not be decided now.

use super::super::allocator::room;
use super::super::approval::{Change, Proposed};
use super::super::audit::{DropReason, EndReason, EventKind};
use super::super::choices::choice;
use super::super::decision::Override;
use super::super::money::real;
use super::super::overrides::Placing;
use super::super::view::{ChangeView, Judged};
use super::Controller;
use crate::types::{BitRate, ExitId, Prefix, Timestamp};

impl Controller {
    /// Queues what a placement would change.
    pub(super) fn propose(&mut self, now: Timestamp, placing: Placing, from: ExitId) {
        let Placing { prefix, to, share, rate, reason, .. } = placing;
        let change = Change { id: 0, prefix, from, to, share, rate, reason, since: now, expires: now };
        let id = match self.approvals.propose(now, self.policy.approval, change) {
            Proposed::Kept => return,
            Proposed::Queued(id) => id,
            Proposed::Replaced { id, was } => {
                self.dropped(now, &was, DropReason::NotNeeded);
                id
            }
        };
        let (from, to, mut reason) = (self.exit_name(from), self.exit_name(to), self.reason_text(&reason));
        if share.is_part() {
            reason = format!("{share} of its flows, the rest stays: {reason}");
        }
        self.audit.push(now, EventKind::ChangeQueued { id, prefix, from, to, rate_bps: rate, reason });
    }

    /// A change that the newest plan does without.
    pub(super) fn unpropose(&mut self, now: Timestamp, prefix: Prefix) {
        if self.approvals.is_empty() {
            return;
        }
        if let Some(change) = self.approvals.take(prefix) {
            self.dropped(now, &change, DropReason::NotNeeded);
        }
    }

    fn dropped(&mut self, now: Timestamp, change: &Change, why: DropReason) {
        let (id, prefix, to) = (change.id, change.prefix, self.exit_name(change.to));
        self.audit.push(now, EventKind::ChangeDropped { id, prefix, to, why });
    }

    /// Drops everything that waits.
    pub(super) fn drop_changes(&mut self, now: Timestamp) {
        for change in self.approvals.take_all() {
            self.dropped(now, &change, DropReason::NotNeeded);
        }
    }

    /// Drops what nobody approved in time.
    pub(super) fn expire_changes(&mut self, now: Timestamp) {
        for change in self.approvals.expire(now) {
            self.dropped(now, &change, DropReason::Expired);
        }
    }

    /// Drops what has become impossible, without a round.
    pub(super) fn drop_impossible(&mut self, now: Timestamp) {
        for change in self.approvals.list() {
            if self.obstacle(&change).is_some() {
                self.approvals.take(change.prefix);
                self.dropped(now, &change, DropReason::NotPossible);
            }
        }
    }

    /// What routing has against a change.
    fn obstacle(&self, change: &Change) -> Option<String> {
        let choice = choice(change.prefix, self.grounds());
        match choice.home {
            Err(_) => Some(
                "the kernel's route for the prefix is not the routing daemon's BGP route any more".to_owned(),
            ),
            // An override that is to be ended can always be ended.
            Ok(home) if change.to == home => None,
            Ok(home) if change.share.is_part() && !choice.exits.contains(&home) => {
                Some(format!("{}, where the rest goes, has no usable route", self.exit_name(home)))
            }
            Ok(_) if self.sources().is_drained(change.to) => {
                Some(format!("{} is drained", self.exit_name(change.to)))
            }
            Ok(_) if !choice.exits.contains(&change.to) => {
                Some(format!("{} has no usable route for it any more", self.exit_name(change.to)))
            }
            Ok(_) => None,
        }
    }

    /// Why a change cannot be made now.
    fn refusal(&self, now: Timestamp, change: &Change) -> Option<String> {
        if !self.may_decide() {
            let holds: Vec<String> = self.holds.iter().map(ToString::to_string).collect();
            let why = if holds.is_empty() { "ETM is switched off".to_owned() } else { holds.join("; ") };
            return Some(format!("decisions stand still: {why}"));
        }
        if let Some(why) = self.obstacle(change) {
            return Some(why);
        }
        let standing = self.overrides.get(change.prefix);
        let slot = self.slots.get(change.prefix);
        let demand = slot.map_or(change.rate, |slot| self.rates.demand(slot));
        let home = self.fib.home(change.prefix, &self.policy, &self.topology).ok();
        let ends = home == Some(change.to);
        // Of what is there already only the rest is new there; home gets back what was taken from it.
        let there = standing.filter(|entry| entry.to == change.to).map_or(BitRate::ZERO, Override::moved);
        let share = standing.filter(|_| ends).map_or(change.share, |entry| entry.share);
        let rate = share.of(demand).saturating_sub(there);
        let loads: Vec<BitRate> = self
            .meters
            .iter()
            .zip(&self.approved)
            .map(|(meter, approved)| meter.offered + *approved)
            .collect();
        if room(&self.tree, &loads, change.to, !ends) < real(rate) {
            return Some(format!("{} has no room for {rate} any more", self.exit_name(change.to)));
        }
        if ends {
            return None;
        }
        let caps = self.caps(now, self.total);
        let whole = standing.is_some_and(|entry| !entry.share.is_part());
        let more = if whole { BitRate::ZERO } else { rate };
        if standing.is_none() && self.overrides.len() >= caps.moves {
            return Some("policy.max_overrides is reached".to_owned());
        }
        if self.overrides.moved() + more > caps.moved || rate > caps.now || caps.moves_now == 0 {
            return Some(
                "policy.max_moved, policy.max_moved_per_minute or policy.max_moves_per_minute is reached"
                    .to_owned(),
            );
        }
        let throws = self.overrides.more_specifics(change.prefix, &self.rib, &self.fib).len();
        (throws > self.policy.max_throws)
            .then(|| "it holds more more-specifics than kernel.max_throws".to_owned())
    }

    /// Carries out a queued change, or all of them, as far as they are still good.
    pub(super) fn approve(&mut self, now: Timestamp, id: Option<u64>) -> Vec<Judged> {
        let changes = match id {
            None => self.approvals.list(),
            Some(id) => match self.approvals.find(id) {
                Some(change) => vec![*change],
                None => return vec![unknown(id)],
            },
        };
        changes.into_iter().map(|change| self.carry_out(now, &change)).collect()
    }

    fn carry_out(&mut self, now: Timestamp, change: &Change) -> Judged {
        let refusal = self.refusal(now, change);
        self.approvals.take(change.prefix);
        let (id, prefix, to) = (change.id, change.prefix, self.exit_name(change.to));
        if let Some(why) = refusal {
            let event = EventKind::ChangeRefused { id, prefix, to: to.clone(), why: why.clone() };
            self.audit.push(now, event);
            return Judged { id, prefix: Some(prefix), to: Some(to), done: false, why: Some(why) };
        }
        self.audit.push(now, EventKind::ChangeApproved { id, prefix, to: to.clone() });
        self.changed = true;
        if let Some(load) =
            self.policy.uplink_of(change.to).and_then(|uplink| self.approved.get_mut(uplink.index()))
        {
            *load += change.share.of(change.rate);
        }
        match self.fib.home(prefix, &self.policy, &self.topology) {
            Ok(home) if home != change.to => {
                let Change { to, share, rate, reason, .. } = *change;
                let placing = Placing { prefix, from: home, to, share, rate, reason };
                let before = self.overrides.get(prefix).map_or(BitRate::ZERO, Override::moved);
                let placed = self.overrides.place(now, &self.policy, placing);
                self.record(now, placing, placed, before);
            }
            _ => {
                if let Some(entry) = self.overrides.end(prefix) {
                    self.ended(now, &entry, EndReason::GivenBack);
                }
            }
        }
        Judged { id, prefix: Some(prefix), to: Some(to), done: true, why: None }
    }

    /// Drops a queued change, and does not ask for it again for as long as a change waits.
    pub(super) fn reject(&mut self, now: Timestamp, id: u64) -> Vec<Judged> {
        let Some(change) = self.approvals.find(id).copied() else { return vec![unknown(id)] };
        self.approvals.take(change.prefix);
        self.approvals.refuse(change.prefix, change.to, now + self.policy.approval);
        self.dropped(now, &change, DropReason::Rejected);
        let to = self.exit_name(change.to);
        vec![Judged { id, prefix: Some(change.prefix), to: Some(to), done: true, why: None }]
    }

    /// `etm approve list`.
    pub fn changes(&self) -> Vec<ChangeView> {
        let view = |change: Change| ChangeView {
            id: change.id,
            prefix: change.prefix,
            from: self.exit_name(change.from),
            to: self.exit_name(change.to),
            share_ppm: change.share.ppm(),
            rate_bps: change.rate,
            reason: self.reason_text(&change.reason),
            since_ns: change.since,
            expires_ns: change.expires,
        };
        self.approvals.list().into_iter().map(view).collect()
    }
}

fn unknown(id: u64) -> Judged {
    let why =
        format!("no change with number {id} waits: it was dropped, or never queued (`etm events` says)");
    Judged { id, prefix: None, to: None, done: false, why: Some(why) }
}
