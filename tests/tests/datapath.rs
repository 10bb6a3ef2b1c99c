//! The adapter's life on real interfaces: attach, count, restart, detach. Each test has a network namespace and a pin
//! root of its own; nothing outside of them is touched. Needs root.

#![allow(clippy::unwrap_used, reason = "an unwrap is the assertion of a test")]

use etm_agent::core::decision::{LiveRow, TableChange};
use etm_agent::core::input::{SlotCount, Uncounted};
use etm_agent::datapath::{
    self, Attached, Datapath, DatapathConfig, DatapathError, Hook, LinkHeader, OffSwitch, Opened,
};
use etm_agent::types::{BitRate, Count, IfIndex, Prefix, SlotId, Timestamp, UplinkId};
use etm_tests::dataplane::{self, Root, Size, turn};
use std::fs;
use std::net::UdpSocket;
use std::path::Path;

/// Ethernet, IPv4, UDP.
const HEADERS: u64 = 14 + 20 + 8;
const UPLINK: UplinkId = UplinkId(1);
const OUT: IfIndex = IfIndex(40);
const PEER: IfIndex = IfIndex(41);

/// Two uplinks, of which the second is `out`.
fn config(root: &Root, hook: Hook) -> DatapathConfig {
    let size = Size { prefixes4: 4, prefixes6: 4, uplinks: 2, fast_path: true };
    let uplinks = vec!["unused".into(), "out".into()];
    DatapathConfig { slots: 16, uplinks, hook, ..root.config(size) }
}

fn open(root: &Root, hook: Hook) -> Opened {
    Datapath::open(&config(root, hook)).unwrap()
}

fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let body = || {
        run("ip link set lo up");
        make_link();
        body();
    };
    dataplane::in_namespace(body).unwrap();
}

/// A pair of interfaces over which the test network is reached without ARP and without IPv6 chatter.
fn make_link() {
    run(&format!("ip link add out index {OUT} type veth peer name peer index {PEER}"));
    run("sysctl -qw net.ipv6.conf.out.disable_ipv6=1 net.ipv6.conf.peer.disable_ipv6=1");
    run("ip address add 198.51.100.1/24 dev out");
    run("ip link set out up");
    run("ip link set peer up");
    run("ip neighbor replace 198.51.100.2 lladdr 02:00:00:00:00:02 dev out nud permanent");
    run("ip route add 198.18.0.0/15 via 198.51.100.2");
}

fn run(line: &str) -> String {
    dataplane::run(line).unwrap()
}

fn send(destination: &str, packets: u64, payload: usize) {
    let socket = UdpSocket::bind("198.51.100.1:0").unwrap();
    for _ in 0..packets {
        assert_eq!(socket.send_to(&vec![0; payload], (destination, 9)).unwrap(), payload);
    }
}

