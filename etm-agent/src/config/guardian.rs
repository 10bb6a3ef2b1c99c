//! The tables of the two processes, `agent` and `guardian`, and of who may talk to the agent, `control`. Never looks whether one of them runs.

use super::guards::orders_file;
use super::raw;
use super::settings::{AgentSettings, ControlSettings, GuardianSettings};
use super::validate::{Check, path};
use std::path::{Path, PathBuf};
use std::time::Duration;

impl Check {
    /// Without what is the decision's: mode and times.
    pub(super) fn agent(&mut self, raw: &raw::Agent) -> AgentSettings {
        if let Some(text) = &raw.control_socket {
            self.socket_path(text, "the control");
        }
        let startup_timeout = self.duration(raw.startup_timeout.as_ref(), Duration::from_secs(30));
        if let Some(text) = raw.startup_timeout.as_ref().filter(|_| startup_timeout < Duration::from_secs(1))
        {
            self.fault(text.span(), "no session comes up in less than a second; give it at least 1s");
        }
        let control_socket = raw.control_socket.as_ref().map(|text| text.get_ref().as_str());
        AgentSettings {
            control_socket: path(control_socket, "/run/etm/etm.sock"),
            user: raw.user.as_ref().map(|user| user.get_ref().clone()),
            orders_file: orders_file(self, raw.orders_file.as_ref()),
            startup_timeout,
            bird_socket: raw.bird_socket.as_ref().map(PathBuf::from),
        }
    }

    pub(super) fn control(&mut self, raw: &raw::Control) -> ControlSettings {
        let mut names = |list: &[raw::Text]| -> Vec<String> {
            for text in list.iter().filter(|text| text.get_ref().trim_start_matches('@').is_empty()) {
                self.fault(text.span(), "a user is written as its name, a group as @NAME");
            }
            list.iter().map(|text| text.get_ref().clone()).collect()
        };
        ControlSettings { read: names(&raw.read), write: names(&raw.write) }
    }

    pub(super) fn guardian(&mut self, raw: &raw::Guardian, control_socket: &Path) -> GuardianSettings {
        let adopt = self.duration(raw.adopt.as_ref(), Duration::from_secs(30));
        if let Some(text) = raw.adopt.as_ref().filter(|_| adopt > Duration::from_secs(300)) {
            self.fault(text.span(), "announcements without a decision may live on for at most 300s");
        }
        if let Some(text) = &raw.socket {
            self.socket_path(text, "the guardian's");
            if Path::new(text.get_ref()) == control_socket {
                self.fault(
                    text.span(),
                    "this is agent.control_socket: each process needs a socket of its own",
                );
            }
        }
        let given = raw.socket.as_ref().map(|text| PathBuf::from(text.get_ref()));
        GuardianSettings {
            socket: given.unwrap_or_else(|| control_socket.with_file_name("guardian.sock")),
            start: raw.start.unwrap_or(true),
            kill_hung: raw.kill_hung.unwrap_or(true),
            adopt,
        }
    }
}
