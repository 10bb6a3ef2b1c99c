//! A forwarder in XDP that calls ETM, in a network namespace of its own: each packet is counted exactly once, whether it
//! is redirected in XDP or forwarded by the kernel. Needs root; nothing outside of the namespace is touched.

#![allow(clippy::unwrap_used, reason = "an unwrap is the assertion of a test")]

use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use etm_agent::core::decision::TableChange;
use etm_agent::core::input::SlotCount;
use etm_agent::datapath::{
    self, Datapath, DatapathConfig, DatapathError, Forwarder, Hook, LinkHeader, Opened,
};
use etm_agent::types::{Count, IfIndex, SlotId, UplinkId};
use etm_tests::agent::{self, Agent, AgentOptions, Site};
use etm_tests::dataplane::{self, Root, Size, turn};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{self, PATIENCE};
use etm_tests::topology::Role;
use etm_tests::traffic::{Demand, FRAME, Generator, Sink};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike as _, bind, send, socket};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::thread;
use std::time::{Duration, Instant};

const UPLINK: UplinkId = UplinkId(0);
/// Inside interface, uplink, and an interface that is no uplink. Each has a peer that stands for the world there.
const IN: IfIndex = IfIndex(40);
const OUT: IfIndex = IfIndex(50);
const ELSE: IfIndex = IfIndex(60);
const SLOT: SlotId = SlotId(3);
/// Of each frame.
const LEN: u64 = 114;

/// One test at a time, with the forwarder's object. None where the tests of this file cannot run; says why.
fn start() -> Option<(MutexGuard<'static, ()>, PathBuf)> {
    let turn = turn()?;
    match dataplane::object("etm-forwarder.bpf.o") {
        Ok(object) => Some((turn, object)),
        Err(error) => {
            println!("SKIP {error}");
            None
        }
    }
}

fn run(line: &str) -> String {
    dataplane::run(line).unwrap()
}

fn in_namespace(body: impl FnOnce() + Send + 'static) {
    dataplane::in_namespace(body).unwrap();
}

/// 192.0.2.0/24 behind `in`, 198.18.0.0/16 behind `out`, 198.19.0.0/16 behind `else`.
fn make_links() {
    for (name, index) in [("in", IN), ("out", OUT), ("else", ELSE)] {
        run(&format!("ip link add {name} index {index} type veth peer name {name}-peer"));
        run(&format!(
            "sysctl -qw net.ipv6.conf.{name}.disable_ipv6=1 net.ipv6.conf.{name}-peer.disable_ipv6=1"
        ));
        run(&format!("sysctl -qw net.ipv4.conf.{name}.rp_filter=0 net.ipv4.conf.{name}.forwarding=1"));
        run(&format!("ip link set {name}-peer up"));
    }
    run("sysctl -qw net.ipv4.conf.all.rp_filter=0");
    for (name, net, route) in [
        ("in", "203.0.113", "192.0.2.0/24"),
        ("out", "198.51.100", "198.18.0.0/16"),
        ("else", "192.168.7", "198.19.0.0/16"),
    ] {
        run(&format!("ip address add {net}.1/24 dev {name}"));
        run(&format!("ip link set {name} address 02:00:00:00:00:01 up"));
        run(&format!("ip neighbor replace {net}.2 lladdr 02:00:00:00:00:02 dev {name} nud permanent"));
        run(&format!("ip route add {route} via {net}.2"));
    }
}

fn config(root: &Root) -> DatapathConfig {
    let size = Size { prefixes4: 4, prefixes6: 4, uplinks: 1, fast_path: false };
    DatapathConfig { slots: 16, uplinks: vec!["out".into()], ..root.config(size) }
}

/// With one prefix for what lies behind `out`, and counting there.
fn open(root: &Root) -> Opened {
    let mut opened = Datapath::open(&config(root)).unwrap();
    opened.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
    let prefix = "198.18.0.0/16".parse().unwrap();
    opened.table.apply(&[TableChange::Insert { prefix, slot: SLOT }]).unwrap();
    opened
}

/// How a forwarder is loaded.
#[derive(Clone, Copy, Debug)]
struct Kind {
    mode: XdpMode,
    /// Whether it says where it redirects to, or leaves that to the kernel's routes.
    states: u32,
}

