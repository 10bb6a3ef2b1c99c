//! What a process of ETM may do: changes to its user, gives up every capability that it does not need, and makes sure.
//! Never gains anything, and never goes on with more than it was told to keep. Call before any thread is started: what a
//! thread holds is its own, and later ones inherit it.
//!
//! Standards: capabilities(7), prctl(2). Tests: `tests/tests/privileges.rs`.

use nix::unistd::{Gid, Uid, User, getgrouplist, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitiesSecureBits as SecureBits, CapabilitySet, CapabilitySets, capabilities,
    capabilities_secure_bits, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, no_new_privs, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits, set_keep_capabilities, set_no_new_privs,
};
use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A capability that a part of ETM may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Attach programs, change routes and rules.
    NetAdmin,
    /// Load programs, make maps.
    Bpf,
    /// Arrays of exact size.
    Perfmon,
    /// Listen on ports below 1024.
    BindService,
}

impl Capability {
    fn set(self) -> CapabilitySet {
        match self {
            Capability::NetAdmin => CapabilitySet::NET_ADMIN,
            Capability::Bpf => CapabilitySet::BPF,
            Capability::Perfmon => CapabilitySet::PERFMON,
            Capability::BindService => CapabilitySet::NET_BIND_SERVICE,
        }
    }
}

/// What to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep<'a> {
    /// For this process.
    pub own: &'a [Capability],
    /// Of these, what processes inherit that it starts.
    pub pass_on: &'a [Capability],
}

/// Privileges as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Effective user.
    pub uid: u32,
    /// Its name, where it has one.
    pub user: Option<String>,
    /// Capabilities in effect.
    pub capabilities: Vec<String>,
    /// What execve(2) could give at most.
    pub bounding: Vec<String>,
    /// No execve(2) gives new ones.
    pub no_new_privileges: bool,
    /// User 0 has no capability by being user 0, and that cannot be changed.
    pub root_is_nobody: bool,
}

/// Why privileges cannot be what they should be.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// No such user.
    #[error("no user `{name}` on this machine; make one (`useradd --system {name}`), or change agent.user")]
    NoUser {
        /// As configured.
        name: String,
    },
    /// Only root can become somebody else.
    #[error(
        "cannot become user `{name}`: started as uid {uid}; start as root, or as `{name}` and without agent.user"
    )]
    NotRoot {
        /// As configured.
        name: String,
        /// Who we are.
        uid: u32,
    },
    /// The system refused.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A directory cannot be handed over.
    #[error("cannot give {} to user `{name}`: {source}; make it by hand and give it to that user", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// To whom.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// More is left than was to be kept.
    #[error("still has {left} after dropping what is not needed")]
    Left {
        /// What.
        left: String,
    },
}

fn system<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> PrivilegeError {
    move |source| PrivilegeError::System { doing, source: source.into() }
}

/// Whether this process could become user `name`; changes nothing.
pub fn check_user(name: &str) -> Result<(), PrivilegeError> {
    other_user(name).map(drop)
}

/// The user to become; none where that is who we are.
fn other_user(name: &str) -> Result<Option<User>, PrivilegeError> {
    let user = User::from_name(name)
        .map_err(|errno| PrivilegeError::System { doing: "look up the agent's user", source: errno.into() })?
        .ok_or_else(|| PrivilegeError::NoUser { name: name.to_owned() })?;
    let own = Uid::effective();
    if own == user.uid {
        return Ok(None);
    }
    if !own.is_root() {
        return Err(PrivilegeError::NotRoot { name: name.to_owned(), uid: own.as_raw() });
    }
    Ok(Some(user))
}

