//! Every event that can enter the decision, on one screen. Plain values: no handle, no socket, no clock.

use super::policy::Mode;
use crate::types::{
    Count, Family, Generation, IfIndex, PathId, PeerId, Prefix, ProviderId, RouteAttrs, SlotId, Timestamp,
    UplinkId,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Something happened outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// A BGP session changed state.
    Session(SessionEvent),
    /// Routes learnt or lost on one session.
    Routes(RouteBatch),
    /// An uplink's link state, once at start and at each change.
    Link(LinkEvent),
    /// The kernel's main routing table, without ETM's own routes.
    Fib(FibEvent),
    /// The counters, once per interval.
    Sample(Sample),
    /// Slots whose prefix left the tries, a grace period ago.
    Released(Released),
    /// The kernel adapter converged, or could not.
    Installed(Installed),
    /// An inject session handed a decision to TCP.
    Told(Told),
    /// An operator's order.
    Order(Order),
    /// Time passed without anything else.
    Tick,
    /// What a router that we announce to has made of it.
    Effective(EffectiveEvent),
    /// A next hop does not answer any more, or answers again.
    Gateway(GatewayEvent),
    /// What others did to what ETM keeps in the kernel.
    Site(SiteEvent),
}

/// What other programs did to what ETM keeps in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SiteEvent {
    /// Somebody took so many of ETM's routing rules away; they are there again.
    RulesPutBack(usize),
    /// A rule of ETM's is missing and is not put back, with the reason; none once all are there.
    RuleMissing(Option<String>),
    /// Somebody removed or replaced routes of ETM's, or made some in its name; what is wanted is there again.
    RoutesTouched {
        /// How many.
        count: usize,
        /// One of them.
        first: Prefix,
    },
    /// Routes of others that stand in ETM's own table now; none once all are gone.
    ForeignRoutes(Option<ForeignRoutes>),
    /// All that speaks against acting on this machine as it is now, each with what to do; empty where nothing does.
    Refusals(Vec<String>),
}

/// Routes of others in ETM's own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignRoutes {
    /// How many.
    pub count: usize,
    /// One of them.
    pub first: Prefix,
    /// Its rtm_protocol.
    pub protocol: u8,
}

/// State of a BGP session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEvent {
    /// Which session.
    pub peer: PeerId,
    /// What happened.
    pub change: SessionChange,
}

/// What happened to a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionChange {
    /// Established (RFC 4271 section 8.2.2).
    Up {
        /// Families that both sides offered: an End-of-RIB is awaited for each.
        families: Vec<Family>,
    },
    /// The peer sent its whole table of this family (RFC 4724 section 2).
    EndOfRib(Family),
    /// Not Established any more, or an attempt failed. All its routes are void.
    Down {
        /// Why, in words an operator can act on.
        reason: String,
    },
    /// Not Established any more, but the peer forwards on and is expected back (RFC 4724 section 4.2): its routes of
    /// these families stay as stale, those of other families are void.
    Retained {
        /// Families kept.
        families: Vec<Family>,
        /// Why, in words an operator can act on.
        reason: String,
    },
    /// The peer begins to send its whole table of this family again (RFC 7313 section 4): its routes are stale until
    /// they are announced again.
    Refreshing(Family),
    /// Whatever of this family is stale by now is void: the peer has said all it has, or did not come back in time.
    Sweep(Family),
    /// An operator gave the session an order: nothing follows from that before the session obeys. For the log.
    Ordered {
        /// In words.
        order: String,
    },
}

/// Changes of one session's Adj-RIB-In, in the order received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteBatch {
    /// Which session.
    pub peer: PeerId,
    /// What changed.
    pub changes: Vec<RouteChange>,
}

