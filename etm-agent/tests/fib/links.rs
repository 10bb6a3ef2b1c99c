//! Link state in the kernel.

use crate::netns::{ifindex, in_netns, run, two_uplinks};
use etm_agent::core::input::LinkEvent;
use etm_agent::fib::{FibError, LinkMonitor, LinkState, resolve};
use etm_agent::types::{IfIndex, UplinkId};
use std::time::Instant;
use tokio::sync::{mpsc, watch};

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn interfaces_are_found_by_name_and_a_missing_one_is_told_beside_those_that_exist() {
    in_netns(async || {
        two_uplinks();
        run("ip link set far2 down");
        let links = resolve(&names(&["up2", "lo", "up1"])).await.unwrap();
        let states: Vec<_> = links.iter().map(|l| (l.name.as_str(), l.state, l.ethernet)).collect();
        assert_eq!(
            states,
            [("up2", LinkState::NoCarrier, true), ("lo", LinkState::Up, false), ("up1", LinkState::Up, true)]
        );
        assert_eq!(links[0].ifindex, ifindex("up2"));
        match resolve(&names(&["up1", "up9"])).await {
            Err(FibError::NoInterface { missing, present }) => {
                assert_eq!(missing, ["up9"]);
                assert!(present.contains(&"up1".to_owned()), "{present:?}");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn each_change_of_an_uplink_is_seen_within_milliseconds() {
    in_netns(async || {
        two_uplinks();
        let uplinks = vec![(UplinkId(0), "up1".to_owned()), (UplinkId(1), "up2".to_owned())];
        let (sender, mut events) = mpsc::channel(16);
        let (stop, shutdown) = watch::channel(false);
        let monitor = LinkMonitor::open(uplinks).unwrap().run(sender, shutdown);
        let script = async {
            let (one, two) = (ifindex("up1"), ifindex("up2"));
            let event =
                |uplink, ifindex: Option<IfIndex>, up| LinkEvent { uplink: UplinkId(uplink), ifindex, up };
            assert_eq!(events.recv().await, Some(event(0, Some(one), true)));
            assert_eq!(events.recv().await, Some(event(1, Some(two), true)));
            for (command, expected) in [
                ("ip link set far1 down", event(0, Some(one), false)),
                ("ip link set far1 up", event(0, Some(one), true)),
                ("ip link set up2 down", event(1, Some(two), false)),
                ("ip link set up2 up", event(1, Some(two), true)),
                ("ip link set up2 down", event(1, Some(two), false)),
                // Renamed it is the same uplink: nothing is told until it is gone.
                ("ip link set up2 name was2; ip link del was2", event(1, None, false)),
            ] {
                let start = Instant::now();
                run(command);
                assert_eq!(events.recv().await, Some(expected), "{command}");
                println!("{command}: seen {:?} after the command was started", start.elapsed());
            }
            run(
                "ip link add up2 index 4242 type veth peer name far2; ip link set far2 up; ip link set up2 up",
            );
            let new = IfIndex(4242);
            assert_eq!(events.recv().await, Some(event(1, Some(new), false)));
            assert_eq!(events.recv().await, Some(event(1, Some(new), true)));
            stop.send(true).unwrap();
        };
        let (ended, ()) = tokio::join!(monitor, script);
        ended.unwrap();
    });
}
