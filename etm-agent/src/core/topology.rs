//! What is where: exits by next hop, interfaces by index, and which of them work.
//! Never decides anything; it only answers.

use super::input::{GatewayEvent, LinkEvent};
use super::policy::{Border, Peer, Policy};
use crate::types::{Asn, ExitId, Family, IfIndex, PeerId, Prefix, UplinkId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Live view of the configured exits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Topology {
    exit_of: BTreeMap<IpAddr, ExitId>,
    /// The same for link-local next hops, which mean something on their link only (RFC 4007 section 4).
    local_exits: BTreeMap<IpAddr, Vec<ExitId>>,
    uplink_of: Vec<UplinkId>,
    asn_of: Vec<Option<Asn>>,
    covering: Vec<bool>,
    has_covering: bool,
    /// By `PeerId`: of another AS or not, and the address.
    peers: Vec<(bool, Option<IpAddr>)>,
    /// By `PeerId`, of those reached by a link-local address: the uplink on whose link they are, where it is one.
    scopes: Vec<Option<Option<UplinkId>>>,
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
    /// Next hops that do not answer; link-local ones on this interface.
    silent: BTreeSet<(IpAddr, Option<IfIndex>)>,
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
        let mut local_exits: BTreeMap<IpAddr, Vec<ExitId>> = BTreeMap::new();
        for (index, exit) in policy.exits.iter().enumerate() {
            let id = ExitId(u16::try_from(index).unwrap_or(u16::MAX));
            for gateway in &exit.gateways {
                match is_link_local(*gateway) {
                    true => local_exits.entry(*gateway).or_default().push(id),
                    false => drop(exit_of.insert(*gateway, id)),
                }
            }
        }
        let covering: Vec<bool> = policy
            .exits
            .iter()
            .map(|exit| policy.providers.get(exit.provider.index()).is_some_and(|provider| provider.covering))
            .collect();
        Topology {
            exit_of,
            local_exits,
            has_covering: covering.contains(&true),
            covering,
            peers: policy.peers.iter().map(|peer| (peer.external, peer.address)).collect(),
            scopes: policy.peers.iter().map(|peer| scope(peer, policy)).collect(),
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
        let local = is_link_local(event.gateway);
        let key = (event.gateway, event.ifindex.filter(|_| local));
        match event.answers {
            true => self.silent.remove(&key),
            false => self.exits_with(event.gateway).next().is_some() && self.silent.insert(key),
        }
    }

    /// True where packets to `next_hop` of `exit` are lost: it does not answer.
    pub fn is_silent(&self, next_hop: IpAddr, exit: ExitId) -> bool {
        if self.silent.is_empty() {
            return false;
        }
        let ifindex = || self.link(self.uplink_of(exit)?).ifindex;
        self.silent.contains(&(next_hop, if is_link_local(next_hop) { ifindex() } else { None }))
    }

    /// The link of `uplink`.
    pub fn link(&self, uplink: UplinkId) -> Link {
        self.links.get(uplink.index()).copied().unwrap_or_default()
    }

    /// True once every uplink was reported at least once.
    pub fn all_known(&self) -> bool {
        self.links.iter().all(|link| link.known)
    }

    /// The exit that the next hop of a route of `peer` stands for. A link-local one is on the link of a peer that is
    /// reached by such an address; any other peer tells of a link that is not its own, and is understood where one exit
    /// alone has that next hop.
    pub fn exit_of(&self, peer: PeerId, next_hop: IpAddr) -> Option<ExitId> {
        if !is_link_local(next_hop) {
            return self.exit_of.get(&next_hop).copied();
        }
        let exits = self.local_exits.get(&next_hop)?;
        match (self.scopes.get(usize::from(peer.0)).copied().flatten(), &exits[..]) {
            (Some(uplink), _) => exits.iter().copied().find(|exit| self.uplink_of(*exit) == uplink),
            (None, [exit]) => Some(*exit),
            (None, _) => None,
        }
    }

    /// True where `next_hop` is that of several exits, and nothing says which link is meant.
    pub fn is_ambiguous(&self, peer: PeerId, next_hop: IpAddr) -> bool {
        let exits = self.local_exits.get(&next_hop).map_or(0, Vec::len);
        exits > 1 && self.scopes.get(usize::from(peer.0)).copied().flatten().is_none()
    }

    /// The exit that a kernel next hop stands for: the gateway must match, and the interface too.
    pub fn exit_of_kernel(&self, gateway: IpAddr, ifindex: IfIndex) -> Option<ExitId> {
        let mut exits = self.exits_with(gateway);
        exits.find(|exit| self.uplink_of(*exit).is_some_and(|on| self.link(on).ifindex == Some(ifindex)))
    }

    /// The exits that have this next hop: one, or with a link-local one several.
    pub fn exits_with(&self, gateway: IpAddr) -> impl Iterator<Item = ExitId> + '_ {
        let local = self.local_exits.get(&gateway).into_iter().flatten();
        self.exit_of.get(&gateway).into_iter().chain(local).copied()
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

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The link of a peer that is reached by a link-local address.
fn scope(peer: &Peer, policy: &Policy) -> Option<Option<UplinkId>> {
    let interface = peer.interface.as_ref()?;
    let ids = (0..policy.uplinks.len()).filter_map(|index| u16::try_from(index).ok()).map(UplinkId);
    let mut here = ids.filter(|uplink| policy.border_of(*uplink).is_none());
    Some(here.find(|uplink| policy.uplinks.get(uplink.index()).is_some_and(|of| of.name == *interface)))
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

#[cfg(test)]
mod tests {
    use super::super::policy::tests::two_exits;
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Both providers have fe80::1, the first one fe80::a too. Session 1 is on the second one's link, session 2 on another.
    fn policy() -> Policy {
        let mut policy = two_exits();
        policy.exits[0].gateways.extend([addr("fe80::1"), addr("fe80::a")]);
        policy.exits[1].gateways.push(addr("fe80::1"));
        let second = policy.uplinks[1].name.clone();
        for interface in [second, "elsewhere".to_owned()] {
            policy.peers.push(Peer { interface: Some(interface), ..policy.peers[0].clone() });
        }
        policy
    }

    #[test]
    fn a_link_local_next_hop_stands_for_the_exit_on_the_link_of_its_peer() {
        let topology = Topology::new(&policy());
        for (title, peer, next_hop, expected, ambiguous) in [
            ("a global one, whoever tells it", 2, "10.0.2.1", Some(1), false),
            ("of a peer on that link", 1, "fe80::1", Some(1), false),
            ("of the border, and of two exits", 0, "fe80::1", None, true),
            ("of the border, and of one exit", 0, "fe80::a", Some(0), false),
            ("of a peer on another uplink", 1, "fe80::a", None, false),
            ("of a peer on no uplink", 2, "fe80::a", None, false),
            ("nobody's", 0, "fe80::b", None, false),
        ] {
            let exit = topology.exit_of(PeerId(peer), addr(next_hop));
            assert_eq!(exit, expected.map(ExitId), "{title}");
            assert_eq!(topology.is_ambiguous(PeerId(peer), addr(next_hop)), ambiguous, "{title}");
        }
    }

    #[test]
    fn a_link_local_next_hop_is_silent_on_one_link_and_a_global_one_everywhere() {
        let mut topology = Topology::new(&policy());
        for index in 0..2 {
            let link = LinkEvent {
                uplink: UplinkId(index),
                ifindex: Some(IfIndex(10 + u32::from(index))),
                up: true,
            };
            topology.set_link(link);
        }
        let event = |gateway: &str, ifindex: u32, answers: bool| GatewayEvent {
            gateway: addr(gateway),
            ifindex: Some(IfIndex(ifindex)),
            answers,
        };
        assert!(topology.set_gateway(event("fe80::1", 11, false)));
        assert!(!topology.set_gateway(event("fe80::1", 11, false)), "no news");
        assert!(!topology.set_gateway(event("fe80::c", 11, false)), "nobody's");
        let silent = |topology: &Topology, next_hop: &str| {
            [0, 1].map(|exit| topology.is_silent(addr(next_hop), ExitId(exit)))
        };
        assert_eq!(silent(&topology, "fe80::1"), [false, true]);
        assert!(topology.set_gateway(event("10.0.1.1", 99, false)));
        assert!(topology.is_silent(addr("10.0.1.1"), ExitId(0)));
        assert!(topology.set_gateway(event("fe80::1", 11, true)));
        assert_eq!(silent(&topology, "fe80::1"), [false, false]);
    }

    #[test]
    fn a_gateway_of_the_kernel_is_told_from_one_of_the_same_address_by_its_interface() {
        let links = [10, 11].map(|index| Link { ifindex: Some(IfIndex(index)), up: true, known: true });
        let topology = Topology::with_links(&policy(), links.to_vec());
        for (gateway, ifindex, expected) in [
            ("fe80::1", 10, Some(0)),
            ("fe80::1", 11, Some(1)),
            ("fe80::a", 11, None),
            ("10.0.2.1", 11, Some(1)),
        ] {
            let exit = topology.exit_of_kernel(addr(gateway), IfIndex(ifindex));
            assert_eq!(exit, expected.map(ExitId), "{gateway} on {ifindex}");
        }
    }
}
