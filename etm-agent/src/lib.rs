//! ETM's user space: everything but the program in the kernel.
//!
//! Layers, each importing only those above it in this list (checked by `cargo xtask tidy`):
//! `types`; `proto`, `core`, `config` (pure); `datapath`, `fib`, `peering`, `guardian`, `bmp`, `mrt`, `control`,
//! `recording`, `telemetry`, `privileges` (one outside thing each); `runtime` (composition); `cli`.

pub mod bmp;
pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod datapath;
pub mod fib;
pub mod guardian;
pub mod mrt;
pub mod peering;
pub mod privileges;
pub mod proto;
pub mod recording;
pub mod runtime;
pub mod telemetry;
pub mod types;
