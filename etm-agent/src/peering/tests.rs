//! Sessions against a scripted peer over loopback TCP.

mod doors;
mod peer;

use super::config::{InjectConfig, NextHops, SessionConfig};
use super::driver::{run_inject, run_learn};
use super::ports::Ports;
use super::status::status_channel;
use crate::core::decision::{Announcement, Decision};
use crate::core::input::{Input, RouteChange, SessionChange};
use crate::proto::bgp::{OutPolicy, RouterIdOwner, SessionFault};
use crate::types::bgp::{PeerStatus, SessionState};
use crate::types::{Asn, ExitId, Family, Generation, PeerId, Prefix, RouteAttrs, RouterId, Timestamp};
use peer::{Listener, Peer, open, update};
use rustbgpd_wire as wire;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use wire::{Message, NotificationCode, PathAttribute};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 179);
const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xFC, 0x59];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 10, 9, 1, 2];

/// The agent's end of a session under test.
struct Agent {
    inputs: mpsc::Receiver<Input>,
    status: watch::Receiver<PeerStatus>,
    stop: watch::Sender<bool>,
    decisions: watch::Sender<Arc<Decision>>,
}

impl Agent {
    async fn input(&mut self) -> Input {
        timeout(Duration::from_secs(20), self.inputs.recv()).await.expect("no input").expect("session ended")
    }

    async fn session(&mut self) -> SessionChange {
        match self.input().await {
            Input::Session(event) => event.change,
            other => panic!("{other:?}"),
        }
    }

    /// The reason of the next Down.
    async fn down(&mut self) -> String {
        loop {
            if let Input::Session(event) = self.input().await
                && let SessionChange::Down { reason } = event.change
            {
                return reason;
            }
        }
    }

    async fn told(&mut self) -> (Generation, usize) {
        loop {
            if let Input::Told(told) = self.input().await {
                return (told.generation, told.changed);
            }
        }
    }

    fn fault(&self) -> String {
        self.status.borrow().last_fault.clone().expect("no fault").text
    }

    fn decide(&self, generation: u64, prefixes: &[&str]) {
        let attrs = Arc::new(RouteAttrs::to_next_hop(IpAddr::V4(Ipv4Addr::new(10, 9, 1, 2))));
        let announcement = Announcement { exit: ExitId(0), attrs };
        let announce = prefixes.iter().map(|text| (text.parse().unwrap(), announcement.clone())).collect();
        let decision = Decision { generation: Generation(generation), announce, ..Decision::default() };
        self.decisions.send_replace(Arc::new(decision));
    }
}

fn up() -> SessionChange {
    SessionChange::Up { families: Family::ALL.to_vec() }
}

fn clock() -> Timestamp {
    Timestamp(7)
}

fn config(remote: SocketAddr) -> SessionConfig {
    let mut config =
        SessionConfig::new(PeerId(3), "border", remote.ip(), Asn(64500), Asn(64500), RouterId(OURS));
    config.port = remote.port();
    config.retry_min = Duration::from_millis(10);
    config.retry_max = Duration::from_millis(100);
    config.hold_time = 3;
    config
}

fn ports(config: &SessionConfig, depth: usize) -> (Agent, Ports) {
    let (inputs_tx, inputs) = mpsc::channel(depth);
    let (status_tx, status) = status_channel(config, clock());
    let (stop, stop_rx) = watch::channel(false);
    let (decisions, _) = watch::channel(Arc::default());
    let ports = Ports { inputs: inputs_tx, status: status_tx, stop: stop_rx, clock };
    (Agent { inputs, status, stop, decisions }, ports)
}

/// Runs a learn session beside a script; the script's end stops the session, which must then end by itself.
async fn learn<S: Future<Output = ()>>(remote: SocketAddr, depth: usize, script: impl FnOnce(Agent) -> S) {
    let config = config(remote);
    let (agent, ports) = ports(&config, depth);
    let ended = async { tokio::join!(run_learn(config, ports), script(agent)) };
    timeout(Duration::from_secs(60), ended).await.expect("the session does not end");
}

/// The same for an inject session.
async fn inject<S: Future<Output = ()>>(remote: SocketAddr, script: impl FnOnce(Agent) -> S) {
    let config = config(remote);
    let (agent, ports) = ports(&config, 64);
    let out = OutPolicy { local_pref: 1_000_000, community: "64500:179".parse().unwrap() };
    let next_hops = NextHops { v4: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))), ..NextHops::default() };
    let decisions = agent.decisions.subscribe();
    let session = run_inject(config, InjectConfig::new(out, next_hops), decisions, ports);
    let ended = async { tokio::join!(session, script(agent)) };
    timeout(Duration::from_secs(60), ended).await.expect("the session does not end");
}

