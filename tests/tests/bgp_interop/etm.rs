//! ETM's end of a session in a lab: the real session code on a thread of its own, and what the decision would know by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use etm_agent::core::decision::Decision;
use etm_agent::core::input::{Input, RouteChange, SessionChange};
use etm_agent::peering::{
    Auth, Connect, DEFAULT_LOCAL_PREF, Doors, InjectConfig, Listener, NextHops, Order, OutPolicy, Ports,
    Secret, SessionConfig, run_inject_with, run_learn_with, status_channel,
};
use etm_agent::types::bgp::PeerStatus;
use etm_agent::types::{Asn, Family, PathId, PeerId, Prefix, RouteAttrs, RouterId, Timestamp};
use etm_tests::clock::boottime_ns;
use etm_tests::daemons::{ETM_AS, ETM_V4, ETM_V6, ROUTER_V4};
use etm_tests::pair::Pair;
use etm_tests::poll::wait_until;
use tokio::sync::{mpsc, watch};

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Learn,
    Inject,
}

/// What the decision would know.
#[derive(Default)]
struct Known {
    routes: BTreeMap<(Prefix, PathId), Arc<RouteAttrs>>,
    stale: BTreeSet<(Prefix, PathId)>,
    /// Prefixes that were without a route since the last look.
    lost: BTreeSet<Prefix>,
    changes: Vec<SessionChange>,
}

/// A running session; dropping it stops it in order.
pub(crate) struct Etm {
    known: Arc<Mutex<Known>>,
    status: watch::Receiver<PeerStatus>,
    stop: watch::Sender<bool>,
    orders: mpsc::Sender<Order>,
    decisions: watch::Sender<Arc<Decision>>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) fn secret(key: &str) -> Auth {
    Auth::Md5(Secret::new(key.as_bytes()).unwrap())
}

fn clock() -> Timestamp {
    Timestamp(boottime_ns())
}

/// A session with the router of a pair.
pub(crate) fn config(router_as: u32, connect: Connect) -> SessionConfig {
    let router_id = RouterId(ETM_V4.parse().unwrap());
    let remote = ROUTER_V4.parse().unwrap();
    let mut config = SessionConfig::new(PeerId(0), "router", remote, Asn(ETM_AS), Asn(router_as), router_id);
    config.local = Some(ETM_V4.parse().unwrap());
    config.connect = connect;
    config.retry_min = Duration::from_millis(500);
    config.retry_max = Duration::from_secs(1);
    config
}

impl Etm {
    pub(crate) fn start(pair: &Pair, config: SessionConfig, kind: Kind) -> Etm {
        Etm::start_with(pair, config, kind, inject(Some(ETM_V4), ETM_V6))
    }

    /// With next hops of its own.
    pub(crate) fn start_with(pair: &Pair, config: SessionConfig, kind: Kind, inject: InjectConfig) -> Etm {
        let (inputs, received) = mpsc::channel(64);
        let (writer, status) = status_channel(&config, clock());
        let (stop, stopped) = watch::channel(false);
        let (orders, orders_rx) = mpsc::channel(4);
        let (decisions, decisions_rx) = watch::channel(Arc::new(Decision::default()));
        let known = Arc::new(Mutex::new(Known::default()));
        let (namespace, knowing) = (pair.etm(), Arc::clone(&known));
        let thread = std::thread::spawn(move || {
            let work = async move {
                let (listeners, mut arrivals) = Listener::of(std::slice::from_ref(&config), 179);
                let listening = listeners.into_iter().next().map(|listener| listener.run(stopped.clone()));
                let listening = async {
                    if let Some(listener) = listening {
                        listener.await;
                    }
                };
                let ports = Ports { inputs, status: writer, stop: stopped.clone(), clock };
                let doors = Doors { arrivals: arrivals.remove(&0), orders: Some(orders_rx) };
                let session = async {
                    match kind {
                        Kind::Learn => run_learn_with(config, ports, doors).await,
                        Kind::Inject => {
                            run_inject_with(config, inject, decisions_rx, ports, doors).await;
                        }
                    }
                };
                tokio::join!(session, listening, know(received, &knowing));
            };
            namespace
                .inside(|| {
                    let mut builder = tokio::runtime::Builder::new_current_thread();
                    builder.enable_all().build().unwrap().block_on(work);
                    Ok(())
                })
                .unwrap();
        });
        Etm { known, status, stop, orders, decisions, thread: Some(thread) }
    }

