//! The running parts, and their end: traffic first, us last. Every step has a bound, and says what it did.

use super::decider::Directive;
use super::error::AgentError;
use super::machine::{clean, own_table};
use super::open::TableLock;
use super::sampler::Note;
use super::sessions::Shown;
use crate::config::Settings;
use crate::datapath::{self, Datapath};
use crate::fib;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

/// Longest time for sessions to withdraw and close.
const SESSIONS_BOUND: Duration = Duration::from_secs(5);

/// Longest time for any other step.
const STEP_BOUND: Duration = Duration::from_secs(3);

/// What a part gives back when it ends.
pub(super) enum End {
    /// Nothing.
    Plain,
    /// A BGP session, or the guardian with all of its sessions.
    Session {
        /// True where its peer confirmed that nothing of ETM is left with it.
        confirmed: bool,
    },
    /// ETM's routing table.
    Routes(Box<fib::Overrides>),
    /// The attachments.
    Datapath(Box<Datapath>),
    /// It failed.
    Failed(AgentError),
}

/// Everything that runs.
pub(super) struct Parts {
    pub(super) tasks: JoinSet<(&'static str, End)>,
    /// What parts that ended gave back.
    pub(super) ended: Vec<End>,
    pub(super) directives: mpsc::Sender<Directive>,
    pub(super) notes: SyncSender<Note>,
    pub(super) stop_sessions: watch::Sender<bool>,
    pub(super) stop_rest: watch::Sender<bool>,
    pub(super) learning: watch::Receiver<bool>,
    pub(super) statuses: Vec<Shown>,
    /// Tasks that end as `End::Session`: one per session of our own, and one for the guardian's.
    pub(super) partings: usize,
    /// True once the start succeeded.
    pub(super) started: bool,
    /// Held as long as anything of ours may be in the table.
    pub(super) _lock: TableLock,
}

impl Parts {
    /// Tells the sampler something; a sampler that has ended needs to know nothing.
    pub(super) async fn note(&self, note: Note) {
        let notes = self.notes.clone();
        let _ = tokio::task::spawn_blocking(move || notes.send(note)).await;
    }

    /// A part that was not told to end did.
    pub(super) fn ended_early(&mut self, ended: Result<(&'static str, End), JoinError>) -> AgentError {
        match ended {
            Ok((_, End::Failed(error))) => error,
            Ok((part, end)) => {
                self.ended.push(end);
                AgentError::PartEnded { part }
            }
            Err(_) => AgentError::PartEnded { part: "a task" },
        }
    }

    /// Waits until `enough` of what ended, or until the bound.
    async fn wait(
        &mut self,
        bound: Duration,
        enough: impl Fn(&[End], &JoinSet<(&'static str, End)>) -> bool,
    ) -> bool {
        let deadline = tokio::time::Instant::now() + bound;
        while !enough(&self.ended, &self.tasks) {
            match tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
                Ok(Some(Ok((part, End::Failed(error))))) => {
                    tracing::error!(%error, "{part} failed while ending");
                }
                Ok(Some(Ok((_, end)))) => self.ended.push(end),
                Ok(Some(Err(error))) => tracing::error!(%error, "a task was lost while ending"),
                Ok(None) => return enough(&self.ended, &self.tasks),
                Err(_) => return false,
            }
        }
        true
    }

    fn take_routes(&mut self) -> Option<Box<fib::Overrides>> {
        let position = self.ended.iter().position(|end| matches!(end, End::Routes(_)))?;
        match self.ended.swap_remove(position) {
            End::Routes(routes) => Some(routes),
            _ => None,
        }
    }

    fn take_datapath(&mut self) -> Option<Box<Datapath>> {
        let position = self.ended.iter().position(|end| matches!(end, End::Datapath(_)))?;
        match self.ended.swap_remove(position) {
            End::Datapath(datapath) => Some(datapath),
            _ => None,
        }
    }
}

/// Ends everything. True where it is certain that nothing of ETM is left in effect.
pub(super) async fn stop(settings: &Settings, mut parts: Parts) -> bool {
    let begun = Instant::now();
    // The lease is a map write: from this moment the kernel routes plainly, whatever follows.
    let released = parts.directives.send(Directive::Release).await.is_ok();
    step("told the decision to end the lease and all overrides", begun, released);
    let withdrawn = end_sessions(&mut parts).await;
    step("overrides withdrawn from peers, sessions closed", begun, withdrawn);
    parts.stop_rest.send_replace(true);
    parts.wait(STEP_BOUND, |ended, _| ended.iter().any(|end| matches!(end, End::Routes(_)))).await;
    let cleared = clear_routes(settings, &mut parts).await;
    step("kernel routes and rules removed", begun, cleared);
    parts.note(Note::Stop).await;
    parts.wait(STEP_BOUND, |ended, _| ended.iter().any(|end| matches!(end, End::Datapath(_)))).await;
    let detached = detach(settings, &mut parts);
    step("marking detached", begun, detached);
    let told = parts.directives.send(Directive::End).await.is_ok();
    let joined = parts.wait(STEP_BOUND, |_, tasks| tasks.is_empty()).await;
    step("all parts ended", begun, told && joined);
    withdrawn && cleared && detached
}

fn step(what: &str, begun: Instant, done: bool) {
    let ms = begun.elapsed().as_millis();
    if done {
        tracing::info!(ms, "{what}");
    } else {
        tracing::error!(ms, "not confirmed: {what}");
    }
}

/// Sessions withdraw, wait for the acknowledgement, say Cease and close.
async fn end_sessions(parts: &mut Parts) -> bool {
    let sessions = parts.partings;
    let of_session = |end: &&End| matches!(end, End::Session { .. });
    parts.stop_sessions.send_replace(true);
    let all =
        parts.wait(SESSIONS_BOUND, |ended, _| ended.iter().filter(of_session).count() >= sessions).await;
    all && !parts.ended.iter().any(|end| matches!(end, End::Session { confirmed: false }))
}

async fn clear_routes(settings: &Settings, parts: &mut Parts) -> bool {
    let own = own_table(settings);
    // Without the part's own view the table is read anew.
    let cleared = match parts.take_routes() {
        Some(mut routes) => routes.clear().await.map(|_| ()),
        None => Ok(()),
    };
    let cleaned = match cleared {
        Ok(()) => clean(own).await.map(|_| ()),
        Err(error) => Err(error),
    };
    if let Err(error) = &cleaned {
        tracing::error!(%error, "routes or rules of ETM may be left; `etm-agent detach` removes them");
    }
    cleaned.is_ok()
}

/// The marking program goes; counting stays, pinned, unless this start did not succeed or the operator wants otherwise.
fn detach(settings: &Settings, parts: &mut Parts) -> bool {
    let Some(mut datapath) = parts.take_datapath() else { return false };
    let mut done = true;
    if let Err(error) = datapath.detach_marking() {
        tracing::error!(%error, "the marking program is still attached");
        done = false;
    }
    drop(datapath);
    if parts.started && !settings.datapath.keep_on_exit {
        match datapath::detach(&settings.datapath.pin_root) {
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "pins of ETM are left; `etm-agent detach` removes them");
                done = false;
            }
        }
    }
    done
}
