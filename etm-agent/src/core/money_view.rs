//! Plans, prices and what-ifs as operators see them: plain, serializable values. Currency is the operator's, per month;
//! rates are bit/s. Never used to decide; renaming a field here breaks scripts, so it needs a changelog entry.

use super::allocator::{Board, Study, Urgency};
use super::guard::{Hold, State};
use super::money::{Tree, amount, real};
use super::plan::model::Node;
use super::plan::{Plan, Verdict};
use crate::types::{BitRate, ExitId, Prefix, Price, Share, Timestamp};
use serde::{Deserialize, Serialize};

/// What a plan concludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conclusion {
    /// It relieves overload, or undoes what a hard limit forbids.
    Relief,
    /// It saves enough.
    Apply,
    /// Something could be saved, but less than the least saving: everything stays.
    TooLittle,
    /// Staying is as good as anything.
    NothingToGain,
    /// The checker does not agree with it: everything stays.
    Vetoed,
}

/// `etm plan`: what would be done now, and what is proved about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// When this was made, CLOCK_BOOTTIME nanoseconds.
    pub at_ns: Timestamp,
    /// What the agent is doing.
    pub state: State,
    /// Why it would not decide now, if so.
    pub holds: Vec<Hold>,
    /// What the plan is for.
    pub urgency: Urgency,
    /// What it concludes.
    pub conclusion: Conclusion,
    /// What the checker has against it.
    pub vetoes: Vec<String>,
    /// Prefixes that would change their exit.
    pub moves: Vec<MoveView>,
    /// Their number.
    pub moved_prefixes: usize,
    /// Their traffic, bit/s.
    pub moved_bps: f64,
    /// Prefixes and exits that were considered.
    pub prefixes: usize,
    /// Load above limits with the plan, bit/s.
    pub overload_bps: f64,
    /// No plan has less, bit/s.
    pub overload_bound_bps: f64,
    /// What of that the checker proves by itself.
    pub overload_bound_checked_bps: f64,
    /// If everything stays, bit/s.
    pub overload_stay_bps: f64,
    /// What contracts ask with the plan, commitments not counted.
    pub money: f64,
    /// If everything stays.
    pub money_stay: f64,
    /// What commitments cost, used or not.
    pub committed: f64,
    /// Less preferred routes.
    pub penalty: f64,
    /// Cost of the plan in all, overload and moves at their prices.
    pub objective: f64,
    /// No plan costs less.
    pub objective_bound: f64,
    /// What of that the checker proves by itself; the rest rests on the planner's search over places of large prefixes.
    pub objective_bound_checked: f64,
    /// If everything stays.
    pub objective_stay: f64,
    /// How much cheaper another plan could at most be.
    pub gap: f64,
    /// Part of the achievable saving that the plan realises; none where nothing is to gain.
    pub realised: Option<f64>,
    /// Price of overload, per Mbit/s.
    pub overload_price_per_mbps: f64,
    /// Price of moving, per Mbit/s, as it counts within `payback`.
    pub move_price_per_mbps: f64,
    /// Changes that wait for approval; the plan begins where these lead.
    pub waiting: usize,
    /// Exits, then interfaces, ports and contracts above them.
    pub nodes: Vec<NodeView>,
}

/// A prefix that would change its exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveView {
    /// Destination.
    pub prefix: Prefix,
    /// From this exit.
    pub from: String,
    /// To this one.
    pub to: String,
    /// The part of its flows that goes there, parts per million.
    pub share_ppm: Share,
    /// Its traffic.
    pub rate_bps: BitRate,
    /// Why.
    pub reason: String,
}

/// An exit, an interface, a port or a contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Load if everything stays.
    pub stay_bps: f64,
    /// Load with the plan.
    pub planned_bps: f64,
    /// Load above this is overload; none where nothing limits.
    pub limit_bps: Option<f64>,
    /// The plan may fill it to this.
    pub ceiling_bps: Option<f64>,
    /// What one more Mbit/s here costs the whole plan: its price in the certificate.
    pub price_per_mbps: f64,
    /// What its contract asks for one more Mbit/s.
    pub tier_per_mbps: f64,
    /// What it is inside.
    pub inside: Option<String>,
}

/// What sending a prefix through an exit costs now, per Mbit/s and month.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidatePrice {
    /// Price of the exit and all around it: contracts, and how scarce room is there.
    pub exit_per_mbps: f64,
    /// For being less preferred than plain routing's choice.
    pub preference_per_mbps: f64,
    /// For moving there, if it is not there.
    pub moving_per_mbps: f64,
    /// The sum.
    pub total_per_mbps: f64,
}

