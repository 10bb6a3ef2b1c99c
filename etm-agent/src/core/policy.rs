//! The operator's validated intent. `config` builds it; nothing here is ever an output of ETM.

use super::billing::Billing;
use super::route_rules::RouteRule;
use crate::types::{
    Asn, BitRate, Community, ExitId, Family, PeerId, Prefix, Price, ProviderId, Share, UplinkId,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// What ETM may do with its conclusions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Compute and show everything, change nothing.
    #[default]
    Observe,
    /// Queue each change for a person, act on what is approved.
    Approve,
    /// Act.
    Enforce,
}

impl Mode {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Approve => "approve",
            Mode::Enforce => "enforce",
        }
    }
}

/// One step of a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// Where it ends; none for the last.
    pub up_to: Option<BitRate>,
    /// Per Mbit/s and month inside it.
    pub price: Price,
}

/// What traffic costs somewhere: prices that never fall with load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract {
    /// Traffic that is paid for whether it is used or not.
    pub commit: BitRate,
    /// Steps, ascending; empty costs nothing.
    pub tiers: Vec<Tier>,
}

/// What several interfaces or ports share: a port of a switch, a bundle, a line card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Name the operator gave.
    pub name: String,
    /// What it can carry.
    pub capacity: BitRate,
    /// Share of the capacity above which it is overloaded.
    pub limit: Share,
    /// Share of the capacity below the limit that ETM leaves free.
    pub headroom: Share,
    /// Position of the port that it is inside.
    pub inside: Option<usize>,
    /// What its traffic costs.
    pub contract: Contract,
}

/// Prices that are not in contracts, and when money is worth a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceList {
    /// Per Mbit/s, month and rank: using a route that plain routing likes less.
    pub preference: Price,
    /// Once per Mbit/s that changes its exit.
    pub moving: Price,
    /// Once per prefix that changes its exit.
    pub moving_prefix: Price,
    /// Per override and month.
    pub holding: Price,
    /// Per Mbit/s of overload and month; none is chosen from the others.
    pub overload: Option<Price>,
    /// Least saving per month for which anything moves without overload.
    pub min_saving: Price,
    /// The same as a share of what staying costs.
    pub min_saving_share: Share,
    /// Time in which a move must earn back its price.
    pub payback: Duration,
}

impl Default for PriceList {
    fn default() -> PriceList {
        PriceList {
            preference: Price(10_000),
            moving: Price(200),
            moving_prefix: Price(0),
            holding: Price(1_000),
            overload: None,
            min_saving: Price(0),
            min_saving_share: Share(5_000),
            payback: Duration::from_secs(6 * 3600),
        }
    }
}

/// An exit that the operator chose for a prefix and all inside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Destination.
    pub prefix: Prefix,
    /// The exit.
    pub exit: ExitId,
}

/// An interface of this router that leads to providers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Interface name.
    pub name: String,
    /// What it can carry.
    pub capacity: BitRate,
    /// Share of the capacity above which it is overloaded.
    pub limit: Share,
    /// Share of the capacity below the limit that ETM leaves free when it fills a receiver.
    pub headroom: Share,
    /// Position of the port that it is inside.
    pub port: Option<usize>,
    /// What its traffic costs.
    pub contract: Contract,
    /// The basis of `capacity`, and of every rate that is compared with it.
    pub billing: Billing,
}

impl Uplink {
    /// Highest load that is not overload.
    pub fn limit_rate(&self) -> BitRate {
        self.capacity.scaled(self.limit)
    }

    /// Highest load to which ETM fills this uplink by its own moves.
    pub fn fill_rate(&self) -> BitRate {
        self.capacity.scaled(self.limit - self.headroom)
    }
}

/// An AS that takes our traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Name the operator gave.
    pub name: String,
    /// Its AS number, where given: routes through it must then begin with it.
    pub asn: Option<Asn>,
    /// What the traffic of all its exits together costs.
    pub contract: Contract,
    /// Its routes count as candidates for what they cover, too: it gives only a default or a partial table.
    pub covering: bool,
}

/// One way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Provider name, with a number where the provider has several exits.
    pub name: String,
    /// Whose it is.
    pub provider: ProviderId,
    /// Interface it uses.
    pub uplink: UplinkId,
    /// Next hops that mean this exit, at least one.
    pub gateways: Vec<IpAddr>,
}

