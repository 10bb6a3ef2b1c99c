//! System calls that neither std nor aya wraps. Never more than one call per function, and no policy.
#![allow(unsafe_code)] // bpf(2), statfs(2), membarrier(2), if_indextoname(3) by libc

use crate::types::IfIndex;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// f_type of bpffs (linux/magic.h).
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_MAP_TYPE_HASH: u32 = 1;
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
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
    bpf(BPF_BTF_LOAD, &attr)
}

/// Makes a hash map whose fields have names.
pub(super) fn create_hash(shape: &HashShape<'_>) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type: BPF_MAP_TYPE_HASH,
        key_size: shape.key_size,
        value_size: shape.value_size,
        max_entries: shape.max_entries,
        btf_fd: u32::try_from(shape.btf.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
        btf_key_type_id: shape.btf_key,
        btf_value_type_id: shape.btf_value,
        ..MapCreate::default()
    };
    // The last byte stays the closing zero.
    for (to, from) in attr.map_name.iter_mut().take(15).zip(shape.name.bytes()) {
        *to = from;
    }
    bpf(BPF_MAP_CREATE, &attr)
}

/// A command of bpf(2) that answers with a file descriptor.
fn bpf<A>(command: libc::c_long, attr: &A) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` for this command and its length is given; the kernel takes
    // the rest for zero. Pointers inside it stay valid during the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(result).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: both commands answer with a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
