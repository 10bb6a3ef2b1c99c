//! The way of orders that need more than the decision: a mode that acts needs a machine that is made ready for it, and
//! what must outlive a restart is written before its order is answered. Never decides whether an order is good.

use super::error::AgentError;
use super::machine;
use super::open;
use super::sampler::Note;
use super::standing::OrdersFile;
use crate::config::{KernelMode, Settings};
use crate::control::Request;
use crate::control::schema::{Answer, Problem, Query};
use crate::core::controls::Standing;
use crate::core::policy::Mode;
use std::sync::mpsc::SyncSender;
use tokio::sync::{mpsc, oneshot, watch};

/// What the task works with.
pub(super) struct Gate {
    /// With the mode of the configuration replaced by one that acts: what the machine is made ready for.
    pub(super) settings: Settings,
    pub(super) file: OrdersFile,
    pub(super) orders: mpsc::Receiver<Request>,
    pub(super) decision: mpsc::Sender<Request>,
    pub(super) notes: SyncSender<Note>,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Gate {
    /// Handles orders one by one until `stop`.
    pub(super) async fn run(mut self) {
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
                changed = self.standing.changed() => match changed {
                    // A leak, or a drain that ended: nobody ordered it, and nobody waits for an answer.
                    Ok(()) => {
                        if let Some(error) = self.keep().await {
                            tracing::error!("what operators ordered is not kept across a restart: {error}");
                        }
                    }
                    Err(_) => return,
                },
                order = self.orders.recv() => match order {
                    Some(request) => self.pass(request).await,
                    None => return,
                },
            }
        }
    }

    async fn pass(&mut self, request: Request) {
        if let Query::Mode { mode, .. } = &request.query
            && *mode != Mode::Observe
            && let Err(error) = self.make_ready().await
        {
            // A client that went away needs no answer.
            let _ = request.reply.send(Answer::Failed(Problem { error: error.to_string() }));
            return;
        }
        let (reply, answered) = oneshot::channel();
        if self.decision.send(Request { query: request.query, reply }).await.is_err() {
            return;
        }
        let Ok(mut answer) = answered.await else { return };
        if let Answer::Commanded(commanded) = &mut answer {
            commanded.not_kept = self.keep().await;
        }
        let _ = request.reply.send(answer);
    }

    /// Writes what holds; why not, where it could not.
    async fn keep(&mut self) -> Option<String> {
        let standing = self.standing.borrow_and_update().clone();
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || file.write(&standing)).await;
        match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Everything that a start in such a mode would have checked and made.
    async fn make_ready(&self) -> Result<(), AgentError> {
        let kernel = &self.settings.kernel;
        let marks = kernel.mode == KernelMode::Lease;
        if marks && kernel.inside.is_empty() {
            return Err(AgentError::Unsafe {
                finding: "no inside interface is named: add kernel.inside and restart".to_owned(),
            });
        }
        let found = machine::interfaces(&self.settings).await?;
        for note in machine::routing(&self.settings, &found).await? {
            tracing::warn!("{note}");
        }
        open::ready_routing(&self.settings).await?;
        if !marks {
            return Ok(());
        }
        let (done, attached) = oneshot::channel();
        let (notes, inside) = (self.notes.clone(), found.inside.iter().map(|link| link.ifindex).collect());
        // The sampler may be in a sample; its queue is short and this task may wait, but not a runtime thread.
        let told = tokio::task::spawn_blocking(move || notes.send(Note::Mark { inside, done })).await;
        let ended = || AgentError::PartEnded { part: "the sampler" };
        told.map_err(|_| ended())?.map_err(|_| ended())?;
        attached.await.map_err(|_| ended())??;
        Ok(())
    }
}
