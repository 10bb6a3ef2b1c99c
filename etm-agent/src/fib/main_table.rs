//! What notifications and dumps of the main table mean, entry by entry. Pure.
//!
//! Keeps only what is needed to read the next message right: next-hop objects, and entries that share
//! prefix and metric. Never guesses: a message whose meaning depends on something not kept is `Unclear`.
//!
//! Observed (Linux 6.18): EXCL in a notification says that the entry is alone with its prefix and metric. An
//! IPv6 multipath route is told whole when it is made or appended to, but each next hop that goes is told alone.
//! IPv4 routes of an interface that is set down, and routes of a next-hop object that is deleted, go untold.

use crate::core::input::{FibChange, KernelRoute};
use crate::fib::route_codec::{NextHop, RouteRow};
use crate::fib::wire::{self, Attributes};
use crate::types::{Family, IfIndex, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;

const NEXTHOP_HEADER: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

/// What a message changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    Change(FibChange),
    /// The table must be read anew.
    Unclear,
}

/// A next-hop object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Single(NextHop),
    Group(Vec<u32>),
    /// Blackhole and the like.
    Nowhere,
}

/// Reads a next-hop message: its number and what it is.
pub(super) fn read_object(payload: &[u8]) -> Option<(u32, Object)> {
    let (mut id, mut gateway, mut ifindex, mut group) = (None, None, None, None);
    for (kind, value) in Attributes::after(payload, NEXTHOP_HEADER) {
        match kind {
            NHA_ID => id = wire::u32_at(value, 0),
            NHA_OIF => ifindex = wire::u32_at(value, 0).map(IfIndex),
            NHA_GATEWAY => gateway = wire::address(value),
            // struct nexthop_grp: id, weight, 3 bytes reserved.
            NHA_GROUP => group = Some(value.chunks_exact(8).filter_map(|m| wire::u32_at(m, 0)).collect()),
            _ => {}
        }
    }
    let object = match (group, ifindex) {
        (Some(members), _) => Object::Group(members),
        (None, Some(ifindex)) => Object::Single((gateway, ifindex)),
        (None, None) => Object::Nowhere,
    };
    Some((id?, object))
}

type Key = (Prefix, u32);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MainTable {
    /// Entries of keys that hold several, or one of IPv6 with several next hops; in lookup order.
    shared: BTreeMap<Key, Vec<RouteRow>>,
    objects: BTreeMap<u32, Object>,
    /// Objects that routes use, themselves or through a group.
    used: BTreeSet<u32>,
    /// True once a route named only its object: then a change of the object changes the route untold.
    bare: bool,
    /// Interfaces that routes lead out of.
    outputs: BTreeSet<IfIndex>,
    last_dumped: Option<RouteRow>,
    /// Fingerprints of entries that are alone with their key, while a dump and what was notified during it are
    /// put together: a notification that an entry is gone may be older than what the dump found in its place.
    fresh: Option<BTreeMap<Key, u64>>,
}

impl MainTable {
    /// An empty table, to be filled by a dump.
    pub(super) fn before_dump() -> MainTable {
        MainTable { fresh: Some(BTreeMap::new()), ..MainTable::default() }
    }

    /// Dump and notifications are put together: from now on each notification is news.
    pub(super) fn dump_complete(&mut self) {
        self.fresh = None;
        self.last_dumped = None;
    }

    /// A row of the dump, in the dump's order.
    pub(super) fn dumped(&mut self, mut row: RouteRow) -> Effect {
        if !self.complete(&mut row) {
            return Effect::Unclear;
        }
        let key = (row.prefix, row.metric);
        let first = self.last_dumped.replace(row.clone()).filter(|last| (last.prefix, last.metric) == key);
        match first {
            // Only the first of several is used.
            Some(first) => {
                self.shared.entry(key).or_insert_with(|| vec![first]).push(row);
                Effect::Nothing
            }
            None => {
                self.keep(&row);
                set(&row)
            }
        }
    }

