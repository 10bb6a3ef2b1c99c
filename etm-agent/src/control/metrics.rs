//! `GET /metrics`: the status as OpenMetrics text (docs/metrics.md). One line per provider, exit, uplink, session, guard
//! and state, never one per prefix. Never answers from its own state: each scrape asks the decision.

use super::schema::{GuardianState, Status};
use crate::core::policy::Role;
use crate::core::view::{BookState, Guard, Hold, Mode, State, StatusView};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;
use std::fmt;

/// Of what `text` writes.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A value of one kind.
#[derive(Clone, Copy, Debug)]
enum Value {
    /// Only grows while the agent lives.
    Counter(u64),
    /// A whole number.
    Whole(u64),
    /// Any number.
    Real(f64),
}

type Labels = Vec<(&'static str, String)>;

/// One metric with all its lines.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    lines: Vec<(Labels, Value)>,
}

/// All of them at one moment.
#[derive(Debug, Default)]
struct Snapshot {
    metrics: Vec<Metric>,
}

/// The status as text.
pub(super) fn render(status: &Status) -> Result<String, fmt::Error> {
    let mut snapshot = Snapshot::default();
    snapshot.agent(status);
    snapshot.states(&status.decision);
    snapshot.decision(&status.decision);
    snapshot.moves(&status.decision);
    snapshot.site(&status.decision);
    snapshot.uplinks(&status.decision);
    snapshot.books(&status.decision);
    snapshot.exits(&status.decision);
    snapshot.sessions(status);
    snapshot.certificate(&status.decision);
    let mut registry = Registry::with_prefix("etm");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in self.metrics.iter().filter(|metric| !metric.lines.is_empty()) {
            let kind = match metric.lines.first() {
                Some((_, Value::Counter(_))) => MetricType::Counter,
                _ => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (labels, value) in &metric.lines {
                // An empty set of labels would be written as one.
                if labels.is_empty() {
                    write(&mut family, *value)?;
                } else {
                    write(&mut family.encode_family(labels)?, *value)?;
                }
            }
        }
        Ok(())
    }
}

fn write(line: &mut MetricEncoder<'_>, value: Value) -> fmt::Result {
    match value {
        Value::Counter(value) => line.encode_counter::<Labels, u64, f64>(&value, None),
        Value::Whole(value) => line.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX)),
        Value::Real(value) => line.encode_gauge(&value),
    }
}

fn whole(value: usize) -> Value {
    Value::Whole(u64::try_from(value).unwrap_or(u64::MAX))
}

fn yes(value: bool) -> Value {
    Value::Whole(u64::from(value))
}

/// Seconds of a count of microseconds.
fn seconds(micros: u64) -> Value {
    Value::Real(std::time::Duration::from_micros(micros).as_secs_f64())
}

/// A share of parts per million.
fn ratio(ppm: u32) -> Value {
    Value::Real(f64::from(ppm) / 1e6)
}

