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

/// Removes every route of ETM's protocol and metric in the main table, and verifies that none is left. Returns how many
/// there were.
pub async fn cleanup_main(protocol: u8) -> Result<usize, FibError> {
    Overrides::unread(OwnTable::in_main(protocol))?.clear().await
}

/// Removes every rule and route of ETM's table and protocol, and verifies by reading them back that none is left.
pub async fn cleanup(own: OwnTable) -> Result<Cleaned, FibError> {
    if own.is_shared() {
        return Err(FibError::ReservedTable { table: own.table });
    }
    let rules = remove_rules(own).await?;
    let routes = Overrides::unread(own)?.clear().await?;
    Ok(Cleaned { rules, routes })
}
