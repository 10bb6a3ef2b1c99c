//! `etm-lab`: the lab to play in, the demo and the benches. Thin: everything is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use etm_tests::bench::BenchOptions;
use etm_tests::chaos::{self, ChaosOptions};
use etm_tests::demo::{self, Format};
use etm_tests::error::LabError;
use etm_tests::report::{self, ViewOptions};
use etm_tests::{bench, state};

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
    /// Watch ETM find an overloaded provider, move prefixes, survive a cut link and let go, with figures.
    ///
    /// Takes about a minute. Exit status: 0 everything held, 1 something did not, 2 it could not be run.
    Demo {
        /// One JSON object per line on standard output; the last holds every figure.
        #[arg(long)]
        json: bool,
    },
    /// Run a bench by name; without a name, list them.
    Bench {
        /// Name of the bench.
        name: Option<String>,
        /// Routing table instead of a generated one: lines `prefix<TAB>anything`, also as .zst.
        #[arg(long)]
        table: Option<PathBuf>,
        /// Smaller sizes, to see that it runs; where a bench has them.
        #[arg(long)]
        quick: bool,
        /// One part of a bench that has several, such as `ingest` of `bgp`.
        #[arg(long)]
        part: Option<String>,
        /// One JSON object per line on standard output.
        #[arg(long)]
        json: bool,
    },
    /// Break things at random under an observer that knows what must hold (docs/chaos.md).
    ///
    /// Exit status: 0 no invariant was broken, 1 one was, 2 it could not be run.
    Chaos {
        /// Seed of the first round; each following round has the next number.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many rounds.
        #[arg(long, default_value_t = 20)]
        rounds: u64,
        /// Which labs: of `both`, every fifth seed has two borders.
        #[arg(long, value_enum, default_value_t)]
        topology: chaos::Topology,
        /// Where logs of rounds with violations are kept.
        #[arg(long, default_value = "target/chaos")]
        keep: PathBuf,
        /// One JSON object per line on standard output; the last sums up.
        #[arg(long)]
        json: bool,
    },
    /// Run a program with a small disk of its own (started by the chaos rounds).
    #[command(hide = true)]
    SmallDisk {
        /// Where the disk is mounted, in a mount namespace of its own.
        directory: String,
        /// Its size, as tmpfs takes it.
        size: String,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// What the planner makes of real data that is not in the repository.
    #[command(subcommand)]
    Report(Report),
    /// Remove a lab when its owner ends (started by the lab itself).
    #[command(hide = true)]
    Reap {
        /// Lab id.
        id: String,
    },
}

#[derive(Subcommand)]
enum Report {
    /// Peak utilisation and money before and after, on real tables of several providers (docs/real-views.md).
    Views {
        /// Directory with `ribs/` and `demand/` (else ETM_DATA); without it nothing is done, and a line says so.
        #[arg(long)]
        data: Option<PathBuf>,
        /// One JSON object per line on standard output, instead of tables.
        #[arg(long)]
        json: bool,
    },
}

/// The run could not be made, as opposed to made and failed.
const CANNOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Lab(command) => lab_command::run(command),
        Command::Demo { json } => run_demo(json),
        Command::Bench { name, table, quick, part, json } => {
            run_bench(name.as_deref(), &BenchOptions { json, table, quick, part })
        }
        Command::Report(Report::Views { data, json }) => {
            let data = data.or_else(|| std::env::var_os("ETM_DATA").map(PathBuf::from));
            report::views(&ViewOptions { data, json }).map(|_| ExitCode::SUCCESS)
        }
        Command::Chaos { seed, rounds, topology, keep, json } => {
            let held = chaos::run(&ChaosOptions { seed, rounds, topology, json, keep });
            held.map(|held| if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::SmallDisk { directory, size, command } => {
            Err(chaos::disk::small_disk(&directory, &size, &command))
        }
        Command::Reap { id } => state::reap(&id).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error: LabError| {
        eprintln!("etm-lab: {error}");
        ExitCode::from(CANNOT_RUN)
    })
}

fn run_demo(json: bool) -> Result<ExitCode, LabError> {
    let verdict = demo::run(if json { Format::Json } else { Format::Text })?;
    Ok(if verdict.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_bench(name: Option<&str>, options: &BenchOptions) -> Result<ExitCode, LabError> {
    let Some(name) = name else {
        for bench in &bench::BENCHES {
            println!("{:<20} {}", bench.name, bench.about);
        }
        return Ok(ExitCode::SUCCESS);
    };
    match bench::find(name) {
        Ok(bench) => (bench.run)(options).map(|()| ExitCode::SUCCESS),
        Err(message) => {
            eprintln!("etm-lab: {message}");
            Ok(ExitCode::from(CANNOT_RUN))
        }
    }
}
