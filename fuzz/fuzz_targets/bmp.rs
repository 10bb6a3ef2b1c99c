//! What a monitored router may send to the BMP station: every peer that it reports up is read, whatever it says of it.
//!
//! Found wrong: a panic; a message that takes no bytes.
#![no_main]

use bytes::BytesMut;
use etm_agent::proto::bmp::{Message, PeerKey, Reader, Reading, writes_path_ids};
use etm_agent::types::bgp::Dispositions;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    let mut readings: BTreeMap<PeerKey, Reading> = BTreeMap::new();
    let mut router = (String::new(), String::new());
    loop {
        let before = buffer.len();
        let Ok(Some(message)) = Reader.next(&mut buffer) else { break };
        assert!(buffer.len() < before);
        match message {
            Message::Initiation { name, description } => router = (name, description),
            Message::PeerUp { peer, up } => {
                let path_ids = writes_path_ids(&router.0, &router.1, peer.view);
                if let Ok(reading) = Reading::new(&peer, &up, path_ids, Dispositions::default()) {
                    readings.insert(peer.key, reading);
                }
            }
            Message::PeerDown { peer, .. } => drop(readings.remove(&peer.key)),
            Message::Routes { peer, update } => {
                let reading = readings.entry(peer.key).or_insert_with(|| Reading::unannounced(&peer));
                match reading.translate(&peer, &update) {
                    Ok(translated) => drop(translated),
                    Err(reset) => drop(reset.to_string()),
                }
            }
            _ => {}
        }
    }
});
