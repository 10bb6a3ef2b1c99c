//! MRT files: opened, decompressed, read record by record, and written. Asks no agent.
//! Never holds more than one record, whatever the size of the file; never decides what a route is good for.

mod export;
mod import;

#[cfg(test)]
mod tests;

pub use crate::proto::mrt::Peer;
pub use export::Export;
pub use import::{Import, MrtError, Route, Tally};
