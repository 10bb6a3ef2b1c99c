//! How the UPDATEs of a monitored peer are read: by what both its OPENs and the per-peer header say, and mended where
//! routers write them otherwise than they received them.
//!
//! Never judges a route as a session of ETM's own would: the router did, and its import policy may have changed it.

use super::header::{PeerHeader, RibView};
use super::message::PeerUp;
use crate::proto::bgp::{Change, Frame, Import, Negotiated, Reset, Translated, Translator};
use crate::types::bgp::Dispositions;
use crate::types::{AsPath, AsPathSegment, Asn, Community, Family, RouteAttrs, RouterId};
use std::sync::Arc;
use std::time::Duration;

/// LOCAL_PREF of a route that has none.
const LOCAL_PREF_ABSENT: u32 = 100;

/// Why nothing can be read of a monitored peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Peer Up of {peer} holds another message where an OPEN should be; report it to the router's vendor")]
pub struct Unreadable {
    /// The monitored peer.
    pub peer: std::net::IpAddr,
}

/// Whether a router that calls itself so writes path identifiers in reports of `view` where its session has them.
///
/// Seen with Debian's packages: FRR 8.4 never does, GoBGP 3.10 only in what it passes on as received. All others are
/// believed to do what RFC 7854 section 4.2 and RFC 7911 say.
pub fn writes_path_ids(sys_name: &str, sys_descr: &str, view: RibView) -> bool {
    let frr = sys_descr.starts_with("FRRouting 8.");
    let gobgp = sys_name == "GoBGP" && view != RibView::AdjInPrePolicy;
    !frr && !gobgp
}

/// The reading of one table of one monitored peer.
#[derive(Clone, Debug)]
pub struct Reading {
    session: Negotiated,
    translator: Translator,
    view: RibView,
    router_as: Asn,
    peer_as: Asn,
    /// The attributes mended last: they are shared by all prefixes of an UPDATE.
    mended: Option<(Arc<RouteAttrs>, Option<Arc<RouteAttrs>>)>,
    looped: u64,
    /// Loops that carry this are told.
    own: Option<Community>,
}

impl Reading {
    /// As both OPENs say, for the table of `header`; without `path_ids` the router writes none, whatever they say.
    pub fn new(
        header: &PeerHeader,
        up: &PeerUp,
        path_ids: bool,
        counts: Dispositions,
    ) -> Result<Reading, Unreadable> {
        let unreadable = Unreadable { peer: header.key.address };
        let sent = up.sent.offered().ok_or_else(|| unreadable.clone())?;
        let received = up.received.offered().ok_or(unreadable)?;
        let both = |a: &[Family], b: &[Family]| -> Vec<Family> {
            Family::ALL.into_iter().filter(|family| a.contains(family) && b.contains(family)).collect()
        };
        let inward = both(&received.add_path_send, &sent.add_path_receive);
        let outward = both(&sent.add_path_send, &received.add_path_receive);
        let add_path = match header.view {
            RibView::AdjInPrePolicy | RibView::AdjInPostPolicy => inward,
            RibView::AdjOutPrePolicy | RibView::AdjOutPostPolicy => outward,
            // RFC 9069 section 4.3: these OPENs are made up to describe the messages that follow.
            RibView::LocRib => {
                Family::ALL.into_iter().filter(|f| inward.contains(f) || outward.contains(f)).collect()
            }
        };
        let add_path = if path_ids { add_path } else { Vec::new() };
        let families = both(&sent.families, &received.families);
        Ok(Reading::of(header, (sent.asn, received.asn), families, add_path, counts))
    }

    /// Without OPENs: some routers report their Loc-RIB and no Peer Up for it, against RFC 9069 section 4.4.
    pub fn unannounced(header: &PeerHeader) -> Reading {
        let families = Family::ALL.to_vec();
        Reading::of(header, (header.asn, header.asn), families, Vec::new(), Dispositions::default())
    }

    fn of(
        header: &PeerHeader,
        (router_as, peer_as): (Asn, Asn),
        families: Vec<Family>,
        add_path: Vec<Family>,
        counts: Dispositions,
    ) -> Reading {
        let session = negotiated(header, router_as, families, add_path);
        let translator = Translator::new(&session, Import::default(), counts);
        let view = header.view;
        Reading {
            session,
            translator,
            view,
            router_as,
            peer_as,
            mended: None,
            looped: counts.as_loop,
            own: None,
        }
    }

