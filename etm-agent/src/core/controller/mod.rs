//! The decision as one machine: `handle(now, input)` in, an `Outcome` out.
//!
//! Total: every input has a defined result, none an error. Never acts and never reads a clock; what should
//! happen leaves as values, and what happened outside comes back as inputs.

mod approve;
mod browse;
mod division;
mod effects;
mod explain;
mod guards;
mod holds;
mod intake;
mod money;
mod orders;
mod restore;
mod round;
mod rules;
mod show;
mod show_guards;
mod site;

pub use browse::Browse;
pub use restore::OtherShape;

use super::allocator::Memory;
use super::approval::Approvals;
use super::audit::{Audit, EndReason, Event, EventKind};
use super::choices::{Choices, Grounds};
use super::confirm::Confirmations;
use super::conservation::Conservation;
use super::controls::Controls;
use super::decision::{Adopted, Decision, KernelAction, LiveRow, Override, TableChange};
use super::fib_view::FibView;
use super::guard::{Hold, State};
use super::input::{Input, Order, Released, RouteBatch, RouteChange, TableFill, UplinkSample};
use super::money::Tree;
use super::money_view::CertificateView;
use super::overrides::Overrides;
use super::policy::{Mode, Policy};
use super::projection::Projection;
use super::rate::Rates;
use super::rib::Rib;
use super::slots::Slots;
use super::surge::Surges;
use super::topology::Topology;
use super::view::Judged;
use crate::types::{BitRate, Family, Generation, PathId, PeerId, Prefix, RouteAttrs, Timestamp, UplinkId};
use serde::{Deserialize, Serialize};
use site::Site;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// What an input led to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The new decision, where it differs from the one before.
    pub decision: Option<Arc<Decision>>,
    /// Changes for the kernel's prefix tables, in order.
    pub table: Vec<TableChange>,
    /// New content of the live statistics map; with each sample.
    pub live: Option<Vec<LiveRow>>,
    /// New entries of the decision log.
    pub events: Vec<Event>,
    /// What became of the changes that an order named.
    pub judged: Vec<Judged>,
}

/// A session as the decision sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Session {
    up: bool,
    awaited: Vec<Family>,
    reason: Option<String>,
    told: Option<Generation>,
    /// When what was told last must be effective.
    effect_due: Option<Timestamp>,
    /// Announcements that were not effective when last looked at.
    ineffective: usize,
}

/// An uplink's totals between two samples.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Meter {
    last: Option<UplinkSample>,
    offered: BitRate,
    sent: BitRate,
    overloaded: bool,
    /// Packets were dropped since the sample before.
    dropping: bool,
    /// Samples in a row that did not show it.
    missed: u8,
}

