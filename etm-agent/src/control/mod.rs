//! The control API on a unix socket: what operators and scripts ask, and the client that asks it.
//! Never answers from its own state: every question goes to the decision, over a short bounded queue.

pub mod schema;
