//! Attribute sets, each kept once however many routes share it: words in one arena, counted, freed, found by content.
//! Never holds a set that no route has; never decides what a set means.
//!
//! A set is its header (`Header`), the values that the header says are there, AS_PATH, COMMUNITIES and
//! LARGE_COMMUNITY: about 50 bytes, where the same as `RouteAttrs` takes 250.

use super::super::preference::AttrsId;
use super::super::route_rules::RuleClass;
use super::table::{self, Table};
use crate::types::{AsPath, AsPathSegment, Asn, CarriedAttr, Community, LargeCommunity, Origin, RouteAttrs};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// LOCAL_PREF that needs no word of its own.
const USUAL_LOCAL_PREF: u32 = 100;
/// Words before the optional ones: references, flags and length of AS_PATH, numbers of communities, next hop.
const FIXED: usize = 4;
/// Free records of up to this many words are kept by exact length.
const EXACT: usize = 64;

const ORIGIN: u32 = 0b11;
const HAS_MED: u32 = 1 << 2;
const HAS_ORIGINATOR: u32 = 1 << 3;
const HAS_LOCAL_PREF: u32 = 1 << 4;
/// AS_PATH is not one AS_SEQUENCE: each segment begins with a word of kind and length.
const SEGMENTED: u32 = 1 << 5;
/// Has a class of the operator's rules.
const HAS_CLASS: u32 = 1 << 7;
/// Every flag that stands for a word, in the order of these words.
const OPTIONAL: u32 = HAS_MED | HAS_ORIGINATOR | HAS_LOCAL_PREF | HAS_CLASS;
/// Carries BLACKHOLE (RFC 7999).
const IS_BLACKHOLE: u32 = 1 << 6;
const CLUSTER_SHIFT: u32 = 8;
const CLUSTER_MAX: u32 = 0x7F;
/// Attributes that are passed on unread follow at the end.
const HAS_CARRIED: u32 = 1 << 15;
const SET: u32 = 1 << 16;

/// The store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct AttrStore {
    words: Vec<u32>,
    /// First free record by length; a free record's first word is the next one's place plus one.
    free: Vec<u32>,
    table: Table,
    hops: Hops,
    sets: usize,
    scratch: Vec<u32>,
}

/// Next hops, each kept once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Hops {
    known: Vec<(IpAddr, u32)>,
    free: Vec<u32>,
    table: Table,
}

fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// What fits the field of a length; no message is long enough for more.
fn short(value: usize) -> u32 {
    u32::from(u16::try_from(value).unwrap_or(u16::MAX))
}

/// One set, read in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttrsRef<'a> {
    words: &'a [u32],
    store: &'a AttrStore,
}

impl AttrStore {
    /// The number of a set, one reference more; new where no route had it.
    pub(super) fn intern(&mut self, attrs: &RouteAttrs, class: Option<RuleClass>) -> AttrsId {
        let mut words = std::mem::take(&mut self.scratch);
        let (hop, fresh) = self.hops.intern(attrs.next_hop);
        encode(attrs, hop, class, &mut words);
        let hash = table::hash(&words[1..]);
        let stored = &self.words;
        let found = self.table.find(hash, |id| {
            let record = &stored[index(id)..];
            record.len() >= words.len() && record[1..words.len()] == words[1..]
        });
        let id = match found {
            Some(id) => {
                self.words[index(id)] += 1;
                id
            }
            None => {
                let id = self.place(&words);
                self.table.insert(hash, id);
                self.sets += 1;
                self.hops.keep(hop);
                id
            }
        };
        if fresh && found.is_some() {
            self.hops.release(hop);
        }
        self.scratch = words;
        AttrsId(id)
    }

    /// One reference more.
    pub(super) fn keep(&mut self, id: AttrsId) {
        self.words[index(id.0)] += 1;
    }

