//! A connection on its way to Established. Two of one peer can be on that way at once (RFC 4271 section 6.8): the
//! driver decides between them. Never carries a route.

use super::config::SessionConfig;
use super::wire::{Filled, Wire, at};
use crate::proto::bgp::{Event, Negotiated, SessionFault, Step};
use crate::types::bgp::{Initiator, SessionState};
use crate::types::{Asn, RouterId};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A connection that is not Established yet.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) wire: Wire,
    progress: Option<Progress>,
    /// Who the peer is, once its OPEN was acceptable.
    peer: Option<(RouterId, Asn)>,
}

/// Something the driver must know.
#[derive(Debug)]
pub(super) enum Progress {
    /// The peer's OPEN was acceptable.
    Opened,
    /// Established.
    Up(Box<Negotiated>),
    /// Over, before it began.
    Ended(SessionFault),
}

/// Whose connection is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Winner {
    Ours,
    Theirs,
}

/// RFC 4271 section 6.8: the connection opened by the speaker with the higher identifier; RFC 6286 section 2.3: by AS
/// number where identifiers are equal.
pub(super) fn winner(ours: (RouterId, Asn), theirs: (RouterId, Asn)) -> Winner {
    if (u32::from(ours.0.0), ours.1) < (u32::from(theirs.0.0), theirs.1) {
        Winner::Theirs
    } else {
        Winner::Ours
    }
}

impl Opening {
    pub(super) fn start(
        stream: TcpStream,
        config: &SessionConfig,
        learns: bool,
        initiator: Initiator,
    ) -> Result<Opening, SessionFault> {
        let broken = |error: std::io::Error| SessionFault::Broken { error: error.to_string() };
        let (wire, steps) = Wire::start(stream, config, learns, initiator).map_err(broken)?;
        let mut opening = Opening { wire, progress: None, peer: None };
        opening.apply(steps);
        opening.flush();
        Ok(opening)
    }

    pub(super) fn state(&self) -> SessionState {
        self.wire.machine.state()
    }

    /// Who the peer is, once known.
    pub(super) fn peer(&self) -> Option<(RouterId, Asn)> {
        self.peer
    }

    /// Waits for something the driver must know; loses nothing when it is dropped half-way.
    pub(super) async fn step(&mut self) -> Progress {
        loop {
            self.parse();
            self.flush();
            if let Some(progress) = self.progress.take() {
                return progress;
            }
            tokio::select! {
                biased;
                () = at(self.wire.keepalive) => self.feed(Event::KeepaliveDue),
                _ = self.wire.stream.writable(), if !self.wire.outbox.is_empty() => {}
                _ = self.wire.stream.readable() => self.read(),
                () = at(self.wire.hold) => self.feed(Event::HoldExpired),
            }
        }
    }

    /// Says why it ends; what is left is to close it.
    pub(super) fn end(mut self, event: Event) -> Wire {
        self.feed(event);
        self.flush();
        self.wire
    }

    fn read(&mut self) {
        match self.wire.fill() {
            Ok(Filled::Closed) => self.feed(Event::Lost(None)),
            Ok(Filled::Some | Filled::Nothing) => {}
            Err(error) => self.feed(Event::Lost(Some(error.to_string()))),
        }
    }

    /// What follows the message that makes it Established is not ours to read.
    fn parse(&mut self) {
        while self.progress.is_none() {
            match self.wire.frame() {
                Ok(Some(frame)) => self.feed(Event::Received(frame)),
                Ok(None) => break,
                Err(malformed) => self.feed(Event::Malformed(malformed)),
            }
        }
    }

    fn feed(&mut self, event: Event) {
        let steps = self.wire.machine.on(event);
        self.apply(steps);
    }

    fn apply(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Send(bytes) => self.wire.say(&bytes),
                Step::Hold(after) => self.wire.hold = after.map(|after| Instant::now() + after),
                Step::Keepalive(after) => self.wire.keepalive = after.map(|after| Instant::now() + after),
                Step::Opened(id, asn) => {
                    self.peer = Some((id, asn));
                    self.progress = Some(Progress::Opened);
                }
                Step::Up(session) => self.progress = Some(Progress::Up(session)),
                Step::Close(fault) => self.progress = Some(Progress::Ended(fault)),
                Step::Refresh(_) | Step::RefreshBegins(_) | Step::RefreshEnds(_) => {}
            }
        }
    }

    fn flush(&mut self) {
        // What breaks a write breaks the read too, which knows more: a NOTIFICATION may wait there.
        drop(self.wire.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_connection_of_the_higher_identifier_is_kept() {
        let speaker = |id: [u8; 4], asn| (RouterId(Ipv4Addr::from(id)), Asn(asn));
        for (ours, theirs, kept) in [
            (speaker([10, 0, 0, 2], 1), speaker([10, 0, 0, 1], 1), Winner::Ours),
            (speaker([10, 0, 0, 1], 1), speaker([10, 0, 0, 2], 1), Winner::Theirs),
            (speaker([9, 255, 255, 255], 1), speaker([10, 0, 0, 0], 1), Winner::Theirs),
            (speaker([200, 0, 0, 1], 1), speaker([100, 0, 0, 2], 1), Winner::Ours),
            (speaker([10, 0, 0, 1], 64500), speaker([10, 0, 0, 1], 64501), Winner::Theirs),
            (speaker([10, 0, 0, 1], 64501), speaker([10, 0, 0, 1], 64500), Winner::Ours),
        ] {
            assert_eq!(winner(ours, theirs), kept, "{ours:?} {theirs:?}");
        }
    }
}
