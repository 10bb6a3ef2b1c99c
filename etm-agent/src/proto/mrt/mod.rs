//! MRT (RFC 6396, RFC 8050): tables of routes as files keep them. Read: TABLE_DUMP and TABLE_DUMP_V2, both families'
//! unicast, with path identifiers too. Written: TABLE_DUMP_V2.
//!
//! Path attributes are read and written by `proto::bgp`, so that a route means the same whichever way it came.
//!
//! Never here: files, compression, what becomes of the routes. UPDATEs (BGP4MP) are named and left out.

mod read;
mod write;

#[cfg(test)]
mod tests;

pub use read::{Entry, HEADER, Head, Malformed, Peer, Record, head, record};
pub use write::{StoredRoute, peer_index, rib};
