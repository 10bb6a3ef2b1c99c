//! What ETM says of itself, read from its control socket. The only place that knows the names there.
//! *Never*: proof of what ETM did to packets, routes or peers; that is measured outside of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::agent::Agent;
use crate::error::LabError;
use crate::table::Table;

/// One entry of ETM's decision log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Event {
    /// Number, from 1.
    pub seq: u64,
    /// Boot time in nanoseconds.
    pub at_ns: u64,
    /// What happened: `overloaded`, `override-added`, ...
    pub kind: String,
    /// As a sentence.
    pub text: String,
    /// Everything else.
    #[serde(flatten)]
    pub body: BTreeMap<String, Value>,
}

/// An override.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Override {
    /// Destination.
    pub prefix: IpNet,
    /// Exit of plain routing.
    pub from: String,
    /// Exit of the override.
    pub to: String,
    /// Interface of that exit.
    pub interface: String,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// False in observe mode.
    pub enforced: bool,
    /// The kernel's refusal.
    pub refused: Option<String>,
}

/// Worst of all conservation windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Conservation {
    /// Bytes, windows without drops, parts per million.
    pub byte_error_ppm: u64,
    /// Packets, drops and backlog included.
    pub packet_error: u64,
    /// Windows finished.
    pub windows: u64,
    /// Of these, with drops.
    pub lossy: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of these, on a device whose account cannot be compared.
    pub unchecked: u64,
}

/// The books of an uplink.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct UplinkBooks {
    /// Interface.
    pub name: String,
    /// State of the last window.
    pub book: String,
    /// `qdisc` or `device`.
    pub basis: String,
    /// Worst of all windows.
    pub worst: Conservation,
    /// Offered in the last interval.
    pub offered_bps: u64,
    /// On what basis.
    pub billing: String,
    /// Counted for prefixes, cumulative.
    pub counted: Sum,
}

/// Bytes and packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Sum {
    /// Wire length.
    pub bytes: u64,
    /// Segments.
    pub packets: u64,
}

/// Bytes and packets by (prefix, interface).
pub type Counted = BTreeMap<(IpNet, String), (u64, u64)>;

impl Agent {
    /// Entries of the decision log after `seq`.
    ///
    /// # Errors
    /// No answer, or not of this form; likewise below.
    pub fn events(&self, since: u64) -> Result<Vec<Event>, LabError> {
        field(self.get(&format!("/v1/events?since={since}"))?, "events")
    }

    /// Overrides, planned or in effect.
    ///
    /// # Errors
    /// See [`Self::events`].
    pub fn overrides(&self) -> Result<Vec<Override>, LabError> {
        field(self.get("/v1/overrides")?, "overrides")
    }

    /// Conservation as ETM's books say.
    ///
    /// # Errors
    /// See [`Self::events`].
    pub fn conservation(&self) -> Result<Conservation, LabError> {
        field(self.get("/v1/status")?, "conservation")
    }

    /// The books of each uplink, in order of configuration.
    ///
    /// # Errors
    /// See [`Self::events`].
    pub fn books(&self) -> Result<Vec<UplinkBooks>, LabError> {
        field(self.get("/v1/providers")?, "uplinks")
    }

    /// What the agent is doing: `off`, `warm-up`, `frozen`, `observing`, `steering`.
    ///
    /// # Errors
    /// See [`Self::events`].
    pub fn state(&self) -> Result<String, LabError> {
        field(self.get("/v1/status")?, "state")
    }

    /// Packets of inside interfaces that were sent to ETM's table.
    ///
    /// # Errors
    /// See [`Self::events`].
    pub fn packets_marked(&self) -> Result<u64, LabError> {
        field(self.get("/v1/status")?["agent"].take(), "packets_marked")
    }

    /// What was counted per prefix and uplink, without empty entries.
    ///
    /// # Errors
    /// See [`Self::events`].
    pub fn counted(&self) -> Result<Counted, LabError> {
        let rows: Vec<PrefixRow> = field(self.get("/v1/prefixes?top=1000000")?, "prefixes")?;
        let counts = rows.into_iter().flat_map(|row| {
            let prefix = row.prefix;
            row.uplinks.into_iter().map(move |u| ((prefix, u.uplink), (u.bytes, u.packets)))
        });
        Ok(counts.filter(|(_, (_, packets))| *packets > 0).collect())
    }

    /// Whether it may act: it knows every route of `table`, its sessions are up and nothing holds it.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn ready(&self, table: &Table) -> Result<(), String> {
        let status = self.get("/v1/status").map_err(|error| error.to_string())?;
        let sessions = status["sessions"].as_array().cloned().unwrap_or_default();
        let up = !sessions.is_empty()
            && sessions.iter().all(|s| s["up"] == true && (s["role"] == "inject" || s["complete"] == true));
        let prefixes = status["prefixes"].as_u64() == Some(table.announcements.len() as u64);
        let deciding = ["steering", "observing", "approving"].iter().any(|state| status["state"] == *state);
        if up && prefixes && deciding {
            return Ok(());
        }
        Err(format!(
            "state {}, holds {}, {} of {} prefixes, sessions {}",
            status["state"],
            status["holds"],
            status["prefixes"],
            table.announcements.len(),
            Value::Array(sessions)
        ))
    }
}

#[derive(Deserialize)]
struct PrefixRow {
    prefix: IpNet,
    uplinks: Vec<UplinkRow>,
}

#[derive(Deserialize)]
struct UplinkRow {
    uplink: String,
    bytes: u64,
    packets: u64,
}

fn field<T: DeserializeOwned>(mut answer: Value, name: &str) -> Result<T, LabError> {
    serde_json::from_value(answer[name].take()).map_err(|error| LabError::Malformed {
        what: format!("`{name}` in the answer of etm-agent"),
        detail: error.to_string(),
    })
}
