//! Which privileges agent and guardian keep, and how that is shown. Never keeps one for convenience.

use super::error::AgentError;
use super::lock;
use super::sessions;
use crate::config::{ControlSettings, KernelMode, Settings};
use crate::control::schema::PrivilegesView;
use crate::control::{Grantee, Grants};
use crate::privileges::{self, Capability, Held, Keep};
use std::path::Path;

/// What the agent works with: maps, hooks, routes and rules, and arrays that are not rounded up.
const AGENT: [Capability; 3] = [Capability::NetAdmin, Capability::Bpf, Capability::Perfmon];

/// Becomes the agent's user, where one is configured, and drops what the agent does not need.
pub(super) fn settle_agent(settings: &Settings) -> Result<Held, AgentError> {
    if let Some(user) = &settings.agent.user {
        let parent = |path: &Path| path.parent().map(Path::to_path_buf).unwrap_or_default();
        let control = parent(&settings.agent.control_socket);
        let guardian = parent(&settings.guardian.socket);
        let owned = [settings.datapath.pin_root.as_path()];
        let orders = parent(&settings.agent.orders_file);
        let locks = Path::new(lock::DIRECTORY);
        let made = [
            control.as_path(),
            guardian.as_path(),
            orders.as_path(),
            settings.record.directory.as_path(),
            locks,
        ];
        privileges::become_user(user, &owned, &made)?;
    }
    let mut own = AGENT.to_vec();
    let guardian = guardian(settings);
    let listens = guardian.contains(&Capability::BindService) || sessions::agent_listens_low(settings);
    own.extend(listens.then_some(Capability::BindService));
    let pass_on: &[Capability] = if settings.guardian.start { &guardian } else { &[] };
    let held = privileges::narrow(Keep { own: &own, pass_on })?;
    say(&held);
    Ok(held)
}

/// Becomes the agent's user, or the two could not speak to each other, and drops what a guardian does not need.
pub(super) fn settle_guardian(settings: &Settings) -> Result<Held, AgentError> {
    if let Some(user) = &settings.agent.user {
        let made = settings.guardian.socket.parent().unwrap_or(Path::new("/"));
        privileges::become_user(user, &[], &[made])?;
    }
    let held = privileges::narrow(Keep { own: &guardian(settings), pass_on: &[] })?;
    say(&held);
    Ok(held)
}

/// Who may use the control socket, by number: names are looked up once, at the start.
pub(super) fn grants(settings: &Settings) -> Result<Grants, AgentError> {
    let all = |list: &[String]| list.iter().map(|text| grantee(text)).collect::<Result<Vec<_>, _>>();
    let ControlSettings { read, write } = &settings.control;
    Ok(Grants { own: privileges::look()?.uid, read: all(read)?, write: all(write)? })
}

fn grantee(text: &str) -> Result<Grantee, AgentError> {
    let unknown = || AgentError::NoSuchClient { name: text.to_owned() };
    let Some(name) = text.strip_prefix('@') else {
        return privileges::user_id(text).map(Grantee::User).ok_or_else(unknown);
    };
    let (gid, members) = privileges::group(name).ok_or_else(unknown)?;
    let members = members.iter().filter_map(|member| privileges::user_id(member)).collect();
    Ok(Grantee::Group { gid, members })
}

/// What a guardian needs: usually nothing. Its sessions connect from ordinary ports, and TCP MD5 signatures need no privilege;
/// one may wait for its peer on a low port, and in mode main ETM's routes are to be removed.
fn guardian(settings: &Settings) -> Vec<Capability> {
    let mut needed = Vec::new();
    needed.extend(sessions::guardian_listens_low(settings).then_some(Capability::BindService));
    needed.extend((settings.kernel.mode == KernelMode::Main).then_some(Capability::NetAdmin));
    needed
}

fn say(held: &Held) {
    tracing::info!(
        uid = held.uid,
        user = held.user.as_deref().unwrap_or("-"),
        capabilities = held.capabilities.join(" "),
        bounding = held.bounding.join(" "),
        no_new_privileges = held.no_new_privileges,
        root_is_nobody = held.root_is_nobody,
        "privileges"
    );
}

/// As `etm status` shows it.
pub(super) fn view(held: &Held) -> PrivilegesView {
    PrivilegesView {
        uid: held.uid,
        user: held.user.clone(),
        capabilities: held.capabilities.clone(),
        bounding: held.bounding.clone(),
        no_new_privileges: held.no_new_privileges,
        root_is_nobody: held.root_is_nobody,
    }
}
