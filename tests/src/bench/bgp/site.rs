//! Two namespaces: the daemon under test in one, the feeder in the other, a link between them. Removed with the owner.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::command::cannot_start;
use crate::error::LabError;
use crate::netns::Namespace;
use crate::state::{Reaper, claim, namespace_name, pin_root, tear_down};
use crate::topology::Role;

use super::feed;

/// The place of one bench.
pub(super) struct Site {
    id: String,
    pub(super) directory: PathBuf,
    pub(super) daemon: Namespace,
    pub(super) feeder: Namespace,
    _reaper: Reaper,
}

impl Site {
    /// Makes it.
    pub(super) fn make() -> Result<Site, LabError> {
        let id = format!("bgp{}", std::process::id());
        let directory = claim(&id)?;
        let reaper = Reaper::start(&id)?;
        let daemon = Namespace::create(&namespace_name(&id, Role::Border))?;
        let feeder = Namespace::create(&namespace_name(&id, Role::Sink))?;
        let site = Site { id, directory, daemon, feeder, _reaper: reaper };
        site.wire()?;
        Ok(site)
    }

    fn wire(&self) -> Result<(), LabError> {
        let mut near = vec![
            "link set dev lo up".to_owned(),
            format!("link add up0 type veth peer name feed0 netns {}", self.feeder.name()),
            "link set dev up0 up".to_owned(),
            "addr add 10.0.0.254/24 dev up0".to_owned(),
            "addr add fd00::fe/64 dev up0 nodad".to_owned(),
        ];
        self.daemon.ip_batch("make the feeder's link", &near)?;
        near = vec!["link set dev lo up".to_owned(), "link set dev feed0 up".to_owned()];
        for peer in 0..feed::PEERS {
            near.push(format!("addr add {}/24 dev feed0", feed::address(peer)));
            near.push(format!("addr add {}/64 dev feed0 nodad", feed::address_v6(peer)));
        }
        self.feeder.ip_batch("bring the feeder's link up", &near)
    }

    /// Writes a file of the site.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, LabError> {
        let path = self.directory.join(name);
        std::fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// Root of the agent's pins.
    pub(super) fn pins(&self) -> PathBuf {
        pin_root(&self.id)
    }

    /// Starts a program in the daemon's namespace, what it says in `NAME.out`.
    pub(super) fn start(&self, name: &str, command: &mut Command) -> Result<Running, LabError> {
        let what = format!("start {name}");
        let output = self.directory.join(format!("{name}.out"));
        let file = std::fs::File::create(&output).map_err(LabError::io(&what))?;
        let child = command
            .stdin(Stdio::null())
            .stderr(file.try_clone().map_err(LabError::io(&what))?)
            .stdout(file)
            .spawn()
            .map_err(|source| cannot_start(&what, "nsenter", source))?;
        Ok(Running { child, output })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = tear_down(&self.id) {
            eprintln!("etm-lab: {error}");
        }
    }
}

/// A daemon under test. Dropping it kills it.
pub(super) struct Running {
    child: Child,
    output: PathBuf,
}

/// Memory of a process, in MB of 1,000,000 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Resident in all.
    pub(super) resident: f64,
    /// Of its own; the rest is files, and for ETM the kernel's maps that it has mapped.
    pub(super) own: f64,
}

impl Running {
    /// Memory in use.
    pub(super) fn memory(&self) -> Memory {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            kib.unwrap_or_default() * 1024.0 / 1e6
        };
        Memory { resident: field("VmRSS:"), own: field("RssAnon:") }
    }

    /// CPU time used, in seconds.
    pub(super) fn cpu_s(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks =
            |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        // Fields 14 and 15 of proc(5), in hundredths of a second.
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Fails where it has ended.
    pub(super) fn check(&mut self) -> Result<(), LabError> {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                let said = std::fs::read_to_string(&self.output).unwrap_or_default();
                let tail: Vec<&str> = said.lines().rev().take(10).collect();
                let log = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                Err(LabError::AgentDied { status: status.to_string(), log })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
