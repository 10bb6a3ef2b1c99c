//! Which row of the counters is whose: bound to the name of the uplink, not to its place in the configuration, and
//! remembered in a pinned map. A row never passes to another uplink with counts in it. Never decides which uplinks
//! there are.

use super::btf;
use super::error::DatapathError;
use super::known::Known;
use super::live::text;
use super::mapped::{Cells, Mapped};
use super::pins::Pins;
use super::sys::{self, HashShape};
use super::{DatapathConfig, links, reasons_per_uplink};
use crate::types::IfIndex;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::{Pod, util};
use etm_common::limits::MAX_UPLINKS;
use etm_common::{Count, RowOwner, Total, names};
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Rows by `UplinkId`; of all rows that there are.
pub(super) fn bind(
    config: &DatapathConfig,
    pins: &Pins,
    known: &mut Known,
) -> Result<Vec<u16>, DatapathError> {
    let failed = |doing| move |cause| DatapathError::Map { doing, map: names::ROWS, cause };
    let mut map: HashMap<_, u32, RowOwner> = Map::HashMap(open(pins)?).try_into().map_err(failed("open"))?;
    let mut owners = BTreeMap::new();
    for entry in map.iter() {
        let (row, owner) = entry.map_err(failed("read"))?;
        owners.insert(u16::try_from(row).unwrap_or(u16::MAX), name_of(&owner));
    }
    let attached = attached(known)?;
    let wanted: Vec<String> = (0..usize::from(config.uplink_rows))
        .map(|index| config.uplinks.get(index).cloned().unwrap_or_else(|| index.to_string()))
        .collect();
    let bound = assign(&owners, &attached, &wanted);
    let vacated: Vec<u16> = bound.iter().filter(|bound| bound.vacated).map(|bound| bound.row).collect();
    if !vacated.is_empty() {
        for (_, _, ifindex) in attached.iter().filter(|(row, ..)| vacated.contains(row)) {
            known.forget(*ifindex)?;
        }
        // From here on no packet is counted there.
        sys::grace_period().map_err(|cause| DatapathError::Kernel { doing: "wait for programs", cause })?;
        vacated.iter().try_for_each(|&row| clear(config, pins.root(), row))?;
    }
    // Names come last: after a crash in between the rows are cleared again.
    for (bound, name) in bound.iter().zip(&wanted) {
        if owners.get(&bound.row) != Some(name) {
            if let Some(before) = owners.get(&bound.row) {
                tracing::warn!(row = bound.row, %before, now = %name, counts_kept = !bound.vacated, "a row of the counters passes on");
            }
            let owner = RowOwner { uplink: text(name) };
            map.insert(u32::from(bound.row), owner, 0).map_err(failed("write"))?;
        }
    }
    Ok(bound.into_iter().map(|bound| bound.row).collect())
}

/// A row and whether its counts are another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    row: u16,
    vacated: bool,
}

/// Gives each of `wanted` a row: its own; or that of the interface that now has its name, if it was renamed; or a free
/// one; or one of a name that nobody wants any more.
fn assign(
    owners: &BTreeMap<u16, String>,
    attached: &[(u16, String, IfIndex)],
    wanted: &[String],
) -> Vec<Bound> {
    let rows = u16::try_from(wanted.len()).unwrap_or(u16::MAX);
    let of_nobody = |row: &u16| owners.get(row).is_none_or(|owner| !wanted.contains(owner));
    let own = |name: &String| {
        owners.iter().find(|(row, owner)| *owner == name && **row < rows).map(|(row, _)| *row)
    };
    let renamed = |name: &String| {
        let found = attached.iter().find(|(row, now, _)| now == name && *row < rows && of_nobody(row));
        found.map(|(row, ..)| *row)
    };
    let mut bound: Vec<Option<Bound>> = wanted
        .iter()
        .map(|name| own(name).or_else(|| renamed(name)).map(|row| Bound { row, vacated: false }))
        .collect();
    let mut left: Vec<u16> =
        (0..rows).filter(|row| !bound.iter().flatten().any(|bound| bound.row == *row)).collect();
    // Those without an owner first.
    left.sort_by_key(|row| (owners.contains_key(row), *row));
    let mut left = left.into_iter();
    bound
        .iter_mut()
        .filter_map(|bound| match bound {
            Some(bound) => Some(*bound),
            None => left.next().map(|row| Bound { row, vacated: owners.contains_key(&row) }),
        })
        .collect()
}

/// Row, name that the interface has now, and index of what is counted.
fn attached(known: &Known) -> Result<Vec<(u16, String, IfIndex)>, DatapathError> {
    let found = known.list()?.into_iter().map(|(ifindex, uplink)| {
        let row = u16::try_from(uplink.index).unwrap_or(u16::MAX);
        // A name that cannot be found is that of an interface that is gone.
        (row, sys::interface_name(ifindex).unwrap_or_default(), ifindex)
    });
    Ok(found.collect())
}

