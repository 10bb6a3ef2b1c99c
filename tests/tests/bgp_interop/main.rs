//! ETM's sessions with real BIRD, FRR and GoBGP, each as a provider's router (eBGP with TCP-MD5 and GTSM, both sides
//! connecting at once) and as a core router (iBGP, overrides): tables, refresh, flap, restart, wrong keys. An eBGP customer
//! of the router never sees any of it. Needs root; without it every test says SKIP and why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

mod etm;
mod six;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etm::{Etm, Kind, secret};
use etm_agent::core::decision::{Announcement, Decision};
use etm_agent::core::input::SessionChange;
use etm_agent::peering::{Connect, Order, Reach, SessionConfig};
use etm_agent::types::bgp::{BgpRole, Initiator};
use etm_agent::types::{
    AsPath, Asn, CarriedAttr, Community, ExitId, Family, Generation, LargeCommunity, Prefix, RouteAttrs,
};
use etm_tests::daemons::{
    Daemon, ETM_AS, ETM_V4, PREFIXES, ROUTER_V4, ROUTER_V6, Setup, prefix_v4, prefix_v6,
};
use etm_tests::pair::Pair;
use etm_tests::poll::wait_until;

const KEY: &str = "s3cret-of-the-lab";
const ROUTER_AS: u32 = 64501;
const PATIENCE: Duration = Duration::from_secs(30);

/// One lab at a time: two cores are a small Internet. `None` where labs cannot be made.
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: network namespaces need root (geteuid is not 0)");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn external(connect: Connect) -> SessionConfig {
    let mut config = etm::config(ROUTER_AS, connect);
    config.import.accept = true;
    config.transport.auth = secret(KEY);
    config.transport.reach = Reach::Gtsm(1);
    config.role = Some(BgpRole::Customer);
    config
}

/// Every prefix of the router with the next hop it must have.
fn expected() -> BTreeSet<(String, String)> {
    (0..PREFIXES)
        .flat_map(|i| [(prefix_v4(i), ROUTER_V4.to_owned()), (prefix_v6(i), ROUTER_V6.to_owned())])
        .collect()
}

fn wait_for_table(etm: &Etm, what: &str) {
    wait_until(what, PATIENCE, || {
        let table = etm.table();
        if table == expected() {
            return Ok(());
        }
        let missing = expected().difference(&table).next().cloned();
        Err(format!("{} routes, missing {missing:?}, {:?}", table.len(), etm.status().last_fault))
    })
    .unwrap();
}

/// The router as a provider: it learns nothing from ETM, and its customer notices nothing.
fn as_provider(daemon: Daemon) {
    let Some(_turn) = turn() else { return };
    let setup = Setup { daemon, asn: ROUTER_AS, key: Some(KEY), gtsm: true, passive: false, six: false };
    let mut pair = Pair::up(setup).unwrap();
    let before = (pair.customer_routes().unwrap(), pair.customer_updates().unwrap());

    let start = Instant::now();
    let etm = Etm::start(&pair, external(Connect::Both), Kind::Learn);
    wait_for_table(&etm, "every route of the router");
    let status = etm.status();
    println!("{daemon:?}: table after {:?}, opened by {:?}", start.elapsed(), status.initiator.unwrap());
    println!("{daemon:?}: offers {:?}", status.theirs);
    assert_eq!(status.protection, "tcp-md5 gtsm");
    assert_eq!(status.hold_time, 9);
    assert_eq!(status.add_path, Family::ALL, "ADD-PATH");
    assert_eq!(status.end_of_rib.len(), 2, "End-of-RIB of both families");
    refresh(&etm, daemon);
    flap(&pair, &etm, daemon);
    assert_eq!((pair.customer_routes().unwrap(), pair.customer_updates().unwrap()), before, "{daemon:?}");
    restart(&mut pair, &etm, daemon);
    drop(etm);

    let mut wrong = external(Connect::Active);
    wrong.transport.auth = secret("another key");
    wrong.connect_timeout = Duration::from_secs(1);
    let etm = Etm::start(&pair, wrong, Kind::Learn);
    let fault = etm.fault("with tcp-md5 on, a wrong or missing key");
    println!("{daemon:?}: {fault}");
    drop(etm);
    let mut wrong = external(Connect::Active);
    wrong.peer_as = Asn(ROUTER_AS + 1);
    let etm = Etm::start(&pair, wrong, Kind::Learn);
    println!("{daemon:?}: {}", etm.fault("the peer is in AS64501"));
}

