//! The per-peer header (RFC 7854 section 4.2): whose routes a message is about, and which of its tables.
//! Never says whether anybody wants to know.

use super::message::Malformed;
use crate::types::{Asn, RouterId};
use bytes::{Buf, Bytes};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of the per-peer header.
const LEN: usize = 42;

/// Flag of the per-peer header: the address is IPv6.
const FLAG_V6: u8 = 0x80;
/// After policy.
const FLAG_POST_POLICY: u8 = 0x40;
/// AS_PATH in the legacy two-octet form.
const FLAG_LEGACY_AS_PATH: u8 = 0x20;
/// Adj-RIB-Out (RFC 8671 section 4).
const FLAG_ADJ_RIB_OUT: u8 = 0x10;
/// Peer type of the Loc-RIB (RFC 9069 section 4.1). Its flags have another meaning: only "filtered" is defined.
const TYPE_LOC_RIB: u8 = 3;

/// A monitored peer. Two instances of one router may have a peer of the same address: the distinguisher tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerKey {
    /// Its address; unspecified for the router's own Loc-RIB.
    pub address: IpAddr,
    /// Route distinguisher, or whatever tells the router's instances apart; 0 for the global one.
    pub distinguisher: u64,
}

/// One of the tables of RFC 4271 section 1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RibView {
    /// As received from the peer.
    AdjInPrePolicy,
    /// What the router's policy left of it, and made of it.
    AdjInPostPolicy,
    /// What would be sent to the peer before policy.
    AdjOutPrePolicy,
    /// As sent to the peer.
    AdjOutPostPolicy,
    /// What the router chose.
    LocRib,
}

impl RibView {
    /// The word of configuration and output.
    pub fn as_str(self) -> &'static str {
        match self {
            RibView::AdjInPrePolicy => "pre-policy",
            RibView::AdjInPostPolicy => "post-policy",
            RibView::AdjOutPrePolicy => "adj-rib-out-pre-policy",
            RibView::AdjOutPostPolicy => "adj-rib-out",
            RibView::LocRib => "loc-rib",
        }
    }
}

impl fmt::Display for RibView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whom and what a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerHeader {
    /// Which peer.
    pub key: PeerKey,
    /// Which table.
    pub view: RibView,
    /// The peer's AS.
    pub asn: Asn,
    /// The peer's BGP identifier.
    pub router_id: RouterId,
    /// True where the AS_PATHs of this message have two-octet AS numbers.
    pub legacy_as_path: bool,
}

impl PeerHeader {
    pub(super) fn take_from(bytes: &mut Bytes) -> Result<PeerHeader, Malformed> {
        if bytes.len() < LEN {
            return Err(Malformed::Short { what: "the per-peer header", len: bytes.len() });
        }
        let (kind, flags) = (bytes.get_u8(), bytes.get_u8());
        let distinguisher = bytes.get_u64();
        let mut raw = [0_u8; 16];
        bytes.copy_to_slice(&mut raw);
        let (asn, router_id) = (Asn(bytes.get_u32()), RouterId(Ipv4Addr::from(bytes.get_u32())));
        // Time of the event, seconds and microseconds: the station goes by its own clock.
        bytes.advance(8);
        let loc_rib = kind == TYPE_LOC_RIB;
        let address = if !loc_rib && flags & FLAG_V6 != 0 {
            IpAddr::V6(Ipv6Addr::from(raw))
        } else {
            IpAddr::V4(Ipv4Addr::new(raw[12], raw[13], raw[14], raw[15]))
        };
        Ok(PeerHeader {
            key: PeerKey { address, distinguisher },
            view: view(kind, flags),
            asn,
            router_id,
            legacy_as_path: !loc_rib && flags & FLAG_LEGACY_AS_PATH != 0,
        })
    }
}

fn view(kind: u8, flags: u8) -> RibView {
    if kind == TYPE_LOC_RIB {
        return RibView::LocRib;
    }
    match (flags & FLAG_ADJ_RIB_OUT != 0, flags & FLAG_POST_POLICY != 0) {
        (false, false) => RibView::AdjInPrePolicy,
        (false, true) => RibView::AdjInPostPolicy,
        (true, false) => RibView::AdjOutPrePolicy,
        (true, true) => RibView::AdjOutPostPolicy,
    }
}
