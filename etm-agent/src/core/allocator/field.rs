//! Loads as they are, and the steps that need no plan: ending what exceeds a cap, following pins, giving back.
//! Never fills anything above its mark, and never searches.

use super::{BELOW_CAP, Board, Item};
use crate::core::money::{Tree, amount, real};
use crate::types::{BitRate, ExitId, Share};

/// Loads of nodes, and where each item is.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// With every item where it is.
    pub(super) load: Vec<f64>,
    /// With every item at home.
    pub(super) home: Vec<f64>,
    /// Where each item is.
    pub(super) current: Vec<ExitId>,
    /// What was sent away from home in this round already: items, and traffic.
    spent: (usize, BitRate),
}

impl Field {
    pub(super) fn new(board: &Board<'_>) -> Field {
        let mut base = vec![0.0; board.tree.nodes().len()];
        for (index, room) in board.rooms.iter().enumerate() {
            let uplink = crate::types::UplinkId(u16::try_from(index).unwrap_or(u16::MAX));
            for node in board.tree.of_uplink(uplink).map_or(&[][..], |node| board.tree.above(node)) {
                base[*node] += real(room.base);
            }
        }
        let mut field =
            Field { load: base.clone(), home: base, current: Vec::new(), spent: (0, BitRate::ZERO) };
        for item in board.items {
            add(&mut field.load, board.tree.path(item.current), real(item.rate));
            add(&mut field.home, board.tree.path(item.home), real(item.rate));
            field.current.push(item.current);
        }
        field
    }

    /// Loads before anything was sent home in this round.
    pub(super) fn before(&self, board: &Board<'_>) -> Vec<f64> {
        let mut before = self.load.clone();
        for (index, room) in board.rooms.iter().enumerate().filter(|(_, room)| room.returned > BitRate::ZERO)
        {
            let uplink = crate::types::UplinkId(u16::try_from(index).unwrap_or(u16::MAX));
            add(
                &mut before,
                board.tree.of_uplink(uplink).map_or(&[][..], |node| board.tree.above(node)),
                -real(room.returned),
            );
        }
        before
    }

    fn place(&mut self, board: &Board<'_>, index: usize, to: ExitId) {
        let rate = real(board.items[index].rate);
        add(&mut self.load, board.tree.path(self.current[index]), -rate);
        add(&mut self.load, board.tree.path(to), rate);
        self.current[index] = to;
    }

    /// The same for what is sent on its way anew, which counts for the caps on change.
    pub(super) fn send(&mut self, board: &Board<'_>, index: usize, to: ExitId) {
        if to != board.items[index].home {
            self.spent.0 += 1;
            self.spent.1 += board.items[index].rate;
        }
        self.place(board, index, to);
    }

    /// True where something carries more than its limit.
    pub(super) fn overloaded(&self, tree: &Tree) -> bool {
        self.load.iter().zip(tree.marks()).any(|(load, marks)| *load > marks.limit)
    }

    /// True where an exit, or anything around it, carries more than its limit.
    pub(super) fn overloaded_at(&self, tree: &Tree, exit: ExitId) -> bool {
        tree.path(exit).iter().any(|node| self.load[*node] > tree.marks()[*node].limit)
    }

    /// True where every node that `to` loads and `from` does not takes `rate` without passing its mark.
    pub(super) fn fits(&self, tree: &Tree, (from, to): (ExitId, ExitId), rate: f64, fill: bool) -> bool {
        let before = tree.path(from);
        tree.path(to).iter().filter(|node| !before.contains(node)).all(|node| {
            let marks = tree.marks()[*node];
            self.load[*node] + rate <= if fill { marks.fill } else { marks.limit }
        })
    }

