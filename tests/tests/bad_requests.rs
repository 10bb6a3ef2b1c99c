//! Bad words on the local sockets: each is answered clearly or hung up on, changes nothing, and keeps nobody else waiting.
//! Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etm_tests::agent::{Agent, AgentOptions};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, turn};
use etm_tests::traces::Traces;
use nix::sys::signal::Signal;

/// Longest time of an answer, on a box that does other work too.
const ANSWER: Duration = Duration::from_secs(10);
/// Connections that the agent serves at a time.
const CONNECTIONS: usize = 64;

struct Place {
    agent: Agent,
    lab: Lab,
    before: Traces,
}

/// An agent that may act, and has nothing to do.
fn place() -> Place {
    let lab = Lab::up(LabOptions::default()).unwrap();
    // Why a connection to the guardian ended is said in its debug lines.
    let log = "info,etm_agent::runtime::guardian=debug";
    let agent = Agent::start(&lab, &AgentOptions { log, ..AgentOptions::default() }).unwrap();
    let place = || -> Result<(), String> {
        agent.ready(lab.table())?;
        let status = agent.get("/v1/status").map_err(|error| error.to_string())?;
        if status["guardian"]["state"] == "guarding" { Ok(()) } else { Err(status["guardian"].to_string()) }
    };
    wait_until("etm-agent and its guardian to be ready", PATIENCE, place).unwrap();
    let before = Traces::of(&lab).unwrap();
    Place { agent, lab, before }
}

impl Place {
    /// Nothing changed: neither outside, nor what the agent does, nor that it answers.
    fn assert_untouched(&mut self, title: &str) {
        assert!(self.agent.ended().is_none(), "{title}: {}", self.agent.log());
        assert_eq!(self.agent.state().unwrap(), "steering", "{title}");
        assert_eq!(Traces::of(&self.lab).unwrap(), self.before, "{title}");
        assert!(!self.agent.log().contains("panicked"), "{title}: {}", self.agent.log());
    }

