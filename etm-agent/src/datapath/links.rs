//! Attaching programs to interfaces: tcx where the kernel has it, clsact below, always first in the chain.
//!
//! A tcx link is pinned under `links/`, keyed by interface index and direction, and outlives the process; a restart
//! replaces its program atomically. A clsact filter has no link: its program is pinned under the same name with
//! `-clsact` added, which says that the filter is ours. Never touches a program that is not ours.

use super::clsact;
use super::error::DatapathError;
use super::place::{CLSACT, Direction, Place};
use super::sys;
use crate::types::IfIndex;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Which way of attaching to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hook {
    /// tcx where the kernel has it (6.6), clsact below.
    #[default]
    Auto,
    /// tcx or nothing.
    Tcx,
    /// The clsact qdisc.
    Clsact,
}

/// Which way of attaching was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// A tcx link, first in the chain.
    Tcx,
    /// A filter of the clsact qdisc with priority 1.
    Clsact,
}

const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x179);

/// Attaches `program`, or replaces what an earlier run attached.
pub(super) fn attach(
    program: &mut SchedClassifier,
    place: Place,
    hook: Hook,
    dir: &Path,
) -> Result<Attached, DatapathError> {
    let name = place.name()?;
    if hook != Hook::Clsact {
        match attach_tcx(program, place, &name, dir) {
            Ok(()) => {
                // By an earlier configuration: both hooks would count every packet twice.
                remove_filter(place, dir)?;
                return Ok(Attached::Tcx);
            }
            Err(error) if hook == Hook::Auto && has_no_tcx(&error) => {}
            Err(error) => return Err(error),
        }
    }
    attach_clsact(program, place, &name, dir)?;
    remove_pin(&place.link_pin(dir))?;
    Ok(Attached::Clsact)
}

/// Kernels before 6.6 do not know the attach type and say EINVAL; ours asks for nothing else that could be invalid.
fn has_no_tcx(error: &DatapathError) -> bool {
    let DatapathError::Attach { cause, .. } = error else { return false };
    errno(cause) == Some(libc::EINVAL)
}

fn attach_tcx(
    program: &mut SchedClassifier,
    place: Place,
    name: &str,
    dir: &Path,
) -> Result<(), DatapathError> {
    let pin = place.link_pin(dir);
    if replace(program, place, &pin)? {
        return Ok(());
    }
    let id = program
        .attach_with_options(name, place.direction.tc(), TcAttachOptions::TcxOrder(LinkOrder::first()))
        .map_err(place.failed("attach to", "tcx"))?;
    let link = program.take_link(id).map_err(place.failed("attach to", "tcx"))?;
    let link = FdLink::try_from(link).map_err(|_| DatapathError::Missing { name: "tcx link" })?;
    link.pin(&pin).map_err(|error| pin_failed(&pin, error))?;
    Ok(())
}

/// Puts `program` in the place of the one in the pinned link. False where there is no link, or only one whose
/// interface is gone (its index may be another interface's now); its pin is removed.
fn replace(program: &mut SchedClassifier, place: Place, pin: &Path) -> Result<bool, DatapathError> {
    let link = match PinnedLink::from_pin(pin) {
        Ok(link) => SchedClassifierLink::try_from(FdLink::from(link)),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            return Ok(false);
        }
        Err(error) => Err(error),
    };
    let foreign = |_| DatapathError::PinShape {
        pin: pin.to_path_buf(),
        root: pin.parent().and_then(Path::parent).unwrap_or(pin).to_path_buf(),
        field: "type",
        found: "something else".to_owned(),
        wanted: "a tcx link".to_owned(),
    };
    match program.attach_to_link(link.map_err(foreign)?) {
        Ok(id) => {
            // The pin holds the link from here on; the descriptor may go.
            program.take_link(id).map_err(place.failed("replace the program at", "tcx"))?;
            Ok(true)
        }
        Err(error) if errno(&error) == Some(libc::ENOLINK) => {
            remove_pin(pin)?;
            Ok(false)
        }
        Err(error) => Err(place.failed("replace the program at", "tcx")(error)),
    }
}

fn attach_clsact(
    program: &mut SchedClassifier,
    place: Place,
    name: &str,
    dir: &Path,
) -> Result<(), DatapathError> {
    let failed = place.failed("attach to", "clsact");
    let pin = place.filter_pin(dir);
    let added = clsact::add_qdisc(name).map_err(|error| failed(error.into()))?;
    if added {
        // Remembers that the qdisc is ours to remove; an older pin tells of a qdisc that is gone.
        pin_anew(program, &place.qdisc_pin(dir))?;
    }
    let replaced = pin.exists() && replace_filter(program, place, name).map_err(&failed)?;
    let link = if replaced {
        None
    } else {
        let filter = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
        let id = program
            .attach_with_options(name, place.direction.tc(), TcAttachOptions::Netlink(filter))
            .map_err(&failed)?;
        Some(program.take_link(id).map_err(&failed)?)
    };
    pin_anew(program, &pin)?;
    // Dropping the link would detach; the pin says from here on that the filter is there, and ours.
    std::mem::forget(link);
    Ok(())
}

