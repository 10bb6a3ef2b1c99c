//! The machine against OPENs and NOTIFICATIONs: what it sends, and whom it blames.

use super::*;
use crate::proto::bgp::frame::FrameReader;
use bytes::BytesMut;
use std::net::Ipv4Addr;
use wire::{AddPathMode, NotificationCode, NotificationMessage, OpenMessage};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 179);

fn speaker() -> Speaker {
    Speaker {
        local_as: Asn(64500),
        peer_as: Asn(64500),
        router_id: RouterId(OURS),
        hold_time: 9,
        add_path_receive: true,
        helps_restart: true,
        role: None,
        strict_role: false,
    }
}

fn start() -> (Machine, Vec<Step>) {
    Machine::start(speaker(), "127.0.0.2:40000".parse().unwrap(), "127.0.0.1:179".parse().unwrap())
}

fn open(asn: u32, id: Ipv4Addr, capabilities: Vec<Capability>) -> wire::Message {
    open_holding(90, asn, id, capabilities)
}

fn open_holding(hold_time: u16, asn: u32, id: Ipv4Addr, capabilities: Vec<Capability>) -> wire::Message {
    let my_as = u16::try_from(asn).unwrap_or(wire::constants::AS_TRANS);
    let mut all = vec![Capability::FourOctetAs { asn }];
    all.extend(capabilities);
    wire::Message::Open(OpenMessage { version: 4, my_as, hold_time, bgp_identifier: id, capabilities: all })
}

fn unicast(afi: Afi) -> Capability {
    Capability::MultiProtocol { afi, safi: Safi::Unicast }
}

fn fault(steps: &[Step]) -> SessionFault {
    let closes = |step: &Step| match step {
        Step::Close(fault) => Some(fault.clone()),
        _ => None,
    };
    steps.iter().find_map(closes).unwrap_or_else(|| panic!("no close in {steps:?}"))
}

fn sent(steps: &[Step]) -> Vec<wire::Message> {
    let mut bytes = BytesMut::new();
    for step in steps {
        if let Step::Send(message) = step {
            bytes.extend_from_slice(message);
        }
    }
    let mut messages = Vec::new();
    while let Some(frame) = FrameReader::default().next(&mut bytes).unwrap() {
        messages.push(frame.0);
    }
    messages
}

#[test]
fn the_open_offers_both_families_and_nothing_that_outlives_us() {
    let messages = sent(&start().1);
    let [wire::Message::Open(open)] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((open.hold_time, open.bgp_identifier), (9, OURS));
    let has = |wanted: &Capability| open.capabilities.contains(wanted);
    assert!(has(&unicast(Afi::Ipv4)) && has(&unicast(Afi::Ipv6)));
    assert!(has(&Capability::FourOctetAs { asn: 64500 }) && has(&Capability::RouteRefresh));
    for capability in &open.capabilities {
        assert!(!matches!(capability, Capability::LongLivedGracefulRestart(_)), "{capability:?}");
        if let Capability::GracefulRestart { restart_state, notification, restart_time, families } =
            capability
        {
            assert_eq!((*restart_state, *notification, *restart_time, families.len()), (false, false, 0, 0));
        }
        if let Capability::AddPath(families) = capability {
            assert!(families.iter().all(|family| family.send_receive == AddPathMode::Receive));
        }
    }
}

#[test]
fn a_session_comes_up_with_what_both_offered() {
    let (mut machine, _) = start();
    let add_path = Capability::AddPath(vec![wire::AddPathFamily {
        afi: Afi::Ipv6,
        safi: Safi::Unicast,
        send_receive: AddPathMode::Send,
    }]);
    let capabilities = vec![unicast(Afi::Ipv4), unicast(Afi::Ipv6), add_path, Capability::RouteRefresh];
    let peer = Ipv4Addr::new(10, 0, 0, 1);
    let steps = machine.on(Event::Received(Frame(open(64500, peer, capabilities))));
    assert_eq!(sent(&steps), [wire::Message::Keepalive]);
    assert!(steps.contains(&Step::Hold(Some(Duration::from_secs(9)))));
    assert!(steps.contains(&Step::Keepalive(Some(Duration::from_secs(3)))));
    let steps = machine.on(Event::Received(Frame(wire::Message::Keepalive)));
    let up = Negotiated {
        local_as: Asn(64500),
        peer_as: Asn(64500),
        peer_router_id: RouterId(peer),
        hold: Duration::from_secs(9),
        families: vec![Family::V4, Family::V6],
        add_path: vec![Family::V6],
        four_octet_as: true,
        route_refresh: true,
        enhanced_refresh: false,
        extended_next_hop: false,
        message_limit: 4096,
        restart: None,
        role: None,
        ours: [
            "ipv4-unicast",
            "ipv6-unicast",
            "add-path ipv4-unicast receive, ipv6-unicast receive",
            "route-refresh",
            "enhanced-route-refresh",
            "extended-message",
            "extended-next-hop",
            "as4 64500",
            "graceful-restart helper",
        ]
        .map(str::to_owned)
        .to_vec(),
        theirs: ["as4 64500", "ipv4-unicast", "ipv6-unicast", "add-path ipv6-unicast send", "route-refresh"]
            .map(str::to_owned)
            .to_vec(),
    };
    assert!(steps.contains(&Step::Up(Box::new(up))), "{steps:?}");
    assert_eq!(machine.state(), SessionState::Established);
    let refresh = RouteRefreshMessage::new(Afi::Ipv6, Safi::Unicast);
    let steps = machine.on(Event::Received(Frame(wire::Message::RouteRefresh(refresh))));
    assert!(steps.contains(&Step::Refresh(Family::V6)));
    let steps = machine.on(Event::Stop("bye".to_owned()));
    let [wire::Message::Notification(notification)] = &sent(&steps)[..] else { panic!("{steps:?}") };
    assert_eq!((notification.code, notification.subcode), (NotificationCode::Cease, 2));
    assert_eq!(&notification.data[..], b"\x03bye");
    assert_eq!(fault(&steps), SessionFault::Stopped);
}

