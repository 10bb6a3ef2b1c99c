//! Packets that the router itself makes take overrides too, where the operator says so: at the uplink that plain routing
//! has chosen they are sent on to the one that an override names, while the lease is fresh.
//!
//! No rule could do it: nobody would take it away when the agent is gone. Only what an override carries is ever sent on, and
//! only to another uplink, which counts it; whatever speaks against it leaves the packet where it is, counted by reason.

use crate::account::{amount, uplink, uplink_at};
use crate::maps::{ETM_TABLE, LOCAL, SOURCES};
use crate::mark::{chosen, setting};
use crate::parse::{IPV4, IPV6};
use crate::question::{AF_INET6, Ipv4, Ipv6, has_ports, put4, put6};
use aya_ebpf::bindings::bpf_hdr_start_off::{BPF_HDR_START_MAC, BPF_HDR_START_NET};
use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LOOKUP_DIRECT, BPF_FIB_LOOKUP_SKIP_NEIGH, BPF_FIB_LOOKUP_TBID,
    bpf_fib_lookup, bpf_redir_neigh,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::helpers::generated::{bpf_fib_lookup as fib_lookup, bpf_redirect_neigh, bpf_skb_change_head};
use aya_ebpf::programs::TcContext;
use core::mem::MaybeUninit;
use etm_common::UPLINK_WITHOUT_ETHERNET;
use etm_common::local::{BOUND, FAILED, MOVED, RULED, SAME, SOURCE, TOO_LONG};

/// linux/bpf.h, since Linux 6.10.
const BPF_FIB_LOOKUP_MARK: u32 = 1 << 5;
/// The loopback interface of every network namespace, by which the stack's own packets come in for its rules.
const LOOPBACK: u32 = 1;
const ETHERNET: u32 = 14;
/// RFC 3927 section 2.1.
const LINK_LOCAL4: (u32, u32) = (0xa9fe_0000, 0xffff_0000);
/// RFC 4291 section 2.5.6.
const LINK_LOCAL6: (u32, u32) = (0xfe80_0000, 0xffc0_0000);

/// RFC 894, as words that lie on even offsets.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ethernet {
    destination: [u16; 3],
    source: [u16; 3],
    ethertype: u16,
}

/// The verdict for a packet that is sent on; none for one that leaves here.
#[inline(always)]
pub fn send_on(ctx: &TcContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    // SAFETY: the context that the kernel passed in; its fields are read by the rules of __sk_buff.
    let (ingress, mark, tagged) = unsafe { ((*skb).ingress_ifindex, (*skb).mark, (*skb).vlan_present) };
    // What came in from elsewhere was asked there, and what is tagged belongs to another interface above this one.
    if ingress != 0 || tagged != 0 {
        return None;
    }
    let ours = setting()?;
    // Its route was looked up with the mark already, perhaps because it was sent on from another uplink.
    if mark & ours.mask == ours.mark || !chosen(ctx) {
        return None;
    }
    let mark = mark & !ours.mask | ours.mark & ours.mask;
    let (row, verdict) = match decide(ctx, mark) {
        Ok(verdict) => (MOVED, Some(verdict)),
        Err(row) => (row?, None),
    };
    if let Some(count) = LOCAL.get_ptr_mut(row) {
        let (amount, _) = amount(ctx);
        // SAFETY: this CPU's own element, and nothing interrupts the program to run it again here.
        unsafe {
            (*count).packets += amount.packets;
            (*count).bytes += amount.bytes;
        }
    }
    verdict
}

/// The verdict for a packet that an override carries to another uplink, or the row it is counted in here, if any.
#[inline(always)]
fn decide(ctx: &TcContext, mark: u32) -> Result<i32, Option<u32>> {
    let skb = ctx.skb.skb;
    let protocol = ctx.skb.protocol() as u16;
    let ethernet = uplink(ctx).ok_or(None)?.flags & UPLINK_WITHOUT_ETHERNET == 0;
    let gateway = if ethernet { Some(gateway(skb, protocol)?) } else { None };
    let question = question(ctx, protocol, if ethernet { ETHERNET } else { 0 })?;
    let exit = overridden(skb, question)?;
    may_leave(skb, &question)?;
    let (answer, resolved) = routed(skb, question, mark)?;
    if answer.ifindex != exit || uplink_at(exit).is_none() {
        return Err(Some(RULED));
    }
    // SAFETY: the context that the kernel passed in.
    if exit == unsafe { (*skb).ifindex } {
        // Two gateways of one interface differ by their link address.
        let same = match gateway {
            Some(gateway) => resolved && gateway == answer.dmac,
            None => true,
        };
        if same {
            return Err(Some(SAME));
        }
    }
    // The kernel takes an Ethernet header off before it makes the right one.
    // SAFETY: the context.
    if !ethernet && unsafe { bpf_skb_change_head(skb, ETHERNET, 0) } != 0 {
        return Err(Some(FAILED));
    }
    Ok(redirect(ctx, &answer, mark))
}

