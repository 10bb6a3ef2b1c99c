//! The metrics of a running agent, scraped as Prometheus scrapes them and read as strictly as its parser reads them, beside
//! what the lab itself knows. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use etm_tests::agent::{Agent, AgentOptions, Site, config, write_text};
use etm_tests::error::LabError;
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traffic::{Demand, FRAME, Generator, Sink};

const LISTEN: &str = "127.0.0.1:9179";

/// A sample's name with its labels in order.
type Series = (String, BTreeMap<String, String>);

/// One scrape, taken apart.
#[derive(Debug, Default)]
struct Scrape {
    /// Kind by family.
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<Series, f64>,
}

/// `GET /metrics` over TCP with the header by which Prometheus asks for OpenMetrics; head and body.
fn fetch(scene: &Scene, target: &str) -> (String, String) {
    let raw = raw(scene, target).unwrap();
    let (head, body) = raw.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn raw(scene: &Scene, target: &str) -> Result<String, LabError> {
    let accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5";
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {LISTEN}\r\nUser-Agent: Prometheus/2.53.0\r\nAccept: {accept}\r\n\
         X-Prometheus-Scrape-Timeout-Seconds: 10\r\nConnection: close\r\n\r\n"
    );
    let work = || {
        let io = || LabError::io("scrape the agent");
        let mut stream = TcpStream::connect(LISTEN).map_err(io())?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(io())?;
        stream.write_all(request.as_bytes()).map_err(io())?;
        let mut raw = String::new();
        stream.read_to_string(&mut raw).map_err(io())?;
        Ok(raw)
    };
    scene.lab.namespace(Role::Border).inside(work)
}

fn scrape(scene: &Scene) -> Scrape {
    let (head, body) = fetch(scene, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.to_ascii_lowercase().contains(kind), "{head}");
    parse(&body).unwrap()
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// OpenMetrics 1.0 as strictly as its text says: a family's HELP and TYPE before its samples, all of it together, counters
/// by `_total`, nothing twice, `# EOF` last.
fn parse(text: &str) -> Result<Scrape, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("no # EOF at the end")?;
    let (mut scrape, mut family, mut helped) = (Scrape::default(), String::new(), BTreeSet::new());
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or_else(|| format!("no text: {line}"))?;
            if !is_name(name) || help.is_empty() || !helped.insert(name.to_owned()) {
                return Err(format!("bad or second HELP: {line}"));
            }
            name.clone_into(&mut family);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| format!("no kind: {line}"))?;
            let known = ["counter", "gauge"].contains(&kind);
            if name != family || !known || scrape.kinds.insert(name.to_owned(), kind.to_owned()).is_some() {
                return Err(format!("bad, stray or second TYPE: {line}"));
            }
        } else {
            let (series, value) = sample(line)?;
            let of = match scrape.kinds.get(&family).map(String::as_str) {
                Some("counter") => format!("{family}_total"),
                Some(_) => family.clone(),
                None => return Err(format!("a sample before its TYPE: {line}")),
            };
            if series.0 != of || scrape.samples.insert(series, value).is_some() {
                return Err(format!("not of the family {family}, or a second time: {line}"));
            }
        }
    }
    Ok(scrape)
}

/// `name{label="value",...} number`.
fn sample(line: &str) -> Result<(Series, f64), String> {
    let bad = |why: &str| format!("{why}: {line}");
    let end = line.find(['{', ' ']).ok_or_else(|| bad("no value"))?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err(bad("bad name"));
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, more) = rest.split_once("=\"").ok_or_else(|| bad("no label"))?;
            let (value, more) = quoted(more).ok_or_else(|| bad("bad escape or no end"))?;
            if !is_name(label) || labels.insert(label.to_owned(), value).is_some() {
                return Err(bad("bad or second label"));
            }
            match (more.strip_prefix(','), more.strip_prefix('}')) {
                (Some(more), _) => rest = more,
                (_, Some(more)) => {
                    rest = more;
                    break;
                }
                _ => return Err(bad("neither comma nor brace")),
            }
        }
    }
    let number = rest.strip_prefix(' ').ok_or_else(|| bad("no blank"))?;
    let value: f64 = number.parse().map_err(|_| bad("no number"))?;
    Ok(((name.to_owned(), labels), value))
}

