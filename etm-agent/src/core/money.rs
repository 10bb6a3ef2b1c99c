//! The operator's interfaces, ports, providers and prices as the planner's tree of nodes. Knows no load and no route.
//!
//! An exit is a leaf. Above it come, where they mean anything: its provider's contract, its interface, the ports around
//! that. An interface with one exit is that exit. A provider whose contract covers several interfaces stands above them.

use super::plan::model::{Model, ModelError, Node, Prices, Rules, Tier};
use super::policy::{Contract, Policy};
use crate::types::{BitRate, ExitId, Price, Share, UplinkId};
use std::time::Duration;

/// A month, for prices per month.
const MONTH: Duration = Duration::from_secs(730 * 3600);
/// Overload costs this many times the dearest detour where the operator names no price.
const OVERLOAD: f64 = 100.0;
/// While there is overload a move costs this many times the dearest detour: nothing moves for money then.
const HASTE: f64 = 10.0;

/// Why interfaces, ports and contracts are no tree.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TreeError {
    /// A contract over several interfaces, one of which other providers use too, or that are in different ports.
    #[error(
        "provider `{provider}`: its contract covers several interfaces, which other providers or ports share in part; give the prices at the interfaces"
    )]
    Crossing {
        /// The provider.
        provider: String,
    },
    /// Tiers or groups that the planner refuses.
    #[error("{0}")]
    Model(#[from] ModelError),
    /// Overload would be cheaper than a detour.
    #[error(
        "an overload price of {price} is less than 10 times the largest difference of price between exits: relief would not come first; give at least {least:.6}"
    )]
    Overload {
        /// As given.
        price: Price,
        /// The least.
        least: f64,
    },
}

/// What a node is limited to, bit/s; infinite where nothing limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Marks {
    /// Above this it is overloaded.
    pub limit: f64,
    /// Once overloaded it is relieved to this, midway between the others: a load that wavers by a hundredth about what was
    /// planned must not touch the limit, or the next second would be the next overload.
    pub relief: f64,
    /// Up to this ETM may fill it.
    pub fill: f64,
}

const NO_MARKS: Marks = Marks { limit: f64::INFINITY, relief: f64::INFINITY, fill: f64::INFINITY };

/// Nodes of the planner: exits first, in order of `ExitId`, then interfaces, ports and contracts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    nodes: Vec<Node>,
    marks: Vec<Marks>,
    exits: usize,
    of_uplink: Vec<usize>,
    paths: Vec<Vec<usize>>,
    spread: f64,
    priced: bool,
}

/// A rate as a real number: exact below 2^53.
pub fn real(rate: BitRate) -> f64 {
    rate.0 as f64
}

/// A price as a real number.
pub fn amount(price: Price) -> f64 {
    price.0 as f64 / 1e6
}

fn marks(capacity: BitRate, limit: Share, headroom: Share) -> Marks {
    Marks {
        limit: real(capacity.scaled(limit)),
        relief: real(capacity.scaled(limit - Share(headroom.0 / 2))),
        fill: real(capacity.scaled(limit - headroom)),
    }
}

/// Tiers of a contract; what is paid for anyhow costs nothing more.
fn tiers(contract: &Contract) -> Vec<Tier> {
    let mut tiers: Vec<Tier> = Vec::new();
    if contract.tiers.is_empty() {
        return tiers;
    }
    let commit = contract.commit;
    if commit > BitRate::ZERO {
        tiers.push(Tier { up_to_bps: Some(real(commit)), price_per_mbps: 0.0 });
    }
    for tier in contract.tiers.iter().filter(|tier| tier.up_to.is_none_or(|end| end > commit)) {
        tiers.push(Tier { up_to_bps: tier.up_to.map(real), price_per_mbps: amount(tier.price) });
    }
    tiers
}

/// What a commitment costs each month, used or not.
fn committed(contract: &Contract) -> f64 {
    let (mut cost, mut from) = (0.0, 0.0);
    for tier in &contract.tiers {
        let end = tier.up_to.map_or(f64::INFINITY, real).min(real(contract.commit));
        cost += (end - from).max(0.0) / 1e6 * amount(tier.price);
        from = end.max(from);
    }
    cost
}

