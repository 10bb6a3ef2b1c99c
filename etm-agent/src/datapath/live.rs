//! The live statistics map: the top prefixes with their rates, for people with bpftool and nothing else.
//! Never read by ETM itself.

use super::error::DatapathError;
use super::sys::{self, HashShape};
use super::{btf, trie};
use crate::core::decision::LiveRow;
use aya::maps::{HashMap, Map, MapData, MapError};
use etm_common::limits::{INTERFACE_TEXT, MAX_LIVE};
use etm_common::{LiveKey, LiveValue, names};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::fd::AsFd as _;

/// The writer's handle.
pub struct Live {
    map: HashMap<MapData, LiveKey, LiveValue>,
    /// Names by `UplinkId`.
    uplinks: Vec<String>,
    /// What the map holds.
    shown: BTreeSet<Key>,
}

/// `LiveKey` in an order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    prefix: [u8; etm_common::limits::PREFIX_TEXT],
    uplink: [u8; INTERFACE_TEXT],
}

impl Live {
    /// Makes the map, which the eBPF object does not have.
    pub(super) fn create() -> Result<MapData, DatapathError> {
        let kernel = |doing| move |cause| DatapathError::Kernel { doing, cause };
        let blob = btf::blob();
        let types = sys::load_btf(&blob).map_err(kernel("load the type information of etm_live"))?;
        let fd = sys::create_hash(&HashShape {
            name: names::LIVE,
            key_size: u32::try_from(size_of::<LiveKey>()).unwrap_or_default(),
            value_size: u32::try_from(size_of::<LiveValue>()).unwrap_or_default(),
            max_entries: MAX_LIVE,
            btf: types.as_fd(),
            btf_key: btf::KEY,
            btf_value: btf::VALUE,
        })
        .map_err(kernel("make map etm_live"))?;
        MapData::from_fd(fd).map_err(failed("open"))
    }

    pub(super) fn new(map: MapData, uplinks: Vec<String>) -> Result<Live, DatapathError> {
        let map: HashMap<_, LiveKey, LiveValue> = Map::HashMap(map).try_into().map_err(failed("open"))?;
        let shown: Result<BTreeSet<Key>, MapError> =
            map.keys().map(|key| key.map(|LiveKey { prefix, uplink }| Key { prefix, uplink })).collect();
        Ok(Live { map, uplinks, shown: shown.map_err(failed("read"))? })
    }

    /// Shows exactly `rows`, of which at most `etm_common::limits::MAX_LIVE` fit; the first are shown.
    pub fn refresh(&mut self, rows: &[LiveRow]) -> Result<(), DatapathError> {
        let room = usize::try_from(MAX_LIVE).unwrap_or(usize::MAX);
        let rows = &rows[..rows.len().min(room)];
        let wanted: BTreeSet<Key> = rows.iter().map(|row| self.key(row)).collect();
        // Stale ones first: they may stand where the new ones need room.
        for key in std::mem::take(&mut self.shown).difference(&wanted) {
            match self.map.remove(&LiveKey { prefix: key.prefix, uplink: key.uplink }) {
                Ok(()) => {}
                Err(error) if trie::errno(&error) == Some(libc::ENOENT) => {}
                Err(cause) => return Err(failed("clear")(cause)),
            }
        }
        for row in rows {
            let Key { prefix, uplink } = self.key(row);
            let value =
                LiveValue { bytes: row.count.bytes, packets: row.count.packets, bits_per_second: row.rate.0 };
            self.map.insert(LiveKey { prefix, uplink }, value, 0).map_err(failed("write"))?;
        }
        self.shown = wanted;
        Ok(())
    }

    fn key(&self, row: &LiveRow) -> Key {
        let number = row.uplink.to_string();
        let uplink = self.uplinks.get(row.uplink.index()).unwrap_or(&number);
        Key { prefix: text(&row.prefix.to_string()), uplink: text(uplink) }
    }
}

/// Closed and filled with zeros; cut where it is too long, which no prefix and no interface name is.
pub(super) fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some((_, room)) = bytes.split_last_mut() {
        // Writing to a slice fails only by filling it.
        let _ = (&mut *room).write(text.as_bytes());
    }
    bytes
}

fn failed(doing: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |cause| DatapathError::Map { doing, map: names::LIVE, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_closed_and_cut() {
        assert_eq!(&text::<4>("ab"), b"ab\0\0");
        assert_eq!(&text::<4>("abcdef"), b"abc\0");
    }
}
