//! Judges what is divided before anything acts on it: shares, exits, loads and caps, counted again from the bare numbers.
//! Shares no code with what divides. Never repairs.

use super::{ROUNDING, Veto};
use crate::types::{BitRate, ExitId, Prefix};

/// The smallest and the largest part of the flows, in 256ths: a sixteenth and fifteen.
const BOUNDS: (u16, u16) = (16, 240);

/// A prefix of which a part is sent elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Divided<'a> {
    /// Destination.
    pub prefix: Prefix,
    /// Where the rest stays.
    pub home: ExitId,
    /// Where the part goes.
    pub to: ExitId,
    /// The part, in 256ths.
    pub share: u16,
    /// All of the demand.
    pub rate: BitRate,
    /// What of it goes there.
    pub moved: BitRate,
    /// How much more that is than before, where it is new or grows.
    pub grown: Option<BitRate>,
    /// What the prefix may use.
    pub choices: &'a [ExitId],
}

/// A prefix that is not divided.
#[derive(Clone, Copy, Debug)]
pub struct Undivided {
    /// Destination.
    pub prefix: Prefix,
    /// Where plain routing sends it.
    pub home: ExitId,
    /// Where the placement has it.
    pub exit: ExitId,
    /// Demand.
    pub rate: BitRate,
}

/// A placement with parts, as it would be acted on.
#[derive(Clone, Copy, Debug)]
pub struct Division<'a> {
    /// What is divided.
    pub parts: &'a [Divided<'a>],
    /// All the others.
    pub wholes: &'a [Undivided],
    /// Load of each uplink that is neither's.
    pub base: &'a [BitRate],
    /// Load of each uplink by the placement.
    pub claimed: &'a [BitRate],
    /// Position of the uplink of each exit.
    pub uplinks: &'a [usize],
    /// Most prefixes away from home, wholes and parts.
    pub most: usize,
    /// Most parts that may be made or grow now.
    pub most_now: usize,
    /// Most traffic that they may send away now.
    pub bits_now: BitRate,
}

/// All that is wrong with what is divided; nothing if it may be acted on.
pub fn divided(division: &Division<'_>) -> Vec<Veto> {
    let mut vetoes = Vec::new();
    for (at, part) in division.parts.iter().enumerate() {
        let prefix = part.prefix;
        if part.share < BOUNDS.0 || part.share > BOUNDS.1 || part.moved > part.rate {
            vetoes.push(Veto::PartShare { prefix, share: part.share });
        }
        let lawful = |exit: &ExitId| part.choices.contains(exit);
        if part.home == part.to || !lawful(&part.home) || !lawful(&part.to) {
            vetoes.push(Veto::PartExit { prefix, home: part.home.index(), to: part.to.index() });
        }
        let again = division.parts[..at].iter().any(|other| other.prefix == prefix);
        if again || division.wholes.iter().any(|whole| whole.prefix == prefix) {
            vetoes.push(Veto::PartAndWhole { prefix });
        }
    }
    vetoes.extend(loads(division));
    vetoes.extend(caps(division));
    vetoes
}

/// Exact below 2^53, as all rates of uplinks are.
fn real(rate: BitRate) -> f64 {
    rate.0 as f64
}

fn loads(division: &Division<'_>) -> Option<Veto> {
    let mut found: Vec<f64> = division.base.iter().map(|base| real(*base)).collect();
    let mut put = |exit: ExitId, rate: f64| {
        if let Some(load) = division.uplinks.get(exit.index()).and_then(|at| found.get_mut(*at)) {
            *load += rate;
        }
    };
    for whole in division.wholes {
        put(whole.exit, real(whole.rate));
    }
    for part in division.parts {
        put(part.to, real(part.moved));
        put(part.home, real(part.rate) - real(part.moved));
    }
    let wrong = |(claimed, found): &(f64, f64)| (claimed - found).abs() > found.abs() * ROUNDING + 1.0;
    let claimed = division.claimed.iter().map(|load| real(*load));
    let (claimed, found) = claimed.zip(found).find(wrong)?;
    Some(Veto::Claim { what: "a load with its parts", claimed, found })
}

