//! Why a prefix goes where it goes. Never computes a new decision: it reads the one that stands.

use super::super::decision::Override;
use super::super::fib_view::NotOurs;
use super::super::preference::{Candidate, compare};
use super::super::route_rules::Verdict;
use super::super::view::{CandidatePrice, CandidateView, ExplainView};
use super::Controller;
use crate::types::{BitRate, Community, ExitId, PathId, PeerId, Prefix, RouteAttrs, UplinkId};
use std::sync::Arc;

impl Controller {
    /// `etm explain PREFIX`: of the longest known prefix that covers what was asked.
    pub fn explain(&self, asked: Prefix) -> ExplainView {
        let Some(prefix) = self.rib.longest_cover(asked) else {
            return ExplainView {
                asked,
                prefix: None,
                rate_bps: BitRate::ZERO,
                home: None,
                exit: None,
                verdict: format!("no provider announces {asked} or anything around it"),
                because: Vec::new(),
                candidates: Vec::new(),
                more_specifics: 0,
                effect: None,
                announced: Vec::new(),
                since_ns: None,
                hold_until_ns: None,
            };
        };
        let home = self.fib.home(prefix, &self.policy, &self.topology);
        let entry = self.overrides.get(prefix);
        let exit = entry.map(|entry| entry.to).or(home.ok());
        let rate = self.slots.get(prefix).map_or(BitRate::ZERO, |slot| self.rates.demand(slot));
        let (verdict, mut because) = match entry {
            Some(_) => self.why_moved(prefix),
            None => self.why_not_moved(prefix, home),
        };
        because.extend(self.surge_note(prefix));
        ExplainView {
            asked,
            prefix: Some(prefix),
            rate_bps: rate,
            home: home.ok().map(|exit| self.exit_name(exit)),
            exit: exit.map(|exit| self.exit_name(exit)),
            verdict,
            because,
            candidates: self.candidate_views(prefix, home.ok(), rate),
            more_specifics: self.overrides.more_specifics(prefix, &self.rib, &self.fib).len(),
            effect: entry.map(|entry| self.effect(entry, rate)),
            announced: if self.decision.announce.contains_key(&prefix) {
                self.announced(prefix)
            } else {
                Vec::new()
            },
            since_ns: entry.map(|entry| entry.since),
            hold_until_ns: entry.map(|entry| entry.hold_until),
        }
    }

    /// What an override does to the loads of its two uplinks.
    fn effect(&self, entry: &Override, demand: BitRate) -> String {
        let (from, to) = (entry.from, entry.to);
        let rate = match (self.enforcing(), entry.share.is_part()) {
            (true, true) => self.seen_there(entry),
            _ => entry.share.of(demand),
        };
        let load = |exit: ExitId| {
            let uplink = self.topology.uplink_of(exit).unwrap_or_default();
            (self.uplink_name(uplink), self.load_of(uplink))
        };
        let ((home, left), (exit, carried)) = (load(from), load(to));
        if !self.enforcing() {
            let (less, more) = (left.saturating_sub(rate), carried + rate);
            return format!(
                "{home} would carry {less} instead of {left}, {exit} {more} instead of {carried}"
            );
        }
        let (more, less) = (left + rate, carried.saturating_sub(rate));
        format!(
            "{home} carries {left}, it would be {more} without it; {exit} carries {carried}, it would be {less}"
        )
    }

