//! ETM without root: the agent as an ordinary user with three capabilities, who may talk to it, and what it does about those
//! who may not. Needs root to make the lab, and to become others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use etm_tests::agent::{self, Agent, AgentOptions, Site, write_text};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::wait_until;
use etm_tests::scene::{PATIENCE, Scene, turn};
use etm_tests::state::binary;
use etm_tests::topology::Role;
use etm_tests::traffic::{Demand, FRAME, Generator, Sink};
use nix::sys::signal::Signal;

/// A user of nobody's.
const USER: u32 = 61_790;
/// Another one.
const READER: u32 = 61_791;
/// One who is in a group that may write.
const OPERATOR: u32 = 61_792;
/// That group.
const GROUP: u32 = 61_793;
/// CAP_NET_ADMIN (12), CAP_PERFMON (38), CAP_BPF (39).
const THREE: &str = "000000c000001000";

/// Gives a user what a unit file gives it: a runtime directory, a place for pins, BIRD's socket.
fn prepare(lab: &Lab, uid: u32) {
    let pins = lab.pin_root();
    fs::create_dir_all(&pins).unwrap();
    for directory in [lab.directory(), pins.parent().unwrap().to_path_buf(), pins] {
        chown(&directory, Some(uid), Some(uid)).unwrap();
    }
    let bird = lab.directory().join(format!("{}.ctl", Role::Border));
    fs::set_permissions(&bird, fs::Permissions::from_mode(0o666)).unwrap();
}

fn with_exactly_three(uid: u32) -> Vec<String> {
    let caps = "+bpf,+net_admin,+perfmon";
    let id = uid.to_string();
    let words = [
        "setpriv",
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "--bounding-set",
        "-all,+bpf,+net_admin,+perfmon",
        "--inh-caps",
        caps,
        "--ambient-caps",
        caps,
    ];
    words.map(str::to_owned).to_vec()
}

/// A scene in which ETM runs by `wrapper` with `text` as its configuration, and has overrides.
fn steered(wrapper: &[String], uid: u32, change: impl FnOnce(String) -> String) -> Scene {
    let lab = Lab::up(LabOptions::default()).unwrap();
    prepare(&lab, uid);
    let text = change(agent::config(&Site::of(&lab), &AgentOptions::default()));
    let path = write_text(&lab, &text).unwrap();
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let log = lab.directory().join("etm-agent.log");
    let agent = Agent::launch(&lab, wrapper, &path, "info", log).unwrap();
    wait_until("etm-agent to be ready", PATIENCE, || agent.ready(lab.table()))
        .map_err(|error| agent.with_log(error))
        .unwrap();
    let flows = Demand::by_home(47.5, 7.0, 6.0).flows(lab.table(), FRAME);
    let generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap();
    let scene = Scene { generator, sink, agent, lab };
    scene.wait_overrides().unwrap();
    scene
}

fn line(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    found.trim_start_matches(':').split_whitespace().next().unwrap().to_owned()
}