fn caps(division: &Division<'_>) -> Vec<Veto> {
    let away = division.wholes.iter().filter(|whole| whole.exit != whole.home).count();
    let grown = || division.parts.iter().filter_map(|part| part.grown);
    let count = |count: usize| real(BitRate(u64::try_from(count).unwrap_or(u64::MAX)));
    let rows = [
        ("prefixes with its parts", count(away + division.parts.len()), count(division.most)),
        ("parts at once", count(grown().count()), count(division.most_now)),
        ("bit/s of parts at once", real(grown().sum()), real(division.bits_now)),
    ];
    let above = rows.into_iter().filter(|(_, found, cap)| found > cap);
    above.map(|(what, found, cap)| Veto::Cap { what, found, cap }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOICES: [ExitId; 2] = [ExitId(0), ExitId(1)];

    fn prefix(last: u8) -> Prefix {
        format!("10.0.{last}.0/24").parse().unwrap()
    }

    fn part() -> Divided<'static> {
        let (rate, moved) = (BitRate(256_000), BitRate(96_000));
        let (home, to, grown) = (ExitId(0), ExitId(1), Some(moved));
        Divided { prefix: prefix(1), home, to, share: 96, rate, moved, grown, choices: &CHOICES }
    }

    fn judged(
        parts: &[Divided<'_>],
        wholes: &[Undivided],
        change: impl Fn(&mut Division<'_>),
    ) -> Vec<String> {
        let (base, claimed) = ([BitRate(1_000); 2], [BitRate(161_000), BitRate(147_000)]);
        let (most, most_now, bits_now) = (2, 1, BitRate(100_000));
        let (base, claimed, uplinks) = (&base[..], &claimed[..], &[0, 1][..]);
        let mut division = Division { parts, wholes, base, claimed, uplinks, most, most_now, bits_now };
        change(&mut division);
        divided(&division).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_division_broken_on_purpose_is_refused_and_a_sound_one_is_not() {
        let whole = Undivided { prefix: prefix(2), home: ExitId(0), exit: ExitId(1), rate: BitRate(50_000) };
        let same = |_: &mut Division<'_>| {};
        assert_eq!(judged(&[part()], &[whole], same), [""; 0]);
        let (elsewhere, good) = (ExitId(2), part());
        let broken: [(&str, Divided<'_>, &str); 7] = [
            ("a part below a sixteenth", Divided { share: 15, ..good }, "15 of 256"),
            ("a part above fifteen sixteenths", Divided { share: 241, ..good }, "241 of 256"),
            ("more than all of it", Divided { moved: BitRate(256_001), ..good }, "of 256"),
            ("an exit that is no candidate", Divided { to: elsewhere, ..good }, "exits number 0 and 2"),
            ("a home that is no candidate", Divided { home: elsewhere, ..good }, "exits number 2 and 1"),
            ("both parts on one exit", Divided { to: ExitId(0), ..good }, "exits number 0 and 0"),
            ("a part beside its whole", Divided { prefix: whole.prefix, ..good }, "whole as well"),
        ];
        for (title, part, words) in broken {
            let vetoes = judged(&[part], &[whole], same);
            assert!(vetoes.iter().any(|veto| veto.contains(words)), "{title}: {vetoes:?}");
        }
        let vetoes = judged(&[part(), part()], &[whole], same);
        assert!(vetoes.iter().any(|veto| veto.contains("whole as well")), "twice: {vetoes:?}");
        type Change = fn(&mut Division<'_>);
        let changes: [(&str, Change, &str); 4] = [
            ("loads without the part", |on| on.claimed = &[BitRate(257_000), BitRate(51_000)], "a load with"),
            ("too many", |on| on.most = 1, "moves 2 prefixes with its parts, 1 are"),
            ("too many at once", |on| on.most_now = 0, "moves 1 parts at once, 0 are"),
            ("too much at once", |on| on.bits_now = BitRate(95_999), "moves 96000 bit/s of parts"),
        ];
        for (title, change, words) in changes {
            let vetoes = judged(&[part()], &[whole], change);
            assert!(vetoes.len() == 1 && vetoes[0].contains(words), "{title}: {vetoes:?}");
        }
    }
}
