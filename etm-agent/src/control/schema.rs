//! The control API, version 1: paths, requests and answers. HTTP/1.1 with JSON on a unix socket.
//! Renaming anything here breaks scripts, so it needs a changelog entry.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | `Status` |
//! | `GET /v1/providers` | `Providers` |
//! | `GET /v1/prefixes?top=N` | `Prefixes`, the busiest first |
//! | `GET /v1/overrides` | `Overrides` |
//! | `GET /v1/explain?prefix=P` | `ExplainView` |
//! | `GET /v1/explain?exit=E` | `ExitView`: what drives the price of an exit |
//! | `GET /v1/plan` | `PlanView`: what would be done now |
//! | `GET /v1/plan?without=E` | `LossView`: whether losing an exit or interface would fit |
//! | `GET /v1/losses` | `Losses`: the same for each exit in turn |
//! | `GET /v1/changes` | `Changes` that wait for approval |
//! | `POST /v1/approve?id=N`, `POST /v1/approve` (all), `POST /v1/reject?id=N` | `Judgement` |
//! | `GET /v1/events?since=N` | `Events`, the decision log after entry N |
//! | `GET /v1/bgp/peers` | `BgpPeers`: sessions and monitored routers |
//! | `GET /v1/bgp/routes?prefix=P&longer=B&peer=NAME&after=P` | `RoutePage`: ask again with `after` its `next` |
//! | `GET /v1/bgp/candidates?prefix=P` | `CandidatesView` |
//! | `GET /v1/bgp/rules` | `BgpRules`: the operator's rules for routes, and what they matched |
//! | `POST /v1/bgp/reset?peer=NAME&message=TEXT`, `POST /v1/bgp/shutdown` likewise | `BgpOrdered` |
//! | `POST /v1/bgp/start?peer=NAME`, `POST /v1/bgp/refresh?peer=NAME&family=ipv4` | `BgpOrdered` |
//! | `GET /v1/record`, `POST /v1/record/start`, `POST /v1/record/stop` | `Recording` |
//! | `GET /metrics` | OpenMetrics text (docs/metrics.md) |
//! | `POST /v1/off`, `POST /v1/on` | `Ordered` |
//! | `POST /v1/mode?mode=M`, `POST /v1/mode?mode=M&confirm_s=N`, `POST /v1/mode/confirm` | `Commanded` |
//! | `POST /v1/drain?provider=P`, `POST /v1/drain?provider=P&for_s=N`, `POST /v1/undrain?provider=P` | `Commanded` |
//!
//! Errors are `Problem` with status 400 (bad request), 404, 409 (makes no sense now), 503 (busy or stopping).

use crate::core::controller::Browse;
use crate::core::guard::State;
use crate::core::policy::{Mode, Role};
use crate::core::view::{
    CandidatesView, ChangeView, EventView, ExitView, Judged, LossView, Losses, OrdersView, OverrideView,
    PlanView, PrefixView, RoutePage, RuleView, StatusView, UplinkView,
};
use crate::types::bgp::{PeerStatus, SessionOrder, SessionState};
use crate::types::bmp::RouterStatus;
use crate::types::{Prefix, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Everything at a glance.
    Status,
    /// Uplinks.
    Providers,
    /// The busiest prefixes.
    Prefixes {
        /// How many.
        top: usize,
    },
    /// Overrides.
    Overrides,
    /// Why a prefix goes where it goes.
    Explain {
        /// Which.
        prefix: Prefix,
    },
    /// What drives the price of an exit.
    ExplainExit {
        /// Exit or interface.
        name: String,
    },
    /// What would be done now.
    Plan {
        /// Without this exit or interface.
        without: Option<String>,
    },
    /// Whether the loss of each exit would fit.
    Losses,
    /// Changes that wait for approval.
    Changes,
    /// Carry out a queued change.
    Approve {
        /// Its number; all without one.
        id: Option<u64>,
    },
    /// Drop a queued change.
    Reject {
        /// Its number.
        id: u64,
    },
    /// Decision log.
    Events {
        /// Entries after this number.
        since: u64,
    },
    /// BGP sessions and monitored routers.
    BgpPeers,
    /// A page of the RIB.
    BgpRoutes {
        /// Which routes; its `peer` is filled in from `peer`.
        browse: Browse,
        /// Name of a source.
        peer: Option<String>,
    },
    /// All routes of a prefix, in order of preference.
    BgpCandidates {
        /// Which.
        prefix: Prefix,
    },
    /// What an operator wants of a session.
    BgpOrder {
        /// Name of the session.
        peer: String,
        /// What.
        order: SessionOrder,
    },
    /// Rules for routes.
    BgpRules,
    /// Whether and where inputs are recorded.
    Record,
    /// Record from now on.
    RecordStart,
    /// End the recording.
    RecordStop,
    /// Back to plain routing.
    Off,
    /// Act again.
    On,
    /// Another mode.
    Mode {
        /// Which.
        mode: Mode,
        /// Falls back after this time unless confirmed; none for good.
        confirm: Option<Duration>,
    },
    /// The mode on trial stays.
    ConfirmMode,
    /// Empty a provider.
    Drain {
        /// Its name.
        provider: String,
        /// For how long; none until an operator says so.
        span: Option<Duration>,
    },
    /// Use a provider again.
    Undrain {
        /// Its name.
        provider: String,
    },
}

