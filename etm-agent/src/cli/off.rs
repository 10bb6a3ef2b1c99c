//! `etm off`: the agent is asked, its guardian is told, and where the agent does not answer what it left in the kernel is
//! taken away by its pins. Never waits for an agent that hangs, and never says more than it has seen.

use super::client::{Ask, json};
use crate::control::schema::{GuardianState, Ordered, Status};
use crate::control::{self, ClientError};
use crate::runtime::{self, AgentError};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long peers may keep what an agent that obeyed had announced before that is an error.
const WITHDRAWN: Duration = Duration::from_millis(1500);
/// Pause between two looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// Where everything is, for when the agent cannot be asked.
pub(super) struct Places<'a> {
    pub(super) guardian: &'a Path,
    pub(super) pin_root: &'a Path,
    /// Protocol of ETM's routes, which in mode main are in the main table.
    pub(super) protocol: u8,
}

/// What `off` did without an agent.
#[derive(Serialize)]
struct Forced {
    state: &'static str,
    forced: bool,
    agent: String,
    kernel: String,
    announcements: String,
}

/// The guardian is told in any case, and at once: it withdraws whatever the agent is doing.
pub(super) async fn off(ask: &Ask<'_>, places: &Places<'_>, force: bool) -> Result<String, ClientError> {
    let agent = async {
        if force {
            return Err("it was not asked (--force)".to_owned());
        }
        control::order::<Ordered>(ask.socket, "/v1/off").await.map_err(|error| error.to_string())
    };
    let (asked, told) = tokio::join!(agent, runtime::withdraw_by_guardian(places.guardian));
    match (asked, told) {
        (Ok(answer), Ok(_)) => ask.show_ordered(&answer),
        (Ok(answer), Err(error)) => {
            // Who may order the agent may not speak to the guardian as well: the agent tells it, and sees what it does.
            if withdrawn(ask.socket).await {
                return ask.show_ordered(&answer);
            }
            let (ended, guardian) = (answer.ended, places.guardian.display());
            Err(refused(format!(
                "the agent is off and ended {ended} overrides, but the guardian ({guardian}) does not obey: what it \
                 announced stays until its lease or the peers' hold time ends; end its process to withdraw at once: \
                 {error}"
            )))
        }
        // Whatever keeps the agent from carrying it out: the kernel's switch needs no agent.
        (Err(agent), told) => by_pins(places, agent, told, ask.json).await,
    }
}

/// True once the agent sees that its guardian holds nothing.
async fn withdrawn(socket: &Path) -> bool {
    let deadline = Instant::now() + WITHDRAWN;
    loop {
        let quiet = match control::get::<Status>(socket, "/v1/status").await {
            Ok(status) => status
                .guardian
                .is_none_or(|guardian| guardian.held == 0 && guardian.state != GuardianState::Silent),
            Err(_) => false,
        };
        if quiet || Instant::now() >= deadline {
            return quiet;
        }
        sleep(LOOK).await;
    }
}

/// What was found and done without the agent.
struct Account {
    agent: String,
    kernel: String,
    announcements: String,
    /// Nothing that may act is left.
    done: bool,
    /// Something of ETM was found.
    found: bool,
}

impl Account {
    fn lines(&self) -> String {
        let Account { agent, kernel, announcements, .. } = self;
        format!("  agent: {agent}\n  kernel: {kernel}\n  announcements: {announcements}")
    }
}

/// Turns the switch in the kernel by its pin and takes routes out of the main table: works when the agent is hung or gone.
async fn by_pins(
    places: &Places<'_>,
    agent: String,
    told: Result<bool, AgentError>,
    as_json: bool,
) -> Result<String, ClientError> {
    let mut account =
        Account { agent, kernel: String::new(), announcements: String::new(), done: true, found: false };
    announcements(&mut account, places.guardian, told);
    switch(&mut account, places.pin_root);
    main_table(&mut account, places.protocol).await;
    let lines = account.lines();
    match account {
        Account { found: false, .. } => Err(ClientError::Nowhere {
            account: format!("nothing of ETM was found to be switched off\n{lines}"),
        }),
        Account { done: false, .. } => Err(refused(format!("not everything is known to be off\n{lines}"))),
        Account { agent, kernel, announcements, .. } if as_json => {
            json(&Forced { state: "off", forced: true, agent, kernel, announcements })
        }
        _ => Ok(format!("off, without the agent\n{lines}\n")),
    }
}

fn announcements(account: &mut Account, guardian: &Path, told: Result<bool, AgentError>) {
    let guardian = guardian.display();
    account.announcements = match told {
        Ok(true) => {
            account.found = true;
            format!("withdrawn by the guardian ({guardian})")
        }
        Ok(false) => {
            format!(
                "no guardian answers on {guardian}: none are made, or this is not its socket (--guardian)"
            )
        }
        Err(error) => {
            (account.found, account.done) = (true, false);
            let until = "they stay until its lease or the peers' hold time ends";
            format!("the guardian ({guardian}) does not obey, {until}: {error}")
        }
    };
}

fn switch(account: &mut Account, pin_root: &Path) {
    let shown = pin_root.display();
    account.kernel = match runtime::switch_off(pin_root) {
        Ok(true) => {
            account.found = true;
            format!("the switch in {shown} is off: every marked packet takes plain routing")
        }
        Ok(false) => {
            account.done = false;
            format!("nothing of ETM is pinned in {shown}: an agent with other pins goes on (--pin-root)")
        }
        Err(error) => {
            (account.found, account.done) = (true, false);
            format!("the switch in {shown} cannot be turned: {error}")
        }
    };
}

async fn main_table(account: &mut Account, protocol: u8) {
    match runtime::clear_main(protocol).await {
        Ok(0) => {}
        Ok(routes) => {
            account.found = true;
            account.kernel += &format!("; {routes} routes of protocol {protocol} removed from table main");
        }
        Err(error) => {
            account.done = false;
            account.kernel +=
                &format!("; routes of protocol {protocol} in table main, if any, stay: {error}");
        }
    }
}

fn refused(error: String) -> ClientError {
    ClientError::Refused { error }
}
