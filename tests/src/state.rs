//! What a lab leaves outside its own process, and its removal in one place.
//!
//! A lab with id `x` owns: the directory `/run/etm-lab/x`, the namespaces `etm-x-ROLE`, every process
//! in them, and the pins below `/sys/fs/bpf/etm-lab-x`. [`tear_down`] removes all of it, whoever calls
//! and however often: the end of a test, Ctrl-C, `etm-lab lab down`, or the [`Reaper`].
//!
//! *Invariant*: the reaper is started before anything is made. It is a process of its own that reads a
//! pipe from the lab's owner; when the owner ends, by whatever cause, SIGKILL included, the pipe closes
//! and the reaper tears the lab down.
//! *Never*: touches a process outside the lab's namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::command::{cannot_start, run};
use crate::error::LabError;
use crate::netns;
use crate::poll::wait_until;
use crate::topology::Role;

/// Where labs keep their files.
pub const ROOT: &str = "/run/etm-lab";
/// Word on the reaper's pipe that makes it leave the lab alone.
const KEEP: &[u8] = b"keep";
/// Name of the lab's binary.
const BINARY: &str = "etm-lab";

/// What is known of a lab to those who did not start it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Lab id.
    pub id: String,
    /// Process that owns it; meaningless once detached.
    pub owner_pid: i32,
    /// Whether it outlives its owner (`etm-lab lab up`).
    pub detached: bool,
    /// Capacity of each uplink in bit/s; 0 is unlimited.
    pub uplink_bps: u64,
}

/// Directory of a lab.
pub fn directory(id: &str) -> PathBuf {
    Path::new(ROOT).join(id)
}

/// Root of a lab's pins: one per lab, because pins belong to a bpf file system and not to a namespace.
pub fn pin_root(id: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/etm-lab-{id}"))
}

/// Name of the namespace of `role`.
pub fn namespace_name(id: &str, role: Role) -> String {
    format!("etm-{id}-{role}")
}

/// Takes the id for this lab: exactly one caller can.
///
/// # Errors
/// The name is unusable or taken.
pub fn claim(id: &str) -> Result<PathBuf, LabError> {
    let usable = (1..=12).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !usable {
        return Err(LabError::BadName { id: id.to_owned() });
    }
    fs::create_dir_all(ROOT).map_err(LabError::io(format!("make {ROOT}")))?;
    let path = directory(id);
    match fs::create_dir(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(LabError::Exists { id: id.to_owned() }),
        Err(error) => Err(LabError::io(format!("make {}", path.display()))(error)),
        Ok(()) => Ok(path),
    }
}

impl State {
    /// Writes the state file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self) -> Result<(), LabError> {
        let path = directory(&self.id).join("state.json");
        let text = serde_json::to_string(self).map_err(|error| LabError::Malformed {
            what: "the lab's state".into(),
            detail: error.to_string(),
        })?;
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))
    }

    /// Reads the state file of a lab.
    ///
    /// # Errors
    /// There is no such lab, or its file is damaged.
    pub fn load(id: &str) -> Result<Self, LabError> {
        let path = directory(id).join("state.json");
        let text = fs::read_to_string(&path).map_err(|_| LabError::NoSuchLab { id: id.to_owned() })?;
        serde_json::from_str(&text).map_err(|error| LabError::Malformed {
            what: path.display().to_string(),
            detail: error.to_string(),
        })
    }

    /// Whether nobody will come back for the lab: not detached and its owner is gone.
    pub fn is_stale(&self) -> bool {
        !self.detached && kill(Pid::from_raw(self.owner_pid), None).is_err()
    }
}

/// Ids of everything that looks like a lab: by directory, by namespace, by pins.
pub fn ids() -> BTreeSet<String> {
    let mut ids: BTreeSet<String> = names_in(Path::new(ROOT)).collect();
    ids.extend(names_in(Path::new(netns::DIRECTORY)).filter_map(|name| id_of_namespace(&name)));
    let pins =
        names_in(Path::new("/sys/fs/bpf")).filter_map(|name| Some(name.strip_prefix("etm-lab-")?.to_owned()));
    ids.extend(pins);
    ids
}

