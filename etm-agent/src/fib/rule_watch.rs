//! Puts ETM's routing rule back where another program removes it while ETM acts: without it no override has an effect.
//! Never fights: who removes it again and again is left to have it so, and operators are told.

use crate::core::input::SiteEvent;
use crate::fib::OwnTable;
use crate::fib::error::FibError;
use crate::fib::rules::{MarkRule, ensure_rules, missing_rules};
use crate::fib::socket::{self, Endpoint};
use crate::fib::wire::Messages;
use crate::types::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;

/// How often within `SPAN` the rule is put back.
const RETURNS: usize = 3;
const SPAN: Duration = Duration::from_secs(60);

/// Follows the rules of this network namespace.
#[derive(Debug)]
pub struct RuleWatch {
    own: OwnTable,
    rule: MarkRule,
    notifications: Endpoint,
    /// When it was put back lately.
    returns: VecDeque<Timestamp>,
    /// Why it is not put back any more.
    given_up: Option<GivenUp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum GivenUp {
    /// Somebody removes it again and again.
    Contested,
    /// Somebody else's rule is in its place.
    Conflict(String),
}

impl GivenUp {
    fn text(&self) -> String {
        match self {
            GivenUp::Contested => format!(
                "another program removed it {} times within {} s; stop that program from flushing rules",
                RETURNS + 1,
                SPAN.as_secs()
            ),
            GivenUp::Conflict(why) => why.clone(),
        }
    }
}

impl RuleWatch {
    /// Subscribes; nothing that happens afterwards is missed.
    pub fn open(own: OwnTable, rule: MarkRule) -> Result<RuleWatch, FibError> {
        let notifications = Endpoint::subscribe(&[socket::GROUP_IPV4_RULE, socket::GROUP_IPV6_RULE])?;
        Ok(RuleWatch { own, rule, notifications, returns: VecDeque::new(), given_up: None })
    }

    /// Looks after the rule while `acting`, until `shutdown` or until nobody listens.
    pub async fn run(
        mut self,
        mut acting: watch::Receiver<bool>,
        events: mpsc::Sender<SiteEvent>,
        clock: fn() -> Timestamp,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), FibError> {
        let mut told = None;
        loop {
            let acts = *acting.borrow_and_update();
            let put_back = if acts { self.look(clock()).await? } else { self.forget() };
            if put_back > 0 && events.send(SiteEvent::RulesPutBack(put_back)).await.is_err() {
                return Ok(());
            }
            if told != self.given_up {
                told.clone_from(&self.given_up);
                let why = told.as_ref().map(GivenUp::text);
                if events.send(SiteEvent::RuleMissing(why)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = super::stopped(&mut shutdown) => return Ok(()),
                changed = acting.changed() => if changed.is_err() { return Ok(()) },
                changed = rules_changed(&mut self.notifications) => changed?,
            }
        }
    }

    /// Without effect there is nothing to look after, and what comes next begins anew.
    fn forget(&mut self) -> usize {
        self.returns.clear();
        self.given_up = None;
        0
    }

    /// Puts the rule back where it is missing, if that is still tried. Returns how many were missing and are there again.
    async fn look(&mut self, now: Timestamp) -> Result<usize, FibError> {
        if missing_rules(self.own, self.rule).await? == 0 {
            self.given_up = None;
            return Ok(0);
        }
        if !self.tries(now) {
            self.given_up = Some(GivenUp::Contested);
            return Ok(0);
        }
        match ensure_rules(self.own, self.rule).await {
            Ok(0) => Ok(0),
            Ok(added) => {
                self.given_up = None;
                self.returns.push_back(now);
                Ok(added)
            }
            Err(conflict @ FibError::RuleConflict { .. }) => {
                self.given_up = Some(GivenUp::Conflict(conflict.to_string()));
                Ok(0)
            }
            // Somebody was faster than this; if not, its notification follows.
            Err(FibError::Library { source, .. }) if is_there(&source) => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn tries(&mut self, now: Timestamp) -> bool {
        while self.returns.front().is_some_and(|at| now.since(*at) > SPAN) {
            self.returns.pop_front();
        }
        self.given_up != Some(GivenUp::Contested) && self.returns.len() < RETURNS
    }
}

fn is_there(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(error) if error.raw_code() == -libc::EEXIST)
}

/// Returns once rules were made or removed; one look answers all that is waiting.
async fn rules_changed(notifications: &mut Endpoint) -> Result<(), FibError> {
    loop {
        match notifications.receive().await {
            Err(FibError::Overrun) => break,
            datagram => {
                let mut messages = Messages(datagram?);
                if messages.any(|message| matches!(message.kind, RTM_NEWRULE | RTM_DELRULE)) {
                    break;
                }
            }
        }
    }
    loop {
        match notifications.try_receive() {
            Ok(None) => return Ok(()),
            Ok(Some(_)) | Err(FibError::Overrun) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_rule_is_put_back_three_times_a_minute_and_no_more_until_etm_is_switched() {
        let rule = MarkRule { mark: 1, mask: 1, priority: 1790 };
        let mut watch = RuleWatch::open(OwnTable::default(), rule).unwrap();
        let at = |seconds: u64| Timestamp(seconds * 1_000_000_000);
        for second in [100, 110, 120] {
            assert!(watch.tries(at(second)));
            watch.returns.push_back(at(second));
        }
        assert!(!watch.tries(at(150)));
        assert!(watch.tries(at(161)), "the first is more than a minute ago");
        watch.given_up = Some(GivenUp::Contested);
        assert!(!watch.tries(at(1000)), "who gave up does not begin again by itself");
        watch.forget();
        assert!(watch.tries(at(150)));
    }
}