    /// A notification that a route was made or replaced.
    pub(super) fn made(&mut self, mut row: RouteRow, flags: u16) -> Effect {
        if !self.complete(&mut row) {
            return Effect::Unclear;
        }
        let others = self.shared.get(&(row.prefix, row.metric)).map_or(0, Vec::len);
        let alone = flags & NLM_F_EXCL != 0 || flags & NLM_F_REPLACE != 0 && others <= 1;
        let whole = row.prefix.family() == Family::V6 && row.multipath && others <= 1;
        match alone || whole {
            true => {
                self.keep(&row);
                set(&row)
            }
            false => Effect::Unclear,
        }
    }

    /// A notification that a route, or one next hop of an IPv6 route, is gone.
    pub(super) fn gone(&mut self, mut row: RouteRow) -> Effect {
        let key = (row.prefix, row.metric);
        let unset = Effect::Change(FibChange::Unset { prefix: row.prefix, metric: row.metric });
        if self.fresh.is_none() && !self.shared.contains_key(&key) {
            return unset;
        }
        if !self.resolve(&mut row) {
            return Effect::Unclear;
        }
        let Some(mut entries) = self.shared.get(&key).cloned() else {
            let found = fingerprint(&row);
            let fresh = self.fresh.get_or_insert_default();
            return match fresh.get(&key) == Some(&found) {
                true => {
                    fresh.remove(&key);
                    unset
                }
                false => Effect::Nothing,
            };
        };
        let holds = |entry: &RouteRow| {
            entry.kind == row.kind && row.next_hops.iter().all(|hop| entry.next_hops.contains(hop))
        };
        let Some(at) = entries.iter().position(holds) else {
            return if self.fresh.is_some() { Effect::Nothing } else { Effect::Unclear };
        };
        entries[at].next_hops.retain(|hop| !row.next_hops.contains(hop));
        if entries[at].next_hops.is_empty() {
            entries.remove(at);
        }
        let effect = entries.first().map_or(unset, set);
        match entries.is_empty() {
            true => self.shared.remove(&key),
            false => self.shared.insert(key, entries),
        };
        effect
    }

    /// A next-hop object that the dump shows.
    pub(super) fn object_dumped(&mut self, id: u32, object: Object) {
        self.objects.insert(id, object);
    }

    /// A notification that a next-hop object was made or replaced.
    pub(super) fn object_made(&mut self, id: u32, object: Object) -> Effect {
        let changed = self.objects.get(&id).is_some_and(|before| *before != object);
        self.objects.insert(id, object);
        // Otherwise the kernel tells each route that uses it (nexthop_compat_mode).
        match changed && self.bare && self.is_used(id) {
            true => Effect::Unclear,
            false => Effect::Nothing,
        }
    }

    /// A notification that a next-hop object is gone, and with it, untold, its routes.
    pub(super) fn object_gone(&mut self, id: u32) -> Effect {
        let used = self.is_used(id);
        self.objects.remove(&id);
        match used {
            true => Effect::Unclear,
            false => Effect::Nothing,
        }
    }

    /// An interface was set down or deleted, and with it, untold, its IPv4 routes and legs of IPv6 ones.
    pub(super) fn interface_lost(&mut self, ifindex: IfIndex) -> Effect {
        match self.outputs.contains(&ifindex) {
            true => Effect::Unclear,
            false => Effect::Nothing,
        }
    }

    fn is_used(&self, id: u32) -> bool {
        let in_group = |used: &u32| match self.objects.get(used) {
            Some(Object::Group(members)) => members.contains(&id),
            _ => false,
        };
        self.used.contains(&id) || self.used.iter().any(in_group)
    }

