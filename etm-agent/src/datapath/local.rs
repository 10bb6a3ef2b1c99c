//! What the router itself makes takes overrides too: whether this kernel can, for which sources, and what came of it.
//! Never decides whose packets these are, and never where they go: overrides do.

use super::{DatapathError, object};
use crate::types::{Count, Prefix};
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapData, MapError, PerCpuArray};
use aya::programs::{Program, ProgramError, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use etm_common::{local, names};
use std::net::IpAddr;

/// How it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalOutput {
    /// The table of overrides.
    pub table: u32,
    /// Sources that may leave by any uplink.
    pub sources: Vec<Prefix>,
}

/// What became of packets that the router itself made and an override would carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalFate {
    /// Sent by the override's exit.
    Moved,
    /// Plain routing had chosen that exit already.
    Same,
    /// The source may not leave by any uplink.
    Source,
    /// The socket is bound to an interface.
    Bound,
    /// Another rule came first, or led past the uplinks.
    Ruled,
    /// Too long for that exit.
    TooLong,
    /// The kernel could not be asked.
    Failed,
}

impl LocalFate {
    /// All, in the order of their rows.
    pub const ALL: [LocalFate; local::ROWS as usize] = [
        LocalFate::Moved,
        LocalFate::Same,
        LocalFate::Source,
        LocalFate::Bound,
        LocalFate::Ruled,
        LocalFate::TooLong,
        LocalFate::Failed,
    ];

    /// The word for it in views and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            LocalFate::Moved => "moved",
            LocalFate::Same => "same",
            LocalFate::Source => "source",
            LocalFate::Bound => "bound",
            LocalFate::Ruled => "ruled",
            LocalFate::TooLong => "too-long",
            LocalFate::Failed => "failed",
        }
    }

    fn row(self) -> u32 {
        match self {
            LocalFate::Moved => local::MOVED,
            LocalFate::Same => local::SAME,
            LocalFate::Source => local::SOURCE,
            LocalFate::Bound => local::BOUND,
            LocalFate::Ruled => local::RULED,
            LocalFate::TooLong => local::TOO_LONG,
            LocalFate::Failed => local::FAILED,
        }
    }
}

/// What was counted so far, cumulative.
pub struct LocalCounts {
    map: PerCpuArray<MapData, etm_common::Count>,
}

impl LocalCounts {
    pub(super) fn new(map: Map) -> Result<LocalCounts, DatapathError> {
        Ok(LocalCounts { map: map.try_into().map_err(failed("open", names::LOCAL))? })
    }

    /// Of one fate.
    pub fn read(&self, fate: LocalFate) -> Result<Count, DatapathError> {
        let values = self.map.get(&fate.row(), 0).map_err(failed("read", names::LOCAL))?;
        Ok(values.iter().fold(Count::default(), |sum, count| Count {
            bytes: sum.bytes.wrapping_add(count.bytes),
            packets: sum.packets.wrapping_add(count.packets),
        }))
    }
}

/// The program for uplinks.
pub(super) fn egress_program(local: Option<&LocalOutput>) -> &'static str {
    if local.is_some() { names::EGRESS_OWN_PROGRAM } else { names::EGRESS_PROGRAM }
}

/// Enters the sources, before any program runs that asks for them.
pub(super) fn enter_sources(object: &mut Ebpf, output: &LocalOutput) -> Result<(), DatapathError> {
    let name = names::SOURCES;
    let map = object.map_mut(name).ok_or(DatapathError::Missing { name })?;
    let mut sources: LpmTrie<&mut MapData, [u8; 16], u32> = map.try_into().map_err(failed("open", name))?;
    for prefix in &output.sources {
        let (addr, before) = match prefix.addr() {
            IpAddr::V4(addr) => (addr.to_ipv6_mapped(), 96),
            IpAddr::V6(addr) => (addr, 0),
        };
        let key = Key::new(before + u32::from(prefix.len()), addr.octets());
        sources.insert(&key, 1, 0).map_err(failed("write", name))?;
    }
    Ok(())
}

/// Whether this kernel can: an error that says what is missing where it cannot.
pub fn check_local_output() -> Result<(), DatapathError> {
    if object().is_empty() {
        return Err(DatapathError::NoObject);
    }
    let mut object = EbpfLoader::new()
        .btf(None)
        .load(object())
        .map_err(|cause| DatapathError::Load { cause: Box::new(cause) })?;
    let answer = probe(&mut object)
        .map_err(|cause| DatapathError::LocalOutput { detail: super::error::chain(&cause) })?;
    match answer {
        answer if answer == -libc::EAFNOSUPPORT => Ok(()),
        answer if answer == -libc::EINVAL => Err(DatapathError::LocalOutput {
            detail: "it does not look up routes with a mark for programs (bpf_fib_lookup), which came with Linux 6.10".to_owned(),
        }),
        answer => Err(DatapathError::LocalOutput { detail: format!("it answers {answer} to a lookup of no family") }),
    }
}

/// Loads both programs that it takes, and what the kernel says to their lookup.
fn probe(object: &mut Ebpf) -> Result<i32, ProgramError> {
    for name in [names::PROBE_PROGRAM, names::EGRESS_OWN_PROGRAM] {
        match object.program_mut(name) {
            Some(Program::SchedClassifier(program)) => program.load()?,
            _ => return Err(ProgramError::UnexpectedProgramType),
        }
    }
    let Some(Program::SchedClassifier(program)) = object.program_mut(names::PROBE_PROGRAM) else {
        return Err(ProgramError::UnexpectedProgramType);
    };
    // The shortest that the kernel takes for a frame; nothing looks at it.
    let frame = [0_u8; 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    Ok(program.test_run(options)?.return_value.cast_signed())
}

fn failed(doing: &'static str, map: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |cause| DatapathError::Map { doing, map, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fate_has_a_row_and_a_word_of_its_own() {
        let mut rows: Vec<u32> = LocalFate::ALL.iter().map(|fate| fate.row()).collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..local::ROWS).collect::<Vec<_>>());
        let words: std::collections::BTreeSet<_> = LocalFate::ALL.iter().map(|fate| fate.as_str()).collect();
        assert_eq!(words.len(), LocalFate::ALL.len());
    }
}
