//! Links, sessions, routers, what they announce, and traffic. Never outside the lab's namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use ipnet::IpNet;

use super::{FLOOD_TABLE, Process, World, demand};
use crate::agent::Site;
use crate::chaos::timeline::MS;
use crate::error::LabError;
use crate::link;
use crate::table::{Announcement, Table};
use crate::topology::{LINKS, Provider, Role};
use crate::traces::lost_notifications;
use crate::traffic::FRAME;

/// Prefixes that come too many.
const SURPLUS: u8 = 40;
/// Routes of an overrun: what the agent's receive buffers, 64 MB each, do not hold while it is stopped; they hold 80,659.
const FLOOD: u32 = 100_000;
/// How long the loss of a link explains loss: until the daemon has other routes.
pub(in crate::chaos) const REROUTE: u64 = 1500 * MS;
/// How long a daemon that starts anew explains loss: until its sessions are up again.
pub(in crate::chaos) const RELEARN: u64 = 8000 * MS;

impl World<'_> {
    pub(super) fn lose_link(
        &mut self,
        provider: Provider,
        cut: impl FnOnce(&crate::lab::Lab) -> Result<(), LabError>,
    ) -> Result<bool, LabError> {
        if !self.down.insert(provider) {
            return Ok(false);
        }
        self.watch.note(|timeline, now| {
            timeline.excuse(now, REROUTE);
            timeline.lose(provider, None, now);
        });
        cut(&self.scene.lab).map(|()| true)
    }

    pub(super) fn mend_link(&mut self, provider: Provider) -> Result<(), LabError> {
        if !self.down.remove(&provider) {
            return Ok(());
        }
        self.mended = Some(Instant::now());
        self.watch.note(|timeline, now| timeline.regain(provider, true, now));
        let border = self.scene.lab.namespace(Role::Border);
        let mended = if border.ip(&["link", "show", "dev", provider.uplink()]).is_ok() {
            // Whichever end was down: addresses and neighbours of both return.
            LINKS.iter().filter(|made| made.near.interface == provider.uplink()).try_for_each(|made| {
                let far = self.scene.lab.namespace(made.far.role);
                far.ip_batch("mend a link", &link::up_lines(&made.far, &made.near))?;
                border.ip_batch("mend a link", &link::up_lines(&made.near, &made.far))
            })
        } else {
            self.scene.lab.plug(provider)
        };
        self.watch.note(|timeline, now| timeline.excuse(now, REROUTE));
        mended
    }

    /// False where no session could be restarted.
    pub(super) fn reset(&mut self, role: Role, sessions: &[&str]) -> bool {
        let bird = self.scene.lab.bird(role);
        sessions.iter().filter(|name| bird.ask(&format!("restart {name}")).is_ok()).count() > 0
    }

    pub(super) fn reset_provider(&mut self, provider: Provider) -> bool {
        let names = ["4", "6"].map(|family| crate::bird_config::session_name(provider, family));
        self.reset(Role::Border, &names.each_ref().map(String::as_str))
    }

    pub(super) fn kill_bird(&mut self, role: Role) -> Result<bool, LabError> {
        if !self.dead.insert(role) {
            return Ok(false);
        }
        let provider = Provider::ALL.into_iter().find(|provider| provider.role() == role);
        self.scene.lab.kill_router(role)?;
        if let Some(provider) = provider.filter(|provider| !self.down.contains(provider)) {
            self.watch.note(|timeline, now| timeline.lose(provider, None, now));
        }
        Ok(true)
    }

    pub(super) fn start_bird(&mut self, role: Role) -> Result<(), LabError> {
        if !self.dead.remove(&role) {
            return Ok(());
        }
        if role == Role::Border {
            self.reborn = Some(Instant::now());
            // A daemon that begins anew removes the routes that it does not know yet.
            self.watch.note(|timeline, now| timeline.excuse(now, RELEARN));
        }
        let provider = Provider::ALL.into_iter().find(|provider| provider.role() == role);
        if let Some(provider) = provider.filter(|provider| !self.down.contains(provider)) {
            self.watch.note(|timeline, now| timeline.regain(provider, true, now));
        }
        self.scene.lab.start_router(role)
    }

    /// Changes what is announced; false where nothing changed.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Self) -> bool) -> Result<bool, LabError> {
        if !change(self) {
            return Ok(false);
        }
        let mut table = if self.surplus { with_surplus(&self.plain) } else { self.plain.clone() };
        for provider in &self.withdrawn {
            let gone = withdrawn_of(&self.plain, *provider);
            for announcement in table.announcements.iter_mut().filter(|a| gone.contains(&a.prefix)) {
                announcement.providers.retain(|p| p != provider);
            }
        }
        table.announcements.retain(|announcement| !announcement.providers.is_empty());
        self.scene.lab.set_table(table)?;
        for provider in Provider::ALL.into_iter().filter(|provider| !self.dead.contains(&provider.role())) {
            self.scene.lab.bird(provider.role()).configure()?;
        }
        Ok(true)
    }

    pub(super) fn overrun(&mut self) -> Result<bool, LabError> {
        let stopped = self.stop_agent();
        let border = self.scene.lab.namespace(Role::Border);
        let table = FLOOD_TABLE.to_string();
        let lines: Vec<String> = (0..FLOOD)
            .map(|i| {
                let [_, b, c, d] = i.to_be_bytes();
                format!("route replace blackhole 100.{}.{c}.{d}/32 table {table} proto 250", 64 + b)
            })
            .collect();
        let flooded = border.ip_batch("flood the listeners to routes", &lines);
        self.flooded = true;
        let lost = lost_notifications(&border, self.scene.agent.pid()).is_ok_and(|lost| !lost.is_empty());
        if stopped {
            self.resume_agent();
        }
        flooded.map(|()| lost)
    }

    /// A file that leaves no room on the disk of the recordings, which only the agent's mount namespace has.
    pub(super) fn filler(&self) -> Option<PathBuf> {
        let directory = Site::of(&self.scene.lab).recordings();
        let root = PathBuf::from(format!("/proc/{}/root", self.scene.agent.pid()));
        (self.agent != Process::Gone)
            .then(|| root.join(directory.strip_prefix("/").unwrap_or(&directory)).join("filler"))
    }

    pub(super) fn fill_disk(&mut self) -> bool {
        let Some(path) = self.filler() else { return false };
        let Ok(mut file) = fs::File::create(&path) else { return false };
        let block = vec![0_u8; 64 * 1024];
        // Until it is full, and never more than the disk could be.
        (0..1024).any(|_| std::io::Write::write_all(&mut file, &block).is_err())
    }

    pub(super) fn traffic(&mut self, percent: u32) {
        if std::mem::replace(&mut self.percent, percent) != percent {
            self.scene.generator.set_rates(&demand(percent).flows(&self.plain, FRAME));
        }
    }
}

/// Every second prefix of a provider.
pub(super) fn withdrawn_of(table: &Table, provider: Provider) -> BTreeSet<IpNet> {
    let of_it = table.announcements.iter().filter(|a| a.providers.contains(&provider));
    of_it.enumerate().filter(|(i, _)| i % 2 == 1).map(|(_, a)| a.prefix).collect()
}

pub(super) fn with_surplus(table: &Table) -> Table {
    let mut table = table.clone();
    for i in 0..SURPLUS {
        if let Ok(prefix) = format!("198.18.{}.0/24", 200 + i).parse() {
            let providers = vec![Provider::TransitA, Provider::TransitB];
            table.announcements.push(Announcement { prefix, providers });
        }
    }
    table
}
