//! Names for things, as small numbers that cannot be mixed up.
//! Never allocated here: configuration order gives providers, exits, uplinks and peers their numbers.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;

macro_rules! ident {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

ident!(
    /// Index of a configured provider.
    ProviderId(u16)
);
ident!(
    /// Index of a configured exit.
    ExitId(u16)
);
ident!(
    /// Index of a configured uplink interface; also its row in the kernel's counters.
    UplinkId(u16)
);
ident!(
    /// Index of a configured BGP session, or of the static routes.
    PeerId(u16)
);
ident!(
    /// Path Identifier of RFC 7911; 0 without ADD-PATH.
    PathId(u32)
);
ident!(
    /// Kernel interface index.
    IfIndex(u32)
);
ident!(
    /// Row of a prefix in the kernel's counter arrays.
    SlotId(u32)
);
ident!(
    /// Number of a decision; grows by one with each that differs from the one before.
    Generation(u64)
);

/// BGP Identifier (RFC 6286: any non-zero 32-bit number, written as an address).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RouterId(pub Ipv4Addr);

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl IfIndex {
    /// As an index of arrays.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl UplinkId {
    /// As an index of arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl ExitId {
    /// As an index of arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl ProviderId {
    /// As an index of arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}
