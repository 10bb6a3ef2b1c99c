//! What local processes may say on the control socket: a request.
//!
//! Found wrong: a panic; a request that is refused without a reason, or never answered.
#![no_main]

use axum::body::Body;
use axum::http::{Method, Request as HttpRequest};
use etm_agent::control::{Desks, Request, router};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tower::ServiceExt;

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

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        request(text);
    }
});