#[test]
fn each_objection_to_an_open_names_its_cause_and_its_notification() {
    let other = Ipv4Addr::new(10, 0, 0, 1);
    let v4 = || vec![unicast(Afi::Ipv4)];
    for (message, expected, subcode, permanent) in [
        (
            open(64501, other, v4()),
            SessionFault::WrongAs { expected: Asn(64500), found: Asn(64501) },
            2,
            true,
        ),
        (
            open(64500, OURS, v4()),
            SessionFault::SameRouterId { id: RouterId(OURS), noticed: RouterIdOwner::Us },
            3,
            true,
        ),
        (open_holding(0, 64500, other, v4()), SessionFault::NoHoldTime, 6, true),
        (
            open(64500, other, vec![Capability::MultiProtocol { afi: Afi::L2Vpn, safi: Safi::Evpn }]),
            SessionFault::NoFamily,
            7,
            true,
        ),
    ] {
        let (mut machine, _) = start();
        let steps = machine.on(Event::Received(Frame(message)));
        assert_eq!(fault(&steps), expected);
        assert_eq!(expected.is_permanent(), permanent);
        let [wire::Message::Notification(notification)] = &sent(&steps)[..] else { panic!("{steps:?}") };
        assert_eq!((notification.code.as_u8(), notification.subcode), (2, subcode), "{expected}");
    }
}

#[test]
fn each_notification_of_the_peer_says_what_to_do() {
    let notification = |code: u8, subcode: u8, data: &'static [u8]| {
        let code = NotificationCode::from_u8(code);
        wire::Message::Notification(NotificationMessage::new(code, subcode, Bytes::from_static(data)))
    };
    for (message, words) in [
        (notification(2, 2, b""), "refuses our AS number, AS64500; correct"),
        (
            notification(2, 3, b""),
            "BGP identifier 10.0.0.179 is also the peer's; set `router_id` of the session",
        ),
        (notification(2, 7, b""), "enable ipv4 and ipv6 unicast"),
        (notification(2, 6, b""), "raise bgp.hold_time"),
        (notification(4, 0, b""), "heard nothing from us"),
        (notification(6, 2, b"\x0bmaintenance"), "administrative shutdown, saying \"maintenance\""),
        (notification(6, 2, b"\x03a\x1bb"), "saying \"ab\""),
        (notification(6, 5, b""), "connection rejected"),
        (notification(3, 1, b""), "NOTIFICATION 3/1 (UPDATE Message Error)"),
    ] {
        let (mut machine, _) = start();
        let text = fault(&machine.on(Event::Received(Frame(message)))).to_string();
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn the_way_a_connection_ends_tells_why() {
    let end = |event: Event| fault(&start().0.on(event));
    let local = "127.0.0.2".parse().unwrap();
    assert_eq!(end(Event::Lost(None)), SessionFault::ClosedBeforeOpen { local });
    let broken = SessionFault::Broken { error: "connection reset".to_owned() };
    assert_eq!(end(Event::Lost(Some("connection reset".to_owned()))), broken);
    assert_eq!(end(Event::HoldExpired), SessionFault::HoldExpired { hold: OPEN_WAIT });
    let mut text = BytesMut::from(&b"220 mail.example ESMTP"[..]);
    let malformed = FrameReader::default().next(&mut text).unwrap_err();
    let remote = "127.0.0.1:179".parse().unwrap();
    assert_eq!(end(Event::Malformed(malformed)), SessionFault::NotBgp { remote });
    // An UPDATE before the session is up is an error of the state machine (RFC 4271 section 6.6).
    let (mut machine, _) = start();
    let update = wire::UpdateMessage {
        withdrawn_routes: Bytes::new(),
        path_attributes: Bytes::new(),
        nlri: Bytes::new(),
    };
    let steps = machine.on(Event::Received(Frame(wire::Message::Update(update))));
    assert!(matches!(fault(&steps), SessionFault::BadMessage { .. }));
}
