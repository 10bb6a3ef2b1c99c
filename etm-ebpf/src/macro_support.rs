//! Where debug lines go, in the shape that aya-log's macros and its reader expect.
//!
//! `aya-log-ebpf` itself is not linked: its ring buffer is a legacy map, with which bpftool and libbpf
//! refuse to load the object at all. Its macros only need a path of this name, so this module offers the
//! same items around a BTF map. Never used outside of paths that are rare by nature, and the level is a
//! constant for the verifier, which removes the lines that are below it.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::RingBuf;
use aya_ebpf::macros::btf_map;

pub use aya_log_common::{
    Argument, DefaultFormatter, DisplayHint, Field, Header, IpFormatter, Level, LogValueLength,
    LowerHexFormatter, LowerMacFormatter, PointerFormatter, UpperHexFormatter, UpperMacFormatter,
};

/// Records on their way to `aya_log::EbpfLogger`, which looks for this name. A full buffer loses lines, not packets.
#[btf_map]
pub static AYA_LOGS: RingBuf<(), 131_072> = RingBuf::new();

/// Level from which on lines are written; 0 is silent. Set by the loader.
#[unsafe(no_mangle)]
pub static AYA_LOG_LEVEL: Global<u8> = Global::new(0);

/// Whether lines of `level` are written.
#[inline(always)]
pub fn level_enabled(level: Level) -> bool {
    level as u8 <= AYA_LOG_LEVEL.load()
}
