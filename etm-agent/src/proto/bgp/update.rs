//! An UPDATE as changes of an Adj-RIB-In, with the error handling of RFC 7606.
//!
//! Never keeps a route: the receiver of the changes does. Never ends a session: it says that one must end.
//! Deviations: a route whose AS_PATH holds an AS_SET is accepted (RFC 9774 would treat it as withdrawn),
//! because the router ETM listens to forwards by it and ETM must know that; it is never announced again.

use super::attrs::{Received, attribute_name};
use super::frame::Frame;
use super::import::{self, Checks, Import};
use super::martian::is_martian;
use super::negotiated::Negotiated;
use crate::types::bgp::Dispositions;
use crate::types::{Family, PathId, Prefix, RouteAttrs};
use ipnet::{Ipv4Net, Ipv6Net};
use rustbgpd_wire as wire;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use wire::validate::validate_update_attributes_with_context;
use wire::{Afi, DecodeError, ErrorDisposition, PathAttribute, Safi};

/// One change of an Adj-RIB-In.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New, or replacing the route with the same prefix and path id.
    Announce {
        /// Destination.
        prefix: Prefix,
        /// RFC 7911.
        path_id: PathId,
        /// Shared by all prefixes of one UPDATE and family.
        attrs: Arc<RouteAttrs>,
    },
    /// No longer feasible, or never acceptable.
    Withdraw {
        /// Destination.
        prefix: Prefix,
        /// RFC 7911.
        path_id: PathId,
    },
}

/// Something about an UPDATE that an operator should see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What was done: `treat-as-withdraw`, `attribute-discard`, or why it was refused: `martian`, `as-loop`, `first-as`,
    /// `leak`, `no-policy`, `over-limit`.
    pub kind: &'static str,
    /// The attribute, by its name in the RFCs; empty where none is at fault.
    pub attribute: &'static str,
    /// The first prefix concerned, where the UPDATE holds any.
    pub prefix: Option<Prefix>,
    /// How many prefixes the UPDATE holds.
    pub routes: usize,
    /// What is wrong with it.
    pub detail: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match self.prefix {
            Some(prefix) if self.routes > 1 => write!(f, " of {prefix} and {} more", self.routes - 1)?,
            Some(prefix) => write!(f, " of {prefix}")?,
            None => {}
        }
        if !self.attribute.is_empty() {
            write!(f, " for {}", self.attribute)?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// An UPDATE so broken that the session must end with this NOTIFICATION (RFC 7606 section 3 j).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reading an UPDATE ({attribute}): {detail}")]
pub struct Reset {
    /// The attribute, or `NLRI`.
    pub attribute: &'static str,
    /// What is wrong with it.
    pub detail: String,
    pub(super) notification: wire::NotificationMessage,
}

/// What one UPDATE means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// Changes, withdrawals first.
    pub changes: Vec<Change>,
    /// The peer has sent its whole table of this family (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
    /// What to tell the operator.
    pub notices: Vec<Notice>,
}

/// Translates the UPDATEs of one session.
#[derive(Clone, Debug)]
pub struct Translator {
    checks: Checks,
    link_local: bool,
    internal: bool,
    four_octet_as: bool,
    families: Vec<Family>,
    add_path: Vec<(Afi, Safi)>,
    counts: Dispositions,
}

