//! `etm`: asks a running agent, and switches it off even when it does not answer.

use super::bgp::{self, BgpCommand, BgpError, Where};
use super::mrt::{self, MrtCommand, MrtCommandError};
use super::off::{Places, off};
use super::orders::{self, ModeWord, ProviderCommand};
use super::replay::{self, Moment};
use super::{doctor, plan, render, render_plan};

use crate::control::schema::{
    Changes, Events, Judgement, Ordered, Overrides, Prefixes, Providers, Recording, Status,
};
use crate::control::{self, ClientError};
use crate::core::view::{ExitView, ExplainView, LossView, Losses, PlanView};
use crate::runtime::PROTOCOL;
use crate::types::Prefix;
use clap::{Parser, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const AFTER_HELP: &str = "\
Exit status: 0 done, 1 failed or refused, 2 wrong command line or input that is no problem to plan, 3 no agent answers.

`etm off` asks the agent, and tells its guardian to withdraw all announcements. Where the agent does not answer it turns
the switch in the kernel by itself and takes ETM's routes out of the main table: packets take plain routing at once, and
an agent that wakes up, or is started later, stays off until `etm on`. Exit status 0 only if all of it is known to be done.";

/// Asks ETM's agent what it sees, what it does and why; switches it off and on.
#[derive(Debug, Parser)]
#[command(name = "etm", version, after_help = AFTER_HELP)]
struct Args {
    /// Control socket of the agent.
    #[arg(long, short, global = true, value_name = "PATH", default_value = "/run/etm/etm.sock")]
    socket: PathBuf,
    /// Print the agent's answer as JSON.
    #[arg(long, short, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Agent(AgentCommand),
    /// Sessions, monitored routers, routes and candidates.
    Bgp {
        #[command(subcommand)]
        command: BgpCommand,
    },
    /// Routes of MRT files: shown, or made into a problem for `plan`. Asks no agent.
    Mrt {
        #[command(subcommand)]
        command: MrtCommand,
    },
    /// What the agent would do now, with a certificate; or the best split for a problem in a file, which asks no agent.
    Plan {
        /// The problem (docs/plan-format.md); `-` reads standard input.
        #[arg(long, value_name = "FILE", conflicts_with = "without")]
        input: Option<PathBuf>,
        /// Whether the loss of this exit, or of this interface, would fit, and what would overflow.
        #[arg(long, value_name = "EXIT")]
        without: Option<String>,
    },
    /// Hand a recording to the decision again: the same must follow, bit for bit. Needs no agent and no privilege.
    Replay {
        /// A directory of `etm record`, or one file of it.
        recording: PathBuf,
        /// Show what this configuration would have done instead.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Begin here: `90s` after the begin, or 2026-11-23T11:30:00Z; from the keyframe before.
        #[arg(long, value_name = "TIME")]
        from: Option<Moment>,
        /// End here.
        #[arg(long, value_name = "TIME")]
        until: Option<Moment>,
    },
    /// What this machine offers, what ETM uses of it, and what else is on the same hooks. Needs no agent.
    Doctor {
        /// Pins of the agent.
        #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/etm/v1")]
        pin_root: PathBuf,
    },
}

/// What an agent is asked.
#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Everything at a glance: state, what it waits for, uplinks, sessions.
    Status,
    /// What `plan` asks an agent.
    #[command(skip)]
    Live { without: Option<String> },
    /// Providers and uplinks: capacity, offered, sent, dropped, books.
    Providers,
    /// Prefixes with the most traffic.
    Prefixes {
        /// How many.
        #[arg(long, value_name = "N", default_value_t = 20)]
        top: usize,
    },
    /// Prefixes that leave another way than plain routing says.
    Overrides,
    /// Why a prefix, or the prefix that holds an address, goes where it goes; what drives the price of an exit.
    Explain {
        /// Such as 198.51.100.0/24 or 2001:db8::1, or the name of an exit or an interface.
        #[arg(value_name = "PREFIX|EXIT", required_unless_present = "n_1")]
        what: Option<String>,
        /// For each exit whether its loss would fit, and what would overflow.
        #[arg(long = "n-1", conflicts_with = "what")]
        n_1: bool,
    },
    /// Changes that wait in mode "approve": list them, or carry out one or all.
    Approve {
        /// `list`, `all`, or the number of a change.
        what: String,
    },
    /// Drop a change that waits, and do not ask again for a while.
    Reject {
        /// Its number.
        id: u64,
    },
    /// The decision log, oldest first.
    Events {
        /// Only entries after this number.
        #[arg(long, value_name = "N", default_value_t = 0)]
        since: u64,
    },
    /// Record every input of the decision, for `etm replay` (docs/recording.md).
    Record {
        /// What to do.
        #[command(subcommand)]
        what: RecordCommand,
    },
    /// Back to plain routing, and stay there until `on`.
    Off {
        /// The guardian's socket. Default: guardian.sock beside the agent's.
        #[arg(long, value_name = "PATH")]
        guardian: Option<PathBuf>,
        /// Do not ask the agent first.
        #[arg(long)]
        force: bool,
        /// Pins of the agent, for when it does not answer.
        #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/etm/v1")]
        pin_root: PathBuf,
        /// Protocol of ETM's kernel routes, for when the agent does not answer and they are in the main table.
        #[arg(long, value_name = "N", default_value_t = PROTOCOL, value_parser = clap::value_parser!(u8).range(1..))]
        protocol: u8,
    },
    /// Act again as the mode says; after a leak too.
    On,
    /// Observe, approve or enforce from now on; across restarts too, until the configuration names another mode.
    Mode {
        /// The mode, or `confirm` for the one on trial.
        mode: ModeWord,
        /// On trial: falls back by itself after this time (`5m`) unless `etm mode confirm` is said before.
        #[arg(long, value_name = "TIME", value_parser = orders::span)]
        confirm: Option<Duration>,
    },
    /// Empty a provider, or use it again.
    Provider {
        #[command(subcommand)]
        command: ProviderCommand,
    },
}

