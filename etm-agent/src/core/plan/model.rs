//! What is to be decided, as arrays of numbers: exits inside groups, their cost curves, and for each prefix the exits
//! it may use with what each costs. Knows no routing and no clock; what may not be used is simply not in it.

use super::curve::Curve;
pub use super::spec::{Demand, ModelError, Node, Prices, Route, Rules, Tier};
use super::spec::{check_node, check_prices};

/// No exit.
pub const NONE: u16 = u16::MAX;
/// How much dearer than overload it is, inside the solver, to break a hard limit.
const BREACH: f64 = 1e6;
/// So many times the spread of prices, overload comes first.
const FIRST: f64 = 10.0;
const MBIT: f64 = 1e6;

/// The problem, ready to be solved. Prefixes keep the order in which they were given.
#[derive(Clone, Debug)]
pub struct Model {
    /// Exits first, then groups, then (if traffic moved is capped) one for all that moves.
    pub(super) curves: Vec<Curve>,
    /// Load of each node that is no prefix's, its subtree's included.
    pub(super) base: Vec<f64>,
    /// The nodes that each column loads. A column is an exit; with a cap on moved traffic, column
    /// `exits + exit` is the same exit as a move.
    pub(super) paths: Vec<Vec<u16>>,
    /// Nodes as given, exits first.
    pub(super) nodes: Vec<Node>,
    pub(super) exits: usize,
    pub(super) rate: Vec<f64>,
    /// Sum of these.
    traffic: f64,
    pub(super) current: Vec<u16>,
    pub(super) home: Vec<u16>,
    /// Row `p` is `start[p]..start[p + 1]`.
    pub(super) start: Vec<u32>,
    pub(super) column: Vec<u16>,
    /// Constant cost of the pair per bit/s (of a prefix without traffic: as a whole).
    pub(super) unit: Vec<f64>,
    pub(super) prices: Prices,
    /// Per bit/s.
    pub(super) overload_price: f64,
    pub(super) rules: Rules,
    pub(super) spread: f64,
    /// The same of contracts alone.
    contracts: f64,
    /// Lowest and highest price per Mbit/s of each exit with its groups.
    range: Vec<(f64, f64)>,
}

impl Model {
    /// A model without prefixes. `groups` are referred to by position.
    pub fn new(
        exits: Vec<Node>,
        groups: Vec<Node>,
        prices: Prices,
        rules: Rules,
    ) -> Result<Model, ModelError> {
        let most = usize::from(NONE) / 4;
        if exits.len() + groups.len() > most {
            return Err(ModelError::TooMany {
                what: "exits and groups",
                count: exits.len() + groups.len(),
                most,
            });
        }
        let count = exits.len();
        let nodes: Vec<Node> = exits.into_iter().chain(groups).collect();
        for node in &nodes {
            check_node(node)?;
        }
        check_prices(&prices, &rules)?;
        let mut paths = paths(&nodes, count)?;
        let range = paths.iter().map(|path| price_range(&nodes, path)).collect();
        let mut base = vec![0.0; nodes.len()];
        for (at, node) in nodes.iter().enumerate() {
            for above in chain(&nodes, count, at) {
                base[above] += node.base_bps;
            }
        }
        if rules.max_moved_bps.is_some() {
            let moved = u16::try_from(nodes.len()).unwrap_or(NONE);
            let moving: Vec<Vec<u16>> =
                paths.iter().map(|path| path.iter().copied().chain([moved]).collect()).collect();
            paths.extend(moving);
            base.push(0.0);
        }
        Ok(Model {
            curves: Vec::new(),
            base,
            paths,
            nodes,
            exits: count,
            rate: Vec::new(),
            traffic: 0.0,
            current: Vec::new(),
            home: Vec::new(),
            start: vec![0],
            column: Vec::new(),
            unit: Vec::new(),
            prices,
            overload_price: 0.0,
            rules,
            spread: 0.0,
            contracts: 0.0,
            range,
        })
    }

    /// Makes room for `prefixes` with `routes` in all.
    pub fn reserve(&mut self, prefixes: usize, routes: usize) {
        self.rate.reserve(prefixes);
        self.current.reserve(prefixes);
        self.home.reserve(prefixes);
        self.start.reserve(prefixes);
        self.column.reserve(routes);
        self.unit.reserve(routes);
    }

