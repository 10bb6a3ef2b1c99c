//! What RFC 4271 sections 6.1 to 6.6 and RFC 7606 say of some bytes on an Established session, worked out without any of
//! the code under test. Where the answer needs a full decoder it says so instead of guessing.

use super::peer::message;

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The session.
    Ends,
    /// Nothing but routes.
    Stays,
    /// The last message is not whole.
    Incomplete,
    /// MP_REACH_NLRI, MP_UNREACH_NLRI and route refreshes with entries: both can be right.
    Either,
}

/// The bytes of a stream: the first message that ends the session decides.
pub(crate) fn stream(mut bytes: &[u8]) -> Verdict {
    let mut unsure = false;
    while !bytes.is_empty() {
        let marker = bytes.len().min(16);
        if bytes[..marker].iter().any(|byte| *byte != 0xFF) {
            return Verdict::Ends;
        }
        let Some(length) = bytes.get(16..18).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])))
        else {
            return Verdict::Incomplete;
        };
        if !(19..=4096).contains(&length) {
            return Verdict::Ends;
        }
        let Some(kind) = bytes.get(18) else { return Verdict::Incomplete };
        let fits = match kind {
            1 => length >= 29,
            2 => length >= 23,
            3 => length >= 21,
            4 => length == 19,
            5 => length >= 23,
            _ => false,
        };
        let Some(body) = bytes.get(19..length) else {
            // A header that is wrong by itself may be answered before the rest has come.
            return if fits { Verdict::Incomplete } else { Verdict::Either };
        };
        match (kind, fits) {
            (_, false) | (1 | 3, true) => return Verdict::Ends,
            (2, true) => match update(body) {
                Verdict::Stays => {}
                Verdict::Either => unsure = true,
                other => return if unsure { Verdict::Either } else { other },
            },
            (5, true) => unsure |= length != 23,
            _ => {}
        }
        bytes = &bytes[length..];
    }
    if unsure { Verdict::Either } else { Verdict::Stays }
}

/// RFC 7606 section 3 (j): NLRI that cannot be located or read end the session; section 5.3 for their syntax.
fn update(body: &[u8]) -> Verdict {
    let Some((withdrawn, rest)) = counted(body) else { return Verdict::Ends };
    let Some((attributes, nlri)) = counted(rest) else { return Verdict::Ends };
    if prefixes(withdrawn, 32).is_none() || prefixes(nlri, 32).is_none() {
        return Verdict::Ends;
    }
    let multiprotocol = attribute_list(attributes).iter().any(|(code, _)| matches!(code, 14 | 15));
    if multiprotocol { Verdict::Either } else { Verdict::Stays }
}

fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]));
    bytes.get(2..)?.split_at_checked(length)
}

/// How many prefixes there are; none where one is cut or too long.
fn prefixes(mut bytes: &[u8], longest: u8) -> Option<u64> {
    let mut count = 0;
    while let Some((length, rest)) = bytes.split_first() {
        if *length > longest {
            return None;
        }
        bytes = rest.get(usize::from(length.div_ceil(8))..)?;
        count += 1;
    }
    Some(count)
}

/// Type codes and values, as far as the list can be walked.
fn attribute_list(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut list = Vec::new();
    while let [flags, code, rest @ ..] = bytes {
        let (length, rest) = match (flags & 0x10 != 0, rest) {
            (true, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            (false, [length, rest @ ..]) => (usize::from(*length), rest),
            _ => break,
        };
        let Some((value, after)) = rest.split_at_checked(length) else {
            // What overruns may still be one of the two that matter.
            list.push((*code, rest));
            break;
        };
        list.push((*code, value));
        bytes = after;
    }
    list
}

/// `bytes` as the body of an UPDATE; none where it would be too long.
pub(crate) fn as_update(bytes: &[u8]) -> Option<Vec<u8>> {
    let body =
        if bytes.len() > 19 && bytes[..16].iter().all(|byte| *byte == 0xFF) { &bytes[19..] } else { bytes };
    (4..=4077).contains(&body.len()).then(|| message(2, body))
}

/// The whole messages of a stream.
pub(crate) fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut list = Vec::new();
    while let Some(header) = bytes.get(..19) {
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let Some(whole) = bytes.get(..length).filter(|_| length >= 19) else { break };
        list.push(whole.to_vec());
        bytes = &bytes[length..];
    }
    list
}

/// Unicast routes announced and withdrawn by good UPDATEs.
pub(crate) fn count(updates: &[Vec<u8>]) -> (u64, u64) {
    let (mut announced, mut withdrawn) = (0, 0);
    for update in updates {
        let Some((gone, rest)) = counted(&update[19..]) else { continue };
        let Some((attributes, nlri)) = counted(rest) else { continue };
        withdrawn += prefixes(gone, 32).unwrap_or_default();
        announced += prefixes(nlri, 32).unwrap_or_default();
        for (code, value) in attribute_list(attributes) {
            let (Some(family), Some(1)) = (value.get(1), value.get(2)) else { continue };
            let longest = if *family == 1 { 32 } else { 128 };
            match code {
                14 => {
                    let hop = usize::from(value[3]);
                    announced += prefixes(&value[5 + hop..], longest).unwrap_or_default();
                }
                15 => withdrawn += prefixes(&value[3..], longest).unwrap_or_default(),
                _ => {}
            }
        }
    }
    (announced, withdrawn)
}
