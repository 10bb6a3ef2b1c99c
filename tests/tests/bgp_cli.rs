//! `etm bgp` and `etm mrt` against a running agent: sessions, a monitored router, every route of the lab's table, the
//! table as a file and back. Needs root and the eBPF object; without, every test says SKIP and why.

#![allow(clippy::unwrap_used, reason = "an unwrap is the assertion of a test")]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use etm_agent::datapath;
use etm_tests::agent::{Agent, AgentOptions, Site, config, write_text};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::wait_until;
use etm_tests::state::binary;
use etm_tests::topology::{Provider, Role};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// Where the agent listens for BMP, and the monitored peer: transit B.
const STATION: &str = "127.0.0.1:11019";
const SOURCE: &str = "edge2/192.0.2.77";

fn skip() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "network namespaces need root (geteuid is not 0)"
    } else if datapath::object().is_empty() {
        "built without the eBPF object: run `cargo xtask build-ebpf` first"
    } else {
        return false;
    };
    println!("SKIP: {reason}");
    true
}

fn etm(agent: &Agent, args: &[&str]) -> String {
    let output = agent.etm(args).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "etm {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn json(agent: &Agent, args: &[&str]) -> Value {
    serde_json::from_str(&etm(agent, &[&["--json"], args].concat())).unwrap()
}

