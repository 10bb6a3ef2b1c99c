//! From a destination address to the slot of its longest prefix, by the derived arrays or by the tries.
//! Both give the same answer; never anything is written here.

use crate::maps::{DEFAULT, DIR6, DIR24, ETM_FAST, NODE, PREFIX4, PREFIX6};
use crate::parse::{Destination, Family};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::btf_maps::lpm_trie::Key;
use etm_common::word;

/// The slot, if any prefix holds the address.
#[inline(always)]
pub fn slot(destination: Destination) -> Option<u32> {
    if ETM_FAST.load() == 0 {
        return by_trie(destination);
    }
    let (word, default) = match destination.family {
        Family::V4 => (word4(u32::from_be(destination.high as u32)), word::DEFAULT4),
        Family::V6 => (word6(u64::from_be(destination.high)), word::DEFAULT6),
    };
    if word & word::TRIE != 0 {
        return by_trie(destination);
    }
    match word & word::LOW {
        // Entered nowhere else, because it would be everywhere.
        0 => (DEFAULT.get(0)?[default] & word::LOW).checked_sub(1),
        slot => Some(slot - 1),
    }
}

/// The canonical way.
#[inline(always)]
pub fn by_trie(destination: Destination) -> Option<u32> {
    let Destination { family, high, low } = destination;
    match family {
        Family::V4 => PREFIX4.get(&Key::new(32, (high as u32).to_ne_bytes())),
        Family::V6 => {
            // SAFETY: both are 16 octets without padding, and any octets are an address.
            let addr = unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>([high, low]) };
            PREFIX6.get(&Key::new(128, addr))
        }
    }
    .copied()
}

#[inline(always)]
fn word4(addr: u32) -> u32 {
    let word = read(&DIR24, addr >> word::BLOCK_BITS);
    if word & word::NODE == 0 { word } else { read_block(word, addr & (word::BLOCK_WORDS - 1)) }
}

#[inline(always)]
fn word6(high: u64) -> u32 {
    if high >> 61 != word::GLOBAL_UNICAST {
        return word::TRIE;
    }
    let mut word = read(&DIR6, (high >> (64 - word::DIR_BITS)) as u32 & (word::DIR6_WORDS - 1));
    // The octets after the directory's.
    let mut rest = high << word::DIR_BITS;
    let mut levels = (word::V6_BITS - word::DIR_BITS) / word::BLOCK_BITS;
    while word & word::NODE != 0 && levels > 0 {
        word = read_block(word, (rest >> (64 - word::BLOCK_BITS)) as u32);
        rest <<= word::BLOCK_BITS;
        levels -= 1;
    }
    word
}

#[inline(always)]
fn read_block(node: u32, octet: u32) -> u32 {
    read(&NODE, (node & word::LOW) << word::BLOCK_BITS | octet)
}

/// A word that is not there is one that the arrays do not know.
#[inline(always)]
fn read<const N: usize, const F: usize>(words: &Array<[u32; 2], N, F>, at: u32) -> u32 {
    match words.get(at / word::PAIR) {
        // SAFETY: an aligned u32 of a live element; its writer stores whole words, so this one is old or new.
        Some(pair) => unsafe { core::ptr::read_volatile(&raw const pair[(at % word::PAIR) as usize]) },
        None => word::TRIE,
    }
}
