//! The one clock of the process: CLOCK_BOOTTIME, which the kernel compares leases with. Wall-clock steps do not touch it.

use crate::types::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Now.
pub fn boottime() -> Timestamp {
    // Every kernel that loads our programs has this clock; zero makes every lease expire, the safe side.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Timestamp(0), |now| {
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        Timestamp(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0))
    })
}
