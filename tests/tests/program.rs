//! The kernel programs, run by BPF_PROG_TEST_RUN on packets with titles. No interface, no traffic; needs root.
//! Never pins anything: each test loads its own copy of the object.

#![allow(clippy::unwrap_used, reason = "an unwrap is the assertion of a test")]

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use aya_log::EbpfLogger;
use etm_agent::core::input::Uncounted;
use etm_agent::datapath;
use etm_common::{Count, Lease, MarkSetting, Off, UPLINK_WITHOUT_ETHERNET, Uplink, names};
use etm_tests::dataplane::{LOOPBACK, turn};
use std::sync::Mutex;
use std::time::Duration;

const SLOTS: u32 = 8;
const UPLINKS: u32 = 2;
/// TC_ACT_UNSPEC and TCX_NEXT.
const NEXT: u32 = u32::MAX;

const V4_DEFAULT: u32 = 0;
const V4_WIDE: u32 = 1;
const V4_NARROW: u32 = 2;
const V4_HOST: u32 = 3;
const V6_WIDE: u32 = 4;
const V6_NARROW: u32 = 5;
const BEYOND: u32 = SLOTS;

/// A loaded object with a small table.
struct Programs(Ebpf);

/// Levels of aya-log.
const SILENT: u8 = 0;
const DEBUG: u8 = 4;

impl Programs {
    fn load(log_level: u8) -> Programs {
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global(names::GLOBAL_SLOTS, &SLOTS, true)
            // The canonical way; `lookup.rs` compares the fast one with it.
            .override_global(names::GLOBAL_FAST, &0_u32, true)
            .override_global(names::GLOBAL_LOG_LEVEL, &log_level, true)
            .map_max_entries(names::PREFIX4, 8)
            .map_max_entries(names::PREFIX6, 8)
            .map_max_entries(names::COUNT, SLOTS * UPLINKS)
            .map_max_entries(names::UNCOUNTED, 4 * UPLINKS)
            .load(datapath::object())
            .unwrap();
        for name in [names::EGRESS_PROGRAM, names::EGRESS_OWN_PROGRAM, names::MARK_PROGRAM] {
            let program: &mut SchedClassifier = object.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        Programs(object)
    }

    /// With the table of the cases, and the loopback interface as uplink 0.
    fn with_table(default: bool) -> Programs {
        let mut programs = Programs::load(SILENT);
        programs.uplink(0, 0);
        let mut v4: LpmTrie<_, [u8; 4], u32> = programs.map(names::PREFIX4);
        for (len, addr, slot) in [
            (15, [198, 18, 0, 0], V4_WIDE),
            (24, [198, 18, 7, 0], V4_NARROW),
            (32, [198, 18, 7, 7], V4_HOST),
            (24, [203, 0, 113, 0], BEYOND),
        ] {
            v4.insert(&Key::new(len, addr), slot, 0).unwrap();
        }
        if default {
            v4.insert(&Key::new(0, [0; 4]), V4_DEFAULT, 0).unwrap();
        }
        let mut v6: LpmTrie<_, [u8; 16], u32> = programs.map(names::PREFIX6);
        v6.insert(&Key::new(32, v6_addr(0, 0)), V6_WIDE, 0).unwrap();
        v6.insert(&Key::new(48, v6_addr(7, 0)), V6_NARROW, 0).unwrap();
        programs
    }

    fn map<'a, M>(&'a mut self, name: &str) -> M
    where
        M: TryFrom<&'a mut aya::maps::Map>,
        M::Error: std::fmt::Debug,
    {
        self.0.map_mut(name).unwrap().try_into().unwrap()
    }

    fn uplink(&mut self, index: u32, flags: u32) {
        let mut uplinks: HashMap<&mut MapData, u32, Uplink> = self.map(names::UPLINKS);
        uplinks.insert(LOOPBACK, Uplink { index, flags }, 0).unwrap();
    }

