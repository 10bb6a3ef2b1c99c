//! The control API on a unix socket: what operators and scripts ask, and the client that asks it.
//! Never answers from its own state: every question goes to the decision, over a short bounded queue.

mod access;
mod client;
mod door;
mod metrics;
pub mod schema;
mod server;

pub use access::{Access, Client, Grantee, Grants};
pub use client::{ClientError, command, get, order};
pub use server::{ControlError, Desks, Request, Socket, bind, router, serve, serve_metrics};
