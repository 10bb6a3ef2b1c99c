//! Counting for boxes that forward in XDP: ETM's program is called by the forwarder, by tail call, for what it redirects.
//!
//! Never attached to an interface: there is room for one program, and that is the forwarder. What the forwarder redirects
//! passes by TC, and everything else passes TC alone, so that each packet is counted once. docs/xdp.md has the protocol.

use super::error::DatapathError;
use super::survey::{self, OnHook};
use super::{Datapath, sys};
use crate::types::IfIndex;
use aya::Ebpf;
use aya::maps::{MapInfo, ProgramArray};
use aya::programs::{ProgramError, Xdp};
use etm_common::names;

/// What was found out about the program that holds an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarder {
    /// It uses ETM's map.
    Calls {
        /// Its name.
        program: String,
    },
    /// It cannot be looked into: that takes CAP_SYS_ADMIN. Whether it calls shows in `Counters::redirected`.
    Unseen {
        /// Its id.
        id: u32,
    },
    /// libxdp's dispatcher, which runs several programs; which of them call shows in `Counters::redirected`.
    Dispatcher,
}

impl Datapath {
    /// Puts the counting program where forwarders call it. From an earlier run it is replaced atomically.
    pub fn serve_forwarders(&mut self) -> Result<(), DatapathError> {
        if let Some(error) = self.no_xdp.take() {
            return Err(error);
        }
        let fd = program(&mut self.object)?.fd().and_then(|fd| fd.try_clone().map_err(ProgramError::IOError));
        let fd = fd.map_err(refused)?;
        let offer =
            |cause| DatapathError::XdpOffer { program: names::XDP_PROGRAM, map: names::XDP_CALL, cause };
        self.call()?.set(0, &fd, 0).map_err(offer)
    }

    /// Takes it from there: forwarders go on, uncounted.
    pub fn leave_forwarders(&mut self) -> Result<(), DatapathError> {
        match self.call()?.clear_index(&0) {
            Ok(()) => Ok(()),
            Err(error) if super::trie::errno(&error) == Some(libc::ENOENT) => Ok(()),
            Err(cause) => Err(DatapathError::Map { doing: "clear", map: names::XDP_CALL, cause }),
        }
    }

    /// Whether the program that holds an interface calls ETM; an error where there is none, or one that does not.
    pub fn check_forwarder(&mut self, ifindex: IfIndex) -> Result<Forwarder, DatapathError> {
        let name =
            sys::interface_name(ifindex).map_err(|cause| DatapathError::Interface { ifindex, cause })?;
        let on_xdp = survey::xdp(ifindex).map_err(|cause| DatapathError::Kernel {
            doing: "ask for the XDP program of an interface",
            cause,
        })?;
        let Some(OnHook { id: Some(id), .. }) = on_xdp.into_iter().next() else {
            return Err(DatapathError::XdpNothing { name });
        };
        let Some(programs) = survey::programs() else { return Ok(Forwarder::Unseen { id }) };
        let found = programs.get(&id).cloned().unwrap_or_default();
        let call = self.pins.root().join(names::XDP_CALL);
        let map = MapInfo::from_pin(&call).map_err(|cause| DatapathError::Map {
            doing: "open the pin of",
            map: names::XDP_CALL,
            cause,
        })?;
        match found.name {
            program if found.maps.contains(&map.id()) => Ok(Forwarder::Calls { program }),
            program if program == survey::DISPATCHER => Ok(Forwarder::Dispatcher),
            program => Err(DatapathError::XdpHeld { name, program, id, call }),
        }
    }

    fn call(&mut self) -> Result<ProgramArray<&mut aya::maps::MapData>, DatapathError> {
        let name = names::XDP_CALL;
        let map = self.object.map_mut(name).ok_or(DatapathError::Missing { name })?;
        map.try_into().map_err(|cause| DatapathError::Map { doing: "open", map: name, cause })
    }
}

/// Gives the program to the kernel. Boxes that do not forward in XDP do without, so that its failure is theirs alone.
pub(super) fn load(object: &mut Ebpf) -> Result<(), DatapathError> {
    program(object)?.load().map_err(refused)
}

fn program(object: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    let missing = || DatapathError::Missing { name: names::XDP_PROGRAM };
    object.program_mut(names::XDP_PROGRAM).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

fn refused(cause: ProgramError) -> DatapathError {
    DatapathError::Program { program: names::XDP_PROGRAM, cause: Box::new(cause) }
}
