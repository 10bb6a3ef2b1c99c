//! What cannot work ends in one clear message and a documented exit status, and leaves nothing. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use etm_tests::agent::{self, Agent, AgentOptions, Ended, Site, run_to_end, write_text};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::wait_until;
use etm_tests::scene::{PATIENCE, turn};
use etm_tests::state::binary;
use etm_tests::topology::{BORDER_AS, Role};
use etm_tests::traces::Traces;

/// Exit statuses of etm-agent, as documented.
const CONFIGURATION: i32 = 4;
const REFUSED: i32 = 5;
const SESSION: i32 = 6;
const PRIVILEGE: i32 = 7;

/// Exit status of etm where no agent answers.
const UNREACHABLE: i32 = 3;

/// Longest run of an agent that cannot start.
const LIMIT: Duration = Duration::from_secs(20);

fn lab() -> Lab {
    Lab::up(LabOptions::default()).unwrap()
}

/// The lab's configuration, a short patience for sessions, and one text replaced.
fn spoilt(lab: &Lab, mode: &'static str, from: &str, to: &str) -> String {
    let options = AgentOptions { mode, startup_timeout: "4s", ..AgentOptions::default() };
    let good = agent::config(&Site::of(lab), &options);
    assert!(good.contains(from), "nothing to spoil");
    good.replacen(from, to, 1)
}

/// Runs the agent with `text` and demands that it ends with `status`, says every word, leaves nothing.
fn assert_refused(lab: &Lab, text: &str, status: i32, words: &[&str]) -> Ended {
    let path = write_text(lab, text).unwrap();
    let ended = run_to_end(lab, &[], &["run", "--config", path.to_str().unwrap()], LIMIT).unwrap();
    assert_ended(lab, &ended, status, words);
    ended
}

fn assert_ended(lab: &Lab, ended: &Ended, status: i32, words: &[&str]) {
    assert_eq!(ended.status, Some(status), "{}", ended.said);
    for word in words {
        assert!(ended.said.contains(word), "nothing of {word:?} in: {}", ended.said);
    }
    assert!(!ended.said.contains("panicked"), "{}", ended.said);
    let is_complaint = |line: &&str| line.contains(" ERROR ") || line.starts_with("etm-agent: ");
    let complaints = ended.said.lines().filter(is_complaint).count();
    assert_eq!(complaints, 1, "not one message but: {}", ended.said);
    assert!(!lab.directory().join("etm.sock").exists(), "the control socket is left");
    wait_until("core to have no route from ETM", Duration::from_secs(2), || {
        let traces = Traces::of(lab).map_err(|error| error.to_string())?;
        if traces.is_empty() { Ok(()) } else { Err(format!("{traces:#?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}: {}", ended.said));
}

#[test]
fn a_missing_configuration_file_is_named() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let missing = lab.directory().join("missing.toml");
    let missing = missing.to_str().unwrap();
    for command in ["run", "check"] {
        let ended = run_to_end(&lab, &[], &[command, "--config", missing], LIMIT).unwrap();
        assert_ended(&lab, &ended, CONFIGURATION, &[missing]);
    }
}

#[test]
fn an_unknown_key_is_shown_with_line_and_caret() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let text = spoilt(&lab, "enforce", "interval =", "intervall =");
    let line = text.lines().position(|line| line.contains("intervall")).unwrap() + 1;
    assert_refused(&lab, &text, CONFIGURATION, &["intervall", &format!("etm.toml:{line}:"), "^"]);
}

#[test]
fn an_interface_that_does_not_exist_is_named_whatever_it_is_for() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let uplink = spoilt(&lab, "enforce", "\"up-b\"", "\"up-x\"").replace("\"up-b\"", "\"up-x\"");
    assert_refused(&lab, &uplink, CONFIGURATION, &["up-x"]);
    let inside = spoilt(&lab, "enforce", "\"in0\"", "\"in7\"");
    assert_refused(&lab, &inside, CONFIGURATION, &["in7"]);
}

#[test]
fn without_cap_bpf_it_says_which_capabilities_it_needs() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let path = agent::write_config(&lab, &AgentOptions::default()).unwrap();
    // CAP_SYS_ADMIN would stand in for CAP_BPF.
    let wrapper = ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"];
    let ended = run_to_end(&lab, &wrapper, &["run", "--config", path.to_str().unwrap()], LIMIT).unwrap();
    assert_ended(&lab, &ended, PRIVILEGE, &["CAP_BPF"]);
}

