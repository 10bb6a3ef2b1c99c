//! Interfaces, ports, contracts, prices and pins: from text to what the decision needs. Refuses what would not be convex, by name.

use super::raw::{self, Raw, Text};
use super::validate::Check;
use crate::core::billing::Billing;
use crate::core::money::{Tree, TreeError};
use crate::core::policy::{Contract, Exit, Pin, Policy, Port, PriceList, Tier, Uplink};
use crate::types::{BitRate, Prefix, Price, Share};
use std::collections::BTreeMap;
use std::time::Duration;

/// Uplinks that the kernel program has rows for.
const MAX_UPLINKS: usize = 64;

/// What something carries.
pub(super) struct Size {
    pub(super) capacity: BitRate,
    pub(super) limit: Share,
    pub(super) headroom: Share,
}

impl Check {
    /// Capacity, limit and headroom of an interface or a port.
    pub(super) fn size(&mut self, capacity: &Text, limit: Option<&Text>, headroom: Option<&Text>) -> Size {
        let rate = self.parse(capacity).unwrap_or(BitRate(1));
        if rate == BitRate::ZERO {
            self.fault(capacity.span(), "a capacity of zero carries nothing");
        }
        let limit_share = self.share(limit, Share::percent(95));
        let headroom_share = self.share(headroom, Share::percent(3));
        if let Some(text) = limit.filter(|_| limit_share > Share::ONE || limit_share.0 == 0) {
            self.fault(text.span(), "the limit must be above 0% and at most 100%");
        } else if let Some(text) = headroom.filter(|_| headroom_share >= limit_share) {
            self.fault(text.span(), "the headroom must be smaller than the limit");
        }
        Size { capacity: rate, limit: limit_share, headroom: headroom_share }
    }

