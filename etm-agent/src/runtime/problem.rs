//! A planning problem (docs/plan-format.md) from a configuration, the routes of an MRT file and given rates.
//!
//! The routes go through the same RIB, policy and decision process as those of a session. Nothing is planned here, and
//! no agent is asked.

use crate::config::Settings;
use crate::core::controller::{Browse, Controller};
use crate::core::decision::Adopted;
use crate::core::input::{Input, LinkEvent, RouteBatch, RouteChange};
use crate::core::money::{Tree, TreeError, amount, real};
use crate::core::policy::{Exit, Peer, Policy, Role};
use crate::mrt::{Import, MrtError, Route};
use crate::types::{BitRate, Family, IfIndex, PathId, PeerId, Prefix, RouteAttrs, Timestamp, UplinkId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Capacity of what has none, as a contract over several interfaces: more than anything carries.
const BOUNDLESS_BPS: f64 = 1e15;

/// Why there is no problem.
#[derive(Debug, thiserror::Error)]
pub enum ProblemError {
    /// The file of routes.
    #[error(transparent)]
    Mrt(#[from] MrtError),
    /// A name that no exit has.
    #[error("no exit is named `{name}`; exits are: {known}")]
    Exit {
        /// As given.
        name: String,
        /// What there is.
        known: String,
    },
    /// The prices of the configuration are no problem that can be planned.
    #[error(transparent)]
    Prices(#[from] TreeError),
    /// None of the routes can be used.
    #[error(
        "none of the {routes} routes has an exit for next hop; map the file's peers to exits: --map ADDRESS=EXIT"
    )]
    Nothing {
        /// Routes read.
        routes: u64,
    },
}

/// What a route is worth, beside the file.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Peers of the file, or next hops, and the exits they stand for, by name.
    pub map: BTreeMap<IpAddr, String>,
    /// Demand by prefix.
    pub rates: BTreeMap<Prefix, BitRate>,
    /// Demand of every prefix without one; none leaves it out.
    pub default_rate: Option<BitRate>,
}

/// The problem, in the form of docs/plan-format.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    exits: Vec<Node>,
    groups: Vec<Node>,
    prefixes: Vec<Demand>,
    options: Options,
}

