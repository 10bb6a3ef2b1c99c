//! The receive path of a BGP session, from bytes to the RIB and out again. The last byte of an input chooses the session;
//! the rest is what the peer sends.
//!
//! Found wrong: a panic; a RIB that holds anything but what was said last; an announcement that cannot be read back.
#![no_main]

use bytes::BytesMut;
use etm_agent::config;
use etm_agent::core::input::{RouteBatch, RouteChange};
use etm_agent::core::policy::Policy;
use etm_agent::core::rib::Rib;
use etm_agent::proto::bgp::{
    Change, Diff, Event, FrameReader, Import, Machine, Negotiated, OutPolicy, OutRoute, Speaker, Step,
    Translator, pack,
};
use etm_agent::types::bgp::{BgpRole, Dispositions};
use etm_agent::types::{Asn, Community, PathId, PeerId, Prefix, RouteAttrs, RouterId};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};

const CONFIG: &str = "[agent]\n[[interface]]\nname = \"a\"\ncapacity = \"1Gbit\"\n[[provider]]\nname = \"p\"\nasn = 64601\n\
    exits = [{ interface = \"a\", gateways = [\"10.9.1.2\", \"2001:db8:a::2\"] }]\n[bgp]\nasn = 64500\nrouter_id = \"10.0.0.179\"\n\
    [[bgp.session]]\nname = \"p0\"\nrole = \"learn\"\npeer = \"10.9.1.2\"\npeer_as = 64601\naccept = \"all\"\n";

static POLICY: LazyLock<Policy> = LazyLock::new(|| match config::parse("fuzz", CONFIG) {
    Ok(settings) => settings.policy,
    Err(error) => panic!("{error}"),
});

const EXTERNAL: u8 = 1;
const ESTABLISHED: u8 = 2;
const ADD_PATH: u8 = 4;
const STRICT: u8 = 8;
const PROVIDER: u8 = 16;

/// The peer's OPEN and KEEPALIVE, so that what follows is heard.
fn greeting(options: u8) -> Vec<u8> {
    let asn: u16 = if options & EXTERNAL == 0 { 64_500 } else { 64_601 };
    let [high, low] = asn.to_be_bytes();
    let mut capabilities =
        vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 6, 0, 70, 0, 65, 4, 0, 0, high, low];
    if options & ADD_PATH != 0 {
        capabilities.extend([69, 8, 0, 1, 1, 3, 0, 2, 1, 3]);
    }
    let count = u8::try_from(capabilities.len()).unwrap_or_default();
    let mut open = [vec![4, high, low, 0, 90, 10, 0, 0, 1, count + 2, 2, count], capabilities].concat();
    let mut bytes = vec![0xFF; 16];
    bytes.extend(u16::try_from(19 + open.len()).unwrap_or_default().to_be_bytes());
    bytes.push(1);
    bytes.append(&mut open);
    bytes.extend([0xFF; 16]);
    bytes.extend([0, 19, 4]);
    bytes
}

/// What the session's task would hold, and the same in the plainest way.
struct Held {
    rib: Rib,
    plain: BTreeMap<(Prefix, PathId), Arc<RouteAttrs>>,
}

impl Held {
    fn take(&mut self, changes: Vec<Change>) {
        let mut batch = RouteBatch { peer: PeerId(0), changes: Vec::new() };
        for change in changes {
            batch.changes.push(match change {
                Change::Announce { prefix, path_id, attrs } => {
                    if attrs.communities.contains(&POLICY.community) {
                        self.plain.remove(&(prefix, path_id));
                    } else {
                        self.plain.insert((prefix, path_id), Arc::clone(&attrs));
                    }
                    RouteChange::Announce { prefix, path_id, attrs }
                }
                Change::Withdraw { prefix, path_id } => {
                    self.plain.remove(&(prefix, path_id));
                    RouteChange::Withdraw { prefix, path_id }
                }
            });
        }
        self.rib.apply(batch, |_, _| {});
    }

    fn check(&self) {
        let prefixes: Vec<Prefix> = self.rib.iter_after(None).collect();
        let mut held = BTreeMap::new();
        for prefix in prefixes {
            for (_, path_id, attrs) in self.rib.received(prefix) {
                held.insert((prefix, path_id), attrs);
            }
        }
        assert_eq!(held, self.plain);
    }
}

