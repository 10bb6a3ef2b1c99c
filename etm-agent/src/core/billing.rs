//! What a provider bills and a link carries, out of what the kernel counts: the one place of all conversions.
//!
//! The kernel counts frames as it hands them to the card: with the Ethernet header, without the four octets of the
//! FCS, without preamble and gap. All others differ by a constant number of octets per packet, so that bytes and
//! packets together give each of them exactly. Never rounds, and never asks what kind of packets there were: what the
//! card pads to 60 octets is counted, and so billed, as it was before.

use crate::types::{BitRate, Count};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Octets of an Ethernet header (IEEE 802.3 clause 3.2: two addresses and the type).
const ETHERNET_HEADER: u8 = 14;
/// Octets of the frame check sequence (clause 3.2.9).
const FCS: i64 = 4;
/// Octets of preamble and start delimiter (clauses 3.2.1, 3.2.2).
const PREAMBLE: i64 = 8;
/// Octets of the shortest gap between two frames (clause 4.4.2).
const GAP: i64 = 12;
/// Octets of a VLAN tag (IEEE 802.1Q clause 9.3).
const TAG: i64 = 4;

/// What of a frame counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer {
    /// The wire's time: frame, FCS, preamble and gap. At 100 % the link is full.
    #[serde(rename = "l1")]
    Wire,
    /// The frame with its FCS, as switches count.
    #[serde(rename = "l2+fcs")]
    FrameWithFcs,
    /// The frame without FCS, as the kernel counts.
    #[default]
    #[serde(rename = "l2")]
    Frame,
    /// The IP packet.
    #[serde(rename = "l3")]
    Packet,
}

impl Layer {
    /// All, the largest first.
    pub const ALL: [Layer; 4] = [Layer::Wire, Layer::FrameWithFcs, Layer::Frame, Layer::Packet];

    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Layer::Wire => "l1",
            Layer::FrameWithFcs => "l2+fcs",
            Layer::Frame => "l2",
            Layer::Packet => "l3",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text names no layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no basis of billing; write \"l1\", \"l2+fcs\", \"l2\" or \"l3\"")]
pub struct LayerError {
    text: String,
}

impl FromStr for Layer {
    type Err = LayerError;

    fn from_str(text: &str) -> Result<Layer, LayerError> {
        let found = Layer::ALL.into_iter().find(|layer| layer.as_str() == text);
        found.ok_or_else(|| LayerError { text: text.to_owned() })
    }
}

/// The basis on which an uplink's rates are shown and compared with its capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Billing {
    /// What of a frame counts.
    pub layer: Layer,
    /// VLAN tags that are billed and that the kernel did not count (the card or a VLAN interface adds them);
    /// below zero: tags that it counted and that are not billed.
    pub tags: i8,
    /// Octets of link header in what the kernel counted: 14, or 0 on interfaces that carry bare IP packets.
    header: u8,
}

impl Default for Billing {
    fn default() -> Billing {
        Billing::new(Layer::default(), 0)
    }
}

impl Billing {
    /// On an Ethernet interface.
    pub const fn new(layer: Layer, tags: i8) -> Billing {
        Billing { layer, tags, header: ETHERNET_HEADER }
    }

    /// On an interface whose packets begin with the IP header: there are no frames, so that all layers are one.
    pub const fn without_header(self) -> Billing {
        Billing { header: 0, ..self }
    }

    /// Octets that each packet has more than the kernel counted; below zero: fewer.
    pub fn octets_per_packet(self) -> i64 {
        if self.header == 0 {
            return 0;
        }
        let layer = match self.layer {
            Layer::Wire => FCS + PREAMBLE + GAP,
            Layer::FrameWithFcs => FCS,
            Layer::Frame => 0,
            Layer::Packet => -i64::from(self.header),
        };
        layer + TAG * i64::from(self.tags)
    }

