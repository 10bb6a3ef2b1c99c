//! The one longest-match map of user space: both families over `prefix-trie`.
//! Never leaks that crate's types, and iterates in prefix order so that equal content is seen in equal order.

use super::prefix::{Family, Prefix};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

/// Map from prefixes of both families to `T`.
#[derive(Clone, Debug)]
pub struct PrefixMap<T> {
    v4: prefix_trie::PrefixMap<Ipv4Net, T>,
    v6: prefix_trie::PrefixMap<Ipv6Net, T>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        PrefixMap { v4: prefix_trie::PrefixMap::new(), v6: prefix_trie::PrefixMap::new() }
    }
}

impl<T> PrefixMap<T> {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of entries of both families.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of entries of one family.
    pub fn len_of(&self, family: Family) -> usize {
        match family {
            Family::V4 => self.v4.len(),
            Family::V6 => self.v6.len(),
        }
    }

    /// The value of exactly `prefix`.
    pub fn get(&self, prefix: Prefix) -> Option<&T> {
        match prefix.net() {
            IpNet::V4(net) => self.v4.get(&net),
            IpNet::V6(net) => self.v6.get(&net),
        }
    }

    /// The value of exactly `prefix`, to change.
    pub fn get_mut(&mut self, prefix: Prefix) -> Option<&mut T> {
        match prefix.net() {
            IpNet::V4(net) => self.v4.get_mut(&net),
            IpNet::V6(net) => self.v6.get_mut(&net),
        }
    }

    /// Sets the value of `prefix` and returns the former one.
    pub fn insert(&mut self, prefix: Prefix, value: T) -> Option<T> {
        match prefix.net() {
            IpNet::V4(net) => self.v4.insert(net, value),
            IpNet::V6(net) => self.v6.insert(net, value),
        }
    }

    /// The value of `prefix`, set to `value` first where there is none.
    pub fn get_or_insert(&mut self, prefix: Prefix, value: T) -> &mut T {
        match prefix.net() {
            IpNet::V4(net) => self.v4.entry(net).or_insert(value),
            IpNet::V6(net) => self.v6.entry(net).or_insert(value),
        }
    }

    /// Takes `prefix` out.
    pub fn remove(&mut self, prefix: Prefix) -> Option<T> {
        match prefix.net() {
            IpNet::V4(net) => self.v4.remove(&net),
            IpNet::V6(net) => self.v6.remove(&net),
        }
    }

    /// The longest prefix that holds `addr`, with its value.
    pub fn longest_match(&self, addr: IpAddr) -> Option<(Prefix, &T)> {
        match addr {
            IpAddr::V4(a) => self.v4.get_lpm(&Ipv4Net::from(a)).map(|(net, value)| (net.into(), value)),
            IpAddr::V6(a) => self.v6.get_lpm(&Ipv6Net::from(a)).map(|(net, value)| (net.into(), value)),
        }
    }

