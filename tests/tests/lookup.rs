//! The table on real kernel maps against a longest match by hand: random changes, the writer killed in the middle, and
//! both ways of looking up. Packets come from BPF_PROG_TEST_RUN; needs root. Never attaches anything.

#![allow(clippy::unwrap_used, reason = "an unwrap is the assertion of a test")]

use aya::programs::SchedClassifier;
use aya::{Ebpf, TestRun as _, TestRunOptions};
use etm_agent::core::decision::TableChange;
use etm_agent::core::input::{SlotCount, Uncounted};
use etm_agent::datapath::{self, Datapath, DatapathConfig, Hook, KernelLogLevel, Opened};
use etm_agent::types::{Count, Prefix, PrefixMap, Share, SlotId, UplinkId};
use etm_common::names;
use etm_tests::dataplane::{LOOPBACK, Loading, Root, turn};
use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};

const SLOTS: u32 = 2048;
/// Tells the child to be the writer that is killed, and where.
const ROOT_VARIABLE: &str = "ETM_TEST_LOOKUP_ROOT";
const SEED_VARIABLE: &str = "ETM_TEST_LOOKUP_SEED";

/// Few blocks on purpose (67), so that some prefixes find none.
fn open(root: &Path, fast_path: bool) -> Opened {
    let config = DatapathConfig {
        pin_root: root.to_path_buf(),
        slots: SLOTS,
        uplink_rows: 1,
        prefixes4: 1024,
        prefixes6: 1024,
        fast_path,
        uplinks: vec!["up".into()],
        hook: Hook::Auto,
        canary: Share::ONE,
        local_output: None,
        kernel_log: KernelLogLevel::Off,
    };
    Datapath::open(&config).unwrap()
}

/// The egress program over the maps pinned under a root, fast or by the tries alone.
struct Program(Ebpf);

impl Program {
    fn load(root: &Path, fast: u32) -> Program {
        let loading = Loading {
            object: datapath::object(),
            program: names::EGRESS_PROGRAM,
            slots: SLOTS,
            fast: fast != 0,
            globals: &[],
            maps: &[],
        };
        Program(loading.load(root).unwrap())
    }

    fn send(&self, destination: IpAddr) {
        let program: &SchedClassifier = self.0.program(names::EGRESS_PROGRAM).unwrap().try_into().unwrap();
        let mut context = [0_u8; 192];
        context[40..44].copy_from_slice(&LOOPBACK.to_ne_bytes());
        let frame = frame(destination);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.ctx_in = Some(&context);
        assert_eq!(program.test_run(options).unwrap().return_value, u32::MAX, "the verdict is next");
    }
}

fn frame(destination: IpAddr) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match destination {
        IpAddr::V4(addr) => {
            frame.extend([0x08, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 198, 51, 100, 1]);
            frame.extend(addr.octets());
        }
        IpAddr::V6(addr) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 17, 64]);
            frame.extend(Ipv6Addr::UNSPECIFIED.octets());
            frame.extend(addr.octets());
        }
    }
    frame
}

/// The same numbers in each run of a seed (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    /// Few networks and many lengths, so that prefixes nest and share blocks.
    fn prefix(&mut self) -> Prefix {
        if self.below(2) == 0 {
            let addr = 0xc612_0000 | u32::try_from(self.below(6) << 8 | self.below(256)).unwrap();
            let len =
                [0, 12, 15, 16, 20, 23, 24, 25, 27, 30, 31, 32][usize::try_from(self.below(12)).unwrap()];
            Prefix::new(Ipv4Addr::from(addr).into(), len).unwrap()
        } else {
            let top = [0x2001_0db8_u128, 0x2001_0db9, 0x2a00_0001, 0xfd00_0000]
                [usize::try_from(self.below(4)).unwrap()];
            let addr = top << 96
                | u128::from(self.below(6)) << 78
                | u128::from(self.below(4)) << 62
                | u128::from(self.below(3));
            let lens = [0, 13, 20, 24, 29, 32, 33, 40, 44, 47, 48, 49, 56, 63, 64, 65, 126, 128];
            Prefix::new(Ipv6Addr::from(addr).into(), lens[usize::try_from(self.below(18)).unwrap()]).unwrap()
        }
    }
}

