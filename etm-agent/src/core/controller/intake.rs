//! Taking note of what happened outside: sessions, routes, links, the kernel's table, answers of adapters.
//! Never makes a new override: what became invalid is ended, the rest waits for the next round.

use super::super::audit::EventKind;
use super::super::conservation::BookState;
use super::super::input::{
    FibEvent, GatewayEvent, Installed, LinkEvent, RouteBatch, SessionChange, SessionEvent, Told,
};
use super::super::policy::Role;
use super::super::rib::Presence;
use super::{Controller, Session};
use crate::types::{BitRate, Family, PeerId, Prefix, Timestamp};

/// Prefixes visited by one slice of clearing up: about a millisecond.
pub(super) const CHORES: usize = 4096;
/// The same along with each batch of routes, so that a flood of them cannot put it off for ever.
pub(super) const CHORES_BESIDE_ROUTES: usize = 128;

impl Controller {
    pub(super) fn session(&mut self, now: Timestamp, event: SessionEvent) {
        let Some(peer) = self.policy.peers.get(usize::from(event.peer.0)) else { return };
        let (name, role) = (peer.name.clone(), peer.role);
        let Some(session) = self.sessions.get_mut(usize::from(event.peer.0)) else { return };
        match event.change {
            SessionChange::Up { families } => {
                *session = Session { up: true, awaited: families, ..Session::default() };
                self.audit.push(now, EventKind::SessionUp { session: name });
            }
            SessionChange::EndOfRib(family) => {
                session.awaited.retain(|awaited| *awaited != family);
                self.audit.push(now, EventKind::EndOfRib { session: name, family });
                self.sweep_slots();
            }
            SessionChange::Down { reason } => {
                self.session_down(now, event.peer, name, reason);
                if role == Role::Learn {
                    // Its prefixes stay counted: the session will be back, and `sweep_slots` ends what is not.
                    self.rib.drop_peer(event.peer);
                    self.choices.forget_all();
                    self.do_chores(CHORES);
                    self.settle(now);
                }
            }
            SessionChange::Retained { families, reason } => {
                self.session_down(now, event.peer, name, reason);
                for family in Family::ALL {
                    if families.contains(&family) {
                        self.rib.mark_stale(event.peer, family);
                    } else {
                        self.rib.drop_family(event.peer, family);
                    }
                }
                self.settle(now);
            }
            SessionChange::Ordered { order } => {
                self.audit.push(now, EventKind::SessionOrdered { session: name, order });
            }
            SessionChange::Refreshing(family) => self.rib.mark_stale(event.peer, family),
            SessionChange::Sweep(family) => {
                self.rib.sweep(event.peer, family);
                self.sweep_slots();
                self.settle(now);
            }
        }
        if role == Role::Inject {
            self.note_hearers(now);
        }
    }

    /// Without anybody who hears our announcements there are no exits elsewhere.
    fn note_hearers(&mut self, now: Timestamp) {
        let mut sessions = self.policy.peers.iter().zip(&self.sessions).zip((0..=u16::MAX).map(PeerId));
        // ETM elsewhere is told, but moves nothing by it.
        let heard = sessions.any(|((peer, session), id)| {
            peer.role == Role::Inject && session.up && !self.policy.is_border(id)
        });
        if self.topology.set_heard(heard) && self.topology.has_elsewhere() {
            self.choices.forget_all();
            self.settle(now);
        }
    }

    fn session_down(&mut self, now: Timestamp, peer: PeerId, name: String, reason: String) {
        let Some(session) = self.sessions.get_mut(usize::from(peer.0)) else { return };
        let before = std::mem::take(session);
        session.reason = Some(reason.clone());
        // A peer that refuses every few seconds is one event, not one per attempt.
        if !self.stopping && (before.up || before.reason.as_ref() != Some(&reason)) {
            self.audit.push(now, EventKind::SessionDown { session: name, reason });
        }
    }

    /// Once every table is complete, prefixes that nobody announces are not counted any more: left by a session that
    /// went down, or by an earlier run.
    fn sweep_slots(&mut self) {
        self.slot_sweep = Some(None);
        self.do_chores(CHORES);
    }

    fn tables_complete(&self) -> bool {
        let complete = |session: &Session| session.up && session.awaited.is_empty();
        self.policy.own_sources().all(|(at, _)| self.sessions.get(at).is_some_and(complete))
    }

    /// Clearing up that can wait, `prefixes` prefixes of it: it must not hold up what cannot.
    pub(super) fn do_chores(&mut self, prefixes: usize) {
        self.rib.clear_away(prefixes);
        let Some(after) = self.slot_sweep else { return };
        if !self.tables_complete() {
            self.slot_sweep = None;
            return;
        }
        let next: Vec<Prefix> =
            self.slots.iter_after(after).take(prefixes).map(|(prefix, _)| prefix).collect();
        self.slot_sweep = (next.len() == prefixes).then(|| next.last().copied());
        for prefix in next {
            if !self.rib.contains(prefix) {
                self.slots.remove(prefix);
            }
        }
    }

