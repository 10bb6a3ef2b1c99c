//! What the agent has to do with its guardian's sessions: they are shown beside its own, and one task keeps the guardian
//! told. Never runs one of them.

use super::announce::{Announcer, Stance, announce};
use super::clock::boottime;
use super::decider::Directive;
use super::error::AgentError;
use super::sessions::{self, Session, Shown};
use super::start::Tasks;
use crate::config::{KernelMode, Settings};
use crate::control::schema::GuardianView;
use crate::core::custody::Tenure;
use crate::core::decision::Decision;
use crate::core::input::Input;
use crate::core::policy::Role;
use crate::fib::Overrides;
use crate::privileges::Held;
use crate::telemetry::LogFormat;
use crate::types::bgp::{PeerStatus, SessionOrder};
use crate::types::{PeerId, Timestamp};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Orders of operators that wait for the guardian.
const ORDERS: usize = 4;

/// How this process was started, for the guardian that it starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    /// The configuration file.
    pub(super) config: &'a Path,
    pub(super) log: LogFormat,
    /// What it may do.
    pub(super) held: &'a Held,
}

/// The decision's ends of the channels between it and the task: what it says of its lease, and how long it may keep what
/// it found.
pub(super) type Lifeline = (watch::Sender<Stance>, watch::Receiver<Timestamp>);

/// Ends of channels that the task shares with others.
pub(super) struct Ends {
    pub(super) decisions: watch::Receiver<Arc<Decision>>,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) directives: mpsc::Sender<Directive>,
    pub(super) stop: watch::Receiver<bool>,
}

/// The guardian's sessions.
pub(super) struct Guarded {
    view: watch::Sender<GuardianView>,
    peers: Vec<(PeerId, watch::Sender<PeerStatus>)>,
    stance: watch::Receiver<Stance>,
    adopt: watch::Sender<Timestamp>,
    orders: (mpsc::Sender<ForGuarded>, mpsc::Receiver<ForGuarded>),
    /// True where it has kernel routes to remove.
    routes: bool,
}

/// What an operator wants of one of the guardian's sessions.
pub(super) type ForGuarded = (PeerId, SessionOrder);

impl Guarded {
    /// None of them is known to be up. One that may act says nothing of a lease until it has decided; any other holds none.
    pub(super) fn of(settings: &Settings, may_act: bool) -> Result<(Guarded, Lifeline), AgentError> {
        let mut peers = Vec::new();
        for session in sessions::unstarted(settings, Role::Inject)? {
            peers.push((session.peer, watch::Sender::new(session.status.borrow().clone())));
        }
        let tenure = (!may_act).then_some(Tenure::Released);
        let (stance, stances) = watch::channel(Stance { tenure, on: 0 });
        let (adopt, adopted) = watch::channel(Timestamp(0));
        let view = watch::Sender::new(GuardianView::default());
        let routes = settings.kernel.mode == KernelMode::Main;
        let orders = mpsc::channel(ORDERS);
        Ok((Guarded { view, peers, stance: stances, adopt, orders, routes }, (stance, adopted)))
    }

    /// True where there is nothing to guard.
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty() && !self.routes
    }

    /// Kernel routes that no lease in the kernel guards stand only while the agent holds one.
    pub(super) fn fenced(&self, routes: Overrides) -> Overrides {
        if !self.routes {
            return routes;
        }
        let stance = self.stance.clone();
        routes.fenced(Box::new(move || stance.borrow().until() > boottime()))
    }

    /// What is shown of the guardian; none where there is nothing to guard.
    pub(super) fn view(&self) -> Option<watch::Receiver<GuardianView>> {
        (!self.is_empty()).then(|| self.view.subscribe())
    }

    /// Where orders for these sessions go.
    pub(super) fn orders(&self) -> mpsc::Sender<ForGuarded> {
        self.orders.0.clone()
    }

    /// All sessions in order of configuration, `own` and these.
    pub(super) fn beside(&self, settings: &Settings, own: &[Session]) -> Vec<Shown> {
        let mut shown = Vec::new();
        for (peer, name) in sessions::named(settings, Role::Learn) {
            let session = own.iter().find(|session| session.peer == peer);
            let status = session.map(|session| session.status.clone());
            shown.extend(status.map(|status| (peer, name, Role::Learn, status)));
        }
        for (peer, name) in sessions::named(settings, Role::Inject) {
            let session = self.peers.iter().find(|(number, _)| *number == peer);
            let status = session.map(|(_, status)| status.subscribe());
            shown.extend(status.map(|status| (peer, name, Role::Inject, status)));
        }
        shown.sort_by_key(|(peer, ..)| *peer);
        shown.into_iter().map(|(_, name, role, status)| (name, role, status)).collect()
    }

    /// Starts the task, where there is anything to announce.
    pub(super) fn announce(self, tasks: &mut Tasks, settings: &Settings, origin: Origin<'_>, ends: Ends) {
        if self.is_empty() {
            return;
        }
        let announcer = Announcer {
            settings: settings.guardian.clone(),
            config: origin.config.to_owned(),
            log_format: origin.log.as_str(),
            digest: sessions::digest(settings),
            decisions: ends.decisions,
            stance: self.stance,
            inputs: ends.inputs,
            directives: ends.directives,
            adopt: self.adopt,
            shown: self.view,
            peers: self.peers,
            orders: self.orders.1,
            stop: ends.stop,
            told_on: 0,
        };
        tasks.spawn(async move { ("the announcements", announce(announcer).await) });
    }
}
