//! BGP sessions from settings: one future each, not yet spawned.

use super::clock::boottime;
use super::error::AgentError;
use crate::config::{BgpSettings, SessionSettings, Settings};
use crate::core::decision::Decision;
use crate::core::input::Input;
use crate::core::policy::Role;
use crate::peering::{
    InjectConfig, NextHops, OutPolicy, Parting, Ports, SessionConfig, run_inject, run_learn, status_channel,
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

/// Prepares all configured sessions, none without a `bgp` table; refuses settings that no peer could accept.
pub(super) fn of(
    settings: &Settings,
    inputs: &mpsc::Sender<Input>,
    told: &watch::Receiver<Arc<Decision>>,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<Session>, AgentError> {
    match &settings.bgp {
        Some(bgp) => prepare(bgp, settings.policy.community, inputs, told, stop),
        None => Ok(Vec::new()),
    }
}

fn prepare(
    bgp: &BgpSettings,
    community: Community,
    inputs: &mpsc::Sender<Input>,
    told: &watch::Receiver<Arc<Decision>>,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<Session>, AgentError> {
    let mut sessions = Vec::new();
    for (index, settings) in bgp.sessions.iter().enumerate() {
        let peer = PeerId(u16::try_from(index).unwrap_or(u16::MAX));
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
                let inject = InjectConfig::new(out, next_hops(settings)?);
                config.check_inject(&inject)?;
                let decisions = told.clone();
                Box::pin(async move { run_inject(config, inject, decisions, ports).await == Parting::Clean })
            }
        };
        sessions.push(Session { name: settings.name.clone(), role: settings.role, status, future });
    }
    Ok(sessions)
}

/// Refuses what `prepare` would refuse, without a session.
pub(super) fn check(settings: &Settings) -> Result<(), AgentError> {
    let (inputs, _) = mpsc::channel(1);
    let (_, decisions) = watch::channel(Arc::new(Decision::default()));
    let (_, stop) = watch::channel(true);
    of(settings, &inputs, &decisions, &stop).map(drop)
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
