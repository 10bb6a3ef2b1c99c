//! What breaks with two borders, when and for how long: a seed decides all of it. Pure.
//! Never carries anything out.

use crate::chaos::schedule::Dice;
use crate::topology::Role;
use crate::two_borders::Side;

/// Something that breaks, or begins to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    KillAgent(Side),
    StopAgent(Side),
    KillGuardian(Side),
    Off(Side),
    Carrier(Side),
    ResetInject(Side),
    ResetLearn(Side),
    KillBird(Role),
    Traffic,
}

impl Fault {
    /// Name without its object, for counting.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KillAgent(_) => "agent killed",
            Self::StopAgent(_) => "agent stopped",
            Self::KillGuardian(_) => "guardian killed",
            Self::Off(_) => "off and on",
            Self::Carrier(_) => "carrier lost",
            Self::ResetInject(_) => "inject session reset",
            Self::ResetLearn(_) => "learn session reset",
            Self::KillBird(_) => "BIRD killed",
            Self::Traffic => "traffic step",
        }
    }

    fn draw(dice: &mut Dice) -> Self {
        let side = Side::BOTH[dice.index(2)];
        let role = [Role::Border, Role::BorderB, Role::Core][dice.index(3)];
        let all = [
            Self::KillAgent(side),
            Self::StopAgent(side),
            Self::KillGuardian(side),
            Self::Off(side),
            Self::Carrier(side),
            Self::ResetInject(side),
            Self::ResetLearn(side),
            Self::KillBird(role),
            Self::Traffic,
        ];
        all[dice.index(all.len())]
    }

    /// Least and most time it lasts, in milliseconds.
    fn span(self) -> (u64, u64) {
        match self {
            // Beyond the lease of 3 s now and then.
            Self::KillAgent(_) => (200, 6000),
            Self::KillGuardian(_) | Self::ResetInject(_) | Self::ResetLearn(_) => (0, 0),
            _ => (200, 1500),
        }
    }
}

/// The faults of a round: when, for how long, what.
pub(super) fn schedule(seed: u64) -> Vec<(u64, u64, Fault)> {
    let mut dice = Dice::of(seed);
    let (mut at_ms, count) = (dice.between((0, 400)), dice.between((2, 4)));
    (0..count)
        .map(|_| {
            let fault = Fault::draw(&mut dice);
            let planned = (at_ms, dice.between(fault.span()), fault);
            at_ms += dice.between((50, 1200));
            planned
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn forty_rounds_draw_every_fault_and_a_seed_draws_the_same_again() {
        let drawn: BTreeSet<&str> = (1..=40).flat_map(schedule).map(|(_, _, fault)| fault.name()).collect();
        assert_eq!(drawn.len(), 9, "{drawn:?}");
        assert_eq!(schedule(7), schedule(7));
    }
}
