//! What Rust's test programs print, understood: results, failures and skips.
//!
//! A test that cannot run prints a line `SKIP reason` and returns: libtest calls that passed, here it is skipped.

use std::collections::BTreeSet;

/// What one run of a test program came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Which tests were skipped and why.
    pub(crate) skips: Vec<Skip>,
    /// Which tests failed.
    pub(crate) failures: Vec<String>,
    /// Whether a line `test result:` was seen at all.
    pub(crate) complete: bool,
}

/// A test that could not run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Skip {
    pub(crate) test: String,
    pub(crate) reason: String,
}

/// Reads the output of a test program run with `--show-output`.
pub(crate) fn read(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut section, mut failures) = (String::new(), false);
    let mut passed_but_skipped = BTreeSet::new();
    for line in output.lines() {
        if let Some(counts) = line.strip_prefix("test result: ") {
            outcome.complete = true;
            outcome.passed += count(counts, "passed");
            outcome.failed += count(counts, "failed");
            let ignored = (0..count(counts, "ignored"))
                .map(|_| Skip { test: "a test".into(), reason: "marked as ignored".into() });
            outcome.skips.extend(ignored);
            section.clear();
        } else if line == "successes:" || line == "failures:" {
            failures = line == "failures:";
            section.clear();
        } else if let Some(name) = section_of(line) {
            name.clone_into(&mut section);
            if failures {
                outcome.failures.push(section.clone());
            }
        } else if let Some(reason) = skip_reason(line) {
            if !failures {
                passed_but_skipped.insert(section.clone());
            }
            outcome.skips.push(Skip { test: section.clone(), reason: reason.to_owned() });
        }
    }
    outcome.passed =
        outcome.passed.saturating_sub(u64::try_from(passed_but_skipped.len()).unwrap_or(u64::MAX));
    outcome
}

/// The part of the output that a person wants to see of a failed run: from the failures on.
pub(crate) fn failures_of(output: &str) -> &str {
    output.find("\nfailures:\n").map_or(output, |at| &output[at..])
}

/// What to show of a line while a slow test program runs: one line for each test that ended.
pub(crate) fn progress(line: &str) -> Option<String> {
    line.strip_prefix("test ").filter(|rest| rest.contains(" ... ")).map(str::to_owned)
}

/// `SKIP no root` and `SKIP: no root` alike.
fn skip_reason(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("SKIP")?;
    rest.strip_prefix(':').or_else(|| rest.strip_prefix(' ')).map(str::trim)
}

fn section_of(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

fn count(counts: &str, what: &str) -> u64 {
    counts
        .split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(what))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "\nrunning 4 tests\ntest a ... ok\ntest b ... ok\ntest c ... FAILED\ntest d ... ignored\n\nsuccesses:\n\n---- a stdout ----\nSKIP no bird here\n\n---- b stdout ----\nhello\n\nsuccesses:\n    a\n    b\n\nfailures:\n\n---- c stdout ----\nSKIP half of it\nthread 'c' panicked\n\nfailures:\n    c\n\ntest result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    #[test]
    fn a_skipped_test_is_not_counted_as_passed() {
        let outcome = read(MIXED);
        assert_eq!((outcome.passed, outcome.failed, outcome.skips.len()), (1, 1, 3));
        assert_eq!(outcome.skips[0], Skip { test: "a".into(), reason: "no bird here".into() });
        assert_eq!(outcome.failures, ["c"]);
        assert!(outcome.complete);
    }

    #[test]
    fn a_skip_is_a_line_of_its_own() {
        assert_eq!(skip_reason("SKIP: no root"), Some("no root"));
        assert_eq!(skip_reason("SKIPPED frames: 3"), None);
        assert_eq!(skip_reason("a SKIP no root"), None);
    }

    #[test]
    fn several_results_add_up() {
        let two = "test result: ok. 11 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(read(&two.repeat(2)).passed, 22);
    }

    #[test]
    fn a_program_that_crashed_is_incomplete() {
        assert!(!read("running 3 tests\ntest a ... ok\n").complete);
    }

    #[test]
    fn only_the_failures_of_a_failed_run_are_shown() {
        assert!(failures_of(MIXED).starts_with("\nfailures:\n\n---- c"));
        assert_eq!(failures_of("crash"), "crash");
    }
}
