//! Load of each uplink as it would be without any override, and the items that may be placed anew.
//!
//! What leaves without an override is taken as it was counted; what leaves by an override is put back to
//! its home. So the projection does not feed on ETM's own effect, and traffic that belongs to no prefix
//! stays where it is.

use super::allocator::partial::{Verdict, review, settle};
use super::allocator::{Board, Caps, Item, Part, Placement, Room};
use super::choices::{Choice, Choices};
use super::confirm::Confirmations;
use super::controls::Controls;
use super::money::Tree;
use super::overrides::Overrides;
use super::policy::Policy;
use super::rate::Rates;
use super::slots::Slots;
use super::surge::Surges;
use super::topology::Topology;
use crate::types::{BitRate, ExitId, FlowShare, Prefix, SlotId, Timestamp, UplinkId};
use std::collections::{BTreeMap, BTreeSet};

/// Everything the projection reads.
pub struct Sources<'a> {
    /// Operator's intent.
    pub policy: &'a Policy,
    /// Exits and links.
    pub topology: &'a Topology,
    /// What prefixes may choose from; known for every row with traffic.
    pub choices: &'a Choices,
    /// Rows.
    pub slots: &'a Slots,
    /// Rates of rows.
    pub rates: &'a Rates,
    /// Overrides as they stand.
    pub overrides: &'a Overrides,
    /// Changes that wait for approval: what is planned already.
    pub planned: &'a BTreeMap<Prefix, (ExitId, FlowShare)>,
    /// Prefixes whose way changed a moment ago: what is counted of them is of no way in particular.
    pub unsettled: &'a BTreeMap<Prefix, Timestamp>,
    /// Whether overrides are in effect.
    pub in_effect: bool,
    /// Exits that a person refused for a prefix.
    pub rejected: &'a BTreeMap<(Prefix, ExitId), Timestamp>,
    /// Prefixes that need too many throw routes.
    pub barred: &'a BTreeSet<Prefix>,
    /// Exits that are closed to prefixes whose traffic did not follow.
    pub confirmations: &'a Confirmations,
    /// Drained providers.
    pub controls: &'a Controls,
    /// Usual rates of what surges.
    pub surges: &'a Surges,
}

impl Sources<'_> {
    /// True where nothing may be sent to `exit`, because its provider is drained.
    pub fn is_drained(&self, exit: ExitId) -> bool {
        let provider = self.policy.exits.get(exit.index()).map(|exit| exit.provider);
        provider.is_some_and(|provider| self.controls.is_drained(provider))
    }

    /// True where no exit is closed to any prefix.
    fn all_open(&self) -> bool {
        self.rejected.is_empty() && self.confirmations.is_open() && self.controls.drains().is_empty()
    }

    /// True where `prefix` may be sent to `exit` anew.
    fn is_open(&self, now: Timestamp, prefix: Prefix, exit: ExitId) -> bool {
        !self.rejected.contains_key(&(prefix, exit))
            && !self.confirmations.is_closed(now, prefix, exit)
            && !self.is_drained(exit)
    }
}

/// The projection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projection {
    /// Load of each uplink without overrides.
    pub loads: Vec<BitRate>,
    /// Load of each uplink that is no item's.
    pub base: Vec<BitRate>,
    /// Items in prefix order.
    pub items: Vec<Item>,
    /// Prefixes of which a part is sent elsewhere. No items: they stay divided while the plan is made.
    pub parts: Vec<Part>,
    /// Of the items, those that were parts until now.
    pub undivided: BTreeSet<Prefix>,
    /// What they brought home, and where.
    pub returned: Vec<(ExitId, BitRate)>,
    /// What the items may use.
    pub choices: Vec<ExitId>,
    /// Demand of everything counted for a prefix.
    pub total: BitRate,
}

impl Projection {
    /// Rooms for the allocator: what is divided takes room where its parts are.
    pub fn rooms(&self, policy: &Policy, dropping: impl Fn(usize) -> bool) -> Vec<Room> {
        let mut rooms = self.bare_rooms(dropping);
        let mut add = |exit: ExitId, rate: BitRate| {
            if let Some(room) = policy.uplink_of(exit).and_then(|uplink| rooms.get_mut(uplink.index())) {
                room.base += rate;
            }
        };
        for part in &self.parts {
            add(part.to, part.moved(part.share));
            add(part.item.home, part.stays());
        }
        for (home, rate) in &self.returned {
            let uplink = policy.uplink_of(*home).map(|uplink| uplink.index());
            if let Some(room) = uplink.and_then(|at| rooms.get_mut(at)) {
                room.returned += *rate;
            }
        }
        rooms
    }

