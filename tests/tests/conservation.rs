//! Under load the books hold: what ETM counted is what the device says it sent, dropped and holds, for UDP and for TCP in
//! super-packets, IPv4 and IPv6, with and without a queueing discipline. Needs root.

#![allow(clippy::unwrap_used, reason = "an unwrap is the assertion of a test")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use aya::maps::{Map, MapData, PerCpuArray};
use etm_common::{Total, names};
use etm_tests::agent::AgentOptions;
use etm_tests::lab::LabOptions;
use etm_tests::poll::pass_time;
use etm_tests::scene::{Scene, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traffic::{Demand, TcpLoad};
use etm_tests::view::UplinkBooks;

/// Two windows of the books, and some.
const LONG: Duration = Duration::from_secs(23);
/// Connections per uplink and family.
const CONNECTIONS: usize = 2;

/// Destinations of TCP: some of each uplink and family, and none that UDP of the paced source goes to.
fn destinations(scene: &Scene) -> Vec<IpAddr> {
    let table = scene.lab.table();
    let live: BTreeSet<Provider> = Provider::ALL.into();
    let mut chosen = Vec::new();
    for provider in Provider::ALL {
        for v4 in [true, false] {
            let of_uplink = table.announcements.iter().filter_map(|announced| {
                let address = table.address_in(announced.prefix)?;
                let here = table.best(address, &live).is_some_and(|(_, best)| best == provider);
                (here && address.is_ipv4() == v4).then_some(address)
            });
            let before = chosen.len();
            chosen.extend(of_uplink.take(CONNECTIONS));
            assert_eq!(chosen.len(), before + CONNECTIONS, "destinations by {provider}");
        }
    }
    chosen
}

/// What super-packets exceed their own number by, on all uplinks: none of it means that there were none.
fn excess_packets(scene: &Scene) -> u64 {
    let map = MapData::from_pin(scene.lab.pin_root().join(names::TOTAL)).unwrap();
    let totals: PerCpuArray<_, Total> = Map::PerCpuArray(map).try_into().unwrap();
    (0..3)
        .flat_map(|row| totals.get(&row, 0).unwrap().iter().map(|cpu| cpu.excess.packets).collect::<Vec<_>>())
        .sum()
}

/// Loads all uplinks with UDP and TCP for two windows; returns the books.
fn under_load(uplink_bps: u64, udp_mbit: f64, tcp_bps: u64) -> Vec<UplinkBooks> {
    let lab = LabOptions { uplink_bps, ..LabOptions::default() };
    let options = AgentOptions { interval: "500ms", ..AgentOptions::observe() };
    let demand = Demand::by_home(udp_mbit, udp_mbit, udp_mbit);
    let scene = Scene::start(lab, &options, &demand).unwrap();
    let (source, sink) = (scene.lab.namespace(Role::Content), scene.lab.namespace(Role::Sink));
    let mut tcp = TcpLoad::start(&source, &sink, &destinations(&scene), tcp_bps).unwrap();
    pass_time(LONG);
    let (sent, received) = tcp.stop();
    assert!(received > 1_000_000 && received <= sent, "{received} of {sent} bytes by TCP");
    assert!(excess_packets(&scene) > 1_000, "there were no super-packets to speak of");
    let books = scene.agent.books().unwrap();
    assert_eq!(books.len(), 3);
    for uplink in &books {
        assert!(uplink.worst.windows >= 2, "{uplink:?}");
        assert_eq!((uplink.worst.failed, uplink.worst.unchecked), (0, 0), "{uplink:?} {}", scene.agent.log());
    }
    books
}

fn assert_exact(books: &[UplinkBooks], basis: &str) {
    for uplink in books {
        let worst = uplink.worst;
        assert_eq!((&*uplink.basis, &*uplink.book), (basis, "exact"), "{uplink:?}");
        assert_eq!((worst.packet_error, worst.byte_error_ppm, worst.lossy), (0, 0, 0), "{uplink:?}");
    }
}

#[test]
fn without_a_queueing_discipline_the_books_are_exact_by_what_the_device_sends() {
    let Some(_turn) = turn() else { return };
    assert_exact(&under_load(0, 20.0, 30_000_000), "device");
}

#[test]
fn with_a_bucket_that_is_wide_enough_the_books_are_exact_by_what_it_sends() {
    let Some(_turn) = turn() else { return };
    assert_exact(&under_load(1_000_000_000, 20.0, 30_000_000), "qdisc");
}

#[test]
fn with_a_bucket_that_is_too_narrow_the_books_are_lossy_and_never_failed() {
    let Some(_turn) = turn() else { return };
    let books = under_load(50_000_000, 30.0, 30_000_000);
    for uplink in books {
        assert_eq!(&*uplink.basis, "qdisc");
        assert!(uplink.worst.lossy > 0, "{uplink:?}");
    }
}
