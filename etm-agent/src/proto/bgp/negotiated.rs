//! What a session agreed on. Never holds what only one side offered, except what a peer says of its own restart.

use super::capability::{family_of, words};
use super::frame::PLAIN_LIMIT;
use crate::types::bgp::BgpRole;
use crate::types::{Asn, Family, RouterId};
use rustbgpd_fsm as fsm;
use rustbgpd_wire as wire;
use std::time::Duration;
use wire::{AddPathMode, Afi, Capability, Safi};

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
    /// RFC 7313, by both.
    pub enhanced_refresh: bool,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Largest message either side may send, in bytes (RFC 8654).
    pub message_limit: u16,
    /// What the peer says of its own restart (RFC 4724); none where it says nothing.
    pub restart: Option<PeerRestart>,
    /// Our role, where one is configured (RFC 9234).
    pub role: Option<BgpRole>,
    /// What we offered, in words.
    pub ours: Vec<String>,
    /// What the peer offered, in words.
    pub theirs: Vec<String>,
}

/// The peer's Graceful Restart capability (RFC 4724 section 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRestart {
    /// How long the peer thinks a restart takes.
    pub time: Duration,
    /// R bit: it has just restarted.
    pub restarted: bool,
    /// Families whose routes should outlive a restart.
    pub families: Vec<Family>,
    /// F bit: families in which it kept forwarding while it restarted.
    pub forwarding: Vec<Family>,
}

impl Negotiated {
    /// True on iBGP sessions.
    pub fn is_internal(&self) -> bool {
        self.local_as == self.peer_as
    }

    pub(super) fn of(
        local_as: Asn,
        session: &fsm::NegotiatedSession,
        role: Option<BgpRole>,
        ours: &[Capability],
    ) -> Negotiated {
        let mut add_path: Vec<Family> = session
            .add_path_families
            .iter()
            .filter(|(_, mode)| matches!(mode, AddPathMode::Receive | AddPathMode::Both))
            .filter_map(|((afi, safi), _)| family_of(*afi, *safi))
            .collect();
        add_path.sort_unstable();
        let families = session.negotiated_families.iter().filter_map(|(afi, safi)| family_of(*afi, *safi));
        let v4 = (Afi::Ipv4, Safi::Unicast);
        Negotiated {
            local_as,
            peer_as: Asn(session.peer_asn),
            peer_router_id: RouterId(session.peer_router_id),
            hold: Duration::from_secs(u64::from(session.hold_time)),
            families: families.collect(),
            add_path,
            four_octet_as: session.four_octet_as,
            route_refresh: session.peer_route_refresh,
            enhanced_refresh: session.peer_route_refresh && session.peer_enhanced_route_refresh,
            extended_next_hop: session.extended_nexthop_families.get(&v4) == Some(&Afi::Ipv6),
            message_limit: if session.peer_extended_message { u16::MAX } else { PLAIN_LIMIT },
            restart: session.peer_gr_capable.then(|| peer_restart(session)),
            role,
            ours: words(ours),
            theirs: words(&session.peer_capabilities),
        }
    }
}

fn peer_restart(session: &fsm::NegotiatedSession) -> PeerRestart {
    let families = |only_forwarding: bool| {
        let listed = session.peer_gr_families.iter();
        let chosen = listed.filter(|family| family.forwarding_preserved || !only_forwarding);
        chosen.filter_map(|family| family_of(family.afi, family.safi)).collect()
    };
    PeerRestart {
        time: Duration::from_secs(u64::from(session.peer_restart_time)),
        restarted: session.peer_restart_state,
        families: families(false),
        forwarding: families(true),
    }
}