    /// One reference less; the last one frees the set.
    pub(super) fn release(&mut self, id: AttrsId) {
        let at = index(id.0);
        self.words[at] -= 1;
        if self.words[at] > 0 {
            return;
        }
        let len = record_len(&self.words[at..]);
        let hash = table::hash(&self.words[at + 1..at + len]);
        self.table.remove(hash, id.0);
        self.hops.release(self.words[at + 3]);
        self.sets -= 1;
        let class = class(len);
        if self.free.len() <= class {
            self.free.resize(class + 1, 0);
        }
        self.words[at] = std::mem::replace(&mut self.free[class], id.0 + 1);
    }

    fn place(&mut self, words: &[u32]) -> u32 {
        let class = class(words.len());
        let at = match self.free.get(class).and_then(|first| first.checked_sub(1)) {
            Some(id) => {
                self.free[class] = self.words[index(id)];
                index(id)
            }
            None => {
                let at = self.words.len();
                self.words.resize(at + room(class), 0);
                at
            }
        };
        self.words[at..at + words.len()].copy_from_slice(words);
        number(at)
    }

    /// The set `id`, to read.
    pub(super) fn get(&self, id: AttrsId) -> AttrsRef<'_> {
        let record = &self.words[index(id.0)..];
        AttrsRef { words: &record[..record_len(record)], store: self }
    }

    /// The set `id` as the rest of ETM knows it.
    pub(super) fn decode(&self, id: AttrsId) -> Arc<RouteAttrs> {
        Arc::new(self.get(id).decode())
    }

    /// Number of different sets.
    pub(super) fn len(&self) -> usize {
        self.sets
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        let hops = self.hops.known.capacity() * size_of::<(IpAddr, u32)>() + self.hops.table.memory();
        (self.words.capacity() + self.free.capacity()) * size_of::<u32>() + self.table.memory() + hops
    }
}

impl Hops {
    /// The number of a next hop, and whether no set uses it yet.
    fn intern(&mut self, addr: IpAddr) -> (u32, bool) {
        let known = &self.known;
        let hash = hop_hash(addr);
        if let Some(id) = self.table.find(hash, |id| known[index(id)].0 == addr) {
            return (id, self.known[index(id)].1 == 0);
        }
        let id = self.free.pop().unwrap_or_else(|| number(self.known.len()));
        match self.known.get_mut(index(id)) {
            Some(entry) => *entry = (addr, 0),
            None => self.known.push((addr, 0)),
        }
        self.table.insert(hash, id);
        (id, true)
    }

    fn keep(&mut self, id: u32) {
        self.known[index(id)].1 += 1;
    }

    fn release(&mut self, id: u32) {
        let (addr, uses) = &mut self.known[index(id)];
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            let hash = hop_hash(*addr);
            self.table.remove(hash, id);
            self.free.push(id);
        }
    }
}

fn hop_hash(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => table::hash(&[u32::from(addr)]),
        IpAddr::V6(addr) => {
            let [a, b, c, d, e, f, g, h] = addr.segments().map(u32::from);
            table::hash(&[a << 16 | b, c << 16 | d, e << 16 | f, g << 16 | h])
        }
    }
}

/// Free records are shared among lengths of one class.
fn class(len: usize) -> usize {
    if len <= EXACT { len } else { EXACT + index(len.next_power_of_two().trailing_zeros()) }
}

/// Words that a record of this class takes.
fn room(class: usize) -> usize {
    if class <= EXACT { class } else { 1 << (class - EXACT) }
}

fn record_len(words: &[u32]) -> usize {
    let optional = (words[1] & OPTIONAL).count_ones();
    let (communities, large) = (words[2] & 0xFFFF, words[2] >> 16);
    let len = FIXED + index(optional) + index(words[1] >> 16) + index(communities) + index(large) * 3;
    if words[1] & HAS_CARRIED == 0 { len } else { len + 1 + index(words[len]) }
}

