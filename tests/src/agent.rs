//! ETM in a lab, run as a user runs it: `etm-agent` in the border's namespace, `etm` and the control
//! socket to talk to it. Never links against it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use serde_json::Value;

use crate::command::cannot_start;
use crate::error::LabError;
use crate::http;
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::poll::wait_until;
use crate::state::binary;
use crate::topology::{BORDER_AS, ETM_INJECT_V4, ETM_LEARN, ETM_ROUTER_ID, Provider, Role};

/// How long the agent may take from its start to its first answer.
const START: Duration = Duration::from_secs(15);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Lines of the log quoted when the agent died.
const LOG_TAIL: usize = 20;

/// What differs between runs of the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentOptions {
    /// `observe`, `approve` or `enforce`.
    pub mode: &'static str,
    /// Share of an uplink's capacity that may be used, in percent.
    pub limit_percent: u32,
    /// Capacity of every uplink in bit/s as ETM is told; `None` tells the truth.
    pub capacity_bps: Option<u64>,
    /// Time between two rounds.
    pub interval: &'static str,
    /// Shortest life of an override.
    pub hold: &'static str,
    /// How long the kernel honours overrides without hearing from the agent.
    pub lease: &'static str,
    /// `auto`, `tcx` or `clsact`.
    pub hook: &'static str,
    /// How long a session may take to come up.
    pub startup_timeout: &'static str,
    /// Whether the guardian ends an agent that let its lease run out.
    pub kill_hung: bool,
    /// Where the log goes instead of the lab's directory.
    pub log_to: Option<&'static str>,
    /// What each provider asks per Mbit/s and month, in the order of [`Provider::ALL`]; `None` names no price.
    pub prices: Option<[&'static str; 3]>,
    /// Further lines of the `policy` table, and tables below it.
    pub policy: &'static str,
    /// Further lines of the `kernel` table.
    pub kernel: &'static str,
    /// Record from the start on.
    pub record: bool,
    /// Log filter (`RUST_LOG`).
    pub log: &'static str,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            mode: "enforce",
            limit_percent: 90,
            capacity_bps: None,
            interval: "1s",
            hold: "5m",
            lease: "10s",
            hook: "auto",
            startup_timeout: "20s",
            kill_hung: true,
            log_to: None,
            prices: None,
            policy: "",
            kernel: "",
            record: false,
            log: "info",
        }
    }
}

impl AgentOptions {
    /// Options for a run that changes nothing.
    pub fn observe() -> Self {
        Self { mode: "observe", ..Self::default() }
    }
}

/// Where the agent of a lab lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Directory of sockets and files.
    pub directory: PathBuf,
    /// Root of the pins.
    pub pin_root: PathBuf,
    /// Capacity of each uplink in bit/s; 0 is unlimited.
    pub uplink_bps: u64,
}

impl Site {
    /// Of a lab.
    pub fn of(lab: &Lab) -> Self {
        Self { directory: lab.directory(), pin_root: lab.pin_root(), uplink_bps: lab.uplink_bps() }
    }

    /// Where the agent records.
    pub fn recordings(&self) -> PathBuf {
        self.directory.join("record")
    }

    /// Where the agent puts its control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.directory.join("etm.sock")
    }
}

