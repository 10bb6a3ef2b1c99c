//! Partial overrides: a share of one prefix's flows to one exit, the rest where plain routing sends it. For prefixes that
//! fit whole on no exit, after all that whole moves can do. Never chosen where a whole move helps, never more of it than
//! brings its uplink to the mark, never above a mark of the exit that takes it.
//!
//! `review` looks at those that stand, before the plan; the plan takes them as traffic that cannot be moved; `split` makes
//! new ones of what the plan leaves overloaded.

use super::field::{Field, add};
use super::{BELOW_CAP, Board, Caps, Item, Placement};
use crate::core::money::{Marks, real};
use crate::types::{BitRate, ExitId, FlowShare, Share};

/// A standing share that is at most this much (in 256ths) larger than needed stays: an eighth.
const SLACK: u16 = 32;
/// A share that cannot grow to what is needed grows by at least this much (in 256ths), or not at all.
const STEP: u16 = 8;
/// What asks for less than this part of the limit that it is above is never divided: whole moves are fine enough for it.
const LARGE: f64 = 0.25;
/// Most partial overrides that one round makes.
const AT_A_TIME: usize = 8;

/// A prefix of which a part of the flows is sent elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The prefix with its whole demand, at home.
    pub item: Item,
    /// The exit of the part.
    pub to: ExitId,
    /// The part as it is decided now.
    pub share: FlowShare,
    /// The part as it stands.
    pub standing: FlowShare,
    /// What was counted there of the demand, while it stands and was not changed lately: few flows do not divide evenly.
    pub seen: Option<BitRate>,
    /// True where it was changed so lately that its effect is not counted yet.
    pub fresh: bool,
}

impl Part {
    /// What `share` of the flows makes there: as counted at the standing share, in proportion below and above it.
    pub fn moved(&self, share: FlowShare) -> BitRate {
        let Some(seen) = self.seen.filter(|_| self.standing.is_part()) else {
            return share.of(self.item.rate);
        };
        let seen = seen.min(self.item.rate);
        let scaled = |rate: BitRate, by: u16, of: u16| {
            let part = u128::from(rate.0) * u128::from(by) / u128::from(of.max(1));
            BitRate(u64::try_from(part).unwrap_or(u64::MAX))
        };
        match share.get().checked_sub(self.standing.get()) {
            None | Some(0) => scaled(seen, share.get(), self.standing.get()),
            Some(more) => seen + scaled(self.item.rate.saturating_sub(seen), more, self.standing.rest()),
        }
    }

    /// What stays at home.
    pub fn stays(&self) -> BitRate {
        self.item.rate.saturating_sub(self.moved(self.share))
    }
}

/// What becomes of a standing part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays, with this share.
    Share(FlowShare),
    /// All of it goes home.
    Home,
    /// All of it fits there now.
    Whole,
}

/// A new part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Position of the item.
    pub index: usize,
    /// The exit of the part.
    pub to: ExitId,
    /// The part.
    pub share: FlowShare,
}

/// Loads, and what may still be changed.
struct Ground<'a, 'b> {
    board: &'a Board<'b>,
    load: Vec<f64>,
    left: Caps,
}

/// A way from home to another exit.
type Pair = (ExitId, ExitId);

impl Ground<'_, '_> {
    fn shift(&mut self, (from, to): Pair, rate: BitRate) {
        add(&mut self.load, self.board.tree.path(from), -real(rate));
        add(&mut self.load, self.board.tree.path(to), real(rate));
    }

    /// The least that must leave home for everything around it that `to` does not load to be within its mark; below zero
    /// where there is room.
    fn need(&self, (home, to): Pair, mark: fn(&Marks) -> f64) -> f64 {
        let (tree, there) = (self.board.tree, self.board.tree.path(to));
        let nodes = tree.path(home).iter().filter(|node| !there.contains(node));
        nodes.map(|node| self.load[*node] - mark(&tree.marks()[*node])).fold(f64::NEG_INFINITY, f64::max)
    }

    /// The most that `to` takes with everything around it that home does not load within its mark; below zero where it is
    /// above it already.
    fn room(&self, (home, to): Pair, mark: fn(&Marks) -> f64) -> f64 {
        let (tree, here) = (self.board.tree, self.board.tree.path(home));
        let nodes = tree.path(to).iter().filter(|node| !here.contains(node));
        nodes.map(|node| mark(&tree.marks()[*node]) - self.load[*node]).fold(f64::INFINITY, f64::min)
    }

    /// The room that one round may fill: a part of it while packets are dropped, for then rates are lower bounds.
    fn fill(&self, pair: Pair) -> f64 {
        let dropping = self.board.rooms.iter().any(|room| room.dropping);
        let part = if dropping { f64::from(self.board.policy.fill_share.0) / 1e6 } else { 1.0 };
        self.room(pair, |marks| marks.fill) * part
    }

