//! A destination prefix with its host bits cleared. Never holds an address that is not a network.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Address family of a prefix or a next hop (AFI 1 and 2 of RFC 4760, unicast).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order they are always handled.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(addr: IpAddr) -> Family {
        match addr {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        })
    }
}

/// A network prefix; equality and order are those of (family, address, length).
///
/// Host bits are cleared on construction: RFC 4271 section 4.3 calls them irrelevant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNet);

/// Why a text or a pair (address, length) is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The length does not exist in the family.
    #[error("prefix length {len} is longer than {addr} has bits")]
    Length {
        /// The address given.
        addr: IpAddr,
        /// The length given, in bits.
        len: u8,
    },
    /// Neither an address nor address/length.
    #[error("`{text}` is not a prefix; write it like 198.51.100.0/24 or 2001:db8::/32")]
    Syntax {
        /// The text given.
        text: String,
    },
}

impl Prefix {
    /// The prefix of `len` bits that holds `addr`.
    pub fn new(addr: IpAddr, len: u8) -> Result<Prefix, PrefixError> {
        IpNet::new(addr, len).map(|net| Prefix(net.trunc())).map_err(|_| PrefixError::Length { addr, len })
    }

    /// The prefix of a single address.
    pub fn host(addr: IpAddr) -> Prefix {
        Prefix(IpNet::from(addr))
    }

    /// Network address.
    pub fn addr(self) -> IpAddr {
        self.0.network()
    }

    /// Length in bits.
    // A prefix of length 0 is the default route, not an empty thing.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> u8 {
        self.0.prefix_len()
    }

    /// Address family.
    pub fn family(self) -> Family {
        match self.0 {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    /// True for 0.0.0.0/0 and ::/0.
    pub fn is_default(self) -> bool {
        self.len() == 0
    }

    /// True where every address of `other` is one of `self` (a prefix covers itself).
    pub fn covers(self, other: Prefix) -> bool {
        self.0.contains(&other.0)
    }

    /// True where `addr` is inside.
    pub fn contains(self, addr: IpAddr) -> bool {
        self.0.contains(&addr)
    }

    /// The same value in `ipnet`'s type, for adapters.
    pub fn net(self) -> IpNet {
        self.0
    }
}

impl From<IpNet> for Prefix {
    fn from(net: IpNet) -> Prefix {
        Prefix(net.trunc())
    }
}

impl From<Ipv4Net> for Prefix {
    fn from(net: Ipv4Net) -> Prefix {
        Prefix(IpNet::V4(net.trunc()))
    }
}

impl From<Ipv6Net> for Prefix {
    fn from(net: Ipv6Net) -> Prefix {
        Prefix(IpNet::V6(net.trunc()))
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        let syntax = || PrefixError::Syntax { text: text.to_owned() };
        match text.split_once('/') {
            Some((addr, len)) => {
                let addr: IpAddr = addr.parse().map_err(|_| syntax())?;
                let len: u8 = len.parse().map_err(|_| syntax())?;
                Prefix::new(addr, len)
            }
            None => text.parse::<IpAddr>().map(Prefix::host).map_err(|_| syntax()),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` so that tables can align prefixes.
        f.pad(&self.0.to_string())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&self.0)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        if !deserializer.is_human_readable() {
            return IpNet::deserialize(deserializer).map(Prefix::from);
        }
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!("198.18.7.9/16".parse::<Prefix>().unwrap().to_string(), "198.18.0.0/16");
        assert_eq!("2001:db8::1".parse::<Prefix>().unwrap().to_string(), "2001:db8::1/128");
    }

    #[test]
    fn wrong_texts_name_themselves() {
        for text in ["", "198.18.0.0/", "198.18.0/16", "x/1", "198.18.0.0/16/2", "198.18.0.0/256"] {
            assert!(matches!(text.parse::<Prefix>(), Err(PrefixError::Syntax { .. })), "{text}");
        }
        assert!(matches!("198.18.0.0/33".parse::<Prefix>(), Err(PrefixError::Length { len: 33, .. })));
    }

    #[test]
    fn covering_is_reflexive_and_stays_in_the_family() {
        let wide: Prefix = "198.18.0.0/15".parse().unwrap();
        let narrow: Prefix = "198.19.4.0/24".parse().unwrap();
        assert!(wide.covers(narrow) && wide.covers(wide) && !narrow.covers(wide));
        assert!(!"0.0.0.0/0".parse::<Prefix>().unwrap().covers("::/0".parse().unwrap()));
    }

    #[test]
    fn json_is_the_text_form() {
        let prefix: Prefix = serde_json::from_str("\"2001:db8::1/32\"").unwrap();
        assert_eq!(serde_json::to_string(&prefix).unwrap(), "\"2001:db8::/32\"");
    }
}
