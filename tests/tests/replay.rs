//! What a real run recorded is decided again bit for bit, without ETM running and without privileges. Needs root for
//! the run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use etm_tests::agent::{AgentOptions, Site, config};
use etm_tests::command;
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, turn};
use etm_tests::state::binary;
use etm_tests::traffic::{Demand, FRAME};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Nobody in particular.
const NOBODY: u32 = 65_534;
const QUIET: (f64, f64, f64) = (34.0, 7.0, 6.0);
const OVERLOAD: (f64, f64, f64) = (56.0, 7.0, 6.0);

fn demand((transit_a, transit_b, ix): (f64, f64, f64)) -> Demand {
    Demand::by_home(transit_a, transit_b, ix)
}

/// A recording where nobody may read it, and the client beside it.
struct Copy {
    directory: tempfile::TempDir,
}

impl Copy {
    fn of(scene: &Scene) -> Copy {
        let directory = tempfile::tempdir().unwrap();
        let copy = Copy { directory };
        fs::create_dir(copy.recording()).unwrap();
        for entry in fs::read_dir(Site::of(&scene.lab).recordings()).unwrap() {
            let file = entry.unwrap().path();
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o640, "{}", file.display());
            copy.open_up(&file, &copy.recording().join(file.file_name().unwrap()), 0o644);
        }
        copy.open_up(&binary("etm").unwrap(), &copy.directory.path().join("etm"), 0o755);
        fs::set_permissions(copy.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        copy
    }

    fn open_up(&self, from: &Path, to: &Path, mode: u32) {
        fs::copy(from, to).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn recording(&self) -> PathBuf {
        self.directory.path().join("record")
    }

    /// `etm replay DIRECTORY` by nobody.
    fn replay(&self, more: &[&str]) -> Output {
        let mut command = Command::new(self.directory.path().join("etm"));
        command.arg("--json").arg("replay").arg(self.recording()).args(more).uid(NOBODY).gid(NOBODY);
        command.output().unwrap()
    }

    fn report(&self, more: &[&str]) -> Value {
        let output = self.replay(more);
        let text = String::from_utf8_lossy(&output.stdout);
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!(output.status.success(), report["equal"] == true, "{report}");
        report
    }
}

fn status(scene: &Scene) -> Value {
    scene.agent.get("/v1/record").unwrap()
}

#[test]
fn a_recorded_run_is_decided_again_bit_for_bit() {
    let Some(_turn) = turn() else { return };
    let options = AgentOptions { record: true, ..AgentOptions::default() };
    let mut scene = Scene::start(LabOptions::default(), &options, &demand(QUIET)).unwrap();
    pass_time(Duration::from_secs(3));
    scene.demand(&demand(OVERLOAD));
    scene.wait_overrides().unwrap();
    pass_time(Duration::from_secs(4));
    assert!(scene.agent.off().unwrap().status.success());
    assert!(scene.agent.etm(&["on"]).unwrap().status.success());
    scene.wait_overrides().unwrap();
    scene.demand(&demand(QUIET));
    pass_time(Duration::from_secs(4));
    let before = status(&scene);
    assert_eq!((&before["recording"], &before["inputs_lost"]), (&true.into(), &0.into()), "{before}");
    scene.agent.signal(Signal::SIGTERM).unwrap();
    assert_eq!(scene.agent.wait_end(PATIENCE).unwrap().code(), Some(0), "{}", scene.agent.log());

    let report = Copy::of(&scene).report(&[]);
    assert_eq!((&report["equal"], &report["complete"]), (&true.into(), &true.into()), "{report}");
    assert!(report["rounds"].as_u64() > Some(10) && report["decisions"].as_u64() > Some(4), "{report}");
    assert!(report["inputs"].as_u64() >= before["inputs_recorded"].as_u64(), "{report} after {before}");
    println!(
        "replayed {} inputs, {} rounds, {} decisions",
        report["inputs"], report["rounds"], report["decisions"]
    );
}

#[test]
fn a_recording_begun_in_the_middle_and_cut_by_sigkill_is_equal_as_far_as_it_goes() {
    let Some(_turn) = turn() else { return };
    let mut scene = Scene::start(LabOptions::default(), &AgentOptions::default(), &demand(OVERLOAD)).unwrap();
    scene.wait_overrides().unwrap();
    assert_eq!(status(&scene)["recording"], false);
    assert!(scene.agent.etm(&["record", "start"]).unwrap().status.success());
    let recorded = wait_until("inputs to be recorded", PATIENCE, || {
        let status = status(&scene);
        let inputs = status["inputs_recorded"].as_u64().unwrap_or_default();
        if inputs > 20 { Ok(inputs) } else { Err(status.to_string()) }
    })
    .unwrap();
    scene.agent.signal(Signal::SIGKILL).unwrap();
    scene.agent.wait_end(PATIENCE).unwrap();

    let report = Copy::of(&scene).report(&[]);
    assert_eq!((&report["equal"], &report["complete"]), (&true.into(), &false.into()), "{report}");
    assert!(report["inputs"].as_u64() >= Some(recorded), "what was written stays: {report}");
    assert!(report["unclaimed"][0]["why"].as_str().unwrap().contains("no end mark"), "{report}");
}

/// A disk of a few kilobytes where the agent records.
struct SmallDisk(String);

impl SmallDisk {
    fn at(directory: &Path) -> SmallDisk {
        fs::create_dir_all(directory).unwrap();
        let disk = SmallDisk(directory.display().to_string());
        let mounted =
            command::run("mount", "mount", &["-t", "tmpfs", "-o", "size=8k", "etm-lab", &disk.0], None);
        mounted.unwrap();
        disk
    }

