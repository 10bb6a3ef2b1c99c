//! Answers of `etm bgp` as text for people. Never the only way to a figure: `--json` has all.

use super::render::table;
use crate::control::schema::{BgpOrdered, BgpPeer, BgpPeers, BgpRules};
use crate::core::view::{AnnouncedView, CandidatesView, Role, RouteView};
use crate::types::bgp::{Dispositions, LastFault, Messages};
use crate::types::bmp::{RouterStatus, SourceStatus};
use crate::types::{Family, Timestamp};
use std::fmt::{Display, Write};

/// Label and value, one a line.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, label: &str, value: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{label:<22}{value}");
    }

    /// Nothing where there is nothing to say.
    fn add_some(&mut self, label: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.add(label, value);
        }
    }

    fn add_list(&mut self, label: &str, values: &[impl Display]) {
        if !values.is_empty() {
            self.add(label, listed(values));
        }
    }
}

fn listed(values: &[impl Display]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How long ago, as long as people say it.
fn ago(then: Timestamp, now: Timestamp) -> String {
    let s = now.since(then).as_secs();
    match s {
        0..=119 => format!("{s} s"),
        120..=7_199 => format!("{} min", s / 60),
        7_200..=172_799 => format!("{} h", s / 3_600),
        _ => format!("{} d", s / 86_400),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Learn => "learn",
        Role::Inject => "inject",
    }
}

fn fault(last: &LastFault, now: Timestamp) -> String {
    let permanent = if last.permanent { " (only a change of configuration helps)" } else { "" };
    format!("{} ago: {}{permanent}", ago(last.at, now), last.text)
}

pub(super) fn peers(answer: &BgpPeers) -> String {
    let now = answer.at_ns;
    let mut text = String::new();
    if !answer.peers.is_empty() {
        let rows: Vec<Vec<String>> = answer.peers.iter().map(|peer| peer_row(peer, now)).collect();
        let header =
            ["PEER", "ROLE", "ADDRESS", "AS", "STATE", "FOR", "LEARNT", "WITHDRAWN", "SENT", "EFFECTIVE"];
        text += &table(&header, &[5, 6, 7, 8, 9], &rows);
    }
    for peer in answer.peers.iter().filter(|peer| !peer.status.state.is_established()) {
        if let Some(last) = &peer.status.last_fault {
            let _ = writeln!(text, "{}: {}", peer.status.name, fault(last, now));
        }
    }
    for router in &answer.routers {
        if !text.is_empty() {
            text += "\n";
        }
        text += &router_summary(router, now);
    }
    if text.is_empty() { "no session and no monitored router is configured\n".to_owned() } else { text }
}

/// What a session was told, and where to look for what becomes of it.
pub(super) fn ordered(ordered: &BgpOrdered) -> String {
    let BgpOrdered { session, order, state } = ordered;
    let next = match order.as_str() {
        "shutdown" => format!("it stays down until `etm bgp start {session}`"),
        _ => format!("`etm bgp peers {session}` shows what becomes of it"),
    };
    format!("{session} ({state}) was told: {order}; {next}\n")
}

/// Rules in order, what they matched, and their prefix lists below.
pub(super) fn rules(answer: &BgpRules) -> String {
    if answer.rules.is_empty() {
        return "no rule for routes ([[policy.route]]) is configured: all routes are taken as they are\n"
            .to_owned();
    }
    let mut rows = Vec::new();
    for rule in &answer.rules {
        let preference = rule.preference.map(|value| value.to_string()).unwrap_or_default();
        let conditions = match (&rule.name, rule.conditions.is_empty()) {
            (None, _) => "routes that no rule matches".to_owned(),
            (Some(_), true) => "any route".to_owned(),
            (Some(_), false) => rule.conditions.join(", "),
        };
        let name = rule.name.clone().unwrap_or_else(|| "-".to_owned());
        rows.push(vec![name, rule.action.clone(), preference, rule.announcements.to_string(), conditions]);
        for (list, announcements) in &rule.prefix_lists {
            let (none, what) = (String::new, format!("in prefix list {list}"));
            rows.push(vec![none(), none(), none(), announcements.to_string(), what]);
        }
    }
    table(&["RULE", "ACTION", "PREFERENCE", "ANNOUNCEMENTS", "WHAT MUST HOLD"], &[2, 3], &rows)
}

fn peer_row(peer: &BgpPeer, now: Timestamp) -> Vec<String> {
    let status = &peer.status;
    let inject = peer.role == Role::Inject;
    let learnt = |value: u64| if inject { String::new() } else { value.to_string() };
    vec![
        status.name.clone(),
        role(peer.role).to_owned(),
        status.remote.ip().to_string(),
        status.peer_as.0.to_string(),
        status.state.to_string(),
        ago(status.since, now),
        learnt(status.traffic.announced_in),
        learnt(status.traffic.withdrawn_in),
        if inject { format!("{} of {}", status.announced, peer.wanted) } else { String::new() },
        match (inject, peer.effective) {
            (true, Some(count)) => count.to_string(),
            (true, None) => "not reported".to_owned(),
            (false, _) => String::new(),
        },
    ]
}

fn router_summary(router: &RouterStatus, now: Timestamp) -> String {
    let mut text = format!(
        "BMP router {} ({}), {}, {} for {}\n",
        router.name,
        router.address,
        router.view,
        router.state.as_str(),
        ago(router.since, now)
    );
    if router.remote.is_none()
        && let Some(last) = &router.last_fault
    {
        let _ = writeln!(text, "  {}", fault(last, now));
    }
    let row = |source: &SourceStatus| {
        vec![
            source.name.clone(),
            source.provider.clone(),
            source.asn.map_or_else(String::new, |asn| asn.0.to_string()),
            if source.up { "up" } else { "down" }.to_owned(),
            ago(source.since, now),
            source.announced_in.to_string(),
            source.withdrawn_in.to_string(),
            complete(&source.families, &source.end_of_rib),
        ]
    };
    let rows: Vec<Vec<String>> = router.sources.iter().map(row).collect();
    if !rows.is_empty() {
        let header = ["MONITORED PEER", "PROVIDER", "AS", "STATE", "FOR", "LEARNT", "WITHDRAWN", "COMPLETE"];
        text += &table(&header, &[4, 5, 6], &rows);
    }
    if let Some(loc_rib) = &router.loc_rib {
        let state = if loc_rib.up { "reported" } else { "not reported" };
        let _ = writeln!(
            text,
            "Loc-RIB {state}, proves session {}: {} announcements effective",
            loc_rib.session, loc_rib.effective
        );
    }
    text
}

fn complete(families: &[Family], end_of_rib: &[Family]) -> String {
    let missing: Vec<Family> =
        families.iter().copied().filter(|family| !end_of_rib.contains(family)).collect();
    match (families.is_empty(), missing.is_empty()) {
        (true, _) => "-".to_owned(),
        (false, true) => "yes".to_owned(),
        (false, false) => format!("not {}", listed(&missing)),
    }
}

fn messages(messages: &Messages) -> String {
    format!(
        "{} OPEN, {} UPDATE, {} KEEPALIVE, {} ROUTE-REFRESH, {} NOTIFICATION",
        messages.open, messages.update, messages.keepalive, messages.route_refresh, messages.notification
    )
}

fn dispositions(lines: &mut Lines, counts: &Dispositions) {
    let all = [
        ("treated as withdraw", counts.treat_as_withdraw),
        ("attribute discarded", counts.attribute_discard),
        ("session reset", counts.session_reset),
        ("martians", counts.martian),
        ("own AS in path", counts.as_loop),
        ("wrong first AS", counts.first_as),
        ("leaked (RFC 9234)", counts.leak),
        ("AS_SET, accepted", counts.as_set),
        ("family not offered", counts.foreign_family),
        ("no import policy", counts.no_policy),
        ("above the maximum", counts.over_limit),
    ];
    for (label, count) in all.into_iter().filter(|(_, count)| *count > 0) {
        lines.add(label, count);
    }
}

pub(super) fn peer(peer: &BgpPeer, now: Timestamp) -> String {
    let status = &peer.status;
    let mut lines = Lines::default();
    lines.add("session", format_args!("{} ({})", status.name, role(peer.role)));
    lines.add("peer", format_args!("{}, {}", status.remote, status.peer_as));
    lines.add_some("our end", status.local.map(|local| format!("{local}, {}", status.local_as)));
    lines.add("state", format_args!("{} for {}", status.state, ago(status.since, now)));
    lines.add_some("next attempt", status.retry_at.map(|at| format!("in {} s", at.since(now).as_secs())));
    lines.add("established", format_args!("{} times", status.established));
    lines.add("protection", &status.protection);
    lines.add("timers", format_args!("hold {} s, keepalive {} s", status.hold_time, status.keepalive));
    lines.add_some("peer's identifier", status.peer_router_id);
    lines.add_list("families", &status.families);
    lines.add_list("ADD-PATH received", &status.add_path);
    lines.add_list("table complete", &status.end_of_rib);
    lines.add_list("stale", &status.stale);
    lines.add_some("stale until", status.stale_until.map(|at| format!("{} s", at.since(now).as_secs())));
    lines.add_list("we offered", &status.ours);
    lines.add_list("the peer offered", &status.theirs);
    lines.add("received", messages(&status.traffic.received));
    lines.add("sent", messages(&status.traffic.sent));
    lines.add("bytes", format_args!("{} in, {} out", status.traffic.bytes_in, status.traffic.bytes_out));
    match peer.role {
        Role::Learn => {
            let traffic = &status.traffic;
            lines.add(
                "routes",
                format_args!("{} learnt, {} withdrawn", traffic.announced_in, traffic.withdrawn_in),
            );
            lines.add_some("held", status.held);
            lines.add("had to wait", format_args!("{} times", traffic.held_back));
        }
        Role::Inject => {
            lines.add("announced", format_args!("{} of {} wanted", status.announced, peer.wanted));
            lines.add("withheld", status.withheld);
            lines.add_some("written decision", status.written);
            lines.add_some("acknowledged", status.told);
            let effective = peer.effective.map_or_else(
                || "not known: no BMP router reports this peer's Loc-RIB".to_owned(),
                |count| format!("{count} are the best routes of its Loc-RIB"),
            );
            lines.add("effective", effective);
        }
    }
    dispositions(&mut lines, &status.dispositions);
    lines.add_some("last notice", status.last_notice.as_ref());
    lines.add_some("last error", status.last_fault.as_ref().map(|last| fault(last, now)));
    lines.0
}

pub(super) fn router(router: &RouterStatus, now: Timestamp) -> String {
    let mut lines = Lines::default();
    lines.add("BMP router", format_args!("{} ({})", router.name, router.address));
    lines.add("view", &router.view);
    lines.add("state", format_args!("{} for {}", router.state.as_str(), ago(router.since, now)));
    lines.add_some("connected from", router.remote);
    lines.add("connections", router.connections);
    lines.add("calls itself", format_args!("{} {}", router.sys_name, router.sys_descr));
    lines.add("bytes", router.bytes_in);
    let m = &router.messages;
    lines.add(
        "messages",
        format_args!(
            "{} routes, {} peer up, {} peer down, {} statistics, {} other",
            m.routes, m.peer_up, m.peer_down, m.stats, m.other
        ),
    );
    lines.add(
        "ignored",
        format_args!("{} of peers or tables that are not used, {} before Peer Up", m.ignored, m.early),
    );
    lines.add_list("peers without a name", &router.unnamed);
    lines.add_some("last error", router.last_fault.as_ref().map(|last| fault(last, now)));
    lines.0 + "\n" + &router_summary(router, now)
}

pub(super) fn source(source: &SourceStatus, now: Timestamp) -> String {
    let mut lines = Lines::default();
    lines.add("monitored peer", format_args!("{} of provider {}", source.name, source.provider));
    lines.add(
        "state",
        format_args!("{} for {}", if source.up { "up" } else { "down" }, ago(source.since, now)),
    );
    lines.add_some("AS", source.asn.map(|asn| asn.0));
    lines.add_some("identifier", source.router_id);
    lines.add_list("families", &source.families);
    lines.add_list("ADD-PATH", &source.add_path);
    lines.add_list("table complete", &source.end_of_rib);
    lines.add("routes", format_args!("{} learnt, {} withdrawn", source.announced_in, source.withdrawn_in));
    if source.foreign_next_hop > 0 {
        lines.add(
            "foreign next hop",
            format_args!("{} (no exit of {})", source.foreign_next_hop, source.provider),
        );
    }
    dispositions(&mut lines, &source.dispositions);
    for (name, value) in &source.stats {
        lines.add("router counts", format_args!("{name} {value}"));
    }
    lines.add_some("last notice", source.last_notice.as_ref());
    lines.add_some("last error", source.last_fault.as_ref().map(|last| fault(last, now)));
    lines.0
}

/// Columns of fixed width: the pages of one listing must look alike.
pub(super) fn routes(routes: &[RouteView], header: bool) -> String {
    let mut text = String::new();
    if header {
        let _ = writeln!(
            text,
            "{:<20} {:<16} {:>6} {:<16} {:<12} {:>7} {:>6}  AS PATH",
            "PREFIX", "PEER", "PATH", "NEXT HOP", "EXIT", "LPREF", "MED"
        );
    }
    for route in routes {
        let attrs = &route.attributes;
        let _ = writeln!(
            text,
            "{:<20} {:<16} {:>6} {:<16} {:<12} {:>7} {:>6}  {}{}",
            route.prefix,
            route.session,
            route.path_id.0,
            attrs.next_hop.to_string(),
            route.exit.as_deref().unwrap_or("-"),
            attrs.local_pref,
            attrs.med.map_or_else(|| "-".to_owned(), |med| med.to_string()),
            route.as_path,
            communities(route)
        );
    }
    text
}

fn communities(route: &RouteView) -> String {
    if route.communities.is_empty() { String::new() } else { format!(" [{}]", route.communities.join(" ")) }
}

pub(super) fn candidates(view: &CandidatesView) -> String {
    let Some(prefix) = view.prefix else {
        return format!("no source announces {} or anything around it\n", view.asked);
    };
    let mut text = format!("{prefix}");
    match (&view.home, &view.exit) {
        (Some(home), Some(exit)) if home != exit => {
            let _ = write!(text, ": plain routing uses {home}, ETM sends it through {exit}");
        }
        (Some(home), _) => {
            let _ = write!(text, ": plain routing uses {home}");
        }
        (None, _) => text += ": not steered by ETM",
    }
    text += "\n";
    let row = |one: &crate::core::view::RankedView| {
        let attrs = &one.route.attributes;
        vec![
            one.rank.map_or_else(|| "-".to_owned(), |rank| rank.to_string()),
            one.route.exit.clone().unwrap_or_else(|| "-".to_owned()),
            one.route.session.clone(),
            attrs.next_hop.to_string(),
            attrs.local_pref.to_string(),
            attrs.med.map_or_else(|| "-".to_owned(), |med| med.to_string()),
            format!("{}{}", one.route.as_path, communities(&one.route)),
            one.decided_by.clone().unwrap_or_else(|| "-".to_owned()),
            one.note.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = view.candidates.iter().map(row).collect();
    let header = ["#", "EXIT", "PEER", "NEXT HOP", "LPREF", "MED", "AS PATH", "BEHIND BY", "NOTE"];
    text += &table(&header, &[0, 4, 5], &rows);
    for peer in &view.announced {
        let _ = writeln!(text, "{}", announced(peer));
    }
    text
}

fn announced(peer: &AnnouncedView) -> String {
    let sent = if peer.sent { "sent" } else { "not sent yet" };
    let effective = match (peer.effective, peer.next_hop) {
        (Some(true), Some(next_hop)) => format!("effective, next hop {next_hop}"),
        (Some(true), None) => "effective".to_owned(),
        (Some(false), _) => "not effective: another route is best there".to_owned(),
        (None, _) => "whether it is effective is not reported".to_owned(),
    };
    format!("session {}: {sent}, {effective}", peer.session)
}
