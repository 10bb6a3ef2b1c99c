//! Decisions for money as if nothing surged: a surging item counts with its usual rate and stays where it is, and what is
//! beyond the usual takes room on the way that it takes, but has no price.
//! Never used for relief, which sees all load.

use super::{Board, Item, Room};

/// Items and rooms without what is not believed yet; none where nothing surges.
pub(super) fn calmed(board: &Board<'_>) -> Option<(Vec<Item>, Vec<Room>)> {
    if board.items.iter().all(|item| item.usual.is_none()) {
        return None;
    }
    let (mut items, mut rooms) = (board.items.to_vec(), board.rooms.to_vec());
    for item in &mut items {
        let Some(usual) = item.usual.filter(|usual| *usual < item.rate) else { continue };
        let room = board.policy.uplink_of(item.current).and_then(|uplink| rooms.get_mut(uplink.index()));
        if let Some(room) = room {
            room.held += item.rate.saturating_sub(usual);
        }
        (item.rate, item.held) = (usual, true);
    }
    Some((items, rooms))
}
