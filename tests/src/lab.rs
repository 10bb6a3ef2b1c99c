//! The whole lab: namespaces, links, capacities, routers. Brought up in one call, removed by dropping
//! it. ETM is not part of it; [`crate::agent`] runs ETM in a lab.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::bird::Bird;
use crate::bird_config;
use crate::error::LabError;
use crate::link::{self, Tbf};
use crate::netns::Namespace;
use crate::poll::wait_until;
use crate::state::{self, Reaper, State};
use crate::table::{Family, Table};
use crate::topology::{
    CONTENT_V4, CONTENT_V6, ETM_INJECT_V4, ETM_INJECT_V6, LINKS, Provider, Role, SINK_V4, SINK_V6,
};

/// How long the routers may take to agree.
const CONVERGENCE: Duration = Duration::from_secs(30);
/// Default capacity of an uplink in bit/s.
pub const UPLINK_BPS: u64 = 50_000_000;

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Id, 1 to 12 of a-z and 0-9; `None` takes a free one.
    pub id: Option<String>,
    /// Capacity of each uplink in bit/s; 0 leaves the links without a bucket.
    pub uplink_bps: u64,
    /// What the providers announce.
    pub table: Table,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self { id: None, uplink_bps: UPLINK_BPS, table: Table::standard() }
    }
}

/// A lab. Dropping it removes it, unless it was detached.
#[derive(Debug)]
pub struct Lab {
    id: String,
    uplink_bps: u64,
    table: Table,
    routers: BTreeMap<Role, Child>,
    // Dropped by hand, first: it ends the routers, which are waited for afterwards.
    reaper: Option<Reaper>,
}

