//! What operators see: plain, serializable values made on demand. These are the control API's answers.
//! Never used to decide; renaming a field here breaks scripts, so it needs a changelog entry.

pub use super::audit::{Event, Weight};
pub use super::conservation::{BookState, WindowReport, WorstWindows};
pub use super::guard::{Hold, State};
pub use super::guard_view::{
    DrainView, ExitSummary, Guard, GuardView, MovesView, OrdersView, SiteView, SurgeView,
};
use super::input::Basis;
pub use super::money_view::{
    CandidatePrice, CertificateView, Conclusion, ExitView, LossView, Losses, MoveView, NodeView, PlanView,
};
pub use super::policy::{Mode, Role};
use crate::types::{BitRate, Count, Generation, PathId, PeerId, Prefix, RouteAttrs, Share, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `etm status`: the decision's part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// When this was made, CLOCK_BOOTTIME nanoseconds.
    pub at_ns: Timestamp,
    /// Configured mode.
    pub mode: Mode,
    /// What the agent is doing.
    pub state: State,
    /// Why it does not decide anew, if so.
    pub holds: Vec<Hold>,
    /// What limits it without making it stand still.
    #[serde(default)]
    pub guards: Vec<GuardView>,
    /// What operators ordered at run time.
    #[serde(default)]
    pub orders: OrdersView,
    /// Whether traffic follows moves.
    #[serde(default)]
    pub moves: MovesView,
    /// What other programs did to what ETM keeps in the kernel.
    #[serde(default)]
    pub site: SiteView,
    /// Prefixes that ask for many times their usual rate, the largest first.
    #[serde(default)]
    pub surges: Vec<SurgeView>,
    /// How many there are.
    #[serde(default)]
    pub surging: usize,
    /// Exits at a glance, in order of configuration.
    #[serde(default)]
    pub exits: Vec<ExitSummary>,
    /// What the last plan proves; none before the first.
    #[serde(default)]
    pub certificate: Option<CertificateView>,
    /// Number of the current decision.
    pub generation: Generation,
    /// Number of the decision that the kernel follows.
    pub kernel_generation: Generation,
    /// Overrides, planned (observe) or in effect (enforce).
    pub overrides: usize,
    /// Those of them that take a part of the flows only.
    #[serde(default)]
    pub overrides_of_parts: usize,
    /// Changes that wait for approval.
    pub waiting: usize,
    /// Plans made since the start.
    pub plans: u64,
    /// Plans that the checker refused: not one should be.
    pub plan_vetoes: u64,
    /// Demand under override, bit/s.
    pub moved_bps: BitRate,
    /// Offered on all uplinks, bit/s.
    pub offered_bps: BitRate,
    /// Prefixes with at least one route.
    pub prefixes: usize,
    /// Prefixes with a row of counters.
    pub prefixes_counted: usize,
    /// Prefixes that found no row.
    pub prefixes_refused: u64,
    /// Routes of the kernel's main table.
    pub kernel_routes: usize,
    /// Traffic that leaves elsewhere than predicted, parts per million.
    pub projection_mismatch_ppm: u32,
    /// Announcements of ETM that stand on learn sessions: they should never come back.
    pub own_routes_returned: usize,
    /// Age of the last sample, milliseconds.
    pub sample_age_ms: Option<u64>,
    /// Sessions, in order of configuration.
    pub sessions: Vec<SessionView>,
    /// Worst of all windows of all uplinks.
    pub conservation: WorstWindows,
    /// Uplinks, in order of configuration.
    pub uplinks: Vec<UplinkView>,
}

/// A session as the decision sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Its name.
    pub name: String,
    /// `learn` or `inject`.
    pub role: Role,
    /// Established.
    pub up: bool,
    /// Every family's table is complete (learn).
    pub complete: bool,
    /// Routes held, those of a lost session included until they are cleared away (learn).
    #[serde(default)]
    pub routes: u64,
    /// Why it is down.
    pub reason: Option<String>,
    /// Decision it was told last (inject).
    pub told_generation: Option<Generation>,
}

