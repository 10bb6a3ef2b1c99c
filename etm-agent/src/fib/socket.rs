//! An asynchronous netlink socket: dumps, pipelined requests with one verdict each, notifications.
//! Never spawns a task, and never returns a partial result as a whole one.

use crate::fib::error::FibError;
use crate::fib::wire::{self, Message, Messages, Refusal};
use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use std::fmt;
use std::io;
use std::ops::Range;

/// Multicast groups of rtnetlink.
pub(super) const GROUP_LINK: u32 = 1;
pub(super) const GROUP_NEIGHBOUR: u32 = 3;
pub(super) const GROUP_IPV4_ROUTE: u32 = 7;
pub(super) const GROUP_IPV4_RULE: u32 = 8;
pub(super) const GROUP_IPV6_ROUTE: u32 = 11;
pub(super) const GROUP_IPV6_RULE: u32 = 19;
pub(super) const GROUP_NEXTHOP: u32 = 32;

/// Receive buffer of a socket that follows notifications, in bytes. A full table installed by a routing
/// daemon at 300,000 routes/s queues about 1 kB per route while the reader does something else.
pub(super) const MONITOR_BUFFER: usize = 32 << 20;

/// Receive buffer of a socket that only gets answers to its own requests.
const REQUEST_BUFFER: usize = 4 << 20;

/// Requests per system call. Their refusals must fit the receive buffer even where the kernel grants only
/// its default of 208 kB.
const BATCH: usize = 128;
/// The same as a count of sequence numbers.
const NUMBERS: u32 = 128;

/// One datagram of the kernel is at most this long (32 kB in dumps).
const DATAGRAM: usize = 64 << 10;

/// A netlink socket of this process's network namespace.
pub(super) struct Endpoint {
    socket: TokioSocket,
    sequence: u32,
    port: u32,
    buffer: Vec<u8>,
}

/// One request that is ready to be sent.
pub(super) struct Request<T> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) body: T,
}

impl Endpoint {
    /// A socket for requests.
    pub(super) fn open() -> Result<Endpoint, FibError> {
        Endpoint::with_groups(&[], REQUEST_BUFFER)
    }

    /// A socket that follows `groups`, subscribed when this returns.
    pub(super) fn subscribe(groups: &[u32]) -> Result<Endpoint, FibError> {
        Endpoint::with_groups(groups, MONITOR_BUFFER)
    }

    fn with_groups(groups: &[u32], receive_buffer: usize) -> Result<Endpoint, FibError> {
        let open = |source| FibError::Open { source };
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(open)?;
        let own = socket.socket_mut().bind_auto().map_err(open)?;
        let inner = socket.socket_ref();
        inner.set_netlink_get_strict_chk(true).map_err(open)?;
        inner.set_ext_ack(true).map_err(open)?;
        inner.set_cap_ack(true).map_err(open)?;
        // Beyond rmem_max with CAP_NET_ADMIN; without it, what rmem_max allows: an overrun is handled anyway.
        if setsockopt(inner, sockopt::RcvBufForce, &receive_buffer).is_err() {
            setsockopt(inner, sockopt::RcvBuf, &receive_buffer).map_err(|errno| open(errno.into()))?;
        }
        for group in groups {
            socket.socket_mut().add_membership(*group).map_err(open)?;
        }
        Ok(Endpoint { socket, sequence: 1, port: own.port_number(), buffer: vec![0; DATAGRAM] })
    }

    /// The port by which notifications of this socket's own requests are recognised.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Waits for one datagram. Cancel-safe.
    pub(super) async fn receive(&mut self) -> Result<&[u8], FibError> {
        let mut room = &mut self.buffer[..];
        let read = self.socket.recv(&mut room).await.map(|()| DATAGRAM - room.len());
        let length = checked(read)?;
        Ok(&self.buffer[..length])
    }

