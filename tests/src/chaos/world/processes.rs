//! Agent and guardian: killed, stopped, switched off, started with other settings. Never a process that is not theirs.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Process, World};
use crate::chaos::schedule::Fault;
use crate::chaos::timeline::{close, open};
use crate::error::LabError;
use crate::starved::Starved;
use crate::topology::Role;

/// Debian's package libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

const STRACE: &str = "/usr/bin/strace";

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

    /// What makes the agent's wall clock ours to step: the clock has no namespace, and the machine's is everybody's.
    ///
    /// libfaketime answers for the wall clock alone, by a file that says how far off it is; boot time and monotonic time are
    /// the kernel's. Only rounds that step the clock run with it.
    pub(super) fn clock_wrapper(&self) -> Result<Vec<String>, LabError> {
        if !self.clock || !Path::new(FAKETIME).exists() {
            return Ok(Vec::new());
        }
        self.set_clock(0)?;
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", self.clock_file().display());
        let words = [
            "env".to_owned(),
            format!("LD_PRELOAD={FAKETIME}"),
            file,
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "FAKETIME_CACHE_DURATION=1".to_owned(),
        ];
        Ok(words.to_vec())
    }

    /// False where a program that the fault needs is not installed.
    pub(super) fn playable(&self, fault: Fault) -> bool {
        let needed = match fault {
            Fault::WallClock(_) => FAKETIME,
            Fault::Starve => STRACE,
            _ => return true,
        };
        let there = Path::new(needed).exists();
        if !there {
            eprintln!("chaos: {fault}: not played, there is no {needed}; `cargo xtask setup` brings it");
        }
        there
    }

    pub(super) fn step_clock(&mut self, hours: i32) -> Result<bool, LabError> {
        if !Path::new(FAKETIME).exists() {
            return Ok(false);
        }
        self.set_clock(hours).map(|()| true)
    }

    fn set_clock(&self, hours: i32) -> Result<(), LabError> {
        fs::write(self.clock_file(), format!("{hours:+}h\n"))
            .map_err(LabError::io("step the agent's wall clock"))
    }

    fn clock_file(&self) -> PathBuf {
        self.scene.lab.directory().join("clock")
    }

    pub(super) fn off(&mut self) -> Result<bool, LabError> {
        if self.off {
            return Ok(false);
        }
        let output = self.scene.agent.off()?;
        // Also where it could not reach everything it may have reached the agent: somebody must say `on`.
        self.off = true;
        if output.status.success() {
            self.watch.note(|timeline, now| open(&mut timeline.off, now));
        } else {
            self.say(format!("off: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(self.off)
    }

    /// False where strace is missing, or there is no agent to starve.
    pub(super) fn starve(&mut self) -> Result<bool, LabError> {
        if self.agent != Process::Runs || self.starved.is_some() || self.scene.agent.ended().is_some() {
            return Ok(false);
        }
        let border = self.scene.lab.namespace(Role::Border);
        self.watch.note(|timeline, now| open(&mut timeline.starved, now));
        match Starved::begin(&border, self.scene.agent.pid(), &self.scene.lab.directory()) {
            Ok(starved) => {
                self.starved = Some(starved);
                Ok(true)
            }
            // It ended, or its sockets are not open yet.
            Err(error) => {
                self.watch.note(|timeline, now| close(&mut timeline.starved, now));
                self.say(format!("nobody was starved: {error}"));
                Ok(false)
            }
        }
    }

    pub(super) fn feed(&mut self) {
        if let Some(starved) = self.starved.take() {
            let refused = starved.end();
            self.watch.note(|timeline, now| close(&mut timeline.starved, now));
            self.say(format!("{refused} requests were refused"));
            if refused > 0 {
                self.tally.met_after_all(Fault::Starve.name());
            }
        }
    }
}
