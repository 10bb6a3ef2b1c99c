//! Points in time as typed: `90s` after the recording's begin, or `2026-11-23T11:30:00Z`. Never reads a clock.

use crate::types::parse_duration;
use std::str::FromStr;

const DAY: u64 = 86_400;
const SECOND_NS: u64 = 1_000_000_000;

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Nanoseconds after the begin of the recording.
    After(u64),
    /// Nanoseconds since 1970 (UTC).
    At(u64),
}

impl Moment {
    /// Nanoseconds since 1970, for a recording that begins at `origin`.
    pub(crate) fn wall_ns(self, origin: u64) -> u64 {
        match self {
            Moment::After(span) => origin.saturating_add(span),
            Moment::At(wall) => wall,
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        let bad = || format!("`{text}` is no time; write 90s (after the begin) or 2026-11-23T11:30:00Z");
        if let Ok(span) = parse_duration(text) {
            return Ok(Moment::After(u64::try_from(span.as_nanos()).map_err(|_| bad())?));
        }
        let (date, time) = text.strip_suffix('Z').and_then(|text| text.split_once('T')).ok_or_else(bad)?;
        let numbers = |text: &str, by: char| -> Option<[u64; 3]> {
            let parts: Vec<u64> = text.split(by).map(|part| part.parse().ok()).collect::<Option<_>>()?;
            parts.try_into().ok()
        };
        let [year, month, day] = numbers(date, '-').ok_or_else(bad)?;
        let [hour, minute, second] = numbers(time, ':').ok_or_else(bad)?;
        let good = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second < 61;
        if !good {
            return Err(bad());
        }
        let seconds = days(year, month, day) * DAY + hour * 3_600 + minute * 60 + second;
        seconds.checked_mul(SECOND_NS).map(Moment::At).ok_or_else(bad)
    }
}

/// Days from 1970 to a date of the Gregorian calendar; the year begins in March, so that the leap day is its last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_years = year * 365 + year / 4 - year / 100 + year / 400;
    of_years + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// `2026-11-23 11:30:00.123Z`.
pub(super) fn shown(wall_ns: u64) -> String {
    let (seconds, millis) = (wall_ns / SECOND_NS, wall_ns / 1_000_000 % 1_000);
    let days = seconds / DAY + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year_of_era + era * 400 + later;
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() {
        for (text, seconds, printed) in [
            ("1970-01-01T00:00:00Z", 0, "1970-01-01 00:00:00.000Z"),
            ("2000-02-29T23:59:59Z", 951_868_799, "2000-02-29 23:59:59.000Z"),
            ("2026-11-23T11:30:00Z", 1_795_433_400, "2026-11-23 11:30:00.000Z"),
            ("2100-03-01T00:00:00Z", 4_107_542_400, "2100-03-01 00:00:00.000Z"),
        ] {
            assert_eq!(text.parse(), Ok(Moment::At(seconds * SECOND_NS)), "{text}");
            assert_eq!(shown(seconds * SECOND_NS), printed);
        }
        assert_eq!("90s".parse(), Ok(Moment::After(90 * SECOND_NS)));
        for text in ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-23T11:30:00", "2026-11-23T24:00:00Z"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
