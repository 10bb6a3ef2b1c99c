//! The guardian's loop: connections, sessions, time and the kernel's switch are its events; what custody orders is done
//! at once. Everything it waits for is bounded, except for a reason to act.

mod reports;

use super::super::clock::boottime;
use super::super::error::{AgentError, ExitStatus};
use super::super::sessions::{self, Prepared, Session};
use super::Keeper;
use super::guarded::Guarded;
use super::sweep::Sweep;
use super::visitor::{News, Visitor, VisitorId, visit};
use crate::config::{KernelMode, Settings};
use crate::core::custody::{Custody, Epoch, LOOK, Orders, Refusal, Terms};
use crate::core::decision::Decision;
use crate::core::input::Input;
use crate::core::policy::Role;
use crate::datapath::OffSwitch;
use crate::guardian::{FromGuardian, Listener, Process, Refused, Report, SessionReport, ToGuardian};
use crate::types::bgp::SessionOrder;
use crate::types::{Generation, PeerId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Longest time for peers to take the last withdrawals.
const FAREWELL: Duration = Duration::from_secs(3);
/// Longest time for them where sessions stay.
const CONFIRM: Duration = Duration::from_secs(1);
/// A guardian that an agent started waits this long for another one.
const LINGER: Duration = Duration::from_secs(60);
/// Shortest patience with an agent that is silent beyond its lease.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// Why the loop ends.
enum End {
    /// Told to, by a signal or because nobody is left.
    Told,
    /// An agent ended in order and takes its guardian along.
    WithAgent(VisitorId),
    /// A session ended by itself.
    SessionLost,
}

/// An orderly end of an agent whose guardian stays: waits until peers know.
struct Parting {
    visitor: VisitorId,
    generation: Generation,
    deadline: Instant,
}

/// The guardian at its post.
pub(super) struct Post {
    keeper: Keeper,
    digest: u64,
    pin_root: PathBuf,
    listener: Listener,
    custody: Custody,
    told: watch::Sender<Arc<Decision>>,
    guarded: BTreeMap<PeerId, Guarded>,
    inputs: mpsc::Receiver<Input>,
    sessions: JoinSet<bool>,
    stop_sessions: watch::Sender<bool>,
    /// Connections to the socket, and those who wait for peers to connect.
    visits: JoinSet<()>,
    visitors: BTreeMap<VisitorId, Visitor>,
    last_id: u64,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    reports: watch::Sender<Report>,
    /// True once the agent that is listened to has decided.
    decided: bool,
    /// How often it said `On`.
    heard_on: u64,
    parting: Option<Parting>,
    end: Option<End>,
    /// Routes in the main table, where the configuration puts them there.
    sweep: Option<Sweep>,
    /// The switch as it was read last: what cannot be read at the moment has not changed.
    switch: bool,
    /// It could not be read; said once.
    blind: bool,
    reported: Instant,
}

impl Post {
    /// Prepares sessions; none is started.
    pub(super) fn take(settings: &Settings, keeper: Keeper, listener: Listener) -> Result<Post, AgentError> {
        let (inputs, received) = mpsc::channel(256);
        let (told, told_rx) = watch::channel(Arc::new(Decision::default()));
        let (stop_sessions, stop) = watch::channel(false);
        let Prepared { sessions: prepared, listeners } =
            sessions::of(settings, Role::Inject, &inputs, &told_rx, &stop)?;
        let (mut sessions, mut guarded) = (JoinSet::new(), BTreeMap::new());
        for Session { peer, name, status, orders, future } in prepared {
            let shown = status.borrow().clone();
            let report =
                SessionReport { status: shown, up: None, end_of_rib: Vec::new(), told: None, changed: 0 };
            guarded.insert(peer, Guarded { name, status, orders, acknowledged: None, report });
            sessions.spawn(future);
        }
        let mut visits = JoinSet::new();
        for listener in listeners {
            visits.spawn(listener);
        }
        let patience = settings.guardian.kill_hung.then_some(LEAST_PATIENCE.max(settings.kernel.lease / 2));
        let linger = (keeper == Keeper::Agent).then_some(LINGER);
        Ok(Post {
            keeper,
            digest: sessions::digest(settings),
            pin_root: settings.datapath.pin_root.clone(),
            listener,
            custody: Custody::new(Terms {
                lease: settings.kernel.lease,
                patience,
                adopt: settings.guardian.adopt,
                linger,
            }),
            told,
            guarded,
            inputs: received,
            sessions,
            stop_sessions,
            visits,
            visitors: BTreeMap::new(),
            last_id: 0,
            news: mpsc::channel(64),
            reports: watch::Sender::new(Report::default()),
            decided: false,
            heard_on: 0,
            parting: None,
            end: None,
            sweep: (settings.kernel.mode == KernelMode::Main)
                .then(|| Sweep::new(settings.kernel.protocol, boottime(), settings.kernel.lease)),
            switch: false,
            blind: false,
            reported: Instant::now(),
        })
    }

    /// Stays until told to end, then withdraws everything.
    pub(super) async fn keep(
        mut self,
        told_to_end: impl Future<Output = ()>,
    ) -> Result<ExitStatus, AgentError> {
        let mut told_to_end = std::pin::pin!(told_to_end);
        let mut next_look = Instant::now();
        let end = loop {
            if let Some(end) = self.end.take() {
                break end;
            }
            let lease_end = Instant::now() + self.custody.until().since(boottime());
            let wake = if lease_end > Instant::now() { next_look.min(lease_end) } else { next_look };
            tokio::select! {
                biased;
                () = &mut told_to_end => break End::Told,
                Some(news) = self.news.1.recv() => self.hear(news),
                Some(input) = self.inputs.recv() => self.note(input),
                Some(_) = self.sessions.join_next() => break End::SessionLost,
                Some(_) = self.visits.join_next(), if !self.visits.is_empty() => {}
                arrival = self.listener.accept() => match arrival {
                    Ok(arrival) => {
                        self.last_id += 1;
                        let (id, news) = (VisitorId(self.last_id), self.news.0.clone());
                        self.visits.spawn(visit(id, arrival, news, self.reports.subscribe()));
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: what is there goes on.
                        tracing::error!(%error, "a connection to the guardian could not be taken");
                        tokio::time::sleep(LOOK).await;
                    }
                },
                () = sleep_until(wake) => {
                    self.look();
                    if wake >= next_look {
                        next_look = Instant::now() + LOOK;
                    }
                }
            }
        };
        Ok(self.leave(end).await)
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Here(id, visitor) => {
                self.visitors.insert(id, visitor);
            }
            News::Gone(id) => {
                if let Some(epoch) = self.visitors.remove(&id).and_then(|visitor| visitor.epoch) {
                    tracing::warn!(
                        held = self.custody.told().announce.len(),
                        "the agent is gone; what it announced stays until its lease ends"
                    );
                    let orders = self.custody.leave(boottime(), epoch);
                    self.carry_out(orders);
                }
            }
            News::Said(id, said) => self.said(id, said),
        }
    }

    fn said(&mut self, id: VisitorId, said: ToGuardian) {
        let now = boottime();
        let epoch = self.visitors.get(&id).and_then(|visitor| visitor.epoch);
        // No connection has the number of no agent: what a stranger to custody says is refused by it.
        let speaker = epoch.unwrap_or_default();
        let result = match said {
            ToGuardian::Agent { digest, resume } => return self.join(id, digest, resume),
            ToGuardian::Off => {
                tracing::warn!("switched off by an operator");
                self.answer(id, FromGuardian::Done);
                Ok(self.custody.off(now))
            }
            ToGuardian::Forget => {
                self.answer(id, FromGuardian::Done);
                Ok(self.custody.forget(now))
            }
            ToGuardian::On => {
                let result = self.custody.on(now, speaker);
                self.heard_on += u64::from(result.is_ok());
                result
            }
            ToGuardian::Tenure(tenure) => self.custody.renew(now, speaker, tenure),
            ToGuardian::Change(change) => {
                let complete = change.complete;
                let result = self.custody.change(now, speaker, change.into());
                self.decided |= complete && result.is_ok();
                result
            }
            ToGuardian::Stop => return self.part(id, speaker),
            ToGuardian::Order { peer, order } => return self.order(epoch.is_some(), peer, order),
        };
        match result {
            Ok(orders) => self.carry_out(orders),
            Err(refusal) => self.disregard(id, refusal),
        }
    }

    fn join(&mut self, id: VisitorId, digest: u64, resume: Option<Epoch>) {
        if digest != self.digest {
            tracing::error!("an agent with other sessions is not listened to; restart the guardian");
            return self.refuse(id, Refused::OtherConfiguration);
        }
        let (joined, orders) = match self.custody.join(boottime(), resume) {
            Ok(joined) => joined,
            Err(refusal) => return self.disregard(id, refusal),
        };
        let Some(visitor) = self.visitors.get_mut(&id) else { return };
        visitor.epoch = Some(joined.epoch);
        let (pid, held) = (visitor.pid, joined.held);
        if visitor.process.is_none() {
            tracing::warn!(
                pid,
                "the agent's process is not to be seen from here; it is not ended if it hangs"
            );
        }
        tracing::info!(pid, held, "an agent is listened to");
        (self.decided, self.heard_on) = (false, 0);
        for session in self.guarded.values_mut() {
            (session.report.told, session.report.changed) = (None, 0);
        }
        self.answer(id, FromGuardian::Joined(joined));
        self.carry_out(orders);
        self.publish();
    }

    /// Only the agent that is listened to speaks for operators here: others have its control socket.
    fn order(&self, heard: bool, peer: PeerId, order: SessionOrder) {
        match self.guarded.get(&peer).filter(|_| heard) {
            Some(session) => session.obey(order),
            None => {
                tracing::warn!(%order, "an order for a session is not obeyed: it came from nobody, or for none");
            }
        }
    }

    /// An agent ends in order.
    fn part(&mut self, id: VisitorId, epoch: Epoch) {
        match self.custody.stop(boottime(), epoch) {
            Err(refusal) => self.disregard(id, refusal),
            Ok(orders) => {
                if let Some(visitor) = self.visitors.get_mut(&id) {
                    visitor.epoch = None;
                }
                self.carry_out(orders);
                tracing::info!("the agent ends; everything is withdrawn");
                match self.keeper {
                    Keeper::Agent => self.end = Some(End::WithAgent(id)),
                    Keeper::System => {
                        let generation = self.custody.told().generation;
                        let deadline = Instant::now() + CONFIRM;
                        self.parting = Some(Parting { visitor: id, generation, deadline });
                        self.confirm();
                    }
                }
            }
        }
    }

    fn disregard(&mut self, id: VisitorId, refusal: Refusal) {
        tracing::warn!(%refusal, "an agent is not listened to");
        let refused = match refusal {
            Refusal::Superseded => Refused::Superseded,
            Refusal::NoBase { .. } => Refused::Unfounded(refusal.to_string()),
        };
        self.refuse(id, refused);
    }

    fn refuse(&mut self, id: VisitorId, refused: Refused) {
        self.answer(id, FromGuardian::Refused(refused));
        if let Some(epoch) = self.visitors.remove(&id).and_then(|visitor| visitor.epoch) {
            let orders = self.custody.leave(boottime(), epoch);
            self.carry_out(orders);
        }
    }

    fn answer(&mut self, id: VisitorId, answer: FromGuardian) {
        let sent = self.visitors.get(&id).is_none_or(|visitor| visitor.answers.try_send(answer).is_ok());
        if !sent {
            // Four answers it has not read: it has no more to say either.
            self.visitors.remove(&id);
        }
    }

    fn carry_out(&mut self, orders: Orders) {
        self.sweep_routes();
        if let Some(decision) = orders.tell {
            if decision.announce.is_empty() && !self.told.borrow().announce.is_empty() {
                tracing::warn!(until = %self.custody.until(), off = self.custody.is_off(), "everything is withdrawn");
            }
            self.told.send_replace(decision);
        }
        if let Some(takeover) = orders.takeover {
            let (kept, changed) = (takeover.kept, takeover.changed);
            tracing::info!(kept, changed, "the agent decided for the first time");
        }
        if let Some(id) = orders.dismiss.and_then(|epoch| self.of_epoch(epoch)) {
            self.answer(id, FromGuardian::Refused(Refused::Superseded));
            self.visitors.remove(&id);
        }
        if let Some(epoch) = orders.kill {
            self.kill(epoch);
        }
        if orders.end {
            tracing::info!("no agent for {} s: the guardian ends", LINGER.as_secs());
            self.end = Some(End::Told);
        }
    }

    /// Whatever changed what may be announced changed what may stand in the kernel.
    fn sweep_routes(&mut self) {
        let now = boottime();
        let may_stand = self.custody.until() > now && !self.custody.is_off();
        if let Some(work) = self.sweep.as_mut().and_then(|sweep| sweep.look(now, may_stand)) {
            self.visits.spawn(work);
        }
    }

    fn of_epoch(&self, epoch: Epoch) -> Option<VisitorId> {
        self.visitors.iter().find(|(_, visitor)| visitor.epoch == Some(epoch)).map(|(id, _)| *id)
    }

    fn kill(&self, epoch: Epoch) {
        let visitor = self.visitors.values().find(|visitor| visitor.epoch == Some(epoch));
        let Some(visitor) = visitor else { return };
        let pid = visitor.pid;
        match visitor.process.as_ref().map(Process::kill) {
            Some(Ok(())) => tracing::error!(pid, "the agent hung: its lease is over and it lived on; killed"),
            Some(Err(error)) => tracing::error!(%error, pid, "the agent hangs and cannot be killed"),
            None => tracing::error!(pid, "the agent hangs, and its process is not to be seen from here"),
        }
    }

    fn look(&mut self) {
        let switch_off = self.switch_is_off();
        let orders = self.custody.look(boottime(), switch_off);
        self.carry_out(orders);
        self.confirm();
        self.publish();
    }

    /// The kernel's switch by its pin, opened anew each time: the maps may have been made anew.
    fn switch_is_off(&mut self) -> bool {
        let read = OffSwitch::open(&self.pin_root)
            .and_then(|switch| switch.map_or(Ok(false), |switch| switch.is_off()));
        match read {
            Ok(off) => self.switch = off,
            Err(error) => {
                if !std::mem::replace(&mut self.blind, true) {
                    // Kernels before 5.19 refuse without CAP_BPF; `etm off` says it on the socket too.
                    tracing::warn!(%error, "the kernel's switch cannot be read from here; off comes by the socket only");
                }
            }
        }
        self.switch
    }

    /// Withdraws, waits until peers know, closes the sessions, answers whoever waits for it.
    async fn leave(mut self, end: End) -> ExitStatus {
        let begun = Instant::now();
        let orders = self.custody.abandon(boottime());
        self.carry_out(orders);
        self.stop_sessions.send_replace(true);
        if let Some(sweep) = &self.sweep {
            sweep.finish().await;
        }
        let deadline = Instant::now() + FAREWELL;
        let mut confirmed = true;
        loop {
            match timeout_at(deadline, self.sessions.join_next()).await {
                Ok(Some(ended)) => confirmed &= ended.unwrap_or(false),
                Ok(None) => break,
                Err(_) => {
                    confirmed = false;
                    break;
                }
            }
        }
        let names: Vec<&str> = self.guarded.values().map(|session| session.name.as_str()).collect();
        let ms = begun.elapsed().as_millis();
        tracing::info!(ms, confirmed, sessions = names.join(", "), "guardian ends; everything is withdrawn");
        if let End::WithAgent(id) = end {
            self.answer(id, FromGuardian::Stopped { confirmed });
        }
        self.visitors.clear();
        drop(self.news);
        // Answers are written; who does not read them is not waited for.
        let _ = timeout(LOOK, async { while self.visits.join_next().await.is_some() {} }).await;
        match end {
            End::SessionLost => ExitStatus::Failed,
            End::Told | End::WithAgent(_) if confirmed => ExitStatus::Done,
            End::Told | End::WithAgent(_) => ExitStatus::Unconfirmed,
        }
    }
}
