//! The operator's rules for routes as operators look back at them: in words, with what each matched.
//! Never applies one.

use super::super::route_rules::{Hits, RouteRule, Verdict};
use super::super::view::RuleView;
use super::Controller;
use std::fmt::Display;

impl Controller {
    /// `etm bgp rules`: in order of configuration, and last the routes that no rule matched.
    pub fn rules(&self) -> Vec<RuleView> {
        let rules = self.rib.rules();
        let mut shown: Vec<RuleView> = rules.hits().map(|(rule, hits)| self.rule_view(rule, hits)).collect();
        if !shown.is_empty() {
            shown.push(RuleView {
                name: None,
                action: "accept".to_owned(),
                preference: None,
                conditions: Vec::new(),
                announcements: rules.unmatched(),
                prefix_lists: Default::default(),
            });
        }
        shown
    }

    fn rule_view(&self, rule: &RouteRule, hits: &Hits) -> RuleView {
        let (action, preference) = match rule.verdict {
            Verdict::Accept { preference } => ("accept", preference),
            Verdict::Deny => ("deny", None),
        };
        let peers = rule.peers.iter().filter_map(|peer| self.policy.peers.get(usize::from(peer.0)));
        let peers: Vec<&str> = peers.map(|peer| peer.name.as_str()).collect();
        let ranges = match rule.prefixes.len() {
            0 => Vec::new(),
            1 => vec!["1 range of prefixes".to_owned()],
            several => vec![format!("{several} ranges of prefixes")],
        };
        let conditions = [
            ranges,
            named("as path", &rule.as_paths),
            named("community", &rule.communities),
            named("large community", &rule.large_communities),
            named("origin", &rule.origins),
            named("session", &peers),
        ];
        RuleView {
            name: Some(rule.name.clone()),
            action: action.to_owned(),
            preference,
            conditions: conditions.concat(),
            announcements: hits.decided,
            prefix_lists: rule
                .lists
                .iter()
                .zip(&hits.lists)
                .map(|((name, _), hits)| (name.clone(), *hits))
                .collect(),
        }
    }
}

/// `origin AS1 or AS2`; nothing without a value.
fn named(what: &str, values: &[impl Display]) -> Vec<String> {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    if values.is_empty() { Vec::new() } else { vec![format!("{what} {}", values.join(" or "))] }
}
