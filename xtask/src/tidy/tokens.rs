//! Words that may not stand in some places: what is forbidden in pure modules, everywhere, and where unsafe may be.
//!
//! The tables are data; each row says what to do instead.

use super::paths::is_word;
use super::source::{Source, line_at};
use super::{Document, Finding};

/// What a rule looks for in code without comments and strings.
#[derive(Debug, Clone, Copy)]
enum Find {
    /// A path that begins with this crate.
    Crate(&'static str),
    /// These names side by side in a path, `use` trees included.
    Path(&'static [&'static str]),
    /// This name anywhere in a path.
    Name(&'static str),
    /// This text, not inside a longer word.
    Text(&'static str),
}

/// Where a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// All code of the repository, tests included.
    TestsToo,
    /// All code that is not a test.
    Everywhere,
    /// etm-agent but for this module.
    AgentExcept(&'static str),
    /// etm-agent but for what talks to a person.
    AgentButClients,
    /// All but main.rs and src/bin.
    BelowMain,
    /// Modules that neither read a clock nor touch the world.
    Pure,
    /// The same but for the two files that calculate money.
    PureButMoney,
}

const PURE: &[&str] =
    &["etm-agent/src/types/", "etm-agent/src/proto/", "etm-agent/src/core/", "etm-agent/src/config/"];
/// The solver, its checker, the offline format of its problems, and money: plain IEEE operations in a fixed order.
const MONEY: &[&str] = &[
    "etm-agent/src/core/allocator",
    "etm-agent/src/core/money",
    "etm-agent/src/core/plan",
    "etm-agent/src/config/offline",
];
const CLIENTS: &[&str] =
    &["etm-agent/src/cli/", "etm-agent/src/cli.rs", "etm-agent/src/bin/", "etm-agent/src/main.rs"];

/// Where unsafe code may be, each for a reason.
const UNSAFE: &[(&str, &str)] = &[
    ("etm-ebpf/src/", "the kernel's memory is reached by pointers"),
    ("etm-common/src/", "shared layouts are declared plain data"),
    ("etm-agent/src/datapath/", "mapped counters and bpf(2)"),
    ("etm-agent/src/peering/socket.rs", "socket options that no crate wraps"),
];

const HANDED_IN: &str = "time is handed in as an argument";
const ADAPTERS: &str = "a pure module touches nothing outside; let an adapter do it and hand in the result";
const NOTICES: &str = "a pure module returns notices; the runtime logs them";
const ORDERED: &str = "its order is random, which breaks replay; use BTreeMap, BTreeSet or PrefixMap";
const INTEGERS: &str =
    "use integer units, so that replay is exact; only the allocator and money calculate in floats";
const BOUNDED: &str = "use a bounded channel and say what happens when it is full";
const OWNED: &str = "give the task to the JoinSet of runtime, which names, watches and ends it";
const FINISHED: &str = "finish it, or leave it out and open an issue";
const SPOKEN: &str = "use tracing; standard output belongs to the clients";
const NAMED: &str = "name the failure: a thiserror enum of this module with the offending data";

const RULES: &[(Where, Find, &str)] = &[
    (Where::Pure, Find::Crate("tokio"), ADAPTERS),
    (Where::Pure, Find::Crate("aya"), ADAPTERS),
    (Where::Pure, Find::Crate("rtnetlink"), ADAPTERS),
    (Where::Pure, Find::Crate("netlink_packet_route"), ADAPTERS),
    (Where::Pure, Find::Crate("netlink_proto"), ADAPTERS),
    (Where::Pure, Find::Crate("socket2"), ADAPTERS),
    (Where::Pure, Find::Crate("nix"), ADAPTERS),
    (Where::Pure, Find::Crate("libc"), ADAPTERS),
    (Where::Pure, Find::Crate("axum"), ADAPTERS),
    (Where::Pure, Find::Crate("hyper"), ADAPTERS),
    (Where::Pure, Find::Crate("rand"), "hand in the random numbers, or do without: replay is exact"),
    (Where::Pure, Find::Crate("tracing"), NOTICES),
    (Where::Pure, Find::Path(&["std", "fs"]), ADAPTERS),
    (Where::Pure, Find::Path(&["std", "env"]), ADAPTERS),
    (Where::Pure, Find::Path(&["std", "thread"]), ADAPTERS),
    (Where::Pure, Find::Path(&["std", "process"]), ADAPTERS),
    (Where::Pure, Find::Path(&["std", "os"]), ADAPTERS),
    (Where::Pure, Find::Name("TcpStream"), ADAPTERS),
    (Where::Pure, Find::Name("TcpListener"), ADAPTERS),
    (Where::Pure, Find::Name("UdpSocket"), ADAPTERS),
    (Where::Pure, Find::Name("UnixStream"), ADAPTERS),
    (Where::Pure, Find::Path(&["Instant", "now"]), HANDED_IN),
    (Where::Pure, Find::Name("SystemTime"), HANDED_IN),
    (Where::Pure, Find::Name("HashMap"), ORDERED),
    (Where::Pure, Find::Name("HashSet"), ORDERED),
    (Where::PureButMoney, Find::Name("f32"), INTEGERS),
    (Where::PureButMoney, Find::Name("f64"), INTEGERS),
    (Where::AgentExcept("runtime"), Find::Path(&["tokio", "spawn"]), OWNED),
    (Where::AgentExcept("runtime"), Find::Path(&["task", "spawn"]), OWNED),
    (Where::AgentExcept("runtime"), Find::Name("spawn_local"), OWNED),
    (Where::AgentButClients, Find::Text("println!"), SPOKEN),
    (Where::AgentButClients, Find::Text("print!"), SPOKEN),
    (Where::AgentButClients, Find::Text("eprintln!"), SPOKEN),
    (Where::AgentButClients, Find::Text("eprint!"), SPOKEN),
    (Where::BelowMain, Find::Path(&["process", "exit"]), "return an exit status; only main ends the process"),
    (Where::Everywhere, Find::Name("unbounded_channel"), BOUNDED),
    (Where::Everywhere, Find::Path(&["mpsc", "unbounded"]), BOUNDED),
    (Where::Everywhere, Find::Name("UnboundedSender"), BOUNDED),
    (Where::Everywhere, Find::Crate("anyhow"), NAMED),
    (Where::Everywhere, Find::Text("dyn Error"), NAMED),
    (Where::Everywhere, Find::Text("dyn std::error::Error"), NAMED),
    (Where::Everywhere, Find::Text("Other(String)"), NAMED),
    (Where::TestsToo, Find::Text("todo!"), FINISHED),
    (Where::TestsToo, Find::Text("unimplemented!"), FINISHED),
    (Where::TestsToo, Find::Text("dbg!"), "take it out"),
    (Where::TestsToo, Find::Text("#[ignore"), "a test runs, or prints `SKIP reason` and is counted"),
    (Where::TestsToo, Find::Text("allow(dead_code"), "take out what is not used"),
];

/// Words that say nothing, or that another word of the vocabulary says better.
const NAMES: &[(&str, &str)] = &[
    ("neighbor", "the word is peer"),
    ("optimizer", "say what it does, e.g. allocator"),
    ("manager", "say what it owns"),
    ("helper", "say what it does, and put it beside what it serves"),
    ("helpers", "say what they do, and put them beside what they serve"),
    ("util", "say what it does, and put it beside what it serves"),
    ("utils", "say what they do, and put them beside what they serve"),
    ("handler", "say what it does with what it gets"),
];

/// Marks of unfinished work in comments; split so that this file has none.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Paths of one machine, which mean nothing elsewhere; split likewise.
const MACHINE: &[&str] =
    &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/tmp", "/w/")];

/// Findings about words in Rust files.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    sources.iter().flat_map(file).collect()
}

fn file(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (place, find, instead) in RULES {
        if place.holds(&source.path) {
            let what = format!("`{}`: {instead}", find.shown());
            let lines = find.lines(source, *place);
            findings
                .extend(lines.iter().map(|line| Finding::new(&source.path, *line, "token", what.clone())));
        }
    }
    findings.extend(unsafe_code(source));
    findings.extend(names(source));
    for mark in UNFINISHED {
        let what = format!("`{mark}`: {FINISHED}");
        let lines = lines_with(&source.raw, mark);
        findings.extend(lines.iter().map(|line| Finding::new(&source.path, *line, "token", what.clone())));
    }
    findings
}

/// Findings about paths of one machine in any text.
pub(super) fn leaks(path: &str, text: &str) -> Vec<Finding> {
    let found = |mark: &&'static str| {
        let what = format!("`{mark}` is a path of one machine; name the thing relative to the repository");
        lines_with(text, mark).into_iter().map(move |line| Finding::new(path, line, "leak", what.clone()))
    };
    MACHINE.iter().flat_map(found).collect()
}

