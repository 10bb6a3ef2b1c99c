//! Plans, prices, what-ifs and queued changes as text for people. Never the only way to a figure: `--json` has all.

use super::render::{flows, table};
use crate::core::view::{ChangeView, Conclusion, ExitView, Judged, LossView, MoveView, NodeView, PlanView};
use std::fmt::Write;

/// Moves shown as text.
const SHOWN: usize = 50;

fn mbit(bps: f64) -> String {
    format!("{:.3} Mbit/s", bps / 1e6)
}

fn nodes(nodes: &[NodeView]) -> String {
    let rate = |bps: Option<f64>| bps.map_or_else(|| "-".to_owned(), mbit);
    let row = |node: &NodeView| {
        vec![
            node.name.clone(),
            mbit(node.stay_bps),
            mbit(node.planned_bps),
            rate(node.limit_bps),
            format!("{:.4}", node.price_per_mbps),
            format!("{:.4}", node.tier_per_mbps),
            node.inside.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    table(&["EXIT", "STAYING", "PLANNED", "LIMIT", "PRICE", "BY CONTRACT", "INSIDE"], &[1, 2, 3, 4, 5], &rows)
}

pub(super) fn plan(view: &PlanView) -> String {
    let mut text = String::new();
    let conclusion = match view.conclusion {
        Conclusion::Relief => "moves relieve overload",
        Conclusion::Apply => "moves save enough",
        Conclusion::TooLittle => "all stays: less can be saved than the least saving",
        Conclusion::NothingToGain => "all stays: nothing to gain",
        Conclusion::Vetoed => "all stays: THE CHECKER VETOED THE PLAN",
    };
    let mut line = |label: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:<12}{value}");
    };
    line("state", view.state.as_str().to_owned());
    view.holds.iter().for_each(|hold| line("waits for", hold.to_string()));
    line("conclusion", conclusion.to_owned());
    view.vetoes.iter().for_each(|veto| line("veto", veto.clone()));
    line("moves", format!("{} of {} prefixes, {}", view.moves.len(), view.prefixes, mbit(view.moved_bps)));
    line(
        "overload",
        format!(
            "{}, at least {}{}; staying {}",
            mbit(view.overload_bps),
            mbit(view.overload_bound_bps),
            checked(view.overload_bound_bps, view.overload_bound_checked_bps, mbit),
            mbit(view.overload_stay_bps)
        ),
    );
    line(
        "money",
        format!(
            "{:.2} a month; staying {:.2}; commitments {:.2} besides",
            view.money, view.money_stay, view.committed
        ),
    );
    line("cost", format!("{:.4}; staying {:.4}", view.objective, view.objective_stay));
    let realised = view.realised.map_or_else(|| "n/a".to_owned(), |share| format!("{:.2} %", share * 100.0));
    line(
        "certificate",
        format!(
            "bound {:.4}{}, gap {:.4}, realised {realised}",
            view.objective_bound,
            checked(view.objective_bound, view.objective_bound_checked, |value| format!("{value:.4}")),
            view.gap
        ),
    );
    if view.waiting > 0 {
        line("waiting", format!("{} changes for approval, taken for made here", view.waiting));
    }
    text += "\n";
    text += &nodes(&view.nodes);
    text + &moves(view)
}

/// How much of a bound the checker proves by itself, where that is not all of it.
pub(super) fn checked(bound: f64, proved: f64, show: impl Fn(f64) -> String) -> String {
    if proved >= bound - 1e-6 * bound.abs() {
        return " (checked)".to_owned();
    }
    format!(" ({} of it checked, the rest by the planner's search alone)", show(proved))
}

fn moves(view: &PlanView) -> String {
    let row = |entry: &MoveView| {
        let (from, to) = (entry.from.clone(), entry.to.clone());
        let (rate, share) = (entry.rate_bps.to_string(), flows(entry.share_ppm));
        vec![entry.prefix.to_string(), rate, share, from, to, entry.reason.clone()]
    };
    let rows: Vec<Vec<String>> = view.moves.iter().take(SHOWN).map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut text =
        "\n".to_owned() + &table(&["PREFIX", "RATE", "FLOWS", "FROM", "TO", "REASON"], &[1, 2], &rows);
    if view.moves.len() > SHOWN {
        let _ = writeln!(text, "and {} more (`--json` has all)", view.moves.len() - SHOWN);
    }
    text
}

fn fit(view: &LossView) -> String {
    let mut text = if view.fits {
        format!("without {} everything fits", view.lost)
    } else {
        let over: Vec<String> =
            view.overflow.iter().map(|part| format!("{} by {}", part.name, mbit(part.bps))).collect();
        format!("without {} it does not fit: {}", view.lost, over.join(", "))
    };
    if view.unplaced_bps > 0.0 {
        text += &format!("; {} on it have no other known exit", mbit(view.unplaced_bps));
    }
    text
}

pub(super) fn loss(view: &LossView) -> String {
    format!("{} (it carries {})\n\n{}", fit(view), mbit(view.carries_bps), nodes(&view.nodes))
}

pub(super) fn losses(views: &[LossView]) -> String {
    views.iter().map(|view| fit(view) + "\n").collect()
}

pub(super) fn exit(view: &ExitView) -> String {
    let mut text = format!(
        "{} ({} by {}, link {}): {:.4} for one more Mbit/s\n",
        view.exit,
        view.provider,
        view.uplink,
        if view.up { "up" } else { "down" },
        view.price_per_mbps
    );
    for reason in &view.because {
        let _ = writeln!(text, "  {reason}");
    }
    let _ = writeln!(
        text,
        "  {} prefixes ({}) moved here, {} ({}) moved away",
        view.moved_here, view.moved_here_bps, view.moved_away, view.moved_away_bps
    );
    let rows: Vec<Vec<String>> =
        view.busiest.iter().map(|(prefix, rate)| vec![prefix.to_string(), rate.to_string()]).collect();
    if rows.is_empty() { text } else { text + "\n" + &table(&["BUSIEST ON IT", "RATE"], &[1], &rows) }
}

pub(super) fn changes(changes: &[ChangeView]) -> String {
    if changes.is_empty() {
        return "nothing waits for approval\n".to_owned();
    }
    let row = |change: &ChangeView| {
        vec![
            change.id.to_string(),
            change.prefix.to_string(),
            change.rate_bps.to_string(),
            flows(change.share_ppm),
            change.from.clone(),
            change.to.clone(),
            change.expires_ns.to_string(),
            change.reason.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
    table(&["CHANGE", "PREFIX", "RATE", "FLOWS", "FROM", "TO", "EXPIRES", "REASON"], &[0, 2, 3], &rows)
}

pub(super) fn judged(judged: &[Judged]) -> String {
    if judged.is_empty() {
        return "nothing waits for approval\n".to_owned();
    }
    let mut text = String::new();
    for one in judged {
        let prefix = one.prefix.map_or_else(String::new, |prefix| format!(" ({prefix})"));
        let outcome = one.why.as_ref().map_or_else(|| "done".to_owned(), |why| format!("refused: {why}"));
        let _ = writeln!(text, "change {}{prefix}: {outcome}", one.id);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_said_with_their_reason() {
        let one = |id, why: Option<&str>| Judged {
            id,
            prefix: None,
            to: None,
            done: why.is_none(),
            why: why.map(str::to_owned),
        };
        assert_eq!(
            judged(&[one(1, None), one(2, Some("no room"))]),
            "change 1: done\nchange 2: refused: no room\n"
        );
        assert!(judged(&[]).contains("nothing waits"));
    }
}
