//! The decision: what enters (`input`), what leaves (`decision`), and everything between.
//!
//! Pure, deterministic, single-threaded: time is an argument, nothing here reads a clock, a socket,
//! a file or a random number, and equal inputs give equal decisions.
//!
//! In reading order, each file importing only those before it.

pub mod route_rules;

pub mod billing;

pub mod policy;

pub mod input;

pub mod decision;

pub mod custody;

pub mod controls;

pub mod topology;

pub mod rate;
pub mod slots;

pub mod preference;

pub mod rib;

pub mod fib_view;

pub mod choices;

pub mod conservation;

pub mod guard;

pub mod confirm;
pub mod surge;

pub mod audit;

pub mod plan;

pub mod plan_check;

pub mod money;

pub mod allocator;

pub mod overrides;

pub mod projection;

pub mod approval;

pub mod money_view;

pub mod guard_view;

pub mod view;

pub mod controller;

pub mod record;