/// The same for all files.
pub(super) fn leaked(sources: &[Source], documents: &[Document]) -> Vec<Finding> {
    let rust = sources.iter().flat_map(|source| leaks(&source.path, &source.raw));
    rust.chain(documents.iter().flat_map(|document| leaks(&document.path, &document.text))).collect()
}

impl Where {
    fn holds(self, path: &str) -> bool {
        let in_any = |list: &[&str]| list.iter().any(|start| path.starts_with(start));
        let pure =
            || in_any(PURE) || PURE.iter().any(|dir| path == format!("{}.rs", dir.trim_end_matches('/')));
        let agent = path.starts_with("etm-agent/src/");
        match self {
            Self::TestsToo | Self::Everywhere => true,
            Self::AgentExcept(module) => agent && !path.starts_with(&format!("etm-agent/src/{module}")),
            Self::AgentButClients => agent && !in_any(CLIENTS),
            Self::BelowMain => !path.ends_with("/main.rs") && !path.contains("/src/bin/"),
            Self::Pure => pure(),
            Self::PureButMoney => pure() && !in_any(MONEY),
        }
    }
}

impl Find {
    fn shown(self) -> String {
        match self {
            Self::Crate(text) | Self::Name(text) | Self::Text(text) => text.to_owned(),
            Self::Path(names) => names.join("::"),
        }
    }