/// What the agent answers.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// To `Query::Status`.
    Status(Box<Status>),
    /// To `Query::Providers`.
    Providers(Providers),
    /// To `Query::Prefixes`.
    Prefixes(Prefixes),
    /// To `Query::Overrides`.
    Overrides(Overrides),
    /// To `Query::Explain`.
    Explain(Box<crate::core::view::ExplainView>),
    /// To `Query::ExplainExit`.
    Exit(Box<ExitView>),
    /// To `Query::Plan`.
    Plan(Box<PlanView>),
    /// To `Query::Plan` without something.
    Loss(Box<LossView>),
    /// To `Query::Losses`.
    Losses(Losses),
    /// To `Query::Changes`.
    Changes(Changes),
    /// To `Query::Approve` and `Query::Reject`.
    Judgement(Judgement),
    /// To `Query::Events`.
    Events(Events),
    /// To `Query::BgpPeers`.
    BgpPeers(Box<BgpPeers>),
    /// To `Query::BgpRoutes`.
    BgpRoutes(RoutePage),
    /// To `Query::BgpCandidates`.
    BgpCandidates(Box<CandidatesView>),
    /// To `Query::BgpOrder`.
    BgpOrdered(BgpOrdered),
    /// To `Query::BgpRules`.
    BgpRules(BgpRules),
    /// To `Query::Record`, `Query::RecordStart` and `Query::RecordStop`.
    Recording(Box<Recording>),
    /// To `Query::Off` and `Query::On`.
    Ordered(Ordered),
    /// To orders that outlive the agent.
    Commanded(Box<Commanded>),
    /// The order could not be carried out.
    Failed(Problem),
    /// What was asked about does not exist.
    Missing(Problem),
    /// The order makes no sense as things are.
    Refused(Problem),
}

/// `etm status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The process.
    pub agent: AgentView,
    /// The decision.
    #[serde(flatten)]
    pub decision: StatusView,
    /// The process that announces; none where no session has role inject.
    #[serde(default)]
    pub guardian: Option<GuardianView>,
    /// BGP sessions in detail, in order of configuration; `peering::PeerStatus` as JSON.
    pub peers: Vec<serde_json::Value>,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// When it started, CLOCK_BOOTTIME nanoseconds.
    pub started_ns: Timestamp,
    /// When the lease ends unless renewed; zero where none is held.
    pub lease_until_ns: Timestamp,
    /// The operator's switch in the kernel.
    pub switched_off: bool,
    /// Packets of inside interfaces that were sent to ETM's table, since the maps exist.
    pub packets_marked: u64,
    /// Packets of inside interfaces that were left to plain routing, likewise.
    pub packets_plain: u64,
    /// Packets that the router itself made and an override would carry, by what became of them, likewise
    /// (`kernel.local_output`).
    #[serde(default)]
    pub packets_local: BTreeMap<String, u64>,
    /// Directory of the pins.
    pub pin_root: String,
    /// What the process may do.
    #[serde(default)]
    pub privileges: PrivilegesView,
    /// Duration of a decision round, microseconds: median, 99th percentile, longest.
    pub round_us: Quantiles,
    /// Duration of a reading of all counters, microseconds.
    pub sample_us: Quantiles,
}

/// What a process may do, as it found after it had dropped the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivilegesView {
    /// User.
    pub uid: u32,
    /// Its name, where it has one.
    pub user: Option<String>,
    /// Capabilities in effect.
    pub capabilities: Vec<String>,
    /// What a program started from here could have at most.
    pub bounding: Vec<String>,
    /// No program started from here gains any (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
    /// User 0 has none by being user 0 (capabilities(7), SECBIT_NOROOT).
    pub root_is_nobody: bool,
}

/// The guardian as the agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardianView {
    /// In one word.
    pub state: GuardianState,
    /// Why, where that is a trouble.
    pub detail: Option<String>,
    /// Its process.
    pub pid: Option<i32>,
    /// It ends with the agent's orderly stop.
    pub of_agent: bool,
    /// Routes that it announces.
    pub held: usize,
    /// End of the lease as it knows it, CLOCK_BOOTTIME nanoseconds; zero where none is held.
    pub until_ns: Timestamp,
    /// It was switched off.
    pub off: bool,
    /// How often this agent started one.
    pub starts: u64,
}