impl Tree {
    /// The tree of a configuration.
    pub fn new(policy: &Policy) -> Result<Tree, TreeError> {
        let exits = policy.exits.len();
        let mut tree = Tree {
            nodes: policy.exits.iter().map(|exit| plain(&exit.name)).collect(),
            marks: vec![NO_MARKS; exits],
            exits,
            of_uplink: Vec::new(),
            paths: Vec::new(),
            spread: 0.0,
            priced: false,
        };
        let ports: Vec<usize> = policy
            .ports
            .iter()
            .map(|port| {
                let marks = marks(port.capacity, port.limit, port.headroom);
                tree.group(&port.name, marks, tiers(&port.contract))
            })
            .collect();
        for (at, port) in policy.ports.iter().enumerate() {
            tree.nodes[ports[at]].group =
                port.inside.and_then(|inside| ports.get(inside)).map(|at| at - exits);
        }
        tree.uplinks(policy, &ports);
        tree.providers(policy)?;
        // The planner's own checks: ascending tiers, prices that never fall, a tree.
        let (leaves, groups) = tree.nodes.split_at(exits);
        Model::new(leaves.to_vec(), groups.to_vec(), Prices::default(), Rules::default())?;
        tree.paths = (0..tree.nodes.len()).map(|node| tree.chain(node)).collect();
        tree.priced = tree.nodes.iter().any(|node| !node.tiers.is_empty());
        tree.spread = tree.find_spread(policy);
        if let Some(price) = policy.prices.overload
            && amount(price) < 10.0 * tree.spread
        {
            return Err(TreeError::Overload { price, least: 10.0 * tree.spread });
        }
        Ok(tree)
    }

    /// The tree; where the configuration gives none (it is refused before an agent runs), exits alone and the reason.
    pub fn or_bare(policy: &Policy) -> (Tree, Option<String>) {
        match Tree::new(policy) {
            Ok(tree) => (tree, None),
            Err(error) => {
                let nodes: Vec<Node> = policy.exits.iter().map(|exit| plain(&exit.name)).collect();
                let (exits, paths) = (nodes.len(), (0..nodes.len()).map(|exit| vec![exit]).collect());
                let of_uplink = Vec::new();
                let marks = vec![NO_MARKS; exits];
                (
                    Tree { nodes, marks, exits, of_uplink, paths, spread: 0.0, priced: false },
                    Some(error.to_string()),
                )
            }
        }
    }

    fn group(&mut self, name: &str, marks: Marks, tiers: Vec<Tier>) -> usize {
        self.nodes.push(Node { tiers, ..plain(name) });
        self.marks.push(marks);
        self.nodes.len() - 1
    }

    fn uplinks(&mut self, policy: &Policy, ports: &[usize]) {
        for (index, uplink) in policy.uplinks.iter().enumerate() {
            let exits: Vec<usize> =
                (0..self.exits).filter(|exit| policy.exits[*exit].uplink.index() == index).collect();
            let marks = marks(uplink.capacity, uplink.limit, uplink.headroom);
            let tiers = tiers(&uplink.contract);
            let contract = |exit: &usize| policy.providers.get(policy.exits[*exit].provider.index());
            let node = match exits[..] {
                [exit] if tiers.is_empty() || contract(&exit).is_none_or(|p| p.contract.tiers.is_empty()) => {
                    self.nodes[exit].tiers = tiers;
                    self.marks[exit] = marks;
                    exit
                }
                _ => self.group(&uplink.name, marks, tiers),
            };
            for exit in exits.into_iter().filter(|exit| *exit != node) {
                self.nodes[exit].group = Some(node - self.exits);
            }
            self.nodes[node].group = uplink.port.and_then(|port| ports.get(port)).map(|at| at - self.exits);
            self.of_uplink.push(node);
        }
    }

    fn providers(&mut self, policy: &Policy) -> Result<(), TreeError> {
        for (index, provider) in policy.providers.iter().enumerate() {
            let tiers = tiers(&provider.contract);
            let exits: Vec<usize> =
                (0..self.exits).filter(|exit| policy.exits[*exit].provider.index() == index).collect();
            if tiers.is_empty() || exits.is_empty() {
                continue;
            }
            let mut uplinks: Vec<UplinkId> = exits.iter().map(|exit| policy.exits[*exit].uplink).collect();
            uplinks.sort_unstable();
            uplinks.dedup();
            if let [exit] = exits[..]
                && self.nodes[exit].tiers.is_empty()
            {
                self.nodes[exit].tiers = tiers;
                continue;
            }
            // One interface: the contract stands inside it, above the provider's exits there. Several: above them.
            let members: Vec<usize> = match uplinks[..] {
                [uplink] if self.of_uplink[uplink.index()] >= self.exits => exits,
                _ => uplinks.iter().map(|uplink| self.of_uplink[uplink.index()]).collect(),
            };
            let shared = |exit: usize| {
                let exit = &policy.exits[exit];
                uplinks.contains(&exit.uplink) && exit.provider.index() != index
            };
            let above = members.first().and_then(|member| self.nodes[*member].group);
            let level = members.iter().all(|member| self.nodes[*member].group == above);
            if !level || (uplinks.len() > 1 && (0..self.exits).any(shared)) {
                return Err(TreeError::Crossing { provider: provider.name.clone() });
            }
            let node = self.group(&provider.name, NO_MARKS, tiers);
            self.nodes[node].group = above;
            for member in members {
                self.nodes[member].group = Some(node - self.exits);
            }
        }
        Ok(())
    }

