//! Following the main table. The oracle of what was followed is a fresh reading of the table.

use crate::netns::{in_netns, run, two_uplinks};
use etm_agent::core::input::{FibChange, FibEvent, KernelRoute};
use etm_agent::fib::{OwnTable, RouteMonitor};
use etm_agent::types::Prefix;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

type View = BTreeMap<(Prefix, u32), KernelRoute>;

/// What a consumer of events knows.
#[derive(Default)]
struct Follower {
    view: View,
    synced: bool,
    resets: usize,
}

impl Follower {
    fn apply(&mut self, event: FibEvent) {
        match event {
            FibEvent::Reset => {
                self.view.clear();
                self.synced = false;
                self.resets += 1;
            }
            FibEvent::Synced => self.synced = true,
            FibEvent::Changes(changes) => changes.into_iter().for_each(|change| match change {
                FibChange::Set(route) => {
                    self.view.insert((route.prefix, route.metric), route);
                }
                FibChange::Unset { prefix, metric } => {
                    self.view.remove(&(prefix, metric));
                }
            }),
        }
    }
}

/// Runs `script` beside a monitor whose events it gets.
async fn following(script: impl AsyncFnOnce(&mut mpsc::Receiver<FibEvent>)) {
    let (sender, mut events) = mpsc::channel(16);
    let (stop, shutdown) = watch::channel(false);
    let monitor = RouteMonitor::open(OwnTable::default()).unwrap().run(sender, shutdown);
    let script = async {
        script(&mut events).await;
        stop.send(true).unwrap();
    };
    let (ended, ()) = tokio::join!(monitor, script);
    ended.unwrap();
}

async fn fresh() -> View {
    let mut follower = Follower::default();
    following(async |events| {
        while !follower.synced {
            follower.apply(events.recv().await.unwrap());
        }
    })
    .await;
    follower.view
}