/// Puts `program` in the place of the one in our filter. False where the interface was made anew since, and the filter
/// went with the old one.
fn replace_filter(program: &mut SchedClassifier, place: Place, name: &str) -> Result<bool, ProgramError> {
    let link = SchedClassifierLink::attached(name, place.direction.tc(), PRIORITY, HANDLE, None)
        .map_err(TcError::from)?;
    match program.attach_to_link(link) {
        Ok(id) => {
            std::mem::forget(program.take_link(id)?);
            Ok(true)
        }
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn pin_anew(program: &mut SchedClassifier, pin: &Path) -> Result<(), DatapathError> {
    remove_pin(pin)?;
    program.pin(pin).map_err(|error| pin_failed(pin, error))
}

/// Whether an earlier run, or this one, attached there.
pub(super) fn exists(place: Place, dir: &Path) -> bool {
    place.link_pin(dir).exists() || place.filter_pin(dir).exists()
}

/// Takes ETM's program off an interface, by whichever hook it is there.
pub(super) fn detach(place: Place, dir: &Path) -> Result<(), DatapathError> {
    let pin = place.link_pin(dir);
    match sys::detach_link(&pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            // The pin's removal leads to the same, later.
            tracing::debug!(%error, place = place.label(), "the link is not detached at once");
        }
        _ => {}
    }
    remove_pin(&pin)?;
    remove_filter(place, dir)
}

/// Removes ETM's clsact filter from a place, and the qdisc where ETM added it and no filter needs it any more.
fn remove_filter(place: Place, dir: &Path) -> Result<(), DatapathError> {
    let filter = place.filter_pin(dir);
    let qdisc = place.qdisc_pin(dir);
    // Without the interface there is neither filter nor qdisc.
    let name = place.name().ok();
    if filter.exists() {
        if let Some(name) = &name {
            clsact::remove_filter(place, name).map_err(place.failed("detach from", "clsact"))?;
        }
        remove_pin(&filter)?;
    }
    let last =
        Direction::BOTH.iter().all(|&direction| !Place { direction, ..place }.filter_pin(dir).exists());
    if qdisc.exists() && last {
        if name.is_some() {
            clsact::remove_empty_qdisc(place.ifindex)
                .map_err(|cause| DatapathError::Kernel { doing: "remove the clsact qdisc", cause })?;
        }
        remove_pin(&qdisc)?;
    }
    Ok(())
}

/// The places that have a pin under `dir`.
pub(super) fn pinned(dir: &Path) -> Result<Vec<Place>, DatapathError> {
    let failed = |cause| DatapathError::Path { doing: "list", path: dir.to_path_buf(), cause };
    let mut places = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let name = name.strip_suffix(CLSACT).unwrap_or(&name);
        let direction = |word: &str| Direction::BOTH.into_iter().find(|direction| direction.as_str() == word);
        if let Some((ifindex, word)) = name.split_once('-')
            && let (Ok(ifindex), Some(direction)) = (ifindex.parse(), direction(word))
        {
            places.push(Place { ifindex: IfIndex(ifindex), direction });
        }
    }
    places.sort_by_key(|place| (place.ifindex, place.direction));
    places.dedup_by_key(|place| (place.ifindex, place.direction));
    Ok(places)
}

pub(super) fn remove_pin(pin: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(pin) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(DatapathError::Path { doing: "remove pin", path: pin.to_path_buf(), cause }),
    }
}

pub(super) fn pin_failed(pin: &Path, error: aya::pin::PinError) -> DatapathError {
    let path: PathBuf = pin.to_path_buf();
    let cause = match error {
        aya::pin::PinError::SyscallError(error) => error.io_error,
        aya::pin::PinError::NoFd { .. } | aya::pin::PinError::InvalidPinPath { .. } => {
            io::ErrorKind::InvalidInput.into()
        }
    };
    DatapathError::Path { doing: "pin", path, cause }
}

/// The kernel's answer inside aya's error.
fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => {
            error.raw_os_error()
        }
        ProgramError::TcError(TcError::IoError(error)) => error.raw_os_error(),
        _ => None,
    }
}
