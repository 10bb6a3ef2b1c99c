//! What others do to ETM's table while it is kept: when to read it anew, and what to tell of it.
//! Never changes a route.

use crate::core::input::{ForeignRoutes, Input, SiteEvent};
use crate::fib::OwnTable;
use crate::fib::error::FibError;
use crate::fib::links::{RTM_DELLINK, RTM_NEWLINK};
use crate::fib::route_codec::{self as codec, RTM_DELROUTE, RTM_NEWROUTE};
use crate::fib::socket::Endpoint;
use crate::fib::wire::Messages;
use crate::types::Prefix;
use tokio::sync::mpsc;

/// What a change means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Nothing for this table.
    Nothing,
    /// The kernel's own doing, or an interface changed.
    Kernel,
    /// Another program's.
    Others,
}

/// Returns once someone else changed ETM's table, or an interface changed: then the kernel may have
/// dropped routes without saying so (IPv4), or may take routes that it refused. True where another program changed routes.
pub(super) async fn next(monitor: &mut Endpoint, own: OwnTable, own_port: u32) -> Result<bool, FibError> {
    let mut kind = Kind::Nothing;
    while kind == Kind::Nothing {
        kind = match monitor.receive().await {
            // Nobody knows whose doing it was.
            Err(FibError::Overrun) => Kind::Kernel,
            datagram => kind_of(datagram?, own, own_port),
        };
    }
    // One reading of the table answers all that is waiting.
    loop {
        match monitor.try_receive() {
            Ok(None) => return Ok(kind == Kind::Others),
            Ok(Some(datagram)) => kind = kind.max(kind_of(datagram, own, own_port)),
            Err(FibError::Overrun) => {}
            Err(error) => return Err(error),
        }
    }
}

fn kind_of(datagram: &[u8], own: OwnTable, own_port: u32) -> Kind {
    let kinds = Messages(datagram).map(|message| match message.kind {
        RTM_NEWROUTE | RTM_DELROUTE => {
            let ours = message.port != own_port
                && (!own.is_shared() || codec::protocol_of(message.payload) == Some(own.protocol))
                && codec::table_of(message.payload) == Some(own.table);
            match (ours, message.port) {
                (false, _) => Kind::Nothing,
                // Port 0 is the kernel: an interface took its routes along.
                (true, 0) => Kind::Kernel,
                (true, _) => Kind::Others,
            }
        }
        RTM_NEWLINK | RTM_DELLINK => Kind::Kernel,
        _ => Kind::Nothing,
    });
    kinds.max().unwrap_or(Kind::Nothing)
}

/// Tells what others did; an error means that nobody listens.
pub(super) struct Witness {
    reports: mpsc::Sender<Input>,
    told: Option<ForeignRoutes>,
}

impl Witness {
    pub(super) fn new(reports: mpsc::Sender<Input>) -> Witness {
        Witness { reports, told: None }
    }

    /// Routes of others in ETM's table, where that is news.
    pub(super) async fn tell_foreign(&mut self, foreign: Option<ForeignRoutes>) -> Result<(), Unheard> {
        if self.told == foreign {
            return Ok(());
        }
        self.told = foreign;
        self.tell(SiteEvent::ForeignRoutes(foreign)).await
    }

    /// Routes of ETM's that others changed, if any.
    pub(super) async fn tell_touched(
        &self,
        mut touched: impl Iterator<Item = Prefix>,
    ) -> Result<(), Unheard> {
        let Some(first) = touched.next() else { return Ok(()) };
        self.tell(SiteEvent::RoutesTouched { count: 1 + touched.count(), first }).await
    }

    async fn tell(&self, event: SiteEvent) -> Result<(), Unheard> {
        self.reports.send(Input::Site(event)).await.map_err(|_| Unheard)
    }
}

/// Nobody listens any more.
pub(super) struct Unheard;