    fn why_moved(&self, prefix: Prefix) -> (String, Vec<String>) {
        let Some(entry) = self.overrides.get(prefix) else { return (String::new(), Vec::new()) };
        let (from, to) = (self.exit_name(entry.from), self.exit_name(entry.to));
        let verb = if self.enforcing() { "goes" } else { "would go" };
        let mut because = vec![self.reason_text(&entry.reason)];
        if let Some(reason) = self.refused.get(&prefix) {
            because.push(format!("but the kernel refused the route: {reason}"));
        }
        because.extend(self.why_elsewhere(prefix));
        because.extend(self.why_part(entry));
        if self.confirmations.is_watched(prefix) {
            because.push("the counters have not shown its traffic there yet".to_owned());
        }
        because.push(format!(
            "decided at {}, not given back before {} unless {to} is lost or overloaded",
            entry.since, entry.hold_until
        ));
        let what = match entry.share.is_part() {
            true => format!(
                "{} of the flows of {prefix} {verb} through {to}, the rest through {from}",
                entry.share
            ),
            false => format!("{prefix} {verb} through {to} instead of {from}"),
        };
        (what, because)
    }

    /// What dividing the flows of a prefix means.
    fn why_part(&self, entry: &Override) -> Vec<String> {
        if !entry.share.is_part() {
            return Vec::new();
        }
        let (from, to) = (self.exit_name(entry.from), self.exit_name(entry.to));
        let slot = self.slots.get(entry.prefix);
        let demand = slot.map_or(BitRate::ZERO, |slot| self.rates.demand(slot));
        vec![
            format!(
                "all of it fitted on no exit: the kernel divides its flows, {} of 256 to {to} and {} to {from}",
                entry.share.get(),
                entry.share.rest()
            ),
            format!("{} of its {demand} is seen on {to}", self.seen_there(entry)),
            "it is not announced to any peer: BGP cannot tell of a part".to_owned(),
        ]
    }

    /// How traffic gets to an exit of another border, and what tells that it does.
    fn why_elsewhere(&self, prefix: Prefix) -> Vec<String> {
        let Some(entry) = self.overrides.get(prefix) else { return Vec::new() };
        let Some(border) = self.policy.border_of_exit(entry.to) else { return Vec::new() };
        let told: Vec<String> =
            self.announced(prefix).into_iter().filter(|one| one.sent).map(|one| one.session).collect();
        let told = if told.is_empty() { "nobody yet".to_owned() } else { told.join(", ") };
        let seen = self.slots.get(prefix).map_or(BitRate::ZERO, |slot| self.rates.demand(slot));
        vec![
            format!(
                "{} is an exit of border {}: BGP alone leads there, this router's kernel goes on as plain routing says; told: {told}",
                self.exit_name(entry.to),
                border.name
            ),
            format!(
                "{} announces {prefix} through that exit itself, so it will not send it back",
                border.name
            ),
            format!("of {} when it was moved, {seen} is still seen here", entry.rate),
        ]
    }

    fn why_not_moved(&self, prefix: Prefix, home: Result<ExitId, NotOurs>) -> (String, Vec<String>) {
        let mut because = Vec::new();
        let verdict = match home {
            Ok(home) => {
                because.extend(self.why_home_suffices(prefix, home));
                format!("{prefix} goes through {} as plain routing says", self.exit_name(home))
            }
            Err(why) => {
                because.push(not_ours_text(why));
                format!("{prefix} is left to plain routing and is never overridden as things are")
            }
        };
        if self.rib.is_guest(prefix, &self.topology) {
            because.push("ETM on another border sent it here: it is not sent back".to_owned());
        }
        if self.policy.excludes(prefix) {
            because.push("it is inside a prefix of `policy.exclude`".to_owned());
        }
        if let Some(pin) = self.policy.pin_of(prefix) {
            because.push(format!("the operator pinned it to {}", self.exit_name(pin)));
        }
        if let Some((to, _)) = self.approvals.planned().get(&prefix) {
            because
                .push(format!("a change to {} waits for approval (`etm approve list`)", self.exit_name(*to)));
        }
        if self.barred.contains(&prefix) {
            because.push("it has more more-specifics inside than kernel.max_throws allows".to_owned());
        }
        if self.off {
            because.push("ETM is switched off (`etm on` switches it on)".to_owned());
        }
        because.extend(self.guarded(prefix, home.ok()));
        because.extend(self.holds.iter().map(|hold| format!("decisions stand still: {hold}")));
        (verdict, because)
    }

