//! What a session agreed on. Never holds what only one side offered.

use crate::types::{Asn, Family, RouterId};
use std::time::Duration;

/// What both OPENs came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Our AS.
    pub local_as: Asn,
    /// The peer's AS.
    pub peer_as: Asn,
    /// The peer's BGP identifier.
    pub peer_router_id: RouterId,
    /// Zero: neither side sends keepalives.
    pub hold: Duration,
    /// Families both sides offered.
    pub families: Vec<Family>,
    /// Families in which the peer sends path identifiers.
    pub add_path: Vec<Family>,
    /// RFC 6793.
    pub four_octet_as: bool,
    /// RFC 2918, by the peer.
    pub route_refresh: bool,
    /// Largest message either side may send, in bytes.
    pub message_limit: u16,
}

impl Negotiated {
    /// True on iBGP sessions.
    pub fn is_internal(&self) -> bool {
        self.local_as == self.peer_as
    }
}
