//! The dead-man's switch: packets are marked while the agent's lease is fresh and the operator did not switch off.
//! Never needs a living process to stop: the clock does it.

use crate::maps::{LEASE, MARKED, OFF, TICK};
use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns};
use aya_ebpf::programs::TcContext;
use etm_common::MarkSetting;
use etm_common::names::{MARKED_PLAIN, MARKED_SET};

/// Marks the packet, if it is to be marked, and counts it either way.
#[inline(always)]
pub fn mark(ctx: &TcContext) {
    let row = match setting() {
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

/// How to mark at this moment; none while switched off or without a fresh lease.
#[inline(always)]
fn setting() -> Option<MarkSetting> {
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