/// `etm explain EXIT`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitView {
    /// Its name.
    pub exit: String,
    /// Whose it is.
    pub provider: String,
    /// Interface it uses.
    pub uplink: String,
    /// Link is up.
    pub up: bool,
    /// Price of one more Mbit/s through it, all around it included.
    pub price_per_mbps: f64,
    /// The whole answer, one sentence each.
    pub because: Vec<String>,
    /// The exit and all around it.
    pub nodes: Vec<NodeView>,
    /// Prefixes moved here, and their traffic.
    pub moved_here: usize,
    /// Their traffic.
    pub moved_here_bps: BitRate,
    /// Prefixes moved away from here.
    pub moved_away: usize,
    /// Their traffic.
    pub moved_away_bps: BitRate,
    /// The busiest prefixes on it.
    pub busiest: Vec<(Prefix, BitRate)>,
}

/// What the loss of an exit would mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossView {
    /// The exit, or the interface.
    pub lost: String,
    /// True where all that has another route fits below every limit.
    pub fits: bool,
    /// Traffic that it carries now, bit/s.
    pub carries_bps: f64,
    /// Load above limits at best, bit/s.
    pub overload_bps: f64,
    /// No split has less, bit/s.
    pub overload_bound_bps: f64,
    /// What would overflow, bit/s.
    pub overflow: Vec<Overflow>,
    /// Traffic on it that no other exit is known to take, bit/s.
    pub unplaced_bps: f64,
    /// Loads of exits and what is above them, with the loss.
    pub nodes: Vec<NodeView>,
}

/// A part of an overload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overflow {
    /// Exit, interface or port.
    pub name: String,
    /// Above its limit, bit/s.
    pub bps: f64,
}

/// `etm explain --n-1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// One per exit, in order of configuration.
    pub losses: Vec<LossView>,
}

/// Nodes with their loads and prices; `stay` is the load of each if everything stays.
pub fn node_views(tree: &Tree, nodes: &[Node], stay: &[f64], plan: &Plan) -> Vec<NodeView> {
    let finite = |value: f64| value.is_finite().then_some(value);
    let view = |(at, node): (usize, &Node)| {
        let load = plan.loads.get(at).copied().unwrap_or_default();
        let price = plan.warm.prices.get(at).copied().unwrap_or_default();
        NodeView {
            name: node.name.clone(),
            stay_bps: stay.get(at).copied().unwrap_or_default(),
            planned_bps: load,
            limit_bps: finite(tree.marks()[at].limit),
            ceiling_bps: finite(node.ceiling_bps),
            price_per_mbps: price * 1e6,
            tier_per_mbps: tree.marginal(at, load),
            inside: node.group.map(|group| nodes[tree.exits() + group].name.clone()),
        }
    };
    nodes.iter().enumerate().map(view).collect()
}

/// The figures of a study; moves and state are the caller's.
pub fn plan_view(tree: &Tree, study: &Study, committed: f64) -> PlanView {
    let claim = &study.plan.certificate;
    let applies = study.applies();
    let money = |loads: &[f64]| loads.iter().enumerate().map(|(at, load)| tree.cost(at, *load)).sum();
    let conclusion = match study.plan.verdict {
        _ if !study.vetoes.is_empty() => Conclusion::Vetoed,
        Verdict::Relief => Conclusion::Relief,
        Verdict::Apply => Conclusion::Apply,
        Verdict::TooLittle => Conclusion::TooLittle,
        Verdict::NothingToGain => Conclusion::NothingToGain,
    };
    PlanView {
        at_ns: Timestamp(0),
        state: State::WarmUp,
        holds: Vec::new(),
        urgency: study.urgency,
        conclusion,
        vetoes: study.vetoes.clone(),
        moves: Vec::new(),
        moved_prefixes: if applies { claim.costs.moved_prefixes } else { 0 },
        moved_bps: if applies { claim.costs.moved_bps } else { 0.0 },
        prefixes: study.current.len(),
        overload_bps: claim.costs.overload_bps,
        overload_bound_bps: claim.overload_bound_bps,
        overload_bound_checked_bps: study.proved.overload_bps,
        overload_stay_bps: claim.stay_overload_bps,
        money: claim.costs.money,
        money_stay: money(&study.stay),
        committed,
        penalty: claim.costs.penalty,
        objective: claim.costs.objective,
        objective_bound: claim.bound,
        objective_bound_checked: study.proved.bound,
        objective_stay: claim.stay,
        gap: claim.gap(),
        realised: claim.realised,
        overload_price_per_mbps: study.overload_per_mbps,
        move_price_per_mbps: study.move_per_mbps,
        waiting: 0,
        nodes: node_views(tree, &study.nodes, &study.stay, &study.plan),
    }
}

/// What the last plan proves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificateView {
    /// When it was made, CLOCK_BOOTTIME nanoseconds.
    pub at_ns: Timestamp,
    /// Overload that it leaves, bit/s.
    pub overload_bps: f64,
    /// No plan leaves less, bit/s.
    pub overload_bound_bps: f64,
    /// Its cost, currency per month, overload at its price.
    pub objective: f64,
    /// No plan costs less.
    pub objective_bound: f64,
    /// What leaving everything where it is costs.
    pub objective_stay: f64,
    /// Share of the achievable saving that it realises; none where nothing is to gain.
    pub realised: Option<f64>,
}

