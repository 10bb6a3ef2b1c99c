//! Recordings of several files, whole and not, and what is said of them.

use super::*;
use crate::core::controller::Controller;
use crate::core::input::Input;
use crate::core::policy::tests::two_exits;
use crate::core::record::tests::Stage;
use crate::recording::{Limits, Moment as Now, Writer, files};
use crate::types::Timestamp;
use proptest::prelude::*;
use serde_json::Value;
use std::fs;

/// A stage whose inputs go to files.
struct Recorded {
    stage: Stage,
    writer: Writer,
    directory: tempfile::TempDir,
}

fn now(stage: &Stage) -> Now {
    Now { boot: stage.now, wall_ns: 1_700_000_000_000_000_000 + stage.now.0 }
}

impl Recorded {
    fn new() -> Recorded {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { file_bytes: 1_000_000, files: 10 };
        let mut stage = Stage::new(two_exits());
        stage.learn();
        let mut writer = Writer::new(directory.path().to_owned(), limits);
        writer.keyframe(&stage.controller, now(&stage), 0).unwrap();
        Recorded { stage, writer, directory }
    }

    /// Hands to the writer what the stage does next.
    fn play(&mut self, act: impl FnOnce(&mut Stage)) {
        self.stage.keyframe();
        let mut controller: Controller = self.stage.controller.clone();
        act(&mut self.stage);
        for entry in self.stage.entries() {
            let outcome = controller.handle(entry.now, entry.input.clone());
            self.writer.entry(entry.now, &entry.input, &outcome).unwrap();
        }
    }

    fn seconds(&mut self, count: u64, mbit: [u64; 10]) {
        self.play(|stage| (0..count).for_each(|_| stage.second(&mbit)));
    }

    fn next_file(&mut self, lost: u64) {
        self.writer.keyframe(&self.stage.controller, now(&self.stage), lost).unwrap();
    }

    /// Three files of one recording.
    fn of_three_files() -> Recorded {
        let mut recorded = Recorded::new();
        recorded.seconds(4, [4; 10]);
        recorded.next_file(0);
        recorded.seconds(6, [6; 10]);
        recorded.next_file(0);
        recorded.seconds(4, [3; 10]);
        recorded.writer.close(End::Stopped).unwrap();
        recorded
    }

    fn replay(&self, wanted: Wanted) -> (Value, bool) {
        let recording = self.directory.path().to_owned();
        let (text, equal) = run(&Wanted { recording, json: true, ..wanted }).unwrap();
        (serde_json::from_str(&text).unwrap(), equal)
    }
}

#[test]
fn files_of_one_recording_follow_from_one_another() {
    let recorded = Recorded::of_three_files();
    let (report, equal) = recorded.replay(Wanted::default());
    assert!(equal && report["complete"] == true, "{report}");
    assert_eq!(
        (&report["files"], &report["rounds"], &report["keyframes_equal"]),
        (&3.into(), &14.into(), &2.into())
    );
    let recording = recorded.directory.path().to_owned();
    let (text, _) = run(&Wanted { recording, ..Wanted::default() }).unwrap();
    assert!(text.contains("every decision is equal"), "{text}");
}

#[test]
fn a_gap_is_named_and_what_comes_after_it_is_replayed_from_its_keyframe() {
    let mut recorded = Recorded::new();
    recorded.seconds(4, [4; 10]);
    // Not recorded.
    recorded.stage.second(&[6; 10]);
    recorded.next_file(1);
    recorded.seconds(4, [6; 10]);
    recorded.writer.close(End::Stopped).unwrap();
    let (report, equal) = recorded.replay(Wanted::default());
    assert!(equal && report["complete"] == false, "{report}");
    assert_eq!((&report["rounds"], &report["keyframes_equal"]), (&8.into(), &0.into()));
    assert!(report["unclaimed"][0]["why"].as_str().unwrap().contains("1 inputs"), "{report}");
}

#[test]
fn an_input_missing_in_the_middle_is_a_difference() {
    let mut recorded = Recorded::new();
    recorded.seconds(4, [4; 10]);
    recorded.stage.second(&[6; 10]);
    recorded.seconds(4, [6; 10]);
    recorded.writer.close(End::Stopped).unwrap();
    let (report, equal) = recorded.replay(Wanted::default());
    assert!(!equal && report["difference"]["round"].as_u64() > Some(3), "{report}");
}

