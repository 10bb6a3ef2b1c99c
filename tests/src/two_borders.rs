//! A lab with two border routers, each with a provider of its own, and core behind both: iBGP as a full mesh, or with a
//! route reflector. The source is behind core, so only BGP decides by which border its traffic leaves.
//!
//! ```text
//!                               10.0.1/24  +----------+ up-a  +-----------+
//!  +---------+ 10.0.8/24 +------+---------| border   |-------| transit-a |---\
//!  | content |-----------| core |  a0      | (ETM A)  |       +-----------+    \
//!  +---------+       in0 +------+          +----------+                        | sink |
//!                          | |  10.0.2/24      | 10.0.3/24                     /
//!                     rr0  | \------------+----------+ up-b  +-----------+    /
//!                    +-----------+   b0   | border-b |-------| transit-b |---/
//!                    | reflector |        | (ETM B)  |       +-----------+
//!                    +-----------+        +----------+
//! ```
//!
//! Its uplinks have no bucket: a packet that is lost here was lost by routing.
//! *Never*: judges; tests do.

mod config;
mod etm;

pub use etm::{EtmOptions, Side};

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::agent::{Agent, Place};
use crate::bird::Bird;
use crate::daemons::write;
use crate::error::LabError;
use crate::link;
use crate::netns::Namespace;
use crate::poll::wait_until;
use crate::state::{self, Reaper, State};
use crate::topology::{CONTENT_V4, CONTENT_V6, End, Link, Provider, Role, SINK_V4, SINK_V6};

/// How iBGP gets from the borders to core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fabric {
    /// Everybody talks to everybody.
    Mesh,
    /// Borders and core are clients of a reflector, which keeps what has ETM's community from the borders.
    Reflector,
    /// The same, but it passes everything on to everybody.
    CarelessReflector,
}

const ROLES: [Role; 8] = [
    Role::Content,
    Role::Border,
    Role::BorderB,
    Role::TransitA,
    Role::TransitB,
    Role::Core,
    Role::Reflector,
    Role::Sink,
];

const fn end(
    role: Role,
    interface: &'static str,
    v4: &'static str,
    v6: &'static str,
    mac: &'static str,
) -> End {
    End { role, interface, v4, v6, mac }
}

/// All links.
pub const LINKS: [Link; 9] = [
    Link {
        near: end(Role::Content, "content0", "10.0.8.2", "fd00:8::2", "02:00:00:00:08:02"),
        far: end(Role::Core, "in0", "10.0.8.1", "fd00:8::1", "02:00:00:00:08:01"),
    },
    Link {
        near: end(Role::Core, "a0", "10.0.1.2", "fd00:11::2", "02:00:00:00:11:02"),
        far: end(Role::Border, "core0", "10.0.1.1", "fd00:11::1", "02:00:00:00:11:01"),
    },
    Link {
        near: end(Role::Core, "b0", "10.0.2.2", "fd00:12::2", "02:00:00:00:12:02"),
        far: end(Role::BorderB, "core0", "10.0.2.1", "fd00:12::1", "02:00:00:00:12:01"),
    },
    Link {
        near: end(Role::Border, "b0", "10.0.3.1", "fd00:13::1", "02:00:00:00:13:01"),
        far: end(Role::BorderB, "a0", "10.0.3.2", "fd00:13::2", "02:00:00:00:13:02"),
    },
    Link {
        near: end(Role::Core, "rr0", "10.0.5.2", "fd00:15::2", "02:00:00:00:15:02"),
        far: end(Role::Reflector, "core0", "10.0.5.1", "fd00:15::1", "02:00:00:00:15:01"),
    },
    Link {
        near: end(Role::Border, "up-a", "10.1.0.2", "fd00:1::2", "02:00:00:00:01:02"),
        far: end(Role::TransitA, "border0", "10.1.0.1", "fd00:1::1", "02:00:00:00:01:01"),
    },
    Link {
        near: end(Role::BorderB, "up-b", "10.2.0.2", "fd00:2::2", "02:00:00:00:02:02"),
        far: end(Role::TransitB, "border0", "10.2.0.1", "fd00:2::1", "02:00:00:00:02:01"),
    },
    Link {
        near: end(Role::TransitA, "sink0", "10.4.1.1", "fd00:4:1::1", "02:00:00:00:41:01"),
        far: end(Role::Sink, "from-a", "10.4.1.2", "fd00:4:1::2", "02:00:00:00:41:02"),
    },
    Link {
        near: end(Role::TransitB, "sink0", "10.4.2.1", "fd00:4:2::1", "02:00:00:00:42:01"),
        far: end(Role::Sink, "from-b", "10.4.2.2", "fd00:4:2::2", "02:00:00:00:42:02"),
    },
];