    fn chain(&self, node: usize) -> Vec<usize> {
        let above = |at: &usize| self.nodes[*at].group.map(|group| self.exits + group);
        std::iter::successors(Some(node), above).take(self.nodes.len()).collect()
    }

    fn find_spread(&self, policy: &Policy) -> f64 {
        let price = |exit: usize, last: bool| -> f64 {
            let tier = |node: &usize| {
                let tiers = &self.nodes[*node].tiers;
                if last { tiers.last() } else { tiers.first() }.map_or(0.0, |tier| tier.price_per_mbps)
            };
            self.paths[exit].iter().map(tier).sum()
        };
        let low = (0..self.exits).map(|exit| price(exit, false)).fold(f64::INFINITY, f64::min);
        let high = (0..self.exits).map(|exit| price(exit, true)).fold(0.0, f64::max);
        let ranks = u32::try_from(self.exits.saturating_sub(1)).unwrap_or(u32::MAX);
        (high - low).max(0.0) + amount(policy.prices.preference) * f64::from(ranks)
    }

    /// Exits, then groups, without load.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Limits of each node.
    pub fn marks(&self) -> &[Marks] {
        &self.marks
    }

    /// Number of exits.
    pub fn exits(&self) -> usize {
        self.exits
    }

    /// The node whose load is that of the interface.
    pub fn of_uplink(&self, uplink: UplinkId) -> Option<usize> {
        self.of_uplink.get(uplink.index()).copied()
    }

    /// The nodes that an exit loads, itself first.
    pub fn path(&self, exit: ExitId) -> &[usize] {
        self.paths.get(exit.index()).map_or(&[], Vec::as_slice)
    }

    /// A node and all above it.
    pub fn above(&self, node: usize) -> &[usize] {
        self.paths.get(node).map_or(&[], Vec::as_slice)
    }

    /// True where any traffic costs anything: without prices there is nothing to save.
    pub fn priced(&self) -> bool {
        self.priced
    }

    /// The largest difference of price per Mbit/s between two exits.
    pub fn spread(&self) -> f64 {
        self.spread
    }

    /// Prices while nothing is overloaded.
    pub fn calm_prices(&self, policy: &Policy) -> Prices {
        let list = &policy.prices;
        let months = MONTH.as_secs_f64() / list.payback.as_secs_f64().max(1.0);
        let move_per_mbps = amount(list.moving) * months;
        let least = OVERLOAD * (self.spread + move_per_mbps);
        Prices {
            overload_per_mbps: Some(list.overload.map_or(least, amount).max(10.0 * self.spread)),
            move_per_mbps,
            move_per_prefix: amount(list.moving_prefix) * months,
            hold_per_prefix: amount(list.holding),
        }
    }

    /// Prices while something is overloaded: the least traffic that relieves it moves, and none for money.
    pub fn relief_prices(&self, policy: &Policy) -> Prices {
        let calm = self.calm_prices(policy);
        let move_per_mbps = HASTE * (self.spread + calm.move_per_mbps).max(1e-3);
        let least = OVERLOAD * move_per_mbps;
        let overload = calm.overload_per_mbps.unwrap_or(least).max(least);
        Prices { overload_per_mbps: Some(overload), move_per_mbps, ..calm }
    }

    /// What one more Mbit/s costs at `load` of a node, currency per month.
    pub fn marginal(&self, node: usize, load: f64) -> f64 {
        let tiers = &self.nodes[node].tiers;
        let tier = tiers.iter().find(|tier| tier.up_to_bps.is_none_or(|end| load < end));
        tier.map_or(0.0, |tier| tier.price_per_mbps)
    }

    /// What `load` of a node costs, currency per month.
    pub fn cost(&self, node: usize, load: f64) -> f64 {
        let (mut cost, mut from) = (0.0, 0.0);
        for tier in &self.nodes[node].tiers {
            let end = tier.up_to_bps.unwrap_or(f64::INFINITY);
            cost += (load.min(end) - from).max(0.0) / 1e6 * tier.price_per_mbps;
            from = end;
        }
        cost
    }
}

