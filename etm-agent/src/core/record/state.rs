//! The decision's whole state as bytes: what each file begins with. Never kept longer than it takes to write.

use super::RecordError;
use crate::core::controller::Controller;

/// Plain bytes of one part.
const PART: usize = 1 << 20;

/// Hands out parts as they fill.
struct Parts<F> {
    part: Vec<u8>,
    take: F,
}

impl<F: FnMut(&[u8])> Extend<u8> for Parts<F> {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        self.part.extend(bytes);
        if self.part.len() >= PART {
            (self.take)(&self.part);
            self.part.clear();
        }
    }
}

/// Writes a state, part after part; returns the last part, which may be empty.
pub fn write(state: &Controller, take: impl FnMut(&[u8])) -> Result<Vec<u8>, RecordError> {
    let parts = Parts { part: Vec::with_capacity(PART), take };
    let parts = postcard::to_extend(state, parts).map_err(|_| RecordError::Encode { what: "the state" })?;
    Ok(parts.part)
}

/// The state that `bytes` are, as `build` wrote it.
pub fn read(bytes: &[u8], build: &str) -> Result<Controller, RecordError> {
    let other = || RecordError::OtherBuild { build: build.to_owned() };
    let (state, rest) = postcard::take_from_bytes::<Controller>(bytes).map_err(|_| other())?;
    // Another layout can read as something: only the right one gives the same bytes back.
    if !rest.is_empty() || !state.is_whole() || !is_written_as(&state, bytes) {
        return Err(other());
    }
    Ok(state.prepared())
}

/// True where writing `state` gives exactly `bytes`.
pub fn is_written_as(state: &Controller, bytes: &[u8]) -> bool {
    let (mut at, mut same) = (0, true);
    let mut compare = |part: &[u8]| {
        same &= bytes.get(at..at + part.len()) == Some(part);
        at += part.len();
    };
    match write(state, &mut compare) {
        Ok(last) => {
            compare(&last);
            same && at == bytes.len()
        }
        Err(_) => false,
    }
}
