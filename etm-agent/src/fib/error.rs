//! What can go wrong between ETM and the kernel's routing. Never raised for a single route that the
//! kernel refuses: that is reported in `Installed::failed` and the rest goes on.

use crate::fib::wire::Refusal;
use crate::types::{Family, Prefix};
use std::io;

/// Failure of the kernel adapter.
#[derive(Debug, thiserror::Error)]
pub enum FibError {
    /// No netlink socket.
    #[error("opening a netlink socket failed: {source}; run as root or with CAP_NET_ADMIN")]
    Open {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process may not change routes.
    #[error(
        "changing routes needs CAP_NET_ADMIN in this network namespace; run as root or grant the capability"
    )]
    Privilege,
    /// A table that is not ETM's to fill.
    #[error("table {table} is the kernel's own; give ETM a `table` that nothing else uses, such as 179")]
    ReservedTable {
        /// The table given.
        table: u32,
    },
    /// Writing to, or reading from, a netlink socket.
    #[error("talking to the kernel by netlink failed: {source}")]
    Netlink {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel has no memory for a request; nothing of it was done.
    #[error("the kernel has no memory for a netlink request now: {source}; it is made again")]
    NoMemory {
        /// The kernel's answer.
        source: io::Error,
    },
    /// Messages were lost in the socket's receive buffer; what was known is incomplete.
    #[error(
        "the kernel sent netlink messages faster than they were read and dropped some; read the state anew"
    )]
    Overrun,
    /// A request was refused.
    #[error("{what}: {refusal}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        refusal: Refusal,
    },
    /// A dump was disturbed by changes again and again.
    #[error(
        "{what}: the state changed during each of {attempts} readings; try again when routing is quieter"
    )]
    Unsettled {
        /// What was read.
        what: &'static str,
        /// How often.
        attempts: u32,
    },
    /// An answer that ETM cannot read.
    #[error("{what}: the kernel's answer has an unexpected form; report the kernel version")]
    Malformed {
        /// What was read.
        what: &'static str,
    },
    /// The route library failed.
    #[error("{what}: {source}")]
    Library {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        source: rtnetlink::Error,
    },
    /// Configured interfaces that do not exist.
    #[error(
        "no interface named {}; this network namespace has {}; correct `interface` in the configuration",
        missing.join(", "), present.join(", ")
    )]
    NoInterface {
        /// Names that were not found.
        missing: Vec<String>,
        /// Names that exist.
        present: Vec<String>,
    },
    /// A rule of someone else stands where ETM's belongs.
    #[error(
        "{family} rule `{rule}` of another program {conflict}; \
         remove it, or set another `rule_priority` or `mark` for ETM"
    )]
    RuleConflict {
        /// Family of the rule.
        family: Family,
        /// The rule as `ip rule` writes it.
        rule: String,
        /// What the conflict is.
        conflict: &'static str,
    },
    /// ETM's rule would stand behind the lookup of main.
    #[error(
        "rule priority {priority} is not before the main table's 32766; choose a smaller `rule_priority`"
    )]
    RulePriority {
        /// The priority given.
        priority: u32,
    },
    /// Routes of someone else in ETM's own table.
    #[error(
        "table {table} holds {count} routes that are not ETM's (the first is {first}, protocol {protocol}); \
         remove them, or give ETM another `table`"
    )]
    ForeignRoutes {
        /// ETM's table.
        table: u32,
        /// How many.
        count: usize,
        /// One of them.
        first: Prefix,
        /// Its rtm_protocol.
        protocol: u8,
    },
    /// Something of ETM's is still there after it was removed.
    #[error(
        "{left} routes of protocol {protocol} are still in table {table} after they were deleted; \
         remove them by `ip route flush table {table} proto {protocol}`"
    )]
    NotClean {
        /// How many.
        left: usize,
        /// ETM's table.
        table: u32,
        /// ETM's protocol.
        protocol: u8,
    },
    /// The socket of the routing daemon.
    #[error(
        "asking BIRD at {path} failed: {source}; does it run, and may the agent's user open that socket (`agent.bird_socket`)?"
    )]
    Bird {
        /// Path of the socket.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
}