impl Snapshot {
    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        lines: impl IntoIterator<Item = (Labels, Value)>,
    ) {
        self.metrics.push(Metric { name, help, lines: lines.into_iter().collect() });
    }

    fn one(&mut self, name: &'static str, help: &'static str, value: Value) {
        self.add(name, help, [(Labels::new(), value)]);
    }

    /// One line per word, 1 where it holds now.
    fn words<'a>(
        &mut self,
        name: &'static str,
        help: &'static str,
        (label, words): (&'static str, impl IntoIterator<Item = &'a str>),
        holds: impl Fn(&str) -> bool,
    ) {
        let lines = words.into_iter().map(|word| (vec![(label, word.to_owned())], yes(holds(word))));
        self.add(name, help, lines.collect::<Vec<_>>());
    }

    fn agent(&mut self, status: &Status) {
        let agent = &status.agent;
        let version = vec![("version", agent.version.clone())];
        self.add("build_info", "Version of the agent", [(version, Value::Whole(1))]);
        self.one("switched_off", "The operator's switch in the kernel is off", yes(agent.switched_off));
        let left = agent.lease_until_ns.since(status.decision.at_ns).as_secs_f64();
        self.one(
            "lease_remaining_seconds",
            "Time until the kernel returns to plain routing unless the lease is renewed",
            Value::Real(left),
        );
        self.one(
            "packets_marked",
            "Packets from inside that might take an override",
            Value::Counter(agent.packets_marked),
        );
        self.one(
            "packets_plain",
            "Packets from inside that were left to plain routing",
            Value::Counter(agent.packets_plain),
        );
        let local = agent.packets_local.iter();
        self.add(
            "packets_local",
            "Packets that the router itself made and an override would carry, by what became of them",
            local
                .map(|(fate, packets)| (vec![("fate", fate.clone())], Value::Counter(*packets)))
                .collect::<Vec<_>>(),
        );
        for (name, help, quantiles) in [
            ("round_duration_seconds", "Duration of a decision round since the start", agent.round_us),
            (
                "sample_duration_seconds",
                "Duration of a reading of all counters since the start",
                agent.sample_us,
            ),
        ] {
            let of = [("0.5", quantiles.p50), ("0.99", quantiles.p99), ("1", quantiles.max)];
            self.add(
                name,
                help,
                of.map(|(part, micros)| (vec![("quantile", part.to_owned())], seconds(micros))),
            );
        }
    }

    fn states(&mut self, decision: &StatusView) {
        let state = decision.state.as_str();
        self.words("state", "What the agent is doing", ("state", State::ALL.map(State::as_str)), |word| {
            word == state
        });
        let mode = decision.mode.as_str();
        let modes = [Mode::Observe, Mode::Approve, Mode::Enforce].map(Mode::as_str);
        self.words("mode", "Mode in force", ("mode", modes), |word| word == mode);
        let held: BTreeSet<&str> = decision.holds.iter().map(Hold::name).collect();
        let guarded: BTreeSet<&str> = decision.guards.iter().map(|guard| guard.guard.as_str()).collect();
        self.words("hold_active", "Reasons why decisions stand still", ("reason", Hold::NAMES), |word| {
            held.contains(word)
        });
        self.words(
            "guard_active",
            "Guards that limit what ETM does without making it stand still",
            ("guard", Guard::ALL.map(Guard::as_str)),
            |word| guarded.contains(word),
        );
        self.one(
            "leak",
            "An announcement came back from outside and nobody has answered yet",
            yes(decision.orders.leak.is_some()),
        );
    }

    fn decision(&mut self, decision: &StatusView) {
        self.one(
            "decision_generation",
            "Number of the current decision",
            Value::Whole(decision.generation.0),
        );
        self.one(
            "kernel_generation",
            "Number of the decision that the kernel follows",
            Value::Whole(decision.kernel_generation.0),
        );
        self.one("overrides", "Overrides, planned or in effect", whole(decision.overrides));
        self.one(
            "overrides_of_parts",
            "Overrides that take a part of the flows only",
            whole(decision.overrides_of_parts),
        );
        self.one(
            "overridden_bytes_per_second",
            "Demand under override",
            Value::Whole(decision.moved_bps.0 / 8),
        );
        self.one(
            "offered_bytes_per_second",
            "Demand on all uplinks",
            Value::Whole(decision.offered_bps.0 / 8),
        );
        self.one("changes_waiting", "Changes that wait for approval", whole(decision.waiting));
        self.one("prefixes", "Prefixes with at least one route", whole(decision.prefixes));
        self.one("prefixes_counted", "Prefixes with a row of counters", whole(decision.prefixes_counted));
        self.one(
            "prefixes_refused",
            "Prefixes that found no row of counters",
            Value::Whole(decision.prefixes_refused),
        );
        self.one("kernel_routes", "Routes of the kernel's main table", whole(decision.kernel_routes));
        self.one(
            "projection_mismatch_ratio",
            "Share of the traffic that leaves elsewhere than predicted",
            ratio(decision.projection_mismatch_ppm),
        );
        self.one(
            "own_routes_returned",
            "Announcements of ETM that stand on learn sessions",
            whole(decision.own_routes_returned),
        );
        if let Some(age) = decision.sample_age_ms {
            self.one(
                "sample_age_seconds",
                "Age of the last reading of the counters",
                seconds(age.saturating_mul(1_000)),
            );
        }
    }

    /// What others did to what is ETM's.
    fn site(&mut self, decision: &StatusView) {
        self.one(
            "rules_put_back",
            "Routing rules of ETM that another program removed and that were put back",
            Value::Counter(decision.site.rules_put_back),
        );
        self.one(
            "routes_touched",
            "Routes of ETM that another program changed and that were mended",
            Value::Counter(decision.site.routes_touched),
        );
    }

    fn moves(&mut self, decision: &StatusView) {
        let moves = decision.moves;
        self.one(
            "moves_confirmed",
            "Moves whose traffic was seen on the new exit",
            Value::Counter(moves.confirmed),
        );
        self.one(
            "moves_unconfirmed",
            "Moves that were taken back because it was not",
            Value::Counter(moves.unconfirmed),
        );
        self.one("moves_awaited", "Moves whose traffic was not seen there yet", whole(moves.awaited));
        self.one(
            "moves_closed",
            "Pairs of prefix and exit that are not tried for a while",
            whole(moves.closed),
        );
        self.one(
            "demand_spikes",
            "Prefixes that ask for many times their usual rate",
            whole(decision.surging),
        );
        self.one("plans", "Plans made", Value::Counter(decision.plans));
        self.one("plan_vetoes", "Plans that the checker refused", Value::Counter(decision.plan_vetoes));
    }

    fn uplinks(&mut self, decision: &StatusView) {
        type Read = fn(&crate::core::view::UplinkView) -> Value;
        let metrics: [(&'static str, &'static str, Read); 11] = [
            ("uplink_up", "The link is up", |uplink| yes(uplink.up)),
            ("uplink_capacity_bytes_per_second", "Configured capacity", |uplink| {
                Value::Whole(uplink.capacity_bps.0 / 8)
            }),
            ("uplink_limit_bytes_per_second", "Above this it is overloaded", |uplink| {
                Value::Whole(uplink.limit_bps.0 / 8)
            }),
            ("uplink_offered_bytes_per_second", "Offered over the last interval", |uplink| {
                Value::Whole(uplink.offered_bps.0 / 8)
            }),
            ("uplink_sent_bytes_per_second", "Sent over the last interval", |uplink| {
                Value::Whole(uplink.sent_bps.0 / 8)
            }),
            ("uplink_projected_bytes_per_second", "What it would be offered without overrides", |uplink| {
                Value::Whole(uplink.projected_bps.0 / 8)
            }),
            ("uplink_utilization_ratio", "Offered as a share of the capacity", |uplink| {
                ratio(uplink.utilization_ppm.0)
            }),
            ("uplink_dropped_packets", "Packets dropped by its queue since ETM started", |uplink| {
                Value::Counter(uplink.dropped_packets)
            }),
            ("uplink_counted_bytes", "Bytes counted for a prefix", |uplink| {
                Value::Counter(uplink.counted.bytes)
            }),
            ("uplink_counted_packets", "Packets counted for a prefix", |uplink| {
                Value::Counter(uplink.counted.packets)
            }),
            ("uplink_books_failed", "The counters and the device's own account differ", |uplink| {
                yes(uplink.book == BookState::Failed)
            }),
        ];
        for (name, help, read) in metrics {
            let lines =
                decision.uplinks.iter().map(|uplink| (vec![("uplink", uplink.name.clone())], read(uplink)));
            self.add(name, help, lines.collect::<Vec<_>>());
        }
    }

    /// What is said of an uplink's traffic by kind.
    fn books(&mut self, decision: &StatusView) {
        let uncounted = decision.uplinks.iter().flat_map(|uplink| {
            let of = |(reason, count): (&String, &crate::types::Count)| {
                let labels = vec![("uplink", uplink.name.clone()), ("reason", reason.clone())];
                (labels, Value::Counter(count.packets))
            };
            uplink.uncounted.iter().map(of).collect::<Vec<_>>()
        });
        self.add(
            "uplink_uncounted_packets",
            "Packets that were counted for no prefix",
            uncounted.collect::<Vec<_>>(),
        );
        let windows = decision.uplinks.iter().flat_map(|uplink| {
            let worst = uplink.worst;
            let exact = worst.windows.saturating_sub(worst.lossy + worst.failed + worst.unchecked);
            [
                ("exact", exact),
                ("lossy", worst.lossy),
                ("failed", worst.failed),
                ("unchecked", worst.unchecked),
            ]
            .map(|(result, count)| {
                let labels = vec![("uplink", uplink.name.clone()), ("result", result.to_owned())];
                (labels, Value::Counter(count))
            })
        });
        self.add(
            "uplink_book_windows",
            "Windows in which the books were compared",
            windows.collect::<Vec<_>>(),
        );
    }

    fn exits(&mut self, decision: &StatusView) {
        type Read = fn(&crate::core::view::ExitSummary) -> Value;
        let metrics: [(&'static str, &'static str, Read); 3] = [
            ("exit_usable", "Its link is up and its provider is not drained", |exit| {
                yes(exit.up && !exit.drained)
            }),
            ("exit_overrides", "Overrides that lead there", |exit| whole(exit.overrides)),
            ("exit_overridden_bytes_per_second", "Demand that overrides lead there", |exit| {
                Value::Whole(exit.moved_bps.0 / 8)
            }),
        ];
        for (name, help, read) in metrics {
            let lines = decision.exits.iter().map(|exit| {
                (vec![("exit", exit.name.clone()), ("provider", exit.provider.clone())], read(exit))
            });
            self.add(name, help, lines.collect::<Vec<_>>());
        }
        let drained: std::collections::BTreeMap<&String, bool> =
            decision.exits.iter().map(|exit| (&exit.provider, exit.drained)).collect();
        let lines = drained
            .into_iter()
            .map(|(provider, drained)| (vec![("provider", provider.clone())], yes(drained)));
        self.add("provider_drained", "An operator drains it", lines.collect::<Vec<_>>());
        let left =
            decision.orders.drains.iter().map(|drain| {
                (vec![("provider", drain.provider.clone())], Value::Whole(drain.left_bps.0 / 8))
            });
        self.add(
            "provider_drain_left_bytes_per_second",
            "What is still there of a drained provider",
            left.collect::<Vec<_>>(),
        );
    }

    fn sessions(&mut self, status: &Status) {
        type Read = fn(&crate::core::view::SessionView) -> Value;
        let metrics: [(&'static str, &'static str, Read); 3] = [
            ("session_up", "The BGP session is Established", |session| yes(session.up)),
            ("session_complete", "Its whole table was received", |session| yes(session.complete)),
            ("session_routes", "Routes held of it", |session| Value::Whole(session.routes)),
        ];
        for (name, help, read) in metrics {
            let lines = status.decision.sessions.iter().map(|session| {
                let role = match session.role {
                    Role::Learn => "learn",
                    Role::Inject => "inject",
                };
                (vec![("session", session.name.clone()), ("role", role.to_owned())], read(session))
            });
            self.add(name, help, lines.collect::<Vec<_>>());
        }
        if let Some(guardian) = &status.guardian {
            let state = guardian.state.as_str();
            let states = GuardianState::ALL.map(GuardianState::as_str);
            self.words("guardian_state", "What the guardian is doing", ("state", states), |word| {
                word == state
            });
            let guards = guardian.state == GuardianState::Guarding;
            self.one("guardian_guarding", "The guardian listens and announces what is decided", yes(guards));
            self.one("guardian_routes", "Routes that it announces", whole(guardian.held));
            self.one("guardian_starts", "How often this agent started one", Value::Counter(guardian.starts));
        }
    }

    fn certificate(&mut self, decision: &StatusView) {
        let Some(plan) = decision.certificate else { return };
        self.one(
            "plan_overload_bytes_per_second",
            "Overload that the last plan leaves",
            Value::Real(plan.overload_bps / 8.0),
        );
        self.one(
            "plan_overload_bound_bytes_per_second",
            "No plan leaves less",
            Value::Real(plan.overload_bound_bps / 8.0),
        );
        self.one(
            "plan_objective",
            "Cost of the last plan, currency per month, overload at its price",
            Value::Real(plan.objective),
        );
        self.one("plan_objective_bound", "No plan costs less", Value::Real(plan.objective_bound));
        self.one(
            "plan_objective_stay",
            "Cost of leaving everything where it is",
            Value::Real(plan.objective_stay),
        );
        if let Some(realised) = plan.realised {
            self.one(
                "plan_realised_ratio",
                "Share of the achievable saving that the last plan realises",
                Value::Real(realised),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;

    /// Every variant of a type, as serde knows them: none can be left out of this list.
    fn variants<T: DeserializeOwned>(text: &str) -> Vec<String> {
        let error = serde_json::from_str::<T>(text).err().map(|error| error.to_string()).unwrap_or_default();
        let (_, listed) = error.split_once("expected one of ").unwrap();
        listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_named_state_has_a_line_of_its_own_and_a_row_in_the_operators_table() {
        let mut status = super::super::schema::tests::status();
        status.guardian = Some(super::super::schema::GuardianView::default());
        let text = render(&status).unwrap();
        let operations = include_str!("../../../docs/operations.md");
        let any = "\"?\"";
        for (metric, label, names) in [
            ("state", "state", variants::<State>(any)),
            ("mode", "mode", variants::<Mode>(any)),
            ("hold_active", "reason", variants::<Hold>("{\"hold\":\"?\"}")),
            ("guard_active", "guard", variants::<Guard>(any)),
            ("guardian_state", "state", variants::<GuardianState>(any)),
        ] {
            assert!(names.len() > 2, "{metric}: {names:?}");
            let lines = text.lines().filter(|line| line.starts_with(&format!("etm_{metric}{{"))).count();
            assert_eq!(lines, names.len(), "{metric}: {names:?}");
            for name in names {
                let line = format!("etm_{metric}{{{label}=\"{name}\"}} ");
                assert!(text.contains(&line), "{line}");
                let told = metric == "mode" || operations.contains(&format!("| {name} |"));
                assert!(told, "docs/operations.md has no row for {name}");
            }
        }
    }

    #[test]
    fn names_follow_the_conventions_and_each_is_described_once() {
        let text = render(&super::super::schema::tests::status()).unwrap();
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(seen.insert(name.to_owned()), "{name} twice");
                assert!(name.starts_with("etm_") && !name.ends_with("_total"), "{name}");
                assert!(["counter", "gauge"].contains(&kind), "{line}");
            }
        }
        assert!(text.contains("etm_state{state=\"steering\"} 1"), "{text}");
        assert!(text.contains("etm_hold_active{reason=\"stale-sample\"} 0"), "{text}");
        assert!(text.contains("etm_guard_active{guard=\"demand-spike\"} 0"), "{text}");
        assert!(text.contains("etm_moves_confirmed_total 0"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
