//! What a session needs to know. Never read from a file here: the configuration's owner fills it in.

use super::transport::Transport;
use crate::proto::bgp::{Import, OutPolicy, Speaker};
use crate::types::bgp::BgpRole;
use crate::types::{Asn, ExitId, Family, PeerId, RouterId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Its number in inputs.
    pub peer: PeerId,
    /// Its name in logs and status.
    pub name: String,
    /// Our end; none lets the kernel choose. A session with a daemon on the same machine needs a second
    /// address such as 127.0.0.2, because the daemon knows its peers by address.
    pub local: Option<IpAddr>,
    /// The peer.
    pub remote: IpAddr,
    /// The interface of a link-local peer.
    pub interface: Option<String>,
    /// TCP port of the peer.
    pub port: u16,
    /// Who connects.
    pub connect: Connect,
    /// Keys and distance.
    pub transport: Transport,
    /// Our AS.
    pub local_as: Asn,
    /// The peer's AS.
    pub peer_as: Asn,
    /// Our BGP identifier, not the peer's.
    pub router_id: RouterId,
    /// Our role towards an external peer (RFC 9234).
    pub role: Option<BgpRole>,
    /// Whether an external peer without a role is refused.
    pub strict_role: bool,
    /// Hold time offered, in seconds; at most the lease.
    pub hold_time: u16,
    /// How long to wait for the answer to a SYN.
    pub connect_timeout: Duration,
    /// Pause after a session that was up for a while, and after the first failure; doubles with each further one.
    pub retry_min: Duration,
    /// Longest pause between attempts.
    pub retry_max: Duration,
    /// Of the jitter of these pauses, so that sessions of one restart do not stay in step.
    pub seed: u64,
    /// What is taken from the peer (role learn).
    pub import: Import,
    /// Several routes per prefix are asked for (RFC 7911, role learn).
    pub add_path: bool,
    /// How many routes the peer may announce (role learn); none for any number.
    pub max_routes: Option<MaxRoutes>,
    /// Longest time to keep the routes of a peer that restarts (RFC 4724, role learn); zero to keep none. The peer's
    /// own restart time counts where it is shorter.
    pub retain: Duration,
    /// How long a peer may take to send its table again before what it did not say is dropped.
    pub stale: Duration,
}

/// Who opens the TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connect {
    /// We do; nothing listens.
    #[default]
    Active,
    /// The peer does.
    Passive,
    /// Both try, and a collision is resolved (RFC 4271 section 6.8).
    Both,
}

impl Connect {
    /// True where we try.
    pub fn dials(self) -> bool {
        self != Connect::Passive
    }

    /// True where a listener is needed.
    pub fn listens(self) -> bool {
        self != Connect::Active
    }
}

/// A maximum of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxRoutes {
    /// More than these end the session (Cease 1, RFC 4486).
    pub limit: u64,
    /// A warning is logged once there are so many.
    pub warn_at: u64,
    /// What happens beyond.
    pub beyond: Beyond,
}

/// What happens beyond a maximum of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// The session ends and is tried again after this pause.
    Restart(Duration),
    /// The session ends and stays down until an operator resets it.
    Down,
    /// The session stays, what is too much is dropped and counted.
    Drop,
}

/// Why a session cannot be run as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// RFC 4271 section 4.2.
    #[error("session {name}: hold time of {hold_time} s; choose 3 s or more")]
    HoldTime {
        /// Session.
        name: String,
        /// Configured.
        hold_time: u16,
    },
    /// One IPv4 and one IPv6 address.
    #[error("session {name}: local address {local} and peer {remote} are of different families")]
    Families {
        /// Session.
        name: String,
        /// Configured.
        local: IpAddr,
        /// Configured.
        remote: IpAddr,
    },
    /// LOCAL_PREF does not cross an AS boundary, and NO_EXPORT forbids it.
    #[error(
        "session {name}: role inject towards {peer_as} from {local_as}; overrides work on iBGP sessions only"
    )]
    ExternalInject {
        /// Session.
        name: String,
        /// Ours.
        local_as: Asn,
        /// The peer's.
        peer_as: Asn,
    },
    /// The receiver would take such a route for unreachable, and say nothing.
    #[error(
        "session {name}: next hop {remote} is the peer itself; name an address of the router the exit is on"
    )]
    OwnNextHop {
        /// Session.
        name: String,
        /// The peer.
        remote: IpAddr,
    },
    /// fe80::/10 says nothing without an interface.
    #[error("session {name}: peer {remote} is link-local; write the interface too, like \"{remote}%eth0\"")]
    LinkLocal {
        /// Session.
        name: String,
        /// Configured.
        remote: IpAddr,
    },
    /// A listener needs an address: ETM never listens on all of them.
    #[error("session {name}: it waits for the peer to connect; set `local`, the address to listen on")]
    NoLocal {
        /// Session.
        name: String,
    },
    /// RFC 6286 section 2.1.
    #[error("session {name}: BGP identifier 0.0.0.0; set bgp.router_id to an address of this machine")]
    RouterId {
        /// Session.
        name: String,
    },
}

