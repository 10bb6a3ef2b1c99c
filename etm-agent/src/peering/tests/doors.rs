//! Sessions that peers open, collisions, keys, restarts, limits and orders, against a scripted peer.

use super::peer::{Listener, Peer, open, open_with, update};
use super::{AS_PATH, Agent, NEXT_HOP, ORIGIN, config, end_of_ribs, ports, up};
use crate::core::input::{Input, SessionChange};
use crate::peering::{
    Arrival, Auth, Beyond, Connect, Doors, Import, MaxRoutes, Order, Reach, Secret, SessionConfig,
    run_learn_with,
};
use crate::types::bgp::{BgpRole, Initiator, SessionState};
use crate::types::{Asn, Family};
use rustbgpd_wire as wire;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use wire::{Afi, Capability, Message, NotificationCode, Safi};

const HIGHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);
const LOWER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// Runs a learn session with doors beside a script.
async fn doors<S: Future<Output = ()>>(
    config: SessionConfig,
    script: impl FnOnce(Agent, mpsc::Sender<Arrival>, mpsc::Sender<Order>) -> S,
) {
    let (agent, ports) = ports(&config, 64);
    let (arrivals, arrivals_rx) = mpsc::channel(2);
    let (orders, orders_rx) = mpsc::channel(2);
    let doors = Doors { arrivals: Some(arrivals_rx), orders: Some(orders_rx) };
    let ended = async { tokio::join!(run_learn_with(config, ports, doors), script(agent, arrivals, orders)) };
    timeout(Duration::from_secs(60), ended).await.expect("the session does not end");
}

/// A connection from the peer's side, and the end of it that the listener would hand over.
async fn connection() -> (Peer, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (stream, accepted) = tokio::join!(dialled, listener.accept());
    (Peer::of(stream.unwrap()), accepted.unwrap().0)
}

fn passive() -> SessionConfig {
    let mut config = config("127.0.0.1:179".parse().unwrap());
    config.connect = Connect::Passive;
    config.local = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    config
}

#[tokio::test]
async fn a_passive_session_waits_and_takes_the_peer_in() {
    doors(passive(), async |mut agent: Agent, arrivals, _orders| {
        let mut status = agent.status.clone();
        status.wait_for(|now| now.state == SessionState::Active).await.unwrap();
        let (mut peer, stream) = connection().await;
        arrivals.send(Arrival::Stream(stream)).await.unwrap();
        peer.establish(&open(64500, LOWER)).await;
        assert_eq!(agent.session().await, up());
        assert_eq!(agent.status.borrow().initiator, Some(Initiator::Peer));
        assert!(agent.status.borrow().theirs.contains(&"route-refresh".to_owned()));
        drop(peer);
        agent.down().await;
        let (mut peer, stream) = connection().await;
        arrivals.send(Arrival::Stream(stream)).await.unwrap();
        peer.establish(&open(64500, LOWER)).await;
        assert_eq!(agent.session().await, up());
        agent.stop.send_replace(true);
    })
    .await;
}

#[tokio::test]
async fn a_listener_takes_in_its_peers_and_nobody_else() {
    let mut known = passive();
    known.local = Some("127.0.0.179".parse().unwrap());
    known.remote = "127.0.0.180".parse().unwrap();
    let (listeners, mut arrivals) = crate::peering::Listener::of(std::slice::from_ref(&known), 41_179);
    let [listener] = <[_; 1]>::try_from(listeners).unwrap();
    let (stop, stopped) = watch::channel(false);
    let script = async {
        let dial = async |from: &str| loop {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
            // The listener may not be there yet.
            if let Ok(stream) = socket.connect("127.0.0.179:41179".parse().unwrap()).await {
                break stream;
            }
            tokio::task::yield_now().await;
        };
        let mut stranger = Peer::of(dial("127.0.0.181").await);
        assert_eq!(stranger.next().await, None);
        let _peer = dial("127.0.0.180").await;
        let arrival = arrivals.get_mut(&0).unwrap().recv().await;
        assert!(matches!(arrival, Some(Arrival::Stream(_))), "{arrival:?}");
        let other = tokio::net::TcpSocket::new_v4().unwrap();
        let elsewhere = other.connect("127.0.0.178:41179".parse().unwrap()).await;
        assert!(elsewhere.is_err(), "it listens on addresses that are not configured");
        stop.send_replace(true);
    };
    timeout(Duration::from_secs(20), async { tokio::join!(listener.run(stopped), script) }).await.unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_told() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let (listeners, mut arrivals) = crate::peering::Listener::of(&[passive()], port);
    let (stop, stopped) = watch::channel(false);
    let told = async {
        let Some(Arrival::Fault(fault)) = arrivals.get_mut(&0).unwrap().recv().await else {
            panic!("no fault")
        };
        stop.send_replace(true);
        fault.to_string()
    };
    let listener = listeners.into_iter().next().unwrap();
    let ((), text) = tokio::join!(listener.run(stopped), told);
    assert!(text.contains("strict bind") && text.contains("listen_port"), "{text}");
}