/// Prefixes an UPDATE announces and withdraws in its body.
fn body(message: Option<Message>) -> (BTreeSet<String>, BTreeSet<String>, Vec<PathAttribute>) {
    let Some(Message::Update(update)) = message else { panic!("{message:?}") };
    let parsed = update.parse(true, false, &[]).unwrap();
    let words = |list: &[wire::Ipv4NlriEntry]| list.iter().map(|entry| entry.prefix.to_string()).collect();
    (words(&parsed.announced), words(&parsed.withdrawn), parsed.attributes)
}

fn set(prefixes: &[&str]) -> BTreeSet<String> {
    prefixes.iter().map(|&prefix| prefix.to_owned()).collect()
}

/// The two End-of-RIBs.
async fn end_of_ribs(peer: &mut Peer) {
    for _ in 0..2 {
        let (announced, withdrawn, _) = body(peer.next_news().await);
        assert_eq!((announced, withdrawn), (set(&[]), set(&[])));
    }
}

#[tokio::test]
async fn a_refused_connection_is_reported_once_and_tried_again() {
    let listener = Listener::new().await;
    let remote = listener.addr();
    drop(listener);
    learn(remote, 8, async |mut agent: Agent| {
        let reason = agent.down().await;
        assert!(reason.contains("connection refused; start the routing daemon"), "{reason}");
        assert_eq!(agent.fault(), SessionFault::Refused { remote }.to_string());
        assert!(!agent.status.borrow().last_fault.as_ref().unwrap().permanent);
        let socket = tokio::net::TcpListener::bind(remote).await.unwrap();
        let accepted = timeout(Duration::from_secs(5), socket.accept()).await;
        assert!(accepted.is_ok(), "not tried again");
        // The attempts in between failed alike, which is no news.
        assert!(agent.inputs.try_recv().is_err());
        agent.stop.send_replace(true);
    })
    .await;
}

#[tokio::test]
async fn each_way_to_be_no_peer_is_named() {
    type Script = fn(&mut Peer) -> std::pin::Pin<Box<dyn Future<Output = ()> + '_>>;
    let garbage: Script = |peer| Box::pin(async { peer.send_bytes(b"220 mail ESMTP\r\n").await });
    let closes: Script = |_| Box::pin(async {});
    let same_id: Script = |peer| Box::pin(async { peer.send(&open(64500, OURS)).await });
    let wrong_as: Script =
        |peer| Box::pin(async { peer.send(&open(64501, Ipv4Addr::new(10, 0, 0, 1))).await });
    for (script, expected, code) in [
        (garbage, None, Some((1, 1))),
        (closes, Some(SessionFault::ClosedBeforeOpen { local: IpAddr::V4(Ipv4Addr::LOCALHOST) }), None),
        (
            same_id,
            Some(SessionFault::SameRouterId { id: RouterId(OURS), noticed: RouterIdOwner::Us }),
            Some((2, 3)),
        ),
        (wrong_as, Some(SessionFault::WrongAs { expected: Asn(64500), found: Asn(64501) }), Some((2, 2))),
    ] {
        let listener = Listener::new().await;
        let remote = listener.addr();
        learn(remote, 8, async |mut agent: Agent| {
            let mut peer = listener.accept().await;
            assert!(matches!(peer.next().await, Some(Message::Open(_))));
            script(&mut peer).await;
            if let Some(code) = code {
                let sent = peer.notification().await;
                assert_eq!((sent.code.as_u8(), sent.subcode), code);
            }
            drop(peer);
            let reason = agent.down().await;
            let expected = expected.unwrap_or(SessionFault::NotBgp { remote });
            assert_eq!(agent.fault(), expected.to_string(), "{reason}");
            assert_eq!(agent.status.borrow().last_fault.as_ref().unwrap().permanent, expected.is_permanent());
            agent.stop.send_replace(true);
        })
        .await;
    }
}