/// One object a line.
fn lines(agent: &Agent, args: &[&str]) -> Vec<Value> {
    let text = etm(agent, &[&["--json"], args].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bmp(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut message = vec![3];
    message.extend(u32::try_from(6 + body.len()).unwrap().to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

fn bgp(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xFF; 16];
    message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

/// What a router that has one peer with one route says: 203.0.113.0/24 by transit B's gateway.
fn report() -> Vec<u8> {
    let asn = Provider::TransitB.asn().to_be_bytes();
    let mut header = vec![0; 10 + 12];
    header.extend([192, 0, 2, 77]);
    header.extend(asn);
    header.extend([192, 0, 2, 77]);
    header.extend([0; 8]);
    let open = |low: [u8; 2]| bgp(1, &[&[4][..], &low, &[0, 90, 10, 0, 0, 1, 0]].concat());
    let (ours, theirs) = (open([0xFB, 0xF4]), open([asn[2], asn[3]]));
    let gateway: std::net::Ipv4Addr = Provider::TransitB.gateway_v4().parse().unwrap();
    let attributes =
        [&[0x40, 1, 1, 0, 0x40, 2, 6, 2, 1][..], &asn, &[0x40, 3, 4], &gateway.octets()].concat();
    let mut update = vec![0, 0, 0, u8::try_from(attributes.len()).unwrap()];
    update.extend(attributes);
    update.extend([24, 203, 0, 113]);
    [
        bmp(4, &[&[0, 1, 0, 3], b"lab", &[0, 2, 0, 5], b"edge2"]),
        bmp(3, &[&header, &[0; 20], &ours, &theirs]),
        bmp(0, &[&header, &bgp(2, &update)]),
        bmp(0, &[&header, &bgp(2, &[0; 4])]),
    ]
    .concat()
}

fn holds(agent: &Agent) -> String {
    agent.get("/v1/status").unwrap()["holds"].to_string()
}

#[test]
fn sessions_routes_and_candidates_are_shown_and_the_table_goes_to_a_file_and_back() {
    if skip() {
        return;
    }
    let lab = Lab::up(LabOptions::default()).unwrap();
    let monitored = format!(
        "\n[bmp]\nlisten = [\"{STATION}\"]\n[[bmp.router]]\nname = \"edge2\"\naddress = \"127.0.0.1\"\n\
         session = \"core\"\npeers = [{{ address = \"192.0.2.77\", provider = \"{}\" }}]\n",
        Provider::TransitB
    );
    let text = config(&Site::of(&lab), &AgentOptions::observe()) + &monitored;
    let agent = Agent::start_with(&lab, &write_text(&lab, &text).unwrap(), "info").unwrap();
    let silent = |why: etm_tests::error::LabError| why.to_string();
    wait_until("the monitored router to be all that is missing", PATIENCE, || {
        let holds = agent.get("/v1/status").map_err(silent)?["holds"].to_string();
        let only = holds.matches("\"hold\"").count() == 1 && holds.contains(SOURCE);
        if only { Ok(()) } else { Err(holds) }
    })
    .unwrap();
    let border = lab.namespace(Role::Border);
    let mut router = border.inside(|| Ok(TcpStream::connect(STATION).unwrap())).unwrap();
    router.write_all(&report()).unwrap();
    wait_until("the report to be complete", PATIENCE, || match holds(&agent).as_str() {
        "[]" => Ok(()),
        other => Err(other.to_owned()),
    })
    .unwrap();
    let expected = Provider::ALL.into_iter().map(|provider| lab.table().of(provider).count()).sum();
    peers(&agent);
    routes(&lab, &agent, expected);
    candidates(&lab, &agent);
    file(&lab, &agent, expected + 1);
    orders(&lab, &agent);
    drop(router);
    wait_until("the loss to be noticed", PATIENCE, || {
        let holds = holds(&agent);
        if holds.contains("the router closed the connection") { Ok(()) } else { Err(holds) }
    })
    .unwrap();
    assert_eq!(lines(&agent, &["bgp", "routes", "--peer", SOURCE]).len(), 0, "void with the connection");
    let status = agent.get("/v1/status").unwrap();
    assert_eq!(status["state"], "warm-up", "a source is down: nothing is decided: {status}");
}

fn peers(agent: &Agent) {
    let all = json(agent, &["bgp", "peers"]);
    let names: Vec<&str> =
        all["peers"].as_array().unwrap().iter().filter_map(|peer| peer["name"].as_str()).collect();
    assert_eq!(names, ["border", "core"]);
    assert_eq!(all["routers"][0]["sources"][0]["up"], true, "{all}");
    let border = json(agent, &["bgp", "peers", "border"]);
    assert_eq!((border["state"].as_str(), border["role"].as_str()), (Some("established"), Some("learn")));
    assert!(border["traffic"]["received"]["update"].as_u64() > Some(0), "{border}");
    assert!(!border["theirs"].as_array().unwrap().is_empty(), "capabilities: {border}");
    let shown = etm(agent, &["bgp", "peers"]);
    for part in ["border", "core", SOURCE, "established", "BMP router edge2", "monitoring"] {
        assert!(shown.contains(part), "`{part}` is missing in\n{shown}");
    }
    for (name, part) in [
        ("border", "ADD-PATH received"),
        ("core", "effective"),
        ("edge2", "calls itself"),
        (SOURCE, "table complete"),
    ] {
        let shown = etm(agent, &["bgp", "peers", name]);
        assert!(shown.contains(part), "`{part}` is missing in\n{shown}");
    }
    let refused = agent.etm(&["bgp", "peers", "nobody"]).unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("is named `nobody`"));
    assert_eq!(refused.status.code(), Some(1));
}

fn state(agent: &Agent, peer: &str) -> String {
    json(agent, &["bgp", "peers", peer])["state"].as_str().unwrap_or_default().to_owned()
}

fn reaches(agent: &Agent, peer: &str, wanted: &str) {
    wait_until(&format!("{peer} to be {wanted}"), PATIENCE, || match state(agent, peer) {
        state if state == wanted => Ok(()),
        other => Err(other),
    })
    .unwrap();
}

/// A session of the agent (border) and one of its guardian (core) obey, the peer's operator reads why, and the log has it.
fn orders(lab: &Lab, agent: &Agent) {
    let refused = agent.etm(&["bgp", "reset", "nobody"]).unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("no BGP session is named `nobody`; there are: border, core"), "{said}");
    for (args, part) in [
        (["bgp", "start", "border"], "established already"),
        (["bgp", "refresh", "core"], "nothing to ask for"),
        (["bgp", "reset", SOURCE], "only monitored, by BMP"),
    ] {
        let output = agent.etm(&args).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(part), "{args:?}: {said}");
    }
    let announced = || json(agent, &["bgp", "peers", "border"])["traffic"]["announced_in"].as_u64().unwrap();
    let before = announced();
    etm(agent, &["bgp", "refresh", "border"]);
    wait_until("the border to send its routes again", PATIENCE, || {
        if announced() >= 2 * before { Ok(()) } else { Err(format!("{} of {before}", announced())) }
    })
    .unwrap();
    let shown = etm(agent, &["bgp", "shutdown", "core", "--message", "new cables till 9"]);
    assert!(shown.contains("etm bgp start core"), "{shown}");
    reaches(agent, "core", "idle");
    let seen = lab.bird(Role::Core).ask("show protocols all etm_inject").unwrap().join("\n");
    assert!(seen.contains("new cables till 9"), "{seen}");
    etm(agent, &["bgp", "start", "core"]);
    reaches(agent, "core", "established");
    let resets = || json(agent, &["bgp", "peers", "border"])["established"].as_u64().unwrap();
    let times = resets();
    etm(agent, &["bgp", "reset", "border"]);
    wait_until("the session to be up anew", PATIENCE, || {
        if resets() > times && holds(agent) == "[]" { Ok(()) } else { Err(holds(agent)) }
    })
    .unwrap();
    let events = agent.get("/v1/events?since=0").unwrap();
    let ordered: Vec<&str> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["kind"] == "session-ordered")
        .filter_map(|event| event["order"].as_str())
        .collect();
    assert_eq!(ordered, ["refresh", "shutdown, saying \"new cables till 9\"", "start", "reset"]);
    assert!(etm(agent, &["bgp", "rules"]).contains("no rule for routes"));
}