/// Lets `follower` catch up until it knows what a fresh reading finds.
async fn settle(follower: &mut Follower, events: &mut mpsc::Receiver<FibEvent>, title: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let expected = fresh().await;
        while let Ok(event) = events.try_recv() {
            follower.apply(event);
        }
        if follower.synced && follower.view == expected {
            return;
        }
        assert!(Instant::now() < deadline, "after `{title}`: {:?} is not {expected:?}", follower.view);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Commands after each of which the followed view must equal a fresh one, and the resets they may cause.
const STEPS: &[(&str, usize)] = &[
    ("ip route add 198.18.0.0/24 via 192.0.2.3 metric 32 proto bird", 0),
    ("ip route replace 198.18.0.0/24 via 192.0.2.5 metric 32 proto bird", 0),
    ("ip route add 198.18.0.0/24 via 192.0.2.3 metric 50", 0),
    ("ip route replace blackhole 198.18.0.0/24 metric 32", 0),
    ("ip route add 198.18.1.0/24 metric 32 nexthop via 192.0.2.3 nexthop via 192.0.2.5", 0),
    ("ip route replace 198.18.1.0/24 metric 32 via 192.0.2.3", 0),
    ("ip route del 198.18.1.0/24 metric 32", 0),
    ("ip route add 198.18.2.0/24 via inet6 2001:db8:ffff::2:1 dev up2 metric 32", 0),
    (
        "ip -6 route add 2001:db8:1::/48 metric 32 nexthop via 2001:db8:ffff::1:1 nexthop via 2001:db8:ffff::2:1",
        0,
    ),
    ("ip -6 route del 2001:db8:1::/48 metric 32 via 2001:db8:ffff::1:1", 0),
    ("ip -6 route append 2001:db8:1::/48 metric 32 via 2001:db8:ffff::1:1", 0),
    ("ip -6 route replace 2001:db8:1::/48 metric 32 via 2001:db8:ffff::1:1", 0),
    ("ip -6 route append 2001:db8:1::/48 metric 32 dev up2", 1),
    ("ip -6 route del 2001:db8:1::/48 metric 32 via 2001:db8:ffff::1:1", 0),
    ("ip -6 route del 2001:db8:1::/48 metric 32", 0),
    ("ip route add 198.18.3.0/24 via 192.0.2.3 metric 32", 0),
    ("ip route append 198.18.3.0/24 via 192.0.2.5 metric 32", 1),
    ("ip route del 198.18.3.0/24 via 192.0.2.3 metric 32", 0),
    ("ip nexthop add id 5 via 192.0.2.3 dev up1; ip nexthop add id 6 via 192.0.2.5 dev up2", 0),
    ("ip nexthop add id 7 group 5/6; ip route add 198.18.4.0/24 nhid 7 metric 32", 0),
    ("ip nexthop replace id 5 via 192.0.2.5 dev up2", 0),
    ("ip nexthop del id 6", 1),
    ("sysctl -qw net.ipv4.nexthop_compat_mode=0; ip route add 198.18.5.0/24 nhid 5 metric 32", 0),
    ("ip nexthop replace id 5 via 192.0.2.3 dev up1", 1),
    ("ip route add 198.18.6.0/24 via 192.0.2.5 dev up2 metric 32", 0),
    // Untold by the kernel.
    ("ip link set up2 down", 1),
    ("ip link set up2 up", 0),
    ("ip link add other type veth peer name rehto; ip link del other", 0),
    ("ip nexthop del id 5", 1),
];

#[test]
fn the_followed_table_is_the_kernels_after_every_kind_of_change() {
    in_netns(async || {
        two_uplinks();
        run("ip -6 route add 2001:db8:7::/48 metric 32 nexthop via 2001:db8:ffff::1:1 nexthop via 2001:db8:ffff::2:1
             ip -6 route append 2001:db8:7::/48 metric 32 dev up1");
        following(async |events| {
            let mut follower = Follower::default();
            settle(&mut follower, events, "start").await;
            let mut allowed = follower.resets;
            for (step, resets) in STEPS {
                allowed += resets;
                run(step);
                settle(&mut follower, events, step).await;
                assert!(follower.resets <= allowed, "`{step}` caused a reset");
            }
            assert!(!follower.view.is_empty());
        })
        .await;
    });
}

#[test]
fn own_routes_other_tables_and_link_local_prefixes_are_not_reported() {
    in_netns(async || {
        two_uplinks();
        let before = fresh().await;
        run("ip route add 198.18.0.0/24 via 192.0.2.3 table 179 proto 179
             ip route add 198.18.1.0/24 via 192.0.2.3 proto 179 metric 5
             ip route add 198.18.2.0/24 via 192.0.2.3 table 100
             ip -6 route add 2001:db8:1::/48 via 2001:db8:ffff::1:1 table 179 proto 179");
        assert_eq!(fresh().await, before);
        assert!(before.keys().all(|(prefix, _)| !prefix.to_string().starts_with("fe80")), "{before:?}");
    });
}

#[test]
fn lost_notifications_lead_to_a_new_reading_and_the_right_table() {
    in_netns(async || {
        two_uplinks();
        let routes = 150_000_u32;
        let batch: String = (0..routes)
            .map(|n| {
                let addr = std::net::Ipv4Addr::from(0x0b00_0000 + n * 256);
                format!("route add {addr}/24 via 192.0.2.3 metric 32 proto bird\n")
            })
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        following(async |events| {
            let mut follower = Follower::default();
            settle(&mut follower, events, "start").await;
            // This thread also runs the monitor: nothing is read while `ip` works, so the buffer overruns.
            run(&format!("ip -batch {}", file.path().display()));
            let start = Instant::now();
            let whole = usize::try_from(routes).unwrap();
            while !(follower.synced && follower.view.len() > whole) {
                follower.apply(events.recv().await.unwrap());
            }
            println!(
                "{routes} routes known {:?} after the flood, {} readings",
                start.elapsed(),
                follower.resets
            );
            assert!(follower.resets >= 2, "nothing was lost: the test proves nothing");
            assert_eq!(follower.view, fresh().await);
        })
        .await;
    });
}
