//! Sequences of destinations: which prefixes are popular. Never more than what the kernel program is fed with.
//!
//! No public trace tells bytes per prefix at the Internet's scale: popularity is synthetic, a Zipf law over the
//! table's prefixes in random order, with one destination in each prefix.

use etm_agent::types::Prefix;
use std::net::IpAddr;

use super::routes::{Dice, inside};

/// A popularity of prefixes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mix {
    /// All alike.
    Uniform,
    /// The n-th most popular has a share of 1/n^s.
    Zipf(f64),
    /// Sixteen prefixes and no other.
    Hot16,
}

impl Mix {
    pub(super) const ALL: [Mix; 4] = [Mix::Uniform, Mix::Zipf(1.0), Mix::Zipf(1.2), Mix::Hot16];

    pub(super) fn name(self) -> String {
        match self {
            Mix::Uniform => "uniform".into(),
            Mix::Zipf(s) => format!("zipf{s:.1}"),
            Mix::Hot16 => "hot16".into(),
        }
    }

    /// `count` destinations in prefixes of `table`.
    pub(super) fn sequence(self, table: &[Prefix], count: usize) -> Vec<IpAddr> {
        let mut dice = Dice::new(1);
        let mut hosts: Vec<IpAddr> = table
            .iter()
            .filter_map(|&prefix| Some(inside(prefix, prefix.len(), dice.address(), full(prefix))?.addr()))
            .collect();
        for last in (1..hosts.len()).rev() {
            hosts.swap(last, dice.below(last + 1));
        }
        let mut sums = Vec::new();
        if let Mix::Zipf(s) = self {
            let mut sum = 0.0;
            for rank in (1_u32..).take(hosts.len()) {
                sum += f64::from(rank).powf(-s);
                sums.push(sum);
            }
        }
        let total = sums.last().copied().unwrap_or_default();
        let mut pick = || match self {
            Mix::Uniform => dice.below(hosts.len()),
            Mix::Hot16 => dice.below(hosts.len().min(16)),
            Mix::Zipf(_) => {
                let at = f64::from(u32::try_from(dice.next() >> 32).unwrap_or_default()) / 4_294_967_296.0;
                sums.partition_point(|&sum| sum < at * total)
            }
        };
        (0..count).filter_map(|_| hosts.get(pick()).copied()).collect()
    }
}

/// Bits of an address of the prefix's family.
pub(super) fn full(prefix: Prefix) -> u8 {
    if prefix.addr().is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_first_of_a_zipf_law_is_twice_the_second() {
        let table: Vec<Prefix> = (0..100).map(|i| format!("198.18.{i}.0/24").parse().unwrap()).collect();
        let sequence = Mix::Zipf(1.0).sequence(&table, 100_000);
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        sequence.into_iter().for_each(|host| *counts.entry(host).or_default() += 1);
        let mut counts: Vec<usize> = counts.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        assert!((180..220).contains(&(counts[0] * 100 / counts[1])), "{counts:?}");
        assert_eq!(
            Mix::Hot16.sequence(&table, 1000).into_iter().collect::<std::collections::BTreeSet<_>>().len(),
            16
        );
    }
}
