//! BGP sessions from settings: one future each, not yet spawned. The agent runs those with role learn, its guardian
//! those with role inject; what is shown of them is the same.

use super::clock::boottime;
use super::error::AgentError;
use crate::config::{
    BeyondSettings, BgpSettings, KernelMode, KeySettings, MaxRoutesSettings, ReachSettings, SessionSettings,
    Settings, TransportSettings,
};
use crate::core::decision::Decision;
use crate::core::input::Input;
use crate::core::policy::Role;
use crate::peering::{
    Auth, Beyond, Connect, Doors, Import, InjectConfig, Listener, MaxRoutes, NextHops, OutPolicy, Parting,
    Ports, Reach, Secret, SessionConfig, Transport, run_inject_with, run_learn_with, status_channel,
};
use crate::types::bgp::{PeerStatus, SessionOrder};
use crate::types::{Community, Family, PeerId};
use futures::future::BoxFuture;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Orders that wait for a session: a person gives them.
const ORDERS: usize = 4;

/// A session that can be spawned.
pub(super) struct Session {
    pub(super) peer: PeerId,
    pub(super) name: String,
    pub(super) status: watch::Receiver<PeerStatus>,
    /// What operators want of it.
    pub(super) orders: mpsc::Sender<SessionOrder>,
    /// Runs until told to stop; true where the peer confirmed that nothing of ETM is left with it.
    pub(super) future: BoxFuture<'static, bool>,
}

/// A session as others see it: name, role, status.
pub(super) type Shown = (String, Role, watch::Receiver<PeerStatus>);

/// What `of` prepares.
#[derive(Default)]
pub(super) struct Prepared {
    /// In order of `PeerId`.
    pub(super) sessions: Vec<Session>,
    /// One for each local address that peers connect to.
    pub(super) listeners: Vec<BoxFuture<'static, ()>>,
}

/// Prepares the configured sessions of one role; refuses settings that no peer could accept.
pub(super) fn of(
    settings: &Settings,
    role: Role,
    inputs: &mpsc::Sender<Input>,
    told: &watch::Receiver<Arc<Decision>>,
    stop: &watch::Receiver<bool>,
) -> Result<Prepared, AgentError> {
    match &settings.bgp {
        Some(bgp) => prepare(bgp, role, settings.policy.community, inputs, told, stop),
        None => Ok(Prepared::default()),
    }
}

/// Those that the agent runs itself.
pub(super) fn learning(
    settings: &Settings,
    inputs: &mpsc::Sender<Input>,
    stop: &watch::Receiver<bool>,
) -> Result<Prepared, AgentError> {
    let (_, nothing_to_tell) = watch::channel(Arc::new(Decision::default()));
    of(settings, Role::Learn, inputs, &nothing_to_tell, stop)
}

/// Number and name of the configured sessions of one role.
pub(super) fn named(settings: &Settings, role: Role) -> Vec<(PeerId, String)> {
    let sessions = settings.bgp.iter().flat_map(|bgp| bgp.sessions.iter().enumerate());
    sessions
        .filter(|(_, session)| session.role == role)
        .map(|(index, session)| (peer_id(index), session.name.clone()))
        .collect()
}

/// True where a session with role inject waits for its peer on a port that needs a privilege.
pub(super) fn guardian_listens_low(settings: &Settings) -> bool {
    settings.bgp.as_ref().is_some_and(|bgp| {
        let mut inject = bgp.sessions.iter().filter(|session| session.role == Role::Inject);
        bgp.listen_port < 1024 && inject.any(|session| session.transport.listens)
    })
}

/// True where a session with role learn, or the BMP station, waits for others on a port that needs a privilege.
pub(super) fn agent_listens_low(settings: &Settings) -> bool {
    let bgp = settings.bgp.as_ref().is_some_and(|bgp| {
        let mut learn = bgp.sessions.iter().filter(|session| session.role == Role::Learn);
        bgp.listen_port < 1024 && learn.any(|session| session.transport.listens)
    });
    bgp || settings.bmp.as_ref().is_some_and(|bmp| bmp.listen.iter().any(|listen| listen.port() < 1024))
}

/// What a guardian and its agent must have read alike: everything that shapes a session with role inject.
pub(super) fn digest(settings: &Settings) -> u64 {
    let mut digest = DefaultHasher::new();
    settings.policy.community.hash(&mut digest);
    if settings.kernel.mode == KernelMode::Main {
        ("main", settings.kernel.protocol).hash(&mut digest);
    }
    if let Some(bgp) = &settings.bgp {
        format!("{:?} {} {:?} {}", bgp.asn, bgp.local_pref, bgp.hold_time, bgp.listen_port).hash(&mut digest);
        for (index, session) in bgp.sessions.iter().enumerate().filter(|(_, s)| s.role == Role::Inject) {
            format!("{index} {session:?}").hash(&mut digest);
        }
    }
    digest.finish()
}

fn peer_id(index: usize) -> PeerId {
    PeerId(u16::try_from(index).unwrap_or(u16::MAX))
}

fn prepare(
    bgp: &BgpSettings,
    role: Role,
    community: Community,
    inputs: &mpsc::Sender<Input>,
    told: &watch::Receiver<Arc<Decision>>,
    stop: &watch::Receiver<bool>,
) -> Result<Prepared, AgentError> {
    let mut configs = Vec::new();
    let mine = || bgp.sessions.iter().enumerate().filter(|(_, session)| session.role == role);
    for (index, settings) in mine() {
        let mut config = session_config(peer_id(index), settings, bgp)?;
        // No candidate, and seen all the same: the decision knows it by the community.
        config.import.own = Some(community);
        configs.push(config);
    }
    let (listeners, mut arrivals) = Listener::of(&configs, bgp.listen_port);
    let listening = listeners
        .into_iter()
        .map(|listener| -> BoxFuture<'static, ()> { Box::pin(listener.run(stop.clone())) });
    let mut prepared = Prepared { sessions: Vec::new(), listeners: listening.collect() };
    for (place, (config, (index, settings))) in configs.into_iter().zip(mine()).enumerate() {
        let peer = peer_id(index);
        let (writer, status) = status_channel(&config, boottime());
        let ports = Ports { inputs: inputs.clone(), status: writer, stop: stop.clone(), clock: boottime };
        let (orders, ordered) = mpsc::channel(ORDERS);
        let doors = Doors { arrivals: arrivals.remove(&place), orders: Some(ordered) };
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
        prepared.sessions.push(Session { peer, name: settings.name.clone(), status, orders, future });
    }
    Ok(prepared)
}

/// Refuses what `prepare` would refuse, without a session.
pub(super) fn check(settings: &Settings) -> Result<(), AgentError> {
    unstarted(settings, Role::Learn)?;
    unstarted(settings, Role::Inject).map(drop)
}

/// Sessions of one role that are never run: what they look like, and whether they could be.
pub(super) fn unstarted(settings: &Settings, role: Role) -> Result<Vec<Session>, AgentError> {
    let (inputs, _) = mpsc::channel(1);
    let (_, decisions) = watch::channel(Arc::new(Decision::default()));
    let (_, stop) = watch::channel(true);
    of(settings, role, &inputs, &decisions, &stop).map(|prepared| prepared.sessions)
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
        own: None,
    };
    config.add_path = settings.import.add_path;
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
    let elsewhere = settings.elsewhere.iter().copied().collect();
    let mut next_hops = NextHops { elsewhere, ..NextHops::default() };
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
