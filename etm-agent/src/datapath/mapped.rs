//! Arrays of the kernel programs as memory of this process: plain loads and stores, no system call, no copy.
//! Never decides what is written where.
#![allow(unsafe_code)] // mmap(2) by libc

use crate::types::Count;
use aya::maps::MapData;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

    /// The low half of the bytes: enough to see that a row changed.
    pub(super) fn low_half(&self) -> u32 {
        let [low, _] = halves(self.bytes.load(Ordering::Relaxed));
        low
    }
}

fn halves(word: u64) -> [u32; 2] {
    [word & 0xffff_ffff, word >> 32].map(|half| u32::try_from(half).unwrap_or_default())
}

/// All counter rows of an array; never written through this type.
pub(super) type Rows = Mapped<Row>;
/// The same rows as words that may be written: two for each.
pub(super) type Cells = Mapped<AtomicU64>;
/// All words of a derived array (`etm_common::word`).
pub(super) type Words = Lent<AtomicU32>;

/// What the elements of a mapped array may be seen as: atomics only, for the kernel changes them meanwhile.
pub(super) trait Shared {
    /// How the array is mapped.
    const PROTECTION: libc::c_int;
}

impl Shared for Row {
    const PROTECTION: libc::c_int = libc::PROT_READ;
}

impl Shared for AtomicU64 {
    const PROTECTION: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
}

impl Shared for AtomicU32 {
    const PROTECTION: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
}

/// An mmap-able array as a slice.
pub(super) struct Mapped<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access is by atomics.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapped<T> {}

impl<T: Shared> Mapped<T> {
    /// Maps `len` elements of type `T` of `map`, whose shape was compared before.
    pub(super) fn map(map: &MapData, len: usize) -> io::Result<Mapped<T>> {
        let size = len.checked_mul(size_of::<T>()).filter(|&size| size > 0);
        let size = size.ok_or(io::ErrorKind::InvalidInput)?;
        let fd = map.fd().as_fd().as_raw_fd();
        // SAFETY: a fresh mapping at an address of the kernel's choice; the kernel refuses more than the map holds.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, T::PROTECTION, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Mapped { start, len })
    }
}

impl<T> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `len` elements, page aligned, as long as `self` lives; the kernel changes them
        // by aligned atomic operations only, `T` is made of atomics, and any bits are a value of it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

/// An array that is mapped only while it is used: mapped pages are counted as memory of the process, though they are
/// the kernel's. An array of the kernel has no page faults: it is mapped whole, or not at all.
pub(super) struct Lent<T> {
    map: MapData,
    len: usize,
    mapped: Option<Mapped<T>>,
}

impl<T: Shared> Lent<T> {
    /// `len` elements of type `T` of `map`, mapped for now.
    pub(super) fn new(map: MapData, len: usize) -> io::Result<Lent<T>> {
        let mapped = Some(Mapped::map(&map, len)?);
        Ok(Lent { map, len, mapped })
    }

    /// Maps it, unless it is mapped; to be called before it is used again.
    pub(super) fn wake(&mut self) -> io::Result<()> {
        if self.mapped.is_none() {
            self.mapped = Some(Mapped::map(&self.map, self.len)?);
        }
        Ok(())
    }

    /// Gives the mapping back.
    pub(super) fn rest(&mut self) {
        self.mapped = None;
    }
}

impl<T> Deref for Lent<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        debug_assert!(self.mapped.is_some(), "used without being woken");
        self.mapped.as_deref().unwrap_or_default()
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped, and no reference outlives `self`. A failure would leave it mapped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}
