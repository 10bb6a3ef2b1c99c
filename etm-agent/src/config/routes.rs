//! The operator's rules about learnt routes, from the file to what they mean. Never applies them.

use super::raw::{self, RuleAction, Text};
use super::validate::Check;
use crate::core::policy::Peer;
use crate::core::route_rules::{PathPattern, PrefixRange, PrefixSet, RouteRule, Verdict};
use crate::types::{Asn, PeerId};
use std::collections::BTreeMap;

impl Check {
    /// All rules, in order. A prefix list nobody names is an oversight and a fault.
    pub(super) fn route_rules(&mut self, raw: &raw::PolicyTable, peers: &[Peer]) -> Vec<RouteRule> {
        let mut lists: BTreeMap<&str, Vec<PrefixRange>> = BTreeMap::new();
        for list in &raw.prefix_list {
            let ranges = self.parse_all(&list.prefixes);
            if ranges.is_empty() {
                self.fault(
                    list.name.span(),
                    format!("prefix list `{}` holds no prefix", list.name.get_ref()),
                );
            }
            if lists.insert(list.name.get_ref(), ranges).is_some() {
                let message = format!("prefix list `{}` is described twice", list.name.get_ref());
                self.fault(list.name.span(), message);
            }
        }
        let mut rules: Vec<RouteRule> = Vec::new();
        for rule in &raw.route {
            if rules.iter().any(|known| known.name == *rule.name.get_ref()) {
                self.fault(rule.name.span(), format!("rule `{}` is described twice", rule.name.get_ref()));
            }
            let rule = self.route_rule(rule, &lists, peers);
            rules.push(rule);
        }
        for list in &raw.prefix_list {
            let named = |rule: &raw::RouteRuleTable| {
                rule.prefix_lists.iter().any(|name| name.get_ref() == list.name.get_ref())
            };
            if !raw.route.iter().any(named) {
                let message = format!("no rule uses prefix list `{}`", list.name.get_ref());
                self.fault_with_help(
                    list.name.span(),
                    message,
                    "name it in prefix_lists of a [[policy.route]]",
                );
            }
        }
        rules
    }

    fn route_rule(
        &mut self,
        raw: &raw::RouteRuleTable,
        lists: &BTreeMap<&str, Vec<PrefixRange>>,
        peers: &[Peer],
    ) -> RouteRule {
        let mut ranges = self.parse_all(&raw.prefixes);
        for name in &raw.prefix_lists {
            match lists.get(name.get_ref().as_str()) {
                Some(list) => ranges.extend_from_slice(list),
                None => {
                    let known: Vec<&str> = lists.keys().copied().collect();
                    let message = format!("no [[policy.prefix_list]] is named `{}`", name.get_ref());
                    self.fault_with_help(name.span(), message, format!("described are: {}", words(&known)));
                }
            }
        }
        let verdict = match (raw.action, &raw.preference) {
            (RuleAction::Accept, preference) => {
                Verdict::Accept { preference: preference.as_ref().map(|value| *value.get_ref()) }
            }
            (RuleAction::Deny, None) => Verdict::Deny,
            (RuleAction::Deny, Some(preference)) => {
                self.fault(preference.span(), "a route that is denied has no preference");
                Verdict::Deny
            }
        };
        RouteRule {
            name: raw.name.get_ref().clone(),
            prefixes: ranges.into_iter().collect::<PrefixSet>(),
            as_paths: self.parse_all::<PathPattern>(&raw.as_paths),
            communities: self.parse_all(&raw.communities),
            large_communities: self.parse_all(&raw.large_communities),
            origins: raw.origin_as.iter().copied().map(Asn).collect(),
            peers: raw.sessions.iter().filter_map(|name| self.session_id(name, peers)).collect(),
            verdict,
        }
    }

    fn session_id(&mut self, name: &Text, peers: &[Peer]) -> Option<PeerId> {
        let found = peers.iter().position(|peer| peer.name == *name.get_ref());
        if found.is_none() {
            let known: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
            let message = format!("no [[bgp.session]] is named `{}`", name.get_ref());
            self.fault_with_help(name.span(), message, format!("described are: {}", words(&known)));
        }
        found.and_then(|at| u16::try_from(at).ok()).map(PeerId)
    }
}

fn words(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
