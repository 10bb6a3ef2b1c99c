//! Files and functions are read on few screens: limits, and a ratchet for what is over them.

use super::Finding;
use super::paths::is_word;
use super::source::{Source, brace_end, line_at};
use crate::ratchet::Ratchet;

const FILE: usize = 500;
const FUNCTION: usize = 60;

/// Findings about files and functions that are too long, and about exceptions that are not needed.
pub(super) fn check(sources: &[Source], ratchet: &Ratchet) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for source in sources {
        findings.extend(long_file(source, ratchet));
        findings
            .extend(functions(source).iter().filter_map(|function| long_function(source, function, ratchet)));
    }
    findings.extend(needless(sources, ratchet));
    findings
}

fn long_file(source: &Source, ratchet: &Ratchet) -> Option<Finding> {
    let entry = ratchet.file.iter().find(|entry| entry.path == source.path);
    let limit = entry.map_or(FILE, |entry| entry.lines);
    let lines = source.product_lines;
    let what =
        format!("{lines} lines without tests, {limit} allowed; split it by what it is responsible for");
    (lines > limit).then(|| Finding::new(&source.path, 1, "file-size", what))
}

fn long_function(source: &Source, function: &Function, ratchet: &Ratchet) -> Option<Finding> {
    let entry =
        ratchet.function.iter().find(|entry| entry.path == source.path && entry.name == function.name);
    let limit = entry.map_or(FUNCTION, |entry| entry.lines);
    let Function { name, line, lines } = function;
    let what = format!("`{name}` has {lines} lines, {limit} allowed; give its steps names");
    (*lines > limit).then(|| Finding::new(&source.path, *line, "function-size", what))
}

/// Exceptions for what is gone or within the limit by now, and exceptions nobody gave a reason for.
fn needless(sources: &[Source], ratchet: &Ratchet) -> Vec<Finding> {
    let at = |what: String| Finding::new("xtask/ratchet.toml", 1, "ratchet", what);
    let mut findings = Vec::new();
    for entry in &ratchet.file {
        if file_lines(sources, &entry.path) <= FILE {
            findings.push(at(format!("{} is within the limit; run `cargo xtask tidy --bless`", entry.path)));
        }
        if entry.reason.trim().is_empty() {
            findings.push(at(format!("{} has no reason; say why it must be long", entry.path)));
        }
    }
    for entry in &ratchet.function {
        let name = format!("{} in {}", entry.name, entry.path);
        if function_lines(sources, &entry.path, &entry.name) <= FUNCTION {
            findings.push(at(format!("{name} is within the limit; run `cargo xtask tidy --bless`")));
        }
        if entry.reason.trim().is_empty() {
            findings.push(at(format!("{name} has no reason; say why it must be long")));
        }
    }
    findings
}

/// The ratchet with every number lowered to what is reached, and without what is no exception any more.
pub(super) fn tightened(sources: &[Source], mut ratchet: Ratchet) -> Ratchet {
    for entry in &mut ratchet.file {
        entry.lines = entry.lines.min(file_lines(sources, &entry.path));
    }
    for entry in &mut ratchet.function {
        entry.lines = entry.lines.min(function_lines(sources, &entry.path, &entry.name));
    }
    ratchet.file.retain(|entry| entry.lines > FILE);
    ratchet.function.retain(|entry| entry.lines > FUNCTION);
    ratchet
}

fn file_lines(sources: &[Source], path: &str) -> usize {
    sources.iter().find(|source| source.path == path).map_or(0, |source| source.product_lines)
}

/// The longest of that name: several types of a file may have a function `new`.
fn function_lines(sources: &[Source], path: &str, name: &str) -> usize {
    let source = sources.iter().find(|source| source.path == path);
    let all = source.into_iter().flat_map(functions).filter(|function| function.name == name);
    all.map(|function| function.lines).max().unwrap_or(0)
}

#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// Functions with a body outside tests: from the line of `fn` to the closing brace.
fn functions(source: &Source) -> Vec<Function> {
    let code = &source.product;
    let bytes = code.as_bytes();
    let mut functions = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && is_word(bytes[at - 1]) {
            continue;
        }
        let name: String =
            code[at + 3..].trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if let Some(open) = body(code, at)
            && !name.is_empty()
        {
            let (line, last) = (line_at(code, at), line_at(code, brace_end(code, open) - 1));
            functions.push(Function { name, line, lines: last - line + 1 });
        }
    }
    functions
}

/// Where the body of the function at `start` opens; none for a declaration.
fn body(code: &str, start: usize) -> Option<usize> {
    let mut nested = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested = nested.saturating_sub(1),
            b'{' if nested == 0 => return Some(at),
            b';' if nested == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ratchet::{LongFile, LongFunction};

    const PATH: &str = "etm-agent/src/types/a.rs";

    fn function(lines: usize) -> String {
        format!("fn long(a: [u8; 4]) -> u8\nwhere\n{}}}\n", "{".to_owned() + &"\n".repeat(lines - 3))
    }

    fn found(text: &str, ratchet: &Ratchet) -> Vec<&'static str> {
        check(&[Source::new(PATH, text)], ratchet).iter().map(|finding| finding.rule).collect()
    }

    fn allowed(lines: usize, reason: &str) -> Ratchet {
        let entry = LongFunction { path: PATH.into(), name: "long".into(), lines, reason: reason.into() };
        Ratchet { function: vec![entry], ..Ratchet::default() }
    }

    #[test]
    fn a_function_of_61_lines_is_found_and_one_of_60_is_not() {
        assert_eq!(found(&function(60), &Ratchet::default()), [""; 0]);
        assert_eq!(found(&function(61), &Ratchet::default()), ["function-size"]);
    }

    #[test]
    fn a_file_of_501_lines_is_found_and_its_tests_do_not_count() {
        let tests = "#[cfg(test)]\nmod tests {\n    fn x() {}\n}\n".to_owned();
        assert_eq!(found(&("//\n".repeat(500) + &tests), &Ratchet::default()), [""; 0]);
        assert_eq!(found(&("//\n".repeat(501) + &tests), &Ratchet::default()), ["file-size"]);
    }

    #[test]
    fn an_exception_holds_to_its_number_and_needs_a_reason() {
        assert_eq!(found(&function(70), &allowed(70, "one match")), [""; 0]);
        assert_eq!(found(&function(71), &allowed(70, "one match")), ["function-size"]);
        assert_eq!(found(&function(70), &allowed(70, " ")), ["ratchet"]);
        assert_eq!(found(&function(60), &allowed(70, "one match")), ["ratchet"]);
    }

    #[test]
    fn blessing_lowers_and_never_raises() {
        let sources = [Source::new(PATH, &function(65))];
        assert_eq!(tightened(&sources, allowed(70, "x")).function[0].lines, 65);
        assert_eq!(tightened(&sources, allowed(62, "x")).function[0].lines, 62);
        let file = vec![LongFile { path: PATH.into(), lines: 600, reason: "x".into() }];
        assert!(tightened(&sources, Ratchet { file, ..Ratchet::default() }).file.is_empty());
    }

    #[test]
    fn declarations_and_function_types_have_no_body() {
        let source =
            Source::new(PATH, "trait T { fn a(&self) -> u8; }\ntype F = fn (u8) -> u8;\nfn b() {}\n");
        assert_eq!(functions(&source), [Function { name: "b".into(), line: 3, lines: 1 }]);
    }
}
