//! What is where: exits by next hop, interfaces by index, and which of them work.
//! Never decides anything; it only answers.

use super::input::{GatewayEvent, LinkEvent};
use super::policy::{Border, Policy};
use crate::types::{Asn, ExitId, Family, IfIndex, PeerId, Prefix, UplinkId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Live view of the configured exits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Topology {
    exit_of: BTreeMap<IpAddr, ExitId>,
    uplink_of: Vec<UplinkId>,
    asn_of: Vec<Option<Asn>>,
    covering: Vec<bool>,
    has_covering: bool,
    /// By `PeerId`: of another AS or not, and the address.
    peers: Vec<(bool, Option<IpAddr>)>,
    links: Vec<Link>,
    /// By `ExitId`: the session of the other border that has it.
    elsewhere: Vec<Option<PeerId>>,
    /// By `ExitId`, of another border: families in which it can be announced. None while only a part of the flows may be
    /// moved: a router that hears an announcement moves them all.
    families: Vec<Vec<Family>>,
    /// Somebody behind this border hears our announcements.
    heard: bool,
    /// Sessions with ETM on other borders.
    etms: Vec<PeerId>,
    /// Next hops that do not answer.
    silent: BTreeSet<IpAddr>,
}

/// What is known of an uplink's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index while it exists.
    pub ifindex: Option<IfIndex>,
    /// Administratively up with carrier.
    pub up: bool,
    /// False until the first report.
    pub known: bool,
}

impl Topology {
    /// The configured exits, every link still unknown.
    pub fn new(policy: &Policy) -> Topology {
        let mut exit_of = BTreeMap::new();
        for (index, exit) in policy.exits.iter().enumerate() {
            let id = ExitId(u16::try_from(index).unwrap_or(u16::MAX));
            for gateway in &exit.gateways {
                exit_of.insert(*gateway, id);
            }
        }
        let covering: Vec<bool> = policy
            .exits
            .iter()
            .map(|exit| policy.providers.get(exit.provider.index()).is_some_and(|provider| provider.covering))
            .collect();
        Topology {
            exit_of,
            has_covering: covering.contains(&true),
            covering,
            peers: policy.peers.iter().map(|peer| (peer.external, peer.address)).collect(),
            uplink_of: policy.exits.iter().map(|exit| exit.uplink).collect(),
            asn_of: policy
                .exits
                .iter()
                .map(|exit| policy.providers.get(exit.provider.index())?.asn)
                .collect(),
            links: (0..policy.uplinks.len()).map(|index| unseen_link(index, policy)).collect(),
            elsewhere: border_per_exit(policy).map(|border| border.map(|border| border.session)).collect(),
            families: border_per_exit(policy)
                .map(|border| border.filter(|_| !policy.canary.is_partial()))
                .map(|border| border.map_or_else(Vec::new, |border| border.families.clone()))
                .collect(),
            heard: false,
            etms: policy.borders.iter().filter_map(|border| border.etm_learn).collect(),
            silent: BTreeSet::new(),
        }
    }

    /// The same with links as known.
    pub fn with_links(policy: &Policy, links: Vec<Link>) -> Topology {
        Topology { links, ..Topology::new(policy) }
    }

    /// Takes note whether anybody hears our announcements; true where that is news.
    pub fn set_heard(&mut self, heard: bool) -> bool {
        std::mem::replace(&mut self.heard, heard) != heard
    }

    /// True where `exit` is another border's: traffic gets there by announcements only.
    pub fn is_elsewhere(&self, exit: ExitId) -> bool {
        self.session_of(exit).is_some()
    }

    /// Sessions by which ETM on other borders says what it sent here.
    pub fn etms(&self) -> &[PeerId] {
        &self.etms
    }

    /// True where some exit is another border's.
    pub fn has_elsewhere(&self) -> bool {
        self.elsewhere.iter().any(Option::is_some)
    }

    fn session_of(&self, exit: ExitId) -> Option<PeerId> {
        self.elsewhere.get(exit.index()).copied().flatten()
    }

    /// True where `peer` may offer routes through `exit`. Another border speaks for its own exits, and nobody else does:
    /// a route that it does not announce itself is one that it does not use, and might send back here.
    pub fn speaks_for(&self, peer: PeerId, exit: ExitId) -> bool {
        match self.session_of(exit) {
            Some(border) => border == peer,
            None => !self.elsewhere.contains(&Some(peer)),
        }
    }

