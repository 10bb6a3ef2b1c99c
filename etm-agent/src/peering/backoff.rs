//! How long to wait before the next attempt: doubling, bounded, with jitter. Never reads a clock or draws a random
//! number: the seed is handed in, and the same seed waits the same way.

use std::time::Duration;

/// The pauses of one session.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
    state: u64,
}

impl Backoff {
    pub(super) fn new(least: Duration, most: Duration, seed: u64) -> Backoff {
        // The generator never leaves zero.
        Backoff { least, most, next: least, state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    /// The session was steady: its end is followed by the shortest pause.
    pub(super) fn reset(&mut self) {
        self.next = self.least;
    }

    /// The next pause, three quarters to all of its nominal length (RFC 4271 section 10).
    pub(super) fn pause(&mut self) -> Duration {
        let nominal = self.next;
        self.next = nominal.saturating_mul(2).min(self.most);
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let thousandths = 750 + u32::try_from(self.state % 251).unwrap_or(0);
        nominal.saturating_mul(thousandths) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound_and_begin_anew_after_a_steady_session() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 10, 7);
        for nominal in [1, 2, 4, 8, 10, 10] {
            let pause = backoff.pause();
            assert!(pause <= second * nominal && pause >= second * nominal * 3 / 4, "{pause:?} of {nominal}");
        }
        backoff.reset();
        assert!(backoff.pause() <= second);
    }

    #[test]
    fn sessions_of_one_start_do_not_stay_in_step_and_each_is_repeatable() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10), seed);
            (0..4).map(|_| backoff.pause()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
    }
}
