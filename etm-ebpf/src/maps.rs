//! The maps. Sizes here are placeholders: the loader sets them, and `etm-agent` compares the shape of
//! pinned ones before use. Never a legacy map: bpftool and libbpf would refuse the whole object.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray};
use aya_ebpf::macros::btf_map;
use etm_common::limits::{MAX_SOURCES, MAX_UPLINKS};
use etm_common::local;
use etm_common::names::XDP_SEEN_UNKNOWN;
use etm_common::{Count, Lease, Off, Total, Uplink, near};

// The const parameters of aya's maps are usize; the flag is a u32 of the kernel's interface.
const MMAPABLE: usize = aya_ebpf::bindings::BPF_F_MMAPABLE as usize;

/// IPv4 prefix -> slot. The value is a u32 because it sits at offset 4 of the node: a u64 would be misaligned.
#[btf_map(name = "etm_prefix4")]
pub static PREFIX4: LpmTrie<[u8; 4], u32, 1> = LpmTrie::new();

/// IPv6 prefix -> slot.
#[btf_map(name = "etm_prefix6")]
pub static PREFIX6: LpmTrie<[u8; 16], u32, 1> = LpmTrie::new();

/// First 24 bits of an IPv4 address -> word. Pairs, because the kernel rounds elements up to 8 bytes.
#[btf_map(name = "etm_dir24")]
pub static DIR24: Array<[u32; 2], 1, MMAPABLE> = Array::new();

/// Bits 3 to 24 of an IPv6 address -> word.
#[btf_map(name = "etm_dir6")]
pub static DIR6: Array<[u32; 2], 1, MMAPABLE> = Array::new();

/// Blocks of 256 words for what is longer.
#[btf_map(name = "etm_node")]
pub static NODE: Array<[u32; 2], 1, MMAPABLE> = Array::new();

/// Default routes of IPv4 and IPv6.
#[btf_map(name = "etm_default")]
pub static DEFAULT: Array<[u32; 2], 1, MMAPABLE> = Array::new();

/// Interface index -> its row.
#[btf_map(name = "etm_uplinks")]
pub static UPLINKS: HashMap<u32, Uplink, { MAX_UPLINKS as usize }> = HashMap::new();

/// Low bits of the interface index -> the word of `etm_common::near`.
#[btf_map(name = "etm_near")]
pub static NEAR: Array<u64, { near::WORDS as usize }> = Array::new();

/// uplink * slots + slot -> what left there.
#[btf_map(name = "etm_count")]
pub static COUNT: Array<Count, 1, MMAPABLE> = Array::new();

/// uplink * reasons + reason -> what was counted for no prefix.
#[btf_map(name = "etm_uncounted")]
pub static UNCOUNTED: Array<Count, 1, MMAPABLE> = Array::new();

/// Uplink -> everything that was offered to it. Per CPU: every packet of the uplink comes by.
#[btf_map(name = "etm_total")]
pub static TOTAL: PerCpuArray<Total, { MAX_UPLINKS as usize }> = PerCpuArray::new();

/// The agent's lease.
#[btf_map(name = "etm_lease")]
pub static LEASE: Array<Lease, 1> = Array::new();

/// The operator's switch.
#[btf_map(name = "etm_off")]
pub static OFF: Array<Off, 1> = Array::new();

/// Packets that passed plain and packets that were marked. Per CPU: every packet from inside comes by.
#[btf_map(name = "etm_marked")]
pub static MARKED: PerCpuArray<Count, 2> = PerCpuArray::new();

/// Packets that the router itself makes, by what became of them. Per CPU: all that an override would carry come by.
#[btf_map(name = "etm_local")]
pub static LOCAL: PerCpuArray<Count, { local::ROWS as usize }> = PerCpuArray::new();

/// Sources whose packets may leave by any uplink, IPv4 as ::ffff:0:0/96. Never pinned: each program reads its own.
#[btf_map(name = "etm_sources")]
pub static SOURCES: LpmTrie<[u8; 16], u32, { MAX_SOURCES as usize }> = LpmTrie::new();

/// The kernel's last tick that this CPU saw, and boot time then. Never pinned: each program reads its own clock.
#[btf_map(name = "etm_tick")]
pub static TICK: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

/// `etm_xdp`, for forwarders. Made here so that the loader pins it; this object's own programs never call it.
#[btf_map(name = "etm_xdp_call")]
pub static XDP_CALL: ProgramArray<1> = ProgramArray::new();

/// What was redirected in XDP. Per CPU: every such packet comes by.
#[btf_map(name = "etm_xdp_seen")]
pub static XDP_SEEN: PerCpuArray<Count, { XDP_SEEN_UNKNOWN as usize + 1 }> = PerCpuArray::new();

/// Slots per uplink. In .rodata: for the verifier a constant.
#[unsafe(no_mangle)]
pub static ETM_SLOTS: Global<u32> = Global::new(1);

/// Whether the derived arrays are used. In .rodata: the verifier removes the other way.
#[unsafe(no_mangle)]
pub static ETM_FAST: Global<u32> = Global::new(1);

/// Which flows are marked. In .rodata: with all of them the verifier removes the look at addresses.
#[unsafe(no_mangle)]
pub static ETM_CANARY: Global<u32> = Global::new(etm_common::canary::ALL);

/// The table of overrides, for the program that asks it. In .rodata.
#[unsafe(no_mangle)]
pub static ETM_TABLE: Global<u32> = Global::new(0);
