//! What the RIB holds and what that takes. Never changes it.

use super::Rib;

/// Memory held, in bytes, and what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Routes, void ones included while they are not cleared away.
    pub routes: usize,
    /// Prefixes, likewise.
    pub prefixes: usize,
    /// Different sets of attributes.
    pub attribute_sets: usize,
    /// Entries of routes, bytes.
    pub route_bytes: usize,
    /// Prefix index, bytes.
    pub prefix_bytes: usize,
    /// Attributes, bytes.
    pub attribute_bytes: usize,
}

impl Rib {
    /// What it holds and what that takes.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            routes: self.slab.len(),
            prefixes: self.heads.len(),
            attribute_sets: self.attrs.len(),
            route_bytes: self.slab.memory() + self.sources.memory(),
            prefix_bytes: self.heads.memory(),
            attribute_bytes: self.attrs.memory(),
        }
    }
}
