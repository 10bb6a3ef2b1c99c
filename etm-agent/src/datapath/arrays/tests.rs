//! The arrays in plain memory against a longest match by hand.

use super::*;
use etm_common::word::{DIR4_WORDS, PAIR};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::cell::RefCell;

type Plain = Box<[AtomicU32]>;

fn zeros(words: u32) -> Plain {
    // Not `vec![0; n]` of atomics, which touches every page: from zeroed memory, which does not.
    vec![0_u32; index_of(words)].into_iter().map(AtomicU32::new).collect()
}

fn arrays(blocks: u32) -> Arrays<Plain> {
    Arrays::new(Tables {
        dir4: zeros(DIR4_WORDS),
        dir6: zeros(DIR6_WORDS),
        node: zeros(blocks * BLOCK_WORDS),
        default: zeros(PAIR),
    })
}

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// What the kernel program does with an address; the trie is the oracle.
fn look(arrays: &Arrays<Plain>, address: Prefix, oracle: &BTreeMap<Prefix, SlotId>) -> Option<SlotId> {
    let route = Route::of(address);
    let Some(range) = route.dir() else { return longest(oracle, address) };
    let mut word = arrays.load(At { table: route.table, index: range.start });
    let mut bits = DIR_BITS;
    while word & NODE != 0 && bits < route.deepest() {
        word = arrays.load(At::block(word & LOW, route.octet(bits)));
        bits += BLOCK_BITS;
    }
    let default = &arrays.tables.default[if is_v4(address) { DEFAULT4 } else { DEFAULT6 }];
    match word & LOW {
        _ if word & TRIE != 0 => longest(oracle, address),
        0 => default.load(Ordering::Relaxed).checked_sub(1).map(SlotId),
        slot => Some(SlotId(slot - 1)),
    }
}

fn longest(oracle: &BTreeMap<Prefix, SlotId>, address: Prefix) -> Option<SlotId> {
    let holds = |prefix: &Prefix| prefix.net().contains(&address.net());
    oracle
        .iter()
        .filter(|(prefix, _)| holds(prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .map(|(_, slot)| *slot)
}

fn parent(oracle: &BTreeMap<Prefix, SlotId>, of: Prefix) -> Option<(SlotId, u8)> {
    let holds = |prefix: &Prefix| prefix.len() < of.len() && prefix.net().contains(&of.net());
    let found = oracle.iter().filter(|(prefix, _)| holds(prefix)).max_by_key(|(prefix, _)| prefix.len());
    found.map(|(prefix, slot)| (*slot, prefix.len()))
}

/// First and last address of a prefix and the ones beside it.
fn corners(prefix: Prefix) -> Vec<Prefix> {
    let (first, last) = (prefix.net().network(), prefix.net().broadcast());
    let beside = |addr: std::net::IpAddr, up: bool| match addr {
        std::net::IpAddr::V4(v4) => {
            let bits = u32::from(v4);
            std::net::Ipv4Addr::from(if up { bits.wrapping_add(1) } else { bits.wrapping_sub(1) }).into()
        }
        std::net::IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            std::net::Ipv6Addr::from(if up { bits.wrapping_add(1) } else { bits.wrapping_sub(1) }).into()
        }
    };
    [first, last, beside(first, false), beside(last, true)]
        .into_iter()
        .map(|addr: std::net::IpAddr| Prefix::new(addr, if addr.is_ipv4() { 32 } else { 128 }).unwrap())
        .collect()
}

/// Prefixes that collide often: few networks, and not the lengths that cover millions of words.
fn any_prefix() -> impl Strategy<Value = Prefix> {
    let v4 = (0_u32..4, any::<u32>(), prop_oneof![1 => Just(0_u8), 9 => 13_u8..=32, 9 => 22_u8..=32])
        .prop_map(|(net, low, len)| {
            let addr = 0xc612_0000 | net << 8 | low & 0xff;
            Prefix::new(std::net::Ipv4Addr::from(addr).into(), len).unwrap()
        });
    let tops = prop_oneof![Just(0x2001_0db8_u32), Just(0x2001_0db9), Just(0x2a00_0000), Just(0xfd00_0000)];
    let v6 = (tops, 0_u32..3, 0_u64..4, prop_oneof![1 => Just(0_u8), 20 => 16_u8..=128]).prop_map(
        |(top, mid, low, len)| {
            let addr =
                u128::from(top) << 96 | u128::from(mid) << 78 | u128::from(low) << 62 | u128::from(low);
            Prefix::new(std::net::Ipv6Addr::from(addr).into(), len).unwrap()
        },
    );
    prop_oneof![v4, v6]
}

#[derive(Clone, Debug)]
enum Step {
    Toggle(Prefix),
    Settle,
    Rebuild,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        40 => any_prefix().prop_map(Step::Toggle),
        5 => Just(Step::Settle),
        1 => Just(Step::Rebuild),
    ];
    prop::collection::vec(step, 1..60)
}

fn rebuild(arrays: &mut Arrays<Plain>, oracle: &BTreeMap<Prefix, SlotId>) {
    let entries: Vec<_> = oracle.iter().map(|(prefix, slot)| (*prefix, *slot)).collect();
    arrays.rebuild(&entries, || Ok(())).unwrap();
}

