//! Messages cut out of a byte stream, and typed (RFC 7854 section 4). Never reads a socket: the caller fills the buffer.

use super::header::PeerHeader;
use crate::proto::bgp::{self, Frame};
use crate::types::Family;
use bytes::{Buf, Bytes, BytesMut};

/// The only version with an RFC.
const VERSION: u8 = 3;

/// Common header: version, length, type.
const HEADER: usize = 6;

/// Longest message accepted: two OPENs or one UPDATE of RFC 8654, and their surroundings.
const LONGEST: usize = 256 * 1024;

/// Longest text of a router that is kept, in characters.
const TEXT: usize = 200;

/// Bytes that are not BMP, or not as the RFC has it. The stream cannot be followed any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another protocol, or another version.
    #[error("reading BMP: version {version} where 3 is expected; is this the BMP port of a router?")]
    Version {
        /// The octet found.
        version: u8,
    },
    /// A length that no message has.
    #[error("reading BMP: a message of {len} bytes; between {HEADER} and {LONGEST} are possible")]
    Length {
        /// As announced.
        len: usize,
    },
    /// The message ends in the middle of something.
    #[error("reading BMP: the message ends inside {what}, {len} bytes are left of it")]
    Short {
        /// What.
        what: &'static str,
        /// Bytes left.
        len: usize,
    },
}

/// One BMP message.
#[derive(Clone, Debug)]
pub enum Message {
    /// The first of a stream: who the router says it is.
    Initiation {
        /// sysName.
        name: String,
        /// sysDescr.
        description: String,
    },
    /// A session of the router came up.
    PeerUp {
        /// Which.
        peer: PeerHeader,
        /// Its OPENs.
        up: Box<PeerUp>,
    },
    /// A session of the router went down; its routes are void.
    PeerDown {
        /// Which.
        peer: PeerHeader,
        /// Why, in words.
        reason: String,
    },
    /// Routes.
    Routes {
        /// Whose.
        peer: PeerHeader,
        /// The UPDATE.
        update: Frame,
    },
    /// Counters of a session.
    Stats {
        /// Which.
        peer: PeerHeader,
        /// What is known of them.
        stats: Vec<Stat>,
    },
    /// A BGP message inside is none: what is known of that peer is not to be relied on any more.
    Faulty {
        /// Whose.
        peer: PeerHeader,
        /// Which message, and what is wrong with it.
        reason: String,
    },
    /// A message as received by the router, for debugging; of no use here.
    Mirroring,
    /// The router is about to close the stream.
    Termination {
        /// Why, in words.
        reason: String,
    },
    /// A type this version does not know.
    Unknown {
        /// The type.
        kind: u8,
    },
}

/// Both OPENs of a session, as far as they could be read.
#[derive(Clone, Debug)]
pub struct PeerUp {
    /// What the router sent.
    pub sent: Frame,
    /// What it received.
    pub received: Frame,
}

/// A counter of RFC 7854 section 4.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stat {
    /// Number in the IANA registry "BMP Statistics Types".
    pub kind: u16,
    /// Family, for counters that have one.
    pub family: Option<Family>,
    /// Its value.
    pub value: u64,
}

/// Cuts messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader;

impl Reader {
    /// The next whole message of `buffer`, which loses its bytes; none while it is incomplete.
    pub fn next(self, buffer: &mut BytesMut) -> Result<Option<Message>, Malformed> {
        // The version first: a line of text is shorter than a header.
        match buffer.first() {
            None => return Ok(None),
            Some(&VERSION) => {}
            Some(&version) => return Err(Malformed::Version { version }),
        }
        let Some(length) = buffer.get(1..5).and_then(|bytes| bytes.try_into().ok()) else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(HEADER..=LONGEST).contains(&len) {
            return Err(Malformed::Length { len });
        }
        if buffer.len() < len {
            return Ok(None);
        }
        let mut message = buffer.split_to(len).freeze();
        message.advance(HEADER - 1);
        let kind = message.get_u8();
        body(kind, message).map(Some)
    }
}

