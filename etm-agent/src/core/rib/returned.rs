//! ETM's own announcements that came back: never candidates, and known by who said them.

use super::Rib;
use crate::core::topology::Topology;
use crate::types::{PathId, PeerId, Prefix};
use std::net::IpAddr;

impl Rib {
    /// How many announcements of ETM's own stand on learn sessions. ETM announces next hops of this side; a route with
    /// its community and an exit for next hop is a provider's, who chose the community: no candidate either, and no alarm.
    pub fn returned(&self, topology: &Topology) -> usize {
        let told = |from: &PeerId| topology.etms().contains(from);
        let returned = self.returned.iter().filter(|((from, ..), _)| !told(from));
        returned.filter(|(_, next_hop)| topology.exit_of(**next_hop).is_none()).count()
    }

    /// True where ETM on another border sent `prefix` here.
    pub fn is_guest(&self, prefix: Prefix, topology: &Topology) -> bool {
        topology.etms().iter().any(|etm| self.returned.contains_key(&(*etm, PathId(0), prefix)))
    }

    /// Announcements with ETM's community that stand on learn sessions: by whom, for what, with which next hop.
    pub fn came_back(&self) -> impl Iterator<Item = (PeerId, Prefix, IpAddr)> + '_ {
        self.returned.iter().map(|((peer, _, prefix), next_hop)| (*peer, *prefix, *next_hop))
    }
}