    /// What sending an item elsewhere adds to the cost, currency per month; moving itself not counted.
    pub(super) fn change(&self, board: &Board<'_>, index: usize, to: ExitId) -> f64 {
        let (item, from) = (&board.items[index], self.current[index]);
        let rate = real(item.rate);
        let (before, after) = (board.tree.path(from), board.tree.path(to));
        let overload = board.tree.calm_prices(board.policy).overload_per_mbps.unwrap_or(0.0) / 1e6;
        let cost = |node: usize, load: f64| {
            board.tree.cost(node, load) + overload * (load - board.tree.marks()[node].limit).max(0.0)
        };
        let shift = |node: usize, by: f64| cost(node, self.load[node] + by) - cost(node, self.load[node]);
        let leaving = before.iter().filter(|node| !after.contains(node)).map(|node| shift(*node, -rate));
        let coming = after.iter().filter(|node| !before.contains(node)).map(|node| shift(*node, rate));
        let standing = |exit: ExitId| {
            penalty(board, item, exit) * rate / 1e6
                + if exit == item.home { 0.0 } else { amount(board.policy.prices.holding) }
        };
        leaving.sum::<f64>() + coming.sum::<f64>() + standing(to) - standing(from)
    }

    /// Sends home what exceeds the caps, the least useful first, and says what.
    pub(super) fn shed(&mut self, board: &Board<'_>) -> Vec<usize> {
        let away = |field: &Field| -> Vec<usize> {
            let moved = |index: &usize| field.current[*index] != board.items[*index].home;
            (0..board.items.len()).filter(moved).collect()
        };
        let mut shed = Vec::new();
        loop {
            let left = away(self);
            let moved: BitRate = left.iter().map(|index| board.items[*index].rate).sum();
            let above = moved.saturating_sub(board.caps.moved);
            let many = left.len().saturating_sub(board.caps.moves);
            if above == BitRate::ZERO && many == 0 {
                return shed;
            }
            let price = |index: usize| {
                let rate = real(board.items[index].rate).max(1.0);
                self.change(board, index, board.items[index].home) / rate
            };
            // An override without traffic is of no use to a cap on traffic, and of all the others to one on number.
            let counts = |index: &usize| many > 0 || board.items[*index].rate > BitRate::ZERO;
            let mut ranked: Vec<(f64, usize)> =
                left.into_iter().filter(counts).map(|index| (price(index), index)).collect();
            ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            // Each one ended changes what the others are worth: half of what is needed at a time, then ranked anew.
            let (mut bits, mut count) = (BitRate::ZERO, 0);
            for (_, index) in ranked {
                self.place(board, index, board.items[index].home);
                shed.push(index);
                bits += board.items[index].rate;
                count += 1;
                if bits.0 >= above.0.div_ceil(2) && count >= many.div_ceil(2) {
                    break;
                }
            }
        }
    }

    /// What was sent home may find its place taken by what ETM sent there: that goes home too, the least useful first.
    /// With everything at home nothing is above what it would be without ETM.
    pub(super) fn make_way(&mut self, board: &Board<'_>, before: &[f64]) -> Vec<usize> {
        let mut ended = Vec::new();
        loop {
            let crowded = |node: usize| {
                self.load[node] > self.home[node].max(board.tree.marks()[node].limit).max(before[node])
            };
            let guest = |index: &usize| {
                let (current, home) = (self.current[*index], board.items[*index].home);
                let path = board.tree.path(current);
                let guests = path.iter().filter(|node| !board.tree.path(home).contains(node));
                board.items[*index].rate > BitRate::ZERO && guests.copied().any(crowded)
            };
            let price = |index: usize| {
                let rate = real(board.items[index].rate).max(1.0);
                self.change(board, index, board.items[index].home) / rate
            };
            let guests = (0..board.items.len())
                .filter(|index| self.current[*index] != board.items[*index].home && guest(index));
            let least = guests
                .map(|index| (price(index), index))
                .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let Some((_, index)) = least else { return ended };
            self.place(board, index, board.items[index].home);
            ended.push(index);
        }
    }

