//! What peers are told: the newest decision while the lease is fresh, nothing after it.
//!
//! The kernel ends overrides by itself when the lease ends. This does the same for announcements, beside the
//! decision and the sampler: where one of them hangs, sessions would go on sending keepalives for ever.
//! Never decides, and never tells anything that no decision holds.

use super::clock::boottime;
use crate::core::decision::Decision;
use crate::types::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Longest time between two looks at the clock: a paused machine does not advance the runtime's timers.
const LOOK: Duration = Duration::from_millis(250);

/// Passes `decisions` on to the sessions until `stop`, as long as `leases` allows.
pub(super) async fn relay(
    mut decisions: watch::Receiver<Arc<Decision>>,
    mut leases: watch::Receiver<Timestamp>,
    told: watch::Sender<Arc<Decision>>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let until = *leases.borrow_and_update();
        let decision = Arc::clone(&decisions.borrow_and_update());
        let left = until.since(boottime());
        let wanted = if left > Duration::ZERO { decision } else { without_announcements(&decision) };
        told.send_if_modified(|current| {
            let differs = current.generation != wanted.generation || current.announce != wanted.announce;
            if differs {
                *current = wanted;
            }
            differs
        });
        tokio::select! {
            changed = decisions.changed() => if changed.is_err() { return },
            changed = leases.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(left.min(LOOK)), if left > Duration::ZERO => {}
            () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
        }
    }
}

fn without_announcements(decision: &Decision) -> Arc<Decision> {
    Arc::new(Decision { generation: decision.generation, at: decision.at, ..Decision::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decision::Announcement;
    use crate::types::{ExitId, Generation, RouteAttrs};
    use std::collections::BTreeMap;

    fn decision(generation: u64) -> Arc<Decision> {
        let attrs = Arc::new(RouteAttrs::to_next_hop("10.0.1.1".parse().unwrap()));
        let announce =
            BTreeMap::from([("198.18.0.0/24".parse().unwrap(), Announcement { exit: ExitId(0), attrs })]);
        Arc::new(Decision { generation: Generation(generation), announce, ..Decision::default() })
    }

    async fn announced(told: &mut watch::Receiver<Arc<Decision>>, count: usize) -> bool {
        let waited =
            tokio::time::timeout(Duration::from_secs(5), told.wait_for(|now| now.announce.len() == count));
        waited.await.is_ok_and(|result| result.is_ok())
    }

    #[tokio::test]
    async fn announcements_end_with_the_lease_and_return_with_it() {
        let (decisions, decisions_rx) = watch::channel(decision(1));
        let (leases, leases_rx) = watch::channel(Timestamp(0));
        let (told, mut told_rx) = watch::channel(Arc::new(Decision::default()));
        let (stop, stop_rx) = watch::channel(false);
        let relay = tokio::spawn(relay(decisions_rx, leases_rx, told, stop_rx));
        assert!(announced(&mut told_rx, 0).await, "without a lease nothing is told");
        leases.send_replace(boottime() + Duration::from_millis(400));
        assert!(announced(&mut told_rx, 1).await);
        // Nobody renews: that is what a hung decision looks like.
        assert!(announced(&mut told_rx, 0).await, "the lease ended and the announcement stays");
        decisions.send_replace(decision(2));
        leases.send_replace(boottime() + Duration::from_secs(60));
        assert!(announced(&mut told_rx, 1).await);
        leases.send_replace(Timestamp(0));
        assert!(announced(&mut told_rx, 0).await, "an ended lease takes effect at once");
        stop.send_replace(true);
        relay.await.unwrap();
    }
}
