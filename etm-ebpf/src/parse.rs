//! From a packet to its destination address, or the reason why there is none.
//!
//! The outermost IP header decides. Never reads outside the packet: each access is bounded by `data_end`.
//! Standards: IEEE 802.3, 802.1Q, 802.1ad; RFC 791 section 3.1; RFC 8200 section 3.

use aya_ebpf::programs::TcContext;
use etm_common::limits::MAX_VLAN_TAGS;
use etm_common::reasons::{MALFORMED, NON_IP};

const ETHERTYPE: usize = 12;
const ETHERNET: usize = 14;
const TAG: usize = 4;
/// The most that is ever read: Ethernet, the tags that are looked through, an IPv6 header.
const HEADERS: u32 = (ETHERNET + MAX_VLAN_TAGS * TAG + size_of::<Ipv6>()) as u32;

const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const DOT1Q: u16 = 0x8100_u16.to_be();
const DOT1AD: u16 = 0x88a8_u16.to_be();
// Not a standard, but what equipment sent for stacked tags before 802.1ad.
const OLD_QINQ: u16 = 0x9100_u16.to_be();

/// Destination of a packet: words as they lie in the packet, never single octets, which cost an instruction each.
/// Not an enum: the compiler would copy what one variant leaves unset, which the verifier refuses.
#[derive(Clone, Copy)]
pub struct Destination {
    /// Of the address.
    pub family: Family,
    /// IPv4: the address in network order, not more than 32 bits. IPv6: its first half, in network order.
    pub high: u64,
    /// IPv4: 0. IPv6: the second half, in network order.
    pub low: u64,
}

/// Address family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The destination, or the reason (`etm_common::reasons`) why there is none.
#[inline(always)]
pub fn destination(ctx: &TcContext, ethernet: bool) -> Result<Destination, u32> {
    match parse(ctx, ethernet) {
        // Perhaps the headers are there, but not in the linear part of the skb. The packet's octets stay as they are.
        Err(MALFORMED) if ctx.pull_data(ctx.len().min(HEADERS)).is_ok() => parse(ctx, ethernet),
        result => result,
    }
}

#[inline(always)]
fn parse(ctx: &TcContext, ethernet: bool) -> Result<Destination, u32> {
    if !ethernet {
        // Only the low 16 bits of the field are the protocol; it is in network order.
        return ip::<0>(ctx, ctx.skb.protocol() as u16);
    }
    // A tag in the skb's metadata is not in the packet: these offsets hold with and without it.
    let outer: u16 = read::<_, ETHERTYPE>(ctx)?;
    if !is_tag(outer) {
        return ip::<ETHERNET>(ctx, outer);
    }
    let inner: u16 = read::<_, { ETHERTYPE + TAG }>(ctx)?;
    if !is_tag(inner) {
        return ip::<{ ETHERNET + TAG }>(ctx, inner);
    }
    // A third tag is not looked through; its type is not IP, so `ip` says the right thing.
    let innermost: u16 = read::<_, { ETHERTYPE + 2 * TAG }>(ctx)?;
    ip::<{ ETHERNET + 2 * TAG }>(ctx, innermost)
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    ethertype == DOT1Q || ethertype == DOT1AD || ethertype == OLD_QINQ
}

#[inline(always)]
fn ip<const AT: usize>(ctx: &TcContext, ethertype: u16) -> Result<Destination, u32> {
    match ethertype {
        IPV4 => ipv4::<AT>(ctx),
        IPV6 => ipv6::<AT>(ctx),
        _ => Err(NON_IP),
    }
}

/// RFC 791 section 3.1: version and header length in the first octet, destination in the fifth word.
/// Options do not move the destination, but the header they belong to must be there.
#[inline(always)]
fn ipv4<const AT: usize>(ctx: &TcContext) -> Result<Destination, u32> {
    let header: *const Ipv4 = header::<_, AT>(ctx)?;
    // SAFETY: `header` is inside the packet.
    let (version_words, destination) = unsafe { ((*header).version_words, (*header).destination) };
    let words = u32::from(version_words & 0xf);
    if version_words >> 4 != 4 || words < 5 || AT as u32 + words * 4 > ctx.len() {
        return Err(MALFORMED);
    }
    Ok(Destination { family: Family::V4, high: u64::from(destination), low: 0 })
}

/// The fixed part of an IPv4 header.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv4 {
    version_words: u8,
    other: [u8; 15],
    destination: u32,
}

/// RFC 8200 section 3: 40 octets, destination in the last 16.
#[inline(always)]
fn ipv6<const AT: usize>(ctx: &TcContext) -> Result<Destination, u32> {
    let header: *const Ipv6 = header::<_, AT>(ctx)?;
    // SAFETY: `header` is inside the packet.
    let (version, destination) = unsafe { ((*header).version, (*header).destination) };
    if version >> 4 != 6 {
        return Err(MALFORMED);
    }
    let [a, b, c, d] = destination;
    Ok(Destination { family: Family::V6, high: join(a, b), low: join(c, d) })
}

/// Two neighbouring words as one, in the order of this machine's memory.
#[inline(always)]
fn join(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "big") {
        (first as u64) << 32 | second as u64
    } else {
        (second as u64) << 32 | first as u64
    }
}

/// An IPv6 header.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv6 {
    version: u8,
    other: [u8; 23],
    destination: [u32; 4],
}

/// The octets at offset `AT`.
#[inline(always)]
fn read<T: Copy, const AT: usize>(ctx: &TcContext) -> Result<T, u32> {
    // SAFETY: inside the packet; only called for integers, of which any octets are a value.
    header::<T, AT>(ctx).map(|start| unsafe { *start })
}

/// Where the `T` at offset `AT` is, if the packet is long enough. Only for types without padding of which any
/// octets are a value; the verifier proves the bound again. Alignment is that of the network stack
/// (NET_IP_ALIGN), which the verifier checks where the machine cares.
#[inline(always)]
fn header<T, const AT: usize>(ctx: &TcContext) -> Result<*const T, u32> {
    let start = ctx.data() + AT;
    if start + size_of::<T>() > ctx.data_end() {
        return Err(MALFORMED);
    }
    Ok(start as *const T)
}