impl Lab {
    /// Brings up a lab and waits until its routers agree. On an error nothing is left.
    ///
    /// # Errors
    /// Root or a program is missing, the id is taken, or the routers do not converge.
    pub fn up(options: LabOptions) -> Result<Self, LabError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        let id = options.id.unwrap_or_else(free_id);
        state::claim(&id)?;
        let owner_pid = std::process::id().cast_signed();
        State { id: id.clone(), owner_pid, detached: false, uplink_bps: options.uplink_bps }.save()?;
        let reaper = Some(Reaper::start(&id)?);
        let mut lab = Self {
            id,
            uplink_bps: options.uplink_bps,
            table: options.table,
            routers: BTreeMap::new(),
            reaper,
        };
        lab.wire()?;
        for provider in Provider::ALL {
            lab.limit(provider, lab.uplink_bps)?;
        }
        for role in Role::ROUTERS {
            lab.start_router(role)?;
        }
        lab.wait_converged()?;
        Ok(lab)
    }

    /// Takes hold of a lab that runs detached; dropping the value leaves the lab alone.
    ///
    /// # Errors
    /// There is no such lab.
    pub fn attach(id: &str) -> Result<Self, LabError> {
        let state = State::load(id)?;
        Ok(Self {
            id: state.id,
            uplink_bps: state.uplink_bps,
            table: Table::standard(),
            routers: BTreeMap::new(),
            reaper: None,
        })
    }

    /// Lets the lab live on after this process.
    ///
    /// # Errors
    /// Its state cannot be written.
    pub fn detach(mut self) -> Result<(), LabError> {
        let owner_pid = std::process::id().cast_signed();
        State { id: self.id.clone(), owner_pid, detached: true, uplink_bps: self.uplink_bps }.save()?;
        self.routers.clear();
        self.reaper.take().map_or(Ok(()), Reaper::release)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Directory of its files: `ROLE.conf`, `ROLE.log`, `ROLE.ctl`.
    pub fn directory(&self) -> PathBuf {
        state::directory(&self.id)
    }

    /// Root under which ETM pins in this lab.
    pub fn pin_root(&self) -> PathBuf {
        state::pin_root(&self.id).join("v1")
    }

    /// Capacity of each uplink in bit/s.
    pub fn uplink_bps(&self) -> u64 {
        self.uplink_bps
    }

    /// What the providers announce.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The namespace of a role.
    pub fn namespace(&self, role: Role) -> Namespace {
        Namespace::existing(&state::namespace_name(&self.id, role))
    }

    /// The BIRD of a router.
    pub fn bird(&self, role: Role) -> Bird {
        Bird::existing(role.name(), &self.directory())
    }

    /// Sets the capacity of an uplink; 0 removes the bucket.
    ///
    /// # Errors
    /// `tc` refuses.
    pub fn limit(&self, provider: Provider, rate_bps: u64) -> Result<(), LabError> {
        let border = self.namespace(Role::Border);
        if rate_bps > 0 {
            return Tbf::of_rate(rate_bps).apply(&border, provider.uplink());
        }
        if border.tc(&["qdisc", "show", "dev", provider.uplink(), "root"])?.contains("tbf") {
            border.tc(&["qdisc", "del", "dev", provider.uplink(), "root"])?;
        }
        Ok(())
    }

    /// Takes the carrier from an uplink, from the provider's end, as a cut fibre does.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn cut(&self, provider: Provider) -> Result<(), LabError> {
        self.namespace(provider.role()).ip(&["link", "set", "dev", "border0", "down"]).map(drop)
    }

    /// Gives the carrier back.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn mend(&self, provider: Provider) -> Result<(), LabError> {
        for link in LINKS.iter().filter(|link| link.far.role == provider.role()) {
            self.namespace(link.near.role).ip_batch("mend a link", &link::up_lines(&link.near, &link.far))?;
            self.namespace(link.far.role).ip_batch("mend a link", &link::up_lines(&link.far, &link.near))?;
        }
        Ok(())
    }

    /// Takes the border's interface towards a provider away, as unplugging a card does; the far end goes with it.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn unplug(&self, provider: Provider) -> Result<(), LabError> {
        self.namespace(Role::Border).ip(&["link", "delete", "dev", provider.uplink()]).map(drop)
    }

    /// Makes it anew, with the same name and addresses and another index.
    ///
    /// # Errors
    /// `ip` or `tc` refuses.
    pub fn plug(&self, provider: Provider) -> Result<(), LabError> {
        for made in LINKS.iter().filter(|link| link.near.interface == provider.uplink()) {
            link::create(made, &self.namespace(made.near.role), &self.namespace(made.far.role))?;
        }
        self.limit(provider, self.uplink_bps)?;
        self.mend(provider)
    }

    /// Changes what the providers announce.
    ///
    /// # Errors
    /// A file cannot be written, or BIRD refuses it.
    pub fn announce(&mut self, table: Table) -> Result<(), LabError> {
        self.set_table(table)?;
        for provider in Provider::ALL {
            self.bird(provider.role()).configure()?;
        }
        Ok(())
    }

    /// Changes what the providers are to announce; they do so once they are told to configure themselves, or started.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn set_table(&mut self, table: Table) -> Result<(), LabError> {
        self.table = table;
        Provider::ALL.into_iter().try_for_each(|provider| self.write_routes(provider))
    }

    /// Starts the BIRD of a router.
    ///
    /// # Errors
    /// BIRD is missing or refuses its configuration.
    pub fn start_router(&mut self, role: Role) -> Result<(), LabError> {
        let directory = self.directory();
        write(&directory.join(format!("{role}.conf")), &bird_config::of(role, &directory))?;
        if let Some(provider) = Provider::ALL.into_iter().find(|p| p.role() == role) {
            self.write_routes(provider)?;
        }
        let (_, child) = Bird::start(role.name(), &self.namespace(role), &directory)?;
        self.routers.insert(role, child);
        Ok(())
    }

    /// Kills the BIRD of a router without warning.
    ///
    /// # Errors
    /// It is not ours to kill, or gone already.
    pub fn kill_router(&mut self, role: Role) -> Result<(), LabError> {
        let what = format!("kill bird in {role}");
        let mut child = self
            .routers
            .remove(&role)
            .ok_or_else(|| LabError::Malformed { what: what.clone(), detail: "not started here".into() })?;
        child.kill().map_err(LabError::io(&what))?;
        child.wait().map_err(LabError::io(&what)).map(drop)
    }

    /// Waits until every session between routers is up and every table is complete.
    ///
    /// # Errors
    /// It does not happen within 30 s.
    pub fn wait_converged(&self) -> Result<(), LabError> {
        wait_until("the routers to converge", CONVERGENCE, || {
            self.missing().map_err(|error| error.to_string()).and_then(|m| m.map_or(Ok(()), Err))
        })
    }

    /// What is missing to convergence, if anything.
    ///
    /// # Errors
    /// A BIRD or `ip` does not answer.
    pub fn missing(&self) -> Result<Option<String>, LabError> {
        let protocols = self.bird(Role::Border).protocols()?;
        let session_names = Provider::ALL
            .into_iter()
            .flat_map(|p| ["4", "6"].map(|family| bird_config::session_name(p, family)))
            .chain(["core".to_owned()]);
        for name in session_names {
            let info = protocols.get(&name).map_or("absent", |(_, info)| info.as_str());
            if info != "Established" {
                return Ok(Some(format!("session {name}: {info}")));
            }
        }
        for family in Family::ALL {
            let (prefixes, paths) = self.table.counts(family);
            let version = if family == Family::V4 { "-4" } else { "-6" };
            let learnt = self.bird(Role::Border).routes(&format!(
                "table master{} where source = RTS_BGP",
                if family == Family::V4 { "4" } else { "6" }
            ))?;
            if learnt.len() != paths {
                return Ok(Some(format!("{} of {paths} routes {version} at the border", learnt.len())));
            }
            for role in [Role::Border, Role::Core] {
                let text = self.namespace(role).ip(&[version, "-o", "route", "show", "proto", "bird"])?;
                if text.lines().count() != prefixes {
                    let have = text.lines().count();
                    return Ok(Some(format!(
                        "{have} of {prefixes} routes {version} in the kernel of {role}"
                    )));
                }
            }
        }
        Ok(None)
    }

    fn write_routes(&self, provider: Provider) -> Result<(), LabError> {
        let path = self.directory().join(format!("{provider}.routes"));
        write(&path, &bird_config::routes(provider, &self.table))
    }

    fn wire(&self) -> Result<(), LabError> {
        for role in Role::ALL {
            let namespace = Namespace::create(&state::namespace_name(&self.id, role))?;
            namespace.sysctls(&link::BASE_SYSCTLS)?;
            if Role::ROUTERS.contains(&role) {
                namespace.sysctls(&link::ROUTER_SYSCTLS)?;
            }
            if role == Role::Border {
                namespace.sysctls(&link::BORDER_SYSCTLS)?;
            }
        }
        for link in &LINKS {
            link::create(link, &self.namespace(link.near.role), &self.namespace(link.far.role))?;
        }
        for role in Role::ALL {
            let mut lines = vec!["link set dev lo up".to_owned()];
            for link in &LINKS {
                for (own, peer) in [(&link.near, &link.far), (&link.far, &link.near)] {
                    if own.role == role {
                        lines.extend(link::up_lines(own, peer));
                    }
                }
            }
            lines.extend(extra_lines(role));
            self.namespace(role).ip_batch(&format!("configure {role}"), &lines)?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.reaper.take());
        for child in self.routers.values_mut() {
            // The reaper has ended them; this only collects the zombies.
            let _ = child.wait();
        }
    }
}

