//! Between agent and guardian: the local socket, what is said on it, who may speak, and how a process is started and
//! ended.
//!
//! Never decides what is announced or for how long (`core::custody`), and never speaks BGP.

mod process;
mod socket;
mod wire;

pub use process::{Process, SCORE_APART, detach_from_parent, spawn};
pub use socket::{
    Arrival, Greeting, GuardianError, Listener, Reader, Speaker, Writer, connect, forget, order_off,
};
pub use wire::{Change, FromGuardian, Refused, Report, Route, SessionReport, ToGuardian, VERSION, parts};
