//! Every result that can leave the decision, on one screen. Desired state, not commands: an adapter
//! that missed ten decisions converges to the eleventh.

use crate::core::input::SlotCount;
use crate::types::{
    BitRate, Count, ExitId, FlowShare, Generation, IfIndex, Prefix, Price, RouteAttrs, SlotId, Timestamp,
    UplinkId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What routing should look like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Grows by one with each decision that differs from the one before.
    pub generation: Generation,
    /// When it was made.
    pub at: Timestamp,
    /// Kernel routes of ETM's own table, overrides and throws; empty unless enforcing.
    pub kernel: BTreeMap<Prefix, KernelAction>,
    /// Announcements to inject sessions; empty unless enforcing.
    pub announce: BTreeMap<Prefix, Announcement>,
}

/// Metric of ETM's kernel routes. Never 0: IPv6 would read that as 1024. Where they stand in the main table it is below what
/// routing daemons use (BIRD 32, FRR 20), and a number that none of them has.
pub const OWN_METRIC: u32 = 10;

/// One route of ETM's own kernel table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KernelAction {
    /// Send through this next hop.
    Via {
        /// Next hop.
        gateway: IpAddr,
        /// Interface.
        ifindex: IfIndex,
    },
    /// Continue the lookup in plain routing: protects a more-specific inside an override.
    Throw,
    /// Divide the flows between two next hops, in order of their interfaces: equal routes are equal values.
    Split {
        /// The two.
        hops: [WeightedHop; 2],
    },
}

impl KernelAction {
    /// Flows divided between two next hops.
    pub fn split(one: WeightedHop, other: WeightedHop) -> KernelAction {
        KernelAction::Split { hops: if one <= other { [one, other] } else { [other, one] } }
    }
}

/// One of two next hops that flows are divided between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WeightedHop {
    /// Interface.
    pub ifindex: IfIndex,
    /// Next hop.
    pub gateway: IpAddr,
    /// Its share of the flows; the two weights make 256.
    pub weight: u16,
}

/// One route announced to inject sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The exit it stands for; with the receiver it gives the NEXT_HOP.
    pub exit: ExitId,
    /// Attributes of the route as learnt through that exit.
    pub attrs: Arc<RouteAttrs>,
}

/// Changes of the kernel's prefix tables, in the order in which they must be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableChange {
    /// Count `prefix` in `slot` from now on.
    Insert {
        /// Destination.
        prefix: Prefix,
        /// Its row.
        slot: SlotId,
    },
    /// Stop; `Input::Released` says when the slot is free.
    Remove {
        /// Destination.
        prefix: Prefix,
        /// The row it had.
        slot: SlotId,
    },
}

/// A prefix that is, or would be, sent another way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Destination.
    pub prefix: Prefix,
    /// Where plain routing sends it.
    pub from: ExitId,
    /// Where ETM sends it.
    pub to: ExitId,
    /// The part of its flows that is sent there; the rest goes on as plain routing says.
    pub share: FlowShare,
    /// Demand when it was decided last, all of it.
    pub rate: BitRate,
    /// Why.
    pub reason: OverrideReason,
    /// When it was first made.
    pub since: Timestamp,
    /// Not given back before.
    pub hold_until: Timestamp,
}

impl Override {
    /// The demand that it takes away from plain routing.
    pub fn moved(&self) -> BitRate {
        self.share.of(self.rate)
    }
}

/// Why a prefix is overridden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverrideReason {
    /// Its preferred uplink was offered more than its limit.
    RelieveOverload {
        /// The uplink.
        uplink: UplinkId,
        /// What it would be offered without any override.
        projected: BitRate,
        /// Its limit.
        limit: BitRate,
    },
    /// A port around its uplink was offered more than its limit.
    RelievePort {
        /// Position of the port.
        port: usize,
        /// What it would be offered if everything stayed.
        projected: BitRate,
        /// Its limit.
        limit: BitRate,
    },
    /// It costs less there.
    SaveMoney {
        /// What this move alone was worth when it was decided, currency per month.
        saving: Price,
    },
    /// The operator pinned it.
    Pinned,
    /// Its preferred provider is drained.
    Drained,
}

/// A row of the live statistics map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveRow {
    /// Destination.
    pub prefix: Prefix,
    /// Uplink it leaves by.
    pub uplink: UplinkId,
    /// Cumulative since it is counted.
    pub count: Count,
    /// Over the last interval.
    pub rate: BitRate,
}

/// What an earlier run left, for this one to go on with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// What the tries hold.
    pub entries: Vec<(Prefix, SlotId)>,
    /// What the counters hold: the baseline of the first interval.
    pub rows: Vec<SlotCount>,
    /// What ETM's own routing table holds.
    pub routes: BTreeMap<Prefix, KernelAction>,
}
