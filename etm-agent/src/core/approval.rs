//! Changes that wait for a person: one per prefix, each with a number and an end. Never applies anything.

use super::decision::OverrideReason;
use crate::types::{BitRate, ExitId, FlowShare, Prefix, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A change that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its number, growing from 1.
    pub id: u64,
    /// Destination.
    pub prefix: Prefix,
    /// Where it goes now.
    pub from: ExitId,
    /// Where it would go; plain routing's choice ends an override.
    pub to: ExitId,
    /// The part of its flows that would go there.
    pub share: FlowShare,
    /// Demand when it was planned last.
    pub rate: BitRate,
    /// Why.
    pub reason: OverrideReason,
    /// When it was queued.
    pub since: Timestamp,
    /// When it is dropped.
    pub expires: Timestamp,
}

/// What a proposal did to the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// It waits now under this number.
    Queued(u64),
    /// It takes the place of another change of the same prefix.
    Replaced {
        /// Its number.
        id: u64,
        /// What waited before.
        was: Change,
    },
    /// It waits already.
    Kept,
}

/// All changes that wait.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Approvals {
    queue: BTreeMap<Prefix, Change>,
    planned: BTreeMap<Prefix, (ExitId, FlowShare)>,
    rejected: BTreeMap<(Prefix, ExitId), Timestamp>,
    last: u64,
}

impl Approvals {
    /// Queues a change; its number and its end are given here.
    pub fn propose(&mut self, now: Timestamp, patience: Duration, change: Change) -> Proposed {
        let known = self.queue.get_mut(&change.prefix);
        if let Some(known) = known
            && (known.to, known.share) == (change.to, change.share)
        {
            (known.rate, known.from) = (change.rate, change.from);
            return Proposed::Kept;
        }
        self.last += 1;
        let (prefix, to, share, id) = (change.prefix, change.to, change.share, self.last);
        let was = self.queue.insert(prefix, Change { id, since: now, expires: now + patience, ..change });
        self.planned.insert(prefix, (to, share));
        was.map_or(Proposed::Queued(id), |was| Proposed::Replaced { id, was })
    }

    /// Takes the change of `prefix` out.
    pub fn take(&mut self, prefix: Prefix) -> Option<Change> {
        self.planned.remove(&prefix);
        self.queue.remove(&prefix)
    }

    /// Takes everything out.
    pub fn take_all(&mut self) -> Vec<Change> {
        self.planned.clear();
        std::mem::take(&mut self.queue).into_values().collect()
    }

    /// Takes out what nobody approved in time, and forgets refusals that are as old.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Change> {
        self.rejected.retain(|_, until| now < *until);
        let old: Vec<Prefix> =
            self.queue.values().filter(|change| now >= change.expires).map(|change| change.prefix).collect();
        old.into_iter().filter_map(|prefix| self.take(prefix)).collect()
    }

    /// Does not ask for this change again before `until`.
    pub fn refuse(&mut self, prefix: Prefix, to: ExitId, until: Timestamp) {
        self.rejected.insert((prefix, to), until);
    }

    /// The change with this number.
    pub fn find(&self, id: u64) -> Option<&Change> {
        self.queue.values().find(|change| change.id == id)
    }

    /// All, in order of their numbers.
    pub fn list(&self) -> Vec<Change> {
        let mut all: Vec<Change> = self.queue.values().copied().collect();
        all.sort_by_key(|change| change.id);
        all
    }

    /// Where each prefix is planned to go, and what part of its flows.
    pub fn planned(&self) -> &BTreeMap<Prefix, (ExitId, FlowShare)> {
        &self.planned
    }

    /// What a person refused, and until when.
    pub fn rejected(&self) -> &BTreeMap<(Prefix, ExitId), Timestamp> {
        &self.rejected
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True where none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(prefix: &str, to: u16) -> Change {
        Change {
            share: FlowShare::ALL,
            id: 0,
            prefix: prefix.parse().unwrap(),
            from: ExitId(0),
            to: ExitId(to),
            rate: BitRate(1),
            reason: OverrideReason::Pinned,
            since: Timestamp(0),
            expires: Timestamp(0),
        }
    }

    #[test]
    fn a_change_keeps_its_number_until_it_is_another_change_or_too_old() {
        let mut approvals = Approvals::default();
        let patience = Duration::from_nanos(10);
        assert_eq!(approvals.propose(Timestamp(1), patience, change("10.0.0.0/8", 1)), Proposed::Queued(1));
        assert_eq!(approvals.propose(Timestamp(5), patience, change("10.0.0.0/8", 1)), Proposed::Kept);
        let other = approvals.propose(Timestamp(6), patience, change("10.0.0.0/8", 2));
        assert!(matches!(other, Proposed::Replaced { id: 2, was: Change { id: 1, .. } }));
        assert_eq!(approvals.planned().values().collect::<Vec<_>>(), [&(ExitId(2), FlowShare::ALL)]);
        assert!(approvals.expire(Timestamp(15)).is_empty());
        assert_eq!(approvals.expire(Timestamp(16)).len(), 1);
        assert!(approvals.is_empty() && approvals.planned().is_empty());
    }

    #[test]
    fn a_refusal_is_remembered_for_a_while() {
        let mut approvals = Approvals::default();
        approvals.refuse("10.0.0.0/8".parse().unwrap(), ExitId(1), Timestamp(9));
        approvals.expire(Timestamp(8));
        assert_eq!(approvals.rejected().len(), 1);
        approvals.expire(Timestamp(9));
        assert!(approvals.rejected().is_empty());
    }
}
