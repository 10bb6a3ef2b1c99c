//! Whether the process may do what it is about to do. Never raises or drops a capability.

use super::error::DatapathError;
use std::fs;
use std::path::PathBuf;

// linux/capability.h
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// An error where a capability is missing without which nothing works; a warning where one merely costs memory.
pub fn check() -> Result<(), DatapathError> {
    let path = PathBuf::from("/proc/self/status");
    let status =
        fs::read_to_string(&path).map_err(|cause| DatapathError::Path { doing: "read", path, cause })?;
    let effective = effective(&status).unwrap_or_default();
    let missing = missing(effective);
    if !missing.is_empty() {
        return Err(DatapathError::Capabilities { missing: missing.join(", ") });
    }
    if !has(effective, PERFMON) && !has(effective, SYS_ADMIN) {
        // The kernel then masks indices against speculation and rounds arrays up to powers of two.
        tracing::warn!("without CAP_PERFMON the counters take up to twice the kernel memory: grant it");
    }
    Ok(())
}

/// An error where a time namespace shifts the clock that leases are written in: the kernel program compares with its own.
pub fn check_clock() -> Result<(), DatapathError> {
    // Kernels before 5.6 have no such file, and no such namespaces.
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    match boottime_offset(&offsets) {
        0 => Ok(()),
        seconds => Err(DatapathError::Clock { seconds }),
    }
}

/// Whole seconds, rounded away from zero: a part of one is an offset, too.
fn boottime_offset(offsets: &str) -> i64 {
    let line = offsets.lines().find_map(|line| line.trim_start().strip_prefix("boottime"));
    let mut words = line.unwrap_or_default().split_whitespace().map(|word| word.parse::<i64>().unwrap_or(1));
    match (words.next().unwrap_or(0), words.next().unwrap_or(0)) {
        (0, 0) => 0,
        (0, _) => 1,
        (seconds, _) => seconds,
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !has(effective, BPF) && !has(effective, SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !has(effective, NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    missing
}

fn has(effective: u64, capability: u32) -> bool {
    effective >> capability & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_of_boot_time_is_seen_however_small() {
        let text = |seconds: i64, nanos: u32| {
            format!("monotonic           0         0\nboottime   {seconds:>10} {nanos:>9}\n")
        };
        for (text, expected) in [
            (text(0, 0), 0),
            (text(86_400, 0), 86_400),
            (text(-7, 0), -7),
            (text(0, 5), 1),
            (String::new(), 0),
            ("monotonic 5 0\n".to_owned(), 0),
        ] {
            assert_eq!(boottime_offset(&text), expected, "{text}");
        }
        check_clock().unwrap();
    }

    #[test]
    fn what_is_missing_is_named() {
        let cases = [
            ("root", "000001ffffffffff", vec![]),
            ("nobody", "0000000000000000", vec!["CAP_BPF", "CAP_NET_ADMIN"]),
            ("the unit's set", "000000c000001000", vec![]),
            ("CAP_SYS_ADMIN stands for CAP_BPF", "0000000000201000", vec![]),
        ];
        for (title, word, expected) in cases {
            let status = format!("Name:\tetm\nCapEff:\t{word}\n");
            assert_eq!(missing(effective(&status).unwrap()), expected, "{title}");
        }
    }
}
