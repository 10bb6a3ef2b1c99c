//! What the decision log says, in sentences. Never decides what is worth an entry.

use super::EventKind;
use crate::core::guard::Hold;
use std::fmt;

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
            EventKind::OverrideSplit { prefix, from, to, share_256ths, rate_bps, reason, enforced } => {
                let verb = if *enforced { "goes" } else { "would go" };
                write!(
                    f,
                    "{share_256ths} of the flows of {prefix} ({rate_bps}) {verb} through {to}, the rest through {from}: {reason}"
                )
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
                cause(f, refused.as_deref())
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
            other => other.of_others(f),
        }
    }

    /// What other programs did to what is ETM's.
    fn of_others(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventKind::RulesPutBack { rules } => write!(
                f,
                "another program removed {rules} of ETM's routing rules; they are there again: find out who flushes rules"
            ),
            EventKind::RoutesTouched { routes, first } => write!(
                f,
                "another program changed {routes} of ETM's own routes ({first} first); what is wanted is there again"
            ),
            EventKind::ForeignRoutes { routes, first, protocol } => write!(
                f,
                "another program put {routes} routes into ETM's own table ({first} first, protocol {protocol}): they may \
                 overrule overrides and are left alone"
            ),
            EventKind::ForeignRoutesGone => {
                f.write_str("the routes of another program in ETM's own table are gone")
            }
            _ => Ok(()),
        }
    }
}

fn joined(holds: &[Hold]) -> String {
    holds.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why traffic may not have followed a move.
fn cause(f: &mut fmt::Formatter<'_>, refused: Option<&str>) -> fmt::Result {
    match refused {
        Some(why) => write!(f, "; the kernel refused the route: {why}"),
        // What the router itself sends is counted like the rest, and by default follows no override.
        None => f.write_str(
            "; what this router itself sends follows only with kernel.local_output, or in mode main",
        ),
    }
}
