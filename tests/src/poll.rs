//! Waiting for a condition, the lab's only way to wait. Never a bare sleep.

use std::time::{Duration, Instant};

use crate::error::LabError;

/// Time between the first two looks; it grows, so that a long wait does not starve what it waits for.
const FIRST: Duration = Duration::from_millis(5);
/// Longest time between two looks.
const LONGEST: Duration = Duration::from_millis(50);

/// Looks until `look` succeeds, for at most `limit`; its error says what was seen instead.
///
/// # Errors
/// [`LabError::Timeout`] with the last observation.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, LabError> {
    let start = Instant::now();
    let mut interval = FIRST;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(last) if start.elapsed() >= limit => {
                return Err(LabError::Timeout { what: what.to_owned(), waited: start.elapsed(), last });
            }
            Err(_) => {
                std::thread::sleep(interval);
                interval = (interval * 5 / 4).min(LONGEST);
            }
        }
    }
}

/// Lets traffic flow for `span`: the condition waited for is the clock itself.
pub fn pass_time(span: Duration) {
    let start = Instant::now();
    while let Some(left) = span.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::sleep(left);
    }
}