/// Up to the closing quote; only backslash, quote and line feed are escaped, and only so.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            (_, '\n') => return None,
            (_, other) => value.push(other),
        }
    }
}

impl Scrape {
    fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
        let series = (name.to_owned(), labels.collect());
        *self.samples.get(&series).unwrap_or_else(|| panic!("{series:?} is missing"))
    }

    /// The label value of the one line that is 1.
    fn word(&self, name: &str, label: &str) -> String {
        let of_it = self.samples.iter().filter(|((of, _), value)| of == name && **value == 1.0);
        let words: Vec<&String> = of_it.filter_map(|((_, labels), _)| labels.get(label)).collect();
        assert_eq!(words.len(), 1, "{name}: {words:?}");
        words[0].clone()
    }

    fn falls(&self, before: &Scrape) -> Vec<String> {
        let counters = before.samples.iter().filter(|((name, _), _)| name.ends_with("_total"));
        let fell =
            counters.filter(|(series, value)| self.samples.get(*series).is_none_or(|now| now < *value));
        fell.map(|(series, value)| format!("{series:?} was {value}")).collect()
    }
}

#[test]
fn the_reader_of_this_test_is_as_strict_as_it_should_be() {
    let head = "# HELP a A.\n# TYPE a counter\n";
    for (text, good) in [
        ("# HELP a A.\n# TYPE a gauge\na{b=\"x\\\\y\\\"z\\n\"} 1.5\n# EOF\n", true),
        ("# HELP a A.\n# TYPE a counter\na_total 1\n# EOF\n", true),
        ("# HELP a A.\n# TYPE a counter\na 1\n# EOF\n", false),
        ("# TYPE a gauge\na 1\n# EOF\n", false),
        ("a 1\n# EOF\n", false),
        ("# HELP a A.\n# TYPE a gauge\na 1\n", false),
        ("# HELP a A.\n# TYPE a gauge\na 1\na 2\n# EOF\n", false),
        ("# HELP a A.\n# TYPE a gauge\na{b=\"x\\y\"} 1\n# EOF\n", false),
        ("# HELP a A.\n# TYPE a gauge\na{} 1\n# EOF\n", false),
        ("# HELP a A.\n# TYPE a gauge\na one\n# EOF\n", false),
    ] {
        assert_eq!(parse(text).is_ok(), good, "{text}");
    }
    assert!(parse(&format!("{head}# EOF\n{head}# EOF\n")).is_err());
}

/// Open descriptors of the agent.
fn descriptors(scene: &Scene) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", scene.agent.pid())).unwrap().count()
}

#[test]
fn a_thousand_half_requests_take_no_descriptors_from_the_agent_and_keep_no_scrape_out_for_long() {
    let Some(_turn) = turn() else { return };
    let scene = started();
    let before = descriptors(&scene);
    // The agent keeps the limit that it was started with.
    let own = std::process::id().to_string();
    let more =
        std::process::Command::new("prlimit").args(["--nofile=4096:", "--pid", &own]).status().unwrap();
    assert!(more.success());
    let half = || {
        let io = || LabError::io("say half a request");
        let mut stream = TcpStream::connect(LISTEN).map_err(io())?;
        // Being hung up on while speaking is an answer, too.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:");
        Ok(stream)
    };
    let slow = || (0..1_100).map(|_| half()).collect::<Result<Vec<TcpStream>, LabError>>();
    let slow = scene.lab.namespace(Role::Border).inside(slow).unwrap();
    // Those who were still in the queue are taken by the time that an answer comes.
    assert_eq!(scene.agent.state().unwrap(), "steering");
    assert!(descriptors(&scene) < before + 50, "{} of {before}", descriptors(&scene));
    assert!(scene.agent.etm(&["status"]).unwrap().status.success());
    // The places are free again once the time for a head is over, though nobody hung up.
    wait_until("a scrape to be served", Duration::from_secs(20), || {
        let raw = raw(&scene, "/metrics").map_err(|error| error.to_string())?;
        if raw.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(format!("closed on: {raw:?}")) }
    })
    .unwrap();
    assert_eq!(slow.len(), 1_100);
    assert!(!scene.agent.log().contains("could not be let in"), "{}", scene.agent.log());
}

