//! Processes: starting a guardian, holding on to one that speaks, and giving up what is not needed to announce.
//! Never signals by number: a process is held by a descriptor, so that no other can be hit.

use super::socket::GuardianError;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, setsid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    no_new_privs, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
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

/// Leaves the session and process group of whoever started us: what is meant for the agent must not reach its guardian.
/// And asks the kernel to look elsewhere when memory is short, where we may ask.
pub fn detach_from_parent() {
    // Fails for the leader of a group, which is detached already.
    let _ = setsid();
    // Fails without CAP_SYS_RESOURCE; the unit file says it then.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
}

/// What the guardian keeps.
///
/// Usually nothing at all: its sessions connect from ordinary ports, and TCP MD5 signatures need no privilege.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Binding ports below 1024, for sessions that wait for their peer.
    pub bind_service: bool,
    /// Changing routes, to remove ETM's from the main table.
    pub net_admin: bool,
}

/// Drops every capability but `keep`, for good, and makes sure of it. Call before any thread is started.
pub fn drop_privileges(keep: Privileges) -> Result<(), GuardianError> {
    let failed =
        |doing| move |source: rustix::io::Errno| GuardianError::Process { doing, source: source.into() };
    let mut kept = CapabilitySet::empty();
    kept.set(CapabilitySet::NET_BIND_SERVICE, keep.bind_service);
    kept.set(CapabilitySet::NET_ADMIN, keep.net_admin);
    let keep = kept;
    let held = capabilities(None).map_err(failed("read the capabilities"))?;
    let left = held.permitted & keep;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(left).iter() {
            // A number that this kernel does not know is in no set.
            if capability_is_in_bounding_set(capability).unwrap_or(false) {
                remove_capability_from_bounding_set(capability).map_err(failed("narrow the bounding set"))?;
            }
        }
    }
    clear_ambient_capability_set().map_err(failed("clear the ambient capabilities"))?;
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed("drop capabilities"))?;
    set_no_new_privs(true).map_err(failed("rule out new privileges"))?;
    let now = capabilities(None).map_err(failed("read the capabilities"))?;
    let beyond = (now.permitted | now.effective | now.inheritable).difference(keep);
    if !beyond.is_empty() {
        return Err(GuardianError::Privileged { left: format!("{beyond:?}") });
    }
    if !no_new_privs().map_err(failed("read no_new_privs"))? {
        return Err(GuardianError::Privileged { left: "new ones by execve".to_owned() });
    }
    Ok(())
}
