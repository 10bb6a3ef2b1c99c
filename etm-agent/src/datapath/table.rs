//! The kernel's prefix tables: which prefix is counted in which slot.
//!
//! The tries hold the truth, the arrays are derived from them. Insert: the slot is opened for readers, then the trie,
//! then the arrays. Remove: the arrays go back to the covering prefix, then the trie, a grace period, then the last
//! reading; only then may slot and blocks be used again. Never fails for want of room: that is a state, and the prefix
//! then counts for its covering prefix.

use super::arrays::Arrays;
use super::counters::Grid;
use super::error::DatapathError;
use super::mapped::Words;
use super::sys;
use super::trie::Trie;
use crate::core::decision::TableChange;
use crate::core::input::{Released, TableFill};
use crate::types::{Prefix, SlotId};
use aya::maps::{Map, MapError};
use etm_common::names;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Pairs by one system call.
const AT_ONCE: usize = 16 * 1024;
/// In `lengths`: no prefix is counted in the slot.
const NOBODY: u8 = u8::MAX;

/// The table writer's handle.
pub struct PrefixTable {
    v4: Trie<4>,
    v6: Trie<16>,
    grid: Arc<Grid>,
    arrays: Option<Arrays<Words>>,
    /// Length of the prefix that is counted in a slot, by slot.
    lengths: Vec<u8>,
    entries: u64,
    capacity: u64,
    /// Wanted but without room, tried again when something leaves.
    refused: BTreeMap<Prefix, SlotId>,
}

impl PrefixTable {
    pub(super) fn new(
        v4: Map,
        v6: Map,
        capacity: u64,
        grid: Arc<Grid>,
        arrays: Option<Arrays<Words>>,
    ) -> Result<PrefixTable, DatapathError> {
        Ok(PrefixTable {
            v4: Trie::new(v4, names::PREFIX4)?,
            v6: Trie::new(v6, names::PREFIX6)?,
            lengths: vec![NOBODY; grid.slots()],
            grid,
            arrays,
            entries: 0,
            capacity,
            refused: BTreeMap::new(),
        })
    }

    /// What the tries hold: after a restart, what an earlier run left there. The arrays are made equal to it.
    pub(super) fn adopt(&mut self) -> Result<Vec<(Prefix, SlotId)>, DatapathError> {
        let mut entries = self.v4.dump()?;
        entries.append(&mut self.v6.dump()?);
        // The trie's own order is by length first.
        entries.sort_unstable();
        for &(prefix, slot) in &entries {
            self.grid.open_slot(slot);
            self.set_length(slot, prefix.len());
        }
        if let Some(arrays) = &mut self.arrays {
            arrays.rebuild(&entries, sys::grace_period).map_err(grace_failed)?;
        }
        self.entries = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        Ok(entries)
    }

    /// Makes the changes, in order. If any prefix was removed, waits a grace period (5 to 16 ms) and returns the slots
    /// that no packet can reach any more, with their last readings: send many changes at once rather than one by one.
    ///
    /// Each prefix is to be removed before it is inserted with another slot.
    pub fn apply(&mut self, changes: &[TableChange]) -> Result<Released, DatapathError> {
        self.wake()?;
        let mut slots = Vec::new();
        for run in changes.chunk_by(|a, b| is_insert(a) == is_insert(b)) {
            let mut pairs: Vec<(Prefix, SlotId)> = run.iter().map(pair).collect();
            if run.first().is_some_and(is_insert) {
                self.insert(&pairs)?;
            } else {
                // Longest first: what a prefix gives back to must not be about to go itself.
                pairs.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
                for &(prefix, slot) in &pairs {
                    self.remove(prefix, slot)?;
                }
                slots.extend(pairs.iter().map(|&(_, slot)| slot));
            }
        }
        if slots.is_empty() {
            return Ok(Released::default());
        }
        slots.sort_unstable();
        let refused: Vec<(Prefix, SlotId)> = std::mem::take(&mut self.refused).into_iter().collect();
        self.insert(&refused)?;
        sys::grace_period().map_err(grace_failed)?;
        if let Some(arrays) = &mut self.arrays {
            arrays.settle();
        }
        let rows = slots.iter().flat_map(|&slot| self.grid.of_slot(slot)).collect();
        Ok(Released { slots, rows })
    }

    /// Nothing changes for a while: gives back the mapping of the arrays, some 130 MB at Internet size. The next change
    /// maps them again, which takes a few milliseconds.
    pub fn rest(&mut self) {
        let words = self.arrays.iter_mut().flat_map(Arrays::memory);
        words.for_each(Words::rest);
    }

    fn wake(&mut self) -> Result<(), DatapathError> {
        let failed = |cause| DatapathError::Kernel { doing: "map the derived arrays into memory", cause };
        let mut words = self.arrays.iter_mut().flat_map(Arrays::memory);
        words.try_for_each(Words::wake).map_err(failed)
    }

