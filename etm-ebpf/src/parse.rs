//! From a packet to its destination address, or the reason why there is none.
//!
//! The outermost IP header decides; docs/parsing.md says what is looked through and what is not, and why. Never
//! reads outside the packet: each access is bounded by the packet's end. Never follows a length that the packet
//! states: every offset is a sum of constants, one for each way through this file.
//! Standards: IEEE 802.3, 802.1Q, 802.1ad; RFC 791 section 3.1; RFC 1042; RFC 2516; RFC 3032; RFC 8200 section 3.

use aya_ebpf::programs::TcContext;
use etm_common::limits::{MAX_MPLS_LABELS, MAX_VLAN_TAGS};
use etm_common::reasons::{MALFORMED, NON_IP};

/// Where an Ethernet header has its type.
pub const ETHERTYPE: usize = 12;
const ETHERNET: usize = 14;
const TAG: usize = 4;
const LABEL: usize = 4;
/// The most that is ever read: Ethernet, the tags and labels that are looked through, an IPv6 header.
const HEADERS: u32 = (ETHERNET + MAX_VLAN_TAGS * TAG + MAX_MPLS_LABELS * LABEL + size_of::<Ipv6>()) as u32;
// PPPoE and SNAP are read where labels are, and are shorter than the deepest stack of those.
const _: () = assert!(MAX_MPLS_LABELS * LABEL >= size_of::<PppoeSession>());
const _: () = assert!(MAX_MPLS_LABELS * LABEL >= size_of::<Llc>());

/// Ethernet type of IPv4, as in the packet.
pub const IPV4: u16 = 0x0800_u16.to_be();
/// Ethernet type of IPv6, as in the packet.
pub const IPV6: u16 = 0x86dd_u16.to_be();
const DOT1Q: u16 = 0x8100_u16.to_be();
const DOT1AD: u16 = 0x88a8_u16.to_be();
// Not a standard, but what equipment sent for stacked tags before 802.1ad.
const OLD_QINQ: u16 = 0x9100_u16.to_be();
const PPPOE_SESSION: u16 = 0x8864_u16.to_be();
const MPLS: u16 = 0x8847_u16.to_be();
/// RFC 5332: a label that the upstream router assigned; the stack looks the same.
const MPLS_UPSTREAM: u16 = 0x8848_u16.to_be();
/// IEEE 802.3 section 3.2.6: a smaller value is the length of the data, which then begins with LLC.
const FIRST_ETHERTYPE: u16 = 0x0600;
/// The largest value that is a length; between it and the first type there is nothing.
const LAST_LENGTH: u16 = 1500;

/// RFC 1332 section 2: IPv4 in PPP.
const PPP_IPV4: u16 = 0x0021_u16.to_be();
/// RFC 5072 section 2: IPv6 in PPP.
const PPP_IPV6: u16 = 0x0057_u16.to_be();
/// RFC 2516 section 4: version 1, type 1, code 0, the only values of a session's packets.
const PPPOE_DATA: u16 = 0x1100_u16.to_be();

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

/// A packet as a program sees it: what is in memory, and its whole length.
pub struct Packet {
    start: usize,
    end: usize,
    len: u32,
}

impl Packet {
    /// From a program's context: first octet, end, and the length with parts that are elsewhere in memory.
    #[inline(always)]
    pub fn new(start: usize, end: usize, len: u32) -> Packet {
        Packet { start, end, len }
    }

    /// Where the `T` at offset `at` is, if the packet is long enough. Only for types without padding of which any
    /// octets are a value; the verifier proves the bound again. Alignment is that of the network stack
    /// (NET_IP_ALIGN), which the verifier checks where the machine cares.
    #[inline(always)]
    pub fn header<T>(&self, at: usize) -> Result<*const T, u32> {
        let start = self.start + at;
        if start + size_of::<T>() > self.end {
            return Err(MALFORMED);
        }
        Ok(start as *const T)
    }

    /// The value at offset `at`.
    #[inline(always)]
    pub fn read<T: Copy>(&self, at: usize) -> Result<T, u32> {
        // SAFETY: inside the packet; only called for integers and structures of them, of which any octets are a value.
        self.header::<T>(at).map(|start| unsafe { *start })
    }
}

/// The destination, or the reason (`etm_common::reasons`) why there is none.
#[inline(always)]
pub fn destination(ctx: &TcContext, ethernet: bool) -> Result<Destination, u32> {
    let packet = || Packet::new(ctx.data(), ctx.data_end(), ctx.len());
    // Only the low 16 bits of the field are the protocol; it is in network order.
    let protocol = (!ethernet).then_some(ctx.skb.protocol() as u16);
    match parse(&packet(), protocol) {
        // Perhaps the headers are there, but not in the linear part of the skb. The packet's octets stay as they are.
        Err(MALFORMED) if ctx.pull_data(ctx.len().min(HEADERS)).is_ok() => parse(&packet(), protocol),
        result => result,
    }
}