fn count(packets: u64, payload: u64) -> Count {
    Count { bytes: packets * (HEADERS + payload), packets }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn insert(text: &str, slot: u32) -> TableChange {
    TableChange::Insert { prefix: prefix(text), slot: SlotId(slot) }
}

fn remove(text: &str, slot: u32) -> TableChange {
    TableChange::Remove { prefix: prefix(text), slot: SlotId(slot) }
}

fn row(slot: u32, count: Count) -> SlotCount {
    SlotCount { slot: SlotId(slot), uplink: UPLINK, count }
}

fn changed(opened: &mut Opened) -> Vec<SlotCount> {
    let mut rows = Vec::new();
    opened.counters.changed(&mut rows);
    rows
}

const TABLE: [&str; 2] = ["198.18.0.0/15", "198.18.7.0/24"];

fn counts_survive_a_restart(test: &'static str, hook: Hook, attached: Attached) {
    let Some(_serial) = turn() else { return };
    in_namespace(move || {
        let root = Root::new(test);
        let mut first = open(&root, hook);
        assert_eq!(first.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap(), attached);
        first.table.apply(&[insert(TABLE[0], 3), insert(TABLE[1], 5)]).unwrap();
        first.datapath.keep();
        send("198.18.7.7", 10, 100);
        send("198.19.0.1", 20, 200);
        assert_eq!(changed(&mut first), [row(3, count(20, 200)), row(5, count(10, 100))]);
        assert_eq!(changed(&mut first), [], "nothing changed since");
        let total = Count { bytes: 20 * (HEADERS + 200) + 10 * (HEADERS + 100), packets: 30 };
        assert_eq!(first.counters.total(UPLINK).unwrap(), total);
        drop(first);

        send("198.18.7.7", 5, 100);
        let mut second = open(&root, hook);
        assert_eq!(second.adopted.entries, [(prefix(TABLE[0]), SlotId(3)), (prefix(TABLE[1]), SlotId(5))]);
        assert_eq!(second.adopted.rows, [row(3, count(20, 200)), row(5, count(15, 100))]);
        assert_eq!(second.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap(), attached);
        second.datapath.keep();
        send("198.18.7.7", 5, 100);
        assert_eq!(changed(&mut second), [row(5, count(20, 100))], "counted once, not twice");

        assert!(matches!(datapath::detach(root.path()), Err(DatapathError::InUse { .. })));
        drop(second);
        let done = datapath::detach(root.path()).unwrap();
        assert_eq!(done.links, ["40-egress"]);
        assert_eq!(done.maps.len(), 19);
        assert!(!root.path().exists());
        assert_eq!(run("tc filter show dev out egress"), "");
        assert!(!run("tc qdisc show dev out").contains("clsact"));
        assert_eq!(datapath::detach(root.path()).unwrap(), datapath::Detached::default(), "idempotent");
    });
}

#[test]
fn counts_are_exact_and_survive_a_restart_on_tcx() {
    counts_survive_a_restart("tcx", Hook::Auto, Attached::Tcx);
}

#[test]
fn counts_are_exact_and_survive_a_restart_on_clsact() {
    counts_survive_a_restart("clsact", Hook::Clsact, Attached::Clsact);
}

#[test]
fn a_new_build_takes_over_links_and_rows_and_leaves_no_gap() {
    let Some(_serial) = turn() else { return };
    in_namespace(|| {
        let root = Root::new("upgrade");
        let link = |root: &Root| -> (u64, u64) {
            let pin = root.path().join("links/40-egress");
            let text = run(&format!("bpftool -j link show pinned {}", pin.display()));
            let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
            (shown["id"].as_u64().unwrap(), shown["prog_id"].as_u64().unwrap())
        };
        let mut first = open(&root, Hook::Tcx);
        first.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
        first.table.apply(&[insert(TABLE[0], 3)]).unwrap();
        first.datapath.keep();
        let before = link(&root);
        drop(first);
        let mut second = open(&root, Hook::Tcx);
        send("198.18.0.1", 3, 10);
        second.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
        send("198.18.0.1", 4, 10);
        let after = link(&root);
        assert_eq!(before.0, after.0, "the link stays");
        assert_ne!(before.1, after.1, "its program is the new one");
        assert_eq!(second.counters.total(UPLINK).unwrap(), count(7, 10));
    });
}

#[test]
fn rows_stay_with_names_and_pass_on_empty() {
    let Some(_serial) = turn() else { return };
    in_namespace(|| {
        let root = Root::new("rows");
        let with = |names: [&str; 2]| {
            let uplinks = names.map(str::to_owned).to_vec();
            let mut opened = Datapath::open(&DatapathConfig { uplinks, ..config(&root, Hook::Tcx) }).unwrap();
            opened.datapath.keep();
            opened
        };
        let mut opened = with(["unused", "out"]);
        opened.table.apply(&[insert(TABLE[0], 3)]).unwrap();
        opened.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
        send("198.18.0.1", 5, 10);
        drop(opened);
        // The other way round: the same counts, under the other number.
        let opened = with(["out", "unused"]);
        assert_eq!(opened.counters.total(UplinkId(0)).unwrap(), count(5, 10));
        assert_eq!(opened.adopted.rows, [SlotCount { uplink: UplinkId(0), ..row(3, count(5, 10)) }]);
        drop(opened);
        // Renamed: the interface is known by its index.
        run("ip link set out name wan");
        let opened = with(["unused", "wan"]);
        assert_eq!(opened.counters.total(UPLINK).unwrap(), count(5, 10));
        drop(opened);
        // Another instead of it: nothing of the old counts, and the old one is counted no more.
        let mut opened = with(["unused", "other"]);
        send("198.18.0.1", 6, 10);
        assert_eq!(
            (opened.counters.total(UPLINK).unwrap(), &opened.adopted.rows[..]),
            (count(0, 0), &[][..])
        );
        assert_eq!(changed(&mut opened), []);
    });
}

#[test]
fn a_clsact_qdisc_with_a_filter_of_somebody_else_stays() {
    let Some(_serial) = turn() else { return };
    in_namespace(|| {
        let root = Root::new("foreign");
        let mut opened = open(&root, Hook::Clsact);
        opened.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
        opened.datapath.attach_inside(OUT).unwrap();
        let program = root.path().join("links/40-ingress-clsact");
        run(&format!("tc filter add dev out ingress bpf da object-pinned {}", program.display()));
        drop(opened);
        let qdiscs = run("tc qdisc show dev out");
        assert!(qdiscs.contains("clsact"), "{qdiscs}");
        let filters = run("tc filter show dev out ingress");
        assert!(filters.matches("handle").count() == 1 && !filters.contains("0x179"), "{filters}");
    });
}

#[test]
fn an_interface_that_was_made_anew_is_attached_again() {
    let Some(_serial) = turn() else { return };
    for (test, hook) in [("anew-tcx", Hook::Tcx), ("anew-clsact", Hook::Clsact)] {
        in_namespace(move || {
            let root = Root::new(test);
            let mut opened = open(&root, hook);
            opened.table.apply(&[insert(TABLE[0], 0)]).unwrap();
            opened.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
            send("198.18.0.1", 1, 10);
            run("ip link delete out");
            make_link();
            send("198.18.0.1", 1, 10);
            opened.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
            send("198.18.0.1", 1, 10);
            assert_eq!(changed(&mut opened), [row(0, count(2, 10))], "{test}");
        });
    }
}

#[test]
fn a_failed_start_leaves_nothing_behind() {
    let Some(_serial) = turn() else { return };
    in_namespace(|| {
        let root = Root::new("failed");
        for hook in [Hook::Tcx, Hook::Clsact] {
            let mut opened = open(&root, hook);
            opened.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
            let error = opened.datapath.attach_uplink(UPLINK, IfIndex(99), LinkHeader::Ethernet).unwrap_err();
            assert!(matches!(error, DatapathError::Interface { .. }), "{error}");
            drop(opened);
            assert!(!root.path().exists(), "{hook:?}");
            assert!(!run("tc qdisc show dev out").contains("clsact"), "{hook:?}");
        }
    });
}

#[test]
fn a_failed_restart_leaves_what_it_found() {
    let Some(_serial) = turn() else { return };
    in_namespace(|| {
        let root = Root::new("refound");
        for hook in [Hook::Tcx, Hook::Clsact] {
            let mut first = open(&root, hook);
            first.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
            first.table.apply(&[insert(TABLE[0], 0)]).unwrap();
            first.datapath.keep();
            drop(first);

            let mut second = open(&root, hook);
            second.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
            drop(second);
            send("198.18.0.1", 1, 10);
            let third = open(&root, hook);
            assert_eq!(third.adopted.rows, [row(0, count(1, 10))], "{hook:?}");
            drop(third);
            datapath::detach(root.path()).unwrap();
        }
    });
}

#[test]
fn a_pin_of_another_shape_is_refused_by_name() {
    let Some(_serial) = turn() else { return };
    let root = Root::new("shape");
    let mut opened = open(&root, Hook::Auto);
    opened.datapath.keep();
    drop(opened);
    let other = DatapathConfig { slots: 32, ..config(&root, Hook::Auto) };
    let error = Datapath::open(&other).err().unwrap();
    let text = error.to_string();
    for word in ["etm_count", "max_entries 32", "needs 64", "etm-agent detach --pin-root"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(root.path().join("etm_count").exists(), "nothing was removed");
}

#[test]
fn a_second_agent_on_the_same_pins_is_refused() {
    let Some(_serial) = turn() else { return };
    let root = Root::new("second");
    let _first = open(&root, Hook::Auto);
    let error = Datapath::open(&config(&root, Hook::Auto)).err().unwrap();
    assert!(matches!(error, DatapathError::InUse { .. }), "{error}");
}

#[test]
fn a_pin_root_elsewhere_than_on_bpffs_is_refused() {
    let Some(_serial) = turn() else { return };
    let config =
        DatapathConfig { pin_root: "/tmp/etm-no-bpffs".into(), ..config(&Root::new("x"), Hook::Auto) };
    let error = Datapath::open(&config).err().unwrap();
    assert!(matches!(error, DatapathError::NotBpffs { .. }), "{error}");
    assert!(!Path::new("/tmp/etm-no-bpffs").exists());
}

#[test]
fn a_full_table_is_a_state_and_ends_when_there_is_room() {
    let Some(_serial) = turn() else { return };
    let root = Root::new("full");
    let mut opened = open(&root, Hook::Auto);
    let texts: Vec<String> = (0..5).map(|third| format!("198.18.{third}.0/24")).collect();
    let changes: Vec<TableChange> = (0..).zip(&texts).map(|(slot, text)| insert(text, slot)).collect();
    opened.table.apply(&changes).unwrap();
    let fill = opened.table.fill();
    assert_eq!((fill.entries, fill.capacity, fill.refused), (4, 8, 1));
    opened.table.apply(&[insert("2001:db8::/32", 16)]).unwrap();
    assert_eq!(opened.table.fill().refused, 2, "a slot without a row is refused too");

    let released = opened.table.apply(&[remove(&texts[0], 0)]).unwrap();
    assert_eq!(released.slots, [SlotId(0)]);
    let fill = opened.table.fill();
    assert_eq!((fill.entries, fill.refused), (4, 1), "the refused prefix took the room");
}

#[test]
fn a_removed_prefix_counts_for_its_covering_one_and_its_last_reading_is_handed_over() {
    let Some(_serial) = turn() else { return };
    in_namespace(|| {
        let root = Root::new("removed");
        let mut opened = open(&root, Hook::Auto);
        opened.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
        opened.table.apply(&[insert(TABLE[0], 1), insert(TABLE[1], 2)]).unwrap();
        send("198.18.7.7", 3, 10);
        let released = opened.table.apply(&[remove(TABLE[1], 2)]).unwrap();
        assert_eq!(released.slots, [SlotId(2)]);
        assert_eq!(released.rows, [row(2, count(3, 10))]);
        send("198.18.7.7", 4, 10);
        opened.table.apply(&[remove(TABLE[0], 1)]).unwrap();
        send("198.18.7.7", 5, 10);
        assert_eq!(changed(&mut opened), [row(1, count(4, 10)), row(2, count(3, 10))]);
        let uncounted = opened.counters.uncounted(UPLINK);
        let no_prefix = Uncounted::ALL.iter().position(|&reason| reason == Uncounted::NoPrefix).unwrap();
        assert_eq!(uncounted[no_prefix], count(5, 10));
        assert_eq!(opened.counters.total(UPLINK).unwrap(), count(12, 10), "nothing is lost");
    });
}

#[test]
fn the_switch_works_by_its_pin_alone_and_a_lease_survives_a_restart() {
    let Some(_serial) = turn() else { return };
    in_namespace(|| {
        let root = Root::new("lease");
        assert!(OffSwitch::open(root.path()).unwrap().is_none(), "nothing pinned, nothing to switch");
        let mut opened = open(&root, Hook::Auto);
        opened.datapath.attach_inside(PEER).unwrap();
        opened.datapath.keep();
        let bad = opened.lease.arm(0x1ff, 0xff).unwrap_err();
        assert!(matches!(bad, DatapathError::MarkOutsideMask { .. }));
        opened.lease.arm(0x10, 0xff).unwrap();
        send("198.18.0.1", 1, 10);
        opened.lease.renew(Timestamp(u64::MAX)).unwrap();
        send("198.18.0.1", 2, 10);
        OffSwitch::open(root.path()).unwrap().unwrap().set().unwrap();
        assert!(opened.off.is_off().unwrap());
        send("198.18.0.1", 4, 10);
        OffSwitch::open(root.path()).unwrap().unwrap().clear().unwrap();
        drop(opened);

        let mut again = open(&root, Hook::Auto);
        again.lease.arm(0x20, 0xff).unwrap();
        assert_eq!(again.lease.read().unwrap().deadline, Timestamp(u64::MAX), "a fresh lease stays fresh");
        send("198.18.0.1", 8, 10);
        again.lease.expire().unwrap();
        send("198.18.0.1", 16, 10);
        let marked = again.lease.marked().unwrap();
        assert_eq!(marked.plain, count(1 + 4 + 16, 10));
        assert_eq!(marked.marked, count(2 + 8, 10));
    });
}

#[test]
fn an_interface_that_is_no_longer_configured_is_let_go() {
    let Some(_serial) = turn() else { return };
    in_namespace(|| {
        let root = Root::new("retain");
        let mut opened = open(&root, Hook::Auto);
        opened.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
        opened.datapath.attach_inside(PEER).unwrap();
        opened.datapath.attach_uplink(UplinkId(0), PEER, LinkHeader::Ethernet).unwrap();
        opened.datapath.retain(&[OUT], &[]).unwrap();
        let pins: Vec<_> =
            fs::read_dir(root.path().join("links")).unwrap().map(|pin| pin.unwrap().file_name()).collect();
        assert_eq!(pins, ["40-egress"]);
    });
}

#[test]
fn bpftool_shows_prefixes_and_counters_by_field_name() {
    let Some(_serial) = turn() else { return };
    in_namespace(|| {
        let root = Root::new("dump");
        let mut opened = open(&root, Hook::Auto);
        opened.datapath.attach_uplink(UPLINK, OUT, LinkHeader::Ethernet).unwrap();
        opened.table.apply(&[insert(TABLE[0], 3)]).unwrap();
        send("198.18.0.1", 7, 58);
        let words = |map: &str| {
            let text = run(&format!("bpftool map dump pinned {}/{map}", root.path().display()));
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let shown = words("etm_prefix4");
        for text in ["\"prefix_len\": 15", "[198,18,0,0", "\"value\": 3"] {
            assert!(shown.contains(text), "{text}: {shown}");
        }
        let shown = words("etm_count");
        assert!(shown.contains("\"bytes\": 700, \"packets\": 7"), "{shown}");
        let shown = words("etm_uplinks");
        assert!(shown.contains("{ \"key\": 40, \"value\": { \"index\": 1"), "{shown}");
    });
}

#[test]
fn bpftool_shows_live_statistics_as_text() {
    let Some(_serial) = turn() else { return };
    let root = Root::new("live");
    let mut opened = open(&root, Hook::Auto);
    let live = |text: &str, packets| LiveRow {
        prefix: prefix(text),
        uplink: UPLINK,
        count: Count { bytes: packets * 1000, packets },
        rate: BitRate(packets * 8000),
    };
    opened.live.refresh(&[live("198.18.0.0/15", 1), live("198.19.0.0/16", 2)]).unwrap();
    opened.live.refresh(&[live("198.18.0.0/15", 3), live("2001:db8::/32", 4)]).unwrap();
    let shown = run(&format!("bpftool map dump pinned {}/etm_live", root.path().display()));
    for text in [
        "\"prefix\": \"198.18.0.0/15\"",
        "\"prefix\": \"2001:db8::/32\"",
        "\"uplink\": \"out\"",
        "\"bytes\": 3000",
        "\"bits_per_second\": 32000",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    assert!(!shown.contains("198.19.0.0/16"), "stale rows are gone: {shown}");
}
