//! What ETM says of itself, read from its control socket. The only place that knows the names there.

use ipnet::IpNet;
use serde_json::Value;

use crate::agent::Agent;
use crate::error::LabError;

/// One entry of ETM's decision log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) seq: u64,
    pub(crate) at_ns: u64,
    pub(crate) kind: String,
    pub(crate) text: String,
}

/// Whether ETM has learnt `routes` routes and may act.
pub(crate) fn is_ready(agent: &Agent, routes: u64) -> Result<(), String> {
    let status = agent.get("/v1/status").map_err(|error| error.to_string())?;
    let learnt = status["routes"].as_u64().unwrap_or(0);
    let enforcing = status["state"] == "enforcing";
    if learnt >= routes && enforcing { Ok(()) } else { Err(status.to_string()) }
}

/// Entries of the decision log after `seq`.
pub(crate) fn events(agent: &Agent, since: u64) -> Result<Vec<Event>, LabError> {
    let answer = agent.get(&format!("/v1/events?since={since}"))?;
    let list = answer.get("events").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(list
        .iter()
        .map(|entry| Event {
            seq: entry["seq"].as_u64().unwrap_or(0),
            at_ns: entry["at_ns"].as_u64().unwrap_or(0),
            kind: text(entry, "kind"),
            text: text(entry, "text"),
        })
        .collect())
}

/// Prefixes overridden now, and the interface each goes to.
pub(crate) fn overrides(agent: &Agent) -> Result<Vec<(IpNet, String)>, LabError> {
    let answer = agent.get("/v1/overrides")?;
    let list = answer.get("overrides").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(list
        .iter()
        .filter_map(|o| Some((o["prefix"].as_str()?.parse().ok()?, text(o, "interface"))))
        .collect())
}

/// Conservation as ETM's books say: worst byte ratio of 10 s without drops, worst packet error.
pub(crate) fn conservation(agent: &Agent) -> Result<(Option<f64>, Option<u64>), LabError> {
    let status = agent.get("/v1/status")?;
    let books = &status["conservation"];
    Ok((books["worst_byte_ratio"].as_f64(), books["worst_packet_error"].as_u64()))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
