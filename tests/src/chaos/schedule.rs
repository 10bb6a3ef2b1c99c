//! Which faults, when and for how long: a seed decides all of it. Pure: the same seed gives the same schedule, so that what a
//! round found is found again by its seed. What the faults meet depends on the box, as everything real does.

use std::fmt;

use serde::Serialize;

use crate::topology::{Provider, Role};

/// Something that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL to the agent, which is started again.
    KillAgent,
    /// SIGSTOP and SIGCONT to the agent.
    StopAgent,
    /// SIGKILL to the guardian.
    KillGuardian,
    /// SIGSTOP and SIGCONT to the guardian.
    StopGuardian,
    /// Both killed; the agent is started again.
    KillBoth,
    /// Both stopped.
    StopBoth,
    /// An uplink loses its carrier.
    Carrier(Provider),
    /// An uplink is set down.
    AdminDown(Provider),
    /// An uplink is deleted and made anew.
    Unplug(Provider),
    /// The border's BIRD restarts its session with ETM.
    ResetLearn,
    /// Core's BIRD restarts its session with ETM.
    ResetInject,
    /// A provider's session with the border restarts.
    ResetProvider(Provider),
    /// A BIRD is killed and started again.
    KillBird(Role),
    /// So many route changes that whoever follows them loses some.
    Overrun,
    /// The kernel has no memory for the agent's requests about routing.
    Starve,
    /// More prefixes than the configured tables hold.
    MapFull,
    /// The file system of the recordings is full.
    DiskFull,
    /// A provider withdraws every second prefix.
    Withdraw(Provider),
    /// Traffic of the fullest uplink changes to this many percent.
    Traffic(u32),
    /// `etm off`, then `etm on`.
    Off,
    /// Stopped in order, started with other settings.
    Reconfigure,
    /// The wall clock of agent and guardian is off by so many hours.
    WallClock(i32),
}

impl Fault {
    /// Name without its object, for counting.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillAgent => "agent killed",
            Self::StopAgent => "agent stopped",
            Self::KillGuardian => "guardian killed",
            Self::StopGuardian => "guardian stopped",
            Self::KillBoth => "agent and guardian killed",
            Self::StopBoth => "agent and guardian stopped",
            Self::Carrier(_) => "carrier lost",
            Self::AdminDown(_) => "uplink set down",
            Self::Unplug(_) => "uplink deleted",
            Self::ResetLearn => "learn session reset",
            Self::ResetInject => "inject session reset",
            Self::ResetProvider(_) => "provider's session reset",
            Self::KillBird(_) => "BIRD killed",
            Self::Overrun => "netlink overrun",
            Self::Starve => "netlink requests refused",
            Self::MapFull => "tables full",
            Self::DiskFull => "disk full",
            Self::Withdraw(_) => "prefixes withdrawn",
            Self::Traffic(_) => "traffic step",
            Self::Off => "off and on",
            Self::Reconfigure => "restarted with other settings",
            Self::WallClock(_) => "wall clock stepped",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Carrier(p)
            | Self::AdminDown(p)
            | Self::Unplug(p)
            | Self::ResetProvider(p)
            | Self::Withdraw(p) => {
                write!(f, " ({p})")
            }
            Self::KillBird(role) => write!(f, " ({role})"),
            Self::Traffic(percent) => write!(f, " ({percent} %)"),
            Self::WallClock(hours) => write!(f, " ({hours:+} h)"),
            _ => Ok(()),
        }
    }
}

/// A fault with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Milliseconds from the round's first moment.
    pub at_ms: u64,
    /// How long it lasts; what mends itself has 0.
    pub for_ms: u64,
    /// What breaks.
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5} ms {}", self.at_ms, self.fault)?;
        if self.for_ms > 0 { write!(f, " for {} ms", self.for_ms) } else { Ok(()) }
    }
}

/// The faults of a round, in order of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Schedule {
    /// What it was drawn from.
    pub seed: u64,
    /// The faults.
    pub faults: Vec<Planned>,
}

/// Beginning or end of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It breaks.
    Begin(Planned),
    /// It is mended.
    End(Planned),
}

/// Least and most faults of a round.
const FAULTS: (u64, u64) = (2, 4);
/// Least and most time between the beginnings of two faults, in milliseconds.
const GAP: (u64, u64) = (50, 1200);
/// Least and most time of a fault that ends while the lease lasts.
const SHORT: (u64, u64) = (100, 1500);
/// Least and most time of one that the lease does not outlive.
const LONG: (u64, u64) = (3800, 5200);
/// One in so many is long.
const LONG_ONE_IN: u64 = 5;