    /// Fills in the next hops of a route that names an object, and remembers that it does. False where it is unknown.
    fn complete(&mut self, row: &mut RouteRow) -> bool {
        if row.object != 0 {
            self.used.insert(row.object);
            self.bare |= row.next_hops.is_empty();
        }
        let known = self.resolve(row);
        self.outputs.extend(row.next_hops.iter().map(|hop| hop.1));
        known
    }

    fn resolve(&self, row: &mut RouteRow) -> bool {
        if row.object == 0 || !row.next_hops.is_empty() {
            return true;
        }
        let members = match self.objects.get(&row.object) {
            None => return false,
            Some(Object::Group(members)) => members.clone(),
            Some(_) => vec![row.object],
        };
        for member in members {
            match self.objects.get(&member) {
                Some(Object::Single(hop)) => row.next_hops.push(*hop),
                Some(_) => {}
                None => return false,
            }
        }
        true
    }

    /// Notes an entry that is alone with its key, if the next message about it needs that.
    fn keep(&mut self, row: &RouteRow) {
        let key = (row.prefix, row.metric);
        let goes_piecemeal = row.prefix.family() == Family::V6 && row.next_hops.len() > 1;
        if goes_piecemeal {
            self.shared.insert(key, vec![row.clone()]);
            return;
        }
        self.shared.remove(&key);
        if let Some(fresh) = &mut self.fresh {
            fresh.insert(key, fingerprint(row));
        }
    }
}

fn fingerprint(row: &RouteRow) -> u64 {
    let mut hasher = DefaultHasher::new();
    (row.kind, &row.next_hops).hash(&mut hasher);
    hasher.finish()
}

