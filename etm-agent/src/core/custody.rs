//! What may stay announced when the agent may be dead: its last decision, for as long as its lease, and no longer.
//!
//! The guardian process drives this with what it hears and with time; what comes back is what sessions are to be told
//! and which agent is to be ended. Never announces what no agent decided, and never listens to an agent that another
//! one has followed.

use super::decision::{Announcement, Decision};
use crate::types::{Generation, Prefix, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longest time between two looks at the clock: a paused machine does not advance timers, but it does this clock.
pub const LOOK: Duration = Duration::from_millis(250);

/// What the guardian was configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The longest lease taken from an agent, from the moment it is heard: one that names a later end, for a clock that
    /// jumped or memory gone bad, must not keep what it said for longer.
    pub lease: Duration,
    /// An agent that holds a lease and does not renew it is ended this long after it ran out; none lets it be.
    /// Counted in looks: a machine that was paused gives its agent this time after it wakes up.
    pub patience: Option<Duration>,
    /// How long a restarted agent may keep what it found, beyond the last lease of an agent that had decided.
    pub adopt: Duration,
    /// Without an agent and without a lease the guardian ends after this time; none lets it wait for ever.
    pub linger: Option<Duration>,
}

/// What an agent says about its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tenure {
    /// It holds none: nothing may be announced.
    Released,
    /// It holds one.
    Held {
        /// Its end (CLOCK_BOOTTIME).
        until: Timestamp,
        /// False while it has not decided itself: then it vouches for what an earlier run announced.
        decided: bool,
    },
}

/// One connection of an agent; a later one has a higher number, also across guardians (it is the time of its beginning).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// What an agent finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Its number.
    pub epoch: Epoch,
    /// Routes that are announced and stay so while the lease lasts.
    pub held: usize,
    /// Until when they may be kept without a decision; zero where nothing is held.
    pub keep_until: Timestamp,
    /// An operator switched off while no agent listened. The kernel's switch an agent reads itself, and later than we did.
    pub off: bool,
}

/// Part of a new desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// True where it begins with nothing, false where it builds on the state before.
    pub fresh: bool,
    /// The decision that it leads to.
    pub generation: Generation,
    /// Not to be announced any more.
    pub withdrawn: Vec<Prefix>,
    /// To be announced.
    pub announced: Vec<(Prefix, Announcement)>,
    /// False where more of the same decision follows.
    pub complete: bool,
}

/// Why an agent is not listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A later one is there.
    #[error("another agent has taken over since; this one has nothing to say any more")]
    Superseded,
    /// It changes a state it never told.
    #[error("a change of decision {generation} came before any whole decision")]
    NoBase {
        /// The decision.
        generation: Generation,
    },
}

/// The first decision of an agent against what was announced before it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Routes that stay as they are.
    pub kept: usize,
    /// Routes that change, come or go.
    pub changed: usize,
}

/// What follows from an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Sessions are to be told this.
    pub tell: Option<Arc<Decision>>,
    /// End this agent: its lease is over and it does not say why.
    pub kill: Option<Epoch>,
    /// Close this agent's connection: another has taken its place.
    pub dismiss: Option<Epoch>,
    /// A new agent decided for the first time.
    pub takeover: Option<Takeover>,
    /// Nobody is left to guard for.
    pub end: bool,
}

/// The agent that is listened to.
#[derive(Clone, Debug)]
struct Tenant {
    epoch: Epoch,
    tenure: Option<Tenure>,
    /// What it decided, as far as it was received.
    draft: BTreeMap<Prefix, Announcement>,
    /// True once `draft` began with a fresh part.
    begun: bool,
    /// True once it told a whole decision.
    decided: bool,
    /// How long it has been silent beyond its lease, in looks.
    silent: Duration,
    killed: bool,
}

/// The guardian's whole state.
#[derive(Clone, Debug)]
pub struct Custody {
    terms: Terms,
    epoch: Epoch,
    tenant: Option<Tenant>,
    wanted: Arc<Decision>,
    until: Timestamp,
    /// End of the last lease of an agent that had decided.
    decided_until: Timestamp,
    off: bool,
    switch_off: bool,
    told: Arc<Decision>,
    last_look: Option<Timestamp>,
    alone: Duration,
}

