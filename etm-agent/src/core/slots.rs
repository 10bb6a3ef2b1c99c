//! Which row of the kernel's counters belongs to which prefix.
//! Never gives a row to a new prefix while a packet may still be counted in it for the old one.

use super::decision::{Adopted, TableChange};
use crate::types::{Prefix, PrefixMap, SlotId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Owner of the rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slots {
    of_prefix: PrefixMap<SlotId>,
    prefix_of: Vec<Option<Prefix>>,
    free: Vec<SlotId>,
    capacity: u32,
    /// Prefixes that found no free row, in case one becomes free.
    waiting: BTreeSet<Prefix>,
    changes: Vec<TableChange>,
}

impl Slots {
    /// All rows free, except those adopted from an earlier run.
    pub fn new(capacity: u32, adopted: &Adopted) -> Slots {
        let mut slots = Slots {
            of_prefix: PrefixMap::new(),
            prefix_of: Vec::new(),
            free: Vec::new(),
            capacity,
            waiting: BTreeSet::new(),
            changes: Vec::new(),
        };
        for (prefix, slot) in &adopted.entries {
            slots.grow_to(slot.0.saturating_add(1));
            if let Some(entry) = slots.prefix_of.get_mut(index(*slot)) {
                *entry = Some(*prefix);
                slots.of_prefix.insert(*prefix, *slot);
            }
        }
        // Rows below the highest adopted one that no entry names are free: nothing can reach them.
        let used = slots.prefix_of.clone();
        for (row, prefix) in used.iter().enumerate().rev() {
            if prefix.is_none() {
                slots.free.push(SlotId(u32::try_from(row).unwrap_or(u32::MAX)));
            }
        }
        slots
    }

    fn grow_to(&mut self, rows: u32) {
        let rows = usize::try_from(rows.min(self.capacity)).unwrap_or(usize::MAX);
        if self.prefix_of.len() < rows {
            self.prefix_of.resize(rows, None);
        }
    }

    /// The row of `prefix`.
    pub fn get(&self, prefix: Prefix) -> Option<SlotId> {
        self.of_prefix.get(prefix).copied()
    }

    /// The prefix counted in `slot`.
    pub fn prefix(&self, slot: SlotId) -> Option<Prefix> {
        self.prefix_of.get(index(slot)).copied().flatten()
    }

    /// Every prefix that has a row, in prefix order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, SlotId)> + '_ {
        self.of_prefix.iter().map(|(prefix, slot)| (prefix, *slot))
    }

    /// As `iter`, of the prefixes after `prefix`.
    pub fn iter_after(&self, prefix: Option<Prefix>) -> impl Iterator<Item = (Prefix, SlotId)> + '_ {
        self.of_prefix.iter_after(prefix).map(|(prefix, slot)| (prefix, *slot))
    }

    /// Counts `prefix` from now on. Without a free row it is refused, and counts for its covering prefix.
    pub fn insert(&mut self, prefix: Prefix) {
        if self.get(prefix).is_some() {
            return;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let next = u32::try_from(self.prefix_of.len()).unwrap_or(u32::MAX);
                if next >= self.capacity {
                    self.waiting.insert(prefix);
                    return;
                }
                self.prefix_of.push(None);
                SlotId(next)
            }
        };
        if let Some(entry) = self.prefix_of.get_mut(index(slot)) {
            *entry = Some(prefix);
        }
        self.of_prefix.insert(prefix, slot);
        self.changes.push(TableChange::Insert { prefix, slot });
    }

    /// Stops counting `prefix`; its row stays taken until `released`.
    pub fn remove(&mut self, prefix: Prefix) {
        self.waiting.remove(&prefix);
        let Some(slot) = self.of_prefix.remove(prefix) else { return };
        if let Some(entry) = self.prefix_of.get_mut(index(slot)) {
            *entry = None;
        }
        self.changes.push(TableChange::Remove { prefix, slot });
    }

    /// A grace period after their removal these rows can be used again.
    pub fn released(&mut self, slots: &[SlotId]) {
        self.free.extend_from_slice(slots);
        while !self.free.is_empty()
            && let Some(prefix) = self.waiting.pop_first()
        {
            self.insert(prefix);
        }
    }

    /// The changes since the last call, in order.
    pub fn take_changes(&mut self) -> Vec<TableChange> {
        std::mem::take(&mut self.changes)
    }

    /// Prefixes that have no row because none is free.
    pub fn refused(&self) -> u64 {
        u64::try_from(self.waiting.len()).unwrap_or(u64::MAX)
    }

    /// Number of prefixes that have a row.
    pub fn len(&self) -> usize {
        self.of_prefix.len()
    }

    /// True where no prefix has a row.
    pub fn is_empty(&self) -> bool {
        self.of_prefix.is_empty()
    }
}

fn index(slot: SlotId) -> usize {
    usize::try_from(slot.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_row_is_not_reused_before_it_is_released() {
        let mut slots = Slots::new(2, &Adopted::default());
        slots.insert(p("198.18.0.0/24"));
        slots.remove(p("198.18.0.0/24"));
        slots.insert(p("198.18.1.0/24"));
        assert_eq!(slots.get(p("198.18.1.0/24")), Some(SlotId(1)));
        slots.insert(p("198.18.2.0/24"));
        assert_eq!((slots.get(p("198.18.2.0/24")), slots.refused()), (None, 1));
        slots.released(&[SlotId(0)]);
        assert_eq!(
            (slots.get(p("198.18.2.0/24")), slots.refused()),
            (Some(SlotId(0)), 0),
            "who waited comes first"
        );
    }

    #[test]
    fn adopted_prefixes_keep_their_rows_and_holes_are_free() {
        let adopted = Adopted { entries: vec![(p("198.18.0.0/24"), SlotId(2))], ..Adopted::default() };
        let mut slots = Slots::new(8, &adopted);
        assert_eq!(slots.get(p("198.18.0.0/24")), Some(SlotId(2)));
        slots.insert(p("198.18.0.0/24"));
        assert!(slots.take_changes().is_empty());
        for (text, row) in [("198.18.1.0/24", 0), ("198.18.2.0/24", 1), ("198.18.3.0/24", 3)] {
            slots.insert(p(text));
            assert_eq!(slots.get(p(text)), Some(SlotId(row)));
        }
    }

    #[test]
    fn changes_come_out_once_and_in_order() {
        let mut slots = Slots::new(8, &Adopted::default());
        slots.insert(p("198.18.0.0/24"));
        slots.remove(p("198.18.0.0/24"));
        let changes = slots.take_changes();
        assert!(matches!(changes[..], [TableChange::Insert { .. }, TableChange::Remove { .. }]));
        assert!(slots.take_changes().is_empty());
    }
}
