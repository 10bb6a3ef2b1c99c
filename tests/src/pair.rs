//! A small lab for BGP sessions: ETM's end, one router under test (BIRD, FRR or GoBGP), and an eBGP customer of that
//! router. Never forwards a packet: only control planes meet here.

use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::bird::Bird;
use crate::daemons::{
    self, CUSTOMER_V4, ETM_V4, ETM_V6, PREFIXES, ROUTER_CUSTOMER_V4, ROUTER_V4, ROUTER_V6, Setup, write,
};
use crate::daemons_v6::{ETM_CORE_V6, ETM_LOCAL, LOCAL_LINK, ROUTER_LOCAL, ROUTER_LOCAL_LINK};
use crate::error::LabError;
use crate::link::BASE_SYSCTLS;
use crate::netns::Namespace;
use crate::poll::wait_until;
use crate::state::{self, Reaper, State};
use crate::topology::Role;

/// The lab. Dropping it removes it.
#[derive(Debug)]
pub struct Pair {
    id: String,
    setup: Setup,
    router: Vec<Child>,
    customer: Option<Child>,
    reaper: Option<Reaper>,
}

impl Pair {
    /// Brings it up: links, the router, its customer, which has learnt everything.
    ///
    /// # Errors
    /// Root or a program is missing, or the router and its customer do not agree.
    pub fn up(setup: Setup) -> Result<Self, LabError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{:x}p{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        state::claim(&id)?;
        let owner_pid = std::process::id().cast_signed();
        State { id: id.clone(), owner_pid, detached: false, uplink_bps: 0 }.save()?;
        let reaper = Some(Reaper::start(&id)?);
        let mut pair = Self { id, setup, router: Vec::new(), customer: None, reaper };
        pair.wire()?;
        pair.start_router(false)?;
        if pair.setup.six {
            return Ok(pair);
        }
        let directory = pair.directory();
        write(&directory.join("customer.conf"), &daemons::customer_config(pair.setup.asn))?;
        let (_, child) = Bird::start("customer", &pair.namespace(Role::TransitA), &directory)?;
        pair.customer = Some(child);
        wait_until("the customer to have every route", Duration::from_secs(30), || {
            let routes = pair.customer_routes().map_err(|error| error.to_string())?;
            let wanted = usize::try_from(PREFIXES).unwrap_or_default();
            if routes.len() == wanted { Ok(()) } else { Err(format!("{} routes", routes.len())) }
        })?;
        Ok(pair)
    }

    /// Where ETM's sessions run.
    pub fn etm(&self) -> Namespace {
        self.namespace(Role::Border)
    }

    /// How the router is set up.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Directory of the lab's files.
    pub fn directory(&self) -> PathBuf {
        state::directory(&self.id)
    }

    /// Starts the router; `again` says that it restarts gracefully (RFC 4724).
    ///
    /// # Errors
    /// The daemon is missing or refuses its configuration.
    pub fn start_router(&mut self, again: bool) -> Result<(), LabError> {
        let (namespace, directory) = (self.namespace(Role::Core), self.directory());
        self.router = daemons::start(&self.setup, &namespace, &directory, again)?;
        Ok(())
    }

    /// Kills the router without a word: the kernel closes its connections.
    ///
    /// # Errors
    /// It is gone already.
    pub fn kill_router(&mut self) -> Result<(), LabError> {
        for mut child in self.router.drain(..) {
            child.kill().map_err(LabError::io("kill the router"))?;
            child.wait().map_err(LabError::io("wait for the router"))?;
        }
        // nsenter became the daemon, so nothing else is left of it but what FRR keeps beside bgpd.
        Ok(())
    }

    /// Runs the router's own client and returns what it says.
    ///
    /// # Errors
    /// The client refuses.
    pub fn ask(&self, words: &[&str]) -> Result<String, LabError> {
        daemons::ask(&self.setup, &self.namespace(Role::Core), &self.directory(), words)
    }

    /// Where the router runs.
    pub fn router(&self) -> Namespace {
        self.namespace(Role::Core)
    }