/// What the table should be, and slots as the agent gives them out.
struct Oracle {
    table: BTreeMap<Prefix, SlotId>,
    free: Vec<SlotId>,
    known: Known,
}

impl Oracle {
    /// As adopted from an earlier run.
    fn of(opened: &mut Opened) -> Oracle {
        let adopted = std::mem::take(&mut opened.adopted);
        let table: BTreeMap<Prefix, SlotId> = adopted.entries.iter().copied().collect();
        let mut known = Known(adopted.rows.iter().map(|row| (Some(row.slot), row.count)).collect());
        known.news(opened);
        let free = (0..SLOTS).map(SlotId).filter(|slot| !table.values().any(|used| used == slot)).collect();
        Oracle { table, free, known }
    }

    /// Some changes, each prefix at most once.
    fn changes(&mut self, dice: &mut Dice, count: u64) -> Vec<TableChange> {
        let mut changes = BTreeMap::new();
        for _ in 0..count {
            let prefix = dice.prefix();
            changes.entry(prefix).or_insert_with(|| match self.table.remove(&prefix) {
                Some(slot) => TableChange::Remove { prefix, slot },
                None => {
                    let slot = self.free.remove(0);
                    self.table.insert(prefix, slot);
                    TableChange::Insert { prefix, slot }
                }
            });
        }
        let mut changes: Vec<_> = changes.into_values().collect();
        for last in (1..changes.len()).rev() {
            let other = usize::try_from(dice.below(u64::try_from(last).unwrap() + 1)).unwrap();
            changes.swap(last, other);
        }
        changes
    }

    fn apply(&mut self, opened: &mut Opened, changes: &[TableChange]) {
        let released = opened.table.apply(changes).unwrap();
        self.free.extend(released.slots);
    }

    /// First and last address of each prefix and the ones beside it.
    fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses = vec![IpAddr::from([192, 0, 2, 1]), "4000::1".parse().unwrap()];
        for prefix in self.table.keys() {
            match (prefix.net().network(), prefix.net().broadcast()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    let (first, last) = (u32::from(first), u32::from(last));
                    for addr in [first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
                        addresses.push(Ipv4Addr::from(addr).into());
                    }
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    let (first, last) = (u128::from(first), u128::from(last));
                    for addr in [first, last, first.wrapping_sub(1), last.wrapping_add(1)] {
                        addresses.push(Ipv6Addr::from(addr).into());
                    }
                }
                _ => unreachable!("one prefix has one family"),
            }
        }
        addresses
    }

    /// One packet to every address that may show a mistake, by both ways: each is counted where the oracle says.
    fn check(&mut self, root: &Path, opened: &mut Opened, ways: &[u32], title: &str) {
        let mut map = PrefixMap::new();
        self.table.iter().for_each(|(prefix, slot)| _ = map.insert(*prefix, *slot));
        for &fast in ways {
            let program = Program::load(root, fast);
            for address in self.addresses() {
                program.send(address);
                let expected = map.longest_match(address).map(|(_, slot)| *slot);
                let bytes = u64::try_from(frame(address).len()).unwrap();
                assert_eq!(self.known.news(opened), [(expected, bytes)], "{title}, fast {fast}: {address}");
            }
        }
        assert_eq!(opened.counters.total(UplinkId(0)).unwrap(), opened.counters.total_of_rows(UplinkId(0)));
    }
}

/// The last reading of each row; `None` is the one of packets of no prefix.
#[derive(Default)]
struct Known(BTreeMap<Option<SlotId>, Count>);