/// Routes and addresses that are not part of a link.
fn extra_lines(role: Role) -> Vec<String> {
    match role {
        Role::Content => vec![
            "route replace default via 10.0.8.1".to_owned(),
            "route replace ::/0 via fd00:8::1".to_owned(),
        ],
        Role::Border => vec![
            format!("addr replace {ETM_INJECT_V4}/24 dev core0"),
            format!("addr replace {ETM_INJECT_V6}/64 dev core0 nodad"),
        ],
        Role::TransitA | Role::TransitB | Role::Ix => Provider::ALL
            .into_iter()
            .filter(|provider| provider.role() == role)
            .flat_map(|provider| {
                let (v4, v6) = provider.sink_addresses();
                [format!("route replace {SINK_V4} via {v4}"), format!("route replace {SINK_V6} via {v6}")]
            })
            .collect(),
        Role::Sink => vec![
            format!("route replace local {SINK_V4} dev lo"),
            format!("route replace local {SINK_V6} dev lo"),
            format!("route replace {CONTENT_V4} via 10.4.1.1"),
            format!("route replace {CONTENT_V6} via fd00:4:1::1"),
        ],
        Role::Core | Role::BorderB | Role::Reflector => Vec::new(),
    }
}

fn free_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{:x}x{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn write(path: &Path, text: &str) -> Result<(), LabError> {
    fs::write(path, text).map_err(LabError::io(format!("write {}", path.display())))
}
