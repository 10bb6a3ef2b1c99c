//! How many routes may be announced now: a bucket that refills with time. Never holds a withdrawal back: that undoes an
//! effect, and must not wait.

use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Pause between two turns of a decision that does not go out at once.
const TURN: Duration = Duration::from_millis(20);

/// The announcements of one session.
#[derive(Debug)]
pub(super) struct Pace {
    /// Per second, and at once after a second of silence.
    rate: u32,
    room: u32,
    filled: Instant,
}

impl Pace {
    pub(super) fn new(rate: u32, now: Instant) -> Pace {
        Pace { rate: rate.max(1), room: rate.max(1), filled: now }
    }

    /// How many may go out now.
    pub(super) fn room(&mut self, now: Instant) -> usize {
        let elapsed = now.saturating_duration_since(self.filled).min(Duration::from_secs(1));
        let more = u128::from(self.rate) * elapsed.as_micros() / 1_000_000;
        if let (Ok(more), true) = (u32::try_from(more), more > 0) {
            self.room = self.room.saturating_add(more).min(self.rate);
            self.filled = now;
        }
        usize::try_from(self.room).unwrap_or(usize::MAX)
    }

    /// So many went out.
    pub(super) fn take(&mut self, count: usize) {
        self.room = self.room.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Waits for the next turn.
    pub(super) async fn turn(&self) {
        sleep(TURN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_a_second_and_refills_with_time() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        assert_eq!(pace.room(start), 1000);
        pace.take(1000);
        assert_eq!(pace.room(start), 0);
        let later = start + Duration::from_millis(100);
        assert_eq!(pace.room(later), 100);
        assert_eq!(pace.room(later + Duration::from_secs(60)), 1000);
    }
}
