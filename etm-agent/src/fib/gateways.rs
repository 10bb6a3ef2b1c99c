//! Whether the next hops of exits answer: the kernel's neighbour entries of the configured gateways (RFC 826, RFC 4861).
//! A gateway that the kernel has given up is lost until an entry says that it answers, or the link that it was on went.
//! Never sets an entry: while one is lost the kernel is asked to try again, as a packet to it would.

use crate::core::input::GatewayEvent;
use crate::fib::error::FibError;
use crate::fib::socket::{self, Endpoint, Request};
use crate::fib::wire::{self, Attributes, Message, Messages, Raw};
use crate::types::IfIndex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

/// struct ndmsg.
const HEADER: usize = 12;
const NDA_DST: u16 = 1;
const NTF_USE: u8 = 1;
const NUD_FAILED: u16 = 0x20;
/// REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT: a link-layer address is known.
const NUD_VALID: u16 = 0xde;
const NLM_F_CREATE: u16 = 0x400;

/// Between two attempts to reach a lost gateway.
const RETRY: Duration = Duration::from_secs(2);

/// Follows the gateways.
#[derive(Debug)]
pub struct GatewayMonitor {
    gateways: BTreeSet<IpAddr>,
    notifications: Endpoint,
    /// Those lost, and where; a link-local one may be lost on one link and not on another.
    lost: BTreeMap<(IpAddr, Option<IfIndex>), IfIndex>,
}

/// What an entry says of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Answers,
    Silent,
}

impl GatewayMonitor {
    /// Subscribes; nothing that happens afterwards is missed.
    pub fn open(gateways: impl IntoIterator<Item = IpAddr>) -> Result<GatewayMonitor, FibError> {
        let notifications = Endpoint::subscribe(&[socket::GROUP_NEIGHBOUR])?;
        Ok(GatewayMonitor { gateways: gateways.into_iter().collect(), notifications, lost: BTreeMap::new() })
    }

    /// Sends each loss and each return, until `shutdown` or until nobody listens. Gateways count as answering at first.
    pub async fn run(
        mut self,
        events: mpsc::Sender<GatewayEvent>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), FibError> {
        let mut requests = Endpoint::open()?;
        let mut news = self.read(&mut requests).await?;
        // The kernel had no memory for that question.
        let mut unread = false;
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            for event in std::mem::take(&mut news) {
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = super::stopped(&mut shutdown) => return Ok(()),
                read = self.notifications.receive() => match read {
                    Ok(datagram) => {
                        let words: Vec<_> =
                            Messages(datagram).filter_map(|message| word(&message, &self.gateways)).collect();
                        news.extend(words.into_iter().filter_map(|said| self.take(said)));
                    }
                    Err(FibError::Overrun) => {
                        (news, unread) = spared(self.read(&mut requests).await)?;
                    }
                    Err(error) => return Err(error),
                },
                _ = retry.tick(), if unread || !self.lost.is_empty() => {
                    if unread {
                        (news, unread) = spared(self.read(&mut requests).await)?;
                    }
                    spared(self.try_again(&mut requests).await)?;
                }
            }
        }
    }

    async fn read(&mut self, requests: &mut Endpoint) -> Result<Vec<GatewayEvent>, FibError> {
        let mut words = Vec::new();
        let gateways = &self.gateways;
        requests
            .dump("reading the neighbour entries", RTM_GETNEIGH, &Raw(&[0; HEADER]), |message| {
                words.extend(word(message, gateways));
            })
            .await?;
        Ok(words.into_iter().filter_map(|said| self.take(said)).collect())
    }

    fn take(&mut self, (gateway, ifindex, word): (IpAddr, IfIndex, Word)) -> Option<GatewayEvent> {
        let local = matches!(gateway, IpAddr::V6(addr) if addr.is_unicast_link_local());
        let key = (gateway, Some(ifindex).filter(|_| local));
        let news = match word {
            Word::Silent => self.lost.insert(key, ifindex).is_none(),
            Word::Answers => self.lost.remove(&key).is_some(),
        };
        news.then_some(GatewayEvent { gateway, ifindex: Some(ifindex), answers: word == Word::Answers })
    }

    /// Without traffic towards it nobody would find out that a gateway is back.
    async fn try_again(&mut self, requests: &mut Endpoint) -> Result<(), FibError> {
        let bodies: Vec<Vec<u8>> =
            self.lost.iter().map(|((gateway, _), ifindex)| attempt(*gateway, *ifindex)).collect();
        let request =
            |index: usize| Request { kind: RTM_NEWNEIGH, flags: NLM_F_CREATE, body: Raw(&bodies[index]) };
        // A refusal says that the interface is gone or down: its link, not the gateway, is what matters then.
        requests.transact(bodies.len(), request).await.map(drop)
    }
}

