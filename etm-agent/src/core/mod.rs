//! The decision: what enters (`input`), what leaves (`decision`), and everything between.
//!
//! Pure, deterministic, single-threaded: time is an argument, nothing here reads a clock, a socket,
//! a file or a random number, and equal inputs give equal decisions.

pub mod decision;
pub mod input;
pub mod policy;
