//! One monitored peer as a source of candidates: its messages become the events of a learn session.
//! Never drops a route by itself: a source that is down says so, and the decision forgets its routes.

use super::config::SourceConfig;
use crate::core::input::{Input, RouteBatch, RouteChange, SessionChange, SessionEvent};
use crate::proto::bgp::{Change, Frame};
use crate::proto::bmp::{PeerHeader, PeerUp, Reading, RibView, Stat};
use crate::types::bgp::{Dispositions, LastFault};
use crate::types::bmp::SourceStatus;
use crate::types::{Family, Timestamp};
use std::collections::{BTreeSet, VecDeque};
use tokio::time::Instant;

/// Changes in one input, as for a session of ETM's own.
const BATCH: usize = 512;

/// The likely cause where the session has path identifiers.
const PATH_IDS: &str = ", and if the router leaves path identifiers out, set path_ids = false for it";

/// A source and what is known of it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) config: SourceConfig,
    pub(super) status: SourceStatus,
    /// Only while the router's session with it is up.
    up: Option<Live>,
    counts: Dispositions,
    batch: Vec<RouteChange>,
    noticed: BTreeSet<(&'static str, &'static str)>,
}

/// While its session with the router is up.
#[derive(Debug)]
struct Live {
    reading: Reading,
    /// Families whose whole table is still awaited.
    awaited: Vec<Family>,
    /// When the last route was reported.
    last_route: Instant,
}

impl Source {
    pub(super) fn new(config: SourceConfig, now: Timestamp) -> Source {
        let status = SourceStatus {
            peer: config.peer,
            name: config.name.clone(),
            address: config.key.address,
            provider: config.provider.clone(),
            up: false,
            since: now,
            asn: None,
            router_id: None,
            families: Vec::new(),
            add_path: Vec::new(),
            end_of_rib: Vec::new(),
            announced_in: 0,
            withdrawn_in: 0,
            foreign_next_hop: 0,
            dispositions: Dispositions::default(),
            stats: std::collections::BTreeMap::new(),
            last_fault: None,
            last_notice: None,
        };
        let (batch, noticed) = (Vec::new(), BTreeSet::new());
        Source { config, status, up: None, counts: Dispositions::default(), batch, noticed }
    }

    /// The router's session with the peer came up.
    pub(super) fn up(
        &mut self,
        header: PeerHeader,
        up: &PeerUp,
        (view, path_ids): (RibView, bool),
        now: Timestamp,
        pending: &mut VecDeque<Input>,
    ) {
        // A router that reports both tables may say Peer Up for each; the one that gives candidates counts.
        if self.up.is_some() && header.view != view {
            return;
        }
        if self.up.is_some() {
            self.down("the router reports it up anew", now, pending);
        }
        let reading = match Reading::new(&PeerHeader { view, ..header }, up, path_ids, self.counts) {
            Ok(reading) => reading.telling(self.config.own),
            Err(error) => return self.down(&error.to_string(), now, pending),
        };
        tracing::info!(source = %self.config.name, families = ?reading.families(), add_path = ?reading.add_path(), "monitored peer up");
        self.status.up = true;
        self.status.since = now;
        self.status.asn = Some(header.asn);
        self.status.router_id = Some(header.router_id);
        let families = reading.families().to_vec();
        self.status.families.clone_from(&families);
        self.status.add_path = reading.add_path().to_vec();
        self.status.end_of_rib.clear();
        self.noticed.clear();
        self.up = Some(Live { reading, awaited: families.clone(), last_route: Instant::now() });
        self.say(SessionChange::Up { families }, pending);
    }

    /// Whatever was known of it is void.
    pub(super) fn down(&mut self, reason: &str, now: Timestamp, pending: &mut VecDeque<Input>) {
        self.batch.clear();
        let reason = reason.to_owned();
        let was_up = self.up.take().is_some();
        self.status.up = false;
        if was_up || self.status.last_fault.as_ref().is_none_or(|last| last.text != reason) {
            self.status.since = now;
            self.status.last_fault = Some(LastFault { at: now, text: reason.clone(), permanent: false });
            tracing::warn!(source = %self.config.name, "monitored peer down: {reason}");
            self.say(SessionChange::Down { reason }, pending);
        }
        self.status.end_of_rib.clear();
    }

