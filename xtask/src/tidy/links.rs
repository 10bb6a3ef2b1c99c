//! Paths that documents name exist: a map that lies is worse than none. And the README stays short.
//!
//! Never fetches anything: links to other places are not followed.

use super::{Document, Finding, Repository, tokens};

const README: &str = "README.md";
const README_LINES: usize = 150;
/// Documents whose paths are promises; a changelog also speaks of what is gone.
const PROMISES: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/", "deploy/"];
/// A path in a document may leave these out.
const BASES: &[&str] = &["", "etm-agent/src/", "etm-ebpf/src/", "etm-common/src/", "tests/", "xtask/src/"];
/// A word in backticks with one of these endings and a `/` in it is a path.
const ENDINGS: &[&str] =
    &[".rs", ".md", ".toml", ".sh", ".json", ".jsonl", ".conf", ".service", ".lock", ".yml"];

/// Findings about documents; `exists` answers for paths relative to the root.
pub(super) fn check(repository: &Repository, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = tokens::leaked(&repository.sources, &repository.documents);
    for document in &repository.documents {
        if PROMISES.iter().any(|start| document.path.starts_with(start)) && document.path.ends_with(".md") {
            findings.extend(dead(document, &exists));
        }
        let lines = document.text.lines().count();
        if document.path == README && lines > README_LINES {
            let what = format!("{lines} lines, {README_LINES} allowed; move details to docs/ and link them");
            findings.push(Finding::new(README, lines, "readme-size", what));
        }
    }
    findings
}

fn dead(document: &Document, exists: &impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let dir = document.path.rsplit_once('/').map_or(String::new(), |(dir, _)| format!("{dir}/"));
    let mut fenced = false;
    for (at, line) in document.text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        let links = linked(line).filter(|path| !exists(&normal(&format!("{dir}{path}"))));
        let paths = quoted(line).into_iter().filter(|path| {
            let own = normal(&format!("{dir}{path}"));
            !exists(&own) && !BASES.iter().any(|base| exists(&format!("{base}{path}")))
        });
        for path in links.map(str::to_owned).chain(paths) {
            let what = format!("`{path}` is not there; name what took its place");
            findings.push(Finding::new(&document.path, at + 1, "dead-path", what));
        }
    }
    findings
}

/// Targets of markdown links that lie in the repository.
fn linked(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?;
        let path = target.split('#').next()?;
        (!path.is_empty() && !path.contains(':')).then_some(path)
    })
}

/// Words in backticks that are paths of the repository, `{a,b}` written out.
fn quoted(line: &str) -> Vec<String> {
    let words = line.split('`').skip(1).step_by(2);
    words.flat_map(expanded).filter(|word| is_path(word)).collect()
}

fn expanded(word: &str) -> Vec<String> {
    let Some((head, rest)) = word.split_once('{') else { return vec![word.to_owned()] };
    let Some((inner, tail)) = rest.split_once('}') else { return vec![word.to_owned()] };
    inner.split(',').map(|part| format!("{head}{}{tail}", part.trim())).collect()
}

fn is_path(word: &str) -> bool {
    let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte));
    let local = !word.starts_with(['/', '.', '-']) && !word.starts_with("target/");
    let shaped =
        word.contains('/') && (word.ends_with('/') || ENDINGS.iter().any(|ending| word.ends_with(ending)));
    plain && local && shaped
}

/// The path without `.` and `..`.
fn normal(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let document = Document { path: path.into(), text: text.into() };
        let repository = Repository { documents: vec![document], ..Repository::default() };
        let there = ["docs/adr/0001.md", "README.md", "etm-agent/src/core/rate.rs", "docs/"];
        let findings = check(&repository, |path| there.contains(&path));
        findings.iter().map(|finding| format!("{} {}", finding.line, finding.rule)).collect()
    }

    #[test]
    fn a_dead_link_and_a_dead_path_are_found() {
        for (line, dead) in [
            ("see [why](docs/adr/0001.md#context)", 0),
            ("see [why](docs/adr/0009.md)", 1),
            ("see [aya](https://aya-rs.dev/book/x.md) and [below](#here)", 0),
            ("`core/rate.rs` counts", 0),
            ("`core/rates.rs` counts", 1),
            ("`core/{rate,gone}.rs` count", 1),
            ("`10.0.0.0/8`, `/sys/fs/bpf/a.rs`, `target/ebpf/x.json`, `core::rate`", 0),
            ("the folder `docs/`, the folder `gone/`", 1),
        ] {
            assert_eq!(found("ARCHITECTURE.md", &format!("\n{line}\n")), vec!["2 dead-path"; dead], "{line}");
        }
        assert_eq!(found("docs/adr/0001.md", "[up](../../README.md) [gone](../README.md)"), ["1 dead-path"]);
        assert_eq!(found("ARCHITECTURE.md", "```\n`gone/a.rs`\n```\n"), [""; 0]);
        assert_eq!(found("CHANGELOG.md", "removed `gone/a.rs`"), [""; 0]);
    }

    #[test]
    fn a_readme_of_151_lines_is_found() {
        assert_eq!(found("README.md", &"x\n".repeat(150)), [""; 0]);
        assert_eq!(found("README.md", &"x\n".repeat(151)), ["151 readme-size"]);
    }

    #[test]
    fn paths_of_one_machine_are_found_in_documents() {
        assert_eq!(found("docs/a.md", concat!("cd /ho", "me/me/etm")), ["1 leak"]);
    }
}
