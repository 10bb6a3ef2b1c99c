//! System calls that neither std nor aya wraps. Never more than one call per function, and no policy.
#![allow(unsafe_code)] // bpf(2), statfs(2), membarrier(2), socket(2), if_indextoname(3) by libc

use crate::types::IfIndex;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// f_type of bpffs (linux/magic.h).
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Whether `path` is on a BPF file system.
pub(super) fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut answer = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a C string, and room for the answer.
    let result = unsafe { libc::statfs(path.as_ptr(), answer.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it filled the answer.
    let kind = unsafe { answer.assume_init() }.f_type;
    // The width and sign of f_type differ between architectures; the magic number has 32 bits.
    Ok(u32::try_from(kind & 0xffff_ffff) == Ok(BPF_FS_MAGIC))
}

/// Waits until every program that was running has ended: after that no packet holds what was deleted before.
pub(super) fn grace_period() -> io::Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // membarrier(2): refused on kernels with nohz_full, where packet processing is often isolated.
        Some(libc::EINVAL | libc::ENOSYS) => grace_period_by_map(),
        _ => Err(error),
    }
}

/// Another call that waits as long: after writing to a map of maps the kernel waits for the programs that may still
/// use the map which was there before (kernel/bpf/syscall.c, `maybe_wait_bpf_programs`, since 4.18).
fn grace_period_by_map() -> io::Result<()> {
    let array = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        ..MapCreate::default()
    };
    let inner = bpf_fd(BPF_MAP_CREATE, &array)?;
    let inner_fd = fd_number(inner.as_fd())?;
    let outer = MapCreate { map_type: BPF_MAP_TYPE_ARRAY_OF_MAPS, inner_map_fd: inner_fd, ..array };
    let outer = bpf_fd(BPF_MAP_CREATE, &outer)?;
    let key = 0_u32;
    let update = MapUpdate {
        map_fd: fd_number(outer.as_fd())?,
        padding: 0,
        key: std::ptr::from_ref(&key).expose_provenance() as u64,
        value: std::ptr::from_ref(&inner_fd).expose_provenance() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &update).map(drop)
}

/// Name of an interface of this network namespace.
pub(super) fn interface_name(ifindex: IfIndex) -> io::Result<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: room for IF_NAMESIZE bytes.
    let result = unsafe { libc::if_indextoname(ifindex.get(), name.as_mut_ptr().cast()) };
    if result.is_null() {
        return Err(io::Error::last_os_error());
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(name.to_string_lossy().into_owned())
}

/// A socket to the kernel's routing and traffic control.
pub(super) fn route_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a new hash map is made of.
pub(super) struct HashShape<'a> {
    pub(super) name: &'a str,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) btf: BorrowedFd<'a>,
    pub(super) btf_key: u32,
    pub(super) btf_value: u32,
}

/// The part of `union bpf_attr` that BPF_MAP_CREATE reads (linux/bpf.h), up to what is used here.
#[derive(Default)]
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
    map_ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
}

/// The part of `union bpf_attr` that BPF_BTF_LOAD reads.
#[derive(Default)]
#[repr(C)]
struct BtfLoad {
    btf: u64,
    log: u64,
    btf_size: u32,
    log_size: u32,
    log_level: u32,
    padding: u32,
}

/// Gives the kernel a BTF blob.
pub(super) fn load_btf(blob: &[u8]) -> io::Result<OwnedFd> {
    let btf_size = u32::try_from(blob.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let attr = BtfLoad { btf: blob.as_ptr().expose_provenance() as u64, btf_size, ..BtfLoad::default() };
    bpf_fd(BPF_BTF_LOAD, &attr)
}

/// Makes a hash map whose fields have names.
pub(super) fn create_hash(shape: &HashShape<'_>) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type: BPF_MAP_TYPE_HASH,
        key_size: shape.key_size,
        value_size: shape.value_size,
        max_entries: shape.max_entries,
        btf_fd: fd_number(shape.btf)?,
        btf_key_type_id: shape.btf_key,
        btf_value_type_id: shape.btf_value,
        ..MapCreate::default()
    };
    // The last byte stays the closing zero.
    for (to, from) in attr.map_name.iter_mut().take(15).zip(shape.name.bytes()) {
        *to = from;
    }
    bpf_fd(BPF_MAP_CREATE, &attr)
}

/// The part of `union bpf_attr` that BPF_OBJ_GET reads.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_LINK_DETACH reads.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Takes a pinned link's program off its hook, which is done when this returns. Without the last pin and descriptor the
/// kernel does the same, when it comes to it: on a busy box that was seen to take seconds.
pub(super) fn detach_link(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let link =
        bpf_fd(BPF_OBJ_GET, &ObjGet { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 })?;
    bpf(BPF_LINK_DETACH, &LinkDetach { link_fd: fd_number(link.as_fd())? }).map(drop)
}

/// The part of `union bpf_attr` that BPF_MAP_UPDATE_ELEM reads.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that BPF_PROG_QUERY reads for tcx, up to where it writes the count.
#[repr(C)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Programs of a tcx chain, by id, first one first; at most 64. aya's query asks for each program's details too, for
/// which CAP_NET_ADMIN is not enough.
pub(super) fn query_tcx(ifindex: IfIndex, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    let mut attr = ProgQuery {
        target_ifindex: ifindex.get(),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: std::ptr::from_mut(&mut ids).expose_provenance() as u64,
        count: 64,
        padding: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: `attr` is a prefix of `union bpf_attr` for this command, which writes its answer there and into `ids`.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, std::ptr::from_mut(&mut attr), size_of::<ProgQuery>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let count = usize::try_from(attr.count).unwrap_or_default();
    Ok(ids.into_iter().take(count).collect())
}

/// Puts the calling thread alone into a network namespace of its own.
pub(super) fn leave_network() -> io::Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn fd_number(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// A command of bpf(2) that answers with a file descriptor.
fn bpf_fd<A>(command: libc::c_long, attr: &A) -> io::Result<OwnedFd> {
    let fd = i32::try_from(bpf(command, attr)?).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the commands that this is called for answer with a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A command of bpf(2).
fn bpf<A>(command: libc::c_long, attr: &A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` for this command and its length is given; the kernel takes
    // the rest for zero. Pointers inside it stay valid during the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_waiting_for_programs_work() {
        grace_period().unwrap();
        match grace_period_by_map() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => println!("SKIP needs CAP_BPF"),
            result => result.unwrap(),
        }
    }
}
