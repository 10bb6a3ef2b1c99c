//! The kernel program on two interfaces of a namespace of its own: one with Ethernet header, one without. Never sends
//! anything that another namespace could receive.

use crate::in_namespace;
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{TestRun as _, TestRunOptions};
use etm_agent::core::decision::TableChange;
use etm_agent::core::input::Uncounted;
use etm_agent::datapath::{Datapath, DatapathConfig, Hook, KernelLogLevel, LinkHeader, Opened};
use etm_agent::types::{IfIndex, Prefix, Share, SlotId, UplinkId};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, bind, send, socket,
};
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

const OUT: IfIndex = IfIndex(40);
/// TC_ACT_UNSPEC and TCX_NEXT.
const NEXT: u32 = u32::MAX;
/// Distinct destinations of the largest set.
const SLOTS: u32 = 4096;

/// What a packet begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    Ethernet,
    Ip,
}

/// By which way a packet came to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// BPF_PROG_TEST_RUN.
    TestRun,
    /// A packet socket, and out through the interface.
    Socket,
}

/// What one packet was counted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grown {
    /// Destinations whose counters grew.
    pub(crate) destinations: Vec<IpAddr>,
    /// Reasons whose counters grew, and by how many packets.
    pub(crate) reasons: Vec<(Uncounted, u64)>,
}

/// The program, and a table of host routes: each destination has a slot of its own.
pub(crate) struct Bench {
    opened: Opened,
    program: SchedClassifier,
    ethernet: OwnedFd,
    ip: OwnedFd,
    destinations: Vec<IpAddr>,
    uncounted: [u64; Uncounted::ALL.len()],
    root: PathBuf,
}

impl Bench {
    /// In the calling thread's namespace, which must be its own.
    pub(crate) fn new(title: &str, destinations: impl Iterator<Item = IpAddr>) -> Bench {
        run(&format!("ip link add out index {OUT} mtu 65535 type veth peer name peer mtu 65535"));
        run("sysctl -qw net.ipv6.conf.out.disable_ipv6=1 net.ipv6.conf.peer.disable_ipv6=1");
        run("ip tuntap add name tun mode tun");
        run("ip link set tun mtu 65535");
        run("sysctl -qw net.ipv6.conf.tun.disable_ipv6=1");
        for name in ["out", "peer", "tun"] {
            run(&format!("ip link set {name} up"));
        }
        let root = PathBuf::from(format!("/sys/fs/bpf/etm-test-{}-{title}", std::process::id()));
        let mut opened = open(&root);
        opened.datapath.attach_uplink(UplinkId(0), OUT, LinkHeader::Ethernet).unwrap();
        let tun = IfIndex(nix::net::if_::if_nametoindex("tun").unwrap());
        opened.datapath.attach_uplink(UplinkId(1), tun, LinkHeader::None).unwrap();
        let destinations: Vec<IpAddr> =
            destinations.map(|addr| (addr, ())).collect::<BTreeMap<_, _>>().into_keys().collect();
        let insert = |(addr, slot): (&IpAddr, u32)| {
            let len = if addr.is_ipv4() { 32 } else { 128 };
            TableChange::Insert { prefix: Prefix::new(*addr, len).unwrap(), slot: SlotId(slot) }
        };
        let changes: Vec<_> = destinations.iter().zip(0..SLOTS).map(insert).collect();
        assert_eq!(changes.len(), destinations.len(), "more destinations than slots");
        opened.table.apply(&changes).unwrap();
        let (ethernet, ip) = (packet_socket(OUT), packet_socket(tun));
        let program = attached(&root);
        Bench { opened, program, ethernet, ip, destinations, uncounted: [0; 4], root }
    }

