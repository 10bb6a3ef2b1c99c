//! From a packet to a counter: each packet of an uplink is counted exactly once, for its prefix or for a reason.
//! Never returns a verdict, and never leaves a packet of an uplink uncounted.

use crate::maps::{COUNT, ETM_SLOTS, PREFIX4, PREFIX6, UNCOUNTED, UPLINKS};
use crate::parse::{Destination, destination};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf_macros::debug;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use etm_common::reasons::{BAD_SLOT, MALFORMED, NO_PREFIX, REASONS};
use etm_common::{Count, UPLINK_WITHOUT_ETHERNET, Uplink};

/// Counts the packet.
#[inline(always)]
pub fn account(ctx: &TcContext) {
    // SAFETY: `ctx.skb.skb` is the context that the kernel passed in; its fields are read by the rules of __sk_buff.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: the entry may change under us while the agent reorders uplinks; it is two aligned u32 and each
    // combination of old and new is a row that exists.
    let Some(uplink) = (unsafe { UPLINKS.get(ifindex) }) else {
        // Not an uplink: the agent enters an interface here before it attaches the program to it.
        return;
    };
    let row = match slot(ctx, uplink) {
        Ok(slot) => COUNT.get_ptr_mut(uplink.index * ETM_SLOTS.load() + slot),
        Err(reason) => {
            if reason == MALFORMED {
                debug!(ctx, "malformed packet of {} bytes on uplink {}", ctx.len(), uplink.index);
            }
            UNCOUNTED.get_ptr_mut(uplink.index * REASONS + reason)
        }
    };
    match row {
        Some(row) => add(ctx, row),
        None => {
            if let Some(row) = UNCOUNTED.get_ptr_mut(uplink.index * REASONS + BAD_SLOT) {
                add(ctx, row);
            }
        }
    }
}

/// The slot of the longest prefix that holds the destination, or the reason why there is none.
#[inline(always)]
fn slot(ctx: &TcContext, uplink: &Uplink) -> Result<u32, u32> {
    let ethernet = uplink.flags & UPLINK_WITHOUT_ETHERNET == 0;
    let slot = match destination(ctx, ethernet)? {
        Destination::V4(addr) => PREFIX4.get(&Key::new(32, addr)),
        Destination::V6(addr) => PREFIX6.get(&Key::new(128, addr)),
    };
    match slot {
        // A slot beyond the row's end would be counted for another uplink.
        Some(&slot) if slot < ETM_SLOTS.load() => Ok(slot),
        Some(_) => Err(BAD_SLOT),
        None => Err(NO_PREFIX),
    }
}

/// Bytes and packets as the qdisc counts them (`bstats_update`): wire length, and the segments of a super-packet.
#[inline(always)]
fn add(ctx: &TcContext, row: *mut Count) {
    let skb = ctx.skb.skb;
    // SAFETY: the context that the kernel passed in, as above.
    let (bytes, segments, size) = unsafe { ((*skb).wire_len, (*skb).gso_segs, (*skb).gso_size) };
    let packets = if size == 0 { 1 } else { segments };
    // SAFETY: `row` is a live element of a map, and others touch it by atomic adds and loads only.
    // Bytes are added last: a reader that saw them change finds the packets changed too.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*row).packets, u64::from(packets));
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*row).bytes, u64::from(bytes));
    }
}
