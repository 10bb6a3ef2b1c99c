//! `etm-agent`, the daemon. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    etm_agent::cli::agent::main().into()
}
