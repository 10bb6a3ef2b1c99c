//! The routes of one prefix as a chain of small entries in one slab, and who they came from.
//! Never looks at attributes: an entry holds their number.

use super::super::preference::AttrsId;
use super::table::{self, Table};
use crate::types::{Family, PathId, PeerId};
use serde::{Deserialize, Serialize};

/// End of a chain.
pub(super) const NIL: u32 = u32::MAX;
/// Sources that an entry has room for.
const MAX_SOURCES: usize = 1 << 24;

/// Number of a (session, path id).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceId(u32);

/// One route: 12 bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    next: u32,
    attrs: AttrsId,
    /// Source in the upper 24 bits, epoch of its session below.
    origin: u32,
}

/// One route, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) attrs: AttrsId,
    pub(super) source: SourceId,
    pub(super) epoch: u8,
}

/// Entries of all prefixes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Slab {
    entries: Vec<Entry>,
    free: u32,
    used: usize,
}

impl Default for Slab {
    fn default() -> Slab {
        Slab { entries: Vec::new(), free: NIL, used: 0 }
    }
}

fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn origin(source: SourceId, epoch: u8) -> u32 {
    source.0 << 8 | u32::from(epoch)
}

impl Slab {
    /// The routes of a chain.
    pub(super) fn chain(&self, head: u32) -> impl Iterator<Item = Route> + '_ {
        let mut at = head;
        std::iter::from_fn(move || {
            let entry = self.entries.get(index(at))?;
            at = entry.next;
            Some(read(*entry))
        })
    }

    /// Sets the route of `source` in a chain and returns what it replaces. A new one goes to the end, so that the
    /// order is that of arrival.
    pub(super) fn set(&mut self, head: &mut u32, new: Route) -> Option<AttrsId> {
        let mut last = NIL;
        let mut at = *head;
        while let Some(entry) = self.entries.get_mut(index(at)) {
            if entry.origin >> 8 == new.source.0 {
                entry.origin = origin(new.source, new.epoch);
                return Some(std::mem::replace(&mut entry.attrs, new.attrs));
            }
            (last, at) = (at, entry.next);
        }
        let added = self.take(Entry { next: NIL, attrs: new.attrs, origin: origin(new.source, new.epoch) });
        self.link(head, last, added);
        None
    }

    /// Takes the routes for which `gone` holds out of a chain, each handed to `freed`.
    pub(super) fn retain(
        &mut self,
        head: &mut u32,
        mut gone: impl FnMut(Route) -> bool,
        mut freed: impl FnMut(Route),
    ) {
        let mut last = NIL;
        let mut at = *head;
        while let Some(entry) = self.entries.get(index(at)).copied() {
            if gone(read(entry)) {
                self.link(head, last, entry.next);
                self.entries[index(at)].next = self.free;
                self.free = at;
                self.used -= 1;
                freed(read(entry));
            } else {
                last = at;
            }
            at = entry.next;
        }
    }

    /// Gives every route of a chain the epoch that `of` says.
    pub(super) fn renumber(&mut self, head: u32, of: impl Fn(Route) -> u8) {
        let mut at = head;
        while let Some(entry) = self.entries.get_mut(index(at)) {
            let route = read(*entry);
            entry.origin = origin(route.source, of(route));
            at = entry.next;
        }
    }

    fn link(&mut self, head: &mut u32, last: u32, to: u32) {
        match self.entries.get_mut(index(last)) {
            Some(entry) => entry.next = to,
            None => *head = to,
        }
    }

    fn take(&mut self, entry: Entry) -> u32 {
        self.used += 1;
        match self.entries.get_mut(index(self.free)) {
            Some(free) => {
                let at = self.free;
                self.free = free.next;
                *free = entry;
                at
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).unwrap_or(NIL)
            }
        }
    }

    /// Number of routes.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }
}

fn read(entry: Entry) -> Route {
    let epoch = u8::try_from(entry.origin & 0xFF).unwrap_or_default();
    Route { attrs: entry.attrs, source: SourceId(entry.origin >> 8), epoch }
}

/// Pairs of session and path id, each kept once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sources {
    known: Vec<(PeerId, PathId, u32)>,
    free: Vec<u32>,
    table: Table,
}

impl Sources {
    fn hash(peer: PeerId, path_id: PathId) -> u32 {
        table::hash(&[u32::from(peer.0), path_id.0])
    }