    /// The customer's routes as `prefix via path`, sorted.
    ///
    /// # Errors
    /// The customer's BIRD does not answer.
    pub fn customer_routes(&self) -> Result<Vec<String>, LabError> {
        let bird = Bird::existing("customer", &self.directory());
        let mut routes: Vec<String> = bird
            .routes("protocol upstream")?
            .iter()
            .map(|route| format!("{:?} {:?}", route.prefix, route.attributes))
            .collect();
        routes.sort();
        Ok(routes)
    }

    /// How many updates and withdrawals the customer has received so far.
    ///
    /// # Errors
    /// The customer's BIRD does not answer.
    pub fn customer_updates(&self) -> Result<Vec<String>, LabError> {
        let bird = Bird::existing("customer", &self.directory());
        let lines = bird.ask("show protocols all upstream")?;
        Ok(lines.into_iter().filter(|line| line.trim_start().starts_with("Import ")).collect())
    }

    fn namespace(&self, role: Role) -> Namespace {
        Namespace::existing(&state::namespace_name(&self.id, role))
    }

    fn wire(&self) -> Result<(), LabError> {
        for role in [Role::Border, Role::Core, Role::TransitA] {
            let namespace = Namespace::create(&state::namespace_name(&self.id, role))?;
            namespace.sysctls(&BASE_SYSCTLS)?;
            namespace.ip(&["link", "set", "lo", "up"])?;
        }
        let core = self.namespace(Role::Core);
        for (near, far) in [("etm0", Role::Border), ("cust0", Role::TransitA)] {
            let peer = self.namespace(far);
            core.ip_batch(
                "make a link of the pair",
                &[format!("link add name {near} type veth peer name core0 netns {}", peer.name())],
            )?;
        }
        let up = |dev: &str, addresses: &[String]| {
            let mut lines = vec![format!("link set dev {dev} up")];
            lines.extend(addresses.iter().map(|address| format!("addr add {address} dev {dev}")));
            lines
        };
        let etm = up("core0", &[format!("{ETM_V4}/24"), format!("{ETM_V6}/64 nodad")]);
        self.etm().ip_batch("configure ETM's end", &etm)?;
        let mut router = up("etm0", &[format!("{ROUTER_V4}/24"), format!("{ROUTER_V6}/64 nodad")]);
        router.extend(up("cust0", &[format!("{ROUTER_CUSTOMER_V4}/24")]));
        core.ip_batch("configure the router", &router)?;
        if self.setup.six {
            self.wire_six()?;
        }
        let customer = up("core0", &[format!("{CUSTOMER_V4}/24")]);
        self.namespace(Role::TransitA).ip_batch("configure the customer", &customer)
    }

    /// A second link with link-local addresses alone, the same ones as on the first.
    fn wire_six(&self) -> Result<(), LabError> {
        let (etm, core) = (self.etm(), self.namespace(Role::Core));
        core.ip_batch(
            "make the second link of the pair",
            &[format!(
                "link add name {ROUTER_LOCAL_LINK} type veth peer name {LOCAL_LINK} netns {}",
                etm.name()
            )],
        )?;
        let up = |dev: &str, own: &str| {
            [
                format!("link set dev {dev} addrgenmode none"),
                format!("link set dev {dev} up"),
                format!("addr add {own}/64 dev {dev} nodad"),
            ]
        };
        let mut near = up(LOCAL_LINK, ETM_LOCAL).to_vec();
        near.extend([
            format!("addr add {ETM_LOCAL}/64 dev core0 nodad"),
            format!("addr add {ETM_CORE_V6}/64 dev core0 nodad"),
        ]);
        etm.ip_batch("configure ETM's end of it", &near)?;
        let mut far = up(ROUTER_LOCAL_LINK, ROUTER_LOCAL).to_vec();
        far.push(format!("addr add {ROUTER_LOCAL}/64 dev etm0 nodad"));
        core.ip_batch("configure the router's end of it", &far)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        drop(self.reaper.take());
        for child in self.router.iter_mut().chain(self.customer.as_mut()) {
            // The reaper has ended them; this only collects the zombies.
            let _ = child.wait();
        }
    }
}