/// The forwarder on `in`, with ETM's map by its pin, or with one of its own that nobody fills.
fn forwarder(object: &Path, root: Option<&Root>, kind: Kind) -> Ebpf {
    let call = root.map(|root| root.path().join("etm_xdp_call"));
    let mut object = load_forwarder(object, call.as_deref(), kind.states);
    let program: &mut Xdp = object.program_mut("forward").unwrap().try_into().unwrap();
    program.attach("in", kind.mode).unwrap();
    if kind.mode == XdpMode::Driver {
        // A veth takes redirected frames only where its peer has a program too. This one passes what is for others.
        for peer in ["out-peer", "else-peer"] {
            program.attach(peer, kind.mode).unwrap();
        }
    }
    object
}

fn load_forwarder(object: &Path, call: Option<&Path>, states: u32) -> Ebpf {
    let mut loader = EbpfLoader::new();
    loader.btf(None).override_global("STATES", &states, true);
    if let Some(call) = call {
        loader.map_pin_path("etm_xdp_call", call);
    }
    let mut object = loader.load_file(object).unwrap();
    let program: &mut Xdp = object.program_mut("forward").unwrap().try_into().unwrap();
    program.load().unwrap();
    object
}

/// A frame that enters by `in`.
fn frame(destination: [u8; 4], words: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0, 0x40 | words, 0, 0, 100];
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1]);
    frame.extend(destination);
    // Options: no operation.
    frame.resize(14 + usize::from(words) * 4, 1);
    let sum: u32 = frame[14..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.resize(usize::try_from(LEN).unwrap(), 0);
    frame
}

/// A socket that sends frames as they are through `in-peer`, so that they enter by `in`.
fn inlet() -> OwnedFd {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let address = nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter(|found| found.interface_name == "in-peer")
        .filter_map(|found| found.address)
        .find(|address| address.family() == Some(AddressFamily::Packet))
        .unwrap();
    bind(socket.as_raw_fd(), &address).unwrap();
    socket
}

