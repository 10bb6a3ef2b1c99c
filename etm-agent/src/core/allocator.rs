//! Where each prefix should leave so that no uplink is offered more than its limit, moving as little traffic as possible.
//!
//! A first, greedy allocator: relief by best fit, then giving back what fits again. It proves nothing about
//! optimality. Its seam is the whole of this file's public types: numbers in, a placement out, no routing
//! knowledge, no clock, no state; whatever replaces it keeps them.

use crate::types::{BitRate, ExitId, Prefix, UplinkId};

/// What an uplink can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Above this it is overloaded.
    pub limit: BitRate,
    /// Once overloaded it is relieved to this: at the limit itself the least fluctuation is overload again.
    pub relief: BitRate,
    /// Up to this ETM may fill it.
    pub fill: BitRate,
    /// Load that is not any item's: traffic that cannot be moved.
    pub base: BitRate,
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
    /// True while it must not be given back.
    pub held: bool,
    /// Exits it may use, the preferred one first.
    pub choices: Vec<ExitId>,
}

/// Limits on what may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Most items away from home.
    pub moves: usize,
    /// Most traffic away from home.
    pub moved: BitRate,
}

/// The result: one exit per item, in the order of the items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Exit of each item.
    pub exits: Vec<ExitId>,
    /// Load of each uplink with this placement.
    pub loads: Vec<BitRate>,
    /// Overload that could not be relieved, per uplink.
    pub residual: Vec<BitRate>,
}

struct State<'a> {
    uplink_of: &'a [UplinkId],
    rooms: &'a [Room],
    items: &'a [Item],
    exits: Vec<ExitId>,
    loads: Vec<BitRate>,
    away: usize,
    moved: BitRate,
    caps: Caps,
}

/// Places every item. `uplink_of` is indexed by exit, `rooms` by uplink.
pub fn allocate(uplink_of: &[UplinkId], rooms: &[Room], items: &[Item], caps: Caps) -> Placement {
    let mut state = State {
        uplink_of,
        rooms,
        items,
        exits: items.iter().map(|item| item.current).collect(),
        loads: rooms.iter().map(|room| room.base).collect(),
        away: items.iter().filter(|item| item.current != item.home).count(),
        moved: items.iter().filter(|item| item.current != item.home).map(|item| item.rate).sum(),
        caps,
    };
    for item in items {
        let uplink = state.uplink(item.current);
        state.loads[uplink] += item.rate;
    }
    let mut order: Vec<usize> = (0..rooms.len()).collect();
    order.sort_by_key(|uplink| (std::cmp::Reverse(state.need(*uplink)), *uplink));
    for uplink in order {
        state.relieve(uplink);
    }
    state.give_back();
    let residual = (0..rooms.len()).map(|uplink| state.need(uplink)).collect();
    Placement { exits: state.exits, loads: state.loads, residual }
}