/// Both ends connect at once; whoever has the higher identifier keeps the connection it opened.
#[tokio::test]
async fn of_two_connections_one_is_kept_by_identifier() {
    for (id, kept) in [(HIGHER, Initiator::Peer), (LOWER, Initiator::Us)] {
        let listener = Listener::new().await;
        let mut both = config(listener.addr());
        both.connect = Connect::Both;
        both.local = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        doors(both, async |mut agent: Agent, arrivals, _orders| {
            let mut ours = listener.accept().await;
            let (mut theirs, stream) = connection().await;
            arrivals.send(Arrival::Stream(stream)).await.unwrap();
            for peer in [&mut ours, &mut theirs] {
                assert!(matches!(peer.next().await, Some(Message::Open(_))));
                peer.send(&open(64500, id)).await;
            }
            let (winner, loser) =
                if kept == Initiator::Us { (&mut ours, &mut theirs) } else { (&mut theirs, &mut ours) };
            let cease = loser.notification().await;
            assert_eq!((cease.code, cease.subcode), (NotificationCode::Cease, 7), "{kept:?}");
            assert_eq!(winner.next().await, Some(Message::Keepalive));
            winner.send(&Message::Keepalive).await;
            assert_eq!(agent.session().await, up());
            assert_eq!(agent.status.borrow().initiator, Some(kept));
            agent.stop.send_replace(true);
        })
        .await;
    }
}

#[tokio::test]
async fn an_established_session_is_kept_when_its_peer_connects_again() {
    doors(passive(), async |mut agent: Agent, arrivals, _orders| {
        let (mut peer, stream) = connection().await;
        arrivals.send(Arrival::Stream(stream)).await.unwrap();
        peer.establish(&open(64500, LOWER)).await;
        assert_eq!(agent.session().await, up());
        let (mut second, stream) = connection().await;
        arrivals.send(Arrival::Stream(stream)).await.unwrap();
        second.send(&open(64500, LOWER)).await;
        assert_eq!(second.notification().await.subcode, 7);
        peer.send(&update(&[ORIGIN, AS_PATH, NEXT_HOP], &[[198, 18, 0]])).await;
        assert!(matches!(agent.input().await, Input::Routes(_)));
        agent.stop.send_replace(true);
    })
    .await;
}

fn restarting(time: u16, forwarding: bool) -> Vec<Capability> {
    vec![Capability::GracefulRestart {
        restart_state: forwarding,
        notification: false,
        restart_time: time,
        families: vec![wire::GracefulRestartFamily {
            afi: Afi::Ipv4,
            safi: Safi::Unicast,
            forwarding_preserved: forwarding,
        }],
    }]
}

/// Up, one route, End-of-RIB, then the connection breaks without a word.
async fn up_and_gone(agent: &mut Agent, listener: &Listener, capabilities: Vec<Capability>) {
    let mut peer = listener.accept().await;
    peer.establish(&open_with(64500, LOWER, capabilities)).await;
    peer.send(&update(&[ORIGIN, AS_PATH, NEXT_HOP], &[[198, 18, 0]])).await;
    peer.send(&update(&[], &[])).await;
    assert_eq!(agent.session().await, up());
    assert!(matches!(agent.input().await, Input::Routes(_)));
    assert_eq!(agent.session().await, SessionChange::EndOfRib(Family::V4));
}

