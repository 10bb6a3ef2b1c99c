//! Counts what passed, failed and was skipped, and says so: while it happens, in a table, in one closing line.
//!
//! The closing line is the last thing on standard output and has no other text on it: programs read it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::job::{Ended, Job, Output};
use super::libtest;
use crate::process::{Error, Result};

/// Lines of a failed log that are shown; the log itself is whole.
const SHOWN: usize = 120;

/// What one stage came to.
#[derive(Debug)]
struct Stage {
    title: String,
    seconds: f64,
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Why it failed or was skipped, for the table.
    notes: Vec<String>,
}

/// Everything so far.
#[derive(Debug)]
pub(crate) struct Report {
    logs: PathBuf,
    started: Instant,
    stages: Vec<Stage>,
    /// Tests that passed, failed or were skipped, stages that are one check left out.
    tests: u64,
}

impl Report {
    /// Begins; the logs of a run before are overwritten one by one.
    pub(crate) fn new(logs: &Path) -> Result<Self> {
        std::fs::create_dir_all(logs).map_err(|source| Error::File {
            doing: "making",
            path: logs.into(),
            source,
        })?;
        Ok(Self { logs: logs.into(), started: Instant::now(), stages: Vec::new(), tests: 0 })
    }

    /// A stage done by ourselves.
    pub(crate) fn step(&mut self, title: &str, work: impl FnOnce() -> Result<()>) {
        let started = begin(title);
        let failure = work().err().map(|error| error.to_string());
        self.end_check(title, started, failure.map(|text| (text.clone(), text)));
    }

    /// A stage that returns findings, none being good.
    pub(crate) fn check(&mut self, title: &str, work: impl FnOnce() -> Result<Vec<String>>) {
        let started = begin(title);
        let failure = match work() {
            Ok(findings) if findings.is_empty() => None,
            Ok(findings) => Some((findings.join("\n"), format!("{} findings", findings.len()))),
            Err(error) => Some((error.to_string(), error.to_string())),
        };
        self.end_check(title, started, failure);
    }

    /// A stage that is one program, good if its exit status is.
    pub(crate) fn job(&mut self, title: &str, job: Job) -> Result<()> {
        self.build_with(title, job, Output::Together).map(drop)
    }

    /// The same; returns its standard output.
    pub(crate) fn build(&mut self, title: &str, job: Job) -> Result<String> {
        self.build_with(title, job, Output::Apart)
    }

    fn build_with(&mut self, title: &str, job: Job, output: Output) -> Result<String> {
        let started = begin(title);
        let name = job.log.clone();
        let ended = job.run(&self.logs, output)?;
        let failure = (!ended.status.success()).then(|| (complaints(&ended.log), self.why(&ended, &name)));
        self.end_check(title, started, failure);
        Ok(ended.output)
    }

    /// A stage that is a program of tests.
    pub(crate) fn tests(&mut self, title: &str, job: Job) -> Result<()> {
        let started = begin(title);
        let name = job.log.clone();
        let ended = job.run(&self.logs, Output::Together)?;
        self.end_tests(title, started.elapsed(), &name, &ended);
        Ok(())
    }