#[tokio::test]
async fn a_learn_session_delivers_routes_and_says_nothing_but_end_of_rib() {
    let listener = Listener::new().await;
    learn(listener.addr(), 8, async |mut agent: Agent| {
        let mut peer = listener.establish().await;
        peer.send(&update(&[ORIGIN, AS_PATH, NEXT_HOP], &[[198, 18, 0], [198, 18, 1]])).await;
        peer.send(&update(&[], &[])).await;
        assert_eq!(agent.session().await, up());
        let Input::Routes(batch) = agent.input().await else { panic!("no routes") };
        assert_eq!((batch.peer, batch.changes.len()), (PeerId(3), 2));
        assert_eq!(agent.session().await, SessionChange::EndOfRib(Family::V4));
        end_of_ribs(&mut peer).await;
        {
            let status = agent.status.borrow();
            assert_eq!(
                (status.state, status.add_path.as_slice()),
                (SessionState::Established, &[Family::V4][..])
            );
            assert_eq!(status.traffic.announced_in, 2);
        }
        agent.stop.send_replace(true);
        let cease = peer.notification().await;
        assert_eq!((cease.code, cease.subcode), (NotificationCode::Cease, 2));
        assert_eq!(peer.next().await, None);
    })
    .await;
}

#[tokio::test]
async fn a_malformed_attribute_costs_its_routes_and_not_the_session() {
    let listener = Listener::new().await;
    learn(listener.addr(), 8, async |mut agent: Agent| {
        let mut peer = listener.establish().await;
        let bad: &[u8] = &[0xC0, 8, 5, 1, 2, 3, 4, 5];
        peer.send(&update(&[ORIGIN, AS_PATH, NEXT_HOP, bad], &[[198, 18, 0]])).await;
        peer.send(&update(&[ORIGIN, AS_PATH, NEXT_HOP], &[[198, 18, 1]])).await;
        assert_eq!(agent.session().await, up());
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let Input::Routes(batch) = agent.input().await else { panic!("no routes") };
            seen.extend(batch.changes);
        }
        assert!(
            matches!(&seen[0], RouteChange::Withdraw { prefix, .. } if prefix.to_string() == "198.18.0.0/24")
        );
        assert!(
            matches!(&seen[1], RouteChange::Announce { prefix, .. } if prefix.to_string() == "198.18.1.0/24")
        );
        let status = agent.status.borrow().clone();
        assert_eq!((status.state, status.dispositions.treat_as_withdraw), (SessionState::Established, 1));
        let notice = status.last_notice.unwrap();
        assert!(notice.starts_with("treat-as-withdraw of 198.18.0.0/24 for COMMUNITIES"), "{notice}");
        agent.stop.send_replace(true);
    })
    .await;
}

#[tokio::test]
async fn nlri_that_cannot_be_read_resets_the_session_and_it_comes_back() {
    let listener = Listener::new().await;
    learn(listener.addr(), 8, async |mut agent: Agent| {
        let mut peer = listener.establish().await;
        let broken = wire::UpdateMessage {
            withdrawn_routes: bytes::Bytes::new(),
            path_attributes: [ORIGIN, AS_PATH, NEXT_HOP].concat().into(),
            nlri: bytes::Bytes::from_static(&[0, 0, 0, 1, 33, 1, 2, 3, 4, 5]),
        };
        peer.send(&Message::Update(broken)).await;
        let sent = peer.notification().await;
        assert_eq!((sent.code.as_u8(), sent.subcode), (3, 10));
        drop(peer);
        let reason = agent.down().await;
        assert!(reason.contains("(NLRI: UPDATE invalid network field"), "{reason}");
        let _peer = listener.establish().await;
        assert_eq!(agent.session().await, up());
        agent.stop.send_replace(true);
    })
    .await;
}

#[tokio::test]
async fn a_silent_peer_is_given_up_after_the_hold_time() {
    let listener = Listener::new().await;
    learn(listener.addr(), 8, async |mut agent: Agent| {
        let mut peer = listener.establish().await;
        assert_eq!(agent.session().await, up());
        let start = Instant::now();
        end_of_ribs(&mut peer).await;
        let sent = peer.notification().await;
        assert_eq!(sent.code, NotificationCode::HoldTimerExpired);
        assert!(start.elapsed() >= Duration::from_millis(2900), "{:?}", start.elapsed());
        drop(peer);
        agent.down().await;
        assert_eq!(agent.fault(), SessionFault::HoldExpired { hold: Duration::from_secs(3) }.to_string());
        agent.stop.send_replace(true);
    })
    .await;
}

