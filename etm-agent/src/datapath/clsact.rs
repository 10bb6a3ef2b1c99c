//! The clsact qdisc: the fallback for kernels without tcx.
//! Never removes a qdisc or a filter that may be somebody else's.

use super::links::{Direction, Place};
use aya::programs::ProgramError;
use aya::programs::tc::{self, TcError};
use etm_common::names;
use std::io;

/// Adds the qdisc where there is none yet.
pub(super) fn ensure_qdisc(interface: &str) -> Result<(), TcError> {
    match tc::qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// Removes the filters of ETM's name on that side; none is as good.
pub(super) fn remove_filter(place: Place, interface: &str) -> Result<(), ProgramError> {
    let program = match place.direction {
        Direction::Egress => names::EGRESS_PROGRAM,
        Direction::Ingress => names::MARK_PROGRAM,
    };
    match tc::qdisc_detach_program(interface, place.direction.tc(), program) {
        Ok(()) => Ok(()),
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // The qdisc went, and the filters with it.
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
