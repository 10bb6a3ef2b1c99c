//! Good and bad configurations, and what is said about them.

use super::*;
use crate::config::settings::AgentSettings;
use crate::core::billing::{Billing, Layer};
use crate::core::policy::{Contract, Guards, Mode, PriceList, Role, Uplink};
use crate::core::route_rules::Verdict;
use crate::types::{BitRate, Community, ExitId, Family, Share, UplinkId};
use std::time::Duration;

const GOOD: &str = r#"
[[interface]]
name = "up-a"
capacity = "50Mbit"
limit = "90%"
[[provider]]
name = "transit-a"
exits = [{ interface = "up-a", gateways = ["10.1.0.1"] }]
[[static_route]]
prefix = "198.18.0.0/24"
exit = "transit-a"
"#;

fn report(text: &str) -> String {
    parse("etm.toml", text).expect_err("the configuration should be refused").to_string()
}

/// The example with every commented key in force.
fn all_keys() -> String {
    EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            // Prose has no equals sign after its first word.
            Some(rest)
                if rest.starts_with('[')
                    || rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) =>
            {
                rest
            }
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn the_example_is_good_and_so_is_every_commented_default_in_it() {
    let settings = parse("example", EXAMPLE).unwrap();
    assert_eq!(settings.policy.mode, Mode::Observe);
    let full = parse("example, all keys", &all_keys()).unwrap_or_else(|error| panic!("{error}"));
    // The defaults that are shown are the defaults that hold.
    assert_eq!(
        (full.policy.hold, full.policy.max_overrides),
        (settings.policy.hold, settings.policy.max_overrides)
    );
    assert_eq!(full.kernel, settings.kernel);
    assert_eq!(full.datapath, settings.datapath);
    // Who it runs as has no default: it stays who it is.
    assert_eq!(AgentSettings { user: None, ..full.agent.clone() }, settings.agent);
    assert_eq!(full.record, settings.record);
    let bare = |settings: &Settings| -> Vec<Uplink> {
        let own = settings.policy.own_uplinks();
        let uplinks = settings.policy.uplinks.iter().take(own).cloned();
        uplinks.map(|uplink| Uplink { port: None, contract: Contract::default(), ..uplink }).collect()
    };
    assert_eq!(bare(&full), bare(&settings));
    assert_eq!(PriceList { overload: None, ..full.policy.prices }, settings.policy.prices);
    assert_eq!((full.policy.guards, &full.policy.canary), (settings.policy.guards, &settings.policy.canary));
    assert_eq!(full.policy.guards, Guards::default());
    assert_eq!(full.policy.max_moved_per_minute, settings.policy.max_moved_per_minute);
    assert_eq!(
        (full.policy.fill_share, full.policy.approval),
        (settings.policy.fill_share, settings.policy.approval)
    );
    assert_eq!((full.policy.ports.len(), full.policy.pins.len(), full.policy.forbidden.len()), (2, 1, 1));
    assert_eq!(full.bgp.unwrap().hold_time, settings.bgp.unwrap().hold_time);
}

#[test]
fn a_small_file_gets_safe_defaults() {
    let settings = parse("etm.toml", GOOD).unwrap();
    assert_eq!(settings.policy.mode, Mode::Observe);
    assert_eq!(settings.policy.interval, Duration::from_secs(1));
    let uplink = &settings.policy.uplinks[0];
    assert_eq!((uplink.capacity, uplink.limit), (BitRate(50_000_000), Share::percent(90)));
    assert_eq!(settings.policy.uplink_of(ExitId(0)), Some(UplinkId(0)));
    assert_eq!(settings.kernel.lease, Duration::from_secs(10));
}

#[test]
fn sessions_get_names_roles_and_our_community() {
    let settings = parse("example", EXAMPLE).unwrap();
    let roles: Vec<Role> = settings.policy.peers.iter().map(|peer| peer.role).collect();
    assert_eq!(roles, [Role::Learn, Role::Inject]);
    assert_eq!(settings.policy.community, "64500:179".parse::<Community>().unwrap());
    // Four octets do not fit: what is taken instead must be what may be written by hand, too.
    let large = EXAMPLE.replace("64500", "4200000000");
    let taken = parse("example", &large).unwrap().policy.community;
    assert_eq!(taken, "65534:179".parse::<Community>().unwrap());
    let written = large.replacen("[bgp]\n", "[bgp]\ncommunity = \"65534:179\"\n", 1);
    assert_ne!(written, large);
    assert_eq!(parse("example", &written).unwrap().policy.community, taken);
}

