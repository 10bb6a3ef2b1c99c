//! The TCP side of a session: connecting, listening, protecting, and asking the kernel what it has acknowledged.
//! Every socket option a session needs belongs here; nothing of BGP does.
#![allow(unsafe_code)] // Socket options and one ioctl that tokio and std do not offer.

use super::config::SessionConfig;
use super::transport::{Auth, Reach, Secret};
use crate::proto::bgp::SessionFault;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// setsockopt numbers of linux/tcp.h and linux/in6.h that libc does not carry everywhere.
const TCP_AO_ADD_KEY: libc::c_int = 38;
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// Peers whose connections wait to be accepted.
const BACKLOG: u32 = 16;

/// Connects from the configured local address.
pub(super) async fn connect(config: &SessionConfig) -> Result<TcpStream, SessionFault> {
    let remote = scoped(config.remote, config.port, config)?;
    let unreachable = |error: io::Error| SessionFault::Unreachable { remote, error: error.to_string() };
    let socket = new_socket(remote.ip()).map_err(unreachable)?;
    if let Some(local) = config.local {
        let bound = scoped(local, 0, config).map(|local| socket.bind(local))?;
        bound.map_err(|error| SessionFault::LocalAddress { local, error: error.to_string() })?;
    }
    keys(socket.as_fd(), config)?;
    reach(socket.as_fd(), config)?;
    let waited = config.connect_timeout;
    let timed_out = SessionFault::Timeout { remote, waited, protection: config.transport.kind() };
    let stream = match timeout(waited, socket.connect(remote)).await {
        Err(_) => return Err(timed_out),
        Ok(Err(error)) => {
            return Err(match error.kind() {
                io::ErrorKind::ConnectionRefused => SessionFault::Refused { remote },
                io::ErrorKind::TimedOut => timed_out,
                _ => unreachable(error),
            });
        }
        Ok(Ok(stream)) => stream,
    };
    // An override must not wait for the acknowledgement of the keepalive before it.
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

/// Listens on `local` for the peers of `sessions`, with their keys in place before the first SYN can come.
pub(super) fn listen(local: SocketAddr, sessions: &[&SessionConfig]) -> Result<TcpListener, SessionFault> {
    let failed = |error: io::Error| SessionFault::Listen { local, error: error.to_string() };
    let socket = new_socket(local.ip()).map_err(failed)?;
    socket.set_reuseaddr(true).map_err(failed)?;
    if local.is_ipv6() {
        set(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32).map_err(failed)?;
    }
    let local = match sessions.first() {
        Some(session) => scoped(local.ip(), local.port(), session)?,
        None => local,
    };
    socket.bind(local).map_err(failed)?;
    for session in sessions {
        keys(socket.as_fd(), session)?;
    }
    // Our half of the handshake must pass the check of a peer that uses GTSM; others do not look.
    ttl(socket.as_fd(), local.ip(), 255).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)
}

/// What an accepted connection still needs.
pub(super) fn adopt(stream: &TcpStream, config: &SessionConfig) -> Result<(), SessionFault> {
    reach(stream.as_fd(), config)?;
    let broken = |error: io::Error| SessionFault::Broken { error: error.to_string() };
    stream.set_nodelay(true).map_err(broken)
}

fn new_socket(addr: IpAddr) -> io::Result<TcpSocket> {
    match addr {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// The address with the interface it is valid on, which may have another number than the last time.
fn scoped(addr: IpAddr, port: u16, config: &SessionConfig) -> Result<SocketAddr, SessionFault> {
    let (IpAddr::V6(v6), Some(interface)) = (addr, &config.interface) else {
        return Ok(SocketAddr::new(addr, port));
    };
    let index = nix::net::if_::if_nametoindex(interface.as_str());
    let missing = |_| SessionFault::NoInterface { interface: interface.clone(), remote: config.remote };
    Ok(SocketAddr::V6(SocketAddrV6::new(v6, port, 0, index.map_err(missing)?)))
}

/// TTL as configured.
fn reach(socket: BorrowedFd<'_>, config: &SessionConfig) -> Result<(), SessionFault> {
    let (sent, least) = match config.transport.reach {
        Reach::Usual if config.local_as == config.peer_as => return Ok(()),
        Reach::Usual => (1, None),
        Reach::Multihop(hops) => (hops, None),
        Reach::Gtsm(hops) => (255, Some(256 - i32::from(hops.max(1)))),
    };
    let failed = |option, error: io::Error| SessionFault::SocketOption {
        option,
        remote: config.remote,
        error: error.to_string(),
        advice: "this kernel cannot check distances; take multihop instead of gtsm",
    };
    ttl(socket, config.remote, sent).map_err(|error| failed("the TTL", error))?;
    let Some(least) = least else { return Ok(()) };
    let set = match config.remote {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &least),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &least),
    };
    set.map_err(|error| failed("the least TTL (GTSM)", error))
}

