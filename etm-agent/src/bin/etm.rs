//! `etm`, the client. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    etm_agent::cli::client::main()
}
