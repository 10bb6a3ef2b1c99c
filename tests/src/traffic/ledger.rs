//! Counts of one flow, whole and by time of sending. Pure.

use std::collections::VecDeque;

use crate::traffic::ETHERNET_HEADER;

/// Width of a bin of the history in nanoseconds.
pub const BIN_NS: u64 = 10_000_000;
/// Bins kept: five minutes.
const BINS: usize = 30_000;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes from the IP header on.
    pub ip_bytes: u64,
    /// Bytes of Ethernet frames without FCS.
    pub wire_bytes: u64,
}

impl Tally {
    /// Adds one packet of `ip_bytes`.
    pub fn count(&mut self, ip_bytes: usize) {
        self.packets += 1;
        self.ip_bytes += ip_bytes as u64;
        self.wire_bytes += (ip_bytes + ETHERNET_HEADER) as u64;
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.ip_bytes += other.ip_bytes;
        self.wire_bytes += other.wire_bytes;
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::default(), |mut sum, item| {
            sum += item;
            sum
        })
    }
}

/// Counts of one flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Everything since the start.
    pub total: Tally,
    // (bin number, tally), ascending, only bins with packets.
    bins: VecDeque<(u64, Tally)>,
}

impl Ledger {
    /// Counts one packet sent at `sent_ns`.
    pub fn count(&mut self, sent_ns: u64, ip_bytes: usize) {
        self.total.count(ip_bytes);
        let bin = sent_ns / BIN_NS;
        // Nearly always the last bin; packets overtaken on a change of provider look further back.
        let place = self.bins.iter().rposition(|(b, _)| *b <= bin);
        match place {
            Some(i) if self.bins[i].0 == bin => self.bins[i].1.count(ip_bytes),
            _ => {
                let mut tally = Tally::default();
                tally.count(ip_bytes);
                self.bins.insert(place.map_or(0, |i| i + 1), (bin, tally));
            }
        }
        if self.bins.len() > BINS {
            self.bins.pop_front();
        }
    }

    /// Packets whose bin of sending begins within `from_ns..to_ns`: bounds are rounded to bins, alike
    /// for sender and sink.
    pub fn sent_between(&self, from_ns: u64, to_ns: u64) -> Tally {
        let first = self.bins.partition_point(|(bin, _)| *bin < from_ns.div_ceil(BIN_NS));
        let end = to_ns.div_ceil(BIN_NS);
        self.bins.range(first..).take_while(|(bin, _)| *bin < end).map(|(_, tally)| *tally).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_by_their_time_of_sending_even_when_they_arrive_out_of_order() {
        let mut ledger = Ledger::default();
        for sent_ns in [5, 3 * BIN_NS, BIN_NS + 1, 3 * BIN_NS + 7, BIN_NS] {
            ledger.count(sent_ns, 100);
        }
        let check =
            |from, to, packets| assert_eq!(ledger.sent_between(from, to).packets, packets, "{from}..{to}");
        check(0, 10 * BIN_NS, 5);
        check(0, BIN_NS, 1);
        check(BIN_NS, 2 * BIN_NS, 2);
        check(2 * BIN_NS, 3 * BIN_NS, 0);
        check(3 * BIN_NS, 4 * BIN_NS, 2);
        assert_eq!(ledger.total, Tally { packets: 5, ip_bytes: 500, wire_bytes: 570 });
    }
}
