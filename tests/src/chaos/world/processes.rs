//! Agent and guardian: killed, stopped, switched off, started with other settings. Never a process that is not theirs.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Process, World};
use crate::chaos::timeline::{close, open};
use crate::error::LabError;

impl World<'_> {
    pub(super) fn kill_agent(&mut self) -> bool {
        if self.agent == Process::Gone || self.scene.agent.ended().is_some() {
            return false;
        }
        self.guardian = self.scene.agent.guardian();
        self.watch.note(|timeline, now| open(&mut timeline.absent, now));
        let killed = self.scene.agent.signal(Signal::SIGKILL).is_ok();
        let _ = self.scene.agent.wait_end(Duration::from_secs(5));
        self.agent = Process::Gone;
        killed
    }

    pub(super) fn bring_back(&mut self) -> Result<(), LabError> {
        if self.agent == Process::Gone { self.start_agent() } else { Ok(()) }
    }

    pub(super) fn stop_agent(&mut self) -> bool {
        if self.agent != Process::Runs || self.scene.agent.ended().is_some() {
            return false;
        }
        self.watch.note(|timeline, now| open(&mut timeline.absent, now));
        self.agent = Process::Stopped;
        self.scene.agent.signal(Signal::SIGSTOP).is_ok()
    }

    pub(super) fn resume_agent(&mut self) {
        if self.agent != Process::Stopped || self.scene.agent.ended().is_some() {
            return;
        }
        self.watch.note(|timeline, now| close(&mut timeline.absent, now));
        // Gone in between: supervision finds out.
        let _ = self.scene.agent.signal(Signal::SIGCONT);
        self.agent = Process::Runs;
    }

    pub(super) fn kill_guardian(&mut self) -> bool {
        let pid = self.scene.agent.guardian().or(self.guardian);
        let Some(pid) = pid else { return false };
        self.guardian_stopped = false;
        let killed = kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok();
        self.watch.note(|timeline, now| {
            timeline.killed.push(now);
            close(&mut timeline.stunned, now);
        });
        self.guardian = None;
        killed
    }

    pub(super) fn stop_guardian(&mut self) -> bool {
        let Some(pid) = self.scene.agent.guardian().filter(|_| !self.guardian_stopped) else { return false };
        self.guardian = Some(pid);
        self.guardian_stopped = true;
        self.watch.note(|timeline, now| open(&mut timeline.stunned, now));
        kill(Pid::from_raw(pid), Signal::SIGSTOP).is_ok()
    }

    pub(super) fn resume_guardian(&mut self) {
        if !std::mem::replace(&mut self.guardian_stopped, false) {
            return;
        }
        if let Some(pid) = self.guardian {
            // An agent may have ended it, and started another one.
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
        self.watch.note(|timeline, now| close(&mut timeline.stunned, now));
    }

    pub(super) fn reconfigure(&mut self) -> Result<bool, LabError> {
        if self.agent != Process::Runs || self.scene.agent.ended().is_some() {
            return Ok(false);
        }
        self.other = !self.other;
        self.agent = Process::Gone;
        self.scene.agent.signal(Signal::SIGTERM)?;
        let ended = self.scene.agent.wait_end(Duration::from_secs(12));
        self.watch.note(|timeline, now| open(&mut timeline.absent, now));
        match ended {
            // 3: ended, but a session that another fault took away could not confirm. By the signal itself: it had not begun.
            Ok(status) if matches!(status.code(), Some(0 | 3)) || status.signal() == Some(15) => {}
            Ok(status) => self.deaths.push(format!("ended on SIGTERM with {status}")),
            Err(error) => {
                self.deaths.push(format!("did not end on SIGTERM: {error}"));
                self.agent = Process::Runs;
                self.kill_agent();
            }
        }
        self.start_agent().map(|()| true)
    }

    pub(super) fn off(&mut self) -> Result<bool, LabError> {
        if self.off {
            return Ok(false);
        }
        let output = self.scene.agent.off()?;
        if output.status.success() {
            self.off = true;
            self.watch.note(|timeline, now| open(&mut timeline.off, now));
        } else {
            self.say(format!("off: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(self.off)
    }
}
