//! Arrows between modules: they point down, and make no cycles.
//!
//! The tables are the law; a module that is not in them has no place yet and is a finding.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::paths::Named;
use super::source::Source;

const AGENT: &str = "etm-agent/src/";

/// Which modules of etm-agent a module may name. `core::input` allows that part of core only.
const ARROWS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("proto", &["types"]),
    ("core", &["types"]),
    ("config", &["core", "types"]),
    // Like the other adapters it is told the desired state: which prefixes are counted, whether marks are set.
    ("datapath", &["core::input", "core::decision", "types"]),
    ("fib", &["core::input", "core::decision", "types"]),
    ("peering", &["proto", "core::input", "core::decision", "types"]),
    // Beside the desired state it carries the lease's rules: who is heard, and for how long.
    ("guardian", &["core::custody", "core::decision", "types"]),
    ("bmp", &["proto", "core::input", "types"]),
    ("mrt", &["proto", "types"]),
    ("control", &["core", "types"]),
    ("telemetry", &["types"]),
    ("privileges", &[]),
    // Writes the decision's state and inputs as core::record makes them bytes.
    ("recording", &["core::record", "core::controller", "core::input", "types"]),
    (
        "runtime",
        &[
            "datapath",
            "fib",
            "peering",
            "guardian",
            "bmp",
            "mrt",
            "control",
            "recording",
            "telemetry",
            "privileges",
            "config",
            "core",
            "types",
        ],
    ),
    // Views are the control API's answers, made in core; the client prints them.
    // `etm plan --input` solves in the client itself, without an agent.
    // So does `etm replay`, which hands a recording to a decision of its own.
    (
        "cli",
        &[
            "runtime",
            "control",
            "config",
            "recording",
            "core::view",
            "core::plan",
            "core::plan_check",
            "core::record",
            "core::controller",
            "core::policy",
            "types",
        ],
    ),
    // main.rs and src/bin: arguments in, exit status out.
    ("main", &["cli"]),
];

/// Declares the files of core in reading order: each may name only those before it.
const CORE_MOD: &str = "etm-agent/src/core/mod.rs";

/// Outside crates that belong to one adapter: their types stop at its edge.
const CRATES: &[(&str, &[&str])] = &[
    ("aya", &["datapath"]),
    ("aya_log", &["datapath"]),
    ("aya_obj", &["datapath"]),
    ("etm_common", &["datapath"]),
    ("rtnetlink", &["fib"]),
    ("netlink_packet_core", &["fib"]),
    ("netlink_packet_route", &["fib"]),
    ("netlink_proto", &["fib"]),
    // datapath attaches the clsact filters of kernels without TCX, which takes a few messages of traffic control.
    ("netlink_sys", &["fib", "datapath"]),
    ("flate2", &["mrt"]),
    ("ruzstd", &["mrt"]),
    ("rustbgpd_wire", &["proto"]),
    ("rustbgpd_fsm", &["proto"]),
    // Processes and privileges: pidfd_open(2), capset(2), setsid(2).
    ("rustix", &["guardian", "privileges"]),
    ("axum", &["control"]),
    ("hyper", &["control"]),
    ("hyper_util", &["control"]),
];

const CRATE_ROOTS: &[&str] = &[AGENT, "etm-common/src/", "etm-ebpf/src/", "tests/src/", "xtask/src/"];

type Edges = BTreeMap<String, BTreeMap<String, (String, usize)>>;

/// All findings about arrows and cycles.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let order = core_order(sources);
    for source in sources.iter().filter(|source| source.path.starts_with(AGENT) && !source.is_test()) {
        findings.extend(agent_arrows(source, &order));
    }
    for root in CRATE_ROOTS {
        findings.extend(cycles(sources, root, &format!("the modules of {root}")));
    }
    findings.extend(cycles(sources, &format!("{AGENT}core/"), "the files of core"));
    findings
}

/// A path inside a crate, as seen from its root: `crate::core::rate` and `super::rate` alike become `core, rate`.
fn from_root(source: &Source, root: &str, named: &Named) -> Option<Vec<String>> {
    let names = &named.names;
    let module = module_of(&source.path, root);
    let own_crate = root.trim_end_matches("/src/").replace('-', "_");
    let first = names.first()?;
    if *first == "crate" || *first == own_crate {
        return Some(names[1..].to_vec());
    }
    let up = names.iter().take_while(|name| *name == "super").count();
    if up == 0 || up > module.len() {
        return None;
    }
    let mut full = module[..module.len() - up].to_vec();
    full.extend_from_slice(&names[up..]);
    Some(full)
}

/// `etm-agent/src/core/rate.rs` is `core, rate`; `mod.rs` is its directory; `lib.rs` is the root, `main.rs` is `main`.
fn module_of(path: &str, root: &str) -> Vec<String> {
    let inside = path.strip_prefix(root).unwrap_or(path).trim_end_matches(".rs");
    if inside.starts_with("bin/") || inside == "main" {
        return vec!["main".into()];
    }
    let mut names: Vec<String> = inside.split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|name| name == "mod" || name == "lib") {
        names.pop();
    }
    names
}

