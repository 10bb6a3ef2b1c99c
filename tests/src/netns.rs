//! Network namespaces by name: make, enter on a thread of its own, run programs inside, remove.
//!
//! Programs enter by `nsenter --net`, not `ip netns exec`, which would hide the bpf file system.
//! *Never*: changes the namespace of a thread it did not start itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, setns};

use crate::command::run;
use crate::error::LabError;

/// Where iproute2 keeps the names.
pub const DIRECTORY: &str = "/run/netns";

/// A namespace known by name. Dropping it removes nothing: [`crate::state::tear_down`] does.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a new, empty namespace.
    ///
    /// # Errors
    /// The name is taken, or root is missing.
    pub fn create(name: &str) -> Result<Self, LabError> {
        run(&format!("make network namespace {name}"), "ip", &["netns", "add", name], None)?;
        Ok(Self { name: name.to_owned() })
    }

    /// A namespace that exists already.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs `work` on a fresh thread inside the namespace and returns its result. Sockets made
    /// there stay in the namespace wherever they are used later.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` fails.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
        let what = format!("enter network namespace {}", self.name);
        let file = File::open(self.path()).map_err(LabError::io(&what))?;
        let entered = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET).map_err(LabError::errno(&what))?;
                    work()
                })
                .join()
        });
        // A panic inside is the caller's panic: an assertion must fail the test that made it.
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command that will run `program` inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `ip -batch` inside with the given lines.
    ///
    /// # Errors
    /// The first line that `ip` refuses.
    pub fn ip_batch(&self, what: &str, lines: &[String]) -> Result<(), LabError> {
        run(what, "ip", &["-n", &self.name, "-batch", "-"], Some(&lines.join("\n"))).map(drop)
    }

    /// Runs one `ip` command inside and returns what it printed.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn ip(&self, args: &[&str]) -> Result<String, LabError> {
        let what = format!("run `ip {}` in {}", args.join(" "), self.name);
        run(&what, "ip", &[&["-n", self.name.as_str()], args].concat(), None)
    }

    /// Runs one `tc` command inside and returns what it printed.
    ///
    /// # Errors
    /// `tc` refuses.
    pub fn tc(&self, args: &[&str]) -> Result<String, LabError> {
        let what = format!("run `tc {}` in {}", args.join(" "), self.name);
        run(&what, "tc", &[&["-n", self.name.as_str()], args].concat(), None)
    }

    /// Writes sysctls inside: `/proc/sys/net` shows the namespace of the thread that opens it.
    ///
    /// # Errors
    /// A sysctl does not exist or refuses the value.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<(), LabError> {
        self.inside(|| {
            for (key, value) in settings {
                let path = format!("/proc/sys/{key}");
                std::fs::write(&path, value).map_err(LabError::io(format!("write {value} to {path}")))?;
            }
            Ok(())
        })
    }
}