fn encode(attrs: &RouteAttrs, hop: u32, class: Option<RuleClass>, words: &mut Vec<u32>) {
    words.clear();
    let cluster = u32::from(attrs.cluster_hops).min(CLUSTER_MAX);
    let mut flags = origin_bits(attrs.origin) | cluster << CLUSTER_SHIFT;
    let communities = short(attrs.communities.len());
    let large = short(attrs.large_communities.len());
    words.extend_from_slice(&[1, 0, communities | large << 16, hop]);
    if let Some(med) = attrs.med {
        flags |= HAS_MED;
        words.push(med);
    }
    if let Some(originator) = attrs.originator {
        flags |= HAS_ORIGINATOR;
        words.push(u32::from(originator));
    }
    if attrs.local_pref != USUAL_LOCAL_PREF {
        flags |= HAS_LOCAL_PREF;
        words.push(attrs.local_pref);
    }
    if let Some(RuleClass(class)) = class {
        flags |= HAS_CLASS;
        words.push(class);
    }
    let before = words.len();
    match &attrs.as_path.0[..] {
        [] => {}
        [AsPathSegment::Sequence(asns)] => words.extend(asns.iter().map(|asn| asn.0)),
        segments => {
            flags |= SEGMENTED;
            for segment in segments {
                let (kind, asns) = match segment {
                    AsPathSegment::Sequence(asns) => (0, asns),
                    AsPathSegment::Set(asns) => (SET, asns),
                };
                words.push(kind | short(asns.len()));
                words.extend(asns.iter().map(|asn| asn.0));
            }
        }
    }
    words.truncate(before + index(u32::from(u16::MAX)));
    flags |= short(words.len() - before) << 16;
    words.extend(attrs.communities.iter().take(index(communities)).map(|community| community.0));
    for value in attrs.large_communities.iter().take(index(large)) {
        words.extend_from_slice(&[value.global, value.local1, value.local2]);
    }
    if attrs.communities.contains(&Community::BLACKHOLE) {
        flags |= IS_BLACKHOLE;
    }
    if !attrs.carried.is_empty() {
        flags |= HAS_CARRIED;
        encode_carried(&attrs.carried, words);
    }
    words[1] = flags;
}

/// The number of words that follow; then each attribute: flags, code and length in one word, its value in the next.
fn encode_carried(carried: &[CarriedAttr], words: &mut Vec<u32>) {
    let before = words.len();
    words.push(0);
    for attr in carried {
        let len = short(attr.value.len());
        words.push(u32::from(attr.flags) << 24 | u32::from(attr.code) << 16 | len);
        for chunk in attr.value[..index(len)].chunks(4) {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            words.push(u32::from_be_bytes(word));
        }
    }
    words[before] = number(words.len() - before - 1);
}

fn decode_carried(mut words: &[u32]) -> Box<[CarriedAttr]> {
    let mut carried = Vec::new();
    while let Some((head, rest)) = words.split_first() {
        let [flags, code, ..] = head.to_be_bytes();
        let len = index(head & 0xFFFF);
        let (value, rest) = rest.split_at(len.div_ceil(4).min(rest.len()));
        let value: Vec<u8> = value.iter().flat_map(|word| word.to_be_bytes()).take(len).collect();
        carried.push(CarriedAttr { flags, code, value: value.into() });
        words = rest;
    }
    carried.into()
}

fn origin_bits(origin: Origin) -> u32 {
    match origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    }
}

