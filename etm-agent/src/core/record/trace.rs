//! What followed from an input, as far as a replay must repeat it: the change of the decision in full, the log's new
//! entries as text, the rest as digests. Never judges.

use super::digest;
use crate::core::controller::Outcome;
use crate::core::decision::{Announcement, Decision, KernelAction};
use crate::types::{ExitId, Generation, Prefix, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What followed from an input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Change of the decision, where there was a new one.
    pub decision: Option<Change>,
    /// Digest of the changes of the kernel's prefix tables.
    pub table: Option<u64>,
    /// Digest of the rows for the live map.
    pub live: Option<u64>,
    /// New entries of the decision log, each as its JSON.
    pub events: Vec<String>,
}

/// A decision as the difference to the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its number.
    pub generation: Generation,
    /// When it was made.
    pub at: Timestamp,
    /// Kernel routes that are new, changed, or gone.
    pub kernel: Vec<(Prefix, Option<KernelAction>)>,
    /// Announcements that are new, changed, or gone.
    pub announce: Vec<(Prefix, Option<Announced>)>,
}

/// An announcement, its attributes as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Exit.
    pub exit: ExitId,
    /// Digest of the attributes.
    pub attrs: u64,
}

/// A decision as far as traces tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Kernel routes.
    pub kernel: BTreeMap<Prefix, KernelAction>,
    /// Announcements.
    pub announce: BTreeMap<Prefix, Announced>,
}

impl Standing {
    /// Of a decision.
    pub fn of(decision: &Decision) -> Standing {
        let announced = |(prefix, route): (&Prefix, &Announcement)| {
            (*prefix, Announced { exit: route.exit, attrs: digest::of(&*route.attrs) })
        };
        Standing {
            kernel: decision.kernel.clone(),
            announce: decision.announce.iter().map(announced).collect(),
        }
    }

    /// After a change.
    pub fn apply(&mut self, change: &Change) {
        update(&mut self.kernel, &change.kernel);
        update(&mut self.announce, &change.announce);
    }
}

fn update<T: Copy>(map: &mut BTreeMap<Prefix, T>, changes: &[(Prefix, Option<T>)]) {
    for (prefix, value) in changes {
        match value {
            Some(value) => map.insert(*prefix, *value),
            None => map.remove(prefix),
        };
    }
}

fn changes<T: Copy + PartialEq>(
    before: &BTreeMap<Prefix, T>,
    after: &BTreeMap<Prefix, T>,
) -> Vec<(Prefix, Option<T>)> {
    let gone = before.keys().filter(|prefix| !after.contains_key(prefix)).map(|prefix| (*prefix, None));
    let new = after
        .iter()
        .filter(|(prefix, value)| before.get(prefix) != Some(value))
        .map(|(prefix, value)| (*prefix, Some(*value)));
    let mut all: Vec<(Prefix, Option<T>)> = gone.chain(new).collect();
    all.sort_by_key(|(prefix, _)| *prefix);
    all
}

impl Trace {
    /// Of an outcome, after `standing`, which becomes the new one.
    pub fn of(outcome: &Outcome, standing: &mut Standing) -> Trace {
        let decision = outcome.decision.as_ref().map(|decision| {
            let next = Standing::of(decision);
            let change = Change {
                generation: decision.generation,
                at: decision.at,
                kernel: changes(&standing.kernel, &next.kernel),
                announce: changes(&standing.announce, &next.announce),
            };
            *standing = next;
            change
        });
        let text = |event| serde_json::to_string(event).unwrap_or_default();
        Trace {
            decision,
            table: (!outcome.table.is_empty()).then(|| digest::of(&outcome.table)),
            live: outcome.live.as_ref().map(digest::of),
            events: outcome.events.iter().map(text).collect(),
        }
    }

    /// True where nothing followed.
    pub fn is_empty(&self) -> bool {
        *self == Trace::default()
    }
}
