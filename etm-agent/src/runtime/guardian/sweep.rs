//! ETM's routes in the main table when nobody may stand for them any more: removed at once, and again a little later, for an
//! agent that was stopped in the middle of writing may finish what it began. Never adds a route.

use crate::fib;
use crate::types::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// After the end of the lease.
const AGAIN: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5)];

/// When to remove them.
#[derive(Debug)]
pub(super) struct Sweep {
    protocol: u8,
    stood: bool,
    due: VecDeque<Timestamp>,
}

impl Sweep {
    /// Nothing stands yet.
    pub(super) fn new(protocol: u8) -> Sweep {
        Sweep { protocol, stood: false, due: VecDeque::new() }
    }

    /// Takes note of whether routes may stand; the work to do where it is time to remove them.
    pub(super) fn look(
        &mut self,
        now: Timestamp,
        may_stand: bool,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let ended = std::mem::replace(&mut self.stood, may_stand) && !may_stand;
        if ended {
            self.due = AGAIN.iter().map(|after| now + *after).collect();
        } else if may_stand {
            self.due.clear();
        }
        if self.due.front().is_none_or(|due| *due > now) {
            return None;
        }
        self.due.retain(|due| *due > now);
        Some(remove(self.protocol))
    }

    /// The last time: nobody will be there to do it later.
    pub(super) async fn finish(&self) {
        remove(self.protocol).await;
    }
}

async fn remove(protocol: u8) {
    match fib::cleanup_main(protocol).await {
        Ok(0) => {}
        Ok(routes) => tracing::warn!(routes, "routes removed from the main table: nobody stands for them"),
        Err(error) => {
            tracing::error!(%error, "routes of ETM may be left in the main table; `etm-agent detach` removes them");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_is_removed_three_times_and_what_goes_on_is_left_alone() {
        let mut sweep = Sweep::new(179);
        let second = |seconds: u64| Timestamp(seconds * 1_000_000_000);
        let looks =
            [(0, false), (1, true), (2, true), (3, false), (3, false), (4, false), (8, false), (9, false)];
        let at: Vec<usize> = looks
            .iter()
            .enumerate()
            .filter_map(|(place, (at, stand))| sweep.look(second(*at), *stand).map(|_| place))
            .collect();
        assert_eq!(at, [3, 5, 6]);
        assert!(sweep.look(second(10), true).is_none() && sweep.look(second(20), false).is_some());
        assert!(sweep.look(second(20), true).is_none() && sweep.look(second(21), true).is_none());
    }
}
