//! What the loss of a peer does: how long until its routes are gone, and whether the others' keepalives come late.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::LabError;
use crate::poll::{pass_time, wait_until};

use super::daemons::Kind;
use super::feed::{Group, PEERS};
use super::ingest::{feed_one, prefixes, speakers, tables};
use super::site::Site;

/// Hold time offered: the shortest there is (RFC 4271 section 4.2), for keepalives each second.
const HOLD_S: u16 = 3;
/// How often the peer is lost and comes back.
const TURNS: usize = 3;

/// One peer goes, with a route to every prefix.
pub(super) fn run(groups: &[Group]) -> Result<serde_json::Value, LabError> {
    let site = Site::make()?;
    let desks = speakers(&site, HOLD_S)?;
    let tables = tables(groups);
    let routes = prefixes(groups);
    let (daemon, mut peers, _) = feed_one(&site, Kind::Etm, &desks, &tables, routes * PEERS)?;
    let (mut worst, mut delay): (Duration, Duration) = Default::default();
    for _ in 0..TURNS {
        pass_time(Duration::from_secs(3));
        let since = Instant::now();
        let lost = peers.remove(0);
        let closed = lost.close();
        wait_until("the routes of the lost peer to be gone", Duration::from_secs(30), || {
            match daemon.etm_routes().map_err(|error| error.to_string())?.first() {
                Some(0) => Ok(()),
                left => Err(format!("{left:?} routes")),
            }
        })?;
        worst = worst.max(closed.elapsed());
        pass_time(Duration::from_secs(3));
        for peer in &peers {
            let heard: Vec<Instant> = peer.heard().into_iter().filter(|at| *at >= since).collect();
            let gaps = heard.windows(2).map(|pair| pair[1] - pair[0]);
            let due = Duration::from_secs(u64::from(HOLD_S) / 3);
            delay = delay.max(gaps.max().unwrap_or_default().saturating_sub(due));
        }
        let back = desks[0].establish()?;
        back.write(&tables[0]);
        back.written()?;
        peers.insert(0, back);
        wait_until("the peer's routes to be back", Duration::from_secs(120), || {
            let held = daemon.etm_routes().map_err(|error| error.to_string())?;
            if held.first() == Some(&routes) { Ok(()) } else { Err(format!("{held:?}")) }
        })?;
    }
    Ok(json!({
        "bench": "bgp-peer-down",
        "routes": routes,
        "held": routes * PEERS,
        "turns": TURNS,
        "ms": worst.as_secs_f64() * 1e3,
        "largest_keepalive_delay_ms": delay.as_secs_f64() * 1e3,
    }))
}