/// What a plan proves.
pub fn certificate_view(at_ns: Timestamp, study: &Study) -> CertificateView {
    let claim = &study.plan.certificate;
    CertificateView {
        at_ns,
        overload_bps: claim.costs.overload_bps,
        overload_bound_bps: claim.overload_bound_bps,
        objective: claim.costs.objective,
        objective_bound: claim.bound,
        objective_stay: claim.stay,
        realised: claim.realised,
    }
}

/// What an exit costs a prefix now; `rank` counts the exits that plain routing likes better than it.
pub fn candidate_price(
    tree: &Tree,
    study: &Study,
    (exit, current): (ExitId, ExitId),
    preference: Price,
    rank: u32,
) -> CandidatePrice {
    let price = |node: &usize| study.plan.warm.prices.get(*node).copied().unwrap_or_default();
    let exit_per_mbps = tree.path(exit).iter().map(price).sum::<f64>() * 1e6;
    let preference_per_mbps = amount(preference) * f64::from(rank);
    let moving_per_mbps = if exit == current { 0.0 } else { study.move_per_mbps };
    let total_per_mbps = exit_per_mbps + preference_per_mbps + moving_per_mbps;
    CandidatePrice { exit_per_mbps, preference_per_mbps, moving_per_mbps, total_per_mbps }
}

/// What a node is and why its price is what it is, in a sentence.
pub fn node_text(view: &NodeView) -> String {
    let mbit = |bps: f64| format!("{:.1} Mbit/s", bps / 1e6);
    let mut text = format!("{} carries {}", view.name, mbit(view.stay_bps));
    if let Some(limit) = view.limit_bps {
        text += &format!(" of its limit of {}", mbit(limit));
    }
    let full = view.ceiling_bps.is_some_and(|ceiling| view.planned_bps >= ceiling * 0.999);
    let drive = match view.limit_bps {
        Some(limit) if view.stay_bps > limit => "it is overloaded, which drives its price",
        _ if full => "the plan fills it to its mark: room there is scarce, which drives its price",
        _ if view.price_per_mbps > 0.0 && view.tier_per_mbps > 0.0 => "its contract drives its price",
        _ => "it has room",
    };
    format!(
        "{text}; {drive}: {:.4} per Mbit/s, of which {:.4} by contract",
        view.price_per_mbps, view.tier_per_mbps
    )
}

/// What one move alone saves a month by contracts and preferences, at the loads of a study.
pub fn saving(tree: &Tree, study: &Study, (from, to): (ExitId, ExitId), rate: BitRate) -> Price {
    let contract = |exit: ExitId| {
        let tier = |node: &usize| tree.marginal(*node, study.stay.get(*node).copied().unwrap_or_default());
        tree.path(exit).iter().map(tier).sum::<f64>()
    };
    let saved = (contract(from) - contract(to)) * real(rate) / 1e6;
    Price(micro(saved))
}

/// Millionths, not below zero.
fn micro(value: f64) -> u64 {
    let most = 9e15;
    let whole = (value * 1e6).clamp(0.0, most);
    // Two halves that fit a u32 each: there is no lossless conversion from a real number.
    let high = (whole / 4_294_967_296.0).floor();
    let low = whole - high * 4_294_967_296.0;
    let half = |part: f64| format!("{part:.0}").parse::<u64>().unwrap_or(0);
    half(high) * 4_294_967_296 + half(low)
}

/// What the loss of `lost` would mean: `board` is without it.
pub fn loss_view(lost: String, carries: BitRate, unplaced: BitRate, board: &Board<'_>) -> LossView {
    let empty = |lost| LossView {
        lost,
        fits: false,
        carries_bps: real(carries),
        overload_bps: 0.0,
        overload_bound_bps: 0.0,
        overflow: Vec::new(),
        unplaced_bps: real(unplaced),
        nodes: Vec::new(),
    };
    let Ok((nodes, plan)) = super::allocator::relaxed(board) else { return empty(lost) };
    let above =
        |(node, load): (&Node, &f64)| Overflow { name: node.name.clone(), bps: load - node.limit_bps };
    let overflow: Vec<Overflow> =
        nodes.iter().zip(&plan.loads).map(above).filter(|overflow| overflow.bps >= 1.0).collect();
    LossView {
        fits: overflow.is_empty(),
        overload_bps: plan.certificate.costs.overload_bps,
        overload_bound_bps: plan.certificate.overload_bound_bps,
        overflow,
        nodes: node_views(board.tree, &nodes, &[], &plan),
        ..empty(lost)
    }
}
