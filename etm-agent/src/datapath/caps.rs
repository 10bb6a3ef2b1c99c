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
