//! The agent's lease on marking, the operator's switch, and what the mark program counted.
//! Never reads a clock: deadlines are handed in.

use super::error::DatapathError;
use super::shape;
use crate::types::{Count, Timestamp};
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use etm_common::{MarkSetting, Off, names};
use std::path::Path;

/// The lease. The kernel marks packets from inside only while it is fresh.
pub struct Lease {
    map: Array<MapData, etm_common::Lease>,
    marked: PerCpuArray<MapData, etm_common::Count>,
}

/// A lease as it is in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// Until when packets are marked (CLOCK_BOOTTIME); zero after `expire`.
    pub deadline: Timestamp,
    /// Value of the mark.
    pub mark: u32,
    /// Bits it owns.
    pub mask: u32,
}

/// What passed the inside interfaces, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// Without the mark.
    pub plain: Count,
    /// With it.
    pub marked: Count,
}

impl Lease {
    pub(super) fn new(map: Map, marked: Map) -> Result<Lease, DatapathError> {
        Ok(Lease {
            map: map.try_into().map_err(failed("open", names::LEASE))?,
            marked: marked.try_into().map_err(failed("open", names::MARKED))?,
        })
    }

    /// Sets how packets are marked; a lease that is still fresh stays so, so that a restart is not felt.
    pub fn arm(&mut self, mark: u32, mask: u32) -> Result<(), DatapathError> {
        if mark & !mask != 0 {
            return Err(DatapathError::MarkOutsideMask { mark, mask });
        }
        let lease = self.get()?;
        self.set(etm_common::Lease { setting: MarkSetting { mark, mask }, ..lease })
    }

    /// Marks until `deadline`.
    pub fn renew(&mut self, deadline: Timestamp) -> Result<(), DatapathError> {
        let lease = self.get()?;
        self.set(etm_common::Lease { deadline_ns: deadline.0, ..lease })
    }

    /// Marks nothing from now on.
    pub fn expire(&mut self) -> Result<(), DatapathError> {
        self.renew(Timestamp(0))
    }

    /// The lease as the kernel sees it.
    pub fn read(&self) -> Result<LeaseState, DatapathError> {
        let etm_common::Lease { deadline_ns, setting: MarkSetting { mark, mask } } = self.get()?;
        Ok(LeaseState { deadline: Timestamp(deadline_ns), mark, mask })
    }

    /// What passed with and without the mark.
    pub fn marked(&self) -> Result<Marked, DatapathError> {
        let sum = |row| -> Result<Count, DatapathError> {
            let values = self.marked.get(&row, 0).map_err(failed("read", names::MARKED))?;
            Ok(values.iter().fold(Count::default(), |sum, count| Count {
                bytes: sum.bytes.wrapping_add(count.bytes),
                packets: sum.packets.wrapping_add(count.packets),
            }))
        };
        Ok(Marked { plain: sum(names::MARKED_PLAIN)?, marked: sum(names::MARKED_SET)? })
    }

    fn get(&self) -> Result<etm_common::Lease, DatapathError> {
        self.map.get(&0, 0).map_err(failed("read", names::LEASE))
    }

    fn set(&mut self, lease: etm_common::Lease) -> Result<(), DatapathError> {
        self.map.set(0, lease, 0).map_err(failed("write", names::LEASE))
    }
}

/// The operator's switch. It belongs to `etm off` and `etm on`: the agent only reads it, so that one which hung
/// and came back cannot undo an `off`.
pub struct OffSwitch {
    map: Array<MapData, Off>,
}

impl OffSwitch {
    pub(super) fn new(map: Map) -> Result<OffSwitch, DatapathError> {
        Ok(OffSwitch { map: map.try_into().map_err(failed("open", names::OFF))? })
    }

    /// Opens the switch by its pin alone: works when the agent is hung or gone. None where nothing is pinned, which
    /// means that nothing is marked either.
    pub fn open(pin_root: &Path) -> Result<Option<OffSwitch>, DatapathError> {
        if !shape::fits(pin_root, &shape::off_shape())? {
            return Ok(None);
        }
        let data = MapData::from_pin(pin_root.join(names::OFF)).map_err(failed("open", names::OFF))?;
        OffSwitch::new(Map::Array(data)).map(Some)
    }

    /// Nothing is marked from now on, until `clear`.
    pub fn set(&mut self) -> Result<(), DatapathError> {
        self.write(1)
    }

    /// Marks again while the lease is fresh.
    pub fn clear(&mut self) -> Result<(), DatapathError> {
        self.write(0)
    }

    /// Whether the switch is off, that is: ETM is without effect in the kernel.
    pub fn is_off(&self) -> Result<bool, DatapathError> {
        let Off { off } = self.map.get(&0, 0).map_err(failed("read", names::OFF))?;
        Ok(off != 0)
    }

    fn write(&mut self, off: u32) -> Result<(), DatapathError> {
        self.map.set(0, Off { off }, 0).map_err(failed("write", names::OFF))
    }
}

fn failed(doing: &'static str, map: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |cause| DatapathError::Map { doing, map, cause }
}
