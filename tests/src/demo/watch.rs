//! Watches core's BIRD on a thread of its own: which prefixes it routes by ETM's announcement, since when.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;

use crate::bird::Bird;
use crate::clock::boottime_ns;
use crate::error::LabError;

/// Time between two looks: the resolution of what is reported.
const LOOK: Duration = Duration::from_millis(5);
/// Core's session with ETM.
const SESSION: &str = "etm_inject";

#[derive(Default)]
struct Seen {
    /// Best routes by ETM's announcement.
    best: BTreeSet<IpNet>,
    /// Routes from ETM, best or not.
    all: BTreeSet<IpNet>,
    /// When the last of them went; 0 while there are some or never were.
    empty_since_ns: u64,
    /// When the first best route was seen.
    first_ns: Option<u64>,
}

/// The watch. Dropping it ends it.
pub(crate) struct CoreWatch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl CoreWatch {
    pub(crate) fn start(core: Bird) -> Result<Self, LabError> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (its_stop, its_seen) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::Builder::new()
            .name("lab-core-watch".into())
            .spawn(move || {
                while !its_stop.load(Ordering::Relaxed) {
                    look(&core, &its_seen);
                    std::thread::sleep(LOOK);
                }
            })
            .map_err(LabError::io("start the watch on core"))?;
        Ok(Self { stop, seen, thread: Some(thread) })
    }

    /// Prefixes that core routes by ETM's announcement.
    pub(crate) fn best(&self) -> BTreeSet<IpNet> {
        self.seen().best.clone()
    }

    /// Prefixes that core has any route for from ETM.
    pub(crate) fn all(&self) -> BTreeSet<IpNet> {
        self.seen().all.clone()
    }

    /// When core first routed by ETM's announcement.
    pub(crate) fn first_ns(&self) -> Option<u64> {
        self.seen().first_ns
    }

    /// When the last route from ETM went, if none is left.
    pub(crate) fn empty_since_ns(&self) -> Option<u64> {
        let seen = self.seen();
        seen.all.is_empty().then_some(seen.empty_since_ns)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CoreWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread shows in its own message.
            let _ = thread.join();
        }
    }
}

fn look(core: &Bird, seen: &Mutex<Seen>) {
    let mut routes = Vec::new();
    for table in ["master4", "master6"] {
        match core.routes(&format!("table {table} protocol {SESSION}")) {
            Ok(more) => routes.extend(more),
            // BIRD is being stopped or restarted: nothing was seen, which is not the same as nothing there.
            Err(_) => return,
        }
    }
    let now_ns = boottime_ns();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let all: BTreeSet<IpNet> = routes.iter().filter_map(|route| route.prefix).collect();
    let best: BTreeSet<IpNet> = routes
        .iter()
        .filter(|route| route.best && !route.unreachable)
        .filter_map(|route| route.prefix)
        .collect();
    if all.is_empty() && !seen.all.is_empty() {
        seen.empty_since_ns = now_ns;
    }
    seen.all = all;
    if seen.first_ns.is_none() && !best.is_empty() {
        seen.first_ns = Some(now_ns);
    }
    seen.best = best;
}
