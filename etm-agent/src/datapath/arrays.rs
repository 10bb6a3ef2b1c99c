//! The derived arrays that answer most packets in one to six loads (`etm_common::word`), kept equal to the tries.
//!
//! Leaves are pushed down: the last word on an address's way alone decides, so each store is a whole change for the
//! addresses below it, and a packet sees the old longest match or the new one. What finds no room here is flagged, and
//! the program asks the trie. Never reads or writes the tries, and never waits.

use crate::types::{Prefix, SlotId};
use etm_common::word::{
    BLOCK_BITS, BLOCK_WORDS, DEFAULT4, DEFAULT6, DIR_BITS, DIR6_WORDS, GLOBAL_UNICAST, LENGTH, LENGTH_SHIFT,
    LOW, NODE, TRIE, V6_BITS,
};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::io;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicU32, Ordering};

const LEAF: u32 = LOW | LENGTH;

/// The arrays themselves.
pub(super) struct Tables<W> {
    pub(super) dir4: W,
    pub(super) dir6: W,
    pub(super) node: W,
    pub(super) default: W,
}

/// The arrays and what their writer must remember. `W`: mapped memory, or plain memory in tests.
pub(super) struct Arrays<W> {
    tables: Tables<W>,
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// Unlinked, but a packet may still be on its way through.
    unlinked: Vec<u32>,
    /// Flagged words, and how many prefixes only the trie knows below them.
    in_trie: BTreeMap<At, u32>,
}

/// What is known of a block.
#[derive(Clone, Copy)]
struct Block {
    /// The leaf that stands where the block is linked, should it go.
    own: u32,
    parent: At,
    /// Prefixes that end in it, blocks linked from it and flagged words. At 0 it goes.
    used: u32,
}

/// Where a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    table: Table,
    index: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Dir4,
    Dir6,
    Node,
}

/// A prefix as the arrays see it.
#[derive(Clone, Copy)]
struct Route {
    table: Table,
    /// The first 64 bits of the address.
    bits: u64,
    len: u32,
}

impl Route {
    fn of(prefix: Prefix) -> Route {
        let len = u32::from(prefix.len());
        match prefix.net() {
            IpNet::V4(net) => {
                Route { table: Table::Dir4, bits: u64::from(u32::from(net.network())) << 32, len }
            }
            IpNet::V6(net) => {
                let [high, _] = halves(u128::from(net.network()));
                Route { table: Table::Dir6, bits: high, len }
            }
        }
    }

    /// Bits that directory and blocks resolve.
    fn deepest(self) -> u32 {
        match self.table {
            Table::Dir4 => DIR_BITS + BLOCK_BITS,
            Table::Dir6 | Table::Node => V6_BITS,
        }
    }

    /// The words of the directory that the prefix covers, or the one it is below. None: it has no part in it.
    fn dir(self) -> Option<Range<usize>> {
        let width = |bits: u32| 1_usize << bits.saturating_sub(self.len);
        let first = index(self.bits >> (64 - DIR_BITS));
        match self.table {
            Table::Dir4 | Table::Node => Some(first..first + width(DIR_BITS)),
            Table::Dir6 => {
                let shared = self.len.min(3);
                let inside = self.len == 0 || self.bits >> (64 - shared) == GLOBAL_UNICAST >> (3 - shared);
                let all = index(u64::from(DIR6_WORDS));
                let first = if self.len < 3 { 0 } else { first & (all - 1) };
                inside.then(|| first..first + width(DIR_BITS).min(all))
            }
        }
    }

    /// The octet of the address that follows `bits`.
    fn octet(self, bits: u32) -> usize {
        index(self.bits << bits >> (64 - BLOCK_BITS))
    }
}

fn halves(bits: u128) -> [u64; 2] {
    [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or_default())
}

