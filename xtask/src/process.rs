//! Running other programs: shown before they run, their failure told with the command that failed.
//!
//! Never writes to standard output: that belongs to whatever a command was asked to print.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Why a command of `cargo xtask` could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The program is not there or may not be run.
    #[error("starting `{command}`: {source}; `cargo xtask setup` installs what is missing")]
    Start { command: String, source: io::Error },
    /// The program ran and said no.
    #[error("`{command}` failed ({status}); what it printed is above")]
    Failed { command: String, status: ExitStatus },
    /// The program ran but its answer was not understood.
    #[error("reading the answer of `{command}`: {expected}")]
    Answer { command: String, expected: &'static str },
    /// A thread of ours came to grief.
    #[error("running programs side by side: a thread panicked, its message is above")]
    Panicked,
    /// A file could not be read or written.
    #[error("{doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    /// A file of the project says something that cannot be meant.
    #[error("{}: {what}", path.display())]
    Content { path: PathBuf, what: String },
    /// Something is missing and setup may not or cannot install it.
    #[error("{what}; run:\n  {}", commands.join("\n  "))]
    Missing { what: String, commands: Vec<String> },
}

/// Shorthand used by every module of xtask.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Runs `command` with its output on our standard error, after showing it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("    $ {}", shown(command));
    let status = command
        .stdout(io::stderr())
        .status()
        .map_err(|source| Error::Start { command: shown(command), source })?;
    if status.success() { Ok(()) } else { Err(Error::Failed { command: shown(command), status }) }
}

/// Runs `command` quietly and returns what it printed on standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|source| Error::Start { command: shown(command), source })?;
    if !out.status.success() {
        return Err(Error::Failed { command: shown(command), status: out.status });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The command as one could type it, environment first.
pub(crate) fn shown(command: &Command) -> String {
    let mut words: Vec<String> = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            // Cargo's form without spaces between words, shown as what a person would set.
            let name = if name == "CARGO_ENCODED_RUSTFLAGS" { OsStr::new("RUSTFLAGS") } else { name };
            words.push(format!("{}={}", name.to_string_lossy(), quoted(value)));
        }
    }
    words.push(quoted(command.get_program()));
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy().replace('\u{1f}', " ");
    if word.is_empty() || word.contains([' ', '"', '$', '*', ';', '&', '|']) {
        format!("'{word}'")
    } else {
        word
    }
}

/// Where `program` is, looking also where root's tools live: `PATH` of a plain user often lacks those.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo_bin = crate::workspace::cargo_home().map(|home| home.join("bin"));
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].iter().map(PathBuf::from))
        .chain(cargo_bin)
        .map(|dir| dir.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("cargo");
        command.args(["build", "--config", "a b"]).env("RUSTC", "/usr/bin/rustc");
        assert_eq!(shown(&command), "RUSTC=/usr/bin/rustc cargo build --config 'a b'");
    }

    #[test]
    fn a_failing_program_is_an_error_that_names_it() {
        let error = output(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c 'exit 3'") && error.contains('3'), "{error}");
    }

    #[test]
    fn only_files_that_may_be_run_are_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-of-etm").is_none());
        assert!(!is_program(Path::new("/etc/passwd")));
    }
}