/// What to do about recording.
#[derive(Clone, Copy, Debug, Subcommand)]
enum RecordCommand {
    /// Begin, in the directory of the configuration.
    Start,
    /// End.
    Stop,
    /// Whether, where and how much.
    Status,
}

/// Exit status where no agent answers.
const UNREACHABLE: u8 = 3;

/// Runs the client's command line.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // A closed terminal cannot be told that it is closed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match &args.command {
        Command::Plan { input: Some(input), .. } => plan_offline(input, args.json),
        Command::Plan { input: None, without } => {
            let command = AgentCommand::Live { without: without.clone() };
            ask_agent(&command, Ask { socket: &args.socket, json: args.json })
        }
        Command::Replay { recording, config, from, until } => replayed(&replay::Wanted {
            recording: recording.clone(),
            config: config.clone(),
            from: *from,
            until: *until,
            json: args.json,
        }),
        Command::Doctor { pin_root } => doctor::run(pin_root, &args.socket, args.json),
        Command::Bgp { command } => ask_bgp(command, Where { socket: &args.socket, json: args.json }),
        Command::Mrt { command } => read_mrt(command, args.json),
        Command::Agent(command) => ask_agent(command, Ask { socket: &args.socket, json: args.json }),
    }
}

fn ask_agent(command: &AgentCommand, ask: Ask<'_>) -> ExitCode {
    match on_this_thread(execute(command, ask)) {
        Some(Ok(text)) => show(&text),
        Some(Err(error)) => unanswered(&error),
        None => ExitCode::FAILURE,
    }
}

fn ask_bgp(command: &BgpCommand, at: Where<'_>) -> ExitCode {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let work = async {
        bgp::run(command, at, &mut out).await?;
        Ok(out.flush()?)
    };
    match on_this_thread(work) {
        Some(Ok(())) => ExitCode::SUCCESS,
        // The reader has seen enough (`etm bgp routes | head`).
        Some(Err(BgpError::Write { source })) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Some(Err(BgpError::Client(error))) => unanswered(&error),
        Some(Err(error)) => {
            complain(&error);
            ExitCode::FAILURE
        }
        None => ExitCode::FAILURE,
    }
}

