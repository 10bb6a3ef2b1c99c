//! What the data does not say, assumed: capacities, prices, popularity. The same numbers each time.

use etm_agent::core::plan::model::{Node, Prices, Rules, Tier};

/// All traffic of the static cases and the peak of the series, bit/s.
pub(super) const TOTAL_BPS: f64 = 100e9;
/// Share of a port's capacity above which it is overloaded.
pub(super) const LIMIT: f64 = 0.9;
/// Currency per Mbit/s and month for each AS that a path is longer than the shortest.
pub(super) const HOP_PRICE: f64 = 0.02;
/// Currency per Mbit/s and month for moving.
const MOVE_PRICE: f64 = 0.01;
/// Exponent of the popularity of prefixes.
const ZIPF: f64 = 1.0;
/// Mixed into the order of prefixes by popularity.
const SEED: &str = "etm views 1";
/// First prices by provider, in the order of a view's columns: currency per Mbit/s and month, up to half the limit.
const PRICES: [f64; 8] = [0.60, 0.45, 0.50, 0.30, 0.20, 0.65, 0.70, 0.35];
/// What the rest costs, as a multiple of the first price.
const SECOND: f64 = 1.5;

/// Equal ports whose limits together carry the traffic `1 / pressure` times.
pub(super) fn ports(providers: &[String], pressure: f64) -> Vec<Node> {
    let count = f64::from(u32::try_from(providers.len()).unwrap_or(u32::MAX));
    let limit_bps = TOTAL_BPS / pressure / count;
    let port = |(at, name): (usize, &String)| {
        let price = PRICES[at % PRICES.len()];
        Node {
            name: name.clone(),
            limit_bps,
            ceiling_bps: f64::INFINITY,
            base_bps: 0.0,
            tiers: vec![
                Tier { up_to_bps: Some(limit_bps / 2.0), price_per_mbps: price },
                Tier { up_to_bps: None, price_per_mbps: price * SECOND },
            ],
            group: None,
        }
    };
    providers.iter().enumerate().map(port).collect()
}

pub(super) fn prices() -> Prices {
    Prices { move_per_mbps: MOVE_PRICE, ..Prices::default() }
}

pub(super) fn rules() -> Rules {
    Rules { min_saving_share: 0.005, ..Rules::default() }
}

/// Currency per month for loads of bit/s.
pub(super) fn money(ports: &[Node], loads: &[f64]) -> f64 {
    ports.iter().zip(loads).map(|(port, load)| of_port(port, *load)).sum()
}

fn of_port(port: &Node, load: f64) -> f64 {
    let (mut from, mut sum) = (0.0, 0.0);
    for tier in &port.tiers {
        let to = tier.up_to_bps.unwrap_or(f64::INFINITY).min(load);
        sum += (to - from).max(0.0) / 1e6 * tier.price_per_mbps;
        from = tier.up_to_bps.unwrap_or(f64::INFINITY);
    }
    sum
}

/// Load above limits, bit/s.
pub(super) fn overload(ports: &[Node], loads: &[f64]) -> f64 {
    ports.iter().zip(loads).map(|(port, load)| (load - port.limit_bps).max(0.0)).sum()
}

/// Highest load as a share of its port's capacity.
pub(super) fn peak(ports: &[Node], loads: &[f64]) -> f64 {
    ports.iter().zip(loads).map(|(port, load)| load / port.limit_bps * LIMIT).fold(0.0, f64::max)
}

/// A share for each name; which is popular does not depend on the names' order.
pub(super) fn popularity(names: &[String]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|at| scramble(&names[*at]));
    let mut shares = vec![0.0; names.len()];
    for (rank, at) in (1_u32..).zip(order) {
        shares[at] = f64::from(rank).powf(-ZIPF);
    }
    let sum: f64 = shares.iter().sum();
    shares.iter().map(|share| share / sum).collect()
}

/// FNV-1a.
fn scramble(text: &str) -> u64 {
    let bytes = SEED.bytes().chain(text.bytes());
    let sum = bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The low bits of similar texts are similar.
    sum ^ (sum >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