    /// True where flows on one uplink can be seen on the other.
    fn apart(&self, (home, to): Pair) -> bool {
        let policy = self.board.policy;
        policy.border_of_exit(to).is_none() && policy.uplink_of(home) != policy.uplink_of(to)
    }
}

/// The smallest share that makes at least `need`.
fn least(part: &Part, need: f64) -> Option<FlowShare> {
    shares().find(|share| real(part.moved(*share)) >= need)
}

/// The largest share that makes at most `room`.
fn most(part: &Part, room: f64) -> Option<FlowShare> {
    shares().rev().find(|share| real(part.moved(*share)) <= room)
}

fn shares() -> impl DoubleEndedIterator<Item = FlowShare> {
    (FlowShare::LEAST.get()..=FlowShare::MOST.get()).filter_map(FlowShare::part)
}

/// What becomes of each standing part, with items where they are and `rooms` without the parts; and what is left of the
/// caps for everything else.
pub fn review(board: &Board<'_>, parts: &[Part]) -> (Vec<Verdict>, Caps) {
    let mut ground = Ground { board, load: Field::new(board).load, left: board.caps };
    for part in parts {
        add(&mut ground.load, board.tree.path(part.item.home), real(part.item.rate));
        ground.shift((part.item.home, part.to), part.moved(part.share));
    }
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(parts[*at].item.rate), parts[*at].item.prefix));
    let mut verdicts = vec![Verdict::Home; parts.len()];
    for at in order {
        let (part, pair) = (&parts[at], (parts[at].item.home, parts[at].to));
        let before = part.moved(part.share);
        ground.shift((pair.1, pair.0), before);
        verdicts[at] = judge(&ground, part);
        let after = match verdicts[at] {
            Verdict::Home => continue,
            Verdict::Share(share) => part.moved(share),
            // The plan counts it among the whole ones.
            Verdict::Whole => {
                ground.shift(pair, part.item.rate);
                continue;
            }
        };
        ground.shift(pair, after);
        let left = &mut ground.left;
        left.moves = left.moves.saturating_sub(1);
        left.moved = left.moved.saturating_sub(after);
        left.now = left.now.saturating_sub(after.saturating_sub(before));
        left.moves_now = left.moves_now.saturating_sub(usize::from(after > before));
    }
    trim(&mut ground, parts, &mut verdicts);
    (verdicts, ground.left)
}

/// What becomes of standing parts once everything else has its place, `rooms` with the parts.
pub fn settle(board: &Board<'_>, placement: &Placement, parts: &[Part]) -> Vec<Verdict> {
    let mut ground = Ground { board, load: Field::new(board).load, left: board.caps };
    for (item, exit) in board.items.iter().zip(&placement.exits) {
        ground.shift((item.current, *exit), item.rate);
    }
    for split in &placement.parts {
        let (item, exit) = (&board.items[split.index], placement.exits[split.index]);
        ground.shift((exit, item.home), item.rate);
        ground.shift((item.home, split.to), split.share.of(item.rate));
    }
    let mut verdicts: Vec<Verdict> = parts.iter().map(|part| Verdict::Share(part.share)).collect();
    trim(&mut ground, parts, &mut verdicts);
    verdicts
}

/// What came home may find its place taken by a part that is a guest there: that gives way, and so on. Parts only shrink
/// here, so it ends.
fn trim(ground: &mut Ground<'_, '_>, parts: &[Part], verdicts: &mut [Verdict]) {
    let mut again = true;
    while std::mem::take(&mut again) {
        for (part, verdict) in parts.iter().zip(verdicts.iter_mut()) {
            let (Verdict::Share(share), pair) = (*verdict, (part.item.home, part.to)) else { continue };
            let now = part.moved(share);
            ground.shift((pair.1, pair.0), now);
            if real(now) > ground.room(pair, |marks| marks.limit) && !part.fresh {
                let less = most(part, ground.room(pair, |marks| marks.relief)).filter(|less| *less < share);
                *verdict = less.map_or(Verdict::Home, Verdict::Share);
                again = true;
            }
            if let Verdict::Share(share) = *verdict {
                ground.shift(pair, part.moved(share));
            }
        }
    }
}

