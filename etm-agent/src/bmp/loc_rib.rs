//! A router's Loc-RIB, read for one thing: whether ETM's announcements are the routes it chose.
//! Never keeps other routes: of a full table only what carries ETM's community is remembered.

use super::config::Watch;
use crate::core::input::{EffectiveChange, EffectiveEvent, Input};
use crate::proto::bgp::{Change, Frame};
use crate::proto::bmp::{PeerHeader, PeerUp, Reading};
use crate::types::bgp::Dispositions;
use crate::types::bmp::LocRibStatus;
use crate::types::{PathId, Prefix};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// What is known of one Loc-RIB.
#[derive(Debug)]
pub(super) struct LocRib {
    watch: Watch,
    pub(super) status: LocRibStatus,
    up: Option<Reading>,
    ours: BTreeMap<(Prefix, PathId), IpAddr>,
    news: BTreeMap<Prefix, Option<IpAddr>>,
}

impl LocRib {
    pub(super) fn new(watch: Watch) -> LocRib {
        let status = LocRibStatus { session: watch.session.clone(), ..LocRibStatus::default() };
        LocRib { watch, status, up: None, ours: BTreeMap::new(), news: BTreeMap::new() }
    }

    pub(super) fn up(
        &mut self,
        header: &PeerHeader,
        up: &PeerUp,
        path_ids: bool,
        pending: &mut VecDeque<Input>,
    ) {
        self.down(pending);
        match Reading::new(header, up, path_ids, Dispositions::default()) {
            Ok(reading) => self.watch(reading, pending),
            Err(error) => {
                tracing::warn!(session = %self.watch.session, "Loc-RIB cannot be watched: {error}");
            }
        }
    }

    fn watch(&mut self, reading: Reading, pending: &mut VecDeque<Input>) {
        self.up = Some(reading);
        self.status.up = true;
        self.say(EffectiveChange::Watched, pending);
    }

    pub(super) fn down(&mut self, pending: &mut VecDeque<Input>) {
        self.ours.clear();
        self.news.clear();
        self.status = LocRibStatus {
            session: std::mem::take(&mut self.status.session),
            routes: self.status.routes,
            ..LocRibStatus::default()
        };
        if self.up.take().is_some() {
            self.say(EffectiveChange::Unknown, pending);
        }
    }

    /// Best routes that changed.
    pub(super) fn update(&mut self, header: &PeerHeader, frame: &Frame, pending: &mut VecDeque<Input>) {
        if self.up.is_none() {
            self.watch(Reading::unannounced(header), pending);
        }
        let Some(reading) = &mut self.up else { return };
        match reading.translate(header, frame) {
            Ok(translated) => {
                translated.changes.into_iter().for_each(|change| self.change(change));
                if let Some(family) = translated.end_of_rib
                    && !self.status.end_of_rib.contains(&family)
                {
                    self.status.end_of_rib.push(family);
                }
            }
            Err(reset) => {
                tracing::warn!(session = %self.watch.session, "Loc-RIB not watched any more: {reset}");
                self.down(pending);
            }
        }
    }

    fn change(&mut self, change: Change) {
        let (prefix, lost) = match change {
            Change::Announce { prefix, path_id, attrs } => {
                self.status.routes += 1;
                if attrs.communities.contains(&self.watch.community) {
                    self.ours.insert((prefix, path_id), attrs.next_hop);
                    self.news.insert(prefix, Some(attrs.next_hop));
                    return;
                }
                (prefix, self.ours.remove(&(prefix, path_id)).is_some())
            }
            Change::Withdraw { prefix, path_id } => (prefix, self.ours.remove(&(prefix, path_id)).is_some()),
        };
        if lost {
            let paths = (prefix, PathId(0))..=(prefix, PathId(u32::MAX));
            self.news.insert(prefix, self.ours.range(paths).next().map(|(_, next_hop)| *next_hop));
        }
    }

    /// Hands on what is left of a read.
    pub(super) fn flush(&mut self, pending: &mut VecDeque<Input>) {
        self.status.effective = self.ours.len();
        if !self.news.is_empty() {
            let news = std::mem::take(&mut self.news).into_iter().collect();
            self.say(EffectiveChange::Routes(news), pending);
        }
    }

    fn say(&self, change: EffectiveChange, pending: &mut VecDeque<Input>) {
        pending.push_back(Input::Effective(EffectiveEvent { peer: self.watch.peer, change }));
    }
}
