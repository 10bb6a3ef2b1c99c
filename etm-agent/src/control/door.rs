//! Where clients come in: who they are is found out before a word of theirs is read, and none of them can keep others
//! out: connections, time and the size of heads are bounded, and bodies are refused. Never interprets a request beyond its method.

use super::access::{Access, Client, Grants};
use super::server::problem;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections served at a time. Those beyond wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Of these, at most so many are kept for those who have no access, so that they cannot keep others out.
const STRANGERS: usize = 8;
/// Longest time for the head of a request to arrive.
const HEAD: Duration = Duration::from_secs(5);
/// Longest time of a whole connection: a question waits 5 s at most, and a page of routes is quick.
const CONNECTION: Duration = Duration::from_secs(60);
/// Longest head, in octets.
const HEAD_OCTETS: usize = 16 * 1024;
/// Longest wait for connections to end once told to stop.
const PARTING: Duration = Duration::from_secs(2);

/// Scrapes served at a time: a monitor or two, and whoever looks by hand.
const SCRAPES: usize = 16;

/// A way in: who comes by it, and what they find behind it.
trait Entrance {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// For the log.
    const NAME: &'static str;
    /// A second request is taken from the same connection.
    const KEEP_ALIVE: bool;

    /// The next one who arrives.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    /// False while those who arrive should wait in the kernel's queue.
    fn has_room(&self) -> bool;
    /// What is behind it for this one, and its place; none where it is closed on them.
    fn admit(&self, stream: &Self::Stream) -> Option<(Router, OwnedSemaphorePermit)>;
}

/// The control socket.
struct ForClients {
    listener: UnixListener,
    grants: Arc<Grants>,
    router: Router,
    places: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Entrance for ForClients {
    type Stream = UnixStream;
    const NAME: &'static str = "control socket";
    const KEEP_ALIVE: bool = true;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    fn has_room(&self) -> bool {
        self.places.available_permits() > 0
    }

    fn admit(&self, stream: &UnixStream) -> Option<(Router, OwnedSemaphorePermit)> {
        let (client, presence) = (client(stream)?, presence(stream).ok()?);
        let known = self.grants.of(client).is_some();
        let places = if known { &self.places } else { &self.strangers };
        // None left: the connection is closed, which a stranger may see and nobody else does.
        let place = Arc::clone(places).try_acquire_owned().ok()?;
        Some((guarded(self.router.clone(), (client, Arc::new(presence)), Arc::clone(&self.grants)), place))
    }
}

/// Metrics over TCP, where nobody says who they are.
struct ForScrapes {
    listener: TcpListener,
    router: Router,
    places: Arc<Semaphore>,
}

impl Entrance for ForScrapes {
    type Stream = TcpStream;
    const NAME: &'static str = "metrics";
    // One answer each: a place is not for keeping.
    const KEEP_ALIVE: bool = false;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(self.listener.accept().await?.0)
    }

    // Those who say nothing would fill the queue, too, and each batch of them would take its time: they are closed on.
    fn has_room(&self) -> bool {
        true
    }

    fn admit(&self, _: &TcpStream) -> Option<(Router, OwnedSemaphorePermit)> {
        Some((self.router.clone(), Arc::clone(&self.places).try_acquire_owned().ok()?))
    }
}

/// Serves clients of the control socket until `stop`.
pub(super) async fn open(
    listener: UnixListener,
    grants: Grants,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let places = |count| Arc::new(Semaphore::new(count));
    let (grants, places, strangers) = (Arc::new(grants), places(CONNECTIONS), places(STRANGERS));
    keep_open(ForClients { listener, grants, router, places, strangers }, stop).await;
}

/// Serves everybody who comes over TCP until `stop`.
pub(super) async fn open_to_all(listener: TcpListener, router: Router, stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(SCRAPES));
    keep_open(ForScrapes { listener, router, places }, stop).await;
}