    /// The number of a pair that some route has.
    pub(super) fn find(&self, peer: PeerId, path_id: PathId) -> Option<SourceId> {
        let same =
            |id: u32| matches!(self.known.get(index(id)), Some((p, i, _)) if (*p, *i) == (peer, path_id));
        self.table.find(Self::hash(peer, path_id), same).map(SourceId)
    }

    /// The number of a pair, new where no route has it; none where all numbers are taken.
    pub(super) fn intern(&mut self, peer: PeerId, path_id: PathId) -> Option<SourceId> {
        if let Some(known) = self.find(peer, path_id) {
            return Some(known);
        }
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.known.len() < MAX_SOURCES => u32::try_from(self.known.len()).ok()?,
            None => return None,
        };
        match self.known.get_mut(index(id)) {
            Some(entry) => *entry = (peer, path_id, 0),
            None => self.known.push((peer, path_id, 0)),
        }
        self.table.insert(Self::hash(peer, path_id), id);
        Some(SourceId(id))
    }

    /// One route more has this source.
    pub(super) fn keep(&mut self, source: SourceId) {
        if let Some((_, _, routes)) = self.known.get_mut(index(source.0)) {
            *routes += 1;
        }
    }

    /// One route less has this source.
    pub(super) fn release(&mut self, source: SourceId) {
        let Some((peer, path_id, routes)) = self.known.get_mut(index(source.0)) else { return };
        *routes = routes.saturating_sub(1);
        if *routes == 0 {
            let hash = Self::hash(*peer, *path_id);
            self.table.remove(hash, source.0);
            self.free.push(source.0);
        }
    }

    /// The pair.
    pub(super) fn get(&self, source: SourceId) -> (PeerId, PathId) {
        self.known.get(index(source.0)).map_or_else(Default::default, |(peer, path_id, _)| (*peer, *path_id))
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.known.capacity() * size_of::<(PeerId, PathId, u32)>() + self.table.memory()
    }
}

/// Which epochs of one session and family count. What a session says belongs to its current epoch; ending or
/// refreshing it moves these marks and touches no route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Era {
    /// Routes of older epochs are void.
    oldest: u8,
    /// Routes of older epochs are stale.
    current: u8,
    /// Routes of older epochs exist no more.
    clean: u8,
    /// Routes, void ones included while they are not cleared away.
    pub(super) routes: u32,
}

impl Era {
    pub(super) fn current(&self) -> u8 {
        self.current
    }

    pub(super) fn is_live(&self, epoch: u8) -> bool {
        epoch.wrapping_sub(self.oldest) <= self.current.wrapping_sub(self.oldest)
    }

    pub(super) fn is_stale(&self, epoch: u8) -> bool {
        epoch != self.current
    }

    /// True where another epoch could be taken for one that is still in use.
    pub(super) fn is_exhausted(&self) -> bool {
        self.current.wrapping_sub(self.clean) >= 250
    }

    /// All routes are stale.
    pub(super) fn mark(&mut self) {
        self.current = self.current.wrapping_add(1);
    }

    /// Stale routes are void; true where there may be some to clear away.
    pub(super) fn sweep(&mut self) -> bool {
        self.oldest = self.current;
        if self.routes == 0 {
            self.clean = self.current;
        }
        self.clean != self.oldest
    }

    /// All void routes up to the mark `oldest` are cleared away.
    pub(super) fn cleared(&mut self, oldest: u8) {
        self.clean = oldest;
    }

    pub(super) fn oldest(&self) -> u8 {
        self.oldest
    }

    /// Begins the count anew: live routes are of epoch 0 where stale, else of epoch 1, and no others exist.
    pub(super) fn restart(&mut self) {
        (self.oldest, self.current, self.clean) = (0, 1, 0);
    }
}

/// Eras of every session, by family.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Eras(Vec<[Era; 2]>);

fn side(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Eras {
    pub(super) fn get(&self, peer: PeerId, family: Family) -> Era {
        self.0.get(usize::from(peer.0)).map_or_else(Era::default, |eras| eras[side(family)])
    }

    pub(super) fn get_mut(&mut self, peer: PeerId, family: Family) -> &mut Era {
        let at = usize::from(peer.0);
        if self.0.len() <= at {
            self.0.resize(at + 1, [Era::default(); 2]);
        }
        &mut self.0[at][side(family)]
    }

    /// Every era with its session and family.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, Family, Era)> + '_ {
        self.0.iter().enumerate().flat_map(|(at, eras)| {
            let peer = PeerId(u16::try_from(at).unwrap_or(u16::MAX));
            Family::ALL.into_iter().map(move |family| (peer, family, eras[side(family)]))
        })
    }
}