/// ETM's configuration for a lab.
pub fn config(site: &Site, options: &AgentOptions) -> String {
    let mut text = format!(
        "[agent]\nmode = \"{}\"\ninterval = \"{}\"\nstartup_timeout = \"{}\"\ncontrol_socket = \"{}\"\n\
         orders_file = \"{}\"\nbird_socket = \"{}\"\n\n[policy]\nhold = \"{}\"\n{}\n[kernel]\ninside = [\"in0\"]\nlease = \"{}\"\n{}\n\
         [guardian]\nkill_hung = {}\n\n\
         [datapath]\npin_root = \"{}\"\nprefixes_ipv4 = 4096\nprefixes_ipv6 = 4096\nhook = \"{}\"\n\n[record]\ndirectory = \"{}\"\nat_start = {}\n",
        options.mode,
        options.interval,
        options.startup_timeout,
        site.control_socket().display(),
        site.directory.join("orders.json").display(),
        site.directory.join(format!("{}.ctl", Role::Border)).display(),
        options.hold,
        options.policy,
        options.lease,
        options.kernel,
        options.kill_hung,
        site.pin_root.display(),
        options.hook,
        site.recordings().display(),
        options.record,
    );
    let real = if site.uplink_bps == 0 { 1_000_000_000 } else { site.uplink_bps };
    let capacity_kbit = options.capacity_bps.unwrap_or(real) / 1000;
    for (at, provider) in Provider::ALL.into_iter().enumerate() {
        let _ = write!(
            text,
            "\n[[interface]]\nname = \"{}\"\ncapacity = \"{capacity_kbit}kbit\"\nlimit = \"{}%\"\n",
            provider.uplink(),
            options.limit_percent
        );
        if let Some(prices) = options.prices {
            let _ = writeln!(text, "tiers = [{{ price = \"{}\" }}]", prices[at]);
        }
    }
    for provider in Provider::ALL {
        let _ = write!(
            text,
            "\n[[provider]]\nname = \"{provider}\"\nasn = {}\n\
             exits = [{{ interface = \"{}\", gateways = [\"{}\", \"{}\"] }}]\n",
            provider.asn(),
            provider.uplink(),
            provider.gateway_v4(),
            provider.gateway_v6()
        );
    }
    let _ = write!(
        text,
        "\n[bgp]\nasn = {BORDER_AS}\nrouter_id = \"{ETM_ROUTER_ID}\"\n\n\
         [[bgp.session]]\nname = \"border\"\nrole = \"learn\"\npeer = \"127.0.0.1\"\npeer_as = {BORDER_AS}\n\
         local = \"{ETM_LEARN}\"\n\n\
         [[bgp.session]]\nname = \"core\"\nrole = \"inject\"\npeer = \"10.0.9.2\"\npeer_as = {BORDER_AS}\n\
         local = \"{ETM_INJECT_V4}\"\nnext_hops = [\"10.0.9.1\", \"fd00:9::1\"]\n"
    );
    text
}

/// Writes [`config`] to `etm.toml` in the lab's directory and returns its path.
///
/// # Errors
/// The file cannot be written.
pub fn write_config(lab: &Lab, options: &AgentOptions) -> Result<PathBuf, LabError> {
    write_text(lab, &config(&Site::of(lab), options))
}

/// Writes a configuration of the caller's to `etm.toml` in the lab's directory and returns its path.
///
/// # Errors
/// The file cannot be written.
pub fn write_text(lab: &Lab, text: &str) -> Result<PathBuf, LabError> {
    let path = lab.directory().join("etm.toml");
    fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))?;
    Ok(path)
}

/// A run of the agent that was expected to end by itself.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit status; `None` when it was still running at the limit and had to be killed.
    pub status: Option<i32>,
    /// Standard error and output, together.
    pub said: String,
    /// How long it ran.
    pub took: Duration,
}

