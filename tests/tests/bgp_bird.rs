//! BGP sessions of ETM against real BIRD routers: every candidate is learnt as it was received, an override
//! becomes best where it was injected, and it is gone with the session. Needs root; without it every test says
//! SKIP and why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etm_agent::core::decision::{Announcement, Decision};
use etm_agent::core::input::{Input, RouteChange, SessionChange};
use etm_agent::peering::{
    DEFAULT_LOCAL_PREF, InjectConfig, NextHops, OutPolicy, Parting, Ports, SessionConfig, run_inject,
    run_learn, status_channel,
};
use etm_agent::types::{AsPath, Asn, ExitId, Family, Generation, PeerId, RouteAttrs, RouterId, Timestamp};
use etm_tests::clock::boottime_ns;
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::netns::Namespace;
use etm_tests::poll::wait_until;
use etm_tests::topology::{BORDER_AS, ETM_INJECT_V4, ETM_LEARN, Provider, Role};
use tokio::sync::{mpsc, watch};

/// A prefix and the next hop it was learnt with.
type Candidate = (String, String);

/// One lab at a time: two cores are a small Internet. `None` where labs cannot be made.
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: network namespaces need root (geteuid is not 0)");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn clock() -> Timestamp {
    Timestamp(boottime_ns())
}

fn config(local: &str, remote: &str) -> SessionConfig {
    let asn = Asn(BORDER_AS);
    let router_id = RouterId("10.255.0.2".parse().unwrap());
    let mut config = SessionConfig::new(PeerId(0), "lab", remote.parse().unwrap(), asn, asn, router_id);
    config.local = Some(local.parse().unwrap());
    config
}

/// Runs `work` in `namespace` on a runtime of its own.
fn run<T: Send>(namespace: &Namespace, work: impl Future<Output = T> + Send) -> T {
    namespace
        .inside(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            Ok(builder.enable_all().build().unwrap().block_on(work))
        })
        .unwrap()
}

