//! The decision log: what happened, in order, with figures and reasons. Kept in memory, bounded.
//! Never decides; never formats for a machine other than by its serde form.

mod reasons;

use super::guard::Hold;
use super::policy::Mode;
use crate::types::{BitRate, Family, Generation, Prefix, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;

pub use reasons::{DropReason, EndReason};

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
            | EventKind::ChangeRefused { .. } => Weight::Warning,
            _ => Weight::Note,
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventKind::SessionUp { session } => write!(f, "BGP session {session} is Established"),
            EventKind::EndOfRib { session, family } => {
                write!(f, "BGP session {session} sent its whole {family} table")
            }
            EventKind::SessionDown { session, reason } => {
                write!(f, "BGP session {session} is down: {reason}")
            }
            EventKind::LinkUp { uplink } => write!(f, "link of {uplink} is up"),
            EventKind::LinkDown { uplink } => write!(f, "link of {uplink} is down"),
            EventKind::Overloaded { uplink, offered_bps, projected_bps, limit_bps } => write!(
                f,
                "{uplink} is offered {offered_bps}, above its limit of {limit_bps} (without overrides: {projected_bps})"
            ),
            EventKind::Relieved { uplink, offered_bps, limit_bps } => {
                write!(f, "{uplink} is within its limit again: {offered_bps} of {limit_bps}")
            }
            EventKind::Unrelieved { uplink, residual_bps } => {
                write!(
                    f,
                    "{uplink} stays {residual_bps} above its limit: no other exit has room for its prefixes, or policy.max_moved or policy.max_overrides forbids more moves"
                )
            }
            EventKind::OverrideAdded { prefix, from, to, rate_bps, reason, enforced } => {
                let verb = if *enforced { "goes" } else { "would go" };
                write!(f, "{prefix} ({rate_bps}) {verb} through {to} instead of {from}: {reason}")
            }
            EventKind::OverrideMoved { prefix, from, to, rate_bps, enforced } => {
                let verb = if *enforced { "goes" } else { "would go" };
                write!(f, "{prefix} ({rate_bps}) {verb} through {to} now, no more through {from}")
            }
            EventKind::OverrideEnded { prefix, to, why } => {
                write!(f, "{prefix} is left to plain routing, no more through {to}: {why}")
            }
            EventKind::Decided { generation, overrides, moved_bps, enforced } => write!(
                f,
                "decision {generation}: {overrides} overrides, {moved_bps}{}",
                if *enforced { "" } else { " (not enforced)" }
            ),
            EventKind::KernelConverged { generation, changed } => {
                write!(f, "kernel follows decision {generation}, {changed} routes changed")
            }
            EventKind::KernelRefused { prefix, reason } => {
                write!(f, "kernel refused the route for {prefix}: {reason}")
            }
            EventKind::PeerTold { session, generation, changed } => {
                write!(f, "{session} was told decision {generation}, {changed} prefixes changed")
            }
            EventKind::Waiting { holds } => write!(f, "nothing is decided yet: {}", joined(holds)),
            EventKind::Frozen { holds } => write!(f, "decisions stand still: {}", joined(holds)),
            EventKind::Thawed => f.write_str("decisions go on"),
            EventKind::SwitchedOff => f.write_str("switched off: plain routing"),
            EventKind::SwitchedOn => f.write_str("switched on"),
            EventKind::Stopping => f.write_str("the agent is about to end: plain routing"),
            EventKind::Adopted { overrides } => write!(f, "{overrides} overrides of an earlier run are kept"),
            other => other.rare(f),
        }
    }
}

impl EventKind {
    /// What is seldom said.
    fn rare(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventKind::GatewaySilent { gateway, exit } => {
                write!(
                    f,
                    "next hop {gateway} of {exit} does not answer any more: nothing is sent there by ETM"
                )
            }
            EventKind::GatewayAnswers { gateway, exit } => {
                write!(f, "next hop {gateway} of {exit} answers again")
            }
            EventKind::ConservationFailed { uplink, packet_error, byte_error_ppm } => write!(
                f,
                "books of {uplink} differ by {packet_error} packets and {byte_error_ppm} ppm of its bytes"
            ),
            EventKind::PlanVetoed { why } => {
                write!(f, "the newest plan was vetoed, the last good one stays: {why}")
            }
            EventKind::ChangeQueued { id, prefix, from, to, rate_bps, reason } => write!(
                f,
                "change {id} waits for approval: {prefix} ({rate_bps}) through {to} instead of {from}: {reason}"
            ),
            EventKind::ChangeApproved { id, prefix, to } => {
                write!(f, "change {id} was approved: {prefix} through {to}")
            }
            EventKind::ChangeRefused { id, prefix, to, why } => {
                write!(f, "change {id} was approved and is refused: {prefix} through {to}: {why}")
            }
            EventKind::ChangeDropped { id, prefix, to, why } => {
                write!(f, "change {id} is dropped: {prefix} through {to}: {why}")
            }
            other => other.ordered(f),
        }
    }

    /// What operators ordered, and what ETM took back.
    fn ordered(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventKind::MoveUnconfirmed {
                prefix,
                to,
                back_to,
                there_bps,
                demand_bps,
                failures,
                retry_s,
                refused,
            } => {
                write!(
                    f,
                    "{prefix} goes back to {back_to}: of its {demand_bps} the counters show {there_bps} on {to} \
                     (failure {failures}, not tried again for {retry_s} s)"
                )?;
                refused.iter().try_for_each(|why| write!(f, "; the kernel refused the route: {why}"))
            }
            EventKind::ModeChanged { from, to, confirm_s: None } => {
                write!(f, "mode {} by order, {} before", to.as_str(), from.as_str())
            }
            EventKind::ModeChanged { from, to, confirm_s: Some(span) } => write!(
                f,
                "mode {} by order, {} again in {span} s unless confirmed (`etm mode confirm`)",
                to.as_str(),
                from.as_str()
            ),
            EventKind::ModeConfirmed { mode } => write!(f, "mode {} is confirmed", mode.as_str()),
            EventKind::ModeFellBack { from, to } => {
                write!(f, "mode {} was not confirmed in time: mode {} again", from.as_str(), to.as_str())
            }
            EventKind::Drained { provider, for_s: None } => {
                write!(f, "{provider} is drained until `etm provider undrain {provider}`")
            }
            EventKind::Drained { provider, for_s: Some(span) } => {
                write!(f, "{provider} is drained for {span} s")
            }
            EventKind::Undrained { provider, expired } => {
                let why = if *expired { "the time of its drain is over" } else { "by order" };
                write!(f, "{provider} is used again: {why}")
            }
            EventKind::Leaked { what } => {
                write!(f, "leak: {what}; everything is withdrawn until `etm on`")
            }
            EventKind::AnnouncementsIneffective { session, prefixes, first, after_s } => write!(
                f,
                "{prefixes} announcements to {session} are not effective {after_s} s after they were acknowledged: {first} and others are not its best routes; compare LOCAL_PREF and filters there"
            ),
            EventKind::AnnouncementsEffective { session } => {
                write!(f, "all announcements to {session} are effective")
            }
            EventKind::SessionOrdered { session, order } => {
                write!(f, "an operator ordered of BGP session {session}: {order}")
            }
            _ => Ok(()),
        }
    }
}

fn joined(holds: &[Hold]) -> String {
    holds.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
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