    /// What may still change its exit without passing a cap: items, and traffic. Where even all that is at home could leave
    /// it, the caps on what is away limit nothing: least of all what goes home.
    pub(super) fn allowance(&self, board: &Board<'_>) -> (usize, BitRate) {
        let (mut count, mut bits) = ((0, 0), (BitRate::ZERO, BitRate::ZERO));
        for (item, current) in board.items.iter().zip(&self.current) {
            if *current == item.home {
                (count.0, bits.0) = (count.0 + 1, bits.0 + item.rate);
            } else {
                (count.1, bits.1) = (count.1 + 1, bits.1 + item.rate);
            }
        }
        // What cannot be exceeded needs no distance.
        let all = board.policy.max_moved_share >= Share::ONE;
        let cap = if all { board.caps.moved } else { board.caps.moved.scaled(BELOW_CAP) };
        let below = cap.saturating_sub(bits.1);
        let below = if bits.0 <= below { BitRate(u64::MAX) } else { below };
        let moves = board.caps.moves.saturating_sub(count.1);
        let moves = if count.0 <= moves { usize::MAX } else { moves };
        let now = board.caps.now.saturating_sub(self.spent.1);
        (moves.min(board.caps.moves_now.saturating_sub(self.spent.0)), below.min(now))
    }

    /// Items whose exit the operator chose go there as long as there is room and no cap forbids it, else where plain
    /// routing says.
    pub(super) fn follow_pins(&mut self, board: &Board<'_>) -> Vec<usize> {
        let mut pinned = Vec::new();
        if board.policy.pins.is_empty() {
            return pinned;
        }
        let tree = board.tree;
        let (mut moves, mut bits) = self.allowance(board);
        for (index, item) in board.items.iter().enumerate() {
            let Some(pin) = item.pin.filter(|pin| board.choices_of(item).contains(pin)) else { continue };
            let from = self.current[index];
            if from == pin && (pin == item.home || !self.overloaded_at(tree, pin)) {
                continue;
            }
            let capped = pin != item.home && (moves == 0 || item.rate > bits);
            if from != pin && !capped && self.fits(tree, (from, pin), real(item.rate), true) {
                self.send(board, index, pin);
                pinned.push(index);
                (moves, bits) = (moves.saturating_sub(1), bits.saturating_sub(item.rate));
            } else if from != item.home {
                self.place(board, index, item.home);
            }
        }
        pinned
    }

    /// Sends items home where that is no dearer and home takes them up to its mark, now and on the smoothed rate.
    pub(super) fn give_back(&mut self, board: &Board<'_>) {
        let open = |index: &usize| {
            let item = &board.items[*index];
            self.current[*index] != item.home
                && !item.held
                && !item.leave
                && item.pin != Some(self.current[*index])
        };
        let mut away: Vec<usize> = (0..board.items.len()).filter(open).collect();
        away.sort_by_key(|index| (std::cmp::Reverse(board.items[*index].rate), board.items[*index].prefix));
        for index in away {
            let item = &board.items[index];
            let rate = real(item.rate.max(item.smoothed));
            if board.choices_of(item).contains(&item.home)
                && self.fits(board.tree, (self.current[index], item.home), rate, true)
                && self.change(board, index, item.home) <= 0.0
            {
                self.place(board, index, item.home);
            }
        }
    }
}

pub(super) fn add(load: &mut [f64], path: &[usize], rate: f64) {
    for node in path {
        load[*node] += rate;
    }
}

/// Price per Mbit/s and month of a less preferred exit: plain routing's own choice costs nothing.
pub(super) fn penalty(board: &Board<'_>, item: &Item, exit: ExitId) -> f64 {
    if exit == item.home {
        return 0.0;
    }
    let others = board.choices_of(item).iter().filter(|choice| **choice != item.home);
    let rank = others.take_while(|choice| **choice != exit).count() + 1;
    amount(board.policy.prices.preference) * f64::from(u32::try_from(rank).unwrap_or(u32::MAX))
}
