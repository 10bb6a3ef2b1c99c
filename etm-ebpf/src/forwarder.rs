//! A small forwarder in XDP, for ETM's tests and as an example of how to call ETM: redirects by the kernel's routes.
//! An object of its own. Never part of the product.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_REDIRECT};
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup};
use aya_ebpf::btf_maps::ProgramArray;
use aya_ebpf::helpers::generated::{bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_xdp_adjust_meta};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use aya_ebpf::{EbpfContext as _, Global};
use etm_common::names::XDP_STATED;

/// ETM's, by its pin.
#[btf_map(name = "etm_xdp_call")]
static CALL: ProgramArray<1> = ProgramArray::new();

/// 1: says in the metadata where it redirects to.
#[unsafe(no_mangle)]
static STATES: Global<u32> = Global::new(0);

/// Ethernet and IPv4 without options.
const HEADERS: usize = 14 + 20;
const TTL: usize = 14 + 8;

#[xdp]
fn forward(ctx: XdpContext) -> u32 {
    let Some(egress) = rewrite(&ctx) else { return XDP_PASS };
    // SAFETY: no pointers.
    unsafe { bpf_redirect(egress, 0) };
    if STATES.load() == 1 {
        state(&ctx, egress);
    }
    // SAFETY: nothing is left to be dropped.
    unsafe { CALL.tail_call(&ctx, 0) };
    // Nobody counts: forwarding goes on.
    XDP_REDIRECT
}

/// Addresses and TTL for the next hop, and the interface towards it; none for what the stack must see.
#[inline(always)]
fn rewrite(ctx: &XdpContext) -> Option<u32> {
    let start = ctx.data();
    if start + HEADERS > ctx.data_end() {
        return None;
    }
    let octets = start as *mut [u8; HEADERS];
    // SAFETY: inside the packet, as compared above; octets have no alignment.
    let packet = unsafe { &mut *octets };
    if packet[12] != 8 || packet[13] != 0 || packet[14] != 0x45 || packet[TTL] <= 1 {
        return None;
    }
    // SAFETY: integers and unions of them; zero is a value of each.
    let mut question: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    question.family = 2;
    question.ifindex = ctx.ingress_ifindex() as u32;
    question.__bindgen_anon_3.ipv4_src = word(packet, 14 + 12);
    question.__bindgen_anon_4.ipv4_dst = word(packet, 14 + 16);
    let len = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context, and a structure of the size given.
    let answer = unsafe { fib_lookup(ctx.as_ptr(), &raw mut question, len, 0) } as u32;
    if answer != BPF_FIB_LKUP_RET_SUCCESS {
        return None;
    }
    packet[..6].copy_from_slice(&question.dmac);
    packet[6..12].copy_from_slice(&question.smac);
    packet[TTL] -= 1;
    // RFC 1141: the TTL is the high half of its word, so that the sum grows by 0x0100.
    let sum = u32::from(u16::from_be_bytes([packet[24], packet[25]])) + 0x0100;
    let sum = (sum + (sum >> 16)) as u16;
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    Some(question.ifindex)
}

#[inline(always)]
fn word(packet: &[u8; HEADERS], at: usize) -> u32 {
    u32::from_ne_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

#[inline(always)]
fn state(ctx: &XdpContext, egress: u32) {
    // SAFETY: the context.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, -8) } != 0 {
        return;
    }
    let start = ctx.metadata();
    if start + 8 <= ctx.metadata_end() {
        // SAFETY: inside the metadata, which the kernel aligns to 4 octets.
        unsafe { *(start as *mut [u32; 2]) = [XDP_STATED, egress] };
    }
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
