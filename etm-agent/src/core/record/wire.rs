//! Inputs in a compact form: attributes once per batch, counters as differences. Never loses a bit: what goes in comes
//! out equal, order included.

use super::RecordError;
use crate::core::input::{Input, RouteBatch, RouteChange, Sample, SlotCount, TableFill, UplinkSample};
use crate::types::{Count, PathId, PeerId, Prefix, RouteAttrs, SlotId, Timestamp, UplinkId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An input as written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Wire {
    Plain(Input),
    Routes(Routes),
    Sample(Readings),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Routes {
    peer: PeerId,
    /// Each once, in the order of first use.
    attrs: Vec<RouteAttrs>,
    changes: Vec<Change>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Change {
    prefix: Prefix,
    path_id: PathId,
    /// Place in `attrs`; none withdraws.
    attrs: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Readings {
    at: Timestamp,
    uplinks: Vec<UplinkSample>,
    table: TableFill,
    rows: Vec<Row>,
}

/// A row as its difference to the row before it (slot) and to its last value (counts).
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    slot: i64,
    uplink: UplinkId,
    bytes: u64,
    packets: u64,
}

/// Last values of counter rows, equal on both sides.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    last: BTreeMap<(SlotId, UplinkId), Count>,
}

impl Wire {
    pub(super) fn from_input(input: &Input, rows: &mut Rows) -> Result<Wire, RecordError> {
        Ok(match input {
            Input::Routes(batch) => Wire::Routes(routes(batch)?),
            Input::Sample(sample) => Wire::Sample(readings(sample, rows)),
            other => Wire::Plain(other.clone()),
        })
    }

    pub(super) fn into_input(self, rows: &mut Rows) -> Result<Input, RecordError> {
        match self {
            Wire::Plain(input) => Ok(input),
            Wire::Routes(routes) => batch(routes).map(Input::Routes),
            Wire::Sample(readings) => sample(readings, rows).map(Input::Sample),
        }
    }
}

fn routes(batch: &RouteBatch) -> Result<Routes, RecordError> {
    let mut places: BTreeMap<*const RouteAttrs, u32> = BTreeMap::new();
    let mut attrs = Vec::new();
    let mut changes = Vec::with_capacity(batch.changes.len());
    for change in &batch.changes {
        changes.push(match change {
            RouteChange::Withdraw { prefix, path_id } => {
                Change { prefix: *prefix, path_id: *path_id, attrs: None }
            }
            RouteChange::Announce { prefix, path_id, attrs: shared } => {
                let next = u32::try_from(attrs.len())
                    .map_err(|_| RecordError::Encode { what: "so many routes at once" })?;
                let place = *places.entry(Arc::as_ptr(shared)).or_insert_with(|| {
                    attrs.push(RouteAttrs::clone(shared));
                    next
                });
                Change { prefix: *prefix, path_id: *path_id, attrs: Some(place) }
            }
        });
    }
    Ok(Routes { peer: batch.peer, attrs, changes })
}

fn batch(routes: Routes) -> Result<RouteBatch, RecordError> {
    let attrs: Vec<Arc<RouteAttrs>> = routes.attrs.into_iter().map(Arc::new).collect();
    let mut changes = Vec::with_capacity(routes.changes.len());
    for Change { prefix, path_id, attrs: place } in routes.changes {
        changes.push(match place {
            None => RouteChange::Withdraw { prefix, path_id },
            Some(place) => {
                let shared = usize::try_from(place).ok().and_then(|place| attrs.get(place));
                let shared = shared.ok_or(RecordError::Damaged { what: "attributes of a route" })?;
                RouteChange::Announce { prefix, path_id, attrs: Arc::clone(shared) }
            }
        });
    }
    Ok(RouteBatch { peer: routes.peer, changes })
}

fn readings(sample: &Sample, rows: &mut Rows) -> Readings {
    let mut before = 0;
    let compact = sample.rows.iter().map(|row| {
        let last = rows.last.insert((row.slot, row.uplink), row.count).unwrap_or_default();
        let slot = i64::from(row.slot.0) - std::mem::replace(&mut before, i64::from(row.slot.0));
        let bytes = row.count.bytes.wrapping_sub(last.bytes);
        Row { slot, uplink: row.uplink, bytes, packets: row.count.packets.wrapping_sub(last.packets) }
    });
    Readings { rows: compact.collect(), at: sample.at, uplinks: sample.uplinks.clone(), table: sample.table }
}

fn sample(readings: Readings, rows: &mut Rows) -> Result<Sample, RecordError> {
    let mut before: i64 = 0;
    let mut counts = Vec::with_capacity(readings.rows.len());
    for row in readings.rows {
        before = before.saturating_add(row.slot);
        let slot = SlotId(
            u32::try_from(before).map_err(|_| RecordError::Damaged { what: "a row of the counters" })?,
        );
        let last = rows.last.entry((slot, row.uplink)).or_default();
        // Count's sum wraps, as the difference did.
        *last += Count { bytes: row.bytes, packets: row.packets };
        counts.push(SlotCount { slot, uplink: row.uplink, count: *last });
    }
    Ok(Sample { at: readings.at, uplinks: readings.uplinks, rows: counts, table: readings.table })
}