fn body(kind: u8, mut bytes: Bytes) -> Result<Message, Malformed> {
    Ok(match kind {
        0 => {
            let peer = PeerHeader::take_from(&mut bytes)?;
            match Frame::take_from(&mut bytes, u16::MAX) {
                Ok(update) => Message::Routes { update, peer },
                Err(error) => faulty(peer, "Route Monitoring", &error),
            }
        }
        1 => {
            let peer = PeerHeader::take_from(&mut bytes)?;
            Message::Stats { stats: stats(&mut bytes)?, peer }
        }
        2 => {
            let peer = PeerHeader::take_from(&mut bytes)?;
            Message::PeerDown { reason: down_reason(&bytes)?, peer }
        }
        3 => {
            let peer = PeerHeader::take_from(&mut bytes)?;
            // Local address, local port, remote port.
            take(&mut bytes, 20, "the addresses of Peer Up")?;
            let sent = Frame::take_from(&mut bytes, u16::MAX);
            match sent.and_then(|sent| Ok(PeerUp { sent, received: Frame::take_from(&mut bytes, u16::MAX)? }))
            {
                Ok(up) => Message::PeerUp { peer, up: Box::new(up) },
                Err(error) => faulty(peer, "Peer Up", &error),
            }
        }
        4 => initiation(&mut bytes)?,
        5 => Message::Termination { reason: termination(&mut bytes)? },
        6 => Message::Mirroring,
        kind => Message::Unknown { kind },
    })
}

fn faulty(peer: PeerHeader, what: &'static str, error: &bgp::Malformed) -> Message {
    Message::Faulty { peer, reason: format!("{what} holds a BGP message that cannot be read: {error}") }
}

fn take(bytes: &mut Bytes, len: usize, what: &'static str) -> Result<Bytes, Malformed> {
    if bytes.len() < len {
        return Err(Malformed::Short { what, len: bytes.len() });
    }
    Ok(bytes.split_to(len))
}

/// Type and value of an Information TLV (RFC 7854 section 4.4).
fn tlv(bytes: &mut Bytes) -> Result<(u16, Bytes), Malformed> {
    let mut head = take(bytes, 4, "the head of a TLV")?;
    let (kind, len) = (head.get_u16(), head.get_u16());
    Ok((kind, take(bytes, usize::from(len), "a TLV")?))
}

fn text(value: &Bytes) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    String::from_utf8_lossy(value).chars().map(plain).take(TEXT).collect()
}

fn initiation(bytes: &mut Bytes) -> Result<Message, Malformed> {
    let (mut name, mut description) = (String::new(), String::new());
    while !bytes.is_empty() {
        match tlv(bytes)? {
            (1, value) => description = text(&value),
            (2, value) => name = text(&value),
            _ => {}
        }
    }
    Ok(Message::Initiation { name, description })
}

fn termination(bytes: &mut Bytes) -> Result<String, Malformed> {
    let mut words = Vec::new();
    while !bytes.is_empty() {
        match tlv(bytes)? {
            (0, value) => words.push(text(&value)),
            (1, mut value) if value.len() == 2 => words.push(
                match value.get_u16() {
                    0 => "administratively closed",
                    1 => "no reason given",
                    2 => "out of resources",
                    3 => "redundant connection",
                    4 => "permanently closed by its administrator",
                    _ => "a reason without a name",
                }
                .to_owned(),
            ),
            _ => {}
        }
    }
    Ok(words.join(": "))
}

/// RFC 7854 section 4.9, RFC 9069 section 5.3.
fn down_reason(bytes: &Bytes) -> Result<String, Malformed> {
    let Some((&code, data)) = bytes.split_first() else {
        return Err(Malformed::Short { what: "the reason of Peer Down", len: 0 });
    };
    Ok(match code {
        1 => format!("the router closed the session{}", notification(data)),
        2 => "the router closed the session without a NOTIFICATION".to_owned(),
        3 => format!("the peer closed the session{}", notification(data)),
        4 => "the peer closed the session without a NOTIFICATION".to_owned(),
        5 => "the router no longer monitors the peer".to_owned(),
        6 => "the router closed the table".to_owned(),
        _ => format!("the session went down for reason {code}"),
    })
}

/// Code and subcode of a NOTIFICATION (RFC 4271 section 4.5), as far as there is one.
fn notification(message: &[u8]) -> String {
    match message.get(19..21) {
        Some([code, subcode]) => format!(" with NOTIFICATION {code}/{subcode}"),
        _ => String::new(),
    }
}

fn stats(bytes: &mut Bytes) -> Result<Vec<Stat>, Malformed> {
    take(bytes, 4, "the number of statistics")?;
    let mut stats = Vec::new();
    while !bytes.is_empty() {
        let (kind, mut value) = tlv(bytes)?;
        match value.len() {
            4 => stats.push(Stat { kind, family: None, value: value.get_u32().into() }),
            8 => stats.push(Stat { kind, family: None, value: value.get_u64() }),
            11 => {
                let family = match (value.get_u16(), value.get_u8()) {
                    (1, 1) => Family::V4,
                    (2, 1) => Family::V6,
                    _ => continue,
                };
                stats.push(Stat { kind, family: Some(family), value: value.get_u64() });
            }
            _ => {}
        }
    }
    Ok(stats)
}
