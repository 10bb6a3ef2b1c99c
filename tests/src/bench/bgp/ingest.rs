//! Time from the feeder's first byte until a daemon holds every route, and what that takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::clock::boottime_ns;
use crate::error::LabError;
use crate::poll::{pass_time, wait_until};

use super::daemons::{Daemon, Kind};
use super::feed::{Group, PEERS, table_of};
use super::site::{Memory, Site};
use super::speaker::{Desk, Speaker};

/// No daemon measured so far took longer.
const LIMIT: Duration = Duration::from_secs(180);

/// What one daemon did.
pub(super) struct Taken {
    pub(super) seconds: f64,
    pub(super) memory: Memory,
    cpu_s: f64,
}

/// Peers with their sessions up.
pub(super) fn speakers(site: &Site, hold_s: u16) -> Result<Vec<Desk>, LabError> {
    (0..PEERS).map(|peer| Desk::open(&site.feeder, peer, hold_s)).collect()
}

/// Brings all sessions of a daemon up.
pub(super) fn establish(desks: &[Desk]) -> Result<Vec<Speaker>, LabError> {
    desks.iter().map(Desk::establish).collect()
}

/// Feeds one daemon; it and its peers go on.
pub(super) fn feed_one(
    site: &Site,
    kind: Kind,
    desks: &[Desk],
    tables: &[Arc<Vec<u8>>],
    routes: usize,
) -> Result<(Daemon, Vec<Speaker>, Taken), LabError> {
    let mut daemon = Daemon::start(site, kind)?;
    let peers = establish(desks)?;
    let cpu = daemon.running.cpu_s();
    let (begun, begun_ns) = (Instant::now(), boottime_ns());
    peers.iter().zip(tables).for_each(|(peer, table)| peer.write(table));
    let what = format!("{kind:?} to hold {routes} routes");
    let seconds = wait_until(&what, LIMIT, || {
        if let Err(died) = daemon.running.check() {
            return Ok(Err(died));
        }
        let seen = |error: LabError| error.to_string();
        if kind == Kind::Etm {
            let complete = daemon.etm_complete().map_err(seen)?.ok_or("tables are not complete")?;
            return Ok(Ok(Duration::from_nanos(complete.saturating_sub(begun_ns)).as_secs_f64()));
        }
        let held = daemon.routes().map_err(seen)?;
        if held >= routes { Ok(Ok(begun.elapsed().as_secs_f64())) } else { Err(format!("{held} routes")) }
    })??;
    let held = daemon.routes()?;
    if held != routes {
        let detail = format!("{held} routes, {routes} were sent");
        return Err(LabError::Malformed { what: format!("the table of {kind:?}"), detail });
    }
    let cpu_s = daemon.running.cpu_s() - cpu;
    pass_time(Duration::from_secs(2));
    let memory = daemon.running.memory();
    Ok((daemon, peers, Taken { seconds, memory, cpu_s }))
}

/// The streams of all peers.
pub(super) fn tables(groups: &[Group]) -> Vec<Arc<Vec<u8>>> {
    (0..PEERS).map(|peer| Arc::new(table_of(groups, peer))).collect()
}

/// Number of prefixes.
pub(super) fn prefixes(groups: &[Group]) -> usize {
    groups.iter().map(|group| group.prefixes.len()).sum()
}

/// All daemons, one after the other; `few` is the part of the table that GoBGP gets.
pub(super) fn run(groups: &[Group], few: &[Group]) -> Result<serde_json::Value, LabError> {
    let site = Site::make()?;
    let desks = speakers(&site, 90)?;
    let (all, part) = (tables(groups), tables(few));
    let (routes, gobgp_routes) = (prefixes(groups) * PEERS, prefixes(few) * PEERS);
    let take =
        |kind, tables: &[_], routes| feed_one(&site, kind, &desks, tables, routes).map(|(_, _, taken)| taken);
    let bird = take(Kind::Bird, &all, routes)?;
    let etm = take(Kind::Etm, &all, routes)?;
    let gobgp = take(Kind::Gobgp, &part, gobgp_routes)?;
    Ok(json!({
        "bench": "bgp-ingest",
        "prefixes": prefixes(groups),
        "peers": PEERS,
        "routes": routes,
        "attribute_sets": groups.len() * PEERS,
        "etm_s": etm.seconds,
        "bird_s": bird.seconds,
        "gobgp_s": gobgp.seconds,
        "gobgp_routes": gobgp_routes,
        "etm_rss_mb": etm.memory.resident,
        "etm_own_mb": etm.memory.own,
        "bird_rss_mb": bird.memory.resident,
        "gobgp_rss_mb": gobgp.memory.resident,
        "etm_cpu_s": etm.cpu_s,
        "bird_cpu_s": bird.cpu_s,
    }))
}
