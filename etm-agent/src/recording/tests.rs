//! Files on a real file system: rotation, ends, truncation, damage, a disk that is full.

use super::*;
use crate::core::controller::Controller;
use crate::core::decision::Adopted;
use crate::core::input::Input;
use crate::core::policy::tests::two_exits;
use crate::core::record::block::{End, Kind, decode};
use crate::core::record::entry::Decoder;
use crate::core::record::state;
use crate::types::Timestamp;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const LIMITS: Limits = Limits { file_bytes: 2_000, files: 3 };

fn controller() -> Controller {
    Controller::new(two_exits(), 64, &Adopted::default(), false)
}

fn moment(second: u64) -> Moment {
    Moment { boot: Timestamp(second * 1_000_000_000), wall_ns: 1_700_000_000_000_000_000 + second }
}

/// Writes ticks until the file is full, if it may.
fn ticks(writer: &mut Writer, controller: &mut Controller, from: u64, most: u64) {
    for second in from..from + most {
        let now = moment(second).boot;
        let outcome = controller.handle(now, Input::Tick);
        writer.entry(now, &Input::Tick, &outcome).unwrap();
        writer.flush().unwrap();
    }
}

fn recorded(directory: &Path, count: u64) -> Writer {
    let (mut controller, mut writer) = (controller(), Writer::new(directory.to_owned(), LIMITS));
    writer.keyframe(&controller, moment(1), 0).unwrap();
    ticks(&mut writer, &mut controller, 2, count);
    writer
}

/// Entries of a file, and how it ended.
fn read(path: &Path) -> Result<(usize, Option<End>), RecordingError> {
    let mut reader = Reader::open(path)?;
    let bytes = reader.state()?;
    let build = reader.header().build.clone();
    state::read(&bytes, &build).map_err(|error| reader.wrong(error))?;
    let (mut decoder, mut entries, mut end) = (Decoder::new(reader.header().boot), 0, None);
    while let Some((kind, bytes)) = reader.block()? {
        match kind {
            Kind::Entries => {
                let mut rest = bytes.as_slice();
                while decoder.read(&mut rest).map_err(|error| reader.wrong(error))?.is_some() {
                    entries += 1;
                }
            }
            Kind::End => end = Some(decode(&bytes, "the end").map_err(|error| reader.wrong(error))?),
            Kind::Header | Kind::State | Kind::StateEnd => panic!("{kind:?}"),
        }
    }
    Ok((entries, end))
}

#[test]
fn what_is_written_is_read_back_and_only_owner_and_group_may() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("deep/record");
    let mut writer = recorded(&place, 5);
    writer.close(End::Stopped).unwrap();
    let files = files(&place).unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!(read(&files[0]).unwrap(), (5, Some(End::Stopped)));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&files[0]) & 0o137, mode(&place) & 0o027), (0, 0));
    assert_eq!(Reader::open(&files[0]).unwrap().header().build, BUILD);
}

#[test]
fn files_rotate_and_the_oldest_go() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("notes.txt"), "not ours").unwrap();
    let (mut controller, mut writer) = (controller(), Writer::new(directory.path().to_owned(), LIMITS));
    for round in 0..6 {
        writer.keyframe(&controller, moment(1 + round * 100), 0).unwrap();
        ticks(&mut writer, &mut controller, 2 + round * 100, 90);
        assert!(writer.is_full(), "{:?}", writer.written());
    }
    writer.close(End::Gap { lost: 7 }).unwrap();
    let files = files(directory.path()).unwrap();
    let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    assert!(names.len() <= 3 && names.ends_with(&["etm-00000006.rec"]), "{names:?}");
    assert_eq!(read(files.last().unwrap()).unwrap(), (90, Some(End::Gap { lost: 7 })));
    assert_eq!(read(&files[0]).unwrap(), (90, Some(End::Rotated)));
    assert!(directory.path().join("notes.txt").exists());
    let id = |file: &Path| Reader::open(file).unwrap().header().recording;
    assert_eq!(id(&files[0]), id(files.last().unwrap()), "one recording");
}

#[test]
fn a_file_cut_anywhere_gives_what_came_before_the_cut() {
    let directory = tempfile::tempdir().unwrap();
    drop(recorded(directory.path(), 5));
    let file = files(directory.path()).unwrap().remove(0);
    let whole = fs::read(&file).unwrap();
    assert_eq!(read(&file).unwrap(), (5, None), "no end mark");
    let mut truncated = 0;
    for length in (0..whole.len()).rev().step_by(7) {
        fs::write(&file, &whole[..length]).unwrap();
        match read(&file) {
            Ok((entries, end)) => assert!(entries < 5 && end.is_none()),
            Err(RecordingError::Content { source: RecordError::Truncated, .. }) => truncated += 1,
            Err(RecordingError::Content { source: RecordError::NotARecording, .. }) => assert_eq!(length, 0),
            Err(error) => panic!("{length}: {error}"),
        }
    }
    assert!(truncated > 10);
}

#[test]
fn damage_is_named_and_never_read_as_content() {
    let directory = tempfile::tempdir().unwrap();
    drop(recorded(directory.path(), 5));
    let file = files(directory.path()).unwrap().remove(0);
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(5) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        fs::write(&file, &bytes).unwrap();
        assert!(matches!(read(&file), Err(RecordingError::Content { .. })), "byte {at}");
    }
}

#[test]
fn a_directory_without_a_recording_and_a_missing_one_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(files(directory.path()), Err(RecordingError::Empty { .. })));
    assert!(matches!(files(&directory.path().join("absent")), Err(RecordingError::Io { .. })));
    assert!(matches!(Reader::open(Path::new("/etc/hostname")), Err(RecordingError::Content { .. })));
}

#[test]
fn a_file_that_is_given_up_keeps_its_whole_blocks_and_one_without_a_keyframe_goes() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = recorded(directory.path(), 5);
    writer.abandon();
    assert!(!writer.is_open());
    assert_eq!(read(&files(directory.path()).unwrap()[0]).unwrap(), (5, None));
    let in_the_way = directory.path().join("file");
    fs::write(&in_the_way, "").unwrap();
    let mut writer = Writer::new(in_the_way, LIMITS);
    assert!(matches!(writer.keyframe(&controller(), moment(1), 0), Err(RecordingError::Io { .. })));
    assert!(!writer.is_open());
}