    /// Lines on which it stands in the part of the file that the rule looks at, each once.
    fn lines(self, source: &Source, place: Where) -> Vec<usize> {
        let code = if place == Where::TestsToo { &source.code } else { &source.product };
        if let Self::Text(text) = self {
            return lines_with(code, text);
        }
        let paths = source.named.iter().filter(|path| self.is_in(&path.names));
        let mut lines: Vec<usize> = paths.map(|path| path.line).collect();
        lines.dedup();
        lines
    }

    fn is_in(self, names: &[String]) -> bool {
        match self {
            Self::Crate(name) => names.len() > 1 && names[0] == name,
            Self::Path(path) => names.windows(path.len()).any(|part| part == path),
            Self::Name(name) => names.iter().any(|part| part == name),
            Self::Text(_) => false,
        }
    }
}

/// Lines on which `text` stands, each once.
fn lines_with(code: &str, text: &str) -> Vec<usize> {
    let mut lines: Vec<usize> = positions(code, text).map(|at| line_at(code, at)).collect();
    lines.dedup();
    lines
}

/// Where `text` stands in `code` without being part of a longer word.
fn positions<'a>(code: &'a str, text: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    let ends = |at: usize| bytes.get(at).is_none_or(|byte| !is_word(*byte));
    let (word_first, word_last) = (
        text.bytes().next().is_some_and(is_word) || text.starts_with('/'),
        text.bytes().last().is_some_and(is_word) && text != "#[ignore" && text != "allow(dead_code",
    );
    code.match_indices(text).map(|(at, _)| at).filter(move |at| {
        (!word_first || at.checked_sub(1).is_none_or(ends)) && (!word_last || ends(at + text.len()))
    })
}

/// Unsafe code where it may not be, or without the argument why it is sound.
fn unsafe_code(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let allowed = UNSAFE.iter().any(|(start, _)| source.path.starts_with(start));
    let lines: Vec<&str> = source.raw.lines().collect();
    for at in positions(&source.code, "unsafe") {
        let rest = source.code[at + "unsafe".len()..].trim_start();
        let line = line_at(&source.code, at);
        // `#[unsafe(no_mangle)]` only names an attribute.
        if rest.starts_with('(') {
            continue;
        }
        if !allowed {
            let places: Vec<&str> = UNSAFE.iter().map(|(start, _)| *start).collect();
            let what = format!("unsafe may be in {} only; use a safe wrapper", places.join(", "));
            findings.push(Finding::new(&source.path, line, "unsafe", what));
        } else if (rest.starts_with('{') || rest.starts_with("impl")) && !explained(&lines, line) {
            let what = "write `// SAFETY:` above it: why this cannot go wrong";
            findings.push(Finding::new(&source.path, line, "unsafe", what));
        }
    }
    findings
}

/// A SAFETY comment on the line itself, in the comment above it, or above the statement it is in.
fn explained(lines: &[&str], line: usize) -> bool {
    const STATEMENT: usize = 3;
    let mut code_lines = 0;
    for text in lines[..line].iter().rev() {
        if text.contains("SAFETY:") {
            return true;
        }
        if !text.trim_start().starts_with("//") {
            code_lines += 1;
        }
        if code_lines > STATEMENT {
            return false;
        }
    }
    false
}

/// Items and files named with a word that says nothing.
fn names(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut check = |name: &str, line: usize| {
        for part in words(name) {
            if let Some((word, instead)) = NAMES.iter().find(|(word, _)| *word == part) {
                findings.push(Finding::new(
                    &source.path,
                    line,
                    "name",
                    format!("`{name}`: not `{word}`: {instead}"),
                ));
            }
        }
    };
    if let Some(stem) = source.path.rsplit('/').next() {
        check(stem.trim_end_matches(".rs"), 1);
    }
    for keyword in ["struct", "enum", "trait", "fn", "mod", "type", "const", "static"] {
        for at in positions(&source.product, keyword) {
            let rest = source.product[at + keyword.len()..].trim_start();
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            check(&name, line_at(&source.product, at));
        }
    }
    findings
}

