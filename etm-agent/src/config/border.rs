//! The tables of other borders: which session and interfaces are theirs, and by which next hops others reach them.
//! Never says whether a border can be reached: that is found out at run time.

use super::raw::{self, Raw, Text};
use super::settings::{BgpSettings, SessionSettings};
use super::validate::Check;
use crate::core::policy::{Border, Exit, Role, Uplink};
use crate::types::{ExitId, Family, PeerId, UplinkId};
use std::collections::BTreeSet;
use std::net::IpAddr;

impl Check {
    /// Other borders, in order of configuration; sessions learn from it what they may say and to whom.
    pub(super) fn borders(
        &mut self,
        raw: &Raw,
        (uplinks, exits): (&[Uplink], &[Exit]),
        bgp: Option<&mut BgpSettings>,
    ) -> Vec<Border> {
        self.known_borders(raw);
        self.no_border(raw, bgp.as_deref());
        let mut none = Vec::new();
        let sessions = bgp.map_or(&mut none, |bgp| &mut bgp.sessions);
        let mut borders: Vec<Border> = Vec::new();
        for border in &raw.border {
            let name = border.name.get_ref();
            if borders.iter().any(|known| known.name == *name) {
                self.fault(border.name.span(), format!("border `{name}` is described twice"));
            }
            let theirs = uplinks_of(raw, name, uplinks);
            if theirs.is_empty() {
                self.fault_with_help(
                    border.name.span(),
                    format!("border `{name}` has no interface"),
                    format!("add border = \"{name}\" to the [[interface]] tables of its uplinks"),
                );
            }
            let Some(session) = self.session_of(&border.session, Role::Learn, sessions) else { continue };
            let etm_learn = border.etm_learn.as_ref();
            let etm_learn = etm_learn.and_then(|name| self.session_of(name, Role::Learn, sessions));
            let etm_inject = border.etm_inject.as_ref();
            let etm_inject = etm_inject.and_then(|name| self.session_of(name, Role::Inject, sessions));
            let exits: Vec<ExitId> = numbered(exits)
                .filter(|(_, exit)| theirs.contains(&exit.uplink))
                .map(|(exit, _)| exit)
                .collect();
            self.lead(border, &exits, sessions);
            let families =
                Family::ALL.into_iter().filter(|family| served(sessions, &exits, *family)).collect();
            let (name, uplinks) = (name.clone(), theirs);
            borders.push(Border { name, session, etm_learn, etm_inject, uplinks, families });
        }
        borders
    }

    fn known_borders(&mut self, raw: &Raw) {
        let names: BTreeSet<&str> = raw.border.iter().map(|border| border.name.get_ref().as_str()).collect();
        let named = raw.interface.iter().filter_map(|interface| interface.border.as_ref());
        for name in named.filter(|name| !names.contains(name.get_ref().as_str())) {
            self.fault(name.span(), format!("no [[border]] is named `{}`", name.get_ref()));
        }
    }

    /// The session with a border, which from now on is asked for its best routes only: by these it says what it uses.
    fn session_of(&mut self, name: &Text, role: Role, sessions: &mut [SessionSettings]) -> Option<PeerId> {
        let wanted = name.get_ref();
        let found = sessions.iter().position(|one| one.name == *wanted && one.role == role);
        let Some(at) = found else {
            let word = if role == Role::Learn { "learn" } else { "inject" };
            self.fault_with_help(
                name.span(),
                format!("no [[bgp.session]] with role \"{word}\" is named `{wanted}`"),
                "add an internal one; where the border has several exits, without `next hop self` there",
            );
            return None;
        };
        if sessions[at].peer.is_loopback() {
            let message = format!("session `{wanted}` is with this router itself, not with another border");
            self.fault(name.span(), message);
        }
        sessions[at].import.add_path = false;
        Some(PeerId(u16::try_from(at).unwrap_or(u16::MAX)))
    }

    /// NEXT_HOPs for the border's exits on sessions that name none of their own.
    fn lead(&mut self, border: &raw::Border, exits: &[ExitId], sessions: &mut [SessionSettings]) {
        let next_hops = border.next_hops.get_ref();
        for addr in next_hops {
            self.unicast(border.next_hops.span(), "next hop", *addr);
        }
        let mut seen = BTreeSet::new();
        if next_hops.is_empty() || next_hops.iter().any(|addr| !seen.insert(Family::of(*addr))) {
            self.fault(border.next_hops.span(), "give one address of the border per family, at least one");
        }
        for session in sessions.iter_mut().filter(|session| session.role == Role::Inject) {
            if next_hops.contains(&session.peer) {
                let message = format!(
                    "{} is border `{}`: a best path from ETM would make it withdraw the prefix from its own eBGP neighbours",
                    session.peer,
                    border.name.get_ref()
                );
                self.fault(border.next_hops.span(), message);
            }
            for exit in exits {
                let named = |addr: &&IpAddr| next_hop(session, *exit, Family::of(**addr)).is_none();
                let missing: Vec<IpAddr> = next_hops.iter().filter(named).copied().collect();
                session.exit_next_hops.push((*exit, missing));
                session.elsewhere.push(*exit);
            }
        }
    }
}

fn uplinks_of(raw: &Raw, border: &str, uplinks: &[Uplink]) -> Vec<UplinkId> {
    let is_theirs = |uplink: &Uplink| {
        raw.interface.iter().any(|interface| {
            *interface.name.get_ref() == uplink.name
                && interface.border.as_ref().map(Text::get_ref).is_some_and(|name| name == border)
        })
    };
    let all = uplinks.iter().enumerate().filter(|(_, uplink)| is_theirs(uplink));
    all.filter_map(|(at, _)| u16::try_from(at).ok()).map(UplinkId).collect()
}

fn numbered(exits: &[Exit]) -> impl Iterator<Item = (ExitId, &Exit)> {
    exits.iter().enumerate().filter_map(|(at, exit)| Some((ExitId(u16::try_from(at).ok()?), exit)))
}

fn next_hop(session: &SessionSettings, exit: ExitId, family: Family) -> Option<IpAddr> {
    let lists = session.exit_next_hops.iter().filter(|(of, _)| *of == exit);
    lists.flat_map(|(_, list)| list).copied().find(|addr| Family::of(*addr) == family)
}

/// True where all that is announced to has a next hop of `family` for all these exits.
fn served(sessions: &[SessionSettings], exits: &[ExitId], family: Family) -> bool {
    let mut inject = sessions.iter().filter(|session| session.role == Role::Inject);
    inject.all(|session| exits.iter().all(|exit| next_hop(session, *exit, family).is_some()))
}
