//! Ten thousand overrides lose their exit while the Internet's table is loaded: carrier lost, set down, deleted.

use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};

use super::{PATIENCE, full, say};
use crate::agent::AgentOptions;
use crate::crowd::{self, Crowd};
use crate::error::LabError;
use crate::lab::Lab;
use crate::topology::Role;

/// What each way to lose it costs.
pub(super) fn run(lab: &Lab, table: &full::Full) -> Result<Map<String, Value>, LabError> {
    let options = AgentOptions { lease: "30s", ..AgentOptions::default() };
    let config = full::config(lab, &options, |text| crowd::squeeze(&text));
    let traffic = Crowd::start(lab, &table.of_sink)?;
    let mut result = Map::new();
    for way in ["carrier", "down", "deleted"] {
        // A new agent each time: one that lost the exit has found another, and rightly stays there.
        let mut agent = full::start(lab, table, &config)?;
        let overrides = traffic.wait_overrides(lab, &agent, PATIENCE * 2)?;
        let lost = traffic.lose(lab, |lab| match way {
            "carrier" => lab.cut(crowd::RECEIVER),
            "down" => {
                let border = lab.namespace(Role::Border);
                border.ip(&["link", "set", "dev", crowd::RECEIVER.uplink(), "down"]).map(drop)
            }
            _ => lab.unplug(crowd::RECEIVER),
        })?;
        say(&format!("{way}: {} packets lost, {:.1} ms", lost.packets, lost.ms));
        result.insert(
            way.to_owned(),
            json!({
                "overrides": overrides,
                "in_use": lost.destinations,
                "loss_packets": lost.packets,
                "loss_ms": tenth(lost.ms),
                "stall_ms": tenth(lost.stall_ms),
                "still": lost.still,
            }),
        );
        match way {
            "deleted" => lab.plug(crowd::RECEIVER)?,
            _ => lab.mend(crowd::RECEIVER)?,
        }
        agent.signal(Signal::SIGTERM)?;
        agent.wait_end(PATIENCE)?;
        full::wait_again(lab, table)?;
    }
    Ok([("lost".to_owned(), Value::Object(result))].into_iter().collect())
}

fn tenth(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}
