//! What operators ordered at run time and what stands until they say otherwise: mode, trial of a mode, drained
//! providers, a leak. Never acts: it remembers, and says what has run out.

use super::policy::Mode;
use crate::types::{ProviderId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A provider that is to be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Since when.
    pub since: Timestamp,
    /// Until when; none until an operator says so.
    pub until: Option<Timestamp>,
}

/// A mode that ends by itself unless it is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// When it ends.
    pub until: Timestamp,
    /// The mode after that.
    pub back: Mode,
}

/// An announcement of ETM's own that came back from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// When it was seen first.
    pub at: Timestamp,
    /// Where and what.
    pub what: String,
}

/// What must survive a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The mode that an operator ordered for good; none where the configuration says.
    pub mode: Option<Mode>,
    /// Drained providers.
    pub drains: BTreeMap<ProviderId, Drain>,
    /// The leak that nobody has answered yet.
    pub leak: Option<Leak>,
    /// Switched off, until somebody says `on`.
    pub off: bool,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controls {
    standing: Standing,
    trial: Option<Trial>,
}

impl Controls {
    /// As an earlier run left it.
    pub fn with(standing: Standing) -> Controls {
        Controls { standing, trial: None }
    }

    /// What must survive a restart. During a trial that is the mode before it: a restart falls back.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The trial under way.
    pub fn trial(&self) -> Option<Trial> {
        self.trial
    }

    /// Remembers that an operator, or a leak, switched everything off, or that an operator switched it on.
    pub fn set_off(&mut self, off: bool) {
        self.standing.off = off;
    }

    /// A mode for good.
    pub fn set_mode(&mut self, mode: Mode) {
        (self.standing.mode, self.trial) = (Some(mode), None);
    }

    /// A mode until `until`; `now` is what holds at this moment. A trial of a trial falls back to what was before both.
    pub fn try_mode(&mut self, now: Mode, until: Timestamp) {
        let back = self.trial.map_or(now, |trial| trial.back);
        self.trial = Some(Trial { until, back });
    }

    /// The trial becomes the mode for good; false where there is none.
    pub fn confirm(&mut self, mode: Mode) -> bool {
        let tried = self.trial.is_some();
        if tried {
            self.set_mode(mode);
        }
        tried
    }

    /// The mode to fall back to, once, when a trial has run out.
    pub fn fall_back(&mut self, now: Timestamp) -> Option<Mode> {
        let trial = self.trial.filter(|trial| now >= trial.until)?;
        self.trial = None;
        Some(trial.back)
    }

    /// Begins to empty a provider, or changes until when.
    pub fn drain(&mut self, now: Timestamp, provider: ProviderId, until: Option<Timestamp>) {
        let since = self.standing.drains.get(&provider).map_or(now, |drain| drain.since);
        self.standing.drains.insert(provider, Drain { since, until });
    }

    /// Ends it; false where there was none.
    pub fn undrain(&mut self, provider: ProviderId) -> bool {
        self.standing.drains.remove(&provider).is_some()
    }

    /// Providers whose drain has run out, which are not drained any more.
    pub fn expired(&mut self, now: Timestamp) -> Vec<ProviderId> {
        let over = |drain: &Drain| drain.until.is_some_and(|until| now >= until);
        let ended: Vec<ProviderId> =
            self.standing.drains.iter().filter(|(_, drain)| over(drain)).map(|(id, _)| *id).collect();
        self.standing.drains.retain(|_, drain| !over(drain));
        ended
    }

    /// Drained providers.
    pub fn drains(&self) -> &BTreeMap<ProviderId, Drain> {
        &self.standing.drains
    }

    /// True where `provider` is to be emptied.
    pub fn is_drained(&self, provider: ProviderId) -> bool {
        self.standing.drains.contains_key(&provider)
    }

    /// Takes note of a leak; false where one is known.
    pub fn leaked(&mut self, leak: Leak) -> bool {
        let news = self.standing.leak.is_none();
        self.standing.leak.get_or_insert(leak);
        news
    }

    /// The leak that nobody has answered yet.
    pub fn leak(&self) -> Option<&Leak> {
        self.standing.leak.as_ref()
    }

    /// An operator answered it.
    pub fn answer_leak(&mut self) {
        self.standing.leak = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_falls_back_once_to_what_was_before_the_first() {
        let mut controls = Controls::default();
        controls.try_mode(Mode::Observe, Timestamp(10));
        controls.try_mode(Mode::Approve, Timestamp(20));
        assert_eq!(controls.fall_back(Timestamp(19)), None);
        assert_eq!(controls.standing().mode, None, "a restart falls back too");
        assert_eq!(controls.fall_back(Timestamp(20)), Some(Mode::Observe));
        assert_eq!(controls.fall_back(Timestamp(21)), None);
    }

    #[test]
    fn a_confirmed_trial_stays_and_a_second_confirmation_is_none() {
        let mut controls = Controls::default();
        controls.try_mode(Mode::Observe, Timestamp(10));
        assert!(controls.confirm(Mode::Enforce));
        assert_eq!(controls.fall_back(Timestamp(99)), None);
        assert_eq!(controls.standing().mode, Some(Mode::Enforce));
        assert!(!controls.confirm(Mode::Enforce));
    }

    #[test]
    fn a_drain_ends_by_itself_or_when_told() {
        let mut controls = Controls::default();
        controls.drain(Timestamp(1), ProviderId(0), Some(Timestamp(5)));
        controls.drain(Timestamp(1), ProviderId(1), None);
        controls.drain(Timestamp(2), ProviderId(0), Some(Timestamp(9)));
        assert_eq!(controls.drains()[&ProviderId(0)].since, Timestamp(1));
        assert!(controls.expired(Timestamp(8)).is_empty());
        assert_eq!(controls.expired(Timestamp(9)), [ProviderId(0)]);
        assert!(controls.is_drained(ProviderId(1)) && !controls.is_drained(ProviderId(0)));
        assert!(controls.undrain(ProviderId(1)) && !controls.undrain(ProviderId(1)));
    }

    #[test]
    fn the_first_leak_is_kept_until_it_is_answered() {
        let mut controls = Controls::default();
        let leak = |what: &str| Leak { at: Timestamp(1), what: what.to_owned() };
        assert!(controls.leaked(leak("first")) && !controls.leaked(leak("second")));
        assert_eq!(controls.leak().map(|leak| leak.what.as_str()), Some("first"));
        controls.answer_leak();
        assert!(controls.leaked(leak("third")));
    }
}
