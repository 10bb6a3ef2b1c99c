//! Reports: what the planner makes of real routing tables and real demand. Figures for docs, from data outside the
//! repository. Never touches the network.

mod data;
mod market;
mod views;

pub use views::{ViewOptions, run as views};