#[test]
fn a_clock_that_is_not_the_kernels_is_refused() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let path = agent::write_config(&lab, &AgentOptions::default()).unwrap();
    let wrapper = ["unshare", "--time", "--boottime", "86400", "--fork"];
    for command in ["run", "guardian", "check"] {
        let arguments = [command, "--config", path.to_str().unwrap()];
        let ended = run_to_end(&lab, &wrapper, &arguments, LIMIT).unwrap();
        assert_ended(&lab, &ended, PRIVILEGE, &["86400 s", "time namespace"]);
    }
}

#[test]
fn a_pin_root_outside_a_bpf_file_system_is_refused() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let pins = lab.directory().join("pins");
    let from = format!("pin_root = \"{}\"", lab.pin_root().display());
    let text = spoilt(&lab, "enforce", &from, &format!("pin_root = \"{}\"", pins.display()));
    assert_refused(&lab, &text, PRIVILEGE, &["BPF file system", pins.to_str().unwrap()]);
    assert!(!pins.exists(), "the directory is left");
}

#[test]
fn a_peer_that_refuses_the_connection_is_named_with_the_reason() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let text = spoilt(&lab, "enforce", "peer = \"127.0.0.1\"", "peer = \"127.0.0.1\"\nport = 1790");
    let ended = assert_refused(&lab, &text, SESSION, &["border", "127.0.0.1:1790", "refused"]);
    assert!(ended.took >= Duration::from_secs(4), "it did not wait for the startup timeout");
}

/// A peer in the border's namespace that greets every connection with `greeting`.
fn strange_peer(lab: &Lab, port: u16, greeting: &'static [u8]) -> std::thread::JoinHandle<()> {
    let listener = lab
        .namespace(Role::Border)
        .inside(|| TcpListener::bind(("127.0.0.1", port)).map_err(etm_tests::error::LabError::io("listen")))
        .unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            // A peer that hung up already is not of interest any more.
            let _ = stream.write_all(greeting);
            open.push(stream);
        }
    })
}

#[test]
fn a_peer_that_speaks_garbage_or_nothing_is_named_with_the_reason() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let garbage: &[u8] = b"HTTP/1.0 400 Bad Request\r\nServer: not-a-router\r\n\r\n";
    let (_first, _second) = (strange_peer(&lab, 1791, garbage), strange_peer(&lab, 1792, b""));
    for (port, words) in
        [(1791, ["border", "127.0.0.1:1791", "not in BGP"]), (1792, ["border", "127.0.0.1:1792", "no OPEN"])]
    {
        let to = format!("peer = \"127.0.0.1\"\nport = {port}");
        assert_refused(&lab, &spoilt(&lab, "enforce", "peer = \"127.0.0.1\"", &to), SESSION, &words);
    }
}

#[test]
fn the_router_id_of_the_peer_is_refused_at_once_with_the_way_out() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let text = spoilt(&lab, "enforce", "router_id = \"10.255.0.2\"", "router_id = \"10.255.0.1\"");
    let ended = assert_refused(&lab, &text, SESSION, &["border", "10.255.0.1", "router_id"]);
    assert!(ended.took < Duration::from_secs(4), "it knew before the startup timeout");
}

#[test]
fn a_wrong_as_number_is_refused_at_once_with_both_numbers() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let text = spoilt(&lab, "enforce", &format!("peer_as = {BORDER_AS}"), "peer_as = 64999");
    let ended = assert_refused(&lab, &text, SESSION, &["border", "64999", "64500"]);
    assert!(ended.took < Duration::from_secs(4), "it knew before the startup timeout");
}

