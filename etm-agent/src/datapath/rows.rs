//! Counter rows read through mmap: plain loads, no system call, no copy. Never written from here.
#![allow(unsafe_code)] // mmap(2) by libc

use crate::types::Count;
use aya::maps::MapData;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// One row: `etm_common::Count` as the kernel program adds to it.
#[repr(C)]
pub(super) struct Row {
    bytes: AtomicU64,
    packets: AtomicU64,
}

const _: () = assert!(size_of::<Row>() == size_of::<etm_common::Count>());

impl Row {
    /// The row as it is now. The program adds packets before bytes, so packets read after bytes are
    /// never fewer than the bytes tell of.
    pub(super) fn get(&self) -> Count {
        let bytes = self.bytes.load(Ordering::Acquire);
        Count { bytes, packets: self.packets.load(Ordering::Relaxed) }
    }
}

/// All rows of an mmap-able array of counters.
pub(super) struct Rows {
    start: NonNull<Row>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access is by atomic loads.
unsafe impl Send for Rows {}
// SAFETY: as above.
unsafe impl Sync for Rows {}

impl Rows {
    /// Maps the `len` rows of `map`, whose shape was compared before.
    pub(super) fn map(map: &MapData, len: usize) -> io::Result<Rows> {
        let size = len.checked_mul(size_of::<Row>()).filter(|&size| size > 0);
        let size = size.ok_or(io::ErrorKind::InvalidInput)?;
        let fd = map.fd().as_fd().as_raw_fd();
        // SAFETY: a fresh mapping at an address of the kernel's choice; the kernel refuses more than the map holds.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Rows { start, len })
    }
}

impl Deref for Rows {
    type Target = [Row];

    fn deref(&self) -> &[Row] {
        // SAFETY: the mapping holds `len` rows, page aligned, as long as `self` lives; the kernel changes them
        // by aligned atomic adds only, and `Row` reads them by atomic loads only.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped, and no reference outlives `self`. A failure would leave it mapped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len * size_of::<Row>()) };
    }
}
