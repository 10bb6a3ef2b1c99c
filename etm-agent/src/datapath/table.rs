//! The kernel's prefix tables: which prefix is counted in which slot.
//!
//! Insert: the slot is opened for readers, then the trie. Remove: the trie, a grace period, then the last reading;
//! only then may the slot be used again. Never fails for want of room: that is a state, and the prefix then counts
//! for its covering prefix.

use super::counters::Grid;
use super::error::DatapathError;
use super::sys;
use crate::core::decision::TableChange;
use crate::core::input::{Released, TableFill};
use crate::types::{Prefix, SlotId};
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapData, MapError};
use etm_common::names;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The table writer's handle.
pub struct PrefixTable {
    v4: LpmTrie<MapData, [u8; 4], u32>,
    v6: LpmTrie<MapData, [u8; 16], u32>,
    grid: Arc<Grid>,
    entries: u64,
    capacity: u64,
    /// Wanted but without room, tried again when something leaves.
    refused: BTreeMap<Prefix, SlotId>,
}

enum Outcome {
    Done,
    NoRoom,
}

impl PrefixTable {
    pub(super) fn new(
        v4: Map,
        v6: Map,
        capacity: u64,
        grid: Arc<Grid>,
    ) -> Result<PrefixTable, DatapathError> {
        let open = |map| move |cause| DatapathError::Map { doing: "open", map, cause };
        Ok(PrefixTable {
            v4: v4.try_into().map_err(open(names::PREFIX4))?,
            v6: v6.try_into().map_err(open(names::PREFIX6))?,
            grid,
            entries: 0,
            capacity,
            refused: BTreeMap::new(),
        })
    }

    /// What the tries hold: after a restart, what an earlier run left there.
    pub(super) fn adopt(&mut self) -> Result<Vec<(Prefix, SlotId)>, DatapathError> {
        let mut entries = Vec::new();
        let read = |map| move |cause| DatapathError::Map { doing: "read", map, cause };
        for entry in self.v4.iter() {
            let (key, slot) = entry.map_err(read(names::PREFIX4))?;
            entries.extend(prefix(key.data().into(), key.prefix_len()).map(|prefix| (prefix, SlotId(slot))));
        }
        for entry in self.v6.iter() {
            let (key, slot) = entry.map_err(read(names::PREFIX6))?;
            entries.extend(prefix(key.data().into(), key.prefix_len()).map(|prefix| (prefix, SlotId(slot))));
        }
        entries.iter().for_each(|&(_, slot)| _ = self.grid.open_slot(slot));
        // The trie's own order is by length first.
        entries.sort_unstable();
        self.entries = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        Ok(entries)
    }

    /// Makes the changes, in order. If any prefix was removed, waits a grace period (5 to 16 ms) and returns the slots
    /// that no packet can reach any more, with their last readings: send many changes at once rather than one by one.
    ///
    /// Each prefix is to be removed before it is inserted with another slot.
    pub fn apply(&mut self, changes: &[TableChange]) -> Result<Released, DatapathError> {
        let mut slots = Vec::new();
        for &change in changes {
            match change {
                TableChange::Insert { prefix, slot } => self.enter(prefix, slot)?,
                TableChange::Remove { prefix, slot } => {
                    if self.refused.remove(&prefix).is_none() {
                        self.remove(prefix)?;
                    }
                    slots.push(slot);
                }
            }
        }
        if slots.is_empty() {
            return Ok(Released::default());
        }
        self.retry_refused()?;
        sys::grace_period().map_err(|cause| DatapathError::Kernel {
            doing: "wait until no packet uses the removed prefixes",
            cause,
        })?;
        let rows = slots.iter().flat_map(|&slot| self.grid.of_slot(slot)).collect();
        Ok(Released { slots, rows })
    }

    /// How full the tables are, both families together.
    pub fn fill(&self) -> TableFill {
        let refused = u64::try_from(self.refused.len()).unwrap_or(u64::MAX);
        TableFill { entries: self.entries, capacity: self.capacity, refused }
    }

    fn enter(&mut self, prefix: Prefix, slot: SlotId) -> Result<(), DatapathError> {
        if let Outcome::NoRoom = self.insert(prefix, slot)? {
            self.refused.insert(prefix, slot);
        }
        Ok(())
    }

    /// Prefix order, so that equal histories leave equal tables.
    fn retry_refused(&mut self) -> Result<(), DatapathError> {
        for (prefix, slot) in std::mem::take(&mut self.refused) {
            self.enter(prefix, slot)?;
        }
        Ok(())
    }

    fn insert(&mut self, prefix: Prefix, slot: SlotId) -> Result<Outcome, DatapathError> {
        if !self.grid.open_slot(slot) {
            return Ok(Outcome::NoRoom);
        }
        let len = u32::from(prefix.len());
        let result = match prefix.net() {
            IpNet::V4(net) => self.v4.insert(&Key::new(len, net.network().octets()), slot.0, 0),
            IpNet::V6(net) => self.v6.insert(&Key::new(len, net.network().octets()), slot.0, 0),
        };
        match result {
            Ok(()) => {
                self.entries += 1;
                Ok(Outcome::Done)
            }
            Err(error) if errno(&error) == Some(libc::ENOSPC) => Ok(Outcome::NoRoom),
            Err(cause) => Err(DatapathError::Table { doing: "enter", prefix, cause }),
        }
    }

    fn remove(&mut self, prefix: Prefix) -> Result<(), DatapathError> {
        let len = u32::from(prefix.len());
        let result = match prefix.net() {
            IpNet::V4(net) => self.v4.remove(&Key::new(len, net.network().octets())),
            IpNet::V6(net) => self.v6.remove(&Key::new(len, net.network().octets())),
        };
        match result {
            Ok(()) => {
                self.entries = self.entries.saturating_sub(1);
                Ok(())
            }
            // Not there is what was wanted.
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
            Err(cause) => Err(DatapathError::Table { doing: "take out", prefix, cause }),
        }
    }
}

/// The kernel takes any length up to that of the key, so every key it returns is a prefix.
fn prefix(addr: IpAddr, len: u32) -> Option<Prefix> {
    Prefix::new(addr, u8::try_from(len).ok()?).ok()
}

/// The kernel's answer inside aya's error.
pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::IoError(error) => error.raw_os_error(),
        MapError::KeyNotFound | MapError::ElementNotFound => Some(libc::ENOENT),
        _ => None,
    }
}
