//! Where each prefix should leave. Behind this seam the planner decides and the checker judges; in front of it are
//! rooms, items and caps. Knows no routing, no clock, and no state but the prices that its caller hands back.
//!
//! In this order: what exceeds a cap is ended, pins are followed, overload is relieved with the least traffic; only where
//! there is none is anything given back or moved for money. What whole moves cannot relieve is divided (`partial`).

mod field;
mod leave;
pub mod partial;
mod problem;
mod surge;

#[cfg(test)]
mod tests;

pub use self::partial::{Part, Split};
pub use self::problem::{Study, relaxed};

use self::field::Field;
use super::money::{Tree, real};
use super::plan::{Verdict, Warm};
use super::policy::Policy;
use crate::types::{BitRate, ExitId, Prefix, Share};
use std::collections::BTreeSet;
use std::ops::Range;

/// What is known of an uplink besides its configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Load that is no item's: traffic that cannot be moved.
    pub base: BitRate,
    /// True where packets were dropped since the last sample: rates behind it are lower bounds.
    pub dropping: bool,
    /// Of the items' load, what came back with this round's look at what is divided: what ETM sent here makes way for it.
    pub returned: BitRate,
    /// Load that takes room and has no price: what surging items ask for beyond their usual rates.
    pub held: BitRate,
}

/// A prefix that may be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Destination.
    pub prefix: Prefix,
    /// Demand of the last interval.
    pub rate: BitRate,
    /// Smoothed demand: giving back must fit with this too.
    pub smoothed: BitRate,
    /// Where plain routing sends it.
    pub home: ExitId,
    /// Where it is sent now.
    pub current: ExitId,
    /// True while it must not be moved again, unless its exit is overloaded.
    pub held: bool,
    /// The exit that the operator chose.
    pub pin: Option<ExitId>,
    /// True where its exit is drained: it leaves as soon as another one has room.
    pub leave: bool,
    /// Its usual rate, while it asks for many times that.
    pub usual: Option<BitRate>,
    /// Exits it may use, the preferred one first: a part of `Board::choices`. A drained one only where it is there.
    pub choices: Range<usize>,
}

/// Limits on what may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Most items away from home.
    pub moves: usize,
    /// Most traffic away from home.
    pub moved: BitRate,
    /// Most traffic that may change its exit now.
    pub now: BitRate,
    /// Most items that may change their exit now.
    pub moves_now: usize,
}

impl Caps {
    /// Nothing is limited.
    pub const NONE: Caps =
        Caps { moves: usize::MAX, moved: BitRate(u64::MAX), now: BitRate(u64::MAX), moves_now: usize::MAX };
}

/// New moves stop this far below the cap on traffic, or every fluctuation above it would end one.
const BELOW_CAP: Share = Share::percent(95);

/// All that a placement follows from.
#[derive(Clone, Copy)]
pub struct Board<'a> {
    /// Nodes and prices.
    pub tree: &'a Tree,
    /// Operator's intent.
    pub policy: &'a Policy,
    /// By uplink.
    pub rooms: &'a [Room],
    /// In prefix order.
    pub items: &'a [Item],
    /// What the items may use.
    pub choices: &'a [ExitId],
    /// Limits on changes.
    pub caps: Caps,
}

impl Board<'_> {
    /// The exits of an item, the preferred one first.
    pub fn choices_of(&self, item: &Item) -> &[ExitId] {
        self.choices.get(item.choices.clone()).unwrap_or(&[])
    }
}

/// What a placement is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// Nothing is overloaded and nothing costs anything: nothing to plan.
    #[default]
    Idle,
    /// Nothing is overloaded: money, at leisure.
    Money,
    /// Something is overloaded, or carries more by ETM's doing than it may.
    Relief,
}

/// Prices of earlier plans, to start from.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    relief: Option<Start>,
    money: Option<Start>,
}

/// What the planner hands back, in a form that can be written down (a plan depends on where it started) and that outlives
/// a change of positions.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Start {
    prices: Vec<f64>,
    width: f64,
    settled: Vec<(Prefix, u16)>,
    shift: Vec<f64>,
    #[serde(default)]
    gap: f64,
    #[serde(default)]
    reach: f64,
}

impl Memory {
    fn of(&self, urgency: Urgency, items: &[Item]) -> Option<Warm> {
        let Start { prices, width, settled, shift, gap, reach } = match urgency {
            Urgency::Idle => None,
            Urgency::Money => self.money.clone(),
            Urgency::Relief => self.relief.clone(),
        }?;
        let place = |(prefix, exit): &(Prefix, u16)| {
            Some((items.binary_search_by_key(prefix, |item| item.prefix).ok()?, *exit))
        };
        // With one of them gone the hint is none.
        let settled = settled.iter().map(place).collect::<Option<Vec<_>>>();
        Some(match settled {
            Some(settled) => Warm { prices, width, settled, shift, gap, reach },
            None => Warm { prices, width, reach, ..Warm::default() },
        })
    }

    /// Remembers the prices of a plan.
    pub fn keep(&mut self, study: &Study) {
        let Warm { prices, width, shift, gap, reach, .. } = study.plan.warm.clone();
        let warm = Some(Start { prices, width, settled: study.settled.clone(), shift, gap, reach });
        match study.urgency {
            Urgency::Idle => {}
            Urgency::Money => self.money = warm,
            Urgency::Relief => self.relief = warm,
        }
    }
}

