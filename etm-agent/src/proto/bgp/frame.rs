//! Messages cut out of a byte stream, and typed. Never reads a socket: the caller fills the buffer.

use bytes::BytesMut;
use rustbgpd_wire as wire;

/// Largest message before, or without, RFC 8654.
pub(super) const PLAIN_LIMIT: u16 = wire::MAX_MESSAGE_LEN;

/// One BGP message as received.
#[derive(Clone, Debug)]
pub struct Frame(pub(super) wire::Message);

impl Frame {
    /// The number of its type (RFC 4271 section 4.1); 0 for one this codec does not know.
    pub fn kind(&self) -> u8 {
        match self.0 {
            wire::Message::Open(_) => 1,
            wire::Message::Update(_) => 2,
            wire::Message::Notification(_) => 3,
            wire::Message::Keepalive => 4,
            wire::Message::RouteRefresh(_) => 5,
            _ => 0,
        }
    }

    /// True for UPDATE.
    pub fn is_update(&self) -> bool {
        matches!(self.0, wire::Message::Update(_))
    }
}

/// Bytes that are not a BGP message; RFC 4271 section 6.1 ends the session for them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reading a message: {0}")]
pub struct Malformed(pub(super) wire::DecodeError);

impl Malformed {
    /// True where not even the marker is right: whoever answers does not speak BGP, or is out of step.
    pub fn is_not_bgp(&self) -> bool {
        matches!(self.0, wire::DecodeError::InvalidMarker)
    }
}

/// Cuts messages; holds nothing but the largest length allowed.
#[derive(Clone, Copy, Debug)]
pub struct FrameReader {
    limit: u16,
}

impl Default for FrameReader {
    fn default() -> FrameReader {
        FrameReader { limit: PLAIN_LIMIT }
    }
}

impl FrameReader {
    /// Accepts longer messages from now on (RFC 8654, once both sides have offered it).
    pub fn set_limit(&mut self, limit: u16) {
        self.limit = limit;
    }

    /// The next whole message of `buffer`, which loses its bytes; none while it is incomplete.
    pub fn next(self, buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
        // The marker first: a line of text is shorter than a header, and waiting for 19 bytes of it would
        // report a silent peer instead of a wrong one.
        let marker = buffer.len().min(wire::constants::MARKER_LEN);
        if buffer[..marker].iter().any(|byte| *byte != 0xFF) {
            return Err(Malformed(wire::DecodeError::InvalidMarker));
        }
        let Some(len) = wire::peek_message_length(buffer, self.limit).map_err(Malformed)? else {
            return Ok(None);
        };
        if buffer.len() < usize::from(len) {
            return Ok(None);
        }
        let mut message = buffer.split_to(usize::from(len)).freeze();
        wire::decode_message(&mut message, self.limit).map(|message| Some(Frame(message))).map_err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepalive() -> BytesMut {
        wire::encode_message(&wire::Message::Keepalive).unwrap()
    }

    #[test]
    fn messages_are_cut_wherever_the_stream_was_split() {
        let mut stream = keepalive();
        stream.extend_from_slice(&keepalive());
        let reader = FrameReader::default();
        let mut buffer = BytesMut::new();
        let mut seen = 0;
        for byte in stream {
            buffer.extend_from_slice(&[byte]);
            while reader.next(&mut buffer).unwrap().is_some() {
                seen += 1;
            }
        }
        assert_eq!(seen, 2);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_line_of_text_is_recognised_at_its_first_byte() {
        let mut buffer = BytesMut::from(&b"SSH-2.0"[..]);
        assert!(FrameReader::default().next(&mut buffer).unwrap_err().is_not_bgp());
    }

    #[test]
    fn long_messages_need_the_negotiated_limit() {
        let mut header = BytesMut::from(&[0xFF_u8; 16][..]);
        header.extend_from_slice(&5000_u16.to_be_bytes());
        header.extend_from_slice(&[2]);
        let mut reader = FrameReader::default();
        assert!(reader.next(&mut header.clone()).is_err());
        reader.set_limit(u16::MAX);
        assert!(reader.next(&mut header).unwrap().is_none());
    }
}