    /// Adds a prefix.
    pub fn push(&mut self, demand: &Demand<'_>) -> Result<(), ModelError> {
        let index = self.rate.len();
        let number = |what, value: f64| {
            let good = value.is_finite() && value >= 0.0;
            let name = || format!("prefix number {index}");
            if good { Ok(()) } else { Err(ModelError::Number { name: name(), what, value }) }
        };
        number("its rate", demand.rate_bps)?;
        // Where costs are equal the first of the row is taken: the exit now, then home, then by position.
        let rank =
            |route: &Route| (demand.current != Some(route.exit), demand.home != route.exit, route.exit);
        let allowed = |route: &&Route| {
            demand.pin.is_none_or(|pin| pin == route.exit) && !demand.excluded.contains(&route.exit)
        };
        let mut routes: Vec<Route> = demand.routes.iter().filter(allowed).copied().collect();
        routes.sort_unstable_by_key(rank);
        let twice = routes.windows(2).find(|pair| pair[0].exit == pair[1].exit).map(|pair| pair[0].exit);
        let unknown = routes.iter().map(|route| route.exit).find(|exit| *exit >= self.exits);
        if let Some(exit) = twice.or(unknown) {
            return Err(ModelError::Exit { index, exit });
        }
        if routes.is_empty() {
            return Err(ModelError::NoRoute { index });
        }
        let stays = routes.iter().any(|route| demand.current == Some(route.exit));
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        let (mut least, mut most_of) = (f64::INFINITY, 0.0_f64);
        for route in &routes {
            number("a penalty", route.penalty_per_mbps)?;
            let (first, last) = self.range[route.exit];
            (least, most_of) = (least.min(first), most_of.max(last));
            low = low.min(first + route.penalty_per_mbps);
            high = high.max(last + route.penalty_per_mbps);
            self.push_pair(demand, route, stays);
        }
        // Fixed prices per prefix have no bound per Mbit/s: only what grows with traffic counts.
        self.spread = self.spread.max(high - low);
        self.contracts = self.contracts.max(most_of - least);
        let exit = |exit: Option<usize>| {
            exit.filter(|exit| *exit < self.exits).and_then(|exit| u16::try_from(exit).ok()).unwrap_or(NONE)
        };
        let most = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        let end = u32::try_from(self.column.len()).map_err(|_| ModelError::TooMany {
            what: "routes",
            count: self.column.len(),
            most,
        })?;
        let (current, home) = (exit(demand.current), exit(Some(demand.home)));
        self.rate.push(demand.rate_bps);
        self.traffic += demand.rate_bps;
        self.current.push(current);
        self.home.push(home);
        self.start.push(end);
        Ok(())
    }

    fn push_pair(&mut self, demand: &Demand<'_>, route: &Route, stays: bool) {
        let mbps = demand.rate_bps / MBIT;
        let moves = demand.current.is_some_and(|current| current != route.exit);
        let mut cost = route.penalty_per_mbps * mbps;
        if moves {
            cost += self.prices.move_per_mbps * mbps + self.prices.move_per_prefix;
        }
        if demand.home != route.exit {
            cost += self.prices.hold_per_prefix;
        }
        // Who cannot stay is not held back by a cap on moving.
        let counted = moves && stays && self.rules.max_moved_bps.is_some();
        let column = if counted { self.exits + route.exit } else { route.exit };
        self.column.push(u16::try_from(column).unwrap_or(NONE));
        self.unit.push(if demand.rate_bps > 0.0 { cost / demand.rate_bps } else { cost });
    }

    /// Fixes the price of overload and makes the cost curves.
    pub fn finish(mut self) -> Result<Model, ModelError> {
        let per_mbps = match self.prices.overload_per_mbps {
            Some(price) if price < (FIRST * self.contracts).max(self.spread) * (1.0 - 1e-9) => {
                return Err(ModelError::OverloadPrice {
                    price,
                    spread: self.contracts.max(self.spread / FIRST),
                });
            }
            Some(price) => price,
            // Where nothing differs in price, any price relieves.
            None if self.spread > 0.0 => FIRST * (self.spread + self.prices.move_per_mbps),
            None => FIRST * (1.0 + self.prices.move_per_mbps),
        };
        self.overload_price = per_mbps / MBIT;
        let breach = BREACH * self.overload_price.max(1.0 / MBIT);
        self.curves = self.nodes.iter().map(|node| curve(node, self.overload_price, breach)).collect();
        if let Some(cap) = self.rules.max_moved_bps {
            self.curves.push(Curve::from_steps(vec![(cap, breach)]));
        }
        Ok(self)
    }

    /// Price of using the route of pair `at` of `row`, currency per month: its constant without the `extras`.
    #[inline(always)]
    pub(super) fn penalty(&self, row: usize, at: usize, extras: f64) -> f64 {
        let rate = self.rate[row];
        let left = self.unit[at] * rate - extras;
        // What is left of a sum after taking its parts away again is rounding.
        if rate <= 0.0 || left <= 1e-12 * extras { 0.0 } else { left }
    }

    /// 1 if `exit` is another than the one `row` leaves by now.
    #[inline(always)]
    pub(super) fn moves(&self, row: usize, exit: usize) -> u8 {
        let current = self.current[row];
        u8::from(current != NONE) & u8::from(usize::from(current) != exit)
    }

