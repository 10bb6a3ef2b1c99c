//! Which row of the kernel's counters belongs to which prefix.
//! Never gives a row to a new prefix while a packet may still be counted in it for the old one.

use super::decision::{Adopted, TableChange};
use crate::types::{Prefix, PrefixMap, SlotId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Which prefix has which row: eight bytes where it is IPv4, as most are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Owners {
    rows: Vec<Owner>,
    /// IPv6 prefixes by the number in their row.
    wide: Vec<Option<Prefix>>,
    free: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Owner {
    Nobody,
    V4([u8; 4], u8),
    V6([u8; 4]),
}

const _: () = assert!(size_of::<Owner>() <= 8);

impl Owners {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn grow_to(&mut self, rows: usize) {
        self.rows.resize(rows.max(self.rows.len()), Owner::Nobody);
    }

    fn get(&self, row: usize) -> Option<Prefix> {
        match *self.rows.get(row)? {
            Owner::Nobody => None,
            Owner::V4(addr, len) => Prefix::new(addr.into(), len).ok(),
            Owner::V6(number) => self.wide.get(wide(number)).copied().flatten(),
        }
    }

    fn set(&mut self, row: usize, prefix: Option<Prefix>) {
        let Some(entry) = self.rows.get_mut(row) else { return };
        if let Owner::V6(number) = *entry {
            self.wide[wide(number)] = None;
            self.free.push(u32::from_le_bytes(number));
        }
        *entry = match prefix.map(|prefix| (prefix, prefix.addr())) {
            None => Owner::Nobody,
            Some((prefix, IpAddr::V4(addr))) => Owner::V4(addr.octets(), prefix.len()),
            Some((_, IpAddr::V6(_))) => {
                let number = self.free.pop().unwrap_or_else(|| {
                    self.wide.push(None);
                    u32::try_from(self.wide.len() - 1).unwrap_or(u32::MAX)
                });
                self.wide[wide(number.to_le_bytes())] = prefix;
                Owner::V6(number.to_le_bytes())
            }
        };
    }
}

fn wide(number: [u8; 4]) -> usize {
    usize::try_from(u32::from_le_bytes(number)).unwrap_or(usize::MAX)
}

/// Owner of the rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slots {
    of_prefix: PrefixMap<SlotId>,
    prefix_of: Owners,
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
            prefix_of: Owners::default(),
            free: Vec::new(),
            capacity,
            waiting: BTreeSet::new(),
            changes: Vec::new(),
        };
        for (prefix, slot) in &adopted.entries {
            slots.grow_to(slot.0.saturating_add(1));
            if index(*slot) < slots.prefix_of.len() {
                slots.prefix_of.set(index(*slot), Some(*prefix));
                slots.of_prefix.insert(*prefix, *slot);
            }
        }
        // Rows below the highest adopted one that no entry names are free: nothing can reach them.
        let free = (0..slots.prefix_of.len()).rev().filter(|row| slots.prefix_of.get(*row).is_none());
        slots.free = free.map(|row| SlotId(u32::try_from(row).unwrap_or(u32::MAX))).collect();
        slots
    }

    fn grow_to(&mut self, rows: u32) {
        let rows = usize::try_from(rows.min(self.capacity)).unwrap_or(usize::MAX);
        if self.prefix_of.len() < rows {
            self.prefix_of.grow_to(rows);
        }
    }

    /// The row of `prefix`.
    pub fn get(&self, prefix: Prefix) -> Option<SlotId> {
        self.of_prefix.get(prefix).copied()
    }

    /// The prefix counted in `slot`.
    pub fn prefix(&self, slot: SlotId) -> Option<Prefix> {
        self.prefix_of.get(index(slot))
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
        let next = u32::try_from(self.prefix_of.len()).unwrap_or(u32::MAX);
        let room = self.free.last().copied().or((next < self.capacity).then_some(SlotId(next)));
        let Some(slot) = room else {
            if self.get(prefix).is_none() {
                self.waiting.insert(prefix);
            }
            return;
        };
        // One search for both: whether it has a row, and its place if not. A row is taken only once it is used.
        let known = self.of_prefix.len();
        self.of_prefix.get_or_insert(prefix, slot);
        if self.of_prefix.len() == known {
            return;
        }
        if self.free.pop().is_none() {
            self.prefix_of.grow_to(self.prefix_of.len() + 1);
        }
        self.prefix_of.set(index(slot), Some(prefix));
        self.changes.push(TableChange::Insert { prefix, slot });
    }

    /// Stops counting `prefix`; its row stays taken until `released`.
    pub fn remove(&mut self, prefix: Prefix) {
        self.waiting.remove(&prefix);
        let Some(slot) = self.of_prefix.remove(prefix) else { return };
        self.prefix_of.set(index(slot), None);
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

    #[test]
    fn rows_of_both_families_know_their_prefixes() {
        let mut slots = Slots::new(8, &Adopted::default());
        for text in ["2001:db8::/32", "198.18.0.0/24", "2001:db8:1::/48", "0.0.0.0/0"] {
            slots.insert(p(text));
        }
        slots.remove(p("2001:db8::/32"));
        slots.released(&[SlotId(0)]);
        slots.insert(p("2001:db8:2::/48"));
        let seen: Vec<String> =
            (0..4).filter_map(|row| slots.prefix(SlotId(row))).map(|p| p.to_string()).collect();
        assert_eq!(seen, ["2001:db8:2::/48", "198.18.0.0/24", "2001:db8:1::/48", "0.0.0.0/0"]);
    }
}
