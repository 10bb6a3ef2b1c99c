//! Decisions for money as if nothing surged: a surging item counts with its usual rate and stays where it is, and what is
//! beyond the usual takes room on the way that it takes, but has no price.
//! Never used for relief, which sees all load.

use super::{Board, Caps, Item, Room};
use crate::types::BitRate;

/// Items, rooms and caps without what is not believed yet; none where nothing surges.
pub(super) fn calmed(board: &Board<'_>) -> Option<(Vec<Item>, Vec<Room>, Caps)> {
    if board.items.iter().all(|item| item.usual.is_none()) {
        return None;
    }
    let (mut items, mut rooms) = (board.items.to_vec(), board.rooms.to_vec());
    let mut held = BitRate::ZERO;
    for item in &mut items {
        let Some(usual) = item.usual.filter(|usual| *usual < item.rate) else { continue };
        let room = board.policy.uplink_of(item.current).and_then(|uplink| rooms.get_mut(uplink.index()));
        if let Some(room) = room {
            room.held += item.rate.saturating_sub(usual);
        }
        held += item.rate.saturating_sub(usual);
        (item.rate, item.held) = (usual, true);
    }
    // Caps are shares of all traffic: what surges must not widen them.
    let caps = Caps {
        moved: board.caps.moved.saturating_sub(held.scaled(board.policy.max_moved_share)),
        now: board.caps.now.saturating_sub(held.scaled(board.policy.max_moved_per_minute)),
        ..board.caps
    };
    Some((items, rooms, caps))
}
