//! The daemons under test: how each is started, and how it says how many routes it holds.
//! Each is told the same: four eBGP peers, everything accepted, nothing exported, no kernel.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::bird::Bird;
use crate::command::run;
use crate::error::LabError;
use crate::http;
use crate::poll::wait_until;
use crate::state::binary;

use super::feed::{self, PEERS};
use super::site::{Running, Site};

const START: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(60);
const OWN_AS: u32 = 64_500;

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Etm,
    Bird,
    Gobgp,
}

/// A daemon that runs.
pub(super) struct Daemon {
    pub(super) running: Running,
    tell: Tell,
}

enum Tell {
    Etm(PathBuf),
    Bird(Bird),
    Gobgp { port: String, namespace: String },
}

impl Daemon {
    /// Starts it; it connects to the peers by itself.
    pub(super) fn start(site: &Site, kind: Kind) -> Result<Daemon, LabError> {
        match kind {
            Kind::Etm => etm(site),
            Kind::Bird => bird(site),
            Kind::Gobgp => gobgp(site),
        }
    }

    /// Routes it holds from all peers.
    pub(super) fn routes(&self) -> Result<usize, LabError> {
        match &self.tell {
            Tell::Etm(_) => Ok(self.etm_routes()?.into_iter().sum()),
            Tell::Bird(bird) => {
                let lines = bird.ask("show protocols all \"p*\"")?;
                let imported = lines.iter().filter_map(|line| {
                    let rest = line.trim().strip_prefix("Routes:")?;
                    rest.split_whitespace().next()?.parse::<usize>().ok()
                });
                Ok(imported.sum())
            }
            Tell::Gobgp { port, namespace } => {
                let net = format!("--net=/run/netns/{namespace}");
                let mut sum = 0;
                for family in ["ipv4", "ipv6"] {
                    let args = [&net, "gobgp", "-p", port, "global", "rib", "summary", "-a", family];
                    let said = run("ask gobgp for its table", "nsenter", &args, None)?;
                    let paths = said.split("Path:").nth(1).and_then(|rest| {
                        rest.trim().split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
                    });
                    sum += paths.unwrap_or_default();
                }
                Ok(sum)
            }
        }
    }

    /// Routes that ETM holds from each session, those of a lost one included until they are cleared away.
    pub(super) fn etm_routes(&self) -> Result<Vec<usize>, LabError> {
        let status = self.get("/v1/status")?;
        let sessions = status["sessions"].as_array().into_iter().flatten();
        let routes = sessions.map(|session| session["routes"].as_u64().unwrap_or_default());
        Ok(routes.map(|routes| usize::try_from(routes).unwrap_or_default()).collect())
    }

    /// When ETM had taken in the last End-of-RIB, boot time in nanoseconds; none before all are there.
    pub(super) fn etm_complete(&self) -> Result<Option<u64>, LabError> {
        let events = self.get("/v1/events?since=0")?;
        let ends: Vec<u64> = events["events"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|event| event["kind"] == "end-of-rib")
            .filter_map(|event| event["at_ns"].as_u64())
            .collect();
        Ok((ends.len() >= 2 * PEERS).then(|| ends.into_iter().max()).flatten())
    }

    /// One resource of ETM's control socket.
    pub(super) fn get(&self, target: &str) -> Result<Value, LabError> {
        let Tell::Etm(socket) = &self.tell else { return Ok(Value::Null) };
        let response = http::request(socket, "GET", target, ANSWER)?;
        serde_json::from_str(&response.body)
            .map_err(|error| LabError::Malformed { what: target.to_owned(), detail: error.to_string() })
    }
}

