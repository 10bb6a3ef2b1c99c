//! The operator's word on learnt routes: which may be used, and how much each is liked. The first rule that matches
//! decides; a route that none matches is accepted as it is. Never looks at load, nor at what a route is used for.
//!
//! Conditions on attributes are tried once per set of attributes (`class`), those on prefix and session at each look.

use crate::types::{
    AsPath, AsPathSegment, Asn, Community, Family, LargeCommunity, PeerId, Prefix, PrefixMap, RouteAttrs,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The route may be used.
    Accept {
        /// Degree of preference instead of LOCAL_PREF, where given.
        preference: Option<u32>,
    },
    /// The route is never a candidate.
    Deny,
}

/// One rule. Conditions of different kinds must all hold; an empty one always does; of several values one suffices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRule {
    /// Name the operator gave.
    pub name: String,
    /// Destination: the ranges of the rule itself and of all its lists.
    pub prefixes: PrefixSet,
    /// Its prefix lists by name, to count what each of them matched.
    pub lists: Vec<(String, PrefixSet)>,
    /// AS_PATH.
    pub as_paths: Vec<PathPattern>,
    /// COMMUNITIES.
    pub communities: Vec<Community>,
    /// LARGE_COMMUNITY.
    pub large_communities: Vec<LargeCommunity>,
    /// The last AS of AS_PATH.
    pub origins: Vec<Asn>,
    /// Sessions.
    pub peers: Vec<PeerId>,
    /// What it says.
    pub verdict: Verdict,
}

impl RouteRule {
    /// True where every condition on attributes holds.
    fn holds_for(&self, attrs: &RouteAttrs) -> bool {
        let any = |empty: bool, found: bool| empty || found;
        any(self.communities.is_empty(), self.communities.iter().any(|c| attrs.communities.contains(c)))
            && any(
                self.large_communities.is_empty(),
                self.large_communities.iter().any(|c| attrs.large_communities.contains(c)),
            )
            && any(
                self.origins.is_empty(),
                attrs.as_path.origin().is_some_and(|origin| self.origins.contains(&origin)),
            )
            && any(
                self.as_paths.is_empty(),
                self.as_paths.iter().any(|pattern| pattern.matches(&attrs.as_path)),
            )
    }

    /// True where every other condition holds.
    fn applies_to(&self, prefix: Prefix, peer: PeerId) -> bool {
        (self.peers.is_empty() || self.peers.contains(&peer))
            && (self.prefixes.is_empty() || self.prefixes.contains(prefix))
    }
}

/// A prefix and the lengths of those inside it that are meant: `198.51.100.0/22 ge 23 le 24`. Without `ge` and `le` the
/// prefix alone, with `ge` alone all longer ones from there on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixRange {
    /// Around all of them.
    pub prefix: Prefix,
    /// Least length, in bits.
    pub ge: u8,
    /// Greatest length, in bits.
    pub le: u8,
}

/// Why a text is not a range of prefixes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The prefix is not one.
    #[error(transparent)]
    Prefix(#[from] crate::types::PrefixError),
    /// Something follows that is neither ge nor le.
    #[error(
        "`{text}` is not a range of prefixes; write it like 198.51.100.0/22, or with lengths: 198.51.100.0/22 ge 23 le 24"
    )]
    Syntax {
        /// The text given.
        text: String,
    },
    /// No length satisfies it.
    #[error("`{text}` holds no prefix: lengths must go up from the prefix's own over ge and le to {longest}")]
    Lengths {
        /// The text given.
        text: String,
        /// Of the family.
        longest: u8,
    },
}

