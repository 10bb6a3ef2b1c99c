//! A BGP speaker for tests, as good or as bad as the script wants it.

use bytes::{Bytes, BytesMut};
use rustbgpd_wire as wire;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wire::{AddPathFamily, AddPathMode, Afi, Capability, Message, OpenMessage, Safi};

/// Where the scripted peer is reached.
pub(super) struct Listener {
    socket: TcpListener,
}

/// One connection to the session under test.
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    inbox: BytesMut,
}

impl Listener {
    pub(super) async fn new() -> Listener {
        Listener { socket: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    /// One whose connections take few bytes before they are read.
    pub(super) async fn with_receive_buffer(bytes: u32) -> Listener {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Listener { socket: socket.listen(8).unwrap() }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub(super) async fn accept(&self) -> Peer {
        let (stream, _) = self.socket.accept().await.unwrap();
        Peer::of(stream)
    }

    /// A session brought up, after which the script begins.
    pub(super) async fn establish(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.establish(&open(64500, Ipv4Addr::new(10, 0, 0, 1))).await;
        peer
    }
}

impl Peer {
    pub(super) fn of(stream: TcpStream) -> Peer {
        Peer { stream, inbox: BytesMut::new() }
    }

    /// Exchanges OPENs and KEEPALIVEs.
    pub(super) async fn establish(&mut self, open: &Message) {
        self.send(open).await;
        assert!(matches!(self.next().await, Some(Message::Open(_))));
        self.send(&Message::Keepalive).await;
        assert_eq!(self.next().await, Some(Message::Keepalive));
    }

    pub(super) async fn send(&mut self, message: &Message) {
        self.send_bytes(&wire::encode_message(message).unwrap()).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next message; none when the session has closed.
    pub(super) async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(len) = wire::peek_message_length(&self.inbox, u16::MAX).unwrap()
                && self.inbox.len() >= usize::from(len)
            {
                let mut message = self.inbox.split_to(usize::from(len)).freeze();
                return Some(wire::decode_message(&mut message, u16::MAX).unwrap());
            }
            if self.stream.read_buf(&mut self.inbox).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next NOTIFICATION, whatever comes before it.
    pub(super) async fn notification(&mut self) -> wire::NotificationMessage {
        loop {
            match self.next().await {
                Some(Message::Notification(notification)) => return notification,
                Some(_) => {}
                None => panic!("no NOTIFICATION"),
            }
        }
    }

    /// The next message that is not a KEEPALIVE.
    pub(super) async fn next_news(&mut self) -> Option<Message> {
        loop {
            match self.next().await {
                Some(Message::Keepalive) => {}
                other => return other,
            }
        }
    }
}

/// An OPEN with both families, ADD-PATH sending for IPv4 and route refresh.
pub(super) fn open(asn: u32, id: Ipv4Addr) -> Message {
    open_with(asn, id, Vec::new())
}

/// The same with more capabilities.
pub(super) fn open_with(asn: u32, id: Ipv4Addr, more: Vec<Capability>) -> Message {
    let unicast = |afi| Capability::MultiProtocol { afi, safi: Safi::Unicast };
    let add_path = AddPathFamily { afi: Afi::Ipv4, safi: Safi::Unicast, send_receive: AddPathMode::Send };
    Message::Open(OpenMessage {
        version: 4,
        my_as: u16::try_from(asn).unwrap(),
        hold_time: 90,
        bgp_identifier: id,
        capabilities: [
            unicast(Afi::Ipv4),
            unicast(Afi::Ipv6),
            Capability::AddPath(vec![add_path]),
            Capability::RouteRefresh,
            Capability::FourOctetAs { asn },
        ]
        .into_iter()
        .chain(more)
        .collect(),
    })
}

/// An UPDATE of raw attributes and IPv4 NLRI with path id 1.
pub(super) fn update(attributes: &[&[u8]], nlri: &[[u8; 3]]) -> Message {
    let mut body = Vec::new();
    for prefix in nlri {
        body.extend_from_slice(&[0, 0, 0, 1, 24]);
        body.extend_from_slice(prefix);
    }
    Message::Update(wire::UpdateMessage {
        withdrawn_routes: Bytes::new(),
        path_attributes: Bytes::from(attributes.concat()),
        nlri: Bytes::from(body),
    })
}