    /// Tells loops that carry `own`, too: announcements of ours that came back. Whoever asks for them must not use them.
    pub fn telling(self, own: Community) -> Reading {
        Reading { own: Some(own), ..self }
    }

    /// Families both ends offered.
    pub fn families(&self) -> &[Family] {
        &self.session.families
    }

    /// Families with path identifiers.
    pub fn add_path(&self) -> &[Family] {
        &self.session.add_path
    }

    /// What had to be done about faulty UPDATEs so far.
    pub fn counts(&self) -> Dispositions {
        Dispositions { as_loop: self.looped, ..self.translator.counts() }
    }

    /// What an UPDATE means. `header` is that of its own message: the form of AS_PATH may change from one to the next.
    pub fn translate(&mut self, header: &PeerHeader, update: &Frame) -> Result<Translated, Reset> {
        if self.session.four_octet_as == header.legacy_as_path {
            self.session.four_octet_as = !header.legacy_as_path;
            self.translator = Translator::new(&self.session, Import::default(), self.translator.counts());
        }
        let mut translated = self.translator.translate(update)?;
        if self.router_as != self.peer_as {
            translated.changes.iter_mut().for_each(|change| self.mend(change));
        }
        Ok(translated)
    }

    /// A route of an external peer as it was when the router received it.
    fn mend(&mut self, change: &mut Change) {
        let Change::Announce { prefix, path_id, attrs } = change else { return };
        let known = self.mended.take().filter(|(before, _)| Arc::ptr_eq(before, attrs));
        let (before, after) = known.unwrap_or_else(|| (Arc::clone(attrs), self.as_received(attrs)));
        match &after {
            Some(after) => *attrs = Arc::clone(after),
            None => {
                self.looped += 1;
                *change = Change::Withdraw { prefix: *prefix, path_id: *path_id };
            }
        }
        self.mended = Some((before, after));
    }

    /// None for a loop, which no router uses (RFC 4271 section 9.1.2).
    fn as_received(&self, attrs: &Arc<RouteAttrs>) -> Option<Arc<RouteAttrs>> {
        let inward = matches!(self.view, RibView::AdjInPrePolicy | RibView::AdjInPostPolicy);
        if !inward {
            return Some(Arc::clone(attrs));
        }
        // FRR writes its own AS in front, as if it sent the route on. No peer could have: it would not begin with
        // the peer's AS, and it would be a loop.
        let path = match attrs.as_path.first() {
            Some(first) if first == self.router_as => without_first(&attrs.as_path),
            _ => attrs.as_path.clone(),
        };
        let own = |segment: &AsPathSegment| {
            let (AsPathSegment::Sequence(list) | AsPathSegment::Set(list)) = segment;
            list.contains(&self.router_as)
        };
        let is_ours = self.own.is_some_and(|own| attrs.communities.contains(&own));
        if path.0.iter().any(own) && !is_ours {
            return None;
        }
        let mut mended = RouteAttrs { as_path: path, ..RouteAttrs::clone(attrs) };
        if self.view == RibView::AdjInPrePolicy {
            // RFC 4271 section 5.1.5, RFC 4456 section 8: an external peer has no say in these.
            (mended.local_pref, mended.originator) = (LOCAL_PREF_ABSENT, None);
        }
        Some(if mended == **attrs { Arc::clone(attrs) } else { Arc::new(mended) })
    }
}

/// LOCAL_PREF means something after the router's policy and in its Loc-RIB, also where the session is external: all
/// tables are read as if the session were internal, and `Reading` takes away what an external peer may not say.
fn negotiated(
    header: &PeerHeader,
    router_as: Asn,
    families: Vec<Family>,
    add_path: Vec<Family>,
) -> Negotiated {
    Negotiated {
        local_as: router_as,
        peer_as: router_as,
        peer_router_id: RouterId(header.router_id.0),
        hold: Duration::ZERO,
        families,
        add_path,
        four_octet_as: !header.legacy_as_path,
        route_refresh: false,
        enhanced_refresh: false,
        extended_next_hop: true,
        message_limit: u16::MAX,
        restart: None,
        role: None,
        ours: Vec::new(),
        theirs: Vec::new(),
    }
}

fn without_first(path: &AsPath) -> AsPath {
    let mut path = path.clone();
    if let Some(AsPathSegment::Sequence(list)) = path.0.first_mut() {
        list.remove(0);
        if list.is_empty() {
            path.0.remove(0);
        }
    }
    path
}
