//! Quantities with their unit in the type. Integers only: rates must be equal on every machine.
//! Never guesses a unit: a text whose unit is ambiguous is refused with the way to write it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// `bps`, `Mbps` and so on: tc(8) reads them as bytes, people as bits.
    #[error(
        "`{text}`: `{unit}` means bytes to tc(8) and bits to people; write bit, kbit, Mbit, Gbit or Tbit (per second)"
    )]
    Ambiguous {
        /// The text given.
        text: String,
        /// Its unit.
        unit: String,
    },
    /// Not a rate at all.
    #[error("`{text}` is not a rate; write it like 10Gbit, 9.5Gbit or 100Mbit")]
    Rate {
        /// The text given.
        text: String,
    },
    /// Not a share between 0 and 1.
    #[error("`{text}` is not a share; write it like 90% or 97.5%")]
    Share {
        /// The text given.
        text: String,
    },
    /// Not an amount of money.
    #[error("`{text}` is not a price; write it like 0.35, with at most six decimals and no currency")]
    Price {
        /// The text given.
        text: String,
    },
    /// Not a duration.
    #[error("`{text}` is not a duration; write it like 200ms, 1s, 5m or 6h")]
    Duration {
        /// The text given.
        text: String,
    },
}

/// Bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BitRate(pub u64);

impl BitRate {
    /// Nothing.
    pub const ZERO: BitRate = BitRate(0);

    /// The rate of `bytes` over `span`; zero for an empty span.
    pub fn from_bytes(bytes: u64, span: Duration) -> BitRate {
        let nanos = span.as_nanos();
        if nanos == 0 {
            return BitRate::ZERO;
        }
        let bits = u128::from(bytes) * 8 * 1_000_000_000 / nanos;
        BitRate(u64::try_from(bits).unwrap_or(u64::MAX))
    }

    /// `share` of this rate, rounded down.
    pub fn scaled(self, share: Share) -> BitRate {
        let bits = u128::from(self.0) * u128::from(share.0) / 1_000_000;
        BitRate(u64::try_from(bits).unwrap_or(u64::MAX))
    }

    /// `self - other`, not below zero.
    pub fn saturating_sub(self, other: BitRate) -> BitRate {
        BitRate(self.0.saturating_sub(other.0))
    }

    /// This rate as a share of `whole` (may exceed 1); zero where `whole` is zero.
    pub fn share_of(self, whole: BitRate) -> Share {
        if whole.0 == 0 {
            return Share(0);
        }
        let ppm = u128::from(self.0) * 1_000_000 / u128::from(whole.0);
        Share(u32::try_from(ppm).unwrap_or(u32::MAX))
    }
}

impl Add for BitRate {
    type Output = BitRate;
    fn add(self, other: BitRate) -> BitRate {
        BitRate(self.0.saturating_add(other.0))
    }
}

impl AddAssign for BitRate {
    fn add_assign(&mut self, other: BitRate) {
        *self = *self + other;
    }
}

impl std::iter::Sum for BitRate {
    fn sum<I: Iterator<Item = BitRate>>(iter: I) -> BitRate {
        iter.fold(BitRate::ZERO, Add::add)
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [
            (1_000_000_000_000, "Tbit/s"),
            (1_000_000_000, "Gbit/s"),
            (1_000_000, "Mbit/s"),
            (1_000, "kbit/s"),
        ];
        for (size, unit) in UNITS {
            if self.0 >= size {
                let (whole, milli) = (self.0 / size, (self.0 % size) * 1_000 / size);
                let text = match whole {
                    100.. => format!("{whole} {unit}"),
                    10.. => format!("{whole}.{} {unit}", milli / 100),
                    _ => format!("{whole}.{:02} {unit}", milli / 10),
                };
                return f.pad(&text);
            }
        }
        f.pad(&format!("{} bit/s", self.0))
    }
}

impl FromStr for BitRate {
    type Err = UnitError;