/// One of them, with all of it at home.
fn judge(ground: &Ground<'_, '_>, part: &Part) -> Verdict {
    let (board, item, pair) = (ground.board, &part.item, (part.item.home, part.to));
    let choices = board.choices_of(item);
    let lawful =
        board.policy.split && item.pin.is_none() && choices.contains(&pair.0) && choices.contains(&pair.1);
    let now = part.moved(part.share);
    if !lawful || !ground.apart(pair) || ground.left.moves == 0 {
        return Verdict::Home;
    }
    if part.fresh {
        return Verdict::Share(part.share);
    }
    // It takes no more than its exit, and the cap on all that is moved, leave for it.
    let bound = ground.room(pair, |marks| marks.limit).min(real(ground.left.moved));
    if real(now) > bound {
        let less = ground.room(pair, |marks| marks.relief).min(real(ground.left.moved));
        let share = most(part, less).filter(|share| *share < part.share);
        return share.map_or(Verdict::Home, Verdict::Share);
    }
    // What it may grow to again before long counts for giving back.
    let grown = real(item.smoothed.saturating_sub(item.rate));
    let overloads = ground.need(pair, |marks| marks.limit);
    let silent = item.rate.max(item.smoothed) == BitRate::ZERO;
    if silent || ground.need(pair, |marks| marks.fill) + grown <= 0.0 {
        return if item.held { Verdict::Share(part.share) } else { Verdict::Home };
    }
    if !item.held && overloads > 0.0 && fits_whole(ground, part, grown) {
        return Verdict::Whole;
    }
    if overloads > real(now) {
        return Verdict::Share(growth(ground, part));
    }
    let enough = least(part, ground.need(pair, |marks| marks.fill) + grown);
    let smaller = enough.filter(|share| !item.held && share.get() + SLACK <= part.share.get());
    Verdict::Share(smaller.unwrap_or(part.share))
}

/// True where its exit takes all of it: a whole override is told to peers, and needs no division.
fn fits_whole(ground: &Ground<'_, '_>, part: &Part, grown: f64) -> bool {
    let (item, pair) = (&part.item, (part.item.home, part.to));
    let more = item.rate.saturating_sub(part.moved(part.share));
    let capped = item.rate > ground.left.moved.scaled(BELOW_CAP)
        || more > ground.left.now
        || ground.left.moves_now == 0;
    !capped && real(item.rate) + grown <= ground.fill(pair)
}

/// The share that relieves home, as far as there is room for it.
fn growth(ground: &Ground<'_, '_>, part: &Part) -> FlowShare {
    let pair = (part.item.home, part.to);
    let now = real(part.moved(part.share));
    let wanted = least(part, ground.need(pair, |marks| marks.relief)).unwrap_or(FlowShare::MOST);
    let moved = real(ground.left.moved.scaled(BELOW_CAP)).min(now + real(ground.left.now));
    let possible = most(part, ground.fill(pair).min(moved)).filter(|_| ground.left.moves_now > 0);
    let share = possible.unwrap_or(part.share).min(wanted);
    if share == wanted || share.get() >= part.share.get() + STEP { share.max(part.share) } else { part.share }
}

/// Divides prefixes of what a placement leaves overloaded, the largest first.
pub fn split(board: &Board<'_>, placement: &mut Placement) {
    if !board.policy.split || board.policy.canary.is_partial() {
        return;
    }
    let mut ground = Ground { board, load: Field::new(board).load, left: left_of(board, &placement.exits) };
    for (item, exit) in board.items.iter().zip(&placement.exits) {
        ground.shift((item.current, *exit), item.rate);
    }
    let mut order: Vec<usize> =
        (0..board.items.len()).filter(|at| over(&ground, placement.exits[*at]).is_some()).collect();
    order.sort_by_key(|at| (std::cmp::Reverse(board.items[*at].rate), board.items[*at].prefix));
    for index in order {
        if placement.parts.len() == AT_A_TIME || ground.left.moves_now == 0 {
            return;
        }
        let (item, exit) = (&board.items[index], placement.exits[index]);
        let Some(node) = over(&ground, exit).filter(|_| item.pin.is_none() && item.rate > BitRate::ZERO)
        else {
            continue;
        };
        if real(item.rate) < LARGE * board.tree.marks()[node].limit {
            continue;
        }
        // The rest stays at home: that must be lawful too.
        if !board.choices_of(item).contains(&item.home) {
            continue;
        }
        if whole_moves_mend(&ground, &placement.exits, node) {
            continue;
        }
        let found = if exit == item.home { away(&ground, index) } else { back(&ground, index, exit) };
        let Some(found) = found else { continue };
        let (from, moved) = (item.home, found.share.of(item.rate));
        // From where the plan has it to home, and the part from there.
        ground.shift((exit, from), item.rate);
        ground.shift((from, found.to), moved);
        ground.left.moves_now = ground.left.moves_now.saturating_sub(1);
        if exit == from {
            ground.left.now = ground.left.now.saturating_sub(moved);
            ground.left.moved = ground.left.moved.saturating_sub(moved);
            ground.left.moves = ground.left.moves.saturating_sub(1);
        }
        carry(board, placement, (exit, item.rate), (from, found.to, moved));
        placement.parts.push(found);
    }
}