impl FromStr for PrefixRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<PrefixRange, RangeError> {
        let syntax = || RangeError::Syntax { text: text.to_owned() };
        let mut words = text.split_whitespace();
        let prefix: Prefix = words.next().ok_or_else(syntax)?.parse()?;
        let longest = longest(prefix.family());
        let (mut ge, mut le) = (None, None);
        while let Some(word) = words.next() {
            let bound = match word {
                "ge" => &mut ge,
                "le" => &mut le,
                _ => return Err(syntax()),
            };
            let value: u8 = words.next().and_then(|word| word.parse().ok()).ok_or_else(syntax)?;
            if bound.replace(value).is_some() {
                return Err(syntax());
            }
        }
        let (low, high) = match (ge, le) {
            (None, None) => (prefix.len(), prefix.len()),
            (Some(ge), None) => (ge, longest),
            (ge, Some(le)) => (ge.unwrap_or(prefix.len()), le),
        };
        if low < prefix.len() || low > high || high > longest {
            return Err(RangeError::Lengths { text: text.to_owned(), longest });
        }
        Ok(PrefixRange { prefix, ge: low, le: high })
    }
}

fn longest(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// Ranges of prefixes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PrefixSet {
    ranges: PrefixMap<Vec<(u8, u8)>>,
}

impl PrefixSet {
    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|(_, lengths)| lengths.len()).sum()
    }

    /// True without a range.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// True where some range means `prefix`.
    pub fn contains(&self, prefix: Prefix) -> bool {
        let meant = |(ge, le): &(u8, u8)| (*ge..=*le).contains(&prefix.len());
        self.ranges.covering(prefix).into_iter().any(|(_, lengths)| lengths.iter().any(meant))
    }
}

impl FromIterator<PrefixRange> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = PrefixRange>>(ranges: I) -> PrefixSet {
        let mut set = PrefixSet::default();
        for range in ranges {
            set.ranges.get_or_insert(range.prefix, Vec::new()).push((range.ge, range.le));
        }
        set
    }
}

impl PartialEq for PrefixSet {
    fn eq(&self, other: &PrefixSet) -> bool {
        self.ranges.iter().eq(other.ranges.iter())
    }
}

impl Eq for PrefixSet {}

/// One word of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    /// Any number of ASes, none included: `*`.
    Any,
    /// One AS of a range: `64500`, `64500..64510`, or `?` for whichever.
    One(Asn, Asn),
}

/// A pattern of whole AS_PATHs, as BIRD's path masks: AS numbers, ranges `64500..64510`, `?` for one AS and `*` for any
/// number of them, with spaces between. `64601 * 65010` is from 64601, by whichever way, to 65010. An AS_SET is one
/// element and matches where a member does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathPattern {
    words: Vec<Word>,
}

