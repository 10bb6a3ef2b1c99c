//! ETM on one of the two borders: addresses and configuration. Pure.

use std::fmt;
use std::fmt::Write as _;

use super::{Fabric, TwoBorders, config};
use crate::topology::{BORDER_AS, Provider, Role};

/// Where one ETM waits for the other: BIRD has the usual port.
const ETM_PORT: u16 = 1179;

/// One of the two borders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// With transit-a.
    A,
    /// With transit-b.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its namespace.
    pub const fn role(self) -> Role {
        match self {
            Self::A => Role::Border,
            Self::B => Role::BorderB,
        }
    }

    /// Its provider.
    pub const fn provider(self) -> Provider {
        match self {
            Self::A => Provider::TransitA,
            Self::B => Provider::TransitB,
        }
    }

    /// Its interface towards the provider.
    pub const fn uplink(self) -> &'static str {
        self.provider().uplink()
    }

    /// Core's interface towards it.
    pub const fn from_core(self) -> &'static str {
        match self {
            Self::A => "a0",
            Self::B => "b0",
        }
    }

    /// What others call it.
    pub const fn border(self) -> &'static str {
        match self {
            Self::A => "edge-a",
            Self::B => "edge-b",
        }
    }

    /// Its address that never goes away, and its BGP next hop.
    pub const fn loopback_v4(self) -> &'static str {
        match self {
            Self::A => "10.255.0.1",
            Self::B => "10.255.0.3",
        }
    }

    /// IPv6 counterpart of [`Self::loopback_v4`].
    pub const fn loopback_v6(self) -> &'static str {
        match self {
            Self::A => "fd00:255::1",
            Self::B => "fd00:255::3",
        }
    }

    /// ETM's own address there.
    pub const fn etm_v4(self) -> &'static str {
        match self {
            Self::A => "10.255.1.1",
            Self::B => "10.255.1.3",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// What differs between runs of ETM here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtmOptions {
    /// `observe`, `approve` or `enforce`.
    pub mode: &'static str,
    /// Shortest life of an override.
    pub hold: &'static str,
    /// How long overrides are honoured without hearing from the agent.
    pub lease: &'static str,
    /// What ETM is told of its uplink's capacity, in kbit/s.
    pub capacity_kbit: u64,
    /// ETM runs on the other border, too: they tell each other what they sent there.
    pub both: bool,
    /// What may be sent to the other border's uplink, in kbit/s.
    pub elsewhere_kbit: u64,
}

impl Default for EtmOptions {
    fn default() -> Self {
        Self {
            mode: "enforce",
            hold: "5m",
            lease: "10s",
            both: false,
            capacity_kbit: 50_000,
            elsewhere_kbit: 50_000,
        }
    }
}

/// The configuration of ETM on `side`.
pub(super) fn config(lab: &TwoBorders, side: Side, options: &EtmOptions) -> String {
    let (other, place, capacity) = (side.other(), lab.place(side), options.capacity_kbit);
    let mut text = format!(
        "[agent]\nmode = \"{}\"\nstartup_timeout = \"20s\"\ncontrol_socket = \"{}\"\norders_file = \"{}\"\n\n\
         [policy]\nhold = \"{}\"\nmax_moved = \"80%\"\nmax_moved_per_minute = \"100%\"\n\n[kernel]\ninside = [\"core0\"]\nlease = \"{}\"\n\n\
         [datapath]\npin_root = \"{}\"\nprefixes_ipv4 = 4096\nprefixes_ipv6 = 4096\n\n\
         [[interface]]\nname = \"{}\"\ncapacity = \"{capacity}kbit\"\nlimit = \"90%\"\n\n\
         [[interface]]\nname = \"{}\"\nborder = \"{}\"\ncapacity = \"{}kbit\"\nlimit = \"90%\"\n\n\
         [[border]]\nname = \"{}\"\nsession = \"{}\"\nnext_hops = [\"{}\", \"{}\"]\n",
        options.mode,
        place.socket.display(),
        place.socket.with_file_name("orders.json").display(),
        options.hold,
        options.lease,
        place.pin_root.display(),
        side.uplink(),
        other.uplink(),
        other.border(),
        options.elsewhere_kbit,
        other.border(),
        other.border(),
        other.loopback_v4(),
        other.loopback_v6(),
    );
    if options.both {
        text += "etm_learn = \"etm-from\"\netm_inject = \"etm-to\"\n";
    }
    for one in [side, other] {
        let provider = one.provider();
        let _ = write!(
            text,
            "\n[[provider]]\nname = \"{provider}\"\nasn = {}\nexits = [{{ interface = \"{}\", gateways = [\"{}\", \"{}\"] }}]\n",
            provider.asn(),
            one.uplink(),
            provider.gateway_v4(),
            provider.gateway_v6()
        );
    }
    text + &sessions(lab, side, options)
}

fn sessions(lab: &TwoBorders, side: Side, options: &EtmOptions) -> String {
    let other = side.other();
    let core = if lab.fabric() == Fabric::Mesh { config::CORE_V4 } else { config::REFLECTOR_V4 };
    let mut text = format!(
        "\n[bgp]\nasn = {BORDER_AS}\nrouter_id = \"{own}\"\nlisten_port = {ETM_PORT}\n\n\
         [[bgp.session]]\nname = \"border\"\nrole = \"learn\"\npeer = \"127.0.0.1\"\nlocal = \"{}\"\n\n\
         [[bgp.session]]\nname = \"{}\"\nrole = \"learn\"\npeer = \"{}\"\nlocal = \"{own}\"\n\n\
         [[bgp.session]]\nname = \"core\"\nrole = \"inject\"\npeer = \"{core}\"\nlocal = \"{own}\"\nnext_hops = [\"{}\", \"{}\"]\n",
        crate::topology::ETM_LEARN,
        other.border(),
        other.loopback_v4(),
        side.loopback_v4(),
        side.loopback_v6(),
        own = side.etm_v4(),
    );
    if options.both {
        text += &between(side);
    }
    text
}

/// The sessions by which two that steer tell each other what they sent.
fn between(side: Side) -> String {
    let other = side.other();
    format!(
        "\n[[bgp.session]]\nname = \"etm-from\"\nrole = \"learn\"\npeer = \"{etm}\"\nlocal = \"{own}\"\nconnect = \"passive\"\n\n\
             [[bgp.session]]\nname = \"etm-to\"\nrole = \"inject\"\npeer = \"{etm}\"\nport = {ETM_PORT}\nlocal = \"{own}\"\nnext_hops = [\"{}\", \"{}\"]\n",
        side.loopback_v4(),
        side.loopback_v6(),
        etm = other.etm_v4(),
        own = side.etm_v4(),
    )
}