fn read_mrt(command: &MrtCommand, as_json: bool) -> ExitCode {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let done = mrt::run(command, as_json, &mut out, &mut std::io::stderr());
    match done.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(MrtCommandError::Write { source }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// None where not even a runtime can be had, after saying so.
pub(super) fn on_this_thread<T>(work: impl Future<Output = T>) -> Option<T> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => Some(runtime.block_on(work)),
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            None
        }
    }
}

fn unanswered(error: &ClientError) -> ExitCode {
    complain(error);
    match error {
        ClientError::Unreachable { .. } | ClientError::Silent { .. } | ClientError::Nowhere { .. } => {
            ExitCode::from(UNREACHABLE)
        }
        ClientError::Protocol { .. }
        | ClientError::Form { .. }
        | ClientError::Refused { .. }
        | ClientError::Denied { .. } => ExitCode::FAILURE,
    }
}

fn plan_offline(input: &Path, as_json: bool) -> ExitCode {
    match plan::run(input, as_json) {
        Ok(text) => show(&text),
        Err(error) => {
            complain(&error);
            ExitCode::from(error.status())
        }
    }
}

/// Fails where something else follows than was recorded.
fn replayed(wanted: &replay::Wanted) -> ExitCode {
    match replay::run(wanted) {
        Ok((text, equal)) => {
            let shown = show(&text);
            if equal { shown } else { ExitCode::FAILURE }
        }
        Err(error) => {
            complain(&error);
            ExitCode::from(error.status())
        }
    }
}

