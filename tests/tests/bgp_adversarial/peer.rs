//! A peer that says whatever bytes a test wants. Knows just enough of BGP to bring a session up.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where the session under test connects to.
pub(crate) struct Listener(TcpListener);

impl Listener {
    pub(crate) async fn new() -> Listener {
        Listener(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = self.0.accept().await.unwrap();
        // Thousands of short conversations: none may wait for a delayed acknowledgement.
        stream.set_nodelay(true).unwrap();
        Peer(stream)
    }
}

/// One connection.
pub(crate) struct Peer(TcpStream);

impl Peer {
    /// The session may be gone already: that is what some of it is meant to cause.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        drop(self.0.write_all(bytes).await);
    }

    /// Says no more, and hears the rest out.
    pub(crate) async fn finish(&mut self) {
        drop(self.0.shutdown().await);
        let mut rest = Vec::new();
        drop(self.0.read_to_end(&mut rest).await);
    }

    /// The next message: its type and body.
    pub(crate) async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 19];
        self.0.read_exact(&mut header).await.ok()?;
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - 19];
        self.0.read_exact(&mut body).await.ok()?;
        Some((header[18], body))
    }

    /// Exchanges OPENs and KEEPALIVEs; both families, no ADD-PATH.
    pub(crate) async fn establish(&mut self, asn: u32, as4: bool) {
        self.send(&open(asn, as4)).await;
        assert_eq!(self.next().await.unwrap().0, 1, "OPEN");
        self.send(&message(4, &[])).await;
        assert_eq!(self.next().await.unwrap().0, 4, "KEEPALIVE");
    }
}

/// A message of this type and body.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xFF; 16];
    bytes.extend_from_slice(&u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

fn open(asn: u32, as4: bool) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0];
    if as4 {
        capabilities.extend_from_slice(&[65, 4]);
        capabilities.extend_from_slice(&asn.to_be_bytes());
    }
    let mut body = vec![4];
    body.extend_from_slice(&u16::try_from(asn).unwrap().to_be_bytes());
    body.extend_from_slice(&[0, 90, 10, 0, 0, 1]);
    let length = u8::try_from(capabilities.len()).unwrap();
    body.extend_from_slice(&[length + 2, 2, length]);
    body.extend_from_slice(&capabilities);
    message(1, &body)
}

/// A good route to a prefix that nothing else is about, and its UPDATE.
pub(crate) fn probe(number: u32) -> (String, Vec<u8>) {
    let [_, a, b, c] = number.to_be_bytes();
    let attributes = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xFC, 0x59, 0x40, 3, 4, 10, 9, 1, 2];
    let mut body = vec![0, 0, 0, u8::try_from(attributes.len()).unwrap()];
    body.extend_from_slice(&attributes);
    body.extend_from_slice(&[32, 100 + a, b, c, 77]);
    (format!("{}.{b}.{c}.77/32", 100 + a), message(2, &body))
}

pub(crate) fn end_of_rib() -> Vec<u8> {
    message(2, &[0, 0, 0, 0])
}
