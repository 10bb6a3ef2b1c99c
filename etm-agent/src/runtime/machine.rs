//! Checks of the machine before anything is changed, and what they found.
//! Never changes a route, link, sysctl or file.

use super::error::AgentError;
use crate::config::{KernelMode, Settings};
use crate::core::decision::Decision;
use crate::core::input::{Input, SiteEvent};
use crate::core::policy::Mode;
use crate::datapath::check_local_output;
use crate::fib::{self, Cleaned, FibError, Finding, LinkReport, LinkState, OwnTable, resolve};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often the routing daemon is asked while ETM acts.
const DAEMON_PAUSE: Duration = Duration::from_secs(30);
/// And so long after ETM's first routes since it had none: a daemon that learns has them by the kernel's notification.
const FIRST_ROUTES: Duration = Duration::from_secs(1);
/// How often it is looked whether acting would be refused; and so many looks between two questions to the daemon, and between
/// two readings of whole tables.
const LOOK: Duration = Duration::from_secs(5);
const DAEMON_EVERY: u64 = 6;
const TABLES_EVERY: u64 = 120;

/// Where this configuration puts overrides.
pub(super) fn own_table(settings: &Settings) -> OwnTable {
    match settings.kernel.mode {
        KernelMode::Lease => apart(settings),
        KernelMode::Main => OwnTable::in_main(settings.kernel.protocol),
    }
}

/// The table of mode "lease", whatever the mode is.
pub(super) fn apart(settings: &Settings) -> OwnTable {
    OwnTable { table: settings.kernel.table, protocol: settings.kernel.protocol }
}

/// Removes every route and rule of ETM from where it puts them.
pub(super) async fn clean(own: OwnTable) -> Result<Cleaned, FibError> {
    match own.is_shared() {
        true => Ok(Cleaned { rules: 0, routes: fib::cleanup_main(own.protocol).await? }),
        false => fib::cleanup(own).await,
    }
}

/// True where something may be steered: in mode `approve` what a person approves is.
pub(super) fn enforcing(settings: &Settings) -> bool {
    settings.policy.mode != Mode::Observe
}

/// Interfaces as found.
#[derive(Clone, Debug)]
pub(super) struct Interfaces {
    /// In order of `UplinkId`.
    pub(super) uplinks: Vec<LinkReport>,
    /// In order of configuration.
    pub(super) inside: Vec<LinkReport>,
}

/// Finds every interface of the configuration.
pub(super) async fn interfaces(settings: &Settings) -> Result<Interfaces, AgentError> {
    fib::check_privileges()?;
    let own = settings.policy.uplinks.iter().take(settings.policy.own_uplinks());
    let names: Vec<String> = own.map(|uplink| uplink.name.clone()).collect();
    let all: Vec<String> = names.iter().chain(&settings.kernel.inside).cloned().collect();
    let mut uplinks = resolve(&all).await?;
    let inside = uplinks.split_off(names.len());
    for link in uplinks.iter().chain(&inside).filter(|link| link.state != LinkState::Up) {
        tracing::warn!(interface = %link.name, state = %link.state, "interface cannot send now");
    }
    Ok(Interfaces { uplinks, inside })
}

/// What the machine says against steering here: an error where it would be unsafe to enforce, notes otherwise.
pub(super) async fn routing(settings: &Settings, found: &Interfaces) -> Result<Vec<String>, AgentError> {
    let own = own_table(settings);
    let uplinks: Vec<String> = found.uplinks.iter().map(|link| link.name.clone()).collect();
    let mut notes = Vec::new();
    let mut findings = fib::probe_kernel(own, settings.kernel.rule_priority, &uplinks).await?;
    findings.extend(beside_others(own).await?);
    findings.extend(unasked(settings).await?);
    if let Some(socket) = &settings.agent.bird_socket {
        match fib::probe_bird(own, socket).await {
            Ok(found) => findings.extend(found),
            Err(error) if enforcing(settings) => return Err(error.into()),
            Err(error) => notes.push(error.to_string()),
        }
    }
    notes.extend(judge(settings, &findings)?);
    if !settings.kernel.local_output.is_empty()
        && let Err(error) = check_local_output()
    {
        match enforcing(settings) {
            true => return Err(error.into()),
            false => notes.push(error.to_string()),
        }
    }
    Ok(notes)
}

/// Whose packets take overrides besides forwarded ones.
pub(super) fn local_output(settings: &Settings) -> Option<String> {
    let kernel = &settings.kernel;
    match kernel.mode {
        KernelMode::Main => {
            Some("in mode main what this router itself sends takes overrides too, from any source".to_owned())
        }
        KernelMode::Lease if kernel.local_output.is_empty() => None,
        KernelMode::Lease => {
            let sources: Vec<String> = kernel.local_output.iter().map(ToString::to_string).collect();
            let sources = sources.join(", ");
            Some(format!(
                "what this router itself sends from {sources} takes overrides while the lease is fresh"
            ))
        }
    }
}

