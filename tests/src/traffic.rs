//! Traffic with known content: what was sent, what arrived, and by which provider, packet by packet.
//!
//! Every packet carries the boot-time clock of its sending, so a loss or a detour is attributed to the
//! moment of sending, not to the moment somebody looked. *Never*: leaves the lab's namespaces.

mod demand;
mod generator;
mod ledger;
pub mod measure;
mod sink;
mod tcp;

pub use demand::{Demand, zipf};
pub use generator::{Flow, Generator};
pub use ledger::{BIN_NS, Ledger, Tally};
pub use sink::{Move, Received, Sink};
pub use tcp::TcpLoad;

/// UDP port of the sink.
pub const PORT: u16 = 7179;
/// Ethernet header without FCS, what the kernel's wire length adds to the IP packet.
pub const ETHERNET_HEADER: usize = 14;
/// Default length of an Ethernet frame (without FCS) in bytes.
pub const FRAME: usize = 1000;

/// Header of every payload: magic, sequence number within the destination, time of sending.
pub(crate) const HEADER: usize = 20;
pub(crate) const MAGIC: u32 = 0x4554_4d4c;

pub(crate) fn encode_header(sequence: u64, sent_ns: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC.to_be_bytes());
    header[4..12].copy_from_slice(&sequence.to_be_bytes());
    header[12..].copy_from_slice(&sent_ns.to_be_bytes());
    header
}

/// Sequence number and time of sending, `None` for a packet that is not ours.
pub(crate) fn decode_header(payload: &[u8]) -> Option<(u64, u64)> {
    let magic = u32::from_be_bytes(payload.get(..4)?.try_into().ok()?);
    let sequence = u64::from_be_bytes(payload.get(4..12)?.try_into().ok()?);
    let sent_ns = u64::from_be_bytes(payload.get(12..HEADER)?.try_into().ok()?);
    (magic == MAGIC).then_some((sequence, sent_ns))
}

/// Bytes of IP and UDP headers around a payload for `address`.
pub(crate) fn ip_overhead(address: std::net::IpAddr) -> usize {
    if address.is_ipv4() { 20 + 8 } else { 40 + 8 }
}