/// What the guardian is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuardianState {
    /// Being started, or reached for the first time.
    #[default]
    Starting,
    /// Listens, and announces what the agent decides.
    Guarding,
    /// Does not run, or cannot be reached: nothing is announced.
    Absent,
    /// Runs and does not answer.
    Silent,
    /// Runs sessions of another configuration, and must be restarted.
    OtherConfiguration,
}

impl GuardianState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Starting, Self::Guarding, Self::Absent, Self::Silent, Self::OtherConfiguration];

    /// The word shown to operators.
    pub fn as_str(self) -> &'static str {
        match self {
            GuardianState::Starting => "starting",
            GuardianState::Guarding => "guarding",
            GuardianState::Absent => "absent",
            GuardianState::Silent => "silent",
            GuardianState::OtherConfiguration => "other-configuration",
        }
    }
}

/// A distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Largest.
    pub max: u64,
}

/// `etm providers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Providers {
    /// In order of configuration.
    pub uplinks: Vec<UplinkView>,
}

/// `etm prefixes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prefixes {
    /// The busiest first.
    pub prefixes: Vec<PrefixView>,
}

/// `etm overrides`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overrides {
    /// In prefix order.
    pub overrides: Vec<OverrideView>,
}

/// `etm events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<EventView>,
}

/// `etm approve list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// In order of their numbers.
    pub changes: Vec<ChangeView>,
}

/// `etm approve ID`, `etm reject ID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// One per change that the order named.
    pub judged: Vec<Judged>,
}

/// `etm bgp peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpPeers {
    /// The moment of this answer, CLOCK_BOOTTIME nanoseconds: what `since` and the like count from.
    pub at_ns: Timestamp,
    /// BGP sessions, in order of configuration.
    pub peers: Vec<BgpPeer>,
    /// Routers that report by BMP, in order of configuration.
    pub routers: Vec<RouterStatus>,
}

/// A BGP session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpPeer {
    /// What it is for.
    pub role: Role,
    /// Announcements wanted at this moment (inject).
    pub wanted: usize,
    /// Announcements that are the best routes of the peer's Loc-RIB; none where no BMP reports that (inject).
    pub effective: Option<usize>,
    /// The session.
    #[serde(flatten)]
    pub status: PeerStatus,
}

/// `etm bgp reset` and its like: the session was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpOrdered {
    /// Its name.
    pub session: String,
    /// What it was told, in a word.
    pub order: String,
    /// Its state before it obeyed.
    pub state: SessionState,
}

/// `etm bgp rules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpRules {
    /// In order of configuration: the first that matches decides.
    pub rules: Vec<RuleView>,
}

/// `etm off`, `etm on`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ordered {
    /// State after the order.
    pub state: State,
    /// Overrides that it ended.
    pub ended: usize,
}

/// `etm mode`, `etm provider drain`, `etm provider undrain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commanded {
    /// State after the order.
    pub state: State,
    /// Mode after the order.
    pub mode: Mode,
    /// The moment of this answer, CLOCK_BOOTTIME nanoseconds.
    pub at_ns: Timestamp,
    /// Everything that operators ordered.
    pub orders: OrdersView,
    /// Why a restart of the agent would forget it, if so.
    pub not_kept: Option<String>,
}

/// `etm record`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// True while inputs are to be recorded.
    pub recording: bool,
    /// Where.
    pub directory: String,
    /// The file being written.
    pub file: Option<String>,
    /// Files begun since the agent started.
    pub files_written: u64,
    /// Bytes written since then; up to a second behind.
    pub bytes_written: u64,
    /// Inputs recorded since then; up to a second behind.
    pub inputs_recorded: u64,
    /// Inputs that were not recorded though they should have been: the disk was too slow, or failed.
    pub inputs_lost: u64,
    /// Why nothing is written now.
    pub error: Option<String>,
}

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// In words that say what to do.
    pub error: String,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::core::controller::Controller;
    use crate::core::decision::Adopted;
    use crate::core::policy::tests::two_exits;

    /// A status as an agent has it that steers and knows nothing yet.
    pub(in crate::control) fn status() -> Status {
        let controller = Controller::new(two_exits(), 1_000, &Adopted::default(), false);
        let mut decision = controller.status(Timestamp(1));
        decision.state = State::Steering;
        let agent = AgentView {
            version: "0".to_owned(),
            pid: 1,
            started_ns: Timestamp(1),
            lease_until_ns: Timestamp(2),
            switched_off: false,
            packets_marked: 0,
            packets_plain: 0,
            packets_local: BTreeMap::new(),
            pin_root: String::new(),
            privileges: PrivilegesView::default(),
            round_us: Quantiles::default(),
            sample_us: Quantiles::default(),
        };
        Status { agent, decision, guardian: Some(GuardianView::default()), peers: Vec::new() }
    }

    #[test]
    fn a_status_is_read_back_as_it_was_written() {
        let status = status();
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}
