//! The tables of the BMP station: from the file as typed to what they mean.
//! Never says whether a router can be reached: that is found out at run time.

use super::raw::{self, ViewText};
use super::settings::{BgpSettings, BmpPeerSettings, BmpRouterSettings, BmpSettings, SessionSettings};
use super::validate::Check;
use crate::core::policy::{Peer, Provider, Role};
use crate::types::{Asn, PeerId, ProviderId};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Bounds of `complete_after`: shorter is a guess, longer than anybody waits.
const COMPLETE_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Sessions and monitored peers, in the order of their numbers.
pub(super) fn peers(bgp: Option<&BgpSettings>, bmp: Option<&BmpSettings>) -> Vec<Peer> {
    let sessions = bgp.into_iter().flat_map(|bgp| bgp.sessions.iter().map(|one| session_peer(one, bgp.asn)));
    let sources = bmp.into_iter().flat_map(|bmp| &bmp.routers).flat_map(|router| &router.peers);
    sessions.chain(sources.map(monitored_peer)).collect()
}

/// A provider's router is of another AS.
fn monitored_peer(peer: &BmpPeerSettings) -> Peer {
    let (name, address) = (peer.name.clone(), Some(peer.address));
    Peer { name, role: Role::Learn, address, external: true, interface: None, monitored: true }
}

fn session_peer(session: &SessionSettings, own: Asn) -> Peer {
    let (address, external) = (Some(session.peer), session.peer_as != own);
    let (name, interface) = (session.name.clone(), session.interface.clone());
    Peer { name, role: session.role, address, external, interface, monitored: false }
}

impl Check {
    /// Numbers of monitored peers follow those of the sessions.
    pub(super) fn bmp(
        &mut self,
        raw: &raw::Bmp,
        providers: &[Provider],
        bgp: Option<&BgpSettings>,
    ) -> BmpSettings {
        let mut routers: Vec<BmpRouterSettings> = Vec::new();
        let mut next = bgp.map_or(0, |bgp| bgp.sessions.len());
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        for router in &raw.router {
            let name = router.name.get_ref();
            if routers.iter().any(|known| known.name == *name) {
                self.fault(router.name.span(), format!("BMP router `{name}` is described twice"));
            }
            if !addresses.insert(*router.address.get_ref()) {
                let message = format!("{} is the address of another BMP router", router.address.get_ref());
                self.fault(router.address.span(), message);
            }
            if router.connect.is_none() && raw.listen.is_empty() {
                self.fault_with_help(
                    router.name.span(),
                    format!("BMP router `{name}` connects to ETM, but ETM listens nowhere"),
                    "add bmp.listen = [\"ADDRESS:PORT\"], or connect = PORT where ETM is to connect to it",
                );
            }
            if router.peers.is_empty() && router.session.is_none() {
                self.fault_with_help(
                    router.name.span(),
                    format!("BMP router `{name}` is described, but nothing of it is used"),
                    "add peers = [{ address = \"...\", provider = \"...\" }], or session = \"...\" for its Loc-RIB",
                );
            }
            let settings = BmpRouterSettings {
                name: name.clone(),
                address: *router.address.get_ref(),
                connect: self.bmp_port(router),
                post_policy: matches!(router.view, Some(ViewText::PostPolicy)),
                path_ids: router.path_ids,
                complete_after: self.complete_after(router),
                session: self.watched(router, bgp),
                peers: self.monitored(router, providers, &mut next),
            };
            routers.push(settings);
        }
        BmpSettings { listen: raw.listen.clone(), routers }
    }

    fn bmp_port(&mut self, router: &raw::BmpRouter) -> Option<u16> {
        let port = router.connect.as_ref()?;
        if *port.get_ref() == 0 {
            self.fault(port.span(), "port 0 cannot be connected to");
        }
        Some(*port.get_ref())
    }

    fn complete_after(&mut self, router: &raw::BmpRouter) -> Option<Duration> {
        let text = router.complete_after.as_ref()?;
        let (least, most) = COMPLETE_AFTER;
        let span = self.duration(Some(text), least);
        if !(least..=most).contains(&span) {
            self.fault(text.span(), "complete_after must be between 1s and 10m");
        }
        Some(span)
    }

    fn watched(&mut self, router: &raw::BmpRouter, bgp: Option<&BgpSettings>) -> Option<(PeerId, String)> {
        let name = router.session.as_ref()?;
        let sessions = bgp.map_or(&[][..], |bgp| &bgp.sessions);
        let found = sessions
            .iter()
            .position(|session| session.name == *name.get_ref() && session.role == Role::Inject);
        if found.is_none() {
            self.fault(
                name.span(),
                format!("no [[bgp.session]] with role \"inject\" is named `{}`", name.get_ref()),
            );
        }
        found.map(|at| (number(at), name.get_ref().clone()))
    }

    fn monitored(
        &mut self,
        router: &raw::BmpRouter,
        providers: &[Provider],
        next: &mut usize,
    ) -> Vec<BmpPeerSettings> {
        let mut peers: Vec<BmpPeerSettings> = Vec::new();
        for peer in &router.peers {
            let address = *peer.address.get_ref();
            let key = (address, peer.distinguisher);
            if peers.iter().any(|known| (known.address, known.distinguisher) == key) {
                self.fault(peer.address.span(), format!("peer {address} is described twice"));
            }
            let wanted = peer.provider.get_ref();
            let Some(provider) = providers.iter().position(|known| known.name == *wanted) else {
                let known: Vec<&str> = providers.iter().map(|known| known.name.as_str()).collect();
                self.fault_with_help(
                    peer.provider.span(),
                    format!("no [[provider]] is named `{wanted}`"),
                    format!("described are: {}", known.join(", ")),
                );
                continue;
            };
            let suffix =
                if peer.distinguisher == 0 { String::new() } else { format!("@{}", peer.distinguisher) };
            peers.push(BmpPeerSettings {
                peer: number(*next),
                name: format!("{}/{address}{suffix}", router.name.get_ref()),
                address,
                distinguisher: peer.distinguisher,
                provider: ProviderId(u16::try_from(provider).unwrap_or(u16::MAX)),
            });
            *next += 1;
        }
        peers
    }
}

fn number(at: usize) -> PeerId {
    PeerId(u16::try_from(at).unwrap_or(u16::MAX))
}