impl State<'_> {
    fn uplink(&self, exit: ExitId) -> usize {
        self.uplink_of.get(exit.index()).map_or(0, |uplink| uplink.index())
    }

    /// What `uplink` carries above its limit.
    fn need(&self, uplink: usize) -> BitRate {
        self.loads[uplink].saturating_sub(self.rooms[uplink].limit)
    }

    /// What must leave `uplink`, which is overloaded, for it to be relieved.
    fn excess(&self, uplink: usize) -> BitRate {
        self.loads[uplink].saturating_sub(self.rooms[uplink].relief)
    }

    /// The most preferred exit on another uplink that takes `index` without being filled above its mark.
    fn receiver(&self, index: usize) -> Option<ExitId> {
        let item = &self.items[index];
        let from = self.uplink(self.exits[index]);
        item.choices.iter().copied().find(|exit| {
            let to = self.uplink(*exit);
            to != from && self.loads[to] + item.rate <= self.rooms[to].fill && self.within_caps(item, *exit)
        })
    }

    fn within_caps(&self, item: &Item, to: ExitId) -> bool {
        // Going home costs nothing; moving on from one foreign exit to another adds nothing.
        to == item.home
            || item.current != item.home
            || (self.away < self.caps.moves && self.moved + item.rate <= self.caps.moved)
    }

    fn place(&mut self, index: usize, to: ExitId) {
        let (from, target) = (self.uplink(self.exits[index]), self.uplink(to));
        let item = &self.items[index];
        let was_away = self.exits[index] != item.home;
        let is_away = to != item.home;
        self.loads[from] = self.loads[from].saturating_sub(item.rate);
        self.loads[target] += item.rate;
        match (was_away, is_away) {
            (false, true) => {
                self.away += 1;
                self.moved += item.rate;
            }
            (true, false) => {
                self.away -= 1;
                self.moved = self.moved.saturating_sub(item.rate);
            }
            _ => {}
        }
        self.exits[index] = to;
    }

    /// Moves items off `uplink`, if it is overloaded, until it is relieved: largest that is still needed first, then the
    /// smallest that finishes; at last takes back any move that the later ones made needless.
    fn relieve(&mut self, uplink: usize) {
        if self.need(uplink) == BitRate::ZERO {
            return;
        }
        let mut on_it: Vec<usize> = (0..self.items.len())
            .filter(|index| {
                self.uplink(self.exits[*index]) == uplink && self.items[*index].rate > BitRate::ZERO
            })
            .collect();
        on_it.sort_by_key(|index| (std::cmp::Reverse(self.items[*index].rate), self.items[*index].prefix));
        let mut taken: Vec<(usize, ExitId)> = Vec::new();
        while self.excess(uplink) > BitRate::ZERO {
            let Some(position) = self.next_to_move(&on_it, self.excess(uplink)) else { break };
            let index = on_it.remove(position);
            let Some(to) = self.receiver(index) else { break };
            taken.push((index, self.exits[index]));
            self.place(index, to);
        }
        for (index, back) in taken {
            let rate = self.items[index].rate;
            if self.loads[uplink] + rate <= self.rooms[uplink].relief {
                self.place(index, back);
            }
        }
    }

    /// Which of `on_it` (descending rates) to move for `need`: one that fits it closely, else the largest
    /// below it, else the smallest above it.
    fn next_to_move(&self, on_it: &[usize], need: BitRate) -> Option<usize> {
        // Within 2 % above the need one move is better than several that add up to slightly less.
        let close = BitRate(need.0.saturating_add(need.0 / 50));
        let rate = |position: &usize| self.items[on_it[*position]].rate;
        let split = on_it.partition_point(|index| self.items[*index].rate >= need);
        let fits = |position: &usize| self.receiver(on_it[*position]).is_some();
        let above = (0..split).rev().find(fits);
        if let Some(position) = above.filter(|position| rate(position) <= close) {
            return Some(position);
        }
        (split..on_it.len()).find(fits).or(above)
    }

    /// Sends items home where their uplink takes them without being filled above the mark, now and on the smoothed rate.
    fn give_back(&mut self) {
        let mut away: Vec<usize> = (0..self.items.len())
            .filter(|index| {
                let item = &self.items[*index];
                self.exits[*index] != item.home && self.exits[*index] == item.current && !item.held
            })
            .collect();
        away.sort_by_key(|index| (std::cmp::Reverse(self.items[*index].rate), self.items[*index].prefix));
        for index in away {
            let item = &self.items[index];
            let home = self.uplink(item.home);
            let rate = item.rate.max(item.smoothed);
            if item.choices.contains(&item.home) && self.loads[home] + rate <= self.rooms[home].fill {
                self.place(index, item.home);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MBIT: u64 = 1_000_000;
    const UPLINKS: [UplinkId; 3] = [UplinkId(0), UplinkId(1), UplinkId(2)];
    const NO_CAPS: Caps = Caps { moves: usize::MAX, moved: BitRate(u64::MAX) };

    fn rooms(base: [u64; 3]) -> Vec<Room> {
        base.iter()
            .map(|mbit| Room {
                limit: BitRate(45 * MBIT),
                relief: BitRate(45 * MBIT),
                fill: BitRate(42 * MBIT),
                base: BitRate(mbit * MBIT),
            })
            .collect()
    }

    fn item(number: u8, mbit: u64, home: u16, current: u16) -> Item {
        Item {
            prefix: format!("198.18.{number}.0/24").parse().unwrap(),
            rate: BitRate(mbit * MBIT),
            smoothed: BitRate(mbit * MBIT),
            home: ExitId(home),
            current: ExitId(current),
            held: false,
            choices: vec![ExitId(home), ExitId((home + 1) % 3), ExitId((home + 2) % 3)],
        }
    }

    fn exits(placement: &Placement) -> Vec<u16> {
        placement.exits.iter().map(|exit| exit.0).collect()
    }

    #[test]
    fn nothing_moves_while_nothing_is_overloaded() {
        let items = [item(1, 20, 0, 0), item(2, 20, 0, 0)];
        assert_eq!(exits(&allocate(&UPLINKS, &rooms([5, 0, 0]), &items, NO_CAPS)), [0, 0]);
    }

    #[test]
    fn the_moves_that_cover_the_overload_with_least_traffic_are_chosen() {
        // 60 offered, limit 45: 15 must go. 11 + 4 is exact; 20 alone would do but moves more.
        let items = [item(1, 25, 0, 0), item(2, 20, 0, 0), item(3, 11, 0, 0), item(4, 4, 0, 0)];
        let placement = allocate(&UPLINKS, &rooms([0, 0, 0]), &items, NO_CAPS);
        assert_eq!(exits(&placement), [0, 0, 1, 1]);
        assert_eq!(placement.residual, [BitRate(0); 3]);
    }

    #[test]
    fn an_overloaded_uplink_is_relieved_to_below_its_limit_and_one_at_its_limit_is_left_alone() {
        let relieving = |base| {
            let rooms = rooms([base, 0, 0]);
            rooms.into_iter().map(|room| Room { relief: BitRate(44 * MBIT), ..room }).collect::<Vec<_>>()
        };
        let items = [item(1, 11, 0, 0), item(2, 4, 0, 0), item(3, 1, 0, 0)];
        assert_eq!(exits(&allocate(&UPLINKS, &relieving(29), &items, NO_CAPS)), [0, 0, 0]);
        assert_eq!(exits(&allocate(&UPLINKS, &relieving(33), &items, NO_CAPS)), [0, 1, 1]);
    }

    #[test]
    fn receivers_are_filled_to_their_mark_only_and_in_order_of_preference() {
        let items = [item(1, 20, 0, 0), item(2, 20, 0, 0), item(3, 20, 0, 0)];
        // 60 on uplink 0; 25 free on uplink 1 takes one, and no second.
        let placement = allocate(&UPLINKS, &rooms([0, 17, 0]), &items, NO_CAPS);
        assert_eq!(exits(&placement).iter().filter(|exit| **exit == 1).count(), 1);
        let full = allocate(&UPLINKS, &rooms([0, 30, 40]), &items, NO_CAPS);
        assert_eq!(exits(&full), [0, 0, 0]);
        assert_eq!(full.residual[0], BitRate(15 * MBIT));
    }

    #[test]
    fn an_override_is_given_back_when_its_home_takes_it_and_not_before() {
        let home_full = allocate(&UPLINKS, &rooms([30, 0, 0]), &[item(1, 14, 0, 1)], NO_CAPS);
        assert_eq!(exits(&home_full), [1], "30 + 14 is below the limit but above the fill mark");
        let home_free = allocate(&UPLINKS, &rooms([20, 0, 0]), &[item(1, 14, 0, 1)], NO_CAPS);
        assert_eq!(exits(&home_free), [0]);
        let held = Item { held: true, ..item(1, 14, 0, 1) };
        assert_eq!(exits(&allocate(&UPLINKS, &rooms([20, 0, 0]), &[held], NO_CAPS)), [1]);
        let was_larger = Item { smoothed: BitRate(30 * MBIT), ..item(1, 14, 0, 1) };
        assert_eq!(exits(&allocate(&UPLINKS, &rooms([20, 0, 0]), &[was_larger], NO_CAPS)), [1]);
    }

    #[test]
    fn an_overloaded_receiver_is_relieved_too() {
        let items = [item(1, 14, 0, 1), item(2, 40, 1, 1)];
        let placement = allocate(&UPLINKS, &rooms([40, 0, 0]), &items, NO_CAPS);
        assert_eq!(exits(&placement), [2, 1]);
    }

    #[test]
    fn caps_hold_for_number_and_traffic() {
        let items = [item(1, 20, 0, 0), item(2, 20, 0, 0), item(3, 20, 0, 0), item(4, 20, 0, 0)];
        let by_number = allocate(&UPLINKS, &rooms([0, 0, 0]), &items, Caps { moves: 1, ..NO_CAPS });
        assert_eq!(exits(&by_number).iter().filter(|exit| **exit != 0).count(), 1);
        let by_traffic =
            allocate(&UPLINKS, &rooms([0, 0, 0]), &items, Caps { moved: BitRate(19 * MBIT), ..NO_CAPS });
        assert_eq!(exits(&by_traffic), [0, 0, 0, 0]);
    }

    fn any_items() -> impl Strategy<Value = Vec<Item>> {
        prop::collection::vec((0u64..15_000, 0u16..3, 0u16..3, any::<bool>(), 1u8..8), 0..60).prop_map(
            |rows| {
                rows.into_iter()
                    .enumerate()
                    .map(|(index, (kbit, home, current, held, mask))| {
                        let mut choices: Vec<ExitId> =
                            (0..3).filter(|exit| mask >> exit & 1 == 1).map(ExitId).collect();
                        for exit in [home, current] {
                            if !choices.contains(&ExitId(exit)) {
                                choices.push(ExitId(exit));
                            }
                        }
                        let number = u8::try_from(index).unwrap();
                        let rate = BitRate(kbit * 1_000);
                        Item { rate, smoothed: rate, held, choices, ..item(number, 0, home, current) }
                    })
                    .collect()
            },
        )
    }

    proptest! {
        #[test]
        fn no_uplink_ends_above_its_limit_that_was_not_and_none_above_gets_more(items in any_items(), base in [0u64..60, 0u64..60, 0u64..60]) {
            let rooms = rooms(base);
            let before = {
                let mut loads: Vec<BitRate> = rooms.iter().map(|room| room.base).collect();
                for item in &items {
                    loads[item.current.index()] += item.rate;
                }
                loads
            };
            let placement = allocate(&UPLINKS, &rooms, &items, NO_CAPS);
            let mut loads: Vec<BitRate> = rooms.iter().map(|room| room.base).collect();
            for (item, exit) in items.iter().zip(&placement.exits) {
                prop_assert!(item.choices.contains(exit));
                loads[exit.index()] += item.rate;
            }
            prop_assert_eq!(&loads, &placement.loads);
            for uplink in 0..3 {
                prop_assert!(loads[uplink].max(rooms[uplink].limit) <= before[uplink].max(rooms[uplink].limit));
            }
        }

        #[test]
        fn a_placement_is_stable_when_it_becomes_the_current_one(items in any_items(), base in [0u64..60, 0u64..60, 0u64..60]) {
            let rooms = rooms(base);
            let first = allocate(&UPLINKS, &rooms, &items, NO_CAPS);
            let again: Vec<Item> = items.iter().zip(&first.exits).map(|(item, exit)| Item { current: *exit, held: true, ..item.clone() }).collect();
            let second = allocate(&UPLINKS, &rooms, &again, NO_CAPS);
            if first.residual.iter().all(|left| *left == BitRate::ZERO) {
                prop_assert_eq!(first.exits, second.exits);
            }
        }

        #[test]
        fn the_order_of_the_items_changes_nothing(items in any_items(), base in [0u64..60, 0u64..60, 0u64..60]) {
            let rooms = rooms(base);
            let forward = allocate(&UPLINKS, &rooms, &items, NO_CAPS);
            let reversed: Vec<Item> = items.iter().rev().cloned().collect();
            let mut backward = allocate(&UPLINKS, &rooms, &reversed, NO_CAPS).exits;
            backward.reverse();
            prop_assert_eq!(forward.exits, backward);
        }
    }
}
