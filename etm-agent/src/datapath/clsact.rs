//! The clsact qdisc: the fallback for kernels without tcx.
//! Never removes a qdisc or a filter that may be somebody else's.
//! Standard: rtnetlink(7), linux/rtnetlink.h, linux/pkt_sched.h.

use super::place::{Direction, Place};
use super::sys;
use crate::types::IfIndex;
use aya::programs::ProgramError;
use aya::programs::tc::{self, TcError};
use etm_common::names;
use std::fs::File;
use std::io::{self, Read as _, Write as _};

const RTM_DELQDISC: u16 = 37;
pub(super) const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_GETTFILTER: u16 = 46;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
/// Handle of the qdisc, and TC_H_CLSACT.
const CLSACT_HANDLE: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
/// TC_H_CLSACT with TC_H_MIN_INGRESS, and with TC_H_MIN_EGRESS.
const FILTER_PARENTS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];
const HEADER: usize = 16;

/// Adds the qdisc; false where there was one already.
pub(super) fn add_qdisc(interface: &str) -> Result<bool, TcError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => Ok(true),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the filters of ETM's name on that side; none is as good.
pub(super) fn remove_filter(place: Place, interface: &str) -> Result<(), ProgramError> {
    let programs: &[&str] = match place.direction {
        Direction::Egress => &[names::EGRESS_PROGRAM, names::EGRESS_OWN_PROGRAM],
        Direction::Ingress => &[names::MARK_PROGRAM],
    };
    programs.iter().try_for_each(|program| remove(place, interface, program))
}

fn remove(place: Place, interface: &str, program: &str) -> Result<(), ProgramError> {
    match tc::qdisc_detach_program(interface, place.direction.tc(), program) {
        Ok(()) => Ok(()),
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // The qdisc went, and the filters with it.
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the qdisc unless a filter is left on it.
pub(super) fn remove_empty_qdisc(ifindex: IfIndex) -> io::Result<()> {
    // Unbound and unconnected, such a socket speaks with the kernel.
    let mut socket = File::from(sys::route_socket()?);
    for parent in FILTER_PARENTS {
        let dump = request(RTM_GETTFILTER, NLM_F_DUMP, ifindex, 0, parent)?;
        if exchange(&mut socket, &dump)? {
            return Ok(());
        }
    }
    let delete = request(RTM_DELQDISC, NLM_F_ACK, ifindex, CLSACT_HANDLE, CLSACT_PARENT)?;
    exchange(&mut socket, &delete).map(drop)
}

/// nlmsghdr and tcmsg, without attributes.
pub(super) fn request(
    kind: u16,
    flags: u16,
    ifindex: IfIndex,
    handle: u32,
    parent: u32,
) -> io::Result<Vec<u8>> {
    let ifindex = i32::try_from(ifindex.get()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = Vec::with_capacity(36);
    message.extend(36_u32.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence and port: one request at a time on a socket of its own needs neither.
    message.extend([0; 8]);
    // Family and padding.
    message.extend([0; 4]);
    message.extend(ifindex.to_ne_bytes());
    message.extend(handle.to_ne_bytes());
    message.extend(parent.to_ne_bytes());
    message.extend([0; 4]);
    Ok(message)
}

/// Sends a request and reads to the end of its answer; whether a filter was in it.
fn exchange(socket: &mut File, request: &[u8]) -> io::Result<bool> {
    socket.write_all(request)?;
    let mut filter = false;
    // The kernel fills at most this in one go (netlink(7)).
    let mut buffer = [0; 32 * 1024];
    loop {
        let len = socket.read(&mut buffer)?;
        let mut rest = buffer.get(..len).unwrap_or_default();
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(filter),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(filter) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                RTM_NEWTFILTER => filter = true,
                _ => {}
            }
            rest = next;
        }
    }
}

/// The first message: its type, what follows its header, and the bytes after it.
pub(super) fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..len)?;
    Some((kind, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_walked_to_the_end_and_never_beyond() {
        let mut bytes = request(RTM_NEWTFILTER, 0, IfIndex(3), 0, 0).unwrap();
        let (kind, body, rest) = message(&bytes).unwrap();
        assert_eq!((kind, body.len(), rest.len()), (RTM_NEWTFILTER, 20, 0));
        bytes[0] = 200;
        assert!(message(&bytes).is_none(), "longer than the datagram");
        bytes[0] = 8;
        assert!(message(&bytes).is_none(), "shorter than its own header");
        assert!(message(&bytes[..3]).is_none());
    }
}
