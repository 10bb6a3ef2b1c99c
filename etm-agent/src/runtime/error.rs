//! Why the agent could not start or go on, and the exit status that says so.

use crate::bmp::BmpError;
use crate::control::ControlError;
use crate::datapath::DatapathError;
use crate::fib::{FibError, StatsError};
use crate::guardian::GuardianError;
use crate::peering;
use crate::privileges::PrivilegeError;
use std::process::ExitCode;

/// Exit status of `etm-agent`. Documented in docs/operations.md; scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Ended in order.
    Done = 0,
    /// Failed while running.
    Failed = 1,
    /// Wrong command line.
    Usage = 2,
    /// Ended, but it is not certain that nothing of ETM is left in effect.
    Unconfirmed = 3,
    /// The configuration is missing or wrong.
    Config = 4,
    /// Refused because acting would not be safe here.
    Refused = 5,
    /// A required BGP session did not come up.
    Session = 6,
    /// The machine lacks a privilege or a kernel feature.
    Machine = 7,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> ExitCode {
        // A field-less enum of u8: every value is its number.
        ExitCode::from(match status {
            ExitStatus::Done => 0,
            ExitStatus::Failed => 1,
            ExitStatus::Usage => 2,
            ExitStatus::Unconfirmed => 3,
            ExitStatus::Config => 4,
            ExitStatus::Refused => 5,
            ExitStatus::Session => 6,
            ExitStatus::Machine => 7,
        })
    }
}

/// An error that ends the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Kernel programs and maps.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// Kernel routes, rules, links.
    #[error(transparent)]
    Fib(#[from] FibError),
    /// Device statistics.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// The file of what operators ordered.
    #[error("{} cannot be taken up: {reason}; mend it, or remove it and order again what should hold", file.display())]
    Orders {
        /// The file.
        file: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Metrics cannot be served.
    #[error("cannot serve metrics on {listen}: {source}; choose another metrics.listen, or leave it out")]
    Metrics {
        /// Where.
        listen: std::net::SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A BGP session cannot be run as configured.
    #[error(transparent)]
    Peering(#[from] peering::ConfigError),
    /// The BMP station cannot be run as configured.
    #[error(transparent)]
    Bmp(#[from] BmpError),
    /// The key of a BGP session.
    #[error(transparent)]
    Secret(#[from] peering::SecretError),
    /// A BGP session will never come up as things are.
    #[error("BGP session {session}: {reason}")]
    SessionFault {
        /// Its name.
        session: String,
        /// What its peer said.
        reason: String,
    },
    /// A learn session was not Established in time.
    #[error(
        "BGP session {session} was not Established within {seconds} s: {reason}; see `agent.startup_timeout`"
    )]
    SessionTimeout {
        /// Its name.
        session: String,
        /// The bound.
        seconds: u64,
        /// What is known.
        reason: String,
    },
    /// Next hops of an inject session.
    #[error(
        "BGP session {session} names more than one next hop per family: {list}; keep one IPv4 and one IPv6 address"
    )]
    NextHops {
        /// Its name.
        session: String,
        /// As configured.
        list: String,
    },
    /// Agent and guardian.
    #[error(transparent)]
    Guardian(#[from] GuardianError),
    /// Privileges.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// Nobody to give access to.
    #[error("no user or group `{name}` on this machine; correct control.read or control.write")]
    NoSuchClient {
        /// As configured.
        name: String,
    },
    /// A guardian without a session.
    #[error("no session with role \"inject\" is configured: a guardian has nothing to announce")]
    NothingToGuard,
    /// Another guardian announces here.
    #[error("another guardian ({holder}) runs for routing table {table} here; stop it first")]
    GuardianRuns {
        /// The table.
        table: u32,
        /// Its process.
        holder: String,
    },
    /// Another agent is listened to.
    #[error("another agent has taken over; this one ends and touches nothing")]
    Superseded,
    /// Another agent works on the same table.
    #[error(
        "another agent ({holder}) works on routing table {table} here; stop it, or give this one another kernel.table (table 254 is \
         main: one agent with kernel.mode = \"main\" per machine)"
    )]
    TableInUse {
        /// The table.
        table: u32,
        /// Its process.
        holder: String,
    },
    /// Acting here could break traffic or leak routes.
    #[error("mode \"enforce\" is refused: {finding}; mode \"observe\" works as things are")]
    Unsafe {
        /// What was found and what to do about it.
        finding: String,
    },
    /// The system refused a thread, a runtime or a signal.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A part of the agent ended by itself.
    #[error("{part} ended unexpectedly; routing is put back and the agent ends")]
    PartEnded {
        /// Which.
        part: &'static str,
    },
}

impl AgentError {
    /// The exit status that stands for it.
    pub fn status(&self) -> ExitStatus {
        match self {
            AgentError::Control(ControlError::Io { .. }) | AgentError::Stats(_) => ExitStatus::Failed,
            AgentError::Control(_)
            | AgentError::Unsafe { .. }
            | AgentError::TableInUse { .. }
            | AgentError::GuardianRuns { .. }
            | AgentError::Superseded => ExitStatus::Refused,
            AgentError::NoSuchClient { .. }
            | AgentError::Privileges(PrivilegeError::NoUser { .. } | PrivilegeError::NotRoot { .. }) => {
                ExitStatus::Config
            }
            AgentError::Privileges(_) => ExitStatus::Machine,
            AgentError::Guardian(_) => ExitStatus::Failed,
            AgentError::Datapath(error) => match error {
                DatapathError::InUse { .. } | DatapathError::PinShape { .. } => ExitStatus::Refused,
                DatapathError::Size { .. } => ExitStatus::Config,
                // It was there by name a moment before: the next start may find it again.
                DatapathError::Interface { .. } => ExitStatus::Failed,
                _ => ExitStatus::Machine,
            },
            AgentError::Fib(error) => match error {
                FibError::NoInterface { .. }
                | FibError::RulePriority { .. }
                | FibError::ReservedTable { .. } => ExitStatus::Config,
                FibError::RuleConflict { .. } | FibError::ForeignRoutes { .. } => ExitStatus::Refused,
                // Nothing forbids to act here: a daemon that restarts is back in a moment.
                FibError::Bird { .. } => ExitStatus::Session,
                FibError::Open { .. } | FibError::Privilege => ExitStatus::Machine,
                _ => ExitStatus::Failed,
            },
            AgentError::Peering(_)
            | AgentError::Secret(_)
            | AgentError::Bmp(_)
            | AgentError::NextHops { .. }
            | AgentError::Orders { .. }
            | AgentError::NothingToGuard => ExitStatus::Config,
            AgentError::SessionFault { .. } | AgentError::SessionTimeout { .. } => ExitStatus::Session,
            AgentError::System { .. } | AgentError::Metrics { .. } | AgentError::PartEnded { .. } => {
                ExitStatus::Failed
            }
        }
    }
}
