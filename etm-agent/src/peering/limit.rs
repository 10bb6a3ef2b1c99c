//! How many routes a peer has announced, against the maximum configured for it. Never keeps the routes themselves: one
//! number of 64 bits for each, of a keyed hash that the peer cannot aim at, and only where a maximum is configured.

use super::config::{Beyond, MaxRoutes};
use crate::types::{PathId, Prefix};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// The routes of one session, counted.
#[derive(Debug)]
pub(super) struct RouteCount {
    maximum: MaxRoutes,
    keys: RandomState,
    seen: HashSet<u64>,
    warned: bool,
}

/// What another route means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is room for it.
    Enough,
    /// There is, but this is where a warning was asked for.
    Warn,
    /// There is none, and the session goes on without it.
    Dropped,
    /// There is none, and the session must end.
    Exceeded,
}

impl RouteCount {
    pub(super) fn new(maximum: MaxRoutes) -> RouteCount {
        RouteCount { maximum, keys: RandomState::new(), seen: HashSet::new(), warned: false }
    }

    /// Routes announced and not withdrawn.
    pub(super) fn held(&self) -> u64 {
        u64::try_from(self.seen.len()).unwrap_or(u64::MAX)
    }

    /// A route, new or replacing.
    pub(super) fn announce(&mut self, prefix: Prefix, path_id: PathId) -> Room {
        let key = self.keys.hash_one((prefix, path_id));
        if self.seen.contains(&key) {
            return Room::Enough;
        }
        if self.held() >= self.maximum.limit {
            return match self.maximum.beyond {
                Beyond::Drop => Room::Dropped,
                Beyond::Restart(_) | Beyond::Down => Room::Exceeded,
            };
        }
        self.seen.insert(key);
        if self.held() >= self.maximum.warn_at && !self.warned {
            self.warned = true;
            return Room::Warn;
        }
        Room::Enough
    }

    /// A route that is gone.
    pub(super) fn withdraw(&mut self, prefix: Prefix, path_id: PathId) {
        self.seen.remove(&self.keys.hash_one((prefix, path_id)));
        if self.held() < self.maximum.warn_at {
            self.warned = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(i: u8) -> Prefix {
        format!("198.18.{i}.0/24").parse().unwrap()
    }

    #[test]
    fn replacements_are_not_counted_and_withdrawals_make_room() {
        let mut count = RouteCount::new(MaxRoutes { limit: 3, warn_at: 2, beyond: Beyond::Down });
        let announce = |count: &mut RouteCount, i| count.announce(p(i), PathId(1));
        assert_eq!(announce(&mut count, 0), Room::Enough);
        assert_eq!(announce(&mut count, 0), Room::Enough);
        assert_eq!(announce(&mut count, 1), Room::Warn);
        assert_eq!(announce(&mut count, 2), Room::Enough);
        assert_eq!(announce(&mut count, 3), Room::Exceeded);
        assert_eq!(announce(&mut count, 1), Room::Enough, "a replacement fits");
        assert_eq!(count.announce(p(1), PathId(2)), Room::Exceeded, "another path does not");
        count.withdraw(p(0), PathId(1));
        assert_eq!((announce(&mut count, 3), count.held()), (Room::Enough, 3));
    }

    #[test]
    fn a_session_that_may_not_end_drops_what_is_too_much() {
        let mut count = RouteCount::new(MaxRoutes { limit: 1, warn_at: 1, beyond: Beyond::Drop });
        assert_eq!(count.announce(p(0), PathId(0)), Room::Warn);
        assert_eq!(count.announce(p(1), PathId(0)), Room::Dropped);
    }
}
