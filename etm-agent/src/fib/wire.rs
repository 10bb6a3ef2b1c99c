//! Framing of netlink: messages in a datagram, attributes in a message, acknowledgements. Pure.
//! Never panics on what the kernel sends, and never rejects a message for an attribute it does not know.
//!
//! Receiving is done here and not by `netlink-packet-route` because that crate refuses a whole message
//! when one attribute has grown in a newer kernel: a missed link-down is worse than an unread attribute.
//! Sending uses the crate's types.

use netlink_packet_core::{Emitable, NetlinkHeader};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// nlmsg_type of an acknowledgement or refusal.
pub(super) const NLMSG_ERROR: u16 = 2;
/// nlmsg_type that ends a dump.
pub(super) const NLMSG_DONE: u16 = 3;
/// The dump was disturbed by a change.
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;

const HEADER: usize = 16;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One netlink message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// Port of the socket whose request caused it; 0 is the kernel.
    pub(super) port: u32,
    pub(super) payload: &'a [u8],
}

/// The messages of one datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        if length < HEADER || length > self.0.len() {
            return None;
        }
        let message = Message {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            port: u32_at(self.0, 12)?,
            payload: &self.0[HEADER..length],
        };
        self.0 = self.0.get(align(length)..).unwrap_or(&[]);
        Some(message)
    }
}

/// The attributes behind a fixed header: type without flag bits, and value.
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Those that follow the first `fixed` bytes of `payload`.
    pub(super) fn after(payload: &'a [u8], fixed: usize) -> Attributes<'a> {
        Attributes(payload.get(fixed..).unwrap_or(&[]))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(u16_at(self.0, 0)?);
        if length < 4 || length > self.0.len() {
            return None;
        }
        let kind = u16_at(self.0, 2)? & 0x3fff;
        let value = &self.0[4..length];
        self.0 = self.0.get(align(length)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// Why the kernel refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Positive error number.
    pub errno: i32,
    /// The kernel's own explanation, where it gives one.
    pub text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let system = std::io::Error::from_raw_os_error(self.errno).to_string();
        let system = system.split(" (os error").next().unwrap_or_default().to_lowercase();
        match &self.text {
            Some(text) => write!(f, "{} ({system})", text.trim_end_matches('.')),
            None => f.write_str(&system),
        }
    }
}

/// Reads an NLMSG_ERROR: `Ok` is an acknowledgement. Nothing where the message is cut short.
pub(super) fn acknowledgement(message: &Message<'_>) -> Option<Result<(), Refusal>> {
    let errno = i32_at(message.payload, 0)?;
    if errno == 0 {
        return Some(Ok(()));
    }
    let echoed = match message.flags & NLM_F_CAPPED {
        0 => align(usize::try_from(u32_at(message.payload, 4)?).ok()?),
        _ => HEADER,
    };
    let text = match message.flags & NLM_F_ACK_TLVS {
        0 => None,
        _ => Attributes::after(message.payload, 4 + echoed)
            .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
            .map(|(_, value)| string(value)),
    };
    Some(Err(Refusal { errno: errno.saturating_neg(), text }))
}

/// Appends one message to `out`.
pub(super) fn push(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, payload: &impl Emitable) {
    let start = out.len();
    let length = HEADER + payload.buffer_len();
    out.resize(start + align(length), 0);
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = sequence;
    header.emit(&mut out[start..start + HEADER]);
    payload.emit(&mut out[start + HEADER..start + length]);
}

/// A payload that is already bytes: for requests that no crate has a type for.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl Emitable for Raw<'_> {
    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(self.0);
    }
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u16_at(from: &[u8], at: usize) -> Option<u16> {
    bytes(from, at).map(u16::from_ne_bytes)
}

pub(super) fn u32_at(from: &[u8], at: usize) -> Option<u32> {
    bytes(from, at).map(u32::from_ne_bytes)
}

pub(super) fn i32_at(from: &[u8], at: usize) -> Option<i32> {
    bytes(from, at).map(i32::from_ne_bytes)
}

pub(super) fn u64_at(from: &[u8], at: usize) -> Option<u64> {
    bytes(from, at).map(u64::from_ne_bytes)
}

/// An address of 4 or 16 bytes.
pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => bytes::<4>(value, 0).map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        16 => bytes::<16>(value, 0).map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
        _ => None,
    }
}

/// A string with or without its final zero.
pub(super) fn string(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_and_attributes_come_back_as_written() {
        let mut out = Vec::new();
        // One attribute of type 3 with the value "ab\0", padded to 8 bytes.
        push(&mut out, 16, 0x300, 7, &Raw(&[7, 0, 3, 0x80, b'a', b'b', 0, 0]));
        push(&mut out, 3, 0, 8, &Raw(&[]));
        let read: Vec<Message<'_>> = Messages(&out).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].flags, read[0].sequence), (16, 0x300, 7));
        let attributes: Vec<(u16, &[u8])> = Attributes(read[0].payload).collect();
        assert_eq!(attributes, vec![(3, &b"ab\0"[..])]);
        assert_eq!(string(attributes[0].1), "ab");
    }

    #[test]
    fn a_refusal_is_told_in_the_kernels_words() {
        let refusal = Refusal { errno: 101, text: Some("Nexthop has invalid gateway.".to_owned()) };
        assert_eq!(refusal.to_string(), "Nexthop has invalid gateway (network is unreachable)");
        assert_eq!(Refusal { errno: 17, text: None }.to_string(), "file exists");
    }

    proptest! {
        #[test]
        fn no_input_makes_the_readers_panic_or_run_forever(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages(&data) {
                let _ = acknowledgement(&message);
                prop_assert!(Attributes(message.payload).count() <= 50);
            }
            prop_assert!(Attributes(&data).count() <= 50);
        }
    }
}
