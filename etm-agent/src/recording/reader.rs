//! Reading: files in order, blocks one by one, what is cut off or damaged named as such. Never writes.

use super::{RecordingError, sequence_of};
use crate::core::record::RecordError;
use crate::core::record::block::{self, HEAD, Header, Kind, PREAMBLE};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// The files of a recording: one file as given, or those of a directory, oldest first.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, RecordingError> {
    let failed = |source| RecordingError::Io { doing: "read", path: path.to_owned(), source };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(sequence) = entry.file_name().to_str().and_then(sequence_of) {
            found.push((sequence, entry.path()));
        }
    }
    if found.is_empty() {
        return Err(RecordingError::Empty { path: path.to_owned() });
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// A file being read.
#[derive(Debug)]
pub struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    header: Header,
}

impl Reader {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Reader, RecordingError> {
        let file = File::open(path);
        let file =
            file.map_err(|source| RecordingError::Io { doing: "open", path: path.to_owned(), source })?;
        let wrong = |source| RecordingError::Content { path: path.to_owned(), source };
        let mut file = BufReader::new(file);
        let mut preamble = Vec::with_capacity(PREAMBLE);
        let most = u64::try_from(PREAMBLE).unwrap_or(u64::MAX);
        let read = file.by_ref().take(most).read_to_end(&mut preamble);
        read.map_err(|source| RecordingError::Io { doing: "read", path: path.to_owned(), source })?;
        block::check_preamble(&preamble).map_err(wrong)?;
        let first = read_block(&mut file, path)?;
        let header = match first {
            Some((Kind::Header, bytes)) => block::decode(&bytes, "the header").map_err(wrong)?,
            Some(_) => return Err(wrong(RecordError::Damaged { what: "the header" })),
            None => return Err(wrong(RecordError::Truncated)),
        };
        Ok(Reader { file, path: path.to_owned(), header })
    }

    /// What the file says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next block; none at the end of the file.
    pub fn block(&mut self) -> Result<Option<(Kind, Vec<u8>)>, RecordingError> {
        read_block(&mut self.file, &self.path)
    }

    /// The state that the file begins with.
    pub fn state(&mut self) -> Result<Vec<u8>, RecordingError> {
        let mut state = Vec::new();
        loop {
            match self.block()? {
                Some((Kind::State, part)) => state.extend_from_slice(&part),
                Some((Kind::StateEnd, part)) => {
                    state.extend_from_slice(&part);
                    return Ok(state);
                }
                Some(_) => return Err(self.wrong(RecordError::Damaged { what: "the keyframe" })),
                None => return Err(self.wrong(RecordError::Truncated)),
            }
        }
    }

    /// An error of this file.
    pub fn wrong(&self, source: RecordError) -> RecordingError {
        RecordingError::Content { path: self.path.clone(), source }
    }
}

fn read_block(file: &mut BufReader<File>, path: &Path) -> Result<Option<(Kind, Vec<u8>)>, RecordingError> {
    let wrong = |source| RecordingError::Content { path: path.to_owned(), source };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::UnexpectedEof => wrong(RecordError::Truncated),
        _ => RecordingError::Io { doing: "read", path: path.to_owned(), source },
    };
    let mut head = [0; HEAD];
    let first = file.read(&mut head[..1]).map_err(failed)?;
    if first == 0 {
        return Ok(None);
    }
    file.read_exact(&mut head[1..]).map_err(failed)?;
    let head = block::head(&head).map_err(wrong)?;
    let mut stored = vec![0; head.stored];
    file.read_exact(&mut stored).map_err(failed)?;
    head.open(&stored).map(Some).map_err(wrong)
}
