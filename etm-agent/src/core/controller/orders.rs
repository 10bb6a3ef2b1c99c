//! What operators order at run time: off and on, another mode, drains. Never carries anything out in the world.

use super::super::audit::{EndReason, EventKind};
use super::super::controls::{Controls, Standing};
use super::super::input::Order;
use super::super::policy::Mode;
use super::Controller;
use crate::types::{ProviderId, Timestamp};
use std::time::Duration;

impl Controller {
    /// The same, going on with what operators ordered in an earlier run. Its mode is in the policy already.
    #[must_use]
    pub fn standing_by(mut self, standing: Standing) -> Controller {
        // A leak that nobody answered keeps everything withdrawn, also where the kernel's switch was lost.
        self.off |= standing.leak.is_some() || standing.off;
        if self.off {
            self.inherited = None;
        }
        self.controls = Controls::with(standing);
        self.controls.set_off(self.off);
        self
    }

    /// What must survive a restart.
    pub fn standing(&self) -> &Standing {
        self.controls.standing()
    }

    /// The mode as it is now.
    pub fn mode(&self) -> Mode {
        self.policy.mode
    }

    /// The provider of this name.
    pub fn provider_named(&self, name: &str) -> Option<ProviderId> {
        let at = self.policy.providers.iter().position(|provider| provider.name == name)?;
        u16::try_from(at).ok().map(ProviderId)
    }

    pub(super) fn provider_name(&self, provider: ProviderId) -> String {
        self.policy.providers.get(provider.index()).map_or_else(String::new, |provider| provider.name.clone())
    }

    pub(super) fn order(&mut self, now: Timestamp, order: Order) {
        match order {
            Order::Off if !self.off => {
                self.off = true;
                self.controls.set_off(true);
                self.end_everything(now, EventKind::SwitchedOff, EndReason::SwitchedOff);
            }
            Order::On if self.off => {
                self.off = false;
                self.controls.set_off(false);
                self.controls.answer_leak();
                self.confirmations.forget_all();
                self.audit.push(now, EventKind::SwitchedOn);
                self.changed = true;
            }
            Order::Stop if !self.stopping => {
                self.stopping = true;
                self.end_everything(now, EventKind::Stopping, EndReason::Stopping);
            }
            Order::Mode { mode, confirm } => self.order_mode(now, mode, confirm),
            Order::Confirm => {
                let mode = self.policy.mode;
                if self.controls.confirm(mode) {
                    self.audit.push(now, EventKind::ModeConfirmed { mode });
                }
            }
            Order::Drain { provider, until } => {
                self.controls.drain(now, provider, until);
                let provider = self.provider_name(provider);
                let for_s = until.map(|until| until.since(now).as_secs());
                self.audit.push(now, EventKind::Drained { provider, for_s });
            }
            Order::Undrain { provider } => {
                if self.controls.undrain(provider) {
                    let provider = self.provider_name(provider);
                    self.audit.push(now, EventKind::Undrained { provider, expired: false });
                }
            }
            Order::Off | Order::On | Order::Stop | Order::Approve { .. } | Order::Reject { .. } => {}
        }
    }

    pub(super) fn end_everything(&mut self, now: Timestamp, event: EventKind, why: EndReason) {
        self.audit.push(now, event);
        self.changed = true;
        for entry in self.overrides.end_all() {
            self.ended(now, &entry, why);
        }
        // What an earlier run left must go too, though no decision of this run made it.
        self.inherited = None;
        self.drop_changes(now);
    }

    fn order_mode(&mut self, now: Timestamp, mode: Mode, confirm: Option<Duration>) {
        let from = self.policy.mode;
        match confirm {
            Some(span) => self.controls.try_mode(from, now + span),
            None => self.controls.set_mode(mode),
        }
        let confirm_s = confirm.map(|span| span.as_secs());
        self.switch_mode(now, mode, EventKind::ModeChanged { from, to: mode, confirm_s });
    }

    /// Between observing and acting everything is decided anew: what was planned under no cap on change must not happen at
    /// once, and what was in effect must end.
    fn switch_mode(&mut self, now: Timestamp, mode: Mode, event: EventKind) {
        let from = std::mem::replace(&mut self.policy.mode, mode);
        let acts = |mode: Mode| mode != Mode::Observe;
        if acts(from) == acts(mode) {
            self.audit.push(now, event);
            if mode != Mode::Approve {
                self.drop_changes(now);
            }
        } else {
            self.end_everything(now, event, EndReason::ModeChanged);
            self.confirmations.forget_all();
            self.recent.clear();
        }
    }

    /// Ends what was ordered for a time: trials of a mode, drains.
    pub(super) fn run_out(&mut self, now: Timestamp) {
        if let Some(to) = self.controls.fall_back(now) {
            let from = self.policy.mode;
            self.switch_mode(now, to, EventKind::ModeFellBack { from, to });
        }
        for provider in self.controls.expired(now) {
            let provider = self.provider_name(provider);
            self.audit.push(now, EventKind::Undrained { provider, expired: true });
        }
    }
}