/// ROUTE-REFRESH brings every route again and loses none.
fn refresh(etm: &Etm, daemon: Daemon) {
    let before = etm.status().traffic.announced_in;
    etm.forget_losses();
    Family::ALL.into_iter().for_each(|family| etm.order(Order::Refresh(Some(family))));
    wait_until("the table again", PATIENCE, || {
        let again = etm.status().traffic.announced_in - before;
        if again >= 2 * u64::from(PREFIXES) { Ok(()) } else { Err(format!("{again} routes")) }
    })
    .unwrap();
    wait_for_table(etm, "the table after a refresh");
    assert_eq!(etm.losses(), BTreeSet::new(), "{daemon:?}");
    let enhanced = etm.status().theirs.contains(&"enhanced-route-refresh".to_owned());
    assert_eq!(etm.seen(|change| matches!(change, SessionChange::Refreshing(_))), enhanced, "{daemon:?}");
}

/// The router resets the session, by its own client.
fn flap(pair: &Pair, etm: &Etm, daemon: Daemon) {
    let up = etm.status().established;
    match daemon {
        Daemon::Bird => pair.ask(&["restart", "etm"]),
        Daemon::Frr => pair.ask(&[&format!("clear bgp {ETM_V4}")]),
        // Its reset keeps everyone out for 30 s, whatever it is configured to do.
        Daemon::Gobgp => {
            pair.ask(&["neighbor", ETM_V4, "disable"]).and_then(|_| pair.ask(&["neighbor", ETM_V4, "enable"]))
        }
    }
    .unwrap();
    wait_until("the session to be up again", PATIENCE, || {
        let now = etm.status();
        if now.established > up { Ok(()) } else { Err(format!("{:?}", now.last_fault)) }
    })
    .unwrap();
    wait_for_table(etm, "the table after a flap");
    println!("{daemon:?}: flap: {}", etm.status().last_fault.unwrap().text);
}

