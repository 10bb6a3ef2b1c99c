//! The smallest HTTP/1.1 client that can talk to ETM's control socket. Never for anything else: one
//! request per connection, no redirects, no TLS.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::error::LabError;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Body, chunks joined.
    pub body: String,
}

/// Sends one request to the socket at `path` and reads the whole answer.
///
/// # Errors
/// The socket is absent, silent for `patience`, or does not speak HTTP.
pub fn request(path: &Path, method: &str, target: &str, patience: Duration) -> Result<Response, LabError> {
    let what = || format!("send {method} {target} to {}", path.display());
    let mut stream = UnixStream::connect(path).map_err(LabError::io(what()))?;
    stream.set_read_timeout(Some(patience)).map_err(LabError::io(what()))?;
    stream.set_write_timeout(Some(patience)).map_err(LabError::io(what()))?;
    let text =
        format!("{method} {target} HTTP/1.1\r\nHost: etm\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).map_err(LabError::io(what()))?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).map_err(LabError::io(what()))?;
    parse(&raw).ok_or_else(|| LabError::Malformed {
        what: what(),
        detail: String::from_utf8_lossy(&raw).into_owned(),
    })
}

fn parse(raw: &[u8]) -> Option<Response> {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&raw[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = &raw[end + 4..];
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    Some(Response { status, body: String::from_utf8(body).ok()? })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend(rest.get(line + 2..line + 2 + size)?);
        rest = rest.get(line + 4 + size..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_bodies_are_read() {
        let check = |raw: &str, status, body: &str| {
            assert_eq!(parse(raw.as_bytes()), Some(Response { status, body: body.to_owned() }), "{raw}");
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, "{}");
        check(
            "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n1\r\n \r\n0\r\n\r\n",
            404,
            "{} ",
        );
        assert_eq!(parse(b"garbage"), None);
    }
}
