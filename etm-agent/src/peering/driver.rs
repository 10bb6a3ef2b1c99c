//! A session for the life of the agent: connect, converse, report, wait, again. Only active for now: a listener
//! would hand its streams to the same `converse`. Never gives up: that is the caller's decision, by the fault.

use super::config::{InjectConfig, SessionConfig};
use super::connection::{Ended, Role, converse};
use super::inject::Inject;
use super::learn::Learn;
use super::ports::Ports;
use super::{socket, status};
use crate::core::decision::Decision;
use crate::core::input::{Input, SessionChange, SessionEvent};
use crate::proto::bgp::SessionFault;
use crate::types::bgp::SessionState;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// A session that lived this long is not flapping: its end is followed by the shortest pause.
const STEADY: Duration = Duration::from_secs(30);

/// How a session ended that was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The peer's TCP acknowledged the withdrawals, or there was nothing to withdraw.
    Clean,
    /// It did not within a second; the connection is closed, so the peer withdraws when it notices.
    Unconfirmed,
}

/// Learns from one peer until `ports.stop`.
pub async fn run_learn(config: SessionConfig, ports: Ports) {
    let role = Role::Learn(Learn::new(config.peer));
    drive(config, role, ports).await;
}

/// Brings one peer to the newest of `decisions` until `ports.stop`, then withdraws everything.
pub async fn run_inject(
    config: SessionConfig,
    inject: InjectConfig,
    decisions: watch::Receiver<Arc<Decision>>,
    ports: Ports,
) -> Parting {
    let role = Role::Inject(Inject::new(inject, decisions));
    drive(config, role, ports).await
}

async fn drive(config: SessionConfig, mut role: Role, mut ports: Ports) -> Parting {
    let mut pause = config.retry_min;
    let mut last = None;
    loop {
        let Ended { fault, up, confirmed } = attempt(&config, &mut role, &mut ports).await;
        let now = (ports.clock)();
        ports.status.send_modify(|shown| status::down(shown, &fault, now));
        // An attempt that fails like the one before is no news.
        if up.is_some() || last.as_ref() != Some(&fault) {
            report(&config, &fault, up, &mut ports).await;
        }
        if *ports.stop.borrow() || ports.inputs.is_closed() {
            return if confirmed { Parting::Clean } else { Parting::Unconfirmed };
        }
        if up.is_some_and(|up| up >= STEADY) {
            pause = config.retry_min;
        }
        last = Some(fault);
        tokio::select! {
            _ = ports.stop.wait_for(|stop| *stop) => return Parting::Clean,
            () = sleep(pause) => {}
        }
        pause = pause.saturating_mul(2).min(config.retry_max);
    }
}

async fn attempt(config: &SessionConfig, role: &mut Role, ports: &mut Ports) -> Ended {
    let now = (ports.clock)();
    ports.status.send_modify(|status| status.enter(SessionState::Connect, now));
    let connected = tokio::select! {
        _ = ports.stop.wait_for(|stop| *stop) => Err(SessionFault::Stopped),
        connected = socket::connect(config) => connected,
    };
    match connected {
        Ok(stream) => converse(stream, config, role, ports).await,
        Err(fault) => Ended { fault, up: None, confirmed: true },
    }
}

/// Tells the log and the decision that the session is down.
async fn report(config: &SessionConfig, fault: &SessionFault, up: Option<Duration>, ports: &mut Ports) {
    let up_s = up.unwrap_or_default().as_secs();
    if *fault == SessionFault::Stopped {
        tracing::info!(peer = %config.name, up_s, "session stopped");
    } else {
        tracing::warn!(peer = %config.name, up_s, permanent = fault.is_permanent(), "session down: {fault}");
    }
    let change = SessionChange::Down { reason: fault.to_string() };
    let down = Input::Session(SessionEvent { peer: config.peer, change });
    // The decision may be gone, or too busy to hear us out while everything stops.
    tokio::select! {
        biased;
        sent = ports.inputs.send(down) => drop(sent),
        _ = ports.stop.wait_for(|stop| *stop) => {}
    }
}