fn agent_arrows(source: &Source, order: &[String]) -> Vec<Finding> {
    let module = module_of(&source.path, AGENT);
    let Some(top) = module.first() else { return reexports(source) };
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| name == top) else {
        let what = format!(
            "module `{top}` has no row in ARROWS of xtask/src/tidy/arrows.rs; give it one, with an ADR"
        );
        return vec![Finding::new(&source.path, 1, "arrow", what)];
    };
    let mut findings = unordered(source, order, &module);
    for path in &source.named {
        if let Some(target) = from_root(source, AGENT, path) {
            findings.extend(forbidden(source, path.line, top, allowed, &target));
            findings.extend(misordered(source, path.line, order, (&module, &target)));
        } else if path.names.len() > 1
            && let Some((name, users)) = CRATES.iter().find(|(name, _)| path.names[0] == *name)
            && !users.contains(&top.as_str())
        {
            let what =
                format!("`{name}` belongs to {}; ask that module for what is needed", users.join(", "));
            findings.push(Finding::new(&source.path, path.line, "arrow", what));
        }
    }
    findings
}

/// Re-exports at the root would let `crate::Thing` hide an arrow.
fn reexports(source: &Source) -> Vec<Finding> {
    let lines =
        source.product.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("pub use "));
    lines
        .map(|(at, _)| {
            Finding::new(
                &source.path,
                at + 1,
                "arrow",
                "no re-exports at the root: they hide arrows; name the module",
            )
        })
        .collect()
}

fn forbidden(
    source: &Source,
    line: usize,
    top: &str,
    allowed: &[&str],
    target: &[String],
) -> Option<Finding> {
    let to = target.first()?;
    let is_module = ARROWS.iter().any(|(name, _)| name == to);
    let covered = allowed.iter().any(|path| {
        let path: Vec<&str> = path.split("::").collect();
        target.len() >= path.len() && path.iter().zip(target).all(|(a, b)| a == b)
    });
    if to == top || !is_module || covered {
        return None;
    }
    let may = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
    let what = format!(
        "`{top}` names `{}` but may name {may}; move the type down or turn the call round",
        target.join("::")
    );
    Some(Finding::new(&source.path, line, "arrow", what))
}

/// The files of core in the order in which its `mod.rs` declares them.
fn core_order(sources: &[Source]) -> Vec<String> {
    let code =
        sources.iter().find(|source| source.path == CORE_MOD).map_or("", |source| source.product.as_str());
    let lines = code.lines().filter_map(|line| line.trim().strip_suffix(';')?.rsplit_once("mod "));
    lines.map(|(_, name)| name.trim().to_owned()).collect()
}

fn rank(order: &[String], name: &str) -> Option<usize> {
    order.iter().position(|other| other == name)
}

/// A file of core that has no place in its order.
fn unordered(source: &Source, order: &[String], module: &[String]) -> Vec<Finding> {
    match module {
        [top, part, ..] if top == "core" && rank(order, part).is_none() => {
            let what = format!("`{part}` is not declared in {CORE_MOD}; put it right after what it names");
            vec![Finding::new(&source.path, 1, "core-order", what)]
        }
        _ => Vec::new(),
    }
}

fn misordered(
    source: &Source,
    line: usize,
    order: &[String],
    arrow: (&[String], &[String]),
) -> Option<Finding> {
    let ([from_top, from, ..], [to_top, to, ..]) = arrow else { return None };
    if from_top != "core" || to_top != "core" || rank(order, to)? <= rank(order, from)? {
        return None;
    }
    let what = format!(
        "`core::{from}` names `core::{to}`, which {CORE_MOD} declares after it; move the shared type down"
    );
    Some(Finding::new(&source.path, line, "core-order", what))
}

/// Knots among the direct children of the directory `dir` (a crate's root or one module of it).
fn cycles(sources: &[Source], dir: &str, of: &str) -> Vec<Finding> {
    let edges = edges(sources, dir);
    let mut done = BTreeSet::new();
    let mut findings = Vec::new();
    for start in edges.keys() {
        let knot: BTreeSet<&String> = edges
            .keys()
            .filter(|other| *other != start && reaches(&edges, start, other) && reaches(&edges, other, start))
            .chain([start])
            .collect();
        if knot.len() < 2 || !done.insert(knot.clone()) {
            continue;
        }
        let names: Vec<&str> = knot.iter().map(|name| name.as_str()).collect();
        let inside = edges[start].iter().find(|(to, _)| knot.contains(to));
        let (file, line) = inside.map_or((dir.to_owned(), 1), |(_, at)| at.clone());
        let what =
            format!("{of} {} need each other; move what they share into a module below", names.join(", "));
        findings.push(Finding::new(&file, line, "cycle", what));
    }
    findings
}

