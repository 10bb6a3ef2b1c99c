//! A packet's fields as a question to the kernel's routes: those that the stack would use too, so that of several next
//! hops the same one is found. Never asks.

use aya_ebpf::bindings::bpf_fib_lookup;

/// linux/socket.h
pub const AF_INET: u8 = 2;
/// linux/socket.h
pub const AF_INET6: u8 = 10;
/// Protocol numbers of IANA.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// RFC 791 section 3.1.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ipv4 {
    version_words: u8,
    tos: u8,
    pub length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: [u16; 2],
    destination: [u16; 2],
}

/// RFC 8200 section 3.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ipv6 {
    flow: [u16; 2],
    pub length: u16,
    next: u8,
    hops: u8,
    source: [u16; 8],
    destination: [u16; 8],
}

impl Ipv4 {
    /// Without options, and not a fragment, where the stack sees no ports either: what follows are those.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.version_words == 0x45 && self.fragment & 0x3fff_u16.to_be() == 0
    }
}

/// The fields of an IPv4 header.
#[inline(always)]
pub fn put4(ip: &Ipv4, question: &mut bpf_fib_lookup) {
    question.family = AF_INET;
    question.l4_protocol = ip.protocol;
    question.__bindgen_anon_2.tos = ip.tos;
    // SAFETY: four octets each, and any octets are a value.
    unsafe {
        question.__bindgen_anon_3.ipv4_src = core::mem::transmute::<[u16; 2], u32>(ip.source);
        question.__bindgen_anon_4.ipv4_dst = core::mem::transmute::<[u16; 2], u32>(ip.destination);
    }
}

/// The fields of an IPv6 header.
#[inline(always)]
pub fn put6(ip: &Ipv6, question: &mut bpf_fib_lookup) {
    question.family = AF_INET6;
    question.l4_protocol = ip.next;
    // SAFETY: sixteen octets each, and any octets are a value.
    unsafe {
        question.__bindgen_anon_3.ipv6_src = core::mem::transmute::<[u16; 8], [u32; 4]>(ip.source);
        question.__bindgen_anon_4.ipv6_dst = core::mem::transmute::<[u16; 8], [u32; 4]>(ip.destination);
        question.__bindgen_anon_2.flowinfo =
            core::mem::transmute::<[u16; 2], u32>(ip.flow) & 0x0fff_ffff_u32.to_be();
    }
}

/// Whether a protocol's header begins with its ports.
#[inline(always)]
pub fn has_ports(protocol: u8) -> bool {
    protocol == TCP || protocol == UDP
}