/// The result.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Exit of each item.
    pub exits: Vec<ExitId>,
    /// Load of each uplink with this placement.
    pub loads: Vec<BitRate>,
    /// Overload that remains, per uplink.
    pub residual: Vec<BitRate>,
    /// What it is for.
    pub urgency: Urgency,
    /// Items ended because a cap is exceeded, and those that were in the way of what went home for it.
    pub over_cap: Vec<usize>,
    /// Items that follow their pin anew.
    pub pinned: Vec<usize>,
    /// Items that leave a drained exit.
    pub left: BTreeSet<usize>,
    /// Items of which only a part is sent elsewhere, whatever `exits` says of them.
    pub parts: Vec<Split>,
    /// The problem, the plan, and what the checker says of it.
    pub study: Option<Study>,
}

/// Places every item.
pub fn allocate(board: &Board<'_>, memory: &Memory) -> Placement {
    let mut field = Field::new(board);
    let before = field.before(board);
    let mut over_cap = field.shed(board);
    let pinned = field.follow_pins(board);
    over_cap.extend(field.make_way(board, &before));
    let left = field.leave(board);
    let urgency = match (field.overloaded(board.tree), board.tree.priced()) {
        (true, _) => Urgency::Relief,
        (false, true) => Urgency::Money,
        (false, false) => Urgency::Idle,
    };
    if urgency != Urgency::Relief {
        field.give_back(board);
    }
    let warm = memory.of(urgency, board.items);
    let study = match urgency {
        Urgency::Idle => None,
        Urgency::Relief => Some(problem::study(board, &field, urgency, warm.as_ref())),
        Urgency::Money => Some(match surge::calmed(board) {
            Some((items, rooms, caps)) => {
                let calm = Board { items: &items, rooms: &rooms, caps, ..*board };
                problem::study(&calm, &field, urgency, warm.as_ref())
            }
            None => problem::study(board, &field, urgency, warm.as_ref()),
        }),
    };
    let study = study.map(|study| in_full(board, &field, study));
    let exits = match &study {
        Some(study) if study.applies() => exits(study),
        _ => field.current,
    };
    let (loads, residual) = loads(board, &exits);
    let mut placement =
        Placement { exits, loads, residual, urgency, over_cap, pinned, left, parts: Vec::new(), study };
    if placement.residual.iter().any(|residual| *residual > BitRate::ZERO) || urgency == Urgency::Relief {
        partial::split(board, &mut placement);
    }
    placement
}

/// Relief in parts is better than relief at once, and none is worse than either: where a part of the room leads to no plan
/// that can be used, all of it is tried.
fn in_full(board: &Board<'_>, field: &Field, study: Study) -> Study {
    let in_parts = study.urgency == Urgency::Relief && board.rooms.iter().any(|room| room.dropping);
    if !in_parts || study.applies() {
        return study;
    }
    let rooms: Vec<Room> = board.rooms.iter().map(|room| Room { dropping: false, ..*room }).collect();
    problem::study(&Board { rooms: &rooms, ..*board }, field, Urgency::Relief, None)
}

/// The same, for looking at: a plan for money is made also where nothing costs anything.
pub fn preview(board: &Board<'_>, memory: &Memory) -> Study {
    let placement = allocate(board, memory);
    placement.study.unwrap_or_else(|| {
        let mut field = Field::new(board);
        let before = field.before(board);
        field.shed(board);
        field.follow_pins(board);
        field.make_way(board, &before);
        field.leave(board);
        field.give_back(board);
        problem::study(board, &field, Urgency::Money, None)
    })
}

impl Study {
    /// True where the plan may be used and changes something.
    pub fn applies(&self) -> bool {
        self.vetoes.is_empty() && matches!(self.plan.verdict, Verdict::Apply | Verdict::Relief)
    }
}

fn exits(study: &Study) -> Vec<ExitId> {
    study.plan.exits.iter().map(|exit| ExitId(*exit)).collect()
}

/// Loads of uplinks and what is above their limits.
fn loads(board: &Board<'_>, exits: &[ExitId]) -> (Vec<BitRate>, Vec<BitRate>) {
    let mut loads: Vec<BitRate> = board.rooms.iter().map(|room| room.base).collect();
    for (item, exit) in board.items.iter().zip(exits) {
        if let Some(load) = board.policy.uplink_of(*exit).and_then(|uplink| loads.get_mut(uplink.index())) {
            *load += item.rate;
        }
    }
    let residual = residual(board, &loads);
    (loads, residual)
}

/// What of loads of uplinks is above their limits.
fn residual(board: &Board<'_>, loads: &[BitRate]) -> Vec<BitRate> {
    let limit = |index: usize| {
        board.policy.uplinks.get(index).map_or(BitRate(u64::MAX), |uplink| uplink.limit_rate())
    };
    loads.iter().enumerate().map(|(at, load)| load.saturating_sub(limit(at))).collect()
}

/// How much more an exit takes before it, or anything around it, is at `mark`.
pub fn room(tree: &Tree, uplinks: &[BitRate], exit: ExitId, fill: bool) -> f64 {
    let mut load = vec![0.0; tree.nodes().len()];
    for (index, rate) in uplinks.iter().enumerate() {
        let uplink = crate::types::UplinkId(u16::try_from(index).unwrap_or(u16::MAX));
        for node in tree.of_uplink(uplink).map_or(&[][..], |node| tree.above(node)) {
            load[*node] += real(*rate);
        }
    }
    let mark = |node: usize| if fill { tree.marks()[node].fill } else { tree.marks()[node].limit };
    tree.path(exit).iter().map(|node| mark(*node) - load[*node]).fold(f64::INFINITY, f64::min)
}
