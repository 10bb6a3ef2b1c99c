//! `cargo xtask test`: the gate. Every check and every test, one table, one closing line.
//!
//! A stage that fails never hides the next one, and nothing passes by not running: what cannot run is counted as
//! skipped, and the number of skips may not grow.

mod job;
mod libtest;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use self::job::Job;
use self::report::Report;
use crate::process::Result;
use crate::setup::{self, Scope};
use crate::{build_ebpf, fuzz, ratchet, tidy, workspace};

/// Check everything: format, lints, layout, documentation, unit, property, program and lab tests.
///
/// Installs and builds what is needed first. Every stage runs even if one failed; logs go to target/xtask-test/.
/// Ends with a table and one line `N passed, N failed, N skipped`. Exit status 0 only if nothing failed. Tests that
/// need root are skipped without it, and counted; as root (or with CI set) more skips than xtask/ratchet.toml
/// allows are a failure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave out the program and lab tests, which need root
    #[arg(long)]
    no_lab: bool,
    /// Run only tests whose name contains this, and no other checks
    filter: Option<String>,
}

const CARGO_LIMIT: Duration = Duration::from_secs(3600);
const UNIT_LIMIT: Duration = Duration::from_secs(600);
const LAB_LIMIT: Duration = Duration::from_secs(1800);
/// All targets share this time: they run at once.
const FUZZ_SECONDS: u32 = 20;

/// Lab tests that mostly wait for a lease, a timer or a peer to run out: they leave most of both cores idle, so two of
/// them go side by side, the longest first. What measures or sends at a pace is not among them.
const CALM: &[&str] = &[
    "two_borders",
    "guardian",
    "failsafe",
    "main_mode",
    "replay",
    "bgp_interop",
    "controls",
    "leak",
    "bad_requests",
    "bad_input",
    "privileges",
    "bmp",
];
const LANES: usize = 2;

/// Entry point of the command.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let logs = workspace::target_dir().join("xtask-test");
    let mut report = Report::new(&logs)?;
    prepare(&mut report);
    if args.filter.is_none() {
        formatting(&mut report)?;
        report.check("tidy: layout, arrows, sizes, documents", tidy::findings);
        lints(&mut report)?;
        documentation(&mut report)?;
    }
    let tests = built_tests(&mut report)?;
    let filter = args.filter.as_deref();
    for test in tests.iter().filter(|test| !test.needs_root) {
        run_test(&mut report, test, filter, UNIT_LIMIT)?;
    }
    if filter.is_none() {
        documentation_tests(&mut report)?;
        fuzzing(&mut report)?;
    }
    let skip = match (args.no_lab, workspace::is_root()) {
        (true, _) => Some("left out by --no-lab"),
        (false, false) => Some("needs root: network namespaces and eBPF"),
        (false, true) => None,
    };
    let mut calm = Vec::new();
    for test in tests.iter().filter(|test| test.needs_root) {
        match skip {
            Some(reason) => report.skipped(&test.title, reason),
            None if CALM.contains(&test.name.as_str()) => {
                calm.push((test, test_job(test, filter, LAB_LIMIT)));
            }
            None => run_test(&mut report, test, filter, LAB_LIMIT)?,
        }
    }
    calm.sort_by_key(|(test, _)| CALM.iter().position(|name| *name == test.name));
    report.tests_beside(calm.into_iter().map(|(test, job)| (test.title.clone(), job)).collect(), LANES)?;
    if filter.is_some() && !report.has_tests() {
        report.failed("filter", "no test has that in its name");
    }
    if filter.is_none() && (skip.is_none() || std::env::var_os("CI").is_some()) {
        let skips = report.skips();
        report.check("ratchet: no more skips than allowed", move || ratchet::check_skips(skips));
    }
    Ok(report.close())
}

fn prepare(report: &mut Report) {
    let mut toolchain = None;
    report.step("setup", || {
        toolchain = Some(setup::ensure(Scope::Lab)?);
        setup::ensure_checks()
    });
    if let Some((compiler, linker)) = toolchain {
        report.step("build-ebpf", || build_ebpf::build(&compiler, &linker).map(drop));
    } else {
        report.failed("build-ebpf", "there is no toolchain, see setup");
    }
}

fn formatting(report: &mut Report) -> Result<()> {
    let mut host = workspace::cargo("fmt");
    host.args(["--all", "--check", "--", "--color", "never"]);
    report.job("format: workspace", Job::new("fmt", host, CARGO_LIMIT))?;
    let mut fuzz = workspace::cargo("fmt");
    fuzz.args(["--check", "--", "--color", "never"]).current_dir(workspace::root().join("fuzz"));
    report.job("format: fuzz", Job::new("fmt-fuzz", fuzz, CARGO_LIMIT))?;
    let mut ebpf = workspace::cargo("fmt");
    ebpf.args(["--check", "--", "--color", "never"]).current_dir(ebpf_dir());
    report.job("format: etm-ebpf", Job::new("fmt-ebpf", ebpf, CARGO_LIMIT))
}