fn edges(sources: &[Source], dir: &str) -> Edges {
    let root = CRATE_ROOTS.iter().find(|root| dir.starts_with(**root)).copied().unwrap_or(dir);
    let above = module_of(dir.trim_end_matches('/'), root).len() * usize::from(dir != root);
    let mut edges = Edges::new();
    for source in sources.iter().filter(|source| source.path.starts_with(dir) && !source.is_test()) {
        let module = module_of(&source.path, root);
        let Some(from) = module.get(above) else { continue };
        edges.entry(from.clone()).or_default();
        for path in &source.named {
            let Some(target) = from_root(source, root, path) else { continue };
            if target.len() > above
                && target[..above] == module[..above]
                && target[above] != *from
                && is_module(sources, dir, &target[above])
            {
                let at = (source.path.clone(), path.line);
                edges.entry(from.clone()).or_default().entry(target[above].clone()).or_insert(at);
            }
        }
    }
    edges
}

fn is_module(sources: &[Source], dir: &str, name: &str) -> bool {
    let (file, folder) = (format!("{dir}{name}.rs"), format!("{dir}{name}/"));
    sources.iter().any(|source| source.path == file || source.path.starts_with(&folder))
}

fn reaches(edges: &Edges, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(at) = open.pop() {
        for next in edges.get(at).into_iter().flat_map(BTreeMap::keys) {
            if next == to {
                return true;
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        check(&sources).iter().map(|found| format!("{}:{} {}", found.file, found.line, found.rule)).collect()
    }

    #[test]
    fn an_arrow_that_points_up_is_found_however_it_is_written() {
        for text in [
            "use crate::runtime::Clock;",
            "use crate::{core::input, runtime};",
            "fn f() { super::super::runtime::go() }",
            "use etm_agent::runtime::Clock;",
        ] {
            let found = rules(&[("etm-agent/src/fib/routes.rs", text)]);
            assert_eq!(found, ["etm-agent/src/fib/routes.rs:1 arrow"], "{text}");
        }
    }

    #[test]
    fn only_the_allowed_part_of_core_may_be_named() {
        assert_eq!(rules(&[("etm-agent/src/fib/a.rs", "use crate::core::decision::Decision;")]), [""; 0]);
        assert_eq!(
            rules(&[("etm-agent/src/fib/a.rs", "\nuse crate::core::rib::Rib;")]),
            ["etm-agent/src/fib/a.rs:2 arrow"]
        );
    }

    #[test]
    fn arrows_down_in_tests_in_comments_and_to_oneself_are_fine() {
        let text = "//! crate::cli\nuse crate::types::Prefix;\nuse super::b;\n#[cfg(test)]\nmod tests { use crate::runtime; }\n";
        assert_eq!(rules(&[("etm-agent/src/fib/a.rs", text)]), [""; 0]);
    }

    const ORDER: (&str, &str) =
        (CORE_MOD, "pub mod policy;\n\npub mod rate;\npub mod rib;\npub mod controller;\n");

    #[test]
    fn core_has_an_order_and_every_file_a_place_in_it() {
        let text = "use super::controller::Controller;\nuse crate::core::policy::Policy;\n";
        assert_eq!(
            rules(&[ORDER, ("etm-agent/src/core/rate.rs", text)]),
            ["etm-agent/src/core/rate.rs:1 core-order"]
        );
        assert_eq!(
            rules(&[ORDER, ("etm-agent/src/core/controller/mod.rs", "use crate::core::rib::R;")]),
            [""; 0]
        );
        assert_eq!(
            rules(&[ORDER, ("etm-agent/src/core/novel.rs", "")]),
            ["etm-agent/src/core/novel.rs:1 core-order"]
        );
    }

    #[test]
    fn modules_that_need_each_other_are_found() {
        let files = [
            ("tests/src/a.rs", "use crate::b::B;"),
            ("tests/src/b.rs", "use crate::c;"),
            ("tests/src/c/mod.rs", "use super::a::A;"),
        ];
        assert_eq!(rules(&files), ["tests/src/a.rs:1 cycle"]);
        assert_eq!(rules(&files[..2]), [""; 0]);
    }

    #[test]
    fn files_of_core_that_need_each_other_are_found() {
        let rate = ("etm-agent/src/core/rate.rs", "use super::rib::R;");
        let rib = ("etm-agent/src/core/rib.rs", "use crate::core::rate::X;");
        let expected = ["etm-agent/src/core/rate.rs:1 core-order", "etm-agent/src/core/rate.rs:1 cycle"];
        assert_eq!(rules(&[ORDER, rate, rib]), expected);
    }

    #[test]
    fn a_crate_belongs_to_its_adapter() {
        assert_eq!(rules(&[("etm-agent/src/datapath/a.rs", "use aya::Ebpf;")]), [""; 0]);
        assert_eq!(
            rules(&[("etm-agent/src/control/a.rs", "use aya::Ebpf;")]),
            ["etm-agent/src/control/a.rs:1 arrow"]
        );
    }

    #[test]
    fn an_unknown_module_and_a_reexport_at_the_root_are_found() {
        assert_eq!(rules(&[("etm-agent/src/novel/mod.rs", "")]), ["etm-agent/src/novel/mod.rs:1 arrow"]);
        assert_eq!(
            rules(&[("etm-agent/src/lib.rs", "pub mod a;\npub use a::B;")]),
            ["etm-agent/src/lib.rs:2 arrow"]
        );
    }
}
