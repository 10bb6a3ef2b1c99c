//! The RIB as operators leaf through it: in pages, each bounded, so that a full table never delays a decision.
//! Never changes anything, and keeps nothing between two pages.

use super::super::preference::compare;
use super::super::view::{CandidatesView, RankedView, RoutePage, RouteView};
use super::Controller;
use crate::types::{BitRate, PathId, PeerId, Prefix, RouteAttrs};
use std::sync::Arc;

/// Most routes in one page.
const ROUTES: usize = 1_000;

/// Most prefixes looked at for one page, where few of them are wanted: about a millisecond.
const PREFIXES: usize = 4_000;

/// Which routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Browse {
    /// Only this prefix (or the longest known one that covers it); with `longer` all inside it too.
    pub prefix: Option<Prefix>,
    /// See `prefix`.
    pub longer: bool,
    /// Only routes of this source.
    pub peer: Option<PeerId>,
    /// Only after this prefix: the `next` of the page before.
    pub after: Option<Prefix>,
}

impl Controller {
    /// The source of a name; the static routes are called `static`.
    pub fn source(&self, name: &str) -> Option<PeerId> {
        let found = self.policy.peers.iter().position(|peer| peer.name == name);
        match found {
            Some(at) => u16::try_from(at).ok().map(PeerId),
            None => (name == "static").then(|| self.policy.static_peer()),
        }
    }

    /// `etm bgp routes`: one page.
    pub fn routes(&self, browse: &Browse) -> RoutePage {
        let mut page = RoutePage::default();
        match browse.prefix {
            Some(prefix) if !browse.longer => {
                if let Some(prefix) = self.rib.longest_cover(prefix) {
                    self.add_routes(prefix, browse.peer, &mut page);
                }
            }
            Some(within) => {
                if browse.after.is_none() {
                    self.add_routes(within, browse.peer, &mut page);
                }
                let rest = self.rib.iter_after(browse.after.or(Some(within)));
                self.fill(rest.take_while(|prefix| within.covers(*prefix)), browse.peer, &mut page);
            }
            None => self.fill(self.rib.iter_after(browse.after), browse.peer, &mut page),
        }
        page
    }

    fn fill(&self, prefixes: impl Iterator<Item = Prefix>, peer: Option<PeerId>, page: &mut RoutePage) {
        for (seen, prefix) in prefixes.enumerate() {
            self.add_routes(prefix, peer, page);
            if page.routes.len() >= ROUTES || seen + 1 >= PREFIXES {
                page.next = Some(prefix);
                return;
            }
        }
    }

    fn add_routes(&self, prefix: Prefix, peer: Option<PeerId>, page: &mut RoutePage) {
        let routes = self.rib.received(prefix).into_iter();
        let wanted = routes.filter(|(from, ..)| peer.is_none_or(|peer| peer == *from));
        page.routes
            .extend(wanted.map(|(from, path_id, attrs)| self.route_view(prefix, from, path_id, attrs)));
    }

    fn route_view(&self, prefix: Prefix, peer: PeerId, path_id: PathId, attrs: Arc<RouteAttrs>) -> RouteView {
        let name = |peer: PeerId| self.policy.peers.get(usize::from(peer.0)).map(|peer| peer.name.clone());
        RouteView {
            prefix,
            session: name(peer).unwrap_or_else(|| "static".to_owned()),
            peer,
            path_id,
            exit: self.topology.exit_of(peer, attrs.next_hop).map(|exit| self.exit_name(exit)),
            as_path: attrs.as_path.to_string(),
            communities: attrs.communities.iter().map(ToString::to_string).collect(),
            attributes: attrs,
        }
    }

