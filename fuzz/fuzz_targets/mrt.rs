//! Files of routes: MRT records one after the other.
//!
//! Found wrong: a panic; a route that is written and reads back as another.
#![no_main]

use bytes::Bytes;
use etm_agent::proto::bgp::{store_attributes, stored_attributes};
use etm_agent::proto::mrt::{HEADER, Record, head, record};
use etm_agent::types::RouteAttrs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = Bytes::copy_from_slice(data);
    while rest.len() >= HEADER {
        let Ok(bytes) = <[u8; HEADER]>::try_from(&rest.split_to(HEADER)[..]) else { break };
        let head = head(bytes);
        let len = usize::try_from(head.len).unwrap_or(usize::MAX).min(rest.len());
        let Ok(Record::Rib { entries, .. }) = record(&head, rest.split_to(len)) else { continue };
        for attrs in entries.into_iter().filter_map(|entry| entry.attrs.ok()) {
            let Ok(stored) = store_attributes(&attrs) else { continue };
            match stored_attributes(&stored, true) {
                // Of CLUSTER_LIST only the length is kept, so none is written.
                Ok(back) => assert_eq!(RouteAttrs { cluster_hops: attrs.cluster_hops, ..back }, attrs),
                Err(error) => panic!("{error}: {attrs:?}"),
            }
        }
    }
});