    /// Bytes that are billed for what the kernel counted.
    pub fn bytes(self, counted: Count) -> u64 {
        let more = i128::from(self.octets_per_packet()) * i128::from(counted.packets);
        let billed = (i128::from(counted.bytes) + more).max(0);
        u64::try_from(billed).unwrap_or(u64::MAX)
    }

    /// The rate that is billed for what the kernel counted within `span`.
    pub fn rate(self, counted: Count, span: Duration) -> BitRate {
        BitRate::from_bytes(self.bytes(counted), span)
    }
}

impl fmt::Display for Billing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tags {
            0 => f.pad(self.layer.as_str()),
            tags => f.pad(&format!("{} {tags:+} tags", self.layer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_is_billed_by_what_the_layer_takes_of_it() {
        // What the kernel counts of a full frame: 14 + 1500; of a full one with one tag in it: 18 + 1500.
        for (title, layer, tags, counted, billed) in [
            ("the kernel's own count", Layer::Frame, 0, 1514, 1514),
            ("1518 octets is the largest frame of IEEE 802.3", Layer::FrameWithFcs, 0, 1514, 1518),
            ("1538 octet times is what it occupies", Layer::Wire, 0, 1514, 1538),
            ("1500 octets is its payload", Layer::Packet, 0, 1514, 1500),
            ("a tag that the card adds", Layer::Frame, 1, 1514, 1518),
            ("QinQ that the card adds, on the wire", Layer::Wire, 2, 1514, 1546),
            ("1522 octets is the largest tagged frame", Layer::FrameWithFcs, 1, 1514, 1522),
            ("a tag that was counted and is not billed", Layer::Frame, -1, 1518, 1514),
            ("the payload of a frame counted with a tag", Layer::Packet, -1, 1518, 1500),
            ("the shortest frame", Layer::Wire, 0, 60, 84),
        ] {
            let billing = Billing::new(layer, tags);
            assert_eq!(billing.bytes(Count { bytes: counted, packets: 1 }), billed, "{title}");
        }
    }

    #[test]
    fn bare_ip_packets_are_the_same_in_every_layer() {
        for layer in Layer::ALL {
            let billing = Billing::new(layer, 1).without_header();
            assert_eq!(billing.bytes(Count { bytes: 1500, packets: 1 }), 1500, "{layer}");
        }
    }

    #[test]
    fn line_rate_in_the_smallest_frames_is_the_whole_of_the_wire() {
        // RFC 2544 section 20 and appendix B: 1,488,095 frames of 64 octets per second fill 1 Gbit/s.
        let counted = Count { bytes: 1_488_095 * 60, packets: 1_488_095 };
        let second = Duration::from_secs(1);
        assert_eq!(Billing::new(Layer::Wire, 0).rate(counted, second), BitRate(999_999_840));
        assert_eq!(Billing::new(Layer::FrameWithFcs, 0).rate(counted, second), BitRate(761_904_640));
        assert_eq!(Billing::new(Layer::Frame, 0).rate(counted, second), BitRate(714_285_600));
        assert_eq!(Billing::new(Layer::Packet, 0).rate(counted, second), BitRate(547_618_960));
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for layer in Layer::ALL {
            assert_eq!(layer.to_string().parse(), Ok(layer));
            assert_eq!(serde_json::to_string(&layer).unwrap(), format!("\"{layer}\""));
        }
        let error = "l4".parse::<Layer>().unwrap_err().to_string();
        assert!(error.contains("`l4`") && error.contains("\"l2+fcs\""), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_billed_does_not_depend_on_how_the_count_is_cut(
            cuts in prop::collection::vec((1u64..1_000, 18u64..9_000), 1..30),
            layer in prop::sample::select(Layer::ALL.to_vec()),
            tags in -1i8..=2,
        ) {
            let billing = Billing::new(layer, tags);
            let parts = cuts.iter().map(|&(packets, size)| Count { bytes: packets * size, packets });
            let whole = parts.clone().fold(Count::default(), |sum, part| sum + part);
            prop_assert_eq!(parts.map(|part| billing.bytes(part)).sum::<u64>(), billing.bytes(whole));
        }
    }
}
