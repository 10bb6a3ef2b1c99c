//! Prices as integers, so that equal configurations are equal everywhere. Never a currency of its own: the operator's.

use super::units::{UnitError, decimal};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An amount of the operator's currency, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Price(pub u64);

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl FromStr for Price {
    type Err = UnitError;

    /// Accepts `0.35`, `12` and the like; at most six decimals.
    fn from_str(text: &str) -> Result<Price, UnitError> {
        let bad = || UnitError::Price { text: text.to_owned() };
        decimal(text.trim(), 1_000_000).map(Price).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_and_written_exactly() {
        for (text, micro) in [("0.35", 350_000), ("12", 12_000_000), ("0.000001", 1), ("0", 0)] {
            let price: Price = text.parse().unwrap();
            assert_eq!((price.0, price.to_string()), (micro, text.to_owned()));
        }
        for text in ["", "-1", "0.0000001", "1 EUR", "1,5"] {
            assert!(text.parse::<Price>().unwrap_err().to_string().contains("is not a price"), "{text}");
        }
    }
}
