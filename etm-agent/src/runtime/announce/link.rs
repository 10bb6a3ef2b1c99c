//! One connection to the guardian: the newest decision and lease go out, sessions as they are come in.
//! Never queues decisions: what was not said yet is replaced by what is newer.

use super::Announcer;
use crate::control::schema::{GuardianState, GuardianView};
use crate::core::custody::{Epoch, Joined, LOOK, Tenure};
use crate::core::decision::Decision;
use crate::core::input::{Input, SessionChange, SessionEvent, Told};
use crate::guardian::{
    FromGuardian, Greeting, GuardianError, Refused, Report, SessionReport, Speaker, ToGuardian, Writer, parts,
};
use crate::runtime::decider::Directive;
use crate::types::bgp::SessionOrder;
use crate::types::{Generation, PeerId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};

/// A guardian that says nothing for this long hangs: it reports at least once a second.
const SILENCE: Duration = Duration::from_secs(4);
/// One that was told to withdraw everything and holds it still after so many looks hangs, too. It may cost peers a session,
/// which withdraws at once: what is wanted.
const HOLDING: u32 = 3;
/// Longest wait for it to say that peers know of our end.
const STOPPED: Duration = Duration::from_millis(4500);

/// How a connection ended, or did not begin.
#[derive(Debug)]
pub(super) enum Parted {
    /// None could be made.
    Unreached(GuardianError),
    /// It broke.
    Broken(GuardianError),
    /// The guardian does not listen.
    Refused(String),
    /// Another agent took our place: nothing of it may be touched.
    Superseded,
    /// The guardian was started with other sessions.
    OtherConfiguration,
    /// The guardian hangs.
    Silent,
    /// We ended in order.
    Stopped {
        /// Every established peer acknowledged the withdrawals.
        confirmed: bool,
    },
}

impl fmt::Display for Parted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Parted::Unreached(error) | Parted::Broken(error) => error.fmt(f),
            Parted::Refused(reason) => write!(f, "it refuses: {reason}"),
            Parted::Superseded => f.write_str("another agent has taken over"),
            Parted::OtherConfiguration => {
                f.write_str("it runs other sessions than this configuration names; restart it")
            }
            Parted::Silent => f.write_str("it hangs"),
            Parted::Stopped { .. } => f.write_str("it was stopped"),
        }
    }
}

impl From<Refused> for Parted {
    fn from(refused: Refused) -> Parted {
        match refused {
            Refused::Superseded => Parted::Superseded,
            Refused::OtherConfiguration => Parted::OtherConfiguration,
            Refused::Unfounded(reason) => Parted::Refused(reason),
        }
    }
}

/// A connection that was greeted.
pub(super) struct Link {
    greeting: Greeting,
    reader: crate::guardian::Reader,
    writer: Writer,
}

/// What was said and heard on one connection.
#[derive(Default)]
struct Memory {
    said: Option<Arc<Decision>>,
    tenure: Option<Tenure>,
    /// Operators' words `on` that are known, and how often this guardian was told so.
    on: u64,
    said_on: u64,
    /// The decision knows that somebody switched the guardian off.
    off: bool,
    /// Looks since it was told to withdraw everything, until it has.
    holding: Option<u32>,
    heard: BTreeMap<PeerId, SessionReport>,
}

impl Memory {
    /// Another look; false where it hangs.
    fn look(&mut self, held: usize) -> bool {
        let Some(looks) = &mut self.holding else { return true };
        *looks += 1;
        if held == 0 {
            self.holding = None;
        }
        self.holding.is_none_or(|looks| looks < HOLDING)
    }

    /// True where somebody switched the guardian off after everything that we told it.
    fn newly_off(&mut self, report: &Report, on: u64) -> bool {
        let current = report.heard_on == self.said_on && on == self.on;
        let news = current && report.ordered_off && !self.off;
        if current {
            self.off = report.ordered_off;
        }
        news
    }
}

impl Link {
    pub(super) fn new(Speaker { greeting, reader, writer }: Speaker) -> Link {
        Link { greeting, reader, writer }
    }

