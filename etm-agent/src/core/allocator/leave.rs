//! Emptying drained exits: what is there goes to the cheapest other exit that has room, the largest first.
//! Never overloads a receiver, never exceeds a cap, and never sends anything to a drained exit.

use super::Board;
use super::field::Field;
use crate::core::money::real;
use crate::types::{BitRate, ExitId};
use std::collections::BTreeSet;

impl Field {
    /// Sends away what leaves by a drained exit, as far as there is room; says what.
    pub(super) fn leave(&mut self, board: &Board<'_>) -> BTreeSet<usize> {
        let mut left = BTreeSet::new();
        let stays = |index: &usize| {
            let item = &board.items[*index];
            // What a cap sent home in this round stays there.
            item.leave && self.current[*index] == item.current
        };
        let mut there: Vec<usize> = (0..board.items.len()).filter(stays).collect();
        there.sort_by_key(|index| (std::cmp::Reverse(board.items[*index].rate), board.items[*index].prefix));
        if there.is_empty() {
            return left;
        }
        let (mut moves, mut bits) = self.allowance(board);
        for index in there {
            let Some(to) = self.way_out(board, index, (moves, bits)) else { continue };
            let item = &board.items[index];
            if to != item.home {
                (moves, bits) = (moves.saturating_sub(1), bits.saturating_sub(item.rate));
            }
            self.send(board, index, to);
            left.insert(index);
        }
        left
    }

    /// The cheapest exit that takes an item whole, now and on its smoothed rate.
    fn way_out(&self, board: &Board<'_>, index: usize, (moves, bits): (usize, BitRate)) -> Option<ExitId> {
        let (item, from) = (&board.items[index], self.current[index]);
        let rate = real(item.rate.max(item.smoothed));
        let capped = |to: ExitId| to != item.home && (moves == 0 || item.rate > bits);
        let others = board.choices_of(item).iter().copied().filter(|to| *to != from && !capped(*to));
        let open = others.filter(|to| self.fits(board.tree, (from, *to), rate, true));
        let priced = open.map(|to| (self.change(board, index, to), to));
        priced.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, to)| to)
    }
}
