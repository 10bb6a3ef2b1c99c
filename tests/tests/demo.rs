//! The demo as a program sees it. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::process::Command;

use etm_tests::scene::turn;
use serde_json::Value;

/// Figures that others compare over time: their names are an interface.
const FIGURES: [&str; 11] = [
    "overload_to_shift_ms",
    "overload_to_bgp_ms",
    "link_down_to_moved_ms",
    "off_ms",
    "conservation_error_ratio",
    "conservation_packet_error",
    "loss_ratio_before_shift",
    "loss_ratio_after_shift",
    "loss_ratio_after_off",
    "kernel_effect_left",
    "bgp_routes_left",
];

#[test]
fn the_demo_holds_prints_only_json_and_ends_with_every_figure() {
    let Some(_turn) = turn() else { return };
    let output = Command::new(env!("CARGO_BIN_EXE_etm-lab")).args(["demo", "--json"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let last = lines.last().expect("a last line");
    assert_eq!((last["failed"].to_string().as_str(), &last["held"]), ("[]", &Value::Bool(true)), "{last:#}");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for name in FIGURES {
        assert!(last[name].is_number(), "{name} is missing: {last:#}");
    }
    assert!(last["duration_s"].as_f64().unwrap() < 120.0, "{last:#}");
}
