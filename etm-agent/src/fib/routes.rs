//! Follows the kernel's main table: subscribe, dump, then notifications. Never changes a route, and never
//! reports ETM's own routes, other tables, or prefixes that are never routed between networks.
//!
//! Dump and notifications use two sockets: what was notified while the dump ran is applied after it, in order,
//! so that whatever the dump saw of a route, the last word is the kernel's last word.

use crate::core::input::{FibChange, FibEvent};
use crate::fib::OwnTable;
use crate::fib::error::FibError;
use crate::fib::links;
use crate::fib::main_table::{self, Effect, MainTable, Object};
use crate::fib::route_codec::{
    self as codec, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE, RouteRow, TABLE_MAIN,
};
use crate::fib::socket::{self, DumpStep, Endpoint};
use crate::fib::wire::{self, Message, Messages, Raw};
use crate::types::{Family, IfIndex, Prefix};
use netlink_packet_route::AddressFamily;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
const WHAT: &str = "reading the main routing table";

/// Changes per event.
const BATCH: usize = 4096;
/// Notifications kept while a dump runs; more is an overrun.
const KEPT: usize = 1 << 18;
/// Least time between two readings of the whole table.
const PAUSE: Duration = Duration::from_millis(500);

/// Follows the main table.
#[derive(Debug)]
pub struct RouteMonitor {
    own: OwnTable,
    notifications: Endpoint,
    table: MainTable,
}

/// A notification, read.
#[derive(Debug)]
enum Notice {
    Made(RouteRow, u16),
    Gone(RouteRow),
    ObjectMade(u32, Object),
    ObjectGone(u32),
    InterfaceLost(IfIndex),
}

/// Why following ended.
enum Turn {
    Resync,
    Stop,
}

impl RouteMonitor {
    /// Subscribes; nothing that happens afterwards is missed.
    pub fn open(own: OwnTable) -> Result<RouteMonitor, FibError> {
        let groups =
            [socket::GROUP_IPV4_ROUTE, socket::GROUP_IPV6_ROUTE, socket::GROUP_NEXTHOP, socket::GROUP_LINK];
        Ok(RouteMonitor { own, notifications: Endpoint::subscribe(&groups)?, table: MainTable::default() })
    }

    /// Sends `Reset`, the whole table, `Synced`, and then changes, until `shutdown` or until nobody listens.
    ///
    /// Begins again with `Reset` where notifications were lost or do not say enough.
    pub async fn run(
        mut self,
        events: mpsc::Sender<FibEvent>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), FibError> {
        let mut not_before = Instant::now();
        loop {
            let turn = tokio::select! {
                () = super::stopped(&mut shutdown) => return Ok(()),
                turn = self.turn(&events, &mut not_before) => turn?,
            };
            match turn {
                Turn::Stop => return Ok(()),
                Turn::Resync => {}
            }
        }
    }

    /// One reading of the table and what follows, until it must be read anew.
    async fn turn(
        &mut self,
        events: &mpsc::Sender<FibEvent>,
        not_before: &mut Instant,
    ) -> Result<Turn, FibError> {
        if events.send(FibEvent::Reset).await.is_err() {
            return Ok(Turn::Stop);
        }
        tokio::time::sleep_until(*not_before).await;
        *not_before = Instant::now() + PAUSE;
        let turn = match self.read_table(events).await {
            Ok(Some(turn)) => turn,
            Ok(None) => match events.send(FibEvent::Synced).await {
                Ok(()) => self.follow(events).await?,
                Err(_) => Turn::Stop,
            },
            Err(FibError::Overrun) => Turn::Resync,
            Err(error @ FibError::NoMemory { .. }) => {
                tracing::debug!(%error, "the main table is read again");
                Turn::Resync
            }
            Err(error) => return Err(error),
        };
        Ok(turn)
    }

    async fn follow(&mut self, events: &mpsc::Sender<FibEvent>) -> Result<Turn, FibError> {
        loop {
            let mut notices = Vec::new();
            match self.notifications.receive().await {
                Ok(datagram) => notices.extend(Messages(datagram).filter_map(|m| notice(&m, self.own))),
                Err(FibError::Overrun) => return Ok(Turn::Resync),
                Err(error) => return Err(error),
            }
            if self.drain(&mut notices, BATCH).is_err() {
                return Ok(Turn::Resync);
            }
            let Some(changes) = self.effects(notices) else { return Ok(Turn::Resync) };
            if !changes.is_empty() && events.send(FibEvent::Changes(changes)).await.is_err() {
                return Ok(Turn::Stop);
            }
        }
    }