/// What a BGP session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Routes are learnt here; nothing is ever announced.
    Learn,
    /// Overrides are announced here; nothing is learnt.
    Inject,
}

/// A source of routes, or a receiver of overrides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Name the operator gave.
    pub name: String,
    /// What the session is for.
    pub role: Role,
    /// Its address, where it has one.
    pub address: Option<IpAddr>,
    /// True where it is of another AS.
    pub external: bool,
    /// The interface by which it is reached, where its address is link-local.
    pub interface: Option<String>,
    /// Learnt through another router's BMP instead of a session of ETM's own: a start does not wait for it.
    pub monitored: bool,
}

/// Another border router of this network. Its exits are used by announcing to what is behind both, never by this
/// router's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Border {
    /// Name the operator gave.
    pub name: String,
    /// The learn session with it. It announces there what it uses itself (RFC 4271 section 9.1.3), and nothing else.
    pub session: PeerId,
    /// The learn session with ETM there, by which it says what it sent here.
    pub etm_learn: Option<PeerId>,
    /// The inject session with ETM there, by which it is told what was sent to it.
    pub etm_inject: Option<PeerId>,
    /// Its interfaces towards providers; what they carry is not counted here.
    pub uplinks: Vec<UplinkId>,
    /// Families in which every inject session has a next hop for its exits.
    pub families: Vec<Family>,
}

/// How routes to one prefix are compared, where RFC 4271 leaves a choice. The default is what that RFC says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionProcess {
    /// MEDs of different neighbouring ASes are compared too.
    pub always_compare_med: bool,
    /// Routes of one neighbouring AS are compared with each other first (RFC 4271 section 9.1.2.2 c). Without, each is
    /// compared with the best one so far, in the order of arrival, as some routers do.
    pub deterministic_med: bool,
    /// A route without MED has the worst one, not 0 (RFC 4451 section 2.3).
    pub med_missing_worst: bool,
    /// Lower BGP Identifier, or ORIGINATOR_ID, first (section 9.1.2.2 f).
    pub router_id: bool,
    /// Shorter CLUSTER_LIST first (RFC 4456 section 9).
    pub cluster_list: bool,
    /// Lower address of the peer first (section 9.1.2.2 g).
    pub peer_address: bool,
}

impl Default for DecisionProcess {
    fn default() -> DecisionProcess {
        DecisionProcess {
            always_compare_med: false,
            deterministic_med: true,
            med_missing_worst: false,
            router_id: true,
            cluster_list: true,
            peer_address: true,
        }
    }
}

/// When a move counts as made, when a demand is not believed, and how much may change at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guards {
    /// Within this time of a move the counters must show its traffic on the new exit.
    pub confirm_within: Duration,
    /// How long a prefix is not sent again to an exit where its traffic was not seen; doubles with each failure.
    pub confirm_retry: Duration,
    /// A prefix that asks for this many times its usual rate surges.
    pub surge_factor: u32,
    /// A surge that lasts this long is the new usual rate.
    pub surge_lasts: Duration,
    /// Most prefixes that are given another exit within a minute.
    pub max_moves_per_minute: usize,
}

impl Default for Guards {
    fn default() -> Guards {
        Guards {
            confirm_within: Duration::from_secs(2),
            confirm_retry: Duration::from_secs(60),
            surge_factor: 10,
            surge_lasts: Duration::from_secs(300),
            max_moves_per_minute: 10_000,
        }
    }
}

/// What may be moved at all, while ETM is new to a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Share of the flows of an overridden prefix that take the override. Less than all is for this router's kernel only.
    pub share: Share,
    /// Only these prefixes, and what is inside them, may be moved; empty means all.
    pub prefixes: Vec<Prefix>,
}

impl Default for Canary {
    fn default() -> Canary {
        Canary { share: Share::ONE, prefixes: Vec::new() }
    }
}

impl Canary {
    /// True where only a part of the flows takes overrides.
    pub fn is_partial(&self) -> bool {
        self.share < Share::ONE
    }

    /// True where `prefix` may be moved.
    pub fn admits(&self, prefix: Prefix) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|listed| listed.covers(prefix))
    }
}

