//! One process of a kind per routing table and network namespace, whatever its configuration says: two agents would take each
//! other's routes and rules for leftovers, two guardians would fight for the same peers. Never waits, and is gone with the
//! process, however it ends.
//!
//! Two places, for neither alone is enough. A file in a directory that nobody but root and ETM's user can write, locked by
//! flock(2): it holds between users, where they see the same directory. An abstract socket, which the kernel keeps per network
//! namespace: it holds between containers that share one. Anybody may bind that name, so it counts only when root or our own user
//! holds it.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, UnixCredentials, connect, getsockopt, socket, sockopt,
};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

/// The same whatever is configured, or two configurations would not meet.
pub(super) const DIRECTORY: &str = "/run/etm";

/// How often a file is tried that its last holder takes away at that moment.
const TRIES: usize = 8;

/// What keeps others out; dropping it lets them in.
#[derive(Debug)]
pub(super) struct Lock {
    _name: Option<UnixListener>,
    file: Option<(File, PathBuf)>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.file {
            // Still locked: whoever opened it meanwhile sees that it is gone.
            let _ = fs::remove_file(path);
        }
    }
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum Refused {
    /// This process has it; none where it cannot be told.
    Held(Option<i32>),
    /// The system's answer.
    System(io::Error),
}

/// Takes the lock `name` of this network namespace.
pub(super) fn take(name: &str) -> Result<Lock, Refused> {
    take_in(Path::new(DIRECTORY), name)
}

fn take_in(directory: &Path, name: &str) -> Result<Lock, Refused> {
    let bound = bind(name)?;
    let namespace = fs::metadata("/proc/self/ns/net").map_err(Refused::System)?.ino();
    let path = directory.join(format!("{name}.{namespace}.lock"));
    let file = match lock(&path) {
        Ok(file) => Some((file, path)),
        Err(Refused::System(error)) => {
            tracing::warn!(
                %error,
                file = %path.display(),
                "no lock against other users' processes; give the directory to the agent's user"
            );
            None
        }
        Err(held) => return Err(held),
    };
    if bound.is_none() && file.is_none() {
        return Err(Refused::System(io::Error::other(format!(
            "another user holds the name @{name}, and {} cannot be written",
            directory.display()
        ))));
    }
    Ok(Lock { _name: bound, file })
}

/// The abstract name; none where a stranger has it.
fn bind(name: &str) -> Result<Option<UnixListener>, Refused> {
    let address = SocketAddr::from_abstract_name(name).map_err(Refused::System)?;
    let in_use = match UnixListener::bind_addr(&address) {
        Ok(listener) => return Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        Err(error) => return Err(Refused::System(error)),
    };
    // Whose it is cannot be told of one that is bound and does not listen: ETM's always do.
    match holder_of(name) {
        Ok(holder) if holder.uid() == 0 || holder.uid() == nix::unistd::geteuid().as_raw() => {
            Err(Refused::Held(Some(holder.pid())))
        }
        Ok(holder) => {
            tracing::warn!(
                name,
                uid = holder.uid(),
                pid = holder.pid(),
                "a stranger's process has ETM's name"
            );
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(name, %in_use, %error, "a stranger's process has ETM's name");
            Ok(None)
        }
    }
}

/// Who listens there. Without waiting: a stranger who lets nobody in must not stop the start.
fn holder_of(name: &str) -> Result<UnixCredentials, Errno> {
    let (family, kind) = (AddressFamily::Unix, SockType::Stream);
    let stream = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    connect(stream.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
    getsockopt(&stream, sockopt::PeerCredentials)
}

fn lock(path: &Path) -> Result<File, Refused> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(Refused::System)?;
    }
    for _ in 0..TRIES {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(Refused::System)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                return Err(Refused::Held(read.ok().and_then(|_| text.trim().parse().ok())));
            }
            Err(TryLockError::Error(error)) => return Err(Refused::System(error)),
        }
        let (ours, there) = (file.metadata().map_err(Refused::System)?, fs::metadata(path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            let said = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            said.map_err(Refused::System)?;
            return Ok(file);
        }
    }
    Err(Refused::System(io::Error::other("the file is taken away again and again")))
}

/// The holder as an error names it.
pub(super) fn holder(pid: Option<i32>) -> String {
    pid.map_or_else(|| "an unknown process".to_owned(), |pid| format!("process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(of: &str) -> String {
        format!("etm-test-{of}-{}", std::process::id())
    }

    fn own_pid() -> Option<i32> {
        Some(std::process::id().cast_signed())
    }

    #[test]
    fn a_second_one_is_refused_with_the_holders_number_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let first = take_in(directory.path(), &name("second")).unwrap();
        let refused = take_in(directory.path(), &name("second")).unwrap_err();
        assert!(matches!(refused, Refused::Held(pid) if pid == own_pid()), "{refused:?}");
        take_in(directory.path(), &name("other")).unwrap();
        drop(first);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no file is left");
        take_in(directory.path(), &name("second")).unwrap();
    }

    #[test]
    fn the_file_alone_keeps_a_second_one_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let held = lock(&path).unwrap();
        let refused = lock(&path).unwrap_err();
        assert!(matches!(refused, Refused::Held(pid) if pid == own_pid()), "{refused:?}");
        drop(held);
        lock(&path).unwrap();
    }

    #[test]
    fn a_name_that_does_not_listen_is_a_strangers_and_keeps_nobody_out() {
        use nix::sys::socket::bind;
        let name = name("stranger");
        let squatter = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        bind(squatter.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let lock = take_in(directory.path(), &name).unwrap();
        assert!(lock.file.is_some());
        let second = take_in(directory.path(), &name).unwrap_err();
        assert!(matches!(second, Refused::Held(pid) if pid == own_pid()), "{second:?}");
    }

    #[test]
    fn a_stranger_who_listens_and_lets_nobody_in_makes_nobody_wait() {
        use nix::sys::socket::{Backlog, bind, listen};
        let name = name("full");
        let address = UnixAddr::new_abstract(name.as_bytes()).unwrap();
        let kind = SockType::Stream;
        let squatter = socket(AddressFamily::Unix, kind, SockFlag::empty(), None).unwrap();
        bind(squatter.as_raw_fd(), &address).unwrap();
        listen(&squatter, Backlog::new(1).unwrap()).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = socket(AddressFamily::Unix, kind, SockFlag::SOCK_NONBLOCK, None).unwrap();
            if connect(client.as_raw_fd(), &address).is_err() {
                break;
            }
            waiting.push(client);
        }
        let directory = tempfile::tempdir().unwrap();
        assert!(take_in(directory.path(), &name).unwrap().file.is_some());
    }
}
