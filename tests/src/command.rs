//! Runs the tools of the box (`ip`, `tc`, ...). Never through a shell.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::error::LabError;

/// Runs `program`, feeds it `input`, returns its standard output.
///
/// # Errors
/// The program is missing, cannot be run, or ends with a failure.
pub fn run(what: &str, program: &str, args: &[&str], input: Option<&str>) -> Result<String, LabError> {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(|source| cannot_start(what, program, source))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).map_err(LabError::io(what))?;
    }
    let output = child.wait_with_output().map_err(LabError::io(what))?;
    checked(what, program, &output)
}

/// The error for a program that did not even start.
pub fn cannot_start(what: &str, program: &str, source: std::io::Error) -> LabError {
    if source.kind() == std::io::ErrorKind::NotFound {
        return LabError::Missing { program: program.to_owned(), package: package_of(program) };
    }
    LabError::Io { what: format!("{what} (run {program})"), source }
}

fn checked(what: &str, program: &str, output: &Output) -> Result<String, LabError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LabError::Command {
        what: what.to_owned(),
        program: program.to_owned(),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn package_of(program: &str) -> &'static str {
    match program {
        "bird" | "birdc" => "bird2",
        "nsenter" => "util-linux",
        "bpftool" => "bpftool",
        "tcpdump" => "tcpdump",
        "strace" => "strace",
        "gobgp" | "gobgpd" => "gobgpd",
        "vtysh" | "/usr/lib/frr/bgpd" | "/usr/lib/frr/zebra" => "frr",
        "zstd" => "zstd",
        "gzip" => "gzip",
        _ => "iproute2",
    }
}