/// One change of an Adj-RIB-In.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RouteChange {
    /// A route, new or replacing the one with the same prefix and path id.
    Announce {
        /// Destination.
        prefix: Prefix,
        /// RFC 7911.
        path_id: PathId,
        /// Shared between all prefixes of one UPDATE.
        attrs: Arc<RouteAttrs>,
    },
    /// A route is no longer feasible.
    Withdraw {
        /// Destination.
        prefix: Prefix,
        /// RFC 7911.
        path_id: PathId,
    },
}

/// Link state of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEvent {
    /// Which uplink.
    pub uplink: UplinkId,
    /// Index of the interface; none where it does not exist.
    pub ifindex: Option<IfIndex>,
    /// Administratively up and with carrier.
    pub up: bool,
}

/// Whether a next hop of an exit answers, as the kernel's neighbour entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayEvent {
    /// The next hop.
    pub gateway: IpAddr,
    /// The interface of the entry.
    pub ifindex: Option<IfIndex>,
    /// False once the kernel has given it up.
    pub answers: bool,
}

/// News of the kernel's main table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FibEvent {
    /// What was known is void; a dump follows.
    Reset,
    /// Routes, in the order of the dump or of the notifications.
    Changes(Vec<FibChange>),
    /// The dump is complete; from now on changes follow.
    Synced,
}

/// One change of the kernel's main table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FibChange {
    /// A route exists, new or replacing the one with the same prefix and metric.
    Set(KernelRoute),
    /// A route is gone.
    Unset {
        /// Destination.
        prefix: Prefix,
        /// RTA_PRIORITY; 0 where absent.
        metric: u32,
    },
}

/// A route of the kernel's main table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRoute {
    /// Destination.
    pub prefix: Prefix,
    /// RTA_PRIORITY; the lowest wins.
    pub metric: u32,
    /// rtm_protocol: 2 kernel, 4 static, 12 bird, 186 bgp ...
    pub protocol: u8,
    /// True for RTN_UNICAST; false for blackhole, unreachable, prohibit, throw.
    pub unicast: bool,
    /// Gateway (none on a connected route) and interface, one per next hop.
    pub next_hops: Vec<(Option<IpAddr>, IfIndex)>,
}

/// All counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When the per-prefix rows were read.
    pub at: Timestamp,
    /// One per uplink that is attached, in order of `UplinkId`.
    pub uplinks: Vec<UplinkSample>,
    /// Rows that differ from the sample before, cumulative.
    pub rows: Vec<SlotCount>,
    /// How full the tries are.
    pub table: TableFill,
}

/// Fill of the kernel's prefix tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFill {
    /// Prefixes installed.
    pub entries: u64,
    /// Prefixes there is room for.
    pub capacity: u64,
    /// Prefixes that could not be installed for want of room; they count for their covering prefix.
    pub refused: u64,
}

/// A row of the kernel's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotCount {
    /// Row.
    pub slot: SlotId,
    /// Uplink it was counted on.
    pub uplink: UplinkId,
    /// Cumulative.
    pub count: Count,
}

/// Why a packet on an uplink is counted for no prefix. The numbers are the kernel program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Uncounted {
    /// Neither IPv4 nor IPv6: ARP, LLDP ...
    NonIp,
    /// Too short for the header it announces, or a wrong version field.
    Malformed,
    /// IP, but no prefix of the table holds the destination.
    NoPrefix,
    /// The slot is outside the counters: kernel and agent disagree.
    BadSlot,
}

impl Uncounted {
    /// All reasons, in the order of the kernel's rows.
    pub const ALL: [Uncounted; 4] =
        [Uncounted::NonIp, Uncounted::Malformed, Uncounted::NoPrefix, Uncounted::BadSlot];

    /// The word shown to operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Uncounted::NonIp => "non-ip",
            Uncounted::Malformed => "malformed",
            Uncounted::NoPrefix => "no-prefix",
            Uncounted::BadSlot => "bad-slot",
        }
    }
}

