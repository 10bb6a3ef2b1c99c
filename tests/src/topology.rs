//! What is wired to what: roles, providers, links, addresses. Pure data, nothing here acts.
//!
//! ```text
//!                            10.1.0/24  +-----------+ 10.4.1/24
//!                         up-a  --------| transit-a |--------\
//!  +---------+  10.0.8/24 +--------+    +-----------+         \
//!  | content |------------| border |up-b| transit-b |-----------| sink |  198.18.0.0/15
//!  +---------+     in0    | (ETM)  |    +-----------+         /            2001:db8::/32
//!                         +--------+up-ix| ix       |--------/
//!                        core0 | 10.0.9/24
//!                         +--------+
//!                         |  core  |
//!                         +--------+
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// AS number of the content provider (border, core and ETM).
pub const BORDER_AS: u32 = 64500;
/// IPv4 space that the sink answers for (RFC 2544, benchmarking).
pub const SINK_V4: &str = "198.18.0.0/15";
/// IPv6 space that the sink answers for (RFC 3849, documentation).
pub const SINK_V6: &str = "2001:db8::/32";
/// The content servers' own networks, which the border announces to the providers.
pub const CONTENT_V4: &str = "10.0.8.0/24";
/// IPv6 counterpart of [`CONTENT_V4`].
pub const CONTENT_V6: &str = "fd00:8::/64";
/// ETM's second address on the border's link to core, for the inject session.
pub const ETM_INJECT_V4: &str = "10.0.9.3";
/// IPv6 counterpart of [`ETM_INJECT_V4`].
pub const ETM_INJECT_V6: &str = "fd00:9::3";
/// ETM's address for the learn session with the border's own BIRD.
pub const ETM_LEARN: &str = "127.0.0.2";

/// ETM's own BGP identifier: none of the routers'.
pub const ETM_ROUTER_ID: &str = "10.255.0.2";

/// A namespace of the lab.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Servers: where traffic starts.
    Content,
    /// The border router: BIRD and ETM.
    Border,
    /// First transit provider.
    TransitA,
    /// Second transit provider.
    TransitB,
    /// Internet exchange.
    Ix,
    /// Core router behind the border, receives ETM's announcements.
    Core,
    /// The rest of the Internet.
    Sink,
    /// Second border router, of [`crate::two_borders`] only.
    BorderB,
    /// Route reflector, of [`crate::two_borders`] only.
    Reflector,
}

impl Role {
    /// Every role of the standard lab, in the order they are brought up.
    pub const ALL: [Self; 7] =
        [Self::Content, Self::Border, Self::TransitA, Self::TransitB, Self::Ix, Self::Core, Self::Sink];
    /// Every role of any lab.
    pub const EVERY: [Self; 9] = [
        Self::Content,
        Self::Border,
        Self::TransitA,
        Self::TransitB,
        Self::Ix,
        Self::Core,
        Self::Sink,
        Self::BorderB,
        Self::Reflector,
    ];
    /// The roles that run BIRD.
    pub const ROUTERS: [Self; 5] = [Self::Border, Self::TransitA, Self::TransitB, Self::Ix, Self::Core];

    /// Name as used in namespace and file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Border => "border",
            Self::TransitA => "transit-a",
            Self::TransitB => "transit-b",
            Self::Ix => "ix",
            Self::Core => "core",
            Self::Sink => "sink",
            Self::BorderB => "border-b",
            Self::Reflector => "reflector",
        }
    }

    /// BGP router id; empty for the roles without BIRD.
    pub const fn router_id(self) -> &'static str {
        match self {
            Self::Content | Self::Sink => "",
            Self::Border => "10.255.0.1",
            Self::Core => "10.255.0.4",
            Self::TransitA => "10.255.1.1",
            Self::TransitB => "10.255.1.2",
            Self::Ix => "10.255.1.3",
            Self::BorderB => "10.255.0.3",
            Self::Reflector => "10.255.0.5",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A service provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// First transit provider.
    TransitA,
    /// Second transit provider.
    TransitB,
    /// Internet exchange.
    Ix,
}

impl Provider {
    /// Every provider, in the order of their links.
    pub const ALL: [Self; 3] = [Self::TransitA, Self::TransitB, Self::Ix];

    /// Its namespace.
    pub const fn role(self) -> Role {
        match self {
            Self::TransitA => Role::TransitA,
            Self::TransitB => Role::TransitB,
            Self::Ix => Role::Ix,
        }
    }

