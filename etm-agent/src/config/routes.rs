//! The operator's rules about learnt routes, from the file to what they mean. Never applies them.

use super::raw::{self, RuleAction, Text};
use super::validate::Check;
use crate::core::policy::{DecisionProcess, Peer};
use crate::core::route_rules::{PathPattern, PrefixRange, PrefixSet, RouteRule, Verdict};
use crate::types::{Asn, PeerId};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

/// How routes are compared.
pub(super) fn process(raw: &raw::DecisionTable) -> DecisionProcess {
    let default = DecisionProcess::default();
    DecisionProcess {
        always_compare_med: raw.always_compare_med.unwrap_or(default.always_compare_med),
        deterministic_med: raw.deterministic_med.unwrap_or(default.deterministic_med),
        med_missing_worst: raw.med_missing_worst.unwrap_or(default.med_missing_worst),
        router_id: raw.router_id.unwrap_or(default.router_id),
        cluster_list: raw.cluster_list.unwrap_or(default.cluster_list),
        peer_address: raw.peer_address.unwrap_or(default.peer_address),
    }
}

impl Check {
    pub(super) fn parse_all<T>(&mut self, texts: &[Text]) -> Vec<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        texts.iter().filter_map(|text| self.parse(text)).collect()
    }

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
        let mut named = Vec::new();
        for name in &raw.prefix_lists {
            match lists.get(name.get_ref().as_str()) {
                Some(list) => {
                    ranges.extend_from_slice(list);
                    named.push((name.get_ref().clone(), list.iter().copied().collect()));
                }
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
            lists: named,
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
