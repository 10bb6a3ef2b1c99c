//! The decision thread: hands inputs to the controller one by one, and what follows from them to whoever acts.
//!
//! Links come before everything else, route floods after everything else. Never decides anything itself.

mod bgp;

use super::announce::Stance;
use super::clock::boottime;
use super::guarded::Lifeline;
use super::orders::Desk;
use super::record::Tap;
use super::sampler::{histogram, quantiles, record};
use super::table::Job;
use crate::control::Request;
use crate::control::schema::{
    AgentView, Answer, BgpRules, Changes, Commanded, Events, GuardianView, Judgement, Ordered, Overrides,
    Prefixes, PrivilegesView, Problem, Providers, Quantiles, Query, Status,
};
use crate::core::audit::{Event, Weight};
use crate::core::controller::{Controller, Outcome};
use crate::core::controls::Standing;
use crate::core::custody::Tenure;
use crate::core::decision::{Decision, TableChange};
use crate::core::guard::State;
use crate::core::input::{Input, Order, Sample};
use crate::core::policy::{Mode, Role};
use crate::datapath::{DatapathError, Lease, LocalCounts, LocalFate, Marked, OffSwitch};
use crate::types::bgp::PeerStatus;
use crate::types::bmp::RouterStatus;
use crate::types::{Timestamp, UplinkId};
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Most table changes put into one job: the kernel takes about 2.5 us for each.
const CHANGES_PER_JOB: usize = 4096;

/// What the supervisor tells the thread.
#[derive(Clone, Copy, Debug)]
pub(super) enum Directive {
    /// End all effect.
    Release,
    /// An operator switched the guardian off, and the agent was not asked or could not answer.
    Off {
        /// How often `on` was said until then: an `on` after it is the newer word.
        on: u64,
    },
    /// End the thread.
    End,
}

/// Where inputs come from.
pub(super) struct Sources {
    pub(super) directives: mpsc::Receiver<Directive>,
    /// Links and next hops: what ends overrides at once.
    pub(super) links: mpsc::Receiver<Input>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) samples: mpsc::Receiver<Sample>,
    pub(super) inputs: mpsc::Receiver<Input>,
}

/// What does not change while the agent runs.
pub(super) struct Identity {
    pub(super) started: Timestamp,
    pub(super) pin_root: String,
    pub(super) privileges: PrivilegesView,
    pub(super) lease_span: Duration,
    /// Mark of packets that may take an override, and its bits.
    pub(super) mark: (u32, u32),
    pub(super) peers: Vec<(Role, watch::Receiver<PeerStatus>)>,
    pub(super) routers: Vec<watch::Receiver<RouterStatus>>,
    /// None without sessions of role inject.
    pub(super) guardian: Option<watch::Receiver<GuardianView>>,
    /// Where operators' orders for sessions go.
    pub(super) desk: Desk,
    pub(super) sample_times: watch::Receiver<Quantiles>,
}

/// The thread's state.
pub(super) struct Decider {
    pub(super) controller: Controller,
    pub(super) lease: Lease,
    pub(super) local: LocalCounts,
    pub(super) off: OffSwitch,
    pub(super) decisions: watch::Sender<Arc<Decision>>,
    /// True once every learn session was Established: the start succeeded.
    pub(super) learning: watch::Sender<bool>,
    pub(super) jobs: SyncSender<Job>,
    pub(super) identity: Identity,
    /// Changes that the table thread could not take yet, in order; the job it could not take comes before them.
    pub(super) backlog: VecDeque<TableChange>,
    pub(super) next_job: Option<Job>,
    pub(super) rounds: Histogram<u64>,
    /// Until when the lease is held. Announcements live on it too.
    pub(super) stance: watch::Sender<Stance>,
    /// Until when what was found may be kept without a decision; zero where nothing is known to be held.
    pub(super) adopt: watch::Receiver<Timestamp>,
    /// What is recorded, where something is.
    pub(super) tap: Tap,
    /// What must outlive the agent.
    pub(super) standing: watch::Sender<Standing>,
    /// True while it acts on what it decides.
    pub(super) acting: watch::Sender<bool>,
}

