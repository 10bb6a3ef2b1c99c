//! Next hops that answer and that do not.

use crate::netns::{ifindex, in_netns, run, two_uplinks};
use etm_agent::core::input::GatewayEvent;
use etm_agent::fib::GatewayMonitor;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use tokio::sync::{mpsc, watch};

#[test]
fn a_next_hop_that_the_kernel_gave_up_is_told_and_tried_again_until_it_answers() {
    in_netns(async || {
        two_uplinks();
        run("echo 100 > /proc/sys/net/ipv4/neigh/up1/retrans_time_ms
             echo 100 > /proc/sys/net/ipv6/neigh/up1/retrans_time_ms");
        let (v4, v6): (IpAddr, IpAddr) =
            ("192.0.2.3".parse().unwrap(), "2001:db8:ffff::1:1".parse().unwrap());
        let up1 = Some(ifindex("up1"));
        let (sender, mut events) = mpsc::channel(16);
        let (stop, shutdown) = watch::channel(false);
        let monitor = GatewayMonitor::open([v4, v6]).unwrap().run(sender, shutdown);
        let script = async {
            // Nobody has these addresses.
            for (gateway, any, address) in [(v4, "0.0.0.0", "192.0.2.3"), (v6, "::", "2001:db8:ffff::1:1")] {
                let socket = UdpSocket::bind((any, 0)).unwrap();
                socket.send_to(b"to nobody", (address, 9)).unwrap();
                assert_eq!(events.recv().await, Some(GatewayEvent { gateway, ifindex: up1, answers: false }));
            }
            run("ip neigh replace 192.0.2.3 lladdr 02:00:00:00:00:01 dev up1 nud reachable");
            assert_eq!(events.recv().await, Some(GatewayEvent { gateway: v4, ifindex: up1, answers: true }));
            stop.send(true).unwrap();
        };
        let (ended, ()) = tokio::join!(monitor, script);
        ended.unwrap();
    });
}

#[test]
fn a_link_local_next_hop_is_lost_on_its_own_link_alone() {
    in_netns(async || {
        two_uplinks();
        for dev in ["up1", "up2"] {
            run(&format!(
                "echo 100 > /proc/sys/net/ipv6/neigh/{dev}/retrans_time_ms
                 ip addr add fe80::5/64 dev {dev} nodad"
            ));
        }
        let addr = "fe80::9".parse::<Ipv6Addr>().unwrap();
        let gateway = IpAddr::V6(addr);
        let event = |dev: &str, answers| GatewayEvent { gateway, ifindex: Some(ifindex(dev)), answers };
        let (sender, mut events) = mpsc::channel(16);
        let (stop, shutdown) = watch::channel(false);
        let monitor = GatewayMonitor::open([gateway]).unwrap().run(sender, shutdown);
        let script = async {
            // Nobody has this address on either link.
            for dev in ["up1", "up2"] {
                let socket = UdpSocket::bind(("::", 0)).unwrap();
                socket.send_to(b"to nobody", SocketAddrV6::new(addr, 9, 0, ifindex(dev).get())).unwrap();
                assert_eq!(events.recv().await, Some(event(dev, false)));
            }
            run("ip neigh replace fe80::9 lladdr 02:00:00:00:00:01 dev up1 nud reachable");
            assert_eq!(events.recv().await, Some(event("up1", true)));
            stop.send(true).unwrap();
        };
        let (ended, ()) = tokio::join!(monitor, script);
        ended.unwrap();
    });
}
