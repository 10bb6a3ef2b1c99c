//! Views of the state, made on demand. Never changes anything.

use super::super::audit::Event;
use super::super::conservation::WorstWindows;
use super::super::input::Uncounted;
use super::super::overrides::next_hop;
use super::super::policy::{Border, Role};
use super::super::view::{
    AnnouncedView, EventView, OverrideView, PrefixUplinkView, PrefixView, SessionView, StatusView, UplinkView,
};
use super::{Controller, uplink_id};
use crate::types::{BitRate, Count, PeerId, Prefix, SlotId, Timestamp, UplinkId};

impl Controller {
    /// `etm status`.
    pub fn status(&self, now: Timestamp) -> StatusView {
        let uplinks: Vec<UplinkView> =
            (0..self.policy.uplinks.len()).map(|index| self.uplink_view(index)).collect();
        let (surges, surging) = self.surge_views();
        StatusView {
            at_ns: now,
            mode: self.policy.mode,
            state: self.state(),
            holds: self.holds.clone(),
            guards: self.guard_views(now),
            orders: self.orders(),
            moves: self.moves_view(now),
            site: self.site.view(),
            surges,
            surging,
            exits: self.exit_summaries(),
            certificate: self.certificate,
            generation: self.decision.generation,
            kernel_generation: self.installed,
            overrides: self.overrides.len(),
            overrides_of_parts: self.overrides.parts(),
            waiting: self.approvals.len(),
            plans: self.plans,
            plan_vetoes: self.vetoes,
            moved_bps: self.overrides.moved(),
            offered_bps: self.meters.iter().map(|meter| meter.offered).sum(),
            prefixes: self.rib.prefixes(),
            prefixes_counted: self.slots.len(),
            prefixes_refused: self.slots.refused() + self.table.refused,
            kernel_routes: self.fib.len(),
            projection_mismatch_ppm: self.mismatch_ppm,
            own_routes_returned: self.rib.returned(&self.topology),
            sample_age_ms: self
                .last_sample
                .map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX)),
            sessions: self.session_views(),
            conservation: worst_of(uplinks.iter().map(|uplink| uplink.worst)),
            uplinks,
        }
    }

    fn session_views(&self) -> Vec<SessionView> {
        let ids = (0..=u16::MAX).map(PeerId);
        let sessions = self.policy.peers.iter().zip(&self.sessions).zip(ids);
        sessions
            .map(|((peer, session), id)| SessionView {
                routes: self.rib.routes_of(id),
                name: peer.name.clone(),
                role: peer.role,
                up: session.up,
                complete: session.up && (peer.role == Role::Inject || session.awaited.is_empty()),
                reason: session.reason.clone(),
                told_generation: session.told,
            })
            .collect()
    }

    /// `etm providers`.
    pub fn uplinks(&self) -> Vec<UplinkView> {
        (0..self.policy.uplinks.len()).map(|index| self.uplink_view(index)).collect()
    }

    fn uplink_view(&self, index: usize) -> UplinkView {
        let (id, uplink, meter) = (uplink_id(index), &self.policy.uplinks[index], &self.meters[index]);
        let exits = self.policy.exits.iter().filter(|exit| exit.uplink == id);
        let mut providers: Vec<String> = exits
            .filter_map(|exit| self.policy.providers.get(exit.provider.index()))
            .map(|provider| provider.name.clone())
            .collect();
        providers.dedup();
        let last = meter.last.unwrap_or_default();
        let uncounted: Count = last.uncounted.iter().fold(Count::default(), |sum, count| sum + *count);
        let book = self.conservation.book(id);
        let border = self.policy.border_of(id);
        let talks =
            |border: &Border| self.sessions.get(usize::from(border.session.0)).is_some_and(|one| one.up);
        let offered_bps = if border.is_some() { self.sent_to(id) } else { meter.offered };
        UplinkView {
            name: uplink.name.clone(),
            border: border.map(|border| border.name.clone()),
            providers,
            up: self.topology.link(id).up && border.is_none_or(talks),
            billing: uplink.billing.to_string(),
            capacity_bps: uplink.capacity,
            limit_bps: uplink.limit_rate(),
            offered_bps,
            sent_bps: meter.sent,
            dropped_packets: last.device.dropped,
            projected_bps: self.projected.get(index).copied().unwrap_or_default(),
            utilization_ppm: offered_bps.share_of(uplink.capacity),
            counted: last.after.since(uncounted),
            uncounted: Uncounted::ALL
                .iter()
                .zip(last.uncounted)
                .map(|(why, count)| (why.as_str().to_owned(), count))
                .collect(),
            book: book.map(|book| book.state()).unwrap_or_default(),
            basis: book.map(|book| book.basis()).unwrap_or_default(),
            window: book.map(|book| book.report()).unwrap_or_default(),
            worst: book.map(|book| book.worst()).unwrap_or_default(),
        }
    }

    /// What announcements bring to another border's uplink, as it was when it was seen here last.
    pub(super) fn sent_to(&self, uplink: UplinkId) -> BitRate {
        let there = self.overrides.iter().filter(|entry| self.policy.uplink_of(entry.to) == Some(uplink));
        if self.enforcing() { there.map(super::Override::moved).sum() } else { BitRate::ZERO }
    }

    /// `etm prefixes`: the busiest first.
    pub fn prefixes(&self, top: usize) -> Vec<PrefixView> {
        let mut rows: Vec<(BitRate, Prefix, SlotId)> =
            self.slots.iter().map(|(prefix, slot)| (self.rates.demand(slot), prefix, slot)).collect();
        let order = |row: &(BitRate, Prefix, SlotId)| (std::cmp::Reverse(row.0), row.1);
        if top < rows.len() {
            // With a whole table only the busiest are worth sorting.
            rows.select_nth_unstable_by_key(top, order);
            rows.truncate(top);
        }
        rows.sort_by_key(order);
        rows.into_iter().map(|(_, prefix, slot)| self.prefix_view(prefix, slot)).collect()
    }

    fn prefix_view(&self, prefix: Prefix, slot: SlotId) -> PrefixView {
        let mut uplinks = Vec::new();
        let mut total = Count::default();
        for index in 0..self.policy.uplinks.len() {
            let id = uplink_id(index);
            let count = self.rates.count(slot, id);
            total += count;
            if count != Count::default() {
                uplinks.push(PrefixUplinkView {
                    uplink: self.uplink_name(id),
                    rate_bps: self.rates.rate(slot, id),
                    bytes: count.bytes,
                    packets: count.packets,
                });
            }
        }
        PrefixView {
            prefix,
            rate_bps: self.rates.demand(slot),
            bytes: total.bytes,
            packets: total.packets,
            home: self.fib.home(prefix, &self.policy, &self.topology).ok().map(|exit| self.exit_name(exit)),
            override_to: self.overrides.get(prefix).map(|entry| self.exit_name(entry.to)),
            uplinks,
        }
    }

    /// `etm overrides`, in prefix order.
    pub fn overrides(&self) -> Vec<OverrideView> {
        let view = |entry: &super::Override| OverrideView {
            prefix: entry.prefix,
            from: self.exit_name(entry.from),
            to: self.exit_name(entry.to),
            share_ppm: entry.share.ppm(),
            there_bps: self.seen_there(entry),
            interface: self.uplink_name(self.topology.uplink_of(entry.to).unwrap_or_default()),
            border: self.policy.border_of_exit(entry.to).map(|border| border.name.clone()),
            gateway: next_hop(entry, &self.rib, &self.topology).map(|(gateway, _)| gateway),
            rate_bps: entry.rate,
            reason: self.reason_text(&entry.reason),
            confirmed: !self.confirmations.is_watched(entry.prefix),
            since_ns: entry.since,
            hold_until_ns: entry.hold_until,
            enforced: self.enforcing(),
            refused: self.refused.get(&entry.prefix).cloned(),
            throws: self.overrides.more_specifics(entry.prefix, &self.rib, &self.fib).len(),
            peers: self.announced(entry.prefix),
        };
        self.overrides.iter().map(view).collect()
    }

    /// What was counted of an override where it leads to.
    pub(super) fn seen_there(&self, entry: &super::Override) -> BitRate {
        let slot = self.slots.get(entry.prefix).zip(self.topology.uplink_of(entry.to));
        slot.map_or(BitRate::ZERO, |(slot, uplink)| self.rates.rate(slot, uplink))
    }

    /// What the routers behind the inject sessions know of an override.
    pub(super) fn announced(&self, prefix: Prefix) -> Vec<AnnouncedView> {
        let wanted = self.decision.announce.contains_key(&prefix);
        let sessions = self.policy.peers.iter().zip(&self.sessions).enumerate();
        let inject = sessions.filter(|(_, (peer, _))| peer.role == Role::Inject);
        inject
            .map(|(index, (peer, session))| {
                let id = PeerId(u16::try_from(index).unwrap_or(u16::MAX));
                let seen = self.effects.get(&id);
                let next_hop = seen.and_then(|seen| seen.get(&prefix)).copied();
                AnnouncedView {
                    session: peer.name.clone(),
                    sent: wanted && session.told == Some(self.decision.generation),
                    effective: seen.map(|_| next_hop.is_some()),
                    next_hop,
                }
            })
            .collect()
    }

    /// `etm events`: the decision log after number `seq`.
    pub fn events(&self, seq: u64) -> Vec<EventView> {
        let view = |event: &Event| EventView {
            weight: event.kind.weight(),
            text: event.kind.to_string(),
            event: event.clone(),
        };
        self.audit.since(seq).map(view).collect()
    }

    /// Number of overrides, planned or in effect.
    pub fn override_count(&self) -> usize {
        self.overrides.len()
    }
}

fn worst_of(all: impl Iterator<Item = WorstWindows>) -> WorstWindows {
    all.fold(WorstWindows::default(), |sum, one| WorstWindows {
        byte_error_ppm: sum.byte_error_ppm.max(one.byte_error_ppm),
        packet_error: sum.packet_error.max(one.packet_error),
        windows: sum.windows + one.windows,
        lossy: sum.lossy + one.lossy,
        failed: sum.failed + one.failed,
        unchecked: sum.unchecked + one.unchecked,
    })
}