    fn bare_rooms(&self, dropping: impl Fn(usize) -> bool) -> Vec<Room> {
        self.base
            .iter()
            .enumerate()
            .map(|(at, base)| Room { base: *base, dropping: dropping(at), ..Room::default() })
            .collect()
    }

    /// Decides about the parts that stand: what is not divided any more is an item. Returns what is left of the caps.
    pub fn review(
        &mut self,
        (tree, policy): (&Tree, &Policy),
        caps: Caps,
        dropping: impl Fn(usize) -> bool,
    ) -> Caps {
        if self.parts.is_empty() {
            return caps;
        }
        let rooms = self.bare_rooms(dropping);
        let (items, choices) = (&self.items[..], &self.choices[..]);
        let board = Board { tree, policy, rooms: &rooms, items, choices, caps };
        let (verdicts, left) = review(&board, &self.parts);
        for (mut part, verdict) in std::mem::take(&mut self.parts).into_iter().zip(verdicts) {
            let current = match verdict {
                Verdict::Share(share) => {
                    let (home, before) = (part.item.home, part.moved(part.share));
                    part.share = share;
                    self.returned.push((home, before.saturating_sub(part.moved(share))));
                    self.parts.push(part);
                    continue;
                }
                Verdict::Home => {
                    self.returned.push((part.item.home, part.moved(part.share)));
                    part.item.home
                }
                Verdict::Whole => part.to,
            };
            self.undivided.insert(part.item.prefix);
            self.items.push(Item { current, ..part.item });
        }
        self.items.sort_unstable_by_key(|item| item.prefix);
        left
    }

    /// Parts give way to what a placement sends home; true where one did: the placement knows nothing of what that brings
    /// home, and has to be made anew.
    pub fn settle(
        &mut self,
        (tree, policy): (&Tree, &Policy),
        rooms: &[Room],
        placement: &Placement,
    ) -> bool {
        let mut gave = false;
        let (items, choices, caps) = (&self.items[..], &self.choices[..], Caps::NONE);
        let board = Board { tree, policy, rooms, items, choices, caps };
        let verdicts = settle(&board, placement, &self.parts);
        for (mut part, verdict) in std::mem::take(&mut self.parts).into_iter().zip(verdicts) {
            if let Verdict::Share(share) = verdict {
                let (home, before) = (part.item.home, part.moved(part.share));
                gave |= share != part.share;
                part.share = share;
                self.returned.push((home, before.saturating_sub(part.moved(share))));
                self.parts.push(part);
            } else {
                gave = true;
                self.returned.push((part.item.home, part.moved(part.share)));
                self.undivided.insert(part.item.prefix);
                self.items.push(Item { current: part.item.home, ..part.item });
            }
        }
        self.items.sort_unstable_by_key(|item| item.prefix);
        gave
    }

    /// The same with nothing divided.
    #[must_use]
    pub fn whole(&self) -> Projection {
        let mut whole = self.clone();
        whole.items.extend(whole.parts.drain(..).map(|part| part.item));
        whole.items.sort_unstable_by_key(|item| item.prefix);
        whole
    }
}

