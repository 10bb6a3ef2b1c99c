//! What the router itself makes is sent on between uplinks of all kinds: with and without an Ethernet header, to another
//! gateway of the same interface, to a gateway of the other family, by tcx and by clsact. Needs root.

#![allow(clippy::unwrap_used, reason = "an unwrap is the assertion of a test")]

use etm_agent::datapath::{
    Datapath, DatapathConfig, Hook, LinkHeader, LocalFate, LocalOutput, Opened, check_local_output,
};
use etm_agent::types::{Count, IfIndex, Timestamp, UplinkId};
use etm_tests::clock::boottime_ns;
use etm_tests::dataplane::{self, Root, Size, turn};
use nix::net::if_::if_nametoindex;
use std::net::UdpSocket;

const OUT: IfIndex = IfIndex(40);
const MARK: u32 = 0x1_0000;
const PACKETS: u64 = 5;

fn run(line: &str) -> String {
    dataplane::run(line).unwrap()
}

/// `out` with two gateways, a tunnel over `under`, an address that is of neither, plain routes and overrides.
fn wire() {
    for line in [
        "ip link set lo up",
        "ip address add 10.9.9.9/32 dev lo",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        "ip link add out index 40 type veth peer name peer index 41",
        "ip link add under index 50 type veth peer name below index 51",
        "ip address add 198.51.100.1/24 dev out",
        "ip address add 192.0.2.1/24 dev under",
        "ip link set out up",
        "ip link set peer up",
        "ip link set under up",
        "ip link set below up",
        "ip neighbor replace 198.51.100.2 lladdr 02:00:00:00:00:02 dev out nud permanent",
        "ip neighbor replace 198.51.100.3 lladdr 02:00:00:00:00:03 dev out nud permanent",
        "ip neighbor replace fe80::2 lladdr 02:00:00:00:00:02 dev out nud permanent",
        "ip neighbor replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev under nud permanent",
        "ip tuntap add name tunnel mode tun",
        "sysctl -qw net.ipv6.conf.tunnel.disable_ipv6=1",
        "ip link set tunnel up",
        "ip route add 198.18.0.0/16 via 198.51.100.2",
        "ip route add 198.19.0.0/16 dev tunnel",
        "ip rule add fwmark 0x10000/0x10000 lookup 179 priority 1790",
        "ip route add 198.18.1.0/24 dev tunnel table 179",
        "ip route add 198.18.2.0/24 via 198.51.100.3 table 179",
        "ip route add 198.18.3.0/24 via 198.51.100.2 table 179",
        "ip route add 198.18.4.0/24 dev under table 179",
        "ip route add throw 198.18.2.128/25 table 179",
        "ip route add 198.19.1.0/24 via 198.51.100.2 table 179",
        "ip route add 198.19.2.0/24 via inet6 fe80::2 dev out table 179",
    ] {
        run(line);
    }
}

fn open(root: &Root, hook: Hook) -> Opened {
    let size = Size { prefixes4: 4, prefixes6: 4, uplinks: 2, fast_path: true };
    let sources = vec!["10.9.9.0/24".parse().unwrap()];
    let config = DatapathConfig {
        hook,
        uplinks: vec!["out".into(), "tunnel".into()],
        local_output: Some(LocalOutput { table: 179, sources }),
        ..root.config(size)
    };
    let mut opened = Datapath::open(&config).unwrap();
    opened.datapath.attach_uplink(UplinkId(0), OUT, LinkHeader::Ethernet).unwrap();
    let tunnel = IfIndex(if_nametoindex("tunnel").unwrap());
    opened.datapath.attach_uplink(UplinkId(1), tunnel, LinkHeader::None).unwrap();
    opened.lease.arm(MARK, MARK).unwrap();
    opened
}

