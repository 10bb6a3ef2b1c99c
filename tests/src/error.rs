//! What can go wrong in the lab. Never an assertion: those belong to the tests.

use std::io;
use std::time::Duration;

/// A step of the lab that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program the lab runs is not installed.
    #[error("cannot find {program}: install it (Debian package {package}), or run `cargo xtask setup`")]
    Missing {
        /// Name of the program.
        program: String,
        /// Debian package that holds it.
        package: &'static str,
    },
    /// A binary of this workspace is not beside the running one.
    #[error("cannot find {name} beside this program: build it (`cargo build -p {package}`)")]
    NotBuilt {
        /// Name of the binary.
        name: String,
        /// Package that builds it.
        package: &'static str,
    },
    /// The operating system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done, as an infinitive.
        what: String,
        /// The refusal.
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("cannot {what}: {program} ended with {status}: {stderr}")]
    Command {
        /// What was being done, as an infinitive.
        what: String,
        /// Program run.
        program: String,
        /// Its exit status.
        status: String,
        /// Its standard error.
        stderr: String,
    },
    /// A bench made an instance that the solver refuses.
    #[error("cannot make an instance for the solver bench: {source}")]
    Instance {
        /// Why it is refused.
        source: etm_agent::core::plan::model::ModelError,
    },
    /// The agent's routing adapter failed in a bench.
    #[error("cannot converge in the fib bench: {source}")]
    Fib {
        /// What the adapter says.
        source: etm_agent::fib::FibError,
    },
    /// A condition did not become true in time.
    #[error("waited {waited:.1?} in vain for {what}; last seen: {last}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was polled.
        waited: Duration,
        /// The last observation.
        last: String,
    },
    /// BIRD refused a command.
    #[error("bird refused {request:?}: {code} {text}")]
    Bird {
        /// Command sent.
        request: String,
        /// BIRD's reply code (8xxx, 9xxx).
        code: u16,
        /// BIRD's text.
        text: String,
    },
    /// What was read does not have the expected shape.
    #[error("cannot understand {what}: {detail}")]
    Malformed {
        /// The thing read.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The name of the lab is in use.
    #[error("lab {id} exists already: choose another name, or remove it by `etm-lab lab down --name {id}`")]
    Exists {
        /// Lab id.
        id: String,
    },
    /// No such lab.
    #[error("there is no lab {id}: `etm-lab lab status` lists them, `etm-lab lab up --name {id}` makes it")]
    NoSuchLab {
        /// Lab id.
        id: String,
    },
    /// The name cannot be used.
    #[error("lab name {id:?} is not usable: take 1 to 12 of a-z and 0-9")]
    BadName {
        /// Name given.
        id: String,
    },
    /// Namespaces need root.
    #[error("the lab makes network namespaces and needs root: run it as root (sudo -E)")]
    NotRoot,
    /// ETM answered a request with an error.
    #[error("etm answered {status} to {request}: {body}")]
    Agent {
        /// Method and path.
        request: String,
        /// HTTP status.
        status: u16,
        /// Body of the answer.
        body: String,
    },
    /// ETM's daemon ended by itself.
    #[error("etm-agent ended with {status} before it was asked to: {log}")]
    AgentDied {
        /// Its exit status.
        status: String,
        /// End of its log.
        log: String,
    },
    /// Something failed while ETM ran; its log may say why.
    #[error("{error}; etm-agent said last:\n{log}")]
    WithLog {
        /// What failed.
        error: Box<LabError>,
        /// End of its log.
        log: String,
    },
}

impl LabError {
    /// Adapter for `map_err` on [`io::Error`].
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Adapter for `map_err` on [`nix::errno::Errno`].
    pub fn errno(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let what = what.into();
        move |errno| Self::Io { what, source: errno.into() }
    }
}