/// An uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkView {
    /// Interface name.
    pub name: String,
    /// The other border that has it; none for this router's own.
    #[serde(default)]
    pub border: Option<String>,
    /// Providers behind it.
    pub providers: Vec<String>,
    /// Link is up.
    pub up: bool,
    /// Basis of its rates and of its capacity: `l1`, `l2+fcs`, `l2`, `l3`, and tags beyond the kernel's count.
    pub billing: String,
    /// Capacity, bit/s.
    pub capacity_bps: BitRate,
    /// Above this it is overloaded, bit/s.
    pub limit_bps: BitRate,
    /// Offered over the last interval, bit/s; of another border's what was sent there by announcements, as it was when it
    /// left here.
    pub offered_bps: BitRate,
    /// Sent by the device over the last interval, bit/s.
    pub sent_bps: BitRate,
    /// Packets dropped by the qdisc since ETM started.
    pub dropped_packets: u64,
    /// What it would be offered without overrides, bit/s.
    pub projected_bps: BitRate,
    /// Offered as a share of the capacity, parts per million.
    pub utilization_ppm: Share,
    /// Counted for a prefix, cumulative.
    pub counted: Count,
    /// Not counted for a prefix, by reason, cumulative.
    pub uncounted: BTreeMap<String, Count>,
    /// State of its books.
    pub book: BookState,
    /// Basis of the device's bytes.
    pub basis: Basis,
    /// Last finished window.
    pub window: WindowReport,
    /// Worst of its windows.
    pub worst: WorstWindows,
}

/// An override is of all flows unless it says otherwise.
pub(super) fn all() -> Share {
    Share::ONE
}

/// `etm prefixes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixView {
    /// Destination.
    pub prefix: Prefix,
    /// Demand of the last interval, bit/s.
    pub rate_bps: BitRate,
    /// Counted since it has a row, all uplinks.
    pub bytes: u64,
    /// Packets likewise.
    pub packets: u64,
    /// Exit of plain routing.
    pub home: Option<String>,
    /// Exit of the override.
    pub override_to: Option<String>,
    /// Where it was counted.
    pub uplinks: Vec<PrefixUplinkView>,
}

/// A prefix on one uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixUplinkView {
    /// Interface name.
    pub uplink: String,
    /// Over the last interval, bit/s.
    pub rate_bps: BitRate,
    /// Since it has a row.
    pub bytes: u64,
    /// Packets likewise.
    pub packets: u64,
}

/// `etm overrides`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideView {
    /// Destination.
    pub prefix: Prefix,
    /// Exit of plain routing.
    pub from: String,
    /// Exit of the override.
    pub to: String,
    /// The part of its flows that goes there, parts per million; the rest goes as plain routing says.
    #[serde(default = "all")]
    pub share_ppm: Share,
    /// What was counted there of its demand, last interval, bit/s.
    #[serde(default)]
    pub there_bps: BitRate,
    /// Interface of that exit.
    pub interface: String,
    /// The other border that has it: announcements bring the traffic there, not this router's kernel.
    #[serde(default)]
    pub border: Option<String>,
    /// Next hop, while the link is up.
    pub gateway: Option<std::net::IpAddr>,
    /// Demand, bit/s.
    pub rate_bps: BitRate,
    /// Why.
    pub reason: String,
    /// False while the counters have not shown its traffic on its exit.
    #[serde(default)]
    pub confirmed: bool,
    /// First made.
    pub since_ns: Timestamp,
    /// Not given back before.
    pub hold_until_ns: Timestamp,
    /// True where it is wanted in kernel and peers; false in observe mode.
    pub enforced: bool,
    /// The kernel's refusal, if any.
    pub refused: Option<String>,
    /// More-specifics that are thrown back to plain routing.
    pub throws: usize,
    /// What the inject sessions' routers know of it, in order of configuration.
    #[serde(default)]
    pub peers: Vec<AnnouncedView>,
}

/// An override as one inject session's router knows it. Sent and effective are different things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedView {
    /// Name of the session.
    pub session: String,
    /// The decision that holds it was acknowledged by the router's TCP.
    pub sent: bool,
    /// ETM's announcement is the best route of the router's Loc-RIB; none where no BMP reports that.
    pub effective: Option<bool>,
    /// NEXT_HOP of that route.
    pub next_hop: Option<std::net::IpAddr>,
}

/// `etm approve list`: a change that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeView {
    /// Its number.
    pub id: u64,
    /// Destination.
    pub prefix: Prefix,
    /// Exit now.
    pub from: String,
    /// Exit if approved.
    pub to: String,
    /// The part of its flows that would go there, parts per million.
    #[serde(default = "all")]
    pub share_ppm: Share,
    /// Demand, bit/s.
    pub rate_bps: BitRate,
    /// Why.
    pub reason: String,
    /// Queued at.
    pub since_ns: Timestamp,
    /// Dropped at.
    pub expires_ns: Timestamp,
}