/// What a placement leaves of the caps.
fn left_of(board: &Board<'_>, exits: &[ExitId]) -> Caps {
    let mut left = Caps { moved: board.caps.moved.scaled(BELOW_CAP), ..board.caps };
    if board.policy.max_moved_share >= Share::ONE {
        left.moved = board.caps.moved;
    }
    for (item, exit) in board.items.iter().zip(exits).filter(|(item, exit)| **exit != item.home) {
        left.moves = left.moves.saturating_sub(1);
        left.moved = left.moved.saturating_sub(item.rate);
        if *exit != item.current {
            left.now = left.now.saturating_sub(item.rate);
            left.moves_now = left.moves_now.saturating_sub(1);
        }
    }
    left
}

/// What around an exit is above its limit.
fn over(ground: &Ground<'_, '_>, exit: ExitId) -> Option<usize> {
    let tree = ground.board.tree;
    tree.path(exit).iter().copied().find(|node| ground.load[*node] > tree.marks()[*node].limit)
}

/// True where prefixes that fit elsewhere as wholes are enough: the plan was held up by a cap, and the next one goes on.
fn whole_moves_mend(ground: &Ground<'_, '_>, exits: &[ExitId], node: usize) -> bool {
    let (board, tree) = (ground.board, ground.board.tree);
    let mut excess = ground.load[node] - tree.marks()[node].limit;
    for (item, exit) in board.items.iter().zip(exits).filter(|(item, _)| item.pin.is_none()) {
        if !tree.path(*exit).contains(&node) {
            continue;
        }
        let fits = |to: &ExitId| {
            to != exit
                && !tree.path(*to).contains(&node)
                && ground.room((*exit, *to), |marks| marks.fill) >= real(item.rate)
        };
        if board.choices_of(item).iter().any(fits) {
            excess -= real(item.rate);
        }
        if excess <= 0.0 {
            return true;
        }
    }
    false
}

/// A part of what is at home to the first exit that takes enough, or to the one that takes most.
fn away(ground: &Ground<'_, '_>, index: usize) -> Option<Split> {
    let (board, item) = (ground.board, &ground.board.items[index]);
    if ground.left.moves == 0 {
        return None;
    }
    let part = new_part(item);
    let mut best: Option<(FlowShare, bool, ExitId)> = None;
    for to in board.choices_of(item).iter().copied().filter(|to| *to != item.home) {
        let pair = (item.home, to);
        let need = ground.need(pair, |marks| marks.limit);
        if !ground.apart(pair) || need <= 0.0 {
            continue;
        }
        let room = ground.fill(pair).min(real(ground.left.now)).min(real(ground.left.moved));
        let Some(possible) = most(&part, room) else { continue };
        let wanted = least(&part, ground.need(pair, |marks| marks.relief)).unwrap_or(FlowShare::MOST);
        let (share, enough) = (wanted.min(possible), wanted <= possible);
        if best.is_none_or(|(most, done, _)| !done && (enough || share > most)) {
            best = Some((share, enough, to));
        }
    }
    best.map(|(share, _, to)| Split { index, to, share })
}

/// Of what is away as a whole, on an exit that it overloads, a part goes back home.
fn back(ground: &Ground<'_, '_>, index: usize, exit: ExitId) -> Option<Split> {
    let item = &ground.board.items[index];
    let (pair, part) = ((exit, item.home), new_part(item));
    if !ground.apart((item.home, exit)) || ground.need(pair, |marks| marks.limit) <= 0.0 {
        return None;
    }
    let leaves = ground.need(pair, |marks| marks.relief);
    let share = most(&part, real(item.rate) - leaves).unwrap_or(FlowShare::LEAST);
    // Home takes no more than to its mark.
    let least = least(&part, real(item.rate) - ground.room(pair, |marks| marks.fill))?;
    Some(Split { index, to: exit, share: share.max(least) })
}

fn new_part(item: &Item) -> Part {
    let (share, standing) = (FlowShare::ALL, FlowShare::ALL);
    Part { item: item.clone(), to: item.home, share, standing, seen: None, fresh: false }
}

/// The same change to what the placement says of uplinks.
fn carry(
    board: &Board<'_>,
    placement: &mut Placement,
    (exit, rate): (ExitId, BitRate),
    (home, to, moved): (ExitId, ExitId, BitRate),
) {
    let mut put = |exit: ExitId, less: BitRate, more: BitRate| {
        let uplink = board.policy.uplink_of(exit).map(|uplink| uplink.index());
        if let Some(load) = uplink.and_then(|at| placement.loads.get_mut(at)) {
            *load = load.saturating_sub(less) + more;
        }
    };
    put(exit, rate, BitRate::ZERO);
    put(home, BitRate::ZERO, rate.saturating_sub(moved));
    put(to, BitRate::ZERO, moved);
    placement.residual = super::residual(board, &placement.loads);
}
