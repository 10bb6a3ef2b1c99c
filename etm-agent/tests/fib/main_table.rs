//! Overrides among the routes of others, in the main table.

use crate::netns::{clock, ifindex, in_netns, run, two_uplinks};
use etm_agent::core::decision::{Decision, KernelAction};
use etm_agent::core::input::{Input, Installed};
use etm_agent::fib::{Finding, Overrides, OwnTable, cleanup_main, probe_main};
use etm_agent::types::{Generation, Prefix};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

type Routes = BTreeMap<Prefix, KernelAction>;

fn own() -> OwnTable {
    OwnTable::in_main(179)
}

fn via(gateway: &str, name: &str) -> KernelAction {
    KernelAction::Via { gateway: gateway.parse().unwrap(), ifindex: ifindex(name) }
}

fn routes(list: &[(&str, KernelAction)]) -> Routes {
    list.iter().map(|(prefix, action)| (prefix.parse().unwrap(), *action)).collect()
}

/// What a routing daemon and an operator have there.
fn others() {
    run("ip route add 198.18.0.0/20 via 192.0.2.3 dev up1 proto bird metric 32
         ip route add 198.18.4.0/24 via 192.0.2.3 dev up1 proto bird metric 32
         ip route add 2001:db8:8000::/40 via 2001:db8:ffff::1:1 dev up1 proto bird metric 32
         ip route add 198.18.32.0/24 via 192.0.2.3 dev up1 proto bird metric 32
         ip route add 198.18.32.0/24 via 192.0.2.3 dev up1 proto static metric 10
         ip route add 198.18.33.0/24 via 192.0.2.3 dev up1 proto 179 metric 400");
}

/// Everything in the main table but what can only be ETM's.
fn of_others() -> String {
    let all = run("ip -4 route show table main; ip -6 route show table main");
    all.lines().filter(|line| !line.contains("proto 179 metric 10 ")).collect::<Vec<_>>().join("\n")
}

fn way(destination: &str) -> String {
    let got = run(&format!("ip route get {destination}"));
    got.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned()
}

#[test]
fn an_override_stands_beside_the_daemons_route_and_never_in_place_of_one() {
    in_netns(async || {
        two_uplinks();
        others();
        let before = of_others();
        let mut overrides = Overrides::open(own()).await.unwrap();
        let (one, two) = (via("192.0.2.3", "up1"), via("192.0.2.5", "up2"));
        let wanted = routes(&[
            ("198.18.0.0/20", two),
            // Longer matches are the daemon's own routes here: nothing has to protect them.
            ("198.18.4.0/24", KernelAction::Throw),
            ("2001:db8:8000::/40", via("2001:db8:ffff::2:1", "up2")),
            ("198.18.32.0/24", two),
        ]);
        let outcome = overrides.converge(&wanted).await.unwrap();
        assert_eq!(outcome.changed, 2, "{outcome:?}");
        let (prefix, reason) = &outcome.failed[0];
        assert_eq!(prefix.to_string(), "198.18.32.0/24");
        assert!(reason.contains("another program"), "{reason}");
        for (destination, expected) in [
            ("198.18.1.1", "up2"),
            ("198.18.4.1", "up1"),
            ("2001:db8:8000::1", "up2"),
            ("198.18.32.1", "up1"),
        ] {
            assert_eq!(way(destination), expected, "{destination}");
        }
        assert_eq!(of_others(), before);
        let moved =
            routes(&[("198.18.0.0/20", one), ("2001:db8:8000::/40", via("2001:db8:ffff::1:1", "up1"))]);
        let outcome = overrides.converge(&moved).await.unwrap();
        assert_eq!(outcome.failed, vec![]);
        assert_eq!((way("198.18.1.1"), way("2001:db8:8000::1")), ("up1".to_owned(), "up1".to_owned()));
        assert_eq!(Overrides::open(own()).await.unwrap().installed(), &moved, "a restart adopts it");
        assert_eq!(cleanup_main(179).await.unwrap(), 2);
        assert_eq!(of_others(), before);
        assert_eq!(run("ip route show proto 179 metric 10; ip -6 route show proto 179 metric 10"), "");
    });
}

#[test]
fn where_no_lease_guards_the_table_routes_stand_only_while_the_fence_says_so() {
    in_netns(async || {
        two_uplinks();
        others();
        let wanted = routes(&[("198.18.0.0/20", via("192.0.2.5", "up2"))]);
        let decision = Decision { generation: Generation(1), kernel: wanted.clone(), ..Decision::default() };
        let (_decisions, receiver) = watch::channel(Arc::new(decision));
        let (sender, mut installed) = mpsc::channel(8);
        let (stop, shutdown) = watch::channel(false);
        let held = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&held);
        let fence = Box::new(move || asked.load(Ordering::Relaxed));
        let task = Overrides::open(own()).await.unwrap().fenced(fence).run(receiver, sender, clock, shutdown);
        let script = async {
            assert_eq!(report(&mut installed).await.changed, 1);
            held.store(false, Ordering::Relaxed);
            assert_eq!(report(&mut installed).await.changed, 1);
            assert_eq!(way("198.18.1.1"), "up1", "the lease is over");
            held.store(true, Ordering::Relaxed);
            assert_eq!(report(&mut installed).await.changed, 1);
            // Somebody else takes it out: it is put back.
            run("ip route del 198.18.0.0/20 proto 179");
            assert_eq!(report(&mut installed).await.changed, 1);
            assert_eq!(way("198.18.1.1"), "up2");
            // The daemon's changes are none of ours.
            run("ip route replace 198.18.0.0/20 via 192.0.2.3 dev up1 proto bird metric 33");
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(installed.try_recv().is_err());
            stop.send(true).unwrap();
        };
        let (ended, ()) = tokio::join!(task, script);
        assert_eq!(ended.unwrap().clear().await.unwrap(), 1);
    });
}

#[test]
fn frr_is_found_by_its_routes() {
    in_netns(async || {
        two_uplinks();
        assert_eq!(probe_main().await.unwrap(), []);
        run("ip route add 198.18.0.0/24 via 192.0.2.3 proto zebra metric 20
             ip route add 198.18.1.0/24 via 192.0.2.3 proto 186 metric 20");
        let found = probe_main().await.unwrap();
        assert_eq!(found, [Finding::ZebraTakesOut { count: 2 }]);
        assert!(found[0].refuses_enforce() && found[0].to_string().contains("kernel.mode = \"lease\""));
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
