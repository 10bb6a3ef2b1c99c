//! The server's end: one socket, one router, every question a message to the decision with a reply slot.
//! Never waits for a slow decision beyond a bound, and never queues an operator's order silently.

use super::access::Grants;
use super::door;
use super::schema::{Answer, Problem, Query};
use crate::core::controller::Browse;
use crate::core::policy::Mode;
use crate::types::bgp::{MESSAGE_LIMIT, SessionOrder};
use crate::types::{Family, Prefix};
use axum::extract::{Query as Parameters, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

/// Longest time a question may wait for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most prefixes in one answer.
const MOST: usize = 10_000;

/// Longest time that an order may be given for: a year.
const LONGEST_ORDER_S: u64 = 366 * 86_400;

/// Who may open the socket: its owner and group. Whether they may ask is another question.
const SOCKET_MODE: u32 = 0o660;
/// The same where others were given access: the kernel says who they are.
const SOCKET_MODE_OTHERS: u32 = 0o666;

/// A question with the slot for its answer.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub query: Query,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another agent answers there.
    #[error("another agent answers on {}; stop it, or set another agent.control_socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket is in the way.
    #[error("{} exists and is not a socket; move it away, or set another agent.control_socket", path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot open the control socket {}: {source}; check the directory and its permissions", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: Option<UnixListener>,
    grants: Grants,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the socket, in place of one that nobody answers on any more.
pub fn bind(path: &Path, grants: Grants) -> Result<Socket, ControlError> {
    let failed = |source| ControlError::Io { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path.to_owned() });
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ControlError::InUse { path: path.to_owned() });
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let mode = if grants.others() { SOCKET_MODE_OTHERS } else { SOCKET_MODE };
    let socket = Socket { listener: Some(listener), grants, path: path.to_owned() };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(socket)
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Desks {
    /// Questions, and orders that the decision carries out at once.
    pub requests: mpsc::Sender<Request>,
    /// Orders that outlive the agent, or that the machine must be made ready for.
    pub orders: mpsc::Sender<Request>,
}

