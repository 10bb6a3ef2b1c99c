//! Capabilities (RFC 5492) in the words operators read, and the families ETM speaks.
//! Never decides what is offered: the machine does.

use crate::types::Family;
use crate::types::bgp::BgpRole;
use rustbgpd_wire as wire;
use wire::{AddPathMode, Afi, Capability, Safi};

/// The family, where it is one of ETM's.
pub(super) fn family_of(afi: Afi, safi: Safi) -> Option<Family> {
    match (afi, safi) {
        (Afi::Ipv4, Safi::Unicast) => Some(Family::V4),
        (Afi::Ipv6, Safi::Unicast) => Some(Family::V6),
        _ => None,
    }
}

/// The numbers of a family.
pub(super) fn afi(family: Family) -> Afi {
    match family {
        Family::V4 => Afi::Ipv4,
        Family::V6 => Afi::Ipv6,
    }
}

/// Our role for the codec.
pub(super) fn role_out(role: BgpRole) -> wire::BgpRole {
    match role {
        BgpRole::Provider => wire::BgpRole::Provider,
        BgpRole::RouteServer => wire::BgpRole::RouteServer,
        BgpRole::RouteServerClient => wire::BgpRole::RouteServerClient,
        BgpRole::Customer => wire::BgpRole::Customer,
        BgpRole::Peer => wire::BgpRole::Peer,
    }
}

/// One word or two for each capability, in the order offered.
pub(super) fn words(capabilities: &[Capability]) -> Vec<String> {
    capabilities.iter().map(word).collect()
}

fn word(capability: &Capability) -> String {
    match capability {
        Capability::MultiProtocol { afi, safi } => family_word(*afi, *safi),
        Capability::ExtendedNextHop(_) => "extended-next-hop".to_owned(),
        Capability::GracefulRestart { restart_time, families, notification, .. } => {
            let of = families.iter().map(|family| family_word(family.afi, family.safi));
            let n = if *notification { " n-bit" } else { "" };
            match families.is_empty() {
                true => format!("graceful-restart helper{n}"),
                false => {
                    format!("graceful-restart {restart_time}s{n} {}", of.collect::<Vec<_>>().join(" "))
                }
            }
        }
        Capability::RouteRefresh => "route-refresh".to_owned(),
        Capability::EnhancedRouteRefresh => "enhanced-route-refresh".to_owned(),
        Capability::ExtendedMessage => "extended-message".to_owned(),
        Capability::LinkLocalNextHop => "link-local-next-hop".to_owned(),
        Capability::LongLivedGracefulRestart(_) => "long-lived-graceful-restart".to_owned(),
        Capability::AddPath(families) => {
            let of = families.iter().map(|family| {
                let way = match family.send_receive {
                    AddPathMode::Receive => "receive",
                    AddPathMode::Send => "send",
                    AddPathMode::Both => "both",
                };
                format!("{} {way}", family_word(family.afi, family.safi))
            });
            format!("add-path {}", of.collect::<Vec<_>>().join(", "))
        }
        Capability::PathsLimit(_) => "paths-limit".to_owned(),
        Capability::OutboundRouteFilter(_) => "outbound-route-filter".to_owned(),
        Capability::FourOctetAs { asn } => format!("as4 {asn}"),
        Capability::Role { role } => format!("role {}", role_word(*role)),
        Capability::Unknown { code, .. } => format!("capability {code}"),
        _ => "a capability ETM does not know".to_owned(),
    }
}

fn family_word(afi: Afi, safi: Safi) -> String {
    match family_of(afi, safi) {
        Some(family) => format!("{family}-unicast"),
        None => format!("{afi:?}-{safi:?}").to_lowercase(),
    }
}

fn role_word(role: wire::BgpRole) -> &'static str {
    match role {
        wire::BgpRole::Provider => "provider",
        wire::BgpRole::RouteServer => "route-server",
        wire::BgpRole::RouteServerClient => "route-server-client",
        wire::BgpRole::Customer => "customer",
        wire::BgpRole::Peer => "peer",
        _ => "unknown",
    }
}
