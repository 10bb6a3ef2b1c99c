//! How long ten thousand overrides take from the decision to the peer's table.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etm_agent::core::decision::{Announcement, Decision};
use etm_agent::core::input::Input;
use etm_agent::peering::{
    DEFAULT_LOCAL_PREF, InjectConfig, NextHops, OutPolicy, Ports, SessionConfig, run_inject, status_channel,
};
use etm_agent::types::bgp::PeerStatus;
use etm_agent::types::{
    AsPath, Asn, Community, ExitId, Generation, PeerId, Prefix, RouteAttrs, RouterId, Timestamp,
};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::bird::Bird;
use crate::clock::boottime_ns;
use crate::error::LabError;
use crate::poll::wait_until;

use super::feed::Group;
use super::site::Site;

const AS: u32 = 64_500;
const ETM: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const BIRD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const PATIENCE: Duration = Duration::from_secs(30);

fn clock() -> Timestamp {
    Timestamp(boottime_ns())
}

/// `overrides` prefixes to one BIRD over iBGP, at once.
pub(super) fn run(groups: &[Group], overrides: usize) -> Result<serde_json::Value, LabError> {
    let site = Site::make()?;
    let bird = start_bird(&site)?;
    let v4 = groups.iter().filter(|group| group.prefixes[0].addr().is_ipv4());
    let decision = Arc::new(decision(v4, overrides));
    let count = decision.announce.len();
    let (decisions, newest) = watch::channel(Arc::new(Decision::default()));
    let (stop, stopped) = watch::channel(false);
    let config = session();
    let (status, seen) = status_channel(&config, clock());
    std::thread::scope(|scope| {
        let speaker = scope.spawn(|| site.feeder.inside(|| speak(config, newest, stopped, status)));
        let measured = measure(&bird, &decisions, &decision, count, &seen);
        stop.send_replace(true);
        speaker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (ms, updates) = measured?;
        Ok(json!({ "bench": "bgp-advertise", "overrides": count, "ms": ms, "updates": updates }))
    })
}

fn measure(
    bird: &Bird,
    decisions: &watch::Sender<Arc<Decision>>,
    decision: &Arc<Decision>,
    count: usize,
    seen: &watch::Receiver<PeerStatus>,
) -> Result<(f64, u64), LabError> {
    wait_until("the session to be up", PATIENCE, || match bird.established("etm") {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let before = seen.borrow().traffic.sent.update;
    let begun = Instant::now();
    decisions.send_replace(Arc::clone(decision));
    wait_until("the overrides in the peer's table", PATIENCE, || {
        let lines = bird.ask("show route protocol etm count").map_err(|error| error.to_string())?;
        let held =
            lines.iter().filter_map(|line| line.split_whitespace().next()?.parse::<usize>().ok()).sum();
        if count <= held { Ok(()) } else { Err(format!("{held} routes")) }
    })?;
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    let updates = seen.borrow().traffic.sent.update - before;
    Ok((ms, updates))
}

fn start_bird(site: &Site) -> Result<Bird, LabError> {
    let text = format!(
        "router id {BIRD};\ntimeformat protocol iso long ms;\nprotocol device {{ scan time 10; }}\nprotocol direct {{ ipv4; ipv6; }}\n\
         protocol bgp etm {{ local {BIRD} as {AS}; neighbor {ETM} as {AS}; passive;\n\
         ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n"
    );
    site.write("core.conf", &text)?;
    // It ends with the namespace.
    let (bird, _) = Bird::start("core", &site.daemon, &site.directory)?;
    Ok(bird)
}

fn decision<'a>(groups: impl Iterator<Item = &'a Group>, overrides: usize) -> Decision {
    let mut announce = BTreeMap::new();
    for (number, group) in (0u32..).zip(groups) {
        let as_path = AsPath::sequence([64_601, 3000 + number % 500, 100_000 + number]);
        let next_hop = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));
        let attrs = Arc::new(RouteAttrs { as_path, ..RouteAttrs::to_next_hop(next_hop) });
        for prefix in &group.prefixes {
            if announce.len() == overrides {
                return Decision { generation: Generation(1), announce, ..Decision::default() };
            }
            let exit = ExitId(0);
            announce.insert(*prefix, Announcement { exit, attrs: Arc::clone(&attrs) });
        }
    }
    let announce: BTreeMap<Prefix, Announcement> = announce;
    Decision { generation: Generation(1), announce, ..Decision::default() }
}

fn session() -> SessionConfig {
    let remote = SocketAddr::from((BIRD, 179));
    let mut config = SessionConfig::new(PeerId(0), "core", remote.ip(), Asn(AS), Asn(AS), RouterId(ETM));
    config.local = Some(IpAddr::V4(ETM));
    config
}

/// The inject session, until told to stop.
fn speak(
    config: SessionConfig,
    decisions: watch::Receiver<Arc<Decision>>,
    stop: watch::Receiver<bool>,
    status: watch::Sender<PeerStatus>,
) -> Result<(), LabError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().map_err(LabError::io("start the session's runtime"))?;
    let (inputs, mut received) = mpsc::channel::<Input>(64);
    let community = Community(AS << 16 | 179);
    let out = OutPolicy { local_pref: DEFAULT_LOCAL_PREF, community };
    let next_hops = NextHops { v4: Some(IpAddr::V4(ETM)), v6: None, ..NextHops::default() };
    let inject = InjectConfig::new(out, next_hops);
    runtime.block_on(async {
        let session = run_inject(config, inject, decisions, Ports { inputs, status, stop, clock });
        let drain = async { while received.recv().await.is_some() {} };
        tokio::join!(session, drain)
    });
    Ok(())
}
