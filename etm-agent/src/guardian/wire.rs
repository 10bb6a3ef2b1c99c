//! What agent and guardian say to each other. Frames are a length (four octets, little endian) and a value in postcard's
//! encoding; the first octets of a connection are a preamble that no version changes.
//! Never a command that an older frame could undo: states carry their generation, and the guardian says who is heard.

use crate::core::custody::{Epoch, Joined, Tenure};
use crate::core::decision::{Announcement, Decision};
use crate::types::bgp::{PeerStatus, SessionOrder};
use crate::types::{ExitId, Family, Generation, PeerId, Prefix, RouteAttrs, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of everything below; changes with any of it.
pub const VERSION: u16 = 3;

/// First octets of both directions.
pub(super) const MAGIC: [u8; 4] = *b"ETMG";

/// Longest frame: routes of one part with the longest attributes BGP can carry.
pub(super) const LONGEST: usize = 32 * 1024 * 1024;

/// Most routes in one part.
const PART: usize = 256;

/// From an agent, or from an operator's client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuardian {
    /// An agent's first words.
    Agent {
        /// Digest of the sessions it was configured with.
        digest: u64,
        /// Its number before its connection broke.
        resume: Option<Epoch>,
    },
    /// Part of a new desired state.
    Change(Change),
    /// How long it may stay.
    Tenure(Tenure),
    /// Withdraw everything until an agent says `On`. Anyone may say so, also as first words.
    Off,
    /// Withdraw what an agent left that is not there any more, and what it left alone. Anyone may say so.
    Forget,
    /// An operator told the agent to act again.
    On,
    /// The agent ends in order.
    Stop,
    /// What an operator wants of a session, by the agent that is listened to.
    Order {
        /// Which session.
        peer: PeerId,
        /// What.
        order: SessionOrder,
    },
}

/// Part of a new desired state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// True where it begins with nothing.
    pub fresh: bool,
    /// The decision it leads to.
    pub generation: Generation,
    /// Not announced any more.
    pub withdrawn: Vec<Prefix>,
    /// Announced.
    pub announced: Vec<Route>,
    /// False where more of the same decision follows.
    pub complete: bool,
}

/// One announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub prefix: Prefix,
    /// The exit it stands for.
    pub exit: ExitId,
    /// Attributes of the route as learnt through that exit.
    pub attrs: Arc<RouteAttrs>,
}

/// From the guardian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromGuardian {
    /// The agent is listened to.
    Joined(Joined),
    /// The agent is not listened to, for this reason.
    Refused(Refused),
    /// How things are; at each change and at least once a second.
    Report(Report),
    /// Everything is withdrawn.
    Stopped {
        /// True where every established peer's TCP acknowledged it.
        confirmed: bool,
    },
    /// An order was carried out.
    Done,
}

/// Why an agent is not listened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// A later agent took its place.
    Superseded,
    /// The guardian was started with other sessions.
    OtherConfiguration,
    /// What it said makes no sense.
    Unfounded(String),
}

/// The guardian at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Routes that sessions are told to announce.
    pub held: usize,
    /// End of the lease as the guardian knows it.
    pub until: Timestamp,
    /// An operator's order keeps everything withdrawn.
    pub off: bool,
    /// It came by this socket, and no `On` of an agent came after it.
    pub ordered_off: bool,
    /// How often the agent that is listened to said `On`: tells it which of its words the report knows.
    pub heard_on: u64,
    /// Sessions in order of configuration.
    pub sessions: Vec<SessionReport>,
}

/// An inject session at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// All that is shown of it.
    pub status: PeerStatus,
    /// Families negotiated, where it is established.
    pub up: Option<Vec<Family>>,
    /// Families whose End-of-RIB was received since.
    pub end_of_rib: Vec<Family>,
    /// The newest decision of this agent that the peer's TCP acknowledged, and when.
    pub told: Option<(Generation, Timestamp)>,
    /// Routes announced or withdrawn by acknowledged decisions of this agent, in all.
    pub changed: usize,
}

