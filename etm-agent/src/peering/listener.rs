//! One listening socket per configured local address; connections go to the session of their peer.
//! Never answers a stranger, never listens on an address that is not configured.

use super::config::SessionConfig;
use super::ports::Arrival;
use super::socket;
use crate::proto::bgp::SessionFault;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

/// Connections of one peer that wait for its session: more are closed.
const WAITING: usize = 2;
/// Pause before an address that cannot be listened on is tried again: it may come with an interface.
const RETRY: Duration = Duration::from_secs(2);
/// Strangers are logged at most so often.
const STRANGERS: Duration = Duration::from_secs(60);

/// The peers that may connect to one local address.
#[derive(Debug)]
pub struct Listener {
    local: SocketAddr,
    peers: Vec<(SessionConfig, mpsc::Sender<Arrival>)>,
}

impl Listener {
    /// One listener for each local address of the sessions that wait for their peers, on `port`; and for each session
    /// the end at which its connections arrive, by its place in `configs`.
    pub fn of(
        configs: &[SessionConfig],
        port: u16,
    ) -> (Vec<Listener>, BTreeMap<usize, mpsc::Receiver<Arrival>>) {
        let mut listeners: BTreeMap<(IpAddr, Option<String>), Listener> = BTreeMap::new();
        let mut arrivals = BTreeMap::new();
        for (index, config) in configs.iter().enumerate() {
            let Some(local) = config.local.filter(|_| config.connect.listens()) else { continue };
            let (sender, receiver) = mpsc::channel(WAITING);
            let place = (local, config.interface.clone().filter(|_| is_link_local(local)));
            let empty = || Listener { local: SocketAddr::new(local, port), peers: Vec::new() };
            listeners.entry(place).or_insert_with(empty).peers.push((config.clone(), sender));
            arrivals.insert(index, receiver);
        }
        (listeners.into_values().collect(), arrivals)
    }

    /// Listens until `stop`.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&self) {
        let mut known = None;
        loop {
            let configs: Vec<&SessionConfig> = self.peers.iter().map(|(config, _)| config).collect();
            match socket::listen(self.local, &configs) {
                Ok(listener) => {
                    known = None;
                    tracing::info!(local = %self.local, peers = configs.len(), "listening for BGP");
                    self.accept(&listener).await;
                }
                Err(fault) => self.complain(&fault, &mut known).await,
            }
            sleep(RETRY).await;
        }
    }

    /// Sessions are told once of a fault that lasts.
    async fn complain(&self, fault: &SessionFault, known: &mut Option<SessionFault>) {
        if known.as_ref() != Some(fault) {
            for (_, sender) in &self.peers {
                drop(sender.send(Arrival::Fault(fault.clone())).await);
            }
            *known = Some(fault.clone());
        }
    }

    /// Until the socket breaks, which takes a kernel out of memory.
    async fn accept(&self, listener: &TcpListener) {
        let mut quiet_until = Instant::now();
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    if !self.hand_over(stream, from) && Instant::now() >= quiet_until {
                        quiet_until = Instant::now() + STRANGERS;
                        tracing::warn!(local = %self.local, %from, "a stranger connected and was turned away");
                    }
                }
                Err(error) => {
                    tracing::warn!(local = %self.local, %error, "accepting a BGP connection");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// False where it is nobody we know.
    fn hand_over(&self, stream: TcpStream, from: SocketAddr) -> bool {
        let mut peers = self.peers.iter();
        let Some((config, sender)) = peers.find(|(config, _)| config.remote == from.ip()) else {
            return false;
        };
        if let Err(fault) = socket::adopt(&stream, config) {
            tracing::warn!(peer = %config.name, "taking a connection: {fault}");
            return true;
        }
        // A session that is busy with two connections of its peer does not need a third.
        drop(sender.try_send(Arrival::Stream(stream)));
        true
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
