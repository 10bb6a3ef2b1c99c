//! What one OPEN offers, for whoever was not there when it was sent: the station that monitors a session.
//! Never negotiates: that takes both OPENs and the view they are for.

use super::capability::family_of;
use super::frame::{Frame, Malformed};
use crate::types::{Asn, Family, RouterId};
use bytes::Bytes;
use rustbgpd_wire as wire;
use wire::{AddPathMode, Capability};

/// The parts of an OPEN that say how the UPDATEs of its session are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The speaker's AS, of the capability where it has one (RFC 6793).
    pub asn: Asn,
    /// Its BGP identifier.
    pub router_id: RouterId,
    /// Unicast families; IPv4 alone where it names none (RFC 4760 section 8).
    pub families: Vec<Family>,
    /// Families in which it would send path identifiers (RFC 7911).
    pub add_path_send: Vec<Family>,
    /// Families in which it would accept path identifiers.
    pub add_path_receive: Vec<Family>,
}

impl Frame {
    /// Takes one whole message from the front of `bytes`; `limit` is the longest allowed, in bytes.
    pub fn take_from(bytes: &mut Bytes, limit: u16) -> Result<Frame, Malformed> {
        let len =
            wire::peek_message_length(bytes, limit).map_err(Malformed)?.map_or(bytes.len(), usize::from);
        // A message cut short keeps what there is: the codec says what is missing.
        let mut message = bytes.split_to(len.min(bytes.len()));
        wire::decode_message(&mut message, limit).map(Frame).map_err(Malformed)
    }

    /// What this OPEN offers; none of any other message.
    pub fn offered(&self) -> Option<Offered> {
        let wire::Message::Open(open) = &self.0 else { return None };
        let mut offered = Offered {
            asn: Asn(open.four_byte_as()),
            router_id: RouterId(open.bgp_identifier),
            families: Vec::new(),
            add_path_send: Vec::new(),
            add_path_receive: Vec::new(),
        };
        let mut multiprotocol = false;
        for capability in &open.capabilities {
            match capability {
                Capability::MultiProtocol { afi, safi } => {
                    multiprotocol = true;
                    offered.families.extend(family_of(*afi, *safi));
                }
                Capability::AddPath(list) => list.iter().for_each(|entry| {
                    let Some(family) = family_of(entry.afi, entry.safi) else { return };
                    if matches!(entry.send_receive, AddPathMode::Send | AddPathMode::Both) {
                        offered.add_path_send.push(family);
                    }
                    if matches!(entry.send_receive, AddPathMode::Receive | AddPathMode::Both) {
                        offered.add_path_receive.push(family);
                    }
                }),
                _ => {}
            }
        }
        if !multiprotocol {
            offered.families.push(Family::V4);
        }
        Some(offered)
    }
}