/// Packets that were offered to `out` and to the tunnel, and the fates of those that an override is for.
fn sent(opened: &Opened, to: &str) -> (u64, u64, Vec<(LocalFate, u64)>) {
    let read = || {
        let total = |uplink| -> Count { opened.counters.total(UplinkId(uplink)).unwrap() };
        let fate = |fate| opened.local.read(fate).unwrap().packets;
        ([total(0).packets, total(1).packets], LocalFate::ALL.map(fate))
    };
    // Nobody reads from the tunnel: what is offered to it is dropped there.
    let device = || -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = text.lines().find(|line| line.trim_start().starts_with("out:")).unwrap();
        line.split_whitespace().nth(10).unwrap().parse().unwrap()
    };
    let (before, left) = (read(), device());
    let socket = UdpSocket::bind("10.9.9.9:0").unwrap();
    for _ in 0..PACKETS {
        match socket.send_to(&[0; 100], (to, 9)) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(nix::libc::ENOBUFS), "{to}"),
        }
    }
    let after = read();
    let [out, tunnel] = [0, 1].map(|uplink| after.0[uplink] - before.0[uplink]);
    assert_eq!(out, device() - left, "what the device sent is what was counted");
    let fates = LocalFate::ALL.into_iter().zip(after.1.iter().zip(before.1));
    let fates = fates.map(|(fate, (after, before))| (fate, after - before)).filter(|(_, grown)| *grown > 0);
    (out, tunnel, fates.collect())
}

fn between_all_kinds(hook: Hook) {
    let Some(_serial) = turn() else { return };
    let body = move || {
        wire();
        let root = Root::new(if hook == Hook::Clsact { "own-clsact" } else { "own-tcx" });
        let mut opened = open(&root, hook);
        for to in ["198.18.1.1", "198.18.2.1", "198.19.1.1"] {
            let (out, tunnel, fates) = sent(&opened, to);
            assert_eq!((out + tunnel, fates), (PACKETS, vec![]), "{to}: no lease, nothing moves");
        }
        opened.lease.renew(Timestamp(boottime_ns() + 60_000_000_000)).unwrap();
        for (title, to, expected) in [
            ("from Ethernet to a tunnel", "198.18.1.1", (0, PACKETS, vec![(LocalFate::Moved, PACKETS)])),
            ("from a tunnel to Ethernet", "198.19.1.1", (PACKETS, 0, vec![(LocalFate::Moved, PACKETS)])),
            (
                "from a tunnel to an IPv6 gateway",
                "198.19.2.1",
                (PACKETS, 0, vec![(LocalFate::Moved, PACKETS)]),
            ),
            (
                "to another gateway of the interface",
                "198.18.2.1",
                (PACKETS, 0, vec![(LocalFate::Moved, PACKETS)]),
            ),
            ("to the gateway that it has", "198.18.3.1", (PACKETS, 0, vec![(LocalFate::Same, PACKETS)])),
            ("past the uplinks", "198.18.4.1", (PACKETS, 0, vec![(LocalFate::Ruled, PACKETS)])),
            ("thrown back to plain routing", "198.18.2.129", (PACKETS, 0, vec![])),
            ("without an override", "198.19.9.1", (0, PACKETS, vec![])),
        ] {
            assert_eq!(sent(&opened, to), expected, "{title}");
        }
        // The other gateway is meant by its link address.
        run("ip neighbor replace 198.51.100.3 lladdr 02:00:00:00:00:02 dev out nud permanent");
        assert_eq!(sent(&opened, "198.18.2.1").2, vec![(LocalFate::Same, PACKETS)]);
        opened.lease.expire().unwrap();
        assert_eq!(sent(&opened, "198.18.1.1"), (PACKETS, 0, vec![]), "the lease has ended");
    };
    dataplane::in_namespace(body).unwrap();
}

#[test]
fn packets_are_sent_on_between_links_of_all_kinds_by_tcx() {
    between_all_kinds(Hook::Tcx);
}

#[test]
fn packets_are_sent_on_between_links_of_all_kinds_by_clsact() {
    between_all_kinds(Hook::Clsact);
}

#[test]
fn this_kernel_is_asked_by_trying() {
    let Some(_serial) = turn() else { return };
    check_local_output().unwrap();
}
