//! One of the kernel's tries, prefix -> slot, by as few system calls as the kernel allows. Never decides anything.

use super::batch;
use super::error::DatapathError;
use crate::types::{Prefix, SlotId};
use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapData, MapError};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

/// A trie over addresses of `N` octets.
pub(super) struct Trie<const N: usize> {
    map: LpmTrie<MapData, [u8; N], u32>,
    /// The same map, for calls that aya does not offer.
    fd: OwnedFd,
    name: &'static str,
}

impl<const N: usize> Trie<N>
where
    [u8; N]: Pod,
    IpAddr: From<[u8; N]>,
{
    pub(super) fn new(map: Map, name: &'static str) -> Result<Trie<N>, DatapathError> {
        let open = |cause| DatapathError::Map { doing: "open", map: name, cause };
        let Map::LpmTrie(data) = &map else { return Err(DatapathError::Missing { name }) };
        let fd = data.fd().as_fd().try_clone_to_owned().map_err(|error| open(MapError::IoError(error)))?;
        Ok(Trie { map: map.try_into().map_err(open)?, fd, name })
    }

    /// Everything it holds, in its own order.
    pub(super) fn dump(&self) -> Result<Vec<(Prefix, SlotId)>, DatapathError> {
        let failed = |cause| DatapathError::Map { doing: "read", map: self.name, cause };
        let pairs = match batch::read(self.fd.as_fd(), Key::new(0, [0; N])) {
            Ok(pairs) => pairs,
            Err(error) if batch::is_unsupported(&error) => {
                self.map.iter().collect::<Result<_, _>>().map_err(failed)?
            }
            Err(error) => return Err(failed(MapError::IoError(error))),
        };
        // The kernel takes any length up to that of the key, so every key it returns is a prefix.
        let prefix =
            |key: Key<[u8; N]>| Prefix::new(key.data().into(), u8::try_from(key.prefix_len()).ok()?).ok();
        Ok(pairs.into_iter().filter_map(|(key, slot)| Some((prefix(key)?, SlotId(slot)))).collect())
    }

    /// Enters prefixes in order until one is refused: how many were entered, and why the next was not.
    pub(super) fn enter(&mut self, entries: &[([u8; N], u8, SlotId)]) -> Result<(), (usize, io::Error)> {
        let keys: Vec<_> = entries.iter().map(|&(addr, len, _)| Key::new(len.into(), addr)).collect();
        let slots: Vec<u32> = entries.iter().map(|(_, _, slot)| slot.0).collect();
        match batch::update(self.fd.as_fd(), &keys, &slots) {
            Err((0, error)) if batch::is_unsupported(&error) => {
                for (done, (key, slot)) in keys.iter().zip(slots).enumerate() {
                    self.map.insert(key, slot, 0).map_err(|error| (done, kernel(error)))?;
                }
                Ok(())
            }
            result => result,
        }
    }

    /// Takes a prefix out; not there is what was wanted.
    pub(super) fn remove(&mut self, addr: [u8; N], len: u8) -> Result<(), MapError> {
        match self.map.remove(&Key::new(len.into(), addr)) {
            Err(error) if errno(&error) != Some(libc::ENOENT) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Slot of the longest prefix of at most `len` bits that holds the address.
    pub(super) fn get(&self, addr: [u8; N], len: u8) -> Result<Option<SlotId>, MapError> {
        match self.map.get(&Key::new(len.into(), addr), 0) {
            Ok(slot) => Ok(Some(SlotId(slot))),
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The kernel's answer inside aya's error.
pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        MapError::IoError(error) => error.raw_os_error(),
        MapError::KeyNotFound | MapError::ElementNotFound => Some(libc::ENOENT),
        _ => None,
    }
}

fn kernel(error: MapError) -> io::Error {
    match errno(&error) {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::other(error),
    }
}
