//! One input with its time and its trace, and the state between entries that makes them small.
//! Never keeps an entry.

use super::RecordError;
use super::trace::{Standing, Trace};
use super::wire::{Rows, Wire};
use crate::core::controller::{Controller, Outcome};
use crate::core::input::Input;
use crate::types::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    /// Nanoseconds since the entry before, wrapping.
    after: u64,
    input: Wire,
    trace: Option<Trace>,
}

/// An input, when it was handed in, and what followed.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When.
    pub now: Timestamp,
    /// What.
    pub input: Input,
    /// What followed.
    pub trace: Trace,
}

/// Makes entries; begins anew with each keyframe.
#[derive(Clone, Debug)]
pub struct Encoder {
    last: Timestamp,
    rows: Rows,
    standing: Standing,
}

impl Encoder {
    /// From a keyframe taken at `boot`.
    pub fn new(boot: Timestamp, state: &Controller) -> Encoder {
        Encoder { last: boot, rows: Rows::default(), standing: Standing::of(&state.decision()) }
    }

    /// Appends an entry to `out`, which is left as it was on an error.
    pub fn write(
        &mut self,
        now: Timestamp,
        input: &Input,
        outcome: &Outcome,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        let trace = Trace::of(outcome, &mut self.standing);
        let after = now.0.wrapping_sub(std::mem::replace(&mut self.last, now).0);
        let input = Wire::from_input(input, &mut self.rows)?;
        let written = Written { after, input, trace: (!trace.is_empty()).then_some(trace) };
        let bytes = postcard::to_stdvec(&written).map_err(|_| RecordError::Encode { what: "an input" })?;
        out.extend_from_slice(&bytes);
        Ok(())
    }
}

/// Reads entries; begins anew with each keyframe.
#[derive(Clone, Debug)]
pub struct Decoder {
    last: Timestamp,
    rows: Rows,
}

impl Decoder {
    /// From a keyframe taken at `boot`.
    pub fn new(boot: Timestamp) -> Decoder {
        Decoder { last: boot, rows: Rows::default() }
    }

    /// Takes the next entry off `bytes`; none at their end.
    pub fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Entry>, RecordError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (written, rest) = postcard::take_from_bytes::<Written>(bytes)
            .map_err(|_| RecordError::Damaged { what: "an entry" })?;
        *bytes = rest;
        let Written { after, input, trace } = written;
        self.last = Timestamp(self.last.0.wrapping_add(after));
        let input = input.into_input(&mut self.rows)?;
        Ok(Some(Entry { now: self.last, input, trace: trace.unwrap_or_default() }))
    }
}