fn index(number: u64) -> usize {
    // Never larger than an array.
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A leaf for `slot`; `len` is relative to where its table or block begins, 0 where it comes from above that.
fn leaf(slot: SlotId, len: u32) -> u32 {
    (slot.0 + 1) & LOW | len << LENGTH_SHIFT
}

impl At {
    fn block(block: u32, octet: usize) -> At {
        At { table: Table::Node, index: index(u64::from(block << BLOCK_BITS)) + octet }
    }

    /// The block that holds the word.
    fn holder(self) -> Option<usize> {
        (self.table == Table::Node).then_some(self.index >> BLOCK_BITS)
    }
}

impl<W: Deref<Target = [AtomicU32]>> Arrays<W> {
    /// Takes the arrays as they are; `rebuild` makes them right.
    pub(super) fn new(tables: Tables<W>) -> Arrays<W> {
        let count = tables.node.len() >> BLOCK_BITS;
        let nowhere = Block { own: 0, parent: At { table: Table::Dir4, index: 0 }, used: 0 };
        let mut arrays = Arrays {
            tables,
            blocks: vec![nowhere; count],
            free: Vec::new(),
            unlinked: Vec::new(),
            in_trie: BTreeMap::new(),
        };
        arrays.free_all();
        arrays
    }

    /// The memory that the arrays are in, to be mapped and given back; meanwhile nothing else may be asked.
    pub(super) fn memory(&mut self) -> [&mut W; 4] {
        let Tables { dir4, dir6, node, default } = &mut self.tables;
        [dir4, dir6, node, default]
    }

    /// Counts `prefix`, which was not counted, in `slot`. To be called when the trie has it.
    pub(super) fn insert(&mut self, prefix: Prefix, slot: SlotId) {
        let route = Route::of(prefix);
        if route.len == 0 {
            self.set_default(route.table, leaf(slot, 0));
            return;
        }
        let Some(range) = route.dir() else { return };
        if route.len <= DIR_BITS {
            self.enter(route.table, range, slot, route.len);
        } else {
            self.insert_below(At { table: route.table, index: range.start }, DIR_BITS, route, slot);
        }
    }

    /// Counts `prefix`, which was counted, for `parent` from now on: slot and length of the longest shorter prefix
    /// that holds it. To be called before the trie loses it.
    pub(super) fn remove(&mut self, prefix: Prefix, parent: Option<(SlotId, u8)>) {
        let route = Route::of(prefix);
        if route.len == 0 {
            self.set_default(route.table, 0);
            return;
        }
        let Some(range) = route.dir() else { return };
        if route.len <= DIR_BITS {
            self.give_back(route.table, range, route.len, parent_word(parent, 0));
            return;
        }
        let (mut at, mut end) = (At { table: route.table, index: range.start }, DIR_BITS);
        while let Some(block) = self.block_at(at) {
            let (begin, first) = (end, At::block(block, route.octet(end)).index);
            end += BLOCK_BITS;
            at = At { table: Table::Node, index: first };
            if route.len <= end {
                let range = first..first + (1 << (end - route.len));
                self.give_back(Table::Node, range, route.len - begin, parent_word(parent, begin));
                self.release(at);
                return;
            }
        }
        self.leave_trie(at);
    }

    /// Blocks that were unlinked before the last grace period can be used again.
    pub(super) fn settle(&mut self) {
        self.free.append(&mut self.unlinked);
    }

    /// Makes the arrays equal to `entries`, in prefix order, whatever they hold: after a crash, or at the first start.
    /// Meanwhile the program asks the trie where an answer could be wrong; `grace_period` waits for the packets that
    /// look into blocks.
    pub(super) fn rebuild(
        &mut self,
        entries: &[(Prefix, SlotId)],
        grace_period: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let flagged = self.flag_blocks();
        if !flagged.is_empty() {
            grace_period()?;
        }
        self.free_all();
        self.scrub(Table::Dir4, entries);
        self.scrub(Table::Dir6, entries);
        let below = |(prefix, _): &&(Prefix, SlotId)| u32::from(prefix.len()) > DIR_BITS;
        let deep: Vec<(Route, SlotId)> =
            entries.iter().filter(below).map(|&(prefix, slot)| (Route::of(prefix), slot)).collect();
        let place = |route: Route| route.dir().map(|range| At { table: route.table, index: range.start });
        for group in deep.chunk_by(|(a, _), (b, _)| place(*a) == place(*b)) {
            if let Some(at) = group.first().and_then(|(route, _)| place(*route)) {
                self.build(at, group);
            }
        }
        for at in flagged {
            if !self.in_trie.contains_key(&at) && self.block_at(at).is_none() {
                self.store(at, self.load(at) & LEAF);
            }
        }
        let default = |v4: bool| {
            let found = entries.iter().find(|(prefix, _)| prefix.len() == 0 && is_v4(*prefix) == v4);
            found.map_or(0, |(_, slot)| leaf(*slot, 0))
        };
        self.set_default(Table::Dir4, default(true));
        self.set_default(Table::Dir6, default(false));
        Ok(())
    }

    /// Prefixes that only the trie can answer for: longer than the arrays go, or without a free block.
    pub(super) fn in_trie(&self) -> u64 {
        self.in_trie.values().map(|&count| u64::from(count)).sum()
    }

    /// From now on the trie is asked wherever a block is linked or the trie was asked before. Returns where.
    fn flag_blocks(&mut self) -> Vec<At> {
        let mut flagged = Vec::new();
        for table in [Table::Dir4, Table::Dir6] {
            for (index, word) in self.words(table).iter().enumerate() {
                if word.load(Ordering::Relaxed) & (NODE | TRIE) != 0 {
                    word.store(TRIE, Ordering::Release);
                    flagged.push(At { table, index });
                }
            }
        }
        flagged
    }

    fn free_all(&mut self) {
        let count = u32::try_from(self.blocks.len()).unwrap_or(LOW).min(LOW);
        self.free = (0..count).rev().collect();
        self.unlinked.clear();
        self.in_trie.clear();
    }

    /// Makes the leaves of a directory right; flags stay.
    fn scrub(&mut self, table: Table, entries: &[(Prefix, SlotId)]) {
        let mut short: Vec<(Range<usize>, u32, u32)> = entries
            .iter()
            .map(|&(prefix, slot)| (Route::of(prefix), slot))
            .filter(|(route, _)| route.table == table && (1..=DIR_BITS).contains(&route.len))
            .filter_map(|(route, slot)| Some((route.dir()?, route.len, leaf(slot, route.len))))
            .collect();
        short.sort_by_key(|&(_, len, _)| len);
        let mut image = vec![0; self.words(table).len()];
        for (range, _, leaf) in short {
            image.get_mut(range).unwrap_or_default().fill(leaf);
        }
        for (word, leaf) in self.words(table).iter().zip(image) {
            let old = word.load(Ordering::Relaxed);
            let new = leaf | old & TRIE;
            if new != old {
                word.store(new, Ordering::Release);
            }
        }
    }

    /// Builds the block below a word of a directory before it is linked.
    fn build(&mut self, at: At, group: &[(Route, SlotId)]) {
        let Some(block) = self.open(at) else {
            self.store(at, self.load(at) | TRIE);
            self.in_trie.insert(at, u32::try_from(group.len()).unwrap_or(u32::MAX));
            return;
        };
        for &(route, slot) in group {
            self.insert_in(block, DIR_BITS, route, slot);
        }
        self.link(at, block);
    }

    /// Below the word `at`, which stands for the first `end` bits.
    fn insert_below(&mut self, at: At, end: u32, route: Route, slot: SlotId) {
        let word = self.load(at);
        if word & NODE != 0 {
            self.insert_in(word & LOW, end, route, slot);
        } else if word & TRIE == 0
            && end < route.deepest()
            && let Some(block) = self.open(at)
        {
            self.insert_in(block, end, route, slot);
            self.link(at, block);
        } else {
            self.enter_trie(at);
        }
    }

    /// In the block for the bits after `begin`.
    fn insert_in(&mut self, block: u32, begin: u32, route: Route, slot: SlotId) {
        let end = begin + BLOCK_BITS;
        let at = At::block(block, route.octet(begin));
        if route.len > end {
            self.insert_below(at, end, route, slot);
            return;
        }
        self.use_one(at);
        let range = at.index..at.index + (1 << (end - route.len));
        self.enter(Table::Node, range, slot, route.len - begin);
    }

    fn enter(&mut self, table: Table, range: Range<usize>, slot: SlotId, len: u32) {
        let new = leaf(slot, len);
        self.replace(table, range, |own| ((own & LENGTH) >> LENGTH_SHIFT <= len).then_some(new));
    }

    fn give_back(&mut self, table: Table, range: Range<usize>, len: u32, parent: u32) {
        self.replace(table, range, |own| ((own & LENGTH) >> LENGTH_SHIFT == len).then_some(parent));
    }

    /// Replaces leaves, also those that stand behind a block.
    fn replace(&mut self, table: Table, range: Range<usize>, new: impl Fn(u32) -> Option<u32>) {
        for index in range {
            let at = At { table, index };
            let word = self.load(at);
            if let Some(block) = self.block_at(at) {
                let Some(known) = self.blocks.get_mut(index_of(block)) else { continue };
                if let Some(new) = new(known.own) {
                    known.own = new;
                    self.inherit(block, new & LOW);
                }
            } else if let Some(new) = new(word & LEAF) {
                self.store(at, new | word & TRIE);
            }
        }
    }

    /// What comes from above changed.
    fn inherit(&mut self, block: u32, new: u32) {
        let first = At::block(block, 0).index;
        let range = first..first + index_of(BLOCK_WORDS);
        self.replace(Table::Node, range, |own| (own & LENGTH == 0).then_some(new));
    }

    /// A block that says what the word `at` says; not yet linked there.
    fn open(&mut self, at: At) -> Option<u32> {
        let block = self.free.pop()?;
        let own = self.load(at) & LEAF;
        *self.blocks.get_mut(index_of(block))? = Block { own, parent: at, used: 0 };
        for octet in 0..index_of(BLOCK_WORDS) {
            self.store(At::block(block, octet), own & LOW);
        }
        Some(block)
    }

    fn link(&mut self, at: At, block: u32) {
        self.use_one(at);
        self.store(at, NODE | block);
    }

    fn enter_trie(&mut self, at: At) {
        let count = self.in_trie.entry(at).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.use_one(at);
            self.store(at, self.load(at) | TRIE);
        }
    }

    fn leave_trie(&mut self, at: At) {
        let Some(count) = self.in_trie.get_mut(&at) else { return };
        *count -= 1;
        if *count == 0 {
            self.in_trie.remove(&at);
            self.store(at, self.load(at) & LEAF);
            self.release(at);
        }
    }

    /// One thing more in the block that holds the word.
    fn use_one(&mut self, at: At) {
        if let Some(block) = at.holder().and_then(|holder| self.blocks.get_mut(holder)) {
            block.used += 1;
        }
    }

    /// One thing less; empty blocks go.
    fn release(&mut self, mut at: At) {
        while let Some(holder) = at.holder()
            && let Some(block) = self.blocks.get_mut(holder)
        {
            block.used = block.used.saturating_sub(1);
            if block.used > 0 {
                return;
            }
            let Block { own, parent, .. } = *block;
            self.store(parent, own);
            self.unlinked.extend(u32::try_from(holder));
            at = parent;
        }
    }

    fn block_at(&self, at: At) -> Option<u32> {
        let word = self.load(at);
        (word & NODE != 0).then_some(word & LOW)
    }

    fn set_default(&self, table: Table, word: u32) {
        let at = if table == Table::Dir4 { DEFAULT4 } else { DEFAULT6 };
        if let Some(default) = self.tables.default.get(at) {
            default.store(word, Ordering::Release);
        }
    }

    fn words(&self, table: Table) -> &[AtomicU32] {
        match table {
            Table::Dir4 => &self.tables.dir4,
            Table::Dir6 => &self.tables.dir6,
            Table::Node => &self.tables.node,
        }
    }

    fn load(&self, at: At) -> u32 {
        // Only this thread writes; the kernel program reads.
        self.words(at.table).get(at.index).map_or(TRIE, |word| word.load(Ordering::Relaxed))
    }

    fn store(&self, at: At, word: u32) {
        if let Some(place) = self.words(at.table).get(at.index) {
            // Before a block is linked its words are there.
            place.store(word, Ordering::Release);
        }
    }
}

fn index_of(number: u32) -> usize {
    index(u64::from(number))
}

fn is_v4(prefix: Prefix) -> bool {
    matches!(prefix.net(), IpNet::V4(_))
}

/// The leaf of a parent as seen from a table or block that begins after `begin` bits.
fn parent_word(parent: Option<(SlotId, u8)>, begin: u32) -> u32 {
    match parent {
        Some((slot, len)) if len > 0 => leaf(slot, u32::from(len).saturating_sub(begin)),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
