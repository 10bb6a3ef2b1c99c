//! Sessions over IPv6 alone that carry IPv4 too (RFC 8950), with global and with link-local addresses, in both roles.

use super::*;
use etm_agent::types::PeerId;
use etm_agent::types::RouterId;
use etm_tests::daemons::ETM_V6;
use etm_tests::daemons_v6::{CUSTOMER_OF_ROUTER_AS, ETM_CORE_V6, ETM_LOCAL, LOCAL_LINK, ROUTER_LOCAL};

fn session(remote: &str, local: &str, asn: u32, id: &str, connect: Connect) -> SessionConfig {
    let router_id = RouterId(id.parse().unwrap());
    let remote = remote.parse().unwrap();
    let mut config = SessionConfig::new(PeerId(0), "router", remote, Asn(asn), Asn(ETM_AS), router_id);
    config.local = Some(local.parse().unwrap());
    config.connect = connect;
    config.import.accept = true;
    config.retry_min = Duration::from_millis(500);
    config.retry_max = Duration::from_secs(1);
    config
}

/// Every prefix of the router with this next hop.
fn all_by(next_hop: &str) -> BTreeSet<(String, String)> {
    expected().into_iter().map(|(prefix, _)| (prefix, next_hop.to_owned())).collect()
}

/// One router, three sessions: as provider at a global and at a link-local address, and as core.
fn over_ipv6(daemon: Daemon) {
    let Some(_turn) = turn() else { return };
    let setup = Setup { daemon, asn: ETM_AS, key: None, gtsm: false, passive: false, six: true };
    let pair = Pair::up(setup).unwrap();
    let far = session(ROUTER_V6, ETM_V6, CUSTOMER_OF_ROUTER_AS, "10.77.0.1", Connect::Both);
    // FRR 8.4 does not dial a link-local address by itself.
    let connect = if daemon == Daemon::Frr { Connect::Both } else { Connect::Passive };
    let mut near = session(ROUTER_LOCAL, ETM_LOCAL, CUSTOMER_OF_ROUTER_AS, "10.77.0.21", connect);
    near.interface = Some(LOCAL_LINK.to_owned());
    near.import.link_local = true;
    let core = session(ROUTER_V6, ETM_CORE_V6, ETM_AS, "10.77.0.11", Connect::Active);
    let far = Etm::start(&pair, far, Kind::Learn);
    let near = Etm::start(&pair, near, Kind::Learn);
    for (etm, next_hop) in [(&far, ROUTER_V6), (&near, ROUTER_LOCAL)] {
        wait_until("every route of both families over IPv6", PATIENCE, || {
            let table = etm.table();
            if table == all_by(next_hop) {
                return Ok(());
            }
            Err(format!("{daemon:?}: {} routes, {:?}, {:?}", table.len(), table.first(), etm.status()))
        })
        .unwrap();
        assert!(etm.status().theirs.contains(&"extended-next-hop".to_owned()), "{:?}", etm.status());
        assert_eq!(etm.status().traffic.withdrawn_in, 0, "{daemon:?}: nothing was refused");
    }

    // A peer is known by its link too: the same address may be another one's on the next link.
    let dialled = if daemon == Daemon::Frr { Initiator::Us } else { Initiator::Peer };
    assert_eq!(near.status().initiator, Some(dialled), "{daemon:?}");

    let core = Etm::start_with(&pair, core, Kind::Inject, etm::inject(None, ETM_CORE_V6));
    let prefixes = ["198.19.1.0/24".to_owned(), "2001:db8:ffff::/48".to_owned()];
    core.decide(decision(1, &prefixes));
    for prefix in &prefixes {
        let best = if daemon == Daemon::Bird { "via fd77::11 on etm0" } else { ETM_CORE_V6 };
        wait_until("the override at the router, with a next hop in IPv6", PATIENCE, || {
            let text = shown(&pair, prefix);
            let words = proofs(daemon).iter().chain([&best]);
            let missing: Vec<&&str> = words.filter(|word| !text.contains(**word)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("no {missing:?} in {text}")) }
        })
        .unwrap();
    }
    let more: Vec<_> = far.table().into_iter().filter(|entry| !all_by(ROUTER_V6).contains(entry)).collect();
    println!("{daemon:?}: told on to an external peer: {more:?}");
    if daemon != Daemon::Gobgp {
        assert_eq!(more, [], "{daemon:?}: NO_EXPORT");
    }
    drop(core);
    wait_until("nothing of ETM", PATIENCE, || {
        let text = prefixes.iter().map(|prefix| shown(&pair, prefix)).collect::<String>();
        if text.contains("64701") { Err(text) } else { Ok(()) }
    })
    .unwrap();
    assert_eq!((far.status().last_fault, near.status().last_fault), (None, None), "{daemon:?}");
}

#[test]
fn bird_over_ipv6() {
    over_ipv6(Daemon::Bird);
}

#[test]
fn frr_over_ipv6() {
    over_ipv6(Daemon::Frr);
}

#[test]
fn gobgp_over_ipv6() {
    over_ipv6(Daemon::Gobgp);
}