/// Nothing, and true, where the kernel had no memory for a request: it is made again with the next attempt.
fn spared<T: Default>(result: Result<T, FibError>) -> Result<(T, bool), FibError> {
    match result {
        Ok(value) => Ok((value, false)),
        Err(FibError::NoMemory { .. }) => Ok((T::default(), true)),
        Err(error) => Err(error),
    }
}

fn word(message: &Message<'_>, gateways: &BTreeSet<IpAddr>) -> Option<(IpAddr, IfIndex, Word)> {
    if !matches!(message.kind, RTM_NEWNEIGH | RTM_DELNEIGH) {
        return None;
    }
    let ifindex = IfIndex(wire::u32_at(message.payload, 4)?);
    let state = wire::u16_at(message.payload, 8)?;
    let (_, address) = Attributes::after(message.payload, HEADER).find(|(kind, _)| *kind == NDA_DST)?;
    let gateway = wire::address(address).filter(|gateway| gateways.contains(gateway))?;
    match (message.kind, state) {
        // An entry that is cleared away says nothing: those of links that are set down go like those not needed.
        (RTM_DELNEIGH, _) => None,
        (_, state) if state & NUD_FAILED != 0 => Some((gateway, ifindex, Word::Silent)),
        (_, state) if state & NUD_VALID != 0 => Some((gateway, ifindex, Word::Answers)),
        _ => None,
    }
}

/// struct ndmsg with NTF_USE, and the address.
fn attempt(gateway: IpAddr, ifindex: IfIndex) -> Vec<u8> {
    let (family, octets) = match gateway {
        IpAddr::V4(addr) => (libc::AF_INET, addr.octets().to_vec()),
        IpAddr::V6(addr) => (libc::AF_INET6, addr.octets().to_vec()),
    };
    let mut body = vec![0_u8; HEADER];
    body[0] = u8::try_from(family).unwrap_or_default();
    body[4..8].copy_from_slice(&ifindex.get().to_ne_bytes());
    body[10] = NTF_USE;
    let length = u16::try_from(4 + octets.len()).unwrap_or_default();
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&NDA_DST.to_ne_bytes());
    body.extend_from_slice(&octets);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: u16, state: u16) -> Option<Word> {
        let gateway: IpAddr = "192.0.2.1".parse().unwrap();
        let mut payload = attempt(gateway, IfIndex(7));
        payload[8..10].copy_from_slice(&state.to_ne_bytes());
        let message = Message { kind, flags: 0, sequence: 0, port: 0, payload: &payload };
        assert_eq!(word(&message, &BTreeSet::from(["192.0.2.9".parse().unwrap()])), None, "another gateway");
        word(&message, &BTreeSet::from([gateway])).map(|(_, _, word)| word)
    }

    #[test]
    fn only_a_failed_entry_loses_a_gateway_and_only_a_valid_one_brings_it_back() {
        for (title, kind, state, expected) in [
            ("failed", RTM_NEWNEIGH, NUD_FAILED, Some(Word::Silent)),
            ("incomplete", RTM_NEWNEIGH, 0x01, None),
            ("reachable", RTM_NEWNEIGH, 0x02, Some(Word::Answers)),
            ("stale", RTM_NEWNEIGH, 0x04, Some(Word::Answers)),
            ("permanent", RTM_NEWNEIGH, 0x80, Some(Word::Answers)),
            ("cleared away", RTM_DELNEIGH, NUD_FAILED, None),
        ] {
            assert_eq!(said(kind, state), expected, "{title}");
        }
    }
}