    fn grow(&self) {
        command::run("remount", "mount", &["-o", "remount,size=16m", &self.0], None).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The agent may still have a file open there.
        let _ = command::run("unmount", "umount", &["--lazy", &self.0], None);
    }
}

#[test]
fn a_full_disk_costs_the_recording_a_gap_and_the_decision_nothing() {
    let Some(_turn) = turn() else { return };
    let lab = Lab::up(LabOptions::default()).unwrap();
    let disk = SmallDisk::at(&Site::of(&lab).recordings());
    let options = AgentOptions { record: true, ..AgentOptions::default() };
    let flows = demand(QUIET).flows(lab.table(), FRAME);
    let mut scene = Scene::start_in(lab, &options, &flows).unwrap();
    wait_until("the disk to be full", PATIENCE, || {
        let status = status(&scene);
        if status["error"].is_string() { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    scene.demand(&demand(OVERLOAD));
    scene.wait_overrides().unwrap();
    disk.grow();
    let lost = wait_until("the recording to go on", PATIENCE, || {
        let status = status(&scene);
        let goes_on = status["error"].is_null() && status["file"].is_string();
        if goes_on { Ok(status["inputs_lost"].as_u64()) } else { Err(status.to_string()) }
    })
    .unwrap();
    assert!(lost > Some(0));
    pass_time(Duration::from_secs(3));
    scene.agent.signal(Signal::SIGTERM).unwrap();
    assert_eq!(scene.agent.wait_end(PATIENCE).unwrap().code(), Some(0), "{}", scene.agent.log());

    let report = Copy::of(&scene).report(&[]);
    assert_eq!((&report["equal"], &report["complete"]), (&true.into(), &false.into()), "{report}");
    let reasons = report["unclaimed"].to_string();
    assert!(reasons.contains("were not recorded"), "{reasons}");
    drop(disk);
}

#[test]
fn another_configuration_is_tried_on_what_was_recorded() {
    let Some(_turn) = turn() else { return };
    let options = AgentOptions { record: true, ..AgentOptions::observe() };
    let scene = Scene::start(LabOptions::default(), &options, &demand(OVERLOAD)).unwrap();
    pass_time(Duration::from_secs(10));
    assert!(scene.agent.etm(&["record", "stop"]).unwrap().status.success());
    wait_until("the recording to end", PATIENCE, || {
        let status = status(&scene);
        if status["file"].is_null() { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    let copy = Copy::of(&scene);
    assert_eq!(copy.report(&[])["complete"], true);
    let other = copy.directory.path().join("other.toml");
    fs::write(&other, config(&Site::of(&scene.lab), &AgentOptions::default())).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).unwrap();
    let report = copy.report(&["--config", &other.display().to_string()]);
    let (then, now) = (&report["other"]["recorded"], &report["other"]["other"]);
    assert!(then["overloaded"].as_u64() > Some(5), "{report}");
    assert!(now["overloaded"].as_u64() < then["overloaded"].as_u64(), "{report}");
    assert!(now["moves"].as_u64() > Some(0), "{report}");
}