/// Totals of one uplink, read so that they can be checked against the device.
///
/// `before` and `after` are ETM's own totals (counted and uncounted) immediately before and after
/// `device` was read: the device's own total lies between them, or a packet was missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkSample {
    /// Which uplink.
    pub uplink: UplinkId,
    /// When `device` was read.
    pub at: Timestamp,
    /// Offered in total, read before `device`.
    pub before: Count,
    /// Offered in total, read after `device`.
    pub after: Count,
    /// Part of `after` that is counted for no prefix, by reason in the order of `Uncounted::ALL`.
    pub uncounted: [Count; 4],
    /// What the device says.
    pub device: DeviceCount,
}

/// The device's own statistics, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCount {
    /// Sent: by the root qdisc where it keeps statistics (bytes in wire basis), else by the device (skb length).
    pub sent: Count,
    /// Packets dropped by the qdisc.
    pub dropped: u64,
    /// Packets and bytes waiting in the qdisc at this moment (not cumulative).
    pub backlog: Count,
    /// Where `sent` comes from.
    pub basis: Basis,
    /// What to add to `sent` if it counts super-packets as one packet each (`Basis::Device` may): the other segments
    /// that the kernel program counted, and their headers. Cumulative.
    pub excess: Count,
}

/// In what basis a device counts sent bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Statistics of the root qdisc: wire length, as the kernel program counts.
    #[default]
    Qdisc,
    /// tx_bytes of the device, which has no queueing discipline: length of the skb, headers of later segments not included.
    Device,
}

/// Slots that no packet can reach any more, with what they last held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The slots.
    pub slots: Vec<SlotId>,
    /// Their final rows, one per uplink on which they are not zero.
    pub rows: Vec<SlotCount>,
}

/// What the kernel adapter reports after trying to converge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The decision it converged to.
    pub generation: Generation,
    /// When the last change was acknowledged by the kernel.
    pub at: Timestamp,
    /// Routes changed.
    pub changed: usize,
    /// Prefixes that could not be installed, with the kernel's reason.
    pub failed: Vec<(Prefix, String)>,
}

/// What an inject session reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Which session.
    pub peer: PeerId,
    /// The decision that was written to the socket whole.
    pub generation: Generation,
    /// When.
    pub at: Timestamp,
    /// Prefixes announced or withdrawn.
    pub changed: usize,
}

/// News of a Loc-RIB that ETM's announcements are meant for (RFC 9069): the proof that they are effective.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveEvent {
    /// The inject session with that router.
    pub peer: PeerId,
    /// What is known of it.
    pub change: EffectiveChange,
}

/// What a router's Loc-RIB says of ETM's announcements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EffectiveChange {
    /// Nobody reports it any more: whatever was known is void.
    Unknown,
    /// It is reported from now on; until something else is said, no announcement is in it.
    Watched,
    /// Best routes that changed: NEXT_HOP where ETM's announcement is the best, none where another route or no route is.
    Routes(Vec<(Prefix, Option<IpAddr>)>),
}

/// What an operator can order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Back to plain routing and stay there.
    Off,
    /// Act again as the mode says.
    On,
    /// The agent is about to end: plain routing, without touching the operator's switch.
    Stop,
    /// Carry out the queued change with this number; all of them without one.
    Approve {
        /// Number of the change.
        id: Option<u64>,
    },
    /// Drop the queued change with this number, and do not ask again for a while.
    Reject {
        /// Number of the change.
        id: u64,
    },
    /// Another mode, for good or until it is confirmed.
    Mode {
        /// The mode.
        mode: Mode,
        /// Falls back by itself after this time unless confirmed; none for good.
        confirm: Option<Duration>,
    },
    /// The mode that is on trial stays.
    Confirm,
    /// Empty a provider: nothing is placed there any more, and what is there moves away as far as there is room.
    Drain {
        /// Which.
        provider: ProviderId,
        /// Until when; none until an operator says so.
        until: Option<Timestamp>,
    },
    /// Use a provider again.
    Undrain {
        /// Which.
        provider: ProviderId,
    },
}
