//! Why overrides end and queued changes are dropped, in words. Never decides either.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an override ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// Its preferred uplink can carry it again.
    GivenBack,
    /// The exit it used has no link, or no candidate route for the prefix any more.
    ExitLost,
    /// Plain routing sends it the same way by itself.
    PlainRoutingAgrees,
    /// The kernel's route for the prefix is not the routing daemon's BGP route any more.
    NotOursToOverride,
    /// More-specifics inside it need more throw routes than allowed.
    TooManyMoreSpecifics,
    /// More is under override than `policy.max_overrides` or `policy.max_moved` allows, and it was of least use.
    OverCap,
    /// Its traffic was not seen on that exit.
    Unconfirmed,
    /// An operator ordered another mode, or the one on trial was not confirmed.
    ModeChanged,
    /// An announcement of ETM's came back from outside.
    Leak,
    /// The operator switched ETM off.
    SwitchedOff,
    /// The agent is about to end.
    Stopping,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndReason::GivenBack => "its preferred exit has room again",
            EndReason::ExitLost => "that exit lost its link or its route for the prefix",
            EndReason::PlainRoutingAgrees => "plain routing goes there by itself",
            EndReason::NotOursToOverride => "the kernel's route is not the daemon's BGP route any more",
            EndReason::TooManyMoreSpecifics => "it holds more more-specifics than kernel.max_throws",
            EndReason::OverCap => {
                "policy.max_overrides or policy.max_moved is exceeded, and it was of least use"
            }
            EndReason::Unconfirmed => "its traffic was not seen there",
            EndReason::ModeChanged => "the mode changed",
            EndReason::Leak => "an announcement of ETM came back from outside",
            EndReason::SwitchedOff => "switched off",
            EndReason::Stopping => "the agent is about to end",
        })
    }
}

/// Why a queued change was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// A person said no.
    Rejected,
    /// Nobody said anything for `policy.approval`.
    Expired,
    /// It is not needed any more, or another one is better.
    NotNeeded,
    /// Its exit lost its link or its route for the prefix, or the prefix is not ETM's to override any more.
    NotPossible,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropReason::Rejected => "rejected",
            DropReason::Expired => "nobody approved it in time",
            DropReason::NotNeeded => "not needed any more",
            DropReason::NotPossible => "not possible any more",
        })
    }
}