#[test]
fn a_state_that_does_not_follow_is_a_difference() {
    let mut recorded = Recorded::new();
    recorded.seconds(4, [4; 10]);
    recorded.stage.controller.handle(recorded.stage.now, Input::Order(crate::core::input::Order::Off));
    recorded.next_file(0);
    recorded.writer.close(End::Stopped).unwrap();
    let (report, equal) = recorded.replay(Wanted::default());
    assert!(!equal && report["difference"]["what"] == "the state at a keyframe", "{report}");
}

#[test]
fn from_and_until_choose_a_stretch() {
    let recorded = Recorded::of_three_files();
    let (report, _) =
        recorded.replay(Wanted { until: Some(Moment::After(2_000_000_000)), ..Wanted::default() });
    assert_eq!(report["rounds"], 2);
    let (report, _) =
        recorded.replay(Wanted { from: Some(Moment::After(5_000_000_000)), ..Wanted::default() });
    assert_eq!((&report["files"], &report["rounds"]), (&2.into(), &10.into()));
}

#[test]
fn another_configuration_shows_loads_and_moves_side_by_side() {
    let recorded = Recorded::of_three_files();
    let config = recorded.directory.path().join("other.toml");
    let mut policy = two_exits();
    policy.max_overrides = 0;
    fs::write(&config, "[[interface]]\nname = \"elsewhere\"\ncapacity = \"1Gbit\"\n").unwrap();
    let wanted =
        Wanted { recording: recorded.directory.path().to_owned(), config: Some(config), ..Wanted::default() };
    assert!(matches!(run(&wanted), Err(ReplayError::Config(_))));
    let mut pass = Pass::new(&wanted, Some(policy));
    for file in files(recorded.directory.path()).unwrap() {
        assert!(pass.file(&file).unwrap());
    }
    let (text, _) = pass.finish().unwrap();
    assert!(text.contains("peak now") && text.contains("made then, not now"), "{text}");
}

#[test]
fn a_damaged_file_costs_itself_and_no_other() {
    let recorded = Recorded::of_three_files();
    let middle = &files(recorded.directory.path()).unwrap()[1];
    let mut bytes = fs::read(middle).unwrap();
    let at = bytes.len() - 40;
    bytes[at] ^= 1;
    fs::write(middle, bytes).unwrap();
    let (report, equal) = recorded.replay(Wanted::default());
    assert!(equal && report["complete"] == false, "{report}");
    assert_eq!(
        (&report["files"], &report["unclaimed"][0]["file"]),
        (&3.into(), &middle.display().to_string().into())
    );
}

#[test]
fn nothing_to_replay_is_an_error_with_a_status() {
    let directory = tempfile::tempdir().unwrap();
    let status =
        |path: &Path| run(&Wanted { recording: path.to_owned(), ..Wanted::default() }).unwrap_err().status();
    assert_eq!(status(directory.path()), 2);
    assert_eq!(status(&directory.path().join("absent")), 1);
    let text = directory.path().join("etm-00000001.rec");
    fs::write(&text, "no recording").unwrap();
    assert_eq!(status(&text), 2);
    assert_eq!(Timestamp::default(), Timestamp(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_damage_never_panics(changes in proptest::collection::vec((0..3usize, any::<prop::sample::Index>(), any::<u8>()), 1..5), cut in proptest::option::of((0..3usize, any::<prop::sample::Index>()))) {
        let recorded = Recorded::of_three_files();
        let files = files(recorded.directory.path()).unwrap();
        for (file, at, value) in changes {
            let mut bytes = fs::read(&files[file]).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = value;
            fs::write(&files[file], bytes).unwrap();
        }
        if let Some((file, at)) = cut {
            let mut bytes = fs::read(&files[file]).unwrap();
            bytes.truncate(at.index(bytes.len()));
            fs::write(&files[file], bytes).unwrap();
        }
        let wanted = Wanted { recording: recorded.directory.path().to_owned(), ..Wanted::default() };
        if let Ok((text, equal)) = run(&wanted) {
            prop_assert!(equal, "{text}");
        }
    }
}