    /// Keeps the guardian told until the connection ends or we do.
    pub(super) async fn hold(self, announcer: &mut Announcer, epoch: &mut Option<Epoch>) -> Parted {
        let Link { greeting, mut reader, mut writer } = self;
        let (frames, mut heard) = mpsc::channel(16);
        // Reads on its own: half a frame must not be forgotten because something else happened.
        let reading = async {
            loop {
                let frame = reader.hear::<FromGuardian>().await;
                let broken = frame.is_err();
                if frames.send(frame).await.is_err() || broken {
                    return;
                }
            }
        };
        let talking = talk(&greeting, &mut writer, &mut heard, announcer, epoch);
        let parted = tokio::select! {
            biased;
            parted = talking => parted,
            () = async { reading.await; std::future::pending::<()>().await } => Parted::Silent,
        };
        match &parted {
            // One that lives for its agent is started anew; its sessions close with it, so peers withdraw at once.
            Parted::Silent if greeting.of_agent => end(&greeting, true),
            Parted::OtherConfiguration if greeting.of_agent => end(&greeting, false),
            _ => {}
        }
        parted
    }
}

fn end(greeting: &Greeting, at_once: bool) {
    let Some(process) = &greeting.process else { return };
    let result = if at_once { process.kill() } else { process.terminate() };
    match result {
        Ok(()) => tracing::warn!(pid = greeting.pid, at_once, "ended a guardian that is of no use"),
        Err(error) => {
            tracing::error!(%error, pid = greeting.pid, "a guardian that is of no use cannot be ended");
        }
    }
}

type Heard = mpsc::Receiver<Result<FromGuardian, GuardianError>>;

async fn talk(
    greeting: &Greeting,
    writer: &mut Writer,
    heard: &mut Heard,
    announcer: &mut Announcer,
    epoch: &mut Option<Epoch>,
) -> Parted {
    let mut memory = Memory { on: announcer.told_on, ..Memory::default() };
    if let Err(parted) = introduce(greeting, writer, heard, announcer, epoch).await {
        return parted;
    }
    // What was ordered while nobody was there to obey is not what anybody wants now.
    while announcer.orders.try_recv().is_ok() {}
    // Silence is counted in looks of our own life: a pause that stops both of us is nobody's fault.
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent = Duration::ZERO;
    loop {
        if let Err(parted) = tell(writer, announcer, &mut memory).await {
            return parted;
        }
        let wake = tokio::select! {
            biased;
            _ = announcer.stop.wait_for(|stop| *stop) => Wake::Stop,
            changed = announcer.stance.changed() => changed.map_or(Wake::Stop, |()| Wake::News),
            changed = announcer.decisions.changed() => changed.map_or(Wake::Stop, |()| Wake::News),
            Some((peer, order)) = announcer.orders.recv() => Wake::Ordered(peer, order),
            frame = heard.recv() => Wake::Heard(frame),
            _ = looks.tick() => Wake::Look,
        };
        let frame = match wake {
            Wake::Ordered(peer, order) => match say(writer, &ToGuardian::Order { peer, order }).await {
                Ok(()) => continue,
                Err(parted) => return parted,
            },
            Wake::Stop => return stop(writer, heard).await,
            Wake::News => continue,
            Wake::Look if silent >= SILENCE => return Parted::Silent,
            Wake::Look => {
                silent += LOOK;
                let held = announcer.shown.borrow().held;
                if greeting.of_agent && !memory.look(held) {
                    return Parted::Silent;
                }
                continue;
            }
            Wake::Heard(frame) => frame,
        };
        silent = Duration::ZERO;
        match frame {
            Some(Ok(FromGuardian::Report(report))) => take(report, greeting, announcer, &mut memory).await,
            Some(Ok(FromGuardian::Refused(refused))) => return refused.into(),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Parted::Broken(error),
            None => return Parted::Silent,
        }
    }
}

/// Why the conversation goes on.
enum Wake {
    Stop,
    News,
    Look,
    Ordered(PeerId, SessionOrder),
    Heard(Option<Result<FromGuardian, GuardianError>>),
}