/// Answers requests until `stop`.
pub async fn serve(mut socket: Socket, desks: Desks, stop: watch::Receiver<bool>) {
    let Some(listener) = socket.listener.take() else { return };
    let grants = std::mem::take(&mut socket.grants);
    door::open(listener, grants, router(desks), stop).await;
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Top {
    top: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    since: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    prefix: Option<String>,
    exit: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Without {
    without: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbered {
    id: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    prefix: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    prefix: Option<Prefix>,
    #[serde(default)]
    longer: bool,
    peer: Option<String>,
    after: Option<Prefix>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    peer: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refresh {
    peer: String,
    family: Option<Family>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WithText {
    peer: String,
    #[serde(default)]
    message: String,
}

/// An order with a text for the peer's operator.
async fn with_text(
    requests: mpsc::Sender<Request>,
    text: WithText,
    order: fn(String) -> SessionOrder,
) -> Response {
    let WithText { peer, message } = text;
    if message.len() > MESSAGE_LIMIT {
        let error = format!("message= has {} octets, and {MESSAGE_LIMIT} fit (RFC 9003)", message.len());
        return problem(StatusCode::BAD_REQUEST, error);
    }
    ask(requests, Query::BgpOrder { peer, order: order(message) }).await
}

/// `/v1/bgp`: sessions and the RIB.
fn bgp() -> Router<mpsc::Sender<Request>> {
    type Requests = State<mpsc::Sender<Request>>;
    let routes = |State(requests): Requests, Parameters(page): Parameters<Page>| async move {
        let Page { prefix, longer, peer, after } = page;
        let browse = Browse { prefix, longer, peer: None, after };
        ask(requests, Query::BgpRoutes { browse, peer }).await
    };
    let candidates = |State(requests): Requests, Parameters(Of { prefix }): Parameters<Of>| async move {
        match prefix.parse() {
            Ok(prefix) => ask(requests, Query::BgpCandidates { prefix }).await,
            Err(error) => problem(StatusCode::BAD_REQUEST, format!("prefix={error}")),
        }
    };
    let reset = |State(requests): Requests, Parameters(text): Parameters<WithText>| {
        with_text(requests, text, SessionOrder::Reset)
    };
    let shutdown = |State(requests): Requests, Parameters(text): Parameters<WithText>| {
        with_text(requests, text, SessionOrder::Shutdown)
    };
    let start = |State(requests): Requests, Parameters(Session { peer }): Parameters<Session>| {
        ask(requests, Query::BgpOrder { peer, order: SessionOrder::Start })
    };
    let refresh = |State(requests): Requests, Parameters(Refresh { peer, family }): Parameters<Refresh>| {
        ask(requests, Query::BgpOrder { peer, order: SessionOrder::Refresh(family) })
    };
    Router::new()
        .route("/peers", get(|State(requests): Requests| ask(requests, Query::BgpPeers)))
        .route("/routes", get(routes))
        .route("/candidates", get(candidates))
        .route("/rules", get(|State(requests): Requests| ask(requests, Query::BgpRules)))
        .route("/reset", post(reset))
        .route("/shutdown", post(shutdown))
        .route("/start", post(start))
        .route("/refresh", post(refresh))
}

/// Everything that can be said, without a socket.
pub fn router(desks: Desks) -> Router {
    let Desks { requests, orders } = desks;
    questions(requests).nest("/v1", standing(orders)).fallback(unknown)
}

fn questions(requests: mpsc::Sender<Request>) -> Router {
    type Requests = State<mpsc::Sender<Request>>;
    let prefixes = |State(requests): Requests, Parameters(Top { top }): Parameters<Top>| async move {
        ask(requests, Query::Prefixes { top: top.unwrap_or(20).min(MOST) }).await
    };
    let events = |State(requests): Requests, Parameters(Since { since }): Parameters<Since>| async move {
        ask(requests, Query::Events { since: since.unwrap_or(0) }).await
    };
    let explain = |State(requests): Requests, Parameters(which): Parameters<Which>| explain(requests, which);
    let plan = |State(requests): Requests, Parameters(Without { without }): Parameters<Without>| {
        ask(requests, Query::Plan { without })
    };
    let approve = |State(requests): Requests, Parameters(Numbered { id }): Parameters<Numbered>| {
        ask(requests, Query::Approve { id })
    };
    let reject = |State(requests): Requests, Parameters(Numbered { id }): Parameters<Numbered>| async move {
        match id {
            Some(id) => ask(requests, Query::Reject { id }).await,
            None => problem(StatusCode::BAD_REQUEST, "id=N is missing; see /v1/changes"),
        }
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/status", get(|State(requests): Requests| ask(requests, Query::Status)))
        .route("/v1/providers", get(|State(requests): Requests| ask(requests, Query::Providers)))
        .route("/v1/overrides", get(|State(requests): Requests| ask(requests, Query::Overrides)))
        .route("/v1/prefixes", get(prefixes))
        .route("/v1/events", get(events))
        .route("/v1/explain", get(explain))
        .route("/v1/plan", get(plan))
        .route("/v1/losses", get(|State(requests): Requests| ask(requests, Query::Losses)))
        .route("/v1/changes", get(|State(requests): Requests| ask(requests, Query::Changes)))
        .route("/v1/approve", post(approve))
        .route("/v1/reject", post(reject))
        .nest("/v1/bgp", bgp())
        .route("/v1/record", get(|State(requests): Requests| ask(requests, Query::Record)))
        .route("/v1/record/start", post(|State(requests): Requests| ask(requests, Query::RecordStart)))
        .route("/v1/record/stop", post(|State(requests): Requests| ask(requests, Query::RecordStop)))
        .route("/v1/off", post(|State(requests): Requests| ask(requests, Query::Off)))
        .route("/v1/on", post(|State(requests): Requests| ask(requests, Query::On)))
        .with_state(requests)
}

async fn unknown() -> Response {
    problem(StatusCode::NOT_FOUND, "no such resource; see /v1/status")
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeAndTime {
    mode: Mode,
    confirm_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderAndTime {
    provider: String,
    for_s: Option<u64>,
}

/// Orders that outlive the agent.
fn standing(orders: mpsc::Sender<Request>) -> Router {
    type Orders = State<mpsc::Sender<Request>>;
    let mode = |State(orders): Orders,
                Parameters(ModeAndTime { mode, confirm_s }): Parameters<ModeAndTime>| async move {
        match span(confirm_s) {
            Ok(confirm) => ask(orders, Query::Mode { mode, confirm }).await,
            Err(refused) => *refused,
        }
    };
    let drain =
        |State(orders): Orders,
         Parameters(ProviderAndTime { provider, for_s }): Parameters<ProviderAndTime>| async move {
            match span(for_s) {
                Ok(span) => ask(orders, Query::Drain { provider, span }).await,
                Err(refused) => *refused,
            }
        };
    let undrain =
        |State(orders): Orders, Parameters(ProviderAndTime { provider, .. }): Parameters<ProviderAndTime>| {
            ask(orders, Query::Undrain { provider })
        };
    Router::new()
        .route("/mode", post(mode))
        .route("/mode/confirm", post(|State(orders): Orders| ask(orders, Query::ConfirmMode)))
        .route("/drain", post(drain))
        .route("/undrain", post(undrain))
        .with_state(orders)
}

/// A time that an order is given for.
fn span(seconds: Option<u64>) -> Result<Option<Duration>, Box<Response>> {
    match seconds {
        None => Ok(None),
        Some(seconds) if (1..=LONGEST_ORDER_S).contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
        Some(_) => {
            let said = format!("an order is for 1 to {LONGEST_ORDER_S} seconds");
            Err(Box::new(problem(StatusCode::BAD_REQUEST, said)))
        }
    }
}

async fn explain(requests: mpsc::Sender<Request>, which: Which) -> Response {
    match (which.prefix.as_deref().map(str::parse), which.exit) {
        (Some(Ok(prefix)), None) => ask(requests, Query::Explain { prefix }).await,
        (Some(Err(error)), None) => {
            let error: crate::types::PrefixError = error;
            problem(StatusCode::BAD_REQUEST, format!("prefix={error}"))
        }
        (None, Some(name)) => ask(requests, Query::ExplainExit { name }).await,
        _ => problem(StatusCode::BAD_REQUEST, "give either prefix=P or exit=NAME"),
    }
}

/// What a scrape gets.
async fn metrics(State(requests): State<mpsc::Sender<Request>>) -> Response {
    match answered(requests, Query::Status).await {
        Ok(Ok(Answer::Status(status))) => match super::metrics::render(&status) {
            Ok(text) => ([(CONTENT_TYPE, super::metrics::CONTENT_TYPE)], text).into_response(),
            Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the metrics have no form as text"),
        },
        _ => problem(StatusCode::SERVICE_UNAVAILABLE, "the agent is busy or stopping; scrape again"),
    }
}

/// Serves `GET /metrics`, and nothing else, over TCP until `stop`: no order and no other question is heard here.
pub async fn serve_metrics(
    listener: tokio::net::TcpListener,
    requests: mpsc::Sender<Request>,
    stop: watch::Receiver<bool>,
) {
    let routes = Router::new().route("/metrics", get(metrics)).fallback(unknown).with_state(requests);
    door::open_to_all(listener, routes, stop).await;
}

type Answered = Result<Result<Answer, oneshot::error::RecvError>, tokio::time::error::Elapsed>;

/// Asks the decision; without room in its queue the slot is gone at once.
async fn answered(requests: mpsc::Sender<Request>, query: Query) -> Answered {
    let (reply, answer) = oneshot::channel();
    // The slot of a request that finds no room is dropped with it.
    drop(requests.try_send(Request { query, reply }));
    tokio::time::timeout(PATIENCE, answer).await
}

async fn ask(requests: mpsc::Sender<Request>, query: Query) -> Response {
    if requests.capacity() == 0 || requests.is_closed() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the agent is busy or stopping; try again");
    }
    match answered(requests, query).await {
        Ok(Ok(Answer::Failed(why))) => (StatusCode::SERVICE_UNAVAILABLE, Json(why)).into_response(),
        Ok(Ok(Answer::Refused(why))) => (StatusCode::CONFLICT, Json(why)).into_response(),
        Ok(Ok(Answer::Missing(why))) => (StatusCode::NOT_FOUND, Json(why)).into_response(),
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(_)) => problem(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"),
        Err(_) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the decision did not answer in time; `etm off` works without it",
        ),
    }
}

pub(super) fn problem(status: StatusCode, error: impl Into<String>) -> Response {
    (status, Json(Problem { error: error.into() })).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::client;
    use super::super::schema::{Ordered, Providers};
    use super::*;
    use crate::core::guard::State as Doing;
    use std::os::unix::fs::MetadataExt;

    /// Access for whoever runs the test.
    fn own() -> Grants {
        Grants { own: std::fs::metadata("/proc/self").unwrap().uid(), ..Grants::default() }
    }

    /// A server whose decision answers the questions it understands.
    async fn with_server<T>(test: impl AsyncFnOnce(&Path) -> T) -> T {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etm.sock");
        let socket = bind(&path, own()).unwrap();
        let (requests, mut questions) = mpsc::channel::<Request>(4);
        let (stop, stopped) = watch::channel(false);
        let decision = tokio::spawn(async move {
            while let Some(request) = questions.recv().await {
                let answer = match request.query {
                    Query::Providers => Answer::Providers(Providers { uplinks: Vec::new() }),
                    Query::Off => Answer::Ordered(Ordered { state: Doing::Off, ended: 3 }),
                    _ => continue,
                };
                request.reply.send(answer).unwrap();
            }
        });
        let desks = Desks { requests: requests.clone(), orders: requests };
        let server = tokio::spawn(serve(socket, desks, stopped));
        let result = test(&path).await;
        stop.send(true).unwrap();
        server.await.unwrap();
        decision.await.unwrap();
        assert!(!path.exists(), "the socket's file is left behind");
        result
    }

    #[tokio::test]
    async fn questions_reach_the_decision_and_answers_come_back() {
        with_server(async |path| {
            assert!(client::get::<Providers>(path, "/v1/providers").await.unwrap().uplinks.is_empty());
            assert_eq!(client::order::<Ordered>(path, "/v1/off").await.unwrap().ended, 3);
        })
        .await;
    }

    #[tokio::test]
    async fn bad_requests_are_told_what_is_wrong() {
        with_server(async |path| {
            for (resource, part) in [
                ("/v1/explain?prefix=nonsense", "is not a prefix"),
                ("/v1/nothing", "no such resource"),
                ("/v1/status", "stopping"),
            ] {
                let error = client::get::<Providers>(path, resource).await.unwrap_err().to_string();
                assert!(error.contains(part), "{resource}: {error}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_socket_in_use_is_left_alone_and_a_dead_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etm.sock");
        let alive = bind(&path, own()).unwrap();
        assert!(matches!(bind(&path, own()), Err(ControlError::InUse { .. })));
        drop(alive);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        bind(&path, own()).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert!(matches!(bind(&path, own()), Err(ControlError::NotASocket { .. })));
    }
}