impl Decider {
    /// Decides until `Directive::End`.
    pub(super) async fn run(mut self, mut sources: Sources) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                directive = sources.directives.recv() => match directive {
                    Some(Directive::Release) => self.release(),
                    Some(Directive::Off { on }) => self.follow_guardian(on),
                    Some(Directive::End) | None => return,
                },
                Some(input) = sources.links.recv() => self.feed(input),
                Some(request) = sources.requests.recv() => self.answer(request),
                Some(sample) = sources.samples.recv() => self.round(sample),
                Some(input) = sources.inputs.recv() => self.feed(input),
                _ = tick.tick() => {
                    self.obey_switch();
                    self.feed(Input::Tick);
                }
                () = std::future::ready(()), if self.controller.has_chores() => self.feed(Input::Tick),
            }
        }
    }

    fn feed(&mut self, input: Input) {
        let outcome = self.handle(input);
        self.act(outcome);
    }

    /// The one way into the controller: what goes in and comes out here is what recordings hold.
    fn handle(&mut self, input: Input) -> Outcome {
        let copy = self.tap.before(&self.controller, &input);
        let now = boottime();
        let outcome = self.controller.handle(now, input);
        self.tap.after(now, copy, &outcome);
        outcome
    }

    fn round(&mut self, sample: Sample) {
        self.obey_switch();
        let (begun, read_at) = (Instant::now(), sample.at);
        let outcome = self.handle(Input::Sample(sample));
        record(&mut self.rounds, begun.elapsed());
        // The lease says: counters were read then, and a decision was made from them. After a pause of the process
        // an old sample gives an old lease. Before the decision is published: where no kernel checks the lease, who acts does.
        self.renew(read_at);
        self.act(outcome);
    }

    fn act(&mut self, outcome: Outcome) {
        if let Some(decision) = outcome.decision {
            self.decisions.send_replace(decision);
        }
        self.backlog.extend(outcome.table);
        self.hand_out_changes();
        if let Some(rows) = outcome.live
            && matches!(self.jobs.try_send(Job::Live(rows)), Err(TrySendError::Disconnected(_)))
        {
            tracing::debug!("the table thread has ended");
        }
        outcome.events.iter().for_each(log);
        self.follow_orders();
        self.learning.send_if_modified(|learning| {
            let now = *learning || self.controller.learning();
            std::mem::replace(learning, now) != now
        });
    }

    /// Whoever keeps what operators ordered is told; and what the decision took back by itself, a mode that was not
    /// confirmed or everything because of a leak, is without effect in the kernel at once.
    fn follow_orders(&mut self) {
        self.standing.send_if_modified(|known| {
            let now = self.controller.standing();
            let news = known != now;
            if news {
                known.clone_from(now);
            }
            news
        });
        let acting = self.controller.enforcing();
        let ended = self.acting.send_replace(acting) && !acting;
        if self.controller.state() == State::Leak
            && self.off.is_off().is_ok_and(|off| !off)
            && let Err(error) = self.off.set()
        {
            tracing::error!(%error, "the kernel's switch cannot be turned off");
        }
        if ended && let Err(error) = self.expire() {
            tracing::error!(%error, "the lease cannot be ended; it ends by itself");
        }
    }

    /// Never waits for the kernel: what the table thread cannot take now is kept.
    fn hand_out_changes(&mut self) {
        loop {
            if self.next_job.is_none() {
                if self.backlog.is_empty() {
                    // A whole table's changes are many megabytes, needed once.
                    self.backlog.shrink_to(CHANGES_PER_JOB);
                    return;
                }
                let count = self.backlog.len().min(CHANGES_PER_JOB);
                self.next_job = Some(Job::Changes(self.backlog.drain(..count).collect()));
            }
            let Some(job) = self.next_job.take() else { return };
            if let Err(TrySendError::Full(back)) = self.jobs.try_send(job) {
                self.next_job = Some(back);
                return;
            }
        }
    }

    fn renew(&mut self, read_at: Timestamp) {
        let until = read_at + self.identity.lease_span;
        let tenure = if self.controller.wants_lease() {
            Tenure::Held { until, decided: true }
        } else if self.controller.enforcing() {
            // What an earlier run left lives on its own lease until the first decision, and as long beyond it as the
            // guardian grants, for it knows when somebody decided last.
            let keep = *self.adopt.borrow();
            let fresh = self.lease.read().is_ok_and(|lease| lease.deadline > boottime());
            if keep <= read_at || !fresh {
                return;
            }
            Tenure::Held { until: until.min(keep), decided: false }
        } else if self.stance.borrow().tenure == Some(Tenure::Released) {
            return;
        } else {
            Tenure::Released
        };
        match self.lease.renew(Stance { tenure: Some(tenure), on: 0 }.until()) {
            Ok(()) => self.stance.send_modify(|stance| stance.tenure = Some(tenure)),
            Err(error) => {
                tracing::error!(%error, "lease not renewed: the kernel returns to plain routing when it ends");
            }
        }
    }

    fn expire(&mut self) -> Result<(), DatapathError> {
        // Peers first: their guardian is told and needs no map.
        self.stance.send_modify(|stance| stance.tenure = Some(Tenure::Released));
        self.lease.expire()
    }

    /// `etm off` on a hung agent turns the kernel's switch by itself; an agent that wakes up must follow.
    fn obey_switch(&mut self) {
        match self.off.is_off() {
            Ok(true) if !self.controller.is_off() => self.feed(Input::Order(Order::Off)),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "the off switch cannot be read"),
        }
    }

    fn follow_guardian(&mut self, on: u64) {
        if on == self.stance.borrow().on && !self.controller.is_off() {
            drop(self.order(Order::Off));
        }
    }

    fn release(&mut self) {
        if let Err(error) = self.expire() {
            tracing::error!(%error, "the lease cannot be ended; it ends by itself");
        }
        self.feed(Input::Order(Order::Stop));
    }

    fn answer(&mut self, request: Request) {
        let now = boottime();
        let answer = match request.query {
            Query::Status => Answer::Status(Box::new(self.status(now))),
            Query::Providers => Answer::Providers(Providers { uplinks: self.controller.uplinks() }),
            Query::Prefixes { top } => Answer::Prefixes(Prefixes { prefixes: self.controller.prefixes(top) }),
            Query::Overrides => Answer::Overrides(Overrides { overrides: self.controller.overrides() }),
            Query::Explain { prefix } => Answer::Explain(Box::new(self.controller.explain(prefix))),
            Query::Events { since } => Answer::Events(Events { events: self.controller.events(since) }),
            Query::Plan { without: None } => Answer::Plan(Box::new(self.controller.plan(now))),
            Query::Plan { without: Some(name) } => match self.controller.without(now, &name) {
                Some(view) => Answer::Loss(Box::new(view)),
                None => Answer::Failed(Problem { error: no_exit(&name) }),
            },
            Query::ExplainExit { name } => match self.controller.explain_exit(now, &name) {
                Some(view) => Answer::Exit(Box::new(view)),
                None => Answer::Failed(Problem { error: no_exit(&name) }),
            },
            Query::Losses => Answer::Losses(self.controller.losses(now)),
            Query::Changes => Answer::Changes(Changes { changes: self.controller.changes() }),
            Query::Approve { id } => self.judge(Order::Approve { id }),
            Query::Reject { id } => self.judge(Order::Reject { id }),
            Query::BgpPeers => Answer::BgpPeers(Box::new(self.bgp_peers(now))),
            Query::BgpOrder { peer, order } => self.bgp_order(&peer, order),
            Query::BgpRules => Answer::BgpRules(BgpRules { rules: self.controller.rules() }),
            Query::BgpRoutes { browse, peer } => self.bgp_routes(browse, peer),
            Query::BgpCandidates { prefix } => {
                Answer::BgpCandidates(Box::new(self.controller.candidates(prefix)))
            }
            Query::Record => Answer::Recording(Box::new(self.tap.view())),
            Query::RecordStart => self.record(true),
            Query::RecordStop => self.record(false),
            Query::Off => self.order(Order::Off),
            Query::On => self.order(Order::On),
            Query::Mode { mode, confirm } => self.command(now, Order::Mode { mode, confirm }),
            Query::ConfirmMode => match self.controller.orders().mode_until_ns {
                Some(_) => self.command(now, Order::Confirm),
                None => Answer::Missing(Problem { error: NO_TRIAL.to_owned() }),
            },
            Query::Drain { provider, span } => match self.controller.provider_named(&provider) {
                Some(provider) => {
                    self.command(now, Order::Drain { provider, until: span.map(|span| now + span) })
                }
                None => Answer::Missing(Problem { error: no_provider(&provider) }),
            },
            Query::Undrain { provider } => match self.controller.provider_named(&provider) {
                Some(provider) => self.command(now, Order::Undrain { provider }),
                None => Answer::Missing(Problem { error: no_provider(&provider) }),
            },
        };
        // A client that went away needs no answer.
        let _ = request.reply.send(answer);
    }

    /// A word of a person about queued changes.
    fn judge(&mut self, order: Order) -> Answer {
        let mut outcome = self.handle(Input::Order(order));
        let judged = std::mem::take(&mut outcome.judged);
        self.act(outcome);
        Answer::Judgement(Judgement { judged })
    }

    fn record(&mut self, on: bool) -> Answer {
        self.tap.switch(on);
        Answer::Recording(Box::new(self.tap.view()))
    }

    /// The kernel's switch first: it is what takes the effect away, at once.
    fn order(&mut self, order: Order) -> Answer {
        let ended = self.controller.override_count();
        let switched = match order {
            Order::Off => self.off.set().and_then(|()| self.expire()),
            Order::On => self.off.clear(),
            Order::Mode { mode, .. } if mode != Mode::Observe => {
                let (mark, mask) = self.identity.mark;
                self.lease.arm(mark, mask)
            }
            _ => Ok(()),
        };
        if let Err(error) = switched {
            return Answer::Failed(Problem { error: error.to_string() });
        }
        if order == Order::On {
            self.stance.send_modify(|stance| stance.on += 1);
        }
        self.feed(Input::Order(order));
        Answer::Ordered(Ordered {
            state: self.controller.state(),
            ended: ended.saturating_sub(self.controller.override_count()),
        })
    }

    /// An order that outlives the agent.
    fn command(&mut self, now: Timestamp, order: Order) -> Answer {
        if let failed @ Answer::Failed(_) = self.order(order) {
            return failed;
        }
        Answer::Commanded(Box::new(Commanded {
            state: self.controller.state(),
            mode: self.controller.mode(),
            at_ns: now,
            orders: self.controller.orders(),
            not_kept: None,
        }))
    }

    fn packets_local(&self) -> BTreeMap<String, u64> {
        let packets = |fate| self.local.read(fate).unwrap_or_default().packets;
        LocalFate::ALL.into_iter().map(|fate| (fate.as_str().to_owned(), packets(fate))).collect()
    }

    fn status(&self, now: Timestamp) -> Status {
        let Marked { plain, marked } = self.lease.marked().unwrap_or_default();
        Status {
            agent: AgentView {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started_ns: self.identity.started,
                lease_until_ns: self.stance.borrow().until(),
                switched_off: self.off.is_off().unwrap_or(false),
                packets_marked: marked.packets,
                packets_plain: plain.packets,
                packets_local: self.packets_local(),
                pin_root: self.identity.pin_root.clone(),
                privileges: self.identity.privileges.clone(),
                round_us: quantiles(&self.rounds),
                sample_us: *self.identity.sample_times.borrow(),
            },
            decision: self.controller.status(now),
            guardian: self.identity.guardian.as_ref().map(|guardian| guardian.borrow().clone()),
            peers: self.identity.peers.iter().map(|(_, status)| peer_view(status)).collect(),
        }
    }
}

