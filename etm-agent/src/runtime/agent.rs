//! A run of the agent: open everything, start the parts, wait for a reason to end, end in order.

use super::error::{AgentError, ExitStatus};
use super::guarded::Origin;
use super::machine::{self, apart, own_table};
use super::open::{TableLock, clear_routing, open};
use super::privilege;
use super::sampler::Note;
use super::sessions;
use super::signals::Endings;
use super::standing::{self, OrdersFile};
use super::start::{metrics, start};
use super::stop::{Parts, stop};
use crate::config::Settings;
use crate::core::policy::Role;
use crate::datapath::{self, OffSwitch};
use crate::fib::{self, OwnTable};
use crate::guardian;
use crate::privileges;
use crate::telemetry::{self, LogFormat};
use crate::types::bgp::{PeerStatus, SessionState};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How often a start looks whether its sessions are up, or cannot come up.
const START_POLL: Duration = Duration::from_millis(100);

/// Runs the agent until it is told to end. The result is the process's exit status.
/// `config` is the file that the settings came from: the guardian reads it too.
pub fn run(settings: &Settings, config: &Path, log: LogFormat) -> ExitStatus {
    telemetry::start(log);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = settings.policy.mode.as_str(),
        "etm-agent starts"
    );
    match run_narrowed(settings, config, log) {
        Ok(status) => status,
        Err(error) => {
            tracing::error!("{error}");
            error.status()
        }
    }
}

/// Privileges first: threads have those that their process had when they were started.
fn run_narrowed(settings: &Settings, config: &Path, log: LogFormat) -> Result<ExitStatus, AgentError> {
    if settings.guardian.start
        && let Err(error) = privileges::raise_oom_score(guardian::SCORE_APART)
    {
        tracing::warn!("{error}; the kernel may end the guardian before the agent");
    }
    let held = privilege::settle_agent(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|source| AgentError::System { doing: "start the runtime", source })?;
    runtime.block_on(run_until_told(settings, Origin { config, log, held: &held }))
}

/// Checks configuration and machine as a run would, and changes nothing. The lines say what was found.
pub fn check(settings: &Settings) -> Result<Vec<String>, AgentError> {
    datapath::check_capabilities()?;
    datapath::check_clock()?;
    if let Some(user) = &settings.agent.user {
        privileges::check_user(user)?;
    }
    privilege::grants(settings)?;
    // What an operator ordered holds at the next start: it is that start which is judged.
    let (settings, _) = &standing::take_up(settings)?;
    on_this_thread(async {
        let served = trial_of_metrics(settings)?;
        let found = machine::interfaces(settings).await?;
        let mut lines: Vec<String> = found
            .uplinks
            .iter()
            .chain(&found.inside)
            .map(|link| format!("interface {} has index {} and is {}", link.name, link.ifindex, link.state))
            .collect();
        lines.extend(served);
        lines.extend(machine::routing(settings, &found).await?);
        lines.extend(machine::local_output(settings));
        sessions::check(settings)?;
        fib::Overrides::open(own_table(settings)).await?;
        Ok(lines)
    })
}

/// Binds where metrics are to be served, and lets go. Where an agent runs, it has that place with good reason.
fn trial_of_metrics(settings: &Settings) -> Result<Option<String>, AgentError> {
    match metrics(settings) {
        Err(AgentError::Metrics { listen, source })
            if source.kind() == io::ErrorKind::AddrInUse
                && UnixStream::connect(&settings.agent.control_socket).is_ok() =>
        {
            Ok(Some(format!("{listen} is in use, by the agent that runs or by another program")))
        }
        Err(error) => Err(error),
        Ok(_) => Ok(None),
    }
}

/// Where ETM is to be removed from.
#[derive(Clone, Debug)]
pub struct DetachFrom {
    pin_root: PathBuf,
    own: OwnTable,
    guardian: PathBuf,
}

impl DetachFrom {
    /// These pins, and the default table and protocol.
    pub fn pin_root(pin_root: PathBuf) -> DetachFrom {
        let guardian = PathBuf::from("/run/etm/guardian.sock");
        DetachFrom { pin_root, own: OwnTable::default(), guardian }
    }

    /// What these settings name.
    pub fn settings(settings: &Settings) -> DetachFrom {
        DetachFrom {
            pin_root: settings.datapath.pin_root.clone(),
            own: apart(settings),
            guardian: settings.guardian.socket.clone(),
        }
    }
}

