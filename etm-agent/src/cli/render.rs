//! Answers as text for people: aligned columns, SI bits, no colour. Never the only way to a figure: `--json` has all.

use crate::control::schema::{GuardianState, GuardianView, Ordered, PrivilegesView, Recording, Status};
use crate::core::view::{
    AnnouncedView, BookState, EventView, ExplainView, OverrideView, PrefixView, Role, UplinkView,
};
use crate::types::{Share, Timestamp};
use std::fmt::Write;

/// Rows of cells, each column as wide as its widest cell; columns of `right` are aligned to the right.
pub(super) fn table(header: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let cell =
                if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            text += &cell;
            text += "  ";
        }
        text.trim_end().to_owned() + "\n"
    };
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    rows.iter().fold(line(&header), |text, row| text + &line(row))
}

pub(super) fn status(status: &Status) -> String {
    let decision = &status.decision;
    let mut text = format!(
        "etm-agent {} (pid {}), mode {}, {}\n",
        status.agent.version,
        status.agent.pid,
        decision.mode.as_str(),
        decision.state.as_str()
    );
    for hold in &decision.holds {
        let _ = writeln!(text, "  waits ({}): {hold}", hold.name());
    }
    text += &super::orders::orders(&decision.orders, decision.at_ns);
    for guard in
        decision.guards.iter().filter(|guard| !["drain", "mode-on-trial"].contains(&guard.guard.as_str()))
    {
        let _ = writeln!(text, "  guard ({}): {}", guard.guard, guard.detail);
    }
    let _ = writeln!(
        text,
        "offered {} in all, {} under {} overrides; decision {}, kernel follows {}",
        decision.offered_bps,
        decision.moved_bps,
        decision.overrides,
        decision.generation,
        decision.kernel_generation
    );
    let lease = seconds_until(status.agent.lease_until_ns, decision.at_ns);
    let _ = writeln!(
        text,
        "{} prefixes known, {} counted, {} kernel routes; {lease}; switch {}",
        decision.prefixes,
        decision.prefixes_counted,
        decision.kernel_routes,
        if status.agent.switched_off { "off" } else { "on" }
    );
    text += &privileges(&status.agent.privileges);
    let _ = writeln!(
        text,
        "{} plans made, {} vetoed; {} changes wait for approval",
        decision.plans, decision.plan_vetoes, decision.waiting
    );
    if let Some(view) = &status.guardian {
        text += &guardian(view, decision.at_ns);
    }
    text += &sessions(status);
    text += "\n";
    text + &providers(&decision.uplinks)
}

fn privileges(view: &PrivilegesView) -> String {
    let user = view.user.clone().unwrap_or_else(|| view.uid.to_string());
    let gain = if view.no_new_privileges { "" } else { "; programs it starts may gain more" };
    format!("runs as {user} with {}{gain}\n", view.capabilities.join(" "))
}

fn seconds_until(end: Timestamp, now: Timestamp) -> String {
    if end <= now {
        return "no lease held".to_owned();
    }
    format!("lease for {:.1} s more", end.since(now).as_secs_f64())
}

fn guardian(view: &GuardianView, now: Timestamp) -> String {
    match view.state {
        GuardianState::Guarding => format!(
            "guardian guards (pid {}): {} routes announced; {}{}\n",
            view.pid.unwrap_or_default(),
            view.held,
            seconds_until(view.until_ns, now),
            if view.off { "; off" } else { "" }
        ),
        other => {
            let why = view.detail.as_deref().unwrap_or("one is reached for");
            format!("guardian {}: {why}\n", other.as_str())
        }
    }
}

fn sessions(status: &Status) -> String {
    let mut text = String::new();
    for session in &status.decision.sessions {
        let role = match session.role {
            Role::Learn => "learn",
            Role::Inject => "inject",
        };
        let state = match (session.up, session.complete, &session.reason) {
            (true, true, _) => "up".to_owned(),
            (true, false, _) => "up, table not complete".to_owned(),
            (false, _, Some(reason)) => format!("down: {reason}"),
            (false, _, None) => "connecting".to_owned(),
        };
        let told = session.told_generation.map_or_else(String::new, |told| format!(", told decision {told}"));
        let _ = writeln!(text, "session {} ({role}): {state}{told}", session.name);
    }
    text
}

