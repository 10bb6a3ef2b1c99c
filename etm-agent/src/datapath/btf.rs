//! Type information for the maps that the agent makes itself, written by hand.
//!
//! bpftool shows an array as text only if its element type is named `char`, which no Rust type is. Standard: the
//! kernel's Documentation/bpf/btf.rst. Never more than two keys and two values.

use etm_common::limits::{INTERFACE_TEXT, PREFIX_TEXT};

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
const HEADER: u32 = 24;
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;

// Type ids: their order in the blob, from 1.
const CHAR: u32 = 1;
const U32: u32 = 2;
const U64: u32 = 3;
const PREFIX: u32 = 4;
const UPLINK: u32 = 5;
/// Type id of the key.
pub(super) const KEY: u32 = 6;
/// Type id of the value.
pub(super) const VALUE: u32 = 7;
/// Type id of the key of the rows' owners.
pub(super) const ROW: u32 = U32;
/// Type id of a row's owner.
pub(super) const OWNER: u32 = 8;

#[derive(Default)]
struct Blob {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Blob {
    fn word(&mut self, word: u32) {
        self.types.extend(word.to_ne_bytes());
    }

    fn name(&mut self, name: &str) {
        let at = u32::try_from(self.strings.len()).unwrap_or_default();
        self.strings.extend(name.bytes());
        self.strings.push(0);
        self.word(at);
    }

    /// `info` is the kind and the number of members (struct btf_type).
    fn head(&mut self, name: &str, kind: u32, members: u32, size: u32) {
        self.name(name);
        self.word(kind << 24 | members);
        self.word(size);
    }

    fn int(&mut self, name: &str, bytes: u32) {
        self.head(name, INT, 0, bytes);
        self.word(bytes * 8);
    }

    fn char_array(&mut self, len: u32) {
        // An anonymous type; the empty name is the string at offset 0.
        self.word(0);
        self.word(ARRAY << 24);
        self.word(0);
        self.word(CHAR);
        self.word(U32);
        self.word(len);
    }

    fn member(&mut self, name: &str, kind: u32, offset_bytes: u32) {
        self.name(name);
        self.word(kind);
        self.word(offset_bytes * 8);
    }
}

/// The blob for BPF_BTF_LOAD.
pub(super) fn blob() -> Vec<u8> {
    let text = |len: usize| u32::try_from(len).unwrap_or_default();
    let (prefix, uplink) = (text(PREFIX_TEXT), text(INTERFACE_TEXT));
    let mut blob = Blob { strings: vec![0], ..Blob::default() };
    blob.int("char", 1);
    blob.int("__u32", 4);
    blob.int("__u64", 8);
    blob.char_array(prefix);
    blob.char_array(uplink);
    blob.head("etm_live_key", STRUCT, 2, prefix + uplink);
    blob.member("prefix", PREFIX, 0);
    blob.member("uplink", UPLINK, prefix);
    blob.head("etm_live_value", STRUCT, 3, 24);
    blob.member("bytes", U64, 0);
    blob.member("packets", U64, 8);
    blob.member("bits_per_second", U64, 16);
    blob.head("etm_row_owner", STRUCT, 1, uplink);
    blob.member("uplink", UPLINK, 0);

    let types = u32::try_from(blob.types.len()).unwrap_or_default();
    let strings = u32::try_from(blob.strings.len()).unwrap_or_default();
    let mut out = Vec::new();
    out.extend(MAGIC.to_ne_bytes());
    out.extend([VERSION, 0]);
    for word in [HEADER, 0, types, types, strings] {
        out.extend(word.to_ne_bytes());
    }
    out.extend(blob.types);
    out.extend(blob.strings);
    out
}
