//! Overrides in the kernel.

use crate::netns::{clock, ifindex, in_netns, run, two_uplinks};
use etm_agent::core::decision::{Decision, KernelAction};
use etm_agent::core::input::{Input, Installed};
use etm_agent::fib::{FibError, MarkRule, Overrides, OwnTable, ensure_rules};
use etm_agent::types::{Generation, Prefix};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const OWN: OwnTable = OwnTable { table: 179, protocol: 179 };
const RULE: MarkRule = MarkRule { mark: 0x0e00_0000, mask: 0x0f00_0000, priority: 1790 };

type Routes = BTreeMap<Prefix, KernelAction>;

fn via(gateway: &str, name: &str) -> KernelAction {
    KernelAction::Via { gateway: gateway.parse().unwrap(), ifindex: ifindex(name) }
}

fn routes(list: &[(&str, KernelAction)]) -> Routes {
    list.iter().map(|(prefix, action)| (prefix.parse().unwrap(), *action)).collect()
}

fn table() -> String {
    run("ip -4 route show table 179 2>/dev/null || true; ip -6 route show table 179 2>/dev/null || true")
}

#[test]
fn a_marked_packet_takes_the_override_and_a_throw_protects_the_more_specific() {
    in_netns(async || {
        two_uplinks();
        run("ip route add 198.18.0.0/15 via 192.0.2.3 dev up1
             ip route add 2001:db8:8000::/33 via 2001:db8:ffff::1:1 dev up1");
        ensure_rules(OWN, RULE).await.unwrap();
        let wanted = routes(&[
            ("198.18.0.0/20", via("192.0.2.5", "up2")),
            ("198.18.4.0/24", KernelAction::Throw),
            ("2001:db8:8000::/40", via("2001:db8:ffff::2:1", "up2")),
            ("2001:db8:8001::/48", KernelAction::Throw),
        ]);
        let mut overrides = Overrides::open(OWN).await.unwrap();
        let outcome = overrides.converge(&wanted).await.unwrap();
        assert_eq!((outcome.changed, outcome.failed), (4, vec![]));
        for (destination, mark, expected) in [
            ("198.18.1.1", "0", "up1"),
            ("198.18.1.1", "0x0e000000", "up2"),
            ("198.18.1.1", "0x0e000007", "up2"),
            ("198.18.4.1", "0x0e000000", "up1"),
            ("198.19.4.1", "0x0e000000", "up1"),
            ("2001:db8:8000::1", "0", "up1"),
            ("2001:db8:8000::1", "0x0e000000", "up2"),
            ("2001:db8:8001::1", "0x0e000000", "up1"),
        ] {
            let got = run(&format!("ip route get {destination} mark {mark}"));
            assert!(got.contains(&format!("dev {expected} ")), "{destination} mark {mark}: {got}");
        }
        assert_eq!(overrides.converge(&wanted).await.unwrap().changed, 0);
    });
}

#[test]
fn every_kind_of_change_leaves_exactly_what_is_wanted() {
    in_netns(async || {
        two_uplinks();
        let (one, two) = (via("192.0.2.3", "up1"), via("192.0.2.5", "up2"));
        let (one6, two6) = (via("2001:db8:ffff::1:1", "up1"), via("2001:db8:ffff::2:1", "up2"));
        let throw = KernelAction::Throw;
        let steps = [
            routes(&[("198.18.0.0/20", one), ("198.18.4.0/24", throw), ("2001:db8:8000::/40", one6)]),
            routes(&[("198.18.0.0/20", two), ("198.18.4.0/24", one), ("2001:db8:8000::/40", throw)]),
            routes(&[("198.18.0.0/20", throw), ("198.18.4.0/24", two), ("2001:db8:8000::/40", two6)]),
            routes(&[("0.0.0.0/0", one), ("::/0", one6), ("198.18.4.0/24", throw)]),
            routes(&[("198.18.4.0/24", via("2001:db8:ffff::1:1", "up1"))]),
            routes(&[]),
        ];
        let mut overrides = Overrides::open(OWN).await.unwrap();
        for wanted in &steps {
            let outcome = overrides.converge(wanted).await.unwrap();
            assert_eq!(outcome.failed, vec![], "{wanted:?}");
            assert_eq!(Overrides::open(OWN).await.unwrap().installed(), wanted, "{}", table());
        }
        assert_eq!(table(), "");
    });
}

#[test]
fn a_restart_adopts_what_it_finds() {
    in_netns(async || {
        two_uplinks();
        let wanted = routes(&[
            ("198.18.0.0/20", via("192.0.2.3", "up1")),
            ("198.18.4.0/24", KernelAction::Throw),
            ("2001:db8:8000::/40", via("2001:db8:ffff::1:1", "up1")),
            ("2001:db8:8001::/48", KernelAction::Throw),
        ]);
        Overrides::open(OWN).await.unwrap().converge(&wanted).await.unwrap();
        // Of ETM's protocol, but not as ETM would make it: no reason to keep it.
        run("ip route add 198.19.0.0/24 via 192.0.2.3 dev up1 table 179 proto 179 metric 77");
        let mut restarted = Overrides::open(OWN).await.unwrap();
        assert_eq!(restarted.installed(), &wanted);
        assert_eq!(restarted.converge(&wanted).await.unwrap().changed, 0);
        assert!(!table().contains("metric 77"), "{}", table());
        assert_eq!(restarted.clear().await.unwrap(), 4);
        assert_eq!(table(), "");
    });
}

#[test]
fn a_table_with_routes_of_others_is_refused_and_left_alone() {
    in_netns(async || {
        two_uplinks();
        run("ip route add 198.19.0.0/24 via 192.0.2.3 dev up1 table 179 proto static");
        match Overrides::open(OWN).await {
            Err(FibError::ForeignRoutes { table: 179, count: 1, protocol: 4, .. }) => {}
            other => panic!("{other:?}"),
        }
        assert!(table().contains("198.19.0.0/24"));
    });
}

#[test]
fn a_refused_route_is_told_with_the_reason_and_the_rest_goes_on() {
    in_netns(async || {
        two_uplinks();
        let mut overrides = Overrides::open(OWN).await.unwrap();
        // A foreign route appears in the table after the start.
        run("ip route add 198.19.0.0/24 via 192.0.2.3 dev up1 table 179 proto static metric 10");
        let wanted = routes(&[
            ("198.18.0.0/20", via("203.0.113.1", "up1")),
            ("198.18.16.0/20", via("192.0.2.5", "up2")),
            ("198.18.16.0/24", via("203.0.113.1", "up1")),
            ("198.19.0.0/24", via("192.0.2.5", "up2")),
            ("2001:db8:8000::/40", via("2001:db8:ffff::2:1", "up2")),
        ]);
        let outcome = overrides.converge(&wanted).await.unwrap();
        let reasons: BTreeMap<String, String> =
            outcome.failed.iter().map(|(prefix, reason)| (prefix.to_string(), reason.clone())).collect();
        assert_eq!(
            reasons.keys().collect::<Vec<_>>(),
            ["198.18.0.0/20", "198.18.16.0/24", "198.19.0.0/24"],
            "{reasons:?}"
        );
        assert!(reasons["198.18.0.0/20"].contains("invalid gateway"), "{reasons:?}");
        assert!(reasons["198.19.0.0/24"].contains("another program"), "{reasons:?}");
        // The refused one inside another override is plainly routed, not captured.
        assert!(run("ip route show table 179 type throw").contains("198.18.16.0/24"), "{}", table());
        assert_eq!(overrides.clear().await.unwrap(), 3);
        assert!(table().contains("198.19.0.0/24"), "a foreign route was deleted");
    });
}

#[test]
fn what_others_do_to_the_table_is_mended_and_a_link_that_returns_gets_its_routes_back() {
    in_netns(async || {
        two_uplinks();
        let wanted = routes(&[
            ("198.18.0.0/20", via("192.0.2.3", "up1")),
            ("198.18.4.0/24", KernelAction::Throw),
            ("2001:db8:8000::/40", via("2001:db8:ffff::1:1", "up1")),
        ]);
        let decision = Decision { generation: Generation(1), kernel: wanted.clone(), ..Decision::default() };
        let (_decisions, receiver) = watch::channel(Arc::new(decision));
        let (sender, mut installed) = mpsc::channel(8);
        let (stop, shutdown) = watch::channel(false);
        let task = Overrides::open(OWN).await.unwrap().run(receiver, sender, clock, shutdown);
        let script = async {
            let first = report(&mut installed).await;
            assert_eq!((first.generation, first.changed, first.failed), (Generation(1), 3, vec![]));
            run("ip route flush table 179");
            let second = report(&mut installed).await;
            assert_eq!((second.changed, second.failed), (2, vec![]), "{}", table());
            // The kernel drops the IPv4 route without a notification.
            run("ip link set up1 down");
            let third = report(&mut installed).await;
            assert!(!third.failed.is_empty());
            run("ip link set up1 up; ip addr add 2001:db8:ffff::1:0/127 dev up1 nodad 2>/dev/null || true");
            loop {
                let news = report(&mut installed).await;
                if news.failed.is_empty() {
                    break;
                }
            }
            assert_eq!(Overrides::open(OWN).await.unwrap().installed(), &wanted, "{}", table());
            stop.send(true).unwrap();
        };
        let (ended, ()) = tokio::join!(task, script);
        assert_eq!(ended.unwrap().clear().await.unwrap(), 3);
    });
}

#[test]
fn ten_thousand_routes_converge_in_well_under_a_second() {
    in_netns(async || {
        two_uplinks();
        let exits = [via("192.0.2.3", "up1"), via("192.0.2.5", "up2")];
        let exits6 = [via("2001:db8:ffff::1:1", "up1"), via("2001:db8:ffff::2:1", "up2")];
        let wanted = |exit: usize| -> Routes {
            let four = (0..10_000_u32).map(|n| {
                let addr = std::net::Ipv4Addr::from(0xc612_0000 + n * 4);
                (Prefix::new(addr.into(), 30).unwrap(), exits[exit])
            });
            let six = (0..10_000_u128).map(|n| {
                let addr = std::net::Ipv6Addr::from((0x2001_0db8_u128 << 96) + (n << 64));
                (Prefix::new(addr.into(), 64).unwrap(), exits6[exit])
            });
            four.chain(six).collect()
        };
        let mut overrides = Overrides::open(OWN).await.unwrap();
        for (title, wanted) in [("add", wanted(0)), ("replace", wanted(1)), ("delete", Routes::new())] {
            let start = std::time::Instant::now();
            let outcome = overrides.converge(&wanted).await.unwrap();
            println!("{title} 10,000 IPv4 and 10,000 IPv6 routes: {:?}", start.elapsed());
            assert_eq!((outcome.changed, outcome.failed.len()), (20_000, 0));
            assert!(start.elapsed() < Duration::from_secs(10));
        }
    });
}

/// The next report of what is installed; what others did is not looked at here.
async fn report(reports: &mut mpsc::Receiver<Input>) -> Installed {
    loop {
        if let Input::Installed(installed) = reports.recv().await.unwrap() {
            return installed;
        }
    }
}