    /// One datagram if there is any.
    pub(super) fn try_receive(&mut self) -> Result<Option<&[u8]>, FibError> {
        let read = self.socket.socket_ref().recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT);
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => {
                let length = checked(read)?;
                Ok(Some(&self.buffer[..length]))
            }
        }
    }

    /// Sends a dump request; the caller reads until `NLMSG_DONE` of the sequence number returned.
    pub(super) fn start_dump(&mut self, kind: u16, body: &impl Emitable) -> Result<u32, FibError> {
        let sequence = self.next_sequence();
        let mut out = Vec::with_capacity(64);
        wire::push(&mut out, kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body);
        self.send(&out)?;
        Ok(sequence)
    }

    /// Reads a whole dump. True where the kernel says that a change disturbed it.
    ///
    /// ENOENT is an empty answer: the kernel says so of a table that has never held a route.
    pub(super) async fn dump(
        &mut self,
        what: &'static str,
        kind: u16,
        body: &impl Emitable,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<bool, FibError> {
        let sequence = self.start_dump(kind, body)?;
        let mut disturbed = false;
        loop {
            let datagram = self.receive().await?;
            for message in Messages(datagram).filter(|message| message.sequence == sequence) {
                disturbed |= message.flags & wire::NLM_F_DUMP_INTR != 0;
                match dump_step(what, &message)? {
                    DumpStep::Row => each(&message),
                    DumpStep::Done => return Ok(disturbed),
                }
            }
        }
    }

    /// Sends requests in order and returns what was refused, by its number, in the same order.
    ///
    /// Only the last of each system call asks for an acknowledgement: the kernel works through a datagram in
    /// order and reports each refusal with its sequence number, so silence before that acknowledgement is success.
    ///
    /// `request` is asked for one at a time: 200,000 of them at once would be 60 MB.
    pub(super) async fn transact<T: Emitable>(
        &mut self,
        count: usize,
        request: impl Fn(usize) -> Request<T>,
    ) -> Result<Vec<(usize, Refusal)>, FibError> {
        let mut refused = Vec::new();
        let mut out = Vec::with_capacity(BATCH * 96);
        for begin in (0..count).step_by(BATCH) {
            let end = count.min(begin + BATCH);
            out.clear();
            // A batch never straddles the end of the numbers: verdicts are found by distance from the first.
            if self.sequence > u32::MAX - 2 * NUMBERS {
                self.sequence = 1;
            }
            let first = self.sequence;
            for index in begin..end {
                let request = request(index);
                let last = index + 1 == end;
                let flags = NLM_F_REQUEST | request.flags | if last { NLM_F_ACK } else { 0 };
                let sequence = self.next_sequence();
                wire::push(&mut out, request.kind, flags, sequence, &request.body);
            }
            self.send(&out)?;
            self.collect(first, begin..end, &mut refused).await?;
        }
        Ok(refused)
    }

    /// Returns once changes of interfaces that had begun before are complete.
    ///
    /// The kernel tells that an interface is set down before it drops the routes, under one lock; reading an
    /// interface takes that lock, reading routes does not.
    pub(super) async fn barrier(&mut self) -> Result<(), FibError> {
        const RTM_GETLINK: u16 = 18;
        let mut loopback = [0_u8; 16];
        loopback[4..8].copy_from_slice(&1_i32.to_ne_bytes());
        let request = |_| Request { kind: RTM_GETLINK, flags: 0, body: wire::Raw(&loopback) };
        self.transact(1, request).await.map(|_| ())
    }

    /// Reads until the last of the requests `numbers`, the first of which was sent with `first`, has its answer.
    async fn collect(
        &mut self,
        first: u32,
        numbers: Range<usize>,
        refused: &mut Vec<(usize, Refusal)>,
    ) -> Result<(), FibError> {
        loop {
            // The kernel answers before the request's system call returns, so there is no need to be woken.
            let length = match self.try_receive()? {
                Some(datagram) => datagram.len(),
                None => self.receive().await?.len(),
            };
            let datagram = &self.buffer[..length];
            for message in Messages(datagram).filter(|message| message.kind == wire::NLMSG_ERROR) {
                // An answer to an earlier request that was given up would be outside.
                let Ok(distance) = usize::try_from(message.sequence.wrapping_sub(first)) else { continue };
                if distance >= numbers.len() {
                    continue;
                }
                let verdict = wire::acknowledgement(&message)
                    .ok_or(FibError::Malformed { what: "reading an acknowledgement" })?;
                if let Err(refusal) = verdict {
                    refused.push((numbers.start + distance, refusal));
                }
                if distance + 1 == numbers.len() {
                    return Ok(());
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), FibError> {
        let kernel = SocketAddr::new(0, 0);
        match self.socket.socket_ref().send_to(bytes, &kernel, 0) {
            Ok(_) => Ok(()),
            // netlink_sendmsg (Linux): no buffer could be had, and nothing was taken.
            Err(source) if matches!(source.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM)) => {
                Err(FibError::NoMemory { source })
            }
            Err(source) => Err(FibError::Netlink { source }),
        }
    }

    fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        // 0 marks notifications.
        self.sequence = sequence.checked_add(1).unwrap_or(1);
        sequence
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("port", &self.port).finish_non_exhaustive()
    }
}

/// What one message of a dump is.
pub(super) enum DumpStep {
    Row,
    Done,
}

/// Sorts a message of a dump, turning a refusal into an error.
pub(super) fn dump_step(what: &'static str, message: &Message<'_>) -> Result<DumpStep, FibError> {
    match message.kind {
        wire::NLMSG_DONE => match wire::i32_at(message.payload, 0) {
            Some(errno) if errno < 0 && errno != -libc::ENOENT => Err(FibError::Refused {
                what,
                refusal: Refusal { errno: errno.saturating_neg(), text: None },
            }),
            _ => Ok(DumpStep::Done),
        },
        wire::NLMSG_ERROR => match wire::acknowledgement(message) {
            Some(Err(refusal)) if refusal.errno != libc::ENOENT => Err(FibError::Refused { what, refusal }),
            Some(_) => Ok(DumpStep::Done),
            None => Err(FibError::Malformed { what }),
        },
        _ => Ok(DumpStep::Row),
    }
}

fn checked(read: io::Result<usize>) -> Result<usize, FibError> {
    match read {
        // `recv` was not asked for MSG_TRUNC, so a full buffer is the only sign of a cut datagram.
        Ok(length) if length >= DATAGRAM => Err(FibError::Overrun),
        Ok(length) => Ok(length),
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Err(FibError::Overrun),
        Err(source) => Err(FibError::Netlink { source }),
    }
}
