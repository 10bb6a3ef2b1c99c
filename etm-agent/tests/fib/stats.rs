//! Device and qdisc statistics of the kernel.

use crate::netns::{ifindex, in_netns, run};
use etm_agent::core::input::{Basis, DeviceCount};
use etm_agent::fib::{StatsError, StatsReader};
use etm_agent::types::IfIndex;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// One uplink whose far end nobody listens at: a fixed neighbour entry keeps ARP out of the counts.
fn uplink() -> IfIndex {
    run("ip link add up1 type veth peer name far1
         ip addr add 192.0.2.2/31 dev up1
         ip link set up1 up; ip link set far1 up
         sysctl -qw net.ipv6.conf.up1.disable_ipv6=1 net.ipv6.conf.far1.disable_ipv6=1
         ip neigh add 192.0.2.3 lladdr 02:00:00:00:00:01 dev up1 nud permanent");
    ifindex("up1")
}

fn flood(packets: u32, bytes: usize) {
    let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
    // Packets on their way count against the socket: enough room that none waits for the qdisc.
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBuf, &(64 << 20)).unwrap();
    let payload = vec![0; bytes];
    for _ in 0..packets {
        // ENOBUFS is the qdisc's drop reported to the sender.
        let _ = socket.send_to(&payload, "192.0.2.3:9");
    }
}

fn enqueued(count: DeviceCount) -> u64 {
    count.sent.packets + count.dropped + count.backlog.packets
}

#[test]
fn what_was_enqueued_is_sent_dropped_or_waiting() {
    for (title, qdisc) in [
        ("tbf", "tc qdisc add dev up1 root tbf rate 10mbit burst 32kb limit 60kb"),
        (
            "htb",
            "tc qdisc add dev up1 root handle 1: htb default 1
             tc class add dev up1 parent 1: classid 1:1 htb rate 10mbit burst 32kb
             tc qdisc add dev up1 parent 1:1 pfifo limit 50",
        ),
        (
            "fq_codel below tbf",
            "tc qdisc add dev up1 root handle 1: tbf rate 10mbit burst 32kb limit 60kb
             tc qdisc add dev up1 parent 1: fq_codel limit 50",
        ),
        ("pfifo", "tc qdisc add dev up1 root pfifo limit 50"),
    ] {
        in_netns(async move || {
            let up = uplink();
            run(&format!("{qdisc} || echo missing"));
            if run("tc qdisc show dev up1 root").contains("noqueue") {
                println!("SKIP this kernel has no {title}");
                return;
            }
            let mut reader = StatsReader::open().unwrap();
            let before = reader.read(up).unwrap();
            assert_eq!(before.basis, Basis::Qdisc);
            flood(3_000, 958);
            let during = reader.read(up).unwrap();
            assert_eq!(enqueued(during) - enqueued(before), 3_000, "{title}: {during:?}");
            let deadline = Instant::now() + Duration::from_secs(5);
            let after = loop {
                let now = reader.read(up).unwrap();
                if now.backlog.packets == 0 || Instant::now() > deadline {
                    break now;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            println!("{title}: {during:?} then {after:?}");
            assert_eq!(enqueued(after) - enqueued(before), 3_000, "{title}: {after:?}");
            // 14 + 20 + 8 bytes of headers.
            assert_eq!(
                after.sent.bytes - before.sent.bytes,
                (after.sent.packets - before.sent.packets) * 1_000
            );
        });
    }
}

#[test]
fn a_device_without_qdisc_tells_its_own_figures_and_several_queues_are_summed_once() {
    in_netns(async || {
        let up = uplink();
        let mut reader = StatsReader::open().unwrap();
        let before = reader.read(up).unwrap();
        assert_eq!(before.basis, Basis::Device);
        flood(100, 958);
        let after = reader.read(up).unwrap();
        assert_eq!(after.sent.since(before.sent).packets, 100);
        assert_eq!(after.sent.since(before.sent).bytes, 100_000);
        run("ip link add mq1 numtxqueues 4 type veth peer name mqfar numrxqueues 4
             ip addr add 192.0.2.4/31 dev mq1; ip link set mq1 up; ip link set mqfar up
             ip neigh add 192.0.2.5 lladdr 02:00:00:00:00:01 dev mq1 nud permanent
             tc qdisc add dev mq1 root handle 1: mq
             for q in 1 2 3 4; do tc qdisc add dev mq1 parent 1:$q pfifo; done");
        let mq = ifindex("mq1");
        let before = reader.read(mq).unwrap();
        assert_eq!(before.basis, Basis::Qdisc);
        let socket = UdpSocket::bind("192.0.2.4:0").unwrap();
        for port in 0..100_u16 {
            socket.send_to(&[0; 58], ("192.0.2.5", 1_000 + port)).unwrap();
        }
        let after = reader.read(mq).unwrap();
        assert_eq!(after.sent.since(before.sent).packets, 100, "{after:?}");
    });
}

#[test]
fn a_device_that_is_down_or_gone_gives_figures_or_a_clear_error() {
    in_netns(async || {
        run("ip link add idle type veth peer name far");
        let mut reader = StatsReader::open().unwrap();
        let idle = reader.read(ifindex("idle")).unwrap();
        assert_eq!(idle.sent.packets, 0);
        match reader.read(IfIndex(99_999)) {
            Err(StatsError::Refused { ifindex: IfIndex(99_999), .. }) => {}
            other => panic!("{other:?}"),
        }
        run("ip link set idle up; tc qdisc add dev idle root pfifo; ip link set idle down");
        assert_eq!(reader.read(ifindex("idle")).unwrap().backlog.packets, 0);
    });
}

#[test]
fn a_replaced_qdisc_begins_anew_and_is_not_taken_for_a_wrapped_counter() {
    in_netns(async || {
        let up = uplink();
        let mut reader = StatsReader::open().unwrap();
        for _ in 0..2 {
            run("tc qdisc add dev up1 root handle 1: tbf rate 100mbit burst 32kb limit 60kb");
            flood(1_000, 958);
            let count = reader.read(up).unwrap();
            assert!(count.dropped > 0 && enqueued(count) == 1_000, "{count:?}");
            run(
                "tc qdisc del dev up1 root; tc qdisc add dev up1 root handle 1: tbf rate 100mbit burst 32kb limit 60kb",
            );
            let anew = reader.read(up).unwrap();
            assert_eq!((anew.sent.packets, anew.dropped), (0, 0));
            run("tc qdisc del dev up1 root");
        }
    });
}

#[test]
fn reading_three_uplinks_takes_microseconds() {
    in_netns(async || {
        for n in 1..=3 {
            run(&format!(
                "ip link add up{n} type veth peer name far{n}; ip link set up{n} up; ip link set far{n} up
                 tc qdisc add dev up{n} root tbf rate 100mbit burst 32kb limit 600kb"
            ));
        }
        let uplinks = [ifindex("up1"), ifindex("up2"), ifindex("up3")];
        let mut reader = StatsReader::open().unwrap();
        let mut best = Duration::MAX;
        for _ in 0..200 {
            let start = Instant::now();
            for up in uplinks {
                reader.read(up).unwrap();
            }
            best = best.min(start.elapsed());
        }
        println!("three uplinks with TBF: {best:?}");
        assert!(best < Duration::from_millis(5));
    });
}
