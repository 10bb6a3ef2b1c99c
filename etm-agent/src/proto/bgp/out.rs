//! Adj-RIB-Out: what one peer was told, and what has to be said for it to know what we want.
//! Never encodes and never sends; whoever takes a difference must deliver it or forget everything.

use crate::types::{Family, Prefix, RouteAttrs};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// One route as announced to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutRoute {
    /// NEXT_HOP that this peer can resolve.
    pub next_hop: IpAddr,
    /// Attributes of the original route.
    pub attrs: Arc<RouteAttrs>,
}

/// What has to be said; each prefix occurs at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// No longer announced.
    pub withdraw: Vec<Prefix>,
    /// New, or with other attributes than before.
    pub announce: Vec<(Prefix, OutRoute)>,
}

impl Diff {
    /// How many prefixes it concerns.
    pub fn len(&self) -> usize {
        self.withdraw.len() + self.announce.len()
    }

    /// True where the peer knows already.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one peer was told.
#[derive(Clone, Debug, Default)]
pub struct AdjRibOut {
    told: BTreeMap<Prefix, OutRoute>,
}

impl AdjRibOut {
    /// Routes announced at this moment.
    pub fn len(&self) -> usize {
        self.told.len()
    }

    /// True where nothing is announced.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// What was told.
    pub fn routes(&self) -> &BTreeMap<Prefix, OutRoute> {
        &self.told
    }

    /// Takes `desired` for told, and returns what has to be said to make that true.
    pub fn converge(&mut self, desired: BTreeMap<Prefix, OutRoute>) -> Diff {
        let withdraw = self.told.keys().filter(|prefix| !desired.contains_key(prefix)).copied().collect();
        let announce = desired
            .iter()
            .filter(|(prefix, route)| self.told.get(prefix).is_none_or(|told| !same(told, route)))
            .map(|(prefix, route)| (*prefix, route.clone()))
            .collect();
        self.told = desired;
        Diff { withdraw, announce }
    }

    /// The same for all withdrawals and at most `room` announcements; also returns how many are left to say.
    pub fn converge_some(&mut self, desired: &BTreeMap<Prefix, OutRoute>, room: usize) -> (Diff, usize) {
        let withdraw: Vec<Prefix> =
            self.told.keys().filter(|prefix| !desired.contains_key(prefix)).copied().collect();
        for prefix in &withdraw {
            self.told.remove(prefix);
        }
        let news = |(prefix, route): &(&Prefix, &OutRoute)| {
            self.told.get(prefix).is_none_or(|told| !same(told, route))
        };
        let mut announce: Vec<(Prefix, OutRoute)> =
            desired.iter().filter(news).map(|(prefix, route)| (*prefix, route.clone())).collect();
        let left = announce.len().saturating_sub(room);
        announce.truncate(room);
        self.told.extend(announce.iter().cloned());
        (Diff { withdraw, announce }, left)
    }

    /// The session is gone, and with it all the peer knew.
    pub fn forget(&mut self) {
        self.told.clear();
    }

    /// The peer asks for one family again (RFC 2918): nothing of it counts as told.
    pub fn forget_family(&mut self, family: Family) {
        self.told.retain(|prefix, _| prefix.family() != family);
    }
}

/// Attribute sets are shared, so most comparisons end at the pointer.
fn same(a: &OutRoute, b: &OutRoute) -> bool {
    a.next_hop == b.next_hop && (Arc::ptr_eq(&a.attrs, &b.attrs) || a.attrs == b.attrs)
}
