//! The BIRD configurations of the lab with two borders. Pure: nothing here writes a file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::{Fabric, HOME_A, HOME_B, ONLY_A, Side};
use crate::bird_config::{TIMERS, head};
use crate::topology::{BORDER_AS, CONTENT_V4, CONTENT_V6, ETM_LEARN, Role};

/// Core's address that never goes away.
pub(super) const CORE_V4: &str = "10.255.0.4";
/// IPv6 counterpart of [`CORE_V4`].
pub(super) const CORE_V6: &str = "fd00:255::4";
/// The reflector's address.
pub(super) const REFLECTOR_V4: &str = "10.0.5.1";

/// The configuration of a router; the providers of the sides `withdrawn` announce only every second prefix.
pub(super) fn of((role, fabric): (Role, Fabric), withdrawn: &BTreeSet<Side>, directory: &Path) -> String {
    let head = head(role, directory) + "protocol direct { ipv4; ipv6; }\n";
    match role {
        Role::Border => head + &border(Side::A, fabric),
        Role::BorderB => head + &border(Side::B, fabric),
        Role::Core => head + &core(fabric),
        Role::Reflector => head + &reflector(fabric),
        Role::TransitA => head + &provider(Side::A, withdrawn.contains(&Side::A)),
        Role::TransitB => head + &provider(Side::B, withdrawn.contains(&Side::B)),
        Role::Content | Role::Ix | Role::Sink => head,
    }
}

fn kernel() -> String {
    let export = "export where source = RTS_BGP || source = RTS_STATIC;";
    format!(
        "protocol kernel kernel4 {{ scan time 5; ipv4 {{ import none; {export} }}; }}\n\
         protocol kernel kernel6 {{ scan time 5; ipv6 {{ import none; {export} }}; }}\n"
    )
}

/// What an interior protocol would say: routes to loopbacks that go with the carrier of their link.
fn statics(routes: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (version, channel) in [(false, "ipv4"), (true, "ipv6")] {
        let _ = writeln!(text, "protocol static igp_{channel} {{ {channel}; check link yes;");
        for (prefix, via) in routes.iter().filter(|(prefix, _)| prefix.contains(':') == version) {
            let _ = writeln!(text, "  route {prefix} via {via};");
        }
        text += "}\n";
    }
    text
}

/// Of two equally good routes to these core takes that of the second border: an operator's policy, unknown to borders.
fn likes_b() -> String {
    format!("filter from_b {{ if net ~ [ {} ] then bgp_local_pref = 110; accept; }}\n", HOME_B.join(", "))
}

fn session(name: &str, local: &str, peer: &str, more: &str) -> String {
    format!(
        "protocol bgp {name} {{\n  local {local} as {BORDER_AS}; neighbor {peer} as {BORDER_AS}; {TIMERS} hold time 9;\n  {more}\n}}\n"
    )
}

fn both(channel: &str) -> String {
    format!("ipv4 {{ {channel} }};\n  ipv6 {{ {channel} }};")
}

fn border(side: Side, fabric: Fabric) -> String {
    let (other, provider) = (side.other(), side.provider());
    let (core4, core6, beside4, beside6) = match side {
        Side::A => ("10.0.1.2", "fd00:11::2", "10.0.3.2", "fd00:13::2"),
        Side::B => ("10.0.2.2", "fd00:12::2", "10.0.3.1", "fd00:13::1"),
    };
    let (other_v4, other_v6) =
        (format!("{}/32", other.loopback_v4()), format!("{}/128", other.loopback_v6()));
    let (etm, core_v4, core_v6) =
        (format!("{}/32", other.etm_v4()), format!("{CORE_V4}/32"), format!("{CORE_V6}/128"));
    let mut text = kernel()
        + &statics(&[
            (&other_v4, beside4),
            (&etm, beside4),
            (&other_v6, beside6),
            (&core_v4, core4),
            (&core_v6, core6),
            ("10.0.5.0/24", core4),
            (CONTENT_V4, core4),
            (CONTENT_V6, core6),
        ]);
    for (family, gateway, own, content) in [
        ("4", provider.gateway_v4(), provider.border_v4(), CONTENT_V4),
        ("6", provider.gateway_v6(), provider.border_v6(), CONTENT_V6),
    ] {
        let _ = write!(
            text,
            "protocol bgp provider{family} {{\n  local {own} as {BORDER_AS}; neighbor {gateway} as {};\n  \
             {TIMERS} hold time 30; check link yes;\n  \
             ipv{family} {{ import all; export where net ~ [ {content} ]; }};\n}}\n",
            provider.asn()
        );
    }
    let own = side.loopback_v4();
    let export = format!(
        "ipv4 {{ import all; next hop self; export where source = RTS_BGP; }};\n  \
         ipv6 {{ import all; next hop self; next hop address {}; export where source = RTS_BGP; }};",
        side.loopback_v6()
    );
    match fabric {
        Fabric::Mesh => {
            text += &session("bgp_other", own, other.loopback_v4(), &export);
            text += &session("bgp_core", own, CORE_V4, &export.replace("import all", "import none"));
        }
        Fabric::Reflector | Fabric::CarelessReflector => {
            text += &session("bgp_reflector", own, REFLECTOR_V4, &export);
        }
    }
    text +=
        "# ETM here learns every route of the provider; ETM on the other border what this one uses itself.\n";
    let learn = both("import none; export where source = RTS_BGP; add paths tx;");
    text += &session("etm_learn", "127.0.0.1", ETM_LEARN, &format!("passive; {learn}"));
    let plain = both("import none; export where source = RTS_BGP;");
    text + &session("etm_other", own, other.etm_v4(), &format!("passive; {plain}"))
}

