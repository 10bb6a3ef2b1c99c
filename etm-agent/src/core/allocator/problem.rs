//! From rooms and items to the planner's problem, and from its plan to a judgement. Never decides by itself.

use super::field::Field;
use super::{Board, Urgency};
use crate::core::money::{Tree, amount, real};
use crate::core::plan::model::{Demand, Model, ModelError, Node, Prices, Route, Rules};
use crate::core::plan::solve::solve;
use crate::core::plan::{Plan, Warm};
use crate::core::plan_check::{Proved, Stated, check, proved};
use crate::types::{BitRate, ExitId, Prefix};

/// A problem, its plan, and what the checker says of it.
#[derive(Clone, Debug)]
pub struct Study {
    /// What it is for.
    pub urgency: Urgency,
    /// Exits, then groups, as they were stated.
    pub nodes: Vec<Node>,
    /// Load of each if all stays, bit/s.
    pub stay: Vec<f64>,
    /// Where each item would stay.
    pub current: Vec<ExitId>,
    /// The plan.
    pub plan: Plan,
    /// Price of overload it reckons with, currency per Mbit/s and month.
    pub overload_per_mbps: f64,
    /// What moving costs in it, currency per Mbit/s and month.
    pub move_per_mbps: f64,
    /// Prefixes that the planner settled first, and where.
    pub settled: Vec<(Prefix, u16)>,
    /// What of its bounds the checker proves by itself.
    pub proved: Proved,
    /// Why it may not be used; empty if it may.
    pub vetoes: Vec<String>,
}

/// Routes of all items and where each item's begin.
struct Offers {
    routes: Vec<Route>,
    starts: Vec<usize>,
}

impl Offers {
    fn new(board: &Board<'_>, field: &Field) -> Offers {
        let mut offers = Offers {
            routes: Vec::with_capacity(board.choices.len()),
            starts: Vec::with_capacity(board.items.len() + 1),
        };
        let step = amount(board.policy.prices.preference);
        for (row, item) in board.items.iter().enumerate() {
            offers.starts.push(offers.routes.len());
            // What has just left a drained exit does not go back there.
            let left = (item.leave && field.current[row] != item.current).then_some(item.current);
            let mut rank = 0.0;
            for exit in board.choices_of(item).iter().filter(|exit| Some(**exit) != left) {
                let home = *exit == item.home;
                rank += if home { 0.0 } else { 1.0 };
                let penalty_per_mbps = if home { 0.0 } else { step * rank };
                offers.routes.push(Route { exit: exit.index(), penalty_per_mbps });
            }
        }
        offers.starts.push(offers.routes.len());
        offers
    }

    fn of(&self, row: usize) -> &[Route] {
        &self.routes[self.starts[row]..self.starts[row + 1]]
    }
}

fn demands<'a>(board: &Board<'_>, field: &Field, offers: &'a Offers) -> Vec<Demand<'a>> {
    let demand = |(row, item): (usize, &super::Item)| {
        let current = field.current[row];
        let pinned = item.pin == Some(current) || (item.pin.is_some() && current == item.home);
        let still = pinned || (item.held && !field.overloaded_at(board.tree, current));
        let lawful = offers.of(row).iter().any(|route| route.exit == current.index());
        Demand {
            rate_bps: real(item.rate),
            current: Some(current.index()),
            home: item.home.index(),
            pin: (still && lawful).then(|| current.index()),
            routes: offers.of(row),
            excluded: &[],
        }
    };
    board.items.iter().enumerate().map(demand).collect()
}

