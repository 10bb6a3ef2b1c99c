//! Next hops that are not an IPv4 address on the link: IPv4 prefixes behind link-local and global IPv6 next hops (RFC 8950)
//! become overrides that forward, and a next hop behind another route is no candidate, and says so. Needs root.

#![allow(clippy::unwrap_used, reason = "an unwrap is the assertion of a test")]

use std::fs;
use std::time::Duration;

use etm_tests::agent::{Agent, AgentOptions, Site, config, write_text};
use etm_tests::clock::boottime_ns;
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, before_transit, turn};
use etm_tests::table::Announcement;
use etm_tests::topology::{BORDER_AS, Provider, Role};
use etm_tests::traces;
use etm_tests::traffic::{FRAME, Flow, Generator, Sink};

/// Homes at transit-a; each is pinned to an exit whose IPv4 routes have an IPv6 next hop.
const TO_B: &str = "198.18.100.0/24";
const TO_IX: &str = "198.18.101.0/24";
/// Its home is transit-b itself.
const AT_B: &str = "198.18.105.0/24";
/// Announced with a next hop that only another route reaches.
const RECURSIVE: &str = "198.18.250.0/24";
const BEHIND: &str = "10.255.1.77";

/// The IPv4 session with a provider over link-local addresses: `near` here, `far` there.
fn over_ipv6(lab: &Lab, provider: Provider, near: &str, far: &str, next_hop: &str) {
    let set = |role: Role, dev: &str, own: &str| {
        lab.namespace(role).ip(&["addr", "add", &format!("{own}/64"), "dev", dev, "nodad"]).unwrap();
    };
    set(Role::Border, provider.uplink(), near);
    set(provider.role(), "border0", far);
    let edit = |role: Role, from: String, to: String, channel: &str, more: &str| {
        let path = lab.directory().join(format!("{role}.conf"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&from), "no {from} in {text}");
        let (before, after) = text.split_once(&from).unwrap();
        let after = after.replacen(channel, &format!("{channel} extended next hop on; {more}"), 1);
        fs::write(&path, format!("{before}{to}{after}")).unwrap();
    };
    let (asn, (here, there)) = (provider.asn(), (provider.border_v4(), provider.gateway_v4()));
    edit(
        Role::Border,
        format!("local {here} as {BORDER_AS}; neighbor {there} as"),
        format!("local {near} as {BORDER_AS}; neighbor {far}%'{}' as", provider.uplink()),
        "ipv4 {",
        "",
    );
    edit(
        provider.role(),
        format!("local {there} as {asn}; neighbor {here} as"),
        format!("local {far} as {asn}; neighbor {near}%'border0' as"),
        "ipv4 {",
        next_hop,
    );
}

/// The border tells ETM of IPv6 next hops too, and knows one prefix by a next hop that is further than its gateway.
fn prepare(lab: &Lab) {
    over_ipv6(lab, Provider::TransitB, "fe80::b2", "fe80::b1", "");
    over_ipv6(lab, Provider::Ix, "fe80::c2", "fe80::c1", "next hop address fd00:3::1;");
    let path = lab.directory().join(format!("{}.conf", Role::Border));
    let text = fs::read_to_string(&path).unwrap();
    let (before, learn) = text.split_once("protocol bgp etm_learn").unwrap();
    let learn = learn.replacen("ipv4 {", "ipv4 { extended next hop on; next hop keep;", 1);
    let further = format!("import filter {{ if net = {RECURSIVE} then bgp_next_hop = {BEHIND}; accept; }};");
    let before = before.replacen("import all;", &further, 1);
    fs::write(&path, format!("{before}protocol bgp etm_learn{learn}")).unwrap();
    for role in [Role::Border, Role::TransitB, Role::Ix] {
        lab.bird(role).configure().unwrap();
    }
    lab.wait_converged().unwrap();
}

