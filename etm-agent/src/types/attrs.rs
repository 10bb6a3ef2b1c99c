//! Path attributes of a route (RFC 4271 section 5) as ETM's own types.
//! Never interprets wire encodings: `proto` translates, and what ETM only passes on is kept as it came.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Autonomous system number, four octets (RFC 6793).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Asn(pub u32);

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{}", self.0)
    }
}

/// ORIGIN; the order is that of preference (RFC 4271 section 9.1.2.2 c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Interior to the originating AS.
    #[default]
    Igp,
    /// Learnt by EGP.
    Egp,
    /// Some other means.
    Incomplete,
}

/// One segment of an AS_PATH.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AsPathSegment {
    /// Ordered.
    Sequence(Vec<Asn>),
    /// Unordered.
    Set(Vec<Asn>),
}

/// AS_PATH.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AsPath(pub Vec<AsPathSegment>);

impl AsPath {
    /// A path of one AS_SEQUENCE.
    pub fn sequence(asns: impl IntoIterator<Item = u32>) -> AsPath {
        let asns: Vec<Asn> = asns.into_iter().map(Asn).collect();
        if asns.is_empty() { AsPath::default() } else { AsPath(vec![AsPathSegment::Sequence(asns)]) }
    }

    /// Length for the Decision Process: a set counts as one (RFC 4271 section 9.1.2.2 a).
    pub fn hops(&self) -> usize {
        self.0
            .iter()
            .map(|segment| match segment {
                AsPathSegment::Sequence(asns) => asns.len(),
                AsPathSegment::Set(_) => 1,
            })
            .sum()
    }

    /// The neighbouring AS: the first of a leading sequence.
    pub fn first(&self) -> Option<Asn> {
        match self.0.first() {
            Some(AsPathSegment::Sequence(asns)) => asns.first().copied(),
            Some(AsPathSegment::Set(_)) | None => None,
        }
    }

    /// The origin AS: the last of a trailing sequence.
    pub fn origin(&self) -> Option<Asn> {
        match self.0.last() {
            Some(AsPathSegment::Sequence(asns)) => asns.last().copied(),
            Some(AsPathSegment::Set(_)) | None => None,
        }
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        for segment in &self.0 {
            match segment {
                AsPathSegment::Sequence(asns) => words.extend(asns.iter().map(|asn| asn.0.to_string())),
                AsPathSegment::Set(asns) => {
                    let set: Vec<String> = asns.iter().map(|asn| asn.0.to_string()).collect();
                    words.push(format!("{{{}}}", set.join(",")));
                }
            }
        }
        f.pad(&words.join(" "))
    }
}

/// COMMUNITIES value (RFC 1997).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Community(pub u32);

impl Community {
    /// Not beyond this AS or confederation (RFC 1997).
    pub const NO_EXPORT: Community = Community(0xFFFF_FF01);
    /// To no other peer at all (RFC 1997).
    pub const NO_ADVERTISE: Community = Community(0xFFFF_FF02);
    /// Discard traffic (RFC 7999).
    pub const BLACKHOLE: Community = Community(0xFFFF_029A);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xFFFF)
    }
}

impl FromStr for Community {
    type Err = String;

    fn from_str(text: &str) -> Result<Community, String> {
        let bad = || format!("`{text}` is not a community; write it like 64500:179");
        let (high, low) = text.split_once(':').ok_or_else(bad)?;
        let high: u16 = high.parse().map_err(|_| bad())?;
        let low: u16 = low.parse().map_err(|_| bad())?;
        Ok(Community(u32::from(high) << 16 | u32::from(low)))
    }
}

/// LARGE_COMMUNITY value (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LargeCommunity {
    /// Global administrator: an AS number.
    pub global: u32,
    /// First local data part.
    pub local1: u32,
    /// Second local data part.
    pub local2: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

impl FromStr for LargeCommunity {
    type Err = String;

    fn from_str(text: &str) -> Result<LargeCommunity, String> {
        let bad = || format!("`{text}` is not a large community; write it like 64500:1:179");
        let parts: Vec<u32> = text.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| bad())?;
        match parts[..] {
            [global, local1, local2] => Ok(LargeCommunity { global, local1, local2 }),
            _ => Err(bad()),
        }
    }
}

/// An optional transitive attribute that ETM has no use for itself and passes on with the route: AGGREGATOR,
/// EXTENDED COMMUNITIES, ONLY_TO_CUSTOMER, and whatever it does not know (RFC 4271 section 5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CarriedAttr {
    /// Attribute flags as they are to be sent: Partial is set where ETM does not know the attribute.
    pub flags: u8,
    /// Attribute type code.
    pub code: u8,
    /// Value in network order; AS numbers in it have four octets.
    pub value: Box<[u8]>,
}

/// The attributes of one route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteAttrs {
    /// NEXT_HOP, or the global next hop of MP_REACH_NLRI.
    pub next_hop: IpAddr,
    /// AS_PATH.
    pub as_path: AsPath,
    /// ORIGIN.
    pub origin: Origin,
    /// LOCAL_PREF; 100 where an iBGP peer sent none.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC; none counts as 0.
    pub med: Option<u32>,
    /// COMMUNITIES, sorted.
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITY, sorted.
    pub large_communities: Vec<LargeCommunity>,
    /// ORIGINATOR_ID of a reflected route (RFC 4456).
    pub originator: Option<Ipv4Addr>,
    /// Length of CLUSTER_LIST (RFC 4456); 0 of a route that was not reflected.
    #[serde(default)]
    pub cluster_hops: u8,
    /// What is passed on unread, by type code.
    #[serde(default)]
    pub carried: Box<[CarriedAttr]>,
}

impl RouteAttrs {
    /// A route with nothing but its next hop: static configuration.
    pub fn to_next_hop(next_hop: IpAddr) -> RouteAttrs {
        RouteAttrs {
            next_hop,
            as_path: AsPath::default(),
            origin: Origin::Igp,
            local_pref: 100,
            med: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            originator: None,
            cluster_hops: 0,
            carried: Box::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_counts_as_one_hop() {
        let path = AsPath(vec![
            AsPathSegment::Sequence(vec![Asn(64601), Asn(3356)]),
            AsPathSegment::Set(vec![Asn(1), Asn(2), Asn(3)]),
        ]);
        assert_eq!(path.hops(), 3);
        assert_eq!(path.first(), Some(Asn(64601)));
        assert_eq!(path.origin(), None);
        assert_eq!(path.to_string(), "64601 3356 {1,2,3}");
    }

    #[test]
    fn communities_are_written_in_two_halves() {
        assert_eq!("64500:179".parse::<Community>().unwrap(), Community(64500 << 16 | 179));
        assert_eq!(Community::NO_EXPORT.to_string(), "65535:65281");
        assert!("64500".parse::<Community>().is_err());
    }
}