    /// Accepts `10Gbit`, `9.5 Gbit/s`, `10G` and a plain number of bits per second; SI prefixes.
    fn from_str(text: &str) -> Result<BitRate, UnitError> {
        let bad = || UnitError::Rate { text: text.to_owned() };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim();
        if unit.to_ascii_lowercase().ends_with("bps") {
            return Err(UnitError::Ambiguous { text: text.to_owned(), unit: unit.to_owned() });
        }
        let unit = unit.strip_suffix("/s").unwrap_or(unit);
        let scale: u64 = match unit.strip_suffix("bit").unwrap_or(unit) {
            "" => 1,
            "k" | "K" => 1_000,
            "m" | "M" => 1_000_000,
            "g" | "G" => 1_000_000_000,
            "t" | "T" => 1_000_000_000_000,
            _ => return Err(bad()),
        };
        decimal(number, scale).map(BitRate).ok_or_else(bad)
    }
}

/// `number` (digits with at most one point) times `scale`, exactly; none if a digit would be lost.
pub(super) fn decimal(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let mut value = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let mut digit_scale = scale;
    for digit in fraction.chars() {
        if !digit_scale.is_multiple_of(10) {
            return None;
        }
        digit_scale /= 10;
        value = value.checked_add(u64::from(digit.to_digit(10)?).checked_mul(digit_scale)?)?;
    }
    Some(value)
}

/// A share in parts per million; 1,000,000 is the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(pub u32);

impl Share {
    /// The whole.
    pub const ONE: Share = Share(1_000_000);

    /// `percent` of the whole.
    pub const fn percent(percent: u32) -> Share {
        Share(percent * 10_000)
    }
}

impl Sub for Share {
    type Output = Share;
    fn sub(self, other: Share) -> Share {
        Share(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:01} %", self.0 / 10_000, (self.0 % 10_000) / 1_000))
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Share, UnitError> {
        let bad = || UnitError::Share { text: text.to_owned() };
        let number = text.trim().strip_suffix('%').ok_or_else(bad)?.trim();
        let ppm = decimal(number, 10_000).ok_or_else(bad)?;
        u32::try_from(ppm).map(Share).map_err(|_| bad())
    }
}

/// A part of the flows of a prefix, in 256ths: what the weights of two next hops in the kernel can say. 256 is all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlowShare(u16);

impl FlowShare {
    /// All flows.
    pub const ALL: FlowShare = FlowShare(256);
    /// The smallest part that is worth a route: a sixteenth.
    pub const LEAST: FlowShare = FlowShare(16);
    /// The largest part that is not all: fifteen sixteenths.
    pub const MOST: FlowShare = FlowShare(240);

    /// So many 256ths; none outside of `LEAST` to `MOST`.
    pub fn part(of_256: u16) -> Option<FlowShare> {
        (FlowShare::LEAST.0..=FlowShare::MOST.0).contains(&of_256).then_some(FlowShare(of_256))
    }

    /// True where it is not all.
    pub fn is_part(self) -> bool {
        self < FlowShare::ALL
    }

    /// In 256ths.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The flows that it leaves, in 256ths.
    pub fn rest(self) -> u16 {
        256 - self.0
    }

    /// This part of a rate.
    pub fn of(self, rate: BitRate) -> BitRate {
        let part = u128::from(rate.0) * u128::from(self.0) / 256;
        BitRate(u64::try_from(part).unwrap_or(u64::MAX))
    }

    /// In parts per million.
    pub fn ppm(self) -> Share {
        Share(u32::from(self.0) * 15_625 / 4)
    }
}

impl Default for FlowShare {
    fn default() -> FlowShare {
        FlowShare::ALL
    }
}

impl fmt::Display for FlowShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ppm().fmt(f)
    }
}

/// Reads `200ms`, `1s`, `5m`, `6h`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let bad = || UnitError::Duration { text: text.to_owned() };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let (number, unit) = trimmed.split_at(split);
    let nanos: u64 = match unit.trim() {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(bad()),
    };
    decimal(number, nanos).map(Duration::from_nanos).ok_or_else(bad)
}