    /// What guards and orders have to do with it.
    fn guarded(&self, prefix: Prefix, home: Option<ExitId>) -> Vec<String> {
        let mut because = Vec::new();
        if home.is_some_and(|home| self.sources().is_drained(home)) {
            because.push(
                "its provider is drained, and no other exit has a route and room for it, or caps forbid it"
                    .to_owned(),
            );
        }
        if !self.policy.canary.admits(prefix) {
            because.push("it is inside none of policy.canary.prefixes".to_owned());
        }
        because.extend(self.closed_to(prefix).map(|(exit, closed)| {
            format!("its traffic did not follow when it was sent through {}: {closed}", self.exit_name(exit))
        }));
        because
    }

    /// Exits that are closed to it, and for how long still.
    fn closed_to(&self, prefix: Prefix) -> impl Iterator<Item = (ExitId, String)> {
        let now = self.last_sample.unwrap_or_default();
        let closed = self.confirmations.closed_to(prefix).filter(move |(_, closed)| now < closed.until);
        closed.map(move |(exit, closed)| {
            let left = closed.until.since(now).as_secs();
            (exit, format!("{} times, not tried again for {left} s", closed.failures))
        })
    }

    /// That what it asks for is not believed yet.
    fn surge_note(&self, prefix: Prefix) -> Option<String> {
        let usual = self.slots.get(prefix).and_then(|slot| self.surges.usual(slot))?;
        Some(format!(
            "it asks for many times its usual {usual}: the rest does not count for money until it lasts"
        ))
    }

    fn why_home_suffices(&self, prefix: Prefix, home: ExitId) -> Vec<String> {
        let Some(uplink) = self.topology.uplink_of(home) else { return Vec::new() };
        let name = self.uplink_name(uplink);
        let load = self.projected.get(uplink.index()).copied().unwrap_or_default();
        let Some(configured) = self.policy.uplinks.get(uplink.index()) else { return Vec::new() };
        let mut because = vec![format!(
            "{name} would carry {load} without overrides, its limit is {}",
            configured.limit_rate()
        )];
        if load > configured.limit_rate() {
            because.push(if self.unrelieved.contains(&uplink) {
                "it is overloaded, and no other exit has room for more of its prefixes".to_owned()
            } else {
                "other prefixes were moved off it, with less traffic in all".to_owned()
            });
        }
        if self.rib.candidates(prefix, &self.topology).len() < 2 {
            because.push("no other exit has a usable route for it".to_owned());
        }
        because
    }

    fn candidate_views(&self, prefix: Prefix, home: Option<ExitId>, rate: BitRate) -> Vec<CandidateView> {
        let ranked = self.rib.candidates(prefix, &self.topology);
        let prices = self.prices_of(prefix, home, &ranked);
        let mut views: Vec<CandidateView> = ranked
            .iter()
            .enumerate()
            .map(|(rank, candidate)| {
                let mut note = self.usable_note(prefix, home, rate, &ranked, rank);
                if let Some(why) = self.why_not(prefix, home, candidate.exit, &prices) {
                    note = format!("{note}; {why}");
                }
                let attrs = self.rib.attrs(candidate);
                let view = self.candidate_view(candidate.peer, &attrs, Some(candidate.exit), true, note);
                let price = prices.iter().find(|(exit, _)| *exit == candidate.exit).map(|(_, price)| *price);
                CandidateView { price, ..view }
            })
            .collect();
        for (peer, path_id, attrs) in self.rib.received(prefix) {
            let shown = ranked.iter().any(|candidate| (candidate.peer, candidate.path_id) == (peer, path_id));
            if !shown {
                let exit = self.topology.exit_of(peer, attrs.next_hop);
                let note = self
                    .refused_note(prefix, peer, path_id)
                    .unwrap_or_else(|| self.unusable_note((peer, &attrs), &ranked));
                views.push(self.candidate_view(peer, &attrs, exit, false, note));
            }
        }
        views
    }

