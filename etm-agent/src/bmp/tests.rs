//! The station against routers made of bytes, over loopback TCP.

use super::*;
use crate::core::input::{EffectiveChange, Input, RouteChange, SessionChange};
use crate::proto::bmp::PeerKey;
use crate::proto::bmp::tests::made::{bgp, bmp, end_of_rib, header, initiation, peer_up, update};
use crate::types::bmp::{MonitorState, RouterStatus};
use crate::types::{Family, PeerId, Timestamp};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

/// Longest time anything here may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn clock() -> Timestamp {
    Timestamp(1)
}

fn router() -> RouterConfig {
    let source = |peer: u16, last: u8, hops: &[&str]| SourceConfig {
        peer: PeerId(peer),
        name: format!("edge2/192.0.2.{last}"),
        key: PeerKey { address: [192, 0, 2, last].into(), distinguisher: 0 },
        provider: "transit-b".to_owned(),
        next_hops: hops.iter().map(|hop| hop.parse().unwrap()).collect(),
        own: "64500:179".parse().unwrap(),
    };
    RouterConfig {
        name: "edge2".to_owned(),
        address: [127, 0, 0, 1].into(),
        reach: Reach::Listen,
        view: View::PrePolicy,
        path_ids: None,
        quiet: None,
        sources: vec![source(4, 1, &["192.0.2.1"]), source(5, 2, &[])],
        watch: Some(Watch {
            peer: PeerId(1),
            session: "core".to_owned(),
            community: "64500:179".parse().unwrap(),
        }),
    }
}

/// A station with one router, and everything around it.
struct Scene {
    address: SocketAddr,
    inputs: mpsc::Receiver<Input>,
    status: watch::Receiver<RouterStatus>,
    stop: watch::Sender<bool>,
    parts: tokio::task::JoinSet<()>,
}

impl Scene {
    fn with(config: RouterConfig) -> Scene {
        // The port is free a moment later too: nothing else binds ports of 127.0.0.1 at random here.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let (inputs, received) = mpsc::channel(64);
        let (stop, stopped) = watch::channel(false);
        let (status, shown) = status_channel(&config, clock());
        let ports = Ports { inputs, status, stop: stopped.clone(), clock };
        let mut parts = tokio::task::JoinSet::new();
        for part in station(&[address], vec![(config, ports)], &stopped).unwrap() {
            parts.spawn(part);
        }
        Scene { address, inputs: received, status: shown, stop, parts }
    }

    async fn connect(&self, bytes: &[Vec<u8>]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&bytes.concat()).await.unwrap();
        stream
    }

    async fn next(&mut self) -> Input {
        tokio::time::timeout(PATIENCE, self.inputs.recv()).await.unwrap().unwrap()
    }

    async fn next_session(&mut self) -> (u16, SessionChange) {
        match self.next().await {
            Input::Session(event) => (event.peer.0, event.change),
            other => panic!("{other:?}"),
        }
    }

    async fn until(&mut self, holds: impl FnMut(&RouterStatus) -> bool) -> RouterStatus {
        tokio::time::timeout(PATIENCE, self.status.wait_for(holds)).await.unwrap().unwrap().clone()
    }

    async fn end(mut self) {
        self.stop.send(true).unwrap();
        while let Some(ended) = tokio::time::timeout(PATIENCE, self.parts.join_next()).await.unwrap() {
            ended.unwrap();
        }
    }
}

fn routes(last: u8, flags: u8, nlri: &[u8]) -> Vec<u8> {
    bmp(0, &[&header(0, flags, last), &update(&[], nlri)])
}

fn both() -> Vec<Family> {
    Family::ALL.to_vec()
}

