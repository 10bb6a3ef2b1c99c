//! Load of each uplink as it would be without any override, and the items that may be placed anew.
//!
//! What leaves without an override is taken as it was counted; what leaves by an override is put back to
//! its home. So the projection does not feed on ETM's own effect, and traffic that belongs to no prefix
//! stays where it is.

use super::allocator::{Item, Room};
use super::fib_view::FibView;
use super::overrides::Overrides;
use super::policy::Policy;
use super::rate::Rates;
use super::rib::Rib;
use super::slots::Slots;
use super::topology::Topology;
use crate::types::{BitRate, ExitId, Prefix, SlotId, Timestamp, UplinkId};
use std::collections::{BTreeMap, BTreeSet};

/// Everything the projection reads.
pub struct Sources<'a> {
    /// Operator's intent.
    pub policy: &'a Policy,
    /// Exits and links.
    pub topology: &'a Topology,
    /// Candidates.
    pub rib: &'a Rib,
    /// Plain routing.
    pub fib: &'a FibView,
    /// Rows.
    pub slots: &'a Slots,
    /// Rates of rows.
    pub rates: &'a Rates,
    /// Overrides as they stand.
    pub overrides: &'a Overrides,
    /// Prefixes that need too many throw routes.
    pub barred: &'a BTreeSet<Prefix>,
}

/// The projection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projection {
    /// Load of each uplink without overrides.
    pub loads: Vec<BitRate>,
    /// Room of each uplink.
    pub rooms: Vec<Room>,
    /// Items in prefix order.
    pub items: Vec<Item>,
    /// Demand of everything counted for a prefix.
    pub total: BitRate,
}

/// Projects `offered` (per uplink, prefix or not) and collects the items.
pub fn project(now: Timestamp, offered: &[BitRate], sources: &Sources<'_>) -> Projection {
    let mut base: Vec<BitRate> = offered.to_vec();
    let mut items = BTreeMap::new();
    let mut total = BitRate::ZERO;
    for slot in active_slots(sources) {
        let Some(prefix) = sources.slots.prefix(slot) else { continue };
        total += sources.rates.demand(slot);
        if let Some(item) = item(now, prefix, slot, sources) {
            for (uplink, load) in base.iter_mut().enumerate() {
                let uplink = UplinkId(u16::try_from(uplink).unwrap_or(u16::MAX));
                *load = load.saturating_sub(sources.rates.rate(slot, uplink));
            }
            items.insert(prefix, item);
        }
    }
    let mut loads = base.clone();
    for item in items.values() {
        if let Some(load) =
            sources.topology.uplink_of(item.home).and_then(|uplink| loads.get_mut(uplink.index()))
        {
            *load += item.rate;
        }
    }
    let rooms = sources.policy.uplinks.iter().zip(&base).enumerate().map(|(index, (uplink, base))| {
        let link = sources.topology.link(UplinkId(u16::try_from(index).unwrap_or(u16::MAX)));
        let fill = if link.up { uplink.fill_rate() } else { BitRate::ZERO };
        Room { limit: uplink.limit_rate(), relief: uplink.relief_rate(), fill, base: *base }
    });
    Projection { loads, rooms: rooms.collect(), items: items.into_values().collect(), total }
}

/// Rows with traffic, and those of every override whether it has traffic or not.
fn active_slots(sources: &Sources<'_>) -> BTreeSet<SlotId> {
    let mut slots: BTreeSet<SlotId> = sources.rates.active().into_iter().map(|(slot, _)| slot).collect();
    slots.extend(sources.overrides.iter().filter_map(|entry| sources.slots.get(entry.prefix)));
    slots
}

/// The item of `prefix`, where there is a choice to make about it.
fn item(now: Timestamp, prefix: Prefix, slot: SlotId, sources: &Sources<'_>) -> Option<Item> {
    let entry = sources.overrides.get(prefix);
    if prefix.is_default() || excluded(prefix, sources.policy) {
        return None;
    }
    if entry.is_none() && sources.barred.contains(&prefix) {
        return None;
    }
    let home = sources.fib.home(prefix, sources.policy, sources.topology).ok()?;
    let choices: Vec<ExitId> = sources
        .rib
        .candidates(prefix, sources.topology)
        .into_iter()
        .map(|candidate| candidate.exit)
        .collect();
    // Invariant 8: plain routing's choice must itself be a candidate, or the kernel's route is not what it seems.
    if !choices.contains(&home) || (choices.len() < 2 && entry.is_none()) {
        return None;
    }
    let home_uplink = sources.topology.uplink_of(home).and_then(|id| sources.policy.uplinks.get(id.index()));
    let billing = home_uplink.map(|uplink| uplink.billing).unwrap_or_default();
    Some(Item {
        prefix,
        // As its home would bill it: `loads` puts it back there.
        rate: sources.rates.demand_as(slot, billing),
        smoothed: sources.rates.smoothed(slot),
        home,
        current: entry.map_or(home, |entry| entry.to),
        held: entry.is_some_and(|entry| now < entry.hold_until),
        choices,
    })
}

/// True where the operator excluded `prefix` or something around it.
pub fn excluded(prefix: Prefix, policy: &Policy) -> bool {
    policy.exclude.iter().any(|excluded| excluded.covers(prefix))
}

/// Compares where traffic without an override leaves with where plain routing should send it.
///
/// Returns the share that leaves elsewhere, in parts per million. Prefixes in `unsettled` changed their
/// way too recently to be judged.
pub fn mismatch(sources: &Sources<'_>, unsettled: &BTreeMap<Prefix, Timestamp>) -> u32 {
    let (mut judged, mut elsewhere) = (BitRate::ZERO, BitRate::ZERO);
    for (slot, uplink) in sources.rates.active() {
        let Some(prefix) = sources.slots.prefix(slot) else { continue };
        if sources.overrides.get(prefix).is_some() || unsettled.contains_key(&prefix) {
            continue;
        }
        let Ok(home) = sources.fib.home(prefix, sources.policy, sources.topology) else { continue };
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
        judged += demand;
        elsewhere += demand.saturating_sub(sources.rates.rate(slot, to));
    }
    elsewhere.share_of(judged).0
}