/// The router dies without a word and comes back: its routes stay all the while (RFC 4724).
fn restart(pair: &mut Pair, etm: &Etm, daemon: Daemon) {
    let up = etm.status().established;
    etm.forget_losses();
    let start = Instant::now();
    pair.kill_router().unwrap();
    wait_until("the end of the session", PATIENCE, || {
        if etm.status().stale.len() == 2 { Ok(()) } else { Err(format!("{:?}", etm.status())) }
    })
    .unwrap();
    assert_eq!(etm.table(), expected(), "{daemon:?}: kept while the router is gone");
    pair.start_router(true).unwrap();
    wait_until("the session to be up again", PATIENCE, || {
        let now = etm.status();
        if now.established > up && now.stale.is_empty() { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .unwrap();
    wait_for_table(etm, "the table after a restart");
    println!("{daemon:?}: restarted in {:?}, {} routes lost", start.elapsed(), etm.losses().len());
    println!("{daemon:?}: {:?}", etm.changes());
    let kept = etm.seen(|change| matches!(change, SessionChange::Retained { .. }));
    assert!(kept, "{daemon:?}");
}

#[test]
fn bird_as_a_provider() {
    as_provider(Daemon::Bird);
}

#[test]
fn frr_as_a_provider() {
    as_provider(Daemon::Frr);
}

#[test]
fn gobgp_as_a_provider() {
    as_provider(Daemon::Gobgp);
}

/// A route as a provider might have announced it, with everything that must go on with it.
fn original() -> RouteAttrs {
    RouteAttrs {
        as_path: AsPath::sequence([64701, 64702]),
        med: Some(7),
        communities: vec![Community(64701 << 16 | 70)],
        large_communities: vec![LargeCommunity { global: 64701, local1: 1, local2: 2 }],
        carried: [
            // AGGREGATOR 64702 at 192.0.2.7, extended community rt:64701:5, ONLY_TO_CUSTOMER 64701, an unknown one.
            CarriedAttr { flags: 0xC0, code: 7, value: [0, 0, 0xFC, 0xBE, 192, 0, 2, 7].into() },
            CarriedAttr { flags: 0xC0, code: 16, value: [0, 2, 0xFC, 0xBD, 0, 0, 0, 5].into() },
            CarriedAttr { flags: 0xC0, code: 35, value: [0, 0, 0xFC, 0xBD].into() },
            CarriedAttr { flags: 0xE0, code: 229, value: [1, 2, 3].into() },
        ]
        .into(),
        ..RouteAttrs::to_next_hop("10.1.0.1".parse().unwrap())
    }
}

fn decision(generation: u64, prefixes: &[String]) -> Arc<Decision> {
    let attrs = Arc::new(original());
    let announcement = |prefix: &String| {
        (prefix.parse::<Prefix>().unwrap(), Announcement { exit: ExitId(0), attrs: Arc::clone(&attrs) })
    };
    let announce = prefixes.iter().map(announcement).collect();
    Arc::new(Decision { generation: Generation(generation), announce, ..Decision::default() })
}

/// How the router shows one prefix.
fn shown(pair: &Pair, prefix: &str) -> String {
    let v6 = prefix.contains(':');
    let answer = match pair.setup().daemon {
        Daemon::Bird => pair.ask(&["show", "route", prefix, "all"]),
        Daemon::Frr => {
            let family = if v6 { "ipv6" } else { "ipv4" };
            pair.ask(&[&format!("show bgp {family} unicast {prefix}")])
        }
        Daemon::Gobgp => pair.ask(&["global", "rib", "-a", if v6 { "ipv6" } else { "ipv4" }, prefix]),
    };
    // BIRD and GoBGP call a missing prefix an error.
    answer.unwrap_or_else(|error| error.to_string())
}

/// Words that the router's own output must hold for the override to be there as it should.
fn proofs(daemon: Daemon) -> &'static [&'static str] {
    match daemon {
        Daemon::Bird => &[
            "* (100)",
            "BGP.local_pref: 1000000",
            "BGP.as_path: 64701 64702",
            "(64500,179)",
            "(65535,65281)",
            "(64701,70)",
            "(64701, 1, 2)",
            "(rt, 64701, 5)",
            "BGP.aggregator: 192.0.2.7 AS64702",
            "BGP.e5 [t]: 01 02 03",
        ],
        Daemon::Frr => &[
            "64701 64702",
            "localpref 1000000",
            "best",
            "64500:179",
            "no-export",
            "64701:70",
            "64701:1:2",
            "RT:64701:5",
            "aggregated by 64702 192.0.2.7",
        ],
        Daemon::Gobgp => &[
            "*>",
            "64701 64702",
            "LocalPref: 1000000",
            "64500:179",
            "no-export",
            "64701:70",
            "64701:1:2",
            "64701:5",
            "AS: 64702, Address: 192.0.2.7",
        ],
    }
}

/// The router as core: overrides with all their attributes, refresh, passive and active, gone with the session.
fn as_core(daemon: Daemon) {
    let Some(_turn) = turn() else { return };
    let setup = Setup { daemon, asn: ETM_AS, key: None, gtsm: false, passive: true, six: false };
    let pair = Pair::up(setup).unwrap();
    let etm = Etm::start(&pair, etm::config(ETM_AS, Connect::Both), Kind::Inject);
    let prefixes = ["198.19.1.0/24".to_owned(), "2001:db8:ffff::/48".to_owned()];
    etm.decide(decision(1, &prefixes));
    for prefix in &prefixes {
        wait_until("the override at the router", PATIENCE, || {
            let text = shown(&pair, prefix);
            let missing: Vec<&&str> = proofs(daemon).iter().filter(|word| !text.contains(**word)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("no {missing:?} in {text}")) }
        })
        .unwrap();
    }
    let status = etm.status();
    assert_eq!((status.written, status.told), (Some(Generation(1)), Some(Generation(1))));
    assert_eq!(status.initiator, Some(Initiator::Us), "the router is passive");
    let written = etm.status().traffic.sent.update;
    match daemon {
        Daemon::Bird => pair.ask(&["reload", "in", "etm"]),
        Daemon::Frr => pair.ask(&[&format!("clear bgp ipv4 unicast {ETM_V4} in")]),
        Daemon::Gobgp => pair.ask(&["neighbor", ETM_V4, "softresetin"]),
    }
    .unwrap();
    if daemon == Daemon::Bird {
        wait_until("the override told again", PATIENCE, || {
            if etm.status().traffic.sent.update > written { Ok(()) } else { Err("not asked".to_owned()) }
        })
        .unwrap();
    }
    etm.decide(decision(2, &prefixes[..1]));
    wait_until("the withdrawal", PATIENCE, || {
        let text = shown(&pair, &prefixes[1]);
        if text.contains("64701") { Err(text) } else { Ok(()) }
    })
    .unwrap();
    drop(etm);
    wait_until("nothing of ETM", PATIENCE, || {
        let text = shown(&pair, &prefixes[0]);
        if text.contains("64701") { Err(text) } else { Ok(()) }
    })
    .unwrap();
}

#[test]
fn bird_as_core() {
    as_core(Daemon::Bird);
}

/// What docs/operations.md says of `redistribute kernel`: routes of ETM's own table stay inside. Those of the main table would
/// not, which is why FRR as the border's daemon is refused with `kernel.mode = "main"`.
#[test]
fn frr_that_redistributes_the_kernels_routes_tells_nobody_of_etms_table() {
    let Some(_turn) = turn() else { return };
    let daemon = Daemon::Frr;
    let setup = Setup { daemon, asn: ROUTER_AS, key: None, gtsm: false, passive: false, six: false };
    let pair = Pair::up(setup).unwrap();
    let router = format!("router bgp {ROUTER_AS}");
    pair.ask(&["configure terminal", &router, "address-family ipv4 unicast", "redistribute kernel"]).unwrap();
    let (kernel, metric) = (pair.router(), ["proto", "179", "metric", "10"]);
    let add = |prefix: &str, table: &str| {
        let route = [&["route", "add", prefix, "via", ETM_V4, "table", table], &metric[..]].concat();
        kernel.ip(&route).unwrap()
    };
    add("198.51.100.0/25", "179");
    add("198.51.100.128/25", "main");
    let mut known = Vec::new();
    wait_until("the customer to have the main table's route", PATIENCE, || {
        known = pair.customer_routes().map_err(|error| error.to_string())?;
        if known.iter().any(|route| route.contains("198.51.100.128/25")) {
            Ok(())
        } else {
            Err(known.join(", "))
        }
    })
    .unwrap();
    assert!(!known.iter().any(|route| route.contains("198.51.100.0/25")), "{known:?}");
    let shown = pair.ask(&["show ip route table 179"]).unwrap();
    assert!(shown.contains("198.51.100.0/25"), "zebra knows it, and keeps it to itself: {shown}");
}

#[test]
fn frr_as_core() {
    as_core(Daemon::Frr);
}

#[test]
fn gobgp_as_core() {
    as_core(Daemon::Gobgp);
}

/// 10,000 overrides at once: printed, not bounded, for a busy machine is no fault.
#[test]
fn ten_thousand_overrides_reach_bird() {
    let Some(_turn) = turn() else { return };
    let setup =
        Setup { daemon: Daemon::Bird, asn: ETM_AS, key: None, gtsm: false, passive: true, six: false };
    let pair = Pair::up(setup).unwrap();
    let etm = Etm::start(&pair, etm::config(ETM_AS, Connect::Active), Kind::Inject);
    wait_until("the session", PATIENCE, || match etm.status().established {
        1 => Ok(()),
        _ => Err(format!("{:?}", etm.status().last_fault)),
    })
    .unwrap();
    let prefixes: Vec<String> =
        (0..10_000_u32).map(|i| format!("100.{}.{}.0/24", 64 + i / 256, i % 256)).collect();
    let before = etm.status().traffic.sent.update;
    let start = Instant::now();
    etm.decide(decision(1, &prefixes));
    wait_until("all overrides at the router", PATIENCE, || {
        let text = pair.ask(&["show", "route", "protocol", "etm", "count"]).unwrap();
        if text.contains("10000 of") { Ok(()) } else { Err(text) }
    })
    .unwrap();
    let there = start.elapsed();
    let updates = etm.status().traffic.sent.update - before;
    println!("10000 overrides in BIRD after {there:?}, in {updates} UPDATEs");
    assert!(updates < 100, "{updates} UPDATEs");
}
