//! A process whose requests to the kernel's routing are refused with ENOBUFS, as where no memory is left for them: strace
//! answers in the kernel's place, on the rtnetlink sockets that the process has at that moment and on no other.
//! Never touches what else the process sends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::cannot_start;
use crate::error::LabError;
use crate::netns::Namespace;
use crate::poll::wait_until;
use crate::traces::route_sockets;

/// Longest wait until strace holds every thread.
const ATTACHED: Duration = Duration::from_secs(5);

/// A process without memory for requests. Dropped, it has some again.
#[derive(Debug)]
pub struct Starved {
    tracer: Child,
    log: PathBuf,
}

impl Starved {
    /// Begins; `directory` takes the list of what was refused.
    ///
    /// # Errors
    /// strace is missing or may not, or the process is gone or has no such socket.
    pub fn begin(namespace: &Namespace, pid: i32, directory: &Path) -> Result<Self, LabError> {
        let sockets = route_sockets(namespace, pid)?;
        if sockets.is_empty() {
            let (what, detail) = ("the process to starve".into(), format!("{pid} has no rtnetlink socket"));
            return Err(LabError::Malformed { what, detail });
        }
        let log = directory.join(format!("starved-{pid}.strace"));
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "trace=sendto,sendmsg", "-e", "signal=none"]);
        command.args(["-e", "inject=sendto,sendmsg:error=ENOBUFS", "-o"]).arg(&log);
        for (inode, _) in sockets {
            command.args(["-P", &format!("socket:[{inode}]")]);
        }
        command.args(["-p", &pid.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let tracer = command.spawn().map_err(|e| cannot_start("refuse requests", "strace", e))?;
        let mut starved = Self { tracer, log };
        wait_until("strace to hold every thread", ATTACHED, || {
            if let Ok(Some(status)) = starved.tracer.try_wait() {
                return Err(format!("it ended: {status}"));
            }
            untraced(pid).map_or(Ok(()), Err)
        })?;
        Ok(starved)
    }

    /// How many requests were refused until now.
    pub fn refused(&self) -> usize {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter(|line| line.contains("ENOBUFS") && line.contains("(INJECTED)")).count()
    }

    /// Ends, and says how many requests were refused.
    pub fn end(mut self) -> usize {
        self.let_go();
        self.refused()
    }

    fn let_go(&mut self) {
        // On SIGTERM it detaches; a process that ended meanwhile ended it, too.
        if matches!(self.tracer.try_wait(), Ok(None))
            && let Ok(pid) = i32::try_from(self.tracer.id())
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.tracer.wait();
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A thread of the process that nobody traces.
fn untraced(pid: i32) -> Option<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let free = |status: &String| status.lines().any(|line| line.trim_end() == "TracerPid:\t0");
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok())
        .find(free)
        .map(|status| status.lines().next().unwrap_or_default().to_owned())
}
