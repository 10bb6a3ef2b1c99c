//! Signals that mean an orderly end, for agent and guardian alike. Never means anything else by one of them: there is no
//! reload.

use super::error::AgentError;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, SIGINT, and SIGHUP: a terminal that closes must not leave what only an orderly end removes.
pub(super) struct Endings {
    terminate: Signal,
    interrupt: Signal,
    /// None where it was ignored from the start, which is what nohup(1) does for who means to stay.
    hangup: Option<Signal>,
}

impl Endings {
    /// From now on these signals wait to be heard.
    pub(super) fn listen() -> Result<Endings, AgentError> {
        let failed = |source| AgentError::System { doing: "listen for signals", source };
        let hangup = if ignores_hangup() { Ok(None) } else { signal(SignalKind::hangup()).map(Some) };
        Ok(Endings {
            hangup: hangup.map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    /// The next one, by its name.
    pub(super) async fn next(&mut self) -> &'static str {
        let Endings { terminate, interrupt, hangup } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = hung_up => "SIGHUP",
        }
    }
}

/// As proc(5) shows it: signal 1 is the lowest bit of SigIgn.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_else(|_: io::Error| String::new());
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