/// `PeerManager`, `peer_manager` and `PEER_MANAGER` alike are `peer`, `manager`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower_before = false;
    for letter in name.chars() {
        if letter == '_' || (letter.is_uppercase() && lower_before) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut()
            && letter != '_'
        {
            word.extend(letter.to_lowercase());
        }
        lower_before = letter.is_lowercase();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<String> {
        check(&[Source::new(path, text)])
            .iter()
            .map(|found| format!("{} {}", found.line, found.rule))
            .collect()
    }

    const CORE: &str = "etm-agent/src/core/rate.rs";
    const FIB: &str = "etm-agent/src/fib/a.rs";

    #[test]
    fn every_rule_fires_where_it_holds_and_not_in_strings_comments_or_longer_words() {
        for (place, find, _) in RULES {
            let path = if matches!(place, Where::Pure | Where::PureButMoney) { CORE } else { FIB };
            let code = match find {
                Find::Crate(name) => format!("use {name}::x;"),
                Find::Path(names) => format!("use a::{{{}}};", names.join("::")),
                Find::Name(name) => format!("type A = b::{name}<C>;"),
                Find::Text(text) => format!("{text} x"),
            };
            assert_eq!(rules(path, &format!("\n{code}\n")), ["2 token"], "{find:?}");
            assert_eq!(
                rules(path, &format!("// {code}\nconst A: &str = r#\"{code}\"#;\n")),
                [""; 0],
                "{find:?}"
            );
        }
        assert_eq!(rules(CORE, "struct HashMapLike; fn todo() { tracing(); }"), [""; 0]);
    }

    #[test]
    fn a_rule_holds_only_where_it_should() {
        for (path, text, expected) in [
            (FIB, "use std::collections::HashMap;", 0),
            (CORE, "use std::{collections::{BTreeMap, HashMap}, fs};", 2),
            (CORE, "fn f() { let now = std::time::Instant::now(); }", 1),
            (CORE, "#[cfg(test)]\nmod tests { use std::fs; }", 0),
            (CORE, "#[cfg(test)]\nmod tests { #[ignore] fn t() {} }", 1),
            ("etm-agent/src/core/allocator/dual.rs", "fn f(x: f64) {}", 0),
            ("etm-agent/src/core/projection.rs", "fn f(x: f64) {}", 1),
            ("etm-agent/src/runtime/tasks.rs", "fn f() { tokio::spawn(x); }", 0),
            ("etm-agent/src/peering/a.rs", "fn f() { tokio::spawn(x); }", 1),
            ("etm-agent/src/cli/show.rs", "fn f() { println!(); }", 0),
            ("etm-agent/src/main.rs", "fn main() { std::process::exit(1) }", 0),
            ("etm-agent/src/cli/run.rs", "fn f() { std::process::exit(1) }", 1),
        ] {
            assert_eq!(rules(path, text).len(), expected, "{path}: {text}");
        }
    }

    #[test]
    fn unsafe_needs_a_place_and_an_argument() {
        let argued = "// SAFETY: the map outlives it\nlet x =\n    unsafe { y };";
        assert_eq!(rules("etm-agent/src/datapath/a.rs", argued), [""; 0]);
        assert_eq!(rules("etm-agent/src/datapath/a.rs", "\nlet x = unsafe { y };"), ["2 unsafe"]);
        assert_eq!(rules("etm-agent/src/fib/a.rs", argued), ["3 unsafe"]);
        assert_eq!(
            rules("etm-agent/src/fib/a.rs", "#![allow(unsafe_code)]\n#[unsafe(no_mangle)]\n"),
            [""; 0]
        );
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        assert_eq!(
            rules(FIB, "struct PeerManager;\nfn neighbor_of() {}\nstruct Utility;"),
            ["1 name", "2 name"]
        );
        assert_eq!(rules("etm-agent/src/fib/utils.rs", ""), ["1 name"]);
    }

    #[test]
    fn unfinished_work_and_paths_of_one_machine_are_found() {
        let mark = UNFINISHED[0];
        assert_eq!(rules(FIB, &format!("// {mark}: later\n// {mark}S is a word\n")), ["1 token"]);
        for path in MACHINE {
            assert_eq!(leaks("a.md", &format!("\nsee `{path}x`\n")).len(), 1, "{path}");
            assert_eq!(leaks("a.md", &format!("see a{path}x\n")).len(), 0, "{path}");
        }
    }
}