impl SessionConfig {
    /// A session with the defaults: active, port 179, hold time 9 s, attempts after 1 s to 10 s, 5 s for a connection,
    /// stale routes for 2 minutes, nothing taken from an external peer (RFC 8212).
    pub fn new(
        peer: PeerId,
        name: &str,
        remote: IpAddr,
        local_as: Asn,
        peer_as: Asn,
        router_id: RouterId,
    ) -> SessionConfig {
        SessionConfig {
            peer,
            name: name.to_owned(),
            local: None,
            remote,
            interface: None,
            port: 179,
            connect: Connect::Active,
            transport: Transport::default(),
            role: None,
            strict_role: false,
            local_as,
            peer_as,
            router_id,
            hold_time: 9,
            connect_timeout: Duration::from_secs(5),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(10),
            seed: u64::from(peer.0),
            import: Import { accept: local_as == peer_as, ..Import::default() },
            add_path: true,
            max_routes: None,
            retain: Duration::from_secs(120),
            stale: Duration::from_secs(180),
        }
    }

    /// Checks what can be checked without a peer.
    pub fn check(&self) -> Result<(), ConfigError> {
        let name = self.name.clone();
        if self.hold_time < 3 {
            return Err(ConfigError::HoldTime { name, hold_time: self.hold_time });
        }
        if self.router_id.0.is_unspecified() {
            return Err(ConfigError::RouterId { name });
        }
        let link_local = matches!(self.remote, IpAddr::V6(addr) if addr.is_unicast_link_local());
        if link_local && self.interface.is_none() {
            return Err(ConfigError::LinkLocal { name, remote: self.remote });
        }
        if self.connect.listens() && self.local.is_none() {
            return Err(ConfigError::NoLocal { name });
        }
        match self.local {
            Some(local) if Family::of(local) != Family::of(self.remote) => {
                Err(ConfigError::Families { name, local, remote: self.remote })
            }
            _ => Ok(()),
        }
    }

    /// Also what an inject session needs.
    pub fn check_inject(&self, inject: &InjectConfig) -> Result<(), ConfigError> {
        self.check()?;
        if inject.next_hops.all().any(|addr| addr == self.remote) {
            return Err(ConfigError::OwnNextHop { name: self.name.clone(), remote: self.remote });
        }
        if self.local_as != self.peer_as {
            return Err(ConfigError::ExternalInject {
                name: self.name.clone(),
                local_as: self.local_as,
                peer_as: self.peer_as,
            });
        }
        Ok(())
    }

    pub(super) fn remote_socket(&self) -> SocketAddr {
        SocketAddr::new(self.remote, self.port)
    }

    /// How long a peer may leave our data unread. RFC 9687 section 4.4 wants more than the hold time; its
    /// default of 8 minutes would leave an override that should be gone in effect for 8 minutes.
    pub(super) fn send_hold(&self) -> Duration {
        Duration::from_secs(2 * u64::from(self.hold_time))
    }

    pub(super) fn speaker(&self, learns: bool) -> Speaker {
        Speaker {
            local_as: self.local_as,
            peer_as: self.peer_as,
            router_id: self.router_id,
            hold_time: self.hold_time,
            add_path_receive: learns && self.add_path,
            helps_restart: learns && !self.retain.is_zero(),
            role: self.role,
            strict_role: self.strict_role,
        }
    }
}

/// NEXT_HOP as a function of the exit, for one receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    /// For IPv4 routes through exits without an entry of their own.
    pub v4: Option<IpAddr>,
    /// For IPv6 routes through exits without an entry of their own.
    pub v6: Option<IpAddr>,
    /// For single exits.
    pub per_exit: BTreeMap<(ExitId, Family), IpAddr>,
    /// Exits of other routers: without an entry of their own there is no way to them.
    pub elsewhere: BTreeSet<ExitId>,
}

impl NextHops {
    /// The next hop of a route of `family` through `exit`; none where the receiver has no way to it. With `extended`,
    /// which the session must have negotiated (RFC 8950), an IPv4 route may have an IPv6 one where it has no other.
    pub fn of(&self, exit: ExitId, family: Family, extended: bool) -> Option<IpAddr> {
        let own = |family: Family| {
            let default = match family {
                Family::V4 => self.v4,
                Family::V6 => self.v6,
            };
            let default = default.filter(|_| !self.elsewhere.contains(&exit));
            let next_hop = self.per_exit.get(&(exit, family)).copied().or(default);
            next_hop.filter(|addr| Family::of(*addr) == family)
        };
        own(family).or_else(|| own(Family::V6).filter(|_| extended && family == Family::V4))
    }

    fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.into_iter().chain(self.v6).chain(self.per_exit.values().copied())
    }
}

/// What an inject session adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectConfig {
    /// LOCAL_PREF and community of every announcement.
    pub out: OutPolicy,
    /// Next hops this peer can resolve.
    pub next_hops: NextHops,
    /// Routes announced per second, so that a change of mind never floods the peer; withdrawals are not held back.
    pub rate: u32,
}

impl InjectConfig {
    /// With the usual rate.
    pub fn new(out: OutPolicy, next_hops: NextHops) -> InjectConfig {
        InjectConfig { out, next_hops, rate: 20_000 }
    }
}