/// All counts of a row become zero.
fn clear(config: &DatapathConfig, root: &Path, row: u16) -> Result<(), DatapathError> {
    let (row, rows) = (usize::from(row), usize::from(config.uplink_rows));
    let slots = usize::try_from(config.slots).unwrap_or_default();
    for (map, length) in [(names::COUNT, slots), (names::UNCOUNTED, reasons_per_uplink())] {
        // Two words each.
        let cells: Cells = Mapped::map(&pinned(root, map)?, rows * length * 2).map_err(|cause| {
            DatapathError::Kernel { doing: "map an array of the programs into memory", cause }
        })?;
        for cell in cells.iter().skip(row * length * 2).take(length * 2) {
            if cell.load(Ordering::Relaxed) != 0 {
                cell.store(0, Ordering::Relaxed);
            }
        }
    }
    clear_cpus::<Total>(root, names::TOTAL, row)?;
    clear_cpus::<Count>(root, names::XDP_SEEN, row)
}

fn clear_cpus<T: Pod + Default>(root: &Path, name: &'static str, row: usize) -> Result<(), DatapathError> {
    let failed = |cause| DatapathError::Map { doing: "clear", map: name, cause };
    let mut map: PerCpuArray<_, T> = Map::PerCpuArray(pinned(root, name)?).try_into().map_err(failed)?;
    let cpus =
        util::nr_cpus().map_err(|(_, cause)| DatapathError::Kernel { doing: "count the CPUs", cause })?;
    let zeros = PerCpuValues::try_from(vec![T::default(); cpus])
        .map_err(|cause| DatapathError::Kernel { doing: "count the CPUs", cause })?;
    map.set(u32::try_from(row).unwrap_or(u32::MAX), zeros, 0).map_err(failed)
}

fn pinned(root: &Path, map: &'static str) -> Result<MapData, DatapathError> {
    let open = |cause: MapError| DatapathError::Map { doing: "open the pin of", map, cause };
    MapData::from_pin(root.join(map)).map_err(open)
}

/// The map, made and pinned where it is missing: no program knows it.
fn open(pins: &Pins) -> Result<MapData, DatapathError> {
    let pin = pins.root().join(names::ROWS);
    if pin.exists() {
        return pinned(pins.root(), names::ROWS);
    }
    let kernel = |doing| move |cause| DatapathError::Kernel { doing, cause };
    let types = sys::load_btf(&btf::blob()).map_err(kernel("load the type information of etm_rows"))?;
    let fd = sys::create_hash(&HashShape {
        name: names::ROWS,
        key_size: u32::try_from(size_of::<u32>()).unwrap_or_default(),
        value_size: u32::try_from(size_of::<RowOwner>()).unwrap_or_default(),
        max_entries: MAX_UPLINKS,
        btf: types.as_fd(),
        btf_key: btf::ROW,
        btf_value: btf::OWNER,
    })
    .map_err(kernel("make map etm_rows"))?;
    let map = MapData::from_fd(fd).map_err(|cause| DatapathError::Map {
        doing: "open",
        map: names::ROWS,
        cause,
    })?;
    map.pin(&pin).map_err(|error| links::pin_failed(&pin, error))?;
    Ok(map)
}

fn name_of(owner: &RowOwner) -> String {
    let end = owner.uplink.iter().position(|byte| *byte == 0).unwrap_or(owner.uplink.len());
    String::from_utf8_lossy(&owner.uplink[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stays_with_its_name_and_passes_on_only_when_it_must() {
        let kept = |row| Bound { row, vacated: false };
        let taken = |row| Bound { row, vacated: true };
        for (title, owners, attached, wanted, expected) in [
            ("first start", vec![], vec![], vec!["a", "b"], vec![kept(0), kept(1)]),
            ("nothing changed", vec!["a", "b"], vec![], vec!["a", "b"], vec![kept(0), kept(1)]),
            (
                "the order changed",
                vec!["a", "b", "c"],
                vec![],
                vec!["c", "a", "b"],
                vec![kept(2), kept(0), kept(1)],
            ),
            ("another in its place", vec!["a", "b"], vec![], vec!["x", "b"], vec![taken(0), kept(1)]),
            ("renamed", vec!["a", "b"], vec![(0, "x")], vec!["b", "x"], vec![kept(1), kept(0)]),
            (
                "two changed names",
                vec!["a", "b"],
                vec![(0, "b"), (1, "a")],
                vec!["a", "b"],
                vec![kept(0), kept(1)],
            ),
            (
                "one took the other's name",
                vec!["a", "b"],
                vec![(0, "b")],
                vec!["b", "x"],
                vec![kept(1), taken(0)],
            ),
        ] {
            let owners = (0..).zip(owners.into_iter().map(str::to_owned)).collect();
            let attached: Vec<_> = attached
                .into_iter()
                .map(|(row, name): (u16, &str)| (row, name.to_owned(), IfIndex(7)))
                .collect();
            let wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
            assert_eq!(assign(&owners, &attached, &wanted), expected, "{title}");
        }
    }

    #[test]
    fn names_are_read_as_they_were_written() {
        for name in ["eth0", "", "fifteen-letters"] {
            assert_eq!(name_of(&RowOwner { uplink: text(name) }), name);
        }
    }
}
