//! The BMP station from settings: one future per router and listening address, not yet spawned.

use super::clock::boottime;
use super::error::AgentError;
use crate::bmp::{
    Part, PeerKey, Ports, Reach, RouterConfig, SourceConfig, View, Watch, station, status_channel,
};
use crate::config::{BmpPeerSettings, BmpRouterSettings, Settings};
use crate::core::input::Input;
use crate::types::bmp::RouterStatus;
use std::net::SocketAddr;
use tokio::sync::{mpsc, watch};

/// The station that can be spawned, and what it shows; empty without a `bmp` table.
#[derive(Default)]
pub(super) struct Monitors {
    pub(super) parts: Vec<Part>,
    pub(super) statuses: Vec<watch::Receiver<RouterStatus>>,
}

/// Binds and prepares the station.
pub(super) fn of(
    settings: &Settings,
    inputs: &mpsc::Sender<Input>,
    stop: &watch::Receiver<bool>,
) -> Result<Monitors, AgentError> {
    let Some(bmp) = &settings.bmp else { return Ok(Monitors::default()) };
    let (mut statuses, mut routers) = (Vec::new(), Vec::new());
    for router in &bmp.routers {
        let config = router_config(router, settings);
        let (status, shown) = status_channel(&config, boottime());
        statuses.push(shown);
        let ports = Ports { inputs: inputs.clone(), status, stop: stop.clone(), clock: boottime };
        routers.push((config, ports));
    }
    Ok(Monitors { parts: station(&bmp.listen, routers, stop)?, statuses })
}

fn router_config(router: &BmpRouterSettings, settings: &Settings) -> RouterConfig {
    RouterConfig {
        name: router.name.clone(),
        address: router.address,
        reach: match router.connect {
            Some(port) => Reach::Connect(SocketAddr::new(router.address, port)),
            None => Reach::Listen,
        },
        view: if router.post_policy { View::PostPolicy } else { View::PrePolicy },
        path_ids: router.path_ids,
        quiet: router.complete_after,
        sources: router.peers.iter().map(|peer| source_config(peer, settings)).collect(),
        watch: router.session.clone().map(|(peer, session)| Watch {
            peer,
            session,
            community: settings.policy.community,
        }),
    }
}

/// A provider's routes are used through its own exits only.
fn source_config(peer: &BmpPeerSettings, settings: &Settings) -> SourceConfig {
    let policy = &settings.policy;
    let exits = policy.exits.iter().filter(|exit| exit.provider == peer.provider);
    SourceConfig {
        peer: peer.peer,
        name: peer.name.clone(),
        key: PeerKey { address: peer.address, distinguisher: peer.distinguisher },
        provider: policy.providers.get(peer.provider.index()).map_or_else(String::new, |p| p.name.clone()),
        next_hops: exits.flat_map(|exit| exit.gateways.iter().copied()).collect(),
        own: policy.community,
    }
}
