//! The Internet's table in the lab's routers: every provider announces all of it, and prefixes of the sink's own besides.
//! Never a prefix that covers or is inside an address of the lab.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use etm_agent::proto::bgp::is_martian;
use etm_agent::types::Prefix;
use ipnet::IpNet;

use super::super::{BenchOptions, routes};
use crate::agent::{self, Agent, AgentOptions, Site};
use crate::bird_config;
use crate::command;
use crate::error::LabError;
use crate::lab::Lab;
use crate::poll::wait_until;
use crate::topology::{Provider, Role};

/// How long BIRD may take to have it everywhere.
const LOADING: Duration = Duration::from_secs(300);
/// Without news for this long it is complete.
const CALM: Duration = Duration::from_secs(5);
/// What belongs to the lab.
const OWN: [&str; 7] = [
    "10.0.0.0/8",
    "127.0.0.0/8",
    "192.0.2.0/24",
    "198.18.0.0/15",
    "2001:db8::/32",
    "fc00::/7",
    "224.0.0.0/3",
];
/// BIRD's pause between two readings of the kernel's table: it is read whole each time.
const SCAN: &str = "scan time 600;";

/// What was loaded.
pub(super) struct Full {
    /// All prefixes that ETM learns.
    pub(super) prefixes: usize,
    /// Prefixes of the sink, preferred through transit-a, with routes through the others.
    pub(super) of_sink: Vec<IpNet>,
}

/// Loads it, and prefixes that can be sent to.
pub(super) fn load(lab: &mut Lab, options: &BenchOptions, of_sink: Vec<IpNet>) -> Result<Full, LabError> {
    let mut table = match &options.table {
        Some(path) => routes::read(path)?,
        None if options.quick => routes::sized(50),
        None => routes::generated(),
    };
    let own: Vec<Prefix> = OWN.iter().filter_map(|text| text.parse().ok()).collect();
    // What is never routed between networks is refused by ETM, which would wait for it for ever.
    table.retain(|prefix| !is_martian(*prefix));
    table.retain(|prefix| !own.iter().any(|own| own.covers(*prefix) || prefix.covers(*own)));
    for (place, provider) in Provider::ALL.into_iter().enumerate() {
        let path = lab.directory().join(format!("{provider}.routes"));
        let text = bird_config::routes(provider, lab.table()) + &bulk(&table, &of_sink, place);
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))?;
    }
    for role in Role::ROUTERS {
        let path = lab.directory().join(format!("{role}.conf"));
        let text = fs::read_to_string(&path).map_err(LabError::io(format!("read {}", path.display())))?;
        let text = text
            .replace("scan time 5;", SCAN)
            .replace("proto = \"table4\"", "(proto = \"table4\" || proto = \"bulk4\")")
            .replace("proto = \"table6\"", "(proto = \"table6\" || proto = \"bulk6\")");
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))?;
        // Reading a million lines takes longer than the lab waits for an answer.
        let socket = lab.bird(role).socket().display().to_string();
        command::run("load the table into BIRD", "birdc", &["-s", &socket, "configure"], None)?;
    }
    let most = table.len() + of_sink.len() + lab.table().announcements.len();
    Ok(Full { prefixes: wait_loaded(lab, most)?, of_sink })
}

/// Static routes with AS paths of one to four numbers: who is preferred differs from prefix to prefix.
fn bulk(table: &[Prefix], of_sink: &[IpNet], place: usize) -> String {
    let (mut v4, mut v6) = (String::new(), String::new());
    let mut dice = routes::Dice::new(2024);
    for prefix in table {
        let origin = 70_000 + dice.below(60_000);
        let rank = (dice.below(3) + place) % 3;
        let text = if prefix.addr().is_ipv4() { &mut v4 } else { &mut v6 };
        let _ = write!(text, "  route {prefix} blackhole {{ bgp_path.prepend({origin});");
        for transit in 0..rank {
            let _ = write!(text, " bgp_path.prepend({});", 65_550 + transit);
        }
        text.push_str(" };\n");
    }
    for prefix in of_sink {
        let _ = write!(v6, "  route {prefix} blackhole {{ bgp_path.prepend(64700);");
        for _ in 0..place {
            v6.push_str(" bgp_path.prepend(64701);");
        }
        v6.push_str(" };\n");
    }
    format!("protocol static bulk4 {{\n  ipv4;\n{v4}}}\nprotocol static bulk6 {{\n  ipv6;\n{v6}}}\n")
}