/// What became of a change that an order named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Its number.
    pub id: u64,
    /// Destination, where there is such a change.
    pub prefix: Option<Prefix>,
    /// The exit it names.
    pub to: Option<String>,
    /// True where the order was carried out.
    pub done: bool,
    /// Why not.
    pub why: Option<String>,
}

/// `etm explain PREFIX`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainView {
    /// What was asked.
    pub asked: Prefix,
    /// The prefix of the table that answers for it.
    pub prefix: Option<Prefix>,
    /// Demand of the last interval, bit/s.
    pub rate_bps: BitRate,
    /// Exit of plain routing.
    pub home: Option<String>,
    /// Exit it is sent through.
    pub exit: Option<String>,
    /// The whole answer, one sentence.
    pub verdict: String,
    /// What led to it.
    pub because: Vec<String>,
    /// All routes, the preferred one first.
    pub candidates: Vec<CandidateView>,
    /// More-specifics with routes of their own, which an override of it does not touch.
    pub more_specifics: usize,
    /// What the override does to the load of uplinks.
    pub effect: Option<String>,
    /// What the inject sessions' routers know of it, in order of configuration.
    #[serde(default)]
    pub announced: Vec<AnnouncedView>,
    /// When the override was made.
    pub since_ns: Option<Timestamp>,
    /// The override is not given back before.
    pub hold_until_ns: Option<Timestamp>,
}

/// A route, usable or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateView {
    /// Exit, where the next hop is one.
    pub exit: Option<String>,
    /// NEXT_HOP.
    pub next_hop: String,
    /// Session it was learnt on.
    pub session: String,
    /// AS_PATH.
    pub as_path: String,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    #[serde(default)]
    pub med: Option<u32>,
    /// True where it can be used now.
    pub usable: bool,
    /// Why it is, or is not, where the prefix goes.
    pub note: String,
    /// What it costs now, where it is usable and there is a choice.
    pub price: Option<CandidatePrice>,
}

/// A route as received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// Destination.
    pub prefix: Prefix,
    /// Session or monitored peer it was learnt from; `static` for configured ones.
    pub session: String,
    /// Number of that source.
    pub peer: PeerId,
    /// RFC 7911; 0 without ADD-PATH.
    pub path_id: PathId,
    /// Exit, where the next hop is one.
    pub exit: Option<String>,
    /// AS_PATH in words.
    pub as_path: String,
    /// COMMUNITIES in words.
    pub communities: Vec<String>,
    /// All attributes that are kept.
    pub attributes: Arc<RouteAttrs>,
}

/// A part of the RIB, in prefix order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutePage {
    /// The routes.
    pub routes: Vec<RouteView>,
    /// There is more: ask again with `after` this prefix.
    pub next: Option<Prefix>,
}

/// `etm bgp candidates PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidatesView {
    /// What was asked.
    pub asked: Prefix,
    /// The longest known prefix that covers it.
    pub prefix: Option<Prefix>,
    /// Exit of plain routing.
    pub home: Option<String>,
    /// Exit it is sent through.
    pub exit: Option<String>,
    /// All routes, usable ones first, in order of preference.
    pub candidates: Vec<RankedView>,
    /// What inject sessions' routers know of an override of it.
    pub announced: Vec<AnnouncedView>,
}

/// `etm bgp rules`: a `[[policy.route]]`, and what it matched since the agent started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// Its name; none for routes that no rule matched.
    pub name: Option<String>,
    /// `accept` or `deny`.
    pub action: String,
    /// Degree of preference it gives.
    pub preference: Option<u32>,
    /// What must hold, in words; empty where it takes any route.
    pub conditions: Vec<String>,
    /// Announcements it decided about, repeated ones included.
    pub announcements: u64,
    /// How many of them were in each of its prefix lists.
    pub prefix_lists: BTreeMap<String, u64>,
}

/// A route with its place in the Decision Process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankedView {
    /// 1 is preferred; none where it cannot be used.
    pub rank: Option<usize>,
    /// The step that put it behind the one before.
    pub decided_by: Option<String>,
    /// Why it is, or is not, where the prefix goes.
    pub note: String,
    /// The route.
    #[serde(flatten)]
    pub route: RouteView,
}

/// An entry of the decision log with its sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// `warning` or `note`.
    pub weight: Weight,
    /// The entry as a sentence.
    pub text: String,
    /// The entry.
    #[serde(flatten)]
    pub event: Event,
}