/// Every thread of a process, for each holds its own.
fn threads(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn assert_three_and_no_more(scene: &Scene, uid: u32) {
    let pid = scene.agent.pid();
    for thread in threads(pid) {
        assert_eq!(line(thread, "Uid"), uid.to_string(), "thread {thread}");
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(line(thread, set), THREE, "{set} of thread {thread}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(line(thread, set), "0000000000000000", "{set} of thread {thread}");
        }
        assert_eq!(line(thread, "NoNewPrivs"), "1");
    }
    let guardian = scene.agent.guardian().unwrap();
    assert_eq!(line(guardian, "Uid"), uid.to_string());
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(line(guardian, set), "0000000000000000", "{set} of the guardian");
    }
    let status = scene.agent.get("/v1/status").unwrap();
    let shown = &status["agent"]["privileges"];
    assert_eq!(shown["uid"], uid);
    assert_eq!(shown["capabilities"], serde_json::json!(["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]));
    assert_eq!(shown["no_new_privileges"], true);
    assert!(scene.agent.log().contains("privileges uid="), "{}", scene.agent.log());
}

fn assert_ends_clean(scene: &mut Scene) {
    scene.agent.signal(Signal::SIGTERM).unwrap();
    let status = scene.agent.wait_end(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", scene.agent.log());
    let traces = scene.traces().unwrap();
    assert_eq!((&traces.routes[..], &traces.rules[..], &traces.announced[..]), (&[][..], &[][..], &[][..]));
    assert_eq!(traces.marking(), Vec::<&String>::new());
    assert!(!scene.agent.log().contains(" ERROR "), "{}", scene.agent.log());
}

#[test]
fn an_ordinary_user_with_three_capabilities_steers_and_leaves_nothing() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered(&with_exactly_three(USER), USER, |text| text);
    assert_three_and_no_more(&scene, USER);
    // A link that is lost and returns is attached to anew, which takes capabilities while running.
    let provider = etm_tests::topology::Provider::TransitB;
    scene.lab.unplug(provider).unwrap();
    scene.lab.plug(provider).unwrap();
    scene.lab.wait_converged().unwrap();
    wait_until("etm-agent to be ready again", PATIENCE, || scene.agent.ready(scene.lab.table()))
        .map_err(|error| scene.agent.with_log(error))
        .unwrap();
    scene.wait_overrides().unwrap();
    assert_ends_clean(&mut scene);
}

#[test]
fn root_becomes_the_agents_user_and_keeps_three_capabilities() {
    let Some(_turn) = turn() else { return };
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    let mut scene =
        steered(&[], nobody, |text| text.replacen("[agent]\n", "[agent]\nuser = \"nobody\"\n", 1));
    assert_three_and_no_more(&scene, nobody);
    assert_ends_clean(&mut scene);
}

#[test]
fn root_without_a_user_drops_the_rest_too() {
    let Some(_turn) = turn() else { return };
    let mut scene = steered(&[], 0, |text| text);
    assert_three_and_no_more(&scene, 0);
    let status = scene.agent.get("/v1/status").unwrap();
    assert_eq!(status["agent"]["privileges"]["root_is_nobody"], true);
    assert_ends_clean(&mut scene);
}

/// Runs `etm` as another user.
fn as_user(
    client: &Path,
    (uid, gid): (u32, u32),
    groups: Option<u32>,
    socket: &Path,
    words: &[&str],
) -> Output {
    let (uid, gid) = (uid.to_string(), gid.to_string());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &gid, "--inh-caps=-all", "--ambient-caps=-all"]);
    match groups {
        Some(group) => command.args(["--groups", &group.to_string()]),
        None => command.arg("--clear-groups"),
    };
    command.arg(client).arg("-s").arg(socket).args(words);
    command.output().unwrap()
}

/// An agent that only observes, with access for others.
fn observed(control: &str) -> (Agent, Lab) {
    let lab = Lab::up(LabOptions::default()).unwrap();
    let text = agent::config(&Site::of(&lab), &AgentOptions::observe());
    let path = write_text(&lab, &format!("{control}\n{text}")).unwrap();
    let agent = Agent::start_by(&lab, &path, "info").unwrap();
    (agent, lab)
}

/// Programs of this workspace lie where only root may look: a copy for everybody.
fn client_for_all() -> tempfile::TempDir {
    let directory = tempfile::tempdir_in("/run").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(binary("etm").unwrap(), directory.path().join("etm")).unwrap();
    directory
}

#[test]
fn readers_ask_writers_order_and_strangers_are_told_the_key() {
    let Some(_turn) = turn() else { return };
    let directory = client_for_all();
    let client = directory.path().join("etm");
    let control = format!("[control]\nread = [\"{READER}\"]\nwrite = [\"@{GROUP}\"]\n");
    let (agent, _lab) = observed(&control);
    let ask = |uid, gid, words: &[&str]| as_user(&client, (uid, gid), None, agent.socket(), words);
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let check = |output: &Output, code: i32, parts: &[&str]| {
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        for part in parts {
            assert!(said(output).contains(part), "nothing of {part:?} in {}", said(output));
        }
    };
    check(&ask(READER, READER, &["status"]), 0, &[]);
    check(&ask(READER, READER, &["on"]), 1, &["may read only", "control.write", &READER.to_string()]);
    check(&ask(OPERATOR, GROUP, &["on"]), 0, &[]);
    check(&ask(USER, USER, &["status"]), 1, &["may nothing here", "control.read"]);
    check(&ask(USER, USER, &["on"]), 1, &["may nothing here", "control.write"]);
    check(&ask(0, 0, &["on"]), 0, &[]);
    let log = agent.log();
    let audit: Vec<&str> = log.lines().filter(|line| line.contains("audit: ")).collect();
    let ordered = audit.iter().filter(|line| line.contains("ordered") && line.contains("POST /v1/on"));
    assert_eq!(ordered.clone().count(), 2, "{audit:?}");
    assert!(
        audit.iter().any(|line| line.contains("ordered") && line.contains(&format!("uid={OPERATOR}"))),
        "{audit:?}"
    );
    assert_eq!(audit.iter().filter(|line| line.contains("refused")).count(), 3, "{audit:?}");
}

#[test]
fn without_a_list_only_root_and_the_agents_user_are_let_in() {
    let Some(_turn) = turn() else { return };
    let directory = client_for_all();
    let client = directory.path().join("etm");
    let (agent, _lab) = observed("");
    // The file keeps strangers out; the client says what to do about it.
    let stranger = as_user(&client, (USER, USER), None, agent.socket(), &["status"]);
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(!stranger.status.success() && said.contains("control.read"), "{stranger:?}");
    // Who belongs to the file's group comes in, and is told that this is not enough.
    let grouped = as_user(&client, (USER, USER), Some(0), agent.socket(), &["status"]);
    let said = String::from_utf8_lossy(&grouped.stderr).into_owned();
    assert!(said.contains("may nothing here"), "{grouped:?}");
}

#[test]
fn a_name_that_nobody_has_is_refused_at_the_start() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let text = agent::config(&Site::of(&lab), &AgentOptions::observe());
    let check = |text: String, words: &[&str]| {
        let path = write_text(&lab, &text).unwrap();
        let arguments = ["run", "--config", path.to_str().unwrap()];
        let ended = agent::run_to_end(&lab, &[], &arguments, Duration::from_secs(20)).unwrap();
        assert_eq!(ended.status, Some(4), "{}", ended.said);
        assert!(words.iter().all(|word| ended.said.contains(word)), "{}", ended.said);
        assert!(scene_is_clean(&lab), "{}", ended.said);
    };
    check(format!("[control]\nread = [\"no-such-person\"]\n{text}"), &["no-such-person", "control.read"]);
    check(
        text.replacen("[agent]\n", "[agent]\nuser = \"no-such-user\"\n", 1),
        &["no-such-user", "agent.user"],
    );
}