/// The nodes of the tree with what stands on them and what they may carry.
fn nodes(board: &Board<'_>, field: &Field, urgency: Urgency) -> Vec<Node> {
    let dropping = urgency == Urgency::Relief && board.rooms.iter().any(|room| room.dropping);
    let share = if dropping { f64::from(board.policy.fill_share.0) / 1e6 } else { 1.0 };
    let mut nodes = board.tree.nodes().to_vec();
    for (at, node) in nodes.iter_mut().enumerate() {
        let (marks, stay, home) = (board.tree.marks()[at], field.load[at], field.home[at]);
        let over = stay > marks.limit;
        node.limit_bps = if over { marks.relief } else { marks.limit };
        let room = (marks.fill - stay).max(0.0);
        let most = if room.is_finite() { stay + (share * room).floor() } else { f64::INFINITY };
        // What stands above its ceiling by growth is overload, which the price relieves: staying is always lawful.
        node.ceiling_bps = most.min(home.max(marks.limit)).max(stay);
    }
    // What is held takes room, and is neither an item's nor a price's.
    for (index, room) in board.rooms.iter().enumerate().filter(|(_, room)| room.held > BitRate::ZERO) {
        let uplink = crate::types::UplinkId(u16::try_from(index).unwrap_or(u16::MAX));
        for at in board.tree.of_uplink(uplink).map_or(&[][..], |node| board.tree.above(node)) {
            nodes[*at].limit_bps = (nodes[*at].limit_bps - real(room.held)).max(0.0);
            nodes[*at].ceiling_bps = (nodes[*at].ceiling_bps - real(room.held)).max(0.0);
        }
    }
    set_base(board, &mut nodes);
    nodes
}

fn set_base(board: &Board<'_>, nodes: &mut [Node]) {
    for (index, room) in board.rooms.iter().enumerate() {
        let uplink = crate::types::UplinkId(u16::try_from(index).unwrap_or(u16::MAX));
        if let Some(node) = board.tree.of_uplink(uplink) {
            nodes[node].base_bps = real(room.base);
        }
    }
}

