//! Removes what ETM put into the kernel's routing: rules first, so that one step returns all traffic to plain
//! routing, then routes. Never removes what does not carry ETM's table and protocol. Needs no running agent.

use crate::fib::OwnTable;
use crate::fib::error::FibError;
use crate::fib::overrides::Overrides;
use crate::fib::rules::remove_rules;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Routing rules.
    pub rules: usize,
    /// Routes of ETM's table.
    pub routes: usize,
}

/// Removes every rule and route of ETM's table and protocol, and verifies by reading them back that none is left.
pub async fn cleanup(own: OwnTable) -> Result<Cleaned, FibError> {
    let rules = remove_rules(own).await?;
    let routes = Overrides::unread(own)?.clear().await?;
    Ok(Cleaned { rules, routes })
}