/// The decision sleeps for longer than the hold time while 100,000 routes wait: keepalives go out, the session
/// stays, the peer is held back by TCP, and in the end no route is missing.
#[tokio::test]
async fn a_slow_decision_delays_routes_and_never_keepalives() {
    const ROUTES: u32 = 100_000;
    let listener = Listener::new().await;
    learn(listener.addr(), 4, async |mut agent: Agent| {
        let mut peer = listener.establish().await;
        assert_eq!(agent.session().await, up());
        let (mut reader, mut writer) = peer.stream.split();
        let mut burst = Vec::new();
        for chunk in (0..ROUTES).collect::<Vec<_>>().chunks(100) {
            let nlri: Vec<[u8; 3]> = chunk
                .iter()
                .map(|i| {
                    let [_, a, b, c] = (0x64_0000 + i).to_be_bytes();
                    [a, b, c]
                })
                .collect();
            burst.extend(wire::encode_message(&update(&[ORIGIN, AS_PATH, NEXT_HOP], &nlri)).unwrap());
        }
        let write = tokio::io::AsyncWriteExt::write_all(&mut writer, &burst);
        let asleep = Duration::from_millis(4500);
        let consume = async {
            tokio::time::sleep(asleep).await;
            let mut seen = BTreeSet::new();
            while seen.len() < usize::try_from(ROUTES).unwrap() {
                let Input::Routes(batch) = agent.input().await else { panic!("session lost") };
                assert!(batch.changes.len() <= 512);
                for change in batch.changes {
                    let RouteChange::Announce { prefix, .. } = change else { panic!("{change:?}") };
                    seen.insert(prefix);
                }
            }
        };
        let keepalives = async {
            let mut heard = Vec::new();
            let start = Instant::now();
            while start.elapsed() < asleep {
                let mut buffer = [0; 256];
                let read = tokio::io::AsyncReadExt::read(&mut reader, &mut buffer);
                if let Ok(read) = timeout(asleep.saturating_sub(start.elapsed()), read).await {
                    assert_ne!(read.unwrap(), 0, "session closed");
                    heard.push(start.elapsed());
                }
            }
            heard
        };
        let (written, (), heard) = tokio::join!(write, consume, keepalives);
        written.unwrap();
        let mut last = Duration::ZERO;
        for at in heard {
            assert!(at - last < Duration::from_millis(1500), "no keepalive between {last:?} and {at:?}");
            last = at;
        }
        let status = agent.status.borrow().clone();
        assert_eq!(
            (status.state, status.traffic.announced_in),
            (SessionState::Established, u64::from(ROUTES))
        );
        assert!(status.traffic.held_back > 0);
        agent.stop.send_replace(true);
    })
    .await;
}

#[tokio::test]
async fn an_inject_session_converges_to_the_newest_decision_and_leaves_nothing() {
    let listener = Listener::new().await;
    inject(listener.addr(), async |mut agent: Agent| {
        agent.decide(1, &["198.18.0.0/24", "198.18.1.0/24", "2001:db8::/32"]);
        let mut peer = listener.establish().await;
        let (announced, _, attributes) = body(peer.next_news().await);
        assert_eq!(announced, set(&["198.18.0.0/24", "198.18.1.0/24"]));
        assert!(attributes.contains(&PathAttribute::NextHop(Ipv4Addr::new(192, 0, 2, 1))));
        assert!(attributes.contains(&PathAttribute::LocalPref(1_000_000)));
        let communities = PathAttribute::Communities(vec![64500 << 16 | 179, wire::COMMUNITY_NO_EXPORT]);
        assert!(attributes.contains(&communities), "{attributes:?}");
        end_of_ribs(&mut peer).await;
        assert_eq!(agent.told().await, (Generation(1), 2));
        {
            // There is no next hop for IPv6: the route is withheld, and that is shown.
            let status = agent.status.borrow();
            assert_eq!((status.announced, status.withheld, status.told), (2, 1, Some(Generation(1))));
        }
        // Nobody runs between these: the peer hears of the last one only.
        agent.decide(2, &["198.18.7.0/24"]);
        agent.decide(3, &["198.18.1.0/24", "198.18.2.0/24"]);
        let (_, withdrawn, _) = body(peer.next_news().await);
        assert_eq!(withdrawn, set(&["198.18.0.0/24"]));
        let (announced, _, _) = body(peer.next_news().await);
        assert_eq!(announced, set(&["198.18.2.0/24"]));
        assert_eq!(agent.told().await, (Generation(3), 2));

        let refresh = wire::RouteRefreshMessage::new(wire::Afi::Ipv4, wire::Safi::Unicast);
        peer.send(&Message::RouteRefresh(refresh)).await;
        let (announced, _, _) = body(peer.next_news().await);
        assert_eq!(announced, set(&["198.18.1.0/24", "198.18.2.0/24"]));

        drop(peer);
        agent.down().await;
        assert_eq!(agent.status.borrow().announced, 0);
        let mut peer = listener.establish().await;
        let (announced, _, _) = body(peer.next_news().await);
        assert_eq!(announced, set(&["198.18.1.0/24", "198.18.2.0/24"]));
        end_of_ribs(&mut peer).await;

        agent.stop.send_replace(true);
        let (_, withdrawn, _) = body(peer.next_news().await);
        assert_eq!(withdrawn, set(&["198.18.1.0/24", "198.18.2.0/24"]));
        let cease = peer.notification().await;
        assert_eq!((cease.code, cease.subcode), (NotificationCode::Cease, 2));
        assert_eq!(&cease.data[1..], b"ETM is stopping");
        assert_eq!(peer.next().await, None);
    })
    .await;
}