/// Removes a lab and everything it left. Succeeds when there is nothing.
///
/// # Errors
/// Something of the lab resists.
pub fn tear_down(id: &str) -> Result<(), LabError> {
    let namespaces: Vec<String> = names_in(Path::new(netns::DIRECTORY))
        .filter(|name| id_of_namespace(name).as_deref() == Some(id))
        .collect();
    end_processes(&namespaces)?;
    for name in namespaces {
        let removed = run(&format!("remove network namespace {name}"), "ip", &["netns", "del", &name], None);
        // Two may tear down at once; the one who comes second finds it gone.
        if removed.is_err() && Path::new(netns::DIRECTORY).join(&name).exists() {
            removed?;
        }
    }
    for path in [pin_root(id), directory(id)] {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(LabError::io(format!("remove {}", path.display()))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Processes in the namespaces of a lab.
pub fn processes(id: &str) -> Vec<i32> {
    let names: Vec<String> = names_in(Path::new(netns::DIRECTORY))
        .filter(|name| id_of_namespace(name).as_deref() == Some(id))
        .collect();
    processes_in(&names)
}

fn end_processes(namespaces: &[String]) -> Result<(), LabError> {
    for (signal, patience) in [(Signal::SIGTERM, 2), (Signal::SIGKILL, 5)] {
        for pid in processes_in(namespaces) {
            // Gone in between is what is wanted.
            let _ = kill(Pid::from_raw(pid), signal);
        }
        let gone = wait_until("the processes of the lab to end", Duration::from_secs(patience), || {
            let left = processes_in(namespaces);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        match (gone, signal) {
            (Ok(()), _) => return Ok(()),
            (Err(error), Signal::SIGKILL) => return Err(error),
            (Err(_), _) => {}
        }
    }
    Ok(())
}

fn processes_in(namespaces: &[String]) -> Vec<i32> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let wanted: BTreeSet<(u64, u64)> =
        namespaces.iter().filter_map(|name| identity(&Path::new(netns::DIRECTORY).join(name))).collect();
    names_in(Path::new("/proc"))
        .filter_map(|name| name.parse::<i32>().ok())
        .filter(|pid| {
            identity(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|id| wanted.contains(&id))
        })
        .collect()
}

fn id_of_namespace(name: &str) -> Option<String> {
    let (id, role) = name.strip_prefix("etm-")?.split_once('-')?;
    Role::EVERY.iter().any(|r| r.name() == role).then(|| id.to_owned())
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
}

/// The process that outlives the owner of a lab just long enough to remove it.
#[derive(Debug)]
pub struct Reaper {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl Reaper {
    /// Starts the reaper of lab `id`.
    ///
    /// # Errors
    /// The lab's binary is not where cargo puts it.
    pub fn start(id: &str) -> Result<Self, LabError> {
        let what = format!("start the reaper of lab {id}");
        let mut process = Command::new(binary(BINARY)?)
            .args(["reap", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A terminal's Ctrl-C must end the owner, not the one who cleans up after it.
            .process_group(0)
            .spawn()
            .map_err(|source| cannot_start(&what, BINARY, source))?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }

    /// Lets the lab live on without an owner.
    ///
    /// # Errors
    /// The reaper is gone already.
    pub fn release(mut self) -> Result<(), LabError> {
        if let Some(mut pipe) = self.pipe.take() {
            pipe.write_all(KEEP).map_err(LabError::io("release the lab from its reaper"))?;
        }
        Ok(())
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // Without a status there is no process to wait for.
        let _ = self.process.wait();
    }
}

/// The reaper's own life: waits for the owner's end, then removes the lab, unless told to keep it.
///
/// # Errors
/// Something of the lab resists.
pub fn reap(id: &str) -> Result<(), LabError> {
    let mut said = Vec::new();
    std::io::stdin().read_to_end(&mut said).map_err(LabError::io("wait for the owner of the lab"))?;
    if said == KEEP { Ok(()) } else { tear_down(id) }
}

/// Path of a binary of this workspace: in the directory that `ETM_BIN_DIR` names, or beside the running one.
///
/// # Errors
/// It was not built.
pub fn binary(name: &str) -> Result<PathBuf, LabError> {
    let own = std::env::current_exe().map_err(LabError::io("find the running program"))?;
    let given = std::env::var_os("ETM_BIN_DIR").map(PathBuf::from);
    // Test programs live one level below, in `deps`.
    let beside = own.ancestors().skip(1).take(2).map(Path::to_path_buf);
    given
        .into_iter()
        .chain(beside)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| LabError::NotBuilt {
            name: name.to_owned(),
            package: if name == BINARY { "etm-tests" } else { "etm-agent" },
        })
}