    /// Runs a program on a packet; the verdict must be "next" and the packet unchanged. Returns the context after it.
    fn run(&self, program: &str, packet: &[u8], context: &Context, repeat: u32) -> Context {
        let program: &SchedClassifier = self.0.program(program).unwrap().try_into().unwrap();
        let (mut out, mut after) = (vec![0; packet.len()], Context::default());
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context.0);
        options.ctx_out = Some(&mut after.0);
        options.repeat = repeat;
        let result = program.test_run(options).unwrap_or_else(|error| panic!("{error:?}: {packet:02x?}"));
        assert_eq!(result.return_value, NEXT, "the verdict");
        assert_eq!(out, packet, "the packet");
        after
    }

    /// A lease that ends in so many seconds; none was never given.
    fn lease(&mut self, seconds: Option<i64>) {
        let deadline_ns = seconds.map_or(0, |seconds| {
            let now = i64::try_from(boottime().as_nanos()).unwrap();
            u64::try_from(now + seconds * 1_000_000_000).unwrap()
        });
        let mut lease: Array<&mut MapData, Lease> = self.map(names::LEASE);
        let setting = MarkSetting { mark: MARK, mask: MASK };
        lease.set(0, Lease { deadline_ns, setting }, 0).unwrap();
    }

    /// All rows that are not zero: (uplink, Ok(slot) or Err(reason), count).
    fn counted(&mut self) -> Vec<(u32, Result<u32, Uncounted>, Count)> {
        let mut rows = Vec::new();
        let counts: Array<&mut MapData, Count> = self.map(names::COUNT);
        for (index, count) in (0..).zip(counts.iter().map(Result::unwrap)) {
            rows.push((index / SLOTS, Ok(index % SLOTS), count));
        }
        let uncounted: Array<&mut MapData, Count> = self.map(names::UNCOUNTED);
        for (index, count) in (0_usize..).zip(uncounted.iter().map(Result::unwrap)) {
            rows.push((u32::try_from(index / 4).unwrap(), Err(Uncounted::ALL[index % 4]), count));
        }
        rows.retain(|(_, _, count)| *count != Count::default());
        rows
    }
}

/// `struct __sk_buff` of linux/bpf.h, as bytes.
struct Context([u8; 192]);

impl Default for Context {
    fn default() -> Context {
        Context([0; 192]).with(Context::IFINDEX, LOOPBACK)
    }
}

impl Context {
    const MARK: usize = 8;
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    const WIRE_LEN: usize = 160;
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;

    fn with(mut self, at: usize, value: u32) -> Context {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn get(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().unwrap())
    }
}

fn v6_addr(third: u16, last: u16) -> [u8; 16] {
    std::net::Ipv6Addr::new(0x2001, 0xdb8, third, 0, 0, 0, 0, last).octets()
}

fn ethernet(tags: &[u16], ethertype: u16, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (vlan, tpid) in (100_u16..).zip(tags) {
        packet.extend(tpid.to_be_bytes());
        packet.extend(vlan.to_be_bytes());
    }
    packet.extend(ethertype.to_be_bytes());
    packet.extend(rest);
    packet
}

fn v4_with(destination: [u8; 4], words: u8, payload: usize) -> Vec<u8> {
    let mut header = vec![0x40 | words, 0];
    header.extend(u16::try_from(usize::from(words) * 4 + payload).unwrap().to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0, 8, 0, 0, 1]);
    header.extend(destination);
    // Options: no operation.
    header.resize(usize::from(words) * 4, 1);
    header.resize(header.len() + payload, 0);
    header
}

fn v4(destination: [u8; 4]) -> Vec<u8> {
    v4_with(destination, 5, 20)
}