    /// True where traffic for `prefix` can be got to `exit`, as far as announcements are needed for it.
    pub fn can_reach(&self, prefix: Prefix, exit: ExitId) -> bool {
        let families = || self.families.get(exit.index()).is_some_and(|of| of.contains(&prefix.family()));
        !self.is_elsewhere(exit) || self.heard && families()
    }

    /// Takes note of a link report; true where `up` or the index changed.
    pub fn set_link(&mut self, event: LinkEvent) -> bool {
        let Some(link) = self.links.get_mut(event.uplink.index()) else { return false };
        let new = Link { ifindex: event.ifindex, up: event.up && event.ifindex.is_some(), known: true };
        let changed = *link != new;
        *link = new;
        changed
    }

    /// Takes note of whether a next hop answers; true where that is news.
    pub fn set_gateway(&mut self, event: GatewayEvent) -> bool {
        match event.answers {
            true => self.silent.remove(&event.gateway),
            false => self.exit_of.contains_key(&event.gateway) && self.silent.insert(event.gateway),
        }
    }

    /// True where packets to `next_hop` are lost: it does not answer.
    pub fn is_silent(&self, next_hop: IpAddr) -> bool {
        !self.silent.is_empty() && self.silent.contains(&next_hop)
    }

    /// The link of `uplink`.
    pub fn link(&self, uplink: UplinkId) -> Link {
        self.links.get(uplink.index()).copied().unwrap_or_default()
    }

    /// True once every uplink was reported at least once.
    pub fn all_known(&self) -> bool {
        self.links.iter().all(|link| link.known)
    }

    /// The exit that a next hop stands for.
    pub fn exit_of(&self, next_hop: IpAddr) -> Option<ExitId> {
        self.exit_of.get(&next_hop).copied()
    }

    /// The exit that a kernel next hop stands for: the gateway must match, and the interface too.
    pub fn exit_of_kernel(&self, gateway: IpAddr, ifindex: IfIndex) -> Option<ExitId> {
        let exit = self.exit_of(gateway)?;
        (self.link(self.uplink_of(exit)?).ifindex == Some(ifindex)).then_some(exit)
    }

    /// The uplink of an exit.
    pub fn uplink_of(&self, exit: ExitId) -> Option<UplinkId> {
        self.uplink_of.get(exit.index()).copied()
    }

    /// The interface of `exit`, while its link is up.
    pub fn ifindex(&self, exit: ExitId) -> Option<IfIndex> {
        let link = self.link(self.uplink_of(exit)?);
        link.ifindex.filter(|_| link.up)
    }

    /// AS by which every path through `exit` must begin, where the operator gave it.
    pub fn asn_of(&self, exit: ExitId) -> Option<Asn> {
        self.asn_of.get(exit.index()).copied().flatten()
    }

    /// True where routes through `exit` count as candidates for what they cover.
    pub fn is_covering(&self, exit: ExitId) -> bool {
        self.covering.get(exit.index()).copied().unwrap_or(false)
    }

    /// True where some exit is covering.
    pub fn has_covering(&self) -> bool {
        self.has_covering
    }

    /// True where `peer` is of another AS.
    pub fn is_external(&self, peer: PeerId) -> bool {
        self.peers.get(usize::from(peer.0)).is_some_and(|(external, _)| *external)
    }

    /// The address of `peer`, where it has one.
    pub fn address_of(&self, peer: PeerId) -> Option<IpAddr> {
        self.peers.get(usize::from(peer.0)).and_then(|(_, address)| *address)
    }
}

/// Of each exit, the other border that has it.
fn border_per_exit(policy: &Policy) -> impl Iterator<Item = Option<&Border>> + '_ {
    policy.exits.iter().map(|exit| policy.border_of(exit.uplink))
}

/// The links of other borders are seen by what these announce: routes through a dead one are gone.
fn unseen_link(index: usize, policy: &Policy) -> Link {
    let uplink = UplinkId(u16::try_from(index).unwrap_or(u16::MAX));
    match policy.border_of(uplink) {
        Some(_) => Link { ifindex: None, up: true, known: true },
        None => Link::default(),
    }
}