/// What speaks against sharing a table with the routing daemon.
async fn beside_others(own: OwnTable) -> Result<Vec<Finding>, FibError> {
    match own.is_shared() {
        true => fib::probe_main().await,
        false => Ok(Vec::new()),
    }
}

/// What speaks against sharing a table with a BIRD that cannot be asked. Reads all of BIRD's routes.
async fn unasked(settings: &Settings) -> Result<Vec<Finding>, FibError> {
    match own_table(settings).is_shared() && settings.agent.bird_socket.is_none() {
        true => fib::probe_unasked().await,
        false => Ok(Vec::new()),
    }
}

/// Asks the routing daemon again and again while ETM acts, for what it learns shows only once there is something to
/// learn, and therefore also soon after ETM's first routes. `settings` are those of a mode that acts.
pub(super) async fn watch_daemon(
    settings: Settings,
    acting: watch::Receiver<bool>,
    mut decisions: watch::Receiver<Arc<Decision>>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), AgentError> {
    let (own, socket) = (own_table(&settings), settings.agent.bird_socket.clone());
    if socket.is_none() && !own.is_shared() {
        let _ = stop.wait_for(|stop| *stop).await;
        return Ok(());
    }
    let mut had = false;
    loop {
        let due = async {
            tokio::select! {
                () = tokio::time::sleep(DAEMON_PAUSE) => {}
                () = first_routes(&mut decisions, &mut had) => tokio::time::sleep(FIRST_ROUTES).await,
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            () = due => {}
        }
        if !*acting.borrow() {
            continue;
        }
        judge(&settings, &beside_others(own).await?)?;
        let Some(socket) = &socket else { continue };
        match fib::probe_bird(own, socket).await {
            Ok(findings) => drop(judge(&settings, &findings)?),
            // A daemon that restarts cannot be asked; its session is down then, and nothing is decided.
            Err(error) => tracing::debug!(%error, "the routing daemon cannot be asked"),
        }
    }
}

/// Until a decision has kernel routes, and the one before had none. Never where no decision comes any more.
async fn first_routes(decisions: &mut watch::Receiver<Arc<Decision>>, had: &mut bool) {
    loop {
        let has = !decisions.borrow_and_update().kernel.is_empty();
        if has && !std::mem::replace(had, has) {
            return;
        }
        *had = has;
        if decisions.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What speaks against acting as the machine is now, told to the decision whenever it changes: an operator who observes sees
/// it before the order to act is refused. Asked of the kernel's settings with each look, of the daemon and of whole tables seldom.
pub(super) async fn watch_refusals(
    settings: Settings,
    inputs: mpsc::Sender<Input>,
    mut stop: watch::Receiver<bool>,
) {
    let uplinks: Vec<String> = settings.policy.uplinks.iter().map(|uplink| uplink.name.clone()).collect();
    let (mut known, mut of_tables, mut of_daemon) = (Vec::new(), Vec::new(), Vec::new());
    for look in 0_u64.. {
        if look % TABLES_EVERY == 0 {
            match tables(&settings).await {
                Ok(found) => of_tables = found,
                // What was found before holds until it can be asked again.
                Err(error) => tracing::debug!(%error, "the kernel's tables cannot be looked at"),
            }
        }
        if look % DAEMON_EVERY == 0
            && let Some(socket) = &settings.agent.bird_socket
            && let Ok(found) = fib::probe_bird(own_table(&settings), socket).await
        {
            of_daemon = found;
        }
        let all = fib::probe_sysctls(&uplinks);
        let against = all.iter().chain(&of_tables).chain(&of_daemon).filter(|found| found.refuses_enforce());
        let against: Vec<String> = against.map(ToString::to_string).collect();
        if against != known {
            known.clone_from(&against);
            if inputs.send(Input::Site(SiteEvent::Refusals(against))).await.is_err() {
                return;
            }
        }
        let told = tokio::time::timeout(LOOK, async {
            let _ = stop.wait_for(|stop| *stop).await;
        });
        if told.await.is_ok() {
            return;
        }
    }
}

async fn tables(settings: &Settings) -> Result<Vec<Finding>, FibError> {
    let own = own_table(settings);
    let mut found = fib::probe_kernel(own, settings.kernel.rule_priority, &[]).await?;
    found.extend(beside_others(own).await?);
    found.extend(unasked(settings).await?);
    Ok(found)
}

fn judge(settings: &Settings, findings: &[Finding]) -> Result<Vec<String>, AgentError> {
    match findings.iter().find(|finding| enforcing(settings) && finding.refuses_enforce()) {
        Some(finding) => Err(AgentError::Unsafe { finding: finding.to_string() }),
        None => Ok(findings.iter().map(ToString::to_string).collect()),
    }
}