    /// `etm bgp candidates`: of the longest known prefix that covers what was asked.
    pub fn candidates(&self, asked: Prefix) -> CandidatesView {
        let Some(prefix) = self.rib.longest_cover(asked) else {
            let (home, exit, candidates, announced) = (None, None, Vec::new(), Vec::new());
            return CandidatesView { asked, prefix: None, home, exit, candidates, announced };
        };
        let home = self.fib.home(prefix, &self.policy, &self.topology).ok();
        let entry = self.overrides.get(prefix);
        let exit = entry.map(|entry| entry.to).or(home);
        let rate = self.slots.get(prefix).map_or(BitRate::ZERO, |slot| self.rates.demand(slot));
        let ranked = self.rib.candidates(prefix, &self.topology);
        let mut candidates: Vec<RankedView> = Vec::with_capacity(ranked.len());
        for (at, candidate) in ranked.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| ranked.get(at));
            let attrs = self.rib.attrs(candidate);
            candidates.push(RankedView {
                rank: Some(at + 1),
                decided_by: before
                    .map(|before| compare(before, candidate, self.policy.process).1.as_str().to_owned()),
                note: self.usable_note(prefix, home, rate, &ranked, at),
                route: self.route_view(candidate.prefix, candidate.peer, candidate.path_id, attrs),
            });
        }
        for (peer, path_id, attrs) in self.rib.received(prefix) {
            if !ranked.iter().any(|candidate| (candidate.peer, candidate.path_id) == (peer, path_id)) {
                let note = self
                    .refused_note(prefix, peer, path_id)
                    .unwrap_or_else(|| self.unusable_note((peer, &attrs), &ranked));
                let route = self.route_view(prefix, peer, path_id, attrs);
                candidates.push(RankedView { rank: None, decided_by: None, note, route });
            }
        }
        CandidatesView {
            asked,
            prefix: Some(prefix),
            home: home.map(|exit| self.exit_name(exit)),
            exit: exit.map(|exit| self.exit_name(exit)),
            candidates,
            announced: if entry.is_some() { self.announced(prefix) } else { Vec::new() },
        }
    }

    /// Prefixes whose announcement is the best route of the router behind an inject session; none where nobody reports.
    pub fn effective(&self, peer: PeerId) -> Option<usize> {
        self.effects.get(&peer).map(std::collections::BTreeMap::len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::decision::Adopted;
    use super::super::super::input::{EffectiveChange, EffectiveEvent, Input, RouteBatch, RouteChange};
    use super::super::super::policy::tests::two_exits;
    use super::*;
    use crate::types::Timestamp;

    /// Two routes to each of `count` prefixes and one to a prefix of the other family.
    fn full(count: u32) -> Controller {
        let mut controller = Controller::new(two_exits(), 10, &Adopted::default(), false);
        let mut changes = Vec::new();
        for index in 0..count {
            let addr = std::net::Ipv4Addr::from(0x0B00_0000 + (index << 8));
            let prefix = Prefix::new(addr.into(), 24).unwrap();
            for (path, hop) in [(1, "10.0.1.1"), (2, "10.0.2.1")] {
                let attrs = Arc::new(RouteAttrs::to_next_hop(hop.parse().unwrap()));
                changes.push(RouteChange::Announce { prefix, path_id: PathId(path), attrs });
            }
        }
        let attrs = Arc::new(RouteAttrs::to_next_hop("fd00:1::1".parse().unwrap()));
        changes.push(RouteChange::Announce {
            prefix: "2001:db8::/32".parse().unwrap(),
            path_id: PathId(0),
            attrs,
        });
        controller.handle(Timestamp(1), Input::Routes(RouteBatch { peer: PeerId(0), changes }));
        controller
    }

    fn all(controller: &Controller, mut browse: Browse) -> (Vec<RouteView>, usize) {
        let (mut routes, mut pages) = (Vec::new(), 0);
        loop {
            let page = controller.routes(&browse);
            assert!(page.routes.len() <= ROUTES + 8, "{} routes in a page", page.routes.len());
            routes.extend(page.routes);
            pages += 1;
            match page.next {
                Some(next) => browse.after = Some(next),
                None => return (routes, pages),
            }
        }
    }

    #[test]
    fn pages_hold_every_route_once_and_in_order() {
        let controller = full(3_000);
        let (routes, pages) = all(&controller, Browse::default());
        assert_eq!((routes.len(), pages), (6_001, 7));
        assert!(routes.is_sorted_by_key(|route| (route.prefix, route.path_id)));
        assert_eq!(routes.last().unwrap().prefix.to_string(), "2001:db8::/32");
    }

    #[test]
    fn a_page_that_finds_nothing_still_ends() {
        let controller = full(9_000);
        let (routes, pages) = all(&controller, Browse { peer: Some(PeerId(7)), ..Browse::default() });
        assert_eq!((routes.len(), pages), (0, 3));
    }

    #[test]
    fn a_prefix_alone_or_with_what_is_inside() {
        let controller = full(600);
        let browse =
            |text: &str, longer| Browse { prefix: Some(text.parse().unwrap()), longer, ..Browse::default() };
        let count = |text: &str, longer| all(&controller, browse(text, longer)).0.len();
        assert_eq!(count("11.0.1.0/24", false), 2);
        assert_eq!(count("11.0.1.9/32", false), 2, "the longest that covers an address");
        assert_eq!(count("11.0.0.0/23", true), 4);
        assert_eq!(count("11.0.0.0/16", true), 512);
        assert_eq!(count("11.0.0.0/8", true), 1_200);
        assert_eq!(count("11.0.0.0/8", false), 0);
        assert_eq!(count("2001:db8::/16", true), 1);
    }

    #[test]
    fn candidates_say_what_decided() {
        let controller = full(1);
        let view = controller.candidates("11.0.0.5".parse().unwrap());
        // No link is known to be up: nothing can be used, everything is shown.
        assert_eq!(view.candidates.len(), 2);
        assert!(view.candidates.iter().all(|one| one.rank.is_none() && one.note.contains("is down")));
        assert_eq!(controller.candidates("12.0.0.0/8".parse().unwrap()).prefix, None);
    }

    #[test]
    fn effects_are_known_only_while_somebody_reports_them() {
        let mut controller = full(1);
        let mut tell = |change| {
            controller.handle(Timestamp(2), Input::Effective(EffectiveEvent { peer: PeerId(0), change }));
            controller.effective(PeerId(0))
        };
        let route = |hop: Option<&str>| {
            let hop = hop.map(|hop| hop.parse().unwrap());
            EffectiveChange::Routes(vec![("11.0.0.0/24".parse().unwrap(), hop)])
        };
        assert_eq!(tell(route(Some("10.0.2.1"))), None, "said before the Loc-RIB was watched");
        assert_eq!(tell(EffectiveChange::Watched), Some(0));
        assert_eq!(tell(route(Some("10.0.2.1"))), Some(1));
        assert_eq!(tell(route(None)), Some(0));
        assert_eq!(tell(EffectiveChange::Unknown), None);
    }
}
