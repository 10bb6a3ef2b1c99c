//! How often each kind of fault was drawn, and met something to break. Pure. Never excuses a kind that never met anything: its
//! rounds would show nothing.

use std::collections::BTreeMap;

/// A kind that was drawn so often and met nothing is dead.
const ENOUGH: u64 = 3;

/// Faults by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    kinds: BTreeMap<&'static str, (u64, u64)>,
}

impl Tally {
    /// Counts one that was drawn.
    pub fn count(&mut self, kind: &'static str, met: bool) {
        let (drawn, hits) = self.kinds.entry(kind).or_default();
        (*drawn, *hits) = (*drawn + 1, *hits + u64::from(met));
    }

    /// The one counted last of this kind met something after all.
    pub fn met_after_all(&mut self, kind: &'static str) {
        self.kinds.entry(kind).or_default().1 += 1;
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        for (kind, (drawn, met)) in &other.kinds {
            let (all_drawn, all_met) = self.kinds.entry(kind).or_default();
            (*all_drawn, *all_met) = (*all_drawn + drawn, *all_met + met);
        }
    }

    /// How often each kind was drawn.
    pub fn drawn(&self) -> BTreeMap<&'static str, u64> {
        self.kinds.iter().map(|(kind, (drawn, _))| (*kind, *drawn)).collect()
    }

    /// How often each kind met something to break.
    pub fn met(&self) -> BTreeMap<&'static str, u64> {
        self.kinds.iter().map(|(kind, (_, met))| (*kind, *met)).collect()
    }

    /// Kinds that were drawn often enough and never met anything.
    pub fn dead(&self) -> Vec<&'static str> {
        let dead = self.kinds.iter().filter(|(_, (drawn, met))| *drawn >= ENOUGH && *met == 0);
        dead.map(|(kind, _)| *kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_was_drawn_three_times_and_met_nothing_is_dead() {
        let mut tally = Tally::default();
        for (kind, mets) in
            [("alive", &[false, true, false][..]), ("rare", &[false, false]), ("dead", &[false, false])]
        {
            mets.iter().for_each(|met| tally.count(kind, *met));
        }
        assert_eq!(tally.dead(), Vec::<&str>::new());
        let mut again = Tally::default();
        again.count("dead", false);
        again.count("late", false);
        again.met_after_all("late");
        tally.add(&again);
        assert_eq!(tally.met()["late"], 1);
        assert_eq!(tally.dead(), ["dead"]);
        assert_eq!((tally.drawn()["dead"], tally.met()["alive"]), (3, 1));
    }
}
