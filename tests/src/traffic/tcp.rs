//! TCP connections at a steady rate each, so that the kernel makes super-packets of them: what UDP from the paced source
//! is not. *Never*: says which way the bytes took.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};

use crate::error::LabError;
use crate::netns::Namespace;

/// TCP port of the receiving ends.
const PORT: u16 = 7180;
/// Between two writes of a connection: at 40 Mbit/s they are of 100 kB, more than the largest super-packet.
const PACE: Duration = Duration::from_millis(20);
/// Longest wait of a write for the other end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections that send. Dropping them ends them.
pub struct TcpLoad {
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<u64>>,
    receivers: Vec<JoinHandle<u64>>,
}

impl TcpLoad {
    /// One connection from `source` to each destination, which `sink` answers for, at `bits_per_s` each; 0 is as fast as
    /// it goes.
    ///
    /// # Errors
    /// A namespace cannot be entered, or a connection cannot be made.
    pub fn start(
        source: &Namespace,
        sink: &Namespace,
        destinations: &[IpAddr],
        bits_per_s: u64,
    ) -> Result<TcpLoad, LabError> {
        Self::start_from(source, [None, None], sink, destinations, bits_per_s)
    }

    /// The same, from these addresses of `source`, IPv4 and IPv6.
    ///
    /// # Errors
    /// See [`Self::start`].
    pub fn start_from(
        source: &Namespace,
        from: [Option<IpAddr>; 2],
        sink: &Namespace,
        destinations: &[IpAddr],
        bits_per_s: u64,
    ) -> Result<TcpLoad, LabError> {
        let listener = sink.inside(|| {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).map_err(LabError::io("listen for TCP"))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut load = TcpLoad { stop, senders: Vec::new(), receivers: Vec::new() };
        let chunk = usize::try_from(bits_per_s / 8 * 20 / 1000).unwrap_or_default();
        let (chunk, pace) = if chunk == 0 { (1 << 20, Duration::ZERO) } else { (chunk, PACE) };
        for &destination in destinations {
            let from = from[usize::from(destination.is_ipv6())];
            let stream = source.inside(|| {
                connect(from, destination).map_err(LabError::io(format!("connect to {destination}")))
            })?;
            stream.set_write_timeout(Some(PATIENCE)).map_err(LabError::io("limit a write"))?;
            let (accepted, _) = listener.accept().map_err(LabError::io("accept a connection"))?;
            let stop = Arc::clone(&load.stop);
            load.senders.push(std::thread::spawn(move || send(stream, chunk, pace, &stop)));
            load.receivers.push(std::thread::spawn(move || receive(accepted)));
        }
        Ok(load)
    }

    /// Ends all connections; returns payload bytes sent, and received.
    pub fn stop(&mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let sum = |threads: &mut Vec<JoinHandle<u64>>| {
            threads.drain(..).map(|thread| thread.join().unwrap_or_default()).sum()
        };
        (sum(&mut self.senders), sum(&mut self.receivers))
    }
}

impl Drop for TcpLoad {
    fn drop(&mut self) {
        self.stop();
    }
}

fn connect(from: Option<IpAddr>, to: IpAddr) -> std::io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect((to, PORT)) };
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let address = |ip: IpAddr, port| SockaddrStorage::from(std::net::SocketAddr::new(ip, port));
    socket::bind(socket.as_raw_fd(), &address(from, 0))?;
    socket::connect(socket.as_raw_fd(), &address(to, PORT))?;
    Ok(socket.into())
}

fn send(mut stream: TcpStream, chunk: usize, pace: Duration, stop: &AtomicBool) -> u64 {
    let (data, mut sent) = (vec![0; chunk], 0);
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&data) {
            Ok(bytes) => sent += u64::try_from(bytes).unwrap_or_default(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        due = (due + pace).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    // Fails only where the other end is gone.
    let _ = stream.shutdown(Shutdown::Write);
    sent
}

fn receive(mut stream: TcpStream) -> u64 {
    let (mut room, mut received) = (vec![0; 1 << 16], 0);
    while let Ok(bytes) = stream.read(&mut room)
        && bytes > 0
    {
        received += u64::try_from(bytes).unwrap_or_default();
    }
    received
}