/// The link address that the packet goes to. None where that is not one router's, or where the packet has a tag in it.
#[inline(always)]
fn gateway(skb: *mut __sk_buff, protocol: u16) -> Result<[u8; 6], Option<u32>> {
    let frame: Ethernet = load(skb, 0, BPF_HDR_START_MAC).ok_or(None)?;
    if frame.ethertype != protocol || frame.destination[0] & 0x0100_u16.to_be() != 0 {
        return Err(None);
    }
    // SAFETY: six octets each, and any octets are a value.
    Ok(unsafe { core::mem::transmute::<[u16; 3], [u8; 6]>(frame.destination) })
}

/// The interface that an override names, by the table of overrides alone: seldom is there one.
#[inline(always)]
fn overridden(skb: *mut __sk_buff, mut question: bpf_fib_lookup) -> Result<u32, Option<u32>> {
    question.ifindex = LOOPBACK;
    question.__bindgen_anon_5.tbid = ETM_TABLE.load();
    let flags = BPF_FIB_LOOKUP_DIRECT | BPF_FIB_LOOKUP_TBID | BPF_FIB_LOOKUP_SKIP_NEIGH;
    match ask(skb, &mut question, flags) {
        Ok(BPF_FIB_LKUP_RET_SUCCESS) => Ok(question.ifindex),
        Ok(
            BPF_FIB_LKUP_RET_NOT_FWDED
            | BPF_FIB_LKUP_RET_BLACKHOLE
            | BPF_FIB_LKUP_RET_UNREACHABLE
            | BPF_FIB_LKUP_RET_PROHIBIT,
        ) => Err(None),
        Ok(BPF_FIB_LKUP_RET_FRAG_NEEDED) => Err(Some(TOO_LONG)),
        Ok(_) | Err(()) => Err(Some(FAILED)),
    }
}

/// Whether the packet's source may leave by any uplink, and its socket does not want this one.
#[inline(always)]
fn may_leave(skb: *mut __sk_buff, question: &bpf_fib_lookup) -> Result<(), Option<u32>> {
    if SOURCES.get(&Key::new(128, source(question))).is_none() {
        return Err(Some(SOURCE));
    }
    // SAFETY: the context's field; the kernel checks that it is compared with null before it is looked into.
    let bound = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() { 0 } else { (*sk).bound_dev_if }
    };
    if bound == 0 { Ok(()) } else { Err(Some(BOUND)) }
}

/// Where the stack would send the marked packet, for other rules may come first; and whether the next hop is known.
#[inline(always)]
fn routed(
    skb: *mut __sk_buff,
    mut question: bpf_fib_lookup,
    mark: u32,
) -> Result<(bpf_fib_lookup, bool), Option<u32>> {
    question.ifindex = LOOPBACK;
    let [a, b, c, d] = mark.to_ne_bytes();
    question.smac = [a, b, c, d, 0, 0];
    match ask(skb, &mut question, BPF_FIB_LOOKUP_MARK) {
        Ok(BPF_FIB_LKUP_RET_SUCCESS) => Ok((question, true)),
        Ok(BPF_FIB_LKUP_RET_NO_NEIGH) => Ok((question, false)),
        Ok(BPF_FIB_LKUP_RET_FRAG_NEEDED) => Err(Some(TOO_LONG)),
        Ok(_) => Err(Some(RULED)),
        Err(()) => Err(Some(FAILED)),
    }
}

