//! Finds numbered records by content: a hash table of numbers, the records themselves being the owner's.
//! Never iterated, so that the order of hashing is seen nowhere; the hash is fixed, so equal inputs do equal work.

use serde::{Deserialize, Serialize};

/// No record: numbers are below this.
const EMPTY: u64 = u64::MAX;
/// The table is doubled when more than this many of 8 places are taken.
const FULL: usize = 7;

/// Open addressing with linear probing; each place holds the hash beside the number, so that growing and most
/// misses need no look at a record.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Table {
    places: Vec<u64>,
    used: usize,
}

fn place(hash: u32, id: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(id)
}

fn hash_of(place: u64) -> u32 {
    u32::try_from(place >> 32).unwrap_or_default()
}

fn id_of(place: u64) -> u32 {
    u32::try_from(place & u64::from(u32::MAX)).unwrap_or_default()
}

fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl Table {
    /// The number of the record with this hash that `same` recognises.
    pub(super) fn find(&self, hash: u32, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.places.len().checked_sub(1)?;
        let mut at = index(hash) & mask;
        loop {
            let found = self.places[at];
            if found == EMPTY {
                return None;
            }
            if hash_of(found) == hash && same(id_of(found)) {
                return Some(id_of(found));
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a number that is not in the table; it is below `u32::MAX`.
    pub(super) fn insert(&mut self, hash: u32, id: u32) {
        if (self.used + 1) * 8 > self.places.len() * FULL {
            self.grow();
        }
        self.used += 1;
        Self::put(&mut self.places, place(hash, id));
    }

    fn put(places: &mut [u64], new: u64) {
        let mask = places.len() - 1;
        let mut at = index(hash_of(new)) & mask;
        while places[at] != EMPTY {
            at = (at + 1) & mask;
        }
        places[at] = new;
    }

    fn grow(&mut self) {
        let mut places = vec![EMPTY; (self.places.len() * 2).max(16)];
        for old in self.places.iter().filter(|old| **old != EMPTY) {
            Self::put(&mut places, *old);
        }
        self.places = places;
    }

    /// Takes a number out.
    pub(super) fn remove(&mut self, hash: u32, id: u32) {
        let Some(mask) = self.places.len().checked_sub(1) else { return };
        let mut hole = index(hash) & mask;
        while self.places[hole] != place(hash, id) {
            if self.places[hole] == EMPTY {
                return;
            }
            hole = (hole + 1) & mask;
        }
        self.used -= 1;
        // Whoever was pushed on by the one that leaves moves up, so that no probe ends too early.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let next = self.places[at];
            if next == EMPTY {
                break;
            }
            let home = index(hash_of(next)) & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.places[hole] = next;
                hole = at;
            }
        }
        self.places[hole] = EMPTY;
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.places.capacity() * size_of::<u64>()
    }
}

/// Hash of words: multiply and fold, as FxHash and its kin do. Not keyed: what collides costs a probe more.
pub(super) fn hash(words: &[u32]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = words.iter().fold(0x243f_6a88_85a3_08d3_u64, |state, word| {
        (state.rotate_left(23) ^ u64::from(*word)).wrapping_mul(FACTOR)
    });
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(FACTOR);
    u32::try_from(mixed >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_finds_what_a_map_would_find(steps in prop::collection::vec((0u32..40, any::<bool>()), 1..300)) {
            // Eight hashes for forty records: long probes, and holes in the middle of them.
            let hash_of = |key: u32| key % 8;
            let (mut table, mut oracle) = (Table::default(), BTreeMap::new());
            for (key, insert) in steps {
                if insert && !oracle.contains_key(&key) {
                    table.insert(hash_of(key), key);
                    oracle.insert(key, ());
                } else if !insert && oracle.remove(&key).is_some() {
                    table.remove(hash_of(key), key);
                }
                for key in 0..40 {
                    let found = table.find(hash_of(key), |id| id == key);
                    prop_assert_eq!(found.is_some(), oracle.contains_key(&key));
                }
            }
        }
    }

    #[test]
    fn hashes_of_neighbours_differ() {
        let mut seen: Vec<u32> = (0..1000u32).map(|n| hash(&[7, n, 9]) >> 16).collect();
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 950, "{}", seen.len());
    }
}
