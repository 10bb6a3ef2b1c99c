//! `cargo xtask lab`, `demo`, `bench` and `chaos`: build what they show, then become `etm-lab`, which does the work.
//!
//! Standard output belongs to `etm-lab` alone, so that `--json` stays clean; everything said here goes to standard error.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::process::{self, Error, Result};
use crate::setup::{self, Scope};
use crate::{build_ebpf, workspace};

/// The lab to play in: network namespaces with BIRD routers and ETM.
///
/// `up` makes a lab and leaves it, `shell` opens a shell in one of its namespaces, `down` removes it.
/// Installs and builds what is needed, then hands the arguments to `etm-lab lab`; `cargo xtask lab --help` prints
/// that program's help. Needs root.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct LabArgs {
    /// up, down, shell, ... and their options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Watch ETM find an overloaded provider, move the right prefixes and put everything back.
///
/// Installs and builds what is needed, then runs `etm-lab demo` in network namespaces of its own: a timeline with
/// figures and a verdict on standard output, under two minutes, exit status 0 only if everything held. With
/// `--json` standard output ends with one object. Needs root.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct DemoArgs {
    /// Options of `etm-lab demo`, e.g. --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Measure one thing; with --json one object per line on standard output and nothing else.
///
/// Builds in release mode, then runs `etm-lab bench NAME`. Without a name `etm-lab` lists the benches it knows.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct BenchArgs {
    /// Name of the bench and its options, e.g. `--json`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Break things at random under an observer that knows what must hold: `[--seed N] [--rounds N] [--json]`.
///
/// Builds in release mode, then runs `etm-lab chaos` in network namespaces of its own (docs/chaos.md). Exit status 1
/// where an invariant was broken; a round is played again by its seed. Needs root.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ChaosArgs {
    /// Options of `etm-lab chaos`, e.g. `--seed 7 --rounds 1`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Figures for docs, from data that is not in the repository: `views --data DIR [--json]`.
///
/// Builds in release mode, then runs `etm-lab report`. Needs no root and no eBPF.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ReportArgs {
    /// Name of the report and its options, e.g. `views --data DIR`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Entry point of `cargo xtask lab`.
pub(crate) fn lab(args: &LabArgs) -> Result<ExitCode> {
    become_etm_lab("lab", &args.args)
}

/// Entry point of `cargo xtask demo`.
pub(crate) fn demo(args: &DemoArgs) -> Result<ExitCode> {
    become_etm_lab("demo", &args.args)
}

/// Entry point of `cargo xtask bench`.
pub(crate) fn bench(args: &BenchArgs) -> Result<ExitCode> {
    become_etm_lab("bench", &args.args)
}

/// Entry point of `cargo xtask chaos`.
pub(crate) fn chaos(args: &ChaosArgs) -> Result<ExitCode> {
    become_etm_lab("chaos", &args.args)
}

/// Entry point of `cargo xtask report`.
pub(crate) fn report(args: &ReportArgs) -> Result<ExitCode> {
    process::run(workspace::cargo("build").args(["--release", "--bin", "etm-lab", "-p", "etm-tests"]))?;
    exec(&workspace::target_dir().join("release"), "report", &args.args)
}

fn become_etm_lab(command: &str, args: &[OsString]) -> Result<ExitCode> {
    if !workspace::is_root() {
        return Err(Error::Missing {
            what: format!(
                "`{command}` makes network namespaces and loads eBPF programs, which takes root; as root"
            ),
            commands: vec![format!("cargo xtask {command}")],
        });
    }
    let (compiler, linker) = setup::ensure(Scope::Lab)?;
    build_ebpf::build(&compiler, &linker)?;
    process::run(workspace::cargo("build").args([
        "--release",
        "--bins",
        "-p",
        "etm-agent",
        "-p",
        "etm-tests",
    ]))?;
    let bins = workspace::target_dir().join("release");
    exec(&bins, command, args)
}

fn exec(bins: &Path, command: &str, args: &[OsString]) -> Result<ExitCode> {
    let mut lab = Command::new(bins.join("etm-lab"));
    lab.arg(command).args(args).env("ETM_BIN_DIR", bins);
    // Becoming it, rather than waiting for it, gives it our signals and gives our caller its exit status.
    let source = lab.exec();
    Err(Error::Start { command: process::shown(&lab), source })
}
