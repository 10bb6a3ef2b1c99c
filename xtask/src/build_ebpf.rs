//! `cargo xtask build-ebpf`: compiles `etm-ebpf` and puts the object where the agent's build script embeds it.
//!
//! Never touches an object that would not change, so that nothing is rebuilt for it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::process::{self, Error, Result};
use crate::setup::{self, Scope};
use crate::toolchain::{Compiler, Linker};
use crate::workspace;

/// Compile the eBPF programs into target/ebpf/etm.bpf.o.
///
/// Always a release build: the verifier refuses what the optimiser did not see. Says by which route the compiler
/// was found (see `cargo xtask setup --help`). The agent embeds the object when it is built afterwards.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Accepted for habit's sake; the build is always a release build
    #[arg(long)]
    release: bool,
}

/// Entry point of the command.
pub(crate) fn command(_args: &Args) -> Result<ExitCode> {
    let (compiler, linker) = setup::ensure(Scope::Build)?;
    build(&compiler, &linker)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds and copies; returns where the object is.
pub(crate) fn build(compiler: &Compiler, linker: &Linker) -> Result<PathBuf> {
    let dir = workspace::root().join("etm-ebpf");
    if !dir.join("Cargo.toml").is_file() {
        return Err(Error::Content {
            path: dir,
            what: "not there; run this in a complete clone of ETM".into(),
        });
    }
    eprintln!("build-ebpf: {}", compiler.describe());
    let mut cargo = compiler.cargo("build", &dir, linker);
    let built = executables(cargo.arg("--message-format=json-render-diagnostics"))?;
    let object = workspace::ebpf_object();
    // Only the first is embedded: the others stand beside, for `etm-lab bench` and the tests.
    let beside = |name| object.with_file_name(name);
    for (name, to) in [
        ("etm-ebpf", &object),
        ("etm-bench", &beside("etm-bench.bpf.o")),
        ("etm-forwarder", &beside("etm-forwarder.bpf.o")),
    ] {
        let Some(from) = built.iter().find(|path| path.file_name().is_some_and(|file| file == name)) else {
            return Err(Error::Content { path: dir, what: format!("built no executable `{name}`") });
        };
        publish(from, to)?;
    }
    Ok(object)
}

/// Puts one object where it is looked for.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let bytes =
        std::fs::read(from).map_err(|source| Error::File { doing: "reading", path: from.into(), source })?;
    if !bytes.starts_with(b"\x7fELF") {
        return Err(Error::Content {
            path: from.into(),
            what: "not an ELF object; is the crate's binary built by bpf-linker?".into(),
        });
    }
    let news = if store(to, &bytes)? { "new" } else { "unchanged" };
    eprintln!("build-ebpf: {} ({} bytes, {news})", to.display(), bytes.len());
    Ok(())
}

/// Runs cargo and returns the executables it says it made.
fn executables(cargo: &mut Command) -> Result<Vec<PathBuf>> {
    let shown = process::shown(cargo);
    let start = |source| Error::Start { command: shown.clone(), source };
    let mut child = cargo.stdout(Stdio::piped()).spawn().map_err(start)?;
    let lines = child
        .stdout
        .take()
        .into_iter()
        .flat_map(|out| BufReader::new(out).lines().map_while(std::io::Result::ok));
    let found: Vec<PathBuf> = lines.filter_map(|line| executable_of(&line)).collect();
    let status = child.wait().map_err(start)?;
    if !status.success() {
        return Err(Error::Failed { command: shown, status });
    }
    Ok(found)
}

/// The executable that one line of cargo's JSON tells of.
fn executable_of(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    message.get("executable")?.as_str().map(PathBuf::from)
}

/// Writes `bytes` to `path` unless they are there already; whether it wrote. Replaced whole, never half.
fn store(path: &Path, bytes: &[u8]) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let failed = |source| Error::File { doing: "writing", path: path.into(), source };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let draft = path.with_extension("o.new");
    std::fs::write(&draft, bytes).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_taken_from_cargos_own_words() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["bin"]},"executable":"/t/bpfel/release/etm-ebpf"}"#;
        assert_eq!(executable_of(line), Some(PathBuf::from("/t/bpfel/release/etm-ebpf")));
        assert_eq!(executable_of(r#"{"reason":"compiler-artifact","executable":null}"#), None);
        assert_eq!(executable_of("warning: not JSON"), None);
    }

    #[test]
    fn an_unchanged_object_keeps_its_time_stamp() {
        let dir = std::env::temp_dir().join(format!("etm-xtask-store-{}", std::process::id()));
        let path = dir.join("sub").join("a.o");
        assert!(store(&path, b"one").unwrap());
        let before = path.metadata().unwrap().modified().unwrap();
        assert!(!store(&path, b"one").unwrap());
        assert_eq!(path.metadata().unwrap().modified().unwrap(), before);
        assert!(store(&path, b"two").unwrap());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
