//! What a BGP session's keys mean beyond its addresses: keys, distance, roles, limits, and where ETM must not announce.
//! Never reads a key file: whoever opens the session does.

use super::raw::{self, AcceptText, BeyondText, ConnectText};
use super::settings::{
    BeyondSettings, BgpSettings, ImportSettings, KeySettings, MaxRoutesSettings, ReachSettings,
    SessionSettings, TransportSettings,
};
use super::validate::Check;
use crate::core::policy::{Exit, Role};
use crate::types::{Asn, Family};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Routes announced per second unless configured.
const ANNOUNCE_RATE: u32 = 20_000;

/// True of fe80::/10 (RFC 4291 section 2.5.6).
pub(super) fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if Ipv6Addr::is_unicast_link_local(&v6))
}

impl Check {
    pub(super) fn session(
        &mut self,
        session: &raw::Session,
        bgp: &raw::Bgp,
        exits: &[Exit],
    ) -> Option<SessionSettings> {
        let (peer, interface) = self.peer(session)?;
        if session.role == Role::Inject && session.next_hops.is_empty() && session.exit_next_hops.is_empty() {
            self.fault_with_help(
                session.name.span(),
                format!("session `{}` announces, but has no next hop to announce", session.name.get_ref()),
                "add next_hops = [\"...\"]: addresses that this peer can resolve, usually this router's own on the link to it",
            );
        }
        self.next_hops(session);
        let mut exit_next_hops = Vec::new();
        for entry in &session.exit_next_hops {
            if let Some(exit) = self.exit(&entry.exit, exits) {
                exit_next_hops.push((exit, entry.next_hops.clone()));
            }
        }
        let router_id = session.router_id.as_ref().unwrap_or(&bgp.router_id);
        let peer_as = Asn(session.peer_as.unwrap_or(*bgp.asn.get_ref()));
        let external = peer_as.0 != *bgp.asn.get_ref();
        Some(SessionSettings {
            name: session.name.get_ref().clone(),
            role: session.role,
            peer,
            interface,
            port: session.port.unwrap_or(179),
            peer_as,
            local: session.local.as_ref().map(|addr| *addr.get_ref()),
            router_id: self.router_id(router_id),
            next_hops: session.next_hops.clone(),
            exit_next_hops,
            elsewhere: Vec::new(),
            transport: self.transport(session),
            import: self.import(session, external),
            announce_rate: self.announce_rate(session),
        })
    }

    /// The peer's address; `fe80::1%eth0` names the interface of a link-local one.
    pub(super) fn peer(&mut self, session: &raw::Session) -> Option<(IpAddr, Option<String>)> {
        let (text, span) = (session.peer.get_ref(), session.peer.span());
        let (addr, interface) = match text.split_once('%') {
            Some((addr, interface)) => (addr, Some(interface.to_owned())),
            None => (text.as_str(), None),
        };
        let Ok(peer) = addr.parse::<IpAddr>() else {
            self.fault(span, format!("`{text}` is not an address; write it like 192.0.2.1 or fe80::1%eth0"));
            return None;
        };
        let link_local = is_link_local(peer);
        if link_local != interface.is_some() {
            let message = if link_local {
                format!("{peer} is link-local: write its interface too, like {peer}%eth0")
            } else {
                format!("{peer} is not link-local: write it without an interface")
            };
            self.fault(span, message);
        }
        if let Some(local) = session.local.as_ref()
            && Family::of(*local.get_ref()) != Family::of(peer)
        {
            self.fault(local.span(), format!("local address and peer {peer} are of different families"));
        }
        Some((peer, interface))
    }

    /// What is announced must mean the same wherever it arrives.
    fn next_hops(&mut self, session: &raw::Session) {
        let all = session.exit_next_hops.iter().flat_map(|entry| &entry.next_hops);
        for addr in session.next_hops.iter().chain(all) {
            self.unicast(session.name.span(), "next hop", *addr);
        }
        let per_exit = session.exit_next_hops.iter().flat_map(|entry| &entry.next_hops);
        if let Some(local) = session.next_hops.iter().chain(per_exit).find(|addr| is_link_local(**addr)) {
            self.fault_with_help(
                session.name.span(),
                format!("next hop {local} of session `{}` is link-local", session.name.get_ref()),
                "announce a global address of this router: beyond one link a link-local one means nothing",
            );
        }
    }

    pub(super) fn transport(&mut self, session: &raw::Session) -> TransportSettings {
        let connect = session.connect.unwrap_or(ConnectText::Active);
        let (dials, listens) = match connect {
            ConnectText::Active => (true, false),
            ConnectText::Passive => (false, true),
            ConnectText::Both => (true, true),
        };
        if listens && session.local.is_none() {
            self.fault_with_help(
                session.name.span(),
                format!("session `{}` waits for its peer, but on no address", session.name.get_ref()),
                "add local = \"...\": ETM listens on configured addresses only",
            );
        }
        let reach = match (&session.multihop, &session.gtsm) {
            (Some(_), Some(gtsm)) => {
                self.fault(gtsm.span(), "multihop and gtsm exclude each other; gtsm = N allows N hops");
                ReachSettings::Usual
            }
            (Some(hops), None) => ReachSettings::Multihop(self.hops(hops)),
            (None, Some(hops)) => ReachSettings::Gtsm(self.hops(hops)),
            (None, None) => ReachSettings::Usual,
        };
        TransportSettings { dials, listens, reach, key: self.key(session) }
    }

