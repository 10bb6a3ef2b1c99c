//! The client's end: one request on the agent's unix socket. Never waits longer than `PATIENCE`.

use super::schema::Problem;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Longest time for a request: longer than the server's own patience.
const PATIENCE: Duration = Duration::from_secs(6);

/// Longest time for an order: an agent that hangs must not delay `off`.
const ORDER_PATIENCE: Duration = Duration::from_millis(700);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {}: {source}; is it running, and is this its control socket (-s)?", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// We may not open the socket.
    #[error("not let in at {}: root and the agent's user may, and who control.read or control.write of the agent's configuration names", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// Somebody listens and does not answer.
    #[error("the agent on {} does not answer: it hangs or is stopped", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// Whoever listens does not speak HTTP.
    #[error("what answers on {} is not an ETM agent: {source}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        source: hyper::Error,
    },
    /// The answer is not what this client knows.
    #[error("the agent's answer has an unknown form ({source}): client and agent are of different versions")]
    Form {
        /// What was wrong.
        source: serde_json::Error,
    },
    /// Nothing of ETM was found in any of the places where it was looked for.
    #[error("{account}")]
    Nowhere {
        /// The places, and what was found in each.
        account: String,
    },
    /// The agent refused.
    #[error("{error}")]
    Refused {
        /// Its words.
        error: String,
    },
}

/// Reads a resource.
pub async fn get<T: DeserializeOwned>(socket: &Path, resource: &str) -> Result<T, ClientError> {
    request(socket, Method::GET, resource, PATIENCE).await
}

/// Gives an order.
pub async fn order<T: DeserializeOwned>(socket: &Path, resource: &str) -> Result<T, ClientError> {
    request(socket, Method::POST, resource, ORDER_PATIENCE).await
}

/// Gives an order for which the machine may have to be made ready.
pub async fn command<T: DeserializeOwned>(socket: &Path, resource: &str) -> Result<T, ClientError> {
    request(socket, Method::POST, resource, PATIENCE).await
}

async fn request<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    resource: &str,
    patience: Duration,
) -> Result<T, ClientError> {
    let (status, body) = tokio::time::timeout(patience, exchange(socket, method, resource))
        .await
        .map_err(|_| ClientError::Silent { path: socket.to_owned() })??;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|source| ClientError::Form { source });
    }
    let error = match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => problem.error,
        Err(_) => format!("the agent answered {status}"),
    };
    Err(ClientError::Refused { error })
}

async fn exchange(
    socket: &Path,
    method: Method,
    resource: &str,
) -> Result<(StatusCode, Vec<u8>), ClientError> {
    let protocol = |source| ClientError::Protocol { path: socket.to_owned(), source };
    let unreachable = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Denied { path: socket.to_owned() },
        _ => ClientError::Unreachable { path: socket.to_owned(), source },
    };
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(protocol)?;
    let request = Request::builder()
        .method(method)
        .uri(resource)
        .header("host", "etm")
        .body(Body::empty())
        .map_err(|error| ClientError::Refused { error: error.to_string() })?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(protocol)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(protocol)?.to_bytes();
        Ok((status, body.to_vec()))
    };
    // The connection is driven beside the exchange and dropped with it: no task is left.
    tokio::select! {
        result = exchange => result,
        ended = connection => match ended {
            Err(source) => Err(protocol(source)),
            Ok(()) => Err(ClientError::Silent { path: socket.to_owned() }),
        },
    }
}
