//! The router of a [`crate::pair`] that is reached over IPv6 alone: its configuration for BIRD, FRR and GoBGP. ETM has three
//! sessions with it, all for both families: as a customer at a global address and at a link-local one, and inside the AS.
//! Never starts anything.

use std::fmt::Write as _;

use crate::pair_plan::{ETM_AS, ETM_V6, PREFIXES, ROUTER_V4, ROUTER_V6, prefix_v4, prefix_v6};

/// ETM's AS where it is the router's customer.
pub const CUSTOMER_OF_ROUTER_AS: u32 = 64511;
/// ETM's address of the session inside the AS.
pub const ETM_CORE_V6: &str = "fd77::11";
/// ETM's link-local address, the same on both links with the router.
pub const ETM_LOCAL: &str = "fe80::1";
/// The router's link-local address, the same on both links with ETM.
pub const ROUTER_LOCAL: &str = "fe80::2";
/// ETM's end of the link that has link-local addresses alone.
pub const LOCAL_LINK: &str = "core1";
/// The router's end of that link.
pub const ROUTER_LOCAL_LINK: &str = "etm1";

/// For BIRD.
pub(crate) fn bird(log: &str) -> String {
    let mut text = format!(
        "log \"{log}\" all;\nrouter id {ROUTER_V4};\nprotocol device {{ }}\nprotocol direct {{ ipv4; ipv6; }}\n"
    );
    for (family, routes) in [("4", prefix_v4 as fn(u32) -> String), ("6", prefix_v6)] {
        let _ = writeln!(text, "protocol static own{family} {{\n  ipv{family};");
        (0..PREFIXES).for_each(|i| {
            let _ = writeln!(text, "  route {} blackhole;", routes(i));
        });
        text += "}\n";
    }
    let sessions = [
        ("far", format!("local {ROUTER_V6}"), ETM_V6.to_owned(), CUSTOMER_OF_ROUTER_AS, ""),
        (
            "near",
            format!("local {ROUTER_LOCAL}"),
            format!("{ETM_LOCAL}%'{ROUTER_LOCAL_LINK}'"),
            CUSTOMER_OF_ROUTER_AS,
            "",
        ),
        ("core", format!("local {ROUTER_V6}"), ETM_CORE_V6.to_owned(), ETM_AS, "passive; "),
    ];
    for (name, local, neighbour, asn, passive) in sessions {
        let _ = writeln!(
            text,
            "protocol bgp {name} {{\n  {local} as {ETM_AS}; neighbor {neighbour} as {asn}; {passive}hold time 9;\n  \
             connect retry time 1; connect delay time 1; error wait time 1, 2; error forget time 5;\n  \
             ipv4 {{ import all; export where source = RTS_STATIC; next hop self; add paths tx; extended next hop on; }};\n  \
             ipv6 {{ import all; export where source = RTS_STATIC; next hop self; add paths tx; }};\n}}"
        );
    }
    text
}

/// For FRR's bgpd.
pub(crate) fn frr() -> String {
    let mut text = format!(
        "hostname router\nrouter bgp {ETM_AS}\n bgp router-id {ROUTER_V4}\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n no bgp default ipv4-unicast\n"
    );
    let sessions =
        [(ETM_V6, CUSTOMER_OF_ROUTER_AS), (ETM_LOCAL, CUSTOMER_OF_ROUTER_AS), (ETM_CORE_V6, ETM_AS)];
    for (neighbour, asn) in sessions {
        let _ = writeln!(text, " neighbor {neighbour} remote-as {asn}");
        if neighbour == ETM_LOCAL {
            let _ = writeln!(text, " neighbor {neighbour} interface {ROUTER_LOCAL_LINK}");
        }
        let _ = write!(
            text,
            " neighbor {neighbour} timers 3 9\n neighbor {neighbour} timers connect 1\n \
             neighbor {neighbour} advertisement-interval 0\n neighbor {neighbour} capability extended-nexthop\n"
        );
    }
    let _ = writeln!(text, " neighbor {ETM_CORE_V6} passive");
    for (family, prefix) in [("ipv4", prefix_v4 as fn(u32) -> String), ("ipv6", prefix_v6)] {
        let _ = writeln!(text, " address-family {family} unicast");
        (0..PREFIXES).for_each(|i| {
            let _ = writeln!(text, "  network {}", prefix(i));
        });
        for (neighbour, _) in sessions {
            let _ = write!(
                text,
                "  neighbor {neighbour} activate\n  neighbor {neighbour} soft-reconfiguration inbound\n"
            );
        }
        text += " exit-address-family\n";
    }
    text
}

/// For GoBGP.
pub(crate) fn gobgp() -> String {
    let mut text = format!("[global.config]\nas = {ETM_AS}\nrouter-id = \"{ROUTER_V4}\"\nport = 179\n");
    let local = format!("{ETM_LOCAL}%{ROUTER_LOCAL_LINK}");
    let sessions = [
        (ETM_V6, CUSTOMER_OF_ROUTER_AS, false),
        (local.as_str(), CUSTOMER_OF_ROUTER_AS, false),
        (ETM_CORE_V6, ETM_AS, true),
    ];
    for (neighbour, asn, passive) in sessions {
        let _ = write!(
            text,
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{neighbour}\"\npeer-as = {asn}\n\
             [neighbors.timers.config]\nhold-time = 9\nkeepalive-interval = 3\nconnect-retry = 2\n\
             idle-hold-time-after-reset = 1\n[neighbors.transport.config]\npassive-mode = {passive}\n"
        );
        for family in ["ipv4-unicast", "ipv6-unicast"] {
            let _ = writeln!(
                text,
                "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\""
            );
        }
    }
    text
}