/// A candidate route that is configured, not learnt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticRoute {
    /// Destination.
    pub prefix: Prefix,
    /// Exit it may use.
    pub exit: ExitId,
}

/// Everything the decision needs to know of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What may be done.
    pub mode: Mode,
    /// Time between two samples.
    pub interval: Duration,
    /// Indexed by `UplinkId`: this router's own first, then those of other borders.
    pub uplinks: Vec<Uplink>,
    /// Other borders.
    pub borders: Vec<Border>,
    /// What uplinks share.
    pub ports: Vec<Port>,
    /// Indexed by `ProviderId`.
    pub providers: Vec<Provider>,
    /// Indexed by `ExitId`.
    pub exits: Vec<Exit>,
    /// Indexed by `PeerId`; the static routes' source has the number after the last.
    pub peers: Vec<Peer>,
    /// Configured candidates.
    pub static_routes: Vec<StaticRoute>,
    /// Prefixes that are never overridden, nor anything inside them.
    pub exclude: Vec<Prefix>,
    /// Prefixes whose exit the operator chose; the longest that covers a prefix counts.
    pub pins: Vec<Pin>,
    /// Exits that prefixes, and all inside them, are never moved to.
    pub forbidden: Vec<Pin>,
    /// Prices beside contracts.
    pub prices: PriceList,
    /// Least time a prefix stays where it was put, unless its exit is lost or overloaded.
    pub hold: Duration,
    /// Most overrides at one time.
    pub max_overrides: usize,
    /// Most traffic under override at one time, as a share of all that is offered.
    pub max_moved_share: Share,
    /// Most traffic that is given another exit within a minute, as a share of all that is offered.
    pub max_moved_per_minute: Share,
    /// Share of a receiver's room that one round may fill while an overloaded uplink drops.
    pub fill_share: Share,
    /// Whether a part of the flows of a prefix that fits whole nowhere may be sent elsewhere.
    pub split: bool,
    /// How long a change waits for approval.
    pub approval: Duration,
    /// Most throw routes that one override may need; a prefix with more is not overridden.
    pub max_throws: usize,
    /// Community that marks ETM's own announcements; a learnt route that carries it is never a candidate.
    pub community: Community,
    /// Kernel route protocols (rtm_protocol) under which the routing daemon installs BGP routes.
    pub daemon_protocols: Vec<u8>,
    /// Metric of ETM's routes where they stand beside the daemon's in one table; none where they have a table of their own.
    pub own_metric: Option<u32>,
    /// Which learnt routes may be used; the first that matches decides.
    pub route_rules: Vec<RouteRule>,
    /// Own and internal prefixes: nothing inside them is ever a candidate.
    pub internal: Vec<Prefix>,
    /// How routes are compared.
    pub process: DecisionProcess,
    /// Longest time without a sample or with a failed check before decisions freeze.
    pub stale_after: Duration,
    /// Confirmation of moves, surges of demand, rate of change.
    pub guards: Guards,
    /// What may be moved at all.
    pub canary: Canary,
    /// Next hops of ETM's own announcements: a learnt route with one of them and ETM's community is its own.
    pub own_next_hops: Vec<IpAddr>,
    /// Our AS, where BGP is spoken.
    pub own_as: Option<Asn>,
}

impl Policy {
    /// The source number of the static routes.
    pub fn static_peer(&self) -> PeerId {
        PeerId(u16::try_from(self.peers.len()).unwrap_or(u16::MAX))
    }

    /// True where the operator excluded `prefix` or something around it.
    pub fn excludes(&self, prefix: Prefix) -> bool {
        self.exclude.iter().any(|excluded| excluded.covers(prefix))
    }

    /// The exit that the operator chose for `prefix`: that of the longest pin around it.
    pub fn pin_of(&self, prefix: Prefix) -> Option<ExitId> {
        let around = self.pins.iter().filter(|pin| pin.prefix.covers(prefix));
        around.max_by_key(|pin| pin.prefix.len()).map(|pin| pin.exit)
    }

    /// True where the operator forbids to move `prefix` to `exit`.
    pub fn forbids(&self, prefix: Prefix, exit: ExitId) -> bool {
        self.forbidden.iter().any(|pin| pin.exit == exit && pin.prefix.covers(prefix))
    }

