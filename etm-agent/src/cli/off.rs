//! `etm off`: the agent is asked, its guardian is told, and where the agent does not answer the kernel's switch is turned
//! by its pin. Never waits for an agent that hangs.

use super::client::{Ask, json};
use crate::control::ClientError;
use crate::runtime;
use serde::Serialize;
use std::path::Path;

/// What `off` did without an agent.
#[derive(Serialize)]
struct Forced {
    state: &'static str,
    forced: bool,
    agent: String,
    announcements: String,
}

/// The guardian is told in any case, and at once: it withdraws whatever the agent is doing.
pub(super) async fn off(
    ask: &Ask<'_>,
    guardian: &Path,
    force: bool,
    pin_root: &Path,
) -> Result<String, ClientError> {
    let agent = async {
        if force {
            return Err(ClientError::Refused { error: "the agent was not asked".to_owned() });
        }
        ask.order("/v1/off").await
    };
    let (asked, withdrawn) = tokio::join!(agent, runtime::withdraw_by_guardian(guardian));
    // Whatever keeps the agent from carrying it out: the kernel's switch needs no agent.
    asked.or_else(|error| {
        let announcements = match &withdrawn {
            Ok(true) => "the guardian has withdrawn all announcements".to_owned(),
            Ok(false) => format!(
                "no guardian answers on {}: nothing is announced, or this is not its socket (--guardian)",
                guardian.display()
            ),
            Err(error) => {
                format!("the guardian does not obey, its announcements end with the lease: {error}")
            }
        };
        switch_off(pin_root, withdrawn.is_ok_and(|told| told), announcements, error, ask.json)
    })
}

/// Turns the switch in the kernel by its pin: works when the agent is hung or gone.
fn switch_off(
    pin_root: &Path,
    withdrawn: bool,
    announcements: String,
    agent: ClientError,
    as_json: bool,
) -> Result<String, ClientError> {
    let refused = |error: String| ClientError::Refused { error };
    match runtime::switch_off(pin_root) {
        // Nothing pinned means that nothing is marked, but also that this may be the wrong directory.
        Ok(false) if !withdrawn => Err(agent),
        Ok(_) if as_json => {
            json(&Forced { state: "off", forced: true, agent: agent.to_string(), announcements })
        }
        Ok(pinned) => {
            let kernel = if pinned {
                "the kernel's switch is off: every packet takes plain routing now"
            } else {
                "nothing of ETM is pinned there: no packet is marked"
            };
            Ok(format!("{kernel}\n{announcements}\nbut {agent}\n"))
        }
        Err(error) => Err(refused(format!(
            "{agent}; {announcements}; and the kernel's switch cannot be turned: {error}"
        ))),
    }
}