#[test]
fn after_any_changes_every_address_finds_its_longest_prefix() {
    // The directories are large: one pair of them for all cases, emptied by removing.
    for blocks in [3, 200] {
        let arrays = RefCell::new(arrays(blocks));
        let mut runner =
            TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
        let run = |steps: Vec<Step>| {
            let mut arrays = arrays.borrow_mut();
            let (mut oracle, mut next) = (BTreeMap::new(), 0);
            for step in steps {
                match step {
                    Step::Toggle(prefix) => toggle(&mut arrays, &mut oracle, prefix, &mut next),
                    Step::Settle => arrays.settle(),
                    // Costs a pass over the directories.
                    Step::Rebuild if next % 16 == 0 => rebuild(&mut arrays, &oracle),
                    Step::Rebuild => {}
                }
            }
            let result = check(&arrays, &oracle);
            for prefix in oracle.keys().copied().collect::<Vec<_>>().into_iter().rev() {
                toggle(&mut arrays, &mut oracle, prefix, &mut next);
            }
            arrays.settle();
            prop_assert_eq!(arrays.free.len(), arrays.blocks.len(), "every block came back");
            prop_assert_eq!(arrays.in_trie(), 0);
            result
        };
        runner.run(&steps(), run).unwrap();
    }
}

fn toggle(arrays: &mut Arrays<Plain>, oracle: &mut BTreeMap<Prefix, SlotId>, prefix: Prefix, next: &mut u32) {
    if oracle.remove(&prefix).is_some() {
        arrays.remove(prefix, parent(oracle, prefix));
    } else {
        let slot = SlotId(*next);
        *next += 1;
        oracle.insert(prefix, slot);
        arrays.insert(prefix, slot);
    }
}

fn check(arrays: &Arrays<Plain>, oracle: &BTreeMap<Prefix, SlotId>) -> Result<(), TestCaseError> {
    for address in oracle.keys().copied().flat_map(corners) {
        prop_assert_eq!(look(arrays, address, oracle), longest(oracle, address), "{}", address);
    }
    Ok(())
}

#[test]
fn whatever_the_arrays_hold_a_rebuild_makes_them_right() {
    let mut arrays = arrays(16);
    let oracle: BTreeMap<Prefix, SlotId> = [
        "0.0.0.0/0",
        "198.18.0.0/15",
        "198.18.7.0/24",
        "198.18.7.128/25",
        "198.18.7.200/32",
        "2000::/3",
        "2001:db8::/32",
        "2001:db8:7::/48",
        "2001:db8:7:7::/64",
        "2001:db8:7:7::1/128",
        "fd00::/8",
        "0::/1",
    ]
    .into_iter()
    .zip(0..)
    .map(|(text, slot)| (p(text), SlotId(slot)))
    .collect();
    rebuild(&mut arrays, &oracle);
    check(&arrays, &oracle).unwrap();
    // What a crash, or somebody with bpftool, may leave.
    for (at, word) in [(0xc6_1207, 77), (0xc6_1208, NODE | 3), (0xc6_1209, TRIE), (5, LEAF)] {
        arrays.tables.dir4[at].store(word, Ordering::Relaxed);
    }
    arrays.tables.dir6[0x1_0db8].store(NODE | LOW, Ordering::Relaxed);
    arrays.tables.default[DEFAULT6].store(9, Ordering::Relaxed);
    rebuild(&mut arrays, &oracle);
    check(&arrays, &oracle).unwrap();
    for address in ["198.18.8.1/32", "198.18.9.1/32", "0.0.5.1/32", "2001:db8:8::1/128", "4000::1/128"] {
        assert_eq!(look(&arrays, p(address), &oracle), longest(&oracle, p(address)), "{address}");
    }
}

#[test]
fn a_packet_never_sees_a_block_that_is_not_filled() {
    let mut arrays = arrays(4);
    arrays.insert(p("198.18.0.0/15"), SlotId(7));
    arrays.insert(p("198.18.7.7/32"), SlotId(8));
    let at = At { table: Table::Dir4, index: 0xc6_1207 };
    let block = arrays.block_at(at).unwrap();
    let words = &arrays.tables.node[At::block(block, 0).index..][..256];
    assert_eq!(words.iter().filter(|word| word.load(Ordering::Relaxed) & LOW == 8).count(), 255);
    arrays.remove(p("198.18.7.7/32"), Some((SlotId(7), 15)));
    assert_eq!(arrays.load(at), leaf(SlotId(7), 15));
    assert_eq!((arrays.free.len(), arrays.unlinked.len()), (3, 1), "packets may still be inside");
    arrays.settle();
    assert_eq!(arrays.free.len(), 4);
}

#[test]
fn without_a_free_block_the_trie_is_asked_until_the_last_long_prefix_goes() {
    let mut arrays = arrays(0);
    arrays.insert(p("198.18.7.0/24"), SlotId(1));
    arrays.insert(p("198.18.7.7/32"), SlotId(2));
    arrays.insert(p("198.18.7.8/32"), SlotId(3));
    let at = At { table: Table::Dir4, index: 0xc6_1207 };
    assert_eq!((arrays.load(at), arrays.in_trie()), (TRIE | leaf(SlotId(1), 24), 2));
    arrays.remove(p("198.18.7.7/32"), Some((SlotId(1), 24)));
    arrays.remove(p("198.18.7.0/24"), None);
    assert_eq!(arrays.load(at), TRIE);
    arrays.remove(p("198.18.7.8/32"), None);
    assert_eq!((arrays.load(at), arrays.in_trie()), (0, 0));
}
