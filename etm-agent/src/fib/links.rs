//! Presence, administrative state and carrier of the uplinks, with the least possible delay: by name, and once found
//! by index too, so that an uplink stays itself when it is renamed.
//! A socket and a task of its own, so that no flood of routes can delay a link-down. Never changes an interface.

use crate::core::input::LinkEvent;
use crate::fib::error::FibError;
use crate::fib::socket::{self, Endpoint};
use crate::fib::wire::{self, Attributes, Message, Messages, Raw};
use crate::types::{IfIndex, UplinkId};
use std::collections::BTreeMap;
use std::fmt;
use tokio::sync::{mpsc, watch};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

const LINK_HEADER: usize = 16;
const AF_UNSPEC: u8 = 0;
const IFLA_IFNAME: u16 = 3;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;
const ARPHRD_ETHER: u16 = 1;
/// RFC 2863 ifOperStatus as the kernel numbers it.
const OPERSTATE_UNKNOWN: u8 = 0;
const OPERSTATE_UP: u8 = 6;

/// Whether an interface can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Administratively up, with carrier.
    Up,
    /// Administratively down.
    AdminDown,
    /// Administratively up, without carrier (or dormant).
    NoCarrier,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinkState::Up => "up",
            LinkState::AdminDown => "administratively down (`ip link set DEV up`)",
            LinkState::NoCarrier => "without carrier (check cable and far end)",
        })
    }
}

/// An interface as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkReport {
    /// Name.
    pub name: String,
    /// Index.
    pub ifindex: IfIndex,
    /// Whether it can send.
    pub state: LinkState,
    /// True where its frames begin with an Ethernet header.
    pub ethernet: bool,
}

/// Finds interfaces by name, in the order given.
///
/// `FibError::NoInterface` lists those that are missing beside those that exist.
pub async fn resolve(names: &[String]) -> Result<Vec<LinkReport>, FibError> {
    let links = read_links(&mut Endpoint::open()?).await?;
    let find = |name: &String| links.values().find(|link| link.name == *name);
    let missing: Vec<String> = names.iter().filter(|name| find(name).is_none()).cloned().collect();
    if !missing.is_empty() {
        let present = links.into_values().map(|link| link.name).collect();
        return Err(FibError::NoInterface { missing, present });
    }
    Ok(names.iter().filter_map(find).cloned().collect())
}

/// Follows the state of uplinks.
#[derive(Debug)]
pub struct LinkMonitor {
    uplinks: Vec<(UplinkId, String)>,
    notifications: Endpoint,
    links: BTreeMap<IfIndex, LinkReport>,
    told: BTreeMap<UplinkId, LinkEvent>,
}

impl LinkMonitor {
    /// Subscribes; nothing that happens afterwards is missed.
    pub fn open(uplinks: Vec<(UplinkId, String)>) -> Result<LinkMonitor, FibError> {
        let notifications = Endpoint::subscribe(&[socket::GROUP_LINK])?;
        Ok(LinkMonitor { uplinks, notifications, links: BTreeMap::new(), told: BTreeMap::new() })
    }