    fn guardian_socket(&self) -> PathBuf {
        self.agent.socket().with_file_name("guardian.sock")
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    stream.set_write_timeout(Some(ANSWER)).unwrap();
    stream
}

/// Says `words`, returns what came back until the other end closed. Being hung up on while speaking is an answer, too.
fn say(path: &Path, words: &[u8]) -> String {
    let mut stream = connect(path);
    let _ = stream.write_all(words);
    listen(&mut stream)
}

fn listen(stream: &mut UnixStream) -> String {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => heard.extend(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => break,
            Err(error) => {
                panic!("no answer and no end: {error}; so far {:?}", String::from_utf8_lossy(&heard))
            }
        }
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// How an agent of the guardian's own version begins: with the words by which the guardian does, and no flags.
fn greeting(socket: &Path) -> Vec<u8> {
    let mut words = [0; 8];
    connect(socket).read_exact(&mut words).unwrap();
    assert_eq!(&words[..4], b"ETMG");
    words[6] = 0;
    words.to_vec()
}

fn request(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: etm\r\nConnection: close\r\n{headers}\r\n")
}

#[test]
fn what_is_not_understood_on_the_control_socket_is_answered_and_changes_nothing() {
    let Some(_turn) = turn() else { return };
    let mut place = place();
    let socket = place.agent.socket().to_owned();
    let long = "x".repeat(100_000);
    let cases: Vec<(&str, String, &[&str])> = vec![
        ("no HTTP at all", "off\r\n\r\n".into(), &["400"]),
        ("a TLS greeting", "\u{16}\u{3}\u{1}\u{0}\u{5}hello\r\n\r\n".into(), &["400"]),
        ("another version", "GET /v1/status HTTP/9.9\r\n\r\n".into(), &["400"]),
        ("a resource that is not there", request("GET /v2/status", ""), &["404", "no such resource"]),
        ("an order that is none", request("POST /v1/status", ""), &["405"]),
        ("a question where an order is meant", request("GET /v1/off", ""), &["405"]),
        ("a method that is none", request("BREW /v1/off", ""), &["405"]),
        ("a prefix that is none", request("GET /v1/explain?prefix=198.18.0.0/33", ""), &["400", "prefix="]),
        ("a number that is none", request("GET /v1/events?since=-1", ""), &["400", "since"]),
        (
            "a number that is too large",
            request("POST /v1/approve?id=99999999999999999999", ""),
            &["400", "id"],
        ),
        ("a key that is unknown", request("POST /v1/approve?number=1", ""), &["400", "number"]),
        ("a change that is not queued", request("POST /v1/reject?id=12345", ""), &["12345"]),
        ("a target with odd octets", request("GET /v1/explain?exit=%00%ff%7f", ""), &["there is no exit"]),
        ("a head that is too long", request("GET /v1/status", &format!("X: {long}\r\n")), &["431"]),
        ("a target that is too long", request(&format!("GET /v1/explain?exit={long}"), ""), &["4"]),
        ("a body that is JSON", request("POST /v1/off", "Content-Length: 2\r\n") + "{}", &["400", "no body"]),
        (
            "a body that is announced and huge",
            request("POST /v1/off", "Content-Length: 1099511627776\r\n") + &long,
            &["400"],
        ),
        (
            "a body in chunks",
            request("POST /v1/off", "Transfer-Encoding: chunked\r\n") + "ffffff\r\n",
            &["400", "no body"],
        ),
        ("two lengths", request("POST /v1/off", "Content-Length: 0\r\nContent-Length: 5\r\n"), &["400"]),
        ("a length that is none", request("POST /v1/off", "Content-Length: -1\r\n"), &["400"]),
        ("a body cut off", request("POST /v1/off", "Content-Length: 10\r\n") + "abc", &["400", "no body"]),
    ];
    for (title, words, parts) in cases {
        let answer = say(&socket, words.as_bytes());
        for part in parts {
            assert!(answer.contains(part), "{title}: nothing of {part:?} in {answer:?}");
        }
        place.assert_untouched(title);
    }
}

#[test]
fn random_octets_on_both_sockets_change_nothing() {
    let Some(_turn) = turn() else { return };
    let mut place = place();
    let mut state = 0x5eed_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[1]
    };
    let hello = greeting(&place.guardian_socket());
    for path in [place.agent.socket().to_owned(), place.guardian_socket()] {
        for round in 0..100 {
            let mut words: Vec<u8> = (0..usize::from(random()) * 4).map(|_| random()).collect();
            // Half of them look like what is expected, for their first words.
            if round % 2 == 0 {
                let begin: &[u8] = if path.ends_with("guardian.sock") { &hello } else { b"POST /v1/" };
                words.splice(..0, begin.iter().copied());
            }
            let mut stream = connect(&path);
            let _ = stream.write_all(&words);
            let _ = stream.shutdown(Shutdown::Write);
            listen(&mut stream);
        }
    }
    place.assert_untouched("random octets");
}

#[test]
fn clients_that_are_slow_or_say_nothing_keep_nobody_out() {
    let Some(_turn) = turn() else { return };
    let mut place = place();
    let socket = place.agent.socket().to_owned();
    // Nearly as many as are served, each with half a request.
    let mut slow: Vec<UnixStream> = (0..CONNECTIONS - 4).map(|_| connect(&socket)).collect();
    slow.iter_mut().for_each(|stream| stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost:").unwrap());
    let begun = Instant::now();
    place.assert_untouched("while others are slow");
    // Even an order is on time: its client waits for 0.7 s, and would turn the kernel's switch itself.
    assert!(place.agent.etm(&["on"]).unwrap().status.success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // All places taken: who comes next is not served, and told so by the end of the connection, or waits its turn.
    slow.extend((0..8).map(|_| connect(&socket)));
    pass_time(Duration::from_millis(300));
    wait_until("the slow ones to be hung up on", ANSWER, || {
        place.agent.state().map(drop).map_err(|error| error.to_string())
    })
    .unwrap();
    place.assert_untouched("after the slow ones");
    let mut ends = slow.iter_mut().map(listen);
    assert!(ends.all(|heard| heard.is_empty() || heard.contains("408") || heard.contains("400")));
}

#[test]
fn a_client_that_has_said_all_it_wanted_still_gets_its_answer() {
    let Some(_turn) = turn() else { return };
    let mut place = place();
    let mut stream = connect(place.agent.socket());
    stream.write_all(request("GET /v1/status", "").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = listen(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"state\""), "{answer}");
    // One that goes away in the middle of its answer is not missed.
    for _ in 0..20 {
        let mut stream = connect(place.agent.socket());
        stream.write_all(request("GET /v1/prefixes?top=10000", "").as_bytes()).unwrap();
        drop(stream);
    }
    place.assert_untouched("clients that went away");
}

#[test]
fn an_order_whose_giver_gave_up_is_not_carried_out_later() {
    let Some(_turn) = turn() else { return };
    let mut place = place();
    // An agent that is stopped serves nobody; its socket takes connections all the same.
    place.agent.signal(Signal::SIGSTOP).unwrap();
    for _ in 0..8 {
        let mut stream = connect(place.agent.socket());
        stream.write_all(request("POST /v1/off", "").as_bytes()).unwrap();
    }
    place.agent.signal(Signal::SIGCONT).unwrap();
    wait_until("the orders to be looked at", PATIENCE, || {
        let seen = place.agent.log().matches("its giver is gone").count();
        if seen == 8 { Ok(()) } else { Err(format!("{seen} of them")) }
    })
    .unwrap_or_else(|error| panic!("{error}: {}", place.agent.log()));
    place.assert_untouched("orders of those who are gone");
}

#[test]
fn what_is_not_understood_on_the_guardians_socket_ends_that_connection_alone() {
    let Some(_turn) = turn() else { return };
    let mut place = place();
    let socket = place.guardian_socket();
    let pid = place.agent.guardian().unwrap();
    let hello = greeting(&socket);
    let with = |rest: &[u8]| [hello.as_slice(), rest].concat();
    // The version, and all that follows it, is judged by the guardian: what it logs says how far each of these came.
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("HTTP", request("POST /v1/off", "").into_bytes(), "is not a guardian"),
        ("another version", b"ETMG\xff\xff\x00\x00".to_vec(), "speaks version 65535"),
        ("nothing", Vec::new(), "does not answer"),
        ("half a greeting", b"ETM".to_vec(), "does not answer"),
        ("a frame of four gigabytes", with(&[0xff; 64]), "a frame of 4294967295 octets"),
        ("a frame that is no word", with(&[3, 0, 0, 0, 0xfe, 0xfe, 0xfe]), "a frame cannot be read"),
        ("an empty frame", with(&[0, 0, 0, 0]), "a frame cannot be read"),
        // Stop: only the agent that is listened to may say so.
        ("an order without a right", with(&[1, 0, 0, 0, 6]), "an agent is not listened to"),
    ];
    for (title, words, reason) in cases {
        let seen = place.agent.log().matches(reason).count();
        let mut stream = connect(&socket);
        let _ = stream.write_all(&words);
        listen(&mut stream);
        wait_until("the guardian to say why", PATIENCE, || {
            let now = place.agent.log().matches(reason).count();
            if now > seen { Ok(()) } else { Err(format!("{title}: nothing of {reason:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}: {}", place.agent.log()));
        assert_eq!(place.agent.guardian(), Some(pid), "{title}");
        let status = place.agent.get("/v1/status").unwrap();
        assert_eq!(status["guardian"]["state"], "guarding", "{title}: {}", status["guardian"]);
        place.assert_untouched(title);
    }
    // Those who say nothing are hung up on, however many they are.
    let mut silent: Vec<UnixStream> = (0..100).map(|_| connect(&socket)).collect();
    place.assert_untouched("a hundred silent connections");
    silent.iter_mut().for_each(|stream| drop(listen(stream)));
}
