//! A full table of which 1 % changes each second: what that costs, and whether ETM ends with what the feeder ends with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::LabError;
use crate::poll::{pass_time, wait_until};

use super::super::routes::Dice;
use super::daemons::{Daemon, Kind};
use super::feed::{Group, PEERS, address, address_v6, announce, withdraw};
use super::ingest::{feed_one, prefixes, speakers, tables};
use super::site::Site;

/// One second in the full run.
const SECOND: Duration = Duration::from_secs(1);
/// Prefixes looked at one by one in the end, of those that changed and of the rest.
const LOOKED_AT: usize = 10_000;

/// What each peer says of each group: its version, none while it is withdrawn.
type Truth = Vec<[Option<u32>; PEERS]>;

/// Runs `seconds` of churn.
pub(super) fn run(groups: &[Group], seconds: usize) -> Result<Value, LabError> {
    let site = Site::make()?;
    let desks = speakers(&site, 90)?;
    let tables = tables(groups);
    let all = prefixes(groups) * PEERS;
    let (daemon, peers, _) = feed_one(&site, Kind::Etm, &desks, &tables, all)?;
    drop(tables);
    let mut truth: Truth = vec![[Some(0); PEERS]; groups.len()];
    let mut dice = Dice::new(60);
    // The bytes of all seconds, before the first begins.
    let plan: Vec<Vec<Arc<Vec<u8>>>> = (0..seconds)
        .map(|second| second_of(groups, second, &mut dice, &mut truth).into_iter().map(Arc::new).collect())
        .collect();
    let changes: usize = plan.len() * prefixes(groups) / 100 * PEERS;
    let (begun, cpu) = (Instant::now(), daemon.running.cpu_s());
    for (number, streams) in plan.iter().enumerate() {
        peers.iter().zip(streams).for_each(|(peer, bytes)| peer.write(bytes));
        for peer in &peers {
            peer.written()?;
        }
        let due = SECOND * u32::try_from(number + 1).unwrap_or(u32::MAX);
        pass_time(due.saturating_sub(begun.elapsed()));
    }
    let (took, cpu) = (begun.elapsed(), daemon.running.cpu_s() - cpu);
    let expected: Vec<usize> = (0..PEERS)
        .map(|peer| {
            let said = groups.iter().zip(&truth).filter(|(_, said)| said[peer].is_some());
            said.map(|(group, _)| group.prefixes.len()).sum()
        })
        .collect();
    wait_until("ETM to hold as many routes as were said", Duration::from_secs(60), || {
        let held = daemon.etm_routes().map_err(|error| error.to_string())?;
        if held == expected { Ok(()) } else { Err(format!("{held:?} instead of {expected:?}")) }
    })?;
    let (looked_at, wrong) = compare(&daemon, groups, &truth, &mut dice)?;
    Ok(json!({
        "bench": "bgp-churn",
        "prefixes": prefixes(groups),
        "peers": PEERS,
        "seconds": took.as_secs_f64(),
        "updates_per_s": changes_per_s(changes, took),
        "routes_expected": expected.iter().sum::<usize>(),
        "prefixes_compared": looked_at,
        "lost_or_stale": wrong,
        "cpu_percent": cpu / took.as_secs_f64() * 100.0,
        "etm_rss_mb": daemon.running.memory().resident,
    }))
}

fn changes_per_s(changes: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(changes).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

/// One hundredth of the groups changes with every peer: mostly new attributes, some withdrawn or back.
fn second_of(groups: &[Group], second: usize, dice: &mut Dice, truth: &mut Truth) -> Vec<Vec<u8>> {
    let mut streams = vec![Vec::new(); PEERS];
    let version = u32::try_from(second + 1).unwrap_or(u32::MAX);
    let mut left = prefixes(groups) / 100;
    while left > 0 {
        let at = dice.below(groups.len());
        left = left.saturating_sub(groups[at].prefixes.len());
        for (peer, stream) in streams.iter_mut().enumerate() {
            let said = &mut truth[at][peer];
            if said.is_some() && dice.below(5) == 0 {
                withdraw(&groups[at], stream);
                *said = None;
            } else {
                announce(&groups[at], peer, version, stream);
                *said = Some(version);
            }
        }
    }
    streams
}

/// Looks at prefixes by `explain`, which shows every candidate; returns how many, and how many were not as said.
fn compare(
    daemon: &Daemon,
    groups: &[Group],
    truth: &Truth,
    dice: &mut Dice,
) -> Result<(usize, usize), LabError> {
    let changed: Vec<usize> = (0..groups.len()).filter(|at| truth[*at] != [Some(0); PEERS]).collect();
    let mut wanted: Vec<usize> = Vec::new();
    for _ in 0..LOOKED_AT {
        wanted.push(if changed.is_empty() { 0 } else { changed[dice.below(changed.len())] });
        wanted.push(dice.below(groups.len()));
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted.truncate(LOOKED_AT);
    let mut wrong = 0;
    for at in &wanted {
        let group = &groups[*at];
        let prefix = group.prefixes[dice.below(group.prefixes.len())];
        let shown = daemon.get(&format!("/v1/explain?prefix={prefix}"))?;
        let v6 = prefix.addr().is_ipv6();
        let expected: BTreeMap<String, Option<u64>> = (0..PEERS)
            .filter_map(|peer| {
                let hop = if v6 { address_v6(peer).to_string() } else { address(peer).to_string() };
                Some((hop, truth[*at][peer].map(u64::from)))
            })
            .filter(|(_, version)| version.is_some())
            .collect();
        wrong += usize::from(seen(&shown, &prefix.to_string()) != expected);
    }
    Ok((wanted.len(), wrong))
}

/// Next hop and MED of every candidate shown; nothing where the answer is about a wider prefix.
fn seen(shown: &Value, prefix: &str) -> BTreeMap<String, Option<u64>> {
    if shown["prefix"].as_str() != Some(prefix) {
        return BTreeMap::new();
    }
    let candidates = shown["candidates"].as_array().into_iter().flatten();
    candidates
        .filter_map(|candidate| Some((candidate["next_hop"].as_str()?.to_owned(), candidate["med"].as_u64())))
        .collect()
}