/// The destination of a packet that begins with an Ethernet header, or at once with that of `protocol`.
#[inline(always)]
pub fn parse(packet: &Packet, protocol: Option<u16>) -> Result<Destination, u32> {
    let (at, ethertype) = match protocol {
        Some(protocol) => (0, protocol),
        None => {
            // A tag in the skb's metadata is not in the packet: these offsets hold with and without it.
            let outer: u16 = packet.read(ETHERTYPE)?;
            // Nearly all there is, so these come before any other question.
            match outer {
                IPV4 => return ipv4(packet, ETHERNET),
                IPV6 => return ipv6(packet, ETHERNET),
                _ => behind_tags(packet, outer)?,
            }
        }
    };
    match ethertype {
        IPV4 => ipv4(packet, at),
        IPV6 => ipv6(packet, at),
        MPLS | MPLS_UPSTREAM => mpls(packet, at),
        PPPOE_SESSION => pppoe(packet, at),
        length if u16::from_be(length) < FIRST_ETHERTYPE => llc(packet, at, u16::from_be(length)),
        // A tag too many, too.
        _ => Err(NON_IP),
    }
}

/// Where the tags behind an Ethernet header end, and the type that the last one announces.
#[inline(always)]
pub fn behind_tags(packet: &Packet, ethertype: u16) -> Result<(usize, u16), u32> {
    let (mut at, mut ethertype) = (ETHERNET, ethertype);
    for _ in 0..MAX_VLAN_TAGS {
        if ethertype != DOT1Q && ethertype != DOT1AD && ethertype != OLD_QINQ {
            break;
        }
        at += TAG;
        ethertype = packet.read(at - size_of::<u16>())?;
    }
    Ok((at, ethertype))
}

/// RFC 3032 section 2.1: entries of four octets, the last one with the S bit. No entry says what comes after the last
/// one; the first four bits there do (RFC 4928 section 3): 4 and 6 are IP, 0 and 1 are pseudowires and channels.
#[inline(always)]
fn mpls(packet: &Packet, at: usize) -> Result<Destination, u32> {
    let mut at = at;
    for _ in 0..MAX_MPLS_LABELS {
        let traffic_class_bottom: u8 = packet.read(at + 2)?;
        at += LABEL;
        if traffic_class_bottom & 1 == 1 {
            let first: u8 = packet.read(at)?;
            return match first >> 4 {
                4 => ipv4(packet, at),
                6 => ipv6(packet, at),
                _ => Err(NON_IP),
            };
        }
    }
    Err(NON_IP)
}

/// RFC 2516 section 4 and RFC 1661 section 2: six octets of PPPoE, two of PPP's protocol field, which PPPoE never compresses
/// (RFC 2516 section 7).
#[inline(always)]
fn pppoe(packet: &Packet, at: usize) -> Result<Destination, u32> {
    let session: PppoeSession = packet.read(at)?;
    if session.version_type_code != PPPOE_DATA {
        return Err(MALFORMED);
    }
    match session.protocol {
        PPP_IPV4 => ipv4(packet, at + size_of::<PppoeSession>()),
        PPP_IPV6 => ipv6(packet, at + size_of::<PppoeSession>()),
        _ => Err(NON_IP),
    }
}

/// PPPoE and PPP headers of a session's packet.
#[derive(Clone, Copy)]
#[repr(C)]
struct PppoeSession {
    version_type_code: u16,
    session: u16,
    length: u16,
    protocol: u16,
}

/// RFC 1042: IP in IEEE 802.3 is SNAP (DSAP and SSAP 170, control 3), organisation code 0, then the Ethernet type.
#[inline(always)]
fn llc(packet: &Packet, at: usize, length: u16) -> Result<Destination, u32> {
    if length > LAST_LENGTH || usize::from(length) < size_of::<Llc>() {
        return Err(NON_IP);
    }
    let llc: Llc = packet.read(at)?;
    if llc.saps != 0xaaaa || u16::from_be(llc.control_code) != 0x0300 || llc.code != 0 {
        return Err(NON_IP);
    }
    match llc.ethertype {
        IPV4 => ipv4(packet, at + size_of::<Llc>()),
        IPV6 => ipv6(packet, at + size_of::<Llc>()),
        _ => Err(NON_IP),
    }
}

/// LLC and SNAP headers. Control and the first octet of the organisation code share a field.
#[derive(Clone, Copy)]
#[repr(C)]
struct Llc {
    saps: u16,
    control_code: u16,
    code: u16,
    ethertype: u16,
}

/// RFC 791 section 3.1: version and header length in the first octet, destination in the fifth word.
/// Options do not move the destination, but the header they belong to must be there.
#[inline(always)]
fn ipv4(packet: &Packet, at: usize) -> Result<Destination, u32> {
    let header: *const Ipv4 = packet.header(at)?;
    // SAFETY: `header` is inside the packet.
    let (version_words, destination) = unsafe { ((*header).version_words, (*header).destination) };
    let words = u32::from(version_words & 0xf);
    if version_words >> 4 != 4 || words < 5 || at as u32 + words * 4 > packet.len {
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

/// RFC 8200 section 3: 40 octets, destination in the last 16. Extension headers come after it.
#[inline(always)]
fn ipv6(packet: &Packet, at: usize) -> Result<Destination, u32> {
    let header: *const Ipv6 = packet.header(at)?;
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