fn scene_is_clean(lab: &Lab) -> bool {
    etm_tests::traces::Traces::of(lab).unwrap().is_empty()
}

/// What a unit says of a key, each value of each line.
fn unit_says(unit: &str, key: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(unit);
    let text = fs::read_to_string(path).unwrap();
    let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// `setpriv` with what a unit says of user, capabilities and bits.
fn as_the_unit(unit: &str, uid: u32) -> Vec<String> {
    let plus = |words: Vec<String>, prefix: &str| -> String {
        let lower = |word: &String| {
            format!("+{}", word.trim_start_matches(prefix).to_ascii_lowercase().replace('-', "_"))
        };
        words.iter().map(lower).collect::<Vec<_>>().join(",")
    };
    let bounding = plus(unit_says(unit, "CapabilityBoundingSet"), "CAP_");
    let ambient = plus(unit_says(unit, "AmbientCapabilities"), "CAP_");
    let bits = plus(unit_says(unit, "SecureBits"), "");
    let (bounding, id) = (format!("-all,{bounding}"), uid.to_string());
    let words = [
        "setpriv",
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "--bounding-set",
        &bounding,
        "--inh-caps",
        &ambient,
        "--ambient-caps",
        &ambient,
        "--securebits",
        &bits,
        "--no-new-privs",
    ];
    words.map(str::to_owned).to_vec()
}

#[test]
fn the_agent_steers_with_what_its_unit_gives_it_and_nothing_else() {
    let Some(_turn) = turn() else { return };
    assert_eq!(unit_says("etm-agent.service", "NoNewPrivileges"), ["yes"]);
    let mut scene = steered(&as_the_unit("etm-agent.service", USER), USER, |text| text);
    assert_three_and_no_more(&scene, USER);
    assert_ends_clean(&mut scene);
}

#[test]
fn both_units_say_what_the_binaries_and_the_manual_promise() {
    for (unit, caps) in [
        ("etm-agent.service", &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"][..]),
        ("etm-guardian.service", &[]),
    ] {
        for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
            assert_eq!(unit_says(unit, key), caps, "{unit} {key}");
        }
        // A lock without its bit would keep the bit off.
        let bits = ["noroot", "noroot-locked", "no-setuid-fixup", "no-setuid-fixup-locked"];
        assert_eq!(unit_says(unit, "SecureBits"), bits, "{unit}");
        for (key, value) in
            [("User", "etm"), ("Group", "etm"), ("RuntimeDirectory", "etm"), ("UMask", "0077")]
        {
            assert_eq!(unit_says(unit, key), [value], "{unit} {key}");
        }
    }
    // Ends that a restart does not mend (docs/operations.md, exit statuses).
    assert_eq!(unit_says("etm-agent.service", "RestartPreventExitStatus"), ["2", "5", "7"]);
    assert!(unit_says("etm-agent.service", "After").contains(&"etm-guardian.service".to_owned()));
    assert_eq!(unit_says("etm-guardian.service", "Before"), ["etm-agent.service"]);
    assert_eq!(unit_says("etm-agent.service", "StateDirectory"), ["etm"]);
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        println!("SKIP: /usr/bin/systemd-analyze is not installed (package systemd)");
        return;
    }
    // The programs are where this build put them, not where a package does.
    let directory = tempfile::tempdir().unwrap();
    let agent = binary("etm-agent").unwrap();
    let units = ["etm-agent.service", "etm-guardian.service"].map(|unit| {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(unit);
        let text = fs::read_to_string(from).unwrap();
        let to = directory.path().join(unit);
        fs::write(&to, text.replace("/usr/bin/etm-agent", agent.to_str().unwrap())).unwrap();
        to
    });
    let output = Command::new("systemd-analyze").arg("verify").args(&units).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // What it says of the box's own units is not of ours.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("etm-")).collect();
    assert_eq!(ours, Vec::<&str>::new(), "{said}");
}
