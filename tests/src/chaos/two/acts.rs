//! Carries faults out on the lab with two borders, and writes each into the diary of its side. Never judges.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::faults::Fault;
use super::{CONVERGENCE, LOAD, Stage, flows, options};
use crate::agent::Agent;
use crate::chaos::complaint;
use crate::chaos::timeline::{close, open};
use crate::chaos::world::{RELEARN, REROUTE};
use crate::error::LabError;
use crate::poll::wait_until;
use crate::topology::Role;
use crate::two_borders::{EtmOptions, Side};

/// Hold time of overrides under other settings.
const OTHER_HOLD: &str = "2s";

impl Stage {
    /// Starts an agent; one that finds its daemon or uplink missing ends, and is started again as a unit would.
    pub(super) fn start(&mut self, side: Side) -> Result<(), LabError> {
        let mut settings = options();
        if self.other.contains(&side) {
            settings = EtmOptions { hold: OTHER_HOLD, ..settings };
        }
        self.note(side, |diary, now| close(&mut diary.absent, now));
        let agent = wait_until("the agent to start", CONVERGENCE, || {
            self.lab.start_etm(side, &settings).map_err(|error| error.to_string())
        })?;
        self.agents.insert(side, agent);
        // One that is stopped must be continued, whoever has taken its place.
        if !self.stunned.contains(&side) {
            self.guardians.remove(&side);
        }
        Ok(())
    }

    /// Whether a side has no agent. One that ended by itself is a violation, unless its guardian ended it because it hung.
    pub(super) fn is_gone(&mut self, side: Side) -> bool {
        let Some(agent) = self.agents.get_mut(&side) else { return true };
        let Some(status) = agent.ended() else { return false };
        if status.signal() != Some(9) {
            self.ends.push(complaint("death", format!("{side}: {status}")));
        }
        self.agents.remove(&side);
        true
    }

    /// Whether an agent would find what it needs; one that would not is started once everything is mended.
    fn may_start(&self, side: Side) -> bool {
        !self.down.contains(&side) && self.lab.router_pid(side.role()).is_some()
    }

    /// False where there was nothing to break.
    pub(super) fn begin(&mut self, fault: Fault) -> Result<bool, LabError> {
        match fault {
            Fault::KillAgent(side) => self.kill_agent(side),
            Fault::StopAgent(side) => self.stop_agent(side),
            Fault::KillGuardian(side) => Ok(self.kill_guardian(side)),
            Fault::StopGuardian(side) => Ok(self.stop_guardian(side)),
            // Agent first: it would start another guardian.
            Fault::KillBoth(side) => Ok(self.kill_agent(side)? | self.kill_guardian(side)),
            Fault::StopBoth(side) => Ok(self.stop_agent(side)? | self.stop_guardian(side)),
            Fault::Off(side) => self.off(side),
            Fault::Reconfigure(side) => self.reconfigure(side),
            Fault::Carrier(side) => self.lose_link(side, |stage| {
                let provider = stage.lab.namespace(side.provider().role());
                provider.ip(&["link", "set", "dev", "border0", "down"]).map(drop)
            }),
            Fault::AdminDown(side) => self.lose_link(side, |stage| {
                stage.lab.namespace(side.role()).ip(&["link", "set", "dev", side.uplink(), "down"]).map(drop)
            }),
            Fault::Unplug(side) => self.lose_link(side, |stage| stage.lab.unplug(side)),
            Fault::ResetProvider(side) => {
                let reset = self.reset(side.role(), &["provider4", "provider6"]);
                self.note(side, |diary, now| diary.excuse(now, REROUTE));
                Ok(reset)
            }
            Fault::ResetInject(side) => Ok(self.reset(Role::Core, &[&format!("etm_{side}")])),
            Fault::ResetLearn(side) => Ok(self.reset(side.role(), &["etm_learn"])),
            Fault::Withdraw(side) => {
                if !self.withdrawn.insert(side) {
                    return Ok(false);
                }
                self.note(side, |diary, now| {
                    diary.excuse(now, REROUTE);
                    diary.lose(side.provider(), None, now);
                });
                self.lab.withdraw(side, true).map(|()| true)
            }
            Fault::KillBird(role) => {
                if self.lab.router_pid(role).is_none() {
                    return Ok(false);
                }
                self.note(Side::A, |diary, now| diary.excuse(now, RELEARN));
                self.lab.kill_router(role)?;
                Ok(true)
            }
            Fault::Traffic => {
                self.generator.set_rates(&flows((LOAD.0 / 3.0, LOAD.1)));
                Ok(true)
            }
        }
    }

