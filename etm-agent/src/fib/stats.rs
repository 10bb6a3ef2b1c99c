//! What uplinks sent, dropped and hold, as the device and its root qdisc tell. Blocking: for the sampler's
//! own thread. Never sums the children of a qdisc: the root's figures include them.
//!
//! Statistics come from `RTM_GETQDISC` of the root (wire basis) and, for a device without queueing
//! discipline, from `RTM_GETSTATS` (skb basis). The kernel answers both within the system call that asks.

use crate::core::input::{Basis, DeviceCount};
use crate::fib::wire::{self, Attributes, Messages, Raw, Refusal};
use crate::types::{Count, IfIndex};
use netlink_packet_core::{NLM_F_ECHO, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::collections::BTreeMap;
use std::io;

const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWSTATS: u16 = 92;
const RTM_GETSTATS: u16 = 94;

const TC_HEADER: usize = 20;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TCA_KIND: u16 = 1;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_STATS_PKT64: u16 = 8;

const STATS_HEADER: usize = 12;
const IFLA_STATS_LINK_64: u16 = 1;
/// Offsets in struct rtnl_link_stats64.
const TX_PACKETS: usize = 8;
const TX_BYTES: usize = 24;
const TX_DROPPED: usize = 56;

/// Why a device could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The socket failed.
    #[error("reading device statistics by netlink failed: {source}")]
    Netlink {
        /// The system's answer.
        source: io::Error,
    },
    /// The device is gone, or the kernel refuses.
    #[error("reading the statistics of interface {ifindex} failed: {refusal}")]
    Refused {
        /// Which device.
        ifindex: IfIndex,
        /// The kernel's answer.
        refusal: Refusal,
    },
    /// The answer lacks what is needed.
    #[error(
        "the kernel's statistics of interface {ifindex} have an unexpected form; report the kernel version"
    )]
    Malformed {
        /// Which device.
        ifindex: IfIndex,
    },
}

/// Reads device statistics over one socket that stays open.
///
/// Counters are cumulative and 64 bits wide; those that the kernel keeps in 32 bits are widened here, which
/// needs a reading at least each 2^32 packets. A qdisc that is replaced starts again from zero: the figures then
/// fall, or change their basis, and a caller that compares two readings must treat that as a gap.
#[derive(Debug)]
pub struct StatsReader {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    wide: BTreeMap<IfIndex, Widened>,
}

/// 32-bit counters of one qdisc, continued to 64 bits.
#[derive(Clone, Copy, Debug, Default)]
struct Widened {
    handle: u32,
    bytes: u64,
    drops: u64,
}

/// The root qdisc as the kernel shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Root {
    handle: u32,
    queueless: bool,
    sent: Count,
    drops: u32,
    backlog: Count,
}

impl StatsReader {
    /// Opens the socket, in the network namespace of the calling thread.
    pub fn open() -> Result<StatsReader, StatsError> {
        let netlink = |source| StatsError::Netlink { source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(netlink)?;
        socket.bind_auto().map_err(netlink)?;
        socket.set_netlink_get_strict_chk(true).map_err(netlink)?;
        socket.set_ext_ack(true).map_err(netlink)?;
        socket.set_cap_ack(true).map_err(netlink)?;
        Ok(StatsReader { socket, sequence: 0, buffer: vec![0; 16 << 10], wide: BTreeMap::new() })
    }

    /// Reads one device. The caller takes the time before and after.
    pub fn read(&mut self, ifindex: IfIndex) -> Result<DeviceCount, StatsError> {
        match self.read_root(ifindex)? {
            Some(root) if !root.queueless => Ok(self.widen(ifindex, root)),
            _ => self.read_device(ifindex),
        }
    }

    fn widen(&mut self, ifindex: IfIndex, root: Root) -> DeviceCount {
        let known = self.wide.entry(ifindex).or_default();
        // A qdisc put in place of another may have the same handle, but its 64-bit counter begins anew.
        let same = known.handle == root.handle && known.bytes <= root.sent.bytes;
        let drops = match same {
            true => widen(known.drops, root.drops),
            false => u64::from(root.drops),
        };
        *known = Widened { handle: root.handle, bytes: root.sent.bytes, drops };
        DeviceCount {
            sent: root.sent,
            dropped: drops,
            backlog: root.backlog,
            basis: Basis::Qdisc,
            excess: Count::default(),
        }
    }

    /// Nothing where the device has no qdisc to show: it is down, or never was up.
    fn read_root(&mut self, ifindex: IfIndex) -> Result<Option<Root>, StatsError> {
        let mut body = [0_u8; TC_HEADER];
        body[4..8].copy_from_slice(&ifindex.get().to_ne_bytes());
        body[12..16].copy_from_slice(&TC_H_ROOT.to_ne_bytes());
        match self.request(RTM_GETQDISC, RTM_NEWQDISC, &body) {
            Ok(Answer::Payload(payload)) => {
                read_root(payload).map(Some).ok_or(StatsError::Malformed { ifindex })
            }
            // The built-in "noop" is not shown: silence, or EINVAL in newer kernels.
            Ok(Answer::Silence) => Ok(None),
            Ok(Answer::Refused(Refusal { errno: libc::EINVAL | libc::ENOENT, .. })) => Ok(None),
            Ok(Answer::Refused(refusal)) => Err(StatsError::Refused { ifindex, refusal }),
            Err(source) => Err(StatsError::Netlink { source }),
        }
    }

    fn read_device(&mut self, ifindex: IfIndex) -> Result<DeviceCount, StatsError> {
        let mut body = [0_u8; STATS_HEADER];
        body[4..8].copy_from_slice(&ifindex.get().to_ne_bytes());
        let filter = 1_u32 << (IFLA_STATS_LINK_64 - 1);
        body[8..12].copy_from_slice(&filter.to_ne_bytes());
        match self.request(RTM_GETSTATS, RTM_NEWSTATS, &body) {
            Ok(Answer::Payload(payload)) => read_device(payload).ok_or(StatsError::Malformed { ifindex }),
            Ok(Answer::Silence) => Err(StatsError::Malformed { ifindex }),
            Ok(Answer::Refused(refusal)) => Err(StatsError::Refused { ifindex, refusal }),
            Err(source) => Err(StatsError::Netlink { source }),
        }
    }

    /// One request and its answer.
    fn request(&mut self, kind: u16, answer: u16, body: &[u8]) -> io::Result<Answer<'_>> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut out = Vec::with_capacity(64);
        // Without ECHO the kernel answers RTM_GETQDISC to the listeners of its multicast group only.
        wire::push(&mut out, kind, NLM_F_REQUEST | NLM_F_ECHO, self.sequence, &Raw(body));
        self.socket.send_to(&out, &SocketAddr::new(0, 0), 0)?;
        let sequence = self.sequence;
        let length = loop {
            // The answer was queued by the call above: waiting would be for something that never comes.
            let length = match self.socket.recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Answer::Silence),
                read => read?,
            };
            if Messages(&self.buffer[..length]).any(|message| message.sequence == sequence) {
                break length;
            }
        };
        let cut = || io::Error::from(io::ErrorKind::InvalidData);
        let mut messages = Messages(&self.buffer[..length]);
        let message = messages.find(|message| message.sequence == sequence).ok_or_else(cut)?;
        match message.kind {
            wire::NLMSG_ERROR => {
                let refusal = wire::acknowledgement(&message).and_then(Result::err).ok_or_else(cut)?;
                Ok(Answer::Refused(refusal))
            }
            kind if kind == answer => Ok(Answer::Payload(message.payload)),
            _ => Err(cut()),
        }
    }
}

