//! A TCP connection with its state machine, its timers and its two buffers, from the first OPEN to the last word.
//! Never decides what a message means for routes, never reconnects.

use super::config::SessionConfig;
use super::socket;
use crate::proto::bgp::{Frame, FrameReader, Machine, Malformed, Step};
use crate::types::bgp::{Initiator, Messages};
use bytes::{Buf, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// Bytes taken from the socket at once: some thousand routes, half a millisecond of work.
pub(super) const READ: usize = 64 * 1024;
/// Longest wait for a peer to take our last words.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    pub(super) machine: Machine,
    pub(super) initiator: Initiator,
    pub(super) local: SocketAddr,
    pub(super) inbox: BytesMut,
    pub(super) outbox: BytesMut,
    frames: FrameReader,
    /// Bytes ever put into `outbox`, and ever taken from it by the kernel.
    pub(super) queued: u64,
    pub(super) written: u64,
    pub(super) hold: Option<Instant>,
    pub(super) keepalive: Option<Instant>,
    /// When unwritten bytes mean that the peer hangs (RFC 9687).
    pub(super) stuck: Option<Instant>,
    send_hold: Duration,
    /// Not yet shown.
    pub(super) received: Messages,
    pub(super) sent: Messages,
    pub(super) bytes_in: u64,
}

impl Wire {
    /// A connection that exists, and what to do first.
    pub(super) fn start(
        stream: TcpStream,
        config: &SessionConfig,
        learns: bool,
        initiator: Initiator,
    ) -> io::Result<(Wire, Vec<Step>)> {
        let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
        let (machine, steps) = Machine::start(config.speaker(learns), local, remote);
        let wire = Wire {
            stream,
            machine,
            initiator,
            local,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            frames: FrameReader::default(),
            queued: 0,
            written: 0,
            hold: None,
            keepalive: None,
            stuck: None,
            send_hold: config.send_hold(),
            received: Messages::default(),
            sent: Messages::default(),
            bytes_in: 0,
        };
        Ok((wire, steps))
    }

    /// Accepts longer messages from now on (RFC 8654).
    pub(super) fn set_limit(&mut self, limit: u16) {
        self.frames.set_limit(limit);
    }

    /// Puts one whole message behind what waits to be written.
    pub(super) fn say(&mut self, message: &[u8]) {
        self.sent.count(message.get(18).copied().unwrap_or_default());
        self.queue(message);
    }

    /// The same for bytes that are counted elsewhere.
    pub(super) fn queue(&mut self, bytes: &[u8]) {
        if self.outbox.is_empty() && !bytes.is_empty() {
            self.stuck = Some(Instant::now() + self.send_hold);
        }
        self.outbox.extend_from_slice(bytes);
        self.queued += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }

    /// One read; false where the peer has closed, or where there is nothing to read.
    pub(super) fn fill(&mut self) -> Result<Filled, io::Error> {
        self.inbox.reserve(READ);
        match self.stream.try_read_buf(&mut self.inbox) {
            Ok(0) => Ok(Filled::Closed),
            Ok(count) => {
                self.bytes_in += u64::try_from(count).unwrap_or(u64::MAX);
                Ok(Filled::Some)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Filled::Nothing),
            Err(error) => Err(error),
        }
    }

    /// The next whole message that was read.
    pub(super) fn frame(&mut self) -> Result<Option<Frame>, Malformed> {
        let frame = self.frames.next(&mut self.inbox)?;
        if let Some(frame) = &frame {
            self.received.count(frame.kind());
        }
        Ok(frame)
    }

    /// Writes what the kernel takes; returns how much.
    pub(super) fn flush(&mut self) -> io::Result<u64> {
        if self.outbox.is_empty() {
            return Ok(0);
        }
        match self.stream.try_write(&self.outbox) {
            Ok(count) => {
                self.outbox.advance(count);
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                self.written += count;
                self.stuck = (!self.outbox.is_empty()).then(|| Instant::now() + self.send_hold);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Waits until everything is acknowledged; false where the connection is broken.
    pub(super) async fn drain(&mut self, poll: Duration) -> bool {
        if !self.flush_all().await {
            return false;
        }
        loop {
            match socket::unacknowledged(&self.stream) {
                Ok(0) => return true,
                Ok(_) => tokio::time::sleep(poll).await,
                Err(_) => return false,
            }
        }
    }

    async fn flush_all(&mut self) -> bool {
        while !self.outbox.is_empty() {
            if self.stream.writable().await.is_err() || self.flush().is_err() {
                return false;
            }
        }
        true
    }

    /// Last words, then the end. Unread data would turn our close into a reset that overtakes them, so it is
    /// read and thrown away until the peer has closed too.
    pub(super) async fn close(mut self) {
        let farewell = async {
            if !self.flush_all().await || tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await.is_err()
            {
                return;
            }
            loop {
                self.inbox.clear();
                if self.stream.readable().await.is_err()
                    || !matches!(self.fill(), Ok(Filled::Some | Filled::Nothing))
                {
                    return;
                }
            }
        };
        // Late is as good as never: the peer has its own timers.
        let _ = timeout(FAREWELL, farewell).await;
    }
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    Some,
    Nothing,
    Closed,
}

/// Until `deadline`; for ever without one.
pub(super) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