#[test]
fn an_unknown_key_is_shown_with_line_and_caret() {
    let text = report(&GOOD.replace("capacity", "capcity"));
    assert!(text.contains("unknown field `capcity`"), "{text}");
    assert!(text.contains("etm.toml:4:1") && text.contains("^^^^^^^"), "{text}");
}

#[test]
fn an_uplink_is_billed_as_its_providers_say() {
    let more = "exits = [{ interface = \"up-a\", gateways = [\"10.1.0.9\"] }]";
    let text =
        GOOD.replace("name = \"transit-a\"\n", "name = \"transit-a\"\nbilling = \"l1\"\nbilled_tags = 1\n");
    let second = format!("{text}[[provider]]\nname = \"peer\"\nbilling = \"l1\"\nbilled_tags = 1\n{more}\n");
    let settings = parse("etm.toml", &second).unwrap();
    assert_eq!(settings.policy.uplinks[0].billing, Billing::new(Layer::Wire, 1));
    assert_eq!(parse("etm.toml", GOOD).unwrap().policy.uplinks[0].billing, Billing::default());

    let third = format!("{text}[[provider]]\nname = \"peer\"\n{more}\n");
    let said = report(&third);
    for words in
        ["interface `up-a` is billed as l2 by `peer` and as l1 +1 tags by `transit-a`", "the same `billing`"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    for (from, to, words) in [
        ("\"l1\"", "\"ethernet\"", "`ethernet` is no basis of billing"),
        ("= 1", "= 3", "between -2 and 2"),
        ("\"l1\"", "\"l3\"", "no tag is billed"),
    ] {
        let said = report(&text.replacen(from, to, 1));
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn own_sources_are_read_and_refused_where_they_say_nothing() {
    let with = |lines: &str| format!("{GOOD}[kernel]\n{lines}\n");
    let settings =
        parse("etm.toml", &with("local_output = [\"203.0.113.0/24\", \"2001:db8:7::/48\"]")).unwrap();
    let sources: Vec<String> = settings.kernel.local_output.iter().map(ToString::to_string).collect();
    assert_eq!(sources, ["203.0.113.0/24", "2001:db8:7::/48"]);
    assert_eq!(parse("etm.toml", GOOD).unwrap().kernel.local_output, []);
    let many = format!("local_output = [{}]", "\"203.0.113.0/24\", ".repeat(257));
    for (lines, words) in [
        ("mode = \"main\"\nlocal_output = [\"203.0.113.0/24\"]", "anyhow: remove kernel.local_output"),
        ("local_output = [\"nonsense\"]", "nonsense"),
        (&*many, "at most 256 prefixes"),
    ] {
        let said = report(&with(lines));
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn every_fault_is_reported_not_only_the_first() {
    let bad = GOOD
        .replace("50Mbit", "50Mbps")
        .replace("90%", "190%")
        .replace("interface = \"up-a\"", "interface = \"up-x\"");
    let text = report(&bad);
    for part in
        ["means bytes to tc(8)", "at most 100%", "no [[interface]] is named `up-x`", "described are: up-a"]
    {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
}

#[test]
fn two_exits_may_have_the_same_link_local_gateway_on_two_interfaces() {
    let second = "[[interface]]\nname = \"up-b\"\ncapacity = \"50Mbit\"\n\
                  [[provider]]\nname = \"transit-b\"\nexits = [{ interface = \"up-b\", gateways = [\"fe80::1\"] }]\n";
    let text = format!("{}{second}", GOOD.replace("\"10.1.0.1\"", "\"10.1.0.1\", \"fe80::1\""));
    let policy = parse("etm.toml", &text).unwrap().policy;
    assert!(policy.exits.iter().all(|exit| exit.gateways.contains(&"fe80::1".parse().unwrap())));
}

fn tiers(list: &str) -> String {
    GOOD.replace("limit", &format!("tiers = [{list}]\nlimit"))
}

#[test]
fn faults_of_meaning_say_what_to_write() {
    let bgp = "[bgp]\nasn = 64500\nrouter_id = \"10.0.0.1\"\n";
    let bmp = "[[bmp.router]]\nname = \"edge2\"\naddress = \"10.0.0.5\"\n";
    let cases = [
        ("", "no uplink is described"),
        (&*GOOD.replace("198.18.0.0/24", "198.18.0/24"), "is not a prefix; write it like"),
        (&*GOOD.replace("10.1.0.1", "fd00::1"), "exit `transit-a` has no ipv4 gateway"),
        (
            &*GOOD.replace("\"10.1.0.1\"", "\"10.1.0.1\", \"fe80::1\", \"fe80::1\""),
            "gateway fe80::1 is that of exit",
        ),
        (
            &*format!(
                "{GOOD}{bgp}[[bgp.session]]\nname = \"core\"\nrole = \"inject\"\npeer = \"10.0.0.9\"\nnext_hops = [\"fe80::1\"]\n"
            ),
            "next hop fe80::1 of session `core` is link-local",
        ),
        (&*format!("{GOOD}{bgp}hold_time = \"30s\"\n"), "must not exceed kernel.lease"),
        (&*format!("{GOOD}{}", bgp.replace("64500", "0")), "AS 0 is reserved"),
        (
            &*format!(
                "{GOOD}{bgp}[[bgp.session]]\nname = \"core\"\nrole = \"inject\"\npeer = \"10.0.0.9\"\n"
            ),
            "has no next hop to announce",
        ),
        (&*format!("[agent]\nmode = \"enforce\"\n{GOOD}"), "no inside interface is named"),
        (&*format!("[kernel]\ninside = [\"up-a\"]\n{GOOD}"), "it cannot be inside too"),
        (&*format!("[datapath]\nxdp = [\"eth0\"]\n{GOOD}"), "is not in kernel.inside"),
        (
            &*format!("[policy]\nsplit = true\n[kernel]\nmode = \"main\"\n{GOOD}"),
            "policy.split needs kernel.mode = \"lease\"",
        ),
        (
            &*format!(
                "[policy]\nsplit = true\n[kernel]\ninside = [\"in0\"]\n[datapath]\nxdp = [\"in0\"]\n{GOOD}"
            ),
            "policy.split is not for forwarders in XDP",
        ),
        (
            &*format!("[policy]\nsplit = true\n[policy.canary]\nshare = \"5%\"\n{GOOD}"),
            "policy.split needs policy.canary.share",
        ),
        (&*format!("[kernel]\ntable = 254\n{GOOD}"), "tables 0 and 252 to 255 are the system's"),
        (&*format!("[kernel]\nmark = 3\nmask = 1\n{GOOD}"), "made of bits of the mask"),
        (&*format!("[agent]\ninterval = \"5ms\"\n{GOOD}"), "between 100ms and 60s"),
        (&*format!("[agent]\ninterval = \"10s\"\nstale_after = \"15s\"\n{GOOD}"), "before two intervals"),
        (&*format!("[agent]\ninterval = \"4s\"\n{GOOD}"), "at least three times agent.interval"),
        (&*format!("[agent]\nmode = \"on\"\n{GOOD}"), "unknown variant `on`"),
        (&*format!("[agent]\nmode = \"approve\"\n{GOOD}"), "mode is \"approve\", but no inside"),
        (&*tiers("{ price = \"0.5\" }, { price = \"0.6\" }"), "a tier before the last ends somewhere"),
        (&*tiers("{ up_to = \"5Mbit\", price = \"0.5\" }"), "the last tier has no end"),
        (
            &*tiers("{ up_to = \"5Mbit\", price = \"0.5\" }, { price = \"0.4\" }"),
            "tier 2 costs 0.4 after 0.5",
        ),
        (
            &*tiers(
                "{ up_to = \"5Mbit\", price = \"0\" }, { up_to = \"4Mbit\", price = \"1\" }, { price = \"1\" }",
            ),
            "tiers ascend",
        ),
        (&*tiers("{ price = \"a lot\" }"), "is not a price"),
        (&*GOOD.replace("limit", "commit = \"1Mbit\"\nlimit"), "a commitment without `tiers`"),
        (&*GOOD.replace("limit", "port = \"card\"\nlimit"), "no [[port]] above is named `card`"),
        (
            &*format!(
                "[prices]\noverload = \"1\"\n{}",
                tiers("{ up_to = \"5Mbit\", price = \"0\" }, { price = \"1\" }")
            ),
            "relief would not come first; give at least 10",
        ),
        (&*format!("[prices]\npayback = \"1s\"\n{GOOD}"), "give 1m or more"),
        (&*format!("{GOOD}[[pin]]\nprefix = \"198.18.0.0/24\"\nexit = \"x\"\n"), "no exit is named `x`"),
        (
            &*GOOD.replace("[[static_route]]\nprefix = \"198.18.0.0/24\"\nexit = \"transit-a\"\n", ""),
            "ETM would know no route",
        ),
        ("[[interface]\n", "etm.toml:1"),
        (&*format!("{GOOD}{bmp}"), "ETM listens nowhere"),
        (&*format!("{GOOD}{bmp}connect = 0\n"), "port 0"),
        (&*format!("{GOOD}{bmp}connect = 1\nsession = \"core\"\n"), "role \"inject\" is named `core`"),
        (&*format!("{GOOD}{bmp}connect = 1\n"), "nothing of it is used"),
        (
            &*format!("{GOOD}{bmp}connect = 1\npeers = [{{ address = \"10.1.0.1\", provider = \"x\" }}]\n"),
            "no [[provider]] is named `x`",
        ),
        (&*format!("{GOOD}{bmp}connect = 1\ncomplete_after = \"1ms\"\n"), "between 1s and 10m"),
    ];
    for (text, part) in cases {
        let report = report(text);
        assert!(report.contains(part), "`{part}` is missing in\n{report}");
    }
}

/// GOOD with these lines in one BGP session.
fn with_session(lines: &str) -> String {
    format!(
        "{GOOD}\n[bgp]\nasn = 64500\nrouter_id = \"10.0.0.9\"\n[[bgp.session]]\nname = \"s\"\nrole = \"learn\"\n{lines}\n"
    )
}

#[test]
fn a_session_is_internal_active_and_open_unless_it_says_otherwise() {
    let settings = parse("etm.toml", &with_session("peer = \"10.0.0.1\"")).unwrap();
    let session = &settings.bgp.as_ref().unwrap().sessions[0];
    assert!(session.transport.dials && !session.transport.listens);
    assert_eq!(session.transport.reach, ReachSettings::Usual);
    assert_eq!(session.transport.key, KeySettings::None);
    assert!(session.import.accept && session.import.max_routes.is_none());
    let external = with_session("peer = \"10.0.0.1\"\npeer_as = 64601");
    let settings = parse("etm.toml", &external).unwrap();
    assert!(!settings.bgp.unwrap().sessions[0].import.accept, "RFC 8212");
    let full = "peer = \"fe80::1%eth0\"\nlocal = \"fe80::2\"\npeer_as = 64601\naccept = \"all\"\nconnect = \"both\"\n\
                gtsm = 2\nmd5_key_file = \"/k\"\nbgp_role = \"customer\"\n\
                max_routes = { limit = 100, beyond = \"drop\" }\nretain = \"0s\"";
    let settings = parse("etm.toml", &with_session(full)).unwrap();
    let session = &settings.bgp.as_ref().unwrap().sessions[0];
    assert_eq!(session.interface.as_deref(), Some("eth0"));
    assert_eq!(session.transport.reach, ReachSettings::Gtsm(2));
    let maximum = session.import.max_routes.unwrap();
    assert_eq!((maximum.limit, maximum.warn_at, maximum.beyond), (100, 80, BeyondSettings::Drop));
    assert_eq!(session.import.retain, Duration::ZERO);
}

#[test]
fn sessions_that_cannot_be_meant_are_refused() {
    for (lines, words) in [
        ("peer = \"here\"", "is not an address"),
        ("peer = \"fe80::1\"", "write its interface too"),
        ("peer = \"10.0.0.1%eth0\"", "without an interface"),
        ("peer = \"10.0.0.1\"\nconnect = \"passive\"", "waits for its peer, but on no address"),
        ("peer = \"10.0.0.1\"\ngtsm = 1\nmultihop = 2", "exclude each other"),
        ("peer = \"10.0.0.1\"\ngtsm = 0", "at least 1 hop away"),
        ("peer = \"10.0.0.1\"\nmd5_key_file = \"/a\"\nao = { key_file = \"/b\" }", "exclude each other"),
        ("peer = \"10.0.0.1\"\nbgp_role = \"peer\"", "for external peers"),
        ("peer = \"10.0.0.1\"\nmax_routes = { limit = 0 }", "must be above zero"),
        ("peer = \"10.0.0.1\"\nannounce_rate = 0", "announces nothing"),
    ] {
        let report = report(&with_session(lines));
        assert!(report.contains(words), "{lines}: {report}");
    }
}

#[test]
fn an_inject_session_into_a_border_needs_a_word_of_its_own() {
    let both = |more: &str| {
        let inject = format!(
            "[[bgp.session]]\nname = \"i\"\nrole = \"inject\"\npeer = \"10.0.0.1\"\nnext_hops = [\"10.0.0.2\"]\n{more}"
        );
        with_session("peer = \"10.0.0.1\"") + &inject
    };
    let refused = report(&both(""));
    assert!(refused.contains("10.0.0.1 is a border") && refused.contains("into_border = true"), "{refused}");
    assert!(parse("etm.toml", &both("into_border = true")).is_ok());
}

#[test]
fn rules_about_routes_are_read_in_order() {
    let rules = parse("example", &all_keys()).map(|settings| settings.policy.route_rules).unwrap();
    let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["no-customers-by-exchange", "likes-transit-b"]);
    assert_eq!(rules[1].verdict, Verdict::Accept { preference: Some(150) });
    let listed = |prefix: &str| rules[0].prefixes.contains(prefix.parse().unwrap());
    assert!(listed("203.0.113.0/25") && listed("198.51.101.0/24") && !listed("198.51.100.0/22"));
}

#[test]
fn faults_in_rules_are_named() {
    let rule = |text: &str| format!("{GOOD}\n[[policy.route]]\nname = \"r\"\n{text}\n");
    let list = "\n[[policy.prefix_list]]\nname = \"l\"\nprefixes = [\"198.18.0.0/15 le 24\"]\n";
    for (text, words) in [
        (rule("action = \"deny\"\npreference = 5"), "a route that is denied has no preference"),
        (
            rule("action = \"deny\"\nprefixes = [\"198.18.0.0/15 ge 10\"]"),
            "holds no prefix: lengths must go up",
        ),
        (rule("action = \"deny\"\nprefix_lists = [\"x\"]"), "no [[policy.prefix_list]] is named `x`"),
        (
            rule("action = \"deny\"\nas_paths = [\"^64601_\"]"),
            "`^64601_` is not part of a pattern of AS paths",
        ),
        (rule("action = \"deny\"\ncommunities = [\"5\"]"), "is not a community"),
        (rule("action = \"deny\"\nlarge_communities = [\"5:5\"]"), "is not a large community"),
        (rule("action = \"deny\"\nsessions = [\"x\"]"), "no [[bgp.session]] is named `x`"),
        (rule("action = \"refuse\""), "unknown variant `refuse`"),
        (format!("{GOOD}{list}"), "no rule uses prefix list `l`"),
        (
            format!("{}{list}{list}", rule("action = \"deny\"\nprefix_lists = [\"l\"]")),
            "prefix list `l` is described twice",
        ),
    ] {
        let said = report(&text);
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn monitored_peers_are_sources_with_numbers_after_those_of_the_sessions() {
    let text = format!(
        "{EXAMPLE}\n[bmp]\nlisten = [\"10.0.0.3:11019\"]\n[[bmp.router]]\nname = \"edge2\"\naddress = \"10.0.0.5\"\n\
         session = \"core\"\npeers = [{{ address = \"198.51.100.1\", provider = \"transit-b\" }}]\n"
    );
    let settings = parse("example", &text).unwrap_or_else(|error| panic!("{error}"));
    let source = &settings.policy.peers[2];
    assert_eq!(
        (source.name.as_str(), source.role, source.monitored),
        ("edge2/198.51.100.1", Role::Learn, true)
    );
    let router = &settings.bmp.unwrap().routers[0];
    assert_eq!((router.peers[0].peer.0, router.session.as_ref().unwrap().0.0), (2, 1));
}

/// A second border with one exit, `lines` in its table, and an inject session to `core`.
fn with_border(lines: &str, core: &str) -> String {
    with_session("peer = \"10.255.0.2\"\nlocal = \"10.255.1.1\"")
        + &format!(
            "[[bgp.session]]\nname = \"core\"\nrole = \"inject\"\npeer = \"{core}\"\nnext_hops = [\"10.255.0.1\", \"fd00::1\"]\n\
             [[interface]]\nname = \"up-b\"\ncapacity = \"20Mbit\"\nborder = \"edge-b\"\n\
             [[provider]]\nname = \"transit-b\"\nexits = [{{ interface = \"up-b\", gateways = [\"10.2.0.1\"] }}]\n\
             [[border]]\nname = \"edge-b\"\n{lines}\n"
        )
}

#[test]
fn the_exits_of_another_border_have_next_hops_of_their_own() {
    let text = with_border("session = \"s\"\nnext_hops = [\"10.255.0.2\"]", "10.255.0.4");
    let settings = parse("etm.toml", &text).unwrap_or_else(|error| panic!("{error}"));
    let (policy, sessions) = (&settings.policy, &settings.bgp.as_ref().unwrap().sessions);
    assert_eq!((policy.uplinks.len(), policy.own_uplinks()), (2, 1));
    let border = &policy.borders[0];
    assert_eq!((border.session.0, &border.uplinks[..]), (0, &[UplinkId(1)][..]));
    assert_eq!(border.families, [Family::V4], "there is no IPv6 next hop for it");
    assert!(!sessions[0].import.add_path, "what it uses itself is its one route");
    assert_eq!(sessions[1].exit_next_hops, [(ExitId(1), vec!["10.255.0.2".parse().unwrap()])]);
    assert_eq!(sessions[1].elsewhere, [ExitId(1)]);
}

#[test]
fn borders_that_cannot_be_meant_are_refused() {
    let good = "session = \"s\"\nnext_hops = [\"10.255.0.2\"]";
    let two = "session = \"s\"\nnext_hops = [\"10.0.0.1\", \"10.0.0.2\"]";
    for (lines, core, words) in [
        (&good.replace("\"s\"", "\"core\"")[..], "10.255.0.4", "with role \"learn\" is named `core`"),
        ("session = \"s\"\nnext_hops = []", "10.255.0.4", "one address of the border per family"),
        (two, "10.255.0.4", "one address of the border"),
        (good, "10.255.0.2", "10.255.0.2 is border `edge-b`"),
    ] {
        let report = report(&with_border(lines, core));
        assert!(report.contains(words), "{lines}: {report}");
    }
    let unknown = report(&GOOD.replace("limit =", "border = \"edge\"\nlimit ="));
    assert!(unknown.contains("no [[border]] is named `edge`"), "{unknown}");
    let bare = report(&format!("{GOOD}\n[[border]]\nname = \"edge\"\nsession = \"s\"\nnext_hops = []\n"));
    assert!(bare.contains("border `edge` has no interface"), "{bare}");
}

#[test]
fn guards_and_canary_are_read_and_nonsense_in_them_is_refused() {
    let text = format!(
        "{GOOD}[policy]\nmax_moves_per_minute = 7\n[policy.confirm]\nwithin = \"3s\"\nretry = \"5m\"\n\
         [policy.surge]\nfactor = 4\nlasts = \"1m\"\n\
         [policy.canary]\nshare = \"5%\"\nprefixes = [\"198.18.0.0/16\"]\n"
    );
    let policy = parse("etm.toml", &text).unwrap().policy;
    assert_eq!((policy.guards.max_moves_per_minute, policy.guards.surge_factor), (7, 4));
    assert_eq!(policy.guards.confirm_retry, Duration::from_secs(300));
    assert!(policy.canary.is_partial() && policy.canary.admits("198.18.3.0/24".parse().unwrap()));
    assert!(!policy.canary.admits("198.19.0.0/24".parse().unwrap()));
    for (table, words) in [
        ("[policy.confirm]\nwithin = \"2m\"", "within 60s"),
        ("[policy.confirm]\nretry = \"100ms\"", "before the next sample"),
        ("[policy.surge]\nfactor = 1", "at least twice"),
        ("[policy.canary]\nshare = \"0%\"", "above 0%"),
        ("[policy.canary]\nshare = \"101%\"", "at most 100%"),
        ("[policy.canary]\nprefixes = [\"nonsense\"]", "nonsense"),
        ("[policy]\nmax_moves_per_minute = 0", "observe"),
        ("[agent]\norders_file = \"here\"", "absolute path"),
    ] {
        let said = report(&format!("{GOOD}{table}\n"));
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_canary_of_flows_needs_marks_and_one_of_prefixes_does_not() {
    let main = format!("{GOOD}[kernel]\nmode = \"main\"\n[policy.canary]\n");
    let said = report(&format!("{main}share = \"5%\"\n"));
    assert!(
        said.contains("no mark chooses a share of its flows") && said.contains("canary.prefixes"),
        "{said}"
    );
    assert!(said.contains("^^^^"), "shown where it stands: {said}");
    for good in ["share = \"100%\"\n", "prefixes = [\"198.18.0.0/16\"]\n"] {
        assert!(!parse("etm.toml", &format!("{main}{good}")).unwrap().policy.canary.is_partial(), "{good}");
    }
}

#[test]
fn what_belongs_to_somebody_else_or_to_nobody_is_refused_with_what_to_do() {
    let agent = |line: &str| format!("[agent]\n{line}\n{GOOD}");
    let kernel = |line: &str| format!("{GOOD}[kernel]\n{line}\n");
    let bgp = |line: &str, hops: &str| {
        format!(
            "{GOOD}[bgp]\nasn = 64500\nrouter_id = \"10.0.0.2\"\n{line}\n[[bgp.session]]\nname = \"i\"\n\
             role = \"inject\"\npeer = \"10.0.0.1\"\n{hops}\n"
        )
    };
    let hops = |list: &str| bgp("", &format!("next_hops = [{list}]"));
    let good_hops = "next_hops = [\"10.0.0.2\"]";
    for good in [bgp("community = \"64500:65281\"\nlocal_pref = 1", good_hops), kernel("protocol = 200")] {
        parse("etm.toml", &good).unwrap_or_else(|error| panic!("{error}"));
    }
    let long = format!("control_socket = \"/{}\"", "x".repeat(110));
    let mut cases = vec![
        (agent("control_socket = \"\""), "the control socket must be an absolute path"),
        (agent("control_socket = \"etm.sock\""), "the control socket must be an absolute path"),
        (agent("control_socket = \"/run/etm/\""), "the control socket must be an absolute path"),
        (agent(&long), "at most 103 octets"),
        (agent("startup_timeout = \"0s\""), "at least 1s"),
        (format!("{GOOD}[guardian]\nsocket = \"guardian.sock\"\n"), "the guardian's socket must be"),
        (format!("{GOOD}[guardian]\nsocket = \"/run/etm/etm.sock\"\n"), "this is agent.control_socket"),
        (kernel("daemon_protocols = [12, 179]"), "179 is ETM's own protocol"),
        (kernel("daemon_protocols = [2]"), "protocol 2 are not learnt by BGP"),
        (kernel("daemon_protocols = [4, 12]"), "protocol 4 are not learnt by BGP"),
        (kernel("daemon_protocols = [188]"), "protocol 188 are not learnt by BGP"),
        (bgp("local_pref = 0", good_hops), "nobody would follow"),
        (hops("\"127.0.0.1\""), "next hop 127.0.0.1 is not"),
        (hops("\"10.0.0.2\", \"::1\""), "next hop ::1 is not"),
        (hops("\"255.255.255.255\""), "next hop 255.255.255.255 is not"),
        (hops("\"ff02::1\""), "next hop ff02::1 is not"),
    ];
    let well_known = ["65535:65281", "65535:65282", "65535:666", "65535:0", "0:179"];
    let lines = well_known.map(|value| format!("community = \"{value}\""));
    cases.extend(lines.iter().map(|line| (bgp(line, good_hops), "use one of your own AS")));
    let numbers = [2, 4, 11, 12, 18, 42, 186, 187, 188, 189, 192, 196].map(|n| format!("protocol = {n}"));
    cases.extend(numbers.iter().map(|line| (kernel(line), "to another daemon")));
    let gateways =
        ["0.0.0.0", "224.0.0.1", "127.0.0.1", "255.255.255.255", "::", "ff02::1", "::ffff:10.1.0.1"];
    cases.extend(
        gateways.map(|gateway| (GOOD.replace("10.1.0.1", gateway), "is not the address of a router")),
    );
    for (text, words) in cases {
        let said = report(&text);
        assert!(said.contains(words), "{words}: {said}");
        // An address of the other family leaves the static route without a gateway, too.
        let faults = said.matches("etm.toml:").count() - said.matches("has no ipv4 gateway").count();
        assert_eq!(faults, 1, "one fault: {said}");
    }
}

#[test]
fn next_hops_of_all_inject_sessions_are_known_as_our_own() {
    let own = parse("example", EXAMPLE).unwrap().policy.own_next_hops;
    assert_eq!(own, ["10.0.0.2".parse::<std::net::IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
}
