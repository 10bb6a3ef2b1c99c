//! A replay's result for people. Never computes.

use super::Report;
use super::compare::{Comparison, Moved};
use super::moment::shown;
use std::fmt::Write as _;

/// Moves shown of each list.
const SHOWN: usize = 10;

// Writing to a string cannot fail, so that results of `writeln!` are dropped here.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    let span_ms = report.ended_ns.saturating_sub(report.begun_ns) / 1_000_000;
    let _ = writeln!(
        text,
        "{} files from {}, {}.{:03} s, recorded by {}",
        report.files,
        shown(report.begun_ns),
        span_ms / 1_000,
        span_ms % 1_000,
        report.build
    );
    if report.build != report.this_build {
        let _ = writeln!(text, "this is {}: other decisions may be due to that", report.this_build);
    }
    match &report.other {
        Some(other) => compared(&mut text, other),
        None => verified(&mut text, report),
    }
    for stretch in &report.unclaimed {
        let _ = writeln!(text, "not claimed: {}: {}", stretch.file, stretch.why);
    }
    text
}

fn verified(text: &mut String, report: &Report) {
    let counted = report.counted;
    let _ = writeln!(
        text,
        "{} inputs, {} rounds, {} decisions; {} keyframes met",
        counted.inputs, counted.rounds, counted.decisions, report.keyframes_equal
    );
    let Some(difference) = &report.difference else {
        let _ = writeln!(text, "every decision is equal, bit for bit");
        return;
    };
    let of = difference.prefix.map(|prefix| format!(" for {prefix}")).unwrap_or_default();
    let _ = writeln!(
        text,
        "first difference: {}{of}, at input {} ({}), round {}, {} after boot\n  recorded: {}\n  replayed: {}",
        difference.what,
        difference.input,
        difference.handed_in,
        difference.round,
        difference.at_ns,
        difference.recorded,
        difference.replayed
    );
}

fn compared(text: &mut String, other: &Comparison) {
    let _ = writeln!(
        text,
        "{:<16}{:>14}{:>14}{:>14}{:>14}{:>14}",
        "uplink", "limit", "peak then", "peak now", "p95 then", "p95 now"
    );
    for uplink in &other.uplinks {
        let _ = writeln!(
            text,
            "{:<16}{:>14}{:>14}{:>14}{:>14}{:>14}",
            uplink.name,
            uplink.limit_bps.to_string(),
            uplink.recorded.peak_bps.to_string(),
            uplink.other.peak_bps.to_string(),
            uplink.recorded.p95_bps.to_string(),
            uplink.other.p95_bps.to_string()
        );
    }
    let _ = writeln!(
        text,
        "moves: {} as recorded, {} with the other configuration; readings above a limit: {} and {}",
        other.recorded.moves, other.other.moves, other.recorded.overloaded, other.other.overloaded
    );
    let _ = writeln!(
        text,
        "money a month by the 95th percentile: {:.2} as recorded, {:.2} with the other configuration",
        other.recorded.money, other.other.money
    );
    list(text, "made then, not now", &other.only_recorded);
    list(text, "made now, not then", &other.only_other);
}

fn list(text: &mut String, title: &str, moves: &[Moved]) {
    if moves.is_empty() {
        return;
    }
    let _ = writeln!(text, "{title}: {}", moves.len());
    for moved in moves.iter().take(SHOWN) {
        let _ = writeln!(text, "  {} by {}", moved.prefix, moved.to);
    }
}