#[tokio::test]
async fn routes_of_a_restarting_peer_are_kept_and_swept_at_its_end_of_rib() {
    let listener = Listener::new().await;
    doors(config(listener.addr()), async |mut agent: Agent, _arrivals, _orders| {
        up_and_gone(&mut agent, &listener, restarting(60, false)).await;
        let SessionChange::Retained { families, .. } = agent.session().await else { panic!("not retained") };
        assert_eq!(families, [Family::V4]);
        assert_eq!(agent.status.borrow().stale, [Family::V4]);
        let mut peer = listener.accept().await;
        peer.establish(&open_with(64500, LOWER, restarting(60, true))).await;
        assert_eq!(agent.session().await, up());
        peer.send(&update(&[], &[])).await;
        assert_eq!(agent.session().await, SessionChange::Sweep(Family::V4));
        assert_eq!(agent.session().await, SessionChange::EndOfRib(Family::V4));
        // The second time it has lost its forwarding state, and says so.
        drop(peer);
        assert!(matches!(agent.session().await, SessionChange::Retained { .. }));
        let mut peer = listener.accept().await;
        peer.establish(&open_with(64500, LOWER, restarting(60, false))).await;
        assert_eq!(agent.session().await, up());
        assert_eq!(agent.session().await, SessionChange::Sweep(Family::V4));
        agent.stop.send_replace(true);
    })
    .await;
}