impl Known {
    /// Rows that grew since the last call, and by how many bytes.
    fn news(&mut self, opened: &mut Opened) -> Vec<(Option<SlotId>, u64)> {
        let mut rows: Vec<SlotCount> = Vec::new();
        opened.counters.changed(&mut rows);
        let no_prefix = Uncounted::ALL.iter().position(|&reason| reason == Uncounted::NoPrefix).unwrap();
        let none = (None, opened.counters.uncounted(UplinkId(0))[no_prefix]);
        let rows = rows.into_iter().map(|row| (Some(row.slot), row.count)).chain([none]);
        rows.filter_map(|(slot, count)| {
            let grown = count.bytes - self.0.insert(slot, count).unwrap_or_default().bytes;
            (grown > 0).then_some((slot, grown))
        })
        .collect()
    }
}

#[test]
fn after_random_changes_both_ways_count_for_the_longest_prefix() {
    let Some(_turn) = turn() else { return };
    let root = Root::new("random");
    let mut opened = open(root.path(), true);
    let mut dice = Dice(42);
    let mut oracle = Oracle::of(&mut opened);
    for round in 0..6 {
        let changes = oracle.changes(&mut dice, 60);
        oracle.apply(&mut opened, &changes);
        oracle.check(root.path(), &mut opened, &[0, 1], &format!("round {round}"));
    }
    assert!(opened.table.slow() > 0, "the test reaches prefixes that only the trie knows");
}

#[test]
fn without_the_arrays_the_tries_answer() {
    let Some(_turn) = turn() else { return };
    let root = Root::new("tries");
    let mut opened = open(root.path(), false);
    let mut oracle = Oracle::of(&mut opened);
    let changes = oracle.changes(&mut Dice(7), 60);
    oracle.apply(&mut opened, &changes);
    oracle.check(root.path(), &mut opened, &[0], "tries");
    opened.datapath.keep();
    drop(opened);
    // The arrays can be switched on and off between runs: they are derived.
    for fast_path in [true, false, true] {
        let mut opened = open(root.path(), fast_path);
        oracle.check(root.path(), &mut opened, &[u32::from(fast_path)], "switched");
        opened.datapath.keep();
    }
}

/// Not a test of its own: the process that `a_killed_writer_leaves_a_table_that_can_be_adopted` kills.
#[test]
fn writer_to_be_killed() {
    let Some(root) = env::var_os(ROOT_VARIABLE) else { return };
    let mut opened = open(Path::new(&root), true);
    opened.datapath.keep();
    let mut dice = Dice(env::var(SEED_VARIABLE).unwrap().parse().unwrap());
    let mut oracle = Oracle::of(&mut opened);
    println!("\nwriting");
    std::io::stdout().flush().unwrap();
    loop {
        let changes = oracle.changes(&mut dice, 400);
        oracle.apply(&mut opened, &changes);
    }
}

#[test]
fn a_killed_writer_leaves_a_table_that_can_be_adopted() {
    let Some(_turn) = turn() else { return };
    let root = Root::new("killed");
    for seed in 1..=12_u64 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "writer_to_be_killed", "--nocapture"])
            .env(ROOT_VARIABLE, root.path())
            .env(SEED_VARIABLE, seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "writing"), "the writer began");
        // Any moment will do: most fall between two of the stores of one change.
        std::thread::sleep(std::time::Duration::from_micros(seed * 7919 % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();

        let mut opened = open(root.path(), true);
        let mut oracle = Oracle::of(&mut opened);
        assert!(seed < 3 || !oracle.table.is_empty(), "the writer wrote something");
        oracle.check(root.path(), &mut opened, &[1], &format!("after kill {seed}"));
        // The table goes on from there.
        let changes = oracle.changes(&mut Dice(seed + 100), 30);
        oracle.apply(&mut opened, &changes);
        oracle.check(root.path(), &mut opened, &[1], &format!("going on after kill {seed}"));
        opened.datapath.keep();
    }
}
