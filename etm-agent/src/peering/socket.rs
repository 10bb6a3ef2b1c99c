//! The TCP side of a session: opening it, and asking the kernel what it has acknowledged.
//! Every socket option a session needs belongs here; nothing of BGP does.
#![allow(unsafe_code)] // One ioctl that tokio and std do not offer.

use super::config::SessionConfig;
use crate::proto::bgp::SessionFault;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Connects from the configured local address.
pub(super) async fn connect(config: &SessionConfig) -> Result<TcpStream, SessionFault> {
    let remote = config.remote_socket();
    let unreachable = |error: io::Error| SessionFault::Unreachable { remote, error: error.to_string() };
    let socket = match remote.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }
    .map_err(unreachable)?;
    if let Some(local) = config.local {
        let bound = socket.bind(SocketAddr::new(local, 0));
        bound.map_err(|error| SessionFault::LocalAddress { local, error: error.to_string() })?;
    }
    let waited = config.connect_timeout;
    let stream = match timeout(waited, socket.connect(remote)).await {
        Err(_) => return Err(SessionFault::Timeout { remote, waited }),
        Ok(Err(error)) => {
            return Err(match error.kind() {
                io::ErrorKind::ConnectionRefused => SessionFault::Refused { remote },
                io::ErrorKind::TimedOut => SessionFault::Timeout { remote, waited },
                _ => unreachable(error),
            });
        }
        Ok(Ok(stream)) => stream,
    };
    // An override must not wait for the acknowledgement of the keepalive before it.
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

/// Bytes that the peer's TCP has not acknowledged yet (SIOCOUTQ, tcp(7)).
pub(super) fn unacknowledged(stream: &TcpStream) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for the life of `stream`; SIOCOUTQ (TIOCOUTQ) writes one int through the
    // pointer, which is valid for that, and keeps nothing.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    u64::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}