impl Custody {
    /// A guardian that holds nothing.
    pub fn new(terms: Terms) -> Custody {
        Custody {
            terms,
            epoch: Epoch::default(),
            tenant: None,
            wanted: Arc::default(),
            until: Timestamp(0),
            decided_until: Timestamp(0),
            off: false,
            switch_off: false,
            told: Arc::default(),
            last_look: None,
            alone: Duration::ZERO,
        }
    }

    /// An agent connects. `resume` is the number it had before, which tells whether another one followed it.
    pub fn join(&mut self, now: Timestamp, resume: Option<Epoch>) -> Result<(Joined, Orders), Refusal> {
        if resume.is_some_and(|mine| mine < self.epoch) {
            return Err(Refusal::Superseded);
        }
        let before = self.tenant.take();
        self.epoch = Epoch(now.0.max(self.epoch.0 + 1));
        self.alone = Duration::ZERO;
        let mut orders = self.settle(now);
        orders.dismiss = before.map(|tenant| tenant.epoch);
        self.tenant = Some(Tenant {
            epoch: self.epoch,
            tenure: None,
            draft: BTreeMap::new(),
            begun: false,
            decided: false,
            silent: Duration::ZERO,
            killed: false,
        });
        let held = self.told.announce.len();
        let keep_until = if held > 0 { self.decided_until + self.terms.adopt } else { Timestamp(0) };
        Ok((Joined { epoch: self.epoch, held, keep_until, off: self.off }, orders))
    }

    /// The connection of an agent is gone.
    pub fn leave(&mut self, now: Timestamp, epoch: Epoch) -> Orders {
        if self.tenant.as_ref().is_some_and(|tenant| tenant.epoch == epoch) {
            self.tenant = None;
        }
        self.settle(now)
    }

    /// An agent says what should be announced.
    pub fn change(&mut self, now: Timestamp, epoch: Epoch, change: Change) -> Result<Orders, Refusal> {
        let before = Arc::clone(&self.told);
        let tenant = self.tenant(epoch)?;
        if change.fresh {
            tenant.draft.clear();
            tenant.begun = true;
        } else if !tenant.begun {
            return Err(Refusal::NoBase { generation: change.generation });
        }
        for prefix in &change.withdrawn {
            tenant.draft.remove(prefix);
        }
        tenant.draft.extend(change.announced);
        if !change.complete {
            return Ok(Orders::default());
        }
        let first = !std::mem::replace(&mut tenant.decided, true);
        let announce = tenant.draft.clone();
        let takeover = first.then(|| takeover(&before.announce, &announce));
        let generation = change.generation;
        self.wanted = Arc::new(Decision { generation, at: now, announce, ..Decision::default() });
        Ok(Orders { takeover, ..self.settle(now) })
    }

    /// An agent renews its lease, or gives it up.
    pub fn renew(&mut self, now: Timestamp, epoch: Epoch, tenure: Tenure) -> Result<Orders, Refusal> {
        let keep_until = self.decided_until + self.terms.adopt;
        let before = self.until;
        let longest = now + self.terms.lease;
        let tenant = self.tenant(epoch)?;
        tenant.tenure = Some(tenure);
        tenant.silent = Duration::ZERO;
        match tenure {
            Tenure::Released => {
                (self.until, self.decided_until) = (Timestamp(0), Timestamp(0));
            }
            Tenure::Held { until, decided: true } => {
                let until = until.min(longest);
                (self.until, self.decided_until) = (until, until);
            }
            Tenure::Held { until, decided: false } => {
                self.until = until.min(longest).min(keep_until).max(before);
            }
        }
        Ok(self.settle(now))
    }

    /// An operator's order, from wherever it comes: nothing is announced until an agent says `on`.
    pub fn off(&mut self, now: Timestamp) -> Orders {
        self.off = true;
        self.settle(now)
    }

    /// The agent was told to act again.
    pub fn on(&mut self, now: Timestamp, epoch: Epoch) -> Result<Orders, Refusal> {
        self.tenant(epoch)?;
        self.off = false;
        Ok(self.settle(now))
    }

