//! What the observer saw against what must hold (ARCHITECTURE.md, invariants). Pure: looks, packets and the diary of the
//! harness in, violations out. Never excuses what it cannot name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::chaos::kernel::{Kind, OWN, Way, lookup};
use crate::chaos::timeline::{MS, Moment, Terms, Timeline};
use crate::table::Table;
use crate::topology::Provider;

/// Protocol number of BIRD's routes.
const BIRD: u8 = 12;
/// Looks this far from a packet's sending speak for it: two looks apart, and the 10 ms bins of the ledgers.
const NEAR: u64 = 120 * MS;
/// While plain routing of a destination changes, as many of its packets may be lost in one window: a daemon that replaces a
/// route by removing it first.
const CHURN_LOSS: u64 = 3;
/// How long before and after a window a change of plain routing explains that.
const CHURN: u64 = 500 * MS;

/// A route of ETM as a peer has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Destination.
    pub prefix: Option<IpNet>,
    /// Name of the session it came by.
    pub session: String,
    /// Communities as printed.
    pub communities: String,
}

/// What the kernel had at one moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// When it began to look.
    pub from: Moment,
    /// When it had seen everything.
    pub until: Moment,
    /// Plain routing.
    pub main: Vec<Way>,
    /// ETM's table.
    pub own: Vec<Way>,
    /// ETM's table after each change since the look before.
    pub between: Vec<Vec<Way>>,
    /// What changed of plain routing since the look before.
    pub changed: Changed,
}

/// What routers said at one moment.
#[derive(Clone, Debug, Default)]
pub struct Hearing {
    /// When the first was asked.
    pub from: Moment,
    /// When the last had answered.
    pub until: Moment,
    /// What core has with ETM's community, or by its session; none while core does not answer.
    pub core: Option<Vec<Heard>>,
    /// Routes with ETM's community where none may be: `WHERE PREFIX`.
    pub leaks: Vec<String>,
}

/// Destinations whose plain routing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Those in these prefixes.
    These(BTreeSet<IpNet>),
    /// Unknown: notifications were lost.
    Unknown,
}

impl Default for Changed {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Changed {
    fn holds(&self, destination: IpAddr) -> bool {
        match self {
            Self::These(prefixes) => prefixes.iter().any(|prefix| prefix.contains(&destination)),
            Self::Unknown => true,
        }
    }
}

/// What was sent and arrived within a window of time of sending.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// First moment.
    pub from: Moment,
    /// Last moment.
    pub until: Moment,
    /// Packets sent, by destination.
    pub sent: BTreeMap<IpAddr, u64>,
    /// Packets that arrived, by provider and destination.
    pub arrived: BTreeMap<(Provider, IpAddr), u64>,
}

/// What plain routing may look like.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Plain routing before ETM came.
    pub baseline: Vec<Way>,
    /// Everything that providers announce at some time of the round.
    pub table: Table,
    /// Next hops and whose they are.
    pub gateways: BTreeMap<IpAddr, Provider>,
    /// The community that marks ETM's announcements.
    pub community: String,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which invariant, in a word.
    pub kind: &'static str,
    /// What was seen.
    pub what: String,
    /// When first, milliseconds from the round's first moment.
    pub at_ms: i64,
    /// How often.
    pub times: u64,
}

/// Collects violations, each once with a count.
pub struct Findings {
    start: Moment,
    /// Windows of which nothing is known, because the observer was late itself.
    pub blind: u64,
    found: BTreeMap<(&'static str, String), (Moment, u64)>,
}

impl Findings {
    /// None yet; times count from `start`.
    pub fn new(start: Moment) -> Self {
        Self { start, blind: 0, found: BTreeMap::new() }
    }

    /// Notes one.
    pub fn add(&mut self, kind: &'static str, what: String, at: Moment, times: u64) {
        let entry = self.found.entry((kind, what)).or_insert((at, 0));
        entry.0 = entry.0.min(at);
        entry.1 += times;
    }