/// A cumulative pair of bytes and packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Bytes, in the basis its source states.
    pub bytes: u64,
    /// Packets; a segmented super-packet counts as its segments.
    pub packets: u64,
}

impl Count {
    /// What was added since `before`; a counter that went backwards restarted from zero.
    pub fn since(self, before: Count) -> Count {
        Count {
            bytes: self.bytes.checked_sub(before.bytes).unwrap_or(self.bytes),
            packets: self.packets.checked_sub(before.packets).unwrap_or(self.packets),
        }
    }
}

impl Add for Count {
    type Output = Count;
    fn add(self, other: Count) -> Count {
        Count {
            bytes: self.bytes.wrapping_add(other.bytes),
            packets: self.packets.wrapping_add(other.packets),
        }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        *self = *self + other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits_with_si_prefixes() {
        for (text, bits) in [
            ("10Gbit", 10_000_000_000),
            ("10G", 10_000_000_000),
            ("9.5 Gbit/s", 9_500_000_000),
            ("50Mbit", 50_000_000),
            ("64kbit", 64_000),
            ("1200", 1200),
        ] {
            assert_eq!(text.parse::<BitRate>(), Ok(BitRate(bits)), "{text}");
        }
    }

    #[test]
    fn bytes_and_bits_are_never_confused() {
        for text in ["10Gbps", "10mbps", "10 bps", "1GBps"] {
            assert!(matches!(text.parse::<BitRate>(), Err(UnitError::Ambiguous { .. })), "{text}");
        }
        for text in ["", "G", "10Gb", "1.5.2G", "-1G", "1.G", "0.1bit", "99999999999999999999"] {
            assert!(matches!(text.parse::<BitRate>(), Err(UnitError::Rate { .. })), "{text}");
        }
    }

    #[test]
    fn shown_rates_keep_three_digits() {
        for (bits, text) in [
            (9_470_000_000, "9.47 Gbit/s"),
            (47_500_000, "47.5 Mbit/s"),
            (123_456_789, "123 Mbit/s"),
            (12, "12 bit/s"),
        ] {
            assert_eq!(BitRate(bits).to_string(), text);
        }
    }

    #[test]
    fn shares_and_durations_parse() {
        assert_eq!("97.5%".parse::<Share>(), Ok(Share(975_000)));
        assert!("0.9".parse::<Share>().is_err());
        assert_eq!(BitRate(50_000_000).scaled(Share::percent(90)), BitRate(45_000_000));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("6h"), Ok(Duration::from_secs(21_600)));
        assert!(parse_duration("5").is_err());
    }

    #[test]
    fn a_part_of_flows_is_within_bounds_and_says_what_it_leaves() {
        assert_eq!([15, 16, 240, 241].map(|of| FlowShare::part(of).is_some()), [false, true, true, false]);
        let half = FlowShare::part(128).unwrap();
        assert!(half.is_part() && !FlowShare::ALL.is_part());
        assert_eq!(
            (half.rest(), half.of(BitRate(70_000_001)), half.ppm()),
            (128, BitRate(35_000_000), Share::percent(50))
        );
        assert_eq!(FlowShare::ALL.of(BitRate(u64::MAX)), BitRate(u64::MAX));
        assert_eq!(FlowShare::ALL.ppm(), Share::ONE);
    }

    #[test]
    fn a_counter_that_restarts_is_not_negative_traffic() {
        let before = Count { bytes: 100, packets: 10 };
        assert_eq!(Count { bytes: 40, packets: 4 }.since(before), Count { bytes: 40, packets: 4 });
    }

    #[test]
    fn a_rate_is_bits_over_the_real_span() {
        assert_eq!(BitRate::from_bytes(1_000, Duration::from_millis(500)), BitRate(16_000));
        assert_eq!(BitRate::from_bytes(1_000, Duration::ZERO), BitRate::ZERO);
    }
}
