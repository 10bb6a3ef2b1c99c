//! Which destination gets how much. Pure and without chance: the same call gives the same demand.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::table::Table;
use crate::topology::Provider;
use crate::traffic::Flow;

/// A demand per home provider: the provider the border uses for the destination without ETM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    /// Mbit/s of Ethernet frames towards destinations whose home is the key.
    pub mbit_per_s: BTreeMap<Provider, f64>,
}

impl Demand {
    /// Mbit/s by home: transit-a, transit-b, ix.
    pub fn by_home(transit_a: f64, transit_b: f64, ix: f64) -> Self {
        let values = [(Provider::TransitA, transit_a), (Provider::TransitB, transit_b), (Provider::Ix, ix)];
        Self { mbit_per_s: values.into_iter().collect() }
    }

    /// One flow per prefix of the table, Zipf with exponent 1 within each home, in a fixed shuffled order
    /// so that size is not tied to the prefix's place in the table.
    pub fn flows(&self, table: &Table, frame: usize) -> Vec<Flow> {
        let mut flows = Vec::new();
        for provider in Provider::ALL {
            let mbit = self.mbit_per_s.get(&provider).copied().unwrap_or(0.0);
            let mut prefixes: Vec<IpNet> = table
                .announcements
                .iter()
                .filter(|a| a.providers.first() == Some(&provider))
                .map(|a| a.prefix)
                .collect();
            prefixes.sort_by_key(|prefix| scramble(&prefix.to_string()));
            let weights = zipf(prefixes.len(), 1.0);
            let packets_per_s = mbit * 1e6 / 8.0 / f64::from(u32::try_from(frame).unwrap_or(u32::MAX));
            for (prefix, weight) in prefixes.iter().zip(weights) {
                if let Some(destination) = table.address_in(*prefix) {
                    flows.push(Flow { destination, packets_per_s: packets_per_s * weight });
                }
            }
        }
        flows
    }
}

/// Weights 1, 1/2^s, 1/3^s ..., scaled to a sum of 1.
pub fn zipf(n: usize, exponent: f64) -> Vec<f64> {
    let raw: Vec<f64> = (1_u32..).take(n).map(|rank| f64::from(rank).powf(-exponent)).collect();
    let sum: f64 = raw.iter().sum();
    raw.into_iter().map(|weight| weight / sum).collect()
}

/// FNV-1a: a fixed seed for the order, without a dependency.
fn scramble(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flows_of_each_home_add_up_to_its_demand() {
        let table = Table::standard();
        let demand = Demand::by_home(36.0, 10.0, 6.0);
        let flows = demand.flows(&table, 1000);
        assert_eq!(flows.len(), table.announcements.len());
        for (provider, mbit) in &demand.mbit_per_s {
            let sum: f64 = flows
                .iter()
                .filter(|flow| table.home(flow.destination).is_some_and(|(_, home)| home == *provider))
                .map(|flow| flow.packets_per_s * 8000.0 / 1e6)
                .sum();
            assert!((sum - mbit).abs() < 1e-6, "{provider}: {sum}");
        }
    }
}
