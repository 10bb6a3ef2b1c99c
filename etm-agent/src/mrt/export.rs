//! Routes into a TABLE_DUMP_V2 file.

use crate::proto::mrt::{Peer, StoredRoute, peer_index, rib};
use crate::types::{PathId, Prefix, RouteAttrs, RouterId};
use std::io::{self, Write};

/// A file being written.
#[derive(Debug)]
pub struct Export<W> {
    out: W,
    at: u32,
    sequence: u32,
    left_out: u64,
}

impl<W: Write> Export<W> {
    /// Begins a table of the routes of `peers`, dumped `at` seconds since 1970.
    pub fn begin(mut out: W, at: u32, collector: RouterId, peers: &[Peer]) -> io::Result<Export<W>> {
        out.write_all(&peer_index(at, collector, peers))?;
        Ok(Export { out, at, sequence: 0, left_out: 0 })
    }

    /// All routes of one prefix: place of the peer, path identifier, attributes.
    pub fn prefix(&mut self, prefix: Prefix, routes: &[(u16, PathId, &RouteAttrs)]) -> io::Result<()> {
        let stored: Vec<StoredRoute<'_>> = routes
            .iter()
            .map(|(peer, path_id, attrs)| StoredRoute { peer: *peer, path_id: *path_id, attrs })
            .collect();
        let (record, left_out) = rib(self.at, self.sequence, prefix, &stored);
        self.sequence = self.sequence.wrapping_add(1);
        self.left_out += u64::try_from(left_out.len()).unwrap_or(u64::MAX);
        self.out.write_all(&record)
    }

    /// Ends the file; says how many routes could not be written.
    pub fn end(mut self) -> io::Result<u64> {
        self.out.flush()?;
        Ok(self.left_out)
    }
}
