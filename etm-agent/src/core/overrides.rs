//! The set of overrides and what it means for the kernel and for peers.
//! Never chooses: the allocator places, this keeps time, invalidates and translates.

use super::audit::EndReason;
use super::decision::{Announcement, KernelAction, Override, OverrideReason, WeightedHop};
use super::fib_view::{FibView, NotOurs};
use super::policy::Policy;
use super::preference::Candidate;
use super::rib::Rib;
use super::topology::Topology;
use crate::types::{BitRate, ExitId, FlowShare, IfIndex, Prefix, PrefixMap, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// All overrides, planned or in effect.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Overrides {
    map: PrefixMap<Override>,
}

/// What a placement did to one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// A new override.
    Added,
    /// It leaves by another exit than before.
    Moved {
        /// The exit before.
        was: ExitId,
        /// The part of its flows that left by it.
        share: FlowShare,
    },
    /// Another part of its flows leaves by the same exit.
    Shared {
        /// The part before.
        was: FlowShare,
    },
    /// Nothing new but its rate.
    Kept,
}

impl Overrides {
    /// The override of exactly `prefix`.
    pub fn get(&self, prefix: Prefix) -> Option<&Override> {
        self.map.get(prefix)
    }

    /// All, in prefix order.
    pub fn iter(&self) -> impl Iterator<Item = &Override> + '_ {
        self.map.iter().map(|(_, entry)| entry)
    }

    /// Number of overrides.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Demand under override.
    pub fn moved(&self) -> BitRate {
        self.iter().map(Override::moved).sum()
    }

    /// Overrides that take a part of the flows only.
    pub fn parts(&self) -> usize {
        self.iter().filter(|entry| entry.share.is_part()).count()
    }

    /// True where a change of the route for `prefix` can matter to an override: its own, or one around it; with
    /// covering routes also one inside it.
    pub fn concerned_by(&self, prefix: Prefix, topology: &Topology) -> bool {
        !self.map.is_empty()
            && (!self.map.covering(prefix).is_empty()
                || topology.has_covering() && self.map.covered_by(prefix).next().is_some())
    }

    /// Sends `prefix` through `to`.
    pub fn place(&mut self, now: Timestamp, policy: &Policy, new: Placing) -> Placed {
        let hold_until = now + policy.hold;
        match self.map.get_mut(new.prefix) {
            Some(entry) if (entry.to, entry.share) == (new.to, new.share) => {
                entry.from = new.from;
                entry.rate = new.rate;
                Placed::Kept
            }
            Some(entry) => {
                let was = std::mem::replace(&mut entry.to, new.to);
                let share = std::mem::replace(&mut entry.share, new.share);
                (entry.from, entry.rate, entry.reason, entry.hold_until) =
                    (new.from, new.rate, new.reason, hold_until);
                if was == new.to { Placed::Shared { was: share } } else { Placed::Moved { was, share } }
            }
            None => {
                let Placing { prefix, from, to, share, rate, reason } = new;
                let entry = Override { prefix, from, to, share, rate, reason, since: now, hold_until };
                self.map.insert(prefix, entry);
                Placed::Added
            }
        }
    }

    /// Ends the override of `prefix`.
    pub fn end(&mut self, prefix: Prefix) -> Option<Override> {
        self.map.remove(prefix)
    }

    /// Ends all.
    pub fn end_all(&mut self) -> Vec<Override> {
        let all = self.iter().cloned().collect();
        self.map.clear();
        all
    }

    /// Ends what may not stand any more, without any new placement (invariants 2 and 8).
    pub fn invalidate(
        &mut self,
        rib: &Rib,
        fib: &FibView,
        topology: &Topology,
        policy: &Policy,
    ) -> Vec<(Override, EndReason)> {
        let mut ended = Vec::new();
        let all: Vec<Override> = self.iter().cloned().collect();
        for entry in all {
            let candidates = rib.candidates(entry.prefix, topology);
            let live = |exit: ExitId| candidates.iter().any(|candidate| candidate.exit == exit);
            let why = if !live(entry.to) {
                Some(EndReason::ExitLost)
            } else if entry.share.is_part() && !live(entry.from) {
                // Alone, the exit that took a part would get all.
                Some(EndReason::HomeLost)
            } else {
                match fib.home(entry.prefix, policy, topology) {
                    Ok(home) if home == entry.to => Some(EndReason::PlainRoutingAgrees),
                    Ok(home) if entry.share.is_part() && home != entry.from => Some(EndReason::HomeLost),
                    Ok(home) => {
                        if let Some(kept) = self.map.get_mut(entry.prefix) {
                            kept.from = home;
                        }
                        None
                    }
                    Err(NotOurs::UnknownExit) if topology.is_elsewhere(entry.to) && live(entry.from) => {
                        Some(EndReason::CameBack)
                    }
                    Err(_) => Some(EndReason::NotOursToOverride),
                }
            };
            let why = why.or_else(|| {
                (self.more_specifics(entry.prefix, rib, fib).len() > policy.max_throws)
                    .then_some(EndReason::TooManyMoreSpecifics)
            });
            if let Some(why) = why {
                self.map.remove(entry.prefix);
                ended.push((entry, why));
            }
        }
        ended
    }

    /// Prefixes inside `prefix`, of any origin, that an override of it would capture.
    pub fn more_specifics(&self, prefix: Prefix, rib: &Rib, fib: &FibView) -> BTreeSet<Prefix> {
        rib.inside(prefix).chain(fib.inside(prefix)).filter(|inner| self.map.get(*inner).is_none()).collect()
    }

    /// The kernel's routes: each override, and a throw for every more-specific that it must not capture.
    pub fn kernel(&self, rib: &Rib, fib: &FibView, topology: &Topology) -> BTreeMap<Prefix, KernelAction> {
        let mut actions = BTreeMap::new();
        for entry in self.iter() {
            if topology.is_elsewhere(entry.to) {
                // What comes here nevertheless leaves here, also where an override around it is not for it: a router that
                // sends it on to another border could get it back.
                if self.is_inside_another(entry.prefix, topology) {
                    actions.insert(entry.prefix, KernelAction::Throw);
                }
                continue;
            }
            let Some(action) = action(entry, rib, fib, topology) else {
                // Between the loss of a link and the end of its overrides: plain routing, not a covering override.
                actions.insert(entry.prefix, KernelAction::Throw);
                continue;
            };
            for inner in self.more_specifics(entry.prefix, rib, fib) {
                actions.insert(inner, KernelAction::Throw);
            }
            actions.insert(entry.prefix, action);
        }
        actions
    }

    /// True where this router's kernel has an override around `prefix`.
    fn is_inside_another(&self, prefix: Prefix, topology: &Topology) -> bool {
        let around = self.map.covering(prefix).into_iter();
        around.filter(|(cover, _)| *cover != prefix).any(|(_, entry)| !topology.is_elsewhere(entry.to))
    }

    /// The announcements: each override with the attributes of the route it uses.
    pub fn announcements(&self, rib: &Rib, topology: &Topology) -> BTreeMap<Prefix, Announcement> {
        let mut announcements = BTreeMap::new();
        // With other borders around, what is sent here is not drawn here: of a prefix that leaves by two borders, what
        // leaves by the other one is not ours to move.
        // Peers cannot be told of a part.
        let told = |entry: &&Override| {
            !entry.share.is_part() && (!topology.has_elsewhere() || topology.is_elsewhere(entry.to))
        };
        for entry in self.iter().filter(told) {
            let candidates = rib.candidates(entry.prefix, topology);
            // A covering route serves in this router's kernel: nobody announced the prefix with its attributes.
            let own = |candidate: &&Candidate| (candidate.exit, candidate.prefix) == (entry.to, entry.prefix);
            if let Some(candidate) = candidates.iter().find(own) {
                announcements
                    .insert(entry.prefix, Announcement { exit: entry.to, attrs: rib.attrs(candidate) });
            }
        }
        announcements
    }
}