fn set(row: &RouteRow) -> Effect {
    // Dumps and notifications list the next hops of IPv6 in different orders.
    let mut next_hops = row.next_hops.clone();
    next_hops.sort_unstable();
    Effect::Change(FibChange::Set(KernelRoute {
        prefix: row.prefix,
        metric: row.metric,
        protocol: row.protocol,
        unicast: row.is_unicast() && !row.next_hops.is_empty(),
        next_hops,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: u16 = 0x400;
    const APPEND: u16 = 0x800;

    fn row(prefix: &str, hops: &[u32]) -> RouteRow {
        RouteRow {
            prefix: prefix.parse().unwrap(),
            table: 254,
            metric: 32,
            protocol: 12,
            kind: 1,
            next_hops: hops.iter().map(|hop| (None, IfIndex(*hop))).collect(),
            object: 0,
            multipath: hops.len() > 1,
            weights: Vec::new(),
        }
    }

    fn object(prefix: &str, object: u32) -> RouteRow {
        RouteRow { object, ..row(prefix, &[]) }
    }

    fn hops(effect: &Effect) -> Vec<u32> {
        match effect {
            Effect::Change(FibChange::Set(route)) => route.next_hops.iter().map(|hop| hop.1.get()).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn is_unset(effect: &Effect) -> bool {
        matches!(effect, Effect::Change(FibChange::Unset { .. }))
    }

    #[test]
    fn an_ipv6_multipath_route_goes_hop_by_hop() {
        let mut table = MainTable::default();
        assert_eq!(hops(&table.made(row("2001:db8::/32", &[1, 2, 3]), CREATE)), [1, 2, 3]);
        assert_eq!(hops(&table.gone(row("2001:db8::/32", &[2]))), [1, 3]);
        assert_eq!(hops(&table.made(row("2001:db8::/32", &[4, 1, 3]), CREATE | APPEND)), [1, 3, 4]);
        assert_eq!(hops(&table.gone(row("2001:db8::/32", &[1, 3]))), [4]);
        assert!(is_unset(&table.gone(row("2001:db8::/32", &[4]))));
        assert!(table.shared.is_empty());
    }

    #[test]
    fn a_replacement_of_the_only_entry_is_the_new_entry() {
        let mut table = MainTable::default();
        table.made(row("2001:db8::/32", &[1, 2]), CREATE);
        assert_eq!(hops(&table.made(row("2001:db8::/32", &[5]), NLM_F_REPLACE)), [5]);
        assert!(is_unset(&table.gone(row("2001:db8::/32", &[5]))));
        assert_eq!(hops(&table.made(row("198.18.0.0/15", &[5]), NLM_F_REPLACE)), [5]);
    }

    #[test]
    fn a_second_entry_of_the_same_key_is_unclear_until_the_table_is_read() {
        let mut table = MainTable::default();
        table.made(row("198.18.0.0/15", &[1]), CREATE | NLM_F_EXCL);
        assert_eq!(table.made(row("198.18.0.0/15", &[2]), CREATE | APPEND), Effect::Unclear);
        assert_eq!(table.made(row("198.18.0.0/15", &[2]), CREATE), Effect::Unclear, "prepended");
        let mut table = MainTable::default();
        assert_eq!(hops(&table.dumped(row("198.18.0.0/15", &[1]))), [1]);
        assert_eq!(table.dumped(row("198.18.0.0/15", &[2])), Effect::Nothing);
        assert_eq!(hops(&table.dumped(row("198.20.0.0/15", &[9]))), [9]);
        assert_eq!(hops(&table.gone(row("198.18.0.0/15", &[1]))), [2]);
        assert!(is_unset(&table.gone(row("198.18.0.0/15", &[2]))));
    }

    #[test]
    fn a_route_by_object_gets_its_next_hops_and_changes_with_it() {
        let mut table = MainTable::default();
        table.object_dumped(5, Object::Single((None, IfIndex(1))));
        table.object_dumped(6, Object::Single((None, IfIndex(2))));
        table.object_dumped(7, Object::Group(vec![5, 6]));
        assert_eq!(hops(&table.dumped(object("198.18.0.0/15", 7))), [1, 2]);
        assert_eq!(table.object_made(5, Object::Single((None, IfIndex(1)))), Effect::Nothing);
        assert_eq!(table.object_made(5, Object::Single((None, IfIndex(3)))), Effect::Unclear);
        assert_eq!(table.object_gone(6), Effect::Unclear);
        assert_eq!(table.object_gone(99), Effect::Nothing);
        assert_eq!(table.made(object("198.20.0.0/15", 99), CREATE | NLM_F_EXCL), Effect::Unclear);
    }

    #[test]
    fn a_notification_older_than_the_dump_takes_nothing_away() {
        let mut table = MainTable::before_dump();
        table.dumped(row("2001:db8::/32", &[2]));
        table.dumped(row("2001:db9::/32", &[1, 2]));
        assert_eq!(table.gone(row("2001:db8::/32", &[1])), Effect::Nothing);
        assert_eq!(table.gone(row("2001:db9::/32", &[3])), Effect::Nothing);
        assert_eq!(table.gone(row("2001:dba::/32", &[1])), Effect::Nothing);
        assert!(is_unset(&table.gone(row("2001:db8::/32", &[2]))));
        table.dump_complete();
        assert!(is_unset(&table.gone(row("2001:dba::/32", &[1]))));
    }

    #[test]
    fn losing_an_interface_matters_only_where_routes_lead_out_of_it() {
        let mut table = MainTable::default();
        table.made(row("198.18.0.0/15", &[1]), CREATE | NLM_F_EXCL);
        assert_eq!(table.interface_lost(IfIndex(1)), Effect::Unclear);
        assert_eq!(table.interface_lost(IfIndex(2)), Effect::Nothing);
    }

    #[test]
    fn with_compatible_notifications_a_replaced_object_needs_no_reading() {
        let mut table = MainTable::default();
        table.object_dumped(5, Object::Single((None, IfIndex(1))));
        let told = RouteRow { object: 5, ..row("198.18.0.0/15", &[1]) };
        assert_eq!(hops(&table.dumped(told)), [1]);
        assert_eq!(table.object_made(5, Object::Single((None, IfIndex(3)))), Effect::Nothing);
    }
}
