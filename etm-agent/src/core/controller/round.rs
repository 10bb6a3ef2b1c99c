//! One round: a sample in, a placement out. Never touches what the guards say must stand still.

use super::super::allocator::{Board, Caps, Item, Memory, Placement, Room, allocate};
use super::super::audit::{EndReason, EventKind};
use super::super::choices::Grounds;
use super::super::conservation::BookState;
use super::super::decision::{KernelAction, LiveRow, Override, OverrideReason, WeightedHop};
use super::super::guard::Hold;
use super::super::input::{Sample, UplinkSample};
use super::super::money_view::certificate_view;
use super::super::overrides::{Placed, Placing};
use super::super::policy::Mode;
use super::super::projection::{Projection, Sources, active_slots, ineffective, mismatch, project};
use super::{Controller, uplink_id};
use crate::types::{BitRate, ExitId, FlowShare, Prefix, SlotId, Timestamp, UplinkId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Rows of the live statistics map.
const LIVE_ROWS: usize = 256;

/// Above this share (parts per million) of traffic that leaves elsewhere, decisions stand still.
pub(super) const MISMATCH_PPM: u32 = 5_000;

/// Above this share (parts per million) of the traffic under override that does not take it, decisions stand still.
/// Half: what the router sends by itself takes no override and is counted all the same.
const INEFFECTIVE_PPM: u32 = 500_000;

/// Samples in a row that must show it: one may fall into a routing change.
pub(super) const MISMATCH_SAMPLES: u8 = 3;

/// The span of `policy.max_moved_per_minute`.
const MINUTE: Duration = Duration::from_secs(60);

/// How often a placement is tried anew because a prefix turned out to need too many throw routes.
const RETRIES: usize = 8;

impl Controller {
    pub(super) fn round(&mut self, now: Timestamp, sample: &Sample) -> Vec<LiveRow> {
        self.miss_absent(sample);
        for uplink in &sample.uplinks {
            self.meter(now, *uplink);
        }
        self.table = sample.table;
        let measured = self.rates.sample(sample.at, &sample.rows);
        self.last_sample = Some(sample.at);
        self.samples += 1;
        self.approved.fill(BitRate::ZERO);
        if measured {
            self.find_choices();
            self.confirm_moves(now, sample.at);
            self.watch_surges(sample.at);
            self.watch_projection(now);
            self.projection = project(now, &self.offered(), &self.sources());
            self.total = self.projection.total;
            self.watch_overload(sample.at);
            self.refresh_holds(now);
            self.decide(now);
        }
        self.live_rows()
    }

    /// An uplink that the sample does not show carries nothing if it is down, and something unknown if it is up.
    fn miss_absent(&mut self, sample: &Sample) {
        for (index, meter) in self.meters.iter_mut().enumerate() {
            if sample.uplinks.iter().any(|uplink| uplink.uplink == uplink_id(index)) {
                meter.missed = 0;
                continue;
            }
            meter.missed = meter.missed.saturating_add(1);
            if !self.topology.link(uplink_id(index)).up {
                (meter.offered, meter.sent, meter.last) = (BitRate::ZERO, BitRate::ZERO, None);
            }
        }
    }

    /// Totals of one uplink: rates, and the books.
    fn meter(&mut self, now: Timestamp, sample: UplinkSample) {
        let Some(meter) = self.meters.get_mut(sample.uplink.index()) else { return };
        let billing = self.policy.uplinks.get(sample.uplink.index()).map(|uplink| uplink.billing);
        let billing = billing.unwrap_or_default();
        if let Some(last) = meter.last {
            let span = sample.at.since(last.at);
            meter.offered = billing.rate(sample.after.since(last.after), span);
            meter.sent = billing.rate(sample.device.sent.since(last.device.sent), span);
            meter.dropping = sample.device.dropped > last.device.dropped;
        }
        meter.last = Some(sample);
        if !self.topology.link(sample.uplink).up {
            return;
        }
        let Some(book) = self.conservation.book_mut(sample.uplink) else { return };
        if let Some(report) = book.sample(sample)
            && report.state == BookState::Failed
        {
            let (packet_error, byte_error_ppm) = (report.packet_error, report.byte_error_ppm());
            let uplink = self.uplink_name(sample.uplink);
            self.audit.push(now, EventKind::ConservationFailed { uplink, packet_error, byte_error_ppm });
        }
    }

    /// The projection audit: what is not overridden must leave where plain routing says.
    fn watch_projection(&mut self, now: Timestamp) {
        let settled = self.policy.interval * 3;
        self.unsettled.retain(|_, since| now.since(*since) < settled);
        self.mismatch_ppm = mismatch(&self.sources(), &self.unsettled);
        let run = |before: u8, beyond: bool| if beyond { before.saturating_add(1) } else { 0 };
        self.mismatch_run = run(self.mismatch_run, self.mismatch_ppm > MISMATCH_PPM);
        self.ineffective_ppm = if self.enforcing() && !self.policy.canary.is_partial() {
            ineffective(&self.sources(), &self.unsettled)
        } else {
            0
        };
        self.ineffective_run = run(self.ineffective_run, self.ineffective_ppm > INEFFECTIVE_PPM);
    }

    fn watch_overload(&mut self, at: Timestamp) {
        self.projected.clone_from(&self.projection.loads);
        for index in 0..self.meters.len() {
            let Some(uplink) = self.policy.uplinks.get(index) else { continue };
            let (offered_bps, limit_bps) = (self.meters[index].offered, uplink.limit_rate());
            let overloaded = offered_bps > limit_bps;
            if overloaded == self.meters[index].overloaded {
                continue;
            }
            self.meters[index].overloaded = overloaded;
            let uplink = uplink.name.clone();
            let projected_bps = self.projected.get(index).copied().unwrap_or_default();
            // Stamped with the time of the sample: that is when the overload was seen.
            self.audit.push(
                at,
                if overloaded {
                    EventKind::Overloaded { uplink, offered_bps, projected_bps, limit_bps }
                } else {
                    EventKind::Relieved { uplink, offered_bps, limit_bps }
                },
            );
        }
    }

    fn offered(&self) -> Vec<BitRate> {
        self.meters.iter().map(|meter| meter.offered).collect()
    }

    /// Makes sure that the choices of everything with traffic are known.
    fn find_choices(&mut self) {
        for slot in active_slots(&self.rates, &self.slots, &self.overrides) {
            if let Some(prefix) = self.slots.prefix(slot) {
                let (policy, topology) = (&self.policy, &self.topology);
                self.choices.find(slot, prefix, Grounds { policy, topology, rib: &self.rib, fib: &self.fib });
            }
        }
    }

    pub(super) fn sources(&self) -> Sources<'_> {
        Sources {
            policy: &self.policy,
            topology: &self.topology,
            choices: &self.choices,
            slots: &self.slots,
            rates: &self.rates,
            overrides: &self.overrides,
            planned: self.approvals.planned(),
            unsettled: &self.unsettled,
            in_effect: self.enforcing(),
            rejected: self.approvals.rejected(),
            barred: &self.barred,
            confirmations: &self.confirmations,
            controls: &self.controls,
            surges: &self.surges,
        }
    }

    /// True where nothing but a veto keeps decisions from being made.
    pub(super) fn may_decide(&self) -> bool {
        let free = self.holds.iter().all(|hold| matches!(hold, Hold::PlanVetoed { .. }));
        !self.off && !self.stopping && self.fault.is_none() && free
    }

    /// What may be changed now.
    pub(super) fn caps(&self, now: Timestamp, total: BitRate) -> Caps {
        let lately = || self.recent.iter().filter(|(at, _)| now.since(*at) < MINUTE).map(|(_, rate)| *rate);
        Caps {
            moves_now: self.policy.guards.max_moves_per_minute.saturating_sub(lately().count()),
            moves: self.policy.max_overrides,
            moved: total.scaled(self.policy.max_moved_share),
            now: total.scaled(self.policy.max_moved_per_minute).saturating_sub(lately().sum()),
        }
    }

    pub(super) fn rooms(&self, projection: &Projection) -> Vec<Room> {
        projection.rooms(&self.policy, |at| self.drops(at))
    }

    fn drops(&self, uplink: usize) -> bool {
        self.meters.get(uplink).is_some_and(|meter| meter.dropping)
    }

    /// Decides about what is divided; returns what is left of the caps for the plan.
    pub(super) fn review(&self, now: Timestamp, projection: &mut Projection) -> Caps {
        let caps = self.caps(now, projection.total);
        projection.review((&self.tree, &self.policy), caps, |at| self.drops(at))
    }

    /// Places every item anew, unless something says stand still.
    fn decide(&mut self, now: Timestamp) {
        if !self.may_decide() {
            return;
        }
        self.expire_changes(now);
        self.recent.retain(|(at, _)| now.since(*at) < MINUTE);
        let barred = self.barred.clone();
        let mut stale = self.inherited.is_some();
        if let Some(routes) = self.inherited.take() {
            self.inherit(now, routes);
            self.find_choices();
        }
        self.reconsider_barred();
        stale |= self.barred != barred;
        for _ in 0..RETRIES {
            if stale {
                self.projection = project(now, &self.offered(), &self.sources());
            }
            let mut projection = std::mem::take(&mut self.projection);
            let caps = self.review(now, &mut projection);
            let mut placement = self.place(&projection, caps);
            // Parts only shrink here, so it ends. What they bring home is planned for before anything is done.
            while !projection.parts.is_empty()
                && projection.settle((&self.tree, &self.policy), &self.rooms(&projection), &placement)
            {
                placement = self.place(&projection, caps);
            }
            stale = self.bar_wide_prefixes(&projection, &placement);
            if !stale {
                let all = self.caps(now, projection.total);
                if let Some(why) = self.doubt(&projection, &placement, (all, caps)) {
                    self.refuse(now, why);
                    self.projection = projection;
                    return;
                }
                self.apply(now, &projection, &placement);
                self.judge(now, placement);
                self.projection = projection;
                return;
            }
        }
    }

    fn place(&self, projection: &Projection, caps: Caps) -> Placement {
        let board = Board {
            tree: &self.tree,
            policy: &self.policy,
            rooms: &self.rooms(projection),
            items: &projection.items,
            choices: &projection.choices,
            caps,
        };
        allocate(&board, &self.memory)
    }

    /// Keeps the plan for who asks, its prices for the next one, and counts what the checker refused.
    fn judge(&mut self, now: Timestamp, placement: Placement) {
        let Some(study) = placement.study else {
            self.veto = None;
            return;
        };
        self.plans += 1;
        self.certificate = Some(certificate_view(now, &study));
        match study.vetoes.first() {
            None => {
                self.veto = None;
                self.memory.keep(&study);
            }
            Some(why) => {
                self.refuse(now, why.clone());
                // What the next plan starts from may be what is wrong.
                self.memory = Memory::default();
            }
        }
    }

    /// Counts what the checker refused, and says it once.
    fn refuse(&mut self, now: Timestamp, why: String) {
        self.vetoes += 1;
        if self.veto.is_none() {
            self.audit.push(now, EventKind::PlanVetoed { why: why.clone() });
        }
        self.veto = Some(why);
    }

    /// Takes over what an earlier run left in the kernel, as far as it may stand; the placement judges it like the rest.
    fn inherit(&mut self, now: Timestamp, routes: BTreeMap<Prefix, KernelAction>) {
        for (prefix, action) in routes {
            let admitted = !self.policy.excludes(prefix) && self.policy.canary.admits(prefix);
            if !admitted || self.overrides.len() >= self.policy.max_overrides {
                continue;
            }
            let Ok(from) = self.fib.home(prefix, &self.policy, &self.topology) else { continue };
            let Some((to, share)) = self.meant(action, from) else { continue };
            let uplink = self.topology.uplink_of(from).unwrap_or_default();
            let limit =
                self.policy.uplinks.get(uplink.index()).map_or(BitRate::ZERO, |uplink| uplink.limit_rate());
            let projected = self.projected.get(uplink.index()).copied().unwrap_or_default();
            let reason = OverrideReason::RelieveOverload { uplink, projected, limit };
            let rate = self.slots.get(prefix).map_or(BitRate::ZERO, |slot| self.rates.demand(slot));
            // When the earlier run moved it is not known: as moved now, restarts cannot exceed what a minute allows.
            self.recent.push_back((now, share.of(rate)));
            self.overrides.place(now, &self.policy, Placing { prefix, from, to, share, rate, reason });
        }
        self.settle(now);
        if !self.overrides.is_empty() {
            self.audit.push(now, EventKind::Adopted { overrides: self.overrides.len() });
        }
    }

    /// What a route of an earlier run stood for.
    fn meant(&self, action: KernelAction, home: ExitId) -> Option<(ExitId, FlowShare)> {
        match action {
            KernelAction::Throw => None,
            KernelAction::Via { gateway, ifindex } => {
                Some((self.topology.exit_of_kernel(gateway, ifindex)?, FlowShare::ALL))
            }
            KernelAction::Split { hops: [one, other] } => {
                let exit = |hop: WeightedHop| self.topology.exit_of_kernel(hop.gateway, hop.ifindex);
                let taken = if exit(one) == Some(home) { other } else { one };
                let rest = if exit(one) == Some(home) { one } else { other };
                let share = FlowShare::part(taken.weight)?;
                let whole = self.policy.split && exit(rest) == Some(home) && share.rest() == rest.weight;
                Some((exit(taken)?, share)).filter(|(to, _)| whole && *to != home)
            }
        }
    }

    /// A prefix is barred as long as it has too many more-specifics, not for ever.
    fn reconsider_barred(&mut self) {
        let barred = std::mem::take(&mut self.barred);
        let still = |prefix: &Prefix| {
            self.overrides.more_specifics(*prefix, &self.rib, &self.fib).len() > self.policy.max_throws
        };
        self.barred = barred.into_iter().filter(still).collect();
    }

    /// Bars prefixes whose new override would need too many throw routes; true where one was found.
    fn bar_wide_prefixes(&mut self, projection: &Projection, placement: &Placement) -> bool {
        let mut found = false;
        let divided = |at: usize| placement.parts.iter().any(|part| part.index == at);
        for (index, (item, exit)) in projection.items.iter().zip(&placement.exits).enumerate() {
            if !divided(index) && (*exit == item.home || *exit == item.current) {
                continue;
            }
            let throws = self.overrides.more_specifics(item.prefix, &self.rib, &self.fib).len();
            if throws > self.policy.max_throws {
                self.barred.insert(item.prefix);
                found = true;
            }
        }
        found
    }

    fn apply(&mut self, now: Timestamp, projection: &Projection, placement: &Placement) {
        self.changed = true;
        for index in &placement.over_cap {
            // A cap is never exceeded, whoever approves what.
            let item = &projection.items[*index];
            if let Some(entry) = self.overrides.end(item.prefix) {
                self.ended(now, &entry, EndReason::OverCap);
            }
        }
        for (index, (item, exit)) in projection.items.iter().zip(&placement.exits).enumerate() {
            let part = placement.parts.iter().find(|part| part.index == index);
            let (to, share) = part.map_or((*exit, FlowShare::ALL), |part| (part.to, part.share));
            if to == item.home && to == item.current && !projection.undivided.contains(&item.prefix) {
                continue;
            }
            let reason = match part {
                None => self.reason(projection, placement, index),
                Some(_) => self.reason_of_part(projection, placement, item),
            };
            self.send(now, item, (to, share), reason);
        }
        for part in &projection.parts {
            let reason = self.reason_of_part(projection, placement, &part.item);
            self.send(now, &part.item, (part.to, part.share), reason);
        }
        self.record_residuals(now, &placement.residual);
    }

    /// Sends a prefix, or a part of its flows, there, or asks a person first.
    fn send(
        &mut self,
        now: Timestamp,
        item: &Item,
        (to, share): (ExitId, FlowShare),
        reason: OverrideReason,
    ) {
        let (prefix, from, rate) = (item.prefix, item.home, item.rate);
        let standing = self.overrides.get(prefix);
        let standing = standing.map_or((from, FlowShare::ALL), |entry| (entry.to, entry.share));
        let placing = Placing { prefix, from, to, share, rate, reason };
        if self.policy.mode == Mode::Approve && (to, share) != standing {
            self.propose(now, placing, standing.0);
            return;
        }
        self.unpropose(now, prefix);
        if to == from {
            if let Some(entry) = self.overrides.end(prefix) {
                self.ended(now, &entry, EndReason::GivenBack);
            }
            return;
        }
        let before = self.overrides.get(prefix).map_or(BitRate::ZERO, Override::moved);
        let placed = self.overrides.place(now, &self.policy, placing);
        self.record(now, placing, placed, before);
    }

    /// Takes note of a placement; `before` of it was away from home already.
    pub(super) fn record(&mut self, now: Timestamp, placing: Placing, placed: Placed, before: BitRate) {
        let (prefix, rate_bps) = (placing.prefix, placing.rate);
        let (to, enforced) = (self.exit_name(placing.to), self.enforcing());
        let mut changed = placing.share.of(rate_bps);
        let kind = match placed {
            Placed::Kept => return,
            Placed::Added | Placed::Moved { .. } | Placed::Shared { .. } if placing.share.is_part() => {
                let (from, reason) = (self.exit_name(placing.from), self.reason_text(&placing.reason));
                let share_256ths = placing.share;
                EventKind::OverrideSplit { prefix, from, to, share_256ths, rate_bps, reason, enforced }
            }
            Placed::Shared { .. } => {
                let (from, reason) = (self.exit_name(placing.from), self.reason_text(&placing.reason));
                EventKind::OverrideAdded { prefix, from, to, rate_bps, reason, enforced }
            }
            Placed::Added => {
                let (from, reason) = (self.exit_name(placing.from), self.reason_text(&placing.reason));
                EventKind::OverrideAdded { prefix, from, to, rate_bps, reason, enforced }
            }
            Placed::Moved { was, .. } => {
                EventKind::OverrideMoved { prefix, from: self.exit_name(was), to, rate_bps, enforced }
            }
        };
        self.watch_move(now, placing, placed);
        self.unsettled.insert(prefix, now);
        if matches!(placed, Placed::Shared { .. }) {
            changed = changed.saturating_sub(before);
        }
        self.recent.push_back((now, changed));
        self.audit.push(now, kind);
    }

    fn record_residuals(&mut self, now: Timestamp, residual: &[BitRate]) {
        for (index, residual_bps) in residual.iter().enumerate() {
            let id = uplink_id(index);
            if *residual_bps == BitRate::ZERO {
                self.unrelieved.remove(&id);
            } else if self.unrelieved.insert(id) {
                let uplink = self.uplink_name(id);
                self.audit.push(now, EventKind::Unrelieved { uplink, residual_bps: *residual_bps });
            }
        }
    }

    /// The busiest rows, for the map that bpftool shows.
    fn live_rows(&self) -> Vec<LiveRow> {
        let active = self.rates.active().into_iter();
        let mut rows: Vec<LiveRow> =
            active.filter_map(|(slot, uplink)| self.live_row(slot, uplink)).collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.rate), row.prefix, row.uplink));
        rows.truncate(LIVE_ROWS);
        rows
    }

    fn live_row(&self, slot: SlotId, uplink: UplinkId) -> Option<LiveRow> {
        let prefix = self.slots.prefix(slot)?;
        // Bytes and rate in one basis, that of the counters.
        let (count, rate) = (self.rates.count(slot, uplink), self.rates.counted_rate(slot, uplink));
        Some(LiveRow { prefix, uplink, count, rate })
    }
}