/// Next hop of the route that an override uses, and its interface. An exit may have several next hops: the
/// router that announced the prefix is the one to use.
pub fn next_hop(entry: &Override, rib: &Rib, topology: &Topology) -> Option<(IpAddr, IfIndex)> {
    let candidates = rib.candidates(entry.prefix, topology);
    let candidate = candidates.iter().find(|candidate| candidate.exit == entry.to)?;
    Some((candidate.next_hop, topology.ifindex(entry.to)?))
}

/// The kernel's route for an override; none without a next hop for it.
fn action(entry: &Override, rib: &Rib, fib: &FibView, topology: &Topology) -> Option<KernelAction> {
    let (gateway, ifindex) = next_hop(entry, rib, topology)?;
    if !entry.share.is_part() {
        return Some(KernelAction::Via { gateway, ifindex });
    }
    // The rest goes as plain routing says, to the letter.
    let rest = fib.next_hop(entry.prefix)?;
    let is_home = topology.exit_of_kernel(rest.0, rest.1) == Some(entry.from);
    is_home.then(|| {
        let hop = |(gateway, ifindex), weight| WeightedHop { ifindex, gateway, weight };
        KernelAction::split(hop((gateway, ifindex), entry.share.get()), hop(rest, entry.share.rest()))
    })
}

/// A placement away from home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placing {
    /// Destination.
    pub prefix: Prefix,
    /// Home.
    pub from: ExitId,
    /// New exit.
    pub to: ExitId,
    /// The part of its flows that is sent there.
    pub share: FlowShare,
    /// Demand.
    pub rate: BitRate,
    /// Why.
    pub reason: OverrideReason,
}