/// Every route as ETM would announce it, read again.
fn announce(session: &Negotiated, routes: &BTreeMap<(Prefix, PathId), Arc<RouteAttrs>>) {
    let community = Community(64_500 << 16 | 179);
    let mut diff = Diff::default();
    let mut announced = BTreeMap::new();
    for ((prefix, _), attrs) in routes {
        if !session.families.contains(&prefix.family()) || announced.contains_key(prefix) {
            continue;
        }
        let next_hop = match prefix.addr() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1)),
        };
        announced.insert(*prefix, ());
        diff.announce.push((*prefix, OutRoute { next_hop, attrs: Arc::clone(attrs) }));
    }
    let packed = pack(&diff, OutPolicy { local_pref: 1_000_000, community }, session);
    announced.retain(|prefix, ()| !packed.unsendable.contains(prefix));
    let mut frames = FrameReader::default();
    frames.set_limit(session.message_limit);
    let receiver = Negotiated { peer_as: session.local_as, add_path: Vec::new(), ..session.clone() };
    let mut translator = Translator::new(&receiver, Import::default(), Dispositions::default());
    let (mut bytes, mut count) = (packed.bytes, 0);
    while let Some(frame) = frames.next(&mut bytes).expect("our own message is whole") {
        for change in translator.translate(&frame).expect("our own UPDATE is sound").changes {
            if let Change::Announce { prefix, attrs, .. } = change {
                assert!(announced.remove(&prefix).is_some(), "{prefix} was not asked for");
                assert!(
                    attrs.communities.contains(&Community::NO_EXPORT)
                        && attrs.communities.contains(&community)
                );
                count += 1;
            }
        }
    }
    assert!(bytes.is_empty() && announced.is_empty(), "{count} announced, not {announced:?}");
}

fuzz_target!(|data: &[u8]| {
    let Some((&options, stream)) = data.split_last() else { return };
    let external = options & EXTERNAL != 0;
    let speaker = Speaker {
        local_as: Asn(64_500),
        peer_as: Asn(if external { 64_601 } else { 64_500 }),
        router_id: RouterId(Ipv4Addr::new(10, 0, 0, 179)),
        hold_time: 9,
        add_path_receive: true,
        helps_restart: true,
        role: (options & PROVIDER != 0).then_some(BgpRole::Customer),
        strict_role: false,
    };
    let import = Import {
        accept: true,
        first_as: options & STRICT != 0,
        link_local: options & STRICT == 0,
        own: None,
    };
    let (local, remote) = (([127, 0, 0, 2], 40_000).into(), ([127, 0, 0, 1], 179).into());
    let (mut machine, _) = Machine::start(speaker, local, remote);
    let mut frames = FrameReader::default();
    let mut buffer = BytesMut::new();
    if options & ESTABLISHED != 0 {
        buffer.extend_from_slice(&greeting(options));
    }
    buffer.extend_from_slice(stream);
    let mut held = Held { rib: Rib::new(&POLICY), plain: BTreeMap::new() };
    let mut up: Option<(Translator, Negotiated)> = None;
    'session: loop {
        let event = match frames.next(&mut buffer) {
            Ok(None) => break,
            Ok(Some(frame)) => match up.as_mut().map(|(translator, _)| translator.translate(&frame)) {
                Some(Ok(translated)) => {
                    held.take(translated.changes);
                    Event::Received(frame)
                }
                Some(Err(reset)) => Event::Unusable(reset),
                None => Event::Received(frame),
            },
            Err(malformed) => Event::Malformed(malformed),
        };
        for step in machine.on(event) {
            match step {
                Step::Up(session) => {
                    frames.set_limit(session.message_limit);
                    up = Some((Translator::new(&session, import, Dispositions::default()), *session));
                }
                Step::Close(_) => break 'session,
                _ => {}
            }
        }
    }
    held.check();
    if let Some((_, session)) = &up {
        announce(session, &held.plain);
        held.rib.drop_peer(PeerId(0));
        while held.rib.is_clearing() {
            held.rib.clear_away(3);
        }
        assert_eq!((held.rib.prefixes(), held.rib.footprint().attribute_sets), (0, 0), "left behind");
    }
});
