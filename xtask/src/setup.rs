//! `cargo xtask setup`: finds or installs what building and the lab need. Idempotent, quick when nothing is to be done.
//!
//! Never asks, never removes or upgrades what is there, never leaves a service running.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use crate::process::{self, Error, Result};
use crate::toolchain::{self, Compiler, LINKER_LLVM, LINKER_VERSION, Linker, ROUTE_VARIABLE, Route};
use crate::{apt, workspace};

/// Find or install everything ETM needs to be built, tested and shown.
///
/// The eBPF compiler by either of two routes (Debian's rustc-web with its core for BPF, or rustup's nightly with
/// rust-src; ETM_EBPF_ROUTE=debian|rustup decides where both are possible), bpf-linker built for the LLVM of that
/// compiler, the programs of the lab (BIRD, iproute2, bpftool, tcpdump) and a bpffs on /sys/fs/bpf. Says what it
/// does and why. Without root or apt it prints the commands to run instead and fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only look: install nothing, fail if something is missing
    #[arg(long)]
    check: bool,
}

/// What may be done about something that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Install,
    Check,
}

/// What a caller is about to do; less is needed to build than to run the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Compiler and linker for eBPF.
    Build,
    /// These, the programs of the lab, and bpffs.
    Lab,
}

/// A program of the lab and the Debian package that brings it.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("bird", "bird2"),
    ("birdc", "bird2"),
    ("gobgpd", "gobgpd"),
    ("gobgp", "gobgpd"),
    ("vtysh", "frr"),
    ("bpftool", "bpftool"),
    ("tcpdump", "tcpdump"),
    ("nsenter", "util-linux"),
    ("bgpdump", "bgpdump"),
    ("sysctl", "procps"),
];

/// Programs without which a kind of fault is not played, and said to be not played.
const OF_FAULTS: &[(&str, &str)] = &[("strace", "strace"), ("faketime", "faketime")];

const BPFFS: &str = "/sys/fs/bpf";