    /// What each candidate costs now, where there is a choice.
    fn prices_of(
        &self,
        prefix: Prefix,
        home: Option<ExitId>,
        ranked: &[Candidate],
    ) -> Vec<(ExitId, CandidatePrice)> {
        let Some(home) = home.filter(|_| ranked.len() > 1 && self.samples > 1) else { return Vec::new() };
        let current = self.overrides.get(prefix).map_or(home, |entry| entry.to);
        let exits: Vec<ExitId> = ranked.iter().map(|candidate| candidate.exit).collect();
        let now = self.last_sample.unwrap_or_default();
        exits.iter().copied().zip(self.candidate_prices(now, (home, current), &exits)).collect()
    }

    /// Why it is not this exit, by price, or by rules.
    fn why_not(
        &self,
        prefix: Prefix,
        home: Option<ExitId>,
        exit: ExitId,
        prices: &[(ExitId, CandidatePrice)],
    ) -> Option<String> {
        let current = self.overrides.get(prefix).map(|entry| entry.to).or(home)?;
        if exit == current {
            return None;
        }
        if self.policy.forbids(prefix, exit) {
            return Some("the operator forbids it (policy)".to_owned());
        }
        if let Some((_, closed)) = self.closed_to(prefix).find(|(closed, _)| *closed == exit) {
            return Some(format!("closed, traffic did not follow: {closed}"));
        }
        let price = |wanted: ExitId| prices.iter().find(|(exit, _)| *exit == wanted).map(|(_, price)| *price);
        let (here, there) = (price(current)?, price(exit)?);
        let more = there.total_per_mbps - here.total_per_mbps;
        let name = self.exit_name(current);
        Some(if more > 0.0 {
            format!("{more:.4} per Mbit/s dearer than {name}, moving included")
        } else {
            format!(
                "no dearer than {name} at these prices: held, capped, pinned, or less than the least saving"
            )
        })
    }

    pub(super) fn usable_note(
        &self,
        prefix: Prefix,
        home: Option<ExitId>,
        rate: BitRate,
        ranked: &[Candidate],
        rank: usize,
    ) -> String {
        let candidate = &ranked[rank];
        let mut notes = Vec::new();
        notes.extend(
            self.policy.border_of_exit(candidate.exit).map(|at| format!("an exit of border {}", at.name)),
        );
        if candidate.prefix != prefix {
            notes.push(format!("a route for {} that covers it", candidate.prefix));
        }
        if home == Some(candidate.exit) {
            notes.push("plain routing's choice".to_owned());
        }
        if let Some(entry) = self.overrides.get(prefix)
            && entry.to == candidate.exit
        {
            notes.push("used by the override".to_owned());
        }
        if rank > 0 {
            let by = compare(&ranked[rank - 1], candidate, self.policy.process).1;
            notes.push(format!("after {} by {}", self.exit_name(ranked[rank - 1].exit), by.as_str()));
        }
        if notes.is_empty() || (home != Some(candidate.exit) && self.overrides.get(prefix).is_none()) {
            notes.push(self.room_note(candidate.exit, rate));
        }
        notes.join(", ")
    }

    fn room_note(&self, exit: ExitId, rate: BitRate) -> String {
        let Some(uplink) = self.topology.uplink_of(exit) else { return String::new() };
        let Some(configured) = self.policy.uplinks.get(uplink.index()) else { return String::new() };
        let offered = self.load_of(uplink);
        let room = configured.fill_rate().saturating_sub(offered);
        let word = if rate <= room { "has room for it" } else { "has no room for it" };
        format!("{} {word}: {room} free", configured.name)
    }

    /// What an uplink carries, as far as it is known here.
    fn load_of(&self, uplink: UplinkId) -> BitRate {
        if self.policy.border_of(uplink).is_some() {
            return self.sent_to(uplink);
        }
        self.meters.get(uplink.index()).map_or(BitRate::ZERO, |meter| meter.offered)
    }

