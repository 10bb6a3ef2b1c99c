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
    /// What a guardian before this one stood by may still be there: an agent that lives says so within its lease, and
    /// where none does it is removed.
    pub(super) fn new(protocol: u8, now: Timestamp, lease: Duration) -> Sweep {
        Sweep { protocol, stood: false, due: after(now + lease) }
    }

    /// Takes note of whether routes may stand; the work to do where it is time to remove them.
    pub(super) fn look(
        &mut self,
        now: Timestamp,
        may_stand: bool,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let ended = std::mem::replace(&mut self.stood, may_stand) && !may_stand;
        if ended {
            self.due = after(now);
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

fn after(end: Timestamp) -> VecDeque<Timestamp> {
    AGAIN.iter().map(|after| end + *after).collect()
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

    fn second(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000_000)
    }

    /// Which looks ended in a removal.
    fn removals(sweep: &mut Sweep, looks: &[(u64, bool)]) -> Vec<usize> {
        let due = |(at, stand): &(u64, bool)| sweep.look(second(*at), *stand).is_some();
        let done: Vec<bool> = looks.iter().map(due).collect();
        done.iter().enumerate().filter_map(|(place, done)| done.then_some(place)).collect()
    }

    fn fresh() -> Sweep {
        Sweep::new(179, second(0), Duration::from_secs(5))
    }

    #[test]
    fn what_ends_is_removed_three_times_and_what_goes_on_is_left_alone() {
        let mut sweep = fresh();
        let looks =
            [(0, false), (1, true), (2, true), (3, false), (3, false), (4, false), (8, false), (9, false)];
        assert_eq!(removals(&mut sweep, &looks), [3, 5, 6]);
        assert_eq!(removals(&mut sweep, &[(10, true), (20, false), (20, true), (21, true)]), [1]);
    }

    #[test]
    fn what_an_earlier_guardian_stood_by_is_removed_unless_an_agent_appears_within_its_lease() {
        let looks = [(0, false), (4, false), (5, false), (6, false), (9, false), (10, false), (99, false)];
        assert_eq!(removals(&mut fresh(), &looks), [2, 3, 5]);
        assert!(
            removals(&mut fresh(), &[(0, false), (4, true), (5, true), (6, true), (99, true)]).is_empty()
        );
    }
}
