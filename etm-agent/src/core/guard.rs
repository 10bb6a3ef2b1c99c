//! When the decision must stand still. Each reason has a name that operators see.
//! Never undoes anything: a frozen decision keeps what it has, and only what became invalid is removed.

use crate::types::{Family, Prefix};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why no new override is made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "hold", rename_all = "kebab-case")]
pub enum Hold {
    /// A learn session is not Established: candidates are missing.
    SessionDown {
        /// Its name.
        session: String,
        /// Why, as far as known.
        reason: String,
    },
    /// A learn session has not sent its whole table.
    AwaitingEndOfRib {
        /// Its name.
        session: String,
        /// The family that is not complete.
        family: Family,
    },
    /// The kernel's main table was not read completely.
    AwaitingKernelTable,
    /// The state of an uplink is not known yet.
    AwaitingLink {
        /// Its name.
        uplink: String,
    },
    /// Fewer than two samples: no rate is known.
    AwaitingSamples,
    /// The counters were not read for too long.
    StaleSample {
        /// Milliseconds since the last one.
        age_ms: u64,
    },
    /// Counted packets and the device's own statistics differ.
    ConservationFailed {
        /// The uplink.
        uplink: String,
    },
    /// Traffic without an override leaves elsewhere than predicted.
    ProjectionMismatch {
        /// Share of bytes, parts per million.
        ppm: u32,
    },
    /// Traffic under override does not leave by its override.
    OverridesWithoutEffect {
        /// Share of bytes under override, parts per million.
        ppm: u32,
    },
    /// An uplink whose link is up is missing from the samples: what leaves there is not known.
    UplinkNotCounted {
        /// Its name.
        uplink: String,
    },
    /// The kernel's prefix table is full: some prefixes count for their covering prefix.
    TableFull {
        /// Prefixes without a row.
        refused: u64,
    },
    /// ETM's own announcement was learnt back on a learn session.
    OwnRouteReturned,
    /// This border follows an announcement that was for others: somebody passes it on to borders.
    AnnouncementCameBack {
        /// Of what.
        prefix: Prefix,
    },
    /// The traffic of the last moves did not follow: no more are made for a while.
    MovesUnconfirmed {
        /// How many in a row.
        failures: u32,
    },
    /// The checker does not agree with the newest plan: the last good one stays.
    PlanVetoed {
        /// Its first reason.
        why: String,
    },
    /// Routes of another program stand in ETM's own table, where marked packets may take them.
    ForeignRoutes {
        /// How many.
        count: usize,
        /// One of them.
        first: Prefix,
        /// Its rtm_protocol.
        protocol: u8,
    },
    /// The routing rule that leads to ETM's table is not there and is not put back.
    RuleMissing {
        /// Why not.
        why: String,
    },
}

impl Hold {
    /// Every reason's name, as `Hold::name` says it.
    pub const NAMES: [&'static str; 17] = [
        "session-down",
        "awaiting-end-of-rib",
        "awaiting-kernel-table",
        "awaiting-link",
        "awaiting-samples",
        "stale-sample",
        "conservation-failed",
        "projection-mismatch",
        "overrides-without-effect",
        "uplink-not-counted",
        "table-full",
        "own-route-returned",
        "announcement-came-back",
        "moves-unconfirmed",
        "plan-vetoed",
        "foreign-routes",
        "rule-missing",
    ];

