//! Routes that may be out of date: of a peer that restarts (RFC 4724), or sends its table again (RFC 7313).
//! Holds families and deadlines; the routes themselves are the decision's. Never offers a restart of our own.

use crate::proto::bgp::{Negotiated, SessionFault};
use crate::types::Family;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// The stale families of one peer, each with the time at which the rest of it is swept.
#[derive(Debug, Default)]
pub(super) struct Stale {
    families: BTreeMap<Family, Instant>,
}

/// Families that outlive the end of a session, and for how long. Only a connection that breaks without a word is a
/// restart: whoever sends a NOTIFICATION, or is sent one, means what it says (RFC 4724 section 4).
pub(super) fn retainable(
    session: Option<&Negotiated>,
    fault: &SessionFault,
    longest: Duration,
) -> Option<(Vec<Family>, Duration)> {
    let silent = matches!(fault, SessionFault::Closed | SessionFault::Broken { .. } | SessionFault::Replaced);
    let restart = session?.restart.as_ref().filter(|_| silent && !longest.is_zero())?;
    let families = restart.families.clone();
    (!families.is_empty()).then(|| (families, restart.time.min(longest)))
}

impl Stale {
    /// The peer is down; its routes of these families stay until `until`.
    pub(super) fn keep(&mut self, families: &[Family], until: Instant) {
        self.families = families.iter().map(|family| (*family, until)).collect();
    }

    /// The peer is back: what it did not keep forwarding is swept at once, the rest when its table is complete, or
    /// at `until`. Returns the former.
    pub(super) fn returned(&mut self, session: &Negotiated, until: Instant) -> Vec<Family> {
        let kept = session.restart.as_ref().map_or(&[][..], |restart| &restart.forwarding);
        let lost: Vec<Family> =
            self.families.keys().filter(|family| !kept.contains(family)).copied().collect();
        for family in &lost {
            self.families.remove(family);
        }
        self.families.values_mut().for_each(|deadline| *deadline = until);
        lost
    }

    /// The peer begins to send its table of `family` again.
    pub(super) fn refreshing(&mut self, family: Family, until: Instant) {
        self.families.insert(family, until);
    }

    /// The table of `family` is complete; true where something may be left to sweep.
    pub(super) fn complete(&mut self, family: Family) -> bool {
        self.families.remove(&family).is_some()
    }

    /// The next time something is to be swept.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.families.values().min().copied()
    }

    /// Families whose time is up; for ever kept ones there are none.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<Family> {
        let gone: Vec<Family> =
            self.families.iter().filter(|(_, at)| **at <= now).map(|(family, _)| *family).collect();
        for family in &gone {
            self.families.remove(family);
        }
        gone
    }

    /// Everything there is; afterwards nothing is.
    pub(super) fn forget(&mut self) -> Vec<Family> {
        std::mem::take(&mut self.families).into_keys().collect()
    }

    /// The stale families.
    pub(super) fn families(&self) -> Vec<Family> {
        self.families.keys().copied().collect()
    }
}