fn lints(report: &mut Report) -> Result<()> {
    let mut host = workspace::cargo("clippy");
    host.args(["--workspace", "--all-targets", "--", "-D", "warnings"]);
    report.job("clippy: workspace, warnings are errors", Job::new("clippy", host, CARGO_LIMIT))?;
    // Debian's compiler for BPF has no clippy. The crate is checked, not linked, so the host's clippy can read it:
    // `abort` because there is no unwinder without std, the bootstrap for aya-ebpf's one unstable feature.
    let mut ebpf = workspace::cargo("clippy");
    ebpf.current_dir(ebpf_dir())
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", "-C\u{1f}panic=abort")
        .args(["--target-dir", "target", "--bins", "--", "-D", "warnings"]);
    report.job(
        "clippy: etm-ebpf (host's clippy), warnings are errors",
        Job::new("clippy-ebpf", ebpf, CARGO_LIMIT),
    )
}

fn documentation(report: &mut Report) -> Result<()> {
    let mut doc = workspace::cargo("doc");
    doc.args(["--workspace", "--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", "-D warnings");
    report.job("rustdoc: warnings are errors", Job::new("doc", doc, CARGO_LIMIT))
}

fn documentation_tests(report: &mut Report) -> Result<()> {
    let mut doc = workspace::cargo("test");
    doc.args(["--workspace", "--doc", "--no-fail-fast", "--", "--show-output"]);
    report.tests("examples in the documentation", Job::new("doctest", doc, CARGO_LIMIT))
}

/// After the tests, so that the libraries that nobody instruments are there.
fn fuzzing(report: &mut Report) -> Result<()> {
    report.job("build: fuzz targets", Job::new("build-fuzz", fuzz::build(fuzz::Build::Soon), CARGO_LIMIT))?;
    report.step("fuzz: every target for a short time", || {
        for line in fuzz::run(&fuzz::TARGETS, FUZZ_SECONDS)? {
            println!("    {line}");
        }
        Ok(())
    });
    Ok(())
}

/// One test program that cargo built.
#[derive(Debug, PartialEq, Eq)]
struct TestProgram {
    name: String,
    title: String,
    log: String,
    program: PathBuf,
    /// Directory of its package, where tests expect to run.
    package: PathBuf,
    /// Integration tests of `etm-tests`: they make network namespaces and load programs.
    needs_root: bool,
}

/// Builds binaries and tests in one go, so that both use the same libraries, in the profile the lab tests use.
fn built_tests(report: &mut Report) -> Result<Vec<TestProgram>> {
    let mut build = workspace::cargo("build");
    build.args(["--workspace", "--bins", "--tests", "--message-format=json-render-diagnostics"]);
    let messages = report.build("build: binaries and tests", Job::new("build", build, CARGO_LIMIT))?;
    let mut tests: Vec<TestProgram> = messages.lines().filter_map(test_program).collect();
    // Cargo tells of them in the order they were finished.
    tests.sort_by(|a, b| a.title.cmp(&b.title));
    Ok(tests)
}

/// The test program that one line of cargo's JSON tells of.
fn test_program(line: &str) -> Option<TestProgram> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    if !message.get("profile")?.get("test")?.as_bool()? {
        return None;
    }
    let program = PathBuf::from(message.get("executable")?.as_str()?);
    let package = Path::new(message.get("manifest_path")?.as_str()?).parent()?.to_path_buf();
    let target = message.get("target")?;
    let (name, kind) = (target.get("name")?.as_str()?, target.get("kind")?.get(0)?.as_str()?);
    let folder = package.file_name()?.to_string_lossy().into_owned();
    let needs_root = kind == "test" && folder == "tests";
    let title = if needs_root { format!("root: {name}") } else { format!("{folder}: {kind} {name}") };
    let log = format!("{folder}-{kind}-{name}");
    Some(TestProgram { name: name.to_owned(), log, title, program, package, needs_root })
}

fn run_test(report: &mut Report, test: &TestProgram, filter: Option<&str>, limit: Duration) -> Result<()> {
    report.tests(&test.title, test_job(test, filter, limit))
}

fn test_job(test: &TestProgram, filter: Option<&str>, limit: Duration) -> Job {
    let mut command = Command::new(&test.program);
    command
        .args(filter)
        .arg("--show-output")
        .current_dir(&test.package)
        .env("CARGO_MANIFEST_DIR", &test.package)
        .env("ETM_BIN_DIR", workspace::target_dir().join("debug"));
    let mut job = Job::new(&test.log, command, limit);
    if test.needs_root {
        // Labs share two cores and one kernel with each other: one at a time keeps their figures true.
        job.command.arg("--test-threads=1");
        job.progress = Some(libtest::progress);
        job.name = format!("{}: ", test.name);
    }
    job
}

fn ebpf_dir() -> PathBuf {
    workspace::root().join("etm-ebpf")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(package: &str, kind: &str, test: bool) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"/r/{package}/Cargo.toml","target":{{"kind":["{kind}"],"name":"n"}},"profile":{{"test":{test}}},"executable":"/t/n-1"}}"#
        )
    }

    #[test]
    fn only_integration_tests_of_the_package_tests_need_root() {
        assert!(test_program(&message("tests", "test", true)).unwrap().needs_root);
        assert!(!test_program(&message("tests", "lib", true)).unwrap().needs_root);
        assert!(!test_program(&message("etm-agent", "test", true)).unwrap().needs_root);
    }

    #[test]
    fn what_is_no_test_is_not_run() {
        assert_eq!(test_program(&message("tests", "bin", false)), None);
        assert_eq!(test_program("{}"), None);
    }
}
