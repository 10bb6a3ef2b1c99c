//! A small disk for one program: what is full there is full for nobody else. Never mounts anything where others see it.

use std::process::Command;

use crate::error::LabError;

/// Runs a program on a small disk of its own: a mount namespace with `directory` on a file system of `size`. Replaces this
/// process; returns only with an error.
///
/// # Errors
/// The system refuses.
pub fn small_disk(directory: &str, size: &str, command: &[String]) -> LabError {
    use std::os::unix::process::CommandExt as _;

    use nix::mount::{MsFlags, mount};
    let none: Option<&str> = None;
    let prepared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .and_then(|()| {
            let size = format!("size={size}");
            mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
        });
    if let Err(errno) = prepared {
        return LabError::errno(format!("give {directory} a small disk"))(errno);
    }
    let Some((program, arguments)) = command.split_first() else {
        return LabError::Malformed {
            what: "the program for a small disk".into(),
            detail: "none given".into(),
        };
    };
    let source = Command::new(program).args(arguments).exec();
    LabError::Io { what: format!("run {program}"), source }
}