/// The decision maker's whole state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Controller {
    policy: Policy,
    /// Follows from the policy.
    #[serde(skip)]
    tree: Tree,
    topology: Topology,
    /// Follows from routes, links and the kernel's table.
    #[serde(skip)]
    choices: Choices,
    rib: Rib,
    fib: FibView,
    slots: Slots,
    rates: Rates,
    conservation: Conservation,
    overrides: Overrides,
    audit: Audit,
    sessions: Vec<Session>,
    meters: Vec<Meter>,
    projected: Vec<BitRate>,
    /// Of the last sample: for views, and from one step of a round to the next.
    #[serde(skip)]
    projection: Projection,
    /// Demand of everything counted for a prefix, last sample.
    total: BitRate,
    approvals: Approvals,
    /// What others did to what ETM keeps in the kernel.
    site: Site,
    /// What operators ordered at run time.
    controls: Controls,
    /// Whether traffic follows moves.
    confirmations: Confirmations,
    /// Demand that is not believed yet.
    surges: Surges,
    /// Loads that were approved since the last sample, by uplink.
    approved: Vec<BitRate>,
    /// Traffic that was given another exit within the last minute.
    recent: VecDeque<(Timestamp, BitRate)>,
    memory: Memory,
    plans: u64,
    vetoes: u64,
    veto: Option<String>,
    /// For views.
    #[serde(skip)]
    certificate: Option<CertificateView>,
    /// Why there is nothing to plan with.
    #[serde(skip)]
    fault: Option<String>,
    off: bool,
    stopping: bool,
    /// Overrides found in the kernel at start, until the first decision says what becomes of them.
    inherited: Option<BTreeMap<Prefix, KernelAction>>,
    samples: u64,
    last_sample: Option<Timestamp>,
    table: TableFill,
    #[serde(with = "super::guard::as_text")]
    holds: Vec<Hold>,
    mismatch_ppm: u32,
    mismatch_run: u8,
    ineffective_ppm: u32,
    ineffective_run: u8,
    unsettled: BTreeMap<Prefix, Timestamp>,
    /// What this border was seen to follow though it was announced to others, and when.
    came_back: Option<(Timestamp, Prefix)>,
    barred: BTreeSet<Prefix>,
    refused: BTreeMap<Prefix, String>,
    unrelieved: BTreeSet<UplinkId>,
    installed: Generation,
    /// What Loc-RIBs show of our announcements, by inject session; none for one that nobody reports.
    effects: BTreeMap<PeerId, BTreeMap<Prefix, IpAddr>>,
    decision: Arc<Decision>,
    /// True where the decision may differ from the published one.
    changed: bool,
    /// True once nothing held back a decision.
    decided: bool,
    /// Where the sweep of rows without a route has come to, while there is one.
    slot_sweep: Option<Option<Prefix>>,
}

impl Controller {
    /// A controller that knows its configuration and nothing else. `off` is the operator's switch as an
    /// earlier run left it; `slot_capacity` is the number of counter rows per uplink.
    pub fn new(policy: Policy, slot_capacity: u32, adopted: &Adopted, off: bool) -> Controller {
        let uplinks = policy.uplinks.len();
        let (tree, fault) = Tree::or_bare(&policy);
        let controller = Controller {
            tree,
            choices: Choices::default(),
            topology: Topology::new(&policy),
            rib: Rib::new(&policy),
            fib: FibView::default(),
            slots: Slots::new(slot_capacity, adopted),
            rates: rates(&policy, adopted),
            conservation: Conservation::new(uplinks),
            overrides: Overrides::default(),
            audit: Audit::default(),
            sessions: vec![Session::default(); policy.peers.len()],
            meters: vec![Meter::default(); uplinks],
            projected: vec![BitRate::ZERO; uplinks],
            projection: Projection::default(),
            total: BitRate::ZERO,
            approvals: Approvals::default(),
            site: Site::default(),
            controls: Controls::default(),
            confirmations: Confirmations::default(),
            surges: Surges::default(),
            approved: vec![BitRate::ZERO; uplinks],
            recent: VecDeque::new(),
            memory: Memory::default(),
            plans: 0,
            vetoes: 0,
            veto: None,
            certificate: None,
            fault,
            off,
            stopping: false,
            // Switched off, there is nothing to go on with.
            inherited: (!off).then(|| inherited(adopted)),
            samples: 0,
            last_sample: None,
            table: TableFill::default(),
            holds: Vec::new(),
            mismatch_ppm: 0,
            mismatch_run: 0,
            ineffective_ppm: 0,
            ineffective_run: 0,
            unsettled: BTreeMap::new(),
            came_back: None,
            barred: BTreeSet::new(),
            refused: BTreeMap::new(),
            unrelieved: BTreeSet::new(),
            installed: Generation(0),
            effects: BTreeMap::new(),
            decision: Arc::new(Decision::default()),
            changed: true,
            decided: false,
            slot_sweep: None,
            policy,
        };
        controller.begun()
    }

    fn begun(mut self) -> Controller {
        self.load_static_routes();
        self.holds = self.find_holds(Timestamp(0));
        self
    }

