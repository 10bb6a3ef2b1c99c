//! ETM's kernel programs: entry points only.
//!
//! No program ever drops, delays or rewrites a packet. Those at TC say "next": other programs on the same hooks see every
//! packet as if ETM were not there; but for what the router itself makes, where the operator lets that take overrides: it
//! is sent on to another uplink, and seen there. The one in XDP says what its caller decided. Nothing is kept about single
//! packets or connections.
//!
//! * `maps`: the maps, as `etm-common` describes them
//! * `parse`: from a packet to its destination address, or the reason why not
//! * `lookup`: from that to a slot
//! * `account`: from a destination to a counter
//! * `mark`: the lease
//! * `local`: what the router itself makes
//! * `question`: from a packet to what the kernel's routes are asked
//! * `xdp`: from a packet that a forwarder redirects to its uplink
//! * `macro_support`: where debug lines go
#![no_std]
#![no_main]
#![allow(internal_features)] // atomic_xadd: the one way to the kernel's `lock +=` (docs/adr/0002)
#![feature(core_intrinsics)]

// aya-log's macros name this crate; `macro_support` says why it is us.
extern crate self as aya_log_ebpf;

mod account;
mod local;
mod lookup;
pub mod macro_support;
mod maps;
mod mark;
mod parse;
mod question;
mod xdp;

use aya_ebpf::bindings::xdp_action::XDP_REDIRECT;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// The packet goes on to whatever comes after ETM. In a tcx chain this is TCX_NEXT, in a classic
/// filter TC_ACT_UNSPEC; both are -1.
const NEXT: i32 = -1;

/// TC egress of an uplink: counts each packet for its destination prefix.
#[classifier]
fn etm_egress(ctx: TcContext) -> i32 {
    account::account::<0>(&ctx);
    NEXT
}

/// The same, where what the router itself makes takes overrides too: what is sent on is counted by the uplink it leaves by.
/// A program of its own, so that the other has not one instruction more for it.
#[classifier]
fn etm_egress_own(ctx: TcContext) -> i32 {
    if let Some(verdict) = local::send_on(&ctx) {
        return verdict;
    }
    account::account::<1>(&ctx);
    NEXT
}

/// Never attached: run once, it tells whether the kernel answers what `local` asks.
#[classifier]
fn etm_probe(ctx: TcContext) -> i32 {
    local::probe(&ctx)
}

/// TC ingress of an inside interface: marks packets while the lease is fresh.
#[classifier]
fn etm_mark(ctx: TcContext) -> i32 {
    mark::mark(&ctx);
    NEXT
}

/// Tail call from a forwarder in XDP that has called `bpf_redirect` or `bpf_redirect_map` for the packet, and would
/// return XDP_REDIRECT now.
#[xdp]
fn etm_xdp(ctx: XdpContext) -> u32 {
    xdp::account(&ctx);
    XDP_REDIRECT
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