/// What all commitments cost each month, used or not.
pub fn commitments(policy: &Policy) -> f64 {
    let uplinks = policy.uplinks.iter().map(|uplink| &uplink.contract);
    let ports = policy.ports.iter().map(|port| &port.contract);
    let providers = policy.providers.iter().map(|provider| &provider.contract);
    uplinks.chain(ports).chain(providers).map(committed).sum()
}

fn plain(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        limit_bps: f64::INFINITY,
        ceiling_bps: f64::INFINITY,
        base_bps: 0.0,
        tiers: Vec::new(),
        group: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::tests::two_exits;
    use super::super::policy::{Port, Tier as Step};
    use super::*;

    fn contract(commit: u64, steps: &[(Option<u64>, &str)]) -> Contract {
        let tiers = steps
            .iter()
            .map(|(up_to, price)| Step { up_to: up_to.map(BitRate), price: price.parse().unwrap() })
            .collect();
        Contract { commit: BitRate(commit), tiers }
    }

    fn names(tree: &Tree, exit: u16) -> Vec<&str> {
        tree.path(ExitId(exit)).iter().map(|node| tree.nodes()[*node].name.as_str()).collect()
    }

    #[test]
    fn an_interface_with_one_exit_is_that_exit() {
        let tree = Tree::new(&two_exits()).unwrap();
        assert_eq!((tree.nodes().len(), names(&tree, 0)), (2, vec!["transit-a"]));
        assert_eq!(tree.marks()[0], Marks { limit: 45e6, relief: 43.75e6, fill: 42.5e6 });
        assert!(!tree.priced());
    }

    #[test]
    fn ports_contain_interfaces_and_contracts_stand_where_their_exits_meet() {
        let mut policy = two_exits();
        let port = |name: &str, inside| Port {
            name: name.to_owned(),
            capacity: BitRate(80_000_000),
            limit: Share::percent(90),
            headroom: Share::percent(5),
            inside,
            contract: Contract::default(),
        };
        policy.ports = vec![port("card", None), port("bundle", Some(0))];
        policy.uplinks[0].port = Some(1);
        policy.uplinks[1].port = Some(0);
        policy.uplinks[0].contract = contract(0, &[(None, "0.1")]);
        policy.providers[0].contract = contract(0, &[(None, "0.5")]);
        let tree = Tree::new(&policy).unwrap();
        assert_eq!(names(&tree, 0), ["transit-a", "up-a", "bundle", "card"]);
        assert_eq!(names(&tree, 1), ["transit-b", "card"]);
        // One provider on two interfaces.
        policy.exits[1].provider = policy.exits[0].provider;
        assert!(matches!(Tree::new(&policy), Err(TreeError::Crossing { .. })), "the ports differ");
        policy.uplinks[1].port = Some(1);
        let tree = Tree::new(&policy).unwrap();
        assert_eq!(names(&tree, 1), ["transit-b", "transit-a", "bundle", "card"]);
    }

    #[test]
    fn a_commitment_is_paid_for_and_costs_nothing_more() {
        let mut policy = two_exits();
        policy.uplinks[0].contract = contract(10_000_000, &[(Some(20_000_000), "0.5"), (None, "0.8")]);
        let tree = Tree::new(&policy).unwrap();
        assert_eq!(tree.cost(0, 5e6), 0.0);
        assert!((tree.cost(0, 25e6) - (10.0 * 0.5 + 5.0 * 0.8)).abs() < 1e-9);
        assert_eq!((tree.marginal(0, 5e6), tree.marginal(0, 15e6), tree.marginal(0, 20e6)), (0.0, 0.5, 0.8));
        assert!((commitments(&policy) - 5.0).abs() < 1e-9);
        assert!((tree.spread() - 0.81).abs() < 1e-9, "{}", tree.spread());
    }

    #[test]
    fn prices_that_fall_and_overload_that_is_too_cheap_are_refused_by_name() {
        let mut policy = two_exits();
        policy.uplinks[0].contract = contract(0, &[(Some(20_000_000), "0.5"), (None, "0.4")]);
        assert!(Tree::new(&policy).unwrap_err().to_string().contains("`transit-a`: tier 2"));
        policy.uplinks[0].contract = contract(0, &[(None, "0.4")]);
        policy.prices.overload = Some("4".parse().unwrap());
        assert!(Tree::new(&policy).unwrap_err().to_string().contains("give at least 4.1"));
    }

    #[test]
    fn moves_earn_themselves_back_in_the_time_given() {
        let mut policy = two_exits();
        policy.prices.moving = "0.01".parse().unwrap();
        policy.prices.payback = Duration::from_secs(73 * 3600);
        let tree = Tree::new(&policy).unwrap();
        assert!((tree.calm_prices(&policy).move_per_mbps - 0.1).abs() < 1e-12);
    }
}
