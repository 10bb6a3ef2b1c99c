//! The end of a connection: withdrawals that arrive, a reason the peer's operator can read, a close that does
//! not overtake them. Never decides that a connection ends.

use super::{ACKNOWLEDGE_POLL, Connection, READ, Role};
use crate::peering::socket;
use crate::proto::bgp::{Event, SessionFault};
use bytes::Buf;
use std::io;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

/// Longest wait for a peer to take our last words.
const FAREWELL: Duration = Duration::from_secs(1);
/// What the peer's operator reads when ETM stops (RFC 9003).
const STOP_TEXT: &str = "ETM is stopping";

impl Connection<'_> {
    /// An orderly end: withdraw, wait until that has arrived, then say Cease.
    pub(super) async fn finish(&mut self) {
        if let Role::Inject(inject) = &mut *self.role {
            let lesson = inject.withdraw_all();
            self.teach(&lesson);
            self.confirmed = timeout(FAREWELL, self.drain()).await.unwrap_or(false);
            if !self.confirmed {
                tracing::warn!(
                    peer = %self.config.name,
                    "the peer does not take the withdrawals; closing, which withdraws everything too"
                );
            }
        }
        self.feed(Event::Stop(STOP_TEXT));
        self.end.get_or_insert(SessionFault::Stopped);
    }

    /// Writes everything and waits until it is acknowledged; false where the connection is broken.
    async fn drain(&mut self) -> bool {
        while !self.outbox.is_empty() {
            if !self.flush_once().await {
                return false;
            }
        }
        loop {
            match socket::unacknowledged(&self.stream) {
                Ok(0) => return true,
                Ok(_) => sleep(ACKNOWLEDGE_POLL).await,
                Err(_) => return false,
            }
        }
    }

    /// False where the connection is broken.
    async fn flush_once(&mut self) -> bool {
        if self.stream.writable().await.is_err() {
            return false;
        }
        match self.stream.try_write(&self.outbox) {
            Ok(count) => self.outbox.advance(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        true
    }

    /// Last words, then the end. Unread data would turn our close into a reset that overtakes them, so it is
    /// read and thrown away until the peer has closed too.
    pub(super) async fn close(&mut self) {
        let farewell = async {
            while !self.outbox.is_empty() && self.flush_once().await {}
            if self.stream.shutdown().await.is_err() {
                return;
            }
            loop {
                self.inbox.clear();
                self.inbox.reserve(READ);
                let readable = self.stream.readable().await;
                match readable.and_then(|()| self.stream.try_read_buf(&mut self.inbox)) {
                    Ok(0) => return,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                    Ok(_) | Err(_) => {}
                }
            }
        };
        // Late is as good as never: the peer has its own timers.
        let _ = timeout(FAREWELL, farewell).await;
    }
}
