//! BGP sessions from settings: one future each, not yet spawned. The agent runs those with role learn, its guardian
//! those with role inject; what is shown of them is the same.

use super::clock::boottime;
use super::error::AgentError;
use crate::config::{BgpSettings, SessionSettings, Settings};
use crate::core::decision::Decision;
use crate::core::input::Input;
use crate::core::policy::Role;
use crate::peering::{
    InjectConfig, NextHops, OutPolicy, Parting, PeerStatus, Ports, SessionConfig, run_inject, run_learn,
    status_channel,
};
use crate::types::{Community, Family, PeerId};
use futures::future::BoxFuture;
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// A session that can be spawned.
pub(super) struct Session {
    pub(super) peer: PeerId,
    pub(super) name: String,
    pub(super) status: watch::Receiver<PeerStatus>,
    /// Runs until told to stop; true where the peer confirmed that nothing of ETM is left with it.
    pub(super) future: BoxFuture<'static, bool>,
}

/// A session as the supervisor sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// How often it was established.
    pub(super) established: u64,
    /// Why it is not up, and whether only a change of configuration helps.
    pub(super) fault: Option<(String, bool)>,
    /// All that is known of it.
    pub(super) json: Value,
}

/// Where a session's status comes from.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// A session of this process.
    Own(watch::Receiver<PeerStatus>),
    /// A session of the guardian.
    Guarded(watch::Receiver<Standing>),
}

impl Shown {
    /// Now.
    pub(super) fn standing(&self) -> Standing {
        match self {
            Shown::Own(status) => {
                let status = status.borrow();
                let fault = status.last_fault.as_ref().map(|fault| (fault.text.clone(), fault.permanent));
                Standing { established: status.established, fault, json: json(&status) }
            }
            Shown::Guarded(standing) => standing.borrow().clone(),
        }
    }
}

/// A status as the control API shows it.
pub(super) fn json(status: &PeerStatus) -> Value {
    serde_json::to_value(status).unwrap_or(Value::Null)
}

/// Prepares the configured sessions of one role; refuses settings that no peer could accept.
pub(super) fn of(
    settings: &Settings,
    role: Role,
    inputs: &mpsc::Sender<Input>,
    told: &watch::Receiver<Arc<Decision>>,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<Session>, AgentError> {
    match &settings.bgp {
        Some(bgp) => prepare(bgp, role, settings.policy.community, inputs, told, stop),
        None => Ok(Vec::new()),
    }
}

/// Those that the agent runs itself.
pub(super) fn learning(
    settings: &Settings,
    inputs: &mpsc::Sender<Input>,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<Session>, AgentError> {
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

/// What a guardian and its agent must have read alike: everything that shapes a session with role inject.
pub(super) fn digest(settings: &Settings) -> u64 {
    let mut digest = DefaultHasher::new();
    settings.policy.community.hash(&mut digest);
    if let Some(bgp) = &settings.bgp {
        format!("{:?} {} {:?}", bgp.asn, bgp.local_pref, bgp.hold_time).hash(&mut digest);
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
) -> Result<Vec<Session>, AgentError> {
    let mut sessions = Vec::new();
    for (index, settings) in bgp.sessions.iter().enumerate().filter(|(_, session)| session.role == role) {
        let peer = peer_id(index);
        let config = session_config(peer, settings, bgp);
        let (writer, status) = status_channel(&config, boottime());
        let ports = Ports { inputs: inputs.clone(), status: writer, stop: stop.clone(), clock: boottime };
        let future: BoxFuture<'static, bool> = match settings.role {
            Role::Learn => {
                config.check()?;
                Box::pin(async move {
                    run_learn(config, ports).await;
                    true
                })
            }
            Role::Inject => {
                let out = OutPolicy { local_pref: bgp.local_pref, community };
                let inject = InjectConfig { out, next_hops: next_hops(settings)? };
                config.check_inject(&inject)?;
                let decisions = told.clone();
                Box::pin(async move { run_inject(config, inject, decisions, ports).await == Parting::Clean })
            }
        };
        sessions.push(Session { peer, name: settings.name.clone(), status, future });
    }
    Ok(sessions)
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
    of(settings, role, &inputs, &decisions, &stop)
}

fn session_config(peer: PeerId, settings: &SessionSettings, bgp: &BgpSettings) -> SessionConfig {
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
    config
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