    fn load_static_routes(&mut self) {
        let peer = self.policy.static_peer();
        let mut changes = Vec::new();
        for (index, route) in self.policy.static_routes.iter().enumerate() {
            let family = route.prefix.family();
            let Some(exit) = self.policy.exits.get(route.exit.index()) else { continue };
            let Some(gateway) = exit.gateways.iter().find(|addr| Family::of(**addr) == family) else {
                continue;
            };
            changes.push(RouteChange::Announce {
                prefix: route.prefix,
                path_id: PathId(u32::try_from(index).unwrap_or(u32::MAX)),
                attrs: Arc::new(RouteAttrs::to_next_hop(*gateway)),
            });
        }
        self.apply_routes(RouteBatch { peer, changes });
    }

    /// Takes an input and says what follows from it.
    pub fn handle(&mut self, now: Timestamp, input: Input) -> Outcome {
        let mut live = None;
        let mut judged = Vec::new();
        match input {
            // The sessions of an agent that ends go down by its own doing. That says nothing about the routes:
            // their prefixes stay counted, so that the next run misses no byte.
            Input::Session(_) | Input::Routes(_) if self.stopping => {}
            Input::Session(event) => self.session(now, event),
            Input::Routes(batch) => {
                if self.apply_routes(batch) {
                    self.settle(now);
                }
                self.do_chores(intake::CHORES_BESIDE_ROUTES);
            }
            Input::Link(event) => self.link(now, event),
            Input::Gateway(event) => self.gateway(now, event),
            Input::Fib(event) => self.fib_event(now, event),
            Input::Sample(sample) => live = Some(self.round(now, &sample)),
            Input::Released(Released { slots, rows }) => {
                self.rates.rebase(&rows);
                self.slots.released(&slots);
                slots.iter().for_each(|slot| self.surges.forget(*slot));
            }
            Input::Installed(installed) => self.kernel_answered(installed),
            Input::Told(told) => self.peer_answered(told),
            Input::Site(event) => self.site_event(now, event),
            Input::Order(Order::Approve { id }) => judged = self.approve(now, id),
            Input::Order(Order::Reject { id }) => judged = self.reject(now, id),
            Input::Effective(event) => self.note_effect(now, event),
            Input::Order(order) => self.order(now, order),
            Input::Tick => {
                self.do_chores(intake::CHORES);
                self.look_at_effects(now);
            }
        }
        self.run_out(now);
        self.watch_leaks(now);
        self.refresh_holds(now);
        Outcome {
            decision: self.publish(now),
            table: self.slots.take_changes(),
            live,
            events: self.audit.take_new(),
            judged,
        }
    }

    /// True while ETM acts on its decisions, or on those that are approved.
    pub fn enforcing(&self) -> bool {
        self.policy.mode != Mode::Observe && !self.off && !self.stopping
    }

    /// True while the kernel should honour overrides: the runtime renews the lease as long as it holds.
    ///
    /// Not before the first decision: what an earlier run left lives on its lease, not on ours.
    pub fn wants_lease(&self) -> bool {
        self.enforcing() && self.inherited.is_none()
    }

    /// True while there is clearing up to do: a tick does the next slice of it.
    pub fn has_chores(&self) -> bool {
        self.rib.is_clearing() || self.slot_sweep.is_some()
    }

    /// True while the operator's switch is off.
    pub fn is_off(&self) -> bool {
        self.off
    }

    /// The current decision.
    pub fn decision(&self) -> Arc<Decision> {
        Arc::clone(&self.decision)
    }

    /// True once every condition to decide was met and none is missing now.
    pub fn ready(&self) -> bool {
        !self.holds.iter().any(|hold| hold.is_warm_up() || matches!(hold, Hold::SessionDown { .. }))
    }

    /// True once every learn session is Established. Other borders, and routers that report by BMP, come when they come.
    pub fn learning(&self) -> bool {
        let mut learn = self.policy.own_sources().filter(|(_, peer)| !peer.monitored);
        learn.all(|(at, _)| self.sessions.get(at).is_some_and(|session| session.up))
    }