/// Becomes user `name`, with the capabilities held now; nothing where that is who we are. `owned` are given to that user,
/// with what is in them; `made` are only where they do not exist yet.
pub fn become_user(name: &str, owned: &[&Path], made: &[&Path]) -> Result<(), PrivilegeError> {
    let Some(user) = other_user(name)? else { return Ok(()) };
    let to = |path: &Path| hand_over(path, &user);
    let failed = |path: &Path, source| PrivilegeError::Directory {
        path: path.to_owned(),
        name: name.to_owned(),
        source,
    };
    for path in owned {
        std::fs::create_dir_all(path).and_then(|()| to(path)).map_err(|source| failed(path, source))?;
    }
    for path in made.iter().filter(|path| !path.exists()) {
        std::fs::create_dir_all(path).and_then(|()| to(path)).map_err(|source| failed(path, source))?;
    }
    let login = CString::new(name).map_err(|_| PrivilegeError::NoUser { name: name.to_owned() })?;
    let groups = getgrouplist(&login, user.gid).map_err(system("look up the groups of the agent's user"))?;
    set_keep_capabilities(true).map_err(system("keep capabilities across the change of user"))?;
    setgroups(&groups).map_err(system("take the groups of the agent's user"))?;
    setresgid(user.gid, user.gid, user.gid).map_err(system("take the group of the agent's user"))?;
    setresuid(user.uid, user.uid, user.uid).map_err(system("become the agent's user"))
}

/// A directory and what is in it, two levels deep, which is how deep pins lie.
fn hand_over(path: &Path, user: &User) -> io::Result<()> {
    let give = |path: &Path| -> io::Result<()> {
        let found = std::fs::symlink_metadata(path)?;
        // A link could lead anywhere.
        if found.is_symlink() || Uid::from_raw(found.uid()) == user.uid {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
    };
    give(path)?;
    for entry in std::fs::read_dir(path)? {
        let inner = entry?.path();
        give(&inner)?;
        if inner.is_dir() && !inner.is_symlink() {
            for entry in std::fs::read_dir(&inner)? {
                give(&entry?.path())?;
            }
        }
    }
    Ok(())
}

/// Lets the kernel choose this process rather than others when memory is short, by so much above what it was started with
/// (proc(5), oom_score_adj). What it starts may go back to that.
pub fn raise_oom_score(by: i16) -> Result<(), PrivilegeError> {
    const SCORE: &str = "/proc/self/oom_score_adj";
    const DOING: &str = "raise the score for when memory is short";
    let text = std::fs::read_to_string(SCORE).map_err(system(DOING))?;
    let before: i16 = text.trim().parse().map_err(io::Error::other).map_err(system(DOING))?;
    let held = capabilities(None).map_err(system("read the capabilities"))?;
    // With CAP_SYS_RESOURCE the new score would be the least that anything started from here may have.
    let effective = held.effective.difference(CapabilitySet::SYS_RESOURCE);
    set_capabilities(None, CapabilitySets { effective, ..held }).map_err(system(DOING))?;
    let raised = std::fs::write(SCORE, before.saturating_add(by).min(1000).to_string());
    set_capabilities(None, held).map_err(system(DOING))?;
    raised.map_err(system(DOING))
}

/// Gives up every capability but those to keep, for good and also for what is started from here, and makes sure of it.
/// Keeping does not mean having: what is missing is said by whoever needs it.
pub fn narrow(keep: Keep<'_>) -> Result<Held, PrivilegeError> {
    let union = |list: &[Capability]| list.iter().fold(CapabilitySet::empty(), |set, one| set | one.set());
    let held = capabilities(None).map_err(system("read the capabilities"))?;
    let left = held.permitted & union(keep.own);
    let passed = left & union(keep.pass_on);
    if held.permitted.contains(CapabilitySet::SETPCAP) {
        // A change of user left them permitted and not in effect.
        let all = CapabilitySets { effective: held.permitted, ..held };
        set_capabilities(None, all).map_err(system("use the capabilities"))?;
        bound(left)?;
    }
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: passed };
    clear_ambient_capability_set().map_err(system("clear the ambient capabilities"))?;
    set_capabilities(None, sets).map_err(system("drop capabilities"))?;
    for capability in passed.iter() {
        configure_capability_in_ambient_set(capability, true).map_err(system("pass a capability on"))?;
    }
    set_no_new_privs(true).map_err(system("rule out new privileges"))?;
    let now = capabilities(None).map_err(system("read the capabilities"))?;
    let beyond = (now.permitted | now.effective | now.inheritable).difference(left);
    if !beyond.is_empty() {
        return Err(PrivilegeError::Left { left: names(beyond).join(", ") });
    }
    let found = look()?;
    if !found.no_new_privileges {
        return Err(PrivilegeError::Left { left: "new ones by execve".to_owned() });
    }
    Ok(found)
}

