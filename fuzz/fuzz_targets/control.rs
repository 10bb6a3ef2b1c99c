//! What local processes may say: requests on the control socket (an input that begins with a letter or `/`), and frames
//! on the guardian's (any other; the first byte is left out).
//!
//! Found wrong: a panic; a request that is refused without a reason; custody that stays without an agent.
#![no_main]

use axum::body::Body;
use axum::http::{Method, Request as HttpRequest};
use etm_agent::control::{Desks, Request, router};
use etm_agent::core::custody::{Custody, Terms};
use etm_agent::guardian::ToGuardian;
use etm_agent::types::Timestamp;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tower::ServiceExt;

const LEASE: Duration = Duration::from_secs(10);

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("{error}"),
    });

/// A request whose decision never answers: it must be taken or refused, and never hang.
fn request(text: &str) {
    let (method, uri) = match text.split_once(' ') {
        Some(("POST", uri)) => (Method::POST, uri),
        Some((_, uri)) => (Method::GET, uri),
        None => (Method::GET, text),
    };
    let Ok(request) = HttpRequest::builder().method(method).uri(uri).body(Body::empty()) else { return };
    let (requests, mut asked) = mpsc::channel::<Request>(4);
    RUNTIME.block_on(async {
        let answered = router(Desks { requests: requests.clone(), orders: requests }).oneshot(request);
        let decision = async { while asked.recv().await.is_some() {} };
        let (answer, ()) = tokio::join!(answered, decision);
        let status = answer.map(|answer| answer.status());
        assert!(status.is_ok_and(|status| status.as_u16() >= 400), "the decision never answered");
    });
}

/// Frames as the guardian takes them: from an agent that is listened to.
fn frames(mut bytes: &[u8]) {
    let terms = Terms { patience: None, adopt: Duration::from_secs(10), linger: None, lease: LEASE };
    let (mut custody, mut now) = (Custody::new(terms), Timestamp(1));
    let Ok((joined, _)) = custody.join(now, None) else { return };
    let epoch = joined.epoch;
    while let Ok((said, rest)) = postcard::take_from_bytes::<ToGuardian>(bytes) {
        if rest.len() == bytes.len() {
            break;
        }
        bytes = rest;
        now = Timestamp(now.0 + 1_000_000_000);
        let _ = match said {
            ToGuardian::Off => Ok(custody.off(now)),
            ToGuardian::Forget => Ok(custody.forget(now)),
            ToGuardian::On => custody.on(now, epoch),
            ToGuardian::Tenure(tenure) => custody.renew(now, epoch, tenure),
            ToGuardian::Change(change) => custody.change(now, epoch, change.into()),
            ToGuardian::Stop => custody.stop(now, epoch),
            ToGuardian::Agent { .. } | ToGuardian::Order { .. } => continue,
        };
    }
    custody.leave(now, epoch);
    custody.look(Timestamp(u64::MAX), false);
    assert!(custody.told().announce.is_empty(), "announced without an agent, beyond every lease");
}

fuzz_target!(|data: &[u8]| match data {
    [first, ..] if first.is_ascii_alphabetic() || *first == b'/' => {
        if let Ok(text) = std::str::from_utf8(data) {
            request(text);
        }
    }
    [_, rest @ ..] => frames(rest),
    [] => {}
});
