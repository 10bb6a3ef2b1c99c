//! What operators ordered and what must outlive the agent, in one small file that is replaced whole.
//! Never decides what holds: it is read once at the start, and written whenever an order changed it.

use super::clock::boottime;
use super::error::AgentError;
use crate::config::Settings;
use crate::core::controls::{Drain, Leak, Standing};
use crate::core::policy::{Mode, Policy};
use crate::types::{ProviderId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Of the form below.
const VERSION: u32 = 1;

/// Readable for owner and group, like the control socket.
const FILE_MODE: u32 = 0o640;

/// The file's content. Times are of the wall clock, for the clock of everything else begins anew with each boot.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    /// Mode of the configuration when the order was given: when it names another one, that is the newer word.
    configured: Mode,
    mode: Option<Mode>,
    drains: Vec<KeptDrain>,
    leak: Option<KeptLeak>,
    /// Absent in what earlier builds wrote, which left it to the kernel's switch.
    #[serde(default)]
    off: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptDrain {
    provider: String,
    since_unix_s: u64,
    until_unix_s: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptLeak {
    at_unix_s: u64,
    what: String,
}

/// Both clocks at one moment.
#[derive(Clone, Copy)]
struct Clocks {
    boot: Timestamp,
    wall: Duration,
}

impl Clocks {
    fn now() -> Clocks {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clocks { boot: boottime(), wall }
    }

    fn wall_s(self, at: Timestamp) -> u64 {
        let ahead = at.since(self.boot);
        let behind = self.boot.since(at);
        // To the nearest second, or a time read back would creep.
        (self.wall + ahead + Duration::from_millis(500)).saturating_sub(behind).as_secs()
    }

    fn boot_at(self, unix_s: u64) -> Timestamp {
        let wall = Duration::from_secs(unix_s);
        let ahead = wall.saturating_sub(self.wall);
        let behind = u64::try_from(self.wall.saturating_sub(wall).as_nanos()).unwrap_or(u64::MAX);
        Timestamp((self.boot + ahead).0.saturating_sub(behind))
    }
}

/// What an earlier run left, and the settings with its mode in force.
pub(super) fn take_up(settings: &Settings) -> Result<(Settings, Standing), AgentError> {
    let mut settings = settings.clone();
    let file = &settings.agent.orders_file;
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((settings, Standing::default())),
        Err(source) => return Err(AgentError::Orders { file: file.clone(), reason: source.to_string() }),
    };
    let refused = |reason: String| AgentError::Orders { file: file.clone(), reason };
    let kept: Kept = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
    if kept.version != VERSION {
        return Err(refused(format!("it has version {}, this build writes {VERSION}", kept.version)));
    }
    let standing = standing(kept, &settings.policy, Clocks::now());
    if let Some(mode) = standing.mode {
        tracing::warn!(mode = mode.as_str(), "an operator ordered this mode in an earlier run");
        settings.policy.mode = mode;
    }
    if standing.off {
        tracing::warn!("switched off in an earlier run: stays so until `etm on`");
    }
    for provider in standing.drains.keys() {
        let name =
            settings.policy.providers.get(provider.index()).map_or("", |provider| provider.name.as_str());
        tracing::warn!(provider = name, "still drained by order of an earlier run");
    }
    Ok((settings, standing))
}

fn standing(kept: Kept, policy: &Policy, clocks: Clocks) -> Standing {
    let provider = |name: &str| {
        let at = policy.providers.iter().position(|provider| provider.name == name)?;
        u16::try_from(at).ok().map(ProviderId)
    };
    let drains = kept.drains.iter().filter_map(|drain| {
        let until = drain.until_unix_s.map(|until| clocks.boot_at(until));
        Some((provider(&drain.provider)?, Drain { since: clocks.boot_at(drain.since_unix_s), until }))
    });
    Standing {
        mode: kept.mode.filter(|_| kept.configured == policy.mode),
        drains: drains.collect(),
        leak: kept.leak.map(|leak| Leak { at: clocks.boot_at(leak.at_unix_s), what: leak.what }),
        off: kept.off,
    }
}

/// The file and what is needed to write it.
#[derive(Clone, Debug)]
pub(super) struct OrdersFile {
    path: PathBuf,
    configured: Mode,
    providers: Vec<String>,
}

impl OrdersFile {
    /// `settings` as configured, before an earlier run's mode is taken up.
    pub(super) fn of(settings: &Settings) -> OrdersFile {
        OrdersFile {
            path: settings.agent.orders_file.clone(),
            configured: settings.policy.mode,
            providers: settings.policy.providers.iter().map(|provider| provider.name.clone()).collect(),
        }
    }

    /// Writes what holds; a reader sees either this or what was there before.
    pub(super) fn write(&self, standing: &Standing) -> io::Result<()> {
        let clocks = Clocks::now();
        let drains = standing.drains.iter().filter_map(|(provider, drain)| {
            Some(KeptDrain {
                provider: self.providers.get(provider.index())?.clone(),
                since_unix_s: clocks.wall_s(drain.since),
                until_unix_s: drain.until.map(|until| clocks.wall_s(until)),
            })
        });
        let kept = Kept {
            version: VERSION,
            configured: self.configured,
            mode: standing.mode,
            drains: drains.collect(),
            leak: standing
                .leak
                .as_ref()
                .map(|leak| KeptLeak { at_unix_s: clocks.wall_s(leak.at), what: leak.what.clone() }),
            off: standing.off,
        };
        let text = serde_json::to_string_pretty(&kept).map_err(io::Error::other)?;
        replace(&self.path, text.as_bytes())
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let beside = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn settings(directory: &Path, mode: &str) -> Settings {
        let text = format!(
            "[agent]\nmode = \"{mode}\"\norders_file = \"{}\"\n[kernel]\ninside = [\"in0\"]\n\
             [[interface]]\nname = \"up-a\"\ncapacity = \"50Mbit\"\n\
             [[provider]]\nname = \"transit-a\"\nexits = [{{ interface = \"up-a\", gateways = [\"10.1.0.1\"] }}]\n\
             [[static_route]]\nprefix = \"198.18.0.0/24\"\nexit = \"transit-a\"\n",
            directory.join("state/orders.json").display()
        );
        config::parse("test", &text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn full() -> Standing {
        let now = boottime();
        let drain = Drain { since: now, until: Some(now + Duration::from_secs(600)) };
        Standing {
            mode: Some(Mode::Enforce),
            drains: [(ProviderId(0), drain)].into(),
            leak: Some(Leak { at: now, what: "test".to_owned() }),
            off: true,
        }
    }

    #[test]
    fn what_was_written_holds_after_a_restart_with_times_to_the_second() {
        let directory = tempfile::tempdir().unwrap();
        let configured = settings(directory.path(), "observe");
        assert_eq!(take_up(&configured).unwrap().1, Standing::default(), "nothing was ordered yet");
        let standing = full();
        OrdersFile::of(&configured).write(&standing).unwrap();
        OrdersFile::of(&configured).write(&standing).unwrap();
        let (settings, read) = take_up(&configured).unwrap();
        assert_eq!((settings.policy.mode, read.mode), (Mode::Enforce, Some(Mode::Enforce)));
        let (was, is) = (standing.drains[&ProviderId(0)], read.drains[&ProviderId(0)]);
        let off = is.until.unwrap().since(was.until.unwrap()) + was.until.unwrap().since(is.until.unwrap());
        assert!(off <= Duration::from_secs(1), "{off:?}");
        assert_eq!(read.leak.map(|leak| leak.what), Some("test".to_owned()));
        assert!(read.off, "off until somebody says `on`");
    }

    #[test]
    fn a_configuration_that_names_another_mode_since_is_the_newer_word() {
        let directory = tempfile::tempdir().unwrap();
        OrdersFile::of(&settings(directory.path(), "observe")).write(&full()).unwrap();
        let (taken, standing) = take_up(&settings(directory.path(), "approve")).unwrap();
        assert_eq!((taken.policy.mode, standing.mode), (Mode::Approve, None));
        assert_eq!(standing.drains.len(), 1);
    }

    #[test]
    fn a_file_that_is_none_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let configured = settings(directory.path(), "observe");
        fs::create_dir_all(directory.path().join("state")).unwrap();
        for text in ["", "{}", "{\"version\": 9, \"configured\": \"observe\", \"drains\": []}", "nonsense"] {
            fs::write(&configured.agent.orders_file, text).unwrap();
            let error = take_up(&configured).expect_err(text).to_string();
            assert!(error.contains("orders.json") && error.contains("remove it"), "{error}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error_and_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let configured = settings(directory.path(), "observe");
        fs::write(directory.path().join("state"), "a file").unwrap();
        assert!(OrdersFile::of(&configured).write(&full()).is_err());
    }
}