    /// Applies routes; true where an override may be concerned.
    pub(super) fn apply_routes(&mut self, batch: RouteBatch) -> bool {
        let mut touched = Vec::with_capacity(batch.changes.len());
        self.rib.apply(batch, |prefix, presence| touched.push((prefix, presence)));
        let mut concerned = false;
        for (prefix, presence) in touched {
            self.forget_choice(prefix);
            self.note_presence(prefix, presence);
            concerned |= self.overrides.concerned_by(prefix, &self.topology)
                || self.approvals.planned().contains_key(&prefix);
        }
        concerned
    }

    fn forget_choice(&mut self, prefix: Prefix) {
        if self.choices.is_empty() {
            return;
        }
        if let Some(slot) = self.slots.get(prefix) {
            self.choices.forget(slot);
        }
        if self.topology.has_covering() {
            // Its routes are candidates for what it covers, too.
            for slot in self.rib.inside(prefix).filter_map(|inner| self.slots.get(inner)) {
                self.choices.forget(slot);
            }
        }
    }

    /// The kernel's tables follow the RIB.
    fn note_presence(&mut self, prefix: Prefix, presence: Presence) {
        match presence {
            Presence::Appeared => self.slots.insert(prefix),
            Presence::Vanished => self.slots.remove(prefix),
            Presence::Kept => {}
        }
    }

    pub(super) fn link(&mut self, now: Timestamp, event: LinkEvent) {
        let was = self.topology.link(event.uplink);
        if !self.topology.set_link(event) {
            return;
        }
        let is = self.topology.link(event.uplink);
        let uplink = self.uplink_name(event.uplink);
        if was.up != is.up && (was.known || !is.up) {
            let kind = if is.up { EventKind::LinkUp { uplink } } else { EventKind::LinkDown { uplink } };
            self.audit.push(now, kind);
        }
        if let Some(book) = self.conservation.book_mut(event.uplink) {
            // The kernel empties the queue of a device that loses its carrier without counting it.
            book.reopen(if is.up { BookState::Opening } else { BookState::Down });
        }
        self.choices.forget_all();
        self.unsettle_all(now);
        self.settle(now);
    }

    /// Packets to a next hop that does not answer are lost: its overrides end, plain routing is the daemon's to mend.
    pub(super) fn gateway(&mut self, now: Timestamp, event: GatewayEvent) {
        if !self.topology.set_gateway(event) {
            return;
        }
        let GatewayEvent { gateway, ifindex, answers } = event;
        let here = ifindex.and_then(|ifindex| self.topology.exit_of_kernel(gateway, ifindex));
        let exit = here.or_else(|| self.topology.exits_with(gateway).next());
        let exit = exit.map_or_else(String::new, |exit| self.exit_name(exit));
        self.audit.push(
            now,
            match answers {
                true => EventKind::GatewayAnswers { gateway, exit },
                false => EventKind::GatewaySilent { gateway, exit },
            },
        );
        self.choices.forget_all();
        self.unsettle_all(now);
        self.settle(now);
    }

    pub(super) fn fib_event(&mut self, now: Timestamp, event: FibEvent) {
        let was_synced = self.fib.synced();
        let swapped = event == FibEvent::Synced;
        let touched = self.fib.apply(event);
        if swapped {
            self.choices.forget_all();
        }
        let mut concerned = false;
        for prefix in touched {
            self.forget_choice(prefix);
            if self.slots.get(prefix).is_some_and(|slot| self.rates.demand(slot) > BitRate::ZERO) {
                self.unsettled.insert(prefix, now);
            }
            concerned |= self.overrides.concerned_by(prefix, &self.topology)
                || self.approvals.planned().contains_key(&prefix);
        }
        // While a reading is under way nothing is concluded from it: the former table stands.
        if self.fib.synced() && (concerned || !was_synced) {
            self.settle(now);
        }
    }

    pub(super) fn kernel_answered(&mut self, installed: Installed) {
        for (prefix, reason) in &installed.failed {
            if self.refused.get(prefix) != Some(reason) {
                let (prefix, reason) = (*prefix, reason.clone());
                self.audit.push(installed.at, EventKind::KernelRefused { prefix, reason });
            }
        }
        self.refused = installed.failed.into_iter().collect();
        self.installed = installed.generation;
        self.confirmations.made(installed.generation, installed.at);
        if installed.changed > 0 {
            let (generation, changed) = (installed.generation, installed.changed);
            self.audit.push(installed.at, EventKind::KernelConverged { generation, changed });
        }
    }

    pub(super) fn peer_answered(&mut self, told: Told) {
        let index = usize::from(told.peer.0);
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.told = Some(told.generation);
        if told.changed > 0 {
            session.expect_effect(told.at);
            let session = self.policy.peers.get(index).map_or_else(String::new, |peer| peer.name.clone());
            let (generation, changed) = (told.generation, told.changed);
            self.audit.push(told.at, EventKind::PeerTold { session, generation, changed });
        }
    }

    /// After a link change every prefix may leave by another uplink for a moment.
    fn unsettle_all(&mut self, now: Timestamp) {
        for (slot, _) in self.rates.active() {
            if let Some(prefix) = self.slots.prefix(slot) {
                self.unsettled.insert(prefix, now);
            }
        }
    }
}