    fn hops(&mut self, hops: &toml::Spanned<u8>) -> u8 {
        if *hops.get_ref() == 0 {
            self.fault(hops.span(), "a peer is at least 1 hop away");
        }
        *hops.get_ref()
    }

    fn key(&mut self, session: &raw::Session) -> KeySettings {
        match (&session.md5_key_file, &session.ao) {
            (Some(_), Some(ao)) => {
                self.fault(ao.span(), "md5_key_file and ao exclude each other");
                KeySettings::None
            }
            (Some(file), None) => KeySettings::Md5(PathBuf::from(file.get_ref())),
            (None, Some(ao)) => {
                let ao = ao.get_ref();
                KeySettings::Ao {
                    file: PathBuf::from(ao.key_file.get_ref()),
                    id: ao.id.unwrap_or(1),
                    algorithm: ao.algorithm.clone().unwrap_or_else(|| "hmac(sha1)".to_owned()),
                }
            }
            (None, None) => KeySettings::None,
        }
    }

    pub(super) fn import(&mut self, session: &raw::Session, external: bool) -> ImportSettings {
        if let Some(role) = session.bgp_role.as_ref().filter(|_| !external) {
            self.fault(role.span(), "BGP roles are for external peers (RFC 9234 section 4)");
        }
        let accept = match session.accept {
            Some(text) => text == AcceptText::All,
            None => !external,
        };
        ImportSettings {
            add_path: true,
            accept,
            first_as: session.enforce_first_as.unwrap_or(true),
            role: session.bgp_role.as_ref().map(|role| *role.get_ref()),
            strict_role: session.strict_role.unwrap_or(false),
            max_routes: session.max_routes.as_ref().and_then(|maximum| self.max_routes(maximum)),
            retain: self.duration(session.retain.as_ref(), Duration::from_secs(120)),
        }
    }

    fn max_routes(&mut self, maximum: &toml::Spanned<raw::MaxRoutes>) -> Option<MaxRoutesSettings> {
        let (raw, span) = (maximum.get_ref(), maximum.span());
        let warn_at = raw.warn_at.unwrap_or(raw.limit - raw.limit / 5);
        if raw.limit == 0 || warn_at > raw.limit {
            self.fault(span, "the maximum must be above zero, and the warning not beyond it");
            return None;
        }
        let beyond = match raw.beyond.unwrap_or(BeyondText::Restart) {
            BeyondText::Restart => {
                let pause = self.duration(raw.restart_after.as_ref(), Duration::from_secs(300));
                BeyondSettings::Restart(pause)
            }
            BeyondText::Down => BeyondSettings::Down,
            BeyondText::Drop => BeyondSettings::Drop,
        };
        Some(MaxRoutesSettings { limit: raw.limit, warn_at, beyond })
    }

    pub(super) fn announce_rate(&mut self, session: &raw::Session) -> u32 {
        let Some(rate) = &session.announce_rate else { return ANNOUNCE_RATE };
        if *rate.get_ref() == 0 {
            self.fault(rate.span(), "a rate of zero announces nothing; use role = \"learn\" instead");
        }
        *rate.get_ref()
    }

    /// A border that prefers ETM's route takes the prefix away from its eBGP neighbours: NO_EXPORT, or a route learnt
    /// over iBGP, is not theirs to have.
    pub(super) fn no_border(&mut self, raw: &raw::Raw, bgp: Option<&BgpSettings>) {
        let sessions = bgp.map_or(&[][..], |bgp| &bgp.sessions);
        let is_etm = |session: &&raw::Session| {
            let mut told = raw.border.iter().filter_map(|border| border.etm_inject.as_ref());
            told.any(|name| name.get_ref() == session.name.get_ref())
        };
        let learnt_from: Vec<IpAddr> = sessions
            .iter()
            .filter(|session| session.role == Role::Learn)
            .map(|session| session.peer)
            .collect();
        let listed = raw.bgp.iter().flat_map(|bgp| &bgp.session);
        for session in listed.filter(|session| session.role == Role::Inject && !is_etm(session)) {
            let Some(known) = sessions.iter().find(|known| known.name == *session.name.get_ref()) else {
                continue;
            };
            let border = known.peer.is_loopback() || learnt_from.contains(&known.peer);
            if border && session.into_border != Some(true) {
                self.fault_with_help(
                    session.peer.span(),
                    format!("{} is a border: a best path from ETM would make it withdraw the prefix from its own eBGP neighbours", known.peer),
                    "announce to the routers behind it; or, where no eBGP neighbour of it gets more than your own prefixes, say so with into_border = true",
                );
            }
        }
    }
}
