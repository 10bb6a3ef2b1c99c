//! `cargo xtask`: the project's own commands. One enum, one match; the work is in the modules.
//!
//! Never links anything of ETM: it must build on a clone where nothing else does yet.

mod apt;
mod build_ebpf;
mod fuzz;
mod lab;
mod process;
mod ratchet;
mod setup;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// Build, test and play with ETM. Start with `cargo xtask demo` as root.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Setup(setup::Args),
    BuildEbpf(build_ebpf::Args),
    Test(test::Args),
    Tidy(tidy::Args),
    Lab(lab::LabArgs),
    Demo(lab::DemoArgs),
    Bench(lab::BenchArgs),
    Chaos(lab::ChaosArgs),
    Report(lab::ReportArgs),
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Setup(args) => setup::command(&args),
        Command::BuildEbpf(args) => build_ebpf::command(&args),
        Command::Test(args) => test::command(&args),
        Command::Tidy(args) => tidy::command(&args),
        Command::Lab(args) => lab::lab(&args),
        Command::Demo(args) => lab::demo(&args),
        Command::Bench(args) => lab::bench(&args),
        Command::Chaos(args) => lab::chaos(&args),
        Command::Report(args) => lab::report(&args),
        Command::Fuzz(args) => fuzz::command(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error}");
        ExitCode::FAILURE
    })
}