    /// Runs the program on a packet; none where the kernel lets no such packet come to it.
    ///
    /// BPF_PROG_TEST_RUN takes the protocol from octets 12 and 13, so that what begins with IP has to be sent.
    pub(crate) fn offer(&self, begins: Begins, packet: &[u8]) -> Option<Way> {
        if begins == Begins::Ethernet && self.test_run(packet) {
            return Some(Way::TestRun);
        }
        let socket = if begins == Begins::Ethernet { &self.ethernet } else { &self.ip };
        match send(socket.as_raw_fd(), packet, MsgFlags::empty()) {
            Ok(_) => Some(Way::Socket),
            // Nobody reads from the tun interface: what was counted is dropped by its queue.
            Err(Errno::ENOBUFS) if begins == Begins::Ip => Some(Way::Socket),
            Err(_) => None,
        }
    }

    /// False where the kernel refuses to make such a packet: short of the header that it announces, or too long.
    fn test_run(&self, packet: &[u8]) -> bool {
        let mut context = [0; 192];
        context[40..44].copy_from_slice(&OUT.get().to_ne_bytes());
        let mut after = vec![0; packet.len()];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut after);
        options.ctx_in = Some(&context);
        let Ok(result) = self.program.test_run(options) else { return false };
        assert_eq!(result.return_value, NEXT, "the verdict");
        assert_eq!(after, packet, "the packet is unchanged");
        true
    }

    /// What grew since the last call.
    pub(crate) fn grown(&mut self) -> Grown {
        let mut rows = Vec::new();
        self.opened.counters.changed(&mut rows);
        let destination = |slot: SlotId| self.destinations[usize::try_from(slot.0).unwrap()];
        let destinations = rows.into_iter().map(|row| destination(row.slot)).collect();
        let of = |uplink| self.opened.counters.uncounted(UplinkId(uplink)).map(|count| count.packets);
        let now = of(0).into_iter().zip(of(1)).map(|(one, other)| one + other);
        let mut reasons = Vec::new();
        for ((reason, now), before) in Uncounted::ALL.into_iter().zip(now).zip(&mut self.uncounted) {
            if now != *before {
                reasons.push((reason, now - *before));
                *before = now;
            }
        }
        Grown { destinations, reasons }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The rest goes with the adapter, which was never told to keep it.
        let _ = fs::remove_file(program_pin(&self.root));
    }
}

fn open(root: &Path) -> Opened {
    Datapath::open(&DatapathConfig {
        pin_root: root.to_path_buf(),
        slots: SLOTS,
        uplink_rows: 2,
        prefixes4: SLOTS,
        prefixes6: SLOTS,
        fast_path: true,
        uplinks: vec!["out".into(), "tun".into()],
        hook: Hook::Auto,
        canary: Share::ONE,
        local_output: None,
        kernel_log: KernelLogLevel::Off,
    })
    .unwrap()
}

/// Beside the root, which holds only what the adapter put there. File names on bpffs have no dots.
fn program_pin(root: &Path) -> PathBuf {
    PathBuf::from(format!("{}-program", root.display()))
}

/// The program at the interface: with the maps that the adapter filled.
fn attached(root: &Path) -> SchedClassifier {
    let (_, programs) = SchedClassifier::query_tcx("out", TcAttachType::Egress).unwrap();
    let pin = program_pin(root);
    run(&format!("bpftool prog pin id {} {}", programs[0].id(), pin.display()));
    SchedClassifier::from_pin(&pin).unwrap()
}

/// A socket that sends packets as they are through an interface.
fn packet_socket(ifindex: IfIndex) -> OwnedFd {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &link_address(ifindex)).unwrap();
    socket
}

/// The link-layer address that stands for an interface index. Safe code cannot make one from a number, and the kernel
/// lists none for an interface without link-layer address: so it is taken from an Ethernet interface of that index in
/// another namespace.
fn link_address(ifindex: IfIndex) -> SockaddrStorage {
    in_namespace(move || {
        run(&format!("ip link add model index {ifindex} type veth peer name other"));
        nix::ifaddrs::getifaddrs()
            .unwrap()
            .filter(|found| found.interface_name == "model")
            .filter_map(|found| found.address)
            .find(|address| address.family() == Some(AddressFamily::Packet))
            .unwrap()
    })
}

/// Runs a command line of words, and returns what it says.
pub(crate) fn run(line: &str) -> String {
    etm_tests::dataplane::run(line).unwrap()
}