fn started() -> Scene {
    let lab = Lab::up(LabOptions::default()).unwrap();
    let text = config(&Site::of(&lab), &AgentOptions::default());
    // A name that needs every escape there is.
    let text = text.replace("name = \"transit-b\"", "name = 'transit \"b\" \\ \u{e9}'");
    let path = write_text(&lab, &format!("{text}\n[metrics]\nlisten = \"{LISTEN}\"\n")).unwrap();
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let agent = Agent::start_by(&lab, &path, "info").unwrap();
    wait_until("etm-agent to be ready", PATIENCE, || agent.ready(lab.table())).unwrap();
    let flows = Demand::by_home(47.5, 7.0, 6.0).flows(lab.table(), FRAME);
    let generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap();
    Scene { generator, sink, agent, lab }
}

#[test]
fn a_scrape_is_well_formed_never_falls_and_says_what_the_lab_knows() {
    let Some(_turn) = turn() else { return };
    let mut scene = started();
    let first = scrape(&scene);
    let overrides = scene.wait_overrides().unwrap();
    pass_time(Duration::from_secs(2));
    let mut last = scrape(&scene);
    assert_eq!(last.falls(&first), Vec::<String>::new());
    assert_eq!(last.word("etm_state", "state"), "steering");
    assert_eq!(last.word("etm_mode", "mode"), "enforce");
    assert_eq!(last.word("etm_guardian_state", "state"), "guarding");
    assert!(!overrides.is_empty() && last.get("etm_overrides", &[]) >= 1.0);
    for (session, role) in [("border", "learn"), ("core", "inject")] {
        assert_eq!(last.get("etm_session_up", &[("session", session), ("role", role)]), 1.0);
    }
    for provider in Provider::ALL {
        let name = if provider == Provider::TransitB { "transit \"b\" \\ \u{e9}" } else { provider.name() };
        assert_eq!(last.get("etm_provider_drained", &[("provider", name)]), 0.0);
    }
    // Nothing is sent any more: what ETM counted is what arrived, to the packet.
    scene.generator.stop();
    wait_until("the counters to rest", PATIENCE, || {
        pass_time(Duration::from_millis(2100));
        let now = scrape(&scene);
        let fell = now.falls(&last);
        assert_eq!(fell, Vec::<String>::new());
        let of = |scrape: &Scrape, uplink: &str| {
            scrape.get("etm_uplink_counted_packets_total", &[("uplink", uplink)])
        };
        let rests = Provider::ALL.iter().all(|p| of(&now, p.uplink()) == of(&last, p.uplink()));
        last = now;
        if rests { Ok(()) } else { Err("they grow".to_owned()) }
    })
    .unwrap();
    let mut arrived: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for ((_, uplink), (bytes, packets)) in &scene.arrived_by_prefix() {
        let name = Provider::ALL.iter().map(|p| p.uplink()).find(|name| name == uplink).unwrap();
        let sum = arrived.entry(name).or_default();
        *sum = (sum.0 + bytes, sum.1 + packets);
    }
    for (uplink, (bytes, packets)) in arrived {
        let dropped = last.get("etm_uplink_dropped_packets_total", &[("uplink", uplink)]);
        let counted = last.get("etm_uplink_counted_packets_total", &[("uplink", uplink)]);
        let octets = last.get("etm_uplink_counted_bytes_total", &[("uplink", uplink)]);
        // Beside the lab's own packets an uplink carries nothing for a prefix of the table.
        assert_eq!(counted, packets as f64 + dropped, "{uplink}");
        assert!(
            octets >= bytes as f64 && octets <= bytes as f64 + dropped * 2000.0,
            "{uplink} {octets} {bytes}"
        );
    }
    scene.agent.off().unwrap();
    wait_until("off to be told", PATIENCE, || {
        let now = scrape(&scene);
        let word = now.word("etm_state", "state");
        if word == "off" && now.get("etm_switched_off", &[]) == 1.0 { Ok(()) } else { Err(word) }
    })
    .unwrap();
    // Nothing else is served there.
    for target in ["/v1/status", "/", "/metrics/x"] {
        let (head, _) = fetch(&scene, target);
        assert!(head.starts_with("HTTP/1.1 404 "), "{target}: {head}");
    }
}