/// What a learn session hears until both tables are complete, and how long that takes once it is up.
async fn learn_all() -> (BTreeSet<Candidate>, Duration) {
    let config = config(ETM_LEARN, "127.0.0.1");
    let (inputs, mut received) = mpsc::channel(64);
    let (status, _) = status_channel(&config, clock());
    let (stop, stopped) = watch::channel(false);
    let session = run_learn(config, Ports { inputs, status, stop: stopped, clock });
    let collect = async {
        let mut table = BTreeMap::new();
        let mut up = Instant::now();
        let mut complete = BTreeSet::new();
        while complete.len() < 2 {
            match received.recv().await.unwrap() {
                Input::Session(event) => match event.change {
                    SessionChange::Up { .. } => up = Instant::now(),
                    SessionChange::EndOfRib(family) => drop(complete.insert(family)),
                    SessionChange::Down { reason } => panic!("{reason}"),
                    other => panic!("{other:?}"),
                },
                Input::Routes(batch) => {
                    for change in batch.changes {
                        match change {
                            RouteChange::Announce { prefix, path_id, attrs } => {
                                table.insert((prefix, path_id), attrs.next_hop);
                            }
                            RouteChange::Withdraw { prefix, path_id } => {
                                table.remove(&(prefix, path_id));
                            }
                        }
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        let took = up.elapsed();
        stop.send_replace(true);
        let seen = table.into_iter().map(|((prefix, _), hop)| (prefix.to_string(), hop.to_string()));
        (seen.collect(), took)
    };
    tokio::join!(session, collect).1
}

#[test]
fn every_route_of_every_provider_is_learnt_with_its_own_next_hop() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let (seen, took) = run(&lab.namespace(Role::Border), learn_all());
    let expected: BTreeSet<Candidate> = Provider::ALL
        .into_iter()
        .flat_map(|provider| {
            lab.table().of(provider).map(move |(prefix, _)| {
                let v4 = matches!(prefix, ipnet::IpNet::V4(_));
                let hop = if v4 { provider.gateway_v4() } else { provider.gateway_v6() };
                (prefix.to_string(), hop.to_owned())
            })
        })
        .collect();
    assert_eq!(seen, expected);
    // BIRD leaves its first UPDATEs lying for up to 2.7 s unless it is woken.
    assert!(took < Duration::from_secs(2), "{took:?} to End-of-RIB");
    println!("{} routes, {took:?} from Established to End-of-RIB", seen.len());
}

/// What ends an inject session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The stop signal.
    Order,
    /// The process dies: the kernel closes the socket, nobody says anything.
    Death,
}

/// The routes of `prefix` at core, as (protocol, best, communities).
fn at_core(lab: &Lab, prefix: &str) -> Result<Vec<(String, bool, String)>, String> {
    let routes = lab.bird(Role::Core).routes(prefix).map_err(|error| error.to_string())?;
    let communities = |route: &etm_tests::bird::Route| route.attributes.get("BGP.community").cloned();
    Ok(routes
        .iter()
        .map(|route| {
            assert!(!route.unreachable, "{route:?}");
            (route.protocol.clone(), route.best, communities(route).unwrap_or_default())
        })
        .collect())
}

#[test]
fn an_override_is_best_at_core_while_its_session_lives() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let prefixes = ["198.18.33.0/24", "2001:db8:202::/48"];
    let announcement = |next_hop: &str| {
        let as_path = AsPath::sequence([Provider::TransitA.asn(), 64700]);
        let attrs = RouteAttrs { as_path, ..RouteAttrs::to_next_hop(next_hop.parse::<IpAddr>().unwrap()) };
        Announcement { exit: ExitId(0), attrs: Arc::new(attrs) }
    };
    let announce =
        prefixes.iter().map(|prefix| (prefix.parse().unwrap(), announcement("10.1.0.1"))).collect();
    let decision = Arc::new(Decision { generation: Generation(1), announce, ..Decision::default() });
    for end in [End::Order, End::Death] {
        let (decisions, _) = watch::channel(Arc::new(Decision::default()));
        let (stop, stopped) = watch::channel(false);
        let (kill, killed) = watch::channel(false);
        std::thread::scope(|scope| {
            let session = scope
                .spawn(|| run(&lab.namespace(Role::Border), inject(decisions.subscribe(), stopped, killed)));
            wait_until("the session to be up", Duration::from_secs(10), || {
                match lab.bird(Role::Core).established("etm_inject") {
                    Ok(true) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .unwrap();
            let start = Instant::now();
            decisions.send_replace(Arc::clone(&decision));
            for prefix in prefixes {
                wait_until("the override at core", Duration::from_secs(5), || best_is_ours(&lab, prefix))
                    .unwrap();
            }
            println!("overrides best at core after {:?}", start.elapsed());
            let start = Instant::now();
            match end {
                End::Order => stop.send_replace(true),
                End::Death => kill.send_replace(true),
            };
            for prefix in prefixes {
                wait_until("the override to be gone", Duration::from_secs(2), || ours_is_gone(&lab, prefix))
                    .unwrap();
            }
            println!("{end:?}: overrides gone after {:?}", start.elapsed());
            let parting = session.join().unwrap();
            assert_eq!(parting, (end == End::Order).then_some(Parting::Clean));
        });
    }
}

/// An inject session towards core; none where it was killed.
async fn inject(
    decisions: watch::Receiver<Arc<Decision>>,
    stop: watch::Receiver<bool>,
    mut killed: watch::Receiver<bool>,
) -> Option<Parting> {
    let config = config(ETM_INJECT_V4, "10.0.9.2");
    let (inputs, mut received) = mpsc::channel(64);
    let (status, _) = status_channel(&config, clock());
    let community = "64500:179".parse().unwrap();
    let out = OutPolicy { local_pref: DEFAULT_LOCAL_PREF, community };
    let next_hop = |family| match family {
        Family::V4 => "10.0.9.1",
        Family::V6 => "fd00:9::1",
    };
    let address = |family| Some(next_hop(family).parse().unwrap());
    let next_hops = NextHops {
        v4: address(Family::V4),
        v6: address(Family::V6),
        per_exit: BTreeMap::new(),
        elsewhere: BTreeSet::new(),
    };
    let inject = InjectConfig::new(out, next_hops);
    config.check_inject(&inject).unwrap();
    let session = run_inject(config, inject, decisions, Ports { inputs, status, stop, clock });
    let drain = async { while received.recv().await.is_some() {} };
    tokio::select! {
        parting = async { tokio::join!(session, drain).0 } => Some(parting),
        _ = killed.wait_for(|killed| *killed) => None,
    }
}

fn best_is_ours(lab: &Lab, prefix: &str) -> Result<(), String> {
    let routes = at_core(lab, prefix)?;
    let ours = routes.iter().find(|(protocol, best, _)| protocol == "etm_inject" && *best);
    match ours {
        Some((_, _, communities)) if communities == "(64500,179) (65535,65281)" => Ok(()),
        _ => Err(format!("{routes:?}")),
    }
}

fn ours_is_gone(lab: &Lab, prefix: &str) -> Result<(), String> {
    let routes = at_core(lab, prefix)?;
    let left = routes.iter().any(|(protocol, ..)| protocol == "etm_inject");
    let back = routes.iter().any(|(protocol, best, _)| protocol == "border" && *best);
    if !left && back { Ok(()) } else { Err(format!("{routes:?}")) }
}