/// Who we are, and what we find.
async fn introduce(
    greeting: &Greeting,
    writer: &mut Writer,
    heard: &mut Heard,
    announcer: &Announcer,
    epoch: &mut Option<Epoch>,
) -> Result<(), Parted> {
    let hello = ToGuardian::Agent { digest: announcer.digest, resume: *epoch };
    say(writer, &hello).await?;
    let joined = match timeout(SILENCE, heard.recv()).await {
        Ok(Some(Ok(FromGuardian::Joined(joined)))) => joined,
        Ok(Some(Ok(FromGuardian::Refused(refused)))) => return Err(refused.into()),
        Ok(Some(Err(error))) => return Err(Parted::Broken(error)),
        Ok(Some(Ok(_)) | None) | Err(_) => return Err(Parted::Silent),
    };
    let Joined { epoch: number, held, keep_until, off } = joined;
    *epoch = Some(number);
    tracing::info!(pid = greeting.pid, held, off, "the guardian listens");
    announcer.adopt.send_replace(keep_until);
    announcer.shown.send_modify(|shown| {
        let (state, pid, of_agent) = (GuardianState::Guarding, Some(greeting.pid), greeting.of_agent);
        *shown = GuardianView { state, pid, of_agent, held, starts: shown.starts, ..GuardianView::default() };
    });
    let on = announcer.stance.borrow().on;
    // Somebody switched off while we were not there: so are we, until somebody says `on`. Who did so meanwhile is told next;
    // an agent that did not answer at `off` finds the kernel's switch turned.
    if off && on == announcer.told_on {
        let _ = announcer.directives.send(Directive::Off { on }).await;
    }
    Ok(())
}

/// Says whatever the guardian does not know yet. A lease that is given up goes first, one that is held goes last.
async fn tell(writer: &mut Writer, announcer: &mut Announcer, memory: &mut Memory) -> Result<(), Parted> {
    let stance = *announcer.stance.borrow_and_update();
    if stance.on != memory.on {
        (memory.on, memory.off) = (stance.on, false);
        memory.said_on += 1;
        say(writer, &ToGuardian::On).await?;
        // Not before: a word that is lost with the connection is said to the next guardian.
        announcer.told_on = stance.on;
    }
    let news = stance.tenure.filter(|tenure| Some(*tenure) != memory.tenure);
    if news == Some(Tenure::Released) {
        say(writer, &ToGuardian::Tenure(Tenure::Released)).await?;
        memory.holding = Some(0);
    }
    let decision = Arc::clone(&announcer.decisions.borrow_and_update());
    let known = |said: &Arc<Decision>| said.generation == decision.generation;
    // Number 0 is no decision yet.
    if decision.generation != Generation(0) && !memory.said.as_ref().is_some_and(known) {
        for part in parts(memory.said.as_deref(), &decision) {
            say(writer, &ToGuardian::Change(part)).await?;
        }
        memory.said = Some(decision);
    }
    if let Some(tenure @ Tenure::Held { .. }) = news {
        memory.holding = None;
        say(writer, &ToGuardian::Tenure(tenure)).await?;
    }
    if news.is_some() {
        memory.tenure = news;
    }
    Ok(())
}

async fn say(writer: &mut Writer, what: &ToGuardian) -> Result<(), Parted> {
    match timeout(SILENCE, writer.say(what)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Parted::Broken(error)),
        Err(_) => Err(Parted::Silent),
    }
}