impl From<Change> for crate::core::custody::Change {
    fn from(change: Change) -> Self {
        let announced = change
            .announced
            .into_iter()
            .map(|Route { prefix, exit, attrs }| (prefix, Announcement { exit, attrs }))
            .collect();
        let Change { fresh, generation, withdrawn, complete, .. } = change;
        Self { fresh, generation, withdrawn, announced, complete }
    }
}

/// What has to be said so that one who knows `before` (or nothing) knows `after`, in parts of bounded size.
pub fn parts(before: Option<&Decision>, after: &Decision) -> Vec<Change> {
    let none = BTreeMap::new();
    let old = before.map_or(&none, |before| &before.announce);
    let gone: Vec<Prefix> =
        old.keys().filter(|prefix| !after.announce.contains_key(prefix)).copied().collect();
    let new: Vec<Route> = after
        .announce
        .iter()
        .filter(|(prefix, announcement)| old.get(prefix) != Some(announcement))
        .map(|(prefix, Announcement { exit, attrs })| Route {
            prefix: *prefix,
            exit: *exit,
            attrs: Arc::clone(attrs),
        })
        .collect();
    let count = gone.len().div_ceil(PART).max(new.len().div_ceil(PART)).max(1);
    let (mut gone, mut new) = (gone.chunks(PART), new.chunks(PART));
    (0..count)
        .map(|part| Change {
            fresh: before.is_none() && part == 0,
            generation: after.generation,
            withdrawn: gone.next().unwrap_or_default().to_vec(),
            announced: new.next().unwrap_or_default().to_vec(),
            complete: part + 1 == count,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::custody::{Custody, Terms};
    use std::time::Duration;

    fn decision(generation: u64, routes: impl IntoIterator<Item = (u16, u16)>) -> Decision {
        let attrs = Arc::new(RouteAttrs::to_next_hop("2001:db8::1".parse().unwrap()));
        let announce = routes.into_iter().map(|(number, exit)| {
            let prefix = format!("198.{}.{}.0/24", 18 + number / 256, number % 256).parse().unwrap();
            (prefix, Announcement { exit: ExitId(exit), attrs: Arc::clone(&attrs) })
        });
        Decision { generation: Generation(generation), announce: announce.collect(), ..Decision::default() }
    }

    #[test]
    fn what_the_fuzz_target_begins_with_is_understood() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/guardian");
        let mut frames = 0;
        for seed in std::fs::read_dir(dir).unwrap() {
            let path = seed.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let mut rest = &bytes[1..];
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let length = usize::try_from(u32::from_le_bytes(*length)).unwrap();
                let said = postcard::from_bytes::<ToGuardian>(&after[..length]);
                assert!(said.is_ok(), "{}: {said:?}; a new encoding needs new seeds", path.display());
                (rest, frames) = (&after[length..], frames + 1);
            }
        }
        assert!(frames >= 18, "{frames}");
    }

    #[test]
    fn whatever_was_known_the_parts_lead_to_the_new_decision() {
        let states = [
            decision(1, []),
            decision(2, (0..700).map(|number| (number, 0))),
            decision(3, (350..1200).map(|number| (number, number % 3))),
            decision(4, [(5, 1)]),
            decision(5, []),
        ];
        let lease = Duration::from_secs(10);
        let mut custody = Custody::new(Terms { lease, patience: None, adopt: Duration::ZERO, linger: None });
        let (joined, _) = custody.join(Timestamp(1), None).unwrap();
        let tenure = Tenure::Held { until: Timestamp(99), decided: true };
        custody.renew(Timestamp(1), joined.epoch, tenure).unwrap();
        let mut before = None;
        for after in &states {
            for part in parts(before, after) {
                assert!(part.announced.len() <= PART && part.withdrawn.len() <= PART);
                let bytes = postcard::to_stdvec(&ToGuardian::Change(part)).unwrap();
                let ToGuardian::Change(read) = postcard::from_bytes(&bytes).unwrap() else { panic!() };
                custody.change(Timestamp(2), joined.epoch, read.into()).unwrap();
            }
            assert_eq!(custody.told().announce, after.announce);
            assert_eq!(custody.told().generation, after.generation);
            before = Some(after);
        }
    }
}