impl Translator {
    /// For a session with these parameters; `counts` go on from where they are.
    pub fn new(session: &Negotiated, import: Import, counts: Dispositions) -> Translator {
        let unicast = |family: &Family| match family {
            Family::V4 => (Afi::Ipv4, Safi::Unicast),
            Family::V6 => (Afi::Ipv6, Safi::Unicast),
        };
        Translator {
            checks: Checks::of(session, import),
            // The border that ETM runs on tells of neighbours of its own: their scope is that of the exit.
            link_local: import.link_local || session.is_internal(),
            internal: session.is_internal(),
            four_octet_as: session.four_octet_as,
            families: session.families.clone(),
            add_path: session.add_path.iter().map(unicast).collect(),
            counts,
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Dispositions {
        self.counts
    }

    /// Translates `frame`; anything but an UPDATE means nothing.
    pub fn translate(&mut self, frame: &Frame) -> Result<Translated, Reset> {
        let wire::Message::Update(update) = &frame.0 else { return Ok(Translated::default()) };
        if update.withdrawn_routes.is_empty() && update.path_attributes.is_empty() && update.nlri.is_empty() {
            return Ok(Translated { end_of_rib: Some(Family::V4), ..Translated::default() });
        }
        let add_path_v4 = self.add_path.contains(&(Afi::Ipv4, Safi::Unicast));
        let (mut parsed, _) = update
            .parse_revised_observed_with_error_context(
                self.four_octet_as,
                self.internal,
                add_path_v4,
                &self.add_path,
            )
            .map_err(|context| {
                self.counts.session_reset += 1;
                reset(&context.error, context.type_code)
            })?;
        parsed.update.attributes.iter_mut().for_each(settle_next_hop);
        let mut received = Received::of(&parsed.update.attributes, self.internal);
        let mut out = Translated::default();
        if let Some(family) = end_of_rib_v6(&parsed.update, &received) {
            out.end_of_rib = Some(family);
            return Ok(out);
        }
        let verdict = self.judge(&parsed, &received, &mut out.notices)?;
        self.withdrawals(&parsed.update, &received, &mut out.changes);
        self.announcements(&parsed.update, &mut received, verdict, &mut out);
        Ok(out)
    }

    /// The strongest disposition any attribute calls for (RFC 7606 section 3 h); counted and noted.
    fn judge(
        &mut self,
        parsed: &wire::RevisedParsedUpdate,
        received: &Received<'_>,
        notices: &mut Vec<Notice>,
    ) -> Result<Option<ErrorDisposition>, Reset> {
        let update = &parsed.update;
        let mut found: Vec<(ErrorDisposition, u8, String)> = Vec::new();
        for bad in &parsed.malformed {
            if matches!(bad.error, DecodeError::ProhibitedAsSet { .. }) {
                self.counts.as_set += u64::try_from(announced_len(update, received)).unwrap_or(u64::MAX);
            } else {
                found.push((bad.disposition, bad.type_code, bad.error.to_string()));
            }
        }
        let mut options = wire::UpdateValidationOptions::default();
        options.allow_ipv4_link_local_mp_reach_next_hop = self.link_local;
        options.link_local_next_hop = self.link_local;
        let in_body = !update.announced.is_empty();
        let has_nlri = in_body || received.reach.is_some();
        if let Err(bad) = validate_update_attributes_with_context(
            &update.attributes,
            has_nlri,
            in_body,
            !self.internal,
            options,
        ) {
            found.push((bad.error.disposition, bad.type_code, describe(bad.error.subcode)));
        }
        // RFC 7606 section 3 (d): mandatory on every session; the validator asks for it on eBGP only.
        if in_body && received.next_hop.is_none() && !found.iter().any(|(_, code, _)| *code == 3) {
            found.push((ErrorDisposition::TreatAsWithdraw, 3, describe(3)));
        }
        let Some(worst) = found.iter().map(|(disposition, ..)| *disposition).max() else { return Ok(None) };
        self.count(worst);
        for (disposition, code, detail) in found {
            if disposition == ErrorDisposition::SessionReset {
                let error = DecodeError::UpdateAttributeError { subcode: 1, data: Vec::new(), detail };
                return Err(reset(&error, Some(code)));
            }
            notices.push(Notice {
                kind: disposition.as_str(),
                attribute: attribute_name(code),
                prefix: first_announced(update, received),
                routes: announced_len(update, received),
                detail,
            });
        }
        Ok(Some(worst))
    }

    fn count(&mut self, disposition: ErrorDisposition) {
        match disposition {
            ErrorDisposition::AttributeDiscard => self.counts.attribute_discard += 1,
            ErrorDisposition::TreatAsWithdraw => self.counts.treat_as_withdraw += 1,
            ErrorDisposition::SessionReset => self.counts.session_reset += 1,
        }
    }

    fn withdrawals(&self, update: &wire::ParsedUpdate, received: &Received<'_>, changes: &mut Vec<Change>) {
        changes.reserve(update.withdrawn.len() + announced_len(update, received));
        for entry in &update.withdrawn {
            changes
                .push(Change::Withdraw { prefix: prefix_v4(entry.prefix), path_id: PathId(entry.path_id) });
        }
        let Some(unreach) = received.unreach else { return };
        if self.unicast_family(unreach.afi, unreach.safi).is_some() {
            for entry in &unreach.withdrawn {
                changes
                    .push(Change::Withdraw { prefix: prefix(entry.prefix), path_id: PathId(entry.path_id) });
            }
        }
    }

    fn announcements(
        &mut self,
        update: &wire::ParsedUpdate,
        received: &mut Received<'_>,
        verdict: Option<ErrorDisposition>,
        out: &mut Translated,
    ) {
        let refusal = self.checks.refuse(received);
        if let Some(refusal) = &refusal {
            let routes = announced_len(update, received);
            import::count(&mut self.counts, refusal, routes);
            out.notices.extend((routes > 0).then(|| Notice {
                kind: refusal.kind,
                attribute: attribute_name(refusal.code),
                prefix: first_announced(update, received),
                routes,
                detail: refusal.detail.clone(),
            }));
        }
        let usable = verdict != Some(ErrorDisposition::TreatAsWithdraw) && refusal.is_none();
        if !update.announced.is_empty() && !self.families.contains(&Family::V4) {
            self.counts.foreign_family += 1;
        } else if !update.announced.is_empty() {
            let next_hop = received.next_hop.filter(|_| usable);
            let attrs = next_hop.map(IpAddr::V4).map(|addr| match received.reach {
                None => Arc::new(received.take_with_next_hop(addr)),
                Some(_) => Arc::new(received.with_next_hop(addr)),
            });
            let nlri = update.announced.iter().map(|entry| (prefix_v4(entry.prefix), entry.path_id));
            self.announce(nlri, attrs.as_ref(), out);
        }
        let Some(reach) = received.reach else { return };
        if self.unicast_family(reach.afi, reach.safi).is_none() {
            self.counts.foreign_family += 1;
            return;
        }
        let attrs = usable.then(|| Arc::new(received.take_with_next_hop(reach.next_hop)));
        let nlri = reach.announced.iter().map(|entry| (prefix(entry.prefix), entry.path_id));
        self.announce(nlri, attrs.as_ref(), out);
    }

    /// Announces `nlri` with `attrs`, or withdraws it where there are none.
    fn announce(
        &mut self,
        nlri: impl Iterator<Item = (Prefix, u32)>,
        attrs: Option<&Arc<RouteAttrs>>,
        out: &mut Translated,
    ) {
        for (prefix, path_id) in nlri {
            let path_id = PathId(path_id);
            let martian = is_martian(prefix);
            match attrs {
                Some(attrs) if !martian => {
                    out.changes.push(Change::Announce { prefix, path_id, attrs: Arc::clone(attrs) });
                }
                _ => out.changes.push(Change::Withdraw { prefix, path_id }),
            }
            if martian {
                self.counts.martian += 1;
                out.notices.push(Notice {
                    kind: "martian",
                    attribute: "",
                    prefix: Some(prefix),
                    routes: 1,
                    detail: "a destination that is never routed, refused".to_owned(),
                });
            }
        }
    }

    /// The family, where this session negotiated it.
    fn unicast_family(&self, afi: Afi, safi: Safi) -> Option<Family> {
        let family = match (afi, safi) {
            (Afi::Ipv4, Safi::Unicast) => Family::V4,
            (Afi::Ipv6, Safi::Unicast) => Family::V6,
            _ => return None,
        };
        self.families.contains(&family).then_some(family)
    }
}

/// RFC 4724 section 2: an MP_UNREACH_NLRI without NLRI and nothing else.
fn end_of_rib_v6(update: &wire::ParsedUpdate, received: &Received<'_>) -> Option<Family> {
    let unreach = received.unreach?;
    let alone = update.attributes.len() == 1 && update.withdrawn.is_empty() && update.announced.is_empty();
    if !alone || !unreach.withdrawn.is_empty() || unreach.safi != Safi::Unicast {
        return None;
    }
    match unreach.afi {
        Afi::Ipv4 => Some(Family::V4),
        Afi::Ipv6 => Some(Family::V6),
        Afi::L2Vpn | Afi::BgpLs => None,
        // Families the codec may learn of later.
        _ => None,
    }
}

/// Of a pair the global next hop counts (RFC 2545 section 3). A peer without one writes the link-local
/// one alone, or twice (FRR), or after the unspecified address (BIRD).
fn settle_next_hop(attribute: &mut PathAttribute) {
    let PathAttribute::MpReachNlri(reach) = attribute else { return };
    if let (IpAddr::V6(global), Some(local)) = (reach.next_hop, reach.link_local_next_hop)
        && global.is_unspecified()
    {
        reach.next_hop = IpAddr::V6(local);
    }
}

fn announced_len(update: &wire::ParsedUpdate, received: &Received<'_>) -> usize {
    update.announced.len() + received.reach.map_or(0, |reach| reach.announced.len())
}

fn first_announced(update: &wire::ParsedUpdate, received: &Received<'_>) -> Option<Prefix> {
    let in_body = update.announced.first().map(|entry| prefix_v4(entry.prefix));
    in_body.or_else(|| received.reach?.announced.first().map(|entry| prefix(entry.prefix)))
}

fn prefix_v4(prefix: wire::Ipv4Prefix) -> Prefix {
    Prefix::from(Ipv4Net::new(prefix.addr, prefix.len).unwrap_or_else(|_| Ipv4Net::from(prefix.addr)))
}

fn prefix(prefix: wire::Prefix) -> Prefix {
    match prefix {
        wire::Prefix::V4(v4) => prefix_v4(v4),
        wire::Prefix::V6(v6) => {
            Prefix::from(Ipv6Net::new(v6.addr, v6.len).unwrap_or_else(|_| Ipv6Net::from(v6.addr)))
        }
    }
}

/// The words of RFC 4271 section 4.5 for a subcode of UPDATE Message Error.
fn describe(subcode: u8) -> String {
    match subcode {
        1 => "the attribute list is malformed",
        2 => "a well-known attribute is not recognised",
        3 => "a mandatory attribute is missing",
        8 => "the next hop is not an address that packets can be sent to",
        11 => "the AS_PATH is malformed",
        _ => "the value is not allowed",
    }
    .to_owned()
}

fn reset(error: &DecodeError, type_code: Option<u8>) -> Reset {
    let (code, subcode, data) = error.to_notification();
    Reset {
        attribute: type_code.map_or("NLRI", attribute_name),
        detail: error.to_string(),
        notification: wire::NotificationMessage::new(code, subcode, data),
    }
}

#[cfg(test)]
mod tests;