/// Frames that came out at the other end.
fn arrived(peer: &str) -> u64 {
    let text = run(&format!("ip -s -j link show {peer}"));
    let at = text.find("\"rx\":").unwrap();
    let packets = text[at..].split("\"packets\":").nth(1).unwrap();
    packets.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn wait_for(peer: &str, frames: u64) {
    let end = Instant::now() + Duration::from_secs(10);
    while arrived(peer) < frames {
        assert!(Instant::now() < end, "{} of {frames} frames arrived at {peer}", arrived(peer));
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(arrived(peer), frames, "at {peer}");
}

fn count(packets: u64) -> Count {
    Count { bytes: packets * LEN, packets }
}

/// Rows that grew, and what was counted for no prefix.
fn counted(opened: &mut Opened) -> (Vec<SlotCount>, u64) {
    let mut rows = Vec::new();
    opened.counters.changed(&mut rows);
    let uncounted = opened.counters.uncounted(UPLINK);
    (rows, uncounted.iter().map(|count| count.packets).sum())
}

fn each_packet_is_counted_once(test: &'static str, kind: Kind) {
    let Some((_serial, object)) = start() else { return };
    in_namespace(move || {
        make_links();
        let root = Root::new(test);
        let mut opened = open(&root);
        opened.datapath.serve_forwarders().unwrap();
        let _forwarder = forwarder(&object, Some(&root), kind);
        let inlet = inlet();
        let offer = |frames: u64, frame: Vec<u8>| {
            for _ in 0..frames {
                send(inlet.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
            }
        };
        // Redirected in XDP.
        offer(70, frame([198, 18, 7, 7], 5));
        wait_for("out-peer", 70);
        let row = |packets| SlotCount { slot: SLOT, uplink: UPLINK, count: count(packets) };
        assert_eq!(counted(&mut opened), (vec![row(70)], 0));
        assert_eq!(opened.counters.redirected(UPLINK).unwrap(), count(70));
        // The forwarder leaves options to the kernel, whose forwarding comes by TC.
        offer(30, frame([198, 18, 7, 7], 6));
        wait_for("out-peer", 100);
        assert_eq!(counted(&mut opened), (vec![row(100)], 0));
        assert_eq!(opened.counters.redirected(UPLINK).unwrap(), count(70), "not by XDP");
        assert_eq!(opened.counters.total(UPLINK).unwrap(), count(100));
        // Redirected, but not to an uplink.
        offer(11, frame([198, 19, 7, 7], 5));
        wait_for("else-peer", 11);
        assert_eq!(counted(&mut opened), (vec![], 0));
        assert_eq!(opened.counters.redirected_elsewhere().unwrap(), [count(11), Count::default()]);
        // Without ETM forwarding goes on.
        opened.datapath.leave_forwarders().unwrap();
        offer(5, frame([198, 18, 7, 7], 5));
        wait_for("out-peer", 105);
        assert_eq!(counted(&mut opened), (vec![], 0));
    });
}

#[test]
fn what_a_generic_forwarder_redirects_by_the_kernels_routes_is_counted_once() {
    each_packet_is_counted_once("xdp-routed", Kind { mode: XdpMode::Skb, states: 0 });
}

#[test]
fn what_a_generic_forwarder_says_that_it_redirects_is_counted_once() {
    each_packet_is_counted_once("xdp-stated", Kind { mode: XdpMode::Skb, states: 1 });
}

#[test]
fn what_a_native_forwarder_redirects_by_the_kernels_routes_is_counted_once() {
    each_packet_is_counted_once("xdp-native", Kind { mode: XdpMode::Driver, states: 0 });
}

#[test]
fn what_a_native_forwarder_says_that_it_redirects_is_counted_once() {
    each_packet_is_counted_once("xdp-native-stated", Kind { mode: XdpMode::Driver, states: 1 });
}

#[test]
fn counting_in_xdp_survives_the_agent_and_ends_with_its_pins() {
    let Some((_serial, object)) = start() else { return };
    in_namespace(move || {
        make_links();
        let root = Root::new("xdp-restart");
        let mut first = open(&root);
        first.datapath.serve_forwarders().unwrap();
        first.datapath.keep();
        let _forwarder = forwarder(&object, Some(&root), Kind { mode: XdpMode::Skb, states: 0 });
        drop(first);
        let inlet = inlet();
        let offer = |frames: u64| {
            for _ in 0..frames {
                send(inlet.as_raw_fd(), &frame([198, 18, 7, 7], 5), MsgFlags::empty()).unwrap();
            }
        };
        offer(20);
        wait_for("out-peer", 20);
        let mut second = open(&root);
        second.datapath.serve_forwarders().unwrap();
        second.datapath.keep();
        offer(20);
        wait_for("out-peer", 40);
        assert_eq!(second.counters.redirected(UPLINK).unwrap(), count(40));
        assert_eq!(second.counters.total(UPLINK).unwrap(), count(40));
        drop(second);
        datapath::detach(root.path()).unwrap();
        offer(20);
        wait_for("out-peer", 60);
    });
}

#[test]
fn an_interface_that_another_program_holds_is_named_with_what_to_do() {
    let Some((_serial, object)) = start() else { return };
    in_namespace(move || {
        make_links();
        let root = Root::new("xdp-held");
        let mut opened = open(&root);
        let error = opened.datapath.check_forwarder(IN).unwrap_err();
        assert!(matches!(error, DatapathError::XdpNothing { .. }), "{error}");
        assert!(error.to_string().contains("start the forwarder first"), "{error}");

        let kind = Kind { mode: XdpMode::Skb, states: 0 };
        let foreign = forwarder(&object, None, kind);
        let error = opened.datapath.check_forwarder(IN).unwrap_err().to_string();
        for shown in ["interface in is held by XDP program forward", "/etm_xdp_call", "docs/xdp.md"] {
            assert!(error.contains(shown), "{shown}: {error}");
        }
        drop(foreign);

        let _forwarder = forwarder(&object, Some(&root), kind);
        let found = opened.datapath.check_forwarder(IN).unwrap();
        assert_eq!(found, Forwarder::Calls { program: "forward".into() });
    });
}

#[test]
fn the_doctor_shows_what_is_on_the_hooks_whosever_it_is() {
    let Some((_serial, object)) = start() else { return };
    in_namespace(move || {
        make_links();
        let root = Root::new("doctor");
        let mut opened = open(&root);
        opened.datapath.attach_inside(IN).unwrap();
        let _forwarder = forwarder(&object, Some(&root), Kind { mode: XdpMode::Skb, states: 0 });
        run("tc qdisc add dev else clsact");

        let found = datapath::examine(root.path());
        let shown: Vec<_> = found
            .interfaces
            .iter()
            .flat_map(|on| {
                on.programs
                    .iter()
                    .map(move |program| (&*on.name, &*program.hook, program.name.as_deref(), program.ours))
            })
            .collect();
        let expected = [
            ("in", "xdp generic", Some("forward"), false),
            ("in", "tcx ingress", Some("etm_mark"), true),
            ("out", "tcx egress", Some("etm_egress"), true),
        ];
        assert_eq!(shown.len(), expected.len(), "{shown:?}");
        assert!(expected.iter().all(|one| shown.contains(one)), "{shown:?}");
        assert_eq!(found.used, ["tcx ingress of in: etm_mark", "tcx egress of out: etm_egress"]);
        for (name, part) in [
            ("etm_prefix4", "LpmTrie, key 8, value 4, entries 4"),
            ("etm_xdp_call", "ProgramArray, key 4, value 4, entries 1"),
            ("links/50-egress", "tcx link"),
        ] {
            let pin = found.pins.iter().find(|pin| pin.name == name);
            assert!(pin.is_some_and(|pin| pin.shape.contains(part)), "{name}: {:?}", found.pins);
        }
        assert_eq!(found.problems, [""; 0]);
        assert!(found.features.iter().all(|feature| feature.works != Some(false)), "{:?}", found.features);
    });
}

#[test]
fn the_doctor_sees_a_clsact_filter_by_name() {
    let Some(_serial) = start() else { return };
    in_namespace(|| {
        make_links();
        let root = Root::new("doctor-clsact");
        let mut opened = Datapath::open(&DatapathConfig { hook: Hook::Clsact, ..config(&root) }).unwrap();
        opened.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
        let found = datapath::examine(root.path());
        assert_eq!(found.used, ["clsact egress of out: etm_egress"]);
    });
}

/// A whole lab with a forwarder on its inside interface: ETM counts what it redirects and what it leaves to the kernel,
/// and its books hold, though no queue sees the first.
fn books_hold_in_a_lab(uplink_bps: u64, basis: &str) {
    let Some((_serial, object)) = start() else { return };
    let Some(_turn) = scene::turn() else { return };
    let lab = Lab::up(LabOptions { uplink_bps, ..LabOptions::default() }).unwrap();
    let options = AgentOptions::observe();
    let text = agent::config(&Site::of(&lab), &options);
    let text = text.replacen("[datapath]\n", "[datapath]\nxdp = [\"in0\"]\n", 1);
    let config = agent::write_text(&lab, &text).unwrap();
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let agent = Agent::start_by(&lab, &config, options.log).unwrap();
    wait_until("etm-agent to be ready", PATIENCE, || agent.ready(lab.table())).unwrap();
    let call = lab.pin_root().join("etm_xdp_call");
    let border = lab.namespace(Role::Border);
    let attached = || {
        let mut object = load_forwarder(&object, Some(&call), 0);
        let program: &mut Xdp = object.program_mut("forward").unwrap().try_into().unwrap();
        program.attach("in0", XdpMode::Skb).unwrap();
        Ok(object)
    };
    let forwarder = border.inside(attached).unwrap();
    let flows = Demand::by_home(30.0, 10.0, 6.0).flows(lab.table(), FRAME);
    let mut generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap();
    // A window of the books, and some.
    pass_time(Duration::from_secs(13));
    generator.stop();
    assert_eq!(sink.drain(&generator, PATIENCE).unwrap(), 0, "packets lost in the lab");
    let mut arrived: BTreeMap<String, u64> = BTreeMap::new();
    for ((provider, _), received) in sink.received() {
        *arrived.entry(provider.uplink().to_owned()).or_default() += received.ledger.total.packets;
    }
    let books = wait_until("the totals to stand still", PATIENCE, || {
        let books = agent.books().map_err(|error| error.to_string())?;
        let counted: BTreeMap<String, u64> =
            books.iter().map(|uplink| (uplink.name.clone(), uplink.counted.packets)).collect();
        if counted == arrived { Ok(books) } else { Err(format!("counted {counted:?}, arrived {arrived:?}")) }
    })
    .unwrap();
    let dump = run(&format!("bpftool -j map dump pinned {}", lab.pin_root().join("etm_xdp_seen").display()));
    let seen: Vec<serde_json::Value> = serde_json::from_str(&dump).unwrap();
    let redirected = |row: &serde_json::Value| -> u64 {
        let cpus = row["formatted"]["values"].as_array().unwrap();
        cpus.iter().map(|cpu| cpu["value"]["packets"].as_u64().unwrap()).sum()
    };
    let by_xdp: u64 = seen.iter().take(3).map(redirected).sum();
    let all: u64 = arrived.values().sum();
    assert!(by_xdp > all / 4 && by_xdp < all, "{by_xdp} of {all} packets were redirected: IPv4 alone");
    for uplink in books {
        assert_eq!((&*uplink.basis, &*uplink.book), (basis, "exact"), "{uplink:?}");
        assert_eq!((uplink.worst.packet_error, uplink.worst.failed), (0, 0), "{uplink:?}");
    }
    drop(forwarder);
}

#[test]
fn the_books_hold_where_a_forwarder_passes_by_the_qdisc() {
    books_hold_in_a_lab(500_000_000, "qdisc");
}

#[test]
fn the_books_hold_where_a_forwarder_hands_frames_to_a_device_without_qdisc() {
    books_hold_in_a_lab(0, "device");
}
