//! The data beside the project, unpacked by the tools of the box. Never copied into the project.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::peer::message;

/// Recorded churn, MRT.
pub(crate) const UPDATES: [&str; 5] = [
    "updates/bgpkit-ripe_rrc15_2010.02_updates.20100227.1600.gz",
    "updates/bgpkit-ripe_rrc15_2010.02_updates.20100227.1610.gz",
    "updates/caida-ris.rrc06.updates.1427846400.gz",
    "updates/caida-routeviews.jinx.updates.1427846400.bz2",
    "updates/ripe-updates.20160811.1600.gz",
];
/// One UPDATE whose NLRI has host bits set, and ends within a prefix.
pub(crate) const CUT: &str = "updates/ripe-updates.nlri_mask_trailing_bits.gz";

/// UPDATEs by the width of their AS numbers.
#[derive(Default)]
pub(crate) struct Recorded {
    pub(crate) as4: Vec<Vec<u8>>,
    pub(crate) as2: Vec<Vec<u8>>,
}

fn find(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("SKIP the data is not at {}", path.display());
    None
}

/// The files of an archive that are no text about it.
pub(crate) fn archive(name: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let path = find(name)?;
    let directory = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar");
    tar.arg("--zstd").arg("-xf").arg(&path).arg("-C").arg(directory.path());
    assert!(tar.status().unwrap().success(), "{} cannot be unpacked", path.display());
    let mut files = Vec::new();
    for folder in std::fs::read_dir(directory.path()).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "bin") {
                files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "{} is empty", path.display());
    Some(files)
}

/// The UPDATEs of an MRT file (RFC 6396 section 4.4).
pub(crate) fn recorded(name: &str) -> Option<Recorded> {
    let path = find(name)?;
    let tool = if name.ends_with("bz2") { "bzip2" } else { "gzip" };
    let output = Command::new(tool).arg("-dc").arg(&path).output().unwrap();
    assert!(output.status.success(), "{} cannot be unpacked", path.display());
    let mut rest = &output.stdout[..];
    let mut recorded = Recorded::default();
    while let Some(header) = rest.get(..12) {
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let length =
            usize::try_from(u32::from_be_bytes([header[8], header[9], header[10], header[11]])).unwrap();
        let Some(record) = rest.get(12..12 + length) else { break };
        // BGP4MP and BGP4MP_ET, which puts microseconds first.
        let record = if word(4) == 17 { &record[4..] } else { record };
        let (as4, skip) = match (word(4), word(6)) {
            (16 | 17, 1) => (false, 4),
            (16 | 17, 4) => (true, 8),
            _ => (false, usize::MAX),
        };
        if skip != usize::MAX {
            let family = u16::from_be_bytes([record[skip + 2], record[skip + 3]]);
            let addresses = if family == 1 { 8 } else { 32 };
            let bgp = &record[skip + 4 + addresses..];
            if bgp.get(18) == Some(&2) {
                let updates = if as4 { &mut recorded.as4 } else { &mut recorded.as2 };
                updates.push(message(2, &bgp[19..]));
            }
        }
        rest = &rest[12 + length..];
    }
    Some(recorded)
}

/// Resident memory of this process.
pub(crate) fn resident_kb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4
}
