//! Where things are: the repository, its target directory, the cargo that called us.
//!
//! Reads the environment and nothing else; never changes it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Root of the repository. `cargo run` tells where xtask's own manifest lies; one level up is the root.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Target directory of the host workspace: `CARGO_TARGET_DIR` if set, else `target` in the repository.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from) {
        Some(dir) if dir.is_absolute() => dir,
        Some(dir) => std::env::current_dir().map_or_else(|_| dir.clone(), |cwd| cwd.join(&dir)),
        None => root().join("target"),
    }
}

/// The object that the agent embeds.
pub(crate) fn ebpf_object() -> PathBuf {
    target_dir().join("ebpf").join("etm.bpf.o")
}

/// Where cargo keeps its registry and installed programs.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
}

/// The cargo that called us, to be run in the repository. It knows where the agent's build script finds the eBPF object.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(root()).env("ETM_EBPF_OBJECT", ebpf_object());
    command
}

/// Whether this process may do what root may: `/proc/self` belongs to the effective user.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