impl Decider {
    pub(super) fn new(
        controller: Controller,
        (lease, off, local): (Lease, OffSwitch, LocalCounts),
        (decisions, learning): (watch::Sender<Arc<Decision>>, watch::Sender<bool>),
        (stance, adopt): Lifeline,
        (jobs, tap): (SyncSender<Job>, Tap),
        identity: Identity,
    ) -> Decider {
        Decider {
            standing: watch::Sender::new(controller.standing().clone()),
            acting: watch::Sender::new(controller.enforcing()),
            controller,
            lease,
            local,
            off,
            decisions,
            learning,
            jobs,
            identity,
            backlog: VecDeque::new(),
            next_job: None,
            rounds: histogram(),
            stance,
            adopt,
            tap,
        }
    }
}

fn peer_view(status: &watch::Receiver<PeerStatus>) -> serde_json::Value {
    serde_json::to_value(&*status.borrow()).unwrap_or(serde_json::Value::Null)
}

/// There is nothing to confirm.
const NO_TRIAL: &str =
    "no mode is on trial: it was confirmed, has fallen back already (`etm events`), or never was on trial";

fn no_provider(name: &str) -> String {
    format!("there is no provider named `{name}`; `etm providers` lists them")
}

fn no_exit(name: &str) -> String {
    format!("there is no exit and no interface named `{name}`; `etm providers` lists them")
}

fn log(event: &Event) {
    match event.kind.weight() {
        Weight::Warning => tracing::warn!(seq = event.seq, at_ns = event.at_ns.0, "{}", event.kind),
        Weight::Note => tracing::info!(seq = event.seq, at_ns = event.at_ns.0, "{}", event.kind),
    }
}

/// Number of an uplink by its place in the configuration.
pub(super) fn uplink_id(index: usize) -> UplinkId {
    UplinkId(u16::try_from(index).unwrap_or(u16::MAX))
}
