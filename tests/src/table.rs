//! Who announces what, and which provider the border prefers. Pure: the prediction that the tests
//! compare real routers against, never read back from them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::topology::Provider;

/// One prefix and the providers that announce it, most preferred first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The destination.
    pub prefix: IpNet,
    /// Providers in the order in which the border prefers them: the place in this list is how many
    /// extra AS numbers the provider's AS path has.
    pub providers: Vec<Provider>,
}

impl Announcement {
    /// Origin AS of the prefix: a private number that depends on the prefix only.
    pub fn origin_as(&self) -> u32 {
        let bytes = match self.prefix.network() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        64600 + bytes.iter().fold(0_u32, |sum, byte| (sum * 7 + u32::from(*byte)) % 300)
    }

    /// AS path as `provider` announces it, without the provider's own number, nearest AS first;
    /// `None` when it does not announce the prefix.
    pub fn as_path(&self, provider: Provider) -> Option<Vec<u32>> {
        let rank = self.providers.iter().position(|p| *p == provider)?;
        let mut path = vec![provider.asn() + 50; rank];
        path.push(self.origin_as());
        Some(path)
    }
}

/// The table of the lab.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Its prefixes, each once.
    pub announcements: Vec<Announcement>,
}

/// Prefixes that are not the flat run of /24s: covering ones and what is nested in them.
/// `a`, `b` and `i` stand for transit-a, transit-b and ix, most preferred first.
const NESTED: [(&str, &str); 21] = [
    ("198.18.0.0/16", "ab"),
    ("198.18.16.0/20", "iab"),
    ("198.18.16.0/22", "ab"),
    ("198.18.17.0/24", "b"),
    ("198.18.32.0/20", "abi"),
    ("198.18.33.0/24", "a"),
    ("198.18.36.0/22", "b"),
    ("198.18.37.0/24", "aib"),
    ("198.19.0.0/16", "abi"),
    ("198.19.0.0/20", "iab"),
    ("198.19.1.0/24", "i"),
    ("198.19.64.0/20", "ba"),
    ("198.19.64.0/22", "ab"),
    ("198.19.65.0/24", "ai"),
    ("2001:db8::/32", "ab"),
    ("2001:db8:100::/40", "iab"),
    ("2001:db8:101::/48", "b"),
    ("2001:db8:200::/40", "ab"),
    ("2001:db8:201::/48", "aib"),
    ("2001:db8:202::/48", "a"),
    ("2001:db8:203::/48", "ba"),
];

/// Orders of the flat prefixes, repeated: ix carries more than half of them, most prefer transit-a or ix.
const FLAT: [&str; 8] = ["ab", "abi", "iab", "abi", "aib", "ba", "ab", "bai"];
/// Number of flat IPv4 /24s.
const FLAT_V4: usize = 32;
/// Number of flat IPv6 /48s.
const FLAT_V6: usize = 6;

impl Table {
    /// The table every lab starts with: 46 IPv4 and 13 IPv6 prefixes.
    pub fn standard() -> Self {
        let mut rows: Vec<(String, &str)> =
            NESTED.iter().map(|(prefix, order)| ((*prefix).to_owned(), *order)).collect();
        for (i, order) in FLAT.iter().cycle().take(FLAT_V4).enumerate() {
            rows.push((format!("198.18.{}.0/24", 100 + i), order));
        }
        for (i, order) in FLAT.iter().cycle().take(FLAT_V6).enumerate() {
            rows.push((format!("2001:db8:{:x}::/48", 0x1000 + i), order));
        }
        Self { announcements: rows.iter().filter_map(|(prefix, order)| row(prefix, order)).collect() }
    }

    /// What `provider` announces, with the AS path of each.
    pub fn of(&self, provider: Provider) -> impl Iterator<Item = (IpNet, Vec<u32>)> {
        self.announcements.iter().filter_map(move |a| Some((a.prefix, a.as_path(provider)?)))
    }

