//! Whether a route may serve as a candidate, beside the operator's rules. Never says how good it is.

use super::attrs::AttrsRef;
use crate::core::topology::Topology;
use crate::types::{ExitId, PeerId, Prefix};

/// True where a route of `peer` may be used through `exit` as things are.
pub(super) fn admissible(
    attrs: AttrsRef<'_>,
    (prefix, peer, exit): (Prefix, PeerId, ExitId),
    topology: &Topology,
) -> bool {
    let by_provider = match (topology.asn_of(exit), attrs.first_as()) {
        (Some(asn), Some(first)) => asn == first,
        // A static candidate has no path; without a configured AS nothing can be said.
        (_, None) | (None, _) => true,
    };
    let linked = topology.uplink_of(exit).is_some_and(|uplink| topology.link(uplink).up);
    let usable = by_provider && linked && !attrs.is_blackhole();
    // What cannot be announced (RFC 9774) cannot be used elsewhere.
    let sendable = || !topology.is_elsewhere(exit) || !attrs.has_set();
    usable && topology.speaks_for(peer, exit) && topology.can_reach(prefix, exit) && sendable()
}
