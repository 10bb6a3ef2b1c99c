//! What the oracle of a set of captures says of each frame, and what that means for counting.
//!
//! The oracle is another program's dissection. Where it sees more than what may be counted by the standards, or
//! less, the frame is a deliberate exception; all kinds of them are in `EXCEPTIONS`, with their reason. Never looks
//! at the frame's octets: they are what is judged.

use etm_agent::core::input::Uncounted;
use std::net::IpAddr;

/// One row of FACTS.tsv, as far as it matters.
pub(crate) struct Fact {
    /// Name of the capture.
    pub(crate) file: String,
    /// Number of the frame in it, from 1.
    pub(crate) frame: usize,
    /// Octets on the wire.
    pub(crate) len: usize,
    /// Octets captured.
    pub(crate) captured: usize,
    /// Outermost IPv4 destination.
    v4: Option<IpAddr>,
    /// Outermost IPv6 destination.
    v6: Option<IpAddr>,
    /// Layers, outermost first.
    pub(crate) layers: Vec<String>,
    /// Whether the oracle found anything wrong, in any layer.
    malformed: bool,
    /// Entries of the MPLS label stack.
    labels: usize,
}

impl Fact {
    /// From a line of FACTS.tsv.
    pub(crate) fn parse(line: &str) -> Fact {
        let fields: Vec<&str> = line.split('\t').collect();
        let first = |field: usize| fields[field].split(';').next().and_then(|text| text.parse().ok());
        Fact {
            file: fields[0].to_owned(),
            frame: fields[1].parse().unwrap(),
            len: fields[2].parse().unwrap(),
            captured: fields[3].parse().unwrap(),
            v4: first(6),
            v6: first(10),
            layers: fields[13].split(':').map(str::to_owned).collect(),
            malformed: !fields[14].is_empty(),
            labels: fields[5].split(';').filter(|label| !label.is_empty()).count(),
        }
    }

    /// The layers before the outermost IP header, and its destination; none where there is no IP.
    fn outermost(&self) -> Option<(&[String], Option<IpAddr>)> {
        let at = self.layers.iter().position(|layer| layer == "ip" || layer == "ipv6")?;
        Some((&self.layers[..at], if self.layers[at] == "ip" { self.v4 } else { self.v6 }))
    }

    /// The destination of the outermost IP header that the oracle saw.
    pub(crate) fn destination(&self) -> Option<IpAddr> {
        self.outermost()?.1
    }

    /// What is to be counted, and the exception that it is due to, if any.
    pub(crate) fn expected(&self) -> (Result<IpAddr, Uncounted>, Option<&'static Exception>) {
        match EXCEPTIONS.iter().find(|exception| (exception.applies)(self)) {
            Some(exception) => (Err(exception.counted), Some(exception)),
            None => match self.outermost() {
                None => (Err(Uncounted::NonIp), None),
                Some((_, Some(destination))) => (Ok(destination), None),
                // The header begins, and ends before its destination.
                Some((_, None)) => (Err(Uncounted::Malformed), None),
            },
        }
    }

    fn before_ip(&self, layer: &str) -> usize {
        let before = self.outermost().map_or(&self.layers[..], |(before, _)| before);
        before.iter().filter(|name| *name == layer).count()
    }
}

/// A kind of frames that are not counted as the oracle's words suggest.
pub(crate) struct Exception {
    /// Which, and why.
    pub(crate) reason: &'static str,
    counted: Uncounted,
    applies: fn(&Fact) -> bool,
}

/// All kinds. Also in docs/parsing.md.
pub(crate) const EXCEPTIONS: [Exception; 5] = [
    Exception {
        reason: "more than two VLAN tags in the packet are not looked through",
        counted: Uncounted::NonIp,
        applies: |fact| fact.before_ip("vlan") > 2,
    },
    Exception {
        reason: "FabricPath is a switch fabric's own header, not a standard",
        counted: Uncounted::NonIp,
        applies: |fact| fact.before_ip("cfp") > 0,
    },
    Exception {
        reason: "a pseudowire carries frames of another network, whose destinations are not routed here",
        counted: Uncounted::NonIp,
        applies: |fact| fact.before_ip("pwethheuristic") > 0,
    },
    Exception {
        reason: "more than eight MPLS labels are not looked through",
        counted: Uncounted::NonIp,
        applies: |fact| fact.labels > 8,
    },
    Exception {
        reason: "an IP type before a header of no such version is malformed; the oracle calls it data",
        counted: Uncounted::Malformed,
        applies: |fact| fact.malformed && fact.layers == ["eth", "ethertype", "data"],
    },
];
