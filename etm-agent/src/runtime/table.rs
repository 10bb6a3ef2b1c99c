//! The table thread: the kernel's tries follow the RIB, and the live statistics map is refreshed.
//! Never decides which prefix has which row.

use super::error::AgentError;
use crate::core::decision::{LiveRow, TableChange};
use crate::core::input::{Input, TableFill};
use crate::datapath::{Live, PrefixTable};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// After so long without a change the mapping of the kernel's arrays is given back.
const REST: Duration = Duration::from_secs(1);

/// Work for the thread.
#[derive(Debug)]
pub(super) enum Job {
    /// Changes of the tries, in order.
    Changes(Vec<TableChange>),
    /// New content of the live map.
    Live(Vec<LiveRow>),
}

/// Does jobs until nobody has any.
pub(super) fn run(
    mut table: PrefixTable,
    mut live: Live,
    jobs: &Receiver<Job>,
    inputs: &mpsc::Sender<Input>,
    fill: &watch::Sender<TableFill>,
) -> Result<(), AgentError> {
    fill.send_replace(table.fill());
    let mut changed = Instant::now();
    loop {
        if changed.elapsed() >= REST {
            table.rest();
        }
        match jobs.recv_timeout(REST) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(Job::Changes(changes)) => {
                changed = Instant::now();
                let released = table.apply(&changes)?;
                fill.send_replace(table.fill());
                if !released.slots.is_empty() && inputs.blocking_send(Input::Released(released)).is_err() {
                    return Ok(());
                }
            }
            // A view for people: the counters themselves do not depend on it.
            Ok(Job::Live(rows)) => {
                if let Err(error) = live.refresh(&rows) {
                    tracing::warn!(%error, "live statistics not refreshed");
                }
            }
        }
    }
}
