//! Text of the configuration file becomes validated settings, or a report with line and caret.
//! Never opens a file, never resolves a name, never looks at the machine: that is the runtime's.

mod billing;
mod bmp;
mod border;
mod guardian;
mod guards;
mod meant;
pub mod offline;
mod prices;
mod raw;
mod record;
mod report;
mod routes;
mod session;
mod settings;
mod validate;

pub use report::ConfigError;
pub use settings::{
    AgentSettings, BeyondSettings, BgpSettings, BmpPeerSettings, BmpRouterSettings, BmpSettings,
    ControlSettings, DatapathSettings, GuardianSettings, HookChoice, ImportSettings, KernelMode,
    KernelSettings, KeySettings, MaxRoutesSettings, ReachSettings, RecordSettings, SessionSettings, Settings,
    TransportSettings,
};

/// The documented configuration: every key with its default, commented out where it is optional.
pub const EXAMPLE: &str = include_str!("../../../deploy/etm.toml.example");

/// Reads a configuration. `name` is what the report calls the text: usually the file's path.
pub fn parse(name: &str, text: &str) -> Result<Settings, ConfigError> {
    let raw: raw::Raw = toml::from_str(text).map_err(|error| ConfigError::syntax(name, text, &error))?;
    validate::settings(&raw).map_err(|faults| ConfigError::semantic(name, text, &faults))
}

#[cfg(test)]
mod tests;