/// The packet goes on to the next hop of the answer, marked, so that it is not asked again there.
#[inline(always)]
fn redirect(ctx: &TcContext, answer: &bpf_fib_lookup, mark: u32) -> i32 {
    ctx.set_mark(mark);
    // SAFETY: integers and a union of them; zero is a value of each.
    let mut hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    hop.nh_family = u32::from(answer.family);
    // SAFETY: any octets are a value; of an IPv4 address the first four count.
    hop.__bindgen_anon_1.ipv6_nh = unsafe { answer.__bindgen_anon_4.ipv6_dst };
    // SAFETY: a structure of the size given.
    unsafe { bpf_redirect_neigh(answer.ifindex, &raw mut hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

/// The packet as a question, without an interface; none where its destination is of the link alone, or it is not IP.
#[inline(always)]
fn question(ctx: &TcContext, protocol: u16, link_header: u32) -> Result<bpf_fib_lookup, Option<u32>> {
    let skb = ctx.skb.skb;
    // SAFETY: integers and unions of them; zero is a value of each.
    let mut question: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    let (length, scope, ports) = match protocol {
        IPV4 => {
            let ip: Ipv4 = load(skb, 0, BPF_HDR_START_NET).ok_or(None)?;
            put4(&ip, &mut question);
            let ports = if ip.is_whole() { Some(size_of::<Ipv4>() as u32) } else { None };
            (u32::from(u16::from_be(ip.length)), LINK_LOCAL4, ports)
        }
        IPV6 => {
            let ip: Ipv6 = load(skb, 0, BPF_HDR_START_NET).ok_or(None)?;
            put6(&ip, &mut question);
            let size = size_of::<Ipv6>() as u32;
            (u32::from(u16::from_be(ip.length)) + size, LINK_LOCAL6, Some(size))
        }
        _ => return Err(None),
    };
    // SAFETY: any octets are a value; an IPv4 address lies in the first four.
    let first = u32::from_be(unsafe { question.__bindgen_anon_4.ipv6_dst }[0]);
    if first & scope.1 == scope.0 {
        return Err(None);
    }
    if let Some(at) = ports
        && has_ports(question.l4_protocol)
        && let Some([source, destination]) = load::<[u16; 2]>(skb, at, BPF_HDR_START_NET)
    {
        question.sport = source;
        question.dport = destination;
    }
    let length = longest_segment(ctx, link_header).unwrap_or(length);
    question.__bindgen_anon_1.tot_len = length.min(u16::MAX.into()) as u16;
    Ok(question)
}

/// Length of a super-packet's segments from the IP header on: what all of them but the first add to the wire is headers.
#[inline(always)]
fn longest_segment(ctx: &TcContext, link_header: u32) -> Option<u32> {
    let skb = ctx.skb.skb;
    // SAFETY: the context, as above.
    let (wire, segments, size, length) =
        unsafe { ((*skb).wire_len, (*skb).gso_segs, (*skb).gso_size, (*skb).len) };
    if size == 0 || segments < 2 {
        return None;
    }
    let headers = wire.wrapping_sub(length) / (segments - 1);
    Some(size + headers.saturating_sub(link_header))
}

/// The source in the form of the map's keys.
#[inline(always)]
fn source(question: &bpf_fib_lookup) -> [u8; 16] {
    // SAFETY: any octets are a value; an IPv4 address lies in the first four.
    let words = unsafe { question.__bindgen_anon_3.ipv6_src };
    let words = if question.family == AF_INET6 { words } else { [0, 0, 0xffff_u32.to_be(), words[0]] };
    // SAFETY: sixteen octets each, and any octets are an address.
    unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) }
}

/// The kernel's answer, or an error where it does not know the question.
#[inline(always)]
fn ask(skb: *mut __sk_buff, question: &mut bpf_fib_lookup, flags: u32) -> Result<u32, ()> {
    let len = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context, and a structure of the size given.
    let answer = unsafe { fib_lookup(skb.cast(), question, len, flags) };
    if answer < 0 { Err(()) } else { Ok(answer as u32) }
}

/// A `T` of the packet. Only for integers and structures of them without padding, of which any octets are a value.
#[inline(always)]
fn load<T: Copy>(skb: *mut __sk_buff, at: u32, from: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the context, and a place of exactly the length that is asked for.
    let read = unsafe {
        bpf_skb_load_bytes_relative(skb.cast(), at, value.as_mut_ptr().cast(), size_of::<T>() as u32, from)
    };
    // SAFETY: written whole where the call says so.
    (read == 0).then(|| unsafe { value.assume_init() })
}

/// What the kernel says to a question of no family, by which it tells whether it knows all flags: EAFNOSUPPORT if so,
/// EINVAL if not.
#[inline(always)]
pub fn probe(ctx: &TcContext) -> i32 {
    // SAFETY: integers and unions of them; zero is a value of each.
    let mut question: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    let flags = BPF_FIB_LOOKUP_DIRECT | BPF_FIB_LOOKUP_TBID | BPF_FIB_LOOKUP_SKIP_NEIGH | BPF_FIB_LOOKUP_MARK;
    let len = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context, and a structure of the size given.
    unsafe { fib_lookup(ctx.skb.skb.cast(), &raw mut question, len, flags) as i32 }
}
