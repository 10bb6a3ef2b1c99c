//! Public BGP fuzz corpora, captured streams and recorded churn through ETM's real sessions over TCP: no panic, no memory
//! that grows, a session that ends exactly where RFC 4271 and RFC 7606 say, and a bystander that never notices. Needs the
//! data beside the project; without it every test says SKIP and why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

mod data;
mod judge;
mod peer;

use std::collections::BTreeMap;
use std::time::Duration;

use etm_agent::core::input::{Input, RouteChange, SessionChange};
use etm_agent::peering::{Import, Ports, SessionConfig, run_learn, status_channel};
use etm_agent::types::bgp::PeerStatus;
use etm_agent::types::{Asn, PeerId, RouterId, Timestamp};
use etm_tests::clock::boottime_ns;
use judge::Verdict;
use peer::{Listener, Peer};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const OUR_AS: u32 = 64500;
const PATIENCE: Duration = Duration::from_secs(20);

fn clock() -> Timestamp {
    Timestamp(boottime_ns())
}

/// A running session and what it tells.
struct Session {
    inputs: mpsc::Receiver<Input>,
    status: watch::Receiver<PeerStatus>,
    stop: watch::Sender<bool>,
}

fn session(listener: &Listener, peer_as: u32) -> (Session, impl Future<Output = ()>) {
    let remote = listener.addr();
    let router_id = RouterId("10.0.0.179".parse().unwrap());
    let mut config =
        SessionConfig::new(PeerId(0), "hostile", remote.ip(), Asn(OUR_AS), Asn(peer_as), router_id);
    config.port = remote.port();
    config.retry_min = Duration::from_millis(1);
    config.retry_max = Duration::from_millis(1);
    config.hold_time = 30;
    config.import = Import { accept: true, first_as: false, link_local: false, own: None };
    let (sender, inputs) = mpsc::channel(4096);
    let (writer, status) = status_channel(&config, clock());
    let (stop, stopped) = watch::channel(false);
    let running = run_learn(config, Ports { inputs: sender, status: writer, stop: stopped, clock });
    (Session { inputs, status, stop }, running)
}

/// What came of some hostile bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The session ended, with this NOTIFICATION or without any.
    Ended(Option<(u8, u8)>),
    /// It goes on: what was said afterwards has arrived.
    Stayed,
    /// It waits for the rest of a message.
    Waits,
}

impl Session {
    /// Waits for the route of `probe`, or for the end of the session.
    async fn settle(&mut self, peer: &mut Peer, probe: &str, waits: bool) -> Outcome {
        let ended = async {
            loop {
                match peer.next().await {
                    Some((3, body)) => break Outcome::Ended(Some((body[0], body[1]))),
                    Some(_) => {}
                    None => break Outcome::Ended(None),
                }
            }
        };
        let arrived = async {
            loop {
                let Some(Input::Routes(batch)) = self.inputs.recv().await else { continue };
                let is_probe = |change: &RouteChange| matches!(change, RouteChange::Announce { prefix, .. } if prefix.to_string() == probe);
                if batch.changes.iter().any(is_probe) {
                    break Outcome::Stayed;
                }
            }
        };
        let limit = if waits { Duration::from_millis(20) } else { PATIENCE };
        let settled = async {
            tokio::select! {
                outcome = ended => outcome,
                outcome = arrived => outcome,
            }
        };
        timeout(limit, settled).await.unwrap_or(Outcome::Waits)
    }
}

/// A session that must never notice what happens to the other one.
async fn bystander(mut stop: watch::Receiver<bool>) {
    let listener = Listener::new().await;
    let (mut session, running) = session(&listener, OUR_AS);
    let script = async {
        let mut peer = listener.accept().await;
        peer.establish(OUR_AS, true).await;
        let mut sent = 0_u32;
        while !*stop.borrow() {
            sent += 1;
            let (prefix, update) = peer::probe(sent);
            peer.send(&update).await;
            let arrived = session.settle(&mut peer, &prefix, false).await;
            assert_eq!(arrived, Outcome::Stayed, "the bystander's session");
            drop(timeout(Duration::from_millis(50), stop.changed()).await);
        }
        assert_eq!(session.status.borrow().established, 1, "the bystander's session flapped");
        session.stop.send_replace(true);
    };
    tokio::join!(running, script);
}

/// One piece of hostile bytes, sent once the session is up.
async fn try_one(
    (session, listener): (&mut Session, &Listener),
    peer_as: u32,
    bytes: &[u8],
    number: u32,
) -> Outcome {
    let mut peer = listener.accept().await;
    peer.establish(peer_as, true).await;
    let verdict = judge::stream(bytes);
    peer.send(bytes).await;
    let (prefix, probe) = peer::probe(number);
    peer.send(&probe).await;
    let outcome = session.settle(&mut peer, &prefix, verdict == Verdict::Incomplete).await;
    let right = match verdict {
        Verdict::Ends => matches!(outcome, Outcome::Ended(_)),
        Verdict::Stays => outcome == Outcome::Stayed,
        // The probe completed the message, which then was what it was.
        Verdict::Incomplete | Verdict::Either => true,
    };
    assert!(right, "{verdict:?} expected, {outcome:?} came; {:?}; {bytes:02x?}", session.status.borrow());
    outcome
}

