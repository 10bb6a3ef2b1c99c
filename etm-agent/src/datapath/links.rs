//! Attaching programs to interfaces: tcx where the kernel has it, clsact below, always first in the chain.
//!
//! A tcx link is pinned under `links/`, keyed by interface index and direction, and outlives the process; a restart
//! replaces its program atomically. A clsact filter has no link: its program is pinned under the same name with
//! `-clsact` added, which says that the filter is ours. Never touches a program that is not ours.

use super::error::DatapathError;
use super::pins::Pins;
use super::{clsact, sys};
use crate::types::IfIndex;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle};
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

/// Which side of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Egress,
    Ingress,
}

impl Direction {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        }
    }

    pub(super) fn tc(self) -> TcAttachType {
        match self {
            Direction::Egress => TcAttachType::Egress,
            Direction::Ingress => TcAttachType::Ingress,
        }
    }

    /// Name of the pin of an interface's link.
    pub(super) fn pin(self, ifindex: IfIndex) -> String {
        format!("{ifindex}-{}", self.as_str())
    }
}

/// Added to the name of the pin where a clsact filter stands for a link.
pub(super) const CLSACT: &str = "-clsact";
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x179);

/// The interface and side that an attachment is for.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) ifindex: IfIndex,
    pub(super) direction: Direction,
}

impl Place {
    fn failed(self, doing: &'static str, hook: &'static str) -> impl Fn(ProgramError) -> DatapathError {
        let Place { ifindex, direction } = self;
        move |source| DatapathError::Attach { doing, direction: direction.as_str(), ifindex, hook, source }
    }

    pub(super) fn name(self) -> Result<String, DatapathError> {
        sys::interface_name(self.ifindex)
            .map_err(|source| DatapathError::Interface { ifindex: self.ifindex, source })
    }
}

/// Attaches `program`, or replaces what an earlier run attached.
pub(super) fn attach(
    program: &mut SchedClassifier,
    place: Place,
    hook: Hook,
    pins: &mut Pins,
) -> Result<Attached, DatapathError> {
    let name = place.name()?;
    if hook != Hook::Clsact {
        match attach_tcx(program, place, &name, pins) {
            Ok(()) => return Ok(Attached::Tcx),
            Err(error) if hook == Hook::Auto && has_no_tcx(&error) => {}
            Err(error) => return Err(error),
        }
    }
    attach_clsact(program, place, &name, pins)?;
    Ok(Attached::Clsact)
}

/// Kernels before 6.6 do not know the attach type and say EINVAL; ours asks for nothing else that could be invalid.
fn has_no_tcx(error: &DatapathError) -> bool {
    let DatapathError::Attach { source, .. } = error else { return false };
    errno(source) == Some(libc::EINVAL)
}

fn attach_tcx(
    program: &mut SchedClassifier,
    place: Place,
    name: &str,
    pins: &mut Pins,
) -> Result<(), DatapathError> {
    let pin = pins.link(&place.direction.pin(place.ifindex));
    if replace(program, place, &pin)? {
        return Ok(());
    }
    let id = program
        .attach_with_options(name, place.direction.tc(), TcAttachOptions::TcxOrder(LinkOrder::first()))
        .map_err(place.failed("attach to", "tcx"))?;
    let link = program.take_link(id).map_err(place.failed("attach to", "tcx"))?;
    let link = FdLink::try_from(link).map_err(|_| DatapathError::Missing { name: "tcx link" })?;
    link.pin(&pin).map_err(|error| pin_failed(&pin, error))?;
    pins.note(pin);
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
    pins: &mut Pins,
) -> Result<(), DatapathError> {
    let failed = place.failed("attach to", "clsact");
    let pin = pins.link(&format!("{}{CLSACT}", place.direction.pin(place.ifindex)));
    let ours = pin.exists();
    clsact::ensure_qdisc(name).map_err(|error| failed(error.into()))?;
    let options = || TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None });
    let replaced = if ours {
        let link = SchedClassifierLink::attached(name, place.direction.tc(), PRIORITY, HANDLE, None)
            .map_err(|error| failed(TcError::from(error).into()))?;
        match program.attach_to_link(link) {
            Ok(id) => Some(id),
            // The interface was made anew since, and the filter went with the old one.
            Err(error) if errno(&error) == Some(libc::ENOENT) => None,
            Err(error) => return Err(failed(error)),
        }
    } else {
        None
    };
    let id = match replaced {
        Some(id) => id,
        None => program.attach_with_options(name, place.direction.tc(), options()).map_err(&failed)?,
    };
    let link = program.take_link(id).map_err(&failed)?;
    // Dropping it would detach; the filter is found again by its handle, and by the pin made here.
    std::mem::forget(link);
    if ours {
        remove_pin(&pin)?;
    }
    program.pin(&pin).map_err(|error| pin_failed(&pin, error))?;
    pins.note(pin);
    Ok(())
}

/// Takes ETM's program off an interface, by whichever hook it is there. True if there was one.
pub(super) fn detach(place: Place, dir: &Path) -> Result<bool, DatapathError> {
    let link = dir.join(place.direction.pin(place.ifindex));
    let filter = dir.join(format!("{}{CLSACT}", place.direction.pin(place.ifindex)));
    let mut found = false;
    if filter.exists() {
        // Without the interface there is no filter either.
        if let Ok(name) = place.name() {
            clsact::remove_filter(place, &name).map_err(place.failed("detach from", "clsact"))?;
        }
        remove_pin(&filter)?;
        found = true;
    }
    if link.exists() {
        remove_pin(&link)?;
        found = true;
    }
    Ok(found)
}

/// The places that have a pin under `dir`.
pub(super) fn pinned(dir: &Path) -> Result<Vec<Place>, DatapathError> {
    let failed = |source| DatapathError::Path { doing: "list", path: dir.to_path_buf(), source };
    let mut places = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let name = name.strip_suffix(CLSACT).unwrap_or(&name);
        let direction = |word: &str| {
            [Direction::Egress, Direction::Ingress].into_iter().find(|side| side.as_str() == word)
        };
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
        Err(source) => Err(DatapathError::Path { doing: "remove pin", path: pin.to_path_buf(), source }),
    }
}

pub(super) fn pin_failed(pin: &Path, error: aya::pin::PinError) -> DatapathError {
    let path: PathBuf = pin.to_path_buf();
    let source = match error {
        aya::pin::PinError::SyscallError(error) => error.io_error,
        aya::pin::PinError::NoFd { .. } | aya::pin::PinError::InvalidPinPath { .. } => {
            io::ErrorKind::InvalidInput.into()
        }
    };
    DatapathError::Path { doing: "pin", path, source }
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
