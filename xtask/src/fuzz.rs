//! `cargo xtask fuzz`: fuzz targets built by the stable compiler, and run for as long as asked.
//!
//! Only the crates that bytes from outside reach are instrumented (`fuzz/instrument.sh`), so that all others are those
//! that the workspace has built already. Never changes the seeds in the repository: what is found goes below `target/fuzz`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use crate::process::{self, Error, Result};
use crate::workspace;

/// Every target; `fuzz/fuzz_targets` says of each what it takes and what it finds wrong.
pub(crate) const TARGETS: [&str; 6] = ["bgp", "bmp", "mrt", "config", "control", "guardian"];

/// Look for inputs that break what reads bytes from outside: BGP, BMP, MRT, configuration, control, guardian.
///
/// Builds the targets of `fuzz/` with coverage feedback, by the stable compiler, and runs them for so many seconds, all
/// at once where none is named. Found inputs stay below target/fuzz/corpus and are begun with the next time; what breaks
/// a target is kept below target/fuzz/crashes, and running the target on that file shows it again. Exit status 0 only
/// if nothing broke. `cargo xtask test` does the same for a short time.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// bgp, bmp, mrt, config, control or guardian; all of them without
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
}

/// Entry point of the command.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    process::run(&mut build(Build::Fast))?;
    let targets: Vec<&str> = match &args.target {
        Some(target) => vec![target.as_str()],
        None => TARGETS.to_vec(),
    };
    for line in run(&targets, args.seconds)? {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Which of the two is to be fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// The targets: for who lets them run.
    Fast,
    /// Building them, by two thirds: for a short run, in which they go through an eighth as many inputs.
    Soon,
}

/// Builds all targets.
pub(crate) fn build(how: Build) -> Command {
    let mut command = workspace::cargo("build");
    if how == Build::Soon {
        command.args(["--config", "profile.dev.package.etm-agent.opt-level=0"]);
    }
    command
        .args(["--bins", "--manifest-path"])
        .arg(directory().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(workspace::target_dir())
        .env("RUSTC_WRAPPER", directory().join("instrument.sh"));
    command
}

fn directory() -> PathBuf {
    workspace::root().join("fuzz")
}

fn results() -> PathBuf {
    workspace::target_dir().join("fuzz")
}

/// Runs targets at once; a line for each in the end, or the first that broke.
pub(crate) fn run(targets: &[&str], seconds: u32) -> Result<Vec<String>> {
    let shared = shared_streams();
    let mut running = Vec::new();
    for target in targets {
        running.push((*target, start(target, seconds, shared.as_deref())?));
    }
    let mut lines = Vec::new();
    let mut broken = None;
    for (target, (mut child, log)) in running {
        let failed = |source| Error::Start { command: format!("fuzz-{target}"), source };
        let status = child.wait().map_err(failed)?;
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        match (status.success(), summary(&text)) {
            (true, Some(summary)) => lines.push(format!("{target}: {summary}")),
            (true, None) => {
                let what = "no coverage was seen: the target is not instrumented".to_owned();
                broken.get_or_insert(Error::Content { path: log, what });
            }
            (false, _) => {
                eprintln!("{}", tail(&text));
                let what = format!("fuzz-{target} broke ({status}); the input is in {}", crashes().display());
                broken.get_or_insert(Error::Content { path: log, what });
            }
        }
    }
    broken.map_or(Ok(lines), Err)
}

fn crashes() -> PathBuf {
    results().join("crashes")
}

fn start(target: &str, seconds: u32, shared: Option<&Path>) -> Result<(Child, PathBuf)> {
    let corpus = results().join("corpus").join(target);
    for dir in [&corpus, &crashes()] {
        make(dir)?;
    }
    let log = results().join(format!("{target}.log"));
    let create = || File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
    let (out, err) =
        create().map_err(|source| Error::File { doing: "writing", path: log.clone(), source })?;
    let mut command = Command::new(workspace::target_dir().join("debug").join(format!("fuzz-{target}")));
    command.arg(&corpus).arg(directory().join("seeds").join(target));
    if let (Some(streams), "bgp") = (shared, target) {
        command.arg(streams);
    }
    if target == "config" {
        // The documented configuration is the best seed there is.
        command.arg(workspace::root().join("deploy"));
    }
    command
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-max_len=65536", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/{target}-", crashes().display()))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    let shown = process::shown(&command);
    eprintln!("    $ {shown}");
    let child = command.spawn().map_err(|source| Error::Start { command: shown, source })?;
    Ok((child, log))
}

/// Streams of the wild, where the repository has a neighbour that keeps them.
fn shared_streams() -> Option<PathBuf> {
    let data = workspace::root().parent()?.join("shared/data/bgp-adversarial");
    let into = results().join("streams");
    make(&into).ok()?;
    let mut found = false;
    for archive in ["bgp-streams-dev.tar.zst", "corpi-dev.tar.zst"] {
        let archive = data.join(archive);
        let mut tar = Command::new("tar");
        tar.args(["--zstd", "--strip-components=1", "-C"]).arg(&into).arg("-xf").arg(&archive);
        found |= archive.exists() && process::output(&mut tar).is_ok();
    }
    found.then_some(into)
}

fn make(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|source| Error::File { doing: "making", path: dir.into(), source })
}

/// What libFuzzer says in the end: runs, edges covered by the seeds and by all; nothing where no edge was.
fn summary(log: &str) -> Option<String> {
    let edges = |line: &str| {
        let mut words = line.split_whitespace();
        words.find(|word| *word == "cov:")?;
        words.next()?.parse::<u64>().ok()
    };
    let seeds = log.lines().find(|line| line.contains("INITED")).and_then(edges).unwrap_or_default();
    let done = log.lines().rfind(|line| line.contains("DONE"))?;
    let all = edges(done).filter(|edges| *edges > 0)?;
    let runs = done.trim_start_matches('#').split_whitespace().next()?;
    Some(format!("{runs} runs, {all} edges covered ({seeds} by the inputs it began with), nothing broke"))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fuzzer_says_in_the_end_is_understood() {
        let log = "INFO: Loaded 1 modules\n#15\tINITED cov: 812 ft: 1300 corp: 9/1Kb exec/s: 0 rss: 60Mb\n\
                   #40\tNEW    cov: 815 ft: 1310 corp: 10/1Kb\n#9000\tDONE   cov: 1024 ft: 4000 corp: 99/9Kb exec/s: 900\n";
        assert_eq!(
            summary(log).as_deref(),
            Some("9000 runs, 1024 edges covered (812 by the inputs it began with), nothing broke")
        );
        assert_eq!(summary("#2\tINITED exec/s: 0\n#99\tDONE   corp: 1/1b\n"), None, "no feedback");
        assert_eq!(summary(""), None);
    }

    #[test]
    fn every_target_has_a_source_and_seeds() {
        for target in TARGETS {
            let source = directory().join("fuzz_targets").join(target).with_extension("rs");
            assert!(source.exists(), "{}", source.display());
            assert!(directory().join("seeds").join(target).exists(), "seeds of {target}");
        }
    }
}