/// Projects `offered` (per uplink, prefix or not) and collects the items.
pub fn project(now: Timestamp, offered: &[BitRate], sources: &Sources<'_>) -> Projection {
    let mut base: Vec<BitRate> = offered.to_vec();
    let mut projection = Projection::default();
    for slot in active_slots(sources.rates, sources.slots, sources.overrides) {
        let Some(choice) = sources.choices.get(slot) else { continue };
        let demand = sources.rates.demand(slot);
        let away = unseen(choice.prefix, demand, sources);
        projection.total += demand + away;
        let Some(mut item) = item(now, choice, slot, sources) else { continue };
        for (uplink, load) in base.iter_mut().enumerate() {
            let uplink = UplinkId(u16::try_from(uplink).unwrap_or(u16::MAX));
            *load = load.saturating_sub(sources.rates.rate(slot, uplink));
        }
        item.rate = demand + away;
        if away > BitRate::ZERO {
            item.smoothed = item.smoothed.max(away);
            // What is usual is learnt from what is seen.
            item.usual = None;
        }
        if sources.policy.canary.is_partial() {
            keep_home(&mut item, sources, &mut base);
        }
        let division = division(item.prefix, sources);
        if division.is_some() {
            (item.current, item.leave) = (item.home, sources.is_drained(item.home));
        }
        let begin = projection.choices.len();
        if sources.all_open() {
            projection.choices.extend_from_slice(&choice.exits);
        } else {
            let open = |exit: &ExitId| *exit == item.current || sources.is_open(now, item.prefix, *exit);
            projection.choices.extend(choice.exits.iter().copied().filter(open));
        }
        item.choices = begin..projection.choices.len();
        match division {
            Some(division) => projection.parts.push(divided(now, item, division, slot, sources)),
            None => projection.items.push(item),
        }
    }
    projection.items.sort_unstable_by_key(|item| item.prefix);
    let mut loads = base.clone();
    for item in projection.items.iter().chain(projection.parts.iter().map(|part| &part.item)) {
        if let Some(load) =
            sources.topology.uplink_of(item.home).and_then(|uplink| loads.get_mut(uplink.index()))
        {
            *load += item.rate;
        }
    }
    (projection.loads, projection.base) = (loads, base);
    projection
}

/// Demand that announcements took to another border and that is not counted here any more: as much as it was when it was
/// seen last. Nothing here tells of its growth or end; it counts until it is given back.
fn unseen(prefix: Prefix, seen: BitRate, sources: &Sources<'_>) -> BitRate {
    let entry = if sources.overrides.is_empty() { None } else { sources.overrides.get(prefix) };
    let entry = entry.filter(|entry| sources.topology.is_elsewhere(entry.to));
    entry.map_or(BitRate::ZERO, |entry| entry.rate.saturating_sub(seen))
}

/// Of a canary only a share of the flows can be sent elsewhere: the rest stays at home whatever is decided.
fn keep_home(item: &mut Item, sources: &Sources<'_>, base: &mut [BitRate]) {
    let share = sources.policy.canary.share;
    let stays = item.rate.saturating_sub(item.rate.scaled(share));
    if let Some(load) = sources.topology.uplink_of(item.home).and_then(|uplink| base.get_mut(uplink.index()))
    {
        *load += stays;
    }
    item.rate = item.rate.scaled(share);
    item.smoothed = item.smoothed.scaled(share);
    item.usual = item.usual.map(|usual| usual.scaled(share));
}

/// Rows with traffic, and those of every override whether it has traffic or not, ascending.
pub fn active_slots(rates: &Rates, slots: &Slots, overrides: &Overrides) -> Vec<SlotId> {
    let mut active: Vec<SlotId> = rates.active().into_iter().map(|(slot, _)| slot).collect();
    active.dedup();
    if !overrides.is_empty() {
        active.extend(overrides.iter().filter_map(|entry| slots.get(entry.prefix)));
        active.sort_unstable();
        active.dedup();
    }
    active
}

/// The item of a prefix, where there is a choice to make about it; without rate and choices.
fn item(now: Timestamp, choice: &Choice, slot: SlotId, sources: &Sources<'_>) -> Option<Item> {
    let prefix = choice.prefix;
    let entry = if sources.overrides.is_empty() { None } else { sources.overrides.get(prefix) };
    if choice.exits.is_empty() || (entry.is_none() && sources.barred.contains(&prefix)) {
        return None;
    }
    let home = choice.home.ok()?;
    if choice.exits.len() < 2 && entry.is_none() {
        return None;
    }
    let planned = sources.planned.get(&prefix).copied();
    let current = planned.map(|(to, _)| to).or(entry.map(|entry| entry.to)).unwrap_or(home);
    let home_uplink = sources.topology.uplink_of(home).and_then(|id| sources.policy.uplinks.get(id.index()));
    let billing = home_uplink.map(|uplink| uplink.billing).unwrap_or_default();
    Some(Item {
        prefix,
        // As its home would bill it: `loads` puts it back there.
        rate: sources.rates.demand_as(slot, billing),
        smoothed: sources.rates.smoothed(slot),
        home,
        current,
        held: planned.is_none() && entry.is_some_and(|entry| now < entry.hold_until),
        pin: choice.pin,
        leave: sources.is_drained(current),
        usual: sources.surges.usual(slot),
        choices: 0..0,
    })
}