/// A peer whose TCP takes no more, though its keepalives go on, must not keep overrides for ever.
#[tokio::test]
async fn a_peer_that_reads_nothing_is_given_up_after_the_send_hold_time() {
    let listener = Listener::with_receive_buffer(4096).await;
    inject(listener.addr(), async |mut agent: Agent| {
        let announcement = |i: u32| {
            let hop = RouteAttrs::to_next_hop(IpAddr::V4(Ipv4Addr::new(10, 9, 1, 2)));
            let attrs = Arc::new(RouteAttrs { med: Some(i), ..hop });
            let prefix = Prefix::new(IpAddr::V4(Ipv4Addr::from(0x6400_0000 + (i << 8))), 24).unwrap();
            (prefix, Announcement { exit: ExitId(0), attrs })
        };
        let announce = (0..20_000).map(announcement).collect();
        agent.decisions.send_replace(Arc::new(Decision {
            generation: Generation(1),
            announce,
            ..Decision::default()
        }));
        let mut peer = listener.establish().await;
        let start = Instant::now();
        let reason = loop {
            tokio::select! {
                reason = agent.down() => break reason,
                () = tokio::time::sleep(Duration::from_millis(300)) => {
                    let keepalive = wire::encode_message(&Message::Keepalive).unwrap();
                    // The session may be closed by now, which is what the test waits for.
                    drop(tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &keepalive).await);
                }
            }
        };
        assert!(reason.contains("read nothing for 6 s"), "{reason}");
        assert!(start.elapsed() >= Duration::from_secs(6), "{:?}", start.elapsed());
        assert_eq!(agent.status.borrow().told, None);
        agent.stop.send_replace(true);
    })
    .await;
}

#[tokio::test]
async fn an_inject_session_learns_nothing() {
    let listener = Listener::new().await;
    inject(listener.addr(), async |mut agent: Agent| {
        let mut peer = listener.establish().await;
        peer.send(&update(&[ORIGIN, AS_PATH, NEXT_HOP], &[[198, 18, 0]])).await;
        assert_eq!(agent.session().await, up());
        assert_eq!(agent.told().await, (Generation(0), 0));
        agent.decide(1, &["198.18.1.0/24"]);
        assert_eq!(agent.told().await, (Generation(1), 1));
        agent.stop.send_replace(true);
    })
    .await;
}

#[test]
fn next_hops_are_a_function_of_exit_and_family() {
    let v4: IpAddr = "192.0.2.1".parse().unwrap();
    let own: IpAddr = "192.0.2.9".parse().unwrap();
    let hops = NextHops {
        v4: Some(v4),
        v6: Some(v4),
        per_exit: [((ExitId(2), Family::V4), own)].into(),
        elsewhere: [ExitId(3)].into(),
    };
    assert_eq!(hops.of(ExitId(1), Family::V4, false), Some(v4));
    assert_eq!(hops.of(ExitId(2), Family::V4, false), Some(own));
    assert_eq!(hops.of(ExitId(2), Family::V6, false), None);
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let good = config("127.0.0.1:179".parse().unwrap());
    let inject = |next_hop: &str| {
        let out = OutPolicy { local_pref: 1_000_000, community: "64500:179".parse().unwrap() };
        InjectConfig::new(out, NextHops { v4: Some(next_hop.parse().unwrap()), ..NextHops::default() })
    };
    let hops = inject("192.0.2.1");
    assert_eq!(good.check_inject(&hops), Ok(()));
    let own = good.check_inject(&inject("127.0.0.1")).unwrap_err().to_string();
    assert!(own.contains("next hop 127.0.0.1 is the peer itself"), "{own}");
    let text = |change: fn(&mut SessionConfig)| {
        let mut config = good.clone();
        change(&mut config);
        config.check_inject(&hops).unwrap_err().to_string()
    };
    assert!(text(|config| config.hold_time = 2).contains("choose 3 s or more"));
    assert!(text(|config| config.router_id = RouterId(Ipv4Addr::UNSPECIFIED)).contains("bgp.router_id"));
    assert!(text(|config| config.local = Some("::1".parse().unwrap())).contains("different families"));
    assert!(text(|config| config.peer_as = Asn(64501)).contains("iBGP sessions only"));
}