/// Removes everything of ETM from the machine. The lines say what was removed.
pub fn detach(from: &DetachFrom) -> Result<Vec<String>, AgentError> {
    let DetachFrom { pin_root, own, guardian } = from;
    // An agent at work would put back what is taken away here, and know no more of what it did before.
    let _lock = TableLock::whole(own.table)?;
    // Marking ends first: from then on nothing looks into the table that is being emptied.
    let detached = datapath::detach(pin_root);
    // What cannot be removed must not keep the rest in place.
    let (forgotten, cleaned, in_main) = on_this_thread(async {
        let forgotten = guardian::forget(guardian).await;
        let cleaned = fib::cleanup(*own).await;
        Ok((forgotten, cleaned, fib::cleanup_main(own.protocol).await))
    })?;
    let (detached, cleaned, in_main, forgotten) = (detached?, cleaned?, in_main?, forgotten?);
    let (links, maps) = (detached.links.join(", "), detached.maps.join(", "));
    Ok(vec![
        format!("{}: removed links [{links}] and maps [{maps}]", pin_root.display()),
        format!("table {}: {} routes and {} rules removed", own.table, cleaned.routes, cleaned.rules),
        format!("table main: {in_main} routes removed"),
        match forgotten {
            true => format!("guardian {}: everything that an agent left is withdrawn", guardian.display()),
            false => format!("guardian {}: none runs", guardian.display()),
        },
    ])
}

/// Turns the operator's switch off by its pin, with no agent's help. False where nothing is pinned there.
pub fn switch_off(pin_root: &Path) -> Result<bool, AgentError> {
    let Some(mut switch) = OffSwitch::open(pin_root)? else { return Ok(false) };
    switch.set()?;
    Ok(true)
}

/// Takes ETM's routes out of the main table, with no agent's help; how many there were. Only kernel mode main puts any there.
pub async fn clear_main(protocol: u8) -> Result<usize, AgentError> {
    Ok(fib::cleanup_main(protocol).await?)
}

/// Tells the guardian to withdraw everything, with no agent's help. False where none runs.
pub async fn withdraw_by_guardian(socket: &Path) -> Result<bool, AgentError> {
    Ok(guardian::order_off(socket).await?)
}

fn on_this_thread<T>(work: impl Future<Output = Result<T, AgentError>>) -> Result<T, AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| AgentError::System { doing: "start the runtime", source })?.block_on(work)
}

async fn run_until_told(settings: &Settings, origin: Origin<'_>) -> Result<ExitStatus, AgentError> {
    let mut endings = Endings::listen()?;
    let file = OrdersFile::of(settings);
    let (settings, standing) = standing::take_up(settings)?;
    let settings = &settings;
    let opening = open(settings).await?;
    let mut parts = match start(settings, origin, opening, (file, standing)) {
        Ok(parts) => parts,
        Err(error) => {
            clear_routing(own_table(settings)).await;
            return Err(error);
        }
    };
    let reason = tokio::select! {
        signal = endings.next() => Ok(signal),
        error = wait_for_trouble(settings, &mut parts) => Err(error),
    };
    match &reason {
        Ok(signal) => tracing::info!("{signal}: ending"),
        Err(error) => tracing::error!("{error}"),
    }
    if let Err(error @ AgentError::Superseded) = &reason {
        // What is in the kernel is the other one's now.
        return Ok(error.status());
    }
    let clean = tokio::select! {
        clean = stop(settings, parts) => clean,
        // A second signal means now: the lease and the closed sockets end what is left.
        _ = endings.next() => false,
    };
    Ok(match reason {
        _ if !clean => ExitStatus::Unconfirmed,
        Err(error) => error.status(),
        Ok(_) => ExitStatus::Done,
    })
}

/// Returns when a part ends by itself, or when the start cannot succeed.
async fn wait_for_trouble(settings: &Settings, parts: &mut Parts) -> AgentError {
    let deadline = Instant::now() + settings.agent.startup_timeout;
    loop {
        if !parts.started {
            if *parts.learning.borrow() {
                parts.started = true;
                // From now on counters and attachments outlive the process.
                parts.note(Note::Keep).await;
                tracing::info!("every learn session was Established: the start succeeded");
            } else if let Some(error) = hopeless(settings, parts, Instant::now() >= deadline) {
                return error;
            }
        }
        tokio::select! {
            Some(ended) = parts.tasks.join_next() => return parts.ended_early(ended),
            () = tokio::time::sleep(START_POLL), if !parts.started => {}
        }
    }
}

/// Why the start cannot succeed: a fault that only a change of configuration mends, or time is up.
fn hopeless(settings: &Settings, parts: &Parts, late: bool) -> Option<AgentError> {
    for (session, role, status) in &parts.statuses {
        let status = status.borrow();
        if status.established > 0 {
            continue;
        }
        let fault = status.last_fault.as_ref();
        let reason = fault.map_or_else(|| silence(&status), |fault| fault.text.clone());
        if fault.is_some_and(|fault| fault.permanent) {
            return Some(AgentError::SessionFault { session: session.clone(), reason });
        }
        if late && *role == Role::Learn {
            let seconds = settings.agent.startup_timeout.as_secs();
            return Some(AgentError::SessionTimeout { session: session.clone(), seconds, reason });
        }
    }
    None
}

/// What is known of a peer that has not said anything.
fn silence(status: &PeerStatus) -> String {
    match status.state {
        SessionState::OpenSent => format!("{} took the connection but sent no OPEN", status.remote),
        _ => format!("no answer from {}", status.remote),
    }
}
