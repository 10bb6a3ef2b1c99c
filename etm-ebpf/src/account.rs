//! From a packet to a counter: each packet of an uplink is counted exactly once, for its prefix or for a reason.
//! Never returns a verdict, and never leaves a packet of an uplink uncounted.

use crate::lookup;
use crate::maps::{COUNT, ETM_SLOTS, NEAR, TOTAL, UNCOUNTED, UPLINKS};
use crate::parse::{Destination, destination};
use aya_ebpf::EbpfContext;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf_macros::debug;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use etm_common::reasons::{BAD_SLOT, MALFORMED, NO_PREFIX, REASONS};
use etm_common::{Count, UPLINK_WITHOUT_ETHERNET, Uplink, near};

/// Counts the packet. `PROGRAM` tells programs that count apart, here and below: the closure of the debug line would be a
/// function if two of them shared it, and the kernel refuses the BTF of its name.
#[inline(always)]
pub fn account<const PROGRAM: u8>(ctx: &TcContext) {
    // Not an uplink: the agent enters an interface here before it attaches the program to it.
    let Some(uplink) = uplink(ctx) else { return };
    let ethernet = uplink.flags & UPLINK_WITHOUT_ETHERNET == 0;
    let found = match destination(ctx, ethernet) {
        Ok(destination) => slot(destination),
        Err(reason) => Err(reason),
    };
    count::<PROGRAM>(ctx, &uplink, found);
}

/// What is known of the interface that the packet leaves by.
#[inline(always)]
pub fn uplink(ctx: &TcContext) -> Option<Uplink> {
    // SAFETY: `ctx.skb.skb` is the context that the kernel passed in; its fields are read by the rules of __sk_buff.
    uplink_at(unsafe { (*ctx.skb.skb).ifindex })
}

/// What is known of an interface, if it is an uplink.
#[inline(always)]
pub fn uplink_at(ifindex: u32) -> Option<Uplink> {
    if let Some(word) = NEAR.get_ptr(ifindex & (near::WORDS - 1)) {
        // SAFETY: a live element, written whole by the agent.
        let word = unsafe { word.read_volatile() };
        if (word >> near::IFINDEX_SHIFT) as u32 == ifindex {
            let [index, flags] = [word, word >> near::FLAGS_SHIFT].map(|part| (part & near::LOW) as u32);
            return Some(Uplink { index, flags });
        }
    }
    // SAFETY: the entry may change under us while the agent enters an interface anew; it is two aligned u32 and each
    // combination of old and new is a row that exists.
    unsafe { UPLINKS.get(ifindex) }.copied()
}

/// The slot of the longest prefix that holds the destination, or the reason why there is none.
#[inline(always)]
pub fn slot(destination: Destination) -> Result<u32, u32> {
    match lookup::slot(destination) {
        // A slot beyond the row's end would be counted for another uplink.
        Some(slot) if slot < ETM_SLOTS.load() => Ok(slot),
        Some(_) => Err(BAD_SLOT),
        None => Err(NO_PREFIX),
    }
}

/// Counts the packet for a slot or for a reason, and in the uplink's total.
#[inline(always)]
pub fn count<const PROGRAM: u8>(ctx: &TcContext, uplink: &Uplink, found: Result<u32, u32>) {
    let (amount, length) = amount(ctx);
    if amount.bytes != length {
        add_excess(uplink, amount, length);
    }
    book::<PROGRAM>(ctx, uplink, found, amount);
}

/// The same for an amount that is known.
#[inline(always)]
pub fn book<const PROGRAM: u8>(
    ctx: &impl EbpfContext,
    uplink: &Uplink,
    found: Result<u32, u32>,
    amount: Count,
) {
    if let Some(total) = TOTAL.get_ptr_mut(uplink.index) {
        // SAFETY: this CPU's own element, and nothing interrupts the program to run it again here.
        unsafe {
            (*total).offered.packets += amount.packets;
            (*total).offered.bytes += amount.bytes;
        }
    }
    let row = match found {
        Ok(slot) => COUNT.get_ptr_mut(uplink.index * ETM_SLOTS.load() + slot),
        Err(reason) => {
            if reason == MALFORMED {
                debug!(ctx, "malformed packet of {} bytes on uplink {}", amount.bytes, uplink.index);
            }
            UNCOUNTED.get_ptr_mut(uplink.index * REASONS + reason)
        }
    };
    match row {
        Some(row) => add(row, amount),
        None => {
            if let Some(row) = UNCOUNTED.get_ptr_mut(uplink.index * REASONS + BAD_SLOT) {
                add(row, amount);
            }
        }
    }
}

/// A device that sends super-packets whole counts them as one packet of the length that they have now.
#[inline(always)]
fn add_excess(uplink: &Uplink, amount: Count, length: u64) {
    if let Some(total) = TOTAL.get_ptr_mut(uplink.index) {
        // SAFETY: this CPU's own element, and nothing interrupts the program to run it again here.
        unsafe {
            (*total).excess.packets = (*total).excess.packets.wrapping_add(amount.packets).wrapping_sub(1);
            (*total).excess.bytes = (*total).excess.bytes.wrapping_add(amount.bytes).wrapping_sub(length);
        }
    }
}

/// Bytes and packets as the qdisc counts them (`bstats_update`): wire length, and the segments of a super-packet; and
/// the length of the packet as it is.
#[inline(always)]
pub fn amount(ctx: &TcContext) -> (Count, u64) {
    let skb = ctx.skb.skb;
    // SAFETY: the context that the kernel passed in, as above.
    let (bytes, segments, size, length) =
        unsafe { ((*skb).wire_len, (*skb).gso_segs, (*skb).gso_size, (*skb).len) };
    let packets = u64::from(if size == 0 { 1 } else { segments });
    (Count { bytes: u64::from(bytes), packets }, u64::from(length))
}

#[inline(always)]
fn add(row: *mut Count, amount: Count) {
    // SAFETY: `row` is a live element of a map, and others touch it by atomic adds and loads only.
    // Bytes are added last: a reader that saw them change finds the packets changed too.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*row).packets, amount.packets);
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*row).bytes, amount.bytes);
    }
}
