//! From a packet that a forwarder redirects in XDP to its uplink's counters.
//!
//! Such packets pass by TC egress, and only they come here, so that each is counted once. Never decides where a packet
//! goes: the forwarder did, and says so in eight octets of metadata or else is taken to have asked the kernel's routes.
//! docs/xdp.md tells forwarders how to call.

use crate::account::{book, slot, uplink_at};
use crate::maps::XDP_SEEN;
use crate::parse::{self, ETHERTYPE, IPV4, IPV6, Packet};
use crate::question::{Ipv4, Ipv6, has_ports, put4, put6};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup};
use aya_ebpf::helpers::generated::bpf_fib_lookup as fib_lookup;
use aya_ebpf::programs::XdpContext;
use etm_common::Count;
use etm_common::names::{XDP_SEEN_ELSEWHERE, XDP_SEEN_UNKNOWN, XDP_STATED};

/// Counts the packet for the uplink that it is redirected to.
#[inline(always)]
pub fn account(ctx: &XdpContext) {
    let len = (ctx.data_end() - ctx.data()) as u32;
    let packet = Packet::new(ctx.data(), ctx.data_end(), len);
    let amount = Count { bytes: u64::from(len), packets: 1 };
    let row = match stated(ctx).or_else(|| routed(ctx, &packet)) {
        None => XDP_SEEN_UNKNOWN,
        Some(ifindex) => match uplink_at(ifindex) {
            None => XDP_SEEN_ELSEWHERE,
            Some(uplink) => {
                let found = match parse::parse(&packet, None) {
                    Ok(destination) => slot(destination),
                    Err(reason) => Err(reason),
                };
                book::<0>(ctx, &uplink, found, amount);
                uplink.index
            }
        },
    };
    if let Some(seen) = XDP_SEEN.get_ptr_mut(row) {
        // SAFETY: this CPU's own element, and nothing interrupts the program to run it again here.
        unsafe {
            (*seen).packets += amount.packets;
            (*seen).bytes += amount.bytes;
        }
    }
}

/// What a forwarder puts before the packet.
#[derive(Clone, Copy)]
#[repr(C)]
struct Stated {
    word: u32,
    ifindex: u32,
}

/// Where the forwarder says that it redirects to.
#[inline(always)]
fn stated(ctx: &XdpContext) -> Option<u32> {
    let start = ctx.metadata();
    if start + size_of::<Stated>() > ctx.metadata_end() {
        return None;
    }
    // SAFETY: inside the metadata, which the kernel aligns to 4 octets; any octets are a value.
    let stated = unsafe { *(start as *const Stated) };
    (stated.word == XDP_STATED).then_some(stated.ifindex)
}

/// Where the kernel's routes lead, by the fields that the stack would use too, so that of several next hops the same
/// one is found. No neighbour is needed: the forwarder had one, or did not ask.
#[inline(always)]
fn routed(ctx: &XdpContext, packet: &Packet) -> Option<u32> {
    // SAFETY: integers and unions of them; zero is a value of each.
    let mut question: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    // SAFETY: the context that the kernel passed in.
    question.ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    let outer: u16 = packet.read(ETHERTYPE).ok()?;
    let (at, ethertype) = parse::behind_tags(packet, outer).ok()?;
    match ethertype {
        IPV4 => {
            let ip: Ipv4 = packet.read(at).ok()?;
            put4(&ip, &mut question);
            if ip.is_whole() {
                ports(packet, at + size_of::<Ipv4>(), &mut question);
            }
        }
        IPV6 => {
            put6(&packet.read::<Ipv6>(at).ok()?, &mut question);
            ports(packet, at + size_of::<Ipv6>(), &mut question);
        }
        _ => return None,
    }
    let len = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context, and a structure of the size given.
    let answer = unsafe { fib_lookup(ctx.as_ptr(), &raw mut question, len, 0) } as u32;
    (answer == BPF_FIB_LKUP_RET_SUCCESS || answer == BPF_FIB_LKUP_RET_NO_NEIGH).then_some(question.ifindex)
}

#[inline(always)]
fn ports(packet: &Packet, at: usize, question: &mut bpf_fib_lookup) {
    if has_ports(question.l4_protocol)
        && let Ok([source, destination]) = packet.read::<[u16; 2]>(at)
    {
        question.sport = source;
        question.dport = destination;
    }
}
