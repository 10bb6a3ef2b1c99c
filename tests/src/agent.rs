//! ETM in a lab, run as a user runs it: `etm-agent` in the border's namespace, `etm` and the control
//! socket to talk to it. Never links against it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::command::cannot_start;
use crate::error::LabError;
use crate::http;
use crate::lab::Lab;
use crate::poll::wait_until;
use crate::state::binary;
use crate::topology::{BORDER_AS, ETM_INJECT_V4, ETM_LEARN, Provider, Role};

/// How long the agent may take from its start to its first answer.
const START: Duration = Duration::from_secs(15);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Lines of the log quoted when the agent died.
const LOG_TAIL: usize = 20;

/// What differs between runs of the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentOptions {
    /// `observe` or `enforce`.
    pub mode: &'static str,
    /// Share of an uplink's capacity that may be used, in percent.
    pub limit_percent: u32,
    /// Time between two rounds.
    pub interval: &'static str,
    /// Log filter (`RUST_LOG`).
    pub log: &'static str,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self { mode: "enforce", limit_percent: 90, interval: "1s", log: "info" }
    }
}

/// Where the agent of a lab puts its control socket.
pub fn control_socket(lab: &Lab) -> PathBuf {
    lab.directory().join("etm.sock")
}

/// ETM's configuration for a lab.
pub fn config(lab: &Lab, options: &AgentOptions) -> String {
    let mut text = format!(
        "[agent]\nmode = \"{}\"\ninterval = \"{}\"\ncontrol_socket = \"{}\"\npin_root = \"{}\"\n\n\
         [kernel]\ninside = [\"in0\"]\n",
        options.mode,
        options.interval,
        control_socket(lab).display(),
        lab.pin_root().display(),
    );
    let capacity = if lab.uplink_bps() == 0 { 1_000_000_000 } else { lab.uplink_bps() };
    for provider in Provider::ALL {
        let _ = write!(
            text,
            "\n[[interface]]\nname = \"{}\"\ncapacity = \"{}kbit\"\nlimit = \"{}%\"\n",
            provider.uplink(),
            capacity / 1000,
            options.limit_percent
        );
    }
    for provider in Provider::ALL {
        let _ = write!(
            text,
            "\n[[provider]]\nname = \"{provider}\"\nexits = [{{ interface = \"{}\", gateways = [\"{}\", \"{}\"] }}]\n",
            provider.uplink(),
            provider.gateway_v4(),
            provider.gateway_v6()
        );
    }
    let _ = write!(
        text,
        "\n[bgp]\nasn = {BORDER_AS}\nrouter_id = \"10.255.0.2\"\n\n\
         [[bgp.session]]\nname = \"border\"\nrole = \"learn\"\npeer = \"127.0.0.1\"\npeer_as = {BORDER_AS}\n\
         local = \"{ETM_LEARN}\"\n\n\
         [[bgp.session]]\nname = \"core\"\nrole = \"inject\"\npeer = \"10.0.9.2\"\npeer_as = {BORDER_AS}\n\
         local = \"{ETM_INJECT_V4}\"\nrouter_id = \"10.255.0.3\"\nnext_hops = [\"10.0.9.1\", \"fd00:9::1\"]\n"
    );
    text
}

/// Writes [`config`] to `etm.toml` in the lab's directory and returns its path.
///
/// # Errors
/// The file cannot be written.
pub fn write_config(lab: &Lab, options: &AgentOptions) -> Result<PathBuf, LabError> {
    let path = lab.directory().join("etm.toml");
    fs::write(&path, config(lab, options)).map_err(LabError::io(format!("write {}", path.display())))?;
    Ok(path)
}

/// A running agent. Dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts the agent with [`config`] and waits for its first answer.
    ///
    /// # Errors
    /// The binaries are not built, or the agent ends or stays silent.
    pub fn start(lab: &Lab, options: &AgentOptions) -> Result<Self, LabError> {
        let path = write_config(lab, options)?;
        let mut agent = Self::start_with(lab, &path, options.log)?;
        wait_until("etm-agent to answer", START, || match agent.ended() {
            Some(status) => Ok(Err(agent.died(status))),
            None => agent.get("/v1/status").map(Ok).map_err(|error| error.to_string()),
        })??;
        Ok(agent)
    }

    /// Starts the agent with a configuration of the caller's and does not wait for anything.
    ///
    /// # Errors
    /// The binary is not built.
    pub fn start_with(lab: &Lab, config: &Path, log_filter: &str) -> Result<Self, LabError> {
        let what = "start etm-agent";
        let log = lab.directory().join("etm-agent.log");
        let file = File::options().create(true).append(true).open(&log).map_err(LabError::io(what))?;
        let child = lab
            .namespace(Role::Border)
            .command(binary("etm-agent")?)
            .arg("run")
            .arg("--config")
            .arg(config)
            .env("RUST_LOG", log_filter)
            .stdin(Stdio::null())
            .stderr(file.try_clone().map_err(LabError::io(what))?)
            .stdout(file)
            .process_group(0)
            .spawn()
            .map_err(|source| cannot_start(what, "nsenter", source))?;
        Ok(Self { child, socket: control_socket(lab), log })
    }

    /// Reads one resource of the control socket.
    ///
    /// # Errors
    /// No answer, or not a success.
    pub fn get(&self, target: &str) -> Result<Value, LabError> {
        self.request("GET", target)
    }

    /// Sends one command to the control socket.
    ///
    /// # Errors
    /// No answer, or not a success.
    pub fn post(&self, target: &str) -> Result<Value, LabError> {
        self.request("POST", target)
    }

    fn request(&self, method: &str, target: &str) -> Result<Value, LabError> {
        let response = http::request(&self.socket, method, target, ANSWER)?;
        if !(200..300).contains(&response.status) {
            let request = format!("{method} {target}");
            return Err(LabError::Agent { request, status: response.status, body: response.body });
        }
        serde_json::from_str(&response.body).map_err(|error| LabError::Malformed {
            what: format!("the answer to {method} {target}"),
            detail: format!("{error}: {}", response.body),
        })
    }

    /// Runs the client: `etm -s SOCKET ARGS`.
    ///
    /// # Errors
    /// The client cannot be run; its own failure is in the output.
    pub fn etm(&self, args: &[&str]) -> Result<Output, LabError> {
        let mut command = std::process::Command::new(binary("etm")?);
        command.arg("-s").arg(&self.socket).args(args).stdin(Stdio::null());
        command.output().map_err(|source| cannot_start("run the client", "etm", source))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        kill(Pid::from_raw(self.pid()), signal)
            .map_err(LabError::errno(format!("send {signal} to etm-agent")))
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus, LabError> {
        wait_until("etm-agent to end", limit, || self.ended().ok_or_else(|| "it runs".to_owned()))
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The error that says how it ended and what it logged last.
    pub fn died(&self, status: ExitStatus) -> LabError {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
        LabError::AgentDied { status: status.to_string(), log: tail }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
