//! BGP sessions from settings: one future each, not yet spawned.

use super::clock::boottime;
use super::error::AgentError;
use crate::config::{
    BeyondSettings, BgpSettings, KeySettings, MaxRoutesSettings, ReachSettings, SessionSettings, Settings,
    TransportSettings,
};
use crate::core::decision::Decision;
use crate::core::input::Input;
use crate::core::policy::Role;
use crate::peering::{
    Auth, Beyond, Connect, Doors, Import, InjectConfig, Listener, MaxRoutes, NextHops, OutPolicy, Parting,
    Ports, Reach, Secret, SessionConfig, Transport, run_inject_with, run_learn_with, status_channel,
};
use crate::types::bgp::PeerStatus;
use crate::types::{Community, Family, PeerId};
use futures::future::BoxFuture;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// A session that can be spawned.
pub(super) struct Session {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) status: watch::Receiver<PeerStatus>,
    /// Runs until told to stop; true where the peer confirmed that nothing of ETM is left with it.
    pub(super) future: BoxFuture<'static, bool>,
}

/// What `of` prepares.
#[derive(Default)]
pub(super) struct Prepared {
    /// In order of `PeerId`.
    pub(super) sessions: Vec<Session>,
    /// One for each local address that peers connect to.
    pub(super) listeners: Vec<BoxFuture<'static, ()>>,
}

/// Prepares all configured sessions, none without a `bgp` table; refuses settings that no peer could accept.
pub(super) fn of(
    settings: &Settings,
    inputs: &mpsc::Sender<Input>,
    told: &watch::Receiver<Arc<Decision>>,
    stop: &watch::Receiver<bool>,
) -> Result<Prepared, AgentError> {
    match &settings.bgp {
        Some(bgp) => prepare(bgp, settings.policy.community, inputs, told, stop),
        None => Ok(Prepared::default()),
    }
}

fn prepare(
    bgp: &BgpSettings,
    community: Community,
    inputs: &mpsc::Sender<Input>,
    told: &watch::Receiver<Arc<Decision>>,
    stop: &watch::Receiver<bool>,
) -> Result<Prepared, AgentError> {
    let mut configs = Vec::new();
    for (index, settings) in bgp.sessions.iter().enumerate() {
        let peer = PeerId(u16::try_from(index).unwrap_or(u16::MAX));
        configs.push(session_config(peer, settings, bgp)?);
    }
    let (listeners, mut arrivals) = Listener::of(&configs, bgp.listen_port);
    let listening = listeners
        .into_iter()
        .map(|listener| -> BoxFuture<'static, ()> { Box::pin(listener.run(stop.clone())) });
    let mut prepared = Prepared { sessions: Vec::new(), listeners: listening.collect() };
    for (index, (config, settings)) in configs.into_iter().zip(&bgp.sessions).enumerate() {
        let (writer, status) = status_channel(&config, boottime());
        let ports = Ports { inputs: inputs.clone(), status: writer, stop: stop.clone(), clock: boottime };
        let doors = Doors { arrivals: arrivals.remove(&index), orders: None };
        let future: BoxFuture<'static, bool> = match settings.role {
            Role::Learn => {
                config.check()?;
                Box::pin(async move {
                    run_learn_with(config, ports, doors).await;
                    true
                })
            }
            Role::Inject => {
                let out = OutPolicy { local_pref: bgp.local_pref, community };
                let mut inject = InjectConfig::new(out, next_hops(settings)?);
                inject.rate = settings.announce_rate;
                config.check_inject(&inject)?;
                let told = told.clone();
                Box::pin(async move {
                    run_inject_with(config, inject, told, ports, doors).await == Parting::Clean
                })
            }
        };
        prepared.sessions.push(Session { name: settings.name.clone(), role: settings.role, status, future });
    }
    Ok(prepared)
}

/// Refuses what `prepare` would refuse, without a session.
pub(super) fn check(settings: &Settings) -> Result<(), AgentError> {
    let (inputs, _) = mpsc::channel(1);
    let (_, decisions) = watch::channel(Arc::new(Decision::default()));
    let (_, stop) = watch::channel(true);
    of(settings, &inputs, &decisions, &stop).map(drop)
}

fn session_config(
    peer: PeerId,
    settings: &SessionSettings,
    bgp: &BgpSettings,
) -> Result<SessionConfig, AgentError> {
    let mut config = SessionConfig::new(
        peer,
        &settings.name,
        settings.peer,
        bgp.asn,
        settings.peer_as,
        settings.router_id,
    );
    config.local = settings.local;
    config.port = settings.port;
    config.hold_time = u16::try_from(bgp.hold_time.as_secs()).unwrap_or(u16::MAX);
    config.interface.clone_from(&settings.interface);
    config.connect = match (settings.transport.dials, settings.transport.listens) {
        (_, false) => Connect::Active,
        (false, true) => Connect::Passive,
        (true, true) => Connect::Both,
    };
    config.transport = transport(&settings.transport)?;
    config.role = settings.import.role;
    config.strict_role = settings.import.strict_role;
    config.import = Import {
        accept: settings.import.accept,
        first_as: settings.import.first_as,
        link_local: settings.interface.is_some(),
    };
    config.max_routes = settings.import.max_routes.map(max_routes);
    config.retain = settings.import.retain;
    // Sessions of one start differ by number, two starts by time.
    config.seed = boottime().0 ^ u64::from(peer.0).rotate_left(32);
    Ok(config)
}

fn transport(settings: &TransportSettings) -> Result<Transport, AgentError> {
    let reach = match settings.reach {
        ReachSettings::Usual => Reach::Usual,
        ReachSettings::Multihop(hops) => Reach::Multihop(hops),
        ReachSettings::Gtsm(hops) => Reach::Gtsm(hops),
    };
    let auth = match &settings.key {
        KeySettings::None => Auth::None,
        KeySettings::Md5(file) => Auth::Md5(Secret::read(file)?),
        KeySettings::Ao { file, id, algorithm } => {
            Auth::Ao { key: Secret::read(file)?, id: *id, algorithm: algorithm.clone() }
        }
    };
    Ok(Transport { auth, reach })
}

fn max_routes(settings: MaxRoutesSettings) -> MaxRoutes {
    let beyond = match settings.beyond {
        BeyondSettings::Restart(pause) => Beyond::Restart(pause),
        BeyondSettings::Down => Beyond::Down,
        BeyondSettings::Drop => Beyond::Drop,
    };
    MaxRoutes { limit: settings.limit, warn_at: settings.warn_at, beyond }
}

fn next_hops(settings: &SessionSettings) -> Result<NextHops, AgentError> {
    let mut next_hops = NextHops::default();
    let refuse = |list: &[IpAddr]| AgentError::NextHops {
        session: settings.name.clone(),
        list: list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    for addr in &settings.next_hops {
        let place = match Family::of(*addr) {
            Family::V4 => &mut next_hops.v4,
            Family::V6 => &mut next_hops.v6,
        };
        if place.replace(*addr).is_some() {
            return Err(refuse(&settings.next_hops));
        }
    }
    for (exit, list) in &settings.exit_next_hops {
        for addr in list {
            if next_hops.per_exit.insert((*exit, Family::of(*addr)), *addr).is_some() {
                return Err(refuse(list));
            }
        }
    }
    Ok(next_hops)
}