fn model(
    tree: &Tree,
    nodes: &[Node],
    (prices, rules): (Prices, Rules),
    demands: &[Demand<'_>],
) -> Result<Model, ModelError> {
    let (exits, groups) = nodes.split_at(tree.exits());
    let mut model = Model::new(exits.to_vec(), groups.to_vec(), prices, rules)?;
    model.reserve(demands.len(), demands.iter().map(|demand| demand.routes.len()).sum());
    for demand in demands {
        model.push(demand)?;
    }
    model.finish()
}

/// States the problem, has it solved and the plan judged.
pub(super) fn study(board: &Board<'_>, field: &Field, urgency: Urgency, warm: Option<&Warm>) -> Study {
    let offers = Offers::new(board, field);
    let demands = demands(board, field, &offers);
    let nodes = nodes(board, field, urgency);
    let prices = match urgency {
        Urgency::Relief => board.tree.relief_prices(board.policy),
        Urgency::Idle | Urgency::Money => board.tree.calm_prices(board.policy),
    };
    let list = &board.policy.prices;
    let (moves, bits) = field.allowance(board);
    let bits = real(bits);
    let mut rules = Rules {
        min_saving: amount(list.min_saving),
        min_saving_share: f64::from(list.min_saving_share.0) / 1e6,
        allow_split: false,
        max_moves: Some(moves),
        max_moved_bps: None,
    };
    let attempt = |rules: Rules| {
        let model = model(board.tree, &nodes, (prices, rules), &demands)?;
        let plan = solve(&model, warm, None);
        Ok((model.overload_per_mbps(), plan))
    };
    let mut solved = attempt(rules);
    // The cap on traffic costs the planner a node: it is stated only where it matters.
    if solved.as_ref().is_ok_and(|(_, plan)| plan.certificate.costs.moved_bps > bits) {
        rules.max_moved_bps = Some(bits);
        solved = attempt(rules);
    }
    let (exits, groups) = nodes.split_at(board.tree.exits());
    match solved {
        Err(error) => refused(board, field, nodes, urgency, &error),
        Ok((overload_per_mbps, plan)) => {
            let stated = Stated {
                exits,
                groups,
                prices: &prices,
                rules: &rules,
                overload_per_mbps,
                demands: &demands,
            };
            let vetoes = vetoes(&stated, &plan);
            let proved = if vetoes.is_empty() { proved(&stated, &plan) } else { Proved::default() };
            Study {
                urgency,
                stay: field.load.clone(),
                current: field.current.clone(),
                settled: settled(board, &plan),
                nodes,
                plan,
                overload_per_mbps,
                move_per_mbps: prices.move_per_mbps,
                proved,
                vetoes,
            }
        }
    }
}

/// What speaks against the plan.
fn vetoes(stated: &Stated<'_>, plan: &Plan) -> Vec<String> {
    let mut vetoes: Vec<String> = check(stated, plan).iter().map(ToString::to_string).collect();
    // Staying breaks no hard limit, so no plan may.
    let breach = plan.certificate.costs.breach_bps;
    if breach > 0.0 {
        vetoes.push(format!("the plan breaks hard limits by {breach:.0} bit/s"));
    }
    vetoes
}

fn settled(board: &Board<'_>, plan: &Plan) -> Vec<(Prefix, u16)> {
    let named = |(row, exit): &(usize, u16)| Some((board.items.get(*row)?.prefix, *exit));
    plan.warm.settled.iter().filter_map(named).collect()
}

/// A problem that cannot even be stated stands still, and says so.
fn refused(
    board: &Board<'_>,
    field: &Field,
    nodes: Vec<Node>,
    urgency: Urgency,
    error: &ModelError,
) -> Study {
    let mut plan = nothing();
    plan.exits = field.current.iter().map(|exit| exit.0).collect();
    plan.warm.prices = vec![0.0; nodes.len()];
    plan.loads.clone_from(&field.load);
    let vetoes = vec![format!("the problem cannot be stated: {error}")];
    let (stay, current, settled) = (field.load.clone(), field.current.clone(), Vec::new());
    let prices = board.tree.calm_prices(board.policy);
    let overload_per_mbps = prices.overload_per_mbps.unwrap_or(0.0);
    Study {
        urgency,
        nodes,
        stay,
        current,
        settled,
        plan,
        overload_per_mbps,
        move_per_mbps: prices.move_per_mbps,
        proved: Proved::default(),
        vetoes,
    }
}

/// The plan of no problem.
fn nothing() -> Plan {
    use crate::core::plan::tally::Costs;
    use crate::core::plan::{Certificate, Verdict};
    let certificate = Certificate {
        costs: Costs::default(),
        bound: 0.0,
        bound_by_prices: 0.0,
        overload_bound_bps: 0.0,
        stay: 0.0,
        stay_overload_bps: 0.0,
        realised: None,
        expired: false,
    };
    Plan {
        exits: Vec::new(),
        splits: Vec::new(),
        loads: Vec::new(),
        certificate,
        verdict: Verdict::NothingToGain,
        warm: Warm::default(),
    }
}

/// The least overload that any assignment has, with nothing but limits in the way; for asking what if. Items that may
/// use nothing are left out.
pub fn relaxed(board: &Board<'_>) -> Result<(Vec<Node>, Plan), ModelError> {
    let field = Field::new(board);
    let offers = Offers::new(board, &field);
    let mut demands = demands(board, &field, &offers);
    let mut nodes = board.tree.nodes().to_vec();
    for (node, marks) in nodes.iter_mut().zip(board.tree.marks()) {
        node.limit_bps = marks.limit;
    }
    set_base(board, &mut nodes);
    for demand in &mut demands {
        demand.pin = None;
        let lawful = |exit: &usize| demand.routes.iter().any(|route| route.exit == *exit);
        demand.current = demand.current.filter(lawful);
    }
    demands.retain(|demand| !demand.routes.is_empty());
    let prices = board.tree.relief_prices(board.policy);
    let model = model(board.tree, &nodes, (prices, Rules::default()), &demands)?;
    let plan = solve(&model, None, None);
    Ok((nodes, plan))
}