/// The agent with room for a million prefixes, as many as there are of each family and a little more.
fn etm(site: &Site) -> Result<Daemon, LabError> {
    let socket = site.directory.join("etm.sock");
    let mut text = format!(
        "[agent]\ncontrol_socket = \"{}\"\nstartup_timeout = \"120s\"\n\n[kernel]\nlease = \"10s\"\n\n\
         [datapath]\npin_root = \"{}\"\nprefixes_ipv4 = 860000\nprefixes_ipv6 = 160000\n\n\
         [[interface]]\nname = \"up0\"\ncapacity = \"10Gbit\"\n",
        socket.display(),
        site.pins().display()
    );
    let mut sessions = format!("\n[bgp]\nasn = {OWN_AS}\nrouter_id = \"10.0.0.254\"\n");
    for peer in 0..PEERS {
        let (asn, v4, v6) = (feed::asn(peer), feed::address(peer), feed::address_v6(peer));
        let _ = write!(
            text,
            "\n[[provider]]\nname = \"p{peer}\"\nasn = {asn}\nexits = [{{ interface = \"up0\", gateways = [\"{v4}\", \"{v6}\"] }}]\n"
        );
        let _ = write!(
            sessions,
            "\n[[bgp.session]]\nname = \"p{peer}\"\nrole = \"learn\"\npeer = \"{v4}\"\npeer_as = {asn}\nlocal = \"10.0.0.254\"\naccept = \"all\"\n"
        );
    }
    let config = site.write("etm.toml", &(text + &sessions))?;
    let mut command = site.daemon.command(binary("etm-agent")?);
    command.arg("run").arg("--config").arg(config).env("RUST_LOG", "warn").env("NO_COLOR", "1");
    let running = site.start("etm-agent", &mut command)?;
    let mut daemon = Daemon { running, tell: Tell::Etm(socket) };
    wait_until("etm-agent to answer", START, || match daemon.running.check() {
        Err(died) => Ok(Err(died)),
        Ok(()) => daemon.get("/v1/status").map(|_| Ok(())).map_err(|error| error.to_string()),
    })??;
    Ok(daemon)
}

fn bird(site: &Site) -> Result<Daemon, LabError> {
    let mut text =
        "router id 10.0.0.254;\nprotocol device { scan time 10; }\nprotocol direct { ipv4; ipv6; }\n"
            .to_owned();
    for peer in 0..PEERS {
        let _ = write!(
            text,
            "protocol bgp p{peer} {{ local 10.0.0.254 as {OWN_AS}; neighbor {} as {}; connect retry time 1; connect delay time 1;\n\
             error wait time 1, 2; ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n",
            feed::address(peer),
            feed::asn(peer)
        );
    }
    site.write("bird.conf", &text)?;
    let bird = Bird::existing("bird", &site.directory);
    let mut command = site.daemon.command("bird");
    command.arg("-f").arg("-c").arg(site.directory.join("bird.conf")).arg("-s").arg(bird.socket());
    command.arg("-P").arg(site.directory.join("bird.pid"));
    let running = site.start("bird", &mut command)?;
    wait_until("bird to answer", START, || bird.ask("show status").map_err(|error| error.to_string()))?;
    Ok(Daemon { running, tell: Tell::Bird(bird) })
}

fn gobgp(site: &Site) -> Result<Daemon, LabError> {
    let mut text = format!(
        "[global.config]\nas = {OWN_AS}\nrouter-id = \"10.0.0.254\"\nport = -1\n\n\
         [global.apply-policy.config]\ndefault-import-policy = \"accept-route\"\ndefault-export-policy = \"reject-route\"\n"
    );
    for peer in 0..PEERS {
        let _ = write!(
            text,
            "\n[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {}\n\
             [neighbors.timers.config]\nconnect-retry = 1\n\
             [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"\n\
             [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv6-unicast\"\n",
            feed::address(peer),
            feed::asn(peer)
        );
    }
    let config = site.write("gobgpd.toml", &text)?;
    let port = "50179".to_owned();
    let mut command = site.daemon.command("gobgpd");
    command
        .arg("-f")
        .arg(config)
        .arg("--api-hosts")
        .arg(format!("127.0.0.1:{port}"))
        .arg("--log-level")
        .arg("warn");
    let running = site.start("gobgpd", &mut command)?;
    let namespace = site.daemon.name().to_owned();
    Ok(Daemon { running, tell: Tell::Gobgp { port, namespace } })
}
