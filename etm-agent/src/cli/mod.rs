//! The two programs' command lines: `etm-agent` (daemon) and `etm` (client). Thin: words in, calls out, text back.

pub mod agent;
pub mod client;
mod doctor;
mod plan;
mod render;
mod render_plan;
mod replay;