    /// Sends the table, then what was notified meanwhile. Nothing returned means that it succeeded.
    async fn read_table(&mut self, events: &mpsc::Sender<FibEvent>) -> Result<Option<Turn>, FibError> {
        self.table = MainTable::before_dump();
        // The dump supersedes what is waiting.
        while self.notifications.try_receive()?.is_some() {}
        let mut requests = Endpoint::open()?;
        // Once the kernel answers, an interface that was being set down has lost its routes.
        requests.barrier().await?;
        let table = &mut self.table;
        requests
            .dump("reading the next-hop objects", RTM_GETNEXTHOP, &Raw(&[0; 8]), |message| {
                if let Some((id, object)) = main_table::read_object(message.payload) {
                    table.object_dumped(id, object);
                }
            })
            .await?;
        let mut kept = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            if let Some(turn) = self.read_family(&mut requests, family, events, &mut kept).await? {
                return Ok(Some(turn));
            }
        }
        self.drain(&mut kept, KEPT)?;
        let changes = self.effects(kept);
        self.table.dump_complete();
        match changes {
            None => Ok(Some(Turn::Resync)),
            Some(changes) if changes.is_empty() => Ok(None),
            Some(changes) => match events.send(FibEvent::Changes(changes)).await {
                Ok(()) => Ok(None),
                Err(_) => Ok(Some(Turn::Stop)),
            },
        }
    }

    async fn read_family(
        &mut self,
        requests: &mut Endpoint,
        family: AddressFamily,
        events: &mpsc::Sender<FibEvent>,
        kept: &mut Vec<Notice>,
    ) -> Result<Option<Turn>, FibError> {
        let sequence = requests.start_dump(RTM_GETROUTE, &codec::dump_request(family, TABLE_MAIN))?;
        let (mut changes, mut done) = (Vec::with_capacity(BATCH), false);
        while !done {
            let datagram = requests.receive().await?;
            for message in Messages(datagram).filter(|message| message.sequence == sequence) {
                // A disturbed walk may have left out routes that did not change: nothing would tell of them.
                if message.flags & wire::NLM_F_DUMP_INTR != 0 {
                    return Ok(Some(Turn::Resync));
                }
                match socket::dump_step(WHAT, &message)? {
                    DumpStep::Done => done = true,
                    DumpStep::Row => match row(message.payload, self.own).map(|row| self.table.dumped(row)) {
                        Some(Effect::Change(change)) => changes.push(change),
                        Some(Effect::Unclear) => return Ok(Some(Turn::Resync)),
                        Some(Effect::Nothing) | None => {}
                    },
                }
            }
            // Else a long dump would let the notifications overrun.
            self.drain(kept, KEPT)?;
            if changes.len() >= BATCH / 2 || done && !changes.is_empty() {
                let batch = std::mem::replace(&mut changes, Vec::with_capacity(BATCH));
                if events.send(FibEvent::Changes(batch)).await.is_err() {
                    return Ok(Some(Turn::Stop));
                }
            }
        }
        Ok(None)
    }

    /// Reads what is waiting, up to `room` notices in all; a full house is an overrun only for kept notices.
    fn drain(&mut self, notices: &mut Vec<Notice>, room: usize) -> Result<(), FibError> {
        let own = self.own;
        while notices.len() < room {
            match self.notifications.try_receive()? {
                Some(datagram) => notices.extend(Messages(datagram).filter_map(|m| notice(&m, own))),
                None => return Ok(()),
            }
        }
        match room {
            KEPT => Err(FibError::Overrun),
            _ => Ok(()),
        }
    }

    /// Nothing where the table must be read anew.
    fn effects(&mut self, notices: Vec<Notice>) -> Option<Vec<FibChange>> {
        let mut changes = Vec::with_capacity(notices.len());
        for notice in notices {
            let effect = match notice {
                Notice::Made(row, flags) => self.table.made(row, flags),
                Notice::Gone(row) => self.table.gone(row),
                Notice::ObjectMade(id, object) => self.table.object_made(id, object),
                Notice::ObjectGone(id) => self.table.object_gone(id),
                Notice::InterfaceLost(ifindex) => self.table.interface_lost(ifindex),
            };
            match effect {
                Effect::Change(change) => changes.push(change),
                Effect::Nothing => {}
                Effect::Unclear => return None,
            }
        }
        Some(changes)
    }
}

fn notice(message: &Message<'_>, own: OwnTable) -> Option<Notice> {
    match message.kind {
        RTM_NEWROUTE => row(message.payload, own).map(|row| Notice::Made(row, message.flags)),
        RTM_DELROUTE => row(message.payload, own).map(Notice::Gone),
        RTM_NEWNEXTHOP => main_table::read_object(message.payload).map(|(id, o)| Notice::ObjectMade(id, o)),
        RTM_DELNEXTHOP => main_table::read_object(message.payload).map(|(id, _)| Notice::ObjectGone(id)),
        _ => links::lost(message).map(Notice::InterfaceLost),
    }
}

/// A route of the main table that is not ETM's and can be a destination elsewhere.
fn row(payload: &[u8], own: OwnTable) -> Option<RouteRow> {
    if codec::table_of(payload)? != TABLE_MAIN {
        return None;
    }
    codec::read(payload).filter(|row| row.protocol != own.protocol && !is_local(row.prefix))
}

/// Link-local and multicast: each interface has the same prefixes with the same metric.
fn is_local(prefix: Prefix) -> bool {
    match (prefix.family(), prefix.addr()) {
        (Family::V6, IpAddr::V6(addr)) => {
            let first = addr.segments()[0];
            prefix.len() >= 8 && (first & 0xffc0 == 0xfe80 || first & 0xff00 == 0xff00)
        }
        _ => false,
    }
}