impl Schedule {
    /// Draws one.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::of(seed);
        let mut at_ms = dice.between((0, 400));
        let count = dice.between(FAULTS);
        let mut faults = Vec::new();
        for _ in 0..count {
            let fault = draw(&mut dice);
            let span = if dice.below(LONG_ONE_IN) == 0 { LONG } else { SHORT };
            let drawn = dice.between(span);
            faults.push(Planned { at_ms, for_ms: if lasts(fault) { drawn } else { 0 }, fault });
            at_ms += dice.between(GAP);
        }
        Self { seed, faults }
    }

    /// Whether the wall clock is to be stepped.
    pub fn steps_the_clock(&self) -> bool {
        self.faults.iter().any(|planned| matches!(planned.fault, Fault::WallClock(_)))
    }

    /// Beginnings and ends in order of time, in milliseconds from the round's first moment.
    pub fn acts(&self) -> Vec<(u64, Act)> {
        let begins = self.faults.iter().map(|planned| (planned.at_ms, Act::Begin(*planned)));
        let ends = self.faults.iter().filter(|planned| planned.for_ms > 0);
        let ends = ends.map(|planned| (planned.at_ms + planned.for_ms, Act::End(*planned)));
        let mut acts: Vec<(u64, Act)> = begins.chain(ends).collect();
        acts.sort_by_key(|(at_ms, _)| *at_ms);
        acts
    }
}

/// Whether a fault has an end that somebody must bring about.
fn lasts(fault: Fault) -> bool {
    !matches!(
        fault,
        Fault::KillGuardian
            | Fault::ResetLearn
            | Fault::ResetInject
            | Fault::ResetProvider(_)
            | Fault::Overrun
            | Fault::Reconfigure
    )
}

fn draw(dice: &mut Dice) -> Fault {
    let provider = Provider::ALL[dice.index(Provider::ALL.len())];
    let router = Role::ROUTERS[dice.index(Role::ROUTERS.len())];
    let percent = [30, 70, 115, 130][dice.index(4)];
    let hours = [1, -1, 24 * 365, -24 * 365][dice.index(4)];
    let all = [
        Fault::KillAgent,
        Fault::StopAgent,
        Fault::KillGuardian,
        Fault::StopGuardian,
        Fault::KillBoth,
        Fault::StopBoth,
        Fault::Carrier(provider),
        Fault::AdminDown(provider),
        Fault::Unplug(provider),
        Fault::ResetLearn,
        Fault::ResetInject,
        Fault::ResetProvider(provider),
        Fault::KillBird(router),
        Fault::Overrun,
        Fault::MapFull,
        Fault::DiskFull,
        Fault::Withdraw(provider),
        Fault::Traffic(percent),
        Fault::Off,
        Fault::Reconfigure,
        Fault::WallClock(hours),
        Fault::Starve,
    ];
    all[dice.index(all.len())]
}

/// splitmix64: all that is needed of chance here, without a dependency.
pub(in crate::chaos) struct Dice(u64);

impl Dice {
    pub(super) fn of(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(super) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }

    pub(super) fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.below(most - least + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_gives_its_schedule_again_and_another_seed_another_one() {
        assert_eq!(Schedule::of(7), Schedule::of(7));
        assert_ne!(Schedule::of(7), Schedule::of(8));
    }

    #[test]
    fn two_hundred_rounds_draw_every_fault() {
        let drawn: BTreeSet<&str> = (1..=200)
            .flat_map(|seed| Schedule::of(seed).faults)
            .map(|planned| planned.fault.name())
            .collect();
        assert_eq!(drawn.len(), 22, "{drawn:?}");
    }

    #[test]
    fn every_fault_that_lasts_ends_after_it_began() {
        for seed in 0..50 {
            let schedule = Schedule::of(seed);
            let acts = schedule.acts();
            assert!(acts.is_sorted_by_key(|(at_ms, _)| *at_ms));
            let ends = acts.iter().filter(|(_, act)| matches!(act, Act::End(_))).count();
            assert_eq!(ends, schedule.faults.iter().filter(|planned| planned.for_ms > 0).count());
        }
    }
}