async fn stop(writer: &mut Writer, heard: &mut Heard) -> Parted {
    if let Err(parted) = say(writer, &ToGuardian::Stop).await {
        return parted;
    }
    let answer = timeout(STOPPED, async {
        loop {
            match heard.recv().await {
                Some(Ok(FromGuardian::Stopped { confirmed })) => return confirmed,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    });
    Parted::Stopped { confirmed: answer.await.unwrap_or(false) }
}

/// Shows what the guardian reports, and tells the decision what changed.
async fn take(report: Report, greeting: &Greeting, announcer: &mut Announcer, memory: &mut Memory) {
    announcer.shown.send_modify(|shown| {
        (shown.held, shown.until_ns, shown.off) = (report.held, report.until, report.off);
        shown.pid = Some(greeting.pid);
    });
    let on = announcer.stance.borrow().on;
    if memory.newly_off(&report, on) {
        tracing::warn!("the guardian was switched off: so is this agent, until somebody says `on`");
        let _ = announcer.directives.send(Directive::Off { on }).await;
    }
    for session in report.sessions {
        let peer = session.status.peer;
        if let Some((_, status)) = announcer.peers.iter().find(|(number, _)| *number == peer) {
            status.send_replace(session.status.clone());
        }
        let before = memory.heard.insert(peer, session.clone());
        for input in news(before.as_ref(), &session) {
            // A decision that has ended needs to know nothing.
            drop(announcer.inputs.send(input).await);
        }
    }
}

/// What happened between two reports on one session.
fn news(before: Option<&SessionReport>, after: &SessionReport) -> Vec<Input> {
    let peer = after.status.peer;
    let event = |change| Input::Session(SessionEvent { peer, change });
    let mut news = Vec::new();
    let same = before
        .is_some_and(|before| before.status.established == after.status.established && before.up == after.up);
    let reason = |report: &SessionReport| report.status.last_fault.as_ref().map(|fault| fault.text.clone());
    let known_fault = before.is_some_and(|before| reason(before) == reason(after));
    match &after.up {
        Some(families) => {
            if !same {
                news.push(event(SessionChange::Up { families: families.clone() }));
            }
            let old = before.filter(|_| same).map_or(&[][..], |before| &before.end_of_rib);
            let fresh = after.end_of_rib.iter().filter(|family| !old.contains(family));
            news.extend(fresh.map(|family| event(SessionChange::EndOfRib(*family))));
        }
        None if !same || !known_fault => {
            let reason = reason(after).unwrap_or_else(|| "connecting".to_owned());
            news.push(event(SessionChange::Down { reason }));
        }
        None => {}
    }
    let old = before.and_then(|before| before.told);
    if let Some((generation, at)) = after.told.filter(|told| Some(*told) != old) {
        let changed = after.changed.saturating_sub(before.map_or(0, |before| before.changed));
        news.push(Input::Told(Told { peer, generation, at, changed }));
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::bgp::{LastFault, PeerStatus};
    use crate::types::{Asn, Family, Timestamp};

    fn report(established: u64, up: bool) -> SessionReport {
        let (remote, ases) = ("192.0.2.1:179".parse().unwrap(), (Asn(64500), Asn(64500)));
        let mut status = PeerStatus::new(PeerId(1), "core", remote, ases, "none", Timestamp(0));
        status.established = established;
        let up = up.then(|| vec![Family::V4]);
        SessionReport { status, up, end_of_rib: Vec::new(), told: None, changed: 0 }
    }

    fn words(inputs: &[Input]) -> Vec<String> {
        inputs
            .iter()
            .map(|input| match input {
                Input::Session(event) => match &event.change {
                    SessionChange::Up { .. } => "up".to_owned(),
                    SessionChange::Down { reason } => format!("down: {reason}"),
                    SessionChange::EndOfRib(family) => format!("end of rib {family:?}"),
                    other @ (SessionChange::Retained { .. }
                    | SessionChange::Refreshing(_)
                    | SessionChange::Ordered { .. }
                    | SessionChange::Sweep(_)) => panic!("{other:?}"),
                },
                Input::Told(told) => format!("told {} of {}", told.changed, told.generation),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_happened_between_two_reports() {
        let told = |generation, changed, of: SessionReport| SessionReport {
            told: Some((Generation(generation), Timestamp(generation))),
            changed,
            ..of
        };
        let failed = |mut of: SessionReport| {
            let (at, text) = (Timestamp(1), "refused".to_owned());
            of.status.last_fault = Some(LastFault { at, text, permanent: false });
            of
        };
        let end = |of: SessionReport| SessionReport { end_of_rib: vec![Family::V4], ..of };
        let cases: [(&str, Option<SessionReport>, SessionReport, &[&str]); 8] = [
            ("a first report of a session that is up", None, end(report(3, true)), &["up", "end of rib V4"]),
            ("a first report of one that is not", None, report(0, false), &["down: connecting"]),
            ("nothing", Some(report(1, true)), report(1, true), &[]),
            ("a fault", Some(report(1, true)), failed(report(1, false)), &["down: refused"]),
            ("another attempt", Some(failed(report(1, false))), failed(report(1, false)), &[]),
            ("down and up again between two reports", Some(report(1, true)), report(2, true), &["up"]),
            ("End-of-RIB", Some(report(1, true)), end(report(1, true)), &["end of rib V4"]),
            (
                "two decisions acknowledged",
                Some(told(4, 10, report(1, true))),
                told(6, 25, report(1, true)),
                &["told 15 of 6"],
            ),
        ];
        for (title, before, after, expected) in cases {
            assert_eq!(words(&news(before.as_ref(), &after)), expected, "{title}");
        }
    }
}
