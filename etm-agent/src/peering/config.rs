//! What a session needs to know. Never read from a file here: the configuration's owner fills it in.

use crate::proto::bgp::{OutPolicy, Speaker};
use crate::types::{Asn, ExitId, Family, PeerId, RouterId};
use std::collections::BTreeMap;
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
    /// TCP port of the peer.
    pub port: u16,
    /// Our AS.
    pub local_as: Asn,
    /// The peer's AS.
    pub peer_as: Asn,
    /// Our BGP identifier, not the peer's.
    pub router_id: RouterId,
    /// Hold time offered, in seconds; at most the lease.
    pub hold_time: u16,
    /// How long to wait for the answer to a SYN.
    pub connect_timeout: Duration,
    /// Pause after a session that was up for a while, and after the first failure; doubles with each further one.
    pub retry_min: Duration,
    /// Longest pause between attempts.
    pub retry_max: Duration,
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
    /// RFC 6286 section 2.1.
    #[error("session {name}: BGP identifier 0.0.0.0; set bgp.router_id to an address of this machine")]
    RouterId {
        /// Session.
        name: String,
    },
}

impl SessionConfig {
    /// A session with the defaults: port 179, hold time 9 s, attempts after 1 s to 10 s, 5 s for a connection.
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
            port: 179,
            local_as,
            peer_as,
            router_id,
            hold_time: 9,
            connect_timeout: Duration::from_secs(5),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(10),
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

    pub(super) fn speaker(&self, add_path_receive: bool) -> Speaker {
        Speaker {
            local_as: self.local_as,
            peer_as: self.peer_as,
            router_id: self.router_id,
            hold_time: self.hold_time,
            add_path_receive,
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
}

impl NextHops {
    /// The next hop of a route of `family` through `exit`; none where the receiver has no way to it.
    pub fn of(&self, exit: ExitId, family: Family) -> Option<IpAddr> {
        let default = match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        };
        let next_hop = self.per_exit.get(&(exit, family)).copied().or(default);
        // RFC 8950 next hops are not announced.
        next_hop.filter(|addr| Family::of(*addr) == family)
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
}
