//! Hands what is divided to the checker, as it would be acted on. Decides nothing and repairs nothing.

use super::super::allocator::{Caps, Placement};
use super::super::plan_check::parts::{Divided, Division, Undivided, divided};
use super::super::projection::Projection;
use super::Controller;
use crate::types::{BitRate, ExitId};

impl Controller {
    /// Why a placement with parts may not be acted on; `caps` are what the parts that stand leave of `all`.
    pub(super) fn doubt(
        &self,
        projection: &Projection,
        placement: &Placement,
        (all, caps): (Caps, Caps),
    ) -> Option<String> {
        if projection.parts.is_empty() && placement.parts.is_empty() {
            return None;
        }
        let choices = |range: &std::ops::Range<usize>| projection.choices.get(range.clone()).unwrap_or(&[]);
        let standing = projection.parts.iter().map(|part| Divided {
            prefix: part.item.prefix,
            home: part.item.home,
            to: part.to,
            share: part.share.get(),
            rate: part.item.rate,
            moved: part.moved(part.share),
            grown: None,
            choices: choices(&part.item.choices),
        });
        let new = placement.parts.iter().filter_map(|split| {
            let item = projection.items.get(split.index)?;
            let moved = split.share.of(item.rate);
            Some(Divided {
                prefix: item.prefix,
                home: item.home,
                to: split.to,
                share: split.share.get(),
                rate: item.rate,
                moved,
                // What was away as a whole already is sent nowhere.
                grown: Some(if item.current == split.to { BitRate::ZERO } else { moved }),
                choices: choices(&item.choices),
            })
        });
        let parts: Vec<Divided<'_>> = standing.chain(new).collect();
        let is_new = |at: usize| placement.parts.iter().any(|split| split.index == at);
        let wholes = projection.items.iter().zip(&placement.exits).enumerate();
        let wholes = wholes.filter(|(at, _)| !is_new(*at)).map(|(_, (item, exit))| Undivided {
            prefix: item.prefix,
            home: item.home,
            exit: *exit,
            rate: item.rate,
        });
        let wholes: Vec<Undivided> = wholes.collect();
        let exits = (0..self.policy.exits.len()).filter_map(|at| u16::try_from(at).ok());
        let uplink = |at: u16| self.policy.uplink_of(ExitId(at)).map_or(usize::MAX, |uplink| uplink.index());
        let uplinks: Vec<usize> = exits.map(uplink).collect();
        let division = Division {
            parts: &parts,
            wholes: &wholes,
            base: &projection.base,
            claimed: &placement.loads,
            uplinks: &uplinks,
            most: all.moves,
            most_now: caps.moves_now,
            bits_now: caps.now,
        };
        divided(&division).first().map(ToString::to_string)
    }
}