    /// The agent ends in order: nothing of it stays. The decision that says so has a number of its own, so that it can
    /// be told whether peers heard it.
    pub fn stop(&mut self, now: Timestamp, epoch: Epoch) -> Result<Orders, Refusal> {
        self.tenant(epoch)?;
        self.tenant = None;
        self.release();
        Ok(self.settle(now))
    }

    /// What an agent left is not wanted any more. Nothing happens while one is there, which says itself what it wants.
    pub fn forget(&mut self, now: Timestamp) -> Orders {
        if self.tenant.is_none() {
            self.release();
        }
        self.settle(now)
    }

    /// The guardian itself was told to end.
    pub fn abandon(&mut self, now: Timestamp) -> Orders {
        self.release();
        self.settle(now)
    }

    /// Time passes. `switch_off` is the kernel's switch as it is now.
    pub fn look(&mut self, now: Timestamp, switch_off: bool) -> Orders {
        self.switch_off = switch_off;
        let step = self.last_look.map_or(Duration::ZERO, |last| now.since(last)).min(2 * LOOK);
        self.last_look = Some(now);
        let mut orders = self.settle(now);
        let lapsed = self.until <= now;
        match &mut self.tenant {
            Some(tenant) => {
                let holds = matches!(tenant.tenure, Some(Tenure::Held { .. }));
                tenant.silent = if holds && lapsed { tenant.silent + step } else { Duration::ZERO };
                let hung = self.terms.patience.is_some_and(|patience| tenant.silent >= patience);
                if hung && !tenant.killed {
                    tenant.killed = true;
                    orders.kill = Some(tenant.epoch);
                }
            }
            None => self.alone = if lapsed { self.alone + step } else { Duration::ZERO },
        }
        orders.end = self.tenant.is_none() && self.terms.linger.is_some_and(|linger| self.alone >= linger);
        orders
    }

    /// What sessions are told at this moment.
    pub fn told(&self) -> &Arc<Decision> {
        &self.told
    }

    /// End of the lease; zero where none is held.
    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// True while an operator's order keeps everything withdrawn.
    pub fn is_off(&self) -> bool {
        self.off || self.switch_off
    }

    /// True while that order came to us, not by the kernel's switch.
    pub fn is_ordered_off(&self) -> bool {
        self.off
    }

    fn tenant(&mut self, epoch: Epoch) -> Result<&mut Tenant, Refusal> {
        self.tenant.as_mut().filter(|tenant| tenant.epoch == epoch).ok_or(Refusal::Superseded)
    }

    fn release(&mut self) {
        let generation = Generation(self.wanted.generation.0 + 1);
        self.wanted = Arc::new(Decision { generation, at: self.wanted.at, ..Decision::default() });
        (self.until, self.decided_until) = (Timestamp(0), Timestamp(0));
    }

    /// Brings what is told in line with what may be told.
    fn settle(&mut self, now: Timestamp) -> Orders {
        let lapsed = self.until <= now;
        if lapsed && self.tenant.is_none() && !self.wanted.announce.is_empty() {
            // Nobody is left who could stand for it.
            self.wanted = without_announcements(&self.wanted);
        }
        let next = if lapsed || self.is_off() {
            without_announcements(&self.wanted)
        } else {
            Arc::clone(&self.wanted)
        };
        let same = self.told.generation == next.generation && self.told.announce == next.announce;
        if same {
            return Orders::default();
        }
        self.told = Arc::clone(&next);
        Orders { tell: Some(next), ..Orders::default() }
    }
}

fn without_announcements(decision: &Decision) -> Arc<Decision> {
    Arc::new(Decision { generation: decision.generation, at: decision.at, ..Decision::default() })
}

fn takeover(before: &BTreeMap<Prefix, Announcement>, after: &BTreeMap<Prefix, Announcement>) -> Takeover {
    let kept = after.iter().filter(|(prefix, now)| before.get(prefix) == Some(now)).count();
    let gone = before.keys().filter(|prefix| !after.contains_key(prefix)).count();
    Takeover { kept, changed: after.len() - kept + gone }
}

#[cfg(test)]
mod tests;
