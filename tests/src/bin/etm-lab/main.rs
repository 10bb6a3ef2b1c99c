//! `etm-lab`: the lab to play in, the demo and the benches. Thin: everything is in the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use etm_tests::error::LabError;

mod lab_command;

/// A network in a box to try ETM in: content servers, a border router, two transits, an exchange, a core
/// router and the rest of the Internet, each in a network namespace of its own, with real BIRD routers.
#[derive(Parser)]
#[command(name = "etm-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring up a lab to play in, look into it, remove it.
    #[command(subcommand)]
    Lab(lab_command::LabCommand),
    /// Remove a lab when its owner ends (started by the lab itself).
    #[command(hide = true)]
    Reap {
        /// Lab id.
        id: String,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Lab(command) => lab_command::run(command),
        Command::Reap { id } => etm_tests::state::reap(&id).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error: LabError| {
        eprintln!("etm-lab: {error}");
        ExitCode::FAILURE
    })
}