    /// How full the tables are, both families together.
    pub fn fill(&self) -> TableFill {
        let refused = u64::try_from(self.refused.len()).unwrap_or(u64::MAX);
        TableFill { entries: self.entries, capacity: self.capacity, refused }
    }

    /// Prefixes for which the program must ask the trie, because the arrays have no room or do not go as deep.
    pub fn slow(&self) -> u64 {
        self.arrays.as_ref().map_or(self.entries, Arrays::in_trie)
    }

    fn insert(&mut self, pairs: &[(Prefix, SlotId)]) -> Result<(), DatapathError> {
        let mut wanted = [Vec::new(), Vec::new()];
        for &(prefix, slot) in pairs {
            if !self.grid.open_slot(slot) {
                self.refused.insert(prefix, slot);
            } else if self.length(slot) != prefix.len() {
                // Of equal length it is there already: a slot belongs to one prefix.
                wanted[usize::from(matches!(prefix.net(), IpNet::V6(_)))].push((prefix, slot));
            }
        }
        let [v4, v6] = wanted;
        for part in v4.chunks(AT_ONCE).chain(v6.chunks(AT_ONCE)) {
            self.insert_part(part)?;
        }
        Ok(())
    }

    /// Prefixes of one family.
    fn insert_part(&mut self, part: &[(Prefix, SlotId)]) -> Result<(), DatapathError> {
        let (done, problem) = match self.enter(part) {
            Ok(()) => (part.len(), None),
            Err((done, error)) => (done.min(part.len()), Some(error)),
        };
        let (entered, rest) = part.split_at(done);
        for &(prefix, slot) in entered {
            self.set_length(slot, prefix.len());
            if let Some(arrays) = &mut self.arrays {
                arrays.insert(prefix, slot);
            }
            self.entries += 1;
        }
        let (Some(error), Some(&(prefix, _))) = (problem, rest.first()) else { return Ok(()) };
        if error.raw_os_error() != Some(libc::ENOSPC) {
            return Err(DatapathError::Table { doing: "enter", prefix, cause: MapError::IoError(error) });
        }
        // The trie is full: none of the others is asked for.
        self.refused.extend(rest.iter().copied());
        Ok(())
    }

    /// Enters prefixes of one family into its trie; where one is refused, how many came before.
    fn enter(&mut self, part: &[(Prefix, SlotId)]) -> Result<(), (usize, io::Error)> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for &(prefix, slot) in part {
            match prefix.net() {
                IpNet::V4(net) => v4.push((net.network().octets(), prefix.len(), slot)),
                IpNet::V6(net) => v6.push((net.network().octets(), prefix.len(), slot)),
            }
        }
        if v4.is_empty() { self.v6.enter(&v6) } else { self.v4.enter(&v4) }
    }

    fn remove(&mut self, prefix: Prefix, slot: SlotId) -> Result<(), DatapathError> {
        if self.refused.remove(&prefix).is_some() || self.length(slot) != prefix.len() {
            return Ok(());
        }
        let failed = |cause| DatapathError::Table { doing: "take out", prefix, cause };
        if self.arrays.is_some() {
            let parent = self.parent(prefix).map_err(failed)?;
            if let Some(arrays) = &mut self.arrays {
                arrays.remove(prefix, parent);
            }
        }
        match prefix.net() {
            IpNet::V4(net) => self.v4.remove(net.network().octets(), prefix.len()),
            IpNet::V6(net) => self.v6.remove(net.network().octets(), prefix.len()),
        }
        .map_err(failed)?;
        self.set_length(slot, NOBODY);
        self.entries = self.entries.saturating_sub(1);
        Ok(())
    }

    /// The longest shorter prefix that holds `prefix`: asked with one bit less, the trie names exactly that.
    fn parent(&self, prefix: Prefix) -> Result<Option<(SlotId, u8)>, MapError> {
        let Some(len) = prefix.len().checked_sub(1) else { return Ok(None) };
        let found = match prefix.net() {
            IpNet::V4(net) => self.v4.get(net.network().octets(), len),
            IpNet::V6(net) => self.v6.get(net.network().octets(), len),
        }?;
        Ok(found.map(|slot| (slot, self.length(slot))))
    }

    fn length(&self, slot: SlotId) -> u8 {
        self.lengths.get(slot_index(slot)).copied().unwrap_or(NOBODY)
    }

    fn set_length(&mut self, slot: SlotId, len: u8) {
        if let Some(known) = self.lengths.get_mut(slot_index(slot)) {
            *known = len;
        }
    }
}

fn slot_index(slot: SlotId) -> usize {
    usize::try_from(slot.0).unwrap_or(usize::MAX)
}

fn is_insert(change: &TableChange) -> bool {
    matches!(change, TableChange::Insert { .. })
}

fn pair(change: &TableChange) -> (Prefix, SlotId) {
    match *change {
        TableChange::Insert { prefix, slot } | TableChange::Remove { prefix, slot } => (prefix, slot),
    }
}

fn grace_failed(cause: io::Error) -> DatapathError {
    DatapathError::Kernel { doing: "wait until no packet uses the removed prefixes", cause }
}
