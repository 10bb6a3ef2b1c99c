//! The two programs' command lines: `etm-agent` (daemon) and `etm` (client). Thin: words in, calls out, text back.

pub mod agent;
mod bgp;
mod bgp_text;
pub mod client;
mod doctor;
mod mrt;
mod off;
mod orders;
mod plan;
mod render;
mod render_plan;
mod replay;