impl Problem {
    /// How many prefixes are to be placed.
    pub fn prefixes(&self) -> usize {
        self.prefixes.len()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Node {
    name: String,
    capacity_bps: f64,
    limit: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tiers: Vec<Tier>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Tier {
    #[serde(skip_serializing_if = "Option::is_none")]
    up_to_bps: Option<f64>,
    price_per_mbps: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Demand {
    prefix: Prefix,
    rate_bps: u64,
    current: String,
    routes: Vec<Choice>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Choice {
    exit: String,
    preference: usize,
    penalty_per_mbps: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    overload_price_per_mbps: Option<f64>,
    move_price_per_mbps: f64,
    move_price_per_prefix: f64,
    hold_price: f64,
    min_saving: f64,
}

/// Makes the problem of `import`'s routes through the exits of `settings`, at the prices of `settings`.
pub fn problem(settings: &Settings, import: &mut Import, given: &Given) -> Result<Problem, ProblemError> {
    let mut policy = settings.policy.clone();
    let hops = next_hops(&policy, given)?;
    let batches = batches(&mut policy, import, &hops)?;
    if batches.is_empty() {
        return Err(ProblemError::Nothing { routes: import.tally().routes });
    }
    let tree = Tree::new(&policy)?;
    let (exits, groups) = nodes(&policy, &tree);
    let options = options(&policy, &tree);
    let mut controller = Controller::new(policy, 0, &Adopted::default(), true);
    for at in 0..settings.policy.uplinks.len() {
        let uplink = UplinkId(u16::try_from(at).unwrap_or(u16::MAX));
        // Every link is taken for up: the file does not say.
        let event = LinkEvent { uplink, ifindex: Some(IfIndex(u32::from(uplink.0) + 1)), up: true };
        controller.handle(Timestamp(1), Input::Link(event));
    }
    for batch in batches {
        controller.handle(Timestamp(1), Input::Routes(batch));
    }
    let step = amount(settings.policy.prices.preference);
    Ok(Problem { exits, groups, prefixes: demands(&controller, given, step), options })
}

/// What the next hop of a mapped peer's route becomes: its exit's gateway, one per family.
struct Hops {
    of: BTreeMap<(IpAddr, Family), IpAddr>,
    exits: Vec<IpAddr>,
}

fn next_hops(policy: &Policy, given: &Given) -> Result<Hops, ProblemError> {
    let mut of = BTreeMap::new();
    for (address, name) in &given.map {
        let Some(exit) = policy.exits.iter().find(|exit| exit.name == *name) else {
            let known = policy.exits.iter().map(|exit| exit.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(ProblemError::Exit { name: name.clone(), known });
        };
        for gateway in &exit.gateways {
            of.entry((*address, Family::of(*gateway))).or_insert(*gateway);
        }
    }
    let gateways = |exit: &Exit| exit.gateways.clone();
    Ok(Hops { of, exits: policy.exits.iter().flat_map(gateways).collect() })
}

impl Hops {
    /// The route with an exit for next hop; none where it has none.
    fn place(&self, route: Route) -> Option<Arc<RouteAttrs>> {
        let family = route.prefix.family();
        let mapped = [route.peer.address, route.attrs.next_hop];
        let hop = mapped.iter().find_map(|address| self.of.get(&(*address, family)));
        match hop {
            Some(hop) => Some(Arc::new(RouteAttrs { next_hop: *hop, ..RouteAttrs::clone(&route.attrs) })),
            None => self.exits.contains(&route.attrs.next_hop).then_some(route.attrs),
        }
    }
}

/// The usable routes, each peer of the file a source of its own.
fn batches(policy: &mut Policy, import: &mut Import, hops: &Hops) -> Result<Vec<RouteBatch>, ProblemError> {
    policy.peers.clear();
    policy.static_routes.clear();
    let mut numbers: BTreeMap<IpAddr, PeerId> = BTreeMap::new();
    let mut batches = Vec::new();
    while let Some(routes) = import.next_routes()? {
        for route in routes {
            let (prefix, path_id, address) = (route.prefix, route.path_id, route.peer.address);
            let Some(attrs) = hops.place(route) else { continue };
            let peer = *numbers.entry(address).or_insert_with(|| {
                policy.peers.push(source(address));
                PeerId(u16::try_from(policy.peers.len() - 1).unwrap_or(u16::MAX))
            });
            batches.push(one(peer, prefix, path_id, attrs));
        }
    }
    Ok(batches)
}

fn source(address: IpAddr) -> Peer {
    let name = address.to_string();
    Peer { name, role: Role::Learn, address: Some(address), external: true, interface: None, monitored: true }
}

fn one(peer: PeerId, prefix: Prefix, path_id: PathId, attrs: Arc<RouteAttrs>) -> RouteBatch {
    RouteBatch { peer, changes: vec![RouteChange::Announce { prefix, path_id, attrs }] }
}

/// The planner's tree of exits, interfaces, ports and contracts, with their limits and prices.
fn nodes(policy: &Policy, tree: &Tree) -> (Vec<Node>, Vec<Node>) {
    let all = tree.nodes();
    // Interfaces, ports and contracts may have the same name; in the format they are all groups.
    let mut names: Vec<String> = Vec::new();
    for (at, node) in all.iter().enumerate() {
        let group = names.get(tree.exits()..).unwrap_or_default();
        let twice = at >= tree.exits() && group.contains(&node.name);
        names.push(if twice { format!("{} ({at})", node.name) } else { node.name.clone() });
    }
    let mut nodes: Vec<Node> = Vec::new();
    for (at, (node, marks)) in all.iter().zip(tree.marks()).enumerate() {
        let (capacity_bps, limit) = size(policy, tree, at)
            .unwrap_or_else(|| (if marks.limit.is_finite() { marks.limit } else { BOUNDLESS_BPS }, 1.0));
        let mut tiers: Vec<Tier> = node
            .tiers
            .iter()
            .map(|tier| Tier { up_to_bps: tier.up_to_bps, price_per_mbps: tier.price_per_mbps })
            .collect();
        if tiers.is_empty() && at < tree.exits() {
            tiers.push(Tier { up_to_bps: None, price_per_mbps: 0.0 });
        }
        let group = node.group.and_then(|group| names.get(tree.exits() + group)).cloned();
        nodes.push(Node {
            name: names.get(at).cloned().unwrap_or_default(),
            capacity_bps,
            limit,
            group,
            tiers,
        });
    }
    let groups = nodes.split_off(tree.exits().min(nodes.len()));
    (nodes, groups)
}

/// Capacity and limit as configured, where the node is an interface or a port.
fn size(policy: &Policy, tree: &Tree, at: usize) -> Option<(f64, f64)> {
    let uplink = (0_u16..).map(UplinkId).zip(&policy.uplinks).find(|(id, _)| tree.of_uplink(*id) == Some(at));
    // Ports come first among the groups, in their own order.
    let port = || at.checked_sub(tree.exits()).and_then(|at| policy.ports.get(at));
    let (capacity, limit) = match uplink {
        Some((_, uplink)) => (uplink.capacity, uplink.limit),
        None => port().map(|port| (port.capacity, port.limit))?,
    };
    Some((real(capacity), f64::from(limit.0) / 1e6))
}

fn options(policy: &Policy, tree: &Tree) -> Options {
    let prices = tree.calm_prices(policy);
    Options {
        overload_price_per_mbps: prices.overload_per_mbps.filter(|price| *price > 0.0),
        move_price_per_mbps: prices.move_per_mbps,
        move_price_per_prefix: prices.move_per_prefix,
        hold_price: prices.hold_per_prefix,
        min_saving: amount(policy.prices.min_saving),
    }
}

/// `step` is what each rank of a route costs behind the one that plain routing uses.
fn demands(controller: &Controller, given: &Given, step: f64) -> Vec<Demand> {
    let mut demands = Vec::new();
    let mut browse = Browse::default();
    let mut last = None;
    loop {
        let page = controller.routes(&browse);
        for route in &page.routes {
            if last.replace(route.prefix) == Some(route.prefix) {
                continue;
            }
            let rate = given.rates.get(&route.prefix).copied().or(given.default_rate);
            demands.extend(rate.and_then(|rate| demand(controller, route.prefix, rate, step)));
        }
        match page.next {
            Some(next) => browse.after = Some(next),
            None => return demands,
        }
    }
}

fn demand(controller: &Controller, prefix: Prefix, rate: BitRate, step: f64) -> Option<Demand> {
    let view = controller.candidates(prefix);
    let usable: Vec<String> = view
        .candidates
        .into_iter()
        .filter(|one| one.rank.is_some())
        .filter_map(|one| one.route.exit)
        .collect();
    let current = usable.first()?.clone();
    let count = usable.len();
    let ranks = (0_u32..).map(f64::from);
    let choice = |((at, exit), rank)| Choice { exit, preference: count - at, penalty_per_mbps: step * rank };
    let routes = usable.into_iter().enumerate().zip(ranks).map(choice).collect();
    Some(Demand { prefix, rate_bps: rate.0, current, routes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, offline};
    use crate::core::plan::solve::solve;
    use crate::mrt::{Export, Peer};
    use crate::types::{AsPath, Asn, RouterId};

    const CONFIG: &str = r#"
[[interface]]
name = "up-a"
capacity = "50Mbit"
[[interface]]
name = "up-b"
capacity = "50Mbit"
[[provider]]
name = "transit-a"
exits = [{ interface = "up-a", gateways = ["10.1.0.1"] }]
[[provider]]
name = "transit-b"
exits = [{ interface = "up-b", gateways = ["10.2.0.1"] }]
[[static_route]]
prefix = "198.18.0.0/24"
exit = "transit-a"
"#;

    /// Three prefixes by two peers of a collector; the first peer's paths are shorter.
    fn file() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let peer = |last: u8| Peer {
            address: [192, 0, 2, last].into(),
            asn: Asn(64600 + u32::from(last)),
            router_id: RouterId([192, 0, 2, last].into()),
        };
        let out = file.reopen().unwrap();
        let mut export = Export::begin(out, 1, RouterId([10, 0, 0, 1].into()), &[peer(1), peer(2)]).unwrap();
        let route = |last: u8, path: &[u32]| {
            let mut attrs = RouteAttrs::to_next_hop([192, 0, 2, last].into());
            attrs.as_path = AsPath::sequence(path.iter().copied());
            attrs
        };
        let (short, long) = (route(1, &[64601, 3356]), route(2, &[64602, 1299, 3356]));
        for text in ["198.18.0.0/24", "198.18.1.0/24", "198.18.2.0/24"] {
            let routes = [(0, PathId(0), &short), (1, PathId(0), &long)];
            export.prefix(text.parse().unwrap(), &routes).unwrap();
        }
        assert_eq!(export.end().unwrap(), 0);
        file
    }

    fn given() -> Given {
        let map = [("192.0.2.1", "transit-a"), ("192.0.2.2", "transit-b")];
        Given {
            map: map.iter().map(|(from, to)| (from.parse().unwrap(), (*to).to_owned())).collect(),
            rates: BTreeMap::from([("198.18.1.0/24".parse().unwrap(), BitRate(30_000_000))]),
            default_rate: Some(BitRate(20_000_000)),
        }
    }

    fn made(given: &Given) -> Result<Problem, ProblemError> {
        let settings = config::parse("test", CONFIG).unwrap();
        problem(&settings, &mut Import::open(file().path()).unwrap(), given)
    }

    #[test]
    fn a_file_of_routes_becomes_a_problem_that_can_be_planned() {
        let problem = made(&given()).unwrap();
        assert_eq!(problem.prefixes(), 3);
        let text = serde_json::to_string(&problem).unwrap();
        let offline = offline::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let plan = solve(offline.model(), None, None);
        let outcome = offline.outcome(&plan, offline.check(&plan).unwrap().1, 0.0);
        // 70 Mbit/s prefer an exit of 47.5: the one of 30 must go, or the two of 20.
        assert!((1..=2).contains(&outcome.moved_prefixes), "{text}");
        assert!(outcome.overload_bps < 1.0);
    }

    #[test]
    fn contracts_ports_and_prices_of_the_configuration_are_the_problem_s() {
        let text = CONFIG
            .replace("name = \"up-a\"\ncapacity = \"50Mbit\"", "name = \"up-a\"\ncapacity = \"50Mbit\"\nport = \"card\"\ncommit = \"10Mbit\"\ntiers = [{ up_to = \"30Mbit\", price = \"0.5\" }, { price = \"0.8\" }]")
            + "[[port]]\nname = \"card\"\ncapacity = \"40Mbit\"\n[prices]\npreference = \"0.02\"\nhold = \"0.25\"\n";
        let settings = config::parse("test", &text).unwrap_or_else(|error| panic!("{error}"));
        let problem = problem(&settings, &mut Import::open(file().path()).unwrap(), &given()).unwrap();
        let exit = &problem.exits[0];
        let tiers: Vec<(Option<f64>, f64)> =
            exit.tiers.iter().map(|tier| (tier.up_to_bps, tier.price_per_mbps)).collect();
        assert_eq!(
            tiers,
            [(Some(1e7), 0.0), (Some(3e7), 0.5), (None, 0.8)],
            "what is committed costs nothing more"
        );
        assert_eq!((exit.capacity_bps, exit.limit, exit.group.as_deref()), (5e7, 0.95, Some("card")));
        assert_eq!((problem.groups.len(), problem.groups[0].capacity_bps), (1, 4e7));
        let penalties: Vec<f64> =
            problem.prefixes[0].routes.iter().map(|route| route.penalty_per_mbps).collect();
        assert_eq!(penalties, [0.0, 0.02]);
        assert_eq!(problem.options.hold_price, 0.25);
        let text = serde_json::to_string(&problem).unwrap();
        offline::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }

    #[test]
    fn prefixes_without_a_rate_are_left_out_where_no_default_is_given() {
        let problem = made(&Given { default_rate: None, ..given() }).unwrap();
        assert_eq!(problem.prefixes(), 1);
        assert_eq!(problem.prefixes[0].routes.len(), 2);
        assert_eq!(problem.prefixes[0].current, "transit-a");
    }

    #[test]
    fn a_map_that_leads_nowhere_says_what_there_is() {
        let nothing = made(&Given { map: BTreeMap::new(), ..given() }).unwrap_err().to_string();
        assert!(nothing.contains("none of the 6 routes") && nothing.contains("--map"), "{nothing}");
        let mut wrong = given();
        wrong.map.insert([1, 2, 3, 4].into(), "transit-x".to_owned());
        let error = made(&wrong).unwrap_err().to_string();
        assert!(error.contains("transit-x") && error.contains("transit-a, transit-b"), "{error}");
    }
}