    /// Every entry inside `prefix`, `prefix` itself included, in prefix order.
    pub fn covered_by(&self, prefix: Prefix) -> Box<dyn Iterator<Item = (Prefix, &T)> + '_> {
        match prefix.net() {
            IpNet::V4(net) => Box::new(self.v4.children(&net).map(|(net, value)| (net.into(), value))),
            IpNet::V6(net) => Box::new(self.v6.children(&net).map(|(net, value)| (net.into(), value))),
        }
    }

    /// Every entry that covers `prefix`, `prefix` itself included, shortest first.
    pub fn covering(&self, prefix: Prefix) -> Vec<(Prefix, &T)> {
        match prefix.net() {
            IpNet::V4(net) => self.v4.cover(&net).map(|(net, value)| (net.into(), value)).collect(),
            IpNet::V6(net) => self.v6.cover(&net).map(|(net, value)| (net.into(), value)).collect(),
        }
    }

    /// All entries, IPv4 first, in prefix order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &T)> + '_ {
        let v4 = self.v4.iter().map(|(net, value)| (Prefix::from(net), value));
        let v6 = self.v6.iter().map(|(net, value)| (Prefix::from(net), value));
        v4.chain(v6)
    }

    /// The entries after `prefix` (all without one), IPv4 first, in prefix order.
    pub fn iter_after(&self, prefix: Option<Prefix>) -> impl Iterator<Item = (Prefix, &T)> + '_ {
        let (v4, v6) = match prefix.map(Prefix::net) {
            None => (Some(self.v4.iter()), self.v6.iter()),
            Some(IpNet::V4(net)) => (Some(self.v4.iter_from(&net, false)), self.v6.iter()),
            Some(IpNet::V6(net)) => (None, self.v6.iter_from(&net, false)),
        };
        let v4 = v4.into_iter().flatten().map(|(net, value)| (Prefix::from(net), value));
        v4.chain(v6.map(|(net, value)| (Prefix::from(net), value)))
    }

    /// As `iter_after`, to change values.
    pub fn iter_mut_after(&mut self, prefix: Option<Prefix>) -> impl Iterator<Item = (Prefix, &mut T)> + '_ {
        let (v4, v6) = match prefix.map(Prefix::net) {
            None => (Some(self.v4.iter_mut()), self.v6.iter_mut()),
            Some(IpNet::V4(net)) => (Some(self.v4.iter_from_mut(&net, false)), self.v6.iter_mut()),
            Some(IpNet::V6(net)) => (None, self.v6.iter_from_mut(&net, false)),
        };
        let v4 = v4.into_iter().flatten().map(|(net, value)| (Prefix::from(net), value));
        v4.chain(v6.map(|(net, value)| (Prefix::from(net), value)))
    }

    /// Bytes of memory held, without what values hold themselves.
    pub fn memory(&self) -> usize {
        self.v4.mem_size() + self.v6.mem_size()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
    }
}

/// As a sequence of pairs, in prefix order.
impl<T: Serialize> Serialize for PrefixMap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The number is given beforehand: binary forms begin with it.
        let mut seq = serializer.serialize_seq(Some(self.len()))?;
        for entry in self.iter() {
            seq.serialize_element(&entry)?;
        }
        seq.end()
    }
}

struct Pairs<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<T> {
    type Value = PrefixMap<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pairs of a prefix and its value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PrefixMap<T>, A::Error> {
        let mut map = PrefixMap::new();
        while let Some((prefix, value)) = seq.next_element::<(Prefix, T)>()? {
            map.insert(prefix, value);
        }
        Ok(map)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for PrefixMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PrefixMap<T>, D::Error> {
        deserializer.deserialize_seq(Pairs(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn nested() -> PrefixMap<u32> {
        let mut map = PrefixMap::new();
        for (index, text) in [
            "198.18.0.0/15",
            "198.18.0.0/16",
            "198.18.4.0/24",
            "198.19.0.0/16",
            "2001:db8::/32",
            "2001:db8:7::/48",
        ]
        .iter()
        .enumerate()
        {
            map.insert(p(text), u32::try_from(index).unwrap());
        }
        map
    }

    #[test]
    fn longest_match_prefers_the_more_specific() {
        let map = nested();
        let hit = |addr: &str| map.longest_match(addr.parse().unwrap()).map(|(prefix, _)| prefix.to_string());
        assert_eq!(hit("198.18.4.1").as_deref(), Some("198.18.4.0/24"));
        assert_eq!(hit("198.18.5.1").as_deref(), Some("198.18.0.0/16"));
        assert_eq!(hit("2001:db8:7::1").as_deref(), Some("2001:db8:7::/48"));
        assert_eq!(hit("192.0.2.1"), None);
    }

    #[test]
    fn covered_and_covering_include_the_prefix_itself() {
        let map = nested();
        let inside: Vec<_> =
            map.covered_by(p("198.18.0.0/16")).map(|(prefix, _)| prefix.to_string()).collect();
        assert_eq!(inside, ["198.18.0.0/16", "198.18.4.0/24"]);
        let around: Vec<_> =
            map.covering(p("198.18.4.0/24")).into_iter().map(|(prefix, _)| prefix.to_string()).collect();
        assert_eq!(around, ["198.18.0.0/15", "198.18.0.0/16", "198.18.4.0/24"]);
        // A prefix that is not an entry has entries inside all the same.
        assert_eq!(map.covered_by(p("198.16.0.0/12")).count(), 4);
    }

    #[test]
    fn iteration_is_in_prefix_order_whatever_the_order_of_insertion() {
        let map = nested();
        let seen: Vec<_> = map.iter().map(|(prefix, _)| prefix).collect();
        let mut sorted = seen.clone();
        sorted.sort();
        assert_eq!(seen, sorted);
    }
}
