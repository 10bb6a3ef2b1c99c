//! Processes: starting a guardian, and holding on to one that speaks.
//! Never signals by number: a process is held by a descriptor, so that no other can be hit.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, setsid};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that cannot be mistaken for another (pidfd_open(2)).
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
}

impl Process {
    /// Holds on to a process; none where it is not to be seen from here.
    pub(super) fn find(pid: i32) -> Option<Process> {
        let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Process { fd })
    }

    /// Ends it at once, whatever it does (SIGKILL).
    pub fn kill(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.fd, Signal::KILL)?)
    }

    /// Asks it to end in order (SIGTERM).
    pub fn terminate(&self) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.fd, Signal::TERM)?)
    }
}

/// Starts this very binary as guardian, also where its file was replaced meanwhile. Its log goes where ours goes.
pub fn spawn(config: &Path, log_format: &str) -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg0("etm-agent")
        .args(["guardian", "--of-agent", "--log-format", log_format, "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .spawn()
}

/// By how much an agent's score for the kernel's choice of what to end, when memory is short, is above its guardian's
/// (proc(5), oom_score_adj).
pub const SCORE_APART: i16 = 200;

const SCORE: &str = "/proc/self/oom_score_adj";

/// Leaves the session and process group of whoever started us: what is meant for the agent must not reach its guardian.
/// And asks the kernel to end the agent first when memory is short: by a score far below it where we may ask for one, else
/// by the one that the agent had before it raised its own.
pub fn detach_from_parent() -> io::Result<()> {
    // Fails for the leader of a group, which is detached already.
    let _ = setsid();
    if std::fs::write(SCORE, "-900").is_ok() {
        return Ok(());
    }
    let inherited: i16 = std::fs::read_to_string(SCORE)?.trim().parse().map_err(io::Error::other)?;
    std::fs::write(SCORE, inherited.saturating_sub(SCORE_APART).max(-1000).to_string())
}