/// Fails where something keeps ETM from running.
pub(super) fn show(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough (`etm events | head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

pub(super) fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "etm: {text}");
}

async fn execute(command: &AgentCommand, ask: Ask<'_>) -> Result<String, ClientError> {
    match command {
        AgentCommand::Status => ask.get("/v1/status", |status: &Status| render::status(status)).await,
        AgentCommand::Providers => {
            ask.get("/v1/providers", |answer: &Providers| render::providers(&answer.uplinks)).await
        }
        AgentCommand::Prefixes { top } => {
            let resource = format!("/v1/prefixes?top={top}");
            ask.get(&resource, |answer: &Prefixes| render::prefixes(&answer.prefixes)).await
        }
        AgentCommand::Overrides => {
            ask.get("/v1/overrides", |answer: &Overrides| render::overrides(&answer.overrides)).await
        }
        AgentCommand::Live { without: None } => {
            ask.get("/v1/plan", |answer: &PlanView| render_plan::plan(answer)).await
        }
        AgentCommand::Live { without: Some(name) } => {
            let resource = format!("/v1/plan?without={}", escaped(name));
            ask.get(&resource, |answer: &LossView| render_plan::loss(answer)).await
        }
        AgentCommand::Explain { what: None, .. } => {
            ask.get("/v1/losses", |answer: &Losses| render_plan::losses(&answer.losses)).await
        }
        AgentCommand::Explain { what: Some(what), .. } => explain(what, ask).await,
        AgentCommand::Approve { what } if what == "list" => {
            ask.get("/v1/changes", |answer: &Changes| render_plan::changes(&answer.changes)).await
        }
        AgentCommand::Approve { what } => {
            let resource = match (what.as_str(), what.parse::<u64>()) {
                ("all", _) => "/v1/approve".to_owned(),
                (_, Ok(id)) => format!("/v1/approve?id={id}"),
                (_, Err(_)) => {
                    let error = format!("`{what}` is no number of a change; give a number, `all` or `list`");
                    return Err(ClientError::Refused { error });
                }
            };
            ask.judge(&resource).await
        }
        AgentCommand::Reject { id } => ask.judge(&format!("/v1/reject?id={id}")).await,
        AgentCommand::Events { since } => {
            let resource = format!("/v1/events?since={since}");
            ask.get(&resource, |answer: &Events| render::events(&answer.events)).await
        }
        AgentCommand::Record { what } => {
            let shown = |answer: &Recording| render::recording(answer);
            match what {
                RecordCommand::Status => ask.get("/v1/record", shown).await,
                RecordCommand::Start => ask.post("/v1/record/start", shown).await,
                RecordCommand::Stop => ask.post("/v1/record/stop", shown).await,
            }
        }
        AgentCommand::Off { guardian, force, pin_root, protocol } => {
            switched_off(&ask, guardian.as_deref(), (pin_root, *protocol), *force).await
        }
        AgentCommand::On => ask.order("/v1/on").await,
        AgentCommand::Mode { .. } | AgentCommand::Provider { .. } => ordered(command, ask).await,
    }
}

async fn switched_off(
    ask: &Ask<'_>,
    guardian: Option<&Path>,
    (pin_root, protocol): (&Path, u8),
    force: bool,
) -> Result<String, ClientError> {
    let beside = ask.socket.with_file_name("guardian.sock");
    off(ask, &Places { guardian: guardian.unwrap_or(&beside), pin_root, protocol }, force).await
}

/// Orders that outlive the agent.
async fn ordered(command: &AgentCommand, ask: Ask<'_>) -> Result<String, ClientError> {
    let answer = match command {
        AgentCommand::Mode { mode, confirm } => orders::mode(ask.socket, *mode, *confirm).await?,
        AgentCommand::Provider { command } => orders::provider(ask.socket, command).await?,
        _ => return Err(ClientError::Refused { error: "this is no order".to_owned() }),
    };
    if ask.json { json(&answer) } else { Ok(orders::commanded(&answer)) }
}

async fn explain(what: &str, ask: Ask<'_>) -> Result<String, ClientError> {
    if let Ok(prefix) = what.parse::<Prefix>() {
        let resource = format!("/v1/explain?prefix={prefix}");
        return ask.get(&resource, |answer: &ExplainView| render::explain(answer)).await;
    }
    let resource = format!("/v1/explain?exit={}", escaped(what));
    ask.get(&resource, |answer: &ExitView| render_plan::exit(answer)).await
}

/// A name as a value of a query (RFC 3986 section 2.1).
pub(super) fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) socket: &'a Path,
    pub(super) json: bool,
}

impl Ask<'_> {
    async fn get<T>(&self, resource: &str, render: impl Fn(&T) -> String) -> Result<String, ClientError>
    where
        T: DeserializeOwned + Serialize,
    {
        let answer: T = control::get(self.socket, resource).await?;
        if self.json { json(&answer) } else { Ok(render(&answer)) }
    }

    /// Fails where an order was not carried out, with all reasons.
    async fn judge(&self, resource: &str) -> Result<String, ClientError> {
        let answer: Judgement = control::order(self.socket, resource).await?;
        if self.json {
            return json(&answer);
        }
        let text = render_plan::judged(&answer.judged);
        if answer.judged.iter().all(|judged| judged.done) {
            return Ok(text);
        }
        Err(ClientError::Refused { error: text.trim_end().to_owned() })
    }

    async fn post<T>(&self, resource: &str, render: impl Fn(&T) -> String) -> Result<String, ClientError>
    where
        T: DeserializeOwned + Serialize,
    {
        let answer: T = control::order(self.socket, resource).await?;
        if self.json { json(&answer) } else { Ok(render(&answer)) }
    }

    pub(super) async fn order(&self, resource: &str) -> Result<String, ClientError> {
        self.show_ordered(&control::order(self.socket, resource).await?)
    }

    pub(super) fn show_ordered(&self, answer: &Ordered) -> Result<String, ClientError> {
        if self.json { json(answer) } else { Ok(render::ordered(answer)) }
    }
}

pub(super) fn json(answer: &impl Serialize) -> Result<String, ClientError> {
    let text = serde_json::to_string(answer).map_err(|source| ClientError::Form { source })?;
    Ok(text + "\n")
}