fn ttl(socket: BorrowedFd<'_>, family: IpAddr, hops: u8) -> io::Result<()> {
    let hops = libc::c_int::from(hops);
    match family {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_TTL, &hops),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &hops),
    }
}

/// Keys as configured, for the peer's address.
fn keys(socket: BorrowedFd<'_>, config: &SessionConfig) -> Result<(), SessionFault> {
    let refused = |option, error: io::Error| {
        let missing = error.raw_os_error() == Some(libc::ENOPROTOOPT);
        SessionFault::SocketOption {
            option,
            remote: config.remote,
            error: error.to_string(),
            advice: match (option, missing) {
                ("TCP-AO", true) => {
                    "this kernel has no TCP-AO (CONFIG_TCP_AO, Linux 6.7); take tcp-md5 or another kernel"
                }
                (_, true) => "this kernel has no TCP-MD5 (CONFIG_TCP_MD5SIG)",
                (_, false) => "check the key and, for TCP-AO, the algorithm",
            },
        }
    };
    match &config.transport.auth {
        Auth::None => Ok(()),
        Auth::Md5(key) => {
            let value = Md5Key::new(config.remote, key);
            set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &value)
                .map_err(|error| refused("TCP-MD5", error))
        }
        Auth::Ao { key, id, algorithm } => {
            let value = AoKey::new(config.remote, key, *id, algorithm);
            set(socket, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, &value).map_err(|error| refused("TCP-AO", error))
        }
    }
}

/// struct tcp_md5sig (linux/tcp.h).
#[repr(C)]
struct Md5Key {
    addr: libc::sockaddr_storage,
    flags: u8,
    prefixlen: u8,
    keylen: u16,
    ifindex: i32,
    key: [u8; 80],
}

impl Md5Key {
    fn new(peer: IpAddr, secret: &Secret) -> Md5Key {
        let (key, keylen) = padded(secret.bytes());
        Md5Key { addr: storage(peer), flags: 0, prefixlen: 0, keylen: u16::from(keylen), ifindex: 0, key }
    }
}

/// struct tcp_ao_add (linux/tcp.h).
#[repr(C, align(8))]
struct AoKey {
    addr: libc::sockaddr_storage,
    alg_name: [u8; 64],
    ifindex: i32,
    flags: u32,
    reserved: u16,
    prefix: u8,
    sndid: u8,
    rcvid: u8,
    maclen: u8,
    keyflags: u8,
    keylen: u8,
    key: [u8; 80],
}

impl AoKey {
    fn new(peer: IpAddr, secret: &Secret, id: u8, algorithm: &str) -> AoKey {
        let (key, keylen) = padded(secret.bytes());
        let mut alg_name = [0; 64];
        // The last byte stays the end of the string.
        alg_name[..63].iter_mut().zip(algorithm.bytes()).for_each(|(to, from)| *to = from);
        let prefix = if peer.is_ipv4() { 32 } else { 128 };
        AoKey {
            addr: storage(peer),
            alg_name,
            ifindex: 0,
            flags: 0,
            reserved: 0,
            prefix,
            sndid: id,
            rcvid: id,
            // The kernel's default for the algorithm.
            maclen: 0,
            keyflags: 0,
            keylen,
            key,
        }
    }
}

fn padded(key: &[u8]) -> ([u8; 80], u8) {
    let mut bytes = [0; 80];
    bytes.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    (bytes, u8::try_from(key.len().min(80)).unwrap_or(80))
}

/// The peer's address, port 0: any.
fn storage(addr: IpAddr) -> libc::sockaddr_storage {
    // SAFETY: all zeros is a valid sockaddr_storage: it is plain data.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let at: *mut libc::sockaddr_storage = &raw mut storage;
    match addr {
        IpAddr::V4(v4) => {
            let value = libc::sockaddr_in {
                sin_family: family_number(libc::AF_INET),
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is at least as large and as aligned as every sockaddr (POSIX).
            unsafe { at.cast::<libc::sockaddr_in>().write(value) };
        }
        IpAddr::V6(v6) => {
            let value = libc::sockaddr_in6 {
                sin6_family: family_number(libc::AF_INET6),
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { at.cast::<libc::sockaddr_in6>().write(value) };
        }
    }
    storage
}

fn family_number(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or_default()
}

/// setsockopt(2) with a plain value.
fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the life of `socket`; the kernel reads `length` bytes at the pointer, which is
    // what T occupies, and keeps none of them.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!(size_of::<Md5Key>(), 216);
        assert_eq!(std::mem::offset_of!(Md5Key, key), 136);
        assert_eq!(size_of::<AoKey>(), 288);
        assert_eq!(std::mem::offset_of!(AoKey, prefix), 202);
        assert_eq!(std::mem::offset_of!(AoKey, key), 208);
    }
}
