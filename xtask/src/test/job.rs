//! One program of a stage: its output goes to a log, a limit bounds its time, a sign of life is shown.
//!
//! Never a pipe: a daemon left behind by a test would keep a pipe open and hang the gate.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::process::{self, Error, Result};

const POLL: Duration = Duration::from_millis(20);
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
const GRACE: Duration = Duration::from_secs(10);

/// What to run, and how to show that it gets on.
#[derive(Debug)]
pub(crate) struct Job {
    /// Name of its logs, without ending.
    pub(crate) log: String,
    pub(crate) command: Command,
    pub(crate) limit: Duration,
    /// What to show of a line of output as soon as it is complete.
    pub(crate) progress: Option<fn(&str) -> Option<String>>,
    /// Said before each sign of life, where jobs run side by side.
    pub(crate) name: String,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Ended by us, because its time was up.
    pub(crate) timed_out: bool,
    /// Standard output and standard error; without the former if that was kept apart.
    pub(crate) log: String,
    /// Standard output, if it was kept apart.
    pub(crate) output: String,
}

/// Where standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Together,
    Apart,
}

impl Job {
    pub(crate) fn new(log: &str, command: Command, limit: Duration) -> Self {
        Self { log: log.to_owned(), command, limit, progress: None, name: String::new() }
    }

    /// Runs to the end or to the limit; logs are left in `logs`.
    pub(crate) fn run(mut self, logs: &Path, output: Output) -> Result<Ended> {
        let log = logs.join(&self.log).with_extension("log");
        let out = logs.join(&self.log).with_extension("out");
        let file = create(&log)?;
        let stdout = if output == Output::Apart { create(&out)? } else { clone(&file, &log)? };
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(file)
            .spawn()
            .map_err(|source| Error::Start { command: process::shown(&self.command), source })?;
        let (status, timed_out) = self.watch(&mut child, &log)?;
        let output = if output == Output::Apart { read(&out)? } else { String::new() };
        Ok(Ended { status, timed_out, log: read(&log)?, output })
    }

    fn watch(&self, child: &mut Child, log: &Path) -> Result<(ExitStatus, bool)> {
        let failed = |source| Error::Start { command: process::shown(&self.command), source };
        let (started, mut shown_at, mut tail) = (Instant::now(), Instant::now(), Tail::new(log)?);
        let mut stop_at = None;
        loop {
            let ended = child.try_wait().map_err(failed)?;
            for line in tail.lines() {
                if let Some(text) = self.progress.and_then(|progress| progress(&line)) {
                    println!("    {}{text}", self.name);
                    shown_at = Instant::now();
                }
            }
            if let Some(status) = ended {
                return Ok((status, stop_at.is_some()));
            }
            match stop_at {
                // Asked first, so that it can take its namespaces away.
                None if started.elapsed() > self.limit => {
                    println!("    {}more than {} s: stopping it", self.name, self.limit.as_secs());
                    let _ = process::run(Command::new("kill").arg(child.id().to_string()));
                    stop_at = Some(Instant::now() + GRACE);
                }
                Some(at) if Instant::now() > at => child.kill().map_err(failed)?,
                _ => {}
            }
            if shown_at.elapsed() > SIGN_OF_LIFE {
                println!("    {}{:.0} s: {}", self.name, started.elapsed().as_secs_f64(), tail.last());
                shown_at = Instant::now();
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Follows a growing file line by line.
#[derive(Debug)]
struct Tail {
    file: File,
    rest: Vec<u8>,
    last: String,
}

impl Tail {
    fn new(path: &Path) -> Result<Self> {
        let mut file =
            File::open(path).map_err(|source| Error::File { doing: "opening", path: path.into(), source })?;
        file.seek(SeekFrom::Start(0)).map_err(|source| Error::File {
            doing: "reading",
            path: path.into(),
            source,
        })?;
        Ok(Self { file, rest: Vec::new(), last: String::new() })
    }

    /// Lines that have become complete since the last call. A log that cannot be read shows no progress, no more.
    fn lines(&mut self) -> Vec<String> {
        let _ = self.file.read_to_end(&mut self.rest);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let complete: Vec<u8> = self.rest.drain(..=end).collect();
        let lines: Vec<String> = String::from_utf8_lossy(&complete).lines().map(str::to_owned).collect();
        if let Some(line) = lines.iter().rev().find(|line| !line.trim().is_empty()) {
            self.last.clone_from(line);
        }
        lines
    }

    /// What it says just now: the line being written, else the last one written.
    fn last(&self) -> String {
        let line = String::from_utf8_lossy(&self.rest);
        let line = if line.trim().is_empty() { self.last.as_str() } else { &line };
        line.trim().chars().take(100).collect()
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|source| Error::File { doing: "writing", path: path.into(), source })
}

fn clone(file: &File, path: &Path) -> Result<File> {
    file.try_clone().map_err(|source| Error::File { doing: "writing", path: path.into(), source })
}

fn read(path: &Path) -> Result<String> {
    let bytes =
        std::fs::read(path).map_err(|source| Error::File { doing: "reading", path: path.into(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, script: &str, limit: Duration, output: Output) -> Ended {
        let logs = std::env::temp_dir().join(format!("etm-xtask-job-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&logs).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let ended = Job::new("a", command, limit).run(&logs, output).unwrap();
        std::fs::remove_dir_all(logs).unwrap();
        ended
    }

    #[test]
    fn standard_output_can_be_kept_apart() {
        let limit = Duration::from_secs(60);
        let ended = run("apart", "echo out; echo err >&2", limit, Output::Apart);
        assert_eq!((ended.output.as_str(), ended.log.as_str()), ("out\n", "err\n"));
        let ended = run("together", "echo out; echo err >&2; exit 3", limit, Output::Together);
        assert_eq!((ended.log.as_str(), ended.status.code()), ("out\nerr\n", Some(3)));
    }

    #[test]
    fn a_job_that_takes_too_long_is_stopped() {
        let ended = run("slow", "exec sleep 60", Duration::from_millis(100), Output::Together);
        assert!(ended.timed_out && !ended.status.success());
    }

    #[test]
    fn a_daemon_left_behind_does_not_hang_the_gate() {
        let started = Instant::now();
        let ended = run("daemon", "sleep 5 & echo done", Duration::from_secs(60), Output::Together);
        assert!(ended.status.success() && started.elapsed() < Duration::from_secs(4));
    }
}