#[tokio::test]
async fn a_monitored_peer_gives_the_events_of_a_learn_session() {
    let mut scene = Scene::with(router());
    let [end_v4, end_v6] = end_of_rib().map(|end| bmp(0, &[&header(0, 0, 1), &end]));
    let withdrawal = bmp(0, &[&header(0, 0, 1), &bgp(2, &[0, 4, 24, 198, 18, 5, 0, 0])]);
    let stats = bmp(1, &[&header(0, 0, 1), &[0, 0, 0, 1, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 3]]);
    let mut stream = scene
        .connect(&[
            initiation(),
            routes(1, 0, &[24, 198, 18, 4]),
            peer_up(&header(0, 0, 1), 0),
            routes(1, 0, &[24, 198, 18, 5]),
            routes(1, 0x40, &[24, 198, 18, 6]),
            routes(9, 0, &[24, 198, 18, 7]),
            peer_up(&header(0, 0, 9), 0),
            end_v4,
            end_v6,
            withdrawal,
            stats,
        ])
        .await;
    assert_eq!(scene.next_session().await, (4, SessionChange::Up { families: both() }));
    let Input::Routes(batch) = scene.next().await else { panic!() };
    let [RouteChange::Announce { prefix, .. }] = &batch.changes[..] else { panic!("{batch:?}") };
    assert_eq!((batch.peer.0, prefix.to_string().as_str()), (4, "198.18.5.0/24"));
    assert_eq!(scene.next_session().await, (4, SessionChange::EndOfRib(Family::V4)));
    assert_eq!(scene.next_session().await, (4, SessionChange::EndOfRib(Family::V6)));
    let Input::Routes(batch) = scene.next().await else { panic!() };
    assert!(matches!(&batch.changes[..], [RouteChange::Withdraw { .. }]));
    let status = scene.until(|status| status.messages.stats == 1).await;
    assert_eq!((status.state, status.sys_name.as_str()), (MonitorState::Monitoring, "edge2"));
    let messages = status.messages;
    assert_eq!((messages.routes, messages.ignored, messages.early), (4, 2, 1));
    assert_eq!(status.unnamed, ["192.0.2.9".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(status.sources[0].stats["adj-rib-in-routes"], 3);
    let down = bmp(2, &[&header(0, 0, 1), &[5]]);
    stream.write_all(&down).await.unwrap();
    let (peer, SessionChange::Down { reason }) = scene.next_session().await else { panic!() };
    assert_eq!((peer, reason.as_str()), (4, "the router no longer monitors the peer"));
    drop(stream);
    // The source that never came up is news as well: its table is unknown for another reason now.
    for _ in 0..2 {
        let (_, SessionChange::Down { reason }) = scene.next_session().await else { panic!() };
        assert_eq!(reason, "edge2: the router closed the connection");
    }
    scene.end().await;
}

#[tokio::test]
async fn a_route_through_another_providers_exit_is_no_candidate() {
    let mut scene = Scene::with(router());
    let attributes = [0x40, 3, 4, 192, 0, 2, 77];
    let foreign = [&[0x40, 1, 1, 0][..], &[0x40, 2, 6, 2, 1, 0, 0, 0xFC, 0x59], &attributes].concat();
    let mut body = vec![0, 0, 0, u8::try_from(foreign.len()).unwrap()];
    body.extend(foreign);
    body.extend([24, 198, 18, 5]);
    let route = bmp(0, &[&header(0, 0, 1), &bgp(2, &body)]);
    let _stream = scene.connect(&[initiation(), peer_up(&header(0, 0, 1), 0), route]).await;
    assert!(matches!(scene.next_session().await, (4, SessionChange::Up { .. })));
    let Input::Routes(batch) = scene.next().await else { panic!() };
    assert!(matches!(&batch.changes[..], [RouteChange::Withdraw { .. }]), "{batch:?}");
    let status = scene.until(|status| status.sources[0].foreign_next_hop > 0).await;
    assert_eq!(status.sources[0].announced_in, 0);
    scene.end().await;
}

#[tokio::test]
async fn a_loc_rib_proves_what_is_effective_and_its_silence_proves_nothing() {
    let mut scene = Scene::with(router());
    let loc_rib = |more: &[u8]| bmp(0, &[&header(3, 0, 0), &update(more, &[24, 198, 18, 5])]);
    let ours: &[u8] = &[0xC0, 8, 8, 0xFF, 0xFF, 0xFF, 0x01, 0xFB, 0xF4, 0, 179];
    let mut stream = scene.connect(&[initiation(), peer_up(&header(3, 0, 0), 0)]).await;
    let change = async |scene: &mut Scene| match scene.next().await {
        Input::Effective(event) => {
            assert_eq!(event.peer, PeerId(1));
            event.change
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(change(&mut scene).await, EffectiveChange::Watched);
    let route = |hop: Option<&str>| {
        let hop = hop.map(|hop| hop.parse().unwrap());
        EffectiveChange::Routes(vec![("198.18.5.0/24".parse().unwrap(), hop)])
    };
    stream.write_all(&[loc_rib(&[]), loc_rib(ours)].concat()).await.unwrap();
    assert_eq!(change(&mut scene).await, route(Some("192.0.2.1")));
    stream.write_all(&loc_rib(&[])).await.unwrap();
    assert_eq!(change(&mut scene).await, route(None));
    stream.write_all(&loc_rib(ours)).await.unwrap();
    assert_eq!(change(&mut scene).await, route(Some("192.0.2.1")));
    let withdrawal = bmp(0, &[&header(3, 0, 0), &bgp(2, &[0, 4, 24, 198, 18, 5, 0, 0])]);
    stream.write_all(&withdrawal).await.unwrap();
    assert_eq!(change(&mut scene).await, route(None));
    stream.write_all(&bmp(5, &[&[0, 1, 0, 2, 0, 0]])).await.unwrap();
    let mut unknown = false;
    for _ in 0..3 {
        unknown |= matches!(scene.next().await, Input::Effective(e) if e.change == EffectiveChange::Unknown);
    }
    assert!(unknown);
    let fault = scene.until(|status| status.last_fault.is_some()).await.last_fault.unwrap();
    assert_eq!(fault.text, "the router ended monitoring: administratively closed");
    scene.end().await;
}

#[tokio::test]
async fn an_unreadable_update_takes_down_its_peer_alone() {
    let mut scene = Scene::with(router());
    // NLRI of 33 bits: RFC 4271 section 6.3 resets a session for it.
    let broken = bmp(0, &[&header(0, 0, 1), &update(&[], &[33, 198, 18, 5, 0, 0])]);
    let _stream = scene
        .connect(&[
            initiation(),
            peer_up(&header(0, 0, 1), 0),
            peer_up(&header(0, 0, 2), 0),
            routes(2, 0, &[24, 198, 18, 5]),
            broken,
            routes(2, 0, &[24, 198, 18, 6]),
        ])
        .await;
    assert!(matches!(scene.next_session().await, (4, SessionChange::Up { .. })));
    assert!(matches!(scene.next_session().await, (5, SessionChange::Up { .. })));
    let (peer, SessionChange::Down { reason }) = scene.next_session().await else { panic!() };
    assert!(peer == 4 && reason.contains("cannot be read"), "{reason}");
    let Input::Routes(batch) = scene.next().await else { panic!() };
    assert_eq!((batch.peer.0, batch.changes.len()), (5, 2));
    scene.end().await;
}

#[tokio::test]
async fn strangers_and_other_protocols_are_sent_away() {
    let mut config = router();
    config.address = [127, 0, 0, 7].into();
    let scene = Scene::with(config);
    let mut stranger = scene.connect(&[initiation()]).await;
    let mut byte = [0];
    let closed = tokio::time::timeout(PATIENCE, stranger.read(&mut byte)).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)));
    assert_eq!(scene.status.borrow().connections, 0);
    scene.end().await;
    let mut scene = Scene::with(router());
    for (bytes, part) in [
        (b"GET / HTTP/1.0".to_vec(), "version 71 where 3 is expected"),
        (peer_up(&header(0, 0, 1), 0), "the first message is not Initiation"),
    ] {
        let _stream = scene.connect(&[bytes]).await;
        let told =
            |status: &RouterStatus| status.last_fault.as_ref().is_some_and(|last| last.text.contains(part));
        scene.until(told).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn the_newest_connection_of_a_router_wins() {
    let mut scene = Scene::with(router());
    let _former = scene.connect(&[initiation(), peer_up(&header(0, 0, 1), 0)]).await;
    assert!(matches!(scene.next_session().await, (4, SessionChange::Up { .. })));
    let _newer = scene.connect(&[initiation(), peer_up(&header(0, 0, 1), 0)]).await;
    let (_, SessionChange::Down { reason }) = scene.next_session().await else { panic!() };
    assert_eq!(reason, "edge2: the router connected anew");
    loop {
        // The other source is told the same.
        if let (4, SessionChange::Up { .. }) = scene.next_session().await {
            break;
        }
    }
    assert_eq!(scene.status.borrow().connections, 2);
    scene.end().await;
}

#[tokio::test]
async fn silence_stands_for_end_of_rib_only_where_configured() {
    let mut config = router();
    config.quiet = Some(Duration::from_secs(1));
    let mut scene = Scene::with(config);
    let _stream =
        scene.connect(&[initiation(), peer_up(&header(0, 0, 1), 0), routes(1, 0, &[24, 198, 18, 5])]).await;
    assert!(matches!(scene.next_session().await, (4, SessionChange::Up { .. })));
    assert!(matches!(scene.next().await, Input::Routes(_)));
    assert_eq!(scene.next_session().await, (4, SessionChange::EndOfRib(Family::V4)));
    assert_eq!(scene.next_session().await, (4, SessionChange::EndOfRib(Family::V6)));
    scene.end().await;
}

#[tokio::test]
async fn a_busy_decision_holds_the_router_back() {
    let mut scene = Scene::with(router());
    let mut stream = scene.connect(&[initiation(), peer_up(&header(0, 0, 1), 0)]).await;
    let one = routes(1, 0, &[24, 198, 18, 5]);
    // Whatever fits into both socket buffers and the queue does; the rest must wait.
    let chunk: Vec<u8> = one.iter().copied().cycle().take(one.len() * 10_000).collect();
    let mut written = 0;
    while tokio::time::timeout(Duration::from_secs(1), stream.write_all(&chunk)).await.is_ok() {
        written += chunk.len();
        assert!(written < 200 << 20, "nothing holds the router back");
    }
    let before = scene.status.borrow().bytes_in;
    // Once the decision listens again, so does the station.
    while scene.status.borrow().bytes_in <= before {
        scene.next().await;
    }
    scene.end().await;
}
