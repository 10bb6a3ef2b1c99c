//! Frames of a pcap or pcapng file, as far as the captures of these tests use the formats.
//! Never skips what it does not know: an unknown block that may hold a frame is a panic.

/// One frame.
pub(crate) struct Frame {
    /// LINKTYPE_*; 1 is Ethernet.
    pub(crate) link_type: u32,
    /// Octets captured.
    pub(crate) data: Vec<u8>,
}

const PCAP_MICRO: u32 = 0xa1b2_c3d4;
const PCAP_NANO: u32 = 0xa1b2_3c4d;
const PCAP_NG: u32 = 0x0a0d_0d0a;
const NG_ORDER: u32 = 0x1a2b_3c4d;

/// All frames of a file.
pub(crate) fn frames(file: &[u8]) -> Vec<Frame> {
    match number(file, 0, false) {
        PCAP_NG => blocks(file),
        magic => {
            let swapped = ![PCAP_MICRO, PCAP_NANO].contains(&magic);
            let magic = number(file, 0, swapped);
            assert!([PCAP_MICRO, PCAP_NANO].contains(&magic), "no capture: {magic:#x}");
            records(file, swapped)
        }
    }
}

fn records(file: &[u8], swapped: bool) -> Vec<Frame> {
    let link_type = number(file, 20, swapped) & 0xffff;
    let (mut frames, mut at) = (Vec::new(), 24);
    while at + 16 <= file.len() {
        let captured = size(file, at + 8, swapped);
        // The last record of a broken file may state more than is there.
        let end = file.len().min(at + 16 + captured);
        frames.push(Frame { link_type, data: file[at + 16..end].to_vec() });
        at += 16 + captured;
    }
    frames
}

fn blocks(file: &[u8]) -> Vec<Frame> {
    let (mut frames, mut interfaces, mut swapped, mut at) = (Vec::new(), Vec::new(), false, 0);
    while at + 12 <= file.len() {
        let kind = number(file, at, swapped);
        if kind == PCAP_NG {
            swapped = number(file, at + 8, false) != NG_ORDER;
            interfaces.clear();
        }
        let block = &file[at..at + size(file, at + 4, swapped)];
        match kind {
            1 => interfaces.push(number(block, 8, swapped) & 0xffff),
            3 => {
                let len = number(block, 8, swapped);
                let captured = usize::try_from(len).unwrap().min(block.len() - 16);
                let data = block[12..12 + captured].to_vec();
                frames.push(Frame { link_type: interfaces[0], data });
            }
            6 => {
                let interface = size(block, 8, swapped);
                let data = block[28..28 + size(block, 20, swapped)].to_vec();
                frames.push(Frame { link_type: interfaces[interface], data });
            }
            // Section header, names, statistics, decryption secrets, and what a vendor adds.
            PCAP_NG | 4 | 5 | 10 | 0xbad => {}
            _ => panic!("unknown block {kind:#x}"),
        }
        at += block.len();
    }
    frames
}

fn size(bytes: &[u8], at: usize, swapped: bool) -> usize {
    usize::try_from(number(bytes, at, swapped)).unwrap()
}

fn number(bytes: &[u8], at: usize, swapped: bool) -> u32 {
    let four = bytes[at..at + 4].try_into().unwrap();
    if swapped { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
}