/// What the kernel says to one request.
enum Answer<'a> {
    Payload(&'a [u8]),
    Refused(Refusal),
    Silence,
}

fn read_root(payload: &[u8]) -> Option<Root> {
    let mut root = Root { handle: wire::u32_at(payload, 8)?, ..Root::default() };
    let mut complete = false;
    for (kind, value) in Attributes::after(payload, TC_HEADER) {
        match kind {
            TCA_KIND => root.queueless = matches!(wire::string(value).as_str(), "noqueue" | "noop"),
            TCA_STATS2 => {
                read_stats(&mut root, value)?;
                complete = true;
            }
            _ => {}
        }
    }
    (complete || root.queueless).then_some(root)
}

fn read_stats(root: &mut Root, stats: &[u8]) -> Option<()> {
    let mut wide = None;
    for (kind, value) in Attributes(stats) {
        match kind {
            // struct gnet_stats_basic: bytes u64, packets u32.
            TCA_STATS_BASIC => {
                root.sent.bytes = wire::u64_at(value, 0)?;
                root.sent.packets = u64::from(wire::u32_at(value, 8)?);
            }
            // Sent only when the 32 bits above are not enough (Linux 5.5).
            TCA_STATS_PKT64 => wide = Some(wire::u64_at(value, 0)?),
            // struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits, each u32.
            TCA_STATS_QUEUE => {
                root.backlog.packets = u64::from(wire::u32_at(value, 0)?);
                root.backlog.bytes = u64::from(wire::u32_at(value, 4)?);
                root.drops = wire::u32_at(value, 8)?;
            }
            _ => {}
        }
    }
    root.sent.packets = wide.unwrap_or(root.sent.packets);
    Some(())
}

fn read_device(payload: &[u8]) -> Option<DeviceCount> {
    let (_, stats) =
        Attributes::after(payload, STATS_HEADER).find(|(kind, _)| *kind == IFLA_STATS_LINK_64)?;
    Some(DeviceCount {
        sent: Count { packets: wire::u64_at(stats, TX_PACKETS)?, bytes: wire::u64_at(stats, TX_BYTES)? },
        dropped: wire::u64_at(stats, TX_DROPPED)?,
        backlog: Count::default(),
        basis: Basis::Device,
        excess: Count::default(),
    })
}

/// The 64-bit value nearest above `known` whose low 32 bits are `low`.
fn widen(known: u64, low: u32) -> u64 {
    const HIGH: u64 = !0xffff_ffff;
    let value = (known & HIGH) | u64::from(low);
    match value < known {
        true => value.wrapping_add(1 << 32),
        false => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_32_bits_go_on_past_their_end() {
        assert_eq!(widen(0, 5), 5);
        assert_eq!(widen(5, 5), 5);
        assert_eq!(widen(0xffff_fff0, 0x10), 0x1_0000_0010);
        assert_eq!(widen(0x3_ffff_fff0, 0x10), 0x4_0000_0010);
    }

    #[test]
    fn packets_of_64_bits_win_over_those_of_32() {
        let mut stats = Vec::new();
        // struct gnet_stats_basic padded to 16 bytes: 20 bytes with header.
        stats.extend_from_slice(&[20, 0, 1, 0]);
        stats.extend_from_slice(&1_000_u64.to_ne_bytes());
        stats.extend_from_slice(&7_u32.to_ne_bytes());
        stats.extend_from_slice(&[0; 4]);
        stats.extend_from_slice(&[12, 0, 8, 0]);
        stats.extend_from_slice(&0x1_0000_0007_u64.to_ne_bytes());
        let mut root = Root::default();
        read_stats(&mut root, &stats).unwrap();
        assert_eq!(root.sent, Count { bytes: 1_000, packets: 0x1_0000_0007 });
    }
}