    /// The other border that has `uplink`; none for this router's own.
    pub fn border_of(&self, uplink: UplinkId) -> Option<&Border> {
        self.borders.iter().find(|border| border.uplinks.contains(&uplink))
    }

    /// The other border that has `exit`; none for this router's own.
    pub fn border_of_exit(&self, exit: ExitId) -> Option<&Border> {
        self.border_of(self.uplink_of(exit)?)
    }

    /// True where `peer` is another border, or ETM there: its absence takes its exits away, and nothing else depends on it.
    pub fn is_border(&self, peer: PeerId) -> bool {
        let one = Some(peer);
        self.borders.iter().any(|at| [Some(at.session), at.etm_learn, at.etm_inject].contains(&one))
    }

    /// Learn sessions that this router's own decisions depend on, with their positions: all but those with other borders.
    pub fn own_sources(&self) -> impl Iterator<Item = (usize, &Peer)> + '_ {
        let learn = self.peers.iter().enumerate().filter(|(_, peer)| peer.role == Role::Learn);
        learn.filter(|(at, _)| u16::try_from(*at).is_ok_and(|at| !self.is_border(PeerId(at))))
    }

    /// How many uplinks are this router's own: the first ones.
    pub fn own_uplinks(&self) -> usize {
        self.uplinks.len() - self.borders.iter().map(|border| border.uplinks.len()).sum::<usize>()
    }

    /// The uplink of `exit`.
    pub fn uplink_of(&self, exit: ExitId) -> Option<UplinkId> {
        self.exits.get(exit.index()).map(|exit| exit.uplink)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two uplinks of 50 Mbit/s with one exit each, limit 90 %, headroom 5 %; one learn session.
    pub(crate) fn two_exits() -> Policy {
        let uplink = |name: &str| Uplink {
            name: name.to_owned(),
            capacity: BitRate(50_000_000),
            limit: Share::percent(90),
            headroom: Share::percent(5),
            port: None,
            contract: Contract::default(),
            billing: Billing::default(),
        };
        let exit = |name: &str, index: u16, gateways: [&str; 2]| Exit {
            name: name.to_owned(),
            provider: ProviderId(index),
            uplink: UplinkId(index),
            gateways: gateways.iter().map(|addr| addr.parse().unwrap()).collect(),
        };
        Policy {
            mode: Mode::Enforce,
            interval: Duration::from_secs(1),
            uplinks: vec![uplink("up-a"), uplink("up-b")],
            borders: Vec::new(),
            ports: Vec::new(),
            providers: ["transit-a", "transit-b"]
                .map(|name| Provider {
                    name: name.to_owned(),
                    asn: None,
                    covering: false,
                    contract: Contract::default(),
                })
                .to_vec(),
            exits: vec![
                exit("transit-a", 0, ["10.0.1.1", "fd00:1::1"]),
                exit("transit-b", 1, ["10.0.2.1", "fd00:2::1"]),
            ],
            peers: vec![Peer {
                name: "border".to_owned(),
                role: Role::Learn,
                address: None,
                external: false,
                interface: None,
                monitored: false,
            }],
            static_routes: Vec::new(),
            exclude: Vec::new(),
            pins: Vec::new(),
            forbidden: Vec::new(),
            prices: PriceList::default(),
            hold: Duration::from_secs(60),
            max_overrides: 1_000,
            max_moved_share: Share::percent(50),
            max_moved_per_minute: Share::ONE,
            fill_share: Share::percent(75),
            split: false,
            approval: Duration::from_secs(900),
            max_throws: 256,
            community: "64500:179".parse().unwrap(),
            daemon_protocols: vec![12],
            own_metric: None,
            route_rules: Vec::new(),
            internal: Vec::new(),
            process: DecisionProcess::default(),
            stale_after: Duration::from_secs(5),
            guards: Guards::default(),
            canary: Canary::default(),
            own_next_hops: vec!["10.0.9.1".parse().unwrap()],
            own_as: Some(Asn(64500)),
        }
    }

    #[test]
    fn rates_follow_from_capacity_limit_and_headroom() {
        let uplink = two_exits().uplinks.remove(0);
        assert_eq!(uplink.limit_rate(), BitRate(45_000_000));
        assert_eq!(uplink.fill_rate(), BitRate(42_500_000));
    }
}