    pub(super) fn end(&mut self, fault: Fault) -> Result<(), LabError> {
        match fault {
            Fault::KillAgent(side) | Fault::KillBoth(side) => {
                if !self.agents.contains_key(&side) && self.may_start(side) {
                    self.start(side)?;
                }
                Ok(())
            }
            Fault::StopAgent(side) => {
                self.resume_agent(side);
                Ok(())
            }
            Fault::StopGuardian(side) => {
                self.resume_guardian(side);
                Ok(())
            }
            Fault::StopBoth(side) => {
                self.resume_guardian(side);
                self.resume_agent(side);
                Ok(())
            }
            Fault::Off(side) => {
                self.note(side, |diary, now| close(&mut diary.off, now));
                let told = |stage: &Self| stage.agents.get(&side).is_none_or(|a| a.etm(&["on"]).is_ok());
                told(self).then_some(()).ok_or_else(|| LabError::Malformed {
                    what: "etm on".into(),
                    detail: "the client cannot be run".into(),
                })
            }
            Fault::Carrier(side) | Fault::AdminDown(side) | Fault::Unplug(side) => self.mend_link(side),
            Fault::Withdraw(side) => {
                if self.withdrawn.remove(&side) {
                    self.lab.withdraw(side, false)?;
                    self.note(side, |diary, now| {
                        diary.excuse(now, REROUTE);
                        diary.regain(side.provider(), true, now);
                    });
                }
                Ok(())
            }
            Fault::KillBird(role) if self.lab.router_pid(role).is_none() => {
                self.note(Side::A, |diary, now| diary.excuse(now, RELEARN));
                self.lab.start_router(role)
            }
            Fault::Traffic => {
                self.generator.set_rates(&flows(LOAD));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn reset(&self, role: Role, sessions: &[&str]) -> bool {
        let bird = self.lab.bird(role);
        sessions.iter().filter(|name| bird.ask(&format!("restart {name}")).is_ok()).count() > 0
    }

    fn lose_link(
        &mut self,
        side: Side,
        cut: impl FnOnce(&Self) -> Result<(), LabError>,
    ) -> Result<bool, LabError> {
        if !self.down.insert(side) {
            return Ok(false);
        }
        self.note(side, |diary, now| {
            diary.excuse(now, REROUTE);
            diary.lose(side.provider(), None, now);
        });
        cut(self).map(|()| true)
    }

    fn mend_link(&mut self, side: Side) -> Result<(), LabError> {
        if !self.down.remove(&side) {
            return Ok(());
        }
        let mended = self.lab.mend_uplink(side);
        self.note(side, |diary, now| {
            diary.excuse(now, REROUTE);
            diary.regain(side.provider(), true, now);
        });
        mended
    }

    fn kill_agent(&mut self, side: Side) -> Result<bool, LabError> {
        let Some(mut agent) = self.agents.remove(&side) else { return Ok(false) };
        self.guardians.extend(agent.guardian().map(|pid| (side, pid)));
        self.stopped.remove(&side);
        self.note(side, |diary, now| open(&mut diary.absent, now));
        let killed = agent.signal(Signal::SIGKILL).is_ok();
        agent.wait_end(Duration::from_secs(5))?;
        Ok(killed)
    }

    fn stop_agent(&mut self, side: Side) -> Result<bool, LabError> {
        if !self.agents.contains_key(&side) || !self.stopped.insert(side) {
            return Ok(false);
        }
        self.note(side, |diary, now| open(&mut diary.absent, now));
        Ok(self.agents[&side].signal(Signal::SIGSTOP).is_ok())
    }

    fn resume_agent(&mut self, side: Side) {
        // Killed meanwhile: then another one runs already, or will.
        if !self.stopped.remove(&side) {
            return;
        }
        self.note(side, |diary, now| close(&mut diary.absent, now));
        let _ = self.agents.get(&side).map(|agent| agent.signal(Signal::SIGCONT));
    }

    fn guardian(&self, side: Side) -> Option<i32> {
        self.agents.get(&side).and_then(Agent::guardian).or_else(|| self.guardians.get(&side).copied())
    }

    fn kill_guardian(&mut self, side: Side) -> bool {
        let Some(pid) = self.guardian(side) else { return false };
        let killed = kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok();
        self.guardians.remove(&side);
        self.stunned.remove(&side);
        self.note(side, |diary, now| {
            diary.killed.push(now);
            close(&mut diary.stunned, now);
        });
        killed
    }

    fn stop_guardian(&mut self, side: Side) -> bool {
        let Some(pid) = self.guardian(side) else { return false };
        if !self.stunned.insert(side) {
            return false;
        }
        self.guardians.insert(side, pid);
        self.note(side, |diary, now| open(&mut diary.stunned, now));
        kill(Pid::from_raw(pid), Signal::SIGSTOP).is_ok()
    }

    fn resume_guardian(&mut self, side: Side) {
        if !self.stunned.remove(&side) {
            return;
        }
        if let Some(pid) = self.guardians.get(&side) {
            // An agent may have ended it, and started another one.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGCONT);
        }
        self.note(side, |diary, now| close(&mut diary.stunned, now));
    }

    fn off(&mut self, side: Side) -> Result<bool, LabError> {
        let Some(agent) = self.agents.get(&side) else { return Ok(false) };
        // Also where it could not reach everything it may have reached the agent: its end says `on`.
        if agent.off()?.status.success() {
            self.note(side, |diary, now| open(&mut diary.off, now));
        }
        Ok(true)
    }

    fn reconfigure(&mut self, side: Side) -> Result<bool, LabError> {
        if self.stopped.contains(&side) || !self.may_start(side) {
            return Ok(false);
        }
        let Some(mut agent) = self.agents.remove(&side) else { return Ok(false) };
        agent.signal(Signal::SIGTERM)?;
        let ended = agent.wait_end(Duration::from_secs(20));
        self.note(side, |diary, now| open(&mut diary.absent, now));
        match ended {
            // 3: ended, but a session that another fault took away could not confirm. By the signal itself: it had not begun.
            Ok(status) if matches!(status.code(), Some(0 | 3)) || status.signal() == Some(15) => {}
            other => self.ends.push(complaint("stop", format!("{side}, for other settings: {other:?}"))),
        }
        if !self.other.remove(&side) {
            self.other.insert(side);
        }
        self.start(side).map(|()| true)
    }
}
