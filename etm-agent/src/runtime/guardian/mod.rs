//! The guardian: a process of its own that announces what the agent decided, for as long as the agent's lease lasts.
//!
//! It owns the sessions with role inject. What may be announced is `core::custody`'s to say; this hands it events and
//! time, and carries out what it orders. Never decides, never learns a route, and touches the kernel's routing only to
//! remove ETM's routes from the main table, where the configuration puts them there.

mod guarded;
mod post;
mod sweep;
mod visitor;

use super::error::{AgentError, ExitStatus};
use super::lock::{self, Lock};
use super::privilege;
use super::sessions;
use super::signals::Endings;
use crate::config::{KernelMode, Settings};
use crate::core::policy::Role;
use crate::datapath;
use crate::guardian::{Listener, detach_from_parent};
use crate::telemetry::{self, LogFormat};
use post::Post;

/// Whose the guardian is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// An agent started it, and it ends with an agent's orderly stop.
    Agent,
    /// The system started it, and ends it.
    System,
}

/// Runs the guardian until it is told to end. The result is the process's exit status.
pub fn guard(settings: &Settings, log: LogFormat, keeper: Keeper) -> ExitStatus {
    telemetry::start(log);
    match keep_guard(settings, keeper) {
        Ok(status) => status,
        Err(error) => {
            tracing::error!("guardian: {error}");
            error.status()
        }
    }
}

fn keep_guard(settings: &Settings, keeper: Keeper) -> Result<ExitStatus, AgentError> {
    let routes = settings.kernel.mode == KernelMode::Main;
    if sessions::named(settings, Role::Inject).is_empty() && !routes {
        return Err(AgentError::NothingToGuard);
    }
    sessions::check(settings)?;
    datapath::check_clock()?;
    if keeper == Keeper::Agent
        && let Err(error) = detach_from_parent()
    {
        tracing::warn!(%error, "short of memory, the kernel may end the guardian before the agent");
    }
    let system = |doing| move |source| AgentError::System { doing, source };
    let lock = lock(settings.kernel.table)?;
    privilege::settle_guardian(settings)?;
    // Two threads: a session that keeps one busy must not keep the lease from ending.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    let status = runtime.block_on(async {
        let mut endings = Endings::listen()?;
        let told_to_end = async {
            let _ = endings.next().await;
        };
        let listener = Listener::bind(&settings.guardian.socket, keeper == Keeper::Agent)?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            socket = %settings.guardian.socket.display(),
            "guardian starts"
        );
        Post::take(settings, keeper, listener)?.keep(told_to_end).await
    });
    // Held until nothing is announced any more.
    drop(lock);
    status
}

/// One guardian per routing table and network namespace: two would fight for the same peers.
fn lock(table: u32) -> Result<Lock, AgentError> {
    lock::take(&format!("etm-guardian-{table}")).map_err(|refused| match refused {
        lock::Refused::Held(pid) => AgentError::GuardianRuns { table, holder: lock::holder(pid) },
        lock::Refused::System(source) => AgentError::System { doing: "lock the guardian's place", source },
    })
}

#[cfg(test)]
mod tests;
