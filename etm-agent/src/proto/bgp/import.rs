//! Why a well-formed route is not taken from a peer: loops, wrong neighbours, leaks, no policy.
//! Never judges how an UPDATE is written (RFC 7606 does, in `update`), nor which route is best.

use super::attrs::Received;
use super::negotiated::Negotiated;
use crate::types::bgp::{BgpRole, Dispositions};
use crate::types::{AsPathSegment, Asn, Community};

/// What is asked of a peer's routes beside being well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Import {
    /// Whether anything is taken at all: RFC 8212 wants an explicit yes for external peers.
    pub accept: bool,
    /// Whether an external peer's paths must begin with its AS (RFC 4271 section 6.3); those of a route server do not.
    pub first_as: bool,
    /// Whether an external peer's next hops may be link-local: only where it is itself reached by such an address.
    pub link_local: bool,
    /// Loops that carry this are taken: an announcement of ours that came back must be seen. Whoever asks for them must not
    /// use them.
    pub own: Option<Community>,
}

impl Default for Import {
    /// For internal peers.
    fn default() -> Import {
        Import { accept: true, first_as: true, link_local: false, own: None }
    }
}

/// Why a route is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As in notices and counters.
    pub(super) kind: &'static str,
    /// Type code of the attribute at fault; 0 for none.
    pub(super) code: u8,
    /// In words.
    pub(super) detail: String,
}

/// The checks of one session.
#[derive(Clone, Debug)]
pub(super) struct Checks {
    local_as: Asn,
    peer_as: Asn,
    internal: bool,
    role: Option<BgpRole>,
    import: Import,
}

impl Checks {
    pub(super) fn of(session: &Negotiated, import: Import) -> Checks {
        Checks {
            local_as: session.local_as,
            peer_as: session.peer_as,
            internal: session.is_internal(),
            role: session.role,
            import,
        }
    }

    /// Why the routes of an UPDATE are not taken, all of them alike; adds what RFC 9234 section 5 adds.
    pub(super) fn refuse(&self, received: &mut Received<'_>) -> Option<Refusal> {
        if !self.import.accept {
            let detail =
                "no import policy for this external peer (RFC 8212); set accept = \"all\" on its session, or a policy"
                    .to_owned();
            return Some(Refusal { kind: "no-policy", code: 0, detail });
        }
        if self.internal {
            return None;
        }
        let is_ours = self.import.own.is_some_and(|own| received.communities().contains(&own));
        if has_as(received, self.local_as) && !is_ours {
            let detail = format!("{} is our own AS", self.local_as);
            return Some(Refusal { kind: "as-loop", code: 2, detail });
        }
        let first = received.as_path().first();
        if self.import.first_as
            && self.role != Some(BgpRole::RouteServerClient)
            && first != Some(self.peer_as)
        {
            let detail = format!("the path does not begin with {}, the peer's AS", self.peer_as);
            return Some(Refusal { kind: "first-as", code: 2, detail });
        }
        self.leak(received)
    }

    /// RFC 9234 section 5, by the role configured here: the peer need not know of roles.
    fn leak(&self, received: &mut Received<'_>) -> Option<Refusal> {
        let mark = received.customers_of();
        let detail = match (self.role?, mark) {
            (BgpRole::Provider | BgpRole::RouteServer, Some(asn)) => {
                format!("a customer announces what {asn} gave to customers only")
            }
            (BgpRole::Peer, Some(asn)) if asn != self.peer_as => {
                format!("a peer announces what {asn} gave to customers only")
            }
            (BgpRole::Customer | BgpRole::Peer | BgpRole::RouteServerClient, None) => {
                received.only_to_customer(self.peer_as);
                return None;
            }
            _ => return None,
        };
        Some(Refusal { kind: "leak", code: 35, detail })
    }
}

/// Counts `routes` refused routes.
pub(super) fn count(counts: &mut Dispositions, refusal: &Refusal, routes: usize) {
    let counter = match refusal.kind {
        "no-policy" => &mut counts.no_policy,
        "as-loop" => &mut counts.as_loop,
        "first-as" => &mut counts.first_as,
        _ => &mut counts.leak,
    };
    *counter += u64::try_from(routes).unwrap_or(u64::MAX);
}

fn has_as(received: &Received<'_>, asn: Asn) -> bool {
    received.as_path().0.iter().any(|segment| match segment {
        AsPathSegment::Sequence(asns) | AsPathSegment::Set(asns) => asns.contains(&asn),
    })
}
