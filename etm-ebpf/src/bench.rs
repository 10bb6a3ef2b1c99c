//! The counting program on a sequence of destinations, to measure what a lookup costs. An object of its own.
//! Never attached anywhere: `cargo xtask bench dataplane` runs it by BPF_PROG_TEST_RUN.
#![no_std]
#![no_main]
#![allow(internal_features)] // atomic_xadd: the one way to the kernel's `lock +=` (docs/adr/0002)
#![feature(core_intrinsics)]

// aya-log's macros name this crate; `macro_support` says why it is us.
extern crate self as aya_log_ebpf;

pub mod account;
pub mod lookup;
pub mod macro_support;
pub mod maps;
pub mod parse;

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use etm_common::names::{BENCH_BASE, BENCH_DESTINATIONS};
use parse::Destination;

/// Destinations, in the order in which they come by, over and over. In network order; IPv4 in the low half of the first.
#[btf_map(name = "etm_destination")]
static DESTINATIONS: Array<[u64; 2], { BENCH_DESTINATIONS as usize }> = Array::new();

/// 0: how many came by; 1: what keeps the compiler from leaving out the destination where nothing looks at it.
#[btf_map(name = "etm_bench_at")]
static AT: PerCpuArray<u64, 2> = PerCpuArray::new();

/// What is measured: `etm_common::names::BENCH_*`.
#[unsafe(no_mangle)]
static ETM_BENCH: Global<u32> = Global::new(0);

/// What `etm_egress` does with a packet, but for the next destination of the sequence.
#[classifier]
fn etm_bench(ctx: TcContext) -> i32 {
    measure(&ctx);
    -1
}

#[inline(always)]
fn measure(ctx: &TcContext) -> Option<()> {
    let uplink = account::uplink(ctx)?;
    let parsed = parse::destination(ctx, true).ok()?;
    let at = AT.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element, and nothing interrupts the program to run it again here.
    let [high, low] = unsafe {
        *at += 1;
        *DESTINATIONS.get(*at as u32 & (BENCH_DESTINATIONS - 1))?
    };
    let destination = Destination { high, low, ..parsed };
    if ETM_BENCH.load() == BENCH_BASE {
        let sink = AT.get_ptr_mut(1)?;
        // SAFETY: as above.
        unsafe { *sink ^= high };
    } else {
        account::count::<0>(ctx, &uplink, account::slot(destination));
    }
    Some(())
}

/// GPL-only helpers are lent to programs that carry this word.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable: the verifier would refuse a loop without end.
    loop {}
}
