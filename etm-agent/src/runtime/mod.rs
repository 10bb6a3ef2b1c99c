//! Composition: settings become threads, tasks and channels, and end in order. Decides nothing.
//!
//! | channel | kind, depth | from -> to | when full |
//! |---|---|---|---|
//! | inputs | mpsc 4096 | sessions, monitored routers, fib, table -> decider | sender waits: TCP holds the peer back |
//! | links | mpsc 64 | link and gateway monitors -> decider, sampler | sender waits; rare and small |
//! | samples | mpsc 1 | sampler -> decider | sampler waits: counters are cumulative |
//! | requests | mpsc 16 | control -> decider | the client is told "busy" |
//! | orders | mpsc 4 | control -> gate | the client is told "busy" |
//! | standing | watch | decider -> gate, daemon watch | latest wins |
//! | directives | mpsc 4 | supervisor -> decider | sender waits |
//! | decisions | watch | decider -> fib, announcements | latest wins: desired state |
//! | stance | watch | decider -> announcements | latest wins |
//! | adopt | watch | announcements -> decider | latest wins |
//! | jobs | sync 16 | decider -> table thread | kept by the decider, in order |
//! | records | sync 8192 and 64 MB | decider -> recorder | counted, a gap in the recording |
//! | notes | sync 64 | link monitor, supervisor -> sampler | sender waits |
//! | stop | watch, one per stage | supervisor -> all | - |

mod agent;
mod alarm;
mod announce;
mod clock;
mod decider;
mod error;
mod gate;
mod guarded;
mod guardian;
mod lock;
mod machine;
mod monitors;
mod open;
mod orders;
mod privilege;
mod problem;
mod record;
mod sampler;
mod sessions;
mod signals;
mod site;
mod standing;
mod start;
mod stop;
mod table;

pub use crate::datapath::{Capability, Feature, Findings, Interface, OnHook, Pin, examine};
/// Protocol of ETM's kernel routes where the configuration names no other.
pub use crate::fib::PROTOCOL;
pub use crate::mrt::{Export, Import, MrtError, Peer as MrtPeer, Route as MrtRoute, Tally};
pub use crate::telemetry::LogFormat;
pub use agent::{DetachFrom, check, clear_main, detach, run, switch_off, withdraw_by_guardian};
pub use clock::boottime;
pub use error::{AgentError, ExitStatus};
pub use guardian::{Keeper, guard};
pub use problem::{Given, Problem, ProblemError, problem};