fn routes(lab: &Lab, agent: &Agent, expected: usize) {
    let all = lines(agent, &["bgp", "routes", "--peer", "border"]);
    assert_eq!(all.len(), expected);
    let seen: BTreeSet<(String, String)> = all
        .iter()
        .map(|route| {
            let hop = route["attributes"]["next_hop"].as_str().unwrap();
            (route["prefix"].as_str().unwrap().to_owned(), hop.to_owned())
        })
        .collect();
    let told: BTreeSet<(String, String)> = Provider::ALL
        .into_iter()
        .flat_map(|provider| {
            lab.table().of(provider).map(move |(prefix, _)| {
                let v4 = matches!(prefix, ipnet::IpNet::V4(_));
                let hop = if v4 { provider.gateway_v4() } else { provider.gateway_v6() };
                (prefix.to_string(), hop.to_owned())
            })
        })
        .collect();
    assert_eq!(seen, told);
    let inside = lines(agent, &["bgp", "routes", "198.18.0.0/15", "--longer", "--peer", "border"]);
    let v4 = told.iter().filter(|(prefix, _)| prefix.starts_with("198.1")).count();
    assert_eq!(inside.len(), v4);
    let shown = etm(agent, &["bgp", "routes", "--peer", SOURCE]);
    assert!(shown.contains("203.0.113.0/24") && shown.lines().count() == 2, "{shown}");
    let refused = agent.etm(&["bgp", "routes", "--peer", "nobody"]).unwrap();
    assert!(String::from_utf8(refused.stderr).unwrap().contains("is named `nobody`"));
}

fn candidates(lab: &Lab, agent: &Agent) {
    let ways = |prefix: &ipnet::IpNet| {
        Provider::ALL.iter().filter(|p| lab.table().of(**p).any(|(other, _)| other == *prefix)).count()
    };
    let (prefix, _) = lab.table().of(Provider::TransitA).find(|(prefix, _)| ways(prefix) > 1).unwrap();
    let view = json(agent, &["bgp", "candidates", &prefix.to_string()]);
    let ranks: Vec<Option<u64>> =
        view["candidates"].as_array().unwrap().iter().map(|one| one["rank"].as_u64()).collect();
    let expected: Vec<Option<u64>> = (1..).map(Some).take(ways(&prefix)).collect();
    assert_eq!(ranks, expected, "{view}");
    assert!(view["candidates"][1]["decided_by"].is_string(), "{view}");
    let shown = etm(agent, &["bgp", "candidates", &prefix.addr().to_string()]);
    assert!(shown.contains("plain routing's choice") && shown.contains("BEHIND BY"), "{shown}");
}

fn file(lab: &Lab, agent: &Agent, expected: usize) {
    let path = lab.directory().join("rib.mrt");
    let name = path.display().to_string();
    etm(agent, &["bgp", "export", &name]);
    let run = |args: &[&str]| {
        let output = Command::new(binary("etm").unwrap()).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let read = run(&["--json", "mrt", "show", &name]);
    let routes: Vec<Value> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(routes.len(), expected);
    // The same attributes as the agent shows.
    let mut shown: Vec<Value> =
        lines(agent, &["bgp", "routes"]).into_iter().map(|mut route| route["attributes"].take()).collect();
    let mut stored: Vec<Value> = routes.into_iter().map(|mut route| route["attributes"].take()).collect();
    let text = |value: &Value| value.to_string();
    shown.sort_by_key(text);
    stored.sort_by_key(text);
    assert_eq!(shown, stored);
    let learnt = run(&["mrt", "show", &name, "203.0.113.0/24"]);
    assert!(learnt.contains("192.0.2.77"), "{learnt}");
    if let Ok(output) = Command::new("bgpdump").args(["-m", &name]).output() {
        let lines = String::from_utf8_lossy(&output.stdout).lines().count();
        assert_eq!(lines, expected, "bgpdump counts otherwise");
    }
    let configuration = lab.directory().join("etm.toml").display().to_string();
    let problem = run(&["mrt", "convert", &name, "--config", &configuration, "--rate", "1Mbit"]);
    let problem: Value = serde_json::from_str(&problem).unwrap();
    assert!(problem["prefixes"].as_array().unwrap().len() > 10, "{}", problem["exits"]);
}