    /// Price of moving `row` to `exit` and of holding it there.
    #[inline(always)]
    pub(super) fn extras(&self, row: usize, exit: usize) -> (f64, f64) {
        // No branches: who moves cannot be predicted.
        let moving = f64::from(self.moves(row, exit))
            * (self.prices.move_per_mbps / MBIT * self.rate[row] + self.prices.move_per_prefix);
        let away = u8::from(usize::from(self.home[row]) != exit);
        let holding = f64::from(away) * self.prices.hold_per_prefix;
        (moving, holding)
    }

    /// The same exits with a sample of about `count` prefixes that stand for all, and where each was.
    pub(super) fn thinned(&self, count: usize) -> (Model, Vec<usize>) {
        let sample = self.view(&self.rate).sample(count);
        let view = sample.view();
        let rows: Vec<usize> =
            sample.row.iter().map(|row| usize::try_from(*row).unwrap_or(usize::MAX)).collect();
        let pick = |list: &[u16]| rows.iter().map(|row| list[*row]).collect();
        let model = Model {
            curves: self.curves.clone(),
            base: self.base.clone(),
            paths: self.paths.clone(),
            nodes: self.nodes.clone(),
            range: self.range.clone(),
            rate: view.weight.to_vec(),
            traffic: view.weight.iter().sum(),
            current: pick(&self.current),
            home: pick(&self.home),
            start: view.start.to_vec(),
            column: view.column.to_vec(),
            unit: view.unit.to_vec(),
            ..*self
        };
        (model, rows)
    }

    /// The pairs of `row`.
    pub(super) fn pairs(&self, row: usize) -> std::ops::Range<usize> {
        let at = |row: usize| usize::try_from(self.start[row]).unwrap_or(usize::MAX);
        at(row)..at(row + 1)
    }

    /// Exit of a column.
    pub(super) fn exit_of(&self, column: u16) -> usize {
        let column = usize::from(column);
        if column >= self.exits { column - self.exits } else { column }
    }

    /// Traffic of all prefixes, bit/s.
    pub(super) fn traffic(&self) -> f64 {
        self.traffic
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.rate.len()
    }

    /// True without prefixes.
    pub fn is_empty(&self) -> bool {
        self.rate.is_empty()
    }

    /// Rate of the largest prefix, bit/s.
    pub fn largest_bps(&self) -> f64 {
        self.rate.iter().copied().fold(0.0, f64::max)
    }

    /// Number of exits.
    pub fn exits(&self) -> usize {
        self.exits
    }

    /// Exits, then groups, as given.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Price of overload, currency per Mbit/s and month.
    pub fn overload_per_mbps(&self) -> f64 {
        self.overload_price * MBIT
    }

    /// The largest difference of price per Mbit/s between two exits of one prefix.
    pub fn spread_per_mbps(&self) -> f64 {
        self.spread
    }

    /// What the plan may do.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// Lowest and highest price per Mbit/s along a path.
fn price_range(nodes: &[Node], path: &[u16]) -> (f64, f64) {
    let tiers = path.iter().filter_map(|node| nodes.get(usize::from(*node))).map(|node| &node.tiers);
    tiers.fold((0.0, 0.0), |(low, high), tiers| {
        let price = |tier: Option<&Tier>| tier.map_or(0.0, |tier| tier.price_per_mbps);
        (low + price(tiers.first()), high + price(tiers.last()))
    })
}

fn curve(node: &Node, overload: f64, breach: f64) -> Curve {
    let mut steps = vec![(node.limit_bps, overload), (node.ceiling_bps, breach)];
    let (mut from, mut price) = (0.0, 0.0);
    for tier in &node.tiers {
        steps.push((from, (tier.price_per_mbps - price) / MBIT));
        price = tier.price_per_mbps;
        from = tier.up_to_bps.unwrap_or(f64::INFINITY);
    }
    Curve::from_steps(steps)
}

/// `at` and the groups above it. Groups are a tree once [`paths`] was made.
fn chain(nodes: &[Node], exits: usize, at: usize) -> impl Iterator<Item = usize> + '_ {
    std::iter::successors(Some(at), move |at| nodes[*at].group.map(|group| exits + group)).take(nodes.len())
}

fn paths(nodes: &[Node], exits: usize) -> Result<Vec<Vec<u16>>, ModelError> {
    for node in nodes {
        if node.group.is_some_and(|group| exits + group >= nodes.len()) {
            return Err(ModelError::Group { name: node.name.clone() });
        }
    }
    for (at, node) in nodes.iter().enumerate() {
        if chain(nodes, exits, at).last().is_some_and(|top| nodes[top].group.is_some()) {
            return Err(ModelError::Group { name: node.name.clone() });
        }
    }
    let path = |exit| chain(nodes, exits, exit).filter_map(|node| u16::try_from(node).ok()).collect();
    Ok((0..exits).map(path).collect())
}