fn core(fabric: Fabric) -> String {
    let mut text = kernel() + &likes_b();
    let loopbacks: Vec<(String, &str)> = Side::BOTH
        .into_iter()
        .flat_map(|side| {
            let (via4, via6) = match side {
                Side::A => ("10.0.1.1", "fd00:11::1"),
                Side::B => ("10.0.2.1", "fd00:12::1"),
            };
            [
                (format!("{}/32", side.loopback_v4()), via4),
                (format!("{}/128", side.loopback_v6()), via6),
                (format!("{}/32", side.etm_v4()), via4),
            ]
        })
        .collect();
    let routes: Vec<(&str, &str)> = loopbacks.iter().map(|(prefix, via)| (prefix.as_str(), *via)).collect();
    text += &statics(&routes);
    let import = both("import all; export none;");
    match fabric {
        Fabric::Mesh => {
            text += &session("bgp_a", CORE_V4, Side::A.loopback_v4(), &import);
            let from_b = both("import filter from_b; export none;");
            text += &session("bgp_b", CORE_V4, Side::B.loopback_v4(), &from_b);
            for side in Side::BOTH {
                text +=
                    &session(&format!("etm_{side}"), CORE_V4, side.etm_v4(), &format!("passive; {import}"));
            }
        }
        Fabric::Reflector | Fabric::CarelessReflector => {
            text += &session("bgp_reflector", "10.0.5.2", REFLECTOR_V4, &import);
        }
    }
    text
}

fn reflector(fabric: Fabric) -> String {
    let mut text = kernel()
        + &statics(&[
            ("10.255.0.0/16", "10.0.5.2"),
            ("10.0.0.0/16", "10.0.5.2"),
            ("fd00:255::/64", "fd00:15::2"),
        ]);
    let export = match fabric {
        Fabric::Reflector => {
            format!("export where source = RTS_BGP && !(({BORDER_AS}, 179) ~ bgp_community);")
        }
        Fabric::Mesh | Fabric::CarelessReflector => "export where source = RTS_BGP;".to_owned(),
    };
    for side in Side::BOTH {
        let to_border = both(&format!("import all; {export}"));
        text += &session(
            &format!("bgp_{side}"),
            REFLECTOR_V4,
            side.loopback_v4(),
            &format!("rr client; {to_border}"),
        );
        let from_etm = both("import all; export none;");
        text += &session(
            &format!("etm_{side}"),
            REFLECTOR_V4,
            side.etm_v4(),
            &format!("rr client; passive; {from_etm}"),
        );
    }
    let to_core = both("import all; export where source = RTS_BGP;");
    text + &session("bgp_core", REFLECTOR_V4, "10.0.5.2", &format!("rr client; {to_core}"))
}

fn provider(side: Side, halved: bool) -> String {
    let provider = side.provider();
    let mut text = kernel().replace("source = RTS_BGP || source = RTS_STATIC", "source = RTS_BGP");
    for (family, own, border, content) in [
        ("4", provider.gateway_v4(), provider.border_v4(), CONTENT_V4),
        ("6", provider.gateway_v6(), provider.border_v6(), CONTENT_V6),
    ] {
        let _ = writeln!(text, "protocol static table{family} {{ ipv{family};");
        let all = HOME_A.iter().chain(&HOME_B).chain([&ONLY_A]).enumerate();
        let prefixes = all.filter(|(i, _)| !halved || i % 2 == 0).map(|(_, prefix)| prefix);
        for prefix in prefixes.filter(|prefix| prefix.contains(':') == (family == "6")) {
            let longer = if *prefix == ONLY_A && side == Side::B {
                " bgp_path.prepend(64801); bgp_path.prepend(64801);"
            } else {
                ""
            };
            let _ = writeln!(text, "  route {prefix} blackhole {{ bgp_path.prepend(64700);{longer} }};");
        }
        let _ = write!(
            text,
            "}}\nprotocol bgp border{family} {{\n  local {own} as {}; neighbor {border} as {BORDER_AS};\n  \
             {TIMERS} hold time 30;\n  \
             ipv{family} {{ import where net ~ [ {content} ]; export where proto = \"table{family}\"; }};\n}}\n",
            provider.asn()
        );
    }
    text
}
