//! The decision log: what happened, in order, with figures and reasons. Kept in memory, bounded.
//! Never decides; never formats for a machine other than by its serde form.

mod words;

use super::guard::Hold;
use super::policy::Mode;
use crate::types::{BitRate, Family, FlowShare, Generation, Prefix, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;

/// Entries kept in memory.
const KEPT: usize = 4096;

/// How much an event matters to whoever is on call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// Somebody should look.
    Warning,
    /// Normal operation.
    Note,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event of a run, from 1.
    pub seq: u64,
    /// When, CLOCK_BOOTTIME nanoseconds.
    pub at_ns: Timestamp,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

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
    /// Its announcement reached this border, which sends its own traffic there now.
    CameBack,
    /// It took a part of the flows, and the exit of the rest is lost or not plain routing's any more.
    HomeLost,
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
            EndReason::CameBack => "its announcement came back to this border",
            EndReason::HomeLost => {
                "the exit of the other part of its flows is lost, or plain routing left it"
            }
        })
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[allow(missing_docs)] // The fields are the words of their line, written out in `Display` below.
pub enum EventKind {
    SessionUp {
        session: String,
    },
    EndOfRib {
        session: String,
        family: Family,
    },
    SessionDown {
        session: String,
        reason: String,
    },
    LinkUp {
        uplink: String,
    },
    LinkDown {
        uplink: String,
    },
    GatewaySilent {
        gateway: IpAddr,
        exit: String,
    },
    GatewayAnswers {
        gateway: IpAddr,
        exit: String,
    },
    Overloaded {
        uplink: String,
        offered_bps: BitRate,
        projected_bps: BitRate,
        limit_bps: BitRate,
    },
    Relieved {
        uplink: String,
        offered_bps: BitRate,
        limit_bps: BitRate,
    },
    Unrelieved {
        uplink: String,
        residual_bps: BitRate,
    },
    OverrideAdded {
        prefix: Prefix,
        from: String,
        to: String,
        rate_bps: BitRate,
        reason: String,
        enforced: bool,
    },
    OverrideMoved {
        prefix: Prefix,
        from: String,
        to: String,
        rate_bps: BitRate,
        enforced: bool,
    },
    OverrideEnded {
        prefix: Prefix,
        to: String,
        why: EndReason,
    },
    Decided {
        generation: Generation,
        overrides: usize,
        moved_bps: BitRate,
        enforced: bool,
    },
    KernelConverged {
        generation: Generation,
        changed: usize,
    },
    KernelRefused {
        prefix: Prefix,
        reason: String,
    },
    PeerTold {
        session: String,
        generation: Generation,
        changed: usize,
    },
    Waiting {
        holds: Vec<Hold>,
    },
    Frozen {
        holds: Vec<Hold>,
    },
    Thawed,
    SwitchedOff,
    SwitchedOn,
    Stopping,
    Adopted {
        overrides: usize,
    },
    ConservationFailed {
        uplink: String,
        packet_error: u64,
        byte_error_ppm: u64,
    },
    PlanVetoed {
        why: String,
    },
    ChangeQueued {
        id: u64,
        prefix: Prefix,
        from: String,
        to: String,
        rate_bps: BitRate,
        reason: String,
    },
    ChangeApproved {
        id: u64,
        prefix: Prefix,
        to: String,
    },
    ChangeRefused {
        id: u64,
        prefix: Prefix,
        to: String,
        why: String,
    },
    ChangeDropped {
        id: u64,
        prefix: Prefix,
        to: String,
        why: DropReason,
    },
    SessionOrdered {
        session: String,
        order: String,
    },
    AnnouncementsIneffective {
        session: String,
        prefixes: usize,
        first: Prefix,
        after_s: u64,
    },
    AnnouncementsEffective {
        session: String,
    },
    MoveUnconfirmed {
        prefix: Prefix,
        to: String,
        back_to: String,
        there_bps: BitRate,
        demand_bps: BitRate,
        failures: u32,
        retry_s: u64,
        refused: Option<String>,
    },
    ModeChanged {
        from: Mode,
        to: Mode,
        confirm_s: Option<u64>,
    },
    ModeConfirmed {
        mode: Mode,
    },
    ModeFellBack {
        from: Mode,
        to: Mode,
    },
    Drained {
        provider: String,
        for_s: Option<u64>,
    },
    Undrained {
        provider: String,
        expired: bool,
    },
    Leaked {
        what: String,
    },
    OverrideSplit {
        prefix: Prefix,
        from: String,
        to: String,
        share_256ths: FlowShare,
        rate_bps: BitRate,
        reason: String,
        enforced: bool,
    },
    RulesPutBack {
        rules: usize,
    },
    RoutesTouched {
        routes: usize,
        first: Prefix,
    },
    ForeignRoutes {
        routes: usize,
        first: Prefix,
        protocol: u8,
    },
    ForeignRoutesGone,
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

impl EventKind {
    /// How much it matters.
    pub fn weight(&self) -> Weight {
        match self {
            EventKind::SessionDown { .. }
            | EventKind::LinkDown { .. }
            | EventKind::GatewaySilent { .. }
            | EventKind::Overloaded { .. }
            | EventKind::Unrelieved { .. }
            | EventKind::KernelRefused { .. }
            | EventKind::Frozen { .. }
            | EventKind::ConservationFailed { .. }
            | EventKind::PlanVetoed { .. }
            | EventKind::AnnouncementsIneffective { .. }
            | EventKind::MoveUnconfirmed { .. }
            | EventKind::ModeFellBack { .. }
            | EventKind::Leaked { .. }
            | EventKind::RulesPutBack { .. }
            | EventKind::RoutesTouched { .. }
            | EventKind::ForeignRoutes { .. }
            | EventKind::ChangeRefused { .. } => Weight::Warning,
            _ => Weight::Note,
        }
    }
}

/// The log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Audit {
    /// For people; nothing is decided from them.
    #[serde(skip)]
    entries: VecDeque<Event>,
    last: u64,
    handed_out: u64,
}

impl Audit {
    /// Adds an entry.
    pub fn push(&mut self, at: Timestamp, kind: EventKind) {
        self.last += 1;
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(Event { seq: self.last, at_ns: at, kind });
    }

    /// Entries after number `seq` that are still kept, oldest first.
    pub fn since(&self, seq: u64) -> impl Iterator<Item = &Event> + '_ {
        self.entries.iter().skip_while(move |event| event.seq <= seq)
    }

    /// Entries not handed out before, for logging each exactly once.
    pub fn take_new(&mut self) -> Vec<Event> {
        let new = self.since(self.handed_out).cloned().collect();
        self.handed_out = self.last;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_numbers_go_on() {
        let mut audit = Audit::default();
        for _ in 0..KEPT + 10 {
            audit.push(Timestamp(1), EventKind::Thawed);
        }
        assert_eq!(audit.since(0).count(), KEPT);
        assert_eq!(audit.take_new().last().map(|event| event.seq), Some(4106));
        audit.push(Timestamp(2), EventKind::SwitchedOff);
        assert_eq!(audit.take_new().len(), 1);
        assert!(audit.take_new().is_empty());
    }

    #[test]
    fn entries_are_flat_json_objects() {
        let mut audit = Audit::default();
        audit.push(Timestamp(7), EventKind::LinkDown { uplink: "up-b".to_owned() });
        let json = serde_json::to_string(audit.since(0).next().unwrap()).unwrap();
        assert_eq!(json, r#"{"seq":1,"at_ns":7,"kind":"link-down","uplink":"up-b"}"#);
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap().seq, 1);
    }
}