/// Exits as the operator writes them; no IPv4 gateway where there is none.
fn settings(lab: &Lab) -> String {
    let text = config(
        &Site::of(lab),
        &AgentOptions {
            policy: "max_moved = \"100%\"\nmax_moved_per_minute = \"100%\"\n",
            ..AgentOptions::default()
        },
    );
    let text = text.replace("\"10.2.0.1\"", "\"fe80::b1\"").replace("\"10.3.0.1\", ", "");
    let pin = |prefix: &str, exit: &str| format!("\n[[pin]]\nprefix = \"{prefix}\"\nexit = \"{exit}\"\n");
    text + &pin(TO_B, "transit-b") + &pin(TO_IX, "ix")
}

fn start() -> Scene {
    let lab = Lab::up(LabOptions::default()).unwrap();
    prepare(&lab);
    let flow = |prefix: &str| Flow {
        destination: lab.table().address_in(prefix.parse().unwrap()).unwrap(),
        packets_per_s: 500.0,
    };
    let flows = [TO_B, TO_IX, AT_B].map(flow);
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let agent = Agent::start_by(&lab, &write_text(&lab, &settings(&lab)).unwrap(), "info").unwrap();
    wait_until("etm-agent to be ready", PATIENCE, || agent.ready(lab.table()))
        .map_err(|error| agent.with_log(error))
        .unwrap();
    let generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap();
    Scene { generator, sink, agent, lab }
}

fn etm(scene: &Scene, args: &[&str]) -> String {
    let output = scene.agent.etm(args).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn ipv4_behind_ipv6_next_hops_is_overridden_and_forwarded_and_a_recursive_next_hop_is_named() {
    let Some(_turn) = turn() else { return };
    let mut scene = start();
    let wanted = [(TO_B, "via inet6 fe80::b1 dev up-b"), (TO_IX, "via inet6 fd00:3::1 dev up-ix")];
    wait_until("an override for each", PATIENCE, || {
        let routes = traces::routes(&scene.lab).map_err(|error| error.to_string())?;
        let there = |(prefix, via): &(&str, &str)| {
            routes.iter().any(|line| line.starts_with(prefix) && line.contains(via))
        };
        if wanted.iter().all(there) { Ok(()) } else { Err(format!("{routes:?}")) }
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    let destination = |prefix: &str| scene.lab.table().address_in(prefix.parse().unwrap()).unwrap();
    let expected = [(TO_B, Provider::TransitB), (TO_IX, Provider::Ix), (AT_B, Provider::TransitB)];
    wait_until("the packets to go there", PATIENCE, || {
        let current = scene.sink.current();
        let wrong = expected.iter().find(|(prefix, by)| current.get(&destination(prefix)) != Some(by));
        wrong.map_or(Ok(()), |(prefix, by)| Err(format!("{prefix} not by {by}: {current:?}")))
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    let from_ns = boottime_ns();
    pass_time(Duration::from_secs(2));
    assert_eq!(scene.loss(from_ns, before_transit()), 0.0);
    let overrides = scene.agent.overrides().unwrap();
    assert_eq!(overrides.len(), 2, "{overrides:?}");

    let mut table = scene.lab.table().clone();
    table
        .announcements
        .push(Announcement { prefix: RECURSIVE.parse().unwrap(), providers: vec![Provider::TransitA] });
    scene.lab.announce(table).unwrap();
    let note = "its next hop is none of the configured exits";
    wait_until("the route with a next hop further away", PATIENCE, || {
        let text = etm(&scene, &["bgp", "candidates", RECURSIVE]);
        let there = text.lines().any(|line| line.contains(BEHIND) && line.contains(note));
        if there { Ok(()) } else { Err(text) }
    })
    .unwrap();
    let kernel = scene.lab.namespace(Role::Border).ip(&["route", "show", RECURSIVE]).unwrap();
    assert!(kernel.contains("via 10.1.0.1 dev up-a"), "the border itself reaches it: {kernel}");
    assert!(etm(&scene, &["explain", RECURSIVE]).contains(note));
}