async fn keep_open<E: Entrance>(entrance: E, mut stop: watch::Receiver<bool>) {
    let (mut served, mut failures) = (JoinSet::new(), 0_u64);
    loop {
        let arrived = tokio::select! {
            // A sender that is gone means stop as well.
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = served.join_next() => continue,
            arrived = entrance.accept(), if entrance.has_room() => arrived,
        };
        note(E::NAME, &mut failures, arrived.as_ref().err());
        let Ok(stream) = arrived else {
            // Out of descriptors, most likely: trying at once would only spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Some((router, place)) = entrance.admit(&stream) else { continue };
        let stop = stop.clone();
        served.spawn(async move {
            let _place = place;
            if let Err(error) = timeout(CONNECTION, serve(stream, router, E::KEEP_ALIVE, stop)).await {
                tracing::debug!(%error, at = E::NAME, "a client took too long");
            }
        });
    }
    drop(entrance);
    let _ = timeout(PARTING, async { while served.join_next().await.is_some() {} }).await;
}

/// Failures in a row are one line, and their end another.
fn note(at: &'static str, failures: &mut u64, failed: Option<&io::Error>) {
    match failed {
        Some(error) => {
            if *failures == 0 {
                tracing::error!(%error, at, "a client could not be let in");
            }
            *failures += 1;
        }
        None if *failures > 0 => {
            tracing::info!(at, failures, "clients are let in again");
            *failures = 0;
        }
        None => {}
    }
}

fn client(stream: &UnixStream) -> Option<Client> {
    let credentials = stream.peer_cred().ok()?;
    let pid = credentials.pid().unwrap_or(0);
    Some(Client { uid: credentials.uid(), gid: credentials.gid(), pid })
}

/// Another descriptor of the same connection, by which to see whether the client is still there.
fn presence(stream: &UnixStream) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}

/// True where the client has hung up, or said that it will say no more.
fn is_gone(presence: &OwnedFd) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    !matches!(recv(presence.as_raw_fd(), &mut [0], flags), Ok(1..) | Err(Errno::EAGAIN))
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: Router,
    keep_alive: bool,
    mut stop: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_OCTETS)
        .keep_alive(keep_alive)
        // A client that has said all it wants to say may still want the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        // What was asked is answered; nothing new is taken.
        () = async { drop(stop.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client went away or was not understood");
    }
}

/// The router behind the questions: who is it, and may they?
fn guarded(router: Router, (client, presence): (Client, Arc<OwnedFd>), grants: Arc<Grants>) -> Router {
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let (grants, presence) = (Arc::clone(&grants), Arc::clone(&presence));
        async move { answer((client, &presence), &grants, request, next).await }
    }))
}

async fn answer(
    (client, presence): (Client, &OwnedFd),
    grants: &Grants,
    request: Request<Body>,
    next: Next,
) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let wanted = if reads { Access::Read } else { Access::Write };
    let line = format!("{} {}", request.method(), request.uri());
    let Client { uid, gid, pid } = client;
    if let Some(refusal) = grants.refusal(client, wanted) {
        tracing::warn!(target: "etm_audit", uid, gid, pid, request = %line, "audit: refused, no access");
        return problem(StatusCode::FORBIDDEN, refusal);
    }
    // An order whose body was cut off would be carried out without what it meant to say.
    if has_body(request.headers()) {
        return problem(
            StatusCode::BAD_REQUEST,
            "requests have no body: everything is said in their first line",
        );
    }
    // An order that waited for a busy or starting agent until its giver gave up is not the last word any more.
    if wanted == Access::Write && is_gone(presence) {
        tracing::warn!(target: "etm_audit", uid, gid, pid, request = %line, "audit: not carried out, its giver is gone");
        return problem(StatusCode::REQUEST_TIMEOUT, "given up by who gave it");
    }
    let response = next.run(request).await;
    if wanted == Access::Write {
        let status = response.status().as_u16();
        tracing::info!(target: "etm_audit", uid, gid, pid, status, request = %line, "audit: ordered");
    }
    response
}

fn has_body(headers: &HeaderMap) -> bool {
    let empty = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
    !empty || headers.contains_key(header::TRANSFER_ENCODING)
}
