//! What the kernel says of ETM's table while it happens: `ip monitor` in the border's namespace, stamped as it is read.
//! Never ETM's own word.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use ipnet::IpNet;

use crate::clock::boottime_ns;
use crate::command::cannot_start;
use crate::error::LabError;
use crate::lab::Lab;
use crate::topology::Role;
use crate::traces;

/// One change of ETM's table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// When it was read, boot time in nanoseconds.
    pub(super) at_ns: u64,
    /// Destination.
    pub(super) prefix: IpNet,
    /// Added or replaced, not deleted.
    pub(super) made: bool,
    /// A throw, not an override.
    pub(super) throw: bool,
}

/// A running monitor. Dropping it ends it.
pub(super) struct TableWatch {
    child: Child,
    thread: Option<JoinHandle<()>>,
    changes: Arc<Mutex<Vec<Change>>>,
}

impl TableWatch {
    /// Follows ETM's table from now on.
    pub(super) fn start(lab: &Lab) -> Result<TableWatch, LabError> {
        let mut command = lab.namespace(Role::Border).command("ip");
        command.args(["-o", "monitor", "route"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|source| cannot_start("watch the routes", "ip", source))?;
        let changes = Arc::new(Mutex::new(Vec::new()));
        let lines = child.stdout.take().map(BufReader::new);
        let kept = Arc::clone(&changes);
        let thread = std::thread::spawn(move || {
            for line in lines.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                let at_ns = boottime_ns();
                if let Some(change) = change(&line, at_ns) {
                    lock(&kept).push(change);
                }
            }
        });
        Ok(TableWatch { child, thread: Some(thread), changes })
    }

    /// What happened since.
    pub(super) fn since(&self, from_ns: u64) -> Vec<Change> {
        let changes = lock(&self.changes);
        let first = changes.partition_point(|change| change.at_ns < from_ns);
        changes[first..].to_vec()
    }
}

impl Drop for TableWatch {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread shows in its own message.
            let _ = thread.join();
        }
    }
}

fn lock(changes: &Mutex<Vec<Change>>) -> MutexGuard<'_, Vec<Change>> {
    changes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `[Deleted ][throw ]PREFIX ... table 179 ...`.
fn change(line: &str, at_ns: u64) -> Option<Change> {
    let own = format!(" table {} ", traces::TABLE);
    if !line.contains(&own) {
        return None;
    }
    let mut words = line.split_whitespace().peekable();
    let made = words.next_if_eq(&"Deleted").is_none();
    let throw = words.next_if_eq(&"throw").is_some();
    let word = words.find(|word| !matches!(*word, "unicast"))?;
    let prefix = word.parse().ok().or_else(|| word.parse::<std::net::IpAddr>().ok().map(IpNet::from))?;
    Some(Change { at_ns, prefix, made, throw })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_etms_table_are_read_and_no_others() {
        let read = |line: &str| change(line, 0).map(|c| (c.prefix.to_string(), c.made, c.throw));
        let via = "198.18.17.0/24 via 10.2.0.1 dev up-b table 179 proto 179 metric 10 ";
        assert_eq!(read(via), Some(("198.18.17.0/24".into(), true, false)));
        assert_eq!(read(&format!("Deleted {via}")), Some(("198.18.17.0/24".into(), false, false)));
        let throw = "Deleted throw 2001:db8:1::/48 dev lo table 179 proto 179 metric 10 pref medium";
        assert_eq!(read(throw), Some(("2001:db8:1::/48".into(), false, true)));
        assert_eq!(read("198.18.17.0/24 via 10.2.0.1 dev up-b proto bird metric 32 "), None);
    }
}
