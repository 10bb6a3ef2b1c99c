//! Installing Debian packages without a question and without starting their services.
//!
//! Never removes a package: a conflict with what the machine already has is told, not resolved.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{self, Error, Result};

const LISTS: &str = "/var/lib/apt/lists";
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# Written by ETM's `cargo xtask setup` while it installs packages; safe to remove.\nexit 101\n";

/// Whether this machine has apt at all.
pub(crate) fn is_available() -> bool {
    process::find("apt-get").is_some()
}

/// The command that a person would type to install `packages`.
pub(crate) fn typed(packages: &[String]) -> String {
    format!("apt-get update && apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Installs `packages`; refreshes the lists only if there are none or if they turn out to be stale.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    let _quiet = ServicesHeld::new()?;
    if lists_are_empty() {
        process::run(&mut apt(&["update"]))?;
    } else if process::run(&mut install_command(packages)).is_ok() {
        return disable_daemons(packages);
    } else {
        eprintln!("setup: apt could not install them; its lists may be old, refreshing them");
        process::run(&mut apt(&["update"]))?;
    }
    process::run(&mut install_command(packages))?;
    disable_daemons(packages)
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    // Another apt may be running on a machine that was just started: wait rather than fail.
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0"])
        .args(args);
    command
}

fn install_command(packages: &[String]) -> Command {
    let mut command = apt(&["install", "-y", "--no-install-recommends", "--no-remove"]);
    command.args(packages);
    command
}

fn lists_are_empty() -> bool {
    !std::fs::read_dir(LISTS).is_ok_and(|mut entries| {
        entries
            .any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("_Packages")))
    })
}

/// Routing daemons and the services that Debian would start with the machine.
const SERVICES: &[(&str, &str)] =
    &[("bird2", "bird.service"), ("frr", "frr.service"), ("gobgpd", "gobgpd.service")];

/// The lab starts its own daemons in its own namespaces; the system's must not begin to speak at the next boot.
fn disable_daemons(packages: &[String]) -> Result<()> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(());
    }
    for (package, service) in
        SERVICES.iter().filter(|(package, _)| packages.iter().any(|name| name == package))
    {
        eprintln!("setup: {package} was installed for the lab only, so its system service is disabled");
        process::run(Command::new("systemctl").args(["disable", "--now", *service]))?;
    }
    Ok(())
}

/// While it lives, packages being installed start no service (Debian's policy-rc.d).
struct ServicesHeld {
    ours: Option<PathBuf>,
}

impl ServicesHeld {
    fn new() -> Result<Self> {
        let path = Path::new(POLICY);
        // One that is ours was left by a run that was killed: take it over and remove it at the end.
        if path.exists() && !std::fs::read_to_string(path).is_ok_and(|text| text == POLICY_TEXT) {
            return Ok(Self { ours: None });
        }
        let failed = |source| Error::File { doing: "writing", path: path.into(), source };
        std::fs::write(path, POLICY_TEXT).map_err(failed)?;
        let held = Self { ours: Some(path.into()) };
        process::run(Command::new("chmod").args(["755", POLICY]))?;
        Ok(held)
    }
}

impl Drop for ServicesHeld {
    fn drop(&mut self) {
        if let Some(path) = &self.ours
            && let Err(error) = std::fs::remove_file(path)
        {
            eprintln!("setup: remove {} by hand, it keeps services from starting: {error}", path.display());
        }
    }
}