/// Why a text is not a pattern of AS_PATHs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{word}` is not part of a pattern of AS paths; write AS numbers, ranges like 64500..64510, ? for one AS, * for any number of them, with spaces between"
)]
pub struct PatternError {
    /// The word at fault.
    pub word: String,
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<PathPattern, PatternError> {
        let word = |word: &str| {
            let wrong = || PatternError { word: word.to_owned() };
            let number = |text: &str| text.parse::<u32>().map(Asn).map_err(|_| wrong());
            match word {
                "*" => Ok(Word::Any),
                "?" => Ok(Word::One(Asn(0), Asn(u32::MAX))),
                _ => match word.split_once("..") {
                    None => number(word).map(|asn| Word::One(asn, asn)),
                    Some((low, high)) => {
                        let (low, high) = (number(low)?, number(high)?);
                        if low <= high { Ok(Word::One(low, high)) } else { Err(wrong()) }
                    }
                },
            }
        };
        Ok(PathPattern { words: text.split_whitespace().map(word).collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.words.iter().map(|word| match word {
            Word::Any => "*".to_owned(),
            Word::One(Asn(0), Asn(u32::MAX)) => "?".to_owned(),
            Word::One(low, high) if low == high => low.0.to_string(),
            Word::One(low, high) => format!("{}..{}", low.0, high.0),
        });
        f.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

impl PathPattern {
    /// True where the whole path is as the pattern says.
    pub fn matches(&self, path: &AsPath) -> bool {
        // `here[n]` is true where the first n words match what was seen so far.
        let mut here = vec![false; self.words.len() + 1];
        here[0] = true;
        self.skip_any(&mut here);
        for segment in &path.0 {
            match segment {
                AsPathSegment::Sequence(asns) => {
                    for asn in asns {
                        here = self.step(&here, std::slice::from_ref(asn));
                    }
                }
                AsPathSegment::Set(asns) => here = self.step(&here, asns),
            }
        }
        here.last().copied().unwrap_or(false)
    }

    fn step(&self, here: &[bool], members: &[Asn]) -> Vec<bool> {
        let mut next = vec![false; here.len()];
        for (at, word) in self.words.iter().enumerate().filter(|(at, _)| here[*at]) {
            match word {
                Word::Any => next[at] = true,
                Word::One(low, high) => {
                    next[at + 1] |= members.iter().any(|asn| (*low..=*high).contains(asn));
                }
            }
        }
        self.skip_any(&mut next);
        next
    }

    fn skip_any(&self, here: &mut [bool]) {
        for (at, word) in self.words.iter().enumerate() {
            if here[at] && *word == Word::Any {
                here[at + 1] = true;
            }
        }
    }
}

/// Which rules can match routes with one set of attributes: a number for each such list of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleClass(pub(super) u32);

/// What a rule matched: announcements, repeated ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hits {
    /// It decided about so many.
    pub decided: u64,
    /// So many of them were in each of its prefix lists, in the order of these.
    pub lists: Vec<u64>,
}

/// All rules, and how often each decided.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RouteRules {
    rules: Vec<RouteRule>,
    /// Rules, by their place, of each class.
    classes: Vec<Vec<usize>>,
    hits: Vec<Hits>,
    /// Announcements that no rule matched.
    unmatched: u64,
}

impl RouteRules {
    /// These rules, in order.
    pub fn new(rules: Vec<RouteRule>) -> RouteRules {
        let none = |rule: &RouteRule| Hits { decided: 0, lists: vec![0; rule.lists.len()] };
        RouteRules { hits: rules.iter().map(none).collect(), rules, classes: Vec::new(), unmatched: 0 }
    }

    /// True without a rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The class of a set of attributes.
    pub fn class(&mut self, attrs: &RouteAttrs) -> RuleClass {
        let rules = self.rules.iter().enumerate().filter(|(_, rule)| rule.holds_for(attrs));
        let rules: Vec<usize> = rules.map(|(at, _)| at).collect();
        let known = self.classes.iter().position(|class| *class == rules);
        let at = known.unwrap_or_else(|| {
            self.classes.push(rules);
            self.classes.len() - 1
        });
        RuleClass(u32::try_from(at).unwrap_or(u32::MAX))
    }

    /// The rule that decides about a route, if any.
    pub fn find(&self, prefix: Prefix, peer: PeerId, class: RuleClass) -> Option<&RouteRule> {
        self.place(prefix, peer, class).and_then(|at| self.rules.get(at))
    }

    fn place(&self, prefix: Prefix, peer: PeerId, class: RuleClass) -> Option<usize> {
        let rules = self.classes.get(usize::try_from(class.0).unwrap_or(usize::MAX))?;
        rules.iter().copied().find(|at| self.rules.get(*at).is_some_and(|rule| rule.applies_to(prefix, peer)))
    }

    /// Counts a route that arrived.
    pub fn count(&mut self, prefix: Prefix, peer: PeerId, class: RuleClass) {
        let found = self.place(prefix, peer, class);
        let Some((rule, hits)) = found.and_then(|at| Some((self.rules.get(at)?, self.hits.get_mut(at)?)))
        else {
            self.unmatched += 1;
            return;
        };
        hits.decided += 1;
        for ((_, list), hits) in rule.lists.iter().zip(&mut hits.lists) {
            *hits += u64::from(list.contains(prefix));
        }
    }

    /// Every rule with what it matched.
    pub fn hits(&self) -> impl Iterator<Item = (&RouteRule, &Hits)> + '_ {
        self.rules.iter().zip(&self.hits)
    }

    /// Announcements that no rule matched; not counted where there is no rule.
    pub fn unmatched(&self) -> u64 {
        self.unmatched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read_as_written() {
        let range = |text: &str| text.parse::<PrefixRange>().map(|range| (range.ge, range.le));
        assert_eq!(range("198.51.100.0/22"), Ok((22, 22)));
        assert_eq!(range("198.51.100.0/22 le 24"), Ok((22, 24)));
        assert_eq!(range("198.51.100.0/22 ge 24"), Ok((24, 32)));
        assert_eq!(range("2001:db8::/32 ge 40 le 48"), Ok((40, 48)));
        for wrong in ["198.51.100.0/22 ge 20", "198.51.100.0/22 le 33", "198.51.100.0/22 ge 25 le 24"] {
            assert!(matches!(range(wrong), Err(RangeError::Lengths { .. })), "{wrong}");
        }
        for wrong in ["", "198.51.100.0/22 24", "198.51.100.0/22 le", "198.51.100.0/22 le 24 le 25"] {
            assert!(matches!(range(wrong), Err(RangeError::Syntax { .. })), "{wrong}");
        }
        assert!(matches!(range("198.51.100/22"), Err(RangeError::Prefix(_))));
    }

    #[test]
    fn patterns_mean_whole_paths() {
        let path = AsPath::sequence([64601, 3356, 3356, 65010]);
        for (pattern, matches) in [
            ("64601 3356 3356 65010", true),
            ("64601 * 65010", true),
            ("* 3356 *", true),
            ("64601 ? ? 65010", true),
            ("64601 ? 65010", false),
            ("64601", false),
            ("64600..64610 *", true),
            ("* 64512..65534", true),
            ("*", true),
            ("", false),
        ] {
            let parsed: PathPattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(&path), matches, "{pattern}");
            assert_eq!(parsed.to_string(), pattern);
        }
        assert!("".parse::<PathPattern>().unwrap().matches(&AsPath::default()));
        for wrong in ["64601,3356", "^64601", "5..4", "AS5", "-1"] {
            assert!(wrong.parse::<PathPattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_set_is_one_element_and_matches_by_any_member() {
        let set =
            AsPath(vec![AsPathSegment::Sequence(vec![Asn(1)]), AsPathSegment::Set(vec![Asn(2), Asn(3)])]);
        let matches = |pattern: &str| pattern.parse::<PathPattern>().unwrap().matches(&set);
        assert!(matches("1 3") && matches("1 2") && matches("1 ?") && !matches("1 2 3"));
    }

    /// The plainest matcher: tries every way.
    fn naive(words: &[Word], path: &[Asn]) -> bool {
        match (words.split_first(), path.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((Word::Any, words)), None) => naive(words, path),
            (Some((Word::Any, rest)), Some((_, tail))) => naive(rest, path) || naive(words, tail),
            (Some((Word::One(..), _)), None) => false,
            (Some((Word::One(low, high), words)), Some((asn, tail))) => {
                (*low..=*high).contains(asn) && naive(words, tail)
            }
        }
    }

    fn word() -> impl Strategy<Value = Word> {
        prop_oneof![
            Just(Word::Any),
            (0u32..4, 0u32..2).prop_map(|(low, more)| Word::One(Asn(low), Asn(low + more))),
            Just(Word::One(Asn(0), Asn(u32::MAX))),
        ]
    }

    fn any_rule() -> impl Strategy<Value = RouteRule> {
        let ranges = prop::collection::vec((0usize..5, 0u8..9, 0u8..9), 0..3);
        let lists = (prop::collection::vec(0u32..3, 0..2), prop::collection::vec(0u32..3, 0..2));
        let rest = (
            prop::collection::vec(prop::collection::vec(word(), 0..3), 0..2),
            prop::collection::vec(0u16..2, 0..2),
        );
        let verdict = prop_oneof![
            Just(Verdict::Deny),
            prop::option::of(1u32..9).prop_map(|preference| Verdict::Accept { preference })
        ];
        (ranges, lists, rest, verdict).prop_map(
            |(ranges, (communities, origins), (paths, peers), verdict)| {
                let range = |(at, more, width): (usize, u8, u8)| {
                    let prefix = p(PREFIXES[at]);
                    PrefixRange { prefix, ge: prefix.len() + more, le: prefix.len() + more + width }
                };
                let ranges: PrefixSet = ranges.into_iter().map(range).collect();
                RouteRule {
                    name: String::new(),
                    lists: vec![
                        ("all".to_owned(), ranges.clone()),
                        ("none".to_owned(), PrefixSet::default()),
                    ],
                    prefixes: ranges,
                    as_paths: paths.into_iter().map(|words| PathPattern { words }).collect(),
                    communities: communities.into_iter().map(Community).collect(),
                    large_communities: Vec::new(),
                    origins: origins.into_iter().map(Asn).collect(),
                    peers: peers.into_iter().map(PeerId).collect(),
                    verdict,
                }
            },
        )
    }

    const PREFIXES: [&str; 5] =
        ["0.0.0.0/0", "198.18.0.0/15", "198.18.0.0/20", "198.18.4.0/24", "2001:db8::/32"];

    proptest! {
        #[test]
        fn a_pattern_matches_what_trying_every_way_matches(
            words in prop::collection::vec(word(), 0..6), path in prop::collection::vec(0u32..4, 0..7)
        ) {
            let asns: Vec<Asn> = path.iter().copied().map(Asn).collect();
            let pattern = PathPattern { words };
            prop_assert_eq!(pattern.matches(&AsPath::sequence(path)), naive(&pattern.words, &asns));
        }

        #[test]
        fn the_first_rule_whose_conditions_all_hold_decides(
            rules in prop::collection::vec(any_rule(), 0..5),
            routes in prop::collection::vec((0usize..5, 0u16..2, prop::collection::vec(0u32..4, 0..4), prop::collection::vec(0u32..3, 0..3)), 1..20),
        ) {
            let mut all = RouteRules::new(rules.clone());
            let mut hits = vec![0; rules.len()];
            let routes_seen = u64::try_from(routes.len()).unwrap();
            for (prefix, peer, path, communities) in routes {
                let (prefix, peer) = (p(PREFIXES[prefix]), PeerId(peer));
                let mut attrs = RouteAttrs::to_next_hop("10.0.0.1".parse().unwrap());
                let asns: Vec<Asn> = path.iter().copied().map(Asn).collect();
                attrs.as_path = AsPath::sequence(path);
                attrs.communities = communities.into_iter().map(Community).collect();
                let expected = rules.iter().position(|rule| {
                    (rule.peers.is_empty() || rule.peers.contains(&peer))
                        && (rule.prefixes.is_empty() || rule.prefixes.ranges.iter().any(|(around, lengths)| {
                            around.covers(prefix) && lengths.iter().any(|(ge, le)| *ge <= prefix.len() && prefix.len() <= *le)
                        }))
                        && (rule.communities.is_empty() || attrs.communities.iter().any(|c| rule.communities.contains(c)))
                        && (rule.origins.is_empty() || asns.last().is_some_and(|asn| rule.origins.contains(asn)))
                        && (rule.as_paths.is_empty() || rule.as_paths.iter().any(|pattern| naive(&pattern.words, &asns)))
                });
                let class = all.class(&attrs);
                prop_assert_eq!(all.find(prefix, peer, class), expected.map(|at| &rules[at]));
                all.count(prefix, peer, class);
                if let Some(at) = expected {
                    hits[at] += 1;
                }
            }
            prop_assert_eq!(all.unmatched() + hits.iter().sum::<u64>(), routes_seen);
            for ((rule, counted), hits) in all.hits().zip(hits) {
                let in_lists = if rule.prefixes.is_empty() { 0 } else { hits };
                prop_assert_eq!(counted, &Hits { decided: hits, lists: vec![in_lists, 0] });
            }
        }
    }
}
