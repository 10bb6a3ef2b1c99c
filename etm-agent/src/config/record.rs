//! The `[record]` table: where inputs of the decision are recorded, and how much disk they may take.
//! Never touches the directory.

use super::raw;
use super::report::Fault;
use super::settings::RecordSettings;
use std::ops::Range;
use std::path::PathBuf;

/// Settings, and what is wrong with them.
pub(super) fn settings(raw: &raw::Record, faults: &mut Vec<Fault>) -> RecordSettings {
    let mut fault = |span: Range<usize>, message: &str| {
        faults.push(Fault { span: Some(span), message: message.to_owned(), help: None });
    };
    let directory = raw.directory.as_ref();
    if let Some(text) = directory.filter(|text| !text.get_ref().starts_with('/')) {
        fault(text.span(), "the directory of recordings must be an absolute path");
    }
    if let Some(size) = raw.file_megabytes.as_ref().filter(|size| !(1..=65_536).contains(size.get_ref())) {
        fault(size.span(), "a file of a recording is between 1 and 65536 megabytes");
    }
    if let Some(files) = raw.files.as_ref().filter(|files| !(2..=100_000).contains(files.get_ref())) {
        fault(
            files.span(),
            "keep between 2 and 100000 files: the one being written, and one to look back at",
        );
    }
    let megabytes = raw.file_megabytes.as_ref().map_or(64, |size| *size.get_ref());
    RecordSettings {
        directory: PathBuf::from(directory.map_or("/var/lib/etm/record", |text| text.get_ref().as_str())),
        at_start: raw.at_start.unwrap_or(false),
        file_bytes: megabytes.saturating_mul(1_000_000),
        files: raw.files.as_ref().map_or(16, |files| *files.get_ref()),
    }
}
