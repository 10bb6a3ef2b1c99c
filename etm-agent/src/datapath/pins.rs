//! The directory of pins: made, locked, and taken back if the start fails.
//! Never removes what it did not make.

use super::error::DatapathError;
use super::sys;
use etm_common::names;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The pin root, held by this process alone, and what this start made under it.
pub(super) struct Pins {
    root: PathBuf,
    /// In the order in which they were made.
    made: Vec<Made>,
    /// Held, never read: the lock is on the directory and ends with the process.
    _lock: File,
}

enum Made {
    Dir(PathBuf),
    Pin(PathBuf),
}

impl Pins {
    /// Makes `root` and its directory of links where they are missing, and locks `root`.
    pub(super) fn open(root: &Path) -> Result<Pins, DatapathError> {
        check_bpffs(root)?;
        let mut made = Vec::new();
        let result = make_dirs(root, &mut made).and_then(|()| lock(root));
        match result {
            Ok(lock) => Ok(Pins { root: root.to_path_buf(), made, _lock: lock }),
            Err(error) => {
                remove(&made);
                Err(error)
            }
        }
    }

    /// The root.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of links.
    pub(super) fn links(&self) -> PathBuf {
        self.root.join(names::LINKS)
    }

    /// Notes that this start made `pin`.
    pub(super) fn note(&mut self, pin: PathBuf) {
        self.made.push(Made::Pin(pin));
    }

    /// Forgets what was made: the start succeeded, and from now on the pins outlive the process on purpose.
    pub(super) fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        remove(&self.made);
    }
}

/// The nearest existing ancestor tells what the root will be on.
fn check_bpffs(root: &Path) -> Result<(), DatapathError> {
    for dir in root.ancestors() {
        match sys::is_bpffs(dir) {
            Ok(true) => return Ok(()),
            Ok(false) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => {
                return Err(DatapathError::Path { doing: "look at", path: dir.to_path_buf(), cause });
            }
        }
    }
    Err(DatapathError::NotBpffs { path: root.to_path_buf() })
}

fn make_dirs(root: &Path, made: &mut Vec<Made>) -> Result<(), DatapathError> {
    let links = root.join(names::LINKS);
    let mut missing: Vec<&Path> = links.ancestors().take_while(|dir| !dir.exists()).collect();
    while let Some(dir) = missing.pop() {
        fs::create_dir(dir).map_err(|cause| DatapathError::Path {
            doing: "make directory",
            path: dir.to_path_buf(),
            cause,
        })?;
        made.push(Made::Dir(dir.to_path_buf()));
    }
    Ok(())
}

/// Takes the lock on `root`, or says that another process has it.
pub(super) fn lock(root: &Path) -> Result<File, DatapathError> {
    let failed = |cause| DatapathError::Path { doing: "lock", path: root.to_path_buf(), cause };
    let dir = File::open(root).map_err(failed)?;
    match dir.try_lock() {
        Ok(()) => Ok(dir),
        Err(TryLockError::WouldBlock) => Err(DatapathError::InUse { path: root.to_path_buf() }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// Backwards, and on with the rest where one cannot be removed: this runs when something failed already.
fn remove(made: &[Made]) {
    for one in made.iter().rev() {
        let (path, result) = match one {
            Made::Pin(path) => (path, fs::remove_file(path)),
            Made::Dir(path) => (path, fs::remove_dir(path)),
        };
        if let Err(error) = result
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot take back what the failed start made");
        }
    }
}
