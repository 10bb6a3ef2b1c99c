//! A table of the Internet's size: read from a file, or generated with the lengths of the real one.
//! Never the real one itself: only how many prefixes of each length it had.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use etm_agent::types::Prefix;

use crate::command;
use crate::error::LabError;

/// IPv4 prefixes by length, as one tier-1 saw them in 2024: 901,899.
const V4: [(u8, u32); 25] = [
    (8, 16),
    (9, 13),
    (10, 38),
    (11, 103),
    (12, 299),
    (13, 581),
    (14, 1203),
    (15, 2100),
    (16, 13_490),
    (17, 8235),
    (18, 13_798),
    (19, 24_870),
    (20, 42_611),
    (21, 50_750),
    (22, 108_623),
    (23, 96_510),
    (24, 537_698),
    (25, 20),
    (26, 3),
    (27, 11),
    (28, 18),
    (29, 17),
    (30, 3),
    (31, 3),
    (32, 886),
];
/// IPv6 prefixes by length, likewise: 160,147.
const V6: [(u8, u32); 37] = [
    (19, 1),
    (20, 17),
    (21, 3),
    (22, 7),
    (23, 8),
    (24, 30),
    (25, 8),
    (26, 15),
    (27, 20),
    (28, 193),
    (29, 4371),
    (30, 650),
    (31, 284),
    (32, 22_548),
    (33, 2926),
    (34, 2603),
    (35, 1043),
    (36, 5996),
    (37, 880),
    (38, 1617),
    (39, 1377),
    (40, 13_418),
    (41, 903),
    (42, 2301),
    (43, 1001),
    (44, 14_365),
    (45, 1553),
    (46, 3039),
    (47, 3153),
    (48, 75_488),
    (49, 15),
    (56, 25),
    (58, 22),
    (64, 184),
    (112, 2),
    (126, 30),
    (127, 51),
];

/// Numbers without a pattern that matters here, the same in each run (xorshift64*, Vigna 2016).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap_or_default() % end.max(1)
    }

    pub(super) fn address(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// The whole table, in prefix order.
pub(super) fn generated() -> Vec<Prefix> {
    sized(1)
}

/// One prefix of `part`, of each length that has as many.
pub(super) fn sized(part: u32) -> Vec<Prefix> {
    let mut dice = Dice::new(179);
    let v4 = family(&V4, part, &mut dice, |bits, len| {
        let [a, b, c, d, ..] = bits.to_be_bytes();
        // 1.0.0.0 to 223.255.255.255: unicast (RFC 1112 section 4).
        let a = 1 + a % 223;
        Prefix::new(Ipv4Addr::from([a, b, c, d]).into(), len).ok()
    });
    let v6 = family(&V6, part, &mut dice, |bits, len| {
        // The blocks that IANA gave to the registries, of /12 each, sparsely used as they are.
        const REGISTRIES: [u128; 6] = [0x2001, 0x2400, 0x2600, 0x2800, 0x2a00, 0x2c00];
        let registry = REGISTRIES[usize::try_from(bits >> 120).unwrap_or_default() % REGISTRIES.len()];
        let address = registry << 112 | bits >> 16 & (0x000f_03f8_u128 << 96 | u128::MAX >> 32);
        Prefix::new(Ipv6Addr::from(address).into(), len).ok()
    });
    let mut table: Vec<Prefix> = v4.into_iter().chain(v6).collect();
    table.sort_unstable();
    table
}

/// Half of them inside shorter ones, many beside others of their length: as the real table is.
fn family(
    lengths: &[(u8, u32)],
    part: u32,
    dice: &mut Dice,
    fresh: impl Fn(u128, u8) -> Option<Prefix>,
) -> BTreeSet<Prefix> {
    let mut table: Vec<Prefix> = Vec::new();
    let mut known = BTreeSet::new();
    for &(len, count) in lengths {
        let (wanted, first) = ((count / part).max(1), table.len());
        let end = first + usize::try_from(wanted).unwrap_or_default();
        while table.len() < end {
            let bits = dice.address();
            let prefix = match dice.below(20) {
                // Beside one of the same length: the same network but for the last five bits.
                0..12 if table.len() > first => {
                    let beside = table[first + dice.below(table.len() - first)];
                    inside(beside, len.saturating_sub(5), bits, len)
                }
                12..18 if first > 0 => {
                    let cover = table[dice.below(first)];
                    inside(cover, cover.len(), bits, len)
                }
                _ => fresh(bits, len),
            };
            table.extend(prefix.filter(|&prefix| known.insert(prefix)));
        }
    }
    known
}

/// A prefix of `len` bits: the first `keep` as in `like`, the rest from `bits`.
pub(super) fn inside(like: Prefix, keep: u8, bits: u128, len: u8) -> Option<Prefix> {
    let mask = |width: u32| u128::MAX.checked_shr(width).unwrap_or_default();
    let address: IpAddr = match like.addr() {
        IpAddr::V4(addr) => {
            let low = mask(96 + u32::from(keep));
            let mixed = u128::from(u32::from(addr)) & !low | bits & low;
            Ipv4Addr::from(u32::try_from(mixed & u128::from(u32::MAX)).unwrap_or_default()).into()
        }
        IpAddr::V6(addr) => {
            let low = mask(u32::from(keep));
            Ipv6Addr::from(u128::from(addr) & !low | bits & low).into()
        }
    };
    Prefix::new(address, len).ok()
}

/// Lines `prefix<TAB>anything`; compressed where the name says so.
pub(super) fn read(path: &Path) -> Result<Vec<Prefix>, LabError> {
    let name = path.display().to_string();
    let text = if path.extension().is_some_and(|end| end == "zst") {
        command::run("unpack the table", "zstd", &["-dcq", &name], None)?
    } else {
        fs::read_to_string(path).map_err(LabError::io(format!("read {name}")))?
    };
    let parse = |line: &str| {
        let first = line.split('\t').next().unwrap_or_default();
        first
            .parse()
            .map_err(|_| LabError::Malformed { what: name.clone(), detail: format!("line {line:?}") })
    };
    let table: BTreeSet<Prefix> = text.lines().map(parse).collect::<Result<_, _>>()?;
    Ok(table.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_table_has_the_lengths_it_was_asked_for() {
        let table = sized(10);
        let of = |v4: bool, len: u8| {
            table.iter().filter(|prefix| prefix.addr().is_ipv4() == v4 && prefix.len() == len).count()
        };
        assert_eq!((of(true, 24), of(true, 16), of(false, 48)), (53_769, 1349, 7548));
        assert_eq!(table, sized(10), "the same each time");
        let nested = table.windows(2).filter(|pair| pair[0].covers(pair[1])).count();
        assert!(nested > table.len() / 10, "{nested} of {}", table.len());
    }
}
