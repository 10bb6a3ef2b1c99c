//! Which interfaces the programs know as uplinks: the map that says so, and the words that most packets find it by.
//! Never attaches anything, and never decides which interfaces these are.

use super::error::DatapathError;
use super::trie;
use crate::types::IfIndex;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use etm_common::{Uplink, names, near};

/// Both maps. What the words say is in the other map too, at every moment.
pub(super) struct Known {
    all: HashMap<MapData, u32, Uplink>,
    near: Array<MapData, u64>,
}

impl Known {
    pub(super) fn new(all: Map, near: Map) -> Result<Known, DatapathError> {
        Ok(Known {
            all: all.try_into().map_err(failed("open"))?,
            near: near.try_into().map_err(near_failed("open"))?,
        })
    }

    /// From now on the programs count there.
    pub(super) fn enter(&mut self, ifindex: IfIndex, uplink: Uplink) -> Result<(), DatapathError> {
        self.all.insert(ifindex.get(), uplink, 0).map_err(failed("write"))?;
        let found = self.near.get(&place(ifindex), 0).map_err(near_failed("read"))?;
        let another = found != 0 && found >> near::IFINDEX_SHIFT != u64::from(ifindex.get());
        let fits = |value: u32| u64::from(value) <= near::LOW;
        if another || !fits(uplink.index) || !fits(uplink.flags) {
            return Ok(());
        }
        let word = u64::from(ifindex.get()) << near::IFINDEX_SHIFT
            | u64::from(uplink.flags) << near::FLAGS_SHIFT
            | u64::from(uplink.index);
        self.near.set(place(ifindex), word, 0).map_err(near_failed("write"))
    }

    /// From now on they do not. An interface that is not known is as good.
    pub(super) fn forget(&mut self, ifindex: IfIndex) -> Result<(), DatapathError> {
        let found = self.near.get(&place(ifindex), 0).map_err(near_failed("read"))?;
        if found >> near::IFINDEX_SHIFT == u64::from(ifindex.get()) {
            self.near.set(place(ifindex), 0, 0).map_err(near_failed("clear"))?;
        }
        match self.all.remove(&ifindex.get()) {
            Ok(()) => Ok(()),
            Err(error) if trie::errno(&error) == Some(libc::ENOENT) => Ok(()),
            Err(cause) => Err(failed("clear")(cause)),
        }
    }

    /// All of them.
    pub(super) fn list(&self) -> Result<Vec<(IfIndex, Uplink)>, DatapathError> {
        let entries = self.all.iter().map(|entry| entry.map(|(ifindex, uplink)| (IfIndex(ifindex), uplink)));
        entries.collect::<Result<_, _>>().map_err(failed("read"))
    }
}

fn place(ifindex: IfIndex) -> u32 {
    ifindex.get() & (near::WORDS - 1)
}

fn failed(doing: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |cause| DatapathError::Map { doing, map: names::UPLINKS, cause }
}

fn near_failed(doing: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |cause| DatapathError::Map { doing, map: names::NEAR, cause }
}