fn v6(destination: [u8; 16]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 20, 17, 64];
    header.extend([0x20, 1, 0xd, 0xb8, 0x86, 0xdd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    header.extend(destination);
    header.resize(60, 0);
    header
}

const DOT1Q: u16 = 0x8100;
const DOT1AD: u16 = 0x88a8;
const OLD_QINQ: u16 = 0x9100;
const IP4: u16 = 0x0800;
const IP6: u16 = 0x86dd;

type Case = (&'static str, Vec<u8>, Result<u32, Uncounted>);

fn ipv4_cases() -> Vec<Case> {
    let plain = |addr| ethernet(&[], IP4, &v4(addr));
    vec![
        ("an address of one prefix counts for it", plain([198, 19, 0, 1]), Ok(V4_WIDE)),
        ("of two nested prefixes the longer one counts", plain([198, 18, 7, 1]), Ok(V4_NARROW)),
        ("of three nested prefixes the host route counts", plain([198, 18, 7, 7]), Ok(V4_HOST)),
        ("the first address of a prefix is inside", plain([198, 18, 7, 0]), Ok(V4_NARROW)),
        ("the last address of a prefix is inside", plain([198, 18, 7, 255]), Ok(V4_NARROW)),
        ("the address after a prefix counts for the covering one", plain([198, 18, 8, 0]), Ok(V4_WIDE)),
        ("an address of no other prefix counts for the default route", plain([192, 0, 2, 1]), Ok(V4_DEFAULT)),
        (
            "a slot beyond the counters is a reason, not another uplink's row",
            plain([203, 0, 113, 1]),
            Err(Uncounted::BadSlot),
        ),
        ("one VLAN tag is looked through", ethernet(&[DOT1Q], IP4, &v4([198, 18, 7, 7])), Ok(V4_HOST)),
        (
            "two VLAN tags (802.1ad) are looked through",
            ethernet(&[DOT1AD, DOT1Q], IP4, &v4([198, 18, 7, 7])),
            Ok(V4_HOST),
        ),
        (
            "two VLAN tags of the old kind are looked through",
            ethernet(&[OLD_QINQ, DOT1Q], IP4, &v4([198, 18, 7, 7])),
            Ok(V4_HOST),
        ),
        (
            "three VLAN tags are not",
            ethernet(&[DOT1AD, DOT1Q, DOT1Q], IP4, &v4([198, 18, 7, 7])),
            Err(Uncounted::NonIp),
        ),
        (
            "IP options do not hide the destination",
            ethernet(&[], IP4, &v4_with([198, 18, 7, 7], 15, 8)),
            Ok(V4_HOST),
        ),
        (
            "a header without payload is enough",
            ethernet(&[], IP4, &v4_with([198, 18, 7, 7], 5, 0)),
            Ok(V4_HOST),
        ),
        ("a later fragment has a destination too", fragment(), Ok(V4_HOST)),
    ]
}

fn fragment() -> Vec<u8> {
    let mut packet = ethernet(&[], IP4, &v4([198, 18, 7, 7]));
    packet[14 + 6] = 0x20;
    packet[14 + 7] = 0xb9;
    packet
}

fn ipv6_cases() -> Vec<Case> {
    let plain = |addr| ethernet(&[], IP6, &v6(addr));
    vec![
        ("an IPv6 address counts for its prefix", plain(v6_addr(1, 1)), Ok(V6_WIDE)),
        ("of two nested IPv6 prefixes the longer one counts", plain(v6_addr(7, 1)), Ok(V6_NARROW)),
        ("an IPv6 address of no prefix is a reason", plain([0xfe; 16]), Err(Uncounted::NoPrefix)),
        ("the IPv4 default route is none for IPv6", plain([0; 16]), Err(Uncounted::NoPrefix)),
        ("IPv6 behind one VLAN tag is found", ethernet(&[DOT1Q], IP6, &v6(v6_addr(7, 1))), Ok(V6_NARROW)),
        (
            "IPv6 behind two VLAN tags is found",
            ethernet(&[DOT1AD, DOT1Q], IP6, &v6(v6_addr(7, 1))),
            Ok(V6_NARROW),
        ),
        (
            "an IPv6 header without payload is enough",
            ethernet(&[DOT1Q], IP6, &v6(v6_addr(7, 1))[..40]),
            Ok(V6_NARROW),
        ),
    ]
}

fn refused_cases() -> Vec<Case> {
    let (whole4, whole6) = (v4([198, 18, 7, 7]), v6(v6_addr(7, 1)));
    let wrong_version = |mut header: Vec<u8>| {
        header[0] ^= 0x70;
        header
    };
    let mut short_words = whole4.clone();
    short_words[0] = 0x44;
    let options_missing = v4_with([198, 18, 7, 7], 15, 0)[..40].to_vec();
    let malformed = Err(Uncounted::Malformed);
    // Headers that are cut short stand behind a tag: the kernel takes no test packet that is shorter than the header
    // which its own Ethernet type announces.
    vec![
        ("ARP is not IP", ethernet(&[], 0x0806, &[0; 46]), Err(Uncounted::NonIp)),
        ("LLDP is not IP", ethernet(&[], 0x88cc, &[0; 46]), Err(Uncounted::NonIp)),
        ("an IEEE 802.3 length field is not IP", ethernet(&[], 38, &[0; 46]), Err(Uncounted::NonIp)),
        ("a frame that ends where IPv4 is announced is malformed", ethernet(&[DOT1Q], IP4, &[]), malformed),
        ("a frame that ends where IPv6 is announced is malformed", ethernet(&[DOT1Q], IP6, &[]), malformed),
        ("a VLAN tag cut short is malformed", ethernet(&[], DOT1Q, &[0, 100]), malformed),
        ("a second VLAN tag cut short is malformed", ethernet(&[DOT1AD], DOT1Q, &[0, 100]), malformed),
        ("an IPv4 header one octet short is malformed", ethernet(&[DOT1Q], IP4, &whole4[..19]), malformed),
        ("an IPv6 header one octet short is malformed", ethernet(&[DOT1Q], IP6, &whole6[..39]), malformed),
        ("IPv4 options beyond the end are malformed", ethernet(&[], IP4, &options_missing), malformed),
        ("an IPv4 header of less than five words is malformed", ethernet(&[], IP4, &short_words), malformed),
        (
            "another version under IPv4's type is malformed",
            ethernet(&[], IP4, &wrong_version(whole4)),
            malformed,
        ),
        (
            "another version under IPv6's type is malformed",
            ethernet(&[], IP6, &wrong_version(whole6)),
            malformed,
        ),
    ]
}

#[test]
fn each_packet_is_counted_once_for_its_prefix_or_for_a_reason() {
    let Some(_turn) = turn() else { return };
    for (title, packet, expected) in [ipv4_cases(), ipv6_cases(), refused_cases()].concat() {
        let mut programs = Programs::with_table(true);
        programs.run(names::EGRESS_PROGRAM, &packet, &Context::default(), 3);
        let count = Count { bytes: 3 * u64::try_from(packet.len()).unwrap(), packets: 3 };
        assert_eq!(programs.counted(), [(0, expected, count)], "{title}");
    }
}

#[test]
fn with_nothing_to_send_on_the_program_for_local_output_counts_the_same() {
    let Some(_turn) = turn() else { return };
    // Made here, with a fresh lease and no override; forwarded; marked already.
    let contexts = [
        Context::default(),
        Context::default().with(Context::INGRESS_IFINDEX, LOOPBACK),
        Context::default().with(Context::MARK, MARK),
    ];
    for (title, packet, expected) in [ipv4_cases(), ipv6_cases(), refused_cases()].concat() {
        let mut programs = Programs::with_table(true);
        programs.lease(Some(60));
        for context in &contexts {
            programs.run(names::EGRESS_OWN_PROGRAM, &packet, context, 1);
        }
        let count = Count { bytes: 3 * u64::try_from(packet.len()).unwrap(), packets: 3 };
        assert_eq!(programs.counted(), [(0, expected, count)], "{title}");
    }
}

#[test]
fn without_a_default_route_an_unknown_destination_is_a_reason() {
    let Some(_turn) = turn() else { return };
    let mut programs = Programs::with_table(false);
    let packet = ethernet(&[], IP4, &v4([192, 0, 2, 1]));
    programs.run(names::EGRESS_PROGRAM, &packet, &Context::default(), 1);
    let count = Count { bytes: u64::try_from(packet.len()).unwrap(), packets: 1 };
    assert_eq!(programs.counted(), [(0, Err(Uncounted::NoPrefix), count)]);
}

#[test]
fn an_interface_without_link_layer_header_begins_with_ip() {
    let Some(_turn) = turn() else { return };
    // The kernel takes octets 12 and 13 of what it is given for the protocol: here they are in the source address.
    for (title, packet, slot) in
        [("IPv4", v4([198, 18, 7, 7]), V4_HOST), ("IPv6", v6(v6_addr(7, 1)), V6_NARROW)]
    {
        let mut programs = Programs::with_table(true);
        programs.uplink(1, UPLINK_WITHOUT_ETHERNET);
        programs.run(names::EGRESS_PROGRAM, &packet, &Context::default(), 1);
        let count = Count { bytes: u64::try_from(packet.len()).unwrap(), packets: 1 };
        assert_eq!(programs.counted(), [(1, Ok(slot), count)], "{title}");
    }
}

#[test]
fn a_super_packet_counts_as_its_segments_with_all_their_headers() {
    let Some(_turn) = turn() else { return };
    let mut programs = Programs::with_table(true);
    let packet = ethernet(&[], IP4, &v4_with([198, 18, 7, 7], 5, 2900));
    let context = Context::default()
        .with(Context::WIRE_LEN, 3042)
        .with(Context::GSO_SEGS, 3)
        .with(Context::GSO_SIZE, 1448);
    programs.run(names::EGRESS_PROGRAM, &packet, &context, 1);
    assert_eq!(programs.counted(), [(0, Ok(V4_HOST), Count { bytes: 3042, packets: 3 })]);
}

#[test]
fn a_tcp_packet_that_is_not_segmented_counts_as_one() {
    let Some(_turn) = turn() else { return };
    // gso_segs is set on every TCP packet, gso_size only on super-packets.
    let mut programs = Programs::with_table(true);
    let packet = ethernet(&[], IP4, &v4([198, 18, 7, 7]));
    programs.run(names::EGRESS_PROGRAM, &packet, &Context::default().with(Context::GSO_SEGS, 1), 1);
    assert_eq!(programs.counted()[0].2.packets, 1);
}

#[test]
fn an_interface_that_is_no_uplink_is_not_counted() {
    let Some(_turn) = turn() else { return };
    let mut programs = Programs::load(SILENT);
    let packet = ethernet(&[], IP4, &v4([198, 18, 7, 7]));
    programs.run(names::EGRESS_PROGRAM, &packet, &Context::default(), 1);
    assert_eq!(programs.counted(), []);
}

/// Lines that aya-log's reader would log.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl log::Log for &Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn a_malformed_packet_is_told_of_where_debug_lines_are_on() {
    let Some(_turn) = turn() else { return };
    for (level, expected) in [(SILENT, 0), (DEBUG, 1)] {
        let lines = Lines::default();
        let mut programs = Programs::load(level);
        programs.uplink(1, 0);
        let mut logger = EbpfLogger::init_with_logger(&mut programs.0, &lines).unwrap();
        let packet = ethernet(&[DOT1Q], IP4, &v4([198, 18, 7, 7])[..19]);
        programs.run(names::EGRESS_PROGRAM, &packet, &Context::default(), 1);
        logger.flush();
        let lines = lines.0.lock().unwrap();
        assert_eq!(lines.len(), expected);
        assert!(
            lines.iter().all(|line| line.contains("malformed packet of 37 bytes on uplink 1")),
            "{lines:?}"
        );
    }
}

/// One case of the mark program: title, switch, deadline from now in seconds, mark before and after.
type MarkCase = (&'static str, u32, Option<i64>, u32, u32);

const MASK: u32 = 0x00ff_0000;
const MARK: u32 = 0x00b3_0000;
const MARK_CASES: [MarkCase; 7] = [
    ("a fresh lease marks", 0, Some(60), 0, MARK),
    ("bits outside the mask stay as they were", 0, Some(60), 0x1234_5678, 0x12b3_5678),
    ("old bits inside the mask go", 0, Some(60), 0x00ff_0000, MARK),
    ("a lease that ended marks nothing", 0, Some(-1), 0x77, 0x77),
    ("a lease that was never given marks nothing", 0, None, 0x77, 0x77),
    ("the switch is stronger than a fresh lease", 1, Some(60), 0x77, 0x77),
    ("any value but 0 switches off", 0x8000_0000, Some(60), 0x77, 0x77),
];

fn boottime() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap().into()
}

#[test]
fn packets_are_marked_while_the_lease_is_fresh_and_nobody_switched_off() {
    let Some(_turn) = turn() else { return };
    for (title, off, deadline, before, after) in MARK_CASES {
        let mut programs = Programs::load(SILENT);
        programs.lease(deadline);
        let mut switch: Array<&mut MapData, Off> = programs.map(names::OFF);
        switch.set(0, Off { off }, 0).unwrap();

        let packet = ethernet(&[], IP4, &v4([198, 18, 7, 7]));
        let context = Context::default().with(Context::MARK, before);
        let result = programs.run(names::MARK_PROGRAM, &packet, &context, 1);
        assert_eq!(result.get(Context::MARK), after, "{title}");

        let marked: PerCpuArray<&mut MapData, Count> = programs.map(names::MARKED);
        let row = if before == after { names::MARKED_PLAIN } else { names::MARKED_SET };
        let packets: u64 = marked.get(&row, 0).unwrap().iter().map(|count| count.packets).sum();
        assert_eq!(packets, 1, "{title}: counted as what it was");
    }
}
