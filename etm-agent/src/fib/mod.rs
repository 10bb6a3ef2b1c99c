//! The kernel's routing and link state, by netlink, in the network namespace of this process.
//! Never touches a route, rule or interface that is not ETM's own: what is ETM's is known by table and protocol.
//!
//! | file | what |
//! |---|---|
//! | `overrides` | converges ETM's own table to the decision |
//! | `disturbance` | when others changed that table, and what to tell of it |
//! | `plan` | the order of changes that never captures foreign traffic |
//! | `rules` | the `ip rule` that leads marked packets to that table |
//! | `rule_watch` | puts that rule back where others take it away |
//! | `routes` | follows the main table |
//! | `links` | follows the uplinks' state |
//! | `gateways` | follows whether next hops answer |
//! | `stats` | reads what devices and their qdiscs sent, dropped and hold |
//! | `probe` | start-up checks |
//! | `bird` | asks the routing daemon what only it knows |
//! | `cleanup` | removes all of it |
//! | `socket`, `wire`, `route_codec` | netlink itself |

mod bird;
mod cleanup;
mod disturbance;
mod error;
mod gateways;
mod links;
mod main_table;
mod overrides;
mod plan;
mod probe;
mod route_codec;
mod routes;
mod rule_watch;
mod rules;
mod socket;
mod stats;
mod wire;

pub use bird::{BirdReport, KernelProtocol, ask_bird};
pub use cleanup::{Cleaned, cleanup, cleanup_main};
pub use error::FibError;
pub use gateways::GatewayMonitor;
pub use links::{LinkMonitor, LinkReport, LinkState, resolve};
pub use overrides::{Fence, Outcome, Overrides};
pub use probe::{
    Finding, check_privileges, probe_bird, probe_kernel, probe_main, probe_sysctls, probe_unasked,
};
pub use routes::RouteMonitor;
pub use rule_watch::RuleWatch;
pub use rules::{MarkRule, ensure_rules, remove_rules};
pub use stats::{StatsError, StatsReader};
pub use wire::Refusal;

/// By what ETM's own routes and rules are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnTable {
    /// Routing table of the overrides: one of ETM's own, or the main table, which it shares with everybody.
    pub table: u32,
    /// rtm_protocol of ETM's routes and rules.
    pub protocol: u8,
}

impl OwnTable {
    /// ETM's routes among those of others, in the main table, known by `protocol` alone.
    pub fn in_main(protocol: u8) -> OwnTable {
        OwnTable { table: route_codec::TABLE_MAIN, protocol }
    }

    /// True where others have routes in it too.
    pub fn is_shared(self) -> bool {
        self.table == route_codec::TABLE_MAIN
    }
}

/// Protocol of ETM's routes and rules where the configuration names no other.
pub const PROTOCOL: u8 = 179;

impl Default for OwnTable {
    fn default() -> OwnTable {
        OwnTable { table: 179, protocol: PROTOCOL }
    }
}

/// Waits until `shutdown` says true, or until nobody can say so any more.
async fn stopped(shutdown: &mut tokio::sync::watch::Receiver<bool>) {
    // The guard that `wait_for` returns must not live across another await.
    let _ = shutdown.wait_for(|stop| *stop).await;
}