    /// Routes of the table that counts; false before Peer Up.
    pub(super) fn update(
        &mut self,
        header: &PeerHeader,
        frame: &Frame,
        now: Timestamp,
        pending: &mut VecDeque<Input>,
    ) -> bool {
        let Some(live) = &mut self.up else { return false };
        live.last_route = Instant::now();
        let translated = live.reading.translate(header, frame);
        self.counts = live.reading.counts();
        self.status.dispositions = self.counts;
        let translated = match translated {
            Ok(translated) => translated,
            Err(reset) => {
                // A session of our own would be reset here. This one is not ours: it is not relied on until the
                // router reports it up anew.
                let hint = if self.status.add_path.is_empty() { "" } else { PATH_IDS };
                self.down(
                    &format!("an UPDATE cannot be read ({reset}); restart monitoring there{hint}"),
                    now,
                    pending,
                );
                return true;
            }
        };
        for notice in translated.notices {
            if self.noticed.insert((notice.kind, notice.attribute)) {
                tracing::warn!(source = %self.config.name, "{notice}");
            }
            self.status.last_notice = Some(notice.to_string());
        }
        for change in translated.changes {
            self.change(change, pending);
        }
        if let Some(family) = translated.end_of_rib {
            self.complete(family, pending);
        }
        true
    }

    fn change(&mut self, change: Change, pending: &mut VecDeque<Input>) {
        let change = match change {
            Change::Announce { prefix, path_id, attrs } => {
                let hops = &self.config.next_hops;
                let is_ours = attrs.communities.contains(&self.config.own);
                if hops.is_empty() || hops.contains(&attrs.next_hop) || is_ours {
                    self.status.announced_in += 1;
                    RouteChange::Announce { prefix, path_id, attrs }
                } else {
                    self.status.foreign_next_hop += 1;
                    RouteChange::Withdraw { prefix, path_id }
                }
            }
            Change::Withdraw { prefix, path_id } => {
                self.status.withdrawn_in += 1;
                RouteChange::Withdraw { prefix, path_id }
            }
        };
        self.batch.push(change);
        if self.batch.len() >= BATCH {
            self.flush(pending);
        }
    }

    fn complete(&mut self, family: Family, pending: &mut VecDeque<Input>) {
        // The decision must have the table before it hears that the table is complete.
        self.flush(pending);
        if let Some(live) = &mut self.up {
            live.awaited.retain(|awaited| *awaited != family);
        }
        if !self.status.end_of_rib.contains(&family) {
            self.status.end_of_rib.push(family);
        }
        self.say(SessionChange::EndOfRib(family), pending);
    }

    /// For a router that sends no End-of-RIB: silence for `quiet` stands for it.
    pub(super) fn settle(&mut self, quiet: std::time::Duration, pending: &mut VecDeque<Input>) {
        let Some(live) = &self.up else { return };
        if live.awaited.is_empty() || live.last_route.elapsed() < quiet {
            return;
        }
        for family in live.awaited.clone() {
            tracing::info!(source = %self.config.name, %family, "silent since its routes came: the table is taken for complete");
            self.complete(family, pending);
        }
    }

    pub(super) fn stats(&mut self, stats: &[Stat]) {
        for stat in stats {
            let family = stat.family.map_or_else(String::new, |family| format!("-{family}"));
            self.status.stats.insert(format!("{}{family}", stat_name(stat.kind)), stat.value);
        }
    }

    /// Hands on what is left of a read.
    pub(super) fn flush(&mut self, pending: &mut VecDeque<Input>) {
        if !self.batch.is_empty() {
            let changes = std::mem::take(&mut self.batch);
            pending.push_back(Input::Routes(RouteBatch { peer: self.config.peer, changes }));
        }
    }

    fn say(&self, change: SessionChange, pending: &mut VecDeque<Input>) {
        pending.push_back(Input::Session(SessionEvent { peer: self.config.peer, change }));
    }
}

/// Names of the IANA registry "BMP Statistics Types".
fn stat_name(kind: u16) -> String {
    match kind {
        0 => "rejected-by-policy",
        1 => "duplicate-announcements",
        2 => "duplicate-withdrawals",
        3 => "cluster-list-loop",
        4 => "as-path-loop",
        5 => "originator-id",
        6 => "as-confed-loop",
        7 => "adj-rib-in-routes",
        8 => "loc-rib-routes",
        9 => "adj-rib-in-routes",
        10 => "loc-rib-routes",
        11 => "treated-as-withdraw-updates",
        12 => "treated-as-withdraw-prefixes",
        13 => "duplicate-updates",
        14 => "adj-rib-out-pre-policy-routes",
        15 => "adj-rib-out-routes",
        other => return format!("type-{other}"),
    }
    .to_owned()
}