    /// Programs of tests that mostly wait, `lanes` at a time, the first ones first.
    pub(crate) fn tests_beside(&mut self, jobs: Vec<(String, Job)>, lanes: usize) -> Result<()> {
        let logs = self.logs.clone();
        let queue = Mutex::new(jobs.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let this = Mutex::new(&mut *self);
        let lane = || -> Result<()> {
            while let Some((title, job)) = next() {
                let started = begin(&title);
                let name = job.log.clone();
                let ended = job.run(&logs, Output::Together)?;
                let mut report = this.lock().unwrap_or_else(PoisonError::into_inner);
                report.end_tests(&title, started.elapsed(), &name, &ended);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
            lanes.into_iter().try_for_each(|lane| lane.join().unwrap_or(Err(Error::Panicked)))
        })
    }

    fn end_tests(&mut self, title: &str, took: Duration, name: &str, ended: &Ended) {
        let mut outcome = libtest::read(&ended.log);
        let mut notes: Vec<String> =
            outcome.failures.drain(..).map(|test| format!("failed: {test}")).collect();
        if !ended.status.success() {
            show(libtest::failures_of(&ended.log));
            notes.push(self.why(ended, name));
            // Crashed or was stopped: at least the test that was running did not pass.
            outcome.failed = outcome.failed.max(1);
        } else if !outcome.complete {
            outcome.passed = 1;
        }
        for skip in &outcome.skips {
            println!("    SKIP {}: {}", skip.test, skip.reason);
            notes.push(format!("skipped: {}: {}", skip.test, skip.reason));
        }
        let skipped = u64::try_from(outcome.skips.len()).unwrap_or(u64::MAX);
        self.tests += outcome.passed + outcome.failed + skipped;
        self.end(Stage {
            title: title.to_owned(),
            seconds: took.as_secs_f64(),
            passed: outcome.passed,
            failed: outcome.failed,
            skipped,
            notes,
        });
    }

    /// A stage that could not even begin.
    pub(crate) fn failed(&mut self, title: &str, reason: &str) {
        let started = begin(title);
        self.end_check(title, started, Some((reason.to_owned(), reason.to_owned())));
    }

    /// A stage that cannot run here.
    pub(crate) fn skipped(&mut self, title: &str, reason: &str) {
        begin(title);
        println!("    SKIP {title}: {reason}");
        self.tests += 1;
        let notes = vec![format!("skipped: {reason}")];
        self.end(Stage { title: title.to_owned(), seconds: 0.0, passed: 0, failed: 0, skipped: 1, notes });
    }

    /// How many were skipped so far.
    pub(crate) fn skips(&self) -> u64 {
        self.stages.iter().map(|stage| stage.skipped).sum()
    }

    /// Whether any test ran or was skipped so far.
    pub(crate) fn has_tests(&self) -> bool {
        self.tests > 0
    }

    /// The table and the closing line.
    pub(crate) fn close(&self) -> ExitCode {
        println!("\n{:<58} {:>8} {:>7} {:>7} {:>7}", "stage", "seconds", "passed", "failed", "skipped");
        for stage in &self.stages {
            let Stage { title, seconds, passed, failed, skipped, .. } = stage;
            println!("{title:<58} {seconds:>8.1} {passed:>7} {failed:>7} {skipped:>7}");
            for note in &stage.notes {
                println!("    {note}");
            }
        }
        let sum = |of: fn(&Stage) -> u64| self.stages.iter().map(of).sum::<u64>();
        let (passed, failed, skipped) = (sum(|s| s.passed), sum(|s| s.failed), sum(|s| s.skipped));
        println!("logs: {}; {:.0} s in all", self.logs.display(), self.started.elapsed().as_secs_f64());
        println!("{}", closing_line(passed, failed, skipped));
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn why(&self, ended: &Ended, log: &str) -> String {
        let how =
            if ended.timed_out { "stopped, it took too long".to_owned() } else { ended.status.to_string() };
        format!("{how}; log: {}", self.logs.join(log).with_extension("log").display())
    }

    /// Ends a stage that counts as one; a failure has a text to show now and a note for the table.
    fn end_check(&mut self, title: &str, started: Instant, failure: Option<(String, String)>) {
        let failed = u64::from(failure.is_some());
        if let Some((text, _)) = &failure {
            show(text);
        }
        self.end(Stage {
            title: title.to_owned(),
            seconds: started.elapsed().as_secs_f64(),
            passed: 1 - failed,
            failed,
            skipped: 0,
            notes: failure.into_iter().map(|(_, note)| format!("failed: {note}")).collect(),
        });
    }

    fn end(&mut self, stage: Stage) {
        let Stage { seconds, passed, failed, skipped, .. } = &stage;
        let word = if *failed > 0 { "FAILED" } else { "ok" };
        println!(
            "    {word}, {seconds:.1} s ({}): {}",
            closing_line(*passed, *failed, *skipped),
            stage.title
        );
        self.stages.push(stage);
    }
}

fn begin(title: &str) -> Instant {
    println!("== {title}");
    Instant::now()
}

/// What cargo printed but for its progress.
fn complaints(log: &str) -> String {
    const PROGRESS: &[&str] =
        &["Compiling ", "Checking ", "Documenting ", "Downloaded ", "Downloading ", "Blocking "];
    let lines = log.lines().filter(|line| !PROGRESS.iter().any(|word| line.trim_start().starts_with(word)));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first complaint is the one to mend first.
fn show(text: &str) {
    for line in text.lines().take(SHOWN) {
        println!("    | {line}");
    }
    let more = text.lines().count().saturating_sub(SHOWN);
    if more > 0 {
        println!("    | ({more} lines more are in the log)");
    }
}

fn closing_line(passed: u64, failed: u64, skipped: u64) -> String {
    format!("{passed} passed, {failed} failed, {skipped} skipped")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn report(name: &str) -> Report {
        Report::new(&std::env::temp_dir().join(format!("etm-xtask-report-{}-{name}", std::process::id())))
            .unwrap()
    }

    fn shell(script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job::new("a", command, Duration::from_secs(60))
    }

    fn counts(report: &Report) -> (u64, u64, u64) {
        let stage = report.stages.last().unwrap();
        (stage.passed, stage.failed, stage.skipped)
    }

    #[test]
    fn a_test_program_that_crashes_before_its_result_counts_as_failed() {
        let mut report = report("crash");
        report.tests("t", shell("echo 'test a ... ok'; exit 134")).unwrap();
        assert_eq!(counts(&report), (0, 1, 0));
        std::fs::remove_dir_all(&report.logs).unwrap();
    }

    #[test]
    fn a_skip_is_counted_and_is_no_failure() {
        let mut report = report("skip");
        let script = "printf 'successes:\\n\\n---- a stdout ----\\nSKIP no\\n'; echo 'test result: ok. 2 passed; 0 failed; 0 ignored;'";
        report.tests("t", shell(script)).unwrap();
        assert_eq!((counts(&report), report.skips()), ((1, 0, 1), 1));
        std::fs::remove_dir_all(&report.logs).unwrap();
    }

    #[test]
    fn jobs_side_by_side_are_all_counted_and_one_that_fails_ends_no_other() {
        let mut report = report("beside");
        let sign = report.logs.join("sign");
        let job = |name: &str, script: String| {
            let mut job = shell(&script);
            job.log = name.into();
            job.limit = Duration::from_secs(20);
            (name.to_owned(), job)
        };
        let (good, bad) =
            ("test result: ok. 1 passed; 0 failed;", "test result: FAILED. 0 passed; 1 failed;");
        let sign = sign.display();
        // The first one waits for what only the second one gives.
        let jobs = vec![
            job("a", format!("until [ -e {sign} ]; do sleep 0.02; done; echo '{good}'")),
            job("b", format!("touch {sign}; echo '{bad}'; exit 101")),
            job("c", format!("echo '{good}'")),
        ];
        report.tests_beside(jobs, 2).unwrap();
        let sum = |of: fn(&Stage) -> u64| report.stages.iter().map(of).sum::<u64>();
        assert_eq!((sum(|stage| stage.passed), sum(|stage| stage.failed)), (2, 1));
        std::fs::remove_dir_all(&report.logs).unwrap();
    }

    #[test]
    fn of_a_failed_build_the_complaints_are_shown() {
        assert_eq!(complaints("   Compiling a v1\nerror: no\n  --> a.rs:1\n"), "error: no\n  --> a.rs:1");
    }

    #[test]
    fn findings_and_errors_fail_a_stage() {
        let mut report = report("check");
        report.check("good", || Ok(Vec::new()));
        assert_eq!(counts(&report), (1, 0, 0));
        report.check("bad", || Ok(vec!["x:1: rule: mend it".into()]));
        assert_eq!(counts(&report), (0, 1, 0));
        report.job("false", shell("exit 1")).unwrap();
        assert_eq!(counts(&report), (0, 1, 0));
        std::fs::remove_dir_all(&report.logs).unwrap();
    }
}