/// Narrows the bounding set, and takes from user 0 what it has by its number.
fn bound(left: CapabilitySet) -> Result<(), PrivilegeError> {
    // No bit is withdrawn again: they are locked together with what they say.
    let bits = SecureBits::NO_ROOT
        | SecureBits::NO_ROOT_LOCKED
        | SecureBits::NO_SETUID_FIXUP
        | SecureBits::NO_SETUID_FIXUP_LOCKED
        | SecureBits::KEEP_CAPS_LOCKED;
    set_capabilities_secure_bits(bits).map_err(system("take the privileges of user 0"))?;
    for capability in CapabilitySet::all().difference(left).iter() {
        // A number that this kernel does not know is in no set.
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            remove_capability_from_bounding_set(capability).map_err(system("narrow the bounding set"))?;
        }
    }
    Ok(())
}

/// Privileges of the calling thread.
pub fn look() -> Result<Held, PrivilegeError> {
    let held = capabilities(None).map_err(system("read the capabilities"))?;
    let bounding =
        CapabilitySet::all().iter().filter(|one| capability_is_in_bounding_set(*one).unwrap_or(false));
    let bits = capabilities_secure_bits().map_err(system("read the securebits"))?;
    let uid = Uid::effective();
    Ok(Held {
        uid: uid.as_raw(),
        user: User::from_uid(uid).ok().flatten().map(|user| user.name),
        capabilities: names(held.effective),
        bounding: names(bounding.collect()),
        no_new_privileges: no_new_privs().map_err(system("read no_new_privs"))?,
        root_is_nobody: bits.contains(SecureBits::NO_ROOT | SecureBits::NO_ROOT_LOCKED),
    })
}

/// Names as capabilities(7) has them.
fn names(set: CapabilitySet) -> Vec<String> {
    set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

/// A user's name or number to its number; none where there is no such user.
pub fn user_id(text: &str) -> Option<u32> {
    text.parse().ok().or_else(|| Some(User::from_name(text).ok().flatten()?.uid.as_raw()))
}

/// A group's name or number to its number and the names of its members; none where there is no such group.
pub fn group(text: &str) -> Option<(u32, Vec<String>)> {
    let found = match text.parse() {
        Ok(number) => nix::unistd::Group::from_gid(Gid::from_raw(number)).ok().flatten(),
        Err(_) => nix::unistd::Group::from_name(text).ok().flatten(),
    };
    found.map(|group| (group.gid.as_raw(), group.mem)).or_else(|| Some((text.parse().ok()?, Vec::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_named_as_the_manual_names_it() {
        let set = CapabilitySet::NET_ADMIN | CapabilitySet::BPF;
        assert_eq!(names(set), ["CAP_NET_ADMIN", "CAP_BPF"]);
        let found = look().unwrap();
        assert_eq!(found.uid, Uid::effective().as_raw());
    }

    #[test]
    fn a_thread_that_narrows_keeps_nothing_else_and_cannot_gain() {
        // What a thread gives up is its own.
        let found = std::thread::spawn(|| narrow(Keep { own: &[], pass_on: &[] })).join().unwrap().unwrap();
        assert_eq!(found.capabilities, Vec::<String>::new());
        assert!(found.no_new_privileges);
    }

    #[test]
    fn nobody_becomes_a_user_that_does_not_exist() {
        let error = become_user("etm-no-such-user", &[], &[]).unwrap_err();
        assert!(matches!(error, PrivilegeError::NoUser { .. }), "{error}");
    }

    #[test]
    fn names_and_numbers_of_users_and_groups_are_understood() {
        assert_eq!(user_id("root"), Some(0));
        assert_eq!(user_id("12345"), Some(12_345));
        assert_eq!(user_id("etm-no-such-user"), None);
        assert_eq!(group("root").map(|(gid, _)| gid), Some(0));
        assert_eq!(group("etm-no-such-group"), None);
    }
}
