//! Routes out of a file, one after the other.

use crate::proto::mrt::{Entry, HEADER, Malformed, Peer, Record, head, record};
use crate::types::{PathId, Prefix, RouteAttrs};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest record: far above any seen, far below what a wrong length could make us hold.
const LONGEST: u32 = 16 << 20;

/// Why a file cannot be read, or not any further.
#[derive(Debug, thiserror::Error)]
pub enum MrtError {
    /// The file.
    #[error("reading {}: {source}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A length no record has.
    #[error("{}: a record of {len} bytes at {at}; is this an MRT file, and of a whole number of records?", path.display())]
    Length {
        /// Its path.
        path: PathBuf,
        /// As found.
        len: u32,
        /// Bytes of (decompressed) file before it.
        at: u64,
    },
    /// The file ends in the middle of a record.
    #[error("{}: the file ends inside the record at {at}", path.display())]
    Cut {
        /// Its path.
        path: PathBuf,
        /// Bytes of (decompressed) file before it.
        at: u64,
    },
    /// Zstandard data.
    #[error("{}: {error}; decompress it with `zstdcat FILE | etm mrt ... -`", path.display())]
    Zstd {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// A compression that is left to its own tool.
    #[error("{} is compressed by {by}; decompress it with `{tool} FILE | etm mrt ... -`", path.display())]
    Compressed {
        /// Its path.
        path: PathBuf,
        /// Which.
        by: &'static str,
        /// What reads it.
        tool: &'static str,
    },
}

/// A route of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub prefix: Prefix,
    /// Who gave it to whoever wrote the file.
    pub peer: Peer,
    /// RFC 8050; 0 without ADD-PATH.
    pub path_id: PathId,
    /// Its attributes.
    pub attrs: Arc<RouteAttrs>,
}

/// What a file held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records.
    pub records: u64,
    /// Records that hold no routes of a table: UPDATEs, multicast ...
    pub other: u64,
    /// Records that are not what they say, left out.
    pub malformed: u64,
    /// Routes.
    pub routes: u64,
    /// Routes whose attributes are wrong or whose peer is unknown, left out.
    pub unusable: u64,
    /// The first of what was left out, in words.
    pub first_fault: Option<String>,
}

/// A file being read.
pub struct Import {
    path: PathBuf,
    source: Box<dyn Read>,
    at: u64,
    peers: Vec<Peer>,
    tally: Tally,
}

impl Import {
    /// Opens `path` (`-` is standard input), plain or compressed by gzip or Zstandard, whatever its name.
    pub fn open(path: &Path) -> Result<Import, MrtError> {
        let io = |source| MrtError::Io { path: path.to_owned(), source };
        let raw: Box<dyn Read> = if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).map_err(io)?)
        };
        Import::of(path, raw).map_err(|error| match error {
            Opening::Io(source) => io(source),
            Opening::Mrt(error) => error,
        })
    }

    fn of(path: &Path, mut raw: Box<dyn Read>) -> Result<Import, Opening> {
        let mut magic = Vec::new();
        raw.by_ref().take(4).read_to_end(&mut magic).map_err(Opening::Io)?;
        let whole = BufReader::new(io::Cursor::new(magic.clone()).chain(raw));
        let path = path.to_owned();
        let source: Box<dyn Read> = match &magic[..] {
            [0x1F, 0x8B, ..] => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(whole))),
            [0x28, 0xB5, 0x2F, 0xFD] => match ruzstd::decoding::StreamingDecoder::new(whole) {
                Ok(decoder) => Box::new(BufReader::new(decoder)),
                Err(error) => return Err(Opening::Mrt(MrtError::Zstd { path, error: error.to_string() })),
            },
            [b'B', b'Z', b'h', _] => {
                return Err(Opening::Mrt(MrtError::Compressed { path, by: "bzip2", tool: "bzcat" }));
            }
            [0xFD, b'7', b'z', b'X'] => {
                return Err(Opening::Mrt(MrtError::Compressed { path, by: "xz", tool: "xzcat" }));
            }
            _ => Box::new(whole),
        };
        Ok(Import { path, source, at: 0, peers: Vec::new(), tally: Tally::default() })
    }

    /// What was read so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The routes of the next record that has any; none at the end of the file.
    pub fn next_routes(&mut self) -> Result<Option<Vec<Route>>, MrtError> {
        while let Some(record) = self.next_record()? {
            match record {
                Ok(Record::Peers(peers)) => self.peers = peers,
                Ok(Record::Rib { prefix, entries }) => {
                    let routes: Vec<Route> =
                        entries.into_iter().filter_map(|entry| self.route(prefix, entry)).collect();
                    self.tally.routes += u64::try_from(routes.len()).unwrap_or(u64::MAX);
                    if !routes.is_empty() {
                        return Ok(Some(routes));
                    }
                }
                Ok(Record::Other) => self.tally.other += 1,
                Err(malformed) => {
                    self.tally.malformed += 1;
                    self.fault(malformed.to_string());
                }
            }
        }
        Ok(None)
    }

    fn next_record(&mut self) -> Result<Option<Result<Record, Malformed>>, MrtError> {
        let mut bytes = [0; HEADER];
        match self.fill(&mut bytes)? {
            0 => return Ok(None),
            HEADER => {}
            _ => return Err(MrtError::Cut { path: self.path.clone(), at: self.at }),
        }
        let head = head(bytes);
        if head.len > LONGEST {
            return Err(MrtError::Length { path: self.path.clone(), len: head.len, at: self.at });
        }
        let mut body = Vec::new();
        let read = self.source.by_ref().take(head.len.into()).read_to_end(&mut body);
        read.map_err(|source| MrtError::Io { path: self.path.clone(), source })?;
        if u32::try_from(body.len()).ok() != Some(head.len) {
            return Err(MrtError::Cut { path: self.path.clone(), at: self.at });
        }
        self.at += u64::from(head.len) + HEADER as u64;
        self.tally.records += 1;
        Ok(Some(record(&head, Bytes::from(body))))
    }

    /// As many bytes as there are, up to all of `bytes`.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, MrtError> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.source.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(MrtError::Io { path: self.path.clone(), source }),
            }
        }
        Ok(filled)
    }

    fn route(&mut self, prefix: Prefix, entry: Entry) -> Option<Route> {
        let peer = match entry.peer {
            Ok(peer) => Some(peer),
            Err(place) => self.peers.get(usize::from(place)).copied(),
        };
        match (peer, entry.attrs) {
            (Some(peer), Ok(attrs)) => {
                Some(Route { prefix, peer, path_id: entry.path_id, attrs: Arc::new(attrs) })
            }
            (_, Err(unusable)) => {
                self.tally.unusable += 1;
                self.fault(format!("{prefix}: {unusable}"));
                None
            }
            (None, Ok(_)) => {
                self.tally.unusable += 1;
                self.fault(format!("{prefix}: a route of a peer that is not in the peer table"));
                None
            }
        }
    }

    fn fault(&mut self, words: String) {
        self.tally.first_fault.get_or_insert(words);
    }
}

/// Why it does not begin.
enum Opening {
    Io(io::Error),
    Mrt(MrtError),
}