    /// Sends the state of every uplink once, then each change, until `shutdown` or until nobody listens.
    pub async fn run(
        mut self,
        events: mpsc::Sender<LinkEvent>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), FibError> {
        self.links = read_links(&mut Endpoint::open()?).await?;
        loop {
            for event in self.news() {
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = super::stopped(&mut shutdown) => return Ok(()),
                read = self.notifications.receive() => match read {
                    Ok(datagram) => Messages(datagram).for_each(|message| learn(&mut self.links, &message)),
                    Err(FibError::Overrun) => self.links = read_links(&mut Endpoint::open()?).await?,
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Events for uplinks whose state is not what was told.
    fn news(&mut self) -> Vec<LinkEvent> {
        let mut news = Vec::new();
        for (uplink, name) in &self.uplinks {
            let named = self.links.values().find(|link| link.name == *name);
            // Renamed it is the same uplink, as long as no other interface takes the name.
            let before = self.told.get(uplink).and_then(|told| told.ifindex);
            let link = named.or_else(|| self.links.get(&before?));
            let event = LinkEvent {
                uplink: *uplink,
                ifindex: link.map(|link| link.ifindex),
                up: link.is_some_and(|link| link.state == LinkState::Up),
            };
            if self.told.insert(*uplink, event) != Some(event) {
                news.push(event);
            }
        }
        news
    }
}

/// The interface that a message says was set down or deleted: the kernel drops its routes.
pub(super) fn lost(message: &Message<'_>) -> Option<IfIndex> {
    if message.payload.first() != Some(&AF_UNSPEC) {
        return None;
    }
    let (flags, changed) = (wire::u32_at(message.payload, 8)?, wire::u32_at(message.payload, 12)?);
    let lost = match message.kind {
        RTM_DELLINK => true,
        RTM_NEWLINK => flags & IFF_UP == 0 && changed & IFF_UP != 0,
        _ => false,
    };
    lost.then_some(IfIndex(wire::u32_at(message.payload, 4)?))
}

async fn read_links(requests: &mut Endpoint) -> Result<BTreeMap<IfIndex, LinkReport>, FibError> {
    let mut body = [0_u8; LINK_HEADER + 8];
    body[16..18].copy_from_slice(&8_u16.to_ne_bytes());
    body[18..20].copy_from_slice(&IFLA_EXT_MASK.to_ne_bytes());
    body[20..24].copy_from_slice(&RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    let mut links = BTreeMap::new();
    // A disturbed dump needs no second reading: what disturbed it is among the notifications.
    requests
        .dump("reading the interfaces", RTM_GETLINK, &Raw(&body), |message| learn(&mut links, message))
        .await?;
    Ok(links)
}

fn learn(links: &mut BTreeMap<IfIndex, LinkReport>, message: &Message<'_>) {
    // Bridge ports send RTM_DELLINK of AF_BRIDGE when they only leave the bridge.
    if message.payload.first() != Some(&AF_UNSPEC) {
        return;
    }
    let Some(link) = read_link(message.payload) else { return };
    match message.kind {
        RTM_NEWLINK => {
            links.insert(link.ifindex, link);
        }
        RTM_DELLINK => {
            links.remove(&link.ifindex);
        }
        _ => {}
    }
}

fn read_link(payload: &[u8]) -> Option<LinkReport> {
    let hardware = wire::u16_at(payload, 2)?;
    let ifindex = IfIndex(wire::u32_at(payload, 4)?);
    let flags = wire::u32_at(payload, 8)?;
    let (mut name, mut operstate) = (None, OPERSTATE_UNKNOWN);
    for (kind, value) in Attributes::after(payload, LINK_HEADER) {
        match kind {
            IFLA_IFNAME => name = Some(wire::string(value)),
            IFLA_OPERSTATE => operstate = *value.first()?,
            _ => {}
        }
    }
    // Loopback, tunnels and drivers without linkwatch stay at "unknown".
    let running = matches!(operstate, OPERSTATE_UNKNOWN | OPERSTATE_UP);
    let state = match (flags & IFF_UP != 0, flags & IFF_LOWER_UP != 0 && running) {
        (false, _) => LinkState::AdminDown,
        (true, false) => LinkState::NoCarrier,
        (true, true) => LinkState::Up,
    };
    Some(LinkReport { name: name?, ifindex, state, ethernet: hardware == ARPHRD_ETHER })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(flags: u32, operstate: u8) -> Vec<u8> {
        let mut payload = vec![0_u8; LINK_HEADER];
        payload[2..4].copy_from_slice(&ARPHRD_ETHER.to_ne_bytes());
        payload[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        payload[8..12].copy_from_slice(&flags.to_ne_bytes());
        payload.extend_from_slice(&[8, 0, 3, 0, b'u', b'p', b'0', 0, 5, 0, 16, 0, operstate, 0, 0, 0]);
        payload
    }

    #[test]
    fn state_follows_flags_and_operstate() {
        for (title, flags, operstate, expected) in [
            ("up with carrier", IFF_UP | IFF_LOWER_UP, OPERSTATE_UP, LinkState::Up),
            ("a driver that says nothing", IFF_UP | IFF_LOWER_UP, OPERSTATE_UNKNOWN, LinkState::Up),
            ("no carrier", IFF_UP, 2, LinkState::NoCarrier),
            ("lower layer down", IFF_UP | IFF_LOWER_UP, 3, LinkState::NoCarrier),
            ("dormant", IFF_UP | IFF_LOWER_UP, 5, LinkState::NoCarrier),
            ("admin down", IFF_LOWER_UP, 2, LinkState::AdminDown),
        ] {
            let link = read_link(&payload(flags, operstate)).unwrap();
            assert_eq!(
                (link.name.as_str(), link.ifindex, link.state),
                ("up0", IfIndex(7), expected),
                "{title}"
            );
        }
    }
}