/// Entry point of the command.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    let mode = if args.check { Mode::Check } else { Mode::Install };
    let (compiler, linker) = ebpf_toolchain(mode)?;
    eprintln!("setup: eBPF: {}", compiler.describe());
    let llvm = linker.llvm.map_or_else(|| "its own LLVM".to_owned(), |major| format!("LLVM {major}"));
    eprintln!("setup: eBPF: {} {LINKER_VERSION} with {llvm}", linker.path.display());
    lab_tools(mode)?;
    eprintln!("setup: lab: {}", TOOLS.iter().map(|(tool, _)| *tool).collect::<Vec<_>>().join(", "));
    cargo_components(mode)?;
    eprintln!("setup: checks: cargo fmt, cargo clippy");
    bpffs(mode)?;
    eprintln!("setup: bpffs on {BPFFS}");
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        eprintln!("setup: note: this kernel has no BTF; ETM builds here but its programs may not load");
    }
    eprintln!("setup: complete ({:.1} s)", started.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

/// Called by the other commands: the same, silent about what is already there.
pub(crate) fn ensure(scope: Scope) -> Result<(Compiler, Linker)> {
    let toolchain = ebpf_toolchain(Mode::Install)?;
    if scope == Scope::Lab {
        lab_tools(Mode::Install)?;
        bpffs(Mode::Install)?;
    }
    Ok(toolchain)
}

/// Components of the host toolchain that `cargo xtask test` uses.
pub(crate) fn ensure_checks() -> Result<()> {
    cargo_components(Mode::Install)
}

fn ebpf_toolchain(mode: Mode) -> Result<(Compiler, Linker)> {
    let compiler = match toolchain::find_compiler()? {
        Some(compiler) => compiler,
        None => install_compiler(mode)?,
    };
    match toolchain::find_linker() {
        Some(linker) if linker.fits(&compiler) => Ok((compiler, linker)),
        found => {
            let why = found.map_or_else(
                || format!("bpf-linker {LINKER_VERSION} is not installed"),
                |linker| {
                    format!("{} is built for another LLVM than {}", linker.path.display(), compiler.llvm)
                },
            );
            let linker = install_linker(mode, &compiler, &why)?;
            Ok((compiler, linker))
        }
    }
}

fn install_compiler(mode: Mode) -> Result<Compiler> {
    let wanted = toolchain::wanted_route()?;
    if wanted != Some(Route::Rustup) && apt::is_available() {
        let packages = ["rustc-web", "libstd-rust-web-dev-bpf"].map(String::from);
        let installed =
            packages_for(mode, "no compiler for eBPF: Debian's comes with core for BPF built in", &packages);
        match (installed, toolchain::find_compiler()?) {
            (Ok(()), Some(compiler)) => return Ok(compiler),
            (Err(error @ Error::Missing { .. }), _) => return Err(error),
            (Err(error), _) if wanted.is_some() => return Err(error),
            _ => eprintln!("setup: Debian's compiler could not be installed; trying rustup's"),
        }
    }
    let typed = "rustup toolchain install nightly --profile minimal --component rust-src";
    let missing = |what: &str| Error::Missing { what: what.into(), commands: vec![typed.into()] };
    if mode == Mode::Check || process::find("rustup").is_none() {
        return Err(missing(
            "no compiler for eBPF: neither Debian's rustc-web nor rustup's nightly with rust-src",
        ));
    }
    eprintln!("setup: installing rustup's nightly with rust-src: core for BPF is built from it");
    process::run(Command::new("rustup").args(typed.split(' ').skip(1)))?;
    toolchain::find_compiler()?.ok_or_else(|| missing("rustup's nightly still lacks rust-src"))
}

fn install_linker(mode: Mode, compiler: &Compiler, why: &str) -> Result<Linker> {
    let llvm = compiler.llvm;
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let feature = format!("llvm-{llvm}");
    // LLVM does the work, so an unoptimised bpf-linker links as fast and is built in a third of the time.
    let recipe = format!(
        "--version {LINKER_VERSION} --no-default-features --features {feature} --profile dev --force --locked"
    );
    let typed = format!("LLVM_PREFIX={prefix} cargo install bpf-linker {recipe}");
    if !LINKER_LLVM.contains(&llvm) {
        let why = format!("{why}, and version {LINKER_VERSION} knows no LLVM {llvm}");
        return Err(other_way_to_the_linker(compiler.route, &why));
    }
    if !Path::new(&prefix).join("bin/llvm-config").exists() || !polly_is_installed(&prefix) {
        let packages = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
        let needs = format!("{why}; building it needs LLVM {llvm}, the one of {}", compiler.release);
        match packages_for(mode, &needs, &packages) {
            Err(_) if compiler.route == Route::Rustup => {
                return Err(other_way_to_the_linker(compiler.route, why));
            }
            done => done?,
        }
    }
    if mode == Mode::Check {
        return Err(Error::Missing { what: why.into(), commands: vec![typed] });
    }
    eprintln!("setup: {why}: building it for LLVM {llvm} (about a minute)");
    let mut cargo = workspace::cargo("install");
    // Its objects are of no use to the workspace: let cargo build it in a directory of its own and remove that.
    cargo
        .arg("bpf-linker")
        .args(recipe.split(' '))
        .env("LLVM_PREFIX", &prefix)
        .env_remove("CARGO_TARGET_DIR");
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_DEBUG_ASSERTIONS", "false");
    process::run(&mut cargo)?;
    toolchain::find_linker().filter(|linker| linker.fits(compiler)).ok_or_else(|| Error::Missing {
        what: "bpf-linker was built but does not run".into(),
        commands: vec![typed],
    })
}

/// Where LLVM cannot be had from packages: the project's release binary carries its own.
fn other_way_to_the_linker(route: Route, why: &str) -> Error {
    match route {
        Route::Debian => Error::Missing {
            what: format!("{why}; take the other route"),
            commands: vec![format!("{ROUTE_VARIABLE}=rustup cargo xtask setup")],
        },
        Route::Rustup => Error::Missing {
            what: format!(
                "{why}; put the binary from https://github.com/aya-rs/bpf-linker/releases/tag/v{LINKER_VERSION} into PATH, or with cargo-binstall"
            ),
            commands: vec![format!("cargo binstall bpf-linker@{LINKER_VERSION}")],
        },
    }
}

fn polly_is_installed(prefix: &str) -> bool {
    ["libPolly.a", "libPolly.so"].iter().any(|file| Path::new(prefix).join("lib").join(file).exists())
}

fn lab_tools(mode: Mode) -> Result<()> {
    tools(mode, TOOLS)?;
    if let Err(error) = tools(mode, OF_FAULTS) {
        eprintln!("setup: note: some faults of `cargo xtask chaos` are not played: {error}");
    }
    Ok(())
}

fn tools(mode: Mode, wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|(tool, _)| process::find(tool).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let tools: Vec<_> = missing.iter().map(|(tool, _)| *tool).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| (*package).to_owned()).collect();
    packages.dedup();
    packages_for(mode, &format!("the lab needs {}", tools.join(", ")), &packages)
}

