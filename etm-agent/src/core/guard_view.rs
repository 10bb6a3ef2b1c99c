//! What operators see of guards and of their own orders beside the reasons to stand still. Made on demand.
//! Never used to decide; renaming a field here breaks scripts, so it needs a changelog entry.

use super::policy::Mode;
use crate::types::{BitRate, Prefix, Timestamp};
use serde::{Deserialize, Serialize};

/// What operators ordered at run time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrdersView {
    /// The mode on trial ends at this time unless it is confirmed.
    pub mode_until_ns: Option<Timestamp>,
    /// The mode after that.
    pub mode_back: Option<Mode>,
    /// Drained providers.
    pub drains: Vec<DrainView>,
    /// What came back from outside, until an operator says `on`.
    pub leak: Option<String>,
}

/// A drained provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// Its name.
    pub provider: String,
    /// Since when.
    pub since_ns: Timestamp,
    /// Until when; none until an operator says so.
    pub until_ns: Option<Timestamp>,
    /// Prefixes with traffic that still leave there though another exit has a route.
    pub left: usize,
    /// What they ask for.
    pub left_bps: BitRate,
}

/// Something that limits what ETM does without making it stand still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardView {
    /// Its name, one of [`Guard::ALL`].
    pub guard: String,
    /// What it does now, in words.
    pub detail: String,
}

/// What limits ETM without making it stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// A mode that falls back by itself unless it is confirmed.
    ModeOnTrial,
    /// A provider is being emptied.
    Drain,
    /// Only a part may move.
    Canary,
    /// A prefix asks for many times its usual rate.
    DemandSpike,
    /// Moves that are not tried again for a while.
    ExitClosed,
    /// The caps on change are nearly used up.
    ChangeRate,
    /// An uplink stays overloaded.
    Unrelieved,
    /// The kernel refused routes.
    KernelRefused,
    /// What the machine says against acting: a start or an order to act would be refused.
    WouldRefuse,
}

impl Guard {
    /// Every guard.
    pub const ALL: [Guard; 9] = [
        Guard::ModeOnTrial,
        Guard::Drain,
        Guard::Canary,
        Guard::DemandSpike,
        Guard::ExitClosed,
        Guard::ChangeRate,
        Guard::Unrelieved,
        Guard::KernelRefused,
        Guard::WouldRefuse,
    ];

    /// The word shown to operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Guard::ModeOnTrial => "mode-on-trial",
            Guard::Drain => "drain",
            Guard::Canary => "canary",
            Guard::DemandSpike => "demand-spike",
            Guard::ExitClosed => "exit-closed",
            Guard::ChangeRate => "change-rate",
            Guard::Unrelieved => "unrelieved",
            Guard::KernelRefused => "kernel-refused",
            Guard::WouldRefuse => "would-refuse",
        }
    }
}

/// Whether traffic follows moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovesView {
    /// Not seen on their new exits yet.
    pub awaited: usize,
    /// Seen there, since the start.
    pub confirmed: u64,
    /// Not seen there in time and taken back, since the start.
    pub unconfirmed: u64,
    /// Pairs of prefix and exit that are not tried now.
    pub closed: usize,
    /// No moves are made until then.
    pub paused_until_ns: Option<Timestamp>,
}

/// What other programs did to what ETM keeps in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteView {
    /// Routing rules of ETM's that somebody removed and that were put back, since the start.
    pub rules_put_back: u64,
    /// Routes of ETM's that others removed, replaced or made in its name, since the start.
    pub routes_touched: u64,
}

/// A prefix that asks for many times its usual rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurgeView {
    /// Destination.
    pub prefix: Prefix,
    /// What counts for money.
    pub usual_bps: BitRate,
    /// What it asks for.
    pub rate_bps: BitRate,
    /// Since when.
    pub since_ns: Timestamp,
}

/// An exit at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitSummary {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub provider: String,
    /// Its link is up.
    pub up: bool,
    /// Its provider is drained.
    pub drained: bool,
    /// Overrides that lead there.
    pub overrides: usize,
    /// What they ask for.
    pub moved_bps: BitRate,
}