#[test]
fn a_bird_that_learns_kernel_routes_is_never_steered_only_observed() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let file = lab.directory().join("border.conf");
    let conf = std::fs::read_to_string(&file).unwrap();
    let learning =
        conf.replacen("scan time 5; ipv4 { import none;", "scan time 1; learn; ipv4 { import all;", 1);
    assert_ne!(learning, conf);
    std::fs::write(&file, learning).unwrap();
    // What BIRD learns shows only where there is something to learn.
    let somebodys = ["route", "add", "198.18.201.0/24", "via", "10.1.0.1", "proto", "static"];
    lab.namespace(Role::Border).ip(&somebodys).unwrap();
    lab.bird(Role::Border).configure().unwrap();
    wait_until("BIRD to learn the route", PATIENCE, || {
        let learnt = lab.bird(Role::Border).routes("protocol kernel4").map_err(|error| error.to_string())?;
        if learnt.is_empty() { Err("nothing yet".to_owned()) } else { Ok(()) }
    })
    .unwrap();
    let text = spoilt(&lab, "enforce", "[agent]", "[agent]");
    assert_refused(&lab, &text, REFUSED, &["learn", "kernel4"]);
    // Observing does no harm, so it is allowed.
    let agent = Agent::start(&lab, &AgentOptions::observe()).unwrap();
    wait_until("etm-agent to be ready", PATIENCE, || agent.ready(lab.table())).unwrap();
}

#[test]
fn foreign_routes_in_its_table_and_foreign_rules_in_its_way_are_refused_and_left_alone() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let border = lab.namespace(Role::Border);
    let text = spoilt(&lab, "enforce", "[agent]", "[agent]");
    let path = write_text(&lab, &text).unwrap();
    let arguments = ["run", "--config", path.to_str().unwrap()];
    border
        .ip(&["route", "add", "198.18.200.0/24", "via", "10.1.0.1", "table", "179", "proto", "static"])
        .unwrap();
    let ended = run_to_end(&lab, &[], &arguments, LIMIT).unwrap();
    assert_eq!(ended.status, Some(REFUSED), "{}", ended.said);
    assert!(ended.said.contains("198.18.200.0/24"), "{}", ended.said);
    let left = border.ip(&["route", "show", "table", "179"]).unwrap();
    assert_eq!(left.lines().count(), 1, "{left}");
    border.ip(&["route", "del", "198.18.200.0/24", "table", "179"]).unwrap();
    border.ip(&["rule", "add", "priority", "1790", "from", "10.99.0.0/16", "lookup", "main"]).unwrap();
    let ended = run_to_end(&lab, &[], &arguments, LIMIT).unwrap();
    assert_eq!(ended.status, Some(REFUSED), "{}", ended.said);
    assert!(ended.said.contains("1790"), "{}", ended.said);
    let left = border.ip(&["rule", "show"]).unwrap();
    assert!(left.contains("10.99.0.0/16"), "{left}");
    border.ip(&["rule", "del", "priority", "1790"]).unwrap();
    assert!(Traces::of(&lab).unwrap().is_empty());
}

#[test]
fn a_second_agent_leaves_the_first_one_alone() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let mut first = Agent::start(&lab, &AgentOptions::default()).unwrap();
    wait_until("the first to be ready", PATIENCE, || first.ready(lab.table())).unwrap();
    let before = Traces::of(&lab).unwrap();
    let other_socket = spoilt(&lab, "enforce", "etm.sock", "other.sock");
    for text in [spoilt(&lab, "enforce", "[agent]", "[agent]"), other_socket] {
        let path = write_text(&lab, &text).unwrap();
        let ended = run_to_end(&lab, &[], &["run", "--config", path.to_str().unwrap()], LIMIT).unwrap();
        assert_eq!(ended.status, Some(REFUSED), "{}", ended.said);
        assert!(ended.said.contains("etm-agent"), "{}", ended.said);
        let holder = format!("process {}", first.pid());
        assert!(text.contains("etm.sock") || ended.said.contains(&holder), "{holder}: {}", ended.said);
        assert_eq!(Traces::of(&lab).unwrap(), before);
        assert!(first.ended().is_none());
        first.ready(lab.table()).unwrap();
    }
}

/// As user 65534, who has no right to anything: binds ETM's names in the border's namespace and says so.
const SQUATTER: &str = "import socket,time
held=[]
for name in ('etm-table-179','etm-guardian-179'):
    one=socket.socket(socket.AF_UNIX)
    one.bind(chr(0)+name)
    one.listen()
    held.append(one)
print('ready',flush=True)
time.sleep(60)";

