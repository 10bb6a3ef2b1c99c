//! How the UPDATEs of a monitored peer are written: what both its OPENs and the per-peer header say.
//! Never translates them: `proto::bgp` does, as for a session of ETM's own.

use super::header::{PeerHeader, RibView};
use super::message::PeerUp;
use crate::proto::bgp::Negotiated;
use crate::types::Family;
use std::time::Duration;

/// Why nothing can be read of a monitored peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reading Peer Up of {peer}: what should be an OPEN is another message; report it to the router's vendor")]
pub struct Unreadable {
    /// The monitored peer.
    pub peer: std::net::IpAddr,
}

/// What the monitored session agreed on, as its UPDATEs in `header`'s view are to be read.
///
/// LOCAL_PREF means something after the router's policy and in its Loc-RIB, also where the session is external:
/// such views are read as if the session were internal.
pub fn negotiated(header: &PeerHeader, up: &PeerUp) -> Result<Negotiated, Unreadable> {
    let unreadable = Unreadable { peer: header.key.address };
    let sent = up.sent.offered().ok_or_else(|| unreadable.clone())?;
    let received = up.received.offered().ok_or(unreadable)?;
    let both = |a: &[Family], b: &[Family]| -> Vec<Family> {
        Family::ALL.into_iter().filter(|family| a.contains(family) && b.contains(family)).collect()
    };
    let add_path = match header.view {
        RibView::AdjInPrePolicy | RibView::AdjInPostPolicy => {
            both(&received.add_path_send, &sent.add_path_receive)
        }
        RibView::AdjOutPrePolicy | RibView::AdjOutPostPolicy => {
            both(&sent.add_path_send, &received.add_path_receive)
        }
        // RFC 9069 section 4.3: the OPENs are made up to describe the messages that follow.
        RibView::LocRib => both(&sent.add_path_send, &received.add_path_receive)
            .into_iter()
            .chain(both(&received.add_path_send, &sent.add_path_receive))
            .fold(Vec::new(), |mut list, family| {
                if !list.contains(&family) {
                    list.push(family);
                }
                list
            }),
    };
    let as_received = matches!(header.view, RibView::AdjInPrePolicy | RibView::AdjOutPostPolicy);
    Ok(Negotiated {
        local_as: sent.asn,
        peer_as: if as_received { received.asn } else { sent.asn },
        peer_router_id: header.router_id,
        hold: Duration::ZERO,
        families: both(&sent.families, &received.families),
        add_path,
        four_octet_as: !header.legacy_as_path,
        route_refresh: false,
        message_limit: u16::MAX,
    })
}
