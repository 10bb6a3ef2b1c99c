//! What each active prefix may choose from, remembered until a route, the kernel's table or a link changes.
//! Never differs from what it would be if it were found anew: it only saves the finding.

use super::fib_view::{FibView, NotOurs};
use super::policy::Policy;
use super::rib::Rib;
use super::topology::Topology;
use crate::types::{ExitId, Prefix, SlotId};

/// What is known of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Whose it is: a row may change hands.
    pub prefix: Prefix,
    /// Where plain routing sends it, or why that is not ETM's to change.
    pub home: Result<ExitId, NotOurs>,
    /// Exits it may use, the preferred one first; empty where there is nothing to choose.
    pub exits: Box<[ExitId]>,
    /// The exit that the operator chose.
    pub pin: Option<ExitId>,
}

/// Everything that a choice follows from.
#[derive(Clone, Copy)]
pub struct Grounds<'a> {
    /// Operator's intent.
    pub policy: &'a Policy,
    /// Exits and links.
    pub topology: &'a Topology,
    /// Candidates.
    pub rib: &'a Rib,
    /// Plain routing.
    pub fib: &'a FibView,
}

/// Choices by row of the counters.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    rows: Vec<Option<Choice>>,
}

impl Choices {
    /// Makes sure that the choice of a row is known.
    pub fn find(&mut self, slot: SlotId, prefix: Prefix, grounds: Grounds<'_>) {
        let index = index(slot);
        if self.rows.len() <= index {
            self.rows.resize(index + 1, None);
        }
        if self.rows[index].as_ref().is_none_or(|choice| choice.prefix != prefix) {
            self.rows[index] = Some(choice(prefix, grounds));
        }
    }

    /// The choice of a row, where it is known.
    pub fn get(&self, slot: SlotId) -> Option<&Choice> {
        self.rows.get(index(slot))?.as_ref()
    }

    /// True where no choice is known: there is nothing to forget.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A row must be found anew.
    pub fn forget(&mut self, slot: SlotId) {
        if let Some(row) = self.rows.get_mut(index(slot)) {
            *row = None;
        }
    }

    /// All rows must be found anew.
    pub fn forget_all(&mut self) {
        self.rows.clear();
    }
}

/// What `prefix` may choose from.
pub fn choice(prefix: Prefix, grounds: Grounds<'_>) -> Choice {
    let Grounds { policy, topology, rib, fib } = grounds;
    let home = fib.home(prefix, policy, topology);
    let exits = match home {
        Ok(home) if !prefix.is_default() && !policy.excludes(prefix) && policy.canary.admits(prefix) => {
            let candidates = rib.candidates(prefix, topology).into_iter().map(|candidate| candidate.exit);
            let allowed: Box<[ExitId]> =
                candidates.filter(|exit| *exit == home || !policy.forbids(prefix, *exit)).collect();
            // Invariant 8: plain routing's choice must itself be a candidate, or the kernel's route is not what it seems.
            if allowed.contains(&home) { allowed } else { Box::default() }
        }
        _ => Box::default(),
    };
    Choice { prefix, home, exits, pin: policy.pin_of(prefix) }
}

fn index(slot: SlotId) -> usize {
    usize::try_from(slot.0).unwrap_or(usize::MAX)
}