    /// All of them.
    pub fn into_list(self) -> Vec<Violation> {
        let since = |at: Moment| {
            let ms = |span: u64| i64::try_from(span / MS).unwrap_or(i64::MAX);
            if at >= self.start { ms(at - self.start) } else { -ms(self.start - at) }
        };
        self.found
            .into_iter()
            .map(|((kind, what), (at, times))| Violation { kind, what, at_ms: since(at), times })
            .collect()
    }
}

/// Everything there is to judge by.
pub struct Case<'a> {
    /// In order of time.
    pub looks: &'a [Look],
    /// In order of time.
    pub hearings: &'a [Hearing],
    /// In order of time.
    pub windows: &'a [Window],
    /// What was done.
    pub timeline: &'a Timeline,
    /// Bounds.
    pub terms: &'a Terms,
    /// What plain routing may look like.
    pub expected: &'a Expected,
}

impl Case<'_> {
    /// Judges all of it.
    pub fn judge(&self, findings: &mut Findings) {
        for look in self.looks {
            self.main_is_plain(look, findings);
            self.overrides_have_candidates(look, findings);
        }
        for hearing in self.hearings {
            self.announcements_are_clean(hearing, findings);
        }
        self.nothing_announced_when_it_may_not(findings);
        for window in self.windows {
            self.packets_go_where_somebody_sent_them(window, findings);
        }
    }

    fn provider(&self, way: &Way) -> Option<Provider> {
        self.expected.gateways.get(&way.gateway?).copied()
    }

    /// Invariants 3 and 8: plain routing is the daemon's, and ETM is not in it.
    fn main_is_plain(&self, look: &Look, findings: &mut Findings) {
        for way in &look.main {
            if u32::from(way.protocol) == OWN {
                findings.add("main-touched", format!("{} by protocol {OWN}", way.prefix), look.from, 1);
                continue;
            }
            let known = self.expected.baseline.iter().any(|b| {
                (b.prefix, b.protocol, b.gateway, b.metric)
                    == (way.prefix, way.protocol, way.gateway, way.metric)
            });
            if !(known || way.protocol == BIRD && self.announced(way)) {
                let what = format!("{} via {:?} protocol {}", way.prefix, way.gateway, way.protocol);
                findings.add("main-strange", what, look.from, 1);
            }
        }
    }

    /// Whether the next hop of a route is a provider that announces its prefix.
    fn announced(&self, way: &Way) -> bool {
        let Some(provider) = self.provider(way) else { return false };
        let mut announcements = self.expected.table.announcements.iter();
        announcements.any(|a| a.prefix == way.prefix && a.providers.contains(&provider))
    }

    /// Invariant 2.
    fn overrides_have_candidates(&self, look: &Look, findings: &mut Findings) {
        for way in look.own.iter().filter(|way| way.kind == Kind::Unicast && way.usable) {
            let Some(provider) = self.provider(way).filter(|_| self.announced(way)) else {
                let what = format!("{} via {:?}, which does not announce it", way.prefix, way.gateway);
                findings.add("no-candidate", what, look.from, 1);
                continue;
            };
            if let Some(since) = self.timeline.gone_since(provider, way.prefix, look.from, self.terms) {
                let ms = (look.from - since) / MS;
                let what = format!("{} by {provider}, whose candidate is gone", way.prefix);
                findings.add("no-candidate", what, since, 1);
                findings.add(
                    "no-candidate",
                    format!("the longest by {provider}: more than {} ms", ms / 500 * 500),
                    since,
                    1,
                );
            }
        }
    }

    /// Invariant 3: in the RIB, NO_EXPORT, our community, by our session, and nowhere else.
    fn announcements_are_clean(&self, look: &Hearing, findings: &mut Findings) {
        for leak in &look.leaks {
            findings.add("leak", leak.clone(), look.from, 1);
        }
        for route in look.core.iter().flatten() {
            let Some(prefix) = route.prefix else { continue };
            let mut wrong = Vec::new();
            if !self.expected.table.announcements.iter().any(|a| a.prefix == prefix) {
                wrong.push("not in the RIB".to_owned());
            }
            if !route.communities.contains("(65535,65281)") {
                wrong.push("without NO_EXPORT".to_owned());
            }
            if !route.communities.contains(&self.expected.community) {
                wrong.push("without ETM's community".to_owned());
            }
            if route.session != crate::traces::CORE_SESSION {
                wrong.push(format!("by session {}", route.session));
            }
            if !wrong.is_empty() {
                findings.add("announcement", format!("{prefix}: {}", wrong.join(", ")), look.from, 1);
            }
        }
    }

    /// Invariants 1 and 7, at the peers.
    fn nothing_announced_when_it_may_not(&self, findings: &mut Findings) {
        for span in self.timeline.peers_plain(self.terms) {
            for look in self.hearings.iter().filter(|look| span.holds(look.from) && span.holds(look.until)) {
                let heard: BTreeSet<String> =
                    look.core.iter().flatten().filter_map(|route| Some(route.prefix?.to_string())).collect();
                for prefix in heard {
                    findings.add("stale-announcement", format!("{prefix} at core"), look.from, 1);
                }
            }
        }
    }

    /// Invariants 1, 7 and 9 as packets see them, and loss.
    fn packets_go_where_somebody_sent_them(&self, window: &Window, findings: &mut Findings) {
        let near = self.near(window, NEAR);
        // Without a look on each side nothing is known of this window.
        let seen = near.first().is_some_and(|look| look.from <= window.from)
            && near.last().is_some_and(|look| look.until >= window.until);
        if !seen {
            findings.blind += 1;
            return;
        }
        let plain_spans = self.timeline.kernel_plain(self.terms);
        let must_be_plain =
            plain_spans.iter().any(|span| span.holds(window.from) && span.holds(window.until));
        for ((provider, destination), packets) in &window.arrived {
            let plain: BTreeSet<Option<Provider>> = near
                .iter()
                .map(|look| lookup(&look.main, *destination).and_then(|w| self.provider(w)))
                .collect();
            if plain.contains(&Some(*provider)) {
                continue;
            }
            let sends = |ways: &Vec<Way>| {
                lookup(ways, *destination).and_then(|way| self.provider(way)) == Some(*provider)
            };
            let overridden = near.iter().any(|look| sends(&look.own) || look.between.iter().any(sends));
            let steady = plain.len() == 1 && !near.iter().any(|look| look.changed.holds(*destination));
            if must_be_plain && steady {
                let what = format!("{destination} by {provider}");
                findings.add("stale-override", what, window.from, *packets);
            } else if !overridden && steady {
                let what = format!("{destination} by {provider}, where neither table sends it");
                findings.add("detour", what, window.from, *packets);
            }
        }
        self.loss(window, findings);
    }

    fn loss(&self, window: &Window, findings: &mut Findings) {
        if self.timeline.excused(window.from, window.until) {
            return;
        }
        let around = self.near(window, CHURN);
        for (destination, sent) in &window.sent {
            let arrived: u64 =
                window.arrived.iter().filter(|((_, d), _)| d == destination).map(|(_, n)| n).sum();
            let lost = sent.saturating_sub(arrived);
            if lost == 0 {
                continue;
            }
            let plain: BTreeSet<Option<Provider>> = around
                .iter()
                .map(|look| lookup(&look.main, *destination).and_then(|w| self.provider(w)))
                .collect();
            let changing = plain.len() > 1 || around.iter().any(|look| look.changed.holds(*destination));
            let explained = plain.contains(&None) || (changing && lost <= CHURN_LOSS);
            if !explained {
                findings.add("loss", format!("{destination}"), window.from, lost);
            }
        }
    }

    fn near(&self, window: &Window, span: u64) -> &[Look] {
        let first = self.looks.partition_point(|look| look.until < window.from.saturating_sub(span));
        let after = self.looks.partition_point(|look| look.from <= window.until + span);
        &self.looks[first..after.max(first)]
    }
}

#[cfg(test)]
mod tests;