/// Runs `WRAPPER etm-agent ARGUMENTS` in the border's namespace until it ends or `limit` is over.
///
/// # Errors
/// The binary is not built, or cannot be started.
pub fn run_to_end(
    lab: &Lab,
    wrapper: &[&str],
    arguments: &[&str],
    limit: Duration,
) -> Result<Ended, LabError> {
    let what = "run etm-agent";
    let log = lab.directory().join("etm-agent.run");
    let file = File::create(&log).map_err(LabError::io(what))?;
    let agent = binary("etm-agent")?;
    let border = lab.namespace(Role::Border);
    let mut command = match wrapper.split_first() {
        None => border.command(&agent),
        Some((program, rest)) => {
            let mut command = border.command(program);
            command.args(rest).arg(&agent);
            command
        }
    };
    command.args(arguments).env("RUST_LOG", "info").env("NO_COLOR", "1").stdin(Stdio::null());
    command.stderr(file.try_clone().map_err(LabError::io(what))?).stdout(file).process_group(0);
    let start = Instant::now();
    let mut child = command.spawn().map_err(|source| cannot_start(what, "nsenter", source))?;
    let ended = wait_until("etm-agent to end", limit, || {
        child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it runs".to_owned())
    });
    let took = start.elapsed();
    if ended.is_err() {
        // Fails only for a process that ended in between.
        let _ = child.kill();
        let _ = child.wait();
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    Ok(Ended { status: ended.ok().and_then(|status| status.code()), said, took })
}

/// What one agent has for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its control socket.
    pub socket: PathBuf,
    /// Root of its pins.
    pub pin_root: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

/// A running agent. Dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    namespace: Namespace,
    socket: PathBuf,
    pin_root: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts the agent with [`config`] and waits for its first answer.
    ///
    /// # Errors
    /// The binaries are not built, or the agent ends or stays silent.
    pub fn start(lab: &Lab, options: &AgentOptions) -> Result<Self, LabError> {
        let log = options.log_to.map_or_else(|| lab.directory().join("etm-agent.log"), PathBuf::from);
        Self::start_answering(lab, &write_config(lab, options)?, options.log, log)
    }

    /// Starts the agent with a configuration of the caller's and waits for its first answer.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub fn start_by(lab: &Lab, config: &Path, log_filter: &str) -> Result<Self, LabError> {
        Self::start_answering(lab, config, log_filter, lab.directory().join("etm-agent.log"))
    }

    fn start_answering(lab: &Lab, config: &Path, log_filter: &str, log: PathBuf) -> Result<Self, LabError> {
        let mut agent = Self::start_logging(lab, config, log_filter, log)?;
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
        Self::start_logging(lab, config, log_filter, lab.directory().join("etm-agent.log"))
    }

    fn start_logging(lab: &Lab, config: &Path, log_filter: &str, log: PathBuf) -> Result<Self, LabError> {
        Self::launch(lab, &[], config, log_filter, log)
    }

    /// Starts `WRAPPER etm-agent run` and waits for nothing. The wrapper must become the agent (`exec`), or its process id
    /// is another's.
    ///
    /// # Errors
    /// The binaries are not built, or cannot be started.
    pub fn launch(
        lab: &Lab,
        wrapper: &[String],
        config: &Path,
        log_filter: &str,
        log: PathBuf,
    ) -> Result<Self, LabError> {
        let place = Place { socket: Site::of(lab).control_socket(), pin_root: lab.pin_root(), log };
        Self::start_at((&lab.namespace(Role::Border), wrapper), place, config, log_filter)
    }

    /// Starts the agent in any namespace, with a configuration that says the same as `place`, and does not wait.
    ///
    /// # Errors
    /// The binary is not built.
    pub fn start_at(
        (namespace, wrapper): (&Namespace, &[String]),
        place: Place,
        config: &Path,
        log_filter: &str,
    ) -> Result<Self, LabError> {
        let what = "start etm-agent";
        let Place { socket, pin_root, log } = place;
        let file = File::options().create(true).append(true).open(&log).map_err(LabError::io(what))?;
        let words = wrapper.iter().map(PathBuf::from).chain([binary("etm-agent")?]);
        let words: Vec<PathBuf> = words.collect();
        let (program, rest) =
            words.split_first().map_or_else(|| (PathBuf::new(), &[][..]), |(p, r)| (p.clone(), r));
        let child = namespace
            .command(program)
            .args(rest)
            .arg("run")
            .arg("--config")
            .arg(config)
            .env("RUST_LOG", log_filter)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stderr(file.try_clone().map_err(LabError::io(what))?)
            .stdout(file)
            .process_group(0)
            .spawn()
            .map_err(|source| cannot_start(what, "nsenter", source))?;
        let namespace = Namespace::existing(namespace.name());
        Ok(Self { child, namespace, socket, pin_root, log })
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

    /// Runs the client where the agent runs: `etm -s SOCKET ARGS`.
    ///
    /// # Errors
    /// The client cannot be run; its own failure is in the output.
    pub fn etm(&self, args: &[&str]) -> Result<Output, LabError> {
        let mut command = self.namespace.command(binary("etm")?);
        command.arg("-s").arg(&self.socket).args(args).stdin(Stdio::null());
        command.output().map_err(|source| cannot_start("run the client", "etm", source))
    }

    /// `etm off` as an operator types it: it knows the pins, for an agent that does not answer.
    ///
    /// # Errors
    /// The client cannot be run; its own failure is in the output.
    pub fn off(&self) -> Result<Output, LabError> {
        self.etm(&["--json", "off", "--pin-root", &self.pin_root.display().to_string()])
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

    /// Process id of the guardian that listens beside the agent's socket, if one does.
    pub fn guardian(&self) -> Option<i32> {
        let stream = UnixStream::connect(self.socket.with_file_name("guardian.sock")).ok()?;
        // Of the process that listens, not of one that answers: it may be stopped.
        getsockopt(&stream, sockopt::PeerCredentials).ok().map(|credentials| credentials.pid())
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
        // A device can be read for ever.
        if self.log.is_file() { fs::read_to_string(&self.log).unwrap_or_default() } else { String::new() }
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The same error, with the end of the agent's log.
    pub fn with_log(&self, error: LabError) -> LabError {
        LabError::WithLog { error: Box::new(error), log: self.log_tail() }
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// The error that says how it ended and what it logged last.
    pub fn died(&self, status: ExitStatus) -> LabError {
        LabError::AgentDied { status: status.to_string(), log: self.log_tail() }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