    /// The name of the reason, the same as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Hold::SessionDown { .. } => "session-down",
            Hold::AwaitingEndOfRib { .. } => "awaiting-end-of-rib",
            Hold::AwaitingKernelTable => "awaiting-kernel-table",
            Hold::AwaitingLink { .. } => "awaiting-link",
            Hold::AwaitingSamples => "awaiting-samples",
            Hold::StaleSample { .. } => "stale-sample",
            Hold::ConservationFailed { .. } => "conservation-failed",
            Hold::ProjectionMismatch { .. } => "projection-mismatch",
            Hold::OverridesWithoutEffect { .. } => "overrides-without-effect",
            Hold::UplinkNotCounted { .. } => "uplink-not-counted",
            Hold::TableFull { .. } => "table-full",
            Hold::OwnRouteReturned => "own-route-returned",
            Hold::AnnouncementCameBack { .. } => "announcement-came-back",
            Hold::MovesUnconfirmed { .. } => "moves-unconfirmed",
            Hold::PlanVetoed { .. } => "plan-vetoed",
            Hold::ForeignRoutes { .. } => "foreign-routes",
            Hold::RuleMissing { .. } => "rule-missing",
        }
    }

    /// True for reasons that are normal at start.
    pub fn is_warm_up(&self) -> bool {
        matches!(
            self,
            Hold::AwaitingEndOfRib { .. }
                | Hold::AwaitingKernelTable
                | Hold::AwaitingLink { .. }
                | Hold::AwaitingSamples
        )
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::SessionDown { session, reason } => write!(f, "BGP session {session} is down: {reason}"),
            Hold::AwaitingEndOfRib { session, family } => {
                write!(f, "BGP session {session} has not sent its whole {family} table yet")
            }
            Hold::AwaitingKernelTable => f.write_str("the kernel's main table is being read"),
            Hold::AwaitingLink { uplink } => write!(f, "the link state of {uplink} is not known yet"),
            Hold::AwaitingSamples => f.write_str("rates need two samples of the counters"),
            Hold::StaleSample { age_ms } => write!(f, "the counters were last read {age_ms} ms ago"),
            Hold::ConservationFailed { uplink } => {
                write!(f, "packets on {uplink} bypass the counters, or its statistics are wrong (see `etm status`)")
            }
            Hold::ProjectionMismatch { ppm } => write!(
                f,
                "{}.{:02} % of the traffic leaves elsewhere than the kernel's table says",
                ppm / 10_000,
                ppm % 10_000 / 100
            ),
            Hold::OverridesWithoutEffect { ppm } => write!(
                f,
                "{} % of the traffic under override does not take it: look for a rule of another program before ETM's \
                 (`ip rule`) and remove it or give ETM a smaller kernel.rule_priority, and name every interface by \
                 which traffic comes in as kernel.inside; without ETM's rule `etm off` and `etm on` put it back",
                ppm / 10_000
            ),
            Hold::UplinkNotCounted { uplink } => {
                write!(f, "{uplink} is up, but its traffic is not counted now; see the log")
            }
            Hold::TableFull { refused } => {
                write!(f, "the kernel's prefix table is full, {refused} prefixes have no row: raise datapath.prefixes")
            }
            Hold::AnnouncementCameBack { prefix } => write!(
                f,
                "the announcement of {prefix} came back to this border: let the route reflector not pass routes with ETM's community to borders"
            ),
            Hold::MovesUnconfirmed { failures } => write!(
                f,
                "the traffic of the last {failures} moves was not seen on their new exits: no more are made for a while \
                 (`etm status` says until when, `etm events` which)"
            ),
            Hold::PlanVetoed { why } => {
                write!(f, "the newest plan was vetoed, the last good one stays: {why}; please report this")
            }
            Hold::ForeignRoutes { count, first, protocol } => write!(
                f,
                "ETM's own table holds {count} routes of another program (the first is {first}, protocol {protocol}), which \
                 traffic under override may take: remove them (`ip route flush table TABLE proto {protocol}`) and stop that program"
            ),
            Hold::RuleMissing { why } => write!(
                f,
                "ETM's routing rule is not there, so overrides have no effect: {why}; then `etm off` and `etm on`"
            ),
            Hold::OwnRouteReturned => f.write_str(
                "an announcement of ETM came back on a learn session: the border must not learn or reflect it",
            ),
        }
    }
}

/// What the agent as a whole is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Switched off by the operator: plain routing.
    Off,
    /// An announcement of ETM's came back from outside: plain routing until an operator says `on`.
    Leak,
    /// Not enough is known yet.
    WarmUp,
    /// Input is stale or contradictory: nothing new is decided.
    Frozen,
    /// Deciding and showing, changing nothing.
    Observing,
    /// Deciding, and acting on what a person approves.
    Approving,
    /// Deciding and acting.
    Steering,
}

impl State {
    /// Every state.
    pub const ALL: [State; 7] = [
        State::Off,
        State::Leak,
        State::WarmUp,
        State::Frozen,
        State::Observing,
        State::Approving,
        State::Steering,
    ];

    /// The word shown to operators.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Off => "off",
            State::Leak => "leak",
            State::WarmUp => "warm-up",
            State::Frozen => "frozen",
            State::Observing => "observing",
            State::Approving => "approving",
            State::Steering => "steering",
        }
    }
}

/// The serde form of a list as one JSON text: what names its variants by a tag has no form in compact encodings.
pub(super) mod as_text {
    use super::Hold;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    /// One text.
    pub(crate) fn serialize<S: Serializer>(holds: &[Hold], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&serde_json::to_string(holds).map_err(S::Error::custom)?)
    }

    /// Back from it.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Hold>, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map_err(D::Error::custom)
    }
}
