//! Every Ethernet frame of real captures, counted by the kernel program exactly as the captures' oracle says. Needs
//! root and the data; never sends anything outside of its own network namespace.
//!
//! Each distinct destination has a host route and a slot of its own, so that a wrong destination is a wrong slot. After
//! each frame exactly one row must have grown, by one packet.

#![allow(clippy::unwrap_used, reason = "an unwrap is the assertion of a test")]

mod bench;
mod facts;
mod made;
mod pcap;

use bench::{Begins, Bench, Grown, Way, run};
use etm_tests::dataplane;
use facts::{EXCEPTIONS, Fact};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the captures are; none where the tests cannot run, after saying why.
fn data(set: &str) -> Option<PathBuf> {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data/pcap")
        .join(set)
        .with_extension("tar.zst");
    if skip() {
        None
    } else if archive.exists() {
        Some(archive)
    } else {
        println!("SKIP the captures are not at {}", archive.display());
        None
    }
}

/// True where no program can be run; says why.
fn skip() -> bool {
    dataplane::turn().is_none()
}

fn in_namespace<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    dataplane::in_namespace(body).unwrap()
}

/// What the packets of a LINKTYPE begin with, where the program is made for it.
fn begins(link_type: u32) -> Option<Begins> {
    match link_type {
        1 => Some(Begins::Ethernet),
        // LINKTYPE_RAW, LINKTYPE_IPV4 and LINKTYPE_IPV6.
        101 | 228 | 229 => Some(Begins::Ip),
        _ => None,
    }
}

/// How many frames of a set went which way.
#[derive(Default)]
struct Tally(BTreeMap<String, usize>);

impl Tally {
    fn add(&mut self, title: impl Into<String>) {
        *self.0.entry(title.into()).or_default() += 1;
    }

    fn of(&self, title: &str) -> usize {
        self.0.get(title).copied().unwrap_or_default()
    }
}

const COUNTED: &str = "counted for the outermost destination";
const TEST_RUN: &str = "tried by BPF_PROG_TEST_RUN";
const SOCKET: &str = "tried by sending, because BPF_PROG_TEST_RUN refuses them";
const TUN: &str = "without Ethernet header, tried by sending";
const NO_WAY: &str = "left out: the kernel lets no such frame through";

fn check_set(set: &'static str) -> Option<Tally> {
    let archive = data(set)?;
    let tally = in_namespace(move || {
        let unpacked = tempfile::tempdir().unwrap();
        run(&format!("tar --zstd -xf {} -C {}", archive.display(), unpacked.path().display()));
        check_captures(set, &unpacked.path().join(set))
    });
    tally.0.iter().for_each(|(title, frames)| println!("{set}: {frames:6} frames {title}"));
    Some(tally)
}

fn check_captures(set: &str, dir: &Path) -> Tally {
    let text = fs::read_to_string(dir.join("FACTS.tsv")).unwrap();
    let facts: Vec<Fact> = text.lines().skip(1).map(Fact::parse).collect();
    let mut bench = Bench::new(set, facts.iter().filter_map(Fact::destination));
    let (mut tally, mut wrong) = (Tally::default(), Vec::new());
    for facts in facts.chunk_by(|one, next| one.file == next.file) {
        let frames = pcap::frames(&fs::read(dir.join(&facts[0].file)).unwrap());
        assert_eq!(frames.len(), facts.len(), "{}", facts[0].file);
        for fact in facts {
            let frame = &frames[fact.frame - 1];
            let Some(begins) = begins(frame.link_type) else {
                tally.add("left out: another link layer");
                continue;
            };
            if fact.captured != fact.len {
                tally.add("left out: not captured whole");
                continue;
            }
            assert_eq!(frame.data.len(), fact.len, "{} {}", fact.file, fact.frame);
            match bench.offer(begins, &frame.data) {
                Some(Way::TestRun) => tally.add(TEST_RUN),
                Some(Way::Socket) if begins == Begins::Ethernet => tally.add(SOCKET),
                Some(Way::Socket) => tally.add(TUN),
                None => {
                    tally.add(NO_WAY);
                    continue;
                }
            }
            wrong.extend(judge(&bench.grown(), fact, &mut tally));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
    tally
}

/// What is wrong with how the frame was counted, if anything.
fn judge(grown: &Grown, fact: &Fact, tally: &mut Tally) -> Option<String> {
    let (expected, exception) = fact.expected();
    match exception {
        Some(exception) => tally.add(exception.reason),
        None if expected.is_ok() => tally.add(COUNTED),
        None => tally.add(format!("refused as {}", expected.unwrap_err().as_str())),
    }
    let right = match expected {
        Ok(destination) => Grown { destinations: vec![destination], reasons: Vec::new() },
        Err(reason) => Grown { destinations: Vec::new(), reasons: vec![(reason, 1)] },
    };
    let layers = fact.layers.join(":");
    let what = || format!("{} {} ({layers}): expected {right:?}, got {grown:?}", fact.file, fact.frame);
    (*grown != right).then(what)
}

fn exceptions(tally: &Tally) -> Vec<usize> {
    EXCEPTIONS.iter().map(|exception| tally.of(exception.reason)).collect()
}

#[test]
fn each_frame_of_ordinary_captures_is_counted_as_its_oracle_says() {
    let Some(tally) = check_set("mixed-dev") else { return };
    assert_eq!(tally.of(TEST_RUN) + tally.of(SOCKET), 47_693, "every Ethernet frame captured whole");
    assert_eq!((tally.of(COUNTED), tally.of(NO_WAY)), (47_240, 0));
    assert_eq!(exceptions(&tally), [0, 0, 0, 0, 0]);
}

#[test]
fn each_frame_of_nasty_captures_is_counted_as_its_oracle_says() {
    let Some(tally) = check_set("nasty-dev") else { return };
    assert_eq!(tally.of(TEST_RUN) + tally.of(SOCKET), 14_319, "every Ethernet frame captured whole");
    assert_eq!(exceptions(&tally), [14, 77, 10, 14, 2]);
}
