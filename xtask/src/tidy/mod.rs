//! `cargo xtask tidy`: what the compiler does not check but readers rely on.
//!
//! Works on text, so it is quick and needs nothing built. Never changes a source file.

mod arrows;
mod docs;
mod links;
mod paths;
mod size;
mod source;
mod tokens;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use self::source::Source;
use crate::process::{Error, Result};
use crate::{ratchet, workspace};

/// Check what the compiler does not: arrows between modules, sizes, tokens, documents.
///
/// Arrows point down and make no cycles; every file opens with `//!`; files stay within 500 lines and functions
/// within 60 (xtask/ratchet.toml lists the exceptions, each with a reason); pure modules name no clock, socket,
/// file or random order; unsafe stays where it is allowed; paths named in documents exist. Each finding says
/// `file:line: rule: what to do`. Also runs as a test of the package xtask.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Lower the numbers in xtask/ratchet.toml to what is reached now; never raises one
    #[arg(long)]
    bless: bool,
}

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: String,
    line: usize,
    rule: &'static str,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.what)
    }
}

impl Finding {
    fn new(file: &str, line: usize, rule: &'static str, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, rule, what: what.into() }
    }
}

/// A file of the repository that is not Rust.
#[derive(Debug)]
struct Document {
    /// Relative to the root.
    path: String,
    text: String,
}

/// Everything that is looked at, read once.
#[derive(Debug, Default)]
struct Repository {
    sources: Vec<Source>,
    documents: Vec<Document>,
}

/// Names of what holds nothing of ours.
const IGNORED: &[&str] = &["target", ".git", "node_modules"];
/// Larger files are data, not text that a person wrote.
const LARGEST: u64 = 1 << 20;

/// Entry point of the command.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    if args.bless {
        let sources = Repository::load(&workspace::root())?.sources;
        ratchet::store(&size::tightened(&sources, ratchet::load()?))?;
    }
    let findings = findings()?;
    for finding in &findings {
        println!("{finding}");
    }
    eprintln!("tidy: {} findings", findings.len());
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All findings in the repository, one line each, in order of files.
pub(crate) fn findings() -> Result<Vec<String>> {
    let root = workspace::root();
    let repository = Repository::load(&root)?;
    let mut findings = arrows::check(&repository.sources);
    findings.extend(docs::check(&repository.sources));
    findings.extend(size::check(&repository.sources, &ratchet::load()?));
    findings.extend(tokens::check(&repository.sources));
    findings.extend(links::check(&repository, |path| root.join(path).exists()));
    findings.sort();
    findings.dedup();
    Ok(findings.iter().map(ToString::to_string).collect())
}

impl Repository {
    fn load(root: &Path) -> Result<Self> {
        let mut repository = Self::default();
        repository.load_dir(root, root)?;
        repository.sources.sort_by(|a, b| a.path.cmp(&b.path));
        source::mark_test_files(&mut repository.sources);
        Ok(repository)
    }

    fn load_dir(&mut self, root: &Path, dir: &Path) -> Result<()> {
        let failed = |source| Error::File { doing: "reading", path: dir.into(), source };
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // In a work tree `.git` is a file.
            if IGNORED.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
            if kind.is_dir() {
                self.load_dir(root, &path)?;
            } else if kind.is_file() && entry.metadata().map_err(failed)?.len() <= LARGEST {
                self.load_file(root, &path)?;
            }
        }
        Ok(())
    }

    fn load_file(&mut self, root: &Path, path: &Path) -> Result<()> {
        let bytes = std::fs::read(path).map_err(|source| Error::File {
            doing: "reading",
            path: path.into(),
            source,
        })?;
        // What is not text has nothing to tidy.
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        if path.extension().is_some_and(|ending| ending == "rs") {
            self.sources.push(Source::new(&name, &text));
        } else {
            self.documents.push(Document { path: name, text });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let findings = findings().unwrap();
        assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
    }

    #[test]
    fn a_finding_reads_file_line_rule_and_what_to_do() {
        let finding = Finding::new("a.rs", 3, "arrow", "turn it round");
        assert_eq!(finding.to_string(), "a.rs:3: arrow: turn it round");
    }
}
