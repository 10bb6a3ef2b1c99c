//! Confirmation of moves, surges of demand, canary: the tables of `policy` that keep ETM from doing harm.
//! Never looks at traffic.

use super::raw::{self, Raw, Text};
use super::settings::{BgpSettings, KernelMode};
use super::validate::Check;
use crate::core::policy::{Canary, Guards, Policy, Role};
use crate::types::{Prefix, Share};
use std::net::IpAddr;
use std::time::Duration;

/// What the kernel's map of them has room for.
const MAX_LOCAL_SOURCES: usize = 256;

impl Check {
    pub(super) fn guards(&mut self, raw: &raw::PolicyTable, interval: Duration) -> Guards {
        let default = Guards::default();
        let within = self.duration(raw.confirm.within.as_ref(), default.confirm_within);
        if let Some(text) = raw.confirm.within.as_ref().filter(|_| within > Duration::from_secs(60)) {
            self.fault(text.span(), "traffic that has not followed a move within 60s will not");
        }
        let retry = self.duration(raw.confirm.retry.as_ref(), default.confirm_retry);
        if let Some(text) = raw.confirm.retry.as_ref().filter(|_| retry < interval) {
            self.fault(text.span(), "a move that failed cannot be tried again before the next sample");
        }
        let factor = raw.surge.factor.as_ref().map_or(default.surge_factor, |value| *value.get_ref());
        if let Some(value) = raw.surge.factor.as_ref().filter(|_| !(2..=1_000_000).contains(&factor)) {
            self.fault(value.span(), "a surge is at least twice the usual rate");
        }
        let lasts = self.duration(raw.surge.lasts.as_ref(), default.surge_lasts);
        let per_minute = raw.max_moves_per_minute.as_ref();
        if let Some(value) = per_minute.filter(|value| *value.get_ref() == 0) {
            self.fault(value.span(), "without any move ETM can do nothing; mode \"observe\" says so better");
        }
        Guards {
            confirm_within: within,
            confirm_retry: retry,
            surge_factor: factor,
            surge_lasts: lasts,
            max_moves_per_minute: per_minute.map_or(default.max_moves_per_minute, |value| *value.get_ref()),
        }
    }

    /// Own sources, such as may leave by any uplink.
    pub(super) fn local_output(&mut self, raw: &raw::Kernel) -> Vec<Prefix> {
        let Some(first) = raw.local_output.first() else { return Vec::new() };
        if raw.mode == raw::KernelMode::Main {
            self.fault(
                first.span(),
                "in mode \"main\" what this router itself sends takes overrides anyhow: remove kernel.local_output",
            );
        }
        if raw.local_output.len() > MAX_LOCAL_SOURCES {
            self.fault(first.span(), format!("at most {MAX_LOCAL_SOURCES} prefixes; name what covers them"));
        }
        self.parse_all(&raw.local_output)
    }

    pub(super) fn canary(&mut self, raw: &raw::Canary, mode: KernelMode) -> Canary {
        let share = self.share(raw.share.as_ref(), Share::ONE);
        if let Some(text) = raw.share.as_ref().filter(|_| share.0 == 0 || share > Share::ONE) {
            self.fault(text.span(), "the canary's share must be above 0% and at most 100%");
        } else if let Some(text) =
            raw.share.as_ref().filter(|_| mode == KernelMode::Main && share < Share::ONE)
        {
            self.fault_with_help(
                text.span(),
                "with kernel.mode = \"main\" all packets of a moved prefix move: no mark chooses a share of its flows",
                "try with policy.canary.prefixes instead, or with kernel.mode = \"lease\"",
            );
        }
        Canary { share, prefixes: self.parse_all(&raw.prefixes) }
    }
}

impl Check {
    /// Flows can be divided where this router's own table, and all of its lookups, are the kernel's.
    pub(super) fn split(&mut self, raw: &Raw, policy: &Policy) {
        let Some(split) = raw.policy.split.as_ref().filter(|split| *split.get_ref()) else { return };
        let why = if raw.kernel.mode == raw::KernelMode::Main {
            "policy.split needs kernel.mode = \"lease\": beside a routing daemon's routes in the main table one with two next hops is not told from theirs"
        } else if !raw.datapath.xdp.is_empty() {
            "policy.split is not for forwarders in XDP (datapath.xdp): their lookup does not divide flows as the kernel's does"
        } else if policy.canary.is_partial() {
            "policy.split needs policy.canary.share = \"100%\": a part of a part of the flows says nothing of either"
        } else {
            return;
        };
        self.fault_with_help(split.span(), why, "leave policy.split out, or set it to false");
    }
}

/// The file of what operators ordered.
pub(super) fn orders_file(check: &mut Check, text: Option<&Text>) -> std::path::PathBuf {
    if let Some(text) = text.filter(|text| !text.get_ref().starts_with('/')) {
        check.fault(text.span(), "the file of orders must be an absolute path");
    }
    super::validate::path(text.map(|text| text.get_ref().as_str()), "/var/lib/etm/orders.json")
}

/// Next hops of ETM's own announcements.
pub(super) fn own_next_hops(bgp: Option<&BgpSettings>) -> Vec<IpAddr> {
    let inject = bgp.into_iter().flat_map(|bgp| &bgp.sessions).filter(|session| session.role == Role::Inject);
    let mut all: Vec<IpAddr> = inject
        .flat_map(|session| {
            let by_exit = session.exit_next_hops.iter().flat_map(|(_, hops)| hops.iter().copied());
            session.next_hops.iter().copied().chain(by_exit)
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}