pub(super) fn providers(uplinks: &[UplinkView]) -> String {
    let rows: Vec<Vec<String>> = uplinks
        .iter()
        .map(|uplink| {
            vec![
                uplink
                    .border
                    .as_ref()
                    .map_or_else(|| uplink.name.clone(), |at| format!("{}@{at}", uplink.name)),
                uplink.providers.join(","),
                if uplink.up { "up" } else { "down" }.to_owned(),
                uplink.billing.clone(),
                uplink.capacity_bps.to_string(),
                uplink.limit_bps.to_string(),
                uplink.offered_bps.to_string(),
                uplink.utilization_ppm.to_string(),
                uplink.projected_bps.to_string(),
                uplink.sent_bps.to_string(),
                uplink.dropped_packets.to_string(),
                book(uplink.book).to_owned(),
            ]
        })
        .collect();
    let header = [
        "UPLINK",
        "PROVIDERS",
        "LINK",
        "BILLED",
        "CAPACITY",
        "LIMIT",
        "OFFERED",
        "OF CAP",
        "WITHOUT ETM",
        "SENT",
        "DROPPED",
        "BOOKS",
    ];
    table(&header, &[4, 5, 6, 7, 8, 9, 10], &rows)
}

fn book(state: BookState) -> &'static str {
    match state {
        BookState::Opening => "opening",
        BookState::Exact => "exact",
        BookState::Lossy => "lossy",
        BookState::Failed => "FAILED",
        BookState::Unchecked => "unchecked",
        BookState::Down => "down",
    }
}

