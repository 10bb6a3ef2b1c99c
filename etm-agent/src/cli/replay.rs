//! `etm replay`: hands a recording to the decision again, and says whether the same follows. Asks no agent, needs no
//! privilege, changes nothing.

use crate::config;
use crate::core::controller::OtherShape;
use crate::core::policy::Policy;
use crate::core::record::block::{End, Header, Kind};
use crate::core::record::entry::{Decoder, Entry};
use crate::core::record::replay::{Counted, Difference, Replay};
use crate::core::record::what_if::WhatIf;
use crate::core::record::{RecordError, block, state};
use crate::recording::{self, BUILD, Reader, RecordingError};
use serde::Serialize;
use std::path::{Path, PathBuf};

mod compare;
mod moment;
mod text;

use compare::Comparison;
pub(super) use moment::Moment;

/// What is to be replayed, and how.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// A file or a directory.
    pub(super) recording: PathBuf,
    /// Another configuration.
    pub(super) config: Option<PathBuf>,
    pub(super) from: Option<Moment>,
    pub(super) until: Option<Moment>,
    pub(super) json: bool,
}

/// Why nothing could be replayed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    /// The recording.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The other configuration cannot be read.
    #[error("cannot read the configuration {}: {source}; give a file that can be read", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is wrong.
    #[error("the configuration cannot be used\n{0}")]
    Config(#[from] config::ConfigError),
    /// It describes another machine.
    #[error(transparent)]
    Shape(#[from] OtherShape),
    /// The result has no JSON form.
    #[error("cannot print the result as JSON: {source}; leave `--json` out")]
    Form {
        /// Why.
        source: serde_json::Error,
    },
}

impl ReplayError {
    /// Exit status.
    pub(super) fn status(&self) -> u8 {
        match self {
            ReplayError::Config(_) | ReplayError::Shape(_) => 2,
            ReplayError::Recording(RecordingError::Content { .. } | RecordingError::Empty { .. }) => 2,
            ReplayError::Recording(_) | ReplayError::Read { .. } | ReplayError::Form { .. } => 1,
        }
    }
}

/// A stretch that cannot be claimed.
#[derive(Clone, Debug, Serialize)]
struct Unclaimed {
    file: String,
    why: String,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Report {
    build: String,
    this_build: &'static str,
    files: usize,
    begun_ns: u64,
    ended_ns: u64,
    #[serde(flatten)]
    counted: Counted,
    /// Keyframes reached by replay from the file before, and equal to it.
    keyframes_equal: u64,
    equal: bool,
    /// False where something in between or at the end is not known.
    complete: bool,
    difference: Option<Difference>,
    unclaimed: Vec<Unclaimed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<Comparison>,
}

/// Replays; the text, and whether everything was equal.
pub(super) fn run(wanted: &Wanted) -> Result<(String, bool), ReplayError> {
    let other = wanted.config.as_deref().map(policy).transpose()?;
    let files = recording::files(&wanted.recording)?;
    let mut pass = Pass::new(wanted, other);
    let mut first_error = None;
    for file in &pass.chosen(files) {
        match pass.file(file) {
            Ok(true) => {}
            Ok(false) => break,
            Err(ReplayError::Recording(error)) => {
                pass.unclaimed(file, &error);
                pass.leave();
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match first_error {
        Some(error) if pass.report.files == 0 => Err(error.into()),
        _ => pass.finish(),
    }
}

fn policy(path: &Path) -> Result<Policy, ReplayError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ReplayError::Read { path: path.to_owned(), source })?;
    Ok(config::parse(&path.display().to_string(), &text)?.policy)
}

/// A replay under way.
enum At {
    Same(Box<Replay>),
    Other(Box<WhatIf>),
}

struct Pass<'a> {
    wanted: &'a Wanted,
    other: Option<Policy>,
    /// State and the recording it belongs to; none after a stretch that cannot be claimed.
    at: Option<(At, u64)>,
    report: Report,
    /// Calendar time minus boot time.
    offset: u64,
    comparison: Comparison,
    /// What was counted in states that were given up.
    before: Counted,
}

impl<'a> Pass<'a> {
    fn new(wanted: &'a Wanted, other: Option<Policy>) -> Pass<'a> {
        let report = Report { this_build: BUILD, equal: true, complete: true, ..Report::default() };
        let (comparison, before) = (Comparison::default(), Counted::default());
        Pass { wanted, other, at: None, report, offset: 0, comparison, before }
    }

    /// The files from the last that begins before `--from` on.
    fn chosen(&self, mut files: Vec<PathBuf>) -> Vec<PathBuf> {
        let Some(from) = self.wanted.from else { return files };
        let begun = |file: &PathBuf| Reader::open(file).ok().map(|reader| reader.header().wall_ns);
        let origin = files.iter().find_map(begun).unwrap_or(0);
        let from = from.wall_ns(origin);
        let first = files.iter().rposition(|file| begun(file).is_some_and(|begun| begun <= from));
        files.split_off(first.unwrap_or(0))
    }

    fn unclaimed(&mut self, file: &Path, why: &dyn std::fmt::Display) {
        self.report.complete = false;
        let file = file.display().to_string();
        self.report.unclaimed.push(Unclaimed { file, why: why.to_string() });
    }

    /// Replays one file; false where `--until` is reached or a difference was found.
    fn file(&mut self, path: &Path) -> Result<bool, ReplayError> {
        let mut reader = Reader::open(path)?;
        let header = reader.header().clone();
        if self.report.files == 0 {
            (self.report.build, self.report.begun_ns) = (header.build.clone(), header.wall_ns);
        }
        self.offset = header.wall_ns.wrapping_sub(header.boot.0);
        let bytes = reader.state()?;
        if header.lost > 0 {
            self.unclaimed(path, &format!("{} inputs before it were not recorded", header.lost));
        }
        if !self.meet(&header, &bytes, &reader)? {
            return Ok(false);
        }
        self.report.files += 1;
        let mut decoder = Decoder::new(header.boot);
        let mut end = None;
        while let Some((kind, bytes)) = reader.block()? {
            match kind {
                Kind::Entries => {
                    let mut rest = bytes.as_slice();
                    while let Some(entry) = decoder.read(&mut rest).map_err(|error| reader.wrong(error))? {
                        if !self.entry(&entry) {
                            return Ok(false);
                        }
                    }
                }
                Kind::End => {
                    end = Some(block::decode(&bytes, "the end").map_err(|error| reader.wrong(error))?);
                }
                Kind::Header | Kind::State | Kind::StateEnd => {
                    return Err(reader.wrong(RecordError::Damaged { what: "the order of blocks" }).into());
                }
            }
        }
        self.ended(path, end);
        Ok(true)
    }

    fn ended(&mut self, path: &Path, end: Option<End>) {
        match end {
            Some(End::Rotated | End::Stopped) => {}
            Some(End::Gap { lost }) => {
                self.unclaimed(path, &format!("at least {lost} inputs after it were not recorded"));
                self.leave();
            }
            None => self.unclaimed(
                path,
                &"it has no end mark: the agent was killed, or is still recording; what was recorded is replayed",
            ),
        }
    }

    /// At a keyframe: compares with the state reached, where there is one, and goes on from it.
    fn meet(&mut self, header: &Header, bytes: &[u8], reader: &Reader) -> Result<bool, ReplayError> {
        let follows =
            self.at.as_ref().is_some_and(|(_, recording)| *recording == header.recording && header.lost == 0);
        if follows && let Some((At::Other(_), _)) = self.at {
            return Ok(true);
        }
        if follows && let Some((At::Same(replay), _)) = &self.at {
            if state::is_written_as(replay.controller(), bytes) {
                self.report.keyframes_equal += 1;
                return Ok(true);
            }
            self.report.equal = false;
            self.report.difference = Some(Difference {
                input: replay.counted().inputs,
                round: replay.counted().rounds,
                handed_in: "a keyframe",
                at_ns: header.boot,
                what: "the state at a keyframe",
                prefix: None,
                recorded: "as in the file".to_owned(),
                replayed: "another, though every decision before was equal".to_owned(),
            });
            return Ok(false);
        }
        self.leave();
        let state = state::read(bytes, &header.build).map_err(|error| reader.wrong(error))?;
        let at = match &self.other {
            None => At::Same(Box::new(Replay::new(state))),
            Some(policy) => {
                let now = state.clone().under(policy.clone())?;
                At::Other(Box::new(WhatIf::new(state, now)))
            }
        };
        self.at = Some((at, header.recording));
        Ok(true)
    }

    /// Keeps what was counted in the state that is given up.
    fn leave(&mut self) {
        match self.at.take() {
            Some((At::Same(replay), _)) => self.before = self.before + replay.counted(),
            Some((At::Other(other), _)) => self.comparison.add(&other),
            None => {}
        }
    }

    /// Hands an entry in; false where the replay ends.
    fn entry(&mut self, entry: &Entry) -> bool {
        let wall_ns = entry.now.0.wrapping_add(self.offset);
        if self.wanted.until.is_some_and(|until| wall_ns > until.wall_ns(self.report.begun_ns)) {
            return false;
        }
        self.report.ended_ns = wall_ns;
        match &mut self.at {
            Some((At::Same(replay), _)) => {
                let difference = replay.step(entry);
                self.report.equal &= difference.is_none();
                self.report.difference = difference;
                self.report.equal
            }
            Some((At::Other(other), _)) => {
                other.step(entry);
                true
            }
            None => true,
        }
    }

    fn finish(mut self) -> Result<(String, bool), ReplayError> {
        self.leave();
        self.report.counted = self.before;
        if self.other.is_some() {
            self.report.other = Some(self.comparison);
        }
        let equal = self.report.equal;
        if !self.wanted.json {
            return Ok((text::render(&self.report), equal));
        }
        let text = serde_json::to_string(&self.report).map_err(|source| ReplayError::Form { source })?;
        Ok((text + "\n", equal))
    }
}

#[cfg(test)]
mod tests;