    pub(crate) fn status(&self) -> PeerStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn order(&self, order: Order) {
        self.orders.blocking_send(order).unwrap();
    }

    pub(crate) fn decide(&self, decision: Arc<Decision>) {
        self.decisions.send_replace(decision);
    }

    /// Prefixes with their next hops.
    pub(crate) fn table(&self) -> BTreeSet<(String, String)> {
        let known = self.known.lock().unwrap();
        known
            .routes
            .iter()
            .map(|((prefix, _), attrs)| (prefix.to_string(), attrs.next_hop.to_string()))
            .collect()
    }

    pub(crate) fn losses(&self) -> BTreeSet<Prefix> {
        self.known.lock().unwrap().lost.clone()
    }

    pub(crate) fn forget_losses(&self) {
        self.known.lock().unwrap().lost.clear();
    }

    /// The last changes of the session's state.
    pub(crate) fn changes(&self) -> Vec<SessionChange> {
        let known = self.known.lock().unwrap();
        known.changes.iter().rev().take(8).rev().cloned().collect()
    }

    pub(crate) fn seen(&self, what: impl Fn(&SessionChange) -> bool) -> bool {
        self.known.lock().unwrap().changes.iter().any(what)
    }

    /// Waits for a fault with these words.
    pub(crate) fn fault(&self, words: &str) -> String {
        wait_until("a fault in plain words", Duration::from_secs(30), || match self.status().last_fault {
            Some(fault) if fault.text.contains(words) => Ok(fault.text),
            other => Err(format!("{other:?}")),
        })
        .unwrap()
    }
}

impl Drop for Etm {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the session's thread failed");
        }
    }
}

pub(crate) fn inject(v4: Option<&str>, v6: &str) -> InjectConfig {
    let out = OutPolicy { local_pref: DEFAULT_LOCAL_PREF, community: "64500:179".parse().unwrap() };
    let next_hops = NextHops {
        v4: v4.map(|addr| addr.parse().unwrap()),
        v6: Some(v6.parse().unwrap()),
        per_exit: BTreeMap::new(),
        elsewhere: BTreeSet::new(),
    };
    InjectConfig::new(out, next_hops)
}

async fn know(mut received: mpsc::Receiver<Input>, known: &Mutex<Known>) {
    while let Some(input) = received.recv().await {
        let mut known = known.lock().unwrap();
        match input {
            Input::Routes(batch) => batch.changes.into_iter().for_each(|change| known.route(change)),
            Input::Session(event) => known.session(event.change),
            _ => {}
        }
    }
}

impl Known {
    fn route(&mut self, change: RouteChange) {
        match change {
            RouteChange::Announce { prefix, path_id, attrs } => {
                self.stale.remove(&(prefix, path_id));
                self.routes.insert((prefix, path_id), attrs);
            }
            RouteChange::Withdraw { prefix, path_id } => {
                self.routes.remove(&(prefix, path_id));
                self.note_lost([prefix]);
            }
        }
    }

    fn session(&mut self, change: SessionChange) {
        match &change {
            SessionChange::Down { .. } => self.forget(|_| true),
            SessionChange::Retained { families, .. } => {
                self.forget(|family| !families.contains(&family));
                self.stale.extend(self.routes.keys());
            }
            SessionChange::Refreshing(family) => {
                let of = self.routes.keys().filter(|(prefix, _)| prefix.family() == *family);
                self.stale.extend(of);
            }
            SessionChange::Sweep(family) => {
                let gone: Vec<(Prefix, PathId)> =
                    self.stale.iter().filter(|(prefix, _)| prefix.family() == *family).copied().collect();
                for key in gone {
                    self.stale.remove(&key);
                    self.routes.remove(&key);
                    self.note_lost([key.0]);
                }
            }
            SessionChange::Up { .. } | SessionChange::EndOfRib(_) | SessionChange::Ordered { .. } => {}
        }
        self.changes.push(change);
    }

    fn forget(&mut self, gone: impl Fn(Family) -> bool) {
        let lost: Vec<Prefix> =
            self.routes.keys().map(|(prefix, _)| *prefix).filter(|prefix| gone(prefix.family())).collect();
        self.routes.retain(|(prefix, _), _| !gone(prefix.family()));
        self.note_lost(lost);
    }

    fn note_lost(&mut self, prefixes: impl IntoIterator<Item = Prefix>) {
        for prefix in prefixes {
            if !self.routes.keys().any(|(known, _)| *known == prefix) {
                self.lost.insert(prefix);
            }
        }
    }
}
