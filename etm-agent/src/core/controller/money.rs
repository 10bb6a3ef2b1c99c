//! Plans, prices and what-ifs made on demand from the state as it is. Never changes anything.

use super::super::allocator::{Board, Item, Placement, Room, Study, Urgency, allocate, preview};
use super::super::decision::OverrideReason;
use super::super::money::commitments;
use super::super::money_view::{
    CandidatePrice, ExitView, LossView, Losses, MoveView, PlanView, candidate_price, loss_view, node_text,
    plan_view, saving,
};
use super::super::policy::Port;
use super::super::projection::Projection;
use super::{Controller, uplink_id};
use crate::types::{BitRate, ExitId, Prefix, Share, Timestamp, UplinkId};
use std::collections::BTreeSet;

/// Prefixes shown for an exit.
const BUSIEST: usize = 10;

impl Controller {
    fn board<'a>(&'a self, now: Timestamp, rooms: &'a [Room], projection: &'a Projection) -> Board<'a> {
        Board {
            tree: &self.tree,
            policy: &self.policy,
            rooms,
            items: &projection.items,
            choices: &projection.choices,
            caps: self.caps(now, projection.total),
        }
    }

    /// The plan for the loads of the last sample.
    pub(super) fn look(&self, now: Timestamp) -> Study {
        let rooms = self.rooms(&self.projection);
        preview(&self.board(now, &rooms, &self.projection), &self.memory)
    }

    /// `etm plan`: what would be done now.
    pub fn plan(&self, now: Timestamp) -> PlanView {
        let study = self.look(now);
        let mut view = plan_view(&self.tree, &study, commitments(&self.policy));
        (view.at_ns, view.state, view.waiting) = (now, self.state(), self.approvals.len());
        view.holds.clone_from(&self.holds);
        for (index, item) in self.projection.items.iter().enumerate() {
            let stays = study.current.get(index).copied().unwrap_or(item.current);
            let to = match study.plan.exits.get(index) {
                Some(exit) if study.applies() => ExitId(*exit),
                _ => stays,
            };
            if to != item.current {
                let reason = if item.leave {
                    self.reason_text(&OverrideReason::Drained)
                } else if to == item.home {
                    "plain routing's choice has room again".to_owned()
                } else {
                    self.reason_text(&self.reason_in(&self.projection, &study, (item.current, to), item.rate))
                };
                let (from, to) = (self.exit_name(item.current), self.exit_name(to));
                let (prefix, rate_bps) = (item.prefix, item.rate);
                view.moves.push(MoveView { prefix, from, to, share_ppm: Share::ONE, rate_bps, reason });
            }
        }
        self.plan_parts(now, &mut view);
        view
    }

    /// What would be divided now, and otherwise than it is.
    fn plan_parts(&self, now: Timestamp, view: &mut PlanView) {
        if !self.policy.split {
            return;
        }
        let mut projection = self.projection.clone();
        let caps = self.review(now, &mut projection);
        let rooms = self.rooms(&projection);
        let board = Board { caps, ..self.board(now, &rooms, &projection) };
        let placement = allocate(&board, &self.memory);
        let old = projection.parts.iter().filter(|part| part.share != part.standing);
        let old = old.map(|part| (&part.item, part.to, part.share));
        let new = placement.parts.iter().map(|part| (&projection.items[part.index], part.to, part.share));
        for (item, to, share) in old.chain(new) {
            let reason = self.reason_of_part(&projection, &placement, item);
            let (from, to) = (self.exit_name(item.home), self.exit_name(to));
            view.moves.retain(|known| known.prefix != item.prefix);
            view.moves.push(MoveView {
                prefix: item.prefix,
                from,
                to,
                share_ppm: share.ppm(),
                rate_bps: item.rate,
                reason: self.reason_text(&reason),
            });
        }
    }

    /// Why a part of the flows of an item goes elsewhere.
    pub(super) fn reason_of_part(
        &self,
        projection: &Projection,
        placement: &Placement,
        item: &Item,
    ) -> OverrideReason {
        let standing = self.overrides.get(item.prefix).filter(|entry| entry.share.is_part());
        if let Some(entry) = standing {
            return entry.reason;
        }
        let over = |study: &Study| self.overloaded_at(projection, study, item.home);
        placement.study.as_ref().and_then(over).unwrap_or_else(|| self.relief(item.home, &projection.loads))
    }

    /// Why a placement sends an item where it does.
    pub(super) fn reason(
        &self,
        projection: &Projection,
        placement: &Placement,
        index: usize,
    ) -> OverrideReason {
        let item = &projection.items[index];
        if placement.pinned.contains(&index) {
            return OverrideReason::Pinned;
        }
        if placement.left.contains(&index) {
            return OverrideReason::Drained;
        }
        let to = placement.exits[index];
        match &placement.study {
            Some(study) if item.current != to => {
                self.reason_in(projection, study, (item.current, to), item.rate)
            }
            _ => self
                .overrides
                .get(item.prefix)
                .map_or(self.relief(item.home, projection.loads.as_slice()), |entry| entry.reason),
        }
    }

    fn reason_in(
        &self,
        projection: &Projection,
        study: &Study,
        (from, to): (ExitId, ExitId),
        rate: BitRate,
    ) -> OverrideReason {
        if study.urgency == Urgency::Relief {
            return self
                .overloaded_at(projection, study, from)
                .unwrap_or_else(|| self.relief(from, &self.projected));
        }
        OverrideReason::SaveMoney { saving: saving(&self.tree, study, (from, to), rate) }
    }

    fn relief(&self, exit: ExitId, loads: &[BitRate]) -> OverrideReason {
        let uplink = self.topology.uplink_of(exit).unwrap_or_default();
        let projected = loads.get(uplink.index()).copied().unwrap_or_default();
        let limit =
            self.policy.uplinks.get(uplink.index()).map_or(BitRate::ZERO, |uplink| uplink.limit_rate());
        OverrideReason::RelieveOverload { uplink, projected, limit }
    }

    /// What around an exit is overloaded: its uplink, else a port.
    fn overloaded_at(&self, projection: &Projection, study: &Study, exit: ExitId) -> Option<OverrideReason> {
        let over = |node: usize| study.stay.get(node) > self.tree.marks().get(node).map(|marks| &marks.limit);
        let uplink = self.topology.uplink_of(exit)?;
        let node = self.tree.of_uplink(uplink)?;
        if over(node) {
            let base = projection.base.get(uplink.index()).copied().unwrap_or_default();
            let on_it = |exit: &ExitId| self.topology.uplink_of(*exit) == Some(uplink);
            let items = projection.items.iter().zip(&study.current);
            let carried = items.filter(|(_, exit)| on_it(exit)).map(|(item, _)| item.rate).sum::<BitRate>();
            return Some(match self.relief(exit, &[]) {
                OverrideReason::RelieveOverload { uplink, limit, .. } => {
                    OverrideReason::RelieveOverload { uplink, projected: base + carried, limit }
                }
                other => other,
            });
        }
        let above = self.tree.path(exit).iter().copied().find(|node| over(*node))?;
        let name = &self.tree.nodes().get(above)?.name;
        let port = self.policy.ports.iter().position(|port| port.name == *name)?;
        Some(self.relieve_port(port))
    }

    fn relieve_port(&self, port: usize) -> OverrideReason {
        let inside = |uplink: usize| {
            let ports = &self.policy.ports;
            let mut at = self.policy.uplinks.get(uplink).and_then(|uplink| uplink.port);
            std::iter::from_fn(|| {
                let now = at?;
                at = ports.get(now).and_then(|port| port.inside);
                Some(now)
            })
            .take(ports.len())
            .any(|around| around == port)
        };
        let loads =
            self.meters.iter().enumerate().filter(|(at, _)| inside(*at)).map(|(_, meter)| meter.offered);
        let limit = |port: &Port| port.capacity.scaled(port.limit);
        let limit = self.policy.ports.get(port).map_or(BitRate::ZERO, limit);
        OverrideReason::RelievePort { port, projected: loads.sum(), limit }
    }

    pub(super) fn reason_text(&self, reason: &OverrideReason) -> String {
        match reason {
            OverrideReason::RelieveOverload { uplink, projected, limit } => {
                format!("{} would carry {projected}, its limit is {limit}", self.uplink_name(*uplink))
            }
            OverrideReason::RelievePort { port, projected, limit } => {
                let name = self.policy.ports.get(*port).map_or("a port", |port| port.name.as_str());
                format!("{name} carries {projected}, its limit is {limit}")
            }
            OverrideReason::SaveMoney { saving } => format!("it saves {saving} a month"),
            OverrideReason::Drained => "the provider that it leaves is drained".to_owned(),
            OverrideReason::Pinned => "the operator pinned it there".to_owned(),
        }
    }

    /// What each candidate of a prefix costs now, in the order of `ranked`.
    pub(super) fn candidate_prices(
        &self,
        now: Timestamp,
        (home, current): (ExitId, ExitId),
        ranked: &[ExitId],
    ) -> Vec<CandidatePrice> {
        let study = self.look(now);
        let mut rank = 0;
        let price = |exit: &ExitId| {
            rank += u32::from(*exit != home);
            let rank = if *exit == home { 0 } else { rank };
            candidate_price(&self.tree, &study, (*exit, current), self.policy.prices.preference, rank)
        };
        ranked.iter().map(price).collect()
    }

    /// `etm explain EXIT`; none where there is no such exit or interface.
    pub fn explain_exit(&self, now: Timestamp, name: &str) -> Option<ExitView> {
        let exit = self.exits_named(name).into_iter().next()?;
        let configured = self.policy.exits.get(exit.index())?;
        let provider = self.policy.providers.get(configured.provider.index());
        let view = plan_view(&self.tree, &self.look(now), commitments(&self.policy));
        let path = self.tree.path(exit);
        let nodes: Vec<_> = path.iter().filter_map(|node| view.nodes.get(*node).cloned()).collect();
        let here: Vec<_> = self.overrides.iter().filter(|entry| entry.to == exit).collect();
        let away: Vec<_> = self.overrides.iter().filter(|entry| entry.from == exit).collect();
        let mut busiest: Vec<(Prefix, BitRate)> = self
            .projection
            .items
            .iter()
            .filter(|item| item.current == exit)
            .map(|item| (item.prefix, item.rate))
            .collect();
        busiest.sort_by_key(|(prefix, rate)| (std::cmp::Reverse(*rate), *prefix));
        busiest.truncate(BUSIEST);
        Some(ExitView {
            exit: configured.name.clone(),
            provider: provider.map_or_else(String::new, |provider| provider.name.clone()),
            uplink: self.uplink_name(configured.uplink),
            up: self.topology.link(configured.uplink).up,
            price_per_mbps: nodes.iter().map(|node| node.price_per_mbps).sum(),
            because: nodes.iter().map(node_text).collect(),
            nodes,
            moved_here: here.len(),
            moved_here_bps: here.iter().map(|entry| entry.moved()).sum(),
            moved_away: away.len(),
            moved_away_bps: away.iter().map(|entry| entry.moved()).sum(),
            busiest,
        })
    }

    /// The exit of this name, or all exits of the interface of this name.
    fn exits_named(&self, name: &str) -> Vec<ExitId> {
        let exits = || (0..self.policy.exits.len()).filter_map(|at| u16::try_from(at).ok()).map(ExitId);
        let by_name: Vec<ExitId> = exits().filter(|exit| self.exit_name(*exit) == name).collect();
        if !by_name.is_empty() {
            return by_name;
        }
        let on = |exit: &ExitId| self.policy.uplink_of(*exit).map(|uplink| self.uplink_name(uplink));
        exits().filter(|exit| on(exit).is_some_and(|uplink| uplink == name)).collect()
    }

    /// `etm plan --without EXIT`; none where there is no such exit or interface.
    pub fn without(&self, now: Timestamp, name: &str) -> Option<LossView> {
        let lost = self.exits_named(name);
        (!lost.is_empty()).then(|| self.loss(now, name.to_owned(), &lost))
    }

    /// `etm explain --n-1`: each exit in turn.
    pub fn losses(&self, now: Timestamp) -> Losses {
        let exits = (0..self.policy.exits.len()).filter_map(|at| u16::try_from(at).ok()).map(ExitId);
        Losses { losses: exits.map(|exit| self.loss(now, self.exit_name(exit), &[exit])).collect() }
    }

    fn loss(&self, now: Timestamp, name: String, lost: &[ExitId]) -> LossView {
        // What is divided now is looked at as a whole: its next hops are among what is lost.
        let mut projection = self.projection.whole();
        let mut rooms = self.rooms(&projection);
        // What is no item's leaves with the last exit of its interface: nobody knows where to.
        let dead: BTreeSet<UplinkId> = self.dead_uplinks(lost);
        let mut unplaced = BitRate::ZERO;
        for uplink in &dead {
            if let Some(room) = rooms.get_mut(uplink.index()) {
                unplaced += std::mem::take(&mut room.base);
            }
        }
        let carried =
            projection.items.iter().filter(|item| lost.contains(&item.current)).map(|item| item.rate);
        let carries = unplaced + carried.sum();
        let mut choices = Vec::with_capacity(projection.choices.len());
        for item in &mut projection.items {
            let begin = choices.len();
            let all = projection.choices.get(item.choices.clone()).unwrap_or(&[]);
            choices.extend(all.iter().copied().filter(|exit| !lost.contains(exit)));
            item.choices = begin..choices.len();
            if item.choices.is_empty() {
                unplaced += item.rate;
            }
        }
        projection.choices = choices;
        loss_view(name, carries, unplaced, &self.board(now, &rooms, &projection))
    }

    /// Interfaces all of whose exits are in `lost`.
    fn dead_uplinks(&self, lost: &[ExitId]) -> BTreeSet<UplinkId> {
        let alive = |uplink: UplinkId| {
            let mut exits = self.policy.exits.iter().enumerate().filter(|(_, exit)| exit.uplink == uplink);
            exits.any(|(at, _)| lost.iter().all(|lost| lost.index() != at))
        };
        (0..self.policy.uplinks.len()).map(uplink_id).filter(|uplink| !alive(*uplink)).collect()
    }
}
