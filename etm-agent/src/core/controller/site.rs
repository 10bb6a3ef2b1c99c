//! What other programs did to what ETM keeps in the kernel, as adapters report it: said, counted, and where it takes the
//! effect away a reason to stand still. Never mends anything: adapters do.

use super::super::audit::EventKind;
use super::super::guard::Hold;
use super::super::input::{ForeignRoutes, SiteEvent};
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
    /// Routes of others in ETM's own table.
    foreign: Option<ForeignRoutes>,
    /// ETM's own routes that others changed, since the start.
    routes_touched: u64,
    /// Why acting would be refused now.
    refusals: Vec<String>,
}

impl Site {
    /// Why an order to act would be refused now; none where it would not.
    pub(super) fn refusals(&self) -> Option<String> {
        (!self.refusals.is_empty()).then(|| self.refusals.join("; "))
    }

    /// Reasons to stand still.
    pub(super) fn holds(&self) -> impl Iterator<Item = Hold> + '_ {
        let foreign = self.foreign.map(|ForeignRoutes { count, first, protocol }| Hold::ForeignRoutes {
            count,
            first,
            protocol,
        });
        foreign.into_iter().chain(self.rule.iter().map(|why| Hold::RuleMissing { why: why.clone() }))
    }

    /// For operators.
    pub(super) fn view(&self) -> SiteView {
        SiteView { rules_put_back: self.rules_put_back, routes_touched: self.routes_touched }
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
            SiteEvent::Refusals(refusals) => self.site.refusals = refusals,
            SiteEvent::RoutesTouched { count, first } => {
                self.site.routes_touched += u64::try_from(count).unwrap_or(u64::MAX);
                self.audit.push(now, EventKind::RoutesTouched { routes: count, first });
            }
            SiteEvent::ForeignRoutes(foreign) => {
                let before = std::mem::replace(&mut self.site.foreign, foreign);
                match foreign {
                    Some(ForeignRoutes { count, first, protocol }) if before.is_none() => {
                        self.audit.push(now, EventKind::ForeignRoutes { routes: count, first, protocol });
                    }
                    None if before.is_some() => self.audit.push(now, EventKind::ForeignRoutesGone),
                    _ => {}
                }
            }
        }
    }
}
