//! Which flows of a canary take overrides: those whose addresses hash below a threshold. A flow is a pair of addresses, so
//! that no fragment, and no connection of a pair, goes another way than the others.

/// Threshold at which every flow is chosen, without a look at any.
pub const ALL: u32 = u32::MAX;

/// The threshold of a share in parts per million.
pub fn threshold(ppm: u32) -> u32 {
    u32::try_from((u64::from(ppm) << 32) / 1_000_000).unwrap_or(ALL)
}

/// One round of mixing (the finaliser of splitmix64): every bit of the result depends on every bit of `word`.
#[inline(always)]
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Whether an IPv4 flow is chosen: source and destination as they lie in the packet, in one word.
#[inline(always)]
pub fn chosen4(addresses: u64, threshold: u32) -> bool {
    mix(addresses) >> 32 < u64::from(threshold)
}

/// The same for IPv6: source, then destination, in words as they lie in the packet.
#[inline(always)]
pub fn chosen6(addresses: &[u64; 4], threshold: u32) -> bool {
    let hash = mix(mix(mix(mix(addresses[0]) ^ addresses[1]) ^ addresses[2]) ^ addresses[3]);
    hash >> 32 < u64::from(threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_chooses_about_its_part_of_neighbouring_addresses() {
        for (ppm, low, high) in [(0, 0, 0), (50_000, 4_500, 5_500), (300_000, 29_000, 31_000)] {
            let most = threshold(ppm);
            let source = u64::from(0x0a00_0801_u32.to_be());
            let to = |n: u32| u64::from((0xc612_0000_u32 + n).to_be()) << 32 | source;
            let four = (0..100_000).filter(|n| chosen4(to(*n), most)).count();
            assert!((low..=high).contains(&four), "{ppm}: {four}");
            let six = (0..100_000_u32).filter(|n| {
                let words = [1, 2, 0x2001_0db8_u32.to_be().into(), u64::from(n.to_be()) << 32];
                chosen6(&words, most)
            });
            let six = six.count();
            assert!((low..=high).contains(&six), "{ppm}: {six}");
        }
        assert_eq!((threshold(1_000_000), threshold(2_000_000)), (ALL, ALL));
    }
}
