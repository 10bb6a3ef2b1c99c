//! A state that was written down, taken up again: is it whole, and may another configuration go on with it?
//! Never repairs.

use super::super::money::Tree;
use super::super::policy::Policy;
use super::super::topology::Topology;
use super::{Controller, uplink_id};
use crate::types::{Count, IfIndex, Prefix, SlotId, UplinkId};
use std::net::IpAddr;

/// Why a state cannot go on under another configuration: recorded inputs name things by their place in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the other configuration has other {what} than the recorded one; keep their names, order and gateways, and change capacities, limits or policy"
)]
pub struct OtherShape {
    what: &'static str,
}

impl Controller {
    /// True where lists that belong together have the lengths that they must have.
    pub fn is_whole(&self) -> bool {
        let uplinks = self.policy.uplinks.len();
        self.sessions.len() == self.policy.peers.len()
            && self.meters.len() == uplinks
            && self.projected.len() == uplinks
            && self.approved.len() == uplinks
            && self.policy.exits.iter().all(|exit| exit.uplink.index() < uplinks)
            && self.rates.is_whole(uplinks)
    }

    /// The same state under another configuration.
    pub fn under(mut self, mut policy: Policy) -> Result<Controller, OtherShape> {
        let was = &self.policy;
        let uplinks = |policy: &Policy| -> Vec<String> {
            policy.uplinks.iter().map(|uplink| uplink.name.clone()).collect()
        };
        let differs = |what| Err(OtherShape { what });
        if uplinks(was) != uplinks(&policy) {
            return differs("interfaces");
        }
        // Contracts may differ: what other prices would have done is the question.
        let providers = |policy: &Policy| -> Vec<_> {
            policy.providers.iter().map(|of| (of.name.clone(), of.asn, of.covering)).collect()
        };
        if was.exits != policy.exits || providers(was) != providers(&policy) {
            return differs("providers or exits");
        }
        if was.peers != policy.peers {
            return differs("BGP sessions");
        }
        let rules = |policy: &Policy| (policy.route_rules.clone(), policy.internal.clone(), policy.process);
        if rules(was) != rules(&policy) {
            return differs("rules about learnt routes");
        }
        if was.static_routes != policy.static_routes {
            return differs("static routes");
        }
        if was.community != policy.community {
            return differs("communities");
        }
        // What no file says: the recorded machine's interfaces without frames.
        for (uplink, was) in policy.uplinks.iter_mut().zip(&self.policy.uplinks) {
            if was.billing == was.billing.without_header() {
                uplink.billing = uplink.billing.without_header();
            }
        }
        let links: Vec<_> =
            (0..policy.uplinks.len()).map(|index| self.topology.link(uplink_id(index))).collect();
        self.topology = Topology::with_links(&policy, links);
        self.policy = policy;
        self.changed = true;
        Ok(self.prepared())
    }

    /// With what follows from the configuration and is not written down.
    pub fn prepared(mut self) -> Controller {
        (self.tree, self.fault) = Tree::or_bare(&self.policy);
        self.choices.forget_all();
        self
    }

    /// The configuration.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The prefix counted in a row.
    pub fn prefix_in(&self, slot: SlotId) -> Option<Prefix> {
        self.slots.prefix(slot)
    }

    /// A row of the counters as read last.
    pub fn last_count(&self, slot: SlotId, uplink: UplinkId) -> Count {
        self.rates.last(slot, uplink)
    }

    /// The uplink behind a next hop.
    pub fn uplink_behind(&self, gateway: IpAddr, ifindex: IfIndex) -> Option<UplinkId> {
        self.topology.uplink_of(self.topology.exit_of_kernel(gateway, ifindex)?)
    }

    /// The uplink by which plain routing sends exactly `prefix`.
    pub fn home_uplink(&self, prefix: Prefix) -> Option<UplinkId> {
        self.topology.uplink_of(self.fib.home(prefix, &self.policy, &self.topology).ok()?)
    }
}
