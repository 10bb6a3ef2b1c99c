//! Whether a route may serve as a candidate, beside the operator's rules, and what came with ETM's own community.
//! Never says how good a route is.

use super::Rib;
use super::attrs::AttrsRef;
use crate::core::topology::Topology;
use crate::types::{ExitId, PathId, PeerId, Prefix};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A route that carries ETM's community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    /// NEXT_HOP.
    pub next_hop: IpAddr,
    /// The AS_PATH names our own AS: whoever announces it has it from us.
    pub by_us: bool,
}

/// True where a route of `peer` may be used through `exit` as things are.
pub(super) fn admissible(
    attrs: AttrsRef<'_>,
    (prefix, peer, exit): (Prefix, PeerId, ExitId),
    topology: &Topology,
) -> bool {
    let by_provider = match (topology.asn_of(exit), attrs.first_as()) {
        (Some(asn), Some(first)) => asn == first,
        // A static candidate has no path; without a configured AS nothing can be said.
        (_, None) | (None, _) => true,
    };
    let linked = topology.uplink_of(exit).is_some_and(|uplink| topology.link(uplink).up);
    let usable = by_provider && linked && !attrs.is_blackhole();
    // What cannot be announced (RFC 9774) cannot be used elsewhere.
    let sendable = || !topology.is_elsewhere(exit) || !attrs.has_set();
    usable && topology.speaks_for(peer, exit) && topology.can_reach(prefix, exit) && sendable()
}

impl Rib {
    /// How many announcements of ETM's own stand on learn sessions. ETM announces next hops of this side; a route with
    /// its community and an exit for next hop is a provider's, who chose the community: no candidate either, and no alarm.
    pub fn returned(&self, topology: &Topology) -> usize {
        let told = |from: &PeerId| topology.etms().contains(from);
        let returned = self.returned.iter().filter(|((from, ..), _)| !told(from));
        returned.filter(|((from, ..), route)| topology.exit_of(*from, route.next_hop).is_none()).count()
    }

    /// True where ETM on another border sent `prefix` here.
    pub fn is_guest(&self, prefix: Prefix, topology: &Topology) -> bool {
        topology.etms().iter().any(|etm| self.returned.contains_key(&(*etm, PathId(0), prefix)))
    }

    /// Announcements with ETM's community that stand on learn sessions: by whom, for what, and what is told of them.
    pub fn came_back(&self) -> impl Iterator<Item = (PeerId, Prefix, Returned)> + '_ {
        self.returned.iter().map(|((peer, _, prefix), route)| (*peer, *prefix, *route))
    }
}