/// Waits until border and core have the same in their kernels and no more comes; how much that is. BIRD refuses a few
/// hundred prefixes of a generated table, which lie in blocks that are never routed.
fn wait_loaded(lab: &Lab, most: usize) -> Result<usize, LabError> {
    let mut last = (0, Instant::now());
    wait_until("the table to be in the kernels of border and core", LOADING, || {
        let [border, core] = [Role::Border, Role::Core].map(|role| exported(lab, role));
        let (border, core) = (border?, core?);
        if border != last.0 {
            last = (border, Instant::now());
        }
        if border == core && border > most - most / 100 && last.1.elapsed() > CALM {
            return Ok(border);
        }
        Err(format!("{border} at the border and {core} at core, of {most}"))
    })
}

fn exported(lab: &Lab, role: Role) -> Result<usize, String> {
    let mut sum = 0;
    for protocol in ["kernel4", "kernel6"] {
        let lines = lab.bird(role).ask(&format!("show protocols all {protocol}"));
        sum += count(&lines.map_err(|error| error.to_string())?, "exported");
    }
    Ok(sum)
}

/// The number before `word` in the line of a protocol's routes.
pub(super) fn count(lines: &[String], word: &str) -> usize {
    let of_line = |line: &String| {
        let counts = line.trim().strip_prefix("Routes:")?;
        counts.split(',').find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<usize>().ok())
    };
    lines.iter().filter_map(of_line).sum()
}

/// The configuration of a lab's agent with room for the table, and whatever `edit` makes of it.
pub(super) fn config(lab: &Lab, options: &AgentOptions, edit: impl Fn(String) -> String) -> String {
    let text =
        agent::config(&Site::of(lab), options).replace("prefixes_ipv4 = 4096\nprefixes_ipv6 = 4096\n", "");
    edit(text)
}

/// Starts the agent and waits until it knows the whole table and may act.
pub(super) fn start(lab: &Lab, table: &Full, text: &str) -> Result<Agent, LabError> {
    let path = agent::write_text(lab, text)?;
    let agent = Agent::start_by(lab, &path, "info")?;
    wait_ready(&agent, table)?;
    Ok(agent)
}

/// Waits until the agent knows the whole table and may act.
pub(super) fn wait_ready(agent: &Agent, table: &Full) -> Result<(), LabError> {
    let ready = wait_until("etm-agent to know the table", LOADING, || {
        let status = agent.get("/v1/status").map_err(|error| error.to_string())?;
        let known = status["prefixes"].as_u64().unwrap_or_default();
        let up = status["sessions"].as_array().is_some_and(|all| all.iter().all(|one| one["up"] == true));
        // Steering, it has heard all; the kernel refuses BIRD a few that ETM learns.
        let all = usize::try_from(known).is_ok_and(|known| known + table.prefixes / 1000 >= table.prefixes);
        if status["state"] == "steering" && up && all {
            return Ok(());
        }
        Err(format!(
            "state {}, {known} of {} prefixes, holds {}",
            status["state"], table.prefixes, status["holds"]
        ))
    });
    ready.map_err(|error| agent.with_log(error))
}

/// Waits until the routers have everything again after a link was away.
pub(super) fn wait_again(lab: &Lab, table: &Full) -> Result<(), LabError> {
    let again = wait_until("every provider's session to be up again", LOADING, || {
        let protocols = lab.bird(Role::Border).protocols().map_err(|error| error.to_string())?;
        let names = Provider::ALL.iter().flat_map(|p| ["4", "6"].map(|f| bird_config::session_name(*p, f)));
        let down = names.filter(|name| protocols.get(name).is_none_or(|(_, info)| info != "Established"));
        match down.collect::<Vec<_>>() {
            down if down.is_empty() => Ok(()),
            down => Err(down.join(", ")),
        }
    });
    again?;
    wait_loaded(lab, table.prefixes).map(drop)
}
