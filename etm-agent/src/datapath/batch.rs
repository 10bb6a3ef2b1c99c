//! Many entries of a map by one system call, which aya does not offer. Never more than bpf(2) itself: where a kernel
//! lacks it, the caller goes on one by one.
#![allow(unsafe_code)] // bpf(2) by libc

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
/// The kernel's own "not supported", which has no name in libc.
const ENOTSUPP: i32 = 524;

/// The part of `union bpf_attr` that the batch commands read.
#[derive(Default)]
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Keys and values that the kernel may copy as they are.
///
/// # Safety
/// No padding, and any octets are a value.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: four octets.
unsafe impl Plain for u32 {}
// SAFETY: a packed u32 and octets (aya's `Key` is packed), any of which are a value.
unsafe impl<const N: usize> Plain for aya::maps::lpm_trie::Key<[u8; N]> {}

/// Enters pairs until one is refused. Returns how many were entered, and why the next was not.
pub(super) fn update<K: Plain>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[u32],
) -> Result<(), (usize, io::Error)> {
    let mut batch = Batch {
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count: u32::try_from(keys.len().min(values.len())).unwrap_or(u32::MAX),
        map_fd: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
        ..Batch::default()
    };
    let asked = batch.count;
    let result = call(BPF_MAP_UPDATE_BATCH, &mut batch);
    result.map_err(|error| {
        // A kernel that does not know the command leaves the count as it was.
        let done = if is_unsupported(&error) || batch.count >= asked { 0 } else { batch.count };
        (usize::try_from(done).unwrap_or_default(), error)
    })
}

/// All pairs of a map, in its own order.
pub(super) fn read<K: Plain>(map: BorrowedFd<'_>, zero: K) -> io::Result<Vec<(K, u32)>> {
    const AT_ONCE: usize = 16 * 1024;
    let (mut keys, mut values) = (vec![zero; AT_ONCE], vec![0_u32; AT_ONCE]);
    // The cursor is a key.
    let (mut from, mut to) = (zero, zero);
    let mut first = true;
    let mut pairs = Vec::new();
    loop {
        let mut batch = Batch {
            in_batch: if first { 0 } else { std::ptr::from_ref(&from).expose_provenance() as u64 },
            out_batch: std::ptr::from_mut(&mut to).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: u32::try_from(AT_ONCE).unwrap_or_default(),
            map_fd: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
            ..Batch::default()
        };
        let result = call(BPF_MAP_LOOKUP_BATCH, &mut batch);
        let ended = match result {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = usize::try_from(batch.count).unwrap_or_default().min(AT_ONCE);
        pairs.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        if ended {
            return Ok(pairs);
        }
        (from, first) = (to, false);
    }
}

/// Whether the kernel has no such command for this kind of map.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EINVAL | libc::EOPNOTSUPP))
}

fn call(command: libc::c_long, batch: &mut Batch) -> io::Result<()> {
    // SAFETY: `batch` is a prefix of `union bpf_attr` for these commands and its length is given. The pointers in it
    // were made from slices and references that outlive the call and hold `count` elements of the map's sizes, which
    // were compared when the map was opened.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(batch), size_of::<Batch>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
