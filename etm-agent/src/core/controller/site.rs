//! What other programs did to what ETM keeps in the kernel, as adapters report it: said, counted, and where it takes the
//! effect away a reason to stand still. Never mends anything: adapters do.

use super::super::audit::EventKind;
use super::super::guard::Hold;
use super::super::input::SiteEvent;
use super::super::view::SiteView;
use super::Controller;
use crate::types::Timestamp;
use serde::{Deserialize, Serialize};

/// What is known of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Site {
    /// Why a rule of ETM's is missing and stays so.
    rule: Option<String>,
    /// Rules put back since the start.
    rules_put_back: u64,
}

impl Site {
    /// Reasons to stand still.
    pub(super) fn holds(&self) -> impl Iterator<Item = Hold> + '_ {
        self.rule.iter().map(|why| Hold::RuleMissing { why: why.clone() })
    }

    /// For operators.
    pub(super) fn view(&self) -> SiteView {
        SiteView { rules_put_back: self.rules_put_back }
    }
}

impl Controller {
    pub(super) fn site_event(&mut self, now: Timestamp, event: SiteEvent) {
        match event {
            SiteEvent::RulesPutBack(rules) => {
                self.site.rules_put_back += u64::try_from(rules).unwrap_or(u64::MAX);
                self.audit.push(now, EventKind::RulesPutBack { rules });
            }
            SiteEvent::RuleMissing(why) => self.site.rule = why,
        }
    }
}
