//! The dead-man's switch: packets are marked while the agent's lease is fresh and the operator did not switch off.
//! Never needs a living process to stop: the clock does it.

use crate::maps::{ETM_CANARY, LEASE, MARKED, OFF, TICK};
use crate::parse::{IPV4, IPV6};
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns, bpf_skb_load_bytes_relative};
use aya_ebpf::programs::TcContext;
use core::mem::MaybeUninit;
use etm_common::MarkSetting;
use etm_common::canary::{self, chosen4, chosen6};
use etm_common::names::{MARKED_PLAIN, MARKED_SET};

/// Where the source address is in an IPv4 header (RFC 791 section 3.1); the destination follows it.
const SOURCE4: u32 = 12;
/// The same in an IPv6 header (RFC 8200 section 3).
const SOURCE6: u32 = 8;

/// Marks the packet, if it is to be marked, and counts it either way.
#[inline(always)]
pub fn mark(ctx: &TcContext) {
    let row = match setting().filter(|_| chosen(ctx)) {
        Some(MarkSetting { mark, mask }) => {
            // SAFETY: the context that the kernel passed in; `mark` is a field that programs may read.
            let old = unsafe { (*ctx.skb.skb).mark };
            ctx.set_mark(old & !mask | mark & mask);
            MARKED_SET
        }
        None => MARKED_PLAIN,
    };
    if let Some(count) = MARKED.get_ptr_mut(row) {
        // SAFETY: this CPU's own element, and nothing interrupts the program to run it again here.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += u64::from(ctx.len());
        }
    }
}

/// Whether the packet's flow is one of those that take overrides. What is not IP takes none.
#[inline(always)]
pub fn chosen(ctx: &TcContext) -> bool {
    let threshold = ETM_CANARY.load();
    if threshold == canary::ALL {
        return true;
    }
    // Only the low 16 bits of the field are the protocol; it is in network order, and that behind VLAN tags in metadata.
    match ctx.skb.protocol() as u16 {
        IPV4 => addresses::<8, u64>(ctx, SOURCE4).is_some_and(|pair| chosen4(pair, threshold)),
        IPV6 => addresses::<32, [u64; 4]>(ctx, SOURCE6).is_some_and(|pair| chosen6(&pair, threshold)),
        _ => false,
    }
}

/// Source and destination as they lie in the packet, behind whatever is before the IP header.
#[inline(always)]
fn addresses<const LEN: u32, T: Copy>(ctx: &TcContext, offset: u32) -> Option<T> {
    const { assert!(LEN as usize == size_of::<T>()) };
    let mut pair = MaybeUninit::<T>::uninit();
    // SAFETY: the context that the kernel passed in, and a place of exactly the length that is asked for.
    let read = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.skb.skb.cast(),
            offset,
            pair.as_mut_ptr().cast(),
            LEN,
            BPF_HDR_START_NET,
        )
    };
    // SAFETY: written whole where the call says so; only integers, of which any octets are a value.
    (read == 0).then(|| unsafe { pair.assume_init() })
}

/// How to mark at this moment; none while switched off or without a fresh lease.
#[inline(always)]
pub fn setting() -> Option<MarkSetting> {
    if OFF.get(0)?.off != 0 {
        return None;
    }
    let lease = LEASE.get(0)?;
    (now()? < lease.deadline_ns).then_some(lease.setting)
}

/// Boot time, read once per tick of the kernel (at most 10 ms) and CPU: it costs more than all the rest of the program.
#[inline(always)]
fn now() -> Option<u64> {
    let known = TICK.get_ptr_mut(0)?;
    // SAFETY: a helper without arguments.
    let tick = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: this CPU's own element, and nothing interrupts the program to run it again here.
    unsafe {
        if (*known)[0] != tick {
            *known = [tick, bpf_ktime_get_boot_ns()];
        }
        Some((*known)[1])
    }
}