/// Providers of this lab, in the order of their borders.
pub const PROVIDERS: [Provider; 2] = [Provider::TransitA, Provider::TransitB];

/// Prefixes that both providers announce alike and that core sends to the first border.
pub const HOME_A: [&str; 10] = [
    "198.18.1.0/24",
    "198.18.2.0/24",
    "198.18.3.0/24",
    "198.18.4.0/24",
    "198.18.5.0/24",
    "198.18.6.0/24",
    "198.18.7.0/24",
    "198.18.8.0/24",
    "2001:db8:1::/48",
    "2001:db8:2::/48",
];
/// Prefixes that both providers announce alike and that core, in a mesh, sends to the second border.
pub const HOME_B: [&str; 4] = ["198.18.129.0/24", "198.18.130.0/24", "198.18.131.0/24", "198.18.132.0/24"];
/// A prefix whose path by the second provider is longer: the second border itself sends it to the first one.
pub const ONLY_A: &str = "198.18.200.0/24";

/// How long the routers may take to agree.
const CONVERGENCE: Duration = Duration::from_secs(40);

/// The lab. Dropping it removes it.
#[derive(Debug)]
pub struct TwoBorders {
    id: String,
    fabric: Fabric,
    routers: BTreeMap<Role, Child>,
    withdrawn: BTreeSet<Side>,
    reaper: Option<Reaper>,
}

impl TwoBorders {
    /// Brings it up and waits until its routers agree.
    ///
    /// # Errors
    /// Root or a program is missing, or the routers do not converge.
    pub fn up(fabric: Fabric) -> Result<Self, LabError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{:x}t{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        state::claim(&id)?;
        let owner_pid = std::process::id().cast_signed();
        State { id: id.clone(), owner_pid, detached: false, uplink_bps: 0 }.save()?;
        let reaper = Some(Reaper::start(&id)?);
        let mut lab = Self { id, fabric, routers: BTreeMap::new(), withdrawn: BTreeSet::new(), reaper };
        lab.wire()?;
        for role in lab.router_roles() {
            lab.start_router(role)?;
        }
        lab.wait_converged()?;
        Ok(lab)
    }

    /// iBGP.
    pub fn fabric(&self) -> Fabric {
        self.fabric
    }

    /// Directory of its files.
    pub fn directory(&self) -> PathBuf {
        state::directory(&self.id)
    }

    /// The namespace of a role.
    pub fn namespace(&self, role: Role) -> Namespace {
        Namespace::existing(&state::namespace_name(&self.id, role))
    }

    /// The BIRD of a router.
    pub fn bird(&self, role: Role) -> Bird {
        Bird::existing(role.name(), &self.directory())
    }

    /// What the agent of a border has for itself.
    pub fn place(&self, side: Side) -> Place {
        let directory = self.directory();
        Place {
            socket: directory.join(format!("etm-{side}")).join("etm.sock"),
            pin_root: state::pin_root(&self.id).join(side.to_string()),
            log: directory.join(format!("etm-{side}.log")),
        }
    }

    /// Starts ETM on a border; it answers when this returns.
    ///
    /// # Errors
    /// The binaries are not built, or the agent ends or stays silent.
    pub fn start_etm(&self, side: Side, options: &EtmOptions) -> Result<Agent, LabError> {
        let (place, what) = (self.place(side), "make the agent's directory");
        let parent = place.socket.parent().map(PathBuf::from).unwrap_or_default();
        fs::create_dir_all(&parent).map_err(LabError::io(what))?;
        let path = parent.join("etm.toml");
        write(&path, &etm::config(self, side, options))?;
        let mut agent = Agent::start_at((&self.namespace(side.role()), &[]), place, &path, "info")?;
        wait_until("etm-agent to answer", Duration::from_secs(15), || match agent.ended() {
            Some(status) => Ok(Err(agent.died(status))),
            None => agent.get("/v1/status").map(Ok).map_err(|error| error.to_string()),
        })??;
        Ok(agent)
    }

