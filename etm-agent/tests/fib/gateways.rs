//! Next hops that answer and that do not.

use crate::netns::{in_netns, run, two_uplinks};
use etm_agent::core::input::GatewayEvent;
use etm_agent::fib::GatewayMonitor;
use std::net::{IpAddr, UdpSocket};
use tokio::sync::{mpsc, watch};

#[test]
fn a_next_hop_that_the_kernel_gave_up_is_told_and_tried_again_until_it_answers() {
    in_netns(async || {
        two_uplinks();
        run("echo 100 > /proc/sys/net/ipv4/neigh/up1/retrans_time_ms
             echo 100 > /proc/sys/net/ipv6/neigh/up1/retrans_time_ms");
        let (v4, v6): (IpAddr, IpAddr) =
            ("192.0.2.3".parse().unwrap(), "2001:db8:ffff::1:1".parse().unwrap());
        let (sender, mut events) = mpsc::channel(16);
        let (stop, shutdown) = watch::channel(false);
        let monitor = GatewayMonitor::open([v4, v6]).unwrap().run(sender, shutdown);
        let script = async {
            // Nobody has these addresses.
            for (gateway, any, address) in [(v4, "0.0.0.0", "192.0.2.3"), (v6, "::", "2001:db8:ffff::1:1")] {
                let socket = UdpSocket::bind((any, 0)).unwrap();
                socket.send_to(b"to nobody", (address, 9)).unwrap();
                assert_eq!(events.recv().await, Some(GatewayEvent { gateway, answers: false }));
            }
            run("ip neigh replace 192.0.2.3 lladdr 02:00:00:00:00:01 dev up1 nud reachable");
            assert_eq!(events.recv().await, Some(GatewayEvent { gateway: v4, answers: true }));
            stop.send(true).unwrap();
        };
        let (ended, ()) = tokio::join!(monitor, script);
        ended.unwrap();
    });
}