pub(super) fn prefixes(prefixes: &[PrefixView]) -> String {
    let rows: Vec<Vec<String>> = prefixes
        .iter()
        .map(|prefix| {
            let via: Vec<&str> =
                prefix.uplinks.iter().filter(|u| u.rate_bps.0 > 0).map(|u| u.uplink.as_str()).collect();
            vec![
                prefix.prefix.to_string(),
                prefix.rate_bps.to_string(),
                prefix.bytes.to_string(),
                prefix.packets.to_string(),
                via.join(","),
                prefix.home.clone().unwrap_or_else(|| "-".to_owned()),
                prefix.override_to.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    table(&["PREFIX", "RATE", "BYTES", "PACKETS", "SEEN ON", "PLAIN ROUTING", "OVERRIDE"], &[1, 2, 3], &rows)
}

pub(super) fn overrides(overrides: &[OverrideView]) -> String {
    if overrides.is_empty() {
        return "no overrides: everything leaves as plain routing says\n".to_owned();
    }
    let rows: Vec<Vec<String>> = overrides
        .iter()
        .map(|entry| {
            let via = |gateway: String| match &entry.border {
                Some(border) => format!("{}@{border}, by BGP", entry.interface),
                None => format!("{gateway} dev {}", entry.interface),
            };
            let gateway = entry.gateway.map_or_else(|| "-".to_owned(), |gateway| gateway.to_string());
            let state = match (&entry.refused, entry.enforced) {
                (Some(why), _) => format!("refused: {why}"),
                (None, true) if entry.confirmed => "wanted".to_owned(),
                (None, true) => "not seen there yet".to_owned(),
                (None, false) => "planned".to_owned(),
            };
            vec![
                entry.prefix.to_string(),
                entry.rate_bps.to_string(),
                flows(entry.share_ppm),
                entry.from.clone(),
                entry.to.clone(),
                via(gateway),
                entry.throws.to_string(),
                state,
                entry.reason.clone(),
            ]
        })
        .collect();
    table(&["PREFIX", "RATE", "FLOWS", "FROM", "TO", "VIA", "THROWS", "STATE", "REASON"], &[1, 2, 6], &rows)
}

/// How many of the flows of a prefix go another way.
pub(super) fn flows(share: Share) -> String {
    if share == Share::ONE { "all".to_owned() } else { share.to_string() }
}

pub(super) fn explain(view: &ExplainView) -> String {
    let mut text = format!("{}\n", view.verdict);
    if let Some(prefix) = view.prefix.filter(|prefix| *prefix != view.asked) {
        let _ = writeln!(text, "  {} is inside {prefix}", view.asked);
    }
    if view.prefix.is_some() {
        let _ = writeln!(text, "  demand {}", view.rate_bps);
    }
    for reason in &view.because {
        let _ = writeln!(text, "  because {reason}");
    }
    if let Some(effect) = &view.effect {
        let _ = writeln!(text, "  effect: {effect}");
    }
    for router in &view.announced {
        let _ = writeln!(text, "  announced: {}", announced(router));
    }
    if view.more_specifics > 0 {
        let _ = writeln!(text, "  {} more-specifics inside it go their own ways", view.more_specifics);
    }
    if view.candidates.is_empty() {
        return text;
    }
    let rows: Vec<Vec<String>> = view
        .candidates
        .iter()
        .map(|candidate| {
            vec![
                candidate.exit.clone().unwrap_or_else(|| "-".to_owned()),
                if candidate.usable { "usable" } else { "unusable" }.to_owned(),
                candidate.next_hop.clone(),
                candidate.local_pref.to_string(),
                candidate.as_path.clone(),
                candidate.session.clone(),
                candidate
                    .price
                    .map_or_else(|| "-".to_owned(), |price| format!("{:.4}", price.total_per_mbps)),
                candidate.note.clone(),
            ]
        })
        .collect();
    text + "\n"
        + &table(
            &["EXIT", "ROUTE", "NEXT HOP", "LOCAL_PREF", "AS_PATH", "SESSION", "PER MBIT/S", "NOTE"],
            &[3, 6],
            &rows,
        )
}

/// Sent and effective are different things.
fn announced(view: &AnnouncedView) -> String {
    let session = &view.session;
    match (view.sent, view.effective, view.next_hop) {
        (false, ..) => format!("{session} has not acknowledged it yet"),
        (true, None, _) => format!("{session} was told; nobody reports by BMP what it made of that"),
        (true, Some(true), Some(hop)) => format!("effective in {session}: its best route, by {hop}"),
        (true, Some(true), None) => format!("effective in {session}"),
        (true, Some(false), _) => {
            format!(
                "{session} was told and does not use it: another route is better there, or it was refused"
            )
        }
    }
}

pub(super) fn events(events: &[EventView]) -> String {
    let mut text = String::new();
    for view in events {
        let _ = writeln!(text, "{:>6}  {:>14}  {}", view.event.seq, view.event.at_ns.to_string(), view.text);
    }
    text
}

pub(super) fn ordered(ordered: &Ordered) -> String {
    format!("{}; {} overrides ended\n", ordered.state.as_str(), ordered.ended)
}

pub(super) fn recording(answer: &Recording) -> String {
    let mut text = match (&answer.file, answer.recording) {
        (Some(file), true) => format!("recording to {file}\n"),
        (None, true) => format!("recording begins in {}\n", answer.directory),
        (_, false) => format!("not recording; recordings are in {}\n", answer.directory),
    };
    let _ = writeln!(
        text,
        "since the agent's start: {} inputs, {} bytes in {} files, {} inputs lost",
        answer.inputs_recorded, answer.bytes_written, answer.files_written, answer.inputs_lost
    );
    if let Some(error) = &answer.error {
        let _ = writeln!(text, "trouble: {error}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::view::State;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "12".to_owned()], vec!["long".to_owned(), "3".to_owned()]];
        assert_eq!(table(&["X", "NUM"], &[1], &rows), "X     NUM\na      12\nlong    3\n");
    }

    #[test]
    fn no_override_is_said_in_words() {
        assert!(overrides(&[]).contains("plain routing"));
        assert_eq!(ordered(&Ordered { state: State::Off, ended: 2 }), "off; 2 overrides ended\n");
    }
}
