//! Wire protocols, translated to and from ETM's own types.
//!
//! Pure: bytes and values in, values and bytes out. Nothing here opens a socket, reads a clock,
//! logs or spawns, so every path can be tested from a table.

pub mod bgp;
pub mod bmp;
pub mod mrt;