    fn grounds(&self) -> Grounds<'_> {
        Grounds { policy: &self.policy, topology: &self.topology, rib: &self.rib, fib: &self.fib }
    }

    /// Ends overrides that may not stand any more; makes no new one.
    fn settle(&mut self, now: Timestamp) {
        self.changed = true;
        for (entry, why) in self.overrides.invalidate(&self.rib, &self.fib, &self.topology, &self.policy) {
            match why {
                EndReason::TooManyMoreSpecifics => drop(self.barred.insert(entry.prefix)),
                EndReason::CameBack => self.came_back = Some((now, entry.prefix)),
                _ => {}
            }
            self.ended(now, &entry, why);
        }
        self.drop_impossible(now);
    }

    fn ended(&mut self, now: Timestamp, entry: &Override, why: EndReason) {
        self.unsettled.insert(entry.prefix, now);
        self.confirmations.forget(entry.prefix);
        let (prefix, to) = (entry.prefix, self.exit_name(entry.to));
        self.audit.push(now, EventKind::OverrideEnded { prefix, to, why });
    }

    /// Makes the decision that follows from the state; none where it is the one before.
    fn publish(&mut self, now: Timestamp) -> Option<Arc<Decision>> {
        if self.inherited.is_some() || !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut next = Decision { generation: self.decision.generation, at: now, ..Decision::default() };
        if self.enforcing() && !self.overrides.is_empty() {
            // Routes of the main table have no mark that could choose a share of the flows.
            if !(self.policy.own_metric.is_some() && self.policy.canary.is_partial()) {
                next.kernel = self.overrides.kernel(&self.rib, &self.fib, &self.topology);
            }
            if !self.policy.canary.is_partial() {
                next.announce = self.overrides.announcements(&self.rib, &self.topology);
            }
        }
        // The first decision is always told: it decides about what an earlier run left.
        let first = next.generation == Generation(0);
        if !first && next.kernel == self.decision.kernel && next.announce == self.decision.announce {
            return None;
        }
        next.generation = Generation(self.decision.generation.0 + 1);
        self.decision = Arc::new(next);
        let (generation, overrides) = (self.decision.generation, self.overrides.len());
        let moved_bps = self.overrides.moved();
        self.audit
            .push(now, EventKind::Decided { generation, overrides, moved_bps, enforced: self.enforcing() });
        Some(self.decision())
    }

    /// What the agent is doing, in one word.
    pub fn state(&self) -> State {
        match (self.off, self.policy.mode) {
            (true, _) if self.controls.leak().is_some() => State::Leak,
            (true, _) => State::Off,
            _ if !self.ready() => State::WarmUp,
            _ if !self.holds.is_empty() => State::Frozen,
            (false, Mode::Observe) => State::Observing,
            (false, Mode::Approve) => State::Approving,
            (false, Mode::Enforce) => State::Steering,
        }
    }

    fn uplink_name(&self, uplink: UplinkId) -> String {
        self.policy.uplinks.get(uplink.index()).map_or_else(String::new, |uplink| uplink.name.clone())
    }

    fn exit_name(&self, exit: crate::types::ExitId) -> String {
        self.policy.exits.get(exit.index()).map_or_else(String::new, |exit| exit.name.clone())
    }
}

/// Rates as each uplink's provider bills them.
fn rates(policy: &Policy, adopted: &Adopted) -> Rates {
    let billing = policy.uplinks.iter().map(|uplink| uplink.billing).collect();
    Rates::new(policy.uplinks.len(), adopted).billed(billing)
}

/// Overrides of an earlier run, by next hop. Its throws are computed anew.
fn inherited(adopted: &Adopted) -> BTreeMap<Prefix, KernelAction> {
    let routes = adopted.routes.iter().filter(|(_, action)| **action != KernelAction::Throw);
    routes.map(|(prefix, action)| (*prefix, *action)).collect()
}

fn uplink_id(index: usize) -> UplinkId {
    UplinkId(u16::try_from(index).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests;