    /// The longest prefix that holds `address` and is announced by one of the `live` providers, and
    /// the provider the border prefers for it.
    pub fn best(&self, address: IpAddr, live: &BTreeSet<Provider>) -> Option<(IpNet, Provider)> {
        self.announcements
            .iter()
            .filter(|a| a.prefix.contains(&address))
            .filter_map(|a| Some((a.prefix, *a.providers.iter().find(|p| live.contains(p))?)))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
    }

    /// [`Self::best`] with every provider alive.
    pub fn home(&self, address: IpAddr) -> Option<(IpNet, Provider)> {
        self.best(address, &Provider::ALL.into_iter().collect())
    }

    /// An address whose longest match is exactly `prefix`: none of the more-specifics holds it.
    pub fn address_in(&self, prefix: IpNet) -> Option<IpAddr> {
        let nested: Vec<IpNet> = self
            .announcements
            .iter()
            .map(|a| a.prefix)
            .filter(|p| *p != prefix && prefix.contains(p))
            .collect();
        // Steps of one /24 or /48 are enough: nothing in the table is longer.
        (0..=u16::MAX)
            .map_while(|step| nth_address(prefix, step))
            .find(|address| !nested.iter().any(|n| n.contains(address)))
    }

    /// Number of prefixes of one family, and of (prefix, provider) pairs.
    pub fn counts(&self, family: Family) -> (usize, usize) {
        let of_family = || self.announcements.iter().filter(|a| Family::of(a.prefix) == family);
        (of_family().count(), of_family().map(|a| a.providers.len()).sum())
    }
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Family of a prefix.
    pub const fn of(prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

fn row(prefix: &str, order: &str) -> Option<Announcement> {
    let providers = order
        .chars()
        .filter_map(|letter| match letter {
            'a' => Some(Provider::TransitA),
            'b' => Some(Provider::TransitB),
            'i' => Some(Provider::Ix),
            _ => None,
        })
        .collect();
    Some(Announcement { prefix: prefix.parse().ok()?, providers })
}

/// Host 1 of the `step`-th /24 (IPv4) or /48 (IPv6) in `prefix`.
fn nth_address(prefix: IpNet, step: u16) -> Option<IpAddr> {
    let address = match prefix.network() {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + (u32::from(step) << 8) + 1).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + (u128::from(step) << 80) + 1).into()),
    };
    prefix.contains(&address).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_table_parses_completely_and_holds_each_prefix_once() {
        let table = Table::standard();
        assert_eq!(table.announcements.len(), NESTED.len() + FLAT_V4 + FLAT_V6);
        let distinct: BTreeSet<_> = table.announcements.iter().map(|a| a.prefix).collect();
        assert_eq!(distinct.len(), table.announcements.len());
        assert!(table.announcements.iter().all(|a| !a.providers.is_empty()));
    }

    #[test]
    fn every_prefix_has_an_address_of_its_own() {
        let table = Table::standard();
        for announcement in &table.announcements {
            let address = table.address_in(announcement.prefix).expect("an address");
            assert_eq!(
                table.home(address),
                Some((announcement.prefix, announcement.providers[0])),
                "{address}"
            );
        }
    }

    #[test]
    fn the_best_provider_follows_the_ones_alive_and_the_longest_match() {
        let table = Table::standard();
        let check = |address: &str, live: &[Provider], expected: Option<(&str, Provider)>| {
            let live = live.iter().copied().collect();
            let expected = expected.map(|(prefix, provider)| (prefix.parse().unwrap(), provider));
            assert_eq!(table.best(address.parse().unwrap(), &live), expected, "{address} {live:?}");
        };
        check("198.18.17.1", &Provider::ALL, Some(("198.18.17.0/24", Provider::TransitB)));
        let without_b = [Provider::TransitA, Provider::Ix];
        check("198.18.17.1", &without_b, Some(("198.18.16.0/22", Provider::TransitA)));
        check("198.18.20.1", &without_b, Some(("198.18.16.0/20", Provider::Ix)));
        check("198.18.20.1", &[], None);
    }
}