    pub(super) fn uplinks(&mut self, interfaces: &[raw::Interface], ports: &[Port]) -> Vec<Uplink> {
        let mut seen = BTreeMap::new();
        let mut uplinks = Vec::new();
        // This router's own first: they are the ones that the kernel has rows for.
        let (own, elsewhere): (Vec<_>, Vec<_>) = interfaces.iter().partition(|one| one.border.is_none());
        for interface in own.into_iter().chain(elsewhere) {
            let name = interface.name.get_ref();
            if seen.insert(name.clone(), ()).is_some() {
                self.fault(interface.name.span(), format!("interface `{name}` is described twice"));
            }
            if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
                self.fault(interface.name.span(), format!("`{name}` cannot be the name of an interface"));
            }
            let Size { capacity, limit, headroom } =
                self.size(&interface.capacity, interface.limit.as_ref(), interface.headroom.as_ref());
            let port = interface.port.as_ref().and_then(|name| self.port(name, ports));
            let contract = self.contract(interface.commit.as_ref(), &interface.tiers);
            let billing = Billing::default();
            uplinks.push(Uplink { name: name.clone(), capacity, limit, headroom, billing, port, contract });
        }
        if let Some(extra) = interfaces.get(MAX_UPLINKS) {
            self.fault(extra.name.span(), format!("at most {MAX_UPLINKS} interfaces can be counted"));
        }
        uplinks
    }

    pub(super) fn ports(&mut self, raw: &[raw::Port]) -> Vec<Port> {
        let mut ports: Vec<Port> = Vec::new();
        for port in raw {
            let name = port.name.get_ref();
            if ports.iter().any(|known| known.name == *name) {
                self.fault(port.name.span(), format!("port `{name}` is described twice"));
            }
            let Size { capacity, limit, headroom } =
                self.size(&port.capacity, port.limit.as_ref(), port.headroom.as_ref());
            // Only what comes before: so ports cannot contain each other.
            let inside = port.inside.as_ref().and_then(|name| self.port(name, &ports));
            let contract = self.contract(port.commit.as_ref(), &port.tiers);
            ports.push(Port { name: name.clone(), capacity, limit, headroom, inside, contract });
        }
        ports
    }

    /// The position of a port by its name.
    pub(super) fn port(&mut self, name: &Text, ports: &[Port]) -> Option<usize> {
        let found = ports.iter().position(|port| port.name == *name.get_ref());
        if found.is_none() {
            let message = format!("no [[port]] above is named `{}`", name.get_ref());
            self.fault_with_help(name.span(), message, "describe a port before what is inside it");
        }
        found
    }

    pub(super) fn contract(&mut self, commit: Option<&Text>, raw: &[raw::Tier]) -> Contract {
        let mut tiers: Vec<Tier> = Vec::new();
        for (at, tier) in raw.iter().enumerate() {
            let price = self.parse::<Price>(&tier.price).unwrap_or_default();
            let up_to = tier.up_to.as_ref().and_then(|text| self.parse::<BitRate>(text));
            let last = at + 1 == raw.len();
            let before = tiers.last().copied();
            match (&tier.up_to, last) {
                (Some(text), true) => {
                    self.fault(text.span(), "the last tier has no end; leave its `up_to` out");
                }
                (None, false) => {
                    self.fault(tier.price.span(), "a tier before the last ends somewhere; give it `up_to`");
                }
                (Some(text), false) if up_to.is_some() && before.is_some_and(|tier| tier.up_to >= up_to) => {
                    self.fault(text.span(), "tiers ascend; let it end above the one before");
                }
                _ => {}
            }
            if let Some(before) = before.filter(|before| before.price > price) {
                let message = format!(
                    "tier {} costs {price} after {}: with prices that fall no plan can be proved best",
                    at + 1,
                    before.price
                );
                self.fault_with_help(tier.price.span(), message, "order tiers so that prices never fall");
            }
            tiers.push(Tier { up_to: up_to.filter(|_| !last), price });
        }
        let paid = commit.and_then(|text| self.parse::<BitRate>(text)).unwrap_or_default();
        if let Some(text) = commit.filter(|_| raw.is_empty()) {
            self.fault(text.span(), "a commitment without `tiers` has no price");
        }
        Contract { commit: paid, tiers }
    }

    pub(super) fn pins(&mut self, raw: &[raw::Pin], exits: &[Exit]) -> Vec<Pin> {
        let mut pins = Vec::new();
        for pin in raw {
            let (prefix, exit) = (self.parse::<Prefix>(&pin.prefix), self.exit(&pin.exit, exits));
            pins.extend(prefix.zip(exit).map(|(prefix, exit)| Pin { prefix, exit }));
        }
        pins
    }

    /// Share of a receiver's room that one round may fill.
    pub(super) fn fill_rate(&mut self, text: Option<&Text>) -> Share {
        let share = self.share(text, Share::percent(75));
        if let Some(text) = text.filter(|_| share.0 == 0 || share > Share::ONE) {
            self.fault(text.span(), "the fill rate must be above 0% and at most 100%");
        }
        share
    }

    pub(super) fn prices(&mut self, raw: &raw::Prices) -> PriceList {
        let default = PriceList::default();
        let mut price = |text: &Option<Text>, default: Price| {
            text.as_ref().and_then(|text| self.parse(text)).unwrap_or(default)
        };
        let preference = price(&raw.preference, default.preference);
        let moving = price(&raw.moving, default.moving);
        let moving_prefix = price(&raw.move_prefix, default.moving_prefix);
        let holding = price(&raw.hold, default.holding);
        let min_saving = price(&raw.min_saving, default.min_saving);
        let overload = raw.overload.as_ref().and_then(|text| self.parse(text));
        let payback = self.duration(raw.payback.as_ref(), default.payback);
        if let Some(text) = raw.payback.as_ref().filter(|_| payback < Duration::from_secs(60)) {
            self.fault(
                text.span(),
                "a move that earns itself back within a minute is no saving; give 1m or more",
            );
        }
        let min_saving_share = self.share(raw.min_saving_share.as_ref(), default.min_saving_share);
        PriceList {
            preference,
            moving,
            moving_prefix,
            holding,
            overload,
            min_saving,
            min_saving_share,
            payback,
        }
    }

    /// Interfaces, ports and contracts must be a tree, and relief must come before money.
    pub(super) fn tree(&mut self, raw: &Raw, policy: &Policy) {
        let Err(error) = Tree::new(policy) else { return };
        let span = match &error {
            TreeError::Overload { .. } => raw.prices.overload.as_ref().map(Text::span),
            TreeError::Crossing { provider } => {
                let named = raw.provider.iter().find(|known| known.name.get_ref() == provider);
                named.map(|known| known.name.span())
            }
            // Each tier was judged where it stands.
            TreeError::Model(_) if self.faulty() => return,
            TreeError::Model(_) => None,
        };
        self.fault_at(span, error.to_string());
    }
}
