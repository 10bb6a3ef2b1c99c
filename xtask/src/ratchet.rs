//! `xtask/ratchet.toml`: the stored worst, which may only get better.
//!
//! Never raises or adds an entry: a person does, with a reason beside it.

use std::path::PathBuf;

use serde::Deserialize;

use crate::process::{Error, Result};
use crate::workspace;

/// Everything that is allowed to be worse than the rule.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ratchet {
    /// Tests that may be skipped when the whole gate runs as root.
    pub(crate) skips: u64,
    /// Files that are longer than the limit.
    #[serde(default)]
    pub(crate) file: Vec<LongFile>,
    /// Functions that are longer than the limit.
    #[serde(default)]
    pub(crate) function: Vec<LongFunction>,
}

/// A file longer than the limit, and why.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LongFile {
    pub(crate) path: String,
    pub(crate) lines: usize,
    pub(crate) reason: String,
}

/// A function longer than the limit, and why.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LongFunction {
    pub(crate) path: String,
    pub(crate) name: String,
    pub(crate) lines: usize,
    pub(crate) reason: String,
}

fn path() -> PathBuf {
    workspace::root().join("xtask").join("ratchet.toml")
}

/// Reads the file.
pub(crate) fn load() -> Result<Ratchet> {
    parse(&text()?)
}

fn text() -> Result<String> {
    std::fs::read_to_string(path()).map_err(|source| Error::File { doing: "reading", path: path(), source })
}

fn parse(text: &str) -> Result<Ratchet> {
    toml::from_str(text).map_err(|error| Error::Content { path: path(), what: error.to_string() })
}

/// Complains if more tests were skipped than allowed.
pub(crate) fn check_skips(skips: u64) -> Result<Vec<String>> {
    Ok(too_many(skips, load()?.skips).into_iter().collect())
}

fn too_many(skips: u64, allowed: u64) -> Option<String> {
    (skips > allowed).then(|| {
        format!(
            "xtask/ratchet.toml:1: skips: {skips} tests were skipped and {allowed} may be: install what they miss, see SKIP above"
        )
    })
}

/// Writes `ratchet` back, keeping the comments at the head of the file.
pub(crate) fn store(ratchet: &Ratchet) -> Result<()> {
    let new = rewritten(&text()?, ratchet);
    std::fs::write(path(), new).map_err(|source| Error::File { doing: "writing", path: path(), source })
}

fn rewritten(old: &str, ratchet: &Ratchet) -> String {
    let head = old.find("\n[[").map_or(old, |at| &old[..at]);
    let mut new = head.trim_end().to_owned();
    new.push('\n');
    for LongFile { path, lines, reason } in &ratchet.file {
        new.push_str(&format!("\n[[file]]\npath = {path:?}\nlines = {lines}\nreason = {reason:?}\n"));
    }
    for LongFunction { path, name, lines, reason } in &ratchet.function {
        new.push_str(&format!(
            "\n[[function]]\npath = {path:?}\nname = {name:?}\nlines = {lines}\nreason = {reason:?}\n"
        ));
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_skip_more_than_allowed_is_a_finding() {
        assert_eq!(too_many(2, 2), None);
        assert!(too_many(3, 2).unwrap().contains("3 tests were skipped and 2 may be"));
    }

    #[test]
    fn rewriting_keeps_comments_and_reads_back() {
        let entry = LongFile { path: "a/b.rs".into(), lines: 512, reason: "one \"table\"".into() };
        let ratchet = Ratchet { skips: 1, file: vec![entry], function: Vec::new() };
        let new = rewritten("# why\nskips = 1\n\n# form:\n# [[file]]\n\n[[file]]\nold = 1\n", &ratchet);
        assert!(new.starts_with("# why\nskips = 1\n\n# form:\n# [[file]]\n"), "{new}");
        let again = parse(&new).unwrap();
        assert_eq!(
            (again.skips, again.file[0].lines, again.file[0].reason.as_str()),
            (1, 512, "one \"table\"")
        );
        assert!(parse("skips = 1\nunknown = 2\n").is_err());
    }
}
