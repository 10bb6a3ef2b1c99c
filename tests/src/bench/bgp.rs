//! The BGP side against BIRD and GoBGP: how long a million prefixes from four peers take, what they cost, what churn
//! costs, how fast overrides reach a peer, and what the loss of a peer does to the others.
//!
//! Each daemon gets the same bytes from the same feeder, which wrote them before anything began.

use std::net::IpAddr;

use etm_agent::types::Prefix;

use super::{BenchOptions, routes};
use crate::error::LabError;

mod advertise;
mod churn;
mod daemons;
mod feed;
mod ingest;
mod loss;
mod site;
mod speaker;

/// Prefixes of the full run.
const FULL: usize = 1_000_000;
/// And of the quick one.
const QUICK: usize = 20_000;

/// Runs all parts, or the one asked for.
pub(super) fn run(options: &BenchOptions) -> Result<(), LabError> {
    let mut table = match &options.table {
        Some(path) => routes::read(path)?,
        None if options.quick => routes::sized(50),
        None => routes::generated(),
    };
    table.retain(|prefix| is_routable(*prefix));
    // Every family keeps its share.
    let wanted = if options.quick { QUICK } else { FULL };
    let surplus = table.len().saturating_sub(wanted);
    let step = table.len().checked_div(surplus).unwrap_or(usize::MAX).max(1);
    let mut left = surplus;
    let mut at = 0;
    table.retain(|_| {
        at += 1;
        let drop = left > 0 && at % step == 0;
        left -= usize::from(drop);
        !drop
    });
    let groups = feed::groups(&table);
    let few = feed::groups(&table.iter().copied().step_by(4).collect::<Vec<_>>());
    if options.wants("ingest") {
        options.show(&ingest::run(&groups, &few)?);
    }
    if options.wants("churn") {
        options.show(&churn::run(&groups, if options.quick { 5 } else { 60 })?);
    }
    if options.wants("advertise") {
        options.show(&advertise::run(&groups, if options.quick { 1000 } else { 10_000 })?);
    }
    if options.wants("peer-down") {
        options.show(&loss::run(&groups)?);
    }
    Ok(())
}

/// No daemon accepts routes to loopback, link-local, multicast and class E; 10.0.0.0/8 is the feeder's own.
fn is_routable(prefix: Prefix) -> bool {
    match prefix.addr() {
        IpAddr::V4(addr) => !addr.is_link_local() && !matches!(addr.octets()[0], 0 | 10 | 127 | 224..),
        IpAddr::V6(_) => true,
    }
}
