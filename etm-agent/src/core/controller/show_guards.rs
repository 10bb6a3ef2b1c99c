//! Views of guards and of what operators ordered. Never changes anything.

use super::super::guard_view::{DrainView, ExitSummary, Guard, GuardView, MovesView, OrdersView, SurgeView};
use super::Controller;
use crate::types::{BitRate, Share, Timestamp};
use std::cmp::Reverse;

/// Surges that are shown, the largest first.
const SURGES: usize = 10;

impl Controller {
    /// What operators ordered at run time.
    pub fn orders(&self) -> OrdersView {
        let trial = self.controls.trial();
        let drains = self.controls.drains().iter().map(|(provider, drain)| {
            let of = |exit: crate::types::ExitId| {
                self.policy.exits.get(exit.index()).is_some_and(|exit| exit.provider == *provider)
            };
            let there = self.projection.items.iter().filter(|item| of(item.current));
            let (left, left_bps) =
                there.fold((0, BitRate::ZERO), |(count, rate), item| (count + 1, rate + item.rate));
            let provider = self.provider_name(*provider);
            DrainView { provider, since_ns: drain.since, until_ns: drain.until, left, left_bps }
        });
        OrdersView {
            mode_until_ns: trial.map(|trial| trial.until),
            mode_back: trial.map(|trial| trial.back),
            drains: drains.collect(),
            leak: self.controls.leak().map(|leak| leak.what.clone()),
        }
    }

    /// Exits at a glance.
    pub(super) fn exit_summaries(&self) -> Vec<ExitSummary> {
        let mut all: Vec<ExitSummary> = self
            .policy
            .exits
            .iter()
            .map(|exit| ExitSummary {
                name: exit.name.clone(),
                provider: self.provider_name(exit.provider),
                up: self.topology.link(exit.uplink).up,
                drained: self.controls.is_drained(exit.provider),
                overrides: 0,
                moved_bps: BitRate::ZERO,
            })
            .collect();
        for entry in self.overrides.iter() {
            if let Some(exit) = all.get_mut(entry.to.index()) {
                exit.overrides += 1;
                exit.moved_bps += entry.moved();
            }
        }
        all
    }

    /// Whether traffic follows moves.
    pub(super) fn moves_view(&self, now: Timestamp) -> MovesView {
        let (confirmed, unconfirmed) = self.confirmations.totals();
        MovesView {
            awaited: self.confirmations.watched(),
            confirmed,
            unconfirmed,
            closed: self.confirmations.closed(now),
            paused_until_ns: self.confirmations.pause().map(|(_, until)| until),
        }
    }

    /// The largest surges, and how many there are.
    pub(super) fn surge_views(&self) -> (Vec<SurgeView>, usize) {
        let view = |surge: super::super::surge::Surge| {
            Some(SurgeView {
                prefix: self.slots.prefix(surge.slot)?,
                usual_bps: surge.usual,
                rate_bps: self.rates.demand(surge.slot),
                since_ns: surge.since,
            })
        };
        let mut all: Vec<SurgeView> = self.surges.surging().filter_map(view).collect();
        let count = all.len();
        all.sort_by_key(|surge| (Reverse(surge.rate_bps.saturating_sub(surge.usual_bps)), surge.prefix));
        all.truncate(SURGES);
        (all, count)
    }

    /// Guards that limit what ETM does now without making it stand still.
    pub(super) fn guard_views(&self, now: Timestamp) -> Vec<GuardView> {
        let orders = self.orders();
        let mut guards = Vec::new();
        let mut add = |guard: Guard, detail: Option<String>| {
            guards.extend(detail.map(|detail| GuardView { guard: guard.as_str().to_owned(), detail }));
        };
        add(
            Guard::ModeOnTrial,
            self.controls.trial().map(|trial| {
                let left = trial.until.since(now).as_secs();
                format!(
                    "mode {} again in {left} s unless confirmed (`etm mode confirm`)",
                    trial.back.as_str()
                )
            }),
        );
        let drains: Vec<String> = orders.drains.iter().map(|drain| drain_text(drain, now)).collect();
        add(Guard::Drain, (!drains.is_empty()).then(|| drains.join("; ")));
        add(Guard::Canary, self.canary_text());
        add(Guard::DemandSpike, self.surge_text());
        let closed = self.confirmations.closed(now);
        add(Guard::ExitClosed, (closed > 0).then(|| {
            format!("{closed} moves are not tried again for a while: their traffic did not follow (`etm explain PREFIX`)")
        }));
        add(Guard::ChangeRate, self.change_rate_text(now));
        let unrelieved: Vec<String> = self.unrelieved.iter().map(|id| self.uplink_name(*id)).collect();
        add(
            Guard::Unrelieved,
            (!unrelieved.is_empty()).then(|| {
                format!("no other exit has room for more of {}, or caps forbid it", unrelieved.join(", "))
            }),
        );
        let refused = self.refused.len();
        add(
            Guard::KernelRefused,
            (refused > 0).then(|| format!("the kernel refused {refused} routes (`etm overrides`)")),
        );
        add(Guard::WouldRefuse, self.site.refusals());
        guards
    }

    fn canary_text(&self) -> Option<String> {
        let canary = &self.policy.canary;
        let mut parts = Vec::new();
        if canary.is_partial() {
            parts.push(format!(
                "{} of the flows of each override take it, nothing is announced",
                canary.share
            ));
        }
        if !canary.prefixes.is_empty() {
            parts.push(format!("only what is inside {} listed prefixes may move", canary.prefixes.len()));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    fn surge_text(&self) -> Option<String> {
        let (largest, count) = self.surge_views();
        let first = largest.first()?;
        Some(format!(
            "{count} prefixes ask for {} times their usual rate or more ({} for {}, usually {}): what is beyond it does not count for money until it has lasted {} s",
            self.policy.guards.surge_factor,
            first.prefix,
            first.rate_bps,
            first.usual_bps,
            self.policy.guards.surge_lasts.as_secs()
        ))
    }

    /// A cap per minute that is nearly used up: less than a twentieth is left.
    fn change_rate_text(&self, now: Timestamp) -> Option<String> {
        let caps = self.caps(now, self.total);
        let moves = self.policy.guards.max_moves_per_minute;
        let traffic = self.total.scaled(self.policy.max_moved_per_minute);
        let few = caps.moves_now <= moves / 20;
        let little = traffic > BitRate::ZERO && caps.now <= traffic.scaled(Share::percent(5));
        (few || little).then(|| {
            format!("of {moves} moves and {traffic} a minute {} and {} are left", caps.moves_now, caps.now)
        })
    }
}

fn drain_text(drain: &DrainView, now: Timestamp) -> String {
    let until = drain.until_ns.map_or_else(
        || format!("until `etm provider undrain {}`", drain.provider),
        |until| format!("for {} s more", until.since(now).as_secs()),
    );
    let left = match drain.left {
        0 => "nothing is left there that could go elsewhere".to_owned(),
        left => format!("{left} prefixes with {} are still there", drain.left_bps),
    };
    format!("{} is drained {until}: {left}", drain.provider)
}