    /// Why the operator's word keeps a route from being a candidate, if it does.
    pub(super) fn refused_note(&self, prefix: Prefix, peer: PeerId, path_id: PathId) -> Option<String> {
        if self.rib.is_internal(prefix) {
            return Some("the prefix is inside one of policy.internal".to_owned());
        }
        let rule = self.rib.rule_of(prefix, peer, path_id)?;
        (rule.verdict == Verdict::Deny).then(|| format!("denied by rule {}", rule.name))
    }

    /// Why a route that nothing refuses is no candidate.
    pub(super) fn unusable_note(&self, (peer, attrs): (PeerId, &RouteAttrs), ranked: &[Candidate]) -> String {
        let next_hop = attrs.next_hop;
        match self.topology.exit_of(peer, next_hop) {
            None if self.topology.is_ambiguous(peer, next_hop) => {
                format!("its next hop {next_hop} is one of several exits, and nothing says on which link")
            }
            None => "its next hop is none of the configured exits".to_owned(),
            Some(_) if attrs.communities.contains(&Community::BLACKHOLE) => {
                "it carries BLACKHOLE (RFC 7999)".to_owned()
            }
            Some(exit) if self.topology.is_silent(next_hop, exit) => {
                format!("its next hop {next_hop} does not answer")
            }
            Some(exit) if self.is_of_another(exit, attrs) => {
                "its AS_PATH does not begin with the provider's asn".to_owned()
            }
            Some(exit) if ranked.iter().any(|candidate| candidate.exit == exit) => {
                "a better route uses the same exit".to_owned()
            }
            Some(exit) if self.topology.is_elsewhere(exit) => {
                let border =
                    self.policy.border_of_exit(exit).map_or("another", |border| border.name.as_str());
                format!(
                    "an exit of border {border}, which does not announce it itself, or sent it here; or nobody behind it hears ETM"
                )
            }
            Some(exit) => {
                let uplink = self.topology.uplink_of(exit).unwrap_or_default();
                format!("the link of {} is down", self.uplink_name(uplink))
            }
        }
    }

    /// True where the provider of `exit` has an AS, and the path begins with another one.
    fn is_of_another(&self, exit: ExitId, attrs: &RouteAttrs) -> bool {
        let first = attrs.as_path.first();
        self.topology.asn_of(exit).zip(first).is_some_and(|(asn, first)| asn != first)
    }

    fn candidate_view(
        &self,
        peer: PeerId,
        attrs: &Arc<RouteAttrs>,
        exit: Option<ExitId>,
        usable: bool,
        note: String,
    ) -> CandidateView {
        CandidateView {
            exit: exit.map(|exit| self.exit_name(exit)),
            next_hop: attrs.next_hop.to_string(),
            session: self
                .policy
                .peers
                .get(usize::from(peer.0))
                .map_or_else(|| "static".to_owned(), |peer| peer.name.clone()),
            as_path: attrs.as_path.to_string(),
            local_pref: attrs.local_pref,
            med: attrs.med,
            usable,
            note,
            price: None,
        }
    }
}

fn not_ours_text(why: NotOurs) -> String {
    match why {
        NotOurs::NoKernelRoute => "the kernel's main table has no route for exactly this prefix".to_owned(),
        NotOurs::OtherProtocol { protocol } => format!(
            "the kernel's route for it was not installed by the routing daemon (protocol {protocol}): static, connected or another daemon"
        ),
        NotOurs::NotUnicast => "the kernel's route for it is a blackhole, unreachable or prohibit".to_owned(),
        NotOurs::Multipath => "the kernel's route for it has several next hops".to_owned(),
        NotOurs::Metric { metric } => format!(
            "the kernel's route for it has metric {metric}, so one of ETM beside it would not be used: give the routing \
             daemon a higher one, or set kernel.mode = \"lease\""
        ),
        NotOurs::UnknownExit => "the kernel's next hop for it is none of the configured exits".to_owned(),
    }
}
