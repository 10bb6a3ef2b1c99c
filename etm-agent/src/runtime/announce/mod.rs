//! The agent's side of its guardian: reaches it, starts it where none answers, tells it the newest decision and how long
//! that may stay, and shows what it says. Never announces anything itself: without a guardian nothing is announced.

mod link;

use super::clock::boottime;
use super::decider::Directive;
use super::error::AgentError;
use super::stop::End;
use crate::config::GuardianSettings;
use crate::control::schema::{GuardianState, GuardianView};
use crate::core::custody::{Epoch, Tenure};
use crate::core::decision::Decision;
use crate::core::input::{Input, SessionChange, SessionEvent};
use crate::guardian::{GuardianError, connect, spawn};
use crate::types::bgp::{PeerStatus, SessionOrder, SessionState};
use crate::types::{PeerId, Timestamp};
use link::{Link, Parted};
use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

/// Pause before the guardian is reached for again; doubles with each failure in a row.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A guardian that lived this long is not flapping.
const STEADY: Duration = Duration::from_secs(30);
/// How long a guardian that was started may take to open its socket.
const OPENING: Duration = Duration::from_secs(2);
/// Pause between two looks whether it did.
const OPENING_POLL: Duration = Duration::from_millis(10);
/// How long one that withdrew everything may take to end.
const ENDING: Duration = Duration::from_secs(1);

/// What the decision says about its lease, for the kernel's map and for the guardian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stance {
    /// None: undecided, and what was found stays as long as it may.
    pub(super) tenure: Option<Tenure>,
    /// How often an operator said `on`.
    pub(super) on: u64,
}

impl Stance {
    /// End of the lease; zero where none is held.
    pub(super) fn until(&self) -> Timestamp {
        match self.tenure {
            Some(Tenure::Held { until, .. }) => until,
            Some(Tenure::Released) | None => Timestamp(0),
        }
    }
}

/// Everything the task may touch.
pub(super) struct Announcer {
    pub(super) settings: GuardianSettings,
    /// What the guardian is started with.
    pub(super) config: PathBuf,
    pub(super) log_format: &'static str,
    /// Of the sessions as this agent read them.
    pub(super) digest: u64,
    pub(super) decisions: watch::Receiver<Arc<Decision>>,
    pub(super) stance: watch::Receiver<Stance>,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) directives: mpsc::Sender<Directive>,
    /// Until when an undecided agent may keep what it found.
    pub(super) adopt: watch::Sender<Timestamp>,
    pub(super) shown: watch::Sender<GuardianView>,
    pub(super) peers: Vec<(PeerId, watch::Sender<PeerStatus>)>,
    /// What operators want of the guardian's sessions.
    pub(super) orders: mpsc::Receiver<(PeerId, SessionOrder)>,
    pub(super) stop: watch::Receiver<bool>,
    /// Operators' words `on` that some guardian was told.
    pub(super) told_on: u64,
}

/// The task's own state.
struct Reach {
    child: Option<Child>,
    /// Our number before the connection broke.
    epoch: Option<Epoch>,
    pause: Duration,
}

/// Keeps the guardian told until `stop`. True in the end where no peer has anything of ETM left.
pub(super) async fn announce(mut announcer: Announcer) -> End {
    let mut reach = Reach { child: None, epoch: None, pause: RETRY_MIN };
    loop {
        let parted = match announcer.reach(&mut reach).await {
            Ok(link) => {
                let begun = Instant::now();
                let parted = link.hold(&mut announcer, &mut reach.epoch).await;
                if begun.elapsed() >= STEADY {
                    reach.pause = RETRY_MIN;
                }
                parted
            }
            Err(error) => Parted::Unreached(error),
        };
        match parted {
            Parted::Stopped { confirmed } => {
                reap(&mut reach).await;
                return End::Session { confirmed };
            }
            Parted::Superseded => return End::Failed(AgentError::Superseded),
            parted => announcer.lost(&parted).await,
        }
        let stopped = tokio::select! {
            stopped = announcer.stop.wait_for(|stop| *stop) => stopped.is_ok() || stopped.is_err(),
            () = sleep(reach.pause) => false,
        };
        if stopped {
            // A guardian that nobody can reach may still announce until the lease ends, which it did at this stop.
            let confirmed = connect(&announcer.settings.socket).await.is_err_and(|error| is_absent(&error));
            return End::Session { confirmed };
        }
        reach.pause = reach.pause.saturating_mul(2).min(RETRY_MAX);
    }
}

impl Announcer {
    /// Connects, where need be after starting a guardian.
    async fn reach(&self, reach: &mut Reach) -> Result<Link, GuardianError> {
        if let Some(child) = &mut reach.child
            && let Ok(Some(status)) = child.try_wait()
        {
            tracing::error!(%status, "the guardian ended");
            reach.child = None;
        }
        let socket = &self.settings.socket;
        match connect(socket).await {
            Err(error) if is_absent(&error) && self.settings.start => {}
            other => return other.map(Link::new),
        }
        self.show(GuardianState::Starting, None);
        if reach.child.is_none() {
            let child = spawn(&self.config, self.log_format)
                .map_err(|source| GuardianError::Process { doing: "start a guardian", source })?;
            tracing::info!(pid = child.id(), "started a guardian");
            reach.child = Some(child);
        }
        let deadline = Instant::now() + OPENING;
        loop {
            match connect(socket).await {
                Err(error) if is_absent(&error) && Instant::now() < deadline => sleep(OPENING_POLL).await,
                other => return other.map(Link::new),
            }
        }
    }

    /// Says that nothing is announced, and why.
    async fn lost(&mut self, parted: &Parted) {
        let state = match parted {
            Parted::OtherConfiguration => GuardianState::OtherConfiguration,
            Parted::Silent => GuardianState::Silent,
            _ => GuardianState::Absent,
        };
        let reason = parted.to_string();
        if self.show(state, Some(reason.clone())) {
            tracing::error!("no guardian: {reason}; nothing is announced");
        }
        for index in 0..self.peers.len() {
            let Some((peer, status)) = self.peers.get(index) else { continue };
            let now = boottime();
            status.send_modify(|status| {
                status.enter(SessionState::Idle, now);
                (status.announced, status.withheld, status.told) = (0, 0, None);
            });
            let change = SessionChange::Down { reason: format!("no guardian: {reason}") };
            let down = Input::Session(SessionEvent { peer: *peer, change });
            tokio::select! {
                biased;
                // The decision may be gone, or too busy to hear us out while everything stops.
                _ = self.inputs.send(down) => {}
                _ = self.stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// True where that is news.
    fn show(&self, state: GuardianState, detail: Option<String>) -> bool {
        self.shown.send_if_modified(|shown| {
            let news = shown.state != state || shown.detail != detail;
            let started = u64::from(state == GuardianState::Starting && shown.state != state);
            *shown =
                GuardianView { state, detail, starts: shown.starts + started, ..GuardianView::default() };
            news
        })
    }
}

/// A guardian that withdrew everything ends by itself; its process is waited for, so that none is left behind.
async fn reap(reach: &mut Reach) {
    let Some(mut child) = reach.child.take() else { return };
    let deadline = Instant::now() + ENDING;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => sleep(OPENING_POLL).await,
            Ok(Some(_)) => return,
            Err(error) => return tracing::error!(%error, "the guardian's end cannot be seen"),
        }
    }
    tracing::error!(pid = child.id(), "the guardian withdrew everything and does not end");
}

fn is_absent(error: &GuardianError) -> bool {
    matches!(
        error,
        GuardianError::Socket { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    )
}
