//! The bench of the BGP side runs, in small: every part ends with its line, nothing lost or stale. Needs root, BIRD and
//! GoBGP; without them it says SKIP and why. The figures mean nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::process::Command;

use etm_tests::state::binary;

#[test]
fn every_part_of_the_bench_ends_with_its_line() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: network namespaces need root (geteuid is not 0)");
        return;
    }
    if let Some(missing) = ["bird", "gobgpd"].into_iter().find(|name| !installed(name)) {
        eprintln!("SKIP: {missing} is not installed (`cargo xtask setup` installs it)");
        return;
    }
    let mut bench = Command::new(binary("etm-lab").unwrap());
    let output = bench.args(["bench", "bgp", "--quick", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&str> = lines.iter().filter_map(|line| line["bench"].as_str()).collect();
    assert_eq!(names, ["bgp-ingest", "bgp-churn", "bgp-advertise", "bgp-peer-down"], "{said}");
    assert_eq!(lines[1]["lost_or_stale"], 0, "{}", lines[1]);
    println!("{}", String::from_utf8_lossy(&output.stdout));
}

fn installed(name: &str) -> bool {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places).any(|place| place.join(name).is_file())
}
