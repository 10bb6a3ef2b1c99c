//! The listening side: connections of configured routers go to their parts, all others are closed at once.
//! Never reads a byte of them.

use super::config::{Reach, RouterConfig};
use super::fault::BmpError;
use super::router::Router;
use crate::core::input::Input;
use crate::types::Timestamp;
use crate::types::bmp::{MonitorState, RouterStatus};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// Pause after the system refused to accept: descriptors are used up, and a loop would use up the processor too.
const REFUSED: Duration = Duration::from_secs(1);

/// How the part of a router reaches the rest of the agent.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Sessions, routes and effects go here; when it is full the router waits.
    pub inputs: mpsc::Sender<Input>,
    /// The state shown to operators.
    pub status: watch::Sender<RouterStatus>,
    /// True, or without a sender: stop.
    pub stop: watch::Receiver<bool>,
    /// Boot-time clock.
    pub clock: fn() -> Timestamp,
}

/// A future of the station that the caller runs.
pub type Part = BoxFuture<'static, ()>;

/// The status of a router that was not heard yet.
pub fn status_channel(
    config: &RouterConfig,
    now: Timestamp,
) -> (watch::Sender<RouterStatus>, watch::Receiver<RouterStatus>) {
    watch::channel(RouterStatus {
        name: config.name.clone(),
        address: config.address,
        view: config.view.rib().as_str().to_owned(),
        state: MonitorState::Waiting,
        since: now,
        remote: None,
        connections: 0,
        sys_name: String::new(),
        sys_descr: String::new(),
        bytes_in: 0,
        messages: Default::default(),
        sources: Vec::new(),
        unnamed: Vec::new(),
        loc_rib: None,
        last_fault: None,
    })
}

/// Binds `listen` and prepares the parts: one per router and one that accepts. Must be called inside a tokio runtime.
pub fn station(
    listen: &[SocketAddr],
    routers: Vec<(RouterConfig, Ports)>,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<Part>, BmpError> {
    let mut doors = BTreeMap::new();
    let mut parts: Vec<Part> = Vec::new();
    for (config, ports) in routers {
        // One may wait while the one before it is being read; a third is closed.
        let (door, incoming) = mpsc::channel(1);
        if config.reach == Reach::Listen {
            doors.insert(config.address, door);
        }
        parts.push(Box::pin(Router::new(config, incoming, ports).run()));
    }
    for address in listen {
        let listener = bind(*address).map_err(|source| BmpError::Listen { address: *address, source })?;
        parts.push(Box::pin(accept(listener, doors.clone(), stop.clone())));
    }
    Ok(parts)
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    // The standard library's listener sets SO_REUSEADDR: a restarted agent need not wait.
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(
    listener: TcpListener,
    doors: BTreeMap<IpAddr, mpsc::Sender<TcpStream>>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                // A dual-stack listener shows IPv4 routers by mapped addresses.
                let address = remote.ip().to_canonical();
                match doors.get(&address) {
                    Some(door) if door.try_send(stream).is_ok() => {}
                    Some(_) => tracing::warn!(%remote, "a third BMP connection of one router, closed"),
                    None => {
                        tracing::warn!(%remote, "BMP connection of a router that bmp.router does not name, closed")
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "accepting BMP connections");
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}
