//! `etm-agent`: the daemon's command line.

use crate::config::{self, Settings};
use crate::runtime::{self, DetachFrom, ExitStatus, Keeper, LogFormat};
use clap::{Parser, Subcommand, ValueEnum};
use std::io::Write;
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
Exit status:
  0  ended in order                      4  configuration missing or wrong
  1  failed while running                5  refused: acting would not be safe here
  2  wrong command line                  6  a required BGP session did not come up
  3  ended, clean-up not confirmed       7  a privilege or kernel feature is missing

A first run: `etm-agent config > etm.toml`, edit it, `etm-agent check --config etm.toml`,
`etm-agent run --config etm.toml`. It observes and changes nothing until mode = \"enforce\".
The log goes to standard error; RUST_LOG=debug shows more.";

/// Egress traffic manager: counts what leaves per provider and prefix, decides where it should leave, and makes it so.
#[derive(Debug, Parser)]
#[command(name = "etm-agent", version, after_help = AFTER_HELP)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT, then put routing back.
    Run {
        /// Configuration file.
        #[arg(long, short, value_name = "FILE", default_value = "/etc/etm/etm.toml")]
        config: PathBuf,
        /// How log lines look.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        log_format: Format,
    },
    /// Announce what the agent decides, for as long as its lease lasts. The agent starts this by itself, unless
    /// `guardian.start = false` leaves it to the system.
    Guardian {
        /// Configuration file.
        #[arg(long, short, value_name = "FILE", default_value = "/etc/etm/etm.toml")]
        config: PathBuf,
        /// End when the agent ends in order, and when no agent comes.
        #[arg(long)]
        of_agent: bool,
        /// How log lines look.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        log_format: Format,
    },
    /// Check configuration and machine as `run` would, and change nothing.
    Check {
        /// Configuration file.
        #[arg(long, short, value_name = "FILE", default_value = "/etc/etm/etm.toml")]
        config: PathBuf,
    },
    /// Print the documented configuration with all defaults.
    Config,
    /// Remove everything of ETM from the kernel: programs, maps, routes, rules. Counters are lost.
    Detach {
        /// Take pin root, table and protocol from this configuration.
        #[arg(long, short, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Directory of the pins, where there is no configuration.
        #[arg(long, value_name = "DIR", conflicts_with = "config", default_value = "/sys/fs/bpf/etm/v1")]
        pin_root: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> LogFormat {
        match format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        }
    }
}

/// Runs the daemon's command line.
pub fn main() -> ExitStatus {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    match args.command {
        Command::Run { config, log_format } => run(&config, log_format),
        Command::Guardian { config, of_agent, log_format } => guardian(&config, of_agent, log_format),
        Command::Check { config } => check(&config),
        Command::Config => print(config::EXAMPLE),
        Command::Detach { config, pin_root } => detach(config.as_deref(), pin_root),
    }
}

/// `--help` and `--version` are answers, everything else is a mistake.
fn usage(error: &clap::Error) -> ExitStatus {
    // A closed terminal cannot be told that it is closed.
    let _ = error.print();
    if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Done }
}

fn print(text: &str) -> ExitStatus {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitStatus::Done,
        Err(_) => ExitStatus::Failed,
    }
}

fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "etm-agent: {text}");
}

fn load(path: &Path) -> Result<Settings, ExitStatus> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        complain(format_args!(
            "cannot read the configuration {}: {error}; `etm-agent config` prints one to begin with",
            path.display()
        ));
        ExitStatus::Config
    })?;
    config::parse(&path.display().to_string(), &text).map_err(|error| {
        complain(format_args!("the configuration cannot be used\n{error}"));
        ExitStatus::Config
    })
}

fn run(config: &Path, format: Format) -> ExitStatus {
    let settings = match load(config) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    runtime::run(&settings, config, format.into())
}

fn guardian(config: &Path, of_agent: bool, format: Format) -> ExitStatus {
    match load(config) {
        Ok(settings) => {
            let keeper = if of_agent { Keeper::Agent } else { Keeper::System };
            runtime::guard(&settings, format.into(), keeper)
        }
        Err(status) => status,
    }
}

fn check(config: &Path) -> ExitStatus {
    let settings = match load(config) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    match runtime::check(&settings) {
        Ok(lines) => print(&format!("{}\n{} is good\n", lines.join("\n"), config.display())),
        Err(error) => {
            complain(&error);
            error.status()
        }
    }
}

fn detach(config: Option<&Path>, pin_root: PathBuf) -> ExitStatus {
    let from = match config.map(load) {
        None => DetachFrom::pin_root(pin_root),
        Some(Ok(settings)) => DetachFrom::settings(&settings),
        Some(Err(status)) => return status,
    };
    match runtime::detach(&from) {
        Ok(lines) => print(&format!("{}\n", lines.join("\n"))),
        Err(error) => {
            complain(&error);
            error.status()
        }
    }
}
