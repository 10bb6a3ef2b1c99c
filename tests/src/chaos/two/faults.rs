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
    StopGuardian(Side),
    KillBoth(Side),
    StopBoth(Side),
    Off(Side),
    Reconfigure(Side),
    Carrier(Side),
    AdminDown(Side),
    Unplug(Side),
    ResetProvider(Side),
    Withdraw(Side),
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
            Self::StopGuardian(_) => "guardian stopped",
            Self::KillBoth(_) => "agent and guardian killed",
            Self::StopBoth(_) => "agent and guardian stopped",
            Self::Off(_) => "off and on",
            Self::Reconfigure(_) => "restarted with other settings",
            Self::Carrier(_) => "carrier lost",
            Self::AdminDown(_) => "uplink set down",
            Self::Unplug(_) => "uplink deleted",
            Self::ResetProvider(_) => "provider's session reset",
            Self::Withdraw(_) => "prefixes withdrawn",
            Self::ResetInject(_) => "inject session reset",
            Self::ResetLearn(_) => "learn session reset",
            Self::KillBird(_) => "BIRD killed",
            Self::Traffic => "traffic step",
        }
    }

    fn draw(dice: &mut Dice) -> Self {
        let side = Side::BOTH[dice.index(2)];
        let routers = [Role::Border, Role::BorderB, Role::Core, Role::TransitA, Role::TransitB];
        let role = routers[dice.index(routers.len())];
        let all = [
            Self::KillAgent(side),
            Self::StopAgent(side),
            Self::KillGuardian(side),
            Self::StopGuardian(side),
            Self::KillBoth(side),
            Self::StopBoth(side),
            Self::Off(side),
            Self::Reconfigure(side),
            Self::Carrier(side),
            Self::AdminDown(side),
            Self::Unplug(side),
            Self::ResetProvider(side),
            Self::Withdraw(side),
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
            Self::KillAgent(_) | Self::KillBoth(_) | Self::StopBoth(_) => (200, 6000),
            Self::KillGuardian(_)
            | Self::ResetInject(_)
            | Self::ResetLearn(_)
            | Self::ResetProvider(_)
            | Self::Reconfigure(_) => (0, 0),
            Self::StopGuardian(_) => (200, 4000),
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
    fn eighty_rounds_draw_every_fault_and_a_seed_draws_the_same_again() {
        let drawn: BTreeSet<&str> = (1..=80).flat_map(schedule).map(|(_, _, fault)| fault.name()).collect();
        assert_eq!(drawn.len(), 17, "{drawn:?}");
        assert_eq!(schedule(7), schedule(7));
    }
}
