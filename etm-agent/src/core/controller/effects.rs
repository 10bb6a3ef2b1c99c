//! Sent and effective are different things: what routers made of announcements, as their Loc-RIBs show it (RFC 9069),
//! said in the log where that is not what was wanted. Never undoes anything for it: the counters judge traffic.

use super::super::audit::EventKind;
use super::super::input::{EffectiveChange, EffectiveEvent};
use super::{Controller, Session};
use crate::types::{PeerId, Prefix, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// After so long a router that was told something has chosen, and whoever watches it has said so.
const PATIENCE: Duration = Duration::from_secs(5);

impl Session {
    /// Something was said, or seen: it is looked at once it must have taken effect.
    pub(super) fn expect_effect(&mut self, now: Timestamp) {
        self.effect_due.get_or_insert(now + PATIENCE);
    }
}

impl Controller {
    /// What a router chose, as its Loc-RIB shows it. Nothing is concluded from it but what is shown.
    pub(super) fn note_effect(&mut self, now: Timestamp, event: EffectiveEvent) {
        match event.change {
            EffectiveChange::Unknown => drop(self.effects.remove(&event.peer)),
            EffectiveChange::Watched => drop(self.effects.insert(event.peer, BTreeMap::new())),
            EffectiveChange::Routes(changes) => {
                let Some(seen) = self.effects.get_mut(&event.peer) else { return };
                for (prefix, next_hop) in changes {
                    match next_hop {
                        Some(next_hop) => seen.insert(prefix, next_hop),
                        None => seen.remove(&prefix),
                    };
                }
            }
        }
        if let Some(session) = self.sessions.get_mut(usize::from(event.peer.0)) {
            session.expect_effect(now);
        }
    }

    /// Looks at announcements that must have taken effect by now; says once that some have not, and once that all have.
    pub(super) fn look_at_effects(&mut self, now: Timestamp) {
        for index in 0..self.sessions.len() {
            let due = |session: &mut Session| session.effect_due.take_if(|due| *due <= now).is_some();
            if !self.sessions.get_mut(index).is_some_and(due) {
                continue;
            }
            let peer = PeerId(u16::try_from(index).unwrap_or(u16::MAX));
            let (missing, waiting) = self.missing(now, peer);
            let name = self.policy.peers.get(index).map_or_else(String::new, |peer| peer.name.clone());
            let Some(session) = self.sessions.get_mut(index) else { continue };
            if waiting {
                session.expect_effect(now);
            }
            let before = std::mem::replace(&mut session.ineffective, missing.len());
            match missing.first() {
                Some(first) if before == 0 => {
                    let (session, prefixes, first) = (name, missing.len(), *first);
                    let after_s = PATIENCE.as_secs();
                    self.audit
                        .push(now, EventKind::AnnouncementsIneffective { session, prefixes, first, after_s });
                }
                None if before > 0 => {
                    self.audit.push(now, EventKind::AnnouncementsEffective { session: name });
                }
                _ => {}
            }
        }
    }

    /// Prefixes that a router was told of and does not use as told, and whether some are too young to judge. None where
    /// nobody reports its Loc-RIB, or while it is not up to date.
    fn missing(&self, now: Timestamp, peer: PeerId) -> (Vec<Prefix>, bool) {
        let session = self.sessions.get(usize::from(peer.0));
        let told = session.is_some_and(|session| session.told == Some(self.decision.generation));
        let Some(seen) = self.effects.get(&peer).filter(|_| told) else { return (Vec::new(), false) };
        let absent = self.decision.announce.keys().filter(|prefix| !seen.contains_key(prefix));
        let old = |prefix: &Prefix| {
            self.overrides.get(*prefix).is_none_or(|entry| now.since(entry.since) >= PATIENCE)
        };
        let (missing, young): (Vec<Prefix>, Vec<Prefix>) = absent.copied().partition(old);
        (missing, !young.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::decision::Adopted;
    use super::super::super::decision::{Announcement, Decision};
    use super::super::super::input::{Input, Told};
    use super::super::super::policy::tests::two_exits;
    use super::super::super::policy::{Mode, Peer, Policy, Role};
    use super::*;
    use crate::types::{ExitId, Generation, RouteAttrs};
    use std::sync::Arc;

    const CORE: PeerId = PeerId(0);
    const SECOND: u64 = 1_000_000_000;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    /// A controller whose decision announces two prefixes to a session called core.
    fn announcing() -> Controller {
        let core = Peer {
            name: "core".to_owned(),
            role: Role::Inject,
            address: None,
            external: false,
            interface: None,
            monitored: false,
        };
        let policy = Policy { mode: Mode::Enforce, peers: vec![core], ..two_exits() };
        let mut controller = Controller::new(policy, 8, &Adopted::default(), false);
        let attrs = Arc::new(RouteAttrs::to_next_hop("10.0.1.1".parse().unwrap()));
        let announce = ["198.18.0.0/24", "198.18.1.0/24"]
            .map(|text| (p(text), Announcement { exit: ExitId(0), attrs: Arc::clone(&attrs) }));
        controller.decision = Arc::new(Decision {
            generation: Generation(3),
            announce: announce.into(),
            ..Decision::default()
        });
        controller.changed = false;
        controller
    }

    fn said(controller: &mut Controller, at: u64, input: Input) -> Vec<String> {
        let events = controller.handle(Timestamp(at * SECOND), input).events;
        let about = |text: &String| text.contains("effective");
        events.iter().map(|event| event.kind.to_string()).filter(about).collect()
    }

    fn routes(list: &[(&str, bool)]) -> Input {
        let hop = |held: bool| held.then(|| "10.0.0.1".parse().unwrap());
        let routes = list.iter().map(|(text, held)| (p(text), hop(*held))).collect();
        Input::Effective(EffectiveEvent { peer: CORE, change: EffectiveChange::Routes(routes) })
    }

    #[test]
    fn what_a_router_does_not_use_is_said_once_and_so_is_that_it_does() {
        let mut controller = announcing();
        let told = Told { peer: CORE, generation: Generation(3), at: Timestamp(SECOND), changed: 2 };
        let watched = EffectiveEvent { peer: CORE, change: EffectiveChange::Watched };
        said(&mut controller, 1, Input::Effective(watched));
        said(&mut controller, 1, Input::Told(told));
        assert!(said(&mut controller, 2, routes(&[("198.18.0.0/24", true)])).is_empty());
        assert!(said(&mut controller, 5, Input::Tick).is_empty(), "it has five seconds");
        let late = said(&mut controller, 6, Input::Tick);
        assert!(late.len() == 1 && late[0].contains("1 announcements to core"), "{late:?}");
        assert!(late[0].contains("198.18.1.0/24"), "{late:?}");
        said(&mut controller, 7, routes(&[("198.18.0.0/24", false)]));
        assert!(said(&mut controller, 12, Input::Tick).is_empty(), "said already");
        said(&mut controller, 13, routes(&[("198.18.0.0/24", true), ("198.18.1.0/24", true)]));
        assert_eq!(said(&mut controller, 18, Input::Tick), ["all announcements to core are effective"]);
        assert!(said(&mut controller, 30, Input::Tick).is_empty());
    }

    #[test]
    fn nothing_is_said_where_nobody_reports_or_the_session_is_behind() {
        let mut controller = announcing();
        let told = |generation| Told { peer: CORE, generation, at: Timestamp(SECOND), changed: 2 };
        said(&mut controller, 1, Input::Told(told(Generation(3))));
        assert!(said(&mut controller, 9, Input::Tick).is_empty(), "no BMP");
        let watched = EffectiveEvent { peer: CORE, change: EffectiveChange::Watched };
        said(&mut controller, 10, Input::Effective(watched));
        said(&mut controller, 10, Input::Told(told(Generation(2))));
        assert!(said(&mut controller, 19, Input::Tick).is_empty(), "an older decision");
    }
}