    /// Name as used in ETM's configuration.
    pub const fn name(self) -> &'static str {
        self.role().name()
    }

    /// The border's interface towards it.
    pub const fn uplink(self) -> &'static str {
        match self {
            Self::TransitA => "up-a",
            Self::TransitB => "up-b",
            Self::Ix => "up-ix",
        }
    }

    /// The sink's interface on which its traffic arrives.
    pub const fn sink_interface(self) -> &'static str {
        match self {
            Self::TransitA => "from-a",
            Self::TransitB => "from-b",
            Self::Ix => "from-ix",
        }
    }

    /// Its AS number.
    pub const fn asn(self) -> u32 {
        match self {
            Self::TransitA => 64501,
            Self::TransitB => 64502,
            Self::Ix => 64503,
        }
    }

    /// Its address on the border's uplink, IPv4.
    pub const fn gateway_v4(self) -> &'static str {
        match self {
            Self::TransitA => "10.1.0.1",
            Self::TransitB => "10.2.0.1",
            Self::Ix => "10.3.0.1",
        }
    }

    /// Its address on the border's uplink, IPv6.
    pub const fn gateway_v6(self) -> &'static str {
        match self {
            Self::TransitA => "fd00:1::1",
            Self::TransitB => "fd00:2::1",
            Self::Ix => "fd00:3::1",
        }
    }

    /// The border's own address on the uplink, IPv4.
    pub const fn border_v4(self) -> &'static str {
        match self {
            Self::TransitA => "10.1.0.2",
            Self::TransitB => "10.2.0.2",
            Self::Ix => "10.3.0.2",
        }
    }

    /// The border's own address on the uplink, IPv6.
    pub const fn border_v6(self) -> &'static str {
        match self {
            Self::TransitA => "fd00:1::2",
            Self::TransitB => "fd00:2::2",
            Self::Ix => "fd00:3::2",
        }
    }

    /// Sink's addresses on the link from this provider, IPv4 and IPv6.
    pub const fn sink_addresses(self) -> (&'static str, &'static str) {
        match self {
            Self::TransitA => ("10.4.1.2", "fd00:4:1::2"),
            Self::TransitB => ("10.4.2.2", "fd00:4:2::2"),
            Self::Ix => ("10.4.3.2", "fd00:4:3::2"),
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One end of a link; every IPv4 link is a /24, every IPv6 link a /64.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Namespace that holds it.
    pub role: Role,
    /// Interface name there.
    pub interface: &'static str,
    /// IPv4 address.
    pub v4: &'static str,
    /// IPv6 address.
    pub v6: &'static str,
    /// Link-layer address.
    pub mac: &'static str,
}

/// A veth pair.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The end nearer to the content servers.
    pub near: End,
    /// The end nearer to the sink.
    pub far: End,
}

const fn end(
    role: Role,
    interface: &'static str,
    v4: &'static str,
    v6: &'static str,
    mac: &'static str,
) -> End {
    End { role, interface, v4, v6, mac }
}

/// Every link of the lab.
pub const LINKS: [Link; 8] = [
    Link {
        near: end(Role::Content, "content0", "10.0.8.2", "fd00:8::2", "02:00:00:00:08:02"),
        far: end(Role::Border, "in0", "10.0.8.1", "fd00:8::1", "02:00:00:00:08:01"),
    },
    Link {
        near: end(Role::Core, "border0", "10.0.9.2", "fd00:9::2", "02:00:00:00:09:02"),
        far: end(Role::Border, "core0", "10.0.9.1", "fd00:9::1", "02:00:00:00:09:01"),
    },
    Link {
        near: end(Role::Border, "up-a", "10.1.0.2", "fd00:1::2", "02:00:00:00:01:02"),
        far: end(Role::TransitA, "border0", "10.1.0.1", "fd00:1::1", "02:00:00:00:01:01"),
    },
    Link {
        near: end(Role::Border, "up-b", "10.2.0.2", "fd00:2::2", "02:00:00:00:02:02"),
        far: end(Role::TransitB, "border0", "10.2.0.1", "fd00:2::1", "02:00:00:00:02:01"),
    },
    Link {
        near: end(Role::Border, "up-ix", "10.3.0.2", "fd00:3::2", "02:00:00:00:03:02"),
        far: end(Role::Ix, "border0", "10.3.0.1", "fd00:3::1", "02:00:00:00:03:01"),
    },
    Link {
        near: end(Role::TransitA, "sink0", "10.4.1.1", "fd00:4:1::1", "02:00:00:00:41:01"),
        far: end(Role::Sink, "from-a", "10.4.1.2", "fd00:4:1::2", "02:00:00:00:41:02"),
    },
    Link {
        near: end(Role::TransitB, "sink0", "10.4.2.1", "fd00:4:2::1", "02:00:00:00:42:01"),
        far: end(Role::Sink, "from-b", "10.4.2.2", "fd00:4:2::2", "02:00:00:00:42:02"),
    },
    Link {
        near: end(Role::Ix, "sink0", "10.4.3.1", "fd00:4:3::1", "02:00:00:00:43:01"),
        far: end(Role::Sink, "from-ix", "10.4.3.2", "fd00:4:3::2", "02:00:00:00:43:02"),
    },
];
