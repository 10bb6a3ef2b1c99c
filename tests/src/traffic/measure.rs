//! Turns what was sent and what arrived into figures. Pure: maps in, numbers out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::topology::Provider;
use crate::traffic::{Move, Tally};

/// What arrived, by provider and destination.
pub type Arrived = BTreeMap<(Provider, IpAddr), Tally>;

/// Share of the packets sent that did not arrive; 0 when none was sent.
pub fn loss_ratio(sent: &BTreeMap<IpAddr, Tally>, arrived: &Arrived) -> f64 {
    let sent: u64 = sent.values().map(|tally| tally.packets).sum();
    let arrived: u64 = arrived.values().map(|tally| tally.packets).sum();
    if sent == 0 { 0.0 } else { as_f64(sent.saturating_sub(arrived)) / as_f64(sent) }
}

/// Mbit/s of Ethernet frames by provider over a span.
pub fn mbit_per_s(arrived: &Arrived, span: Duration) -> BTreeMap<Provider, f64> {
    let mut sums: BTreeMap<Provider, f64> = Provider::ALL.into_iter().map(|p| (p, 0.0)).collect();
    for ((provider, _), tally) in arrived {
        *sums.entry(*provider).or_default() += as_f64(tally.wire_bytes) * 8e-6 / span.as_secs_f64();
    }
    sums
}

/// The last of the first arrivals by another provider than `left`, over the destinations whose rate is at
/// least `floor` packets/s: of slower ones the next packet itself comes late. `None` while one is missing.
pub fn all_moved_ns(
    rates: &BTreeMap<IpAddr, f64>,
    affected: &[IpAddr],
    moves: &[Move],
    left: Provider,
    floor: f64,
) -> Option<u64> {
    affected
        .iter()
        .filter(|destination| rates.get(destination).is_some_and(|rate| *rate >= floor))
        .map(|destination| {
            moves.iter().find(|m| m.destination == *destination && m.from == Some(left)).map(|m| m.at_ns)
        })
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .max()
}

/// Packets sent after `since_ns` that arrived by another provider than `expected` says. Counts from the
/// history are rounded to its bins, `last_sent` is exact: one late packet is at least one.
pub fn astray(
    arrived_since: &Arrived,
    last_sent: &BTreeMap<(Provider, IpAddr), u64>,
    since_ns: u64,
    expected: impl Fn(IpAddr) -> Option<Provider>,
) -> u64 {
    last_sent
        .iter()
        .filter(|((provider, destination), at)| **at > since_ns && expected(*destination) != Some(*provider))
        .map(|(key, _)| arrived_since.get(key).map_or(0, |tally| tally.packets).max(1))
        .sum()
}

/// Counts of a demo stay far below 2^53.
#[allow(clippy::cast_precision_loss, reason = "exact below 2^53 packets or bytes")]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([198, 18, n, 1])
    }

    fn packets(n: u64) -> Tally {
        Tally { packets: n, ip_bytes: n * 986, wire_bytes: n * 1000 }
    }

    #[test]
    fn loss_is_the_share_of_packets_that_did_not_arrive() {
        let sent = BTreeMap::from([(address(1), packets(60)), (address(2), packets(40))]);
        let arrived = BTreeMap::from([
            ((Provider::Ix, address(1)), packets(60)),
            ((Provider::TransitA, address(2)), packets(30)),
        ]);
        assert!((loss_ratio(&sent, &arrived) - 0.1).abs() < 1e-12);
        assert!(loss_ratio(&BTreeMap::new(), &arrived).abs() < 1e-12);
        let rates = mbit_per_s(&arrived, Duration::from_millis(500));
        assert!((rates[&Provider::Ix] - 0.96).abs() < 1e-12, "{rates:?}");
    }

    #[test]
    fn a_link_is_left_when_the_last_fast_destination_has_left_it() {
        let rates = BTreeMap::from([(address(1), 100.0), (address(2), 200.0), (address(3), 1.0)]);
        let affected = [address(1), address(2), address(3)];
        let go = |n, at_ns| Move {
            destination: address(n),
            from: Some(Provider::TransitB),
            to: Provider::TransitA,
            at_ns,
            sent_ns: at_ns,
        };
        let check = |moves: &[Move], expected| {
            assert_eq!(
                all_moved_ns(&rates, &affected, moves, Provider::TransitB, 50.0),
                expected,
                "{moves:?}"
            );
        };
        check(&[go(1, 10)], None);
        check(&[go(1, 10), go(2, 30)], Some(30));
        check(&[go(1, 10), go(2, 30), go(3, 500)], Some(30));
    }

    #[test]
    fn only_packets_sent_after_the_moment_and_by_the_wrong_provider_are_astray() {
        let expected = |_| Some(Provider::TransitA);
        let key = |provider, n| (provider, address(n));
        let last = BTreeMap::from([
            (key(Provider::TransitA, 1), 900),
            (key(Provider::Ix, 1), 500),
            (key(Provider::Ix, 2), 501),
            (key(Provider::Ix, 3), 800),
        ]);
        let since =
            BTreeMap::from([(key(Provider::TransitA, 1), packets(9)), (key(Provider::Ix, 3), packets(4))]);
        assert_eq!(astray(&since, &last, 500, expected), 5);
    }
}