/// Where a part of the flows of a prefix goes, or would go, and how large it is.
fn division(prefix: Prefix, sources: &Sources<'_>) -> Option<(ExitId, FlowShare)> {
    let entry = if sources.overrides.is_empty() { None } else { sources.overrides.get(prefix) };
    let planned = if sources.planned.is_empty() { None } else { sources.planned.get(&prefix).copied() };
    planned.or(entry.map(|entry| (entry.to, entry.share))).filter(|(_, share)| share.is_part())
}

/// A prefix that is divided, and what is known of how.
fn divided(
    now: Timestamp,
    item: Item,
    (to, share): (ExitId, FlowShare),
    slot: SlotId,
    sources: &Sources<'_>,
) -> Part {
    let entry = sources.overrides.get(item.prefix).filter(|_| sources.in_effect);
    let stands = entry.is_some_and(|entry| (entry.to, entry.share) == (to, share));
    // The interval of the change itself tells of neither division.
    let changed = sources.unsettled.get(&item.prefix);
    let fresh = stands && changed.is_some_and(|at| now.since(*at) < sources.policy.interval * 3 / 2);
    // Few flows do not divide evenly: what is counted is the truth.
    let there = sources.topology.uplink_of(to).filter(|_| stands && !fresh);
    let seen = there.map(|uplink| sources.rates.rate(slot, uplink));
    Part { item, to, share, standing: share, seen, fresh }
}

/// Compares where traffic without an override leaves with where plain routing should send it.
///
/// Returns the share that leaves elsewhere, in parts per million. Prefixes in `unsettled` changed their
/// way too recently to be judged.
pub fn mismatch(sources: &Sources<'_>, unsettled: &BTreeMap<Prefix, Timestamp>) -> u32 {
    let (mut judged, mut elsewhere) = (BitRate::ZERO, BitRate::ZERO);
    for (slot, uplink) in sources.rates.active() {
        let Some(choice) = sources.choices.get(slot) else { continue };
        let overridden = !sources.overrides.is_empty() && sources.overrides.get(choice.prefix).is_some();
        if overridden || (!unsettled.is_empty() && unsettled.contains_key(&choice.prefix)) {
            continue;
        }
        let Ok(home) = choice.home else { continue };
        let rate = sources.rates.rate(slot, uplink);
        judged += rate;
        if sources.topology.uplink_of(home) != Some(uplink) {
            elsewhere += rate;
        }
    }
    elsewhere.share_of(judged).0
}

/// Share of the traffic under override that does not leave by its override, in parts per million: the rule or the
/// marks are gone, or the traffic does not come in by an inside interface. The unsettled are not judged.
pub fn ineffective(sources: &Sources<'_>, unsettled: &BTreeMap<Prefix, Timestamp>) -> u32 {
    let (mut judged, mut elsewhere) = (BitRate::ZERO, BitRate::ZERO);
    for entry in sources.overrides.iter().filter(|entry| !unsettled.contains_key(&entry.prefix)) {
        let Some(slot) = sources.slots.get(entry.prefix) else { continue };
        let Some(to) = sources.topology.uplink_of(entry.to) else { continue };
        let demand = sources.rates.demand(slot);
        if sources.topology.is_elsewhere(entry.to) {
            // Its effect is that it is gone from here.
            judged += entry.rate.max(demand);
            elsewhere += demand;
            continue;
        }
        let (there, wanted) = (sources.rates.rate(slot, to), entry.share.of(demand));
        judged += wanted;
        // Of a part that is seen there nobody knows which flows it should be.
        let missing = if entry.share.is_part() && there > BitRate::ZERO {
            BitRate::ZERO
        } else {
            wanted.saturating_sub(there)
        };
        elsewhere += missing;
    }
    elsewhere.share_of(judged).0
}