    /// Starts the BIRD of a router.
    ///
    /// # Errors
    /// BIRD is missing or refuses its configuration.
    pub fn start_router(&mut self, role: Role) -> Result<(), LabError> {
        self.write_router(role)?;
        let directory = self.directory();
        let (_, child) = Bird::start(role.name(), &self.namespace(role), &directory)?;
        self.routers.insert(role, child);
        Ok(())
    }

    fn write_router(&self, role: Role) -> Result<(), LabError> {
        let directory = self.directory();
        let text = config::of((role, self.fabric), &self.withdrawn, &directory);
        write(&directory.join(format!("{role}.conf")), &text)
    }

    /// The provider of a side withdraws every second prefix, or announces all of them again; one whose BIRD does not run will
    /// when it starts.
    ///
    /// # Errors
    /// A file cannot be written, or BIRD refuses it.
    pub fn withdraw(&mut self, side: Side, withdrawn: bool) -> Result<(), LabError> {
        if withdrawn {
            self.withdrawn.insert(side);
        } else {
            self.withdrawn.remove(&side);
        }
        let role = side.provider().role();
        self.write_router(role)?;
        if self.router_pid(role).is_some() { self.bird(role).configure() } else { Ok(()) }
    }

    /// Deletes a border's uplink, as if its card were taken out; the provider's end goes, too.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn unplug(&self, side: Side) -> Result<(), LabError> {
        self.namespace(side.role()).ip(&["link", "delete", "dev", side.uplink()]).map(drop)
    }

    /// Gives both ends of an uplink what they have lost, and makes it anew where it was deleted.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn mend_uplink(&self, side: Side) -> Result<(), LabError> {
        let border = self.namespace(side.role());
        if border.ip(&["link", "show", "dev", side.uplink()]).is_err() {
            for made in LINKS.iter().filter(|link| link.near.interface == side.uplink()) {
                link::create(made, &border, &self.namespace(made.far.role))?;
            }
        }
        self.mend(side.provider())
    }

    /// The process of a router's BIRD.
    pub fn router_pid(&self, role: Role) -> Option<i32> {
        self.routers.get(&role).map(|child| child.id().cast_signed())
    }

    /// Kills the BIRD of a router without warning.
    ///
    /// # Errors
    /// It is gone already.
    pub fn kill_router(&mut self, role: Role) -> Result<(), LabError> {
        let Some(mut child) = self.routers.remove(&role) else { return Ok(()) };
        child.kill().map_err(LabError::io("kill a router"))?;
        child.wait().map_err(LabError::io("wait for a router")).map(drop)
    }

    /// The interface that a router's kernel uses for a destination that comes in from outside.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn leaves_by(&self, role: Role, destination: IpAddr) -> Result<String, LabError> {
        let text = self.namespace(role).ip(&["route", "get", &destination.to_string()])?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "dev");
        Ok(words.nth(1).unwrap_or_default().to_owned())
    }

    /// Packets whose TTL or hop limit ran out, in every namespace: the drops themselves, which no rate limit hides, and
    /// the messages about them.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn time_exceeded(&self) -> Result<u64, LabError> {
        let mut sum = 0;
        for role in ROLES {
            sum += self.namespace(role).inside(|| {
                let read = |name: &str| {
                    let path = format!("/proc/thread-self/net/{name}");
                    fs::read_to_string(&path).map_err(LabError::io(format!("read {path}")))
                };
                Ok(exceeded_v4(&read("snmp")?) + exceeded_v6(&read("snmp6")?))
            })?;
        }
        Ok(sum)
    }

    fn router_roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::TransitA, Role::TransitB, Role::Border, Role::BorderB, Role::Core];
        if self.fabric != Fabric::Mesh {
            roles.push(Role::Reflector);
        }
        roles
    }

    fn wait_converged(&self) -> Result<(), LabError> {
        wait_until("the routers to converge", CONVERGENCE, || self.missing())
    }

    /// What is missing until the routers agree.
    ///
    /// # Errors
    /// That, in words.
    pub fn missing(&self) -> Result<(), String> {
        let prefixes = HOME_A.len() + HOME_B.len() + 1;
        for role in [Role::Border, Role::BorderB, Role::Core] {
            let mut have = 0;
            for table in ["master4", "master6"] {
                let selection = format!("table {table} primary where source = RTS_BGP");
                have += self.bird(role).routes(&selection).map_err(|error| error.to_string())?.len();
            }
            if have != prefixes {
                return Err(format!("{have} of {prefixes} prefixes at {role}"));
            }
        }
        let protocols = self.bird(Role::Core).protocols().map_err(|error| error.to_string())?;
        let waiting = protocols.iter().find(|(name, (_, info))| {
            info.as_str() != "Established" && !name.starts_with("etm_") && name.starts_with("bgp_")
        });
        waiting.map_or(Ok(()), |(name, (_, info))| Err(format!("core's session {name}: {info}")))
    }

    /// Gives both ends of a provider's link to its border what they have lost while it was down.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn mend(&self, provider: Provider) -> Result<(), LabError> {
        LINKS.iter().filter(|link| link.near.interface == provider.uplink()).try_for_each(|link| {
            self.namespace(link.far.role).ip_batch("mend a link", &link::up_lines(&link.far, &link.near))?;
            self.namespace(link.near.role).ip_batch("mend a link", &link::up_lines(&link.near, &link.far))
        })
    }

    fn wire(&self) -> Result<(), LabError> {
        for role in ROLES {
            let namespace = Namespace::create(&state::namespace_name(&self.id, role))?;
            namespace.sysctls(&link::BASE_SYSCTLS)?;
            if !matches!(role, Role::Content | Role::Sink) {
                namespace.sysctls(&link::ROUTER_SYSCTLS)?;
                namespace.sysctls(&link::BORDER_SYSCTLS)?;
            }
        }
        for link in &LINKS {
            link::create(link, &self.namespace(link.near.role), &self.namespace(link.far.role))?;
        }
        for role in ROLES {
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

impl Drop for TwoBorders {
    fn drop(&mut self) {
        drop(self.reaper.take());
        for child in self.routers.values_mut() {
            // The reaper has ended them; this only collects the zombies.
            let _ = child.wait();
        }
    }
}

/// Loopbacks, and what BIRD does not route.
fn extra_lines(role: Role) -> Vec<String> {
    let loopback = |v4: &str, v6: &str| {
        vec![format!("addr replace {v4}/32 dev lo"), format!("addr replace {v6}/128 dev lo nodad")]
    };
    match role {
        Role::Content => vec![
            "route replace default via 10.0.8.1".to_owned(),
            "route replace ::/0 via fd00:8::1".to_owned(),
        ],
        Role::Border | Role::BorderB => {
            let side = if role == Role::Border { Side::A } else { Side::B };
            let mut lines = loopback(side.loopback_v4(), side.loopback_v6());
            lines.push(format!("addr replace {}/32 dev lo", side.etm_v4()));
            lines
        }
        Role::Core => loopback(config::CORE_V4, config::CORE_V6),
        Role::TransitA | Role::TransitB => PROVIDERS
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
        Role::Ix | Role::Reflector => Vec::new(),
    }
}

/// Counters of `/proc/net/snmp` come as two lines of one name: words, then figures.
fn exceeded_v4(text: &str) -> u64 {
    let field = |table: &str, name: &str| -> u64 {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(table));
        let (Some(words), Some(figures)) = (lines.next(), lines.next()) else { return 0 };
        let mut pairs = words.split_whitespace().zip(figures.split_whitespace());
        pairs.find(|(word, _)| *word == name).and_then(|(_, figure)| figure.parse().ok()).unwrap_or(0)
    };
    field("Ip:", "InHdrErrors") + field("Icmp:", "OutTimeExcds") + field("Icmp:", "InTimeExcds")
}

fn exceeded_v6(text: &str) -> u64 {
    const NAMES: [&str; 3] = ["Ip6InHdrErrors", "Icmp6OutTimeExcds", "Icmp6InTimeExcds"];
    let lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    lines.filter(|(name, _)| NAMES.contains(name)).filter_map(|(_, v)| v.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_out_of_hops_is_found_among_the_counters() {
        let text = "Ip: Forwarding InHdrErrors X\nIp: 1 3 9\nIcmp: InTimeExcds OutTimeExcds\nIcmp: 4 5\n";
        assert_eq!(exceeded_v4(text), 12);
        assert_eq!(exceeded_v4("nothing"), 0);
        assert_eq!(exceeded_v6("Ip6InHdrErrors   7\nIp6InReceives 3\nIcmp6OutTimeExcds\t2\n"), 9);
    }
}
