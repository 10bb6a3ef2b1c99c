//! One connection to the guardian, from greeting to end: frames in, answers and reports out.
//! Never judges what is said; a slow reader misses reports, never the newest.

use crate::core::custody::Epoch;
use crate::guardian::{Arrival, FromGuardian, GuardianError, Process, Reader, Report, ToGuardian, Writer};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Shortest time between two reports: what changes in between is seen together.
const SPACING: Duration = Duration::from_millis(5);

/// Number of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VisitorId(pub(super) u64);

/// What a connection brings.
#[derive(Debug)]
pub(super) enum News {
    /// It may speak.
    Here(VisitorId, Visitor),
    /// It spoke.
    Said(VisitorId, ToGuardian),
    /// It is gone.
    Gone(VisitorId),
}

/// A connection as the guardian knows it. Dropping it closes the connection once all answers are written.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) process: Option<Process>,
    pub(super) pid: i32,
    pub(super) answers: mpsc::Sender<FromGuardian>,
    /// Set once it is an agent that is listened to.
    pub(super) epoch: Option<Epoch>,
}

/// Serves one connection to its end.
pub(super) async fn visit(
    id: VisitorId,
    arrival: Arrival,
    news: mpsc::Sender<News>,
    reports: watch::Receiver<Report>,
) {
    let speaker = match arrival.greet().await {
        Ok(speaker) => speaker,
        Err(error) => {
            tracing::warn!(%error, "a connection to the guardian was refused");
            return;
        }
    };
    let (answers, queued) = mpsc::channel(4);
    let (process, pid) = (speaker.greeting.process, speaker.greeting.pid);
    let visitor = Visitor { process, pid, answers, epoch: None };
    if news.send(News::Here(id, visitor)).await.is_err() {
        return;
    }
    let ended = tokio::select! {
        ended = listen(id, speaker.reader, &news) => ended,
        ended = answer(speaker.writer, queued, reports) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, pid, "a connection to the guardian ended");
    }
    // Without a receiver the guardian is ending itself.
    let _ = news.send(News::Gone(id)).await;
}

async fn listen(id: VisitorId, mut reader: Reader, news: &mpsc::Sender<News>) -> Result<(), GuardianError> {
    loop {
        let said = reader.hear().await?;
        if news.send(News::Said(id, said)).await.is_err() {
            return Ok(());
        }
    }
}

/// Answers first, then the newest report, once it is an agent's connection.
async fn answer(
    mut writer: Writer,
    mut queued: mpsc::Receiver<FromGuardian>,
    mut reports: watch::Receiver<Report>,
) -> Result<(), GuardianError> {
    let mut joined = false;
    loop {
        tokio::select! {
            biased;
            answer = queued.recv() => {
                let Some(answer) = answer else { return Ok(()) };
                let first = matches!(answer, FromGuardian::Joined(_));
                writer.say(&answer).await?;
                if first {
                    joined = true;
                    reports.mark_changed();
                }
            }
            changed = reports.changed(), if joined => {
                if changed.is_err() {
                    return Ok(());
                }
                let report = reports.borrow_and_update().clone();
                writer.say(&FromGuardian::Report(report)).await?;
                tokio::time::sleep(SPACING).await;
            }
        }
    }
}