#[tokio::test]
async fn routes_of_a_peer_that_does_not_come_back_are_swept_in_time() {
    let listener = Listener::new().await;
    doors(config(listener.addr()), async |mut agent: Agent, _arrivals, _orders| {
        up_and_gone(&mut agent, &listener, restarting(1, false)).await;
        assert!(matches!(agent.session().await, SessionChange::Retained { .. }));
        drop(listener);
        loop {
            match agent.session().await {
                SessionChange::Sweep(Family::V4) => break,
                SessionChange::Down { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        agent.stop.send_replace(true);
    })
    .await;
}

/// RFC 4724 section 4: who says a NOTIFICATION does not restart.
#[tokio::test]
async fn a_notification_voids_all_routes_of_a_peer_that_can_restart() {
    let listener = Listener::new().await;
    doors(config(listener.addr()), async |mut agent: Agent, _arrivals, _orders| {
        let mut peer = listener.accept().await;
        peer.establish(&open_with(64500, LOWER, restarting(60, false))).await;
        assert_eq!(agent.session().await, up());
        let text = wire::notification::encode_shutdown_communication("maintenance");
        let cease = wire::NotificationMessage::new(NotificationCode::Cease, 2, text);
        peer.send(&Message::Notification(cease)).await;
        let reason = agent.down().await;
        assert!(reason.contains("administrative shutdown") && reason.contains("\"maintenance\""), "{reason}");
        agent.stop.send_replace(true);
    })
    .await;
}

/// RFC 4724 section 4.2: a peer that connects anew has restarted, whatever our TCP still believes.
#[tokio::test]
async fn a_restarted_peer_replaces_its_own_session() {
    doors(passive(), async |mut agent: Agent, arrivals, _orders| {
        let (mut old, stream) = connection().await;
        arrivals.send(Arrival::Stream(stream)).await.unwrap();
        old.establish(&open_with(64500, LOWER, restarting(60, false))).await;
        assert_eq!(agent.session().await, up());
        let (mut new, stream) = connection().await;
        arrivals.send(Arrival::Stream(stream)).await.unwrap();
        new.establish(&open_with(64500, LOWER, restarting(60, true))).await;
        assert!(matches!(agent.session().await, SessionChange::Retained { .. }));
        assert_eq!(agent.session().await, up());
        agent.stop.send_replace(true);
    })
    .await;
}

#[tokio::test]
async fn an_enhanced_refresh_sweeps_what_is_not_said_again() {
    let listener = Listener::new().await;
    doors(config(listener.addr()), async |mut agent: Agent, _arrivals, orders| {
        let mut peer = listener.accept().await;
        peer.establish(&open_with(64500, LOWER, vec![Capability::EnhancedRouteRefresh])).await;
        assert_eq!(agent.session().await, up());
        end_of_ribs(&mut peer).await;
        orders.send(Order::Refresh(Some(Family::V6))).await.unwrap();
        let Some(Message::RouteRefresh(asked)) = peer.next_news().await else { panic!("no request") };
        assert_eq!((asked.afi(), asked.subtype_raw), (Some(Afi::Ipv6), 0));
        let mark = |subtype| {
            let refresh = wire::RouteRefreshMessage::new_with_subtype(Afi::Ipv4, Safi::Unicast, subtype);
            Message::RouteRefresh(refresh)
        };
        peer.send(&update(&[ORIGIN, AS_PATH, NEXT_HOP], &[[198, 18, 0]])).await;
        peer.send(&mark(wire::RouteRefreshSubtype::BoRR)).await;
        peer.send(&update(&[ORIGIN, AS_PATH, NEXT_HOP], &[[198, 18, 1]])).await;
        peer.send(&mark(wire::RouteRefreshSubtype::EoRR)).await;
        assert!(matches!(agent.input().await, Input::Routes(_)), "order is kept");
        assert_eq!(agent.session().await, SessionChange::Refreshing(Family::V4));
        assert!(matches!(agent.input().await, Input::Routes(_)));
        assert_eq!(agent.session().await, SessionChange::Sweep(Family::V4));
        agent.stop.send_replace(true);
    })
    .await;
}

#[tokio::test]
async fn too_many_routes_end_the_session_or_are_dropped() {
    for beyond in [Beyond::Restart(Duration::from_millis(200)), Beyond::Down, Beyond::Drop] {
        let listener = Listener::new().await;
        let mut limited = config(listener.addr());
        limited.max_routes = Some(MaxRoutes { limit: 2, warn_at: 1, beyond });
        doors(limited, async |mut agent: Agent, _arrivals, orders| {
            let mut peer = listener.establish().await;
            peer.send(&update(&[ORIGIN, AS_PATH, NEXT_HOP], &[[198, 18, 0], [198, 18, 1], [198, 18, 2]]))
                .await;
            if beyond == Beyond::Drop {
                assert_eq!(agent.session().await, up());
                let Input::Routes(batch) = agent.input().await else { panic!("no routes") };
                assert_eq!(batch.changes.len(), 2);
                let mut status = agent.status.clone();
                status.wait_for(|now| now.held == Some(2) && now.dispositions.over_limit == 1).await.unwrap();
            } else {
                let cease = peer.notification().await;
                assert_eq!((cease.code, cease.subcode), (NotificationCode::Cease, 1));
                assert_eq!(&cease.data[..], [0, 1, 1, 0, 0, 0, 2]);
                drop(peer);
                let reason = agent.down().await;
                assert!(reason.contains("3 routes, 2 are allowed"), "{reason}");
                if beyond == Beyond::Down {
                    let again = timeout(Duration::from_millis(500), listener.accept()).await;
                    assert!(again.is_err(), "it came back by itself");
                    orders.send(Order::Reset(String::new())).await.unwrap();
                }
                let _peer = listener.establish().await;
            }
            agent.stop.send_replace(true);
        })
        .await;
    }
}

#[tokio::test]
async fn operators_reset_shut_down_and_start_with_a_word_to_the_peer() {
    let listener = Listener::new().await;
    doors(config(listener.addr()), async |mut agent: Agent, _arrivals, orders| {
        let mut peer = listener.establish().await;
        orders.send(Order::Reset("new policy".to_owned())).await.unwrap();
        let cease = peer.notification().await;
        assert_eq!((cease.subcode, &cease.data[1..]), (4, &b"new policy"[..]));
        drop(peer);
        assert!(agent.down().await.contains("reset by an operator"));
        let mut peer = listener.establish().await;
        orders.send(Order::Shutdown("back at 9".to_owned())).await.unwrap();
        let cease = peer.notification().await;
        assert_eq!((cease.subcode, &cease.data[1..]), (2, &b"back at 9"[..]));
        drop(peer);
        assert!(agent.down().await.contains("shut down by an operator"));
        assert!(timeout(Duration::from_millis(300), listener.accept()).await.is_err());
        orders.send(Order::Start).await.unwrap();
        let _peer = listener.establish().await;
        agent.stop.send_replace(true);
    })
    .await;
}

/// The kernel's MD5 signatures work over loopback; a wrong key is silence.
#[tokio::test]
async fn keys_let_their_holder_in_and_a_wrong_one_is_suspected() {
    let key = |text: &str| Auth::Md5(Secret::new(text.as_bytes()).unwrap());
    for (theirs, works) in [("s3cret", true), ("other", false)] {
        let mut listening = passive();
        listening.local = Some("127.0.0.190".parse().unwrap());
        listening.remote = "127.0.0.191".parse().unwrap();
        listening.transport.auth = key("s3cret");
        listening.transport.reach = Reach::Gtsm(1);
        let (listeners, mut arrivals) =
            crate::peering::Listener::of(std::slice::from_ref(&listening), 41_190);
        let listener = listeners.into_iter().next().unwrap();
        let mut dialling = config("127.0.0.190:41190".parse().unwrap());
        dialling.local = Some("127.0.0.191".parse().unwrap());
        dialling.transport.auth = key(theirs);
        dialling.transport.reach = Reach::Gtsm(1);
        dialling.connect_timeout = Duration::from_millis(500);
        dialling.retry_min = Duration::from_millis(50);
        assert_eq!(dialling.transport.words(), "tcp-md5 gtsm");
        let (stop, stopped) = watch::channel(false);
        let script = async {
            doors(dialling, async |mut agent: Agent, _arrivals, _orders| {
                if works {
                    let accept = arrivals.get_mut(&0).unwrap().recv();
                    let Some(Arrival::Stream(stream)) = accept.await else { panic!("no connection") };
                    let mut peer = Peer::of(stream);
                    peer.establish(&open(64500, LOWER)).await;
                    while agent.session().await != up() {}
                } else {
                    let mut reason = agent.down().await;
                    if reason.contains("refused") {
                        // The listener was not there yet.
                        reason = agent.down().await;
                    }
                    assert!(reason.contains("with tcp-md5 on, a wrong or missing key"), "{reason}");
                }
                agent.stop.send_replace(true);
            })
            .await;
            stop.send_replace(true);
        };
        timeout(Duration::from_secs(30), async { tokio::join!(listener.run(stopped), script) })
            .await
            .unwrap();
    }
}

/// TCP-AO works, or its absence is named with what to do.
#[tokio::test]
async fn tcp_ao_is_tried_and_its_absence_is_named() {
    let listener = Listener::new().await;
    let mut config = config(listener.addr());
    let key = Secret::new(b"0123456789abcdef").unwrap();
    config.transport.auth = Auth::Ao { key, id: 1, algorithm: "hmac(sha1)".to_owned() };
    config.connect_timeout = Duration::from_millis(300);
    doors(config, async |mut agent: Agent, _arrivals, _orders| {
        let reason = agent.down().await;
        let without = reason.contains("setting TCP-AO") && reason.contains("CONFIG_TCP_AO");
        // With it our listener here, which has no key, does not answer.
        let with = reason.contains("with tcp-ao on, a wrong or missing key");
        assert!(without || with, "{reason}");
        println!("{reason}");
        agent.stop.send_replace(true);
    })
    .await;
}

#[tokio::test]
async fn an_external_peer_needs_a_policy_and_a_role_that_fits() {
    let external = |remote: SocketAddr, import: Import, role: Option<BgpRole>| {
        let mut config = config(remote);
        config.peer_as = Asn(64601);
        config.import = import;
        config.role = role;
        config
    };
    let accept = Import { accept: true, ..Import::default() };
    for (import, role, theirs, taken) in [
        (Import { accept: false, ..accept }, None, None, Some(0)),
        (accept, None, None, Some(1)),
        (accept, Some(BgpRole::Customer), Some(wire::BgpRole::Provider), Some(1)),
        (accept, Some(BgpRole::Customer), Some(wire::BgpRole::Customer), None),
    ] {
        let listener = Listener::new().await;
        doors(external(listener.addr(), import, role), async |mut agent: Agent, _arrivals, _orders| {
            let mut peer = listener.accept().await;
            let capabilities = theirs.map(|role| Capability::Role { role });
            peer.send(&open_with(64601, LOWER, capabilities.into_iter().collect())).await;
            let Some(taken) = taken else {
                assert_eq!(peer.notification().await.subcode, 11);
                drop(peer);
                assert!(agent.down().await.contains("our BGP role is customer"));
                agent.stop.send_replace(true);
                return;
            };
            peer.send(&Message::Keepalive).await;
            peer.send(&update(&[ORIGIN, AS_PATH, NEXT_HOP], &[[198, 18, 0]])).await;
            peer.send(&update(&[], &[])).await;
            let mut announced = 0;
            loop {
                match agent.input().await {
                    Input::Routes(batch) => announced += batch.changes.len(),
                    Input::Session(event) if matches!(event.change, SessionChange::EndOfRib(_)) => break,
                    _ => {}
                }
            }
            let mut status = agent.status.clone();
            let refused = u64::from(taken == 0);
            status.wait_for(|now| now.dispositions.no_policy == refused).await.unwrap();
            let routes = announced - usize::from(taken == 0);
            assert_eq!(routes, taken);
            agent.stop.send_replace(true);
        })
        .await;
    }
}