/// Runs every piece against sessions of both kinds, beside a bystander.
fn run(pieces: &[Vec<u8>]) {
    let memory = data::resident_kb();
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    let all = async {
        let (stop, stopped) = watch::channel(false);
        let hostile = async {
            for peer_as in [OUR_AS, 64601] {
                let listener = Listener::new().await;
                let (mut session, running) = session(&listener, peer_as);
                let script = async {
                    for (number, bytes) in (1..).zip(pieces) {
                        let outcome = try_one((&mut session, &listener), peer_as, bytes, number).await;
                        *outcomes.entry(outcome).or_default() += 1;
                        while session.inputs.try_recv().is_ok() {}
                    }
                    session.stop.send_replace(true);
                };
                tokio::join!(running, script);
            }
            stop.send_replace(true);
        };
        tokio::join!(hostile, bystander(stopped));
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(all);
    let grown = data::resident_kb().saturating_sub(memory);
    println!("{} pieces, each on iBGP and on eBGP; resident memory grew by {grown} kB", pieces.len());
    outcomes.iter().for_each(|(outcome, count)| println!("{count:6} {outcome:?}"));
    assert!(grown < 64 * 1024, "{grown} kB");
}

/// Each file as it is, and as the body of an UPDATE.
#[test]
fn fuzz_corpora_end_a_session_only_where_the_rfcs_say() {
    let Some(files) = data::archive("bgp-adversarial/corpi-dev.tar.zst") else { return };
    let mut pieces: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| bytes.clone()).collect();
    pieces.extend(files.iter().filter_map(|(_, bytes)| judge::as_update(bytes)));
    run(&pieces);
}

/// Each message of the captured streams, on its own.
#[test]
fn messages_of_captured_streams_end_a_session_only_where_the_rfcs_say() {
    let Some(files) = data::archive("bgp-adversarial/bgp-streams-dev.tar.zst") else { return };
    let messages: Vec<Vec<u8>> = files.iter().flat_map(|(_, bytes)| judge::messages(bytes)).collect();
    assert!(messages.len() > 1000, "{} messages", messages.len());
    run(&messages);
}

/// The same bytes before any OPEN: whatever it is, the session ends it and tries again.
#[test]
fn whatever_speaks_first_is_survived() {
    let Some(files) = data::archive("bgp-adversarial/corpi-dev.tar.zst") else { return };
    let Some(streams) = data::archive("bgp-adversarial/bgp-streams-dev.tar.zst") else { return };
    let work = async {
        let listener = Listener::new().await;
        let (mut session, running) = session(&listener, OUR_AS);
        let script = async {
            for (_, bytes) in files.iter().chain(&streams) {
                let mut peer = listener.accept().await;
                peer.send(bytes).await;
                peer.finish().await;
                while session.inputs.try_recv().is_ok() {}
            }
            let mut peer = listener.accept().await;
            peer.establish(OUR_AS, true).await;
            let (prefix, probe) = peer::probe(1);
            peer.send(&probe).await;
            assert_eq!(session.settle(&mut peer, &prefix, false).await, Outcome::Stayed);
            session.stop.send_replace(true);
        };
        tokio::join!(running, script);
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(work);
    println!("{} first words", files.len() + streams.len());
}

/// Recorded churn of public collectors: nothing of it ends a session, and every route of it arrives.
#[test]
fn recorded_churn_arrives_whole() {
    for name in data::UPDATES {
        let Some(recorded) = data::recorded(name) else { return };
        for (as4, updates) in [(true, &recorded.as4), (false, &recorded.as2)] {
            if updates.is_empty() {
                continue;
            }
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let (status, took) = builder.enable_all().build().unwrap().block_on(churn(updates, as4));
            let (announced, withdrawn) = judge::count(updates);
            println!(
                "{name}: {} UPDATEs in {took:?}, {announced} announced, {withdrawn} withdrawn; {:?}",
                updates.len(),
                status.dispositions
            );
            let counted = status.traffic.announced_in + status.traffic.withdrawn_in;
            assert_eq!(counted, announced + withdrawn, "{name}");
            assert_eq!(status.dispositions.session_reset, 0, "{name}");
        }
    }
}

/// NLRI that ends within a prefix is the end of the session (RFC 7606 section 5.3), host bits or not.
#[test]
fn a_recorded_update_that_is_cut_ends_the_session() {
    let Some(recorded) = data::recorded(data::CUT) else { return };
    assert_eq!(recorded.as2.iter().map(|update| judge::stream(update)).collect::<Vec<_>>(), [Verdict::Ends]);
    run(&recorded.as2);
}

async fn churn(updates: &[Vec<u8>], as4: bool) -> (PeerStatus, Duration) {
    let listener = Listener::new().await;
    let (mut session, running) = session(&listener, 64601);
    let script = async {
        let mut peer = listener.accept().await;
        peer.establish(64601, as4).await;
        let start = std::time::Instant::now();
        let send = async {
            for update in updates {
                peer.send(update).await;
            }
            peer.send(&peer::end_of_rib()).await;
        };
        let receive = async {
            loop {
                match session.inputs.recv().await.unwrap() {
                    Input::Session(event) => match event.change {
                        SessionChange::EndOfRib(_) => break,
                        SessionChange::Down { reason } => panic!("{reason}"),
                        _ => {}
                    },
                    Input::Routes(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::join!(send, receive);
        let took = start.elapsed();
        let mut seen = session.status.clone();
        // Counters are shown after the batch they belong to.
        seen.wait_for(|now| now.traffic.received.update > u64::try_from(updates.len()).unwrap())
            .await
            .unwrap();
        let status = seen.borrow().clone();
        session.stop.send_replace(true);
        (status, took)
    };
    tokio::join!(running, script).1
}
