//! The text of every BIRD configuration. Pure: nothing here writes a file.

use std::fmt::Write as _;
use std::path::Path;

use ipnet::IpNet;

use crate::table::Table;
use crate::topology::{BORDER_AS, CONTENT_V4, CONTENT_V6, ETM_INJECT_V4, ETM_LEARN, Provider, Role};

/// Timers of every session: a lab must converge in seconds, and error back-off must not hide a
/// session that could be up again.
pub const TIMERS: &str =
    "connect retry time 1; connect delay time 1; error wait time 1, 2; error forget time 5;";

/// The configuration of a router; `directory` holds its log and its included routes.
pub fn of(role: Role, directory: &Path) -> String {
    let head = head(role, directory);
    match role {
        Role::Border => head + &border(),
        Role::Core => head + &core(),
        Role::TransitA => head + &provider(Provider::TransitA, directory),
        Role::TransitB => head + &provider(Provider::TransitB, directory),
        Role::Ix => head + &provider(Provider::Ix, directory),
        Role::Content | Role::Sink | Role::BorderB | Role::Reflector => head,
    }
}

/// The included file of a provider: its table as static routes with AS paths.
pub fn routes(provider: Provider, table: &Table) -> String {
    let mut v4 = String::new();
    let mut v6 = String::new();
    for (prefix, path) in table.of(provider) {
        let mut prepends = String::new();
        for asn in path.iter().rev() {
            let _ = write!(prepends, " bgp_path.prepend({asn});");
        }
        let text = if matches!(prefix, IpNet::V4(_)) { &mut v4 } else { &mut v6 };
        let _ = writeln!(text, "  route {prefix} blackhole {{{prepends} }};");
    }
    format!("protocol static table4 {{\n  ipv4;\n{v4}}}\nprotocol static table6 {{\n  ipv6;\n{v6}}}\n")
}

/// What every configuration begins with.
pub fn head(role: Role, directory: &Path) -> String {
    format!(
        "# Written by etm-lab for {role}.\n\
         log \"{}/{role}.log\" {{ info, remote, warning, error, auth, fatal, bug }};\n\
         router id {};\n\
         timeformat protocol iso long ms;\n\
         timeformat route iso long ms;\n\
         protocol device {{ scan time 1; }}\n",
        directory.display(),
        role.router_id()
    )
}

const DIRECT: &str = "protocol direct { ipv4; ipv6; }\n";

fn kernel(export: &str) -> String {
    format!(
        "protocol kernel kernel4 {{ scan time 5; ipv4 {{ import none; export {export}; }}; }}\n\
         protocol kernel kernel6 {{ scan time 5; ipv6 {{ import none; export {export}; }}; }}\n"
    )
}

fn border() -> String {
    let mut text = String::from(DIRECT);
    text += &kernel("where source = RTS_BGP");
    // An exchange is preferred where it is as near as it gets: LOCAL_PREF, not only path length.
    text += "filter from_ix {\n  if bgp_path.len <= 2 then bgp_local_pref = 120; else bgp_local_pref = 100;\n  accept;\n}\n";
    for provider in Provider::ALL {
        let import = if provider == Provider::Ix { "filter from_ix" } else { "all" };
        for (family, gateway, own, content) in [
            ("4", provider.gateway_v4(), provider.border_v4(), CONTENT_V4),
            ("6", provider.gateway_v6(), provider.border_v6(), CONTENT_V6),
        ] {
            let name = session_name(provider, family);
            // Providers keep 30 s: under a saturated TBF keepalives are lost, and carrier, not the
            // hold timer, is what tells that a link is gone.
            let _ = write!(
                text,
                "protocol bgp {name} {{\n  local {own} as {BORDER_AS}; neighbor {gateway} as {};\n  \
                 {TIMERS} hold time 30; check link yes;\n  \
                 ipv{family} {{ import {import}; export where net ~ [ {content} ]; }};\n}}\n",
                provider.asn()
            );
        }
    }
    let _ = write!(
        text,
        "protocol bgp core {{\n  local 10.0.9.1 as {BORDER_AS}; neighbor 10.0.9.2 as {BORDER_AS};\n  \
         {TIMERS} hold time 9;\n  \
         ipv4 {{ import none; export where source = RTS_BGP; next hop self; }};\n  \
         ipv6 {{ import none; export where source = RTS_BGP; next hop self; next hop address fd00:9::1; }};\n}}\n\
         # ETM learns here: every route of every provider, next hops as received, nothing accepted.\n\
         protocol bgp etm_learn {{\n  local 127.0.0.1 as {BORDER_AS}; neighbor {ETM_LEARN} as {BORDER_AS}; passive;\n  \
         {TIMERS} hold time 9;\n  \
         ipv4 {{ import none; export where source = RTS_BGP; add paths tx; }};\n  \
         ipv6 {{ import none; export where source = RTS_BGP; add paths tx; }};\n}}\n"
    );
    text
}

fn core() -> String {
    format!(
        "{DIRECT}{}\
         protocol bgp border {{\n  local 10.0.9.2 as {BORDER_AS}; neighbor 10.0.9.1 as {BORDER_AS};\n  \
         {TIMERS} hold time 9;\n  \
         ipv4 {{ import all; export none; }};\n  ipv6 {{ import all; export none; }};\n}}\n\
         # ETM injects here; its next hop is the border's inside address, resolved by `direct`.\n\
         protocol bgp etm_inject {{\n  local 10.0.9.2 as {BORDER_AS}; neighbor {ETM_INJECT_V4} as {BORDER_AS}; passive;\n  \
         {TIMERS} hold time 9;\n  \
         ipv4 {{ import all; export none; }};\n  ipv6 {{ import all; export none; }};\n}}\n",
        kernel("where source = RTS_BGP")
    )
}

fn provider(provider: Provider, directory: &Path) -> String {
    let mut text = kernel("where source = RTS_BGP");
    let _ = writeln!(text, "include \"{}/{provider}.routes\";", directory.display());
    for (family, own, border, content) in [
        ("4", provider.gateway_v4(), provider.border_v4(), CONTENT_V4),
        ("6", provider.gateway_v6(), provider.border_v6(), CONTENT_V6),
    ] {
        let _ = write!(
            text,
            "protocol bgp border{family} {{\n  local {own} as {}; neighbor {border} as {BORDER_AS};\n  \
             {TIMERS} hold time 30;\n  \
             ipv{family} {{ import where net ~ [ {content} ]; export where proto = \"table{family}\"; }};\n}}\n",
            provider.asn()
        );
    }
    text
}

/// Name of the border's session with a provider; family is `4` or `6`.
pub fn session_name(provider: Provider, family: &str) -> String {
    format!("{}_{family}", provider.name().replace('-', "_"))
}