impl AttrsRef<'_> {
    fn has(&self, flag: u32) -> bool {
        self.words[1] & flag != 0
    }

    /// The word of one of the flags in `OPTIONAL`.
    fn optional(&self, flag: u32) -> Option<u32> {
        let before = (self.words[1] & OPTIONAL & (flag - 1)).count_ones();
        self.has(flag).then(|| self.words[FIXED + index(before)])
    }

    fn path_words(&self) -> &[u32] {
        let optional = (self.words[1] & OPTIONAL).count_ones();
        let start = FIXED + index(optional);
        &self.words[start..start + index(self.words[1] >> 16)]
    }

    pub(super) fn next_hop(&self) -> IpAddr {
        self.store.hops.known[index(self.words[3])].0
    }

    pub(super) fn origin(&self) -> Origin {
        match self.words[1] & ORIGIN {
            0 => Origin::Igp,
            1 => Origin::Egp,
            _ => Origin::Incomplete,
        }
    }

    pub(super) fn local_pref(&self) -> u32 {
        self.optional(HAS_LOCAL_PREF).unwrap_or(USUAL_LOCAL_PREF)
    }

    pub(super) fn med(&self) -> Option<u32> {
        self.optional(HAS_MED)
    }

    pub(super) fn originator(&self) -> Option<Ipv4Addr> {
        self.optional(HAS_ORIGINATOR).map(Ipv4Addr::from)
    }

    /// The class of the operator's rules, where there are any.
    pub(super) fn class(&self) -> Option<RuleClass> {
        self.optional(HAS_CLASS).map(RuleClass)
    }

    pub(super) fn cluster_hops(&self) -> u8 {
        u8::try_from(self.words[1] >> CLUSTER_SHIFT & CLUSTER_MAX).unwrap_or(u8::MAX)
    }

    pub(super) fn is_blackhole(&self) -> bool {
        self.has(IS_BLACKHOLE)
    }

    /// Segments as (is a set, members).
    fn segments(&self) -> impl Iterator<Item = (bool, &[u32])> {
        let whole = !self.has(SEGMENTED);
        let mut rest = self.path_words();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            if whole {
                return Some((false, std::mem::take(&mut rest)));
            }
            let (head, tail) = rest.split_first()?;
            let (members, tail) = tail.split_at(index(head & 0xFFFF).min(tail.len()));
            rest = tail;
            Some((head & SET != 0, members))
        })
    }

    /// True where the AS_PATH holds an AS_SET.
    pub(super) fn has_set(&self) -> bool {
        self.segments().any(|(set, _)| set)
    }

    /// RFC 4271 section 9.1.2.2 a.
    pub(super) fn hops(&self) -> u32 {
        self.segments().map(|(set, members)| if set { 1 } else { short(members.len()) }).sum()
    }

    /// True where the AS_PATH names `asn`.
    pub(super) fn names(&self, asn: Asn) -> bool {
        self.segments().any(|(_, members)| members.contains(&asn.0))
    }

    /// The neighbouring AS.
    pub(super) fn first_as(&self) -> Option<Asn> {
        let (set, members) = self.segments().next()?;
        members.first().filter(|_| !set).copied().map(Asn)
    }

    /// COMMUNITIES, LARGE_COMMUNITY, and what is carried.
    fn rest(&self) -> (&[u32], &[u32], &[u32]) {
        let optional = (self.words[1] & OPTIONAL).count_ones();
        let start = FIXED + index(optional) + self.path_words().len();
        let (communities, rest) = self.words[start..].split_at(index(self.words[2] & 0xFFFF));
        let (large, carried) = rest.split_at(index(self.words[2] >> 16) * 3);
        (communities, large, carried.get(1..).unwrap_or_default())
    }

    fn decode(&self) -> RouteAttrs {
        let asns = |members: &[u32]| members.iter().copied().map(Asn).collect();
        let segments = self.segments().map(|(set, members)| {
            if set { AsPathSegment::Set(asns(members)) } else { AsPathSegment::Sequence(asns(members)) }
        });
        let (communities, large, carried) = self.rest();
        let large = large.chunks_exact(3).map(|value| LargeCommunity {
            global: value[0],
            local1: value[1],
            local2: value[2],
        });
        RouteAttrs {
            next_hop: self.next_hop(),
            as_path: AsPath(segments.collect()),
            origin: self.origin(),
            local_pref: self.local_pref(),
            med: self.med(),
            communities: communities.iter().copied().map(Community).collect(),
            large_communities: large.collect(),
            originator: self.originator(),
            cluster_hops: self.cluster_hops(),
            carried: decode_carried(carried),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment() -> impl Strategy<Value = AsPathSegment> {
        let asns = prop::collection::vec((0u32..5).prop_map(Asn), 1..4);
        (any::<bool>(), asns).prop_map(|(set, asns)| {
            if set { AsPathSegment::Set(asns) } else { AsPathSegment::Sequence(asns) }
        })
    }

    prop_compose! {
        pub(in super::super) fn any_attrs()(
            hop in 0u8..6,
            path in prop::collection::vec(segment(), 0..3),
            origin in prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
            local_pref in prop_oneof![Just(100), any::<u32>()],
            med in prop::option::of(0u32..4),
            communities in prop::collection::vec(prop_oneof![Just(Community::BLACKHOLE), (0u32..9).prop_map(Community)], 0..4),
            large in prop::collection::vec((0u32..3, 0u32..3), 0..3),
            originator in prop::option::of(any::<u32>().prop_map(Ipv4Addr::from)),
            cluster_hops in 0u8..4,
            carried in prop::collection::vec((any::<u8>(), 0u8..3, prop::collection::vec(any::<u8>(), 0..6)), 0..3),
        ) -> RouteAttrs {
            let next_hop = if hop < 3 { format!("10.0.{hop}.1") } else { format!("fd00:{hop}::1") };
            RouteAttrs {
                next_hop: next_hop.parse().unwrap(),
                as_path: AsPath(path),
                origin,
                local_pref,
                med,
                communities,
                large_communities: large
                    .into_iter()
                    .map(|(global, local1)| LargeCommunity { global, local1, local2: 7 })
                    .collect(),
                originator,
                cluster_hops,
                carried: carried
                    .into_iter()
                    .map(|(flags, code, value)| CarriedAttr { flags, code, value: value.into() })
                    .collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_comes_out_is_what_went_in_and_equal_sets_share_a_record(
            sets in prop::collection::vec(any_attrs(), 1..40), order in prop::collection::vec(any::<prop::sample::Index>(), 0..40)
        ) {
            let mut store = AttrStore::default();
            let mut held: Vec<(RouteAttrs, AttrsId)> = Vec::new();
            for attrs in sets {
                let id = store.intern(&attrs, None);
                for (other, known) in &held {
                    prop_assert_eq!(*other == attrs, *known == id);
                }
                prop_assert_eq!(store.get(id).hops(), u32::try_from(attrs.as_path.hops()).unwrap());
                prop_assert_eq!(store.get(id).first_as(), attrs.as_path.first());
                prop_assert_eq!(store.get(id).is_blackhole(), attrs.communities.contains(&Community::BLACKHOLE));
                held.push((attrs, id));
            }
            for pick in order {
                if held.is_empty() {
                    break;
                }
                let (_, id) = held.swap_remove(pick.index(held.len()));
                store.release(id);
                for (attrs, id) in &held {
                    prop_assert_eq!(&*store.decode(*id), attrs);
                }
            }
            held.into_iter().for_each(|(_, id)| store.release(id));
            prop_assert_eq!((store.len(), store.hops.free.len()), (0, store.hops.known.len()));
        }

        #[test]
        fn what_was_freed_is_used_again(sets in prop::collection::vec(any_attrs(), 1..20)) {
            let mut store = AttrStore::default();
            let mut size = 0;
            for round in 0..3 {
                let ids: Vec<AttrsId> = sets.iter().map(|attrs| store.intern(attrs, None)).collect();
                ids.into_iter().for_each(|id| store.release(id));
                if round == 0 {
                    size = store.words.len();
                }
            }
            prop_assert_eq!(store.words.len(), size);
        }
    }

    #[test]
    fn sets_too_long_for_an_exact_class_are_kept_too() {
        let mut store = AttrStore::default();
        let mut attrs = RouteAttrs::to_next_hop("10.0.0.1".parse().unwrap());
        attrs.as_path = AsPath::sequence(0..70_000);
        attrs.communities = (0..300).map(Community).collect();
        let id = store.intern(&attrs, None);
        let back = store.decode(id);
        assert_eq!(back.communities, attrs.communities);
        assert_eq!(back.as_path.hops(), 65_535, "no message is that long");
        store.release(id);
        assert_eq!(store.len(), 0);
    }
}
