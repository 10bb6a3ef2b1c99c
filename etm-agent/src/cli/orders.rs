//! `etm mode` and `etm provider`: orders that outlive the agent, and what was ordered. Never carries one out itself.

use super::replay::Moment;
use crate::control::schema::Commanded;
use crate::control::{self, ClientError};
use crate::core::view::{Mode, OrdersView};
use crate::types::{Timestamp, parse_duration};
use clap::{Subcommand, ValueEnum};
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a mode is called on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeWord {
    /// Compute and show everything, change nothing.
    Observe,
    /// Queue each change for a person.
    Approve,
    /// Act.
    Enforce,
    /// Keep the mode that is on trial.
    Confirm,
}

/// What to do about a provider.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum ProviderCommand {
    /// Place nothing there any more, and move away what is there as far as others have room.
    Drain {
        /// Its name.
        provider: String,
        /// Ends by itself: after `2h`, or at 2026-11-23T11:30:00Z.
        #[arg(long, value_name = "TIME")]
        until: Option<Moment>,
    },
    /// Use it again.
    Undrain {
        /// Its name.
        provider: String,
    },
}

/// A span such as `5m`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// Orders a mode, or confirms it.
pub(super) async fn mode(
    socket: &Path,
    word: ModeWord,
    confirm: Option<Duration>,
) -> Result<Commanded, ClientError> {
    let mode = match word {
        ModeWord::Confirm if confirm.is_some() => {
            return Err(ClientError::Refused { error: "`etm mode confirm` takes no --confirm".to_owned() });
        }
        ModeWord::Confirm => return control::command(socket, "/v1/mode/confirm").await,
        ModeWord::Observe => Mode::Observe,
        ModeWord::Approve => Mode::Approve,
        ModeWord::Enforce => Mode::Enforce,
    };
    let span = confirm.map_or_else(String::new, |span| format!("&confirm_s={}", span.as_secs()));
    control::command(socket, &format!("/v1/mode?mode={}{span}", mode.as_str())).await
}

/// Drains a provider, or uses it again.
pub(super) async fn provider(socket: &Path, command: &ProviderCommand) -> Result<Commanded, ClientError> {
    match command {
        ProviderCommand::Drain { provider, until } => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            let left = until.map(|until| until.wall_ns(now_ns).saturating_sub(now_ns) / 1_000_000_000);
            if left == Some(0) {
                return Err(ClientError::Refused { error: "that time is over already".to_owned() });
            }
            let span = left.map_or_else(String::new, |seconds| format!("&for_s={seconds}"));
            let name = super::client::escaped(provider);
            control::command(socket, &format!("/v1/drain?provider={name}{span}")).await
        }
        ProviderCommand::Undrain { provider } => {
            let name = super::client::escaped(provider);
            control::command(socket, &format!("/v1/undrain?provider={name}")).await
        }
    }
}

/// An answer in words.
pub(super) fn commanded(answer: &Commanded) -> String {
    let mut text = format!("mode {}, {}\n", answer.mode.as_str(), answer.state.as_str());
    text += &orders(&answer.orders, answer.at_ns);
    if let Some(why) = &answer.not_kept {
        let _ = writeln!(text, "  but a restart of the agent would forget this: {why}");
    }
    text
}

/// What operators ordered, in words; nothing where they did not.
pub(super) fn orders(orders: &OrdersView, now: Timestamp) -> String {
    let mut text = String::new();
    if let (Some(until), Some(back)) = (orders.mode_until_ns, orders.mode_back) {
        let left = until.since(now).as_secs();
        let _ = writeln!(text, "  mode {} again in {left} s unless `etm mode confirm`", back.as_str());
    }
    for drain in &orders.drains {
        let until = drain.until_ns.map_or_else(
            || "until it is undrained".to_owned(),
            |until| format!("for {} s more", until.since(now).as_secs()),
        );
        let _ = writeln!(
            text,
            "  {} is drained {until}; {} prefixes with {} are still there",
            drain.provider, drain.left, drain.left_bps
        );
    }
    if let Some(leak) = &orders.leak {
        let _ = writeln!(text, "  LEAK: {leak}; everything is withdrawn until `etm on`");
    }
    text
}