#[test]
fn an_ordinary_user_who_takes_the_names_of_etm_keeps_it_from_nothing() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let mut command = lab.namespace(Role::Border).command("setpriv");
    command.args([
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
        SQUATTER,
    ]);
    let mut squatter = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(squatter.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(&said, b"ready");
    let first = Agent::start(&lab, &AgentOptions::default()).unwrap();
    let ready = wait_until("etm-agent to be ready", PATIENCE, || first.ready(lab.table()));
    let guarded =
        wait_until("its guardian to answer", PATIENCE, || first.guardian().ok_or("none".to_owned()));
    // The lock still holds between two agents.
    let path = write_text(&lab, &spoilt(&lab, "enforce", "etm.sock", "other.sock")).unwrap();
    let second = run_to_end(&lab, &[], &["run", "--config", path.to_str().unwrap()], LIMIT).unwrap();
    let squatted = squatter.try_wait().unwrap().is_none();
    squatter.kill().unwrap();
    squatter.wait().unwrap();
    ready.map_err(|error| first.with_log(error)).unwrap();
    guarded.map_err(|error| first.with_log(error)).unwrap();
    assert!(squatted, "the names were free");
    assert_eq!(second.status, Some(REFUSED), "{}", second.said);
    assert!(second.said.contains(&format!("process {}", first.pid())), "{}", second.said);
}

#[test]
fn check_finds_what_run_would_refuse_and_changes_nothing() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let check = |text: &str| {
        let path = write_text(&lab, text).unwrap();
        let ended = run_to_end(&lab, &[], &["check", "--config", path.to_str().unwrap()], LIMIT).unwrap();
        assert!(Traces::of(&lab).unwrap().is_empty(), "{}", ended.said);
        ended
    };
    let good = check(&spoilt(&lab, "enforce", "[agent]", "[agent]"));
    assert_eq!(good.status, Some(0), "{}", good.said);
    let bad = check(&spoilt(&lab, "enforce", "\"in0\"", "\"in7\""));
    assert_eq!(bad.status, Some(CONFIGURATION), "{}", bad.said);
    assert!(bad.said.contains("in7"), "{}", bad.said);
    let with = |table: &str| format!("{}\n{table}\n", spoilt(&lab, "enforce", "[agent]", "[agent]"));
    let orders = lab.directory().join("broken.json");
    std::fs::write(&orders, "{").unwrap();
    let orders = format!("[agent]\norders_file = \"{}\"", orders.display());
    for (text, status, words) in [
        (with("[control]\nwrite = [\"etm-no-such-user\"]"), CONFIGURATION, "etm-no-such-user"),
        (with("[control]\nread = [\"@etm-no-such-group\"]"), CONFIGURATION, "etm-no-such-group"),
        (spoilt(&lab, "enforce", "[agent]", "[agent]\nuser = \"etm-nobody\""), CONFIGURATION, "etm-nobody"),
        (spoilt(&lab, "enforce", "etm.sock", &"x".repeat(100)), CONFIGURATION, "at most 103 octets"),
        (with("[metrics]\nlisten = \"192.0.2.1:9179\""), 1, "192.0.2.1:9179"),
        (broken_orders(&lab, &orders), CONFIGURATION, "broken.json"),
    ] {
        for bad in [check(&text), assert_refused(&lab, &text, status, &[words])] {
            assert_eq!(bad.status, Some(status), "{words}: {}", bad.said);
            assert!(bad.said.contains(words), "{words}: {}", bad.said);
        }
    }
}

/// The lab's configuration with another file of orders.
fn broken_orders(lab: &Lab, table: &str) -> String {
    let good = spoilt(lab, "enforce", "[agent]", "[agent]");
    let without = good.lines().filter(|line| !line.starts_with("orders_file"));
    without.collect::<Vec<_>>().join("\n").replacen("[agent]", table, 1)
}

#[test]
fn a_client_without_an_agent_says_so_and_changes_nothing() {
    let Some(_turn) = turn() else { return };
    let lab = lab();
    let socket = Site::of(&lab).control_socket();
    let pins = lab.pin_root();
    let (socket, pins) = (socket.to_str().unwrap(), pins.to_str().unwrap());
    let commands: [&[&str]; 4] = [&["status"], &["overrides"], &["on"], &["off", "--pin-root", pins]];
    for command in commands {
        let output =
            Command::new(binary("etm").unwrap()).args(["-s", socket]).args(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(UNREACHABLE), "{command:?}: {said}");
        assert!(said.contains(socket) && output.stdout.is_empty(), "{command:?}: {output:?}");
    }
    assert!(Traces::of(&lab).unwrap().is_empty());
}
