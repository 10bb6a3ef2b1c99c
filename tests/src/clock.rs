//! The one clock of the lab: boot time, the clock ETM stamps its decision log and its lease with.

use nix::time::ClockId;

/// Nanoseconds since boot (`CLOCK_BOOTTIME`).
pub fn boottime_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

/// Nanoseconds since 1970 (`CLOCK_REALTIME`); only to convert the kernel's packet stamps.
pub fn realtime_ns() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

/// Milliseconds from `from_ns` to `to_ns`, negative when `to_ns` is earlier.
pub fn millis_between(from_ns: u64, to_ns: u64) -> f64 {
    let (sign, span) = if to_ns >= from_ns { (1.0, to_ns - from_ns) } else { (-1.0, from_ns - to_ns) };
    sign * std::time::Duration::from_nanos(span).as_secs_f64() * 1e3
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist in every kernel the lab runs on, so a failure has no meaning but "no time".
    let now = clock.now().map(std::time::Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
