//! Writing: a new file with each keyframe, blocks as they fill, the oldest files removed. Never leaves half a block in a
//! file as long as the disk lets it take the half back.

use super::{BUILD, PREFIX, RecordingError, SUFFIX, sequence_of};
use crate::core::controller::{Controller, Outcome};
use crate::core::input::Input;
use crate::core::record::RecordError;
use crate::core::record::block::{self, End, Header, Kind};
use crate::core::record::entry::Encoder;
use crate::core::record::{digest, state};
use crate::types::Timestamp;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Plain bytes of entries in one block, unless it is written earlier for its age.
const BLOCK: usize = 256 << 10;

/// Who may read a recording: its owner and group.
const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;

/// How much disk a recording may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A new file is begun after so many bytes, and not before the entries are as large as the keyframe before them.
    pub file_bytes: u64,
    /// Files kept; at least 2.
    pub files: usize,
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since boot: the clock of entries.
    pub boot: Timestamp,
    /// Nanoseconds since 1970 (UTC).
    pub wall_ns: u64,
}

/// What was written since the writer was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Files begun.
    pub files: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Inputs.
    pub inputs: u64,
}

/// The file being written.
#[derive(Debug)]
struct Open {
    file: File,
    path: PathBuf,
    /// Bytes of whole blocks, and of these up to the end of the keyframe.
    good: u64,
    state: u64,
    pending: Vec<u8>,
    encoder: Encoder,
    recording: u64,
}

/// The recording's files.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    limits: Limits,
    open: Option<Open>,
    written: Written,
}

impl Writer {
    /// For a directory, which is made with the first file.
    pub fn new(directory: PathBuf, limits: Limits) -> Writer {
        Writer { directory, limits, open: None, written: Written::default() }
    }

    /// Begins a new file with a keyframe. `lost` inputs before it were not recorded.
    pub fn keyframe(&mut self, state: &Controller, at: Moment, lost: u64) -> Result<(), RecordingError> {
        let goes_on = self.open.as_ref().filter(|_| lost == 0).map(|open| open.recording);
        self.close(if lost == 0 { End::Rotated } else { End::Gap { lost } })?;
        self.make_directory()?;
        let numbers = self.numbers()?;
        let sequence = numbers.last().map_or(1, |last| last + 1);
        let header = Header {
            build: BUILD.to_owned(),
            policy: digest::of(state.policy()),
            recording: goes_on.unwrap_or_else(|| digest::of(&(at.boot, at.wall_ns))),
            sequence,
            lost,
            wall_ns: at.wall_ns,
            boot: at.boot,
        };
        let path = self.path(sequence);
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        let file = file.map_err(io_error("create", &path))?;
        let encoder = Encoder::new(at.boot, state);
        let recording = header.recording;
        let open = Open { file, path, good: 0, state: 0, pending: Vec::new(), encoder, recording };
        self.open = Some(open);
        self.written.files += 1;
        let begun = self.begin(&header, state);
        if begun.is_err() {
            self.abandon();
        }
        begun?;
        self.prune(&numbers)
    }

    fn begin(&mut self, header: &Header, state: &Controller) -> Result<(), RecordingError> {
        self.append(&block::preamble())?;
        self.seal(Kind::Header, &content(block::encode(header, "the header"), self.open.as_ref())?)?;
        let mut failed = Ok(());
        let last = state::write(state, |part| {
            if failed.is_ok() {
                failed = self.seal(Kind::State, part);
            }
        });
        failed?;
        self.seal(Kind::StateEnd, &content(last, self.open.as_ref())?)?;
        if let Some(open) = &mut self.open {
            open.state = open.good;
        }
        Ok(())
    }

    /// Adds an input and what followed. Without an open file it does nothing.
    pub fn entry(&mut self, now: Timestamp, input: &Input, outcome: &Outcome) -> Result<(), RecordingError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let encoded = open.encoder.write(now, input, outcome, &mut open.pending);
        let full = open.pending.len() >= BLOCK;
        content(encoded, Some(open))?;
        self.written.inputs += 1;
        if full { self.flush() } else { Ok(()) }
    }

    /// Writes what is pending.
    pub fn flush(&mut self) -> Result<(), RecordingError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut open.pending);
        self.seal(Kind::Entries, &pending)
    }

    /// Ends the file.
    pub fn close(&mut self, end: End) -> Result<(), RecordingError> {
        if self.open.is_none() {
            return Ok(());
        }
        let flushed = self.flush();
        let ended = flushed.and_then(|()| {
            self.seal(Kind::End, &content(block::encode(&end, "the end"), self.open.as_ref())?)
        });
        if let Some(open) = self.open.take() {
            // A file that was not written through is still good as far as it goes.
            let _ = open.file.sync_data();
        }
        ended
    }

    /// Lets go of a file that cannot be written, after taking half a block back.
    pub fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            let _ = open.file.set_len(open.good);
            if open.state == 0 {
                // Without its keyframe it is of no use.
                let _ = fs::remove_file(&open.path);
            }
        }
    }

    /// True while a file is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// True where a keyframe should begin the next file.
    pub fn is_full(&self) -> bool {
        let full = |open: &Open| {
            open.good >= self.limits.file_bytes && open.good.saturating_sub(open.state) >= open.state
        };
        self.open.as_ref().is_some_and(full)
    }

    /// What was written so far.
    pub fn written(&self) -> Written {
        self.written
    }

    /// The file being written.
    pub fn current(&self) -> Option<&Path> {
        self.open.as_ref().map(|open| open.path.as_path())
    }

    fn seal(&mut self, kind: Kind, plain: &[u8]) -> Result<(), RecordingError> {
        let block = content(block::seal(kind, plain), self.open.as_ref())?;
        self.append(&block)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), RecordingError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.file.write_all(bytes).map_err(io_error("write", &open.path))?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        open.good += length;
        self.written.bytes += length;
        Ok(())
    }

    fn path(&self, sequence: u64) -> PathBuf {
        self.directory.join(format!("{PREFIX}{sequence:08}{SUFFIX}"))
    }

    fn make_directory(&self) -> Result<(), RecordingError> {
        let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&self.directory);
        made.map_err(io_error("create", &self.directory))
    }

    /// Numbers of the files there are, ascending.
    fn numbers(&self) -> Result<Vec<u64>, RecordingError> {
        let failed = || io_error("list", &self.directory);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            numbers.extend(name.to_str().and_then(sequence_of));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes the oldest of the files before the one just begun: by number, and by what they may take together.
    fn prune(&mut self, before: &[u64]) -> Result<(), RecordingError> {
        let kept = self.limits.files.max(2) - 1;
        let most =
            self.limits.file_bytes.saturating_mul(u64::try_from(self.limits.files).unwrap_or(u64::MAX));
        let mut total = self.open.as_ref().map_or(0, |open| open.good);
        for (age, sequence) in before.iter().rev().enumerate() {
            let path = self.path(*sequence);
            total += fs::metadata(&path).map_or(0, |found| found.len());
            // The one before is kept whatever its size, or a large table would leave nothing to look back at.
            if age >= kept || (age > 0 && total > most) {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> RecordingError + use<> {
    let path = path.to_owned();
    move |source| RecordingError::Io { doing, path: path.clone(), source }
}

fn content<T>(result: Result<T, RecordError>, open: Option<&Open>) -> Result<T, RecordingError> {
    let path = || open.map(|open| open.path.clone()).unwrap_or_default();
    result.map_err(|source| RecordingError::Content { path: path(), source })
}