/// Installs `packages` because of `why`, or says what to type.
fn packages_for(mode: Mode, why: &str, packages: &[String]) -> Result<()> {
    if mode == Mode::Install && workspace::is_root() && apt::is_available() {
        eprintln!("setup: {why}: installing {}", packages.join(", "));
        return apt::install(packages);
    }
    let how = match (apt::is_available(), mode) {
        (false, _) => "there is no apt here: install what corresponds to these Debian packages",
        (true, Mode::Install) => "installing takes root; as root",
        (true, Mode::Check) => "as root",
    };
    Err(Error::Missing { what: format!("{why}; {how}"), commands: vec![apt::typed(packages)] })
}

fn cargo_components(mode: Mode) -> Result<()> {
    let missing: Vec<_> = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")]
        .into_iter()
        .filter(|(program, _)| !has_component(program))
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let typed = format!("rustup component add {}", missing.join(" "));
    if mode == Mode::Check || process::find("rustup").is_none() {
        return Err(Error::Missing {
            what: format!("the checks need {}", missing.join(", ")),
            commands: vec![typed],
        });
    }
    eprintln!("setup: the checks need {}", missing.join(", "));
    process::run(Command::new("rustup").args(typed.split(' ').skip(1)))
}

/// Rustup puts a proxy for every component into PATH, present or not: look beside the real cargo first.
fn has_component(program: &str) -> bool {
    match std::env::var_os("CARGO") {
        Some(cargo) => Path::new(&cargo).with_file_name(program).exists(),
        None => process::find(program).is_some(),
    }
}

fn bpffs(mode: Mode) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if bpffs_is_mounted(&mounts) {
        return Ok(());
    }
    let mut mount = Command::new("mount");
    mount.args(["-t", "bpf", "bpf", BPFFS]);
    if mode == Mode::Check || !workspace::is_root() {
        let what = format!("no bpffs on {BPFFS}, where maps are pinned; as root");
        return Err(Error::Missing { what, commands: vec![process::shown(&mount)] });
    }
    eprintln!("setup: no bpffs on {BPFFS}, where maps are pinned: mounting one (until the next boot)");
    process::run(&mut mount)
}

fn bpffs_is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_bpffs_is_recognised_and_nothing_else_is() {
        assert!(bpffs_is_mounted("proc /proc proc rw 0 0\nnone /sys/fs/bpf bpf rw 0 0\n"));
        assert!(!bpffs_is_mounted("tmpfs /sys/fs/bpf tmpfs rw 0 0\nbpf /mnt bpf rw 0 0\n"));
    }

    #[test]
    fn what_is_missing_ends_in_commands_to_type() {
        let error =
            packages_for(Mode::Check, "the lab needs bird", &["bird2".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("apt-get install --no-install-recommends bird2"), "{error}");
    }
}
